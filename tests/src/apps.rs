//! Applications that tests are themselves: servers on loopback, each for one kind of traffic. Owns their tasks, which end
//! with the test's runtime.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{Barrier, Semaphore, mpsc},
};
use tradewind_runtime::task;

/// Binds a listener.
pub async fn bind(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address)
        .await
        .unwrap_or_else(|e| panic!("{address}: {e}"))
}

/// HTTP/1.1: `POST /digest` answers the SHA-256 of the body, `GET /large?n` answers n bytes, `GET /barrier` answers once all of
/// the barrier's parties are there, a WebSocket upgrade echoes text frames, anything else says who is here.
pub fn http1(listener: TcpListener, name: &'static str, barrier: Arc<Barrier>) {
    task::spawn("test http app", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let barrier = Arc::clone(&barrier);
            let service = service_fn(move |r| answer(r, name, Arc::clone(&barrier)));
            task::spawn("test http connection", async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
                drop(served);
            });
        }
    });
}

/// The headers of requests that an application saw, in order; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Heads(Arc<Mutex<Vec<HeaderMap>>>);

impl Heads {
    /// Of the newest request.
    pub fn last(&self) -> HeaderMap {
        let heads = self.0.lock().expect("no panic while it is held");
        heads.last().cloned().expect("a request")
    }
}

/// HTTP/1.1 that remembers what it was asked with: `/broken` answers 500, anything else `ok`.
pub fn heads(listener: TcpListener) -> Heads {
    let heads = Heads::default();
    let seen = heads.clone();
    task::spawn("test http app", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let service = service_fn(move |r: Request<Incoming>| remember(r, seen.clone()));
            task::spawn("test http connection", async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                drop(served.await);
            });
        }
    });
    heads
}

/// Reads all of a request before it answers: what a proxy counts of one that is answered early depends on who is faster.
async fn remember(
    request: Request<Incoming>,
    heads: Heads,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    drop(body.collect().await);
    let mut all = heads.0.lock().expect("no panic while it is held");
    all.push(head.headers);
    let mut response = Response::new(Full::new(Bytes::from_static(b"ok")));
    if head.uri.path() == "/broken" {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

/// HTTP/1.1 that answers everything with its name, under a status that the test may change at any time.
pub fn with_status(listener: TcpListener, name: &'static str, status: Arc<AtomicU16>) {
    task::spawn("test http app", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let status = Arc::clone(&status);
            let service = service_fn(move |_: Request<Incoming>| {
                let mut response = Response::new(Full::new(Bytes::from_static(name.as_bytes())));
                let now = StatusCode::from_u16(status.load(Ordering::SeqCst));
                *response.status_mut() = now.expect("a status");
                std::future::ready(Ok::<_, Infallible>(response))
            });
            task::spawn("test http connection", async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                drop(served.await);
            });
        }
    });
}

/// HTTP/2 in clear, with prior knowledge: says who is here.
pub fn http2(listener: TcpListener, name: &'static str) {
    task::spawn("test http2 app", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let alone = Arc::new(Barrier::new(1));
            let service = service_fn(move |r| answer(r, name, Arc::clone(&alone)));
            task::spawn("test http2 connection", async move {
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                drop(served);
            });
        }
    });
}

async fn answer(
    mut request: Request<Incoming>,
    name: &'static str,
    barrier: Arc<Barrier>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key(header::UPGRADE) {
        let upgrade = hyper::upgrade::on(&mut request);
        task::spawn("test websocket", async move {
            if let Ok(upgraded) = upgrade.await {
                echo_frames(TokioIo::new(upgraded)).await;
            }
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            // RFC 6455 section 1.3, for the key of its example.
            .header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        return Ok(response.body(Full::default()).expect("a valid response"));
    }
    let body = match request.uri().path() {
        "/digest" => {
            let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
            let mut length = 0;
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    length += data.len();
                    context.update(&data);
                }
            }
            let hex: String = context
                .finish()
                .as_ref()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            Bytes::from(format!("{length} {hex}"))
        }
        "/large" => {
            let n = request
                .uri()
                .query()
                .and_then(|q| q.parse().ok())
                .unwrap_or(0);
            Bytes::from(pattern(n))
        }
        "/barrier" => {
            barrier.wait().await;
            Bytes::from_static(b"all here")
        }
        "/host" => {
            let host = request
                .headers()
                .get(header::HOST)
                .map(|h| h.as_bytes().to_vec());
            Bytes::from(host.unwrap_or_default())
        }
        _ => Bytes::from(name),
    };
    Ok(Response::new(Full::new(body)))
}

/// `n` bytes that tell where they are.
pub fn pattern(n: usize) -> Vec<u8> {
    (0..n)
        .map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8)
        .collect()
}

/// Reads masked text frames shorter than 126 bytes and sends them back unmasked (RFC 6455 section 5.2).
async fn echo_frames(mut io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut head = [0; 6];
    while io.read_exact(&mut head).await.is_ok() {
        let length = head[1] & 0x7f;
        let mut payload = vec![0; usize::from(length)];
        if io.read_exact(&mut payload).await.is_err() {
            return;
        }
        payload
            .iter_mut()
            .zip(head[2..].iter().cycle())
            .for_each(|(b, mask)| *b ^= mask);
        let mut frame = vec![head[0], length];
        frame.extend_from_slice(&payload);
        if io.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// HTTP/1.1: tells of every request that came, and answers it once the gate lets it through.
pub fn held(listener: TcpListener, arrived: mpsc::Sender<()>, gate: Arc<Semaphore>) {
    task::spawn("test held app", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (arrived, gate) = (arrived.clone(), Arc::clone(&gate));
            let service = service_fn(move |_: Request<Incoming>| {
                let (arrived, gate) = (arrived.clone(), Arc::clone(&gate));
                async move {
                    // Nobody may be listening any more, and the answer is owed all the same.
                    let _unheard: Result<(), _> = arrived.send(()).await;
                    gate.acquire().await.expect("an open gate").forget();
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"held"))))
                }
            });
            task::spawn("test held connection", async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                drop(served);
            });
        }
    });
}

/// Speaks first, as a mail server does, then echoes until the client's half closes, then says goodbye and closes.
pub fn server_first(listener: TcpListener, greeting: &'static str) {
    task::spawn("test tcp app", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            task::spawn("test tcp connection", async move {
                if stream.write_all(greeting.as_bytes()).await.is_err() {
                    return;
                }
                let mut buffer = vec![0; 64 * 1024];
                loop {
                    match stream.read(&mut buffer).await {
                        Ok(0) => break,
                        Ok(n) => {
                            if stream.write_all(&buffer[..n]).await.is_err() {
                                return;
                            }
                        }
                        Err(_) => return,
                    }
                }
                drop(stream.write_all(b"bye").await);
            });
        }
    });
}
