//! The two tasks that drive a node: one sends the leader's heartbeats and asks for elections, the other keeps the
//! membership in step with the catalog. They carry out what `election` and `membership` decide, and decide nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use openraft::{ChangeMembers, ServerState};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tradewind_api::NodeId;
use tradewind_runtime::Rng;

use crate::{
    budget::Budgets,
    catalog::Catalog,
    codec,
    contacts::Contacts,
    differing::Differing,
    election::{self, PreVote, PreVoteAnswer, Standing, Step},
    leaving::{Leaving, Look},
    log_store::LogStore,
    membership::{self, Change, View},
    meters::Meters,
    peer::{Call, PeerTransport},
    propose::LocalError,
    snapshot::SnapshotDir,
    status::StoreStatus,
    store::Timing,
    types::{Membership, Metrics, Raft},
    yielding::{self, Yielding},
};

/// How often the leader looks at the membership when nothing nudges it.
const MEMBERSHIP_PERIOD: Duration = Duration::from_millis(500);
/// One membership change must end within this, or the next look starts afresh.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a leader without a vote leads on when nobody took over: it takes no writes while it lets another lead.
const STEP_BACK_PAUSE: Duration = Duration::from_secs(10);
/// A node that answered within this many heartbeats counts as answering.
const ANSWERING_HEARTBEATS: u32 = 10;

/// What both tasks and the store's calls share.
pub(crate) struct Core {
    pub(crate) me: NodeId,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) snapshots: SnapshotDir,
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) catalog: watch::Receiver<Arc<Catalog>>,
    pub(crate) timing: Timing,
    pub(crate) meters: Meters,
    pub(crate) nudge: Notify,
    pub(crate) leaving: Leaving,
    pub(crate) budgets: Mutex<Budgets>,
    pub(crate) yielding: Yielding,
    pub(crate) differing: Differing,
}

// openraft's handle has no Debug.
impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// openraft's metrics, copied: a borrow held for long would block it.
    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    pub(crate) fn standing(&self) -> Standing {
        let metrics = self.metrics();
        let leads = metrics.state == ServerState::Leader;
        let quorum_age = metrics.millis_since_quorum_ack.map(Duration::from_millis);
        let membership = metrics.membership_config.membership();
        let leader_age = self.contacts.leader_age(Instant::now());
        Standing {
            me: self.me,
            leads,
            term: metrics.current_term,
            last_log: self.log.last(),
            leader_age: match quorum_age {
                Some(age) if leads => age,
                _ => leader_age,
            },
            leader: metrics.current_leader,
            voters: membership.get_joint_config().clone(),
        }
    }

    /// Who is a member, and who votes, as consensus itself has it behind all that it was handed before.
    pub(crate) async fn membership(&self) -> Result<Membership, LocalError> {
        let asked = self
            .raft
            .with_raft_state(|state| state.membership_state.effective().membership().clone());
        let answer = asked.await;
        answer.map_err(|e| LocalError::Stopped(e.to_string()))
    }

    /// The end of the log behind all that consensus was handed before.
    async fn end_of_log(&self) -> Option<u64> {
        let mut metrics = self.raft.metrics();
        // Questions are answered in order: behind this one it has everything, and shows it behind the next one.
        self.raft.with_raft_state(|_| ()).await.ok()?;
        metrics.borrow_and_update();
        self.raft.with_raft_state(|_| ()).await.ok()?;
        metrics.changed().await.ok()?;
        metrics.borrow().last_log_index
    }

    /// On a leader: a majority confirmed it within the lease.
    fn confirmed(&self) -> bool {
        let age_ms = self.metrics().millis_since_quorum_ack;
        age_ms.is_some_and(|ms| Duration::from_millis(ms) <= self.timing.lease)
    }

    /// This node's view, for people and for readiness.
    pub(crate) fn status(&self) -> StoreStatus {
        let metrics = self.metrics();
        let standing = self.standing();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let alone = standing.leads && voters.len() == 1;
        let age = if alone {
            Duration::ZERO
        } else {
            standing.leader_age
        };
        let replication = metrics.replication.iter().flatten();
        let trails = replication
            .filter(|(id, _)| **id != self.me)
            .map(|(id, matched)| {
                let trail = matched.map(|m| {
                    let last = metrics.last_log_index.unwrap_or(0);
                    last.saturating_sub(m.index)
                });
                (*id, trail)
            })
            .collect();
        let known = metrics.current_leader.is_some();
        StoreStatus {
            node_id: self.me,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|a| a.index),
            voters,
            electorates: standing.voters,
            learners: membership.learner_ids().collect(),
            trails,
            answered_ms: if standing.leads {
                let ages = self.contacts.ages(Instant::now());
                let ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                ages.into_iter().map(|(id, age)| (id, ms(age))).collect()
            } else {
                BTreeMap::new()
            },
            fsync_p99_us: None,
            disk_busy_ms: self
                .log
                .disk_busy()
                .map(|busy| u64::try_from(busy.as_millis()).unwrap_or(u64::MAX)),
            differs: self.differing.now(),
            leader_age_ms: known.then(|| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            can_write: known && age <= self.timing.lease,
            stopped: metrics.running_state.err().map(|e| e.to_string()),
        }
    }

    /// A leader worth asking: known, and heard of lately. A leader that no majority confirms is none: what it took
    /// would hang, and might come true much later.
    pub(crate) fn live_leader(&self) -> Option<NodeId> {
        if self.yielding.now() {
            return None;
        }
        // Asked for at every write: without the copies that a whole status makes.
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader?;
        let alive = if metrics.state == ServerState::Leader {
            let voters = &metrics.membership_config;
            let alone = voters.membership().voter_ids().nth(1).is_none();
            let age_ms = metrics.millis_since_quorum_ack;
            alone || age_ms.is_some_and(|ms| Duration::from_millis(ms) <= self.timing.lease)
        } else {
            self.contacts.leader_age(Instant::now()) <= self.timing.lease
        };
        alive.then_some(leader)
    }
}

/// Heartbeats of a leader, elections of a voter.
pub(crate) async fn drive_elections(core: Arc<Core>, mut rng: Rng) {
    let mut ticks = interval(core.timing.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_attempt: Option<Instant> = None;
    let mut unit = rng.unit();
    loop {
        ticks.tick().await;
        core.meters.show(&core.status(), core.log.size_on_disk());
        let standing = core.standing();
        if standing.leads {
            if core.yielding.now() {
                // Silent on purpose: another is about to lead.
                continue;
            }
            // Not while no majority confirms it: then its answer to a pre-vote must become a yes.
            if core.confirmed() {
                core.contacts.leader_spoke(Instant::now());
            }
            if core.raft.trigger().heartbeat().await.is_err() {
                return;
            }
            continue;
        }
        let (election, step) = (core.timing.election, core.timing.election_step);
        let patience = election::patience(&standing, election, step, unit);
        let now = Instant::now();
        let since_last = last_attempt.map(|at| now.saturating_duration_since(at));
        let pause = patience / 2;
        match election::step(&standing, patience, since_last, pause) {
            Step::Wait => {
                // Come back when the time is up rather than at the next heartbeat.
                let rest = patience.saturating_sub(standing.leader_age);
                let voter = standing.voters.iter().any(|s| s.contains(&core.me));
                if voter && !rest.is_zero() && rest < core.timing.heartbeat {
                    ticks.reset_after(rest);
                }
                continue;
            }
            Step::Ask => {
                if !ask(&core, &standing).await {
                    last_attempt = Some(Instant::now());
                    unit = rng.unit();
                    continue;
                }
            }
            Step::Alone => {}
        }
        last_attempt = Some(Instant::now());
        unit = rng.unit();
        core.meters.elections.inc();
        tracing::info!(
            node = core.me,
            term = standing.term + 1,
            "starting an election"
        );
        if core.raft.trigger().elect().await.is_err() {
            return;
        }
    }
}

/// Asks all voters whether they miss the leader too; true as soon as a majority does.
async fn ask(core: &Core, standing: &Standing) -> bool {
    core.meters.pre_votes.inc();
    let question = election::question(standing);
    let lease = core.timing.lease;
    let mut yes = BTreeSet::new();
    if election::answer(standing, &question, lease).granted {
        yes.insert(core.me);
    }
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = standing.voters.iter().flatten().copied().collect();
    let mut answers: FuturesUnordered<_> = voters
        .into_iter()
        .filter(|id| *id != core.me)
        .filter_map(|id| {
            let cluster = membership.get_node(&id)?.cluster.clone()?;
            Some(ask_one(core, id, cluster, &question))
        })
        .collect();
    while !election::is_majority(&standing.voters, &yes) {
        match answers.next().await {
            Some((id, true)) => {
                yes.insert(id);
            }
            Some((_, false)) => {}
            None => return false,
        }
    }
    true
}

async fn ask_one(
    core: &Core,
    id: NodeId,
    cluster: tradewind_api::ClusterName,
    question: &PreVote,
) -> (NodeId, bool) {
    let deadline = core.timing.rpc;
    let Ok(frame) = codec::encode(question, "a pre-vote") else {
        return (id, false);
    };
    let call = core
        .transport
        .call(id, &cluster, Call::PreVote, frame, deadline);
    let answer = match timeout(deadline, call).await {
        Ok(Ok(frame)) => codec::decode::<PreVoteAnswer>(&frame, "an answer to a pre-vote"),
        Ok(Err(error)) => {
            tracing::debug!(node = id, %error, "no answer to a pre-vote");
            return (id, false);
        }
        Err(_elapsed) => return (id, false),
    };
    match answer {
        Ok(answer) => {
            if !answer.granted {
                tracing::debug!(node = id, reason = answer.reason, "a pre-vote was denied");
            }
            (id, answer.granted)
        }
        Err(error) => {
            tracing::warn!(node = id, %error, "a pre-vote's answer makes no sense");
            (id, false)
        }
    }
}

/// On the leader: one membership change after another, as the plan says.
pub(crate) async fn drive_membership(core: Arc<Core>) {
    let mut period = interval(MEMBERSHIP_PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut led_since, mut stepped_back) = (None, None::<Instant>);
    loop {
        tokio::select! {
            biased;
            () = core.nudge.notified() => {}
            _ = period.tick() => {}
        }
        if core.metrics().state != ServerState::Leader {
            led_since = None;
            continue;
        }
        let led_since = *led_since.get_or_insert_with(Instant::now);
        // One change at a time; each look starts from what is true then.
        loop {
            forget_who_left(&core).await;
            // Over the change, too: whoever is to leave waits for its end.
            let look = core.leaving.look();
            let Some(change) = next_change(&core, led_since, &look) else {
                break;
            };
            if change == Change::StepBack {
                drop(look);
                let lately = stepped_back.is_some_and(|at| at.elapsed() < STEP_BACK_PAUSE);
                if !lately {
                    stepped_back = Some(Instant::now());
                    step_back(&core).await;
                }
                break;
            }
            tracing::info!(node = core.me, ?change, "changing the store's membership");
            if !carry_out(&core, change).await {
                break;
            }
        }
    }
}

async fn step_back(core: &Core) {
    tracing::info!(node = core.me, "leading without a vote");
    let deadline = core.timing.propose;
    match timeout(deadline, yielding::transfer(core, None)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(?error, "nobody else took the lead"),
        Err(_elapsed) => tracing::warn!("nobody else took the lead in time"),
    }
}

/// Lets those vote again who were to leave and did not.
async fn forget_who_left(core: &Core) {
    let last = if core.leaving.has_let_go() {
        core.end_of_log().await
    } else {
        None
    };
    let applied = core.metrics().last_applied;
    core.leaving.forget(last, applied.map(|id| id.index));
}

fn next_change(core: &Core, led_since: Instant, look: &Look) -> Option<Change> {
    let metrics = core.metrics();
    let leads = metrics.state == ServerState::Leader;
    // Before its own first entry is applied, a new leader's catalog may be old.
    let applied_own = metrics
        .last_applied
        .is_some_and(|a| a.leader_id == metrics.vote.leader_id);
    if !leads || !applied_own || core.yielding.now() {
        return None;
    }
    let membership = metrics.membership_config.membership();
    let nodes: BTreeSet<NodeId> = membership.nodes().map(|(id, _)| *id).collect();
    core.contacts.keep(|id| nodes.contains(&id));
    let catalog = Arc::clone(&core.catalog.borrow());
    core.budgets
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .keep(|cluster| catalog.member(cluster).is_some());
    let window = core.timing.heartbeat * ANSWERING_HEARTBEATS;
    let now = Instant::now();
    let answering = core.contacts.answering(now, window);
    let ages = core.contacts.ages(now);
    let leading = now.saturating_duration_since(led_since);
    // What was not heard before this node led says nothing.
    let away = |id: &NodeId| ages.get(id).map_or(leading, |age| leading.min(*age));
    let away = nodes.iter().map(|id| (*id, away(id))).collect();
    let view = View {
        me: core.me,
        voters: membership.get_joint_config().clone(),
        nodes,
        trails: core.status().trails,
        answering: answering.into_iter().collect(),
        away,
        replace_after: core.timing.replace_after,
        leaving: look.names.clone(),
    };
    membership::plan(&catalog, &view)
}

async fn carry_out(core: &Core, change: Change) -> bool {
    let raft = &core.raft;
    let done = timeout(CHANGE_DEADLINE, async {
        // openraft lets a leader that is out of the membership lead on until its next tick, and must not be asked for
        // another change by then. All changes are sent here, so that none comes between this answer and the next one.
        match core.membership().await {
            Ok(now) if now.get_node(&core.me).is_some() => {}
            Ok(_) | Err(_) => return Ok(false),
        }
        let changed = match change {
            Change::AddLearner(id, node) => raft.add_learner(id, node, false).await,
            Change::Promote(id) => {
                let add = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
                raft.change_membership(add, true).await
            }
            Change::Finish(voters) | Change::Replace { voters, .. } => {
                let all = ChangeMembers::ReplaceAllVoters(voters);
                raft.change_membership(all, true).await
            }
            Change::Demote(id) => {
                let less = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
                raft.change_membership(less, true).await
            }
            Change::RemoveVoter(id) => {
                let gone = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
                raft.change_membership(gone, false).await
            }
            Change::RemoveLearners(ids) => {
                raft.change_membership(ChangeMembers::RemoveNodes(ids), false)
                    .await
            }
            Change::StepBack => return Ok(false),
        };
        changed.map(|_| true)
    });
    match done.await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a membership change did not happen");
            false
        }
        Err(_elapsed) => {
            tracing::warn!("a membership change did not end in time");
            false
        }
    }
}
