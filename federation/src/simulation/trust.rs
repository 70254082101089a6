//! Whom a simulated node believes, by the rules of the controller's `app/follow.rs` and `app/introduce.rs`: whom its catalog
//! names, unless a member's word is newer, or before there is a catalog whom its data directory names. A node that the
//! leader has not taken up asks the members it knows for their word.
//!
//! Owns that word, until the node stops. What the data directory holds is the place's; it outlives crashes.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tradewind_api::{ClusterName, NodeId};
use tradewind_runtime::{Backoff, Rng};

use super::{wire::Wire, world::Shared};
use crate::{Catalog, Store};

/// How often a node that is heard looks whether it still is, as in the controller.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Waits between introductions, as in the controller.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A leader not heard of for this long is not one, as in the controller.
const LEADER_LOST_MS: u64 = 3_000;
/// How often the data directory is brought up to date, as in the controller.
const SPACING: Duration = Duration::from_millis(10);
/// How long writing it takes, at most.
const KEEPING_MS: u64 = 12;

/// What a member told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Introduced {
    pub(crate) revision: u64,
    pub(crate) members: BTreeSet<ClusterName>,
}

impl Introduced {
    /// What a node tells of its catalog, if it knows anything itself.
    pub(crate) fn by(catalog: &Catalog) -> Option<Self> {
        catalog.is_founded().then(|| Self {
            revision: catalog.revision,
            members: members(catalog),
        })
    }
}

/// The clusters in `catalog`.
pub(crate) fn members(catalog: &Catalog) -> BTreeSet<ClusterName> {
    catalog.members().map(|c| c.name.clone()).collect()
}

/// One node's trust while it is up. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    shared: Shared,
    own: ClusterName,
    introduced: Arc<Mutex<Option<Introduced>>>,
}

impl Trust {
    pub(crate) fn new(shared: Shared, own: ClusterName) -> Self {
        Self {
            shared,
            own,
            introduced: Arc::default(),
        }
    }

    /// Whom the node believes that shows `catalog`.
    pub(crate) fn believed(&self, catalog: &Catalog) -> BTreeSet<ClusterName> {
        self.learnt(catalog).unwrap_or_else(|| {
            let kept = self.shared.place(&self.own, |place| place.kept.clone());
            kept.unwrap_or_default()
        })
    }

    /// By the newest word there is, the data directory's aside.
    fn learnt(&self, catalog: &Catalog) -> Option<BTreeSet<ClusterName>> {
        let introduced = self.introduced.lock();
        let introduced = introduced.unwrap_or_else(PoisonError::into_inner);
        let newer = introduced.as_ref();
        match newer.filter(|i| i.revision > catalog.revision) {
            Some(introduced) => Some(introduced.members.clone()),
            None => catalog.is_founded().then(|| members(catalog)),
        }
    }

    fn hear(&self, told: Introduced) {
        let mut current = self
            .introduced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|c| c.revision < told.revision) {
            *current = Some(told);
        }
    }

    /// Introduces node `me` whenever it is not heard. Runs until it is dropped.
    pub(crate) async fn introduce(self, store: Store, wire: Arc<Wire>, me: NodeId, mut rng: Rng) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut turn = 0_usize;
        loop {
            let pause = if is_heard(&store, me) {
                backoff.reset();
                LOOK_EVERY
            } else {
                let known = self.believed(&store.catalog());
                let others: Vec<_> = known.into_iter().filter(|c| *c != self.own).collect();
                let next = others.get(turn % others.len().max(1));
                turn = turn.wrapping_add(1);
                if let Some(cluster) = next
                    && let Some(told) = wire.introduce(cluster).await
                {
                    self.hear(told);
                }
                backoff.next(&mut rng)
            };
            sleep(pause).await;
        }
    }

    /// Writes into the data directory whom to believe before there is a catalog. Runs until it is dropped.
    pub(crate) async fn keep(self, store: Store, mut rng: Rng) {
        loop {
            sleep(SPACING).await;
            let Some(now) = self.learnt(&store.catalog()) else {
                continue;
            };
            let kept = self.shared.place(&self.own, |place| place.kept == now);
            if kept == Some(false) {
                // A crash before it is written leaves what was there.
                sleep(Duration::from_millis(1 + rng.below(KEEPING_MS))).await;
                self.shared.place(&self.own, |place| place.kept = now);
            }
        }
    }
}

fn is_heard(store: &Store, me: NodeId) -> bool {
    let status = store.status();
    let member = status.voters.contains(&me) || status.learners.contains(&me);
    let age = status.leader_age_ms;
    member && status.leader.is_some() && age.is_some_and(|age| age < LEADER_LOST_MS)
}
