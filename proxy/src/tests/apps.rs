//! Applications: an HTTP/1.1 server, an h2c server, a byte echo, and rude ones.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_stream::wrappers::ReceiverStream;
use tradewind_runtime::{task, task::TaskSet};

use super::{Body, full};

pub(crate) struct App {
    pub address: SocketAddr,
    /// Connections accepted.
    pub connections: Arc<AtomicUsize>,
    _tasks: TaskSet,
}

impl App {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve<F, R>(each: F) -> App
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let mut tasks = TaskSet::new();
    tasks.spawn("app", async move {
        let mut each_of = TaskSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            each_of.spawn("app connection", each(stream));
        }
    });
    App {
        address,
        connections,
        _tasks: tasks,
    }
}

/// What both HTTP servers answer, by path.
async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let words = Response::builder().header("keep-alive", "timeout=5");
    let response = match parts.uri.path() {
        "/echo" => words.body(body.map_err(|e| panic!("{e}")).boxed()),
        "/digest" => {
            let (mut body, mut bytes, mut sum) = (body, 0u64, 0u64);
            let mut trailer = String::new();
            while let Some(frame) = body.frame().await {
                let frame = frame?;
                if let Some(data) = frame.data_ref() {
                    bytes += data.len() as u64;
                    sum = data
                        .iter()
                        .fold(sum, |s, b| s.wrapping_mul(31).wrapping_add((*b).into()));
                }
                if let Some(t) = frame.trailers_ref() {
                    trailer = t["x-end"].to_str().unwrap().to_owned();
                }
            }
            words.body(full(format!("{bytes} {sum} {trailer}")))
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"body"))),
                Ok(Frame::trailers(trailers)),
            ];
            let body = BodyExt::boxed(StreamBody::new(stream::iter(frames)));
            words.header("trailer", "grpc-status").body(body)
        }
        "/endless" => {
            let (tx, rx) = tokio::sync::mpsc::channel(1);
            // Ends when nobody reads any more.
            drop(task::spawn("endless", async move {
                let tick = || Ok(Frame::data(Bytes::from_static(b"tick")));
                while tx.send(tick()).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }));
            words.body(BodyExt::boxed(StreamBody::new(ReceiverStream::new(rx))))
        }
        _ => {
            let host = parts
                .headers
                .get("host")
                .map(|h| h.to_str().unwrap().to_owned())
                .or_else(|| parts.uri.authority().map(ToString::to_string))
                .unwrap_or_default();
            let mut names: Vec<_> = parts.headers.keys().map(|k| k.as_str()).collect();
            names.sort_unstable();
            words.body(full(format!(
                "{:?} {} {} {host} {}",
                parts.version,
                parts.method,
                parts.uri.path(),
                names.join(",")
            )))
        }
    };
    Ok(response.unwrap())
}

/// HTTP/1.1 with keep-alive.
pub(crate) async fn http1() -> App {
    serve(|stream| async move {
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        drop(served.await);
    })
    .await
}

/// HTTP/2 with prior knowledge.
pub(crate) async fn http2() -> App {
    serve(|stream| async move {
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        drop(served.await);
    })
    .await
}

/// Echoes bytes; says "bye" after the peer's end.
pub(crate) async fn echo() -> App {
    serve(|mut stream| async move {
        let (mut r, mut w) = stream.split();
        if tokio::io::copy(&mut r, &mut w).await.is_ok() {
            drop(w.write_all(b"bye").await);
            drop(w.shutdown().await);
        }
    })
    .await
}

/// Answers before it has read more than a request's head, and closes at once: what came behind the head is unread.
pub(crate) async fn early() -> App {
    serve(|mut stream| async move {
        let mut head = [0u8; 512];
        if matches!(stream.read(&mut head).await, Ok(n) if n > 0) {
            let answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\n\r\ntoo large";
            drop(stream.write_all(answer).await);
        }
    })
    .await
}

/// Reads a request and closes without a word.
pub(crate) async fn mute() -> App {
    serve(|mut stream| async move {
        let mut head = [0u8; 4096];
        drop(stream.read(&mut head).await);
    })
    .await
}

/// Answers the first request of a connection, offers to keep it, and closes it on the second.
pub(crate) async fn forgetful() -> App {
    serve(|mut stream| async move {
        let mut head = [0u8; 4096];
        if matches!(stream.read(&mut head).await, Ok(n) if n > 0) {
            drop(
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await,
            );
            drop(stream.read(&mut head).await);
        }
    })
    .await
}

/// An address nobody listens on.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Answers half, by path: of a known length, in chunks, or bare bytes and a reset.
pub(crate) async fn cut() -> App {
    serve(|mut stream| async move {
        let mut head = [0u8; 4096];
        let Ok(n) = stream.read(&mut head).await else {
            return;
        };
        let head = String::from_utf8_lossy(&head[..n]).into_owned();
        let half = match head.split(' ').nth(1) {
            Some("/length") => "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            Some("/long") => "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nhalf",
            Some("/chunked") => {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
            }
            Some(_) => "half",
            None => return,
        };
        drop(stream.write_all(half.as_bytes()).await);
        if half == "half" {
            socket2::SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    })
    .await
}

/// What a silent application holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holding {
    pub open: usize,
}

pub(crate) struct Silent {
    pub address: SocketAddr,
    pub held: tokio::sync::watch::Receiver<Holding>,
    _tasks: TaskSet,
}

/// Reads requests and never answers; tells how many connections with a request are open.
pub(crate) async fn silent() -> Silent {
    let (tx, held) = tokio::sync::watch::channel(Holding::default());
    let tx = Arc::new(tx);
    let app = serve(move |mut stream| {
        let tx = Arc::clone(&tx);
        async move {
            let mut bytes = [0u8; 4096];
            // A health check says nothing and counts for nothing.
            if !matches!(stream.read(&mut bytes).await, Ok(n) if n > 0) {
                return;
            }
            tx.send_modify(|h| h.open += 1);
            while matches!(stream.read(&mut bytes).await, Ok(n) if n > 0) {}
            tx.send_modify(|h| h.open -= 1);
        }
    })
    .await;
    Silent {
        address: app.address,
        held,
        _tasks: app._tasks,
    }
}

pub(crate) struct Slow {
    pub address: SocketAddr,
    /// Lets the second half go.
    pub go_on: Arc<tokio::sync::Notify>,
    _tasks: TaskSet,
}

/// Answers with the first half of a short body, and with the second when told to.
pub(crate) async fn slow() -> Slow {
    let go_on = Arc::new(tokio::sync::Notify::new());
    let waits = Arc::clone(&go_on);
    let app = serve(move |mut stream| {
        let waits = Arc::clone(&waits);
        async move {
            let mut head = [0u8; 4096];
            if matches!(stream.read(&mut head).await, Ok(n) if n > 0) {
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nslow,b";
                drop(stream.write_all(half).await);
                waits.notified().await;
                drop(stream.write_all(b"ut all").await);
            }
        }
    })
    .await;
    Slow {
        address: app.address,
        go_on,
        _tasks: app._tasks,
    }
}
