//! The log on a disk: the newest entries in a journal, what outlives it in sled. An append costs what the journal costs;
//! a thread moves the oldest segment to sled when there are many, so that the journal, and the time to open it, stay
//! bounded. Most entries never get there: a snapshot takes their place first.
//!
//! An entry may lie in both for a while; then the journal's counts. Truncation and purge reach both, the journal first.

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Engine, EngineError, journal::Journal, sled_engine::SledEngine};
use crate::types::{Entry, LogId};

/// The journal's directory in sled's.
const JOURNAL: &str = "journal";
/// Segments that stay in the journal: 64 MiB, which is read and checked in well under a second at the next start.
const KEEP_SEGMENTS: usize = 16;
/// Segments at which an append waits for the moving thread.
const MAX_SEGMENTS: usize = 24;
/// Bytes given to sled at a time.
const MOVE_BYTES: usize = 512 * 1024;
/// How often a reader looks again that found a gap: a segment may have gone below between two looks, once.
const MAX_LOOKS: usize = 3;
/// How long closing waits for the moving thread; a healthy disk needs a fraction.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What both threads use.
#[derive(Debug)]
struct Shared {
    journal: Journal,
    moving: Mutex<Moving>,
    /// Told of everything that changes what is to be moved.
    changed: Condvar,
    sled: SledEngine,
    /// Held by whoever changes what lies in sled: while a segment is on its way nothing is truncated or purged.
    below: Mutex<()>,
}

#[derive(Debug, Default)]
struct Moving {
    closing: bool,
    /// Why the moving thread moves nothing more.
    failed: Option<String>,
}

/// A journal over sled.
#[derive(Debug)]
pub(crate) struct Layered {
    shared: Arc<Shared>,
    /// Ends when this is dropped.
    mover: Mutex<Option<Mover>>,
}

/// The moving thread, and what it says at its end.
#[derive(Debug)]
struct Mover {
    thread: JoinHandle<()>,
    end: mpsc::Receiver<()>,
}

impl Shared {
    fn moving(&self) -> MutexGuard<'_, Moving> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self) -> MutexGuard<'_, ()> {
        self.below.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, moving: MutexGuard<'a, Moving>) -> MutexGuard<'a, Moving> {
        let woken = self.changed.wait(moving);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that what is to be moved may have changed. Under the lock: whoever is about to wait must not miss it.
    fn tell(&self, change: impl FnOnce(&mut Moving)) {
        change(&mut self.moving());
        self.changed.notify_all();
    }

    /// The journal is long, or its oldest segment serves nothing any more.
    fn is_due(&self) -> bool {
        self.journal.segments() > KEEP_SEGMENTS || self.journal.oldest_is_unused()
    }

    /// Moves segments to sled until it is told to end.
    fn move_segments(&self) {
        loop {
            let mut moving = self.moving();
            while !moving.closing && !self.is_due() {
                moving = self.wait(moving);
            }
            if moving.closing {
                return;
            }
            drop(moving);
            if let Err(error) = self.move_oldest() {
                tracing::error!(%error, "the journal cannot be moved; this node stops writing when it is full");
                self.tell(|moving| moving.failed = Some(error.to_string()));
                return;
            }
            self.tell(|_| {});
        }
    }

    fn read_once(&self, range: &Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, EngineError> {
        let below = range.start..self.journal.first().min(range.end);
        let (mut entries, bytes) = if below.is_empty() {
            (Vec::new(), 0)
        } else {
            self.sled.read_range(below.clone(), max_bytes)?
        };
        let room = max_bytes.saturating_sub(bytes);
        let reached = entries.last().map_or(range.start, |e| e.log_id.index + 1);
        if entries.is_empty() || (reached == below.end && room > 0) {
            let found = self.journal.find(&(reached..range.end), room);
            entries.reserve(found.len());
            for one in &found {
                entries.push(one.read()?);
            }
        }
        Ok(entries)
    }

    fn move_oldest(&self) -> Result<(), EngineError> {
        let _below = self.below();
        let Some(oldest) = self.journal.oldest() else {
            return Ok(());
        };
        let (mut frames, mut bytes) = (Vec::new(), 0);
        for frame in oldest.frames() {
            let (index, framed) = frame?;
            bytes += framed.len();
            frames.push((index, framed));
            if bytes >= MOVE_BYTES {
                self.sled.put(&frames)?;
                (frames, bytes) = (Vec::new(), 0);
            }
        }
        self.sled.put(&frames)?;
        // Also where nothing was left to move: the purge mark in sled must be durable before the record of it goes.
        self.sled.sync()?;
        self.journal.release(oldest)
    }
}

impl Layered {
    /// Opens or makes the log in `path`. The caller retries while the last owner's lock lingers.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let sled = SledEngine::open(path)?;
        let below = (sled.last()?, sled.purged()?);
        let journal = Journal::open(&path.join(JOURNAL), below, |from| sled.truncate_from(from))?;
        if let Some(purged) = journal.purged().filter(|p| Some(*p) > below.1) {
            sled.purge_to(purged)?;
        }
        let shared = Arc::new(Shared {
            journal,
            moving: Mutex::default(),
            changed: Condvar::new(),
            sled,
            below: Mutex::new(()),
        });
        let (ended, end) = mpsc::sync_channel(1);
        let moving = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("store-log-move".to_owned())
            .spawn(move || {
                moving.move_segments();
                drop(moving);
                // Nobody listens once the deadline is over.
                let _told = ended.send(());
            })?;
        Ok(Self {
            shared,
            mover: Mutex::new(Some(Mover { thread, end })),
        })
    }
}

#[cfg(test)]
impl Layered {
    /// Moves everything to sled.
    pub(crate) fn settle(&self) -> Result<(), EngineError> {
        self.shared.journal.seal()?;
        while self.shared.journal.segments() > 1 {
            self.shared.move_oldest()?;
        }
        Ok(())
    }
}

/// Waits for the moving thread, but not for ever: a disk that hangs holds it.
#[cfg(test)]
impl Layered {
    /// Opens it once the last owner's lock is gone: a process that another test starts holds it from its birth until it
    /// runs its own program.
    pub(crate) fn reopen(path: &Path) -> Result<Self, EngineError> {
        let until = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            match Self::open(path) {
                Err(e) if e.is_locked() && tokio::time::Instant::now() < until => {
                    thread::park_timeout(Duration::from_millis(10));
                }
                opened => return opened,
            }
        }
    }
}

impl Drop for Layered {
    fn drop(&mut self) {
        self.shared.tell(|moving| moving.closing = true);
        let mover = self.mover.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(mover) = mover.take() else {
            return;
        };
        if mover.end.recv_timeout(CLOSE_DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the store's journal did not close in time");
            return;
        }
        if mover.thread.join().is_err() {
            tracing::warn!("the store's journal did not close cleanly");
        }
    }
}

impl Engine for Layered {
    fn read_range(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, EngineError> {
        for _ in 0..MAX_LOOKS {
            let floor = self.shared.journal.purged().map_or(0, |p| p.index + 1);
            let range = range.start.max(floor)..range.end;
            let entries = self.shared.read_once(&range, max_bytes)?;
            let whole = entries
                .first()
                .is_none_or(|e| e.log_id.index == range.start);
            if whole {
                return Ok(entries);
            }
        }
        // A hole. What is asked for is not there; whoever asks judges.
        self.shared.read_once(&range, max_bytes)
    }

    fn append_sync(&self, entries: &[Entry]) -> Result<Vec<usize>, EngineError> {
        let journal = &self.shared.journal;
        if journal.segments() >= MAX_SEGMENTS {
            let mut moving = self.shared.moving();
            while journal.segments() >= MAX_SEGMENTS {
                if let Some(why) = &moving.failed {
                    return Err(EngineError::Stopped(why.clone()));
                }
                moving = self.shared.wait(moving);
            }
        }
        let sizes = journal.append(entries)?;
        // By what is due now, not by how many there were before: one may have gone below meanwhile.
        if self.shared.is_due() {
            self.shared.tell(|_| {});
        }
        Ok(sizes)
    }

    fn truncate_from(&self, index: u64) -> Result<(), EngineError> {
        let below = self.shared.below();
        self.shared.journal.truncate_from(index)?;
        self.shared.sled.truncate_from(index)?;
        drop(below);
        self.shared.tell(|_| {});
        Ok(())
    }

    fn purge_to(&self, upto: LogId) -> Result<(), EngineError> {
        let below = self.shared.below();
        self.shared.journal.purge_to(upto)?;
        self.shared.sled.purge_to(upto)?;
        drop(below);
        self.shared.tell(|_| {});
        Ok(())
    }

    fn purged(&self) -> Result<Option<LogId>, EngineError> {
        Ok(self.shared.journal.purged())
    }

    fn last(&self) -> Result<Option<LogId>, EngineError> {
        match self.shared.journal.last() {
            Some(last) => Ok(Some(last)),
            None => self.shared.sled.last(),
        }
    }

    fn size_on_disk(&self) -> u64 {
        let journal = self.shared.journal.size_on_disk();
        self.shared.sled.size_on_disk().saturating_add(journal)
    }
}

#[cfg(test)]
mod tests {
    use openraft::{EntryPayload, testing::log_id};

    use super::*;
    use crate::{catalog::tests::name, types::Batch};
    use tradewind_api::store::{Command, Stamped};

    /// One of a size that a segment holds one or two of.
    fn large(index: u64) -> Entry {
        let command = Stamped {
            proposer: name("west"),
            at_ms: index,
            command: Command::RevokeToken("x".repeat(700_000)),
            actor: None,
        };
        Entry {
            log_id: log_id(1, 1, index),
            payload: EntryPayload::Normal(Batch {
                commands: Arc::new(vec![command]),
            }),
        }
    }

    fn read(log: &Layered) -> Vec<u64> {
        let entries = log.read_range(0..u64::MAX, usize::MAX).unwrap();
        for entry in &entries {
            assert_eq!(*entry, large(entry.log_id.index));
        }
        entries.iter().map(|e| e.log_id.index).collect()
    }

    /// Until the moving thread has nothing to do.
    fn until_moved(log: &Layered) {
        let mut moving = log.shared.moving();
        while log.shared.is_due() {
            assert!(moving.failed.is_none(), "{moving:?}");
            let patience = Duration::from_secs(20);
            let (woken, waited) = log.shared.changed.wait_timeout(moving, patience).unwrap();
            assert!(!waited.timed_out(), "nothing is moved");
            moving = woken;
        }
    }

    /// Where a process was killed that purged: of the four entries below the last two are gone, the mark of it is not there, and the
    /// journal's record that it purged up to `upto` stands behind the two entries that lie in it.
    fn killed_while_it_purged(upto: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let log = Layered::reopen(dir.path()).unwrap();
        for index in 0..4 {
            log.append_sync(&[large(index)]).unwrap();
        }
        log.settle().unwrap();
        for index in 4..6 {
            log.append_sync(&[large(index)]).unwrap();
        }
        log.shared.journal.purge_to(log_id(1, 1, upto)).unwrap();
        log.shared.sled.truncate_from(2).unwrap();
        dir
    }

    #[test]
    fn a_purge_of_which_only_the_removal_came_to_the_disk_is_taken_from_the_journal() {
        let dir = killed_while_it_purged(3);
        let log = Layered::reopen(dir.path()).unwrap();
        assert_eq!(log.purged().unwrap(), Some(log_id(1, 1, 3)));
        assert_eq!(read(&log), [4, 5]);
        log.append_sync(&[large(6)]).unwrap();
        drop(log);
        let log = Layered::reopen(dir.path()).unwrap();
        assert_eq!(read(&log), [4, 5, 6]);
    }

    #[test]
    fn entries_that_are_missing_below_are_told_unless_they_were_purged() {
        // One short of what is missing.
        let dir = killed_while_it_purged(2);
        let error = Layered::reopen(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("log entry 2 is corrupt: the journal goes on with log entry 4"),
            "{error}"
        );
    }

    #[test]
    fn what_outlives_the_journal_is_found_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = Layered::reopen(dir.path()).unwrap();
        for index in 0..30 {
            log.append_sync(&[large(index)]).unwrap();
        }
        until_moved(&log);
        assert_eq!(log.shared.journal.segments(), KEEP_SEGMENTS);
        let first = log.shared.journal.first();
        assert!(first > 0 && first < 30, "{first}");
        assert_eq!(read(&log), (0..30).collect::<Vec<_>>());
        // An answer never ends where the two meet, unless it is full.
        let around = log.read_range(first - 1..first + 1, 2_000_000).unwrap();
        assert_eq!(around.len(), 2);
        drop(log);
        let log = Layered::reopen(dir.path()).unwrap();
        assert_eq!(read(&log), (0..30).collect::<Vec<_>>());
        // Both lose their ends where both must.
        log.truncate_from(first - 1).unwrap();
        assert_eq!(log.last().unwrap(), Some(log_id(1, 1, first - 2)));
        log.append_sync(&[large(first - 1), large(first)]).unwrap();
        log.purge_to(log_id(1, 1, 1)).unwrap();
        until_moved(&log);
        assert!(
            log.shared.journal.segments() <= 2,
            "the truncated ones are of no use"
        );
        drop(log);
        let log = Layered::reopen(dir.path()).unwrap();
        assert_eq!(read(&log), (2..=first).collect::<Vec<_>>());
        assert_eq!(log.purged().unwrap(), Some(log_id(1, 1, 1)));
        assert_eq!(log.last().unwrap(), Some(log_id(1, 1, first)));
    }

    #[test]
    fn a_segment_begun_while_another_goes_below_is_moved_too() {
        let dir = tempfile::tempdir().unwrap();
        let log = Layered::reopen(dir.path()).unwrap();
        for index in 0..60 {
            log.append_sync(&[large(index)]).unwrap();
            if index % 2 == 0 {
                until_moved(&log);
            }
        }
    }

    #[test]
    fn what_a_snapshot_replaced_is_never_moved() {
        let dir = tempfile::tempdir().unwrap();
        let log = Layered::reopen(dir.path()).unwrap();
        for index in 0..10 {
            log.append_sync(&[large(index)]).unwrap();
        }
        log.purge_to(log_id(1, 1, 8)).unwrap();
        until_moved(&log);
        assert_eq!(
            log.shared.sled.last().unwrap(),
            Some(log_id(1, 1, 8)),
            "the mark alone"
        );
        assert_eq!(read(&log), [9]);
        // A snapshot from the leader may be ahead of everything.
        log.purge_to(log_id(2, 1, 100)).unwrap();
        assert_eq!(log.last().unwrap(), Some(log_id(2, 1, 100)));
        drop(log);
        let log = Layered::reopen(dir.path()).unwrap();
        assert_eq!(log.last().unwrap(), Some(log_id(2, 1, 100)));
        assert_eq!(read(&log), [0; 0]);
        log.append_sync(&[large(101)]).unwrap();
        assert_eq!(read(&log), [101]);
    }

    #[test]
    fn a_log_of_before_the_journal_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = Layered::reopen(dir.path()).unwrap();
        log.append_sync(&[large(0), large(1)]).unwrap();
        log.settle().unwrap();
        drop(log);
        std::fs::remove_dir_all(dir.path().join(JOURNAL)).unwrap();
        let log = Layered::reopen(dir.path()).unwrap();
        log.append_sync(&[large(2)]).unwrap();
        drop(log);
        let log = Layered::reopen(dir.path()).unwrap();
        assert_eq!(read(&log), [0, 1, 2]);
    }

    #[test]
    fn a_missing_segment_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let log = Layered::reopen(dir.path()).unwrap();
        for index in 0..5 {
            log.append_sync(&[large(index)]).unwrap();
        }
        drop(log);
        let third = dir
            .path()
            .join(JOURNAL)
            .join("00000000000000000003.segment");
        std::fs::remove_file(third).unwrap();
        let error = Layered::reopen(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("segment 3 of the journal is missing"),
            "{error}"
        );
    }
}
