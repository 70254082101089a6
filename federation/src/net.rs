//! openraft's calls to other nodes, carried by the controller's `PeerTransport`. It frames, bounds by deadlines and notes
//! who answered; it never knows addresses.

use std::{future::Future, sync::Arc, time::Duration};

use openraft::{
    AnyError, RaftNetwork, RaftNetworkFactory,
    error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};
use tradewind_api::{ClusterName, NodeId};

use crate::{
    codec,
    contacts::Contacts,
    hold,
    log_store::LogStore,
    peer::{Call, PeerTransport},
    snapshot::SnapshotDir,
    types::{RaftNode, Snapshot, SnapshotMeta, TypeConfig, Vote},
};

/// The longest pause before an unreachable node is tried again: below the lease, so that one lost packet costs no term.
const RETRY_MS: [u64; 4] = [20, 50, 100, 250];

/// What precedes a snapshot's file on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
}

/// Makes one `Peer` for each node openraft speaks to.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) snapshots: SnapshotDir,
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) log: LogStore,
}

#[derive(Debug)]
pub(crate) struct Peer {
    net: Net,
    id: NodeId,
    cluster: Option<ClusterName>,
    /// How often this node's log was cut when this was made, which openraft does anew for each term that it leads.
    truncations: u64,
}

type CallError = RPCError<NodeId, RaftNode, RaftError<NodeId>>;

impl RaftNetworkFactory<TypeConfig> for Net {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &RaftNode) -> Peer {
        Peer {
            net: self.clone(),
            id: target,
            cluster: node.cluster.clone(),
            truncations: self.log.truncations(),
        }
    }
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> Unreachable {
    Unreachable::new(error)
}

impl Peer {
    fn cluster(&self) -> Result<ClusterName, Unreachable> {
        let unknown = || AnyError::error(format!("node {} belongs to no known cluster", self.id));
        self.cluster.clone().ok_or_else(|| unreachable(&unknown()))
    }

    fn answer<T: DeserializeOwned>(
        &self,
        answer: Result<Vec<u8>, crate::PeerError>,
        what: &'static str,
    ) -> Result<T, Unreachable> {
        let frame = answer.map_err(|e| unreachable(&e))?;
        let answer = codec::decode(&frame, what).map_err(|e| unreachable(&e))?;
        self.net.contacts.peer_answered(self.id, Instant::now());
        Ok(answer)
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, CallError> {
        let cluster = self.cluster()?;
        // openraft reads what it sends after it was told how far, and what ends a term may come between: then the entries
        // are the new leader's, and `prev_log_id` is not what stands before them.
        if self.net.log.truncations() != self.truncations {
            let over = AnyError::error("this node leads no more: its log was cut");
            return Err(unreachable(&over).into());
        }
        let in_force = self.net.log.membership_in_force();
        let held = hold::ends_at(&rpc.entries, self.id, rpc.leader_commit, in_force);
        rpc.entries.truncate(held.unwrap_or(usize::MAX));
        let frame = codec::encode(&rpc, "entries").map_err(|e| unreachable(&e))?;
        let transport = Arc::clone(&self.net.transport);
        let limit = option.hard_ttl();
        let answer = transport.call(self.id, &cluster, Call::Append, frame, limit);
        let answer = self.answer(answer.await, "an answer to entries")?;
        // See `flush`: openraft takes this node's own entries for durable before they are.
        let about = rpc.entries.last().map(|e| e.log_id).or(rpc.prev_log_id);
        if !self.net.log.flushed().reaches(about, limit).await {
            let slow = AnyError::error("this node's own disk does not have the entries yet");
            return Err(unreachable(&slow).into());
        }
        if held.is_some() && matches!(answer, AppendEntriesResponse::Success) {
            // openraft sends the rest at once, with what is certain by then.
            if held == Some(0) {
                sleep(hold::LOOK).await;
            }
            return Ok(AppendEntriesResponse::PartialSuccess(about));
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, CallError> {
        let cluster = self.cluster()?;
        let frame = codec::encode(&rpc, "a vote request").map_err(|e| unreachable(&e))?;
        let transport = Arc::clone(&self.net.transport);
        let answer = transport.call(self.id, &cluster, Call::Vote, frame, option.hard_ttl());
        Ok(self.answer(answer.await, "an answer to a vote request")?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        let cluster = self.cluster()?;
        let meta = snapshot.meta;
        let file = self.net.snapshots.file(&meta);
        let header = SnapshotHeader { vote, meta };
        let header = codec::encode(&header, "a snapshot's header").map_err(|e| unreachable(&e))?;
        let transport = Arc::clone(&self.net.transport);
        let deadline = option.hard_ttl();
        let sent = transport.install_snapshot(self.id, &cluster, header, &file, deadline);
        tokio::select! {
            answer = sent => Ok(self.answer(answer, "an answer to a snapshot")?),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        let [.., longest] = RETRY_MS;
        let pauses = RETRY_MS.into_iter().chain(std::iter::repeat(longest));
        Backoff::new(pauses.map(Duration::from_millis))
    }
}
