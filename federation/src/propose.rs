//! The way of a write: in on any node, to the leader, into a batch, through the log, back with its outcome.
//!
//! On the leader, writes that wait while another is under way share the next log entry, and so its fsyncs. Every queue
//! and every wait here is bounded. A write is sent again when it was certainly not delivered, or when it may be written twice.

use std::{sync::Arc, time::Duration};

use openraft::error::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tradewind_api::{
    ClusterName, NodeId,
    store::{Command, Outcome, Stamped},
};
use tradewind_runtime::{SharedClock, task::TaskSet};

use crate::{
    error::ProposeError,
    types::{Batch, Raft},
};

/// One command, bytes: an export of 5,000 endpoints fits, and one entry fits one RPC.
pub const MAX_COMMAND: usize = 1024 * 1024;
/// Writes waiting on one node. Beyond it callers are told so at once.
pub const MAX_WAITING: usize = 1_024;
/// Writes that come in one call.
pub(crate) const MAX_TOGETHER: usize = 256;
/// Commands in one log entry.
const BATCH: usize = 256;
/// Bytes after which a batch takes no further command.
const BATCH_BYTES: usize = 256 * 1024;
/// Batches under way: one on this disk, one on the followers'.
const UNDER_WAY: usize = 2;
/// How long a batch keeps its slot, longer than anybody waits for it. openraft never answers for entries of a leader that
/// was unseated and then caught up by a snapshot; kept for good, two such slots would end all writing here.
const ANSWER_DEADLINE: Duration = Duration::from_secs(8);

/// How long a batch that is smaller than the ones before it waits for company. The writers of one batch are answered
/// together and write again together; without this the first of them would take an entry, and its fsyncs, for itself.
const GATHER: Duration = Duration::from_millis(1);

/// A follower's request to the leader.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Forwarded {
    /// In whose name; must be the caller's own.
    pub(crate) proposer: ClusterName,
    /// How long the caller still waits.
    pub(crate) deadline_ms: u64,
    pub(crate) ask: Ask,
    /// Who asked the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    Write(Box<Command>),
    /// Up to which revision must a linearizable read have applied?
    ReadIndex,
    /// Of the leader: let another voter lead, this one if it is named. From level 2 on.
    Transfer(Option<NodeId>),
    /// From the leader, which has fallen silent for it: stand for election now. From level 2 on.
    TakeOver,
    /// Several writes, each with its own answer, at most [`MAX_TOGETHER`]. From level 3 on.
    Writes(Vec<One>),
}

/// One of several writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct One {
    pub(crate) command: Box<Command>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
}

impl Ask {
    /// True when asking twice gives what asking once gives, so that a lost answer may simply be asked for again. A second
    /// try never enters the log before the first.
    pub(crate) const fn may_repeat(&self) -> bool {
        match self {
            Self::ReadIndex | Self::TakeOver => true,
            // Each of them is judged by itself.
            Self::Transfer(_) | Self::Writes(_) => false,
            Self::Write(command) => match **command {
                Command::Announce { .. }
                | Command::RenewLease
                | Command::SetDraining { .. }
                | Command::PutExport(_)
                | Command::PatchExport { .. }
                | Command::SetVoting { .. }
                | Command::AttestExports { .. }
                | Command::PutNodeKey { .. }
                | Command::PutSealKey { .. }
                | Command::PutController { .. }
                | Command::Speak { .. } => true,
                Command::Found { .. }
                | Command::Join { .. }
                | Command::Leave
                | Command::RemoveExport(_)
                | Command::PutToken(_)
                | Command::RevokeToken(_)
                | Command::RemoveNode { .. }
                | Command::AddNode { .. }
                | Command::AddController { .. }
                | Command::NoteTransfer { .. } => false,
            },
        }
    }
}

/// The leader's answer, or that of one who is not the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Told {
    Outcome(Outcome),
    ReadIndex(u64),
    /// Nothing was done; ask this one, if it is known.
    NotLeader(Option<NodeId>),
    /// Nothing was done: too much waits.
    Busy,
    /// Nothing was done: this cluster asked for more than its share. Told from level 2 on.
    OverBudget {
        retry_ms: u64,
    },
    /// It leads now, or will in a moment.
    Leads(NodeId),
    /// Nobody knows whether it was done.
    Unknown,
    /// Nothing was done, and asking again will not help.
    Failed(String),
    /// To `Writes`: one for each, in order.
    Each(Vec<Self>),
}

/// What is to be written, and for whom.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) proposer: ClusterName,
    /// Who asked the proposer.
    pub(crate) actor: Option<String>,
    pub(crate) command: Command,
    /// Its size in the log.
    pub(crate) bytes: usize,
}

/// A write on the leader.
struct Waiting {
    write: Write,
    done: oneshot::Sender<Result<Outcome, LocalError>>,
}

/// Why a write on this node gave no outcome.
#[derive(Debug)]
pub(crate) enum LocalError {
    /// This node does not lead; nothing was written.
    NotLeader(Option<NodeId>),
    /// The queue is full; nothing was written.
    Busy,
    /// The proposer is over its budget; nothing was written.
    OverBudget(Duration),
    /// Asking again will not help; nothing was done.
    Refused(String),
    /// openraft stopped; unknown.
    Stopped(String),
}

/// The entrance to the batches. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Batcher {
    queue: mpsc::Sender<Waiting>,
}

impl Batcher {
    pub(crate) fn start(raft: Raft, clock: SharedClock, tasks: &mut TaskSet) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        tasks.spawn("store-batches", run(raft, clock, waiting));
        Self { queue }
    }

    /// Writes `command` here, if this node leads. The caller bounds the wait.
    pub(crate) async fn write(&self, write: Write) -> Result<Outcome, LocalError> {
        let (done, outcome) = oneshot::channel();
        let waiting = Waiting { write, done };
        let stopped = || LocalError::Stopped("its tasks have ended".to_owned());
        self.queue.try_send(waiting).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => LocalError::Busy,
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        outcome.await.map_err(|_dropped| stopped())?
    }
}

/// How large `command` is in the log.
pub(crate) fn measure(command: &Command) -> Result<usize, ProposeError> {
    let bytes = crate::codec::encode(command, "a command")?.len();
    if bytes > MAX_COMMAND {
        return Err(ProposeError::TooLarge {
            bytes,
            limit: MAX_COMMAND,
        });
    }
    Ok(bytes)
}

/// What is taken from the queue for one entry.
struct Gathering {
    queue: mpsc::Receiver<Waiting>,
    /// What did not fit the last batch.
    left_over: Option<Waiting>,
    /// The sizes of the last two batches: so many writers may be about to write again.
    sizes: [usize; 2],
}

impl Gathering {
    /// The next batch; `None` at the end.
    async fn next(&mut self) -> Option<Vec<Waiting>> {
        let first = match self.left_over.take() {
            Some(first) => first,
            None => self.queue.recv().await?,
        };
        let mut bytes = first.write.bytes;
        let mut batch = vec![first];
        let [before, last] = self.sizes;
        let expected = before.max(last);
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH {
            let next = match self.queue.try_recv() {
                Ok(next) => next,
                Err(_) if batch.len() >= expected => break,
                Err(_) => match timeout_at(until, self.queue.recv()).await {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            bytes += next.write.bytes;
            if bytes > BATCH_BYTES {
                self.left_over = Some(next);
                break;
            }
            batch.push(next);
        }
        self.sizes = [last, batch.len()];
        Some(batch)
    }
}

async fn run(raft: Raft, clock: SharedClock, queue: mpsc::Receiver<Waiting>) {
    let slots = Arc::new(Semaphore::new(UNDER_WAY));
    let mut under_way = TaskSet::new();
    let mut gathering = Gathering {
        queue,
        left_over: None,
        sizes: [1, 1],
    };
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let Some(batch) = gathering.next().await else {
            return;
        };
        let at_ms = clock.unix_ms();
        let mut commands = Vec::with_capacity(batch.len());
        let mut askers = Vec::with_capacity(batch.len());
        for waiting in batch {
            // Whoever gave up in the meantime need not be written at all.
            if waiting.done.is_closed() {
                continue;
            }
            commands.push(Stamped {
                proposer: waiting.write.proposer,
                at_ms,
                command: waiting.write.command,
                actor: waiting.write.actor,
            });
            askers.push(waiting.done);
        }
        if commands.is_empty() {
            continue;
        }
        let raft = raft.clone();
        // Handed over here, so that batches enter the log in order.
        let batch = Batch {
            commands: Arc::new(commands),
        };
        match raft.client_write_ff(batch).await {
            Ok(answer) => under_way.spawn("store-batch", async move {
                let answer = match timeout(ANSWER_DEADLINE, answer).await {
                    Ok(Ok(answer)) => answer.map_err(RaftError::APIError),
                    Ok(Err(_dropped)) => {
                        let stopped = LocalError::Stopped("consensus has stopped".to_owned());
                        return tell(askers, &stopped);
                    }
                    Err(_elapsed) => {
                        let unknown = LocalError::Stopped("consensus gave no answer".to_owned());
                        return tell(askers, &unknown);
                    }
                };
                drop(slot);
                deliver(askers, answer.map(|a| a.data));
            }),
            Err(fatal) => tell(askers, &LocalError::Stopped(fatal.to_string())),
        }
    }
}

type Asker = oneshot::Sender<Result<Outcome, LocalError>>;
type WriteError = RaftError<NodeId, ClientWriteError<NodeId, crate::types::RaftNode>>;

fn deliver(askers: Vec<Asker>, answer: Result<Vec<Outcome>, WriteError>) {
    match answer {
        Ok(outcomes) => {
            for (asker, outcome) in askers.into_iter().zip(outcomes) {
                // An asker that gave up is told nothing.
                drop(asker.send(Ok(outcome)));
            }
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
            tell(askers, &LocalError::NotLeader(to.leader_id));
        }
        Err(error) => tell(askers, &LocalError::Stopped(error.to_string())),
    }
}

fn tell(askers: Vec<Asker>, why: &LocalError) {
    for asker in askers {
        let why = match why {
            LocalError::NotLeader(leader) => LocalError::NotLeader(*leader),
            LocalError::Busy => LocalError::Busy,
            LocalError::OverBudget(retry_after) => LocalError::OverBudget(*retry_after),
            LocalError::Refused(why) => LocalError::Refused(why.clone()),
            LocalError::Stopped(why) => LocalError::Stopped(why.clone()),
        };
        drop(asker.send(Err(why)));
    }
}
