//! How one controller's store reaches another's: a trait that the controller implements over its gateways. Payloads are
//! opaque frames of `codec`; the implementation knows addresses and certificates, and nothing of Raft.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use tradewind_api::{ClusterName, NodeId};

/// Why a call to a peer gave no answer. It matters which: only an undelivered request may be sent again blindly.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// The request was certainly not delivered.
    #[error("cluster {cluster} is unreachable: {cause}")]
    Unreachable {
        /// Whom we called.
        cluster: ClusterName,
        /// What stood in the way.
        cause: String,
    },
    /// No answer in time, or the connection broke: the request may have been carried out.
    #[error("cluster {cluster} gave no answer: {cause}")]
    NoAnswer {
        /// Whom we called.
        cluster: ClusterName,
        /// What happened.
        cause: String,
    },
    /// The peer answered that it will not: its `HandleError`, or it does not know us.
    #[error("cluster {cluster} refused: {cause}")]
    Refused {
        /// Whom we called.
        cluster: ClusterName,
        /// Its words.
        cause: String,
    },
}

/// What a peer's store is called for, but for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Entries of the leader, or its sign of life: `Store::handle_append`.
    Append,
    /// A vote: `Store::handle_vote`.
    Vote,
    /// Whether it would vote: `Store::handle_pre_vote`.
    PreVote,
    /// A write or a question to the leader: `Store::handle_propose`.
    Propose,
}

/// Carries frames between stores. Both methods end within `deadline`; the answer is the frame that the peer's store
/// returned.
#[async_trait]
pub trait PeerTransport: Send + Sync + std::fmt::Debug + 'static {
    /// For the peer's `Store::handle`, or that which `call` names.
    async fn call(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        call: Call,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError>;

    /// For `Store::handle_install_snapshot`: streams the file at `file` after `header`.
    async fn install_snapshot(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        header: Vec<u8>,
        file: &Path,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError>;
}
