//! Members, how a newcomer is let in, and what an operator wants of a node's vote.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Blob, first_level};
use crate::{
    id::{ClusterName, Network, NodeId, Region},
    model::ClusterState,
};

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its name.
    pub name: ClusterName,
    /// Its region.
    pub region: Region,
    /// Its network; its own name unless it shares one.
    pub network: Network,
    /// Where its gateways are dialled, sorted.
    pub gateways: Vec<String>,
    /// Its standing.
    pub state: ClusterState,
    /// Its controllers' node ids.
    pub nodes: BTreeSet<NodeId>,
    /// Accepted authority certificates, DER.
    pub authorities: BTreeSet<Blob>,
    /// The version its controller runs.
    pub version: String,
    /// When it joined, Unix ms.
    pub joined_at_ms: u64,
    /// Last sign of life, Unix ms, stamped by the leader.
    pub lease_at_ms: u64,
    /// The newest level its controller knows, see [`LEVEL`].
    #[serde(default = "first_level")]
    pub level: u16,
    /// True for a voter without a cluster: it runs and exports nothing.
    #[serde(default)]
    pub witness: bool,
}

/// A join token. Only its hash is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Public id, shown in lists.
    pub id: String,
    /// SHA-256 of the secret.
    pub secret_sha256: Blob,
    /// Only this cluster may use it, if set.
    pub cluster: Option<ClusterName>,
    /// Unix ms.
    pub expires_at_ms: u64,
    /// Who used it and when; it is good for one use.
    pub used: Option<(ClusterName, u64)>,
}

/// What an operator wants of a node's vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Voting {
    /// The leader chooses.
    #[default]
    Auto,
    /// It votes before any other of its kind.
    Preferred,
    /// It only listens.
    Never,
}
