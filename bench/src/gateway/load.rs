//! The load: TLS clients of one thread, the same for every proxy. Each kind of load runs for a warm-up and a window, and
//! what the proxy used within the window is divided by what came through. Owns its connections; they end with the window.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::node::{CHUNK_BYTES, DOWN, ECHO, UP};
use crate::usage;

/// What is left out at the start of every window.
const WARM_UP: Duration = Duration::from_millis(300);
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

/// What one window showed.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    /// Bytes, connections or messages.
    pub(super) units: u64,
    pub(super) seconds: f64,
    /// Of the proxy.
    pub(super) cpu_s: f64,
    /// Each message's time, sorted, where that was asked for.
    pub(super) times: Vec<Duration>,
}

impl Window {
    /// Microseconds of the proxy's processor time for one unit.
    pub(super) fn cpu_us_per_unit(&self) -> f64 {
        self.cpu_s * 1e6 / self.units.max(1) as f64
    }

    pub(super) fn rate(&self) -> f64 {
        self.units as f64 / self.seconds
    }

    /// Microseconds below which `share` of the messages were answered.
    pub(super) fn quantile_us(&self, share: f64) -> f64 {
        let last = self.times.len().saturating_sub(1);
        let place = (last as f64 * share).round() as usize;
        self.times.get(place).map_or(0.0, |t| t.as_secs_f64() * 1e6)
    }
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
        let (units, times) = (Cell::new(0), RefCell::new(Vec::new()));
        let streams = match kind {
            Kind::BulkDown | Kind::BulkUp => BULK_STREAMS,
            Kind::Connections => OPENERS,
            Kind::Messages => KEPT_STREAMS,
            Kind::Paced(_) => PACED_STREAMS,
        };
        let start = Instant::now();
        let (units, times) = (&units, &times);
        let mut clients: FuturesUnordered<_> = (0..streams)
            .map(|place| async move {
                match kind {
                    Kind::BulkDown => self.down(to, units).await,
                    Kind::BulkUp => self.up(to, units).await,
                    Kind::Connections => self.open(to, units).await,
                    Kind::Messages => self.talk(to, units).await,
                    Kind::Paced(rate) => {
                        let every = Duration::from_secs_f64(PACED_STREAMS as f64 / f64::from(rate));
                        let first = start + every.mul_f64(place as f64 / PACED_STREAMS as f64);
                        self.pace(to, (first, every), units, times).await
                    }
                }
            })
            .collect();
        let window = async {
            sleep(WARM_UP).await;
            times.borrow_mut().clear();
            let (first, cpu, began) = (units.get(), usage::cpu_s(pid)?, Instant::now());
            sleep(time).await;
            Ok(Window {
                units: units.get() - first,
                seconds: began.elapsed().as_secs_f64(),
                cpu_s: usage::cpu_s(pid)? - cpu,
                times: Vec::new(),
            })
        };
        let window: Result<Window, String> = tokio::select! {
            window = window => window,
            Some(ended) = clients.next() => Err(match ended {
                Ok(()) => "a client ended before its time".to_owned(),
                Err(error) => error,
            }),
        };
        drop(clients);
        let mut window = window?;
        window.times = times.take();
        window.times.sort_unstable();
        Ok(window)
    }

    async fn down(&self, to: SocketAddr, units: &Cell<u64>) -> Result<(), String> {
        let mut stream = self.connect(to, DOWN).await?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let n = stream.read(&mut chunk).await.map_err(|e| e.to_string())?;
            if n == 0 {
                return Err("bulk ended".to_owned());
            }
            units.set(units.get() + n as u64);
        }
    }

    async fn up(&self, to: SocketAddr, units: &Cell<u64>) -> Result<(), String> {
        let mut stream = self.connect(to, UP).await?;
        let chunk = vec![7; CHUNK_BYTES];
        loop {
            stream.write_all(&chunk).await.map_err(|e| e.to_string())?;
            units.set(units.get() + chunk.len() as u64);
        }
    }

    async fn open(&self, to: SocketAddr, units: &Cell<u64>) -> Result<(), String> {
        loop {
            let mut stream = self.connect(to, ECHO).await?;
            exchange(&mut stream).await?;
            stream.shutdown().await.map_err(|e| e.to_string())?;
            units.set(units.get() + 1);
        }
    }

    async fn talk(&self, to: SocketAddr, units: &Cell<u64>) -> Result<(), String> {
        let mut stream = self.connect(to, ECHO).await?;
        loop {
            exchange(&mut stream).await?;
            units.set(units.get() + 1);
        }
    }

    async fn pace(
        &self,
        to: SocketAddr,
        (mut next, every): (Instant, Duration),
        units: &Cell<u64>,
        times: &RefCell<Vec<Duration>>,
    ) -> Result<(), String> {
        let mut stream = self.connect(to, ECHO).await?;
        loop {
            sleep_until(next).await;
            // tokio's timers are a millisecond wide: counted from when it was sent, and from when it was due if late.
            let late = next.elapsed() > every;
            let began = if late { next } else { Instant::now() };
            exchange(&mut stream).await?;
            units.set(units.get() + 1);
            times.borrow_mut().push(began.elapsed());
            next += every;
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
