//! Tells Gateway API's routes in this cluster's API server what became of them: `status.parents`, by the compiled rules' own reading.
//!
//! [`due`] says who is to be told, purely; the task writes. It waits for nobody, and what cannot be written is tried again more and more rarely.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::Value;
use tokio::sync::watch;
use tradewind_kubernetes::{
    Client, Key,
    objects::Rule,
    status::{self, Told},
    write,
};
use tradewind_policy::{CONTROLLER_NAME, RouteStatus};
use tradewind_runtime::{Rng, SharedClock, backoff::Backoff, drain};

use super::all;
use crate::source::kubernetes::View;

/// Routes that are told in one round.
const PER_ROUND: usize = 100;
/// Least time between two rounds, which bounds what the API server is asked for: what was written comes back by the watch meanwhile.
const SPACING: Duration = Duration::from_secs(1);
/// The first wait after a failure, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// What the task follows.
#[derive(Debug)]
pub struct RouteWriter {
    /// The way to the API server.
    pub client: Client,
    /// What its routes say now.
    pub view: watch::Receiver<Arc<View>>,
    /// What they are to be told.
    pub statuses: watch::Receiver<Arc<Vec<Arc<RouteStatus>>>>,
    /// Whether this controller speaks for its cluster.
    pub speaking: watch::Receiver<bool>,
    /// For the moments of conditions.
    pub clock: SharedClock,
    /// For waits after failures.
    pub rng: Rng,
}

/// Routes that say something else of themselves than they are to be told. One that is not there, or no longer as it was read, is not among
/// them: it is read anew.
pub fn due(
    statuses: &[Arc<RouteStatus>],
    routes: &BTreeMap<(String, Key), Arc<Rule>>,
) -> Vec<Told> {
    let mut all = Vec::new();
    for status in statuses {
        let key = Key::new(&status.namespace, &status.name);
        let Some(rule) = routes.get(&(status.kind.clone(), key.clone())) else {
            continue;
        };
        let generation = rule.object.pointer("/metadata/generation");
        if generation.and_then(Value::as_i64) != status.generation {
            continue;
        }
        let entries = status.parents.iter();
        let ours: Vec<Value> = entries
            .filter_map(|parent| serde_json::to_value(parent).ok())
            .collect();
        if status::parents(&rule.parents, &ours, CONTROLLER_NAME, "").is_some() {
            all.push(Told {
                api_version: status.api_version.clone(),
                kind: status.kind.clone(),
                key,
                parents: ours,
            });
        }
    }
    all
}

impl RouteWriter {
    /// Writes until the drain.
    pub async fn run(mut self, mut drain: drain::Observer) {
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        loop {
            let view = Arc::clone(&self.view.borrow_and_update());
            let statuses = Arc::clone(&self.statuses.borrow_and_update());
            let speaks = *self.speaking.borrow_and_update();
            let mut told = if speaks && view.read {
                due(&statuses, &view.routes)
            } else {
                Vec::new()
            };
            let more = told.len() > PER_ROUND;
            told.truncate(PER_ROUND);
            let good = self.tell(told).await;
            let wait = if good {
                backoff.reset();
                SPACING
            } else {
                backoff.next(&mut self.rng)
            };
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if more || !good {
                continue;
            }
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                changed = self.view.changed() => if changed.is_err() { return },
                changed = self.statuses.changed() => if changed.is_err() { return },
                changed = self.speaking.changed() => if changed.is_err() { return },
            }
        }
    }

    /// False when somebody could not be told.
    async fn tell(&self, told: Vec<Told>) -> bool {
        let now = write::moment(self.clock.unix_ms());
        let write = |told: Told| -> BoxFuture<'static, Result<(), write::WriteError>> {
            let (client, now) = (self.client.clone(), now.clone());
            async move { client.tell_route(&told, CONTROLLER_NAME, &now).await }.boxed()
        };
        all(told.into_iter().map(write).collect()).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tradewind_api::ServiceName;
    use tradewind_policy::{Object, World};

    use super::*;

    fn route(generation: i64, parents: Vec<Value>) -> Rule {
        Rule {
            object: json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": { "name": "r", "namespace": "shop", "generation": generation },
                "spec": { "parentRefs": [{ "group": "", "kind": "Service", "name": "cart" }], "rules": [] },
            }),
            parents,
        }
    }

    fn statuses(rule: &Rule) -> Vec<Arc<RouteStatus>> {
        let object = Object::new("HTTPRoute shop/r", rule.object.clone()).unwrap();
        let mut world = World::default();
        let cart: ServiceName = "shop/cart".parse().unwrap();
        world.services.insert(cart, vec![("http".to_owned(), 80)]);
        tradewind_policy::statuses(&[object], &world)
    }

    fn there(rule: Rule) -> BTreeMap<(String, Key), Arc<Rule>> {
        [(
            ("HTTPRoute".to_owned(), Key::new("shop", "r")),
            Arc::new(rule),
        )]
        .into()
    }

    #[test]
    fn a_route_is_told_once_and_of_what_was_read() {
        let fresh = route(3, Vec::new());
        let statuses = statuses(&fresh);
        let told = due(&statuses, &there(fresh));
        let [one] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(one.parents[0]["controllerName"], CONTROLLER_NAME);
        let written = status::parents(&[], &one.parents, CONTROLLER_NAME, "now").unwrap();
        assert!(due(&statuses, &there(route(3, written))).is_empty());
        assert!(
            due(&statuses, &there(route(4, Vec::new()))).is_empty(),
            "the fourth generation was not read yet"
        );
        assert!(due(&statuses, &BTreeMap::new()).is_empty());
    }
}
