//! What can go wrong with a store, each error naming the thing, what was expected and what helps. No behaviour.

use std::{path::PathBuf, time::Duration};

use tradewind_api::{ClusterName, NodeId};
use tradewind_runtime::{dirs::DirError, files::FileError};

use crate::codec::CodecError;

/// The store cannot be opened or has failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory is missing, unwritable or in use.
    #[error("the store's directory: {0}")]
    Dir(#[from] DirError),
    /// Its own thread did not start, or what ran there ended.
    #[error("the store's own thread: {0}")]
    Thread(String),
    /// One of its files is corrupt, too new, or unreadable.
    #[error("the store's file {0}")]
    File(#[from] FileError),
    /// The directory holds another node's store.
    #[error(
        "{path} holds the store of node {found} of cluster {cluster}, expected node {expected}: give the right data directory"
    )]
    WrongNode {
        /// The store's directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Of which cluster.
        cluster: ClusterName,
        /// Who opened it.
        expected: NodeId,
    },
    /// The log engine does not open.
    #[error(
        "{path}: the log does not open: {cause}\nhint: while other clusters hold the store, `tradewind store rejoin` brings this node back under a new id\nhint: where no majority is left, `tradewind store recover` on a node whose store is whole, or `tradewind store snapshot restore`"
    )]
    Engine {
        /// The log's directory.
        path: PathBuf,
        /// What the engine said.
        cause: String,
    },
    /// What lies on disk contradicts itself.
    #[error(
        "{path}: {what}\nhint: while other clusters hold the store, `tradewind store rejoin` brings this node back under a new id\nhint: where no majority is left, `tradewind store recover` on a node whose store is whole, or `tradewind store snapshot restore`"
    )]
    Corrupt {
        /// The file or directory.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The log ends before what this node once confirmed as written: it could vote against its own word.
    #[error(
        "{path}: the log ends at {last:?}, but this node confirmed entries up to {confirmed}: the disk lost acknowledged writes, and this node must not vote under its node id\nhint: `tradewind store rejoin` brings it back under a new one\nhint: where no majority is left, `tradewind store recover` on a node whose store is whole, or `tradewind store snapshot restore`"
    )]
    FellBehind {
        /// The store's directory.
        path: PathBuf,
        /// Last index present.
        last: Option<u64>,
        /// Last index once confirmed.
        confirmed: u64,
    },
    /// openraft refused to start.
    #[error("the store's consensus does not start: {0}")]
    Consensus(String),
}

/// A write was not carried out, or nobody knows whether it was.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// No leader for the whole deadline. Certainly not written.
    #[error("the store has had no leader for {:.1} s: a majority of its voters must be reachable to write", since.as_secs_f32())]
    NoLeader {
        /// How long nothing was heard of a leader.
        since: Duration,
    },
    /// No answer in time. It may or may not have been written.
    #[error("no answer from the store's leader within {:.1} s; the change may or may not have been made", after.as_secs_f32())]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// Too many writes wait already. Certainly not written.
    #[error("{limit} writes wait for the store already; try again later")]
    Busy {
        /// The bound.
        limit: usize,
    },
    /// This cluster asked for more than its share. Certainly not written.
    #[error(
        "this cluster writes more than its share of the store; the next write is taken in {:.1} s", retry_after.as_secs_f32()
    )]
    OverBudget {
        /// When there is room again.
        retry_after: Duration,
    },
    /// Some member would not understand it. Certainly not written.
    #[error(
        "this needs level {needs} of the store, and the federation stands at level {has}: upgrade the other clusters first"
    )]
    TooNew {
        /// What it needs.
        needs: u16,
        /// Where the federation stands.
        has: u16,
    },
    /// Larger than one log entry may be. Certainly not written.
    #[error(
        "the change has {bytes} bytes, at most {limit} fit into one log entry; publish it in parts"
    )]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// A cluster may propose in its own name alone. Certainly not written.
    #[error("cluster {own} cannot write as cluster {proposer}")]
    NotOwn {
        /// This store's cluster.
        own: ClusterName,
        /// In whose name it was asked.
        proposer: ClusterName,
    },
    /// The leader refused the request itself. Certainly not written.
    #[error("the store's leader did not take the request: {0}")]
    Rejected(String),
    /// The request could not be framed.
    #[error("the change cannot be written down: {0}")]
    Codec(#[from] CodecError),
    /// This store has stopped, by request or because its disk failed.
    #[error("this node's store has stopped: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// True when the write may have happened all the same.
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Stopped(_))
    }
}

/// A request of a peer was not served.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// The frame makes no sense: the peer's fault.
    #[error("bad request: {0}")]
    Request(#[source] CodecError),
    /// The peer asked in another cluster's name: the peer's fault.
    #[error("cluster {caller} asked in the name of cluster {claimed}")]
    NotOwn {
        /// Who is authenticated.
        caller: ClusterName,
        /// Whom it claimed to be.
        claimed: ClusterName,
    },
    /// Our answer does not fit a frame: our fault.
    #[error("the answer cannot be written down: {0}")]
    Answer(#[source] CodecError),
    /// The received snapshot's file cannot be read: our fault.
    #[error("the received snapshot cannot be read: {0}")]
    Snapshot(#[from] std::io::Error),
    /// This store has stopped.
    #[error("this node's store has stopped: {0}")]
    Stopped(String),
}
