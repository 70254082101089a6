//! Starts what keeps the keys of sealed names. Owns nothing: the task owns the keys.

use std::sync::Arc;

use tokio::sync::watch;
use tradewind_runtime::{TaskSet, drain};

use super::Parts;
use crate::seals::{Ring, SealKeeper};

impl Parts {
    /// Starts what keeps the keys of sealed names; the receiver holds what follows from them.
    pub(super) fn keep_seals(
        &mut self,
        tasks: &mut TaskSet,
        drain: &drain::Watch,
    ) -> watch::Receiver<Arc<Ring>> {
        if self.own.witness {
            // Nobody calls it and it calls nobody.
            return watch::channel(Arc::default()).1;
        }
        let (keeper, ring) = SealKeeper::new(
            self.store.clone(),
            self.own.cluster.clone(),
            self.node_id,
            self.node_key.clone(),
            self.rng.fork(),
        );
        tasks.spawn("seals", keeper.run(drain.observer()));
        ring
    }
}
