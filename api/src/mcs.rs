//! What the Multi-Cluster Services API (KEP-1645) passes on of a Service, beside what the mesh itself acts on: it becomes
//! the ServiceImport in every cluster. Pure data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A transport protocol of a Service's port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// The only one that the mesh carries.
    #[default]
    Tcp,
    /// Passed on in imports.
    Udp,
    /// Passed on in imports.
    Sctp,
}

impl Protocol {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// A family of addresses, as Kubernetes writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family of an address.
    pub const fn of(ip: std::net::IpAddr) -> Self {
        match ip {
            std::net::IpAddr::V4(_) => Self::V4,
            std::net::IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A port of a Service, of whatever protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SpecPort {
    /// Its name; empty where the Service has one port without a name.
    pub name: String,
    /// TCP unless told.
    #[serde(default)]
    pub protocol: Protocol,
    /// What is spoken on it, as the Service says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// Its number.
    pub port: u16,
}

/// What an exporting cluster's Service and ServiceExport say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSpec {
    /// All ports, in the Service's order.
    pub ports: Vec<SpecPort>,
    /// Seconds for which a client stays with its endpoint (`sessionAffinity: ClientIP`); none without affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ip_affinity_s: Option<u32>,
    /// As the Service says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// As the Service says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    /// The Service's, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<IpFamily>,
    /// `exportedLabels` of the ServiceExport.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `exportedAnnotations` of the ServiceExport.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl ExportSpec {
    /// Bytes of its texts: what a store bounds it by.
    pub fn text_bytes(&self) -> usize {
        let pairs = self.labels.iter().chain(&self.annotations);
        let pairs: usize = pairs.map(|(k, v)| k.len() + v.len()).sum();
        let ports: usize = self
            .ports
            .iter()
            .map(|p| p.name.len() + p.app_protocol.as_ref().map_or(0, String::len))
            .sum();
        let words = [&self.internal_traffic_policy, &self.traffic_distribution];
        pairs + ports + words.into_iter().flatten().map(String::len).sum::<usize>()
    }
}
