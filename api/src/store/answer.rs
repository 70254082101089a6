//! What became of a command: done, or refused and why.

use serde::{Deserialize, Serialize};

use crate::id::{ClusterName, Domain, NodeId, ServiceName};

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
