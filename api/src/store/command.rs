//! What is asked of the store, and from which level on it is understood.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Blob, CONTROLLERS, ClusterRecord, ControllerRecord, EndpointSummary, Export, LABELS, RULES,
    SPEC, TokenRecord, Voting, first_level,
};
use crate::id::{ClusterName, Domain, EndpointId, NodeId, ServiceName};

/// A change asked of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// The first entry of a federation.
    Found {
        /// The federation's domain.
        domain: Domain,
        /// Root certificate, DER.
        root: Blob,
        /// The founding cluster, with its first node.
        cluster: ClusterRecord,
    },
    /// Admits a cluster: spends the token, gives a node id.
    Join {
        /// Token id; spent by this.
        token_id: String,
        /// The new member. `nodes`, `joined_at_ms` and `lease_at_ms` are filled at apply.
        cluster: ClusterRecord,
    },
    /// Sets the proposer's announced facts.
    Announce {
        /// Where its gateways are dialled.
        gateways: Vec<String>,
        /// The version it runs.
        version: String,
        /// The newest level it knows.
        #[serde(default = "first_level")]
        level: u16,
    },
    /// The proposer's sign of life.
    RenewLease,
    /// Drains or undrains a cluster. Any member may ask it for any active member: draining removes nothing.
    SetDraining {
        /// Which.
        cluster: ClusterName,
        /// True to drain.
        draining: bool,
    },
    /// The proposer leaves.
    Leave,
    /// Publishes one service of the proposer, whole.
    PutExport(Export),
    /// Publishes a change of endpoints of one service of the proposer.
    PatchExport {
        /// Which service.
        service: ServiceName,
        /// New or changed.
        upsert: BTreeMap<EndpointId, EndpointSummary>,
        /// Gone.
        remove: BTreeSet<EndpointId>,
    },
    /// Withdraws one service of the proposer.
    RemoveExport(ServiceName),
    /// Adds a join token.
    PutToken(TokenRecord),
    /// Takes a token back.
    RevokeToken(String),
    /// Says what is wanted of a node's vote. Any member may ask it for any node: it moves no data.
    SetVoting {
        /// Which node.
        node: NodeId,
        /// What is wanted.
        voting: Voting,
    },
    /// Takes a dead controller's node out of the store for good; its cluster stays a member. Any member may ask it.
    RemoveNode {
        /// Which node.
        node: NodeId,
    },
    /// Gives the proposer a new node id, for a controller that comes back without its store.
    AddNode {
        /// The id it had, which is gone from then on.
        replaces: Option<NodeId>,
    },
    /// Says what the proposer's exports add up to, so that every node can tell whether its copy is true.
    AttestExports {
        /// SHA-256 over them.
        digest: Blob,
        /// How many they are.
        count: u32,
    },
    /// Says to which key boxes for one of the proposer's controllers are sealed.
    PutNodeKey {
        /// The controller's node.
        node: NodeId,
        /// X25519, 32 bytes.
        public: Blob,
    },
    /// Publishes the proposer's next key for sealed names, or adds boxes to one that stands already.
    PutSealKey {
        /// Which; one more than the last.
        number: u64,
        /// X25519, 32 bytes.
        public: Blob,
        /// The private part, sealed to the proposer's controllers, by their nodes.
        boxes: BTreeMap<NodeId, Blob>,
        /// Nobody can open the boxes of the keys before it any more: they go.
        #[serde(default)]
        alone: bool,
    },
    /// Gives the proposer a further node, for one more controller beside those that it has.
    AddController {
        /// What the others need of it.
        controller: ControllerRecord,
    },
    /// Says where one of the proposer's controllers is dialled, and what it knows.
    PutController {
        /// Its node.
        node: NodeId,
        /// `host:port`, as [`ControllerRecord::address`].
        address: String,
        /// The newest level it knows.
        level: u16,
    },
    /// The sign of life of the controller that speaks for the proposer, or that wants to: it does where nobody else does.
    Speak {
        /// Its node.
        node: NodeId,
    },
    /// Notes in the log of changes that somebody moved the lead. It changes nothing else: who leads is not in the store.
    NoteTransfer {
        /// Who leads since.
        to: NodeId,
    },
}

impl Command {
    /// The level from which on this command is understood, see [`LEVEL`].
    pub fn level(&self) -> u16 {
        match self {
            Self::Found { .. }
            | Self::Join { .. }
            | Self::Announce { .. }
            | Self::RenewLease
            | Self::SetDraining { .. }
            | Self::Leave
            | Self::RemoveExport(_)
            | Self::PutToken(_)
            | Self::RevokeToken(_) => 1,
            Self::PutExport(export) if export.spec.is_some() => SPEC,
            Self::PutExport(export) if export.rules.is_some() => RULES,
            Self::PutExport(export) => with_labels(export.endpoints.values()),
            Self::PatchExport { upsert, .. } => with_labels(upsert.values()),
            Self::SetVoting { .. }
            | Self::RemoveNode { .. }
            | Self::AddNode { .. }
            | Self::AttestExports { .. } => 2,
            Self::PutNodeKey { .. } | Self::PutSealKey { .. } => 3,
            Self::NoteTransfer { .. } => 4,
            Self::AddController { .. } | Self::PutController { .. } | Self::Speak { .. } => {
                CONTROLLERS
            }
        }
    }
}

/// The level of a command about these endpoints.
fn with_labels<'a>(mut endpoints: impl Iterator<Item = &'a EndpointSummary>) -> u16 {
    if endpoints.any(|e| !e.labels.is_empty()) {
        LABELS
    } else {
        1
    }
}

/// A command as it stands in the log: who asked, and when the leader took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// The authenticated proposer.
    pub proposer: ClusterName,
    /// Unix ms by the leader's clock. Apply reads no clock.
    pub at_ms: u64,
    /// What is asked.
    pub command: Command,
    /// Who asked the proposer for it, where somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}
