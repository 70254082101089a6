//! Where a call from a place would go, and why: the choice that proxies make, made from what this controller knows. Reads
//! only.
//!
//! A proxy knows more than that: who failed it, who ramps up, the round trips that it measured itself. `tradewind explain
//! --proxy` asks one.

mod rules;
mod streams;

use std::sync::Arc;

use tonic::{Code, Status};
use tradewind_api::{
    ClusterName, Namespace, ServicePortRef, Zone,
    model::{Cluster, Endpoint, Service},
    proto::v1::{ExplainRequest, ExplainResponse, ExplainedEndpoint, ExplainedTier},
    snapshot::Snapshot,
    traffic::{Labels, Locality, PerPort, Settings, TrafficPolicy, has_labels},
};
use tradewind_transport::balance::tiers::{Candidate, Choice, Extra, Extras, Here, choose_by};

use super::{AdminInput, limits};
use crate::{answer::refuse, local::nearest, reach::Reach};

/// A caller's place.
struct From<'a> {
    cluster: &'a Cluster,
    zone: Option<&'a Zone>,
}

pub(super) fn explain(
    input: &AdminInput,
    asked: &ExplainRequest,
) -> Result<ExplainResponse, Status> {
    let target: ServicePortRef =
        asked
            .service
            .parse()
            .map_err(|e: tradewind_api::InvalidName| {
                let hint = "write namespace/name:port, such as shop/payments:80";
                refuse(Code::InvalidArgument, e.to_string(), hint)
            })?;
    let zone: Option<Zone> = match asked.from_zone.as_str() {
        "" => None,
        zone => Some(zone.parse().map_err(|e: tradewind_api::InvalidName| {
            let hint = "write --from cluster/zone";
            refuse(Code::InvalidArgument, e.to_string(), hint)
        })?),
    };
    let (snapshot, reach) = (
        input.snapshots.borrow().clone(),
        input.reach.borrow().clone(),
    );
    let from = From {
        cluster: caller_cluster(&snapshot, &asked.from_cluster)?,
        zone: zone.as_ref(),
    };
    let service = service(&snapshot, &target, &from)?;
    let called = called(&snapshot, &target, asked, &from)?;
    let round_trip = |to: &ClusterName| round_trip_us(&reach, from.cluster, to);
    let explained = answer(
        &snapshot,
        (service, target.port),
        &called,
        &from,
        round_trip,
    );
    // Another cluster's proxies have the rules of their own.
    let (rules, streams) = if from.cluster.local {
        let streams = streams::explain(&snapshot, &target, asked)?;
        let now_ms = input.clock.unix_ms();
        (rules::explain(&snapshot, &target, asked, now_ms)?, streams)
    } else {
        (Vec::new(), Vec::new())
    };
    Ok(ExplainResponse {
        policy: called
            .policy
            .map(|p| p.origin.to_string())
            .unwrap_or_default(),
        settings: called.settings.words(),
        rules,
        streams,
        limits: limits::at_port(&snapshot, service, target.port),
        ..explained
    })
}

/// How the endpoints are called, and which of them.
struct Called<'a> {
    policy: Option<&'a TrafficPolicy>,
    settings: Arc<Settings>,
    /// What they must have.
    labels: Option<&'a Labels>,
    caller_labels: &'a Labels,
}

/// What a policy says of these calls. Another cluster's proxies have policies of their own.
fn called<'a>(
    snapshot: &'a Snapshot,
    target: &ServicePortRef,
    asked: &'a ExplainRequest,
    from: &From<'_>,
) -> Result<Called<'a>, Status> {
    let namespace = caller_namespace(asked)?;
    let routes = snapshot.routes.get(&target.service);
    let policy = routes
        .filter(|_| from.cluster.local)
        .and_then(|routes| routes.traffic_for(&namespace, &asked.caller_labels))
        .map(|policy| &**policy);
    let settings = |per_port: &PerPort| Arc::clone(per_port.of(target.port));
    if asked.subset.is_empty() {
        return Ok(Called {
            policy,
            settings: policy.map(|p| settings(&p.settings)).unwrap_or_default(),
            labels: None,
            caller_labels: &asked.caller_labels,
        });
    }
    let subset = policy.and_then(|p| p.subsets.get(&asked.subset));
    let subset = subset.ok_or_else(|| {
        let names: Vec<_> = policy.into_iter().flat_map(|p| p.subsets.keys()).collect();
        let hint = match names.as_slice() {
            [] => "no DestinationRule for these callers has any".to_owned(),
            [..] => {
                let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
                format!("there are {}", names.join(", "))
            }
        };
        let sentence = format!("{} has no subset {:?}", target.service, asked.subset);
        refuse(Code::NotFound, sentence, hint)
    })?;
    Ok(Called {
        policy,
        settings: settings(&subset.settings),
        labels: Some(&subset.labels),
        caller_labels: &asked.caller_labels,
    })
}

/// Whose call it is.
fn caller_namespace(asked: &ExplainRequest) -> Result<Namespace, Status> {
    let name = match asked.caller_namespace.as_str() {
        "" => "default",
        name => name,
    };
    Namespace::new(name).map_err(|e| {
        let hint = "write --caller NAMESPACE";
        refuse(Code::InvalidArgument, e.to_string(), hint)
    })
}

fn caller_cluster<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Cluster, Status> {
    let found = if name.is_empty() {
        snapshot.local().map(|cluster| &**cluster)
    } else {
        let found = snapshot.clusters.iter().find(|(n, _)| n.as_str() == name);
        found.map(|(_, cluster)| &**cluster)
    };
    found.ok_or_else(|| {
        refuse(
            Code::NotFound,
            format!("no cluster {name:?} is known here"),
            "`tradewind clusters` lists them",
        )
    })
}

fn service<'a>(
    snapshot: &'a Snapshot,
    target: &ServicePortRef,
    from: &From<'_>,
) -> Result<&'a Service, Status> {
    let Some(service) = snapshot.services.get(&target.service) else {
        let hint = match nearest(&target.service, snapshot.services.keys()) {
            Some(near) => format!("did you mean {near}?"),
            None => "`tradewind services` lists what this cluster knows".into(),
        };
        let sentence = format!(
            "{} is not known: no cluster exports it, and this one does not run it",
            target.service
        );
        return Err(refuse(Code::NotFound, sentence, hint));
    };
    if service.port(target.port).is_none() {
        let ports: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
        return Err(refuse(
            Code::NotFound,
            format!("{} has no port {}", target.service, target.port),
            format!("it has {}", ports.join(", ")),
        ));
    }
    if !from.cluster.local && service.exported_by.is_empty() {
        let sentence = format!(
            "{} is not exported: no caller in {} can reach it",
            target.service, from.cluster.name
        );
        let hint = format!("`tradewind export {}` offers it", target.service);
        return Err(refuse(Code::FailedPrecondition, sentence, hint));
    }
    Ok(service)
}

/// As this controller measured it, or as the caller's own said it did.
pub(super) fn round_trip_us(reach: &Reach, from: &Cluster, to: &ClusterName) -> Option<u64> {
    if from.local {
        let measured = reach.clusters.get(to)?.round_trip?;
        return u64::try_from(measured.as_micros()).ok();
    }
    let row = reach.clusters.get(&from.name)?.row.as_ref()?;
    row.sights.iter().find(|s| s.cluster == *to)?.round_trip_us
}

/// Those that a caller in `from` would be told of.
pub(super) fn visible<'a>(
    service: &'a Service,
    port: u16,
    from: &'a Cluster,
) -> impl Iterator<Item = &'a Endpoint> {
    service.endpoints.iter().filter(move |e| {
        let exported = service.exported_by.contains(&e.cluster);
        e.ports.contains(&port) && (exported || e.cluster == from.name)
    })
}

/// An endpoint as a caller sees it that has learnt nothing of it by itself.
pub(super) fn candidate<'a>(
    endpoint: &'a Endpoint,
    cluster: &Cluster,
    rtt_us: Option<u64>,
) -> Candidate<'a> {
    Candidate {
        id: &endpoint.id,
        cluster: &endpoint.cluster,
        region: &endpoint.region,
        zone: endpoint.zone.as_ref(),
        weight: endpoint.weight,
        health: endpoint.health,
        ejected: false,
        proven: false,
        ramp: 1.0,
        cluster_state: cluster.state,
        lease_expired: cluster.lease_expired,
        rtt_us,
    }
}

fn answer(
    snapshot: &Snapshot,
    (service, port): (&Service, u16),
    called: &Called<'_>,
    from: &From<'_>,
    round_trip: impl Fn(&ClusterName) -> Option<u64>,
) -> ExplainResponse {
    let shown: Vec<(&Endpoint, &Cluster)> = visible(service, port, from.cluster)
        .filter(|e| called.labels.is_none_or(|l| has_labels(&e.labels, l)))
        .filter_map(|e| Some((e, &**snapshot.clusters.get(&e.cluster)?)))
        .collect();
    let here = Here {
        cluster: &from.cluster.name,
        region: &from.cluster.region,
        zone: from.zone,
    };
    let candidates: Vec<Candidate<'_>> = shown
        .iter()
        .map(|(e, cluster)| candidate(e, cluster, round_trip(&e.cluster)))
        .collect();
    let extras: Vec<Extra<'_>> = shown
        .iter()
        .map(|(e, cluster)| Extra {
            labels: &e.labels,
            network: Some(cluster.network.as_str()),
        })
        .collect();
    let extras = Extras {
        own: Extra {
            labels: called.caller_labels,
            network: Some(from.cluster.network.as_str()),
        },
        candidates: &extras,
    };
    let choice = choose_by(&candidates, &here, &called.settings.locality, extras);
    let endpoints = shown
        .iter()
        .zip(&choice.verdicts)
        .map(|((e, cluster), verdict)| {
            let near = e.cluster == from.cluster.name || cluster.network == from.cluster.network;
            let (way, addresses) = match &e.address {
                Some(address) if near => ("direct", vec![address.clone()]),
                _ => ("gateways of its cluster", cluster.gateways.clone()),
            };
            ExplainedEndpoint {
                id: e.id.to_string(),
                cluster: e.cluster.to_string(),
                region: e.region.to_string(),
                zone: e.zone.as_ref().map(ToString::to_string).unwrap_or_default(),
                weight: e.weight,
                health: e.health.as_str().to_owned(),
                verdict: verdict.to_string(),
                round_trip_us: round_trip(&e.cluster),
                way: way.to_owned(),
                addresses,
            }
        });
    ExplainResponse {
        from_cluster: from.cluster.name.to_string(),
        from_region: from.cluster.region.to_string(),
        from_zone: from.zone.map(ToString::to_string).unwrap_or_default(),
        revision: snapshot.revision.0,
        endpoints: endpoints.collect(),
        tiers: tiers(&choice, &called.settings.locality, &shown),
        ..ExplainResponse::default()
    }
}

fn tiers(
    choice: &Choice,
    locality: &Locality,
    shown: &[(&Endpoint, &Cluster)],
) -> Vec<ExplainedTier> {
    let member = |i: &usize| shown.get(*i).map(|(e, _)| e.id.to_string());
    let tier = |t: &tradewind_transport::balance::tiers::Tier| ExplainedTier {
        distance: t.distance.named(locality).to_string(),
        share: t.share,
        members: t.members.iter().filter_map(member).collect(),
    };
    choice.tiers.iter().map(tier).collect()
}
