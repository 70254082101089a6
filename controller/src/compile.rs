//! Catalog and local model into the snapshot that every proxy, gateway and DNS server of this cluster gets. Pure.
//!
//! What did not change keeps its allocation, so that whoever compares two snapshots compares pointers. What this cluster
//! knows of itself is taken from the local model, which is fresher than the store's copy.

mod mesh_ips;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tradewind_api::{
    ClusterName, EndpointId, NodeId, Revision, ServiceName, SpiffeId,
    model::{Cluster, Endpoint, Service, ServiceKind, ServicePort, Targets},
    seal::Phase,
    shared::SharedMap,
    snapshot::{Snapshot, Trust},
    store::{ClusterRecord, EndpointSummary},
};
use tradewind_federation::Catalog;

use crate::{
    local::{LocalEndpoint, LocalModel, LocalService, Own},
    reach::Distances,
    seals::Ring,
};

pub use mesh_ips::MeshIps;

/// A lease of this age is expired: five renewals were missed.
pub const LEASE_EXPIRES_MS: u64 = 10_000;

/// When each cluster's lease was last seen to be renewed, by this node's own clock. The store's stamps are compared
/// with each other only, so that clocks that differ between clusters do no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    seen: BTreeMap<ClusterName, Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// The leader's stamp.
    stamp_ms: u64,
    /// From when the lease ages, by this node's clock.
    ages_from_ms: u64,
    /// When this stamp came, by this node's clock.
    renewed_ms: u64,
}

impl Leases {
    /// Takes a look at `now_ms`. While this node hears from no leader it sees no renewals either, and no lease ages.
    pub fn observe(&mut self, catalog: &Catalog, now_ms: u64, hears_leader: bool) {
        self.seen
            .retain(|cluster, _| catalog.clusters.contains_key(cluster));
        for record in catalog.clusters.values() {
            let seen = self.seen.entry(record.name.clone()).or_insert(Seen {
                stamp_ms: record.lease_at_ms,
                ages_from_ms: now_ms,
                // Both stamps are leaders': what lies between them had passed already.
                renewed_ms: now_ms.saturating_sub(catalog.at_ms.saturating_sub(record.lease_at_ms)),
            });
            if seen.stamp_ms != record.lease_at_ms {
                seen.stamp_ms = record.lease_at_ms;
                (seen.ages_from_ms, seen.renewed_ms) = (now_ms, now_ms);
            } else if !hears_leader {
                seen.ages_from_ms = now_ms;
            }
        }
    }

    /// How long ago the lease was seen to be renewed, ms.
    pub fn age_ms(&self, cluster: &ClusterName, now_ms: u64) -> u64 {
        self.seen
            .get(cluster)
            .map_or(0, |seen| now_ms.saturating_sub(seen.ages_from_ms))
    }

    /// How old what is known of the cluster is, ms: the time since its last renewal came, also while no renewal could
    /// have come. For people and metrics; nothing is demoted by it.
    pub fn data_age_ms(&self, cluster: &ClusterName, now_ms: u64) -> u64 {
        self.seen
            .get(cluster)
            .map_or(0, |seen| now_ms.saturating_sub(seen.renewed_ms))
    }

    /// True when it is overdue.
    pub fn expired(&self, cluster: &ClusterName, now_ms: u64) -> bool {
        self.age_ms(cluster, now_ms) > LEASE_EXPIRES_MS
    }
}

/// What a snapshot is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The store's catalog; empty before the first replication.
    pub catalog: &'a Catalog,
    /// What this cluster runs.
    pub local: &'a LocalModel,
    /// This cluster.
    pub own: &'a Own,
    /// Signs of life.
    pub leases: &'a Leases,
    /// How far the others are.
    pub distances: &'a Distances,
    /// Whom to believe.
    pub trust: &'a Arc<Trust>,
    /// Names for what others export, and what opens the names of what is exported here.
    pub seals: &'a Ring,
    /// What stands for endpoints in other networks, of the same catalog.
    pub mesh_ips: &'a MeshIps,
    /// Now, Unix ms.
    pub now_ms: u64,
}

/// Makes the snapshot, taking over what is unchanged from `previous`. Where it is known what that was made of, services that nobody exports
/// are looked at only where the local model says another thing of them: nothing else is in them, time neither.
pub fn compile(
    input: &Input<'_>,
    previous: &Snapshot,
    before: Option<(&LocalModel, &Catalog)>,
) -> Snapshot {
    let (local, exports) = (&input.local.services, &input.catalog.exports);
    let mut names: BTreeSet<&ServiceName> = exports.keys().collect();
    match before {
        Some((last, catalog)) => {
            names.extend(local.differing(&last.services));
            names.extend(catalog.exports.keys());
        }
        None => {
            names.extend(local.keys());
            names.extend(previous.services.keys());
        }
    }
    let mut services = previous.services.clone();
    for name in names {
        let last = previous.services.get(name);
        if !local.contains_key(name) && !exports.contains_key(name) {
            if last.is_some() {
                services.remove(name);
            }
        } else if !last.is_some_and(|last| is_unchanged(input, name, last)) {
            let now = reuse(last, service(input, name, last));
            if !last.is_some_and(|last| Arc::ptr_eq(last, &now)) {
                services.insert(name.clone(), now);
            }
        }
    }
    let mut clusters: BTreeMap<ClusterName, Arc<Cluster>> = input
        .catalog
        .clusters
        .values()
        // A witness is no place to go to.
        .filter(|record| !record.witness)
        .map(|record| {
            (
                record.name.clone(),
                reuse(previous.clusters.get(&record.name), cluster(input, record)),
            )
        })
        .collect();
    // Before the store has caught up this cluster still knows itself.
    clusters
        .entry(input.own.cluster.clone())
        .or_insert_with(|| {
            reuse(
                previous.clusters.get(&input.own.cluster),
                own_cluster(input.own, sealed_only(input)),
            )
        });
    let trust = if previous.trust == *input.trust {
        &previous.trust
    } else {
        input.trust
    };
    Snapshot {
        revision: Revision(input.catalog.revision),
        services,
        clusters,
        trust: Arc::clone(trust),
        openings: input.seals.openings().clone(),
        // Both are made from what people write and the services, and added by whoever keeps them.
        routes: SharedMap::default(),
        limits: BTreeMap::new(),
    }
}

fn sealed_only(input: &Input<'_>) -> bool {
    input.seals.phase() == Phase::Sealed
}

fn reuse<T: PartialEq>(before: Option<&Arc<T>>, now: T) -> Arc<T> {
    match before {
        Some(before) if **before == now => Arc::clone(before),
        Some(_) | None => Arc::new(now),
    }
}

fn cluster(input: &Input<'_>, record: &ClusterRecord) -> Cluster {
    let expired = input.leases.expired(&record.name, input.now_ms);
    let local = record.name == input.own.cluster;
    let distance = input.distances.of(&record.name);
    Cluster {
        sealed_only: sealed_only(input),
        round_trip_us: distance.filter(|_| !local),
        controllers: if local {
            controllers(input)
        } else {
            BTreeMap::new()
        },
        ..cluster_of(record, input.own, expired)
    }
}

/// What a record says, as seen from `own`.
pub(crate) fn cluster_of(record: &ClusterRecord, own: &Own, lease_expired: bool) -> Cluster {
    let local = record.name == own.cluster;
    Cluster {
        name: record.name.clone(),
        region: record.region.clone(),
        network: record.network.clone(),
        state: record.state,
        gateways: record.gateways.clone(),
        lease_expired: !local && lease_expired,
        local,
        sealed_only: false,
        round_trip_us: None,
        controllers: BTreeMap::new(),
    }
}

/// Where this cluster's controllers are, as they said themselves.
fn controllers(input: &Input<'_>) -> BTreeMap<NodeId, String> {
    let record = input.catalog.controllers_of(&input.own.cluster);
    let nodes = record.into_iter().flat_map(|r| &r.nodes);
    nodes.map(|(node, c)| (*node, c.address.clone())).collect()
}

fn own_cluster(own: &Own, sealed_only: bool) -> Cluster {
    Cluster {
        name: own.cluster.clone(),
        region: own.region.clone(),
        network: own.network.clone(),
        state: tradewind_api::model::ClusterState::Active,
        gateways: Vec::new(),
        lease_expired: false,
        local: true,
        sealed_only,
        round_trip_us: None,
        controllers: BTreeMap::new(),
    }
}

fn service(input: &Input<'_>, name: &ServiceName, before: Option<&Arc<Service>>) -> Service {
    let local = input.local.services.get(name).map(Arc::as_ref);
    let merged = input.catalog.merged(name);
    let mut endpoints: BTreeMap<EndpointId, Endpoint> = BTreeMap::new();
    for (cluster, export) in input
        .catalog
        .exports
        .get(name)
        .into_iter()
        .flat_map(|by| by.iter())
    {
        // Of this cluster's endpoints the local model knows more, and knows it first.
        if *cluster == input.own.cluster {
            continue;
        }
        let Some(record) = input.catalog.member(cluster) else {
            continue;
        };
        for (id, summary) in &export.endpoints {
            if let Some(endpoint) = remote(input, record, id, summary) {
                endpoints.insert(id.clone(), endpoint);
            }
        }
    }
    for (id, endpoint) in local.into_iter().flat_map(|l| l.endpoints.iter()) {
        endpoints.insert(id.clone(), here(input.own, id, endpoint));
    }
    let (kind, ips, exported_by, mut ports) = match merged {
        Some(m) => (m.kind, m.ips, m.exported_by, m.ports),
        None => (
            local.map(|l| l.kind).unwrap_or_default(),
            Vec::new(),
            BTreeSet::new(),
            Vec::new(),
        ),
    };
    add_local_ports(&mut ports, local);
    if kind == ServiceKind::Headless {
        // Who has an address here, or runs here, is none of those that have one of these.
        for endpoint in endpoints.values_mut().filter(|e| e.address.is_none()) {
            endpoint.mesh_ips = input.mesh_ips.of(&endpoint.id);
        }
    }
    let elsewhere = input.catalog.exports.get(name).into_iter();
    let exported = elsewhere
        .flat_map(|by| by.iter())
        .filter(|(cluster, _)| **cluster != input.own.cluster)
        .flat_map(|(cluster, export)| export.ports.iter().map(move |p| (cluster, p.port)));
    let before = before.map_or(&[][..], |s| &s.seals);
    let seals = input
        .seals
        .seals(name, exported, input.now_ms / 1000, before);
    Service {
        name: name.clone(),
        kind,
        clusterset_ips: ips,
        cluster_ips: local.map(|l| l.cluster_ips.clone()).unwrap_or_default(),
        ports,
        exported_by,
        endpoints: endpoints.into_values().collect(),
        seals,
    }
}

/// Whether a service that nobody exports is what it was, found out by looking alone: most are, at each step. What this does not say is
/// compared as a whole.
fn is_unchanged(input: &Input<'_>, name: &ServiceName, before: &Service) -> bool {
    let Service {
        name: _,
        kind,
        clusterset_ips,
        cluster_ips,
        ports,
        exported_by,
        endpoints,
        seals,
    } = before;
    let (None, Some(local)) = (
        input.catalog.exports.get(name),
        input.local.services.get(name),
    ) else {
        return false;
    };
    // Ports are sorted, and so is what is compared with, or it is not the same.
    local.ports.is_sorted_by(|a, b| a.port < b.port)
        && (*kind, ports) == (local.kind, &local.ports)
        && clusterset_ips.is_empty()
        && *cluster_ips == local.cluster_ips
        && exported_by.is_empty()
        && seals.is_empty()
        && endpoints.len() == local.endpoints.len()
        && local
            .endpoints
            .iter()
            .zip(endpoints)
            .all(|((id, now), before)| is_here(input.own, (id, now), before))
}

/// Whether an endpoint is what [`here`] makes.
fn is_here(own: &Own, (id, now): (&EndpointId, &LocalEndpoint), before: &Endpoint) -> bool {
    let LocalEndpoint {
        zone,
        weight,
        health,
        identity,
        address,
        hostname,
        ports,
        labels,
        targets,
    } = now;
    before.id == *id
        && before.cluster == own.cluster
        && before.region == own.region
        && (&before.zone, before.weight, before.health) == (zone, *weight, *health)
        && before.identity == *identity
        && before.address.as_ref() == Some(address)
        && (&before.hostname, &before.ports) == (hostname, ports)
        && (&before.labels, &before.targets) == (labels, targets)
}

/// The federation's word on a port stands; ports that are only here are added, for callers that are only here.
fn add_local_ports(ports: &mut Vec<ServicePort>, local: Option<&LocalService>) {
    for port in local.into_iter().flat_map(|l| l.ports.iter()) {
        if !ports.iter().any(|p| p.port == port.port) {
            ports.push(port.clone());
        }
    }
    ports.sort_by_key(|p| p.port);
}

fn here(own: &Own, id: &EndpointId, endpoint: &LocalEndpoint) -> Endpoint {
    Endpoint {
        id: id.clone(),
        cluster: own.cluster.clone(),
        region: own.region.clone(),
        zone: endpoint.zone.clone(),
        weight: endpoint.weight,
        health: endpoint.health,
        identity: endpoint.identity.clone(),
        address: Some(endpoint.address.clone()),
        hostname: endpoint.hostname.clone(),
        labels: endpoint.labels.clone(),
        ports: endpoint.ports.clone(),
        targets: endpoint.targets.clone(),
        mesh_ips: Vec::new(),
    }
}

/// One endpoint elsewhere; nothing for one whose account is no path, which nobody could verify.
fn remote(
    input: &Input<'_>,
    record: &ClusterRecord,
    id: &EndpointId,
    summary: &EndpointSummary,
) -> Option<Endpoint> {
    let domain = input.own.domain.trust_domain(&record.name);
    let same_network = record.network == input.own.network;
    Some(Endpoint {
        id: id.clone(),
        cluster: record.name.clone(),
        region: record.region.clone(),
        zone: summary.zone.clone(),
        weight: summary.weight,
        health: summary.health,
        identity: SpiffeId::from_path(&domain, &summary.account).ok()?,
        address: if same_network {
            summary.address.clone()
        } else {
            None
        },
        hostname: summary.hostname.clone(),
        labels: summary.labels.clone(),
        ports: summary.ports.clone(),
        targets: Targets::new(),
        mesh_ips: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
