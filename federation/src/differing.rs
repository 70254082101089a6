//! Whose exports this node's copy of the catalog does not hold as their owner attests them. On the leader the owner hears
//! of it and publishes anew; on another node only this says so. Plain memory behind a lock; a matching attestation, or a
//! snapshot from the leader, takes it back.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tradewind_api::ClusterName;

/// Clones are the same. Bounded by the members.
#[derive(Clone, Debug, Default)]
pub(crate) struct Differing(Arc<Mutex<BTreeSet<ClusterName>>>);

impl Differing {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<ClusterName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `cluster` attested its exports: the copy here is the same, or not.
    pub(crate) fn attested(&self, cluster: &ClusterName, same: bool) {
        if same {
            self.lock().remove(cluster);
        } else {
            self.lock().insert(cluster.clone());
        }
    }

    /// Forgets the clusters that `member` does not know.
    pub(crate) fn keep(&self, member: impl Fn(&ClusterName) -> bool) {
        self.lock().retain(|cluster| member(cluster));
    }

    pub(crate) fn now(&self) -> BTreeSet<ClusterName> {
        self.lock().clone()
    }
}
