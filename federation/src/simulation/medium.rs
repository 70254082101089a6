//! A disk in memory. It keeps apart what was written and what was synced: a crash leaves what was synced, and of what was
//! under way as much as the seed says. It outlives its node's crashes and knows nothing of what it keeps but its order.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tradewind_runtime::{Rng, files::FileError};

use crate::{
    engine::{Engine, EngineError, frame},
    medium::{Hands, Mark, Medium, OpenedMark, Pace},
    types::{Entry, LogId, Vote},
};

/// Pauses of a healthy disk between write and acknowledgement, in microseconds.
const USUAL_US: u64 = 6_000;
/// Pauses of a disk in trouble.
const SLOW_US: u64 = 300_000;
/// One write in so many is slow on a healthy disk too.
const HICCUP: u64 = 60;

/// One change of one of the disk's files.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(LogId, Vec<u8>)>),
    TruncateFrom(u64),
    Purged(LogId),
    RemoveTo(u64),
    Vote(Vote),
    Mark(&'static str, Option<LogId>),
}

/// The file a step changes. A later sync of a file covers its earlier steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Log,
    Vote,
    Mark(&'static str),
}

impl Step {
    const fn place(&self) -> Place {
        match self {
            Self::Append(_) | Self::TruncateFrom(_) | Self::Purged(_) | Self::RemoveTo(_) => {
                Place::Log
            }
            Self::Vote(_) => Place::Vote,
            Self::Mark(name, _) => Place::Mark(name),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Content {
    log: BTreeMap<u64, (LogId, Vec<u8>)>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    marks: BTreeMap<&'static str, Option<LogId>>,
}

impl Content {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => {
                for (id, framed) in entries {
                    self.log.insert(id.index, (*id, framed.clone()));
                }
            }
            Step::TruncateFrom(index) => drop(self.log.split_off(index)),
            Step::Purged(upto) => self.purged = Some(*upto),
            Step::RemoveTo(index) => self.log = self.log.split_off(&index.saturating_add(1)),
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Mark(name, mark) => drop(self.marks.insert(name, *mark)),
        }
    }

    fn last(&self) -> Option<LogId> {
        let last = self.log.last_key_value().map(|(_, (id, _))| *id);
        last.filter(|l| self.purged.is_none_or(|p| p.index < l.index))
            .or(self.purged)
    }
}

/// What became durable and after what, for the oracle. What was only written may be lost and written anew: nobody else
/// has heard of it.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) after: Option<LogId>,
    pub(crate) entry: Entry,
}

#[derive(Debug)]
struct Inner {
    /// What a reader sees.
    current: Content,
    /// What survives.
    durable: Content,
    /// Changes between the two, oldest first, and whether each was synced when it was made.
    pending: Vec<(Step, bool)>,
    appended: Vec<Appended>,
    rng: Rng,
    slow: bool,
    /// Every sync takes this long and no oracle looks; otherwise both are drawn and noted.
    steady: Option<Duration>,
    /// It acknowledges before it has written.
    lies: bool,
}

impl Inner {
    /// Makes a change durable.
    fn keep(&mut self, step: &Step) {
        if let Step::Append(entries) = step
            && self.steady.is_none()
        {
            let mut after = self.durable.last();
            for (id, framed) in entries {
                if let Ok(entry) = frame::decode(id.index, framed) {
                    self.appended.push(Appended { after, entry });
                }
                after = Some(*id);
            }
        }
        self.durable.apply(step);
    }
}

/// One node's disk. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct SimMedium {
    dir: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

impl SimMedium {
    /// An empty disk; `dir` is where the node keeps its snapshots.
    pub(crate) fn new(dir: PathBuf, rng: Rng) -> Self {
        let inner = Inner {
            current: Content::default(),
            durable: Content::default(),
            pending: Vec::new(),
            appended: Vec::new(),
            rng,
            slow: false,
            steady: None,
            lies: false,
        };
        Self {
            dir,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// The same, but a disk whose every sync takes `sync` and whose reads come from memory, for measurements.
    pub(crate) fn steady(dir: PathBuf, rng: Rng, sync: Duration) -> Self {
        let this = Self::new(dir, rng);
        this.lock().steady = Some(sync);
        this
    }

    /// Makes it a disk that acknowledges before it has written.
    pub(crate) fn lie(&self) {
        self.lock().lies = true;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes: says how many changes were under way, and how many of them survive.
    pub(crate) fn crash(&self) -> (usize, usize) {
        let mut inner = self.lock();
        let pending = std::mem::take(&mut inner.pending);
        let performed = inner.rng.index(pending.len() + 1).unwrap_or(0);
        let done = pending.get(..performed).unwrap_or_default();
        let mut lost_from: BTreeMap<Place, usize> = BTreeMap::new();
        let places: std::collections::BTreeSet<Place> =
            done.iter().map(|(step, _)| step.place()).collect();
        for place in places {
            let of_place = |(_, (step, _)): &(usize, &(Step, bool))| step.place() == place;
            let synced = done.iter().enumerate().filter(of_place);
            let synced = synced.filter(|(_, (_, sync))| *sync).map(|(at, _)| at + 1);
            let first = synced.max().unwrap_or(0);
            // Whatever was not synced may be there all the same, from its oldest on.
            let extra = inner.rng.below((done.len() - first + 1) as u64);
            lost_from.insert(place, first + usize::try_from(extra).unwrap_or(0));
        }
        let mut survived = 0;
        for (at, (step, _)) in done.iter().enumerate() {
            if lost_from.get(&step.place()).is_some_and(|from| at < *from) {
                inner.keep(step);
                survived += 1;
            }
        }
        inner.current = inner.durable.clone();
        (pending.len(), survived)
    }

    /// A disk in trouble, or well again.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.lock().slow = slow;
    }

    /// What was appended since the last call.
    pub(crate) fn take_appended(&self) -> Vec<Appended> {
        std::mem::take(&mut self.lock().appended)
    }

    fn write(&self, step: Step, synced: bool) {
        let mut inner = self.lock();
        inner.current.apply(&step);
        inner.pending.push((step, synced));
    }

    fn sync(&self) {
        let mut inner = self.lock();
        let pending = std::mem::take(&mut inner.pending);
        let mut synced_to: BTreeMap<Place, usize> = BTreeMap::new();
        for (at, (step, synced)) in pending.iter().enumerate() {
            if *synced {
                synced_to.insert(step.place(), at);
            }
        }
        for (at, (step, synced)) in pending.into_iter().enumerate() {
            if synced_to.get(&step.place()).is_some_and(|to| at <= *to) {
                inner.keep(&step);
            } else {
                inner.pending.push((step, synced));
            }
        }
    }

    fn draw(&self) -> Duration {
        let mut inner = self.lock();
        let hiccup = inner.rng.below(HICCUP) == 0;
        let most = if inner.slow || hiccup {
            SLOW_US
        } else {
            USUAL_US
        };
        Duration::from_micros(inner.rng.below(most))
    }
}

impl Medium for SimMedium {
    fn dir(&self) -> &Path {
        &self.dir
    }

    fn open_log(&self) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(self.clone()))
    }

    fn lacks_mark(&self, name: &'static str) -> bool {
        !self.lock().current.marks.contains_key(name)
    }

    fn open_mark(&self, name: &'static str) -> Result<OpenedMark, FileError> {
        let found = self.lock().current.marks.get(name).copied();
        if found.is_none() {
            self.write(Step::Mark(name, None), true);
            self.sync();
        }
        let mark = SimMark {
            medium: self.clone(),
            name,
            path: self.dir.join(name),
        };
        Ok((Box::new(mark), found.flatten()))
    }

    fn read_vote(&self) -> Result<Option<Vote>, FileError> {
        Ok(self.lock().current.vote)
    }

    fn write_vote(&self, vote: &Vote) -> Result<(), FileError> {
        self.write(Step::Vote(*vote), true);
        Ok(())
    }

    fn hands(&self) -> Hands {
        Hands::Tasks(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Pace for SimMedium {
    async fn pause(&self) {
        let steady = self.lock().steady;
        if steady.is_none() {
            tokio::time::sleep(self.draw()).await;
        }
    }

    async fn settle(&self) {
        let steady = self.lock().steady;
        let pause = steady.unwrap_or_else(|| self.draw());
        tokio::time::sleep(pause).await;
        self.sync();
    }

    fn lies(&self) -> bool {
        self.lock().lies
    }
}

#[derive(Debug)]
struct SimMark {
    medium: SimMedium,
    name: &'static str,
    path: PathBuf,
}

impl Mark for SimMark {
    fn write(&mut self, mark: Option<LogId>, sync: bool) -> io::Result<()> {
        self.medium.write(Step::Mark(self.name, mark), sync);
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Engine for SimMedium {
    fn read_range(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, EngineError> {
        let inner = self.lock();
        let floor = inner.current.purged.map_or(0, |p| p.index + 1);
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let from = range.start.max(floor);
        if from >= range.end {
            return Ok(entries);
        }
        for (index, (_, framed)) in inner.current.log.range(from..range.end) {
            let hole = entries.last().is_some_and(|e| e.log_id.index + 1 != *index);
            bytes += framed.len();
            if hole || bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(frame::decode(*index, framed)?);
        }
        Ok(entries)
    }

    fn append_sync(&self, entries: &[Entry]) -> Result<Vec<usize>, EngineError> {
        let mut framed = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut bytes = Vec::new();
            frame::encode_into(entry, &mut bytes)?;
            framed.push((entry.log_id, bytes));
        }
        let sizes = framed.iter().map(|(_, bytes)| bytes.len()).collect();
        self.write(Step::Append(framed), true);
        Ok(sizes)
    }

    fn truncate_from(&self, index: u64) -> Result<(), EngineError> {
        self.write(Step::TruncateFrom(index), true);
        Ok(())
    }

    fn purge_to(&self, upto: LogId) -> Result<(), EngineError> {
        self.write(Step::Purged(upto), false);
        self.write(Step::RemoveTo(upto.index), false);
        Ok(())
    }

    fn purged(&self) -> Result<Option<LogId>, EngineError> {
        Ok(self.lock().current.purged)
    }

    fn last(&self) -> Result<Option<LogId>, EngineError> {
        Ok(self.lock().current.last())
    }

    fn size_on_disk(&self) -> u64 {
        self.lock().current.log.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use openraft::testing::{blank_ent, log_id};

    use super::*;
    use crate::medium::HIGH_WATER;

    fn disk(seed: u64) -> SimMedium {
        SimMedium::new(PathBuf::from("disk"), Rng::seeded(seed))
    }

    fn entries(range: Range<u64>) -> Vec<Entry> {
        range.map(|index| blank_ent(2, 1, index)).collect()
    }

    fn last(disk: &SimMedium) -> Option<u64> {
        Engine::last(disk).unwrap().map(|id| id.index)
    }

    #[test]
    fn what_was_synced_survives_and_of_the_rest_a_beginning() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let disk = disk(seed);
            disk.append_sync(&entries(0..5)).unwrap();
            disk.sync();
            disk.append_sync(&entries(5..7)).unwrap();
            disk.purge_to(log_id(2, 1, 1)).unwrap();
            disk.append_sync(&entries(7..8)).unwrap();
            assert_eq!(last(&disk), Some(7), "readers see all of it");
            disk.crash();
            let purged = disk.purged().unwrap().map(|id| id.index);
            if last(&disk) == Some(7) {
                assert_eq!(purged, Some(1), "the log is written in order");
            }
            seen.insert((last(&disk), purged));
        }
        for left in [(Some(4), None), (Some(6), None), (Some(7), Some(1))] {
            assert!(seen.contains(&left), "{left:?} in {seen:?}");
        }
    }

    #[test]
    fn a_step_comes_only_after_the_synced_ones_before_it() {
        let mut torn = 0;
        for seed in 0..60 {
            let disk = disk(seed);
            let (mut mark, _) = disk.open_mark(HIGH_WATER).unwrap();
            disk.append_sync(&entries(0..9)).unwrap();
            mark.write(Some(log_id(2, 1, 8)), true).unwrap();
            disk.sync();
            // A truncation in flight: first the mark, then the log.
            mark.write(Some(log_id(2, 1, 3)), true).unwrap();
            disk.truncate_from(4).unwrap();
            disk.crash();
            assert!(!disk.lacks_mark(HIGH_WATER));
            let (_, mark) = disk.open_mark(HIGH_WATER).unwrap();
            let mark = mark.map(|id| id.index);
            assert!(last(&disk) >= mark, "{:?} and {mark:?}", last(&disk));
            torn += usize::from(last(&disk) > mark);
        }
        assert!(torn > 0, "some crashes come in between");
    }
}
