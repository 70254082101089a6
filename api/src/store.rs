//! What the federation store holds and the commands that change it, as domain types. The `federation` crate applies
//! them; controllers propose them.
//!
//! Their names and fields are what stands in logs and snapshots: what is added has a default, and a level where older members would
//! not understand it.

mod answer;
mod command;
mod controllers;
mod export;
mod member;
mod seals;

use serde::{Deserialize, Serialize};

use crate::id::ClusterName;

pub use answer::{Outcome, Refusal};
pub use command::{Command, Stamped};
pub use controllers::{ControllerRecord, ControllersRecord, SPEAKER_MS, Speaker};
pub use export::{EndpointSummary, Export, PublishedRules};
pub use member::{ClusterRecord, TokenRecord, Voting};
pub use seals::{SealKeyRecord, SealRecord};

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

/// The level from which on endpoints have labels.
pub const LABELS: u16 = 5;
/// The level from which on exports have rules.
pub const RULES: u16 = 5;
/// From this level on exports carry what the Multi-Cluster Services API passes on.
pub const SPEC: u16 = 6;
/// From this level on a cluster may have several controllers.
pub const CONTROLLERS: u16 = 7;

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
