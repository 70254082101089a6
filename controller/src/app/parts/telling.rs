//! Starts what tells the federation of this cluster. Owns nothing.

use std::sync::Arc;

use tokio::sync::watch;
use tradewind_runtime::{TaskSet, drain};

use super::Parts;
use crate::{
    local::LocalModel,
    publish::{PublishInput, Publisher},
    registry::Registered,
    siblings::Seen,
};

/// How it stands with what is told.
#[derive(Clone, Debug)]
pub(super) struct Publishing {
    /// What the federation could not be told.
    pub(super) problems: watch::Receiver<Arc<Vec<String>>>,
    /// Whether this controller speaks for its cluster, to the federation and to the API server.
    pub(super) speaking: watch::Receiver<bool>,
}

impl Parts {
    /// Starts what tells the federation.
    pub(super) fn publish(
        &mut self,
        local: watch::Receiver<Arc<LocalModel>>,
        registered: watch::Receiver<Arc<Registered>>,
        siblings: &Seen,
        tasks: &mut TaskSet,
        drain: &drain::Watch,
    ) -> Publishing {
        // False until it is known whether there are others.
        let speaking = watch::Sender::new(false);
        let input = PublishInput {
            store: self.store.clone(),
            own: self.own.clone(),
            local,
            intents: self.exports.watch(),
            exports: self.exports.clone(),
            registered,
            configured_gateways: self.configured_gateways.clone(),
            node_id: self.node_id,
            address: self.address.clone(),
            siblings: siblings.clone(),
            speaking: speaking.clone(),
        };
        tasks.spawn(
            "lease",
            Publisher::keep_lease(input.clone(), drain.observer()),
        );
        let speaking = speaking.subscribe();
        if self.own.witness {
            // It has nothing to tell but that it lives.
            let problems = watch::channel(Arc::new(Vec::new())).1;
            return Publishing { problems, speaking };
        }
        let (publisher, problems) = Publisher::new(input, self.rng.fork(), &self.metrics);
        tasks.spawn("publish", publisher.run(drain.observer()));
        Publishing { problems, speaking }
    }
}
