//! One data thread: its listener, its connections, and what ends them early. A connection's two sides stay on the
//! thread that accepted it. It must never forward a byte before the route is decided.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{self, Instant},
};
use tradewind_api::snapshot::Snapshot;
use tradewind_runtime::{clock::SharedClock, drain, listen, rng::Rng, task};
use tradewind_transport::{
    client_hello::{Hello, read_hello},
    permits::Permits,
    relay::{Side, relay_counted},
    server_name::{self, Target},
};

use crate::{
    circles::Circles,
    limits::{Limits, Place},
    metrics::{Carried, GatewayMetrics, ToLabels},
    names::NameTable,
    plan::{Asked, Held, No, Plan, Planner, StandsBy},
    refusal::Refusal,
    route::{Circumstances, route},
    socket,
};

/// How long a peer may take to send its whole ClientHello: it is one flight, so only a broken or hostile one needs longer.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// A thread always has a timer nearer than any that a connection may want: one that becomes the nearest costs the runtime
/// two system calls to wake itself.
const BEAT: Duration = Duration::from_millis(500);
/// What a gateway says to whoever asks whether it is there: a TLS alert record, `close_notify` at warning level. It is an
/// end without a complaint, and comes before any session, so it cannot be taken for one.
const CLOSE_NOTIFY: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];

/// What the data threads share. Everything in it is read-only or counts.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub names: Arc<NameTable>,
    pub metrics: GatewayMetrics,
    pub limits: Arc<Limits>,
    pub controller_backend: Arc<str>,
    pub circles: Circles,
    pub clock: SharedClock,
}

struct Thread {
    shared: Serving,
    permits: Rc<Permits>,
    rng: RefCell<Rng>,
}

/// Serves until the drain has begun; connections go on and hold `drain` until they end.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Serving,
    rng: Rng,
    mut drain: drain::Watch,
) {
    let permits = Rc::new(Permits::default());
    let watcher = task::spawn_local(
        "permits",
        Rc::clone(&permits).watch(shared.snapshot.clone()),
    );
    let thread = Rc::new(Thread {
        permits,
        rng: RefCell::new(rng.clone()),
        shared,
    });
    let mut rng = rng;
    let mut beat = time::interval(BEAT);
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            accepted = listen::accept(&listener, &mut rng) => accepted,
            // Biased: whoever the kernel has already accepted is served before the listener closes.
            () = drain.triggered() => break,
            _beat = beat.tick() => continue,
        };
        admit(&thread, stream, peer, &drain);
    }
    drop(listener);
    // Connections under way hold the drain by their own clones; this thread lives as long as any of them.
    let mut observer = drain.observer();
    drop(drain);
    observer.forced().await;
    watcher.abort();
}

fn admit(thread: &Rc<Thread>, stream: TcpStream, peer: SocketAddr, drain: &drain::Watch) {
    let Ok(half_open) = thread.shared.limits.half_open(peer.ip()) else {
        let nobody = ToLabels::default();
        thread.shared.metrics.refuse(Refusal::TooMany, nobody);
        // No task for it: there are too many already. The alert fits the empty send buffer or is lost.
        if let Some(alert) = Refusal::TooMany.alert() {
            drop(stream.try_write(&alert));
        }
        return;
    };
    let admitted = Admitted {
        caller: stream,
        peer,
        half_open,
        drain: drain.clone(),
    };
    // Boxed: what it takes to open a connection is more than what it takes to keep one, and is given back between.
    let opening = Box::pin(open(Rc::clone(thread), admitted));
    // Detached: the runtime thread ends when the drain is forced, and its tasks with it.
    drop(task::spawn_local("connection", async move {
        if let Some(mut opened) = opening.await {
            carry(&mut opened).await;
        }
    }));
}

/// What an accepted connection holds.
struct Admitted {
    caller: TcpStream,
    peer: SocketAddr,
    half_open: Place<IpAddr>,
    drain: drain::Watch,
}

/// A connection whose both sides stand; the hello was passed on.
struct Opened {
    thread: Rc<Thread>,
    caller: TcpStream,
    workload: TcpStream,
    stands_by: StandsBy,
    carried: Carried,
    drain: drain::Watch,
    _place: Held,
}

/// From the first byte to the hello's arrival at the workload; none when the connection was refused.
async fn open(thread: Rc<Thread>, admitted: Admitted) -> Option<Box<Opened>> {
    let Admitted {
        mut caller,
        peer,
        half_open,
        drain,
    } = admitted;
    let accepted = thread.shared.clock.now();
    let (hello, plan) = match decide(&thread, &mut caller, peer.ip(), accepted).await {
        Ok(Some(decided)) => decided,
        Ok(None) => {
            thread.shared.metrics.probes_answered.inc();
            socket::alert_and_close(&mut caller, &CLOSE_NOTIFY).await;
            return None;
        }
        Err(no) => {
            refuse(&thread, caller, peer, no).await;
            return None;
        }
    };
    drop(half_open);
    let dialled = tokio::select! {
        biased;
        () = plan.stands_by.withdrawn() => Err(Refusal::NotExported),
        dialled = dial(&thread, &plan) => dialled.ok_or(plan.unreached()),
    };
    let mut workload = match dialled {
        Ok(workload) => workload,
        Err(reason) => {
            let to = plan.to;
            refuse(&thread, caller, peer, No { reason, to }).await;
            return None;
        }
    };
    let carried = thread.shared.metrics.open(&plan.to, accepted);
    if workload.write_all(&hello).await.is_err() {
        // The workload took the connection and closed it at once; the caller sees the close and tries elsewhere.
        return None;
    }
    carried.received.inc_by(hello.len() as u64);
    Some(Box::new(Opened {
        thread,
        caller,
        workload,
        stands_by: plan.stands_by,
        carried,
        drain,
        _place: plan.place,
    }))
}

/// Reads the hello and decides by the newest snapshot; none for one that the gateway answers itself.
async fn decide(
    thread: &Thread,
    stream: &mut TcpStream,
    source: IpAddr,
    begun: Instant,
) -> Result<Option<(Bytes, Plan)>, No> {
    let (hello, parsed) = read_hello(stream, begun + HELLO_DEADLINE)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => Refusal::Timeout,
            _ => Refusal::Cut,
        })?;
    thread
        .shared
        .metrics
        .hello((thread.shared.clock.now() - begun).as_secs_f64());
    let name = match parsed {
        Hello::Name(name) => name,
        Hello::NoName => return Err(Refusal::NoName.into()),
        Hello::NotTls => return Err(Refusal::NotTls.into()),
        Hello::TooLarge => return Err(Refusal::TooLarge.into()),
        Hello::Incomplete => return Err(Refusal::Cut.into()),
    };
    let snapshot = Arc::clone(&thread.shared.snapshot.borrow());
    let own = snapshot.local().ok_or(Refusal::NotReady)?;
    let target = server_name::parse(&name, &snapshot.trust.domain).map_err(|error| {
        tracing::debug!(%name, %error, "a server name that is not ours");
        Refusal::BadName
    })?;
    let now = Circumstances {
        pick: thread.rng.borrow_mut().next_u64(),
        now_unix_s: thread.shared.clock.unix_ms() / 1000,
    };
    let names = match target {
        Target::Sealed { .. } => thread.shared.names.of(&snapshot),
        Target::Endpoint { .. }
        | Target::Controller { .. }
        | Target::ControllerNode { .. }
        | Target::Gateway { .. } => Arc::default(),
    };
    let decided = route(&snapshot, &names, &target, now).inspect_err(|refused| {
        tracing::debug!(
            ?target,
            reason = refused.reason.as_str(),
            "a name that is refused"
        );
    })?;
    let planner = Planner {
        limits: &thread.shared.limits,
        circles: &thread.shared.circles,
        permits: &thread.permits,
        controller: &thread.shared.controller_backend,
    };
    let asked = Asked {
        source,
        hello: &hello,
        named: target.cluster(),
        own: &own.name,
    };
    let plan = planner.plan(decided, &asked)?;
    Ok(plan.map(|plan| (hello, plan)))
}

/// Dials one after the other: the hello is still whole here, so nothing is lost by trying the next.
async fn dial(thread: &Thread, plan: &Plan) -> Option<TcpStream> {
    let metrics = &thread.shared.metrics;
    for address in &plan.addresses {
        match time::timeout(plan.timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                socket::tune(&stream);
                metrics.dialled(&plan.to, "ok");
                return Some(stream);
            }
            Ok(Err(error)) => {
                metrics.dialled(&plan.to, "refused");
                tracing::debug!(to = %plan.to.to, %address, %error, "dial failed");
            }
            Err(_) => {
                metrics.dialled(&plan.to, "timeout");
                tracing::debug!(to = %plan.to.to, %address, "dial timed out");
            }
        }
    }
    None
}

async fn carry(opened: &mut Opened) {
    let Opened {
        thread,
        caller,
        workload,
        stands_by,
        carried,
        drain,
        _place,
    } = opened;
    let clock = &thread.shared.clock;
    let count = |side, bytes| match side {
        Side::A => drop(carried.received.inc_by(bytes)),
        Side::B => carried.sent(bytes, || clock.now()),
    };
    let outlived = stands_by.outlived(drain);
    let cut = tokio::select! {
        biased;
        () = stands_by.withdrawn() => {
            carried.ended_by_policy.inc();
            true
        }
        // One that fails resets both sides by itself.
        _ended = relay_counted(caller, workload, count) => false,
        () = outlived => true,
    };
    if cut {
        // The peers must not take this for an orderly end.
        socket::reset_on_close(caller);
        socket::reset_on_close(workload);
    }
}

async fn refuse(thread: &Thread, mut stream: TcpStream, peer: SocketAddr, no: No) {
    let No { reason, to } = no;
    tracing::debug!(%peer, reason = reason.as_str(), caller = to.peer, to = to.to, "connection refused");
    thread.shared.metrics.refuse(reason, to);
    if let Some(alert) = reason.alert() {
        socket::alert_and_close(&mut stream, &alert).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<'a, F>(_of: impl FnOnce(&'a mut Opened) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_kept_connection_holds_is_small() {
        let carrying = size_of_output(carry);
        let opened = size_of::<Opened>();
        assert!(carrying < 640, "{carrying}");
        assert!(opened < 320, "{opened}");
    }
}
