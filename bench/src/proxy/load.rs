//! The load: HTTP/1.1 clients of one thread, the same for every pair. Owns its connections; they end with the window.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Either, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_LENGTH, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tradewind_runtime::task;

use super::app::{CHUNK_BYTES, DOWN, ENDLESS, UP};
use crate::window::{self, Counted, Pace, Window};

/// One connection or message that takes longer is an error: nothing here is far away.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections of bulk.
pub(super) const BULK_STREAMS: usize = 4;
/// Connections that send requests without a pause.
pub(super) const KEPT_STREAMS: usize = 64;
/// Clients that open and close connections without a pause.
pub(super) const OPENERS: usize = 16;
/// Connections of the fixed rate.
pub(super) const PACED_STREAMS: usize = 32;
/// The name that requests ask for.
pub(super) const AUTHORITY: &str = "echo.bench";

/// What to load a pair with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Small requests, one after the other on every connection.
    Requests,
    /// The same, so many a second in all.
    Paced(u32),
    /// A connection for each small request.
    Connections,
    /// Bytes from the application.
    BulkDown,
    /// Bytes to the application.
    BulkUp,
}

/// The body of a request: nothing, or bytes until the window ends, counted as they are taken.
type Sent = Either<Empty<Bytes>, Endless>;

struct Endless {
    chunk: Bytes,
    taken: Rc<Cell<u64>>,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.taken.set(self.taken.get() + self.chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(ENDLESS)
    }
}

/// A connection through a pair. It ends when it is dropped.
pub(super) struct Client(SendRequest<Sent>);

impl Client {
    pub(super) async fn connect(to: SocketAddr) -> Result<Self, String> {
        let connecting = async {
            let stream = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            let shaken = http1::handshake(TokioIo::new(stream)).await;
            shaken.map_err(|e| e.to_string())
        };
        let (sender, connection) = timeout(PATIENCE, connecting)
            .await
            .map_err(|_| format!("no connection to {to} in time"))?
            .map_err(|e| format!("no connection to {to}: {e}"))?;
        // Detached: it ends with its sender.
        drop(task::spawn_local("client", async move {
            drop(connection.await);
        }));
        Ok(Self(sender))
    }

    async fn send(&mut self, path: &str, body: Sent) -> Result<Response<Incoming>, String> {
        let mut request = Request::new(body);
        *request.uri_mut() = path.parse().map_err(|_| "no path".to_owned())?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static(AUTHORITY));
        if path == UP {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(ENDLESS));
        }
        let ready = self.0.ready().await;
        ready.map_err(|e| format!("a connection ended: {e}"))?;
        let response = self.0.send_request(request).await;
        let response = response.map_err(|e| format!("a request was lost: {e}"))?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let body = response.into_body().collect().await;
            let body = body
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        Ok(response)
    }

    /// One small request and its whole answer.
    pub(super) async fn exchange(&mut self) -> Result<(), String> {
        let response = self.send("/", Either::Left(Empty::new())).await?;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|e| format!("an answer was cut: {e}"))?;
        }
        Ok(())
    }
}

/// Opens `count` connections, each of which has made one request.
pub(super) async fn hold(to: SocketAddr, count: usize) -> Result<Vec<Client>, String> {
    let opening = futures::stream::iter(0..count).map(|_| async {
        let mut client = Client::connect(to).await?;
        client.exchange().await?;
        Ok::<_, String>(client)
    });
    let mut opening = opening.buffer_unordered(OPENERS);
    let mut open = Vec::with_capacity(count);
    while let Some(client) = opening.next().await {
        open.push(client?);
    }
    Ok(open)
}

/// Loads what listens at `to` and measures the processes.
pub(super) async fn load(
    kind: Kind,
    to: SocketAddr,
    pids: &[u32],
    time: Duration,
) -> Result<Window, String> {
    let clients = match kind {
        Kind::BulkDown | Kind::BulkUp => BULK_STREAMS,
        Kind::Connections => OPENERS,
        Kind::Requests => KEPT_STREAMS,
        Kind::Paced(_) => PACED_STREAMS,
    };
    let (start, counted) = (Instant::now(), Counted::default());
    let counted = &counted;
    let clients = (0..clients).map(|place| async move {
        match kind {
            Kind::Requests => requests(to, counted).await,
            Kind::Paced(rate) => {
                let pace = Pace::new(start, rate, (place, PACED_STREAMS));
                let mut client = Client::connect(to).await?;
                pace.run(counted, async || client.exchange().await).await
            }
            Kind::Connections => open(to, counted).await,
            Kind::BulkDown => down(to, counted).await,
            Kind::BulkUp => up(to, counted).await,
        }
    });
    window::measure(clients, counted, pids, time).await
}

async fn requests(to: SocketAddr, counted: &Counted) -> Result<(), String> {
    let mut client = Client::connect(to).await?;
    loop {
        client.exchange().await?;
        counted.add(1);
    }
}

async fn open(to: SocketAddr, counted: &Counted) -> Result<(), String> {
    loop {
        Client::connect(to).await?.exchange().await?;
        counted.add(1);
    }
}

async fn down(to: SocketAddr, counted: &Counted) -> Result<(), String> {
    let mut client = Client::connect(to).await?;
    let mut body = client
        .send(DOWN, Either::Left(Empty::new()))
        .await?
        .into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| format!("bulk was cut: {e}"))?;
        counted.add(frame.data_ref().map_or(0, Bytes::len) as u64);
    }
    Err("bulk ended".to_owned())
}

async fn up(to: SocketAddr, counted: &Counted) -> Result<(), String> {
    let mut client = Client::connect(to).await?;
    let taken = Rc::new(Cell::new(0));
    let body = Endless {
        chunk: Bytes::from(vec![7; CHUNK_BYTES]),
        taken: Rc::clone(&taken),
    };
    let mut sending = std::pin::pin!(client.send(UP, Either::Right(body)));
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => counted.add(taken.take()),
            ended = &mut sending => return ended.and(Err("bulk ended".to_owned())),
        }
    }
}

/// Between two looks at what a body gave: a fraction of a window, and little work.
const LOOK: Duration = Duration::from_millis(5);
