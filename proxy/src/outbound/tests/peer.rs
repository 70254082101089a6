//! A peer's proxy as a test wants it: right, refusing, resetting, or gone.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle},
};
use tradewind_runtime::task::spawn_local;
use tradewind_transport::{
    svid::SvidCell,
    tls::{self, ClientAuth},
};

use super::world::World;

/// What the peer does with one request.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// 200, the peer's name in `x-peer`, the request's body back, its trailers too.
    Echo,
    /// As `Echo`, after the test allows it.
    EchoLater,
    /// This status, and nothing else.
    Status(u16),
    /// Of a tunnel: the application speaks first.
    Greet,
    /// Of a tunnel: it is taken, and broken at once.
    HangUp,
    /// `tradewind-unprocessed`.
    Unprocessed,
    /// The same, because the request is for another endpoint.
    OtherEndpoint,
    /// As `Echo`, and says that it is this endpoint.
    EchoAs(&'static str),
    /// Its application broke off.
    AppFailed,
    /// REFUSED_STREAM.
    Refuse,
    /// INTERNAL_ERROR before the head.
    Reset,
    /// The head and some bytes, then INTERNAL_ERROR.
    BreakOff,
    /// Reads the body, then the whole connection breaks.
    Vanish,
}

pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) script: Rc<RefCell<VecDeque<Act>>>,
    /// Requests seen, tunnels included.
    pub(super) seen: Rc<Cell<usize>>,
    pub(super) heads: Rc<RefCell<Vec<Request<()>>>>,
    pub(super) connections: Rc<Cell<usize>>,
    pub(super) go: Rc<tokio::sync::Notify>,
    /// Every connection says goodbye, and finishes what it has.
    pub(super) goodbye: Rc<tokio::sync::Notify>,
    accept: JoinHandle<()>,
    live: Rc<RefCell<Vec<AbortHandle>>>,
}

#[derive(Clone)]
struct Shared {
    name: &'static str,
    script: Rc<RefCell<VecDeque<Act>>>,
    seen: Rc<Cell<usize>>,
    heads: Rc<RefCell<Vec<Request<()>>>>,
    connections: Rc<Cell<usize>>,
    go: Rc<tokio::sync::Notify>,
    goodbye: Rc<tokio::sync::Notify>,
    vanish: Rc<tokio::sync::Notify>,
}

impl Peer {
    /// Listens on a port of its own and proves to be the `payments` account of `cluster`.
    pub(super) async fn start(world: &World, name: &'static str, cluster: &str) -> Self {
        Self::start_as(world, name, cluster, "payments", None).await
    }

    pub(super) async fn start_as(
        world: &World,
        name: &'static str,
        cluster: &str,
        account: &str,
        at: Option<SocketAddr>,
    ) -> Self {
        let svid = SvidCell::empty();
        svid.set(world.svid(cluster, account));
        let config = tls::server_config(&svid, &world.trust, ClientAuth::Required);
        let listener = match at {
            Some(at) => TcpListener::bind(at).await.unwrap(),
            None => TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            name,
            script: Rc::default(),
            seen: Rc::default(),
            heads: Rc::default(),
            connections: Rc::default(),
            go: Rc::default(),
            goodbye: Rc::default(),
            vanish: Rc::default(),
        };
        let live = Rc::new(RefCell::new(Vec::new()));
        let (own, tasks) = (shared.clone(), Rc::clone(&live));
        let accept = spawn_local("peer", async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                let (shared, config) = (own.clone(), Arc::clone(&config));
                let task = spawn_local("peer_connection", async move {
                    connection(tcp, config, shared).await
                });
                tasks.borrow_mut().push(task.abort_handle());
            }
        });
        Self {
            address,
            script: shared.script,
            seen: shared.seen,
            heads: shared.heads,
            connections: shared.connections,
            go: shared.go,
            goodbye: shared.goodbye,
            accept,
            live,
        }
    }

    pub(super) fn then(&self, acts: impl IntoIterator<Item = Act>) {
        self.script.borrow_mut().extend(acts);
    }

    /// As SIGKILL: the listener and all connections are gone.
    pub(super) async fn kill(self) -> SocketAddr {
        self.accept.abort();
        self.live.borrow().iter().for_each(AbortHandle::abort);
        // The sockets close when the tasks were dropped.
        drop(self.accept.await);
        tokio::task::yield_now().await;
        self.address
    }
}

async fn connection(tcp: TcpStream, config: Arc<rustls::ServerConfig>, shared: Shared) {
    let Ok(tls) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await else {
        return;
    };
    shared.connections.set(shared.connections.get() + 1);
    let mut h2 = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(tls)
        .await
        .unwrap();
    loop {
        let next = tokio::select! {
            next = h2.accept() => next,
            () = shared.goodbye.notified() => {
                h2.graceful_shutdown();
                continue;
            }
            () = shared.vanish.notified() => return,
        };
        let Some(Ok((request, respond))) = next else {
            return;
        };
        shared.seen.set(shared.seen.get() + 1);
        let act = shared.script.borrow_mut().pop_front().unwrap_or(Act::Echo);
        let shared = shared.clone();
        drop(spawn_local("peer_stream", async move {
            stream(request, respond, act, shared).await;
        }));
    }
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    act: Act,
    shared: Shared,
) {
    let (parts, mut body) = request.into_parts();
    let connect = parts.method == Method::CONNECT;
    shared
        .heads
        .borrow_mut()
        .push(Request::from_parts(parts, ()));
    let mut ok = Response::builder().header("x-peer", shared.name);
    let act = match act {
        Act::EchoAs(id) => {
            ok = ok.header("tradewind-endpoint", id);
            Act::Echo
        }
        act => act,
    };
    match act {
        Act::EchoLater | Act::Echo if !connect => {
            if matches!(act, Act::EchoLater) {
                shared.go.notified().await;
            }
            let mut send = respond.send_response(ok.body(()).unwrap(), false).unwrap();
            while let Some(chunk) = body.data().await {
                let Ok(chunk) = chunk else { return };
                body.flow_control().release_capacity(chunk.len()).unwrap();
                if forward(&mut send, chunk).await.is_err() {
                    return;
                }
            }
            match body.trailers().await {
                Ok(Some(trailers)) => send.send_trailers(trailers).unwrap(),
                _ => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-end", "yes".parse().unwrap());
                    let _ = send.send_trailers(trailers);
                }
            }
        }
        Act::Echo | Act::EchoAs(_) | Act::EchoLater => tunnel(respond, body, ok, "").await,
        Act::Greet => tunnel(respond, body, ok, GREETING).await,
        Act::HangUp => {
            let mut send = respond.send_response(ok.body(()).unwrap(), false).unwrap();
            send.send_reset(Reason::INTERNAL_ERROR);
        }
        Act::Status(status) => {
            let response = ok.status(status).body(()).unwrap();
            drop(respond.send_response(response, true));
        }
        Act::Unprocessed | Act::OtherEndpoint => {
            let reason = match act {
                Act::OtherEndpoint => "other_endpoint",
                _ => "test",
            };
            let r = ok
                .status(StatusCode::SERVICE_UNAVAILABLE)
                .header("tradewind-unprocessed", reason);
            drop(respond.send_response(r.body(()).unwrap(), true));
        }
        Act::AppFailed => {
            let r = ok
                .status(StatusCode::BAD_GATEWAY)
                .header("tradewind-error", "app_failed");
            drop(respond.send_response(r.body(()).unwrap(), true));
        }
        Act::Refuse => respond.send_reset(Reason::REFUSED_STREAM),
        Act::Reset => respond.send_reset(Reason::INTERNAL_ERROR),
        Act::BreakOff => {
            let mut send = respond.send_response(ok.body(()).unwrap(), false).unwrap();
            forward(&mut send, Bytes::from_static(b"half"))
                .await
                .unwrap();
            shared.go.notified().await;
            send.send_reset(Reason::INTERNAL_ERROR);
        }
        Act::Vanish => {
            while let Some(Ok(chunk)) = body.data().await {
                body.flow_control().release_capacity(chunk.len()).unwrap();
            }
            shared.vanish.notify_waiters();
        }
    }
}

/// What an application says that speaks first.
pub(super) const GREETING: &str = "220 ready\r\n";

/// An application behind a tunnel: says its greeting; a WebSocket handshake is accepted; everything else comes back.
async fn tunnel(
    mut respond: SendResponse<Bytes>,
    mut body: RecvStream,
    ok: http::response::Builder,
    greeting: &'static str,
) {
    let mut send = respond.send_response(ok.body(()).unwrap(), false).unwrap();
    let _ = forward(&mut send, Bytes::from_static(greeting.as_bytes())).await;
    let mut head = BytesMut::new();
    let mut http = None;
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else { return };
        body.flow_control().release_capacity(chunk.len()).unwrap();
        if http.is_none() && chunk.starts_with(b"GET /") {
            http = Some(false);
        }
        if http == Some(false) {
            head.extend_from_slice(&chunk);
            if head.ends_with(b"\r\n\r\n") {
                let yes = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                let no = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
                let answer = if head.starts_with(b"GET /no") {
                    no
                } else {
                    yes
                };
                forward(&mut send, Bytes::from_static(answer.as_bytes()))
                    .await
                    .unwrap();
                http = Some(true);
            }
            continue;
        }
        if forward(&mut send, chunk).await.is_err() {
            return;
        }
    }
    drop(send.send_data(Bytes::new(), true));
}

async fn forward(send: &mut h2::SendStream<Bytes>, mut chunk: Bytes) -> Result<(), ()> {
    while !chunk.is_empty() {
        send.reserve_capacity(chunk.len());
        let n = std::future::poll_fn(|cx| send.poll_capacity(cx))
            .await
            .ok_or(())?
            .map_err(drop)?;
        send.send_data(chunk.split_to(n.min(chunk.len())), false)
            .map_err(drop)?;
    }
    Ok(())
}

/// A gateway: passes every connection on to `backend`, unread.
pub(super) async fn gateway(backend: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = spawn_local("gateway", async move {
        loop {
            let (mut a, _) = listener.accept().await.unwrap();
            drop(spawn_local("gateway_connection", async move {
                if let Ok(mut b) = TcpStream::connect(backend).await {
                    drop(tokio::io::copy_bidirectional(&mut a, &mut b).await);
                }
            }));
        }
    });
    (address, task)
}

/// A path that can go dark: connections stay open and nothing passes any more.
pub(super) struct BlackHole {
    pub(super) address: SocketAddr,
    dark: Rc<tokio::sync::Notify>,
}

impl BlackHole {
    pub(super) async fn start(backend: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dark = Rc::new(tokio::sync::Notify::new());
        let own = Rc::clone(&dark);
        drop(spawn_local("black_hole", async move {
            loop {
                let (mut a, _) = listener.accept().await.unwrap();
                let dark = Rc::clone(&own);
                drop(spawn_local("black_hole_connection", async move {
                    let mut b = TcpStream::connect(backend).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut a, &mut b) => {}
                        () = dark.notified() => std::future::pending().await,
                    }
                }));
            }
        }));
        Self { address, dark }
    }

    pub(super) fn swallow(&self) {
        self.dark.notify_waiters();
    }
}

/// An address where nobody listens.
pub(super) async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Sends `text` and reads until the other side closes.
pub(super) async fn raw(to: SocketAddr, text: &str) -> String {
    let mut s = TcpStream::connect(to).await.unwrap();
    s.write_all(text.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    s.read_to_end(&mut out).await.unwrap();
    String::from_utf8_lossy(&out).into_owned()
}
