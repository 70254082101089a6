//! The load: TLS clients of one thread, the same for every proxy. Owns its connections; they end with the window.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::StreamExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::node::{CHUNK_BYTES, DOWN, ECHO, UP};
use crate::window::{self, Counted, Pace, Window};

/// One connection or message that takes longer is an error: nothing here is far away.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a small message, each way.
pub(super) const MESSAGE_BYTES: usize = 200;
/// Connections of one kind of load. Bulk needs few, small messages enough to keep a proxy busy.
pub(super) const BULK_STREAMS: usize = 4;
/// As above, of small messages.
pub(super) const KEPT_STREAMS: usize = 64;
/// Clients that open and close connections without a pause.
pub(super) const OPENERS: usize = 16;
/// Connections of the fixed rate.
pub(super) const PACED_STREAMS: usize = 32;

/// How the server behind the proxies is asked for.
#[derive(Clone)]
pub(super) struct Caller {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// What to load a proxy with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Bytes from the server.
    BulkDown,
    /// Bytes to the server.
    BulkUp,
    /// Connections with a whole handshake and one message.
    Connections,
    /// Small messages and their answers, one after the other on every connection.
    Messages,
    /// The same, so many a second in all.
    Paced(u32),
}

impl Caller {
    pub(super) fn new(name: &str, certificate: CertificateDer<'static>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|e| e.to_string())?;
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?,
        })
    }

    async fn connect(&self, to: SocketAddr, mode: u8) -> Result<TlsStream<TcpStream>, String> {
        let connecting = async {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let mut stream = self.connector.connect(self.name.clone(), stream).await?;
            stream.write_u8(mode).await?;
            Ok::<_, std::io::Error>(stream)
        };
        timeout(PATIENCE, connecting)
            .await
            .map_err(|_| format!("no connection through {to} in time"))?
            .map_err(|e| format!("no connection through {to}: {e}"))
    }

    /// One connection and one message, to see whether a proxy serves.
    pub(super) async fn probe(&self, to: SocketAddr) -> Result<(), String> {
        let mut stream = self.connect(to, ECHO).await?;
        exchange(&mut stream).await
    }

    /// Opens `count` connections that then do nothing.
    pub(super) async fn idle(
        &self,
        to: SocketAddr,
        count: usize,
    ) -> Result<Vec<TlsStream<TcpStream>>, String> {
        let opening = futures::stream::iter(0..count).map(|_| async {
            let mut stream = self.connect(to, ECHO).await?;
            exchange(&mut stream).await?;
            Ok::<_, String>(stream)
        });
        let mut opening = opening.buffer_unordered(OPENERS);
        let mut open = Vec::with_capacity(count);
        while let Some(stream) = opening.next().await {
            open.push(stream?);
        }
        Ok(open)
    }

    /// Loads the proxy at `to`, which is the process `pid`.
    pub(super) async fn load(
        &self,
        kind: Kind,
        to: SocketAddr,
        pid: u32,
        time: Duration,
    ) -> Result<Window, String> {
        let streams = match kind {
            Kind::BulkDown | Kind::BulkUp => BULK_STREAMS,
            Kind::Connections => OPENERS,
            Kind::Messages => KEPT_STREAMS,
            Kind::Paced(_) => PACED_STREAMS,
        };
        let (start, counted) = (Instant::now(), Counted::default());
        let counted = &counted;
        let clients = (0..streams).map(|place| async move {
            match kind {
                Kind::BulkDown => self.down(to, counted).await,
                Kind::BulkUp => self.up(to, counted).await,
                Kind::Connections => self.open(to, counted).await,
                Kind::Messages => self.talk(to, counted).await,
                Kind::Paced(rate) => {
                    let pace = Pace::new(start, rate, (place, PACED_STREAMS));
                    let mut stream = self.connect(to, ECHO).await?;
                    pace.run(counted, async || exchange(&mut stream).await)
                        .await
                }
            }
        });
        window::measure(clients, counted, &[pid], time).await
    }

    async fn down(&self, to: SocketAddr, counted: &Counted) -> Result<(), String> {
        let mut stream = self.connect(to, DOWN).await?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let n = stream.read(&mut chunk).await.map_err(|e| e.to_string())?;
            if n == 0 {
                return Err("bulk ended".to_owned());
            }
            counted.add(n as u64);
        }
    }

    async fn up(&self, to: SocketAddr, counted: &Counted) -> Result<(), String> {
        let mut stream = self.connect(to, UP).await?;
        let chunk = vec![7; CHUNK_BYTES];
        loop {
            stream.write_all(&chunk).await.map_err(|e| e.to_string())?;
            counted.add(chunk.len() as u64);
        }
    }

    async fn open(&self, to: SocketAddr, counted: &Counted) -> Result<(), String> {
        loop {
            let mut stream = self.connect(to, ECHO).await?;
            exchange(&mut stream).await?;
            stream.shutdown().await.map_err(|e| e.to_string())?;
            counted.add(1);
        }
    }

    async fn talk(&self, to: SocketAddr, counted: &Counted) -> Result<(), String> {
        let mut stream = self.connect(to, ECHO).await?;
        loop {
            exchange(&mut stream).await?;
            counted.add(1);
        }
    }
}

/// One small message and its answer.
async fn exchange(stream: &mut TlsStream<TcpStream>) -> Result<(), String> {
    let mut message = [7; MESSAGE_BYTES];
    let both = async {
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await
    };
    both.await
        .map(drop)
        .map_err(|e| format!("a message was lost: {e}"))
}
