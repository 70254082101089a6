//! Before a cluster leaves, its nodes stop voting. Once it left nobody believes its certificate: a vote that is still its
//! own could then be neither asked for nor taken away, and a store of two would never write again.
//!
//! Owns the names of those about to leave, on the leader and for as long as their writes are under way.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
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
pub(crate) struct Leaving(Arc<Mutex<BTreeSet<ClusterName>>>);

/// Holds one name; it is given back on drop.
#[derive(Debug)]
pub(crate) struct Mark {
    all: Leaving,
    cluster: ClusterName,
}

impl Leaving {
    /// Who is about to leave now.
    pub(crate) fn now(&self) -> BTreeSet<ClusterName> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.clone()
    }

    fn mark(&self, cluster: &ClusterName) -> Mark {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(cluster.clone());
        Mark {
            all: self.clone(),
            cluster: cluster.clone(),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut names = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.cluster);
    }
}

/// Waits until no node of `cluster` votes, if it may leave at all. The mark must live until the write is in the log, or
/// they would vote again. The caller bounds the wait.
pub(crate) async fn prepare(core: &Core, cluster: &ClusterName) -> Result<Mark, LocalError> {
    let mark = core.leaving.mark(cluster);
    loop {
        let catalog = Arc::clone(&core.catalog.borrow());
        let standing = core.standing();
        if !standing.leads {
            return Err(LocalError::NotLeader(standing.leader));
        }
        let own = |node: &NodeId| catalog.cluster_of(*node) == Some(cluster);
        let votes = standing.voters.iter().flatten().any(own);
        let others = standing.voters.iter().flatten().any(|node| !own(node));
        if !votes || !others || !may_leave(&catalog, cluster) {
            return Ok(mark);
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
