//! The controllers of one cluster, where it has several: where each is, and which of them publishes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Blob;
use crate::id::NodeId;

/// What the others need of one of a cluster's controllers. Since level 7.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRecord {
    /// `host:port` at which its own cluster's gateways, proxies and other controllers dial it.
    pub address: String,
    /// The newest level that it knows: the cluster knows no more than each of them.
    pub level: u16,
    /// Its own authority, DER, where it came after the cluster's first one. It goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Blob>,
}

/// Which controller publishes for its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speaker {
    /// Its node.
    pub node: NodeId,
    /// When it last said so, Unix ms by the leaders' clocks.
    pub at_ms: u64,
}

/// A cluster's controllers, where it has or had several. Since level 7.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllersRecord {
    /// By node. One that says nothing of itself is missing.
    pub nodes: BTreeMap<NodeId, ControllerRecord>,
    /// Who speaks; none where nobody ever had to be told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<Speaker>,
    /// Authorities of controllers that are gone, and since when, Unix ms: accepted until the last certificate below them is over.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub retiring: BTreeMap<Blob, u64>,
}

/// How long a cluster's speaker may be silent before another of its controllers takes its place, ms by the leaders' clocks:
/// three of its signs of life.
pub const SPEAKER_MS: u64 = 6_000;
