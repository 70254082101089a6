//! The one task that turns what is known into what is pushed: it follows the catalog, the registrations, the files and
//! time, and sets the local model, the trust, the peers and the snapshot.
//!
//! It owns the leases' ages, the distances that are told, and the last snapshot. Writing to the data directory is its side effect and may fail without
//! harm: what is written there is only for the next start.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tradewind_api::{
    ClusterName, NodeId, ServiceName,
    model::ClusterState,
    snapshot::{Snapshot, Trust},
};
use tradewind_federation::{Catalog, Store};
use tradewind_policy::RouteStatus;
use tradewind_runtime::{Blocker, SharedClock, drain, task};
use tradewind_transport::trust::TrustCell;

use super::{
    basis::{Basis, Seen},
    introduce::Introduced,
    meters::Meters,
};
use crate::{
    compile::Leases,
    datadir::DataDir,
    exports::{Exports, with_files},
    local::{LocalModel, Own},
    raft_net::{Known, Peers, Siblings, known_in, siblings_in},
    reach::{Distances, Reach},
    registry::{Registered, Reports},
    rules::{Rules, producers::offers},
    seals::Ring,
    siblings,
    source::SourceModel,
};

/// Least time between two snapshots: a burst of changes is compiled once. The first of it is not delayed.
const SPACING: Duration = Duration::from_millis(10);
/// How often time alone is looked at, for leases.
const TICK: Duration = Duration::from_secs(1);
/// How long a cluster that left is still believed and reached, so that it hears the answer to its own leaving. Well below
/// the seconds within which it has to be refused.
const LEAVE_GRACE_MS: u64 = 1_000;
/// A leader not heard of for this long: its renewals are not heard of either.
const LEADER_LOST_MS: u64 = 2_000;

/// See the module.
pub(super) struct Follower {
    pub(super) own: Own,
    pub(super) store: Store,
    pub(super) peers: Peers,
    pub(super) trust: TrustCell,
    pub(super) data_dir: Arc<Mutex<DataDir>>,
    pub(super) exports: Exports,
    pub(super) clock: SharedClock,
    pub(super) first_trust: Arc<Trust>,
    /// Catalogs below this revision know less than `first_trust`.
    pub(super) first_revision: u64,
    pub(super) replicated: bool,
    pub(super) registered: watch::Receiver<Arc<Registered>>,
    pub(super) yaml: watch::Receiver<Arc<SourceModel>>,
    pub(super) introduced: watch::Receiver<Option<Arc<Introduced>>>,
    pub(super) siblings: siblings::Seen,
    pub(super) node_id: NodeId,
    pub(super) seals: watch::Receiver<Arc<Ring>>,
    /// Looked at from time to time; neither wakes this task.
    pub(super) reach: watch::Receiver<Arc<Reach>>,
    pub(super) reports: watch::Receiver<Arc<Reports>>,
    pub(super) local: watch::Sender<Arc<LocalModel>>,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    /// What routes are told of themselves.
    pub(super) statuses: watch::Sender<Arc<Vec<Arc<RouteStatus>>>>,
    pub(super) leases: watch::Sender<Arc<Leases>>,
    pub(super) left: watch::Sender<bool>,
    pub(super) meters: Meters,
}

/// What is worth keeping for the next start.
#[derive(Clone, PartialEq, Eq)]
struct Kept {
    known: Known,
    siblings: Arc<Siblings>,
    trust: Arc<Trust>,
    replicated: bool,
}

/// What depends on time alone.
#[derive(Default)]
struct Time {
    leases: Leases,
    distances: Distances,
    left_at_ms: BTreeMap<ClusterName, u64>,
}

impl Time {
    /// Clusters that left so recently that they have to hear it still.
    fn lingering(&mut self, catalog: &Catalog, now_ms: u64) -> Vec<ClusterName> {
        let left = |c: &ClusterName| {
            catalog
                .clusters
                .get(c)
                .is_some_and(|r| r.state == ClusterState::Left)
        };
        self.left_at_ms.retain(|cluster, _| left(cluster));
        for record in catalog
            .clusters
            .values()
            .filter(|r| r.state == ClusterState::Left)
        {
            self.left_at_ms.entry(record.name.clone()).or_insert(now_ms);
        }
        let fresh = |at_ms: u64| now_ms.saturating_sub(at_ms) < LEAVE_GRACE_MS;
        self.left_at_ms
            .iter()
            .filter(|(_, at_ms)| fresh(**at_ms))
            .map(|(c, _)| c.clone())
            .collect()
    }
}

/// Whose word on whom to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// This node's own copy of the store.
    Catalog,
    /// Another member's.
    Introduced,
    /// What was kept from before this process started.
    Kept,
}

impl Word {
    /// By the revisions that each is of; the own copy counts once it holds a federation.
    fn newest(catalog: Option<u64>, introduced: Option<u64>, kept: u64) -> Self {
        let words = [
            (Some(kept), Self::Kept),
            (introduced, Self::Introduced),
            (catalog, Self::Catalog),
        ];
        // Of equals the last.
        let newest = words.into_iter().max_by_key(|(revision, _)| *revision);
        newest.map_or(Self::Kept, |(_, word)| word)
    }
}

impl Follower {
    /// Runs until the drain. `blocker` is released once a snapshot was made of a store that holds a federation.
    pub(super) async fn run(mut self, blocker: Blocker, mut drain: drain::Observer) {
        let mut catalogs = self.store.watch();
        let mut blocker = Some(blocker);
        let mut kept = None;
        let mut time = Time::default();
        let mut rules = Rules::default();
        let mut basis = Basis::default();
        let (mut yaml_gone, mut introducer_gone, mut sealer_gone) = (false, false, false);
        loop {
            let catalog = Arc::clone(&catalogs.borrow_and_update());
            let yaml = Arc::clone(&self.yaml.borrow_and_update());
            let registered = Arc::clone(&self.registered.borrow_and_update());
            let introduced = self.introduced.borrow_and_update().clone();
            self.seals.mark_unchanged();
            if catalog.is_founded() {
                let siblings = siblings_in(&catalog, &self.own.cluster, self.node_id);
                self.peers.know_siblings(siblings);
            }
            // What is missing before everything was read is not gone; the proxies keep what they had.
            let told = *self.siblings.complete.borrow_and_update();
            let all_read = yaml.read && told && (catalog.is_founded() || !self.replicated);
            if all_read {
                self.note_file_exports(&yaml).await;
                self.step(
                    (&catalog, &yaml, &registered),
                    introduced.as_deref(),
                    (&mut time, &mut basis, &mut rules),
                );
                if catalog.is_founded() {
                    blocker = None;
                }
            }
            self.keep(&catalog, introduced.as_deref(), &mut kept).await;
            self.look_for_leaving(&catalog).await;
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                () = tokio::time::sleep(SPACING) => {}
            }
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                changed = catalogs.changed() => if changed.is_err() { return },
                changed = self.registered.changed() => if changed.is_err() { return },
                changed = self.yaml.changed(), if !yaml_gone => yaml_gone = changed.is_err(),
                changed = self.introduced.changed(), if !introducer_gone => introducer_gone = changed.is_err(),
                Ok(()) = self.siblings.complete.changed() => {}
                changed = self.seals.changed(), if !sealer_gone => sealer_gone = changed.is_err(),
                () = tokio::time::sleep(TICK) => {}
            }
            if blocker.is_none() && catalogs.has_changed().is_err() {
                return;
            }
        }
    }

    /// Trust first, then who is where, then what is pushed: nobody is sent to a peer that would be refused.
    fn step(
        &self,
        (catalog, yaml, registered): (&Arc<Catalog>, &SourceModel, &Arc<Registered>),
        introduced: Option<&Introduced>,
        (time, basis, rules): (&mut Time, &mut Basis, &mut Rules),
    ) {
        let now_ms = self.clock.unix_ms();
        let previous = Arc::clone(&self.snapshots.borrow());
        let lingering = time.lingering(catalog, now_ms);
        let trust = self.effective_trust(catalog, introduced, &previous.trust, &lingering);
        if !Arc::ptr_eq(&trust, &previous.trust)
            && let Err(error) = self.trust.set(&trust)
        {
            tracing::error!(%error, "the new trust map is not usable; the last one stays in force");
            return;
        }
        if let Some(mut known) = self.known(catalog, introduced) {
            let before = self.peers.known();
            for cluster in &lingering {
                if let Some(old) = before.get(cluster) {
                    known.insert(cluster.clone(), old.clone());
                }
            }
            if *before != known {
                self.peers.know(known);
            }
        }
        let status = self.store.status();
        let hears_leader =
            status.leader.is_some() && status.leader_age_ms.is_some_and(|age| age < LEADER_LOST_MS);
        time.leases.observe(catalog, now_ms, hears_leader);
        set(&self.leases, time.leases.clone());
        let (reach, reports) = (
            Arc::clone(&self.reach.borrow()),
            Arc::clone(&self.reports.borrow()),
        );
        time.distances.look(&reach, &reports, now_ms);
        let now = Seen {
            catalog: Arc::clone(catalog),
            registered: Arc::clone(registered),
            services: yaml.services.clone(),
            seals: Arc::clone(&self.seals.borrow()),
            trust,
            leases: time.leases.clone(),
            distances: time.distances.clone(),
        };
        let (mut local, mut snapshot) = basis.look(now, (yaml, &self.own), now_ms, &previous);
        let offers = offers(catalog, &self.own.cluster);
        let known = (&snapshot.services, &snapshot.clusters);
        rules.look(&yaml.policy, known, offers);
        snapshot.routes = rules.routes().clone();
        snapshot.limits = rules.limits().clone();
        local.rules = rules.published().clone();
        local.rule_problems = Arc::clone(rules.problems());
        let problems = yaml.problems.len() + rules.problems().len();
        self.meters.show(&snapshot, &previous, problems);
        set(&self.local, local);
        set(&self.snapshots, snapshot);
        set(&self.statuses, Arc::clone(rules.statuses()));
    }

    /// The newest word there is.
    fn effective_trust(
        &self,
        catalog: &Catalog,
        introduced: Option<&Introduced>,
        current: &Arc<Trust>,
        lingering: &[ClusterName],
    ) -> Arc<Trust> {
        let own = catalog.is_founded().then_some(catalog.revision);
        let told = introduced.map(|i| i.revision);
        let trust = match (Word::newest(own, told, self.first_revision), introduced) {
            (Word::Introduced, Some(introduced)) => Arc::clone(&introduced.trust),
            (Word::Catalog, _) => {
                let mut trust = catalog.trust();
                for cluster in lingering {
                    // Only what is believed now can linger: a restart does not bring it back.
                    let domain = self.own.domain.trust_domain(cluster);
                    if let Some(still) = current.authorities.get(&domain) {
                        trust.authorities.insert(domain, still.clone());
                    }
                }
                Arc::new(trust)
            }
            (Word::Kept | Word::Introduced, _) => Arc::clone(&self.first_trust),
        };
        if trust == *current {
            Arc::clone(current)
        } else {
            trust
        }
    }

    /// Where the others are, by the newest word; `None` where there is none but what the data directory held.
    fn known(&self, catalog: &Catalog, introduced: Option<&Introduced>) -> Option<Known> {
        let newer = introduced.filter(|i| i.revision > catalog.revision);
        match newer {
            Some(introduced) => {
                let mut known = introduced.known.clone();
                known.remove(&self.own.cluster);
                Some(known)
            }
            None if catalog.is_founded() => Some(known_in(catalog, &self.own.cluster)),
            None => None,
        }
    }

    /// Writes what the next start needs, when it changed.
    async fn keep(
        &self,
        catalog: &Catalog,
        introduced: Option<&Introduced>,
        kept: &mut Option<Kept>,
    ) {
        let Some(known) = self.known(catalog, introduced) else {
            return;
        };
        let trust = Arc::clone(&self.snapshots.borrow().trust);
        if trust.roots.is_empty() {
            return;
        }
        // The newest word of the three that `effective_trust` chooses from.
        let told = introduced.map_or(0, |i| i.revision);
        let revision = told.max(catalog.revision).max(self.first_revision);
        let now = Kept {
            known,
            siblings: self.peers.siblings(),
            trust,
            replicated: self.replicated || catalog.is_founded(),
        };
        if kept.as_ref() == Some(&now) {
            return;
        }
        let (data_dir, writing) = (Arc::clone(&self.data_dir), now.clone());
        let written = task::spawn_blocking(move || {
            let mut dir = data_dir.lock().unwrap_or_else(PoisonError::into_inner);
            if !dir.is_held() {
                // Another process may have it by now.
                return Ok(());
            }
            dir.remember(
                writing.known,
                (*writing.siblings).clone(),
                writing.replicated,
            )?;
            dir.save_trust(&writing.trust, revision)
        })
        .await;
        match written {
            Ok(Ok(())) => *kept = Some(now),
            Ok(Err(error)) => tracing::warn!(%error, "what the next start needs was not written"),
            Err(error) => tracing::warn!(%error, "what the next start needs was not written"),
        }
    }

    /// Remembers since when files want a service exported, and forgets those they want no longer.
    async fn note_file_exports(&self, yaml: &SourceModel) {
        let intents = self.exports.current();
        let now_ms = self.clock.unix_ms();
        let wanted = yaml.exports.clone();
        let published = published_since(&self.store.catalog(), &self.own.cluster);
        let after = with_files(&intents, &wanted, |s| published.get(s).copied(), now_ms);
        if after == *intents {
            return;
        }
        for (service, asked) in &yaml.exports {
            if !intents.contains_key(service) {
                self.exports
                    .asked(service, &format!("manifest {}", asked.place));
            }
        }
        for service in intents.keys().filter(|s| !after.contains_key(*s)) {
            self.exports.asked(service, "a manifest that is gone");
        }
        let exports = self.exports.clone();
        let noted = task::spawn_blocking(move || {
            exports.update(|i| with_files(i, &wanted, |s| published.get(s).copied(), now_ms))
        })
        .await;
        if let Ok(Err(error)) = noted {
            tracing::warn!(%error, "exports that files ask for were not noted");
        }
    }

    /// Stops a controller whose cluster left, also when that happened just before a crash.
    async fn look_for_leaving(&self, catalog: &Catalog) {
        let state = catalog.clusters.get(&self.own.cluster).map(|c| c.state);
        if state != Some(ClusterState::Left) || *self.left.borrow() {
            return;
        }
        let data_dir = Arc::clone(&self.data_dir);
        let marked = task::spawn_blocking(move || {
            data_dir
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .mark_left()
        })
        .await;
        if let Ok(Err(error)) = marked {
            tracing::warn!(%error, "the data directory could not be marked as left");
        }
        tracing::info!("this cluster has left its federation; stopping");
        self.left.send_replace(true);
    }
}

/// Since when each service of `own` is exported.
fn published_since(catalog: &Catalog, own: &ClusterName) -> BTreeMap<ServiceName, u64> {
    let exports = catalog.exports_of(own);
    exports
        .map(|e| (e.service.clone(), e.created_at_ms))
        .collect()
}

/// Replaces a watched value if it is another.
fn set<T: PartialEq>(sender: &watch::Sender<Arc<T>>, value: impl Into<Arc<T>>) {
    let value = value.into();
    sender.send_if_modified(|current| {
        let new = !Arc::ptr_eq(current, &value) && **current != *value;
        if new {
            *current = value;
        }
        new
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_opened_behind_does_not_bring_back_who_was_revoked() {
        let newest = Word::newest;
        assert_eq!(newest(None, None, 0), Word::Kept, "the first start");
        assert_eq!(newest(Some(40), None, 0), Word::Catalog);
        assert_eq!(newest(Some(40), None, 41), Word::Kept, "until it caught up");
        assert_eq!(newest(Some(41), None, 41), Word::Catalog);
        assert_eq!(newest(Some(40), Some(44), 41), Word::Introduced);
        assert_eq!(newest(Some(40), Some(40), 0), Word::Catalog);
        assert_eq!(newest(None, Some(3), 41), Word::Kept, "who tells is behind");
    }
}
