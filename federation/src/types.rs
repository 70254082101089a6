//! The types that bind openraft to this store: what a log entry carries, what a node is, and openraft's own types under
//! short names. No logic; a later openraft changes this file and the adapters beside it, not what lies on disk.

use std::sync::Arc;

use openraft::declare_raft_types;
use serde::{Deserialize, Serialize};
use tradewind_api::{
    ClusterName, NodeId,
    store::{Outcome, Stamped},
};

/// What one log entry carries: the commands that waited together, so that one fsync serves them all. They apply in
/// order and share a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The commands, oldest first. Shared: replication to each follower and apply all read the entry from memory.
    pub commands: Arc<Vec<Stamped>>,
}

/// What a log entry gave: one outcome for each command, in order; nothing for entries of openraft's own.
pub type Outcomes = Vec<Outcome>;

/// What the membership says of a node: whose it is. Where it is reached is the catalog's business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftNode {
    /// Its cluster. `None` only where openraft made the node up from a bare id.
    pub cluster: Option<ClusterName>,
}

impl RaftNode {
    /// A node of `cluster`.
    pub const fn new(cluster: ClusterName) -> Self {
        Self {
            cluster: Some(cluster),
        }
    }
}

declare_raft_types!(
    /// openraft's view of this store.
    pub TypeConfig:
        D = Batch,
        R = Outcomes,
        NodeId = NodeId,
        Node = RaftNode,
        SnapshotData = crate::snapshot::Content,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type Membership = openraft::Membership<NodeId, RaftNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, RaftNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, RaftNode>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type Metrics = openraft::RaftMetrics<NodeId, RaftNode>;
