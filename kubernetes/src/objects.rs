//! What is kept of each object: what the mesh needs and no more, so that memory goes with what is used and not with what people write
//! into their manifests. Pure.
//!
//! Owns the collection of all objects that one cluster's API server told of. A kind counts once it was listed whole; a list that
//! is begun anew takes nothing away before it is complete.

mod all;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tradewind_api::{
    ServiceName,
    mcs::{IpFamily, SpecPort},
};

use crate::managed::Resource;

pub use all::{Change, Objects, Touched};

/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Empty for what belongs to the whole cluster.
    pub namespace: String,
    /// Within its namespace.
    pub name: String,
}

impl Key {
    /// Of these two.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The service of that name; none for names that no service can have.
    pub fn service(&self) -> Option<ServiceName> {
        ServiceName::new(&self.namespace, &self.name).ok()
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl From<&ServiceName> for Key {
    fn from(name: &ServiceName) -> Self {
        Self::new(name.namespace.as_str(), name.name())
    }
}

/// Which objects are watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Service (v1).
    Service,
    /// EndpointSlice (discovery.k8s.io/v1) of the cluster's own Services.
    Slice,
    /// Pod (v1) with a proxy.
    Pod,
    /// Pod (v1) without one: its name alone.
    Bare,
    /// Namespace (v1).
    Namespace,
    /// ServiceExport (multicluster.x-k8s.io).
    Export,
    /// Routes and traffic policies, by `Kind.group`.
    Rule(String),
    /// What is kept here itself.
    Owned(Resource),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::Slice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Bare => "Pod without a proxy",
            Self::Namespace => "Namespace",
            Self::Export => "ServiceExport",
            Self::Rule(name) => name,
            Self::Owned(resource) => resource.names()[2],
        })
    }
}

/// How a Service is addressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Type {
    /// By an address of its own: ClusterIP, NodePort, LoadBalancer.
    #[default]
    ClusterIp,
    /// By its endpoints.
    Headless,
    /// A name elsewhere: nothing that a mesh can serve.
    ExternalName,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// How it is addressed.
    pub kind: Type,
    /// Its addresses; none for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// In its order.
    pub ip_families: Vec<IpFamily>,
    /// In its order.
    pub ports: Vec<SpecPort>,
    /// Seconds, with `sessionAffinity: ClientIP`.
    pub client_ip_affinity_s: Option<u32>,
    /// As written.
    pub internal_traffic_policy: Option<String>,
    /// As written.
    pub traffic_distribution: Option<String>,
}

/// A port that a slice's endpoints serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// The Service's port of the same name leads to it.
    pub name: String,
    /// The port of the Pod.
    pub port: u16,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// Where it is.
    pub ip: IpAddr,
    /// It takes calls.
    pub ready: bool,
    /// It is ready but for its termination.
    pub serving: bool,
    /// It is on its way out.
    pub terminating: bool,
    /// Its name in a headless service.
    pub hostname: Option<String>,
    /// Its node's zone.
    pub zone: Option<String>,
    /// The Pod that it is.
    pub pod: Option<String>,
}

/// An EndpointSlice. Ports that are not TCP are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Whose endpoints.
    pub service: Key,
    /// What they serve.
    pub ports: Vec<SlicePort>,
    /// Who they are.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A Pod that has a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its service account.
    pub account: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It is on its way out: nothing may be put into it.
    pub terminating: bool,
}

/// A ServiceExport.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Which of all objects that ever had this name.
    pub uid: String,
    /// Unix ms, in whole seconds.
    pub created_at_ms: u64,
    /// Counts changes of its spec.
    pub generation: i64,
    /// `spec.exportedLabels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.exportedAnnotations`.
    pub annotations: BTreeMap<String, String>,
    /// `status.conditions`, as they stand.
    pub conditions: Vec<Condition>,
}

/// A condition as Kubernetes has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    #[serde(default)]
    pub reason: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// The generation it was said of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed, RFC 3339.
    #[serde(default)]
    pub last_transition_time: String,
}

/// A route or a traffic policy, whole but for what the API server itself adds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// As it was written, and which generation it is.
    pub object: Value,
    /// `status.parents`, as they stand, of a route of Gateway API.
    #[serde(default)]
    pub parents: Vec<Value>,
}

/// One object of any watched kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    Slice(Slice),
    /// A Pod.
    Pod(Pod),
    /// A Pod without a proxy.
    Bare,
    /// A Namespace.
    Namespace(Namespace),
    /// A ServiceExport.
    Export(Export),
    /// A route or a policy.
    Rule(Arc<Rule>),
    /// What is kept here itself.
    Owned(Resource, Arc<Value>),
}
