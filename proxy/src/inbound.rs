//! Inbound: from a caller's mutual TLS connection to the application. One per data thread, with its own listener,
//! connections and pools. No byte reaches the application before the caller's certificate was checked against the trust
//! map of that moment and the stream was authorised; what is revoked later is ended.

mod authorise;
mod body;
mod caller;
mod exec;
mod hearing;
mod limits;
mod metrics;
mod peers;
mod pool;
mod rewrite;
mod served;
mod stream;
mod wire;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tradewind_runtime::{clock::SharedClock, drain, listen, rng::Rng, task};
use tradewind_transport::{
    control::Control,
    permits::Permits,
    tls::{self, ClientAuth},
    trust::{PeerIdentity, Usage},
};

use caller::Caller;
use limits::LimitsHere;
pub(crate) use limits::{Held, Workload, start as start_limits};
pub(crate) use metrics::InboundMetrics;
use peers::Peers;
pub(crate) use served::Checks;
use served::{Served, ServedHere};
use wire::RequestBody;

use crate::{
    serving::Serving,
    standard::{Counted, StandardMetrics},
    telemetry::Ends,
};

/// A request's body on its way to the application, counted.
type AppRequest = Counted<RequestBody>;

/// How long a caller may take to finish its handshake: three packets, so only a broken or hostile one needs longer.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Handshakes at once per thread: each costs about 0.3 ms of CPU and 40 KiB; beyond it new ones would time out anyway.
const MAX_HANDSHAKES: usize = 512;
/// Connections in all threads: a caller's thread needs one per endpoint, so this is tens of thousands of callers.
const MAX_CONNECTIONS: usize = 65_536;
/// Streams of one caller's connection at once: a caller opens a second connection before it comes near.
const MAX_STREAMS: u32 = 1024;
/// A stream's window: bulk at 10 Gbit/s over 1 ms; one slow application holds at most this.
const STREAM_WINDOW: u32 = 1 << 20;
/// A connection's window: many streams at full window, and room for many tiny frames (see h2 0.4.19).
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest frame taken: fewer headers per byte in bulk, still small against the window.
const MAX_FRAME: u32 = 64 << 10;
/// Largest request head, as the applications' servers commonly bound it.
const MAX_HEAD: u32 = 64 << 10;
/// Most that waits in one stream to be sent to a slow caller.
const SEND_BUFFER: usize = 1 << 20;
/// Streams a caller may reset before we took them, before its connection is closed (rapid reset).
const MAX_PENDING_RESETS: usize = 64;
/// Streams we reset whose late frames are tolerated for a moment.
const MAX_RESETS: usize = 64;
/// Streams we may have to reset for the caller's errors, before its connection is closed.
const MAX_ERROR_RESETS: usize = 1024;
/// The kernel asks a silent caller for a sign of life after this, and then at this interval, so many times.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;
/// How long bytes may stay unacknowledged: a caller that vanished frees its streams.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest life of a connection in seconds, whatever the peer's certificate says: a bound for the timer.
const MAX_LIFE_S: i64 = 30 * 24 * 3600;
/// How often idle application connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// What the data threads' inbound sides share.
#[derive(Clone, Debug)]
pub(crate) struct InboundContext {
    pub control: Control,
    /// What is served, as it changes.
    pub serves: watch::Receiver<Arc<[Serving]>>,
    /// The address by which other proxies and the controller know this one.
    pub advertised: Arc<str>,
    /// What has an application looked at at once, where this proxy checks its health.
    pub checks: Checks,
    /// How many requests it takes.
    pub limits: watch::Receiver<Arc<Held>>,
    /// What sockets to applications carry.
    pub mark: Option<u32>,
    pub metrics: InboundMetrics,
    /// Where both directions count under Istio's names.
    pub standard: StandardMetrics,
    pub clock: SharedClock,
    /// Live connections in all threads.
    pub connections: Arc<AtomicUsize>,
}

/// One data thread's inbound side.
#[derive(Debug)]
struct Thread {
    control: Control,
    advertised: Arc<str>,
    served: ServedHere,
    limits: LimitsHere,
    permits: Rc<Permits>,
    peers: Rc<Peers>,
    metrics: InboundMetrics,
    standard: StandardMetrics,
    clock: SharedClock,
    rng: RefCell<Rng>,
    draining: Cell<bool>,
    handshakes: Cell<usize>,
    connections: Arc<AtomicUsize>,
}

impl Thread {
    fn new(context: &InboundContext, rng: Rng) -> Rc<Self> {
        Rc::new(Self {
            control: context.control.clone(),
            advertised: Arc::clone(&context.advertised),
            served: ServedHere::new(context),
            limits: LimitsHere::new(&context.limits),
            permits: Rc::default(),
            peers: Rc::default(),
            metrics: context.metrics.clone(),
            standard: context.standard.clone(),
            clock: Arc::clone(&context.clock),
            rng: RefCell::new(rng),
            draining: Cell::new(false),
            handshakes: Cell::new(0),
            connections: Arc::clone(&context.connections),
        })
    }
}

/// Serves on the current thread, which must run a `LocalSet`. On drain: no new connections, GOAWAY on the others, and
/// new streams are sent elsewhere; returns when every connection has ended. A forced drain ends the thread.
pub(crate) async fn serve(
    listener: TcpListener,
    context: InboundContext,
    mut rng: Rng,
    mut drain: drain::Watch,
) {
    let thread = Thread::new(&context, rng.fork());
    let acceptor = TlsAcceptor::from(tls::server_config(
        &context.control.svid,
        &context.control.trust,
        ClientAuth::Required,
    ));
    let helpers = [
        task::spawn_local(
            "exports",
            Rc::clone(&thread.permits).watch(context.control.snapshot.clone()),
        ),
        task::spawn_local(
            "trust",
            Rc::clone(&thread.peers).watch(context.control.trust.watch()),
        ),
        task::spawn_local("idle app connections", sweep(Rc::clone(&thread))),
    ];
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            accepted = listen::accept(&listener, &mut rng) => accepted,
            // Biased: whoever the kernel has already accepted is served before the listener closes.
            () = drain.triggered() => break,
        };
        let Some(place) = Place::take(&thread) else {
            thread.metrics.dropped("too_many");
            continue;
        };
        let (thread, acceptor, drain) = (Rc::clone(&thread), acceptor.clone(), drain.clone());
        // Detached: the runtime thread ends when the drain is forced, and its tasks with it.
        drop(task::spawn_local("inbound connection", async move {
            connection(thread, acceptor, stream, peer, place, drain).await;
        }));
    }
    drop(listener);
    thread.draining.set(true);
    let mut observer = drain.observer();
    drop(drain);
    // Ends when the last connection has: that is when the drain is over.
    observer.forced().await;
    for helper in helpers {
        helper.abort();
    }
}

async fn sweep(thread: Rc<Thread>) {
    let mut tick = time::interval(SWEEP);
    loop {
        tick.tick().await;
        for served in thread.served.now().all() {
            served.pool.sweep();
        }
    }
}

/// A place among the connections, and at first among the handshakes; both given back on drop.
#[derive(Debug)]
struct Place {
    thread: Rc<Thread>,
    shaking: bool,
}

impl Place {
    fn take(thread: &Rc<Thread>) -> Option<Self> {
        if thread.handshakes.get() >= MAX_HANDSHAKES {
            return None;
        }
        if thread.connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            thread.connections.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        thread.handshakes.set(thread.handshakes.get() + 1);
        Some(Self {
            thread: Rc::clone(thread),
            shaking: true,
        })
    }

    fn shaken(&mut self) {
        if std::mem::take(&mut self.shaking) {
            self.thread
                .handshakes
                .set(self.thread.handshakes.get().saturating_sub(1));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shaken();
        self.thread.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(
    thread: Rc<Thread>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    mut place: Place,
    drain: drain::Watch,
) {
    tune(&stream);
    let ends = thread.standard.telemetry().is_on();
    let ends = ends.then(|| Ends::of(&stream)).flatten();
    let shaken = time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await;
    place.shaken();
    let (tls, peer) = match shaken {
        Err(_) => return thread.metrics.dropped("timeout"),
        Ok(Err(error)) => {
            let reason = tls::refused_in(&error).map_or("handshake", |r| r.as_str());
            tracing::debug!(%address, reason, %error, "handshake failed");
            return thread.metrics.dropped(reason);
        }
        Ok(Ok(tls)) => match identify(&thread, &tls) {
            Ok(peer) => (tls, peer),
            Err(reason) => return thread.metrics.dropped(reason),
        },
    };
    let guard = thread.peers.enter(peer.clone());
    if !thread.control.trust.load().accepts(&peer) {
        return thread.metrics.dropped("revoked");
    }
    let _live = thread.metrics.connection();
    let caller = Rc::new(Caller {
        id: peer.id.clone(),
        revoked: guard.token().clone(),
        ends,
        server_name: ends.and_then(|_| tls.get_ref().1.server_name().map(Into::into)),
        pairs: RefCell::default(),
        buckets: RefCell::default(),
    });
    // A certificate that ended proves nothing any more; its owner has renewed it long before, and dialled anew.
    let now_s = i64::try_from(thread.clock.unix_ms() / 1000).unwrap_or(i64::MAX);
    let left_s = peer
        .not_after_unix_s
        .saturating_sub(now_s)
        .clamp(0, MAX_LIFE_S);
    let expired = time::sleep(Duration::from_secs(left_s.unsigned_abs()));
    tokio::select! {
        biased;
        () = guard.token().cancelled() => thread.metrics.revoked(),
        () = expired => thread.metrics.expired(),
        () = speak(&thread, caller, tls.into(), drain) => {}
    }
    drop(place);
}

fn identify(thread: &Thread, tls: &TlsStream<TcpStream>) -> Result<PeerIdentity, &'static str> {
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(tls::ALPN) {
        return Err("alpn");
    }
    let now_s = thread.clock.unix_ms() / 1000;
    session
        .peer_certificates()
        .and_then(|chain| tls::peer_of(chain, &thread.control.trust, now_s, Usage::Client))
        .ok_or("no_identity")
}

/// Serves HTTP/2 on a verified connection until it ends.
async fn speak(
    thread: &Rc<Thread>,
    caller: Rc<Caller>,
    tls: tls::Stream<TcpStream>,
    mut drain: drain::Watch,
) {
    let cork = tls.cork();
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_concurrent_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .handshake::<_, Bytes>(tls);
    let mut connection = match time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(caller = %caller.id, %error, "a caller did not speak HTTP/2");
            return thread.metrics.dropped("http2");
        }
        Err(_) => return thread.metrics.dropped("timeout"),
    };
    cork.begin();
    let mut said_goodbye = false;
    loop {
        let accept = poll_fn(|cx| {
            let accepted = connection.poll_accept(cx);
            if accepted.is_pending() {
                cork.send(cx);
            }
            accepted
        });
        let accepted = tokio::select! {
            biased;
            () = drain.triggered(), if !said_goodbye => {
                said_goodbye = true;
                connection.graceful_shutdown();
                continue;
            }
            accepted = accept => accepted,
        };
        match accepted {
            None => return,
            Some(Err(error)) => {
                tracing::debug!(caller = %caller.id, %error, "a caller's connection ended");
                return;
            }
            Some(Ok((request, respond))) => {
                let serving =
                    stream::serve(Rc::clone(thread), Rc::clone(&caller), request, respond);
                // Detached: it ends with its stream, which ends with the connection.
                drop(task::spawn_local("stream", serving));
            }
        }
    }
}

/// Notices callers that vanished without a word. A failure costs only that.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_TRIES);
    let socket = SockRef::from(stream);
    let set = socket
        .set_tcp_keepalive(&keepalive)
        .and_then(|()| socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
    if let Err(error) = set {
        tracing::debug!(%error, "socket options were not taken");
    }
}
