//! What the federation store holds and the commands that change it, as domain types. The `federation` crate applies
//! them; controllers propose them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    id::{ClusterName, Domain, EndpointId, Network, NodeId, Region, ServiceName, Zone},
    mcs::ExportSpec,
    model::{ClusterState, Health, ServiceKind, ServicePort},
    traffic::Labels,
};

/// The newest level of commands and formats that this build knows.
///
/// A federation stands at the lowest level that all its members know, and never goes back: no command above it enters the
/// log, so that a member one version behind reads every entry, and nobody may join who knows less.
///
/// | level | brought |
/// |---|---|
/// | 1 | founding, joining, exports, leases, draining, tokens |
/// | 2 | voting preferences, nodes that go and come, attested exports, the audit log |
/// | 3 | keys for sealed names, writes that go to the leader together |
/// | 4 | transfers of the lead in the audit log |
/// | 5 | labels of endpoints, rules that are published with an export |
/// | 6 | what the Multi-Cluster Services API passes on of a Service |
/// | 7 | several controllers of one cluster: their addresses and authorities, and which of them speaks |
pub const LEVEL: u16 = 7;

/// What a record that names no level was written by.
const fn first_level() -> u16 {
    1
}

/// A certificate or another run of bytes, as base64 text where it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blob(pub Vec<u8>);

impl TryFrom<String> for Blob {
    type Error = data_encoding::DecodeError;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        data_encoding::BASE64.decode(s.as_bytes()).map(Self)
    }
}
impl From<Blob> for String {
    fn from(b: Blob) -> Self {
        data_encoding::BASE64.encode(&b.0)
    }
}

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

/// One change that somebody asked for and got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Where it stands in the log.
    pub revision: u64,
    /// When the leader took it, Unix ms.
    pub at_ms: u64,
    /// The cluster whose controller asked.
    pub proposer: ClusterName,
    /// Who asked that controller, as it authenticated them. `None` where it acted by itself.
    pub actor: Option<String>,
    /// What was done, such as `drain` or `export`.
    pub action: String,
    /// To what.
    pub subject: String,
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

/// The level from which on endpoints have labels.
pub const LABELS: u16 = 5;
/// The level from which on exports have rules.
pub const RULES: u16 = 5;
/// From this level on exports carry what the Multi-Cluster Services API passes on.
pub const SPEC: u16 = 6;
/// From this level on a cluster may have several controllers.
pub const CONTROLLERS: u16 = 7;

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

/// What applying a command gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Done, at this revision.
    Done {
        /// The store's revision after it.
        revision: u64,
        /// False when nothing had to change.
        changed: bool,
    },
    /// A cluster was admitted.
    Joined {
        /// The store's revision after it.
        revision: u64,
        /// The new controller's node id.
        node_id: NodeId,
    },
    /// Not done, and never will be as it stands.
    Refused(Refusal),
}

/// Why the store refused a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The federation was founded already.
    #[error("this store already holds the federation {0}")]
    AlreadyFounded(Domain),
    /// Nothing was founded yet.
    #[error("this store holds no federation yet")]
    NotFounded,
    /// The proposer is no member, or has left.
    #[error("cluster {0} is not a member of this federation")]
    NotMember(ClusterName),
    /// The name is taken.
    #[error("the name {0} is taken by a member of this federation")]
    NameTaken(ClusterName),
    /// No such token, or it was revoked.
    #[error("there is no such token; it may have been revoked")]
    UnknownToken,
    /// Spent.
    #[error("the token was used already, by cluster {0}")]
    TokenUsed(ClusterName),
    /// Too late.
    #[error("the token expired {0} s ago")]
    TokenExpired(u64),
    /// Bound to another name.
    #[error("the token is good for cluster {0} only")]
    TokenForOther(ClusterName),
    /// No such export of the proposer.
    #[error("cluster {cluster} does not export {service}")]
    NotExported {
        /// The proposer.
        cluster: ClusterName,
        /// The service.
        service: ServiceName,
    },
    /// A bound was met.
    #[error("{what} would pass its limit of {limit}")]
    TooMuch {
        /// What is bounded.
        what: String,
        /// The bound.
        limit: u64,
    },
    /// The command holds something that cannot stand.
    #[error("{what} is not valid: expected {expected}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// What was expected instead.
        expected: String,
    },
    /// The last active cluster cannot be drained.
    #[error("{0} is the last cluster that serves; draining it would leave nobody")]
    LastActive(ClusterName),
    /// The founding cluster holds the root's key.
    #[error("{0} holds the root key and cannot leave while other clusters are members")]
    HoldsRoot(ClusterName),
    /// The newcomer would not understand what is in the store.
    #[error(
        "cluster {cluster} knows level {has}, this federation stands at level {needs}: upgrade it first"
    )]
    TooOld {
        /// Who.
        cluster: ClusterName,
        /// What it knows.
        has: u16,
        /// Where the federation stands.
        needs: u16,
    },
    /// A member would not understand the command.
    #[error(
        "this needs level {needs}, and the federation stands at level {has}: upgrade the other clusters first"
    )]
    NotYet {
        /// What the command needs.
        needs: u16,
        /// Where the federation stands.
        has: u16,
    },
    /// No member has such a node.
    #[error("no member has a node {0}")]
    UnknownNode(NodeId),
    /// The store's copy of a cluster's exports is not what that cluster says it is.
    #[error(
        "the exports of {cluster} differ from what it attests: {found} here, {attested} attested"
    )]
    DigestMismatch {
        /// Whose.
        cluster: ClusterName,
        /// How many exports the store holds.
        found: u32,
        /// How many it attested.
        attested: u32,
    },
    /// A witness only votes.
    #[error("{0} is a witness: it votes, and exports nothing")]
    IsWitness(ClusterName),
}
