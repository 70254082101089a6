//! Starts what asks the other clusters whether they answer. Owns nothing: the task owns the pings.

use std::sync::Arc;

use tokio::sync::watch;
use tradewind_runtime::{TaskSet, drain};

use super::Parts;
use crate::{
    compile::Leases,
    reach::{Pinger, Reach, ReachMeters},
};

impl Parts {
    /// Starts the pings; the receiver holds what they found.
    pub(super) fn reach(
        &mut self,
        leases: watch::Receiver<Arc<Leases>>,
        tasks: &mut TaskSet,
        drain: &drain::Watch,
    ) -> watch::Receiver<Arc<Reach>> {
        let clock = Arc::clone(&self.clock);
        let (pinger, reach) = Pinger::new(
            self.peers.clone(),
            self.store.clone(),
            Arc::clone(&clock),
            self.rng.fork(),
        );
        let meters = ReachMeters {
            reach: reach.clone(),
            leases,
            clock,
        };
        meters.register(&self.metrics);
        tasks.spawn("reach", pinger.run(drain.observer()));
        reach
    }
}
