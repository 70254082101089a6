//! The newest changes by revision, for watchers that resume. Bounded: who asks for older ones is told from where on they
//! are, and reads the catalog whole first. Nothing is ever left out or told twice.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::catalog::{Catalog, Event};

/// Revisions kept. At ten changes a second this is a watcher's absence of some minutes.
const MAX_STEPS: usize = 4_096;
/// Events kept over all of them: each holds a reference to what the catalog holds or held.
const MAX_EVENTS: usize = 16_384;

/// Everything that one revision changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The revision, above that of every earlier step.
    pub revision: u64,
    /// What changed, each key once. Never empty.
    pub events: Vec<Event>,
}

/// What was asked for is not kept any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "changes after revision {asked} are no longer kept, the oldest to resume from is revision {oldest}: read everything, then watch from there"
)]
pub struct Compacted {
    /// The revision that was to be resumed from.
    pub asked: u64,
    /// The oldest revision to resume from.
    pub oldest: u64,
}

#[derive(Debug, Default)]
struct Kept {
    steps: VecDeque<Arc<Step>>,
    events: usize,
    /// Every change after this revision is in `steps`.
    floor: u64,
}

/// The changes of one node's catalog. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(Arc<Mutex<Kept>>);

impl History {
    /// Starts after `revision`, of which only the catalog itself tells.
    pub(crate) fn start_at(&self, revision: u64) {
        *self.lock() = Kept {
            floor: revision,
            ..Kept::default()
        };
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, revision: u64, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut kept = self.lock();
        kept.events += events.len();
        kept.steps.push_back(Arc::new(Step { revision, events }));
        while kept.steps.len() > MAX_STEPS || kept.events > MAX_EVENTS {
            let Some(oldest) = kept.steps.pop_front() else {
                break;
            };
            kept.events -= oldest.events.len();
            kept.floor = oldest.revision;
        }
    }

    /// The first step after `revision`.
    fn after(&self, revision: u64) -> Result<Option<Arc<Step>>, Compacted> {
        let kept = self.lock();
        if revision < kept.floor {
            return Err(Compacted {
                asked: revision,
                oldest: kept.floor,
            });
        }
        let next = kept.steps.partition_point(|s| s.revision <= revision);
        Ok(kept.steps.get(next).map(Arc::clone))
    }
}

/// A watcher's place in the history. It holds no changes itself: a slow one costs nothing, and may be told that it was
/// too slow.
#[derive(Debug)]
pub struct Watch {
    history: History,
    catalog: watch::Receiver<Arc<Catalog>>,
    at: u64,
}

impl Watch {
    /// Everything after `revision`, which the caller knows already.
    pub(crate) fn new(
        history: History,
        catalog: watch::Receiver<Arc<Catalog>>,
        revision: u64,
    ) -> Result<Self, Compacted> {
        history.after(revision)?;
        Ok(Self {
            history,
            catalog,
            at: revision,
        })
    }

    /// The revision up to which the caller has been told.
    pub const fn revision(&self) -> u64 {
        self.at
    }

    /// The next change, as soon as there is one. `None` once the store has stopped. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Arc<Step>, Compacted>> {
        loop {
            self.catalog.mark_unchanged();
            match self.history.after(self.at) {
                Err(compacted) => return Some(Err(compacted)),
                Ok(Some(step)) => {
                    self.at = step.revision;
                    return Some(Ok(step));
                }
                Ok(None) => self.catalog.changed().await.ok()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Key;

    fn event(n: u64) -> Event {
        Event {
            key: Key::Token(n.to_string()),
            value: None,
        }
    }

    fn watched(history: &History, from: u64) -> Result<Watch, Compacted> {
        let (_sender, receiver) = watch::channel(Arc::new(Catalog::default()));
        Watch::new(history.clone(), receiver, from)
    }

    #[tokio::test]
    async fn a_watcher_resumes_without_gap_or_duplicate() {
        let history = History::default();
        history.start_at(10);
        for revision in [11, 13, 14, 20] {
            history.push(revision, vec![event(revision)]);
        }
        history.push(15, Vec::new());
        for from in 10..=20 {
            let mut watch = watched(&history, from).unwrap();
            let mut seen = Vec::new();
            // The sender is gone, so the end is told.
            while let Some(step) = watch.next().await {
                seen.push(step.unwrap().revision);
            }
            let expected: Vec<u64> = [11, 13, 14, 20].into_iter().filter(|r| *r > from).collect();
            assert_eq!(seen, expected, "from {from}");
        }
        let error = watched(&history, 9).unwrap_err();
        assert_eq!((error.asked, error.oldest), (9, 10));
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_slow_are_told() {
        let history = History::default();
        let mut slow = watched(&history, 0).unwrap();
        for revision in 1..=(MAX_STEPS as u64 + 100) {
            history.push(revision, vec![event(revision); 2]);
        }
        let told = slow.next().await.unwrap().unwrap_err();
        assert_eq!(told.oldest, 100);
        let mut again = watched(&history, told.oldest).unwrap();
        assert_eq!(again.next().await.unwrap().unwrap().revision, 101);
        history.push(9_000, vec![event(1); MAX_EVENTS]);
        let kept = history.lock();
        assert_eq!((kept.steps.len(), kept.events), (1, MAX_EVENTS));
    }
}
