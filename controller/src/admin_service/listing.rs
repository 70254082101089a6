//! What the lists and the status say, from the values of this moment. Reads only.

use std::collections::BTreeMap;

use tradewind_api::{
    ClusterName, NodeId,
    model::{Cluster, ClusterState},
    proto::v1::{
        self as proto, ClusterFacts, ClusterStatus, ControllerStatus, Peer, StatusResponse,
        TokenStatus,
    },
    seal::{PREPARE_MS, Phase, TRANSITION_MS},
    store::TokenRecord,
};
use tradewind_federation::Catalog;

use super::{AdminInput, problems};
use crate::{
    compile::{LEASE_EXPIRES_MS, cluster_of},
    reach,
    source::RefusedKind,
};

/// What a fresh word of the leader is: several heartbeats may be lost before it is older.
pub(super) const LEADER_FRESH_MS: u64 = 3_000;

pub(super) fn clusters(input: &AdminInput, catalog: &Catalog) -> Vec<ClusterStatus> {
    let now_ms = input.clock.unix_ms();
    // Taken out, not borrowed over all of this: who borrows twice waits for ever once a writer waits in between.
    let (snapshot, leases) = (
        input.snapshots.borrow().clone(),
        input.leases.borrow().clone(),
    );
    let status = |name: &ClusterName, cluster: &Cluster| {
        let record = catalog.clusters.get(name);
        ClusterStatus {
            cluster: Some(cluster.into()),
            exported_services: catalog.export_counts.get(name).copied().unwrap_or(0),
            lease_age_ms: if cluster.local {
                0
            } else {
                leases.age_ms(name, now_ms)
            },
            nodes: record
                .map(|r| r.nodes.iter().copied().collect())
                .unwrap_or_default(),
            version: record.map_or_else(|| crate::VERSION.to_owned(), |r| r.version.clone()),
            facts: if cluster.local || cluster.state == ClusterState::Left {
                None
            } else {
                Some(facts(input, name, now_ms))
            },
            witness: record.is_some_and(|r| r.witness),
        }
    };
    // Witnesses are in no snapshot.
    let witnesses = catalog.clusters.values().filter(|r| r.witness).map(|r| {
        let expired = leases.expired(&r.name, now_ms);
        (r.name.clone(), cluster_of(r, &input.own, expired))
    });
    let mut all: BTreeMap<ClusterName, Cluster> = snapshot
        .clusters
        .iter()
        .map(|(name, cluster)| (name.clone(), Cluster::clone(cluster)))
        .collect();
    all.extend(witnesses);
    all.iter()
        .map(|(name, cluster)| status(name, cluster))
        .collect()
}

/// The three facts of another cluster.
pub(super) fn facts(input: &AdminInput, cluster: &ClusterName, now_ms: u64) -> ClusterFacts {
    let data_age_ms = input.leases.borrow().data_age_ms(cluster, now_ms);
    let mut facts = ClusterFacts {
        data_age_ms,
        data_stale: data_age_ms > LEASE_EXPIRES_MS,
        ..ClusterFacts::default()
    };
    let Some(reach) = input.reach.borrow().clusters.get(cluster).cloned() else {
        return facts;
    };
    let since = |at_ms: u64| now_ms.saturating_sub(at_ms);
    let micros = |d: std::time::Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    facts.stream_up = reach.stream.up;
    facts.stream_age_ms = since(reach.stream.since_ms);
    facts.gateway.clone_from(&reach.stream.gateway);
    facts.trails = reach.trails;
    facts.reachable = reach.reachable;
    facts.reach_age_ms = match (reach.reachable, reach.answered_at_ms) {
        (Some(true), Some(at_ms)) => since(at_ms),
        _ => since(reach.reach_since_ms),
    };
    facts.round_trip_us = reach.round_trip.map(micros);
    facts.last_round_trip_us = reach.last_round_trip.map(micros);
    if let Some(error) = &reach.error {
        error.layer.as_str().clone_into(&mut facts.error_layer);
        error.short.clone_into(&mut facts.error_short);
        facts.error.clone_from(&error.text);
    }
    facts
}

pub(super) fn status(input: &AdminInput) -> StatusResponse {
    let catalog = input.store.catalog();
    let store = input.store.status();
    let registered = input.registered.borrow().clone();
    let fresh = store.leader_age_ms.is_some_and(|age| age < LEADER_FRESH_MS);
    let peers = store
        .voters
        .union(&store.learners)
        .map(|node| Peer {
            node_id: *node,
            cluster: catalog
                .cluster_of(*node)
                .map(ToString::to_string)
                .unwrap_or_default(),
            voter: store.voters.contains(node),
            leader: fresh && store.leader == Some(*node),
            this_node: *node == store.node_id,
            trails: store.trails.get(node).copied().flatten(),
            witness: catalog
                .cluster_of(*node)
                .and_then(|c| catalog.clusters.get(c))
                .is_some_and(|c| c.witness),
        })
        .collect();
    let (names, names_left_ms) = names(input, &catalog);
    let connected = registered.gateways.values().filter(|g| g.connected).count();
    let (reached, reports) = (input.reach.borrow().clone(), input.reports.borrow().clone());
    let leader = store.leader.filter(|_| fresh);
    let controllers = controllers(input, &catalog, leader);
    let refused = input.yaml.borrow().refused.clone();
    StatusResponse {
        controllers,
        refused_kinds: refused
            .into_iter()
            .map(|RefusedKind { kind, why }| proto::RefusedKind { kind, why })
            .collect(),
        cluster: input.own.cluster.to_string(),
        domain: input.own.domain.to_string(),
        revision: catalog.revision,
        store_age_ms: store.leader_age_ms.unwrap_or(u64::MAX),
        term: store.term,
        peers,
        clusters: clusters(input, &catalog),
        problems: problems::all(input, &catalog, &store),
        connected_proxies: input.proxies.connected(),
        connected_gateways: u32::try_from(connected).unwrap_or(u32::MAX),
        version: crate::VERSION.to_owned(),
        services: u32::try_from(input.snapshots.borrow().services.len()).unwrap_or(u32::MAX),
        reach: reach::matrix(
            &reached,
            &reports,
            &input.own.cluster,
            input.clock.unix_ms(),
        ),
        names: names.to_owned(),
        names_left_ms,
    }
}

/// This cluster's controllers, as this one hears them; `leader` is whom it hears of itself.
fn controllers(
    input: &AdminInput,
    catalog: &Catalog,
    leader: Option<NodeId>,
) -> Vec<ControllerStatus> {
    let (own, now_ms) = (&input.own.cluster, input.clock.unix_ms());
    let me = input.store.vitals().node_id;
    let heard = input.siblings.borrow().clone();
    let nodes = catalog.member(own).map(|c| &c.nodes);
    let speaker = catalog.speaker_of(own);
    let record = catalog.controllers_of(own);
    let address = |node| record.and_then(|r| Some(r.nodes.get(node)?.address.clone()));
    nodes
        .into_iter()
        .flatten()
        .map(|node| {
            let sibling = heard.get(node).cloned().unwrap_or_default();
            let this_node = *node == me;
            ControllerStatus {
                node_id: *node,
                address: address(node).unwrap_or_default(),
                this_node,
                speaks: speaker == Some(*node),
                up: this_node || sibling.up,
                age_ms: if this_node {
                    0
                } else {
                    now_ms.saturating_sub(sibling.since_ms)
                },
                revision: if this_node {
                    catalog.revision
                } else {
                    sibling.revision
                },
                error: sibling.error,
                heard_age_ms: (sibling.heard_ms > 0)
                    .then(|| now_ms.saturating_sub(sibling.heard_ms)),
                leader: if this_node {
                    leader
                } else {
                    sibling.vitals.and_then(|vitals| vitals.leader)
                },
            }
        })
        .collect()
}

/// How far the federation is on the way to sealed names, and how long it is until the next step.
fn names(input: &AdminInput, catalog: &Catalog) -> (&'static str, Option<u64>) {
    let after = |ms: u64| {
        let at_ms = catalog.level_since_ms.saturating_add(ms);
        Some(at_ms.saturating_sub(catalog.at_ms))
    };
    match input.seals.borrow().phase() {
        Phase::Clear => ("clear", None),
        Phase::Prepare => ("prepare", after(PREPARE_MS)),
        Phase::Both => ("both", after(PREPARE_MS + TRANSITION_MS)),
        Phase::Sealed => ("sealed", None),
    }
}

pub(super) fn tokens(input: &AdminInput) -> Vec<TokenStatus> {
    let now_ms = input.clock.unix_ms();
    let catalog = input.store.catalog();
    let mut all: Vec<TokenStatus> = catalog
        .tokens
        .values()
        .map(|t| join_token_status(t, now_ms))
        .collect();
    all.extend(input.tokens.list(now_ms).into_iter().map(|t| TokenStatus {
        id: t.id,
        cluster: String::new(),
        expires_at_unix_ms: t.expires_at_ms,
        workload_path: t.path,
        state: t.state.to_owned(),
    }));
    all
}

/// One token, as lists show it.
fn join_token_status(record: &TokenRecord, now_ms: u64) -> TokenStatus {
    let state = match &record.used {
        Some(_) => "used",
        None if now_ms >= record.expires_at_ms => "expired",
        None => "unused",
    };
    TokenStatus {
        id: record.id.clone(),
        cluster: record
            .cluster
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        expires_at_unix_ms: record.expires_at_ms,
        workload_path: String::new(),
        state: state.to_owned(),
    }
}
