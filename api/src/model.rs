//! The domain model: what a service, an endpoint and a cluster are, wherever they are spoken of.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    id::{ClusterName, EndpointId, Network, NodeId, Region, ServiceName, SpiffeId, Zone},
    seal::SealedPort,
    traffic::Labels,
};

/// What is known of an endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Its own check passes.
    Healthy,
    /// Its own check fails.
    Unhealthy,
    /// Its sign of life is old. Unknown is not dead: it is called when nothing better exists.
    Unknown,
    /// Asked to take nothing new.
    Draining,
}

impl Health {
    /// The word that tables and JSON show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
            Self::Draining => "draining",
        }
    }

    /// By the conditions of an EndpointSlice's endpoint. Kubernetes reads an unset `ready` as true, and an unset `serving` as `ready`.
    pub fn of_conditions(
        ready: Option<bool>,
        serving: Option<bool>,
        terminating: Option<bool>,
    ) -> Self {
        let ready = ready.unwrap_or(true);
        if terminating == Some(true) {
            Self::Draining
        } else if ready || serving.unwrap_or(ready) {
            Self::Healthy
        } else {
            Self::Unhealthy
        }
    }
}

/// What a service port speaks to its application.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum AppProtocol {
    /// Found out from the first bytes.
    #[default]
    Detect,
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 in clear (h2c), gRPC among it.
    Http2,
    /// Any bytes; never looked at.
    Tcp,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty where a service has one unnamed port.
    pub name: String,
    /// The number callers use.
    pub port: u16,
    /// What is spoken on it.
    #[serde(default)]
    pub app_protocol: AppProtocol,
}

/// How a service is addressed (MCS API).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// By one clusterset IP.
    #[default]
    ClusterSetIp,
    /// By its endpoints' names.
    Headless,
}

/// A member's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterState {
    /// Takes part.
    Active,
    /// Serves nothing to others while anybody else can.
    Draining,
    /// Gone by its own will; its authorities are out of the trust map.
    Left,
}

impl ClusterState {
    /// The word that tables and JSON show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Left => "left",
        }
    }
}

/// One endpoint as a proxy, gateway or DNS server of one cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id, unique in the federation.
    pub id: EndpointId,
    /// The cluster it runs in.
    pub cluster: ClusterName,
    /// That cluster's region.
    pub region: Region,
    /// Its zone, if it told one.
    pub zone: Option<Zone>,
    /// Relative capacity, 1 to 65535; 100 unless told.
    pub weight: u32,
    /// What its own cluster says of it.
    pub health: Health,
    /// The identity it must prove.
    pub identity: SpiffeId,
    /// `host:port` of its HBONE listener, where the reader may dial it without a gateway.
    pub address: Option<String>,
    /// Its name in a headless service; the id when it has none.
    pub hostname: Option<String>,
    /// The service ports it serves, sorted.
    pub ports: Vec<u16>,
    /// Its workload's labels: subsets are chosen by them.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Where its application listens, by service port. Only in its own cluster, and only where its proxy learns it from the controller.
    #[serde(default, skip_serializing_if = "Targets::is_empty")]
    pub targets: Targets,
    /// Addresses that stand for this endpoint alone in the reader's cluster, one of each family: of a headless service's endpoint whose own
    /// address means nothing there. Proxies lead whoever dials one to it; to anybody else they are nobody's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mesh_ips: Vec<std::net::IpAddr>,
}

impl Endpoint {
    /// The addresses that lead the reader's captured callers to it: its own where he may dial it, else what stands for it. None where
    /// its own is a name.
    pub fn ips(&self) -> Vec<std::net::IpAddr> {
        match &self.address {
            Some(own) => own
                .parse::<std::net::SocketAddr>()
                .map(|at| vec![at.ip()])
                .unwrap_or_default(),
            None => self.mesh_ips.clone(),
        }
    }
}

/// Ports of an application, by the service port that leads to each.
pub type Targets = BTreeMap<u16, u16>;

/// One service as one cluster sees it: the merge of all exports, or a local service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// How it is addressed.
    pub kind: ServiceKind,
    /// Its stable address in the whole clusterset (at most one IPv4 and one IPv6); empty when headless or only local.
    pub clusterset_ips: Vec<std::net::IpAddr>,
    /// The addresses that it has in the reader's own cluster alone, as its API server gave them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<std::net::IpAddr>,
    /// United ports, sorted by number.
    pub ports: Vec<ServicePort>,
    /// Who exports it; empty for a service that is only local.
    pub exported_by: BTreeSet<ClusterName>,
    /// All endpoints, sorted by id.
    pub endpoints: Vec<Endpoint>,
    /// What names its ports at other clusters' gateways, sorted.
    #[serde(default)]
    pub seals: Vec<SealedPort>,
}

impl Service {
    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == number)
    }

    /// What names this port at that cluster's gateways.
    pub fn seal(&self, cluster: &ClusterName, port: u16) -> Option<&SealedPort> {
        self.seals
            .iter()
            .find(|s| s.port == port && s.cluster == *cluster)
    }
}

/// One member as one cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// Its region.
    pub region: Region,
    /// Its network.
    pub network: Network,
    /// Its standing.
    pub state: ClusterState,
    /// `host:port` of its gateways, as others dial them, sorted.
    pub gateways: Vec<String>,
    /// Its lease is overdue: demoted and shown, never deleted.
    pub lease_expired: bool,
    /// It is the reader's own cluster.
    pub local: bool,
    /// Its gateways take sealed names alone.
    #[serde(default)]
    pub sealed_only: bool,
    /// How far it is from the reader's own cluster, µs, once that is known. For whoever has not measured it himself.
    #[serde(default)]
    pub round_trip_us: Option<u64>,
    /// Where its controllers are dialled, `host:port` by node: of the reader's own cluster alone, where they said so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub controllers: BTreeMap<NodeId, String>,
}
