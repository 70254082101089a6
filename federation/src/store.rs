//! The store as the controller sees it: open it, propose, read, answer peers. It owns the Raft node, its disk thread and
//! its two driving tasks, and ends them. It never decides anything itself: the decisions are in `catalog`, `election`
//! and `membership`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;
use tradewind_api::{
    ClusterName, NodeId,
    store::{Command, Outcome},
};
use tradewind_runtime::{MetricsRegistry, Rng, SharedClock};

use crate::{
    catalog::Catalog,
    error::{HandleError, ProposeError, StoreError},
    peer::PeerTransport,
    status::StoreStatus,
};

/// How fast the store notices and reacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two signs of life of the leader.
    pub heartbeat: Duration,
    /// How long a voter that heard the leader refuses to vote for another.
    pub lease: Duration,
    /// How long the first voter in line waits for a sign before it asks for an election.
    pub election: Duration,
    /// How much longer each next voter in line waits; half of it is random.
    pub election_step: Duration,
    /// The longest one call to another node may take.
    pub rpc: Duration,
    /// How long a write may take, waiting for a leader included.
    pub propose: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            lease: Duration::from_millis(800),
            election: Duration::from_millis(900),
            election_step: Duration::from_millis(250),
            rpc: Duration::from_millis(600),
            propose: Duration::from_secs(5),
        }
    }
}

/// What a store needs to know to open.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The store's own directory, made if missing (its parent must exist).
    pub data_dir: PathBuf,
    /// This node's id: 1 for the founder, else as the join gave it.
    pub node_id: NodeId,
    /// This node's cluster.
    pub cluster: ClusterName,
    /// How fast it reacts.
    pub timing: Timing,
}

/// One node of the federation store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    catalog: watch::Receiver<Arc<Catalog>>,
}

impl Store {
    /// Opens the store in `config.data_dir`, or makes an empty one that waits to be founded or to be spoken to.
    pub async fn open(
        config: StoreConfig,
        transport: Arc<dyn PeerTransport>,
        clock: SharedClock,
        rng: Rng,
        metrics: &MetricsRegistry,
    ) -> Result<Self, StoreError> {
        let _ = (config, transport, clock, rng, metrics);
        Err(StoreError::Consensus("not there yet".to_owned()))
    }

    /// Founds a federation: makes this node its single voter and applies `command`, a `Command::Found`.
    pub async fn found(&self, command: Command) -> Result<Outcome, ProposeError> {
        let _ = command;
        Err(ProposeError::Stopped("not there yet".to_owned()))
    }

    /// Proposes a change in the name of `proposer`, this store's own cluster. Forwards to the leader; when it returns,
    /// this node's catalog holds the change too.
    pub async fn propose(
        &self,
        proposer: &ClusterName,
        command: Command,
    ) -> Result<Outcome, ProposeError> {
        let _ = (proposer, command);
        Err(ProposeError::Stopped("not there yet".to_owned()))
    }

    /// The catalog as this node knows it.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// Every later catalog, coalesced: a slow reader sees the newest.
    pub fn watch(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// A catalog that is at least as new as any write that ended before this call. Needs a majority.
    pub async fn linearizable(&self) -> Result<Arc<Catalog>, ProposeError> {
        Err(ProposeError::Stopped("not there yet".to_owned()))
    }

    /// What this node knows of the store.
    pub fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }

    /// Tells the leader loop that a node, which the catalog lists under `cluster`, is up now.
    pub async fn introduce(
        &self,
        node_id: NodeId,
        cluster: &ClusterName,
    ) -> Result<(), ProposeError> {
        let _ = (node_id, cluster);
        Err(ProposeError::Stopped("not there yet".to_owned()))
    }

    /// Stops the node and closes its files. Idempotent.
    pub async fn shutdown(&self) {}

    /// Answers `PeerTransport::append_entries`.
    pub async fn handle_append(&self, payload: Vec<u8>) -> Result<Vec<u8>, HandleError> {
        Ok(payload)
    }

    /// Answers `PeerTransport::vote`.
    pub async fn handle_vote(&self, payload: Vec<u8>) -> Result<Vec<u8>, HandleError> {
        Ok(payload)
    }

    /// Answers `PeerTransport::pre_vote`.
    pub async fn handle_pre_vote(&self, payload: Vec<u8>) -> Result<Vec<u8>, HandleError> {
        Ok(payload)
    }

    /// Answers `PeerTransport::install_snapshot`: `file` holds the whole stream and may be deleted afterwards.
    pub async fn handle_install_snapshot(
        &self,
        header: Vec<u8>,
        file: PathBuf,
    ) -> Result<Vec<u8>, HandleError> {
        let _ = file;
        Ok(header)
    }

    /// Answers `PeerTransport::propose` for the authenticated cluster `proposer`.
    pub async fn handle_propose(
        &self,
        proposer: &ClusterName,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, HandleError> {
        let _ = proposer;
        Ok(payload)
    }
}
