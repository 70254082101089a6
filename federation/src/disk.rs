//! The one thread (in simulations, task) that writes the log, the vote and the marks, in the order asked. Appends that wait together share one
//! flush. After a failed write nothing more is written: the disk's state is unknown from then on, and a node in doubt must
//! not acknowledge anything.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use openraft::{EntryPayload, storage::LogFlushed};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tradewind_runtime::files;

use crate::{
    engine::{Engine, EngineError},
    flush::{Flushed, Reached, Sharing},
    medium::{LOG, Mark, Medium},
    meters::Meters,
    tail::Tail,
    types::{Entry, LogId, TypeConfig, Vote},
};

/// Jobs that may wait. openraft waits for each of its own, so a handful is the truth.
const QUEUE: usize = 64;
/// How far the high-water mark on the disk may trail what was acknowledged when the power fails. Its own sync with every
/// append would double what a write costs; what it is there to notice, a log that lost its tail, loses more than this.
const MARK_TRAILS: Duration = Duration::from_millis(50);
/// Entries that share one flush; bounds the time the first of them waits.
const GROUP: usize = 4_096;

/// Who waits for an append: openraft, in two ways.
pub(crate) type Asker = (LogFlushed<TypeConfig>, Done);

pub(crate) type Done = oneshot::Sender<Result<(), String>>;

pub(crate) enum Job {
    /// Nobody to be told where openraft was told already.
    Append {
        entries: Vec<Entry>,
        asker: Option<Asker>,
    },
    Truncate {
        from: u64,
        done: Done,
    },
    Purge {
        upto: LogId,
        done: Done,
    },
    SaveVote {
        vote: Vote,
        done: Done,
    },
    /// Nobody waits for it; lost with the power, it only means that a restart applies a little later.
    Committed(Option<LogId>),
}

/// What the thread has written, for those who read.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) tail: Tail,
    pub(crate) sharing: Sharing,
    /// How often the log's end was cut off since the start.
    pub(crate) truncations: u64,
    /// Since when the thread has been at what it does now.
    pub(crate) busy_since: Option<Instant>,
    /// Why nothing more is written, if so.
    pub(crate) failed: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SharedWritten {
    written: Arc<Mutex<Written>>,
    reached: watch::Sender<Reached>,
}

impl SharedWritten {
    /// `written` is on the disk.
    pub(crate) fn new(written: Written) -> Self {
        let (reached, _) = watch::channel(Reached {
            last: written.last,
            failed: false,
        });
        Self {
            written: Arc::new(Mutex::new(written)),
            reached,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For whoever waits until something is durable.
    pub(crate) fn flushed(&self) -> Flushed {
        Flushed::new(self.reached.subscribe())
    }

    fn reach(&self, last: Option<LogId>) {
        self.reached.send_modify(|reached| reached.last = last);
    }

    fn fail(&self, why: &str) {
        self.lock().failed = Some(why.to_owned());
        self.reached.send_modify(|reached| reached.failed = true);
    }
}

/// One job, or the appends that share one flush.
enum Work {
    Append {
        entries: Vec<Entry>,
        waiting: Vec<Asker>,
    },
    Truncate {
        from: u64,
        done: Done,
    },
    Purge {
        upto: LogId,
        done: Done,
    },
    SaveVote {
        vote: Vote,
        done: Done,
    },
    Committed(Option<LogId>),
}

impl Work {
    /// Starts with `job` and takes the appends that wait behind it; gives the job that did not fit.
    fn gather(job: Job, jobs: &mut mpsc::Receiver<Job>) -> (Self, Option<Job>) {
        let (entries, first) = match job {
            Job::Append { entries, asker } => (entries, asker),
            Job::Truncate { from, done } => return (Self::Truncate { from, done }, None),
            Job::Purge { upto, done } => return (Self::Purge { upto, done }, None),
            Job::SaveVote { vote, done } => return (Self::SaveVote { vote, done }, None),
            Job::Committed(mark) => return (Self::Committed(mark), None),
        };
        let (mut all, mut waiting, mut next) = (entries, Vec::from_iter(first), None);
        while all.len() < GROUP {
            match jobs.try_recv() {
                Ok(Job::Append { entries, asker }) => {
                    all.extend(entries);
                    waiting.extend(asker);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let work = Self::Append {
            entries: all,
            waiting,
        };
        (work, next)
    }
}

/// What a piece of work changed, for those who read.
enum Effect {
    Nothing,
    Appended(Vec<(Entry, usize)>),
    Truncated { from: u64, last: Option<LogId> },
    Purged(LogId),
    Voted(Vote),
}

/// The writer's side.
pub(crate) struct Disk {
    pub(crate) medium: Arc<dyn Medium>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) high_water: Box<dyn Mark>,
    /// When the mark was last synced.
    pub(crate) marked_at: Option<Instant>,
    pub(crate) committed: Box<dyn Mark>,
    pub(crate) written: SharedWritten,
    pub(crate) meters: Meters,
    pub(crate) failed: Option<String>,
}

impl Disk {
    /// Starts the thread; it ends when every sender is gone.
    pub(crate) fn spawn(self) -> io::Result<(mpsc::Sender<Job>, JoinHandle<()>)> {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-disk".to_owned())
            .spawn(move || self.run(jobs))?;
        Ok((sender, thread))
    }

    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut next = jobs.blocking_recv();
        while let Some(job) = next.take() {
            let (mut work, left) = Work::gather(job, &mut jobs);
            let result = self.perform(&mut work);
            self.finish(work, result);
            next = left.or_else(|| jobs.blocking_recv());
        }
    }

    /// Starts a task on this runtime instead, which waits as long as the simulated medium takes.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn spawn_task(
        self,
        pace: Arc<dyn crate::medium::Pace>,
    ) -> (mpsc::Sender<Job>, tokio::task::JoinHandle<()>) {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let task = tradewind_runtime::task::spawn("store-disk", self.run_paced(jobs, pace));
        (sender, task)
    }

    #[cfg(any(test, feature = "simulation"))]
    async fn run_paced(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        pace: Arc<dyn crate::medium::Pace>,
    ) {
        let mut next = jobs.recv().await;
        while let Some(job) = next.take() {
            let (mut work, left) = Work::gather(job, &mut jobs);
            let result = self.perform(&mut work);
            if pace.lies() {
                self.finish(work, result);
                pace.settle().await;
            } else {
                pace.settle().await;
                self.finish(work, result);
            }
            next = match left {
                Some(job) => Some(job),
                None => jobs.recv().await,
            };
        }
    }

    /// Brings `work` onto the medium.
    fn perform(&mut self, work: &mut Work) -> Result<Effect, String> {
        if let Work::Committed(mark) = work {
            // Not worth stopping for: it is a hint for the next start.
            if let Err(error) = self.committed.write(*mark, false) {
                tracing::warn!(%error, path = %self.committed.path().display(), "cannot note the commit");
            }
            return Ok(Effect::Nothing);
        }
        if let Some(why) = &self.failed {
            return Err(EngineError::Stopped(why.clone()).to_string());
        }
        self.written.lock().busy_since = Some(Instant::now());
        let carry_out = || match work {
            Work::Append { entries, .. } => self.append(std::mem::take(entries)),
            Work::Truncate { from, .. } => self.truncate(*from),
            Work::Purge { upto, .. } => self.purge(*upto),
            Work::SaveVote { vote, .. } => self.save_vote(*vote),
            Work::Committed(_) => Ok(Effect::Nothing),
        };
        // An engine that panics has failed; the thread must live to say so.
        let result = catch_unwind(AssertUnwindSafe(carry_out))
            .unwrap_or_else(|_panic| Err("the log engine panicked".to_owned()))
            .map_err(|why| format!("{why}; this node writes nothing until it starts again"));
        if let Err(why) = &result {
            tracing::error!(error = %why, "the store's disk failed; this node stops writing");
            self.failed = Some(why.clone());
            self.written.fail(why);
        }
        result
    }

    /// Shows and acknowledges what is durable now.
    fn finish(&self, work: Work, result: Result<Effect, String>) {
        self.written.lock().busy_since = None;
        let result = result.map(|effect| self.show(effect));
        match work {
            Work::Append { waiting, .. } => {
                for (flushed, done) in waiting {
                    flushed.log_io_completed(result.clone().map_err(io::Error::other));
                    drop(done.send(result.clone()));
                }
            }
            // The asker may have gone; what is written stays written.
            Work::Truncate { done, .. }
            | Work::Purge { done, .. }
            | Work::SaveVote { done, .. } => drop(done.send(result)),
            Work::Committed(_) => {}
        }
    }

    fn show(&self, effect: Effect) {
        let mut written = self.written.lock();
        match effect {
            Effect::Nothing => {}
            Effect::Appended(entries) => {
                let last = entries.last().map(|(e, _)| e.log_id);
                // A leader's further entries may stand there already.
                written.last = written.last.max(last);
                written.tail.extend(entries.into_iter());
                self.written.reach(last);
            }
            Effect::Truncated { from, last } => {
                written.last = last;
                written.tail.truncate_from(from);
                self.written.reach(last);
            }
            Effect::Purged(upto) => {
                written.purged = Some(upto);
                if written.last.is_none_or(|l| l.index < upto.index) {
                    written.last = Some(upto);
                    self.written.reach(Some(upto));
                }
                written.tail.purge_to(upto.index);
            }
            Effect::Voted(vote) => written.vote = Some(vote),
        }
    }

    fn append(&mut self, entries: Vec<Entry>) -> Result<Effect, String> {
        let Some(last) = entries.last().map(|e| e.log_id) else {
            return Ok(Effect::Nothing);
        };
        let started = Instant::now();
        let reshapes = |e: &Entry| matches!(e.payload, EntryPayload::Membership(_));
        if entries.iter().any(reshapes) {
            self.note_commit()?;
        }
        let sizes = self
            .engine
            .append_sync(&entries)
            .map_err(|e| self.text(&e))?;
        // Only after the entries are safe: a mark ahead of the log would refuse a healthy node. Before they are
        // acknowledged, so that the death of the process alone never leaves it behind.
        let due = self.marked_at.is_none_or(|at| at.elapsed() >= MARK_TRAILS);
        self.mark(Some(last), due)?;
        self.meters.flushed(started.elapsed(), entries.len());
        Ok(Effect::Appended(entries.into_iter().zip(sizes).collect()))
    }

    fn truncate(&mut self, from: u64) -> Result<Effect, String> {
        let (purged, last) = {
            let written = self.written.lock();
            (written.purged, written.last)
        };
        let before = match from.checked_sub(1) {
            None => None,
            Some(index) if purged.is_some_and(|p| p.index >= index) => purged,
            Some(index) => self
                .engine
                .read_range(index..from, usize::MAX)
                .map_err(|e| self.text(&e))?
                .first()
                .map(|e| e.log_id),
        };
        if last.is_none_or(|l| l.index < from) {
            return Ok(Effect::Nothing);
        }
        // The mark goes down first: a crash in between leaves a log that is longer than it, which is fine.
        self.mark(before, true)?;
        self.engine.truncate_from(from).map_err(|e| self.text(&e))?;
        Ok(Effect::Truncated { from, last: before })
    }

    fn purge(&self, upto: LogId) -> Result<Effect, String> {
        self.engine.purge_to(upto).map_err(|e| self.text(&e))?;
        Ok(Effect::Purged(upto))
    }

    fn save_vote(&self, vote: Vote) -> Result<Effect, String> {
        self.medium.write_vote(&vote).map_err(|e| e.to_string())?;
        Ok(Effect::Voted(vote))
    }

    /// Before a new membership is durable, so is the admission of whom it names: a node that restarts would else need the
    /// voices of members that it does not know yet, and so would not believe.
    fn note_commit(&mut self) -> Result<(), String> {
        let committed = self.written.lock().committed;
        let noted = self.committed.write(committed, true);
        noted.map_err(|e| format!("{}: {e}", self.committed.path().display()))
    }

    fn mark(&mut self, mark: Option<LogId>, sync: bool) -> Result<(), String> {
        let path = self.high_water.path().to_owned();
        self.high_water
            .write(mark, sync)
            .map_err(|e| format!("{}: {e}{}", path.display(), files::advice(&e)))?;
        if sync {
            self.marked_at = Some(Instant::now());
        }
        Ok(())
    }

    fn text(&self, error: &EngineError) -> String {
        format!("{}: {error}", self.medium.dir().join(LOG).display())
    }
}
