//! What a cluster offers the others: one service, as it publishes it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    id::{EndpointId, ServiceName, Zone},
    mcs::ExportSpec,
    model::{Health, ServiceKind, ServicePort},
    traffic::Labels,
};

/// One exported service of one cluster, as that cluster publishes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The service.
    pub service: ServiceName,
    /// When it was first exported, Unix ms: the oldest export wins conflicts.
    pub created_at_ms: u64,
    /// How it is addressed.
    pub kind: ServiceKind,
    /// Its ports, sorted by number.
    pub ports: Vec<ServicePort>,
    /// Its endpoints.
    pub endpoints: BTreeMap<EndpointId, EndpointSummary>,
    /// What its callers everywhere do with requests, as the exporter says. Since level 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Arc<PublishedRules>>,
    /// What a ServiceImport says of it; none where it is exported by a cluster that is not Kubernetes. Since level 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Arc<ExportSpec>>,
}

/// An exporter's rules for the calls of everybody. The store does not look into them, so that a member which knows less of rules
/// than another can still read every entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRules {
    /// The version of the route model that they need, see [`crate::route::FORMAT`]. Whoever knows less leaves them.
    pub format: u16,
    /// [`crate::route::Routes`] as JSON.
    pub json: String,
}

/// What other clusters may know of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSummary {
    /// Its zone.
    pub zone: Option<Zone>,
    /// Relative capacity.
    pub weight: u32,
    /// What its own cluster says of it.
    pub health: Health,
    /// SPIFFE path of its identity, `/ns/<ns>/sa/<sa>`; the trust domain is the exporter's.
    pub account: String,
    /// Its name in a headless service.
    pub hostname: Option<String>,
    /// `host:port` of its HBONE listener; published only by a cluster that shares its network.
    pub address: Option<String>,
    /// Service ports it serves, sorted.
    pub ports: Vec<u16>,
    /// Its workload's labels, for subsets that callers elsewhere choose by. Since level 5.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}
