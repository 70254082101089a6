//! Where a controller is spoken to: TLS over TCP, and its unix socket. Every request carries a [`Caller`].
//!
//! Owns the listeners and the list of open connections. A connection that is garbage, too slow, or one too many is
//! dropped and counted; one whose peer is revoked is cut while it lives. It decides nothing about what a caller may do:
//! [`Access`] does, and services ask it.

mod access;
mod conn;
mod meters;
mod unix;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tradewind_runtime::{
    clock::SharedClock, drain, listen, metrics::MetricsRegistry, rng::Rng, task::TaskSet,
};
use tradewind_transport::{
    tls::peer_of,
    trust::{PeerIdentity, TrustCell, Usage},
};

pub use access::{Access, Caller, caller};
use conn::Conn;
use meters::{Meters, Why};

/// Connections open at once: every proxy of a large cluster, twice over while they reconnect.
const MAX_CONNECTIONS: usize = 20_000;
/// TLS handshakes in progress at once: each costs a key agreement and some 50 KiB for at most its deadline.
const MAX_HANDSHAKES: usize = 512;
/// A handshake's deadline: two round trips and two signatures.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Connections accepted and not yet taken up by the server.
const ACCEPT_QUEUE: usize = 64;
/// Connection window. Also sizes h2's budget of small frames, which a smaller one would exhaust on a healthy link.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Stream window: Raft appends and snapshot chunks flow without waiting for each round trip.
const STREAM_WINDOW: u32 = 1 << 20;
/// Calls open at once on one connection; a busy peer has some dozens.
const MAX_STREAMS: u32 = 1024;
/// Header bytes of one call; ours have a few hundred.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// How often an idle connection is proven alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// How long a proof may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// After the drain signal calls in flight may end within this; streams, which never end, are cut then.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Where to listen.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// TCP address for TLS; port 0 picks a free one.
    pub tcp: SocketAddr,
    /// Path of the unix socket; none for no socket.
    pub socket: Option<PathBuf>,
    /// The socket's file mode: 0o600 for the owner alone, 0o666 where other uids are mapped to identities.
    pub socket_mode: u32,
}

/// Why the listeners could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The TCP address.
    #[error(transparent)]
    Tcp(#[from] listen::BindError),
    /// Somebody answers on the socket.
    #[error("socket {0} is in use: another controller runs on this data directory")]
    SocketInUse(PathBuf),
    /// The socket's file cannot be made.
    #[error("socket {path} cannot be opened: {cause}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// What serving needs besides the listeners.
#[derive(Clone, Debug)]
pub struct Serving {
    /// TLS configuration: client certificates optional, callers are authorised per call.
    pub tls: Arc<ServerConfig>,
    /// The trust map that callers are checked against, at the handshake and whenever it changes.
    pub trust: TrustCell,
    /// Time.
    pub clock: SharedClock,
}

/// Open listeners, not yet served.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    unix: Option<(UnixListener, PathBuf)>,
}

impl Listeners {
    /// Opens both. A socket file that nobody answers on is left over from a crash and is replaced.
    pub async fn bind(config: &ListenConfig) -> Result<Self, ListenError> {
        let tcp = listen::bind_tcp(config.tcp, false).map_err(|e| e.flag("--listen"))?;
        let unix = match &config.socket {
            Some(path) => Some((unix::bind(path, config.socket_mode).await?, path.clone())),
            None => None,
        };
        Ok(Self { tcp, unix })
    }

    /// The TCP address in use.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `drain` is triggered, then lets calls in flight end and cuts the rest. `drain` is held until then.
    pub async fn serve(
        self,
        routes: Routes,
        serving: Serving,
        metrics: &MetricsRegistry,
        mut drain: drain::Watch,
    ) {
        let meters = Meters::register(metrics);
        let hub = Arc::new(Hub {
            serving,
            meters,
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            open: Mutex::default(),
            everything: CancellationToken::new(),
        });
        let (ready, incoming) = mpsc::channel(ACCEPT_QUEUE);
        let mut tasks = TaskSet::new();
        tasks.spawn(
            "controller-accept-tls",
            accept_tls(Arc::clone(&hub), self.tcp, ready.clone()),
        );
        let socket = self.unix.map(|(listener, path)| {
            tasks.spawn(
                "controller-accept-unix",
                accept_unix(Arc::clone(&hub), listener, ready.clone()),
            );
            path
        });
        tasks.spawn("controller-revoke", cut_revoked(Arc::clone(&hub)));
        drop(ready);
        let mut signal = drain.observer();
        let server = Server::builder()
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_routes(routes)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
                signal.triggered().await;
            });
        tokio::pin!(server);
        let ended = tokio::select! {
            biased;
            ended = &mut server => Some(ended),
            () = drain.triggered() => {
                tasks.abort_all().await;
                let ended = tokio::time::timeout(DRAIN_GRACE, &mut server).await.ok();
                hub.everything.cancel();
                match ended {
                    Some(ended) => Some(ended),
                    None => tokio::time::timeout(DRAIN_GRACE, &mut server).await.ok(),
                }
            }
        };
        if let Some(Err(error)) = ended {
            tracing::error!(%error, "the controller's server ended");
        }
        hub.everything.cancel();
        if let Some(path) = socket {
            unix::remove(&path);
        }
    }
}

struct Hub {
    serving: Serving,
    meters: Meters,
    slots: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    open: Mutex<Open>,
    everything: CancellationToken,
}

// Connections of peers that can be revoked.
#[derive(Default)]
struct Open {
    next: u64,
    peers: HashMap<u64, (PeerIdentity, CancellationToken)>,
}

// Takes a connection off the list when it ends.
struct Listed {
    hub: Arc<Hub>,
    key: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.hub
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .peers
            .remove(&self.key);
    }
}

impl Hub {
    fn list(self: &Arc<Self>, peer: &PeerIdentity, cut: &CancellationToken) -> Listed {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = open.next;
        open.next += 1;
        open.peers.insert(key, (peer.clone(), cut.clone()));
        Listed {
            hub: Arc::clone(self),
            key,
        }
    }
}

async fn cut_revoked(hub: Arc<Hub>) {
    let mut trust = hub.serving.trust.watch();
    while trust.changed().await.is_ok() {
        let now = trust.borrow_and_update().clone();
        let open = hub.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (peer, cut) in open.peers.values() {
            if !now.accepts(peer) {
                hub.meters.dropped(Why::Revoked);
                tracing::info!(peer = %peer.id, "connection cut: its authority is trusted no longer");
                cut.cancel();
            }
        }
    }
}

async fn accept_tls(hub: Arc<Hub>, listener: TcpListener, ready: mpsc::Sender<io::Result<Conn>>) {
    let acceptor = TlsAcceptor::from(Arc::clone(&hub.serving.tls));
    let mut pause = listen_pause();
    let mut handshakes = TaskSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause.wait(&error).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&hub.slots).try_acquire_owned() else {
            hub.meters.dropped(Why::Limit);
            continue;
        };
        // While all are taken the kernel's backlog holds newcomers; each is free again within its deadline.
        let Ok(turn) = Arc::clone(&hub.handshakes).acquire_owned().await else {
            return;
        };
        let (hub, acceptor, ready) = (Arc::clone(&hub), acceptor.clone(), ready.clone());
        handshakes.spawn("controller-handshake", async move {
            let done =
                tokio::time::timeout(HANDSHAKE_DEADLINE, handshake(&hub, &acceptor, stream)).await;
            drop(turn);
            match done {
                Ok(Ok(conn)) => {
                    hub.meters.accepted();
                    drop(ready.send(Ok(conn.holding(slot))).await);
                }
                Ok(Err(why)) => hub.meters.dropped(why),
                Err(_) => hub.meters.dropped(Why::Slow),
            }
        });
    }
}

async fn handshake(hub: &Arc<Hub>, acceptor: &TlsAcceptor, stream: TcpStream) -> Result<Conn, Why> {
    stream.set_nodelay(true).map_err(|_| Why::Garbage)?;
    let stream = acceptor.accept(stream).await.map_err(|error| {
        tracing::debug!(%error, "handshake refused");
        Why::Garbage
    })?;
    let cut = hub.everything.child_token();
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    if certificates.is_empty() {
        return Ok(Conn::tls(stream, Caller::Anonymous, cut, None));
    }
    let now_unix_s = hub.serving.clock.unix_ms() / 1000;
    let peer =
        peer_of(certificates, &hub.serving.trust, now_unix_s, Usage::Client).ok_or(Why::Revoked)?;
    let listed = hub.list(&peer, &cut);
    Ok(Conn::tls(stream, Caller::Peer(peer), cut, Some(listed)))
}

async fn accept_unix(hub: Arc<Hub>, listener: UnixListener, ready: mpsc::Sender<io::Result<Conn>>) {
    let mut pause = listen_pause();
    loop {
        let stream: UnixStream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause.wait(&error).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&hub.slots).try_acquire_owned() else {
            hub.meters.dropped(Why::Limit);
            continue;
        };
        let Ok(peer) = stream.peer_cred() else {
            hub.meters.dropped(Why::Credentials);
            continue;
        };
        hub.meters.accepted();
        let caller = Caller::Local { uid: peer.uid() };
        let conn = Conn::unix(stream, caller, hub.everything.child_token()).holding(slot);
        if ready.send(Ok(conn)).await.is_err() {
            return;
        }
    }
}

// What to do when accept fails: the process is out of files or the peer is gone already. Neither ends the listener.
struct Pause {
    backoff: tradewind_runtime::backoff::Backoff,
    rng: Rng,
}

fn listen_pause() -> Pause {
    Pause {
        backoff: tradewind_runtime::backoff::Backoff::new(
            Duration::from_millis(10),
            Duration::from_secs(1),
        ),
        rng: Rng::from_entropy(),
    }
}

impl Pause {
    async fn wait(&mut self, error: &io::Error) {
        tracing::warn!(%error, "accept failed");
        tokio::time::sleep(self.backoff.next(&mut self.rng)).await;
    }
}
