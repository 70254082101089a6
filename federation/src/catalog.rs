//! The federation's replicated state and the one function that changes it.
//!
//! Everything here is a pure function of (catalog, command, leader's time): no clock, no randomness, no I/O, no hash map
//! whose order could differ between two nodes. Two nodes that apply the same log hold the same bytes. The catalog owns
//! members, exports, clusterset addresses and join tokens; it never holds a secret in clear or a remote pod's address.

mod addresses;
mod apply;
mod audit;
mod changes;
mod controllers;
mod digest;
mod limits;
mod map;
mod merge;
mod nodes;
mod seals;
mod validate;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tradewind_api::{
    ClusterName, Domain, NodeId, ServiceName,
    model::ClusterState,
    snapshot::Trust,
    store::{
        AuditEntry, Blob, ClusterRecord, ControllersRecord, Export, SealRecord, TokenRecord, Voting,
    },
};

pub use audit::MAX_AUDIT;
pub use changes::{Event, Key, Value};
pub use digest::digest_exports;
pub use limits::{
    MAX_CLUSTERS, MAX_ENDPOINTS_PER_EXPORT, MAX_EXPORTS_PER_CLUSTER, MAX_GATEWAYS_PER_CLUSTER,
    MAX_LEFT_CLUSTERS, MAX_NODES_PER_CLUSTER, MAX_PORTS_PER_EXPORT, MAX_RULES_BYTES, MAX_SERVICES,
    MAX_SPARE_ADDRESSES, MAX_TEXT, MAX_TOKENS,
};
pub use map::SharedMap;
pub use merge::{Conflict, Merged};
pub use validate::Violation;

/// All exports of one service, by exporter.
pub type ByExporter = BTreeMap<ClusterName, Arc<Export>>;

/// An address kept for a service that nobody exports at present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spare {
    /// The addresses it had.
    pub ips: Vec<IpAddr>,
    /// Since when nobody exports it, Unix ms by the leaders' clocks.
    pub since_ms: u64,
}

/// What every member knows of the federation. Cloning copies a few reference counts; a later change copies only
/// what it touches: a small map, or the path to one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// The log index this state reflects.
    pub revision: u64,
    /// The latest leader's time seen, Unix ms. It never goes back, whatever the leaders' clocks do.
    pub at_ms: u64,
    /// The federation's domain.
    pub domain: Domain,
    /// Root certificates, DER. Empty until founded.
    pub roots: Arc<BTreeSet<Blob>>,
    /// The cluster that holds the root's key. `None` until founded.
    pub founder: Option<ClusterName>,
    /// Members by name, those that left among them (for a while).
    pub clusters: Arc<BTreeMap<ClusterName, ClusterRecord>>,
    /// Exports by service, then by exporter. No service without an exporter stands here.
    pub exports: SharedMap<ServiceName, Arc<ByExporter>>,
    /// How many services each cluster exports.
    pub export_counts: Arc<BTreeMap<ClusterName, u32>>,
    /// Stable addresses of the services in `exports`.
    pub clusterset_ips: SharedMap<ServiceName, Vec<IpAddr>>,
    /// Addresses of services that were exported once, kept for their return.
    pub spare_ips: SharedMap<ServiceName, Spare>,
    /// Join tokens by id.
    pub tokens: Arc<BTreeMap<String, TokenRecord>>,
    /// The next node id to give away; ids below it are never given again.
    pub next_node_id: NodeId,
    /// Which level of commands its members have in common, see `api::store::LEVEL`. 0 until founded.
    #[serde(default)]
    pub level: u16,
    /// Nodes whose vote an operator has a wish for.
    #[serde(default)]
    pub voting: Arc<BTreeMap<NodeId, Voting>>,
    /// The newest changes that people asked for, oldest first.
    #[serde(default)]
    pub audit: Arc<VecDeque<Arc<AuditEntry>>>,
    /// Since when the federation stands at its level, Unix ms by the leaders' clocks; 0 where it was founded there.
    #[serde(default)]
    pub level_since_ms: u64,
    /// What members published for sealed names.
    #[serde(default)]
    pub seals: Arc<BTreeMap<ClusterName, Arc<SealRecord>>>,
    /// The controllers of clusters that said something of them.
    #[serde(default, skip_serializing_if = "nothing")]
    pub controllers: Arc<BTreeMap<ClusterName, Arc<ControllersRecord>>>,
}

/// Nothing is written of what no member knows yet, so that all of them hold the same bytes.
fn nothing(controllers: &Arc<BTreeMap<ClusterName, Arc<ControllersRecord>>>) -> bool {
    controllers.is_empty()
}

impl Catalog {
    /// True once `Command::Found` was applied.
    pub fn is_founded(&self) -> bool {
        self.founder.is_some()
    }

    /// A cluster that is a member now: known, and not left.
    pub fn member(&self, cluster: &ClusterName) -> Option<&ClusterRecord> {
        self.clusters
            .get(cluster)
            .filter(|c| c.state != ClusterState::Left)
    }

    /// All present members.
    pub fn members(&self) -> impl Iterator<Item = &ClusterRecord> {
        self.clusters
            .values()
            .filter(|c| c.state != ClusterState::Left)
    }

    /// Which member a node belongs to.
    pub fn cluster_of(&self, node: NodeId) -> Option<&ClusterName> {
        self.members()
            .find(|c| c.nodes.contains(&node))
            .map(|c| &c.name)
    }

    /// One export.
    pub fn export(&self, service: &ServiceName, cluster: &ClusterName) -> Option<&Arc<Export>> {
        self.exports.get(service)?.get(cluster)
    }

    /// All exports of one cluster.
    pub fn exports_of<'a>(
        &'a self,
        cluster: &'a ClusterName,
    ) -> impl Iterator<Item = &'a Arc<Export>> {
        self.exports.values().filter_map(|by| by.get(cluster))
    }

    /// Roots and the accepted authorities of every member. A cluster that left is missing, and so is revoked.
    pub fn trust(&self) -> Trust {
        Trust {
            domain: self.domain.clone(),
            roots: self.roots.iter().map(|b| b.0.clone()).collect(),
            authorities: self
                .members()
                .map(|c| {
                    let ders = c.authorities.iter().map(|b| b.0.clone()).collect();
                    (self.domain.trust_domain(&c.name), ders)
                })
                .collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
