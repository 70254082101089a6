//! What the lists and the status say, from the values of this moment. Reads only.

use tradewind_api::proto::v1::{ClusterStatus, Peer, StatusResponse, TokenStatus};
use tradewind_federation::Catalog;

use super::{AdminInput, join_token_status, problems};

/// What a fresh word of the leader is: several heartbeats may be lost before it is older.
pub(super) const LEADER_FRESH_MS: u64 = 3_000;

pub(super) fn clusters(input: &AdminInput, catalog: &Catalog) -> Vec<ClusterStatus> {
    let now_ms = input.clock.unix_ms();
    let (snapshot, leases) = (input.snapshots.borrow(), input.leases.borrow());
    let status = |name, cluster: &tradewind_api::model::Cluster| {
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
        }
    };
    snapshot
        .clusters
        .iter()
        .map(|(name, cluster)| status(name, cluster))
        .collect()
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
        })
        .collect();
    let connected = registered.gateways.values().filter(|g| g.connected).count();
    StatusResponse {
        cluster: input.own.cluster.to_string(),
        domain: input.own.domain.to_string(),
        revision: catalog.revision,
        store_age_ms: store.leader_age_ms.unwrap_or(u64::MAX),
        term: store.term,
        peers,
        clusters: clusters(input, &catalog),
        problems: problems::all(input, &catalog, &store),
        connected_proxies: u32::try_from(registered.connected_proxies).unwrap_or(u32::MAX),
        connected_gateways: u32::try_from(connected).unwrap_or(u32::MAX),
        version: crate::VERSION.to_owned(),
        services: u32::try_from(input.snapshots.borrow().services.len()).unwrap_or(u32::MAX),
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
