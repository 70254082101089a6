//! What a store knows of itself, as plain values for listings, readiness and metrics. Read-only.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tradewind_api::{ClusterName, NodeId};

/// One node's view of the store, right now, whether or not there is a leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// This node.
    pub node_id: NodeId,
    /// The term it is in.
    pub term: u64,
    /// The leader it follows, itself among them. The last known one where none was heard of for a while: see
    /// `leader_age_ms`.
    pub leader: Option<NodeId>,
    /// The last log index it holds.
    pub last_log: Option<u64>,
    /// The last log index it applied.
    pub applied: Option<u64>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// The same as sets of which each must agree: one, or two while the voters are changed.
    pub electorates: Vec<BTreeSet<NodeId>>,
    /// Who only listens.
    pub learners: BTreeSet<NodeId>,
    /// On the leader: how many entries each other node trails; `None` for one that confirmed nothing yet. Empty elsewhere.
    pub trails: BTreeMap<NodeId, Option<u64>>,
    /// On the leader: how long ago each other node last answered, ms; nodes that never did are missing. Empty elsewhere.
    pub answered_ms: BTreeMap<NodeId, u64>,
    /// What 99 of 100 of this node's last flushes to disk stayed within, µs.
    pub fsync_p99_us: Option<u64>,
    /// When the leader was last heard of, ms ago; on the leader, when a majority last confirmed it.
    pub leader_age_ms: Option<u64>,
    /// True when a write would most likely be taken: the leader's sign is fresh.
    pub can_write: bool,
    /// How long the disk has been at the write that it does now, ms; `None` where nothing waits for it.
    pub disk_busy_ms: Option<u64>,
    /// The clusters whose exports this node's copy does not hold as their owner attests them.
    pub differs: BTreeSet<ClusterName>,
    /// Why the store stopped, if it did.
    pub stopped: Option<String>,
}

/// What a node says of itself when another cluster's controller asks how it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// The node.
    pub node_id: NodeId,
    /// The term it is in.
    pub term: u64,
    /// The leader it heard of lately.
    pub leader: Option<NodeId>,
    /// The last log index it holds.
    pub last_log: Option<u64>,
    /// The last log index it applied.
    pub applied: Option<u64>,
    /// What 99 of 100 of its last flushes to disk stayed within, µs.
    pub fsync_p99_us: Option<u64>,
    /// The newest level of store commands that it knows.
    pub level: u16,
}
