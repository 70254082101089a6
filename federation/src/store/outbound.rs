//! A store's own writes and consistent reads: here if it leads, else at the leader, with one deadline over all tries.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::time::{Instant, sleep, timeout_at};
use tradewind_api::{
    ClusterName, NodeId,
    store::{Command, Outcome},
};

use super::{LOOK, Store};
use crate::{
    budget,
    catalog::Catalog,
    error::ProposeError,
    forward::{self, Leader},
    leaving,
    peer::PeerError,
    propose::{self, Ask, Forwarded, LocalError, MAX_WAITING, One, Told, Write},
    yielding,
};

/// From which level on a leader can be asked to step back.
const TRANSFER_LEVEL: u16 = 2;

/// What the leader is asked for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    /// Who asked for it.
    pub(super) actor: Option<String>,
    /// Its size in the log, if it goes there.
    pub(super) bytes: usize,
}

impl Request {
    const fn of(ask: Ask) -> Self {
        Self {
            ask,
            actor: None,
            bytes: 0,
        }
    }
}

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
        self.propose_as(proposer, None, command).await
    }

    /// The same for somebody: `actor` is who asked this store's controller, as it authenticated them, and stands in the
    /// log of changes.
    pub async fn propose_as(
        &self,
        proposer: &ClusterName,
        actor: Option<String>,
        command: Command,
    ) -> Result<Outcome, ProposeError> {
        if *proposer != self.inner.cluster {
            return Err(ProposeError::NotOwn {
                own: self.inner.cluster.clone(),
                proposer: proposer.clone(),
            });
        }
        let bytes = propose::measure(&command)?;
        self.check_level(command.level())?;
        let Ok(_permit) = self.inner.waiting.try_acquire() else {
            return Err(ProposeError::Busy { limit: MAX_WAITING });
        };
        self.inner.core.meters.proposed.inc();
        let until = Instant::now() + self.inner.core.timing.propose;
        let request = Request {
            ask: Ask::Write(Box::new(command)),
            actor,
            bytes,
        };
        let told = self.ask_leader(&request, until).await?;
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
        let told = self.ask_leader(&Request::of(Ask::ReadIndex), until).await?;
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

    /// Lets another voter lead: `to`, or the one that trails least. Writes wait for it, about a second. Gives who leads
    /// then; where it failed the old leader leads on.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, ProposeError> {
        // Asked of a member: one that does not know of it would not understand the question.
        self.check_level(TRANSFER_LEVEL)?;
        let until = Instant::now() + self.inner.core.timing.propose;
        match self
            .ask_leader(&Request::of(Ask::Transfer(to)), until)
            .await?
        {
            Told::Leads(leader) => Ok(leader),
            other => Err(unexpected(&other)),
        }
    }

    /// Refuses what some member would not understand.
    pub(super) fn check_level(&self, needs: u16) -> Result<(), ProposeError> {
        let catalog = self.catalog();
        // What level 1 wrote names no level, and before the founding there is nobody to misunderstand.
        let has = catalog.level.max(1);
        if needs <= has {
            return Ok(());
        }
        Err(ProposeError::TooNew { needs, has })
    }

    /// Waits until this node has applied `revision`; false when the time was up first.
    async fn catch_up(&self, revision: u64, until: Instant) -> bool {
        let mut catalog = self.watch();
        let reached = catalog.wait_for(|c| c.revision >= revision);
        matches!(timeout_at(until, reached).await, Ok(Ok(_)))
    }

    async fn ask_leader(&self, request: &Request, until: Instant) -> Result<Told, ProposeError> {
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
            if let Err(stopped) = &core.raft.metrics().borrow().running_state {
                return Err(ProposeError::Stopped(stopped.to_string()));
            }
            let tried = match core.live_leader() {
                None => Ok(Err(Again::NotDone)),
                Some(leader) if leader == core.me => self.ask_here(request, until).await,
                Some(leader) => self.ask_peer(leader, request, until).await,
            };
            match tried {
                // What is refused now may have been done by the try before: a cluster that left meanwhile, say.
                Ok(Ok(Told::Outcome(Outcome::Refused(_)))) if unanswered => {
                    return Err(ProposeError::Timeout { after: limit });
                }
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
        request: &Request,
        until: Instant,
    ) -> Result<Result<Told, Again>, ProposeError> {
        let limit = self.inner.core.timing.propose;
        let own = self.inner.cluster.clone();
        let doing = self.do_here(own, request.clone());
        match timeout_at(until, doing).await {
            Ok(Ok(told)) => Ok(Ok(told)),
            Ok(Err(LocalError::NotLeader(_))) => Ok(Err(Again::NotDone)),
            Ok(Err(LocalError::Busy)) => Err(ProposeError::Busy { limit: MAX_WAITING }),
            Ok(Err(LocalError::OverBudget(retry_after))) => {
                Err(ProposeError::OverBudget { retry_after })
            }
            Ok(Err(LocalError::Refused(why))) => Err(ProposeError::Rejected(why)),
            Ok(Err(LocalError::Stopped(why))) => {
                // openraft only says that it is gone; the disk may know why.
                let cause = self.inner.core.log.failed();
                Err(ProposeError::Stopped(cause.unwrap_or(why)))
            }
            Err(_elapsed) => Err(ProposeError::Timeout { after: limit }),
        }
    }

    async fn ask_peer(
        &self,
        leader: NodeId,
        request: &Request,
        until: Instant,
    ) -> Result<Result<Told, Again>, ProposeError> {
        let core = &self.inner.core;
        let metrics = core.metrics();
        let membership = metrics.membership_config.membership();
        let Some(cluster) = membership.get_node(&leader).and_then(|n| n.cluster.clone()) else {
            return Ok(Err(Again::NotDone));
        };
        let leader = Leader {
            node: leader,
            cluster,
        };
        let ask = &request.ask;
        let asked = self.forward(leader, request, until);
        let timed_out = || ProposeError::Timeout {
            after: core.timing.propose,
        };
        let told = match timeout_at(until, asked).await {
            Ok(Ok(told)) => told,
            Ok(Err(PeerError::Unreachable { .. })) => return Ok(Err(Again::NotDone)),
            Ok(Err(PeerError::NoAnswer { .. })) if ask.may_repeat() => {
                return Ok(Err(Again::Unanswered));
            }
            Ok(Err(PeerError::NoAnswer { .. })) | Err(_) => return Err(timed_out()),
            Ok(Err(PeerError::Refused { cause, .. })) => return Err(ProposeError::Rejected(cause)),
        };
        match told {
            Told::NotLeader(_) => Ok(Err(Again::NotDone)),
            Told::Busy => Err(ProposeError::Busy { limit: MAX_WAITING }),
            Told::OverBudget { retry_ms } => Err(ProposeError::OverBudget {
                retry_after: Duration::from_millis(retry_ms),
            }),
            Told::Unknown => Err(timed_out()),
            Told::Failed(why) => Err(ProposeError::Rejected(why)),
            told @ (Told::Outcome(_) | Told::ReadIndex(_) | Told::Leads(_) | Told::Each(_)) => {
                Ok(Ok(told))
            }
        }
    }

    /// One call to the leader, shared with others where that may be.
    async fn forward(
        &self,
        leader: Leader,
        request: &Request,
        until: Instant,
    ) -> Result<Told, PeerError> {
        let actor = request.actor.clone();
        if let Ask::Write(command) = &request.ask
            && forward::may_share(command, self.catalog().level)
        {
            let command = command.clone();
            let one = One { command, actor };
            let forwarder = &self.inner.forwarder;
            return forwarder.write(leader, one, request.bytes, until).await;
        }
        let deadline = until.saturating_duration_since(Instant::now());
        let forwarded = Forwarded {
            proposer: self.inner.cluster.clone(),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            ask: request.ask.clone(),
            actor,
        };
        forward::ask(&*self.inner.core.transport, &leader, &forwarded, deadline).await
    }

    /// Does here what the leader is asked for. The caller bounds the wait.
    pub(super) async fn do_here(
        &self,
        proposer: ClusterName,
        request: Request,
    ) -> Result<Told, LocalError> {
        let core = &self.inner.core;
        match request.ask {
            Ask::Write(command) => {
                let write = Write {
                    proposer,
                    actor: request.actor,
                    command: *command,
                    bytes: request.bytes,
                };
                self.write_here(write).await.map(Told::Outcome)
            }
            Ask::ReadIndex => self.read_index_here().await.map(Told::ReadIndex),
            Ask::Transfer(to) => yielding::transfer(core, to).await.map(Told::Leads),
            Ask::TakeOver => self.take_over(&proposer).await.map(Told::Leads),
            // Taken apart where they arrive.
            Ask::Writes(_) => Err(LocalError::Refused("writes that came together".to_owned())),
        }
    }

    async fn write_here(&self, write: Write) -> Result<Outcome, LocalError> {
        let core = &self.inner.core;
        if core.yielding.now() {
            return Err(LocalError::NotLeader(None));
        }
        if !budget::is_free(&write.command) {
            let mut budgets = core.budgets.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = budgets.take(&write.proposer, write.bytes, Instant::now());
            if let Err(retry_after) = taken {
                core.meters.over_budget.inc();
                return Err(LocalError::OverBudget(retry_after));
            }
        }
        // Held over the write.
        let _leaving = match write.command {
            Command::Leave => Some(leaving::prepare(core, &write.proposer).await?),
            _ => None,
        };
        self.inner.batcher.write(write).await
    }

    /// Stands for election because the leader asked for it. Nobody else may ask; while no leader is heard of, that was the
    /// one whose silence this is, or a voter that will be refused by the others as anybody would.
    async fn take_over(&self, asked_by: &ClusterName) -> Result<NodeId, LocalError> {
        let core = &self.inner.core;
        let metrics = core.metrics();
        let membership = metrics.membership_config.membership();
        let is_of = |node: &NodeId| {
            let node = membership.get_node(node);
            node.and_then(|n| n.cluster.as_ref()) == Some(asked_by)
        };
        let may_ask = match metrics.current_leader {
            Some(leader) => is_of(&leader),
            None => membership.voter_ids().any(|voter| is_of(&voter)),
        };
        if !may_ask {
            let why = format!("cluster {asked_by} does not lead the store, as far as I know");
            return Err(LocalError::Refused(why));
        }
        core.meters.elections.inc();
        let elected = core.raft.trigger().elect().await;
        elected.map_err(|e| LocalError::Stopped(e.to_string()))?;
        Ok(core.me)
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
