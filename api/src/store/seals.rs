//! Keys for sealed names, as the store keeps them: see [`crate::seal`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Blob;
use crate::id::NodeId;

/// One of a cluster's keys for sealed names: the public part, and the private part in boxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealKeyRecord {
    /// Which of the cluster's keys; the next one has the next number.
    pub number: u64,
    /// X25519, 32 bytes.
    pub public: Blob,
    /// When it was put here, Unix ms by the leader's clock.
    pub published_at_ms: u64,
    /// The private part, sealed to the cluster's own controllers, by their nodes.
    pub boxes: BTreeMap<NodeId, Blob>,
}

/// What a cluster needs the others to know for sealed names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealRecord {
    /// The keys that boxes are sealed to, X25519, by the controllers' nodes.
    pub node_keys: BTreeMap<NodeId, Blob>,
    /// The keys that are in use, oldest first.
    pub keys: Vec<SealKeyRecord>,
}
