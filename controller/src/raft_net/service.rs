//! The Raft service: what other controllers' stores ask of this one's.
//!
//! Owns nothing but the count of snapshots being received. It must never hand a frame to the store whose sender is not
//! the controller that the frame's node id belongs to.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, sync::Semaphore};
use tonic::{Request, Response, Status, Streaming};
use tradewind_api::{
    ClusterName, NodeId,
    proto::v1::{RaftMessage, SnapshotChunk, raft_server::Raft},
};
use tradewind_federation::{HandleError, Store};

use super::MAX_SNAPSHOT_BYTES;
use crate::server::{Access, caller};

/// Snapshots received at once: the leader sends one; a second is a leader that has just changed.
const MAX_INCOMING: usize = 2;
/// How long a sender may pause within a snapshot.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Debug)]
pub struct RaftService {
    store: Store,
    access: Access,
    node_id: NodeId,
    spool: PathBuf,
    incoming: Arc<Semaphore>,
    next: Arc<AtomicU64>,
}

impl RaftService {
    /// For the store of node `node_id`; snapshots on their way in lie in `spool`.
    pub fn new(store: Store, access: Access, node_id: NodeId, spool: PathBuf) -> Self {
        Self {
            store,
            access,
            node_id,
            spool,
            incoming: Arc::new(Semaphore::new(MAX_INCOMING)),
            next: Arc::default(),
        }
    }

    fn check_addressee(&self, to: NodeId) -> Result<(), Status> {
        if to == self.node_id {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "this is node {}, not node {to}",
            self.node_id
        )))
    }

    /// The sender must be the controller of the cluster that its node id belongs to. A node that this catalog does not
    /// know yet may be newer than the catalog; its certificate says that it is a member.
    fn check_sender(&self, cluster: &ClusterName, from: NodeId) -> Result<(), Status> {
        match self.store.catalog().cluster_of(from) {
            Some(owner) if owner != cluster => Err(Status::permission_denied(format!(
                "node {from} belongs to cluster {owner}, not to {cluster}"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    fn admit(&self, request: Request<RaftMessage>) -> Result<RaftMessage, Status> {
        let cluster = self
            .access
            .require_controller_of_member(&caller(&request))?;
        let message = request.into_inner();
        self.check_addressee(message.to)?;
        self.check_sender(&cluster, message.from)?;
        Ok(message)
    }

    fn answer(
        &self,
        to: NodeId,
        handled: Result<Vec<u8>, HandleError>,
    ) -> Result<Response<RaftMessage>, Status> {
        let payload = handled.map_err(|e| handle_status(&e))?;
        Ok(Response::new(RaftMessage {
            from: self.node_id,
            to,
            payload,
        }))
    }

    async fn receive(
        &self,
        mut chunks: Streaming<SnapshotChunk>,
        mut left: u64,
        path: &PathBuf,
    ) -> Result<(), Status> {
        let disk = |error: std::io::Error| {
            Status::failed_precondition(format!("{}: {error}", path.display()))
        };
        let mut file = tokio::fs::File::create(path).await.map_err(disk)?;
        loop {
            let next = tokio::time::timeout(CHUNK_DEADLINE, chunks.message()).await;
            let next =
                next.map_err(|_| Status::deadline_exceeded("the snapshot's sender fell silent"))??;
            let Some(chunk) = next else { break };
            left = u64::try_from(chunk.data.len())
                .ok()
                .and_then(|n| left.checked_sub(n))
                .ok_or_else(|| Status::invalid_argument("the snapshot is longer than announced"))?;
            file.write_all(&chunk.data).await.map_err(disk)?;
        }
        if left != 0 {
            return Err(Status::invalid_argument(format!(
                "the snapshot ended {left} bytes before its announced length"
            )));
        }
        file.sync_all().await.map_err(disk)
    }
}

/// Whose fault it is, in gRPC's words: what the peer must not send again is refused, the rest is unavailable.
pub(crate) fn handle_status(error: &HandleError) -> Status {
    let text = error.to_string();
    match error {
        HandleError::Request(_) => Status::invalid_argument(text),
        HandleError::NotOwn { .. } => Status::permission_denied(text),
        HandleError::Answer(_) | HandleError::Snapshot(_) => Status::failed_precondition(text),
        HandleError::Stopped(_) => Status::unavailable(text),
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn append_entries(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        let message = self.admit(request)?;
        self.answer(
            message.from,
            self.store.handle_append(message.payload).await,
        )
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let message = self.admit(request)?;
        self.answer(message.from, self.store.handle_vote(message.payload).await)
    }

    async fn pre_vote(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        let message = self.admit(request)?;
        self.answer(
            message.from,
            self.store.handle_pre_vote(message.payload).await,
        )
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let cluster = self
            .access
            .require_controller_of_member(&caller(&request))?;
        let _turn = self.incoming.try_acquire().map_err(|_| {
            Status::resource_exhausted(format!(
                "{MAX_INCOMING} snapshots are being received already"
            ))
        })?;
        let mut chunks = request.into_inner();
        let first = tokio::time::timeout(CHUNK_DEADLINE, chunks.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the snapshot's sender fell silent"))??
            .ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
        self.check_addressee(first.to)?;
        self.check_sender(&cluster, first.from)?;
        if first.total_bytes > MAX_SNAPSHOT_BYTES || !first.data.is_empty() {
            return Err(Status::invalid_argument(format!(
                "a snapshot begins with its header and has at most {MAX_SNAPSHOT_BYTES} bytes"
            )));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let spooled = Spooled(self.spool.join(format!(
            ".incoming-{}-{number}.snapshot",
            std::process::id()
        )));
        self.receive(chunks, first.total_bytes, &spooled.0).await?;
        let handled = self
            .store
            .handle_install_snapshot(first.header, spooled.0.clone())
            .await;
        self.answer(first.from, handled)
    }
}

/// A file that goes away with its call, however the call ends.
struct Spooled(PathBuf);

impl Drop for Spooled {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a received snapshot is left behind");
        }
    }
}
