//! Where calls would go without some of the clusters, and what would break: the choice that proxies make, made twice. Reads only.
//!
//! Weights are all that is known of capacity: what an endpoint really carries, nobody has told.

use std::collections::{BTreeMap, BTreeSet};

use tonic::{Code, Status};
use tradewind_api::{
    ClusterName, ServiceName,
    model::{Cluster, ClusterState, Endpoint, Service},
    proto::v1::{PlanRequest, PlanResponse, PlannedCalls, PlannedShare},
    snapshot::Snapshot,
    traffic::Locality,
};
use tradewind_transport::balance::tiers::{
    Extra, Extras, Here, OVERPROVISION, Rung, choose_by, rung_of,
};

use super::{
    AdminInput,
    explain::{candidate, round_trip_us, visible},
};
use crate::answer::refuse;

/// Shares that differ by less are the same: round trips move them a little.
const ALIKE: f64 = 0.005;

pub(super) fn plan(input: &AdminInput, asked: &PlanRequest) -> Result<PlanResponse, Status> {
    let (snapshot, reach) = (
        input.snapshots.borrow().clone(),
        input.reach.borrow().clone(),
    );
    let mut without = BTreeSet::new();
    for name in &asked.without {
        let found = snapshot.clusters.keys().find(|n| n.as_str() == name);
        let Some(found) = found else {
            return Err(refuse(
                Code::NotFound,
                format!("no cluster {name:?} is known here"),
                "`tradewind clusters` lists them",
            ));
        };
        without.insert(found.clone());
    }
    let round_trip = |from: &Cluster, to: &ClusterName| round_trip_us(&reach, from, to);
    let store = input.store.status();
    let catalog = input.store.catalog();
    let lost = |node: &u64| {
        catalog
            .cluster_of(*node)
            .is_some_and(|c| without.contains(c))
    };
    let left: BTreeSet<u64> = store.voters.iter().copied().filter(|n| !lost(n)).collect();
    let quorum = tradewind_federation::quorum(&store.electorates, &left);
    Ok(PlanResponse {
        revision: snapshot.revision.0,
        calls: calls(&snapshot, &without, round_trip),
        voters: count(store.voters.len()),
        voters_then: count(left.len()),
        writes_then: quorum.spare.is_some(),
    })
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// The calls of every cluster that stays, to every service that it can call.
fn calls(
    snapshot: &Snapshot,
    without: &BTreeSet<ClusterName>,
    round_trip: impl Fn(&Cluster, &ClusterName) -> Option<u64>,
) -> Vec<PlannedCalls> {
    let callers = || {
        let all = snapshot.clusters.values();
        all.filter(|c| c.state != ClusterState::Left && !without.contains(&c.name))
    };
    let mut planned = Vec::new();
    for service in snapshot.services.values() {
        for from in callers() {
            // Another cluster's own services are not known here.
            if !from.local && service.exported_by.is_empty() {
                continue;
            }
            let rtt = |to: &ClusterName| round_trip(from, to);
            planned.extend(of_caller(snapshot, service, from, without, rtt));
        }
    }
    planned
}

/// Which endpoints are near, as a policy for all callers says. Of another cluster's policies only producers' are known: those hold
/// everywhere, unless that cluster's own say something else.
fn locality<'a>(
    snapshot: &'a Snapshot,
    service: &ServiceName,
    port: u16,
    from: &Cluster,
) -> &'a Locality {
    let routes = snapshot.routes.get(service);
    let policy = routes.and_then(|r| {
        r.traffic.iter().find(|t| {
            t.namespace.is_none()
                && t.caller_labels.is_empty()
                && (from.local || t.origin.object.namespace == service.namespace)
        })
    });
    policy.map_or(&Locality::Nearest, |p| &p.settings.of(port).locality)
}

/// Ports that the same endpoints serve in the same way are told together.
fn of_caller(
    snapshot: &Snapshot,
    service: &Service,
    from: &Cluster,
    without: &BTreeSet<ClusterName>,
    round_trip: impl Fn(&ClusterName) -> Option<u64>,
) -> Vec<PlannedCalls> {
    type Alike<'a> = (Vec<&'a Endpoint>, &'a Locality);
    let mut groups: Vec<(Alike<'_>, Vec<u32>)> = Vec::new();
    for port in &service.ports {
        let near = locality(snapshot, &service.name, port.port, from);
        let alike = (visible(service, port.port, from).collect(), near);
        let number = u32::from(port.port);
        match groups.iter_mut().find(|(same, _)| *same == alike) {
            Some((_, ports)) => ports.push(number),
            None => groups.push((alike, vec![number])),
        }
    }
    let planned = groups.into_iter().map(|((endpoints, near), ports)| {
        let known: Vec<_> = endpoints
            .into_iter()
            .filter_map(|e| Some((e, &**snapshot.clusters.get(&e.cluster)?)))
            .collect();
        let left: Vec<_> = known
            .iter()
            .copied()
            .filter(|(e, _)| !without.contains(&e.cluster))
            .collect();
        let now = Standing::of(&known, (from, near), &round_trip);
        let then = Standing::of(&left, (from, near), &round_trip);
        PlannedCalls {
            service: service.name.to_string(),
            ports,
            from_cluster: from.name.to_string(),
            effect: effect(&now, &then).to_owned(),
            load: load(&now, &then),
            now: now.shares(),
            then: then.shares(),
        }
    });
    planned.collect()
}

/// Who answers the calls of one cluster.
struct Standing<'a> {
    /// By cluster; empty where nobody does.
    shares: BTreeMap<&'a ClusterName, f64>,
    /// How good those are.
    rung: Rung,
    /// The weight of all that are as good, wherever they are.
    weight: f64,
}

impl<'a> Standing<'a> {
    fn of(
        known: &[(&'a Endpoint, &'a Cluster)],
        (from, near): (&Cluster, &Locality),
        round_trip: impl Fn(&ClusterName) -> Option<u64>,
    ) -> Self {
        let here = Here {
            cluster: &from.name,
            region: &from.region,
            zone: None,
        };
        let candidates: Vec<_> = known
            .iter()
            .map(|(e, cluster)| candidate(e, cluster, round_trip(&e.cluster)))
            .collect();
        let rungs: Vec<_> = candidates.iter().map(|c| rung_of(c, &here)).collect();
        let rung = rungs.iter().copied().min().unwrap_or(Rung::Failing);
        let weights = candidates.iter().zip(&rungs);
        let as_good = weights.filter(|(_, r)| **r == rung);
        let weight = as_good.map(|(c, _)| f64::from(c.weight.max(1))).sum();
        let extras: Vec<_> = known
            .iter()
            .map(|(e, cluster)| Extra {
                labels: &e.labels,
                network: Some(cluster.network.as_str()),
            })
            .collect();
        let extras = Extras {
            own: Extra {
                network: Some(from.network.as_str()),
                ..Extra::NONE
            },
            candidates: &extras,
        };
        let mut shares = BTreeMap::new();
        for tier in choose_by(&candidates, &here, near, extras).tiers {
            let members = || tier.members.iter().filter_map(|i| known.get(*i));
            let all: f64 = members().map(|(e, _)| f64::from(e.weight.max(1))).sum();
            for (endpoint, _) in members() {
                let part = tier.share * f64::from(endpoint.weight.max(1)) / all;
                *shares.entry(&endpoint.cluster).or_insert(0.0) += part;
            }
        }
        shares.retain(|_, share| *share > 0.0);
        Self {
            shares,
            rung,
            weight,
        }
    }

    fn shares(&self) -> Vec<PlannedShare> {
        let mut all: Vec<_> = self
            .shares
            .iter()
            .map(|(cluster, share)| PlannedShare {
                cluster: cluster.to_string(),
                share: *share,
            })
            .collect();
        all.sort_by(|a, b| b.share.total_cmp(&a.share));
        all
    }
}

fn load(now: &Standing<'_>, then: &Standing<'_>) -> Option<f64> {
    (then.weight > 0.0).then(|| now.weight / then.weight)
}

/// One word for what becomes of the calls.
fn effect(now: &Standing<'_>, then: &Standing<'_>) -> &'static str {
    let Some(load) = load(now, then) else {
        return if now.shares.is_empty() {
            "stays"
        } else {
            "fails"
        };
    };
    let share =
        |of: &Standing<'_>, cluster: &ClusterName| of.shares.get(cluster).copied().unwrap_or(0.0);
    let alike = |cluster: &&ClusterName| (share(now, cluster) - share(then, cluster)).abs() < ALIKE;
    let same = now.shares.keys().chain(then.shares.keys()).all(alike);
    if then.rung > now.rung {
        "unfit"
    } else if load > OVERPROVISION {
        "overload"
    } else if same {
        "stays"
    } else {
        "moves"
    }
}

#[cfg(test)]
mod tests;
