//! openraft's log storage on top of the disk thread. It owns the store's files and checks at opening that they agree with
//! each other; it never answers before the disk did.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use openraft::{
    AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use tokio::sync::{mpsc, oneshot};
use tradewind_api::NodeId;
use tradewind_runtime::files::{self, FileError};

use crate::{
    disk::{Disk, Done, Job, SharedWritten},
    engine::{Engine, EngineError},
    error::StoreError,
    flush::Flushed,
    loaded::Loaded,
    medium::{Hands, LOG, Medium, Writer},
    meters::Meters,
    types::{Entry, LogId, StorageError, StoredMembership, TypeConfig, Vote},
};

/// How long a lock of a process that just died is waited for.
const LOCK_RETRY: Duration = Duration::from_secs(5);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Bytes read for one RPC, so that it stays below the frame's bound; a single entry always fits.
const READ_BYTES: usize = 1024 * 1024;

/// The log, the vote and the marks of one node. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    medium: Arc<dyn Medium>,
    engine: Arc<dyn Engine>,
    written: SharedWritten,
    /// `None` once closed: the thread ends when the last sender is gone.
    jobs: Arc<Mutex<Option<mpsc::Sender<Job>>>>,
}

impl LogStore {
    /// Opens the files in `dir` and checks them against each other.
    pub(crate) async fn open(
        dir: &Path,
        meters: Meters,
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let (mut this, disk) = Self::load(Arc::new(crate::medium::Files::new(dir)), meters).await?;
        let thread = this.start(disk)?;
        Ok((this, thread))
    }

    /// Opens what lies on `medium` and checks it, part against part. The medium also says who writes from now on.
    pub(crate) async fn open_on(
        medium: Arc<dyn Medium>,
        meters: Meters,
    ) -> Result<(Self, Writer), StoreError> {
        let hands = medium.hands();
        let (mut this, disk) = Self::load(medium, meters).await?;
        let writer = match hands {
            Hands::Threads => Writer::Thread(this.start(disk)?),
            #[cfg(any(test, feature = "simulation"))]
            Hands::Tasks(pace) => {
                let (jobs, task) = disk.spawn_task(pace);
                this.jobs = Arc::new(Mutex::new(Some(jobs)));
                Writer::Task(task)
            }
        };
        Ok((this, writer))
    }

    async fn load(medium: Arc<dyn Medium>, meters: Meters) -> Result<(Self, Disk), StoreError> {
        let engine = open_engine(&medium).await?;
        let (reading, checking) = (Arc::clone(&medium), Arc::clone(&engine));
        let loaded = medium.hands();
        let loaded = loaded.run(move || Loaded::read(&*reading, &*checking));
        let failed = |e: tokio::task::JoinError| engine_failed(medium.dir(), &e.to_string());
        let loaded = loaded.await.map_err(failed)??;
        let written = SharedWritten::new(loaded.written);
        let disk = Disk {
            medium: Arc::clone(&medium),
            engine: Arc::clone(&engine),
            high_water: loaded.high_water,
            marked_at: None,
            committed: loaded.committed,
            written: written.clone(),
            meters,
            failed: None,
        };
        let this = Self {
            medium,
            engine,
            written,
            jobs: Arc::default(),
        };
        Ok((this, disk))
    }

    fn start(&mut self, disk: Disk) -> Result<JoinHandle<()>, StoreError> {
        let started = disk.spawn();
        let (jobs, thread) =
            started.map_err(|e| engine_failed(self.medium.dir(), &e.to_string()))?;
        self.jobs = Arc::new(Mutex::new(Some(jobs)));
        Ok(thread)
    }

    /// Who does what blocks, for this node.
    pub(crate) fn hands(&self) -> Hands {
        self.medium.hands()
    }

    /// The last log id on disk, the purge mark if the log is empty.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.written.lock().last
    }

    /// The vote on disk.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.written.lock().vote
    }

    /// Forgets, before consensus starts, that `me` was leading. openraft would let a leader that restarts lead on in its
    /// old term, with the commit index that it had noted last: its reads would miss what was acknowledged since, and new
    /// entries could take the place of lost ones under the same ids. Having voted for itself stands; it must be elected anew.
    pub(crate) fn stand_down(&self, me: NodeId) {
        let mut written = self.written.lock();
        written.sharing.me = Some(me);
        if let Some(vote) = &mut written.vote
            && vote.leader_id.voted_for() == Some(me)
        {
            vote.committed = false;
        }
    }

    /// Up to where the log was purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.written.lock().purged
    }

    /// How often the log's end was cut off since the start. A leader cuts nothing off.
    pub(crate) fn truncations(&self) -> u64 {
        self.written.lock().truncations
    }

    /// The index of the last membership in the log.
    pub(crate) fn membership_in_force(&self) -> Option<u64> {
        self.written.lock().sharing.in_force()
    }

    /// For whoever waits until something is durable.
    pub(crate) fn flushed(&self) -> Flushed {
        self.written.flushed()
    }

    /// Takes note of a membership that lies in a snapshot.
    pub(crate) fn note_membership(&self, stored: &StoredMembership) {
        let Some(id) = stored.log_id() else {
            return;
        };
        let mut written = self.written.lock();
        written.sharing.note(id.index, stored.membership());
    }

    /// Shows `entries` to readers before they are durable, where `flush` says that this may be.
    fn let_go(&self, entries: &[Entry]) -> Option<mpsc::Sender<Job>> {
        let mut written = self.written.lock();
        written.sharing.read(entries);
        let lets_go = written.sharing.lets_go(entries, written.vote.as_ref());
        if !lets_go || written.failed.is_some() {
            return None;
        }
        let jobs = self.jobs()?;
        written.last = entries.last().map(|e| e.log_id).or(written.last);
        // What they take on the disk is known when they are there.
        written.tail.extend(entries.iter().cloned().map(|e| (e, 0)));
        Some(jobs)
    }

    /// Why the disk thread stopped writing, if it did.
    pub(crate) fn failed(&self) -> Option<String> {
        self.written.lock().failed.clone()
    }

    /// How long the disk has been at the write that it does now.
    pub(crate) fn disk_busy(&self) -> Option<Duration> {
        self.written.lock().busy_since.map(|since| since.elapsed())
    }

    /// Bytes the log takes on disk.
    pub(crate) fn size_on_disk(&self) -> u64 {
        self.engine.size_on_disk()
    }

    /// Lets the disk thread end after what it was given.
    pub(crate) fn close(&self) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    fn jobs(&self) -> Option<mpsc::Sender<Job>> {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn run(&self, make: impl FnOnce(Done) -> Job) -> Result<(), AnyError> {
        let (done, result) = oneshot::channel();
        let gone = || AnyError::error("the store's disk thread has ended");
        let jobs = self.jobs().ok_or_else(gone)?;
        jobs.send(make(done)).await.map_err(|_closed| gone())?;
        result
            .await
            .map_err(|_closed| gone())?
            .map_err(AnyError::error)
    }

    async fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, StorageError> {
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.written.lock().tail.read(&range, max_bytes) {
            return Ok(entries);
        }
        let engine = Arc::clone(&self.engine);
        let start = range.start;
        let hands = self.hands();
        let read = hands.run(move || engine.read_range(range, max_bytes)).await;
        let failed = |why: String| {
            let path = self.medium.dir().join(LOG);
            let error = AnyError::error(format!("{}: {why}", path.display()));
            StorageError::from(StorageIOError::read_log_at_index(start, error))
        };
        read.map_err(|e| failed(e.to_string()))?
            .map_err(|e| failed(e.to_string()))
    }
}

fn engine_failed(dir: &Path, cause: &str) -> StoreError {
    StoreError::Engine {
        path: dir.join(LOG),
        cause: cause.to_owned(),
    }
}

/// A disk that refuses is no reason to give up what lies on it.
fn not_opened(dir: &Path, error: EngineError) -> StoreError {
    match error.io() {
        Some(e) if !files::advice(e).is_empty() => FileError::Io {
            path: dir.join(LOG),
            action: "open",
            source: io::Error::new(e.kind(), e.to_string()),
        }
        .into(),
        _ => engine_failed(dir, &error.to_string()),
    }
}

/// What is wrong with one of the store's own files is told with what helps a store: an old copy of it would not.
pub(crate) fn damaged(error: FileError) -> StoreError {
    match error {
        FileError::Corrupt { path, what } => StoreError::Corrupt {
            path,
            what: format!("corrupt ({what})"),
        },
        other => other.into(),
    }
}

async fn open_engine(medium: &Arc<dyn Medium>) -> Result<Arc<dyn Engine>, StoreError> {
    let until = tokio::time::Instant::now() + LOCK_RETRY;
    let failed = |why: String| engine_failed(medium.dir(), &why);
    loop {
        let opening = Arc::clone(medium);
        let opened = medium.hands().run(move || opening.open_log()).await;
        match opened.map_err(|e| failed(e.to_string()))? {
            Ok(engine) => return Ok(engine),
            Err(e) if e.is_locked() && tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(e) => return Err(not_opened(medium.dir(), e)),
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(s) => *s,
            Bound::Excluded(s) => s.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(e) => e.saturating_add(1),
            Bound::Excluded(e) => *e,
            Bound::Unbounded => u64::MAX,
        };
        let (purged, last) = {
            let written = self.written.lock();
            (written.purged, written.last)
        };
        let start = start.max(purged.map_or(0, |p| p.index + 1));
        let end = end.min(last.map_or(0, |l| l.index + 1));
        self.read(start..end, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let entries = self.read(start..end, READ_BYTES).await?;
        // Purged while it was asked for: what follows must not be sent as if it came next. openraft takes nothing for a
        // heartbeat and then sends a snapshot; with a gap the follower's log would have a hole.
        if entries.first().is_some_and(|e| e.log_id.index != start) {
            return Ok(Vec::new());
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let written = self.written.lock();
        Ok(LogState {
            last_purged_log_id: written.purged,
            last_log_id: written.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.run(|done| Job::SaveVote { vote, done }).await;
        saved.map_err(|e| StorageIOError::write_vote(e).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.vote())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.written.lock().committed = committed;
        // A hint for the next start; the thread's end shows at the next write.
        if let Some(jobs) = self.jobs() {
            drop(jobs.send(Job::Committed(committed)).await);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.written.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        if let Some(jobs) = self.let_go(&entries) {
            let gone = |_closed| AnyError::error("the store's disk thread has ended");
            let job = Job::Append {
                entries,
                asker: None,
            };
            let sent = jobs.send(job).await.map_err(gone);
            sent.map_err(|e| StorageError::from(StorageIOError::write_logs(e)))?;
            callback.log_io_completed(Ok(()));
            return Ok(());
        }
        let appended = self.run(|done| Job::Append {
            entries,
            asker: Some((callback, done)),
        });
        appended
            .await
            .map_err(|e| StorageIOError::write_logs(e).into())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = log_id.index;
        {
            let mut written = self.written.lock();
            written.sharing.truncate_from(from);
            written.truncations += 1;
        }
        let truncated = self.run(|done| Job::Truncate { from, done }).await;
        truncated.map_err(|e| StorageIOError::write_logs(e).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let purged = self.run(|done| Job::Purge { upto: log_id, done }).await;
        purged.map_err(|e| StorageIOError::write_logs(e).into())
    }
}
