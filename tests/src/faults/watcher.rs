//! Looks at every controller's status all the time: revisions that one controller shows never go back while it runs, nor
//! does the leader that it follows: leaders are ordered by term and node id, as openraft orders votes. Owns what was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tradewind_runtime::{TaskSet, clock};

use super::listing;

/// Between two looks at one controller.
const PERIOD: Duration = Duration::from_millis(100);

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    controllers: BTreeMap<String, Controller>,
    terms: BTreeSet<u64>,
    violations: Vec<String>,
    stale_starts: Vec<String>,
    looks: u64,
}

#[derive(Debug, Default)]
struct Controller {
    /// How often it was killed or started: a look that spans one of these says nothing of order.
    life: u64,
    revision: u64,
    acknowledged: u64,
    /// Term and node id of the newest leader that it followed, across restarts: votes are on disk.
    leader: (u64, u64),
    /// It has not yet shown again what it had acknowledged before it was killed.
    starting: bool,
    /// That was noted.
    noted: bool,
}

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A controller was killed or started.
    pub fn restarted(&self, cluster: &str) {
        let mut inner = self.lock();
        let controller = inner.controllers.entry(cluster.to_owned()).or_default();
        controller.life += 1;
        controller.revision = 0;
        controller.starting = true;
        controller.noted = false;
    }

    /// A write was acknowledged at this revision by this controller.
    pub fn acknowledged(&self, cluster: &str, revision: u64) {
        let mut inner = self.lock();
        let controller = inner.controllers.entry(cluster.to_owned()).or_default();
        controller.acknowledged = controller.acknowledged.max(revision);
    }

    /// Terms in which a leader was seen, looks at controllers, and starts that showed less than was acknowledged.
    pub fn counts(&self) -> (usize, u64, Vec<String>) {
        let inner = self.lock();
        (inner.terms.len(), inner.looks, inner.stale_starts.clone())
    }

    /// What was found wrong.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    fn before(&self, cluster: &str) -> (u64, u64) {
        let mut inner = self.lock();
        let controller = inner.controllers.entry(cluster.to_owned()).or_default();
        (controller.life, controller.acknowledged)
    }

    /// A look that began at `before` showed this.
    fn shown(&self, cluster: &str, before: (u64, u64), revision: u64, lead: Option<(u64, u64)>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.looks += 1;
        let now_ms = clock::system().unix_ms();
        let controller = inner.controllers.entry(cluster.to_owned()).or_default();
        let (life, acknowledged) = before;
        if controller.life == life {
            let seen = controller.revision;
            if revision < seen {
                let what =
                    format!("{now_ms} {cluster} went back from revision {seen} to {revision}");
                inner.violations.push(what);
            }
            controller.revision = revision;
            if revision < acknowledged {
                let what = format!(
                    "{now_ms} {cluster} showed revision {revision} after it had acknowledged {acknowledged}"
                );
                if !controller.starting {
                    inner.violations.push(what);
                } else if !std::mem::replace(&mut controller.noted, true) {
                    inner.stale_starts.push(what);
                }
            } else {
                controller.starting = false;
            }
        }
        if let Some(leader) = lead {
            inner.terms.insert(leader.0);
            let newest = controller.leader;
            if leader < newest {
                let what = format!("{now_ms} {cluster} follows {leader:?} after {newest:?}");
                inner.violations.push(what);
            }
            controller.leader = leader.max(newest);
        }
    }
}

/// Looks at these controllers until the tasks are dropped.
pub fn watch(seen: &Arc<Seen>, controllers: Vec<(String, PathBuf)>, tasks: &mut TaskSet) {
    for (cluster, socket) in controllers {
        let seen = Arc::clone(seen);
        tasks.spawn("faults watcher", async move {
            loop {
                let before = seen.before(&cluster);
                if let Ok(status) = listing::status(&socket).await {
                    let leader = status.peers.iter().find(|p| p.leader);
                    let lead = leader.map(|p| (status.term, p.node_id));
                    seen.shown(&cluster, before, status.revision, lead);
                }
                tokio::time::sleep(PERIOD).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_go_back_across_a_restart_alone() {
        let seen = Seen::default();
        let look = |revision| seen.shown("west", seen.before("west"), revision, None);
        look(5);
        look(5);
        seen.acknowledged("west", 5);
        seen.restarted("west");
        look(3);
        look(4);
        assert_eq!(seen.violations(), Vec::<String>::new());
        assert_eq!(
            seen.counts().2.len(),
            1,
            "less than acknowledged, noted once"
        );
        look(5);
        look(4);
        let wrong = seen.violations();
        assert!(wrong[0].contains("back from revision 5 to 4"), "{wrong:?}");
        // A look that a restart fell into says nothing.
        let before = seen.before("west");
        seen.restarted("west");
        seen.shown("west", before, 1, None);
        assert_eq!(seen.violations().len(), wrong.len());
    }

    #[test]
    fn nobody_follows_an_older_leader_again() {
        let seen = Seen::default();
        let look = |term, node| seen.shown("west", (0, 0), 1, Some((term, node)));
        look(1, 1);
        look(1, 3);
        look(2, 2);
        assert_eq!(seen.violations(), Vec::<String>::new());
        look(2, 1);
        assert_eq!(seen.violations().len(), 1);
    }
}
