//! What the balancer knows, as JSON: routes with their tiers, candidates and the reason each one serves or does not.
//!
//! Reads only. The words are those of the choice itself, so that what is shown is what was decided.

use serde_json::{Value, json};
use tradewind_transport::{
    balance::{Micros, detector::Standing},
    hbone::Path,
};

use super::super::breaker::Breaker;
use super::{Balancer, ByScope, Exit, Route, Target};
use crate::called::Scope;

impl Balancer {
    /// Everything this thread knows.
    pub(in crate::outbound) fn state_json(&self) -> Value {
        let now = self.now();
        let routes = self.routes.borrow();
        let mut sorted: Vec<_> = routes.values().flat_map(ByScope::all).collect();
        sorted.sort_by(|a, b| {
            (&a.service, a.scope, &a.subset).cmp(&(&b.service, b.scope, &b.subset))
        });
        let (sessions, streams) = self.pool.open();
        let snapshot = self.snapshot.borrow();
        let told = |name| snapshot.clusters.get(name).and_then(|c| c.round_trip_us);
        json!({
            "exit": self.place.exit.as_str(),
            "revision": snapshot.revision.0,
            "sessions": sessions,
            "streams": streams,
            "services": sorted.into_iter().map(|r| self.route_json(r, now)).collect::<Vec<_>>(),
            "clusters": self.links.borrow().iter().map(|(name, link)| json!({
                "cluster": name.as_str(),
                "way": standing(link.detector.borrow().standing(now), now),
                "round_trip_us": link.rtt_us.get(),
                "told_round_trip_us": told(name),
            })).collect::<Vec<_>>(),
        })
    }

    fn route_json(&self, route: &Route, now: Micros) -> Value {
        let choice = self.choose(route, &route.targets, now);
        let tiers: Vec<_> = choice
            .iter()
            .flat_map(|c| &c.tiers)
            .map(|t| {
                let members: Vec<_> = t
                    .members
                    .iter()
                    .filter_map(|i| route.targets.get(*i))
                    .map(|t| t.endpoint.id.as_str())
                    .collect();
                let distance = t.distance.named(&route.settings.locality).to_string();
                json!({ "distance": distance, "share": t.share, "members": members })
            })
            .collect();
        let verdicts = choice.map(|c| c.verdicts).unwrap_or_default();
        let endpoints: Vec<_> = route
            .targets
            .iter()
            .zip(verdicts.iter())
            .map(|(t, verdict)| self.endpoint_json(t, &verdict.to_string(), now))
            .collect();
        json!({
            "service": route.service.to_string(),
            "subset": route.subset,
            "exporters_only": route.scope == Scope::Exporters,
            "policy": route.policy.as_ref().map(|p| p.origin.to_string()),
            "settings": route.settings.words(),
            "retry_budget": route.kept.budget.borrow().available(),
            "in_use": route.breaker.as_ref().map(in_use),
            "tiers": tiers,
            "endpoints": endpoints,
        })
    }

    fn endpoint_json(&self, target: &Target, verdict: &str, now: Micros) -> Value {
        let peer = &target.peer;
        let detector = peer.detector.borrow();
        json!({
            "id": target.endpoint.id.as_str(),
            "cluster": target.cluster().as_str(),
            "health": target.endpoint.health.as_str(),
            "verdict": verdict,
            "detector": standing(detector.standing(now), now),
            "last_failure": detector.last_failure().map(|(f, at)| json!({
                "cause": f.as_str(),
                "ms_ago": now.saturating_sub(at) / 1000,
            })),
            "weight": target.endpoint.weight,
            "ramp": peer.ramp.get().value(now),
            "latency_us": peer.latency.get().value(now).round(),
            "in_flight": peer.in_flight.get(),
            "way": self.way_json(target),
        })
    }

    /// Where it is dialled, and where the sessions with it that are open went through.
    fn way_json(&self, target: &Target) -> Value {
        let (kind, addresses) = match (&target.destination.path, self.place.exit) {
            (Path::Direct(address), _) => ("direct", std::slice::from_ref(address)),
            (Path::Gateways(all), Exit::Direct) => ("gateways of its cluster", all.as_slice()),
            (Path::Gateways(all), Exit::Gateway) => ("own gateways", all.as_slice()),
        };
        json!({
            "kind": kind,
            "addresses": addresses,
            "taken": self.pool.ways(&target.endpoint.id),
        })
    }
}

/// What is under way of all threads, where a policy bounds it.
fn in_use(breaker: &Breaker) -> Value {
    let counts = breaker.in_use();
    json!({
        "connections": counts.connections,
        "pending": counts.pending,
        "requests": counts.requests,
        "retries": counts.retries,
    })
}

fn standing(standing: Standing, now: Micros) -> Value {
    match standing {
        Standing::Closed => json!("closed"),
        Standing::Open { until } => json!({ "ejected_for_ms": until.saturating_sub(now) / 1000 }),
        Standing::ProbeDue => json!("probe due"),
        Standing::Probing => json!("probing"),
    }
}
