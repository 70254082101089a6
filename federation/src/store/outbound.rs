//! A store's own writes and consistent reads: here if it leads, else at the leader, with one deadline over all tries.

use std::{sync::Arc, time::Duration};

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::time::{Instant, sleep, timeout_at};
use tradewind_api::{
    ClusterName, NodeId,
    store::{Command, Outcome},
};

use super::{LOOK, Store};
use crate::{
    catalog::Catalog,
    codec,
    error::ProposeError,
    leaving,
    peer::PeerError,
    propose::{self, Ask, Forwarded, LocalError, MAX_WAITING, Told},
};

/// One try's result when it is not final.
enum Again {
    /// Nothing was done; look for the leader again.
    NotDone,
    /// Perhaps it was done, and it may be done twice; look for the leader again.
    Unanswered,
}

impl Store {
    /// Proposes a change in the name of `proposer`, this store's own cluster. Forwards to the leader; when it returns,
    /// this node's catalog holds the change too.
    pub async fn propose(
        &self,
        proposer: &ClusterName,
        command: Command,
    ) -> Result<Outcome, ProposeError> {
        if *proposer != self.inner.cluster {
            return Err(ProposeError::NotOwn {
                own: self.inner.cluster.clone(),
                proposer: proposer.clone(),
            });
        }
        let bytes = propose::measure(&command)?;
        let Ok(_permit) = self.inner.waiting.try_acquire() else {
            return Err(ProposeError::Busy { limit: MAX_WAITING });
        };
        self.inner.core.meters.proposed.inc();
        let until = Instant::now() + self.inner.core.timing.propose;
        let told = self
            .ask_leader(Ask::Write(Box::new(command)), bytes, until)
            .await?;
        let outcome = match told {
            Told::Outcome(outcome) => outcome,
            other => return Err(unexpected(&other)),
        };
        if let Outcome::Done { revision, .. } | Outcome::Joined { revision, .. } = &outcome {
            self.catch_up(*revision, until).await;
        }
        Ok(outcome)
    }

    /// A catalog that is at least as new as any write that ended before this call. Needs a majority.
    pub async fn linearizable(&self) -> Result<Arc<Catalog>, ProposeError> {
        let limit = self.inner.core.timing.propose;
        let until = Instant::now() + limit;
        let told = self.ask_leader(Ask::ReadIndex, 0, until).await?;
        let index = match told {
            Told::ReadIndex(index) => index,
            other => return Err(unexpected(&other)),
        };
        if self.catch_up(index, until).await {
            Ok(self.catalog())
        } else {
            Err(ProposeError::Timeout { after: limit })
        }
    }

    /// Waits until this node has applied `revision`; false when the time was up first.
    async fn catch_up(&self, revision: u64, until: Instant) -> bool {
        let mut catalog = self.watch();
        let reached = catalog.wait_for(|c| c.revision >= revision);
        matches!(timeout_at(until, reached).await, Ok(Ok(_)))
    }

    async fn ask_leader(
        &self,
        ask: Ask,
        bytes: usize,
        until: Instant,
    ) -> Result<Told, ProposeError> {
        let core = &self.inner.core;
        // Once a try may have been taken, no later one can say that nothing was written.
        let mut unanswered = false;
        let limit = core.timing.propose;
        loop {
            let now = Instant::now();
            if now >= until && unanswered {
                return Err(ProposeError::Timeout { after: limit });
            }
            if now >= until {
                let since = core.standing().leader_age;
                return Err(ProposeError::NoLeader { since });
            }
            if let Some(stopped) = core.status().stopped {
                return Err(ProposeError::Stopped(stopped));
            }
            let tried = match core.live_leader() {
                None => Ok(Err(Again::NotDone)),
                Some(leader) if leader == core.me => self.ask_here(&ask, bytes, until).await,
                Some(leader) => self.ask_peer(leader, &ask, until).await,
            };
            match tried {
                Ok(Ok(told)) => return Ok(told),
                Ok(Err(again)) => {
                    unanswered |= matches!(again, Again::Unanswered);
                    sleep(LOOK).await;
                }
                Err(error) if unanswered && !error.is_unknown() => {
                    return Err(ProposeError::Timeout { after: limit });
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask_here(
        &self,
        ask: &Ask,
        bytes: usize,
        until: Instant,
    ) -> Result<Result<Told, Again>, ProposeError> {
        let limit = self.inner.core.timing.propose;
        let told = match ask {
            Ask::Write(command) => {
                let own = self.inner.cluster.clone();
                let writing = self.write_here(own, (**command).clone(), bytes);
                let written = timeout_at(until, writing).await;
                written.map(|w| w.map(Told::Outcome))
            }
            Ask::ReadIndex => {
                let read = timeout_at(until, self.read_index_here()).await;
                read.map(|r| r.map(Told::ReadIndex))
            }
        };
        match told {
            Ok(Ok(told)) => Ok(Ok(told)),
            Ok(Err(LocalError::NotLeader(_))) => Ok(Err(Again::NotDone)),
            Ok(Err(LocalError::Busy)) => Err(ProposeError::Busy { limit: MAX_WAITING }),
            Ok(Err(LocalError::Stopped(why))) => Err(ProposeError::Stopped(why)),
            Err(_elapsed) => Err(ProposeError::Timeout { after: limit }),
        }
    }

    async fn ask_peer(
        &self,
        leader: NodeId,
        ask: &Ask,
        until: Instant,
    ) -> Result<Result<Told, Again>, ProposeError> {
        let core = &self.inner.core;
        let metrics = core.metrics();
        let membership = metrics.membership_config.membership();
        let Some(cluster) = membership.get_node(&leader).and_then(|n| n.cluster.clone()) else {
            return Ok(Err(Again::NotDone));
        };
        let deadline = until.saturating_duration_since(Instant::now());
        let request = Forwarded {
            proposer: self.inner.cluster.clone(),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            ask: ask.clone(),
        };
        let frame = codec::encode(&request, "a proposal")?;
        let call = core.transport.propose(leader, &cluster, frame, deadline);
        let timed_out = || ProposeError::Timeout {
            after: core.timing.propose,
        };
        let answer = match timeout_at(until, call).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(PeerError::Unreachable { .. })) => return Ok(Err(Again::NotDone)),
            Ok(Err(PeerError::NoAnswer { .. })) if ask.may_repeat() => {
                return Ok(Err(Again::Unanswered));
            }
            Ok(Err(PeerError::NoAnswer { .. })) | Err(_) => return Err(timed_out()),
            Ok(Err(PeerError::Refused { cause, .. })) => return Err(ProposeError::Rejected(cause)),
        };
        match codec::decode(&answer, "an answer to a proposal")? {
            Told::NotLeader(_) => Ok(Err(Again::NotDone)),
            Told::Busy => Err(ProposeError::Busy { limit: MAX_WAITING }),
            Told::Unknown => Err(timed_out()),
            Told::Failed(why) => Err(ProposeError::Rejected(why)),
            told @ (Told::Outcome(_) | Told::ReadIndex(_)) => Ok(Ok(told)),
        }
    }

    pub(super) async fn write_here(
        &self,
        proposer: ClusterName,
        command: Command,
        bytes: usize,
    ) -> Result<Outcome, LocalError> {
        // Held over the write.
        let _leaving = match command {
            Command::Leave => Some(leaving::prepare(&self.inner.core, &proposer).await?),
            _ => None,
        };
        self.inner.batcher.write(proposer, command, bytes).await
    }

    pub(super) async fn read_index_here(&self) -> Result<u64, LocalError> {
        match self.inner.core.raft.get_read_log_id().await {
            Ok((read, _applied)) => Ok(read.map_or(0, |id| id.index)),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => {
                Err(LocalError::NotLeader(to.leader_id))
            }
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                // A read changes nothing: it may be asked again.
                sleep(Duration::from_millis(100)).await;
                Err(LocalError::NotLeader(None))
            }
            Err(RaftError::Fatal(error)) => Err(LocalError::Stopped(error.to_string())),
        }
    }
}

fn unexpected(told: &Told) -> ProposeError {
    ProposeError::Rejected(format!("the leader answered another question: {told:?}"))
}
