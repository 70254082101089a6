//! Starts what follows the other controllers of this cluster, and what tells them. Owns nothing.

use std::sync::Arc;

use tradewind_api::proto::v1::siblings_server::SiblingsServer;
use tradewind_runtime::{TaskSet, drain};

use super::Parts;
use crate::{
    join::Adding,
    server::Access,
    siblings::{Followers, Seen, SiblingsService},
};

impl Parts {
    /// Starts what follows the other controllers of this cluster.
    pub(super) fn follow_siblings(&mut self, tasks: &mut TaskSet, drain: &drain::Watch) -> Seen {
        if self.own.witness {
            return Seen::alone();
        }
        let (followers, seen) = Followers::new(
            self.peers.clone(),
            (self.registry.clone(), self.exports.clone()),
            self.node_id,
            Arc::clone(&self.clock),
            self.rng.fork(),
        );
        tasks.spawn("siblings", followers.run(drain.observer()));
        seen
    }

    /// What tells them.
    pub(super) fn siblings_service(
        &self,
        access: &Access,
        drain: &drain::Watch,
    ) -> SiblingsServer<SiblingsService> {
        SiblingsService::new(
            self.registry.clone(),
            self.exports.clone(),
            (self.store.clone(), self.own.cluster.clone()),
            access.clone(),
            drain.observer(),
        )
        .into_service()
    }

    /// What further ones are let in with.
    pub(super) fn adding(&self) -> Adding {
        Adding {
            tokens: self.tokens.clone(),
            accounts: self.accounts(),
            node_id: self.node_id,
            region: self.own.region.clone(),
            network: self.own.network.clone(),
            gateways: self.configured_gateways.clone(),
        }
    }
}
