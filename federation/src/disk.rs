//! The one thread that writes the log, the vote and the marks, in the order asked. Appends that wait together share one
//! flush. After a failed write nothing more is written: the disk's state is unknown from then on, and a node in doubt must
//! not acknowledge anything.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use openraft::storage::LogFlushed;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tradewind_runtime::files;

use crate::{
    engine::{Engine, EngineError},
    log_store::{LOG, Tail},
    marks::MarkFile,
    meters::Meters,
    types::{Entry, LogId, TypeConfig, Vote},
};

/// Jobs that may wait. openraft waits for each of its own, so a handful is the truth.
const QUEUE: usize = 64;
/// How far the high-water mark on the disk may trail what was acknowledged when the power fails. Its own sync with every
/// append would double what a write costs; what it is there to notice, a log that lost its tail, loses more than this.
const MARK_TRAILS: Duration = Duration::from_millis(50);
/// Entries that share one flush; bounds the time the first of them waits.
const GROUP: usize = 4_096;

pub(crate) const VOTE_MAGIC: [u8; 4] = *b"TWVT";
pub(crate) const VOTE_VERSION: u16 = 1;

pub(crate) type Done = oneshot::Sender<Result<(), String>>;

pub(crate) enum Job {
    Append {
        entries: Vec<Entry>,
        flushed: LogFlushed<TypeConfig>,
        done: Done,
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
    /// Why nothing more is written, if so.
    pub(crate) failed: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SharedWritten(Arc<Mutex<Written>>);

impl SharedWritten {
    pub(crate) fn new(written: Written) -> Self {
        Self(Arc::new(Mutex::new(written)))
    }
    pub(crate) fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's side.
pub(crate) struct Disk {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) vote_path: PathBuf,
    pub(crate) high_water: MarkFile,
    /// When the mark was last synced.
    pub(crate) marked_at: Option<Instant>,
    pub(crate) committed: MarkFile,
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
            match job {
                Job::Append {
                    entries,
                    flushed,
                    done,
                } => {
                    let mut all = entries;
                    let mut waiting = vec![(flushed, done)];
                    while all.len() < GROUP {
                        match jobs.try_recv() {
                            Ok(Job::Append {
                                entries,
                                flushed,
                                done,
                            }) => {
                                all.extend(entries);
                                waiting.push((flushed, done));
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.append(all, waiting);
                }
                Job::Truncate { from, done } => self.job(done, |disk| disk.truncate(from)),
                Job::Purge { upto, done } => self.job(done, |disk| disk.purge(upto)),
                Job::SaveVote { vote, done } => self.job(done, |disk| disk.save_vote(vote)),
                Job::Committed(mark) => {
                    // Not worth stopping for: it is a hint for the next start.
                    if let Err(error) = self.committed.write(mark, false) {
                        tracing::warn!(%error, path = %self.committed.path().display(), "cannot note the commit");
                    }
                }
            }
            if next.is_none() {
                next = jobs.blocking_recv();
            }
        }
    }

    fn job(&mut self, done: Done, work: impl FnOnce(&mut Self) -> Result<(), String>) {
        let result = match &self.failed {
            Some(why) => Err(EngineError::Stopped(why.clone()).to_string()),
            // An engine that panics has failed; the thread must live to say so.
            None => catch_unwind(AssertUnwindSafe(|| work(self)))
                .unwrap_or_else(|_panic| Err("the log engine panicked".to_owned()))
                .map_err(|why| format!("{why}; this node writes nothing until it starts again")),
        };
        if let Err(why) = &result
            && self.failed.is_none()
        {
            tracing::error!(error = %why, "the store's disk failed; this node stops writing");
            self.failed = Some(why.clone());
            self.written.lock().failed = Some(why.clone());
        }
        // The asker may have gone; what is written stays written.
        drop(done.send(result));
    }

    fn append(&mut self, entries: Vec<Entry>, waiting: Vec<(LogFlushed<TypeConfig>, Done)>) {
        let (all_done, result) = oneshot::channel();
        self.job(all_done, |disk| disk.append_now(entries));
        let result = result.blocking_recv().unwrap_or(Ok(()));
        for (flushed, done) in waiting {
            flushed.log_io_completed(result.clone().map_err(io::Error::other));
            drop(done.send(result.clone()));
        }
    }

    fn append_now(&mut self, entries: Vec<Entry>) -> Result<(), String> {
        let Some(last) = entries.last().map(|e| e.log_id) else {
            return Ok(());
        };
        let started = Instant::now();
        let sizes = self
            .engine
            .append_sync(&entries)
            .map_err(|e| self.text(&e))?;
        // Only after the entries are safe: a mark ahead of the log would refuse a healthy node. Before they are
        // acknowledged, so that the death of the process alone never leaves it behind.
        let due = self.marked_at.is_none_or(|at| at.elapsed() >= MARK_TRAILS);
        self.mark(Some(last), due)?;
        self.meters.flushed(started.elapsed(), entries.len());
        let mut written = self.written.lock();
        written.last = Some(last);
        written.tail.extend(entries.into_iter().zip(sizes));
        Ok(())
    }

    fn truncate(&mut self, from: u64) -> Result<(), String> {
        let purged = self.written.lock().purged;
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
        let last = self.written.lock().last;
        if last.is_none_or(|l| l.index < from) {
            return Ok(());
        }
        // The mark goes down first: a crash in between leaves a log that is longer than it, which is fine.
        self.mark(before, true)?;
        self.engine.truncate_from(from).map_err(|e| self.text(&e))?;
        let mut written = self.written.lock();
        written.last = before;
        written.tail.truncate_from(from);
        Ok(())
    }

    fn purge(&mut self, upto: LogId) -> Result<(), String> {
        self.engine.purge_to(upto).map_err(|e| self.text(&e))?;
        let mut written = self.written.lock();
        written.purged = Some(upto);
        if written.last.is_none_or(|l| l.index < upto.index) {
            written.last = Some(upto);
        }
        written.tail.purge_to(upto.index);
        Ok(())
    }

    fn save_vote(&mut self, vote: Vote) -> Result<(), String> {
        write_vote(&self.vote_path, &vote)?;
        self.written.lock().vote = Some(vote);
        Ok(())
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
        format!("{}: {error}", self.vote_path.with_file_name(LOG).display())
    }
}

fn write_vote(path: &Path, vote: &Vote) -> Result<(), String> {
    let payload = serde_json::to_vec(vote).map_err(|e| e.to_string())?;
    files::write_framed(path, VOTE_MAGIC, VOTE_VERSION, &payload, 0o600).map_err(|e| e.to_string())
}
