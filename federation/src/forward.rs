//! A follower's way to the leader. Writes that wait while others are on their way go together in one call: what many
//! writers on a follower cost the leader is then a few calls and not one each. It owns a bounded queue and sends nothing
//! twice; whether to ask again is the asker's to judge.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};
use tradewind_api::{ClusterName, NodeId, store::Command};
use tradewind_runtime::task::TaskSet;

use crate::{
    codec,
    peer::{Call, PeerError, PeerTransport},
    propose::{Ask, Forwarded, MAX_TOGETHER, MAX_WAITING, One, Told},
};

/// From which level on every member understands writes that come together.
const TOGETHER_LEVEL: u16 = 3;
/// Bytes after which a call takes no further write; a single one always fits.
const CALL_BYTES: usize = 512 * 1024;
/// Calls under way to the leader: one in the batch that it writes, one in the next, one on the way.
const UNDER_WAY: usize = 3;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterName,
}

#[derive(Debug)]
struct Waiting {
    leader: Leader,
    one: One,
    bytes: usize,
    until: Instant,
    done: oneshot::Sender<Result<Told, PeerError>>,
}

/// The entrance. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder {
    queue: mpsc::Sender<Waiting>,
}

/// True when `command` may share a call in a federation that stands at `level`. Who leaves waits for much more than one
/// log entry, and the others would with it.
pub(crate) const fn may_share(command: &Command, level: u16) -> bool {
    level >= TOGETHER_LEVEL && !matches!(command, Command::Leave)
}

impl Forwarder {
    /// `own` is in whose name everything is asked.
    pub(crate) fn start(
        own: ClusterName,
        transport: Arc<dyn PeerTransport>,
        tasks: &mut TaskSet,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let line = Line {
            queue: waiting,
            left_over: None,
        };
        tasks.spawn("store-forward", run(line, own, transport));
        Self { queue }
    }

    /// Asks `leader` to write `one`. The caller bounds the wait, by `until`.
    pub(crate) async fn write(
        &self,
        leader: Leader,
        one: One,
        bytes: usize,
        until: Instant,
    ) -> Result<Told, PeerError> {
        let (done, told) = oneshot::channel();
        let cluster = leader.cluster.clone();
        let stopped = || PeerError::NoAnswer {
            cluster,
            cause: "this store has stopped".to_owned(),
        };
        let waiting = Waiting {
            leader,
            one,
            bytes,
            until,
            done,
        };
        if self.queue.send(waiting).await.is_err() {
            return Err(stopped());
        }
        told.await.map_err(|_dropped| stopped())?
    }
}

/// Those who wait.
struct Line {
    queue: mpsc::Receiver<Waiting>,
    /// What did not fit the last call.
    left_over: Option<Waiting>,
}

impl Line {
    /// Who goes together next; `None` at the end.
    async fn next(&mut self) -> Option<(Leader, Vec<Waiting>)> {
        let first = match self.left_over.take() {
            Some(first) => first,
            None => self.queue.recv().await?,
        };
        let leader = first.leader.clone();
        let mut bytes = first.bytes;
        let mut together = vec![first];
        while together.len() < MAX_TOGETHER {
            let Ok(next) = self.queue.try_recv() else {
                break;
            };
            bytes += next.bytes;
            if bytes > CALL_BYTES || next.leader != leader {
                self.left_over = Some(next);
                break;
            }
            together.push(next);
        }
        Some((leader, together))
    }
}

async fn run(mut line: Line, own: ClusterName, transport: Arc<dyn PeerTransport>) {
    let slots = Arc::new(Semaphore::new(UNDER_WAY));
    let mut under_way = TaskSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let Some((leader, mut together)) = line.next().await else {
            return;
        };
        // Whoever gave up in the meantime need not be written at all.
        together.retain(|waiting| !waiting.done.is_closed());
        let Some(until) = together.iter().map(|w| w.until).max() else {
            continue;
        };
        let (mut writes, mut askers) = (Vec::new(), Vec::new());
        for waiting in together {
            writes.push(waiting.one);
            askers.push(waiting.done);
        }
        let deadline = until.saturating_duration_since(Instant::now());
        let asked = Forwarded {
            proposer: own.clone(),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            ask: Ask::Writes(writes),
            actor: None,
        };
        let transport = Arc::clone(&transport);
        under_way.spawn("store-forwarded", async move {
            let told = timeout(deadline, ask(&*transport, &leader, &asked, deadline)).await;
            drop(slot);
            let told = told.unwrap_or_else(|_elapsed| Err(no_answer(&leader, "its time is up")));
            deliver(&leader, askers, told);
        });
    }
}

fn no_answer(leader: &Leader, cause: &str) -> PeerError {
    PeerError::NoAnswer {
        cluster: leader.cluster.clone(),
        cause: cause.to_owned(),
    }
}

/// One call.
pub(crate) async fn ask(
    transport: &dyn PeerTransport,
    leader: &Leader,
    asked: &Forwarded,
    deadline: Duration,
) -> Result<Told, PeerError> {
    let refused = |cause: String| PeerError::Refused {
        cluster: leader.cluster.clone(),
        cause,
    };
    let frame = codec::encode(asked, "a proposal").map_err(|e| refused(e.to_string()))?;
    let answer = transport.call(leader.node, &leader.cluster, Call::Propose, frame, deadline);
    // What makes no sense may have been done all the same.
    codec::decode(&answer.await?, "an answer to a proposal")
        .map_err(|e| no_answer(leader, &e.to_string()))
}

/// Gives each asker its answer. One that gave up is told nothing.
fn deliver(
    leader: &Leader,
    askers: Vec<oneshot::Sender<Result<Told, PeerError>>>,
    told: Result<Told, PeerError>,
) {
    let mut each = match told {
        Ok(Told::Each(each)) => each.into_iter().map(Ok).collect::<Vec<_>>(),
        one => vec![one; askers.len()],
    };
    let missing = || {
        Err(no_answer(
            leader,
            "it answered fewer writes than it was asked for",
        ))
    };
    each.resize_with(askers.len(), missing);
    for (asker, told) in askers.into_iter().zip(each) {
        drop(asker.send(told));
    }
}
