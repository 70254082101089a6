//! Before a cluster leaves, its nodes stop voting. Once it left nobody believes its certificate: a vote that is still its
//! own could then be neither asked for nor taken away, and a store of two would never write again.
//!
//! Owns the names of those about to leave, on the leader, until what they wrote is applied or certainly came to nothing.
//! No change of the membership may be planned without having looked here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use tradewind_api::{
    ClusterName, NodeId,
    store::{Command, Outcome, Stamped},
};

use crate::{catalog::Catalog, driver::Core, propose::LocalError};

/// How often the membership is looked at while a change of it is awaited: a change takes two log entries.
const LOOK: Duration = Duration::from_millis(20);

/// Who is about to leave. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving(Arc<Mutex<Names>>);

#[derive(Debug, Default)]
struct Names {
    /// By the number of the mark.
    marks: BTreeMap<u64, Name>,
    /// The number of the next mark.
    next: u64,
    /// While the driver plans and changes: it knows the marks below this one.
    knows: Option<u64>,
}

#[derive(Debug)]
struct Name {
    cluster: ClusterName,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its write is under way.
    Held,
    /// Nobody waits for the write any more, which may still come about.
    LetGo,
    /// If it came about, it is in the log up to here.
    Until(u64),
}

/// Holds one name; it is let go on drop.
#[derive(Debug)]
pub(crate) struct Mark {
    all: Leaving,
    number: u64,
}

/// The driver's look: whoever is marked while it lasts waits until it is over.
#[derive(Debug)]
pub(crate) struct Look {
    all: Leaving,
    /// Who is about to leave.
    pub(crate) names: BTreeSet<ClusterName>,
}

impl Leaving {
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, cluster: &ClusterName) -> Mark {
        let mut names = self.lock();
        let number = names.next;
        names.next += 1;
        let name = Name {
            cluster: cluster.clone(),
            stage: Stage::Held,
        };
        names.marks.insert(number, name);
        Mark {
            all: self.clone(),
            number,
        }
    }

    /// Starts a look, which lasts until what it led to is done. One at a time.
    pub(crate) fn look(&self) -> Look {
        let mut names = self.lock();
        names.knows = Some(names.next);
        let all = names.marks.values().map(|n| n.cluster.clone());
        Look {
            names: all.collect(),
            all: self.clone(),
        }
    }

    /// True when something was let go and it is not known up to where it may be in the log.
    pub(crate) fn has_let_go(&self) -> bool {
        let names = self.lock();
        let mut all = names.marks.values();
        all.any(|n| n.stage == Stage::LetGo)
    }

    /// Forgets what was let go, once it is applied. `last`, if it was asked for, is the end of the log after all that was
    /// let go before the question.
    pub(crate) fn forget(&self, last: Option<u64>, applied: Option<u64>) {
        let mut names = self.lock();
        for name in names.marks.values_mut() {
            if let (Stage::LetGo, Some(last)) = (name.stage, last) {
                name.stage = Stage::Until(last);
            }
        }
        let done = |n: &Name| matches!(n.stage, Stage::Until(last) if applied >= Some(last));
        names.marks.retain(|_, name| !done(name));
    }

    /// True while a change may be under way that was planned without this mark.
    fn unseen(&self, mark: &Mark) -> bool {
        self.lock().knows.is_some_and(|knows| knows <= mark.number)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some(name) = self.all.lock().marks.get_mut(&self.number) {
            name.stage = Stage::LetGo;
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.all.lock().knows = None;
    }
}

/// Waits until no node of `cluster` votes, if it may leave at all. The mark must live until the write's outcome is known,
/// or they would vote again. The caller bounds the wait.
pub(crate) async fn prepare(core: &Core, cluster: &ClusterName) -> Result<Mark, LocalError> {
    let mark = core.leaving.mark(cluster);
    loop {
        let catalog = Arc::clone(&core.catalog.borrow());
        let standing = core.standing();
        if !standing.leads {
            return Err(LocalError::NotLeader(standing.leader));
        }
        // Whoever must not leave keeps its vote, and is refused when the write is applied.
        if !may_leave(&catalog, cluster) {
            return Ok(mark);
        }
        // A promotion that was planned before the mark would come after it.
        if !core.leaving.unseen(&mark) {
            // Asked of consensus itself, behind every change that it was sent: what it shows may be older.
            let membership = core.membership().await?;
            let own = |node: NodeId| catalog.cluster_of(node) == Some(cluster);
            let votes = membership.voter_ids().any(own);
            let others = membership.voter_ids().any(|node| !own(node));
            if !votes || !others {
                return Ok(mark);
            }
        }
        core.nudge.notify_one();
        sleep(LOOK).await;
    }
}
/// What applying it would say: a cluster that is refused keeps its vote.
fn may_leave(catalog: &Catalog, cluster: &ClusterName) -> bool {
    let leave = Stamped {
        proposer: cluster.clone(),
        // Leaving does not depend on the time.
        at_ms: 0,
        command: Command::Leave,
        actor: None,
    };
    let outcome = catalog.clone().apply(catalog.revision, &leave);
    !matches!(outcome, Outcome::Refused(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::name;

    #[test]
    fn whoever_is_marked_waits_for_the_look_that_missed_it() {
        let leaving = Leaving::default();
        let look = leaving.look();
        let mark = leaving.mark(&name("west"));
        assert!(look.names.is_empty());
        assert!(leaving.unseen(&mark));
        drop(look);
        assert!(!leaving.unseen(&mark));
        let look = leaving.look();
        assert!(look.names.contains(&name("west")));
        assert!(!leaving.unseen(&mark), "this one knows");
    }

    #[test]
    fn what_may_still_be_written_is_not_forgotten() {
        let leaving = Leaving::default();
        let mark = leaving.mark(&name("west"));
        let marked = || leaving.look().names.contains(&name("west"));
        leaving.forget(Some(7), Some(7));
        assert!(marked(), "its write is under way");
        assert!(!leaving.has_let_go());
        drop(mark);
        assert!(leaving.has_let_go());
        leaving.forget(None, Some(9));
        assert!(marked(), "its write may not be in the log yet");
        leaving.forget(Some(12), Some(11));
        assert!(!leaving.has_let_go());
        assert!(marked(), "its write may not be applied yet");
        leaving.forget(None, Some(12));
        assert!(!marked());
    }

    #[test]
    fn one_of_two_marks_is_enough() {
        let leaving = Leaving::default();
        let (first, _second) = (leaving.mark(&name("west")), leaving.mark(&name("west")));
        drop(first);
        leaving.forget(Some(3), Some(3));
        assert!(leaving.look().names.contains(&name("west")));
    }
}
