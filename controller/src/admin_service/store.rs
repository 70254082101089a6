//! What an operator does with the store: who holds it and how well, who votes, its state in a file, who changed what, and
//! every change as it comes.
//!
//! Owns nothing. What is told of other nodes is what they last said of themselves, with its age; nothing is made up.

mod changes;
mod peers;

use futures::stream;
use tokio::io::AsyncReadExt as _;
use tonic::{Code, Request, Response, Status};
use tradewind_api::{
    ClusterName, NodeId,
    proto::v1::{
        AuditEntry, AuditRequest, AuditResponse, ExportResponse, RemoveNodeRequest,
        SetVotingRequest, SnapshotData, SnapshotRequest, StorePeersRequest, StorePeersResponse,
        TransferRequest, TransferResponse, WatchRequest, WatchStep, store_admin_server::StoreAdmin,
    },
    store::{Command, Voting},
};

use super::{AdminService, Streaming, done};
use crate::answer::{self, refuse};

/// Bytes of a snapshot in one message.
const CHUNK_BYTES: usize = 256 << 10;

fn voting(text: &str) -> Result<Voting, Status> {
    match text {
        "auto" => Ok(Voting::Auto),
        "preferred" => Ok(Voting::Preferred),
        "never" => Ok(Voting::Never),
        other => Err(refuse(
            Code::InvalidArgument,
            format!("{other:.40} is no wish for a vote"),
            "expected auto, preferred or never",
        )),
    }
}

impl AdminService {
    /// Refuses to take away `node` where those who answer would be no majority any more.
    fn check_removal(&self, node: NodeId) -> Result<(), Status> {
        let status = self.0.store.status();
        if !status.voters.contains(&node) {
            return Ok(());
        }
        let answering = peers::answering(&self.0);
        let mut after = status.electorates;
        for voters in &mut after {
            voters.remove(&node);
        }
        let quorum = tradewind_federation::quorum(&after, &answering);
        if quorum.spare.is_some() {
            return Ok(());
        }
        Err(refuse(
            Code::FailedPrecondition,
            format!(
                "without node {node} only {} of {} voters would answer, and writes would end",
                quorum.answering, quorum.voters
            ),
            "bring another voter back first; `tradewind store peers` shows who answers",
        ))
    }
}

#[tonic::async_trait]
impl StoreAdmin for AdminService {
    type SaveSnapshotStream = Streaming<SnapshotData>;
    type WatchStream = Streaming<WatchStep>;

    async fn peers(
        &self,
        request: Request<StorePeersRequest>,
    ) -> Result<Response<StorePeersResponse>, Status> {
        let stale = self.operator(request)?.stale;
        let seen = peers::all(&self.0);
        if seen.leader.is_none() && !stale {
            return Err(refuse(
                Code::Unavailable,
                "this controller hears no leader of the store, so what it knows may be old",
                "`tradewind store peers --stale` shows what it knows, with ages",
            ));
        }
        Ok(Response::new(seen))
    }

    async fn set_voting(
        &self,
        request: Request<SetVotingRequest>,
    ) -> Result<Response<ExportResponse>, Status> {
        let (actor, asked) = self.operator_as(request)?;
        let command = Command::SetVoting {
            node: asked.node_id,
            voting: voting(&asked.voting)?,
        };
        done(self.write(actor, command).await?)
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<ExportResponse>, Status> {
        let (actor, asked) = self.operator_as(request)?;
        let node = asked.node_id;
        self.check_removal(node)?;
        done(self.write(actor, Command::RemoveNode { node }).await?)
    }

    async fn transfer(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        let (actor, asked) = self.operator_as(request)?;
        let led = self.0.store.transfer(asked.to).await;
        let leader = led.map_err(|e| match e {
            tradewind_federation::ProposeError::Rejected(why) => refuse(
                Code::FailedPrecondition,
                why,
                "`tradewind store peers` shows who votes and who answers",
            ),
            other => answer::propose(&other),
        })?;
        let note = Command::NoteTransfer { to: leader };
        // Where an older member would not understand it, and where the new leader is gone again: the lead has moved all
        // the same.
        if let Err(status) = self.write(actor, note).await {
            tracing::warn!(
                leader,
                why = status.message(),
                "the transfer is not in the log of changes"
            );
        }
        Ok(Response::new(TransferResponse { leader }))
    }

    async fn save_snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        if !self.operator(request)?.stale {
            let read = self.0.store.linearizable().await;
            read.map_err(|e| answer::propose(&e))?;
        }
        let saved = self.0.store.save().await;
        let saved = saved.map_err(|e| answer::propose(&e))?;
        // A read that fails ends the stream with an error; the reader sees a file that is not whole.
        let chunks = stream::try_unfold(saved.file, |mut file| async move {
            let mut data = vec![0; CHUNK_BYTES];
            let read = file.read(&mut data).await;
            let read = read.map_err(|e| Status::data_loss(format!("the snapshot: {e}")))?;
            data.truncate(read);
            Ok::<_, Status>((read > 0).then_some((SnapshotData { data }, file)))
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn audit(
        &self,
        request: Request<AuditRequest>,
    ) -> Result<Response<AuditResponse>, Status> {
        let asked = self.operator(request)?;
        let age_ms = self.read(asked.consistent).await?;
        let cluster = match asked.cluster.as_str() {
            "" => None,
            name => Some(ClusterName::new(name).map_err(|e| {
                refuse(
                    Code::InvalidArgument,
                    e.to_string(),
                    "`tradewind clusters` lists the members",
                )
            })?),
        };
        let catalog = self.0.store.catalog();
        let now_ms = self.0.clock.unix_ms();
        let from_ms = match asked.since_ms {
            0 => 0,
            since => now_ms.saturating_sub(since),
        };
        let limit = match asked.limit {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let entries = catalog
            .audit
            .iter()
            .rev()
            .filter(|e| e.at_ms >= from_ms && cluster.as_ref().is_none_or(|c| *c == e.proposer))
            .take(limit)
            .map(|e| AuditEntry {
                revision: e.revision,
                at_unix_ms: e.at_ms,
                cluster: e.proposer.to_string(),
                actor: e.actor.clone().unwrap_or_default(),
                action: e.action.clone(),
                subject: e.subject.clone(),
            })
            .collect();
        Ok(Response::new(AuditResponse {
            revision: catalog.revision,
            age_ms,
            entries,
        }))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let from = self.operator(request)?.from;
        let from = from.unwrap_or_else(|| self.0.store.catalog().revision);
        let watch = self.0.store.watch_from(from).map_err(changes::compacted)?;
        let steps = changes::steps(watch, self.0.drain.clone());
        Ok(Response::new(Box::pin(steps)))
    }
}
