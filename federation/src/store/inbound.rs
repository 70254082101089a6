//! What a store answers to other nodes. Every frame is bounded and checked before openraft sees it.

use std::{path::PathBuf, time::Duration};

use futures::future::join_all;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use tokio::time::{Instant, timeout};
use tradewind_api::ClusterName;
use tradewind_runtime::files::FileError;

use super::{Store, outbound::Request};
use crate::{
    codec,
    election::{self, PreVote},
    error::HandleError,
    net::SnapshotHeader,
    peer::Call,
    propose::{Ask, Forwarded, LocalError, MAX_TOGETHER, Told},
    snapshot,
    types::{Snapshot, TypeConfig},
};

/// From which level on everybody knows what a budget is.
const OVER_BUDGET_LEVEL: u16 = 2;

impl Store {
    /// Answers `call` of the authenticated cluster `caller`.
    pub async fn handle(
        &self,
        call: Call,
        caller: &ClusterName,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, HandleError> {
        match call {
            Call::Append => self.handle_append(payload).await,
            Call::Vote => self.handle_vote(payload).await,
            Call::PreVote => self.handle_pre_vote(payload).await,
            Call::Propose => self.handle_propose(caller, payload).await,
        }
    }

    /// Answers `Call::Append`.
    pub async fn handle_append(&self, payload: Vec<u8>) -> Result<Vec<u8>, HandleError> {
        let rpc: AppendEntriesRequest<TypeConfig> =
            codec::decode(&payload, "entries").map_err(HandleError::Request)?;
        let core = &self.inner.core;
        let answer = core.raft.append_entries(rpc).await;
        let answer = answer.map_err(|e| HandleError::Stopped(e.to_string()))?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            core.contacts.leader_spoke(Instant::now());
        }
        codec::encode(&answer, "an answer to entries").map_err(HandleError::Answer)
    }

    /// Answers `Call::Vote`.
    pub async fn handle_vote(&self, payload: Vec<u8>) -> Result<Vec<u8>, HandleError> {
        let rpc: VoteRequest<u64> =
            codec::decode(&payload, "a vote request").map_err(HandleError::Request)?;
        let answer = self.inner.core.raft.vote(rpc).await;
        let answer = answer.map_err(|e| HandleError::Stopped(e.to_string()))?;
        codec::encode(&answer, "an answer to a vote request").map_err(HandleError::Answer)
    }

    /// Answers `Call::PreVote`.
    pub async fn handle_pre_vote(&self, payload: Vec<u8>) -> Result<Vec<u8>, HandleError> {
        let asked: PreVote = codec::decode(&payload, "a pre-vote").map_err(HandleError::Request)?;
        let core = &self.inner.core;
        let answer = election::answer(&core.standing(), &asked, core.timing.lease);
        codec::encode(&answer, "an answer to a pre-vote").map_err(HandleError::Answer)
    }

    /// Answers `PeerTransport::install_snapshot`: `file` holds the whole stream and may be deleted afterwards.
    pub async fn handle_install_snapshot(
        &self,
        header: Vec<u8>,
        file: PathBuf,
    ) -> Result<Vec<u8>, HandleError> {
        let header: SnapshotHeader =
            codec::decode(&header, "a snapshot's header").map_err(HandleError::Request)?;
        let expected = header.meta.last_log_id;
        let core = &self.inner.core;
        let hands = core.log.hands();
        // openraft purges the log while the machine still installs: only what lies in our own directory by then survives a
        // crash in between. What a leader of an older term sends is not kept.
        let kept = (core.log.vote() <= Some(header.vote)).then(|| core.snapshots.clone());
        // Looked at before openraft gets it: it would take a damaged one for a failure of our own disk.
        let read = hands.run(move || {
            let state = snapshot::read_expected(&file, expected)?;
            if let Some(snapshots) = kept {
                snapshots.keep(&state)?;
            }
            Ok::<_, FileError>(state)
        });
        let state = read
            .await
            .map_err(std::io::Error::other)?
            .map_err(std::io::Error::other)?;
        let membership = header.meta.last_membership.clone();
        let snapshot = Snapshot {
            meta: header.meta,
            snapshot: Box::new(snapshot::Content::received(state)),
        };
        let answer = core.raft.install_full_snapshot(header.vote, snapshot).await;
        let answer = answer.map_err(|e| HandleError::Stopped(e.to_string()))?;
        if answer.vote <= header.vote {
            core.log.note_membership(&membership);
            core.contacts.leader_spoke(Instant::now());
        }
        codec::encode(&answer, "an answer to a snapshot").map_err(HandleError::Answer)
    }

    /// Answers `Call::Propose` of the authenticated cluster `proposer`.
    pub async fn handle_propose(
        &self,
        proposer: &ClusterName,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, HandleError> {
        let asked: Forwarded =
            codec::decode(&payload, "a proposal").map_err(HandleError::Request)?;
        if asked.proposer != *proposer {
            return Err(HandleError::NotOwn {
                caller: proposer.clone(),
                claimed: asked.proposer,
            });
        }
        let deadline = Duration::from_millis(asked.deadline_ms).min(self.inner.core.timing.propose);
        let told = match asked.ask {
            Ask::Writes(writes) if writes.len() > MAX_TOGETHER => Told::Failed(format!(
                "{} writes came together, at most {MAX_TOGETHER} may",
                writes.len()
            )),
            Ask::Writes(writes) => {
                let each = writes
                    .into_iter()
                    .map(|one| self.answer(proposer, Ask::Write(one.command), one.actor, deadline));
                Told::Each(join_all(each).await)
            }
            ask => self.answer(proposer, ask, asked.actor, deadline).await,
        };
        codec::encode(&told, "an answer to a proposal").map_err(HandleError::Answer)
    }

    /// Does the one thing that was asked for.
    async fn answer(
        &self,
        proposer: &ClusterName,
        ask: Ask,
        actor: Option<String>,
        deadline: Duration,
    ) -> Told {
        let bytes = match &ask {
            // Whoever asks without a store of its own knows no level: the leader does.
            Ask::Write(command) => self
                .check_level(command.level())
                .and_then(|()| crate::propose::measure(command)),
            Ask::ReadIndex | Ask::Transfer(_) | Ask::TakeOver | Ask::Writes(_) => Ok(0),
        };
        match bytes {
            Err(error) => Told::Failed(error.to_string()),
            Ok(bytes) => {
                let request = Request { ask, actor, bytes };
                let doing = self.do_here(proposer.clone(), request);
                self.tell(timeout(deadline, doing).await.ok())
            }
        }
    }

    /// `None`: the time was up.
    fn tell(&self, done: Option<Result<Told, LocalError>>) -> Told {
        match done {
            Some(Ok(told)) => told,
            Some(Err(LocalError::NotLeader(leader))) => Told::NotLeader(leader),
            Some(Err(LocalError::Busy)) => Told::Busy,
            Some(Err(LocalError::OverBudget(retry_after))) => {
                // One that does not know this answer is told that the store is busy, and tries again likewise.
                if self.catalog().level < OVER_BUDGET_LEVEL {
                    return Told::Busy;
                }
                let retry_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
                Told::OverBudget {
                    retry_ms: retry_ms.saturating_add(1),
                }
            }
            Some(Err(LocalError::Refused(why))) => Told::Failed(why),
            Some(Err(LocalError::Stopped(_))) | None => Told::Unknown,
        }
    }
}
