//! The task that carries plans out, and the one that renews the lease and announces gateways.
//!
//! Owns no truth: what is published is what the catalog says. Its problems are for `tradewind status`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use tokio::{sync::watch, time::Instant};
use tradewind_api::{
    NodeId, ServiceName,
    store::{CONTROLLERS, Command, LEVEL, Outcome, Refusal},
};
use tradewind_federation::{Catalog, ProposeError, Store, catalog::digest_exports};
use tradewind_runtime::{Backoff, MetricsRegistry, Rng, drain};

use super::{
    Desired,
    attest::{ATTEST_EVERY, ATTEST_LEVEL, Schedule, expected},
    desired, gateways,
    meters::Meters,
    plan, published,
    speaker::Floor,
    tell, whole,
};
use crate::{
    VERSION,
    exports::{Exports, Intents},
    local::{LocalModel, Own},
    registry::Registered,
    siblings,
};

/// Least time between two rounds: changes that come in a burst go together.
const SPACING: Duration = Duration::from_millis(100);
/// How often the lease is renewed; others call it expired after five of these.
const LEASE_EVERY: Duration = Duration::from_secs(2);
/// Waits between tries while the store takes no writes.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Writes under way at once: the store batches them into one log entry.
const CONCURRENT: usize = 16;
/// How often a publisher with nothing to do looks at who leads.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest wait that a budget used up may cost: a leader that says more is asked again all the same.
const MAX_BUDGET_WAIT: Duration = Duration::from_secs(60);

/// What the tasks follow.
#[derive(Clone, Debug)]
pub struct PublishInput {
    /// The store they write to.
    pub store: Store,
    /// This cluster.
    pub own: Own,
    /// What it runs.
    pub local: watch::Receiver<Arc<LocalModel>>,
    /// What it wants exported.
    pub intents: watch::Receiver<Arc<Intents>>,
    /// Where it is known who asked for that.
    pub exports: Exports,
    /// Its gateways.
    pub registered: watch::Receiver<Arc<Registered>>,
    /// Gateway addresses that the operator named.
    pub configured_gateways: Vec<String>,
    /// This controller's node.
    pub node_id: NodeId,
    /// `host:port` at which the cluster's own processes dial this controller, where that was told.
    pub address: Option<String>,
    /// The cluster's other controllers.
    pub siblings: siblings::Seen,
    /// Whether this controller speaks for its cluster, as [`Publisher::keep_lease`] finds.
    pub speaking: watch::Sender<bool>,
}

/// Keeps the federation told.
#[derive(Debug)]
pub struct Publisher {
    input: PublishInput,
    rng: Rng,
    meters: Meters,
    problems: watch::Sender<Arc<Vec<String>>>,
    /// What the store refused for good, until something else is asked for it.
    refused: BTreeMap<ServiceName, (Command, Refusal)>,
    /// What the last comparison found wrong.
    differs: Option<String>,
    /// Between two comparisons.
    attest_every: Duration,
}

/// Why a round did not end well.
#[derive(Debug)]
struct Failed {
    why: String,
    /// How long to wait before the next, where the store said it.
    wait: Option<Duration>,
}

impl From<ProposeError> for Failed {
    fn from(error: ProposeError) -> Self {
        let wait = match &error {
            ProposeError::OverBudget { retry_after } => Some((*retry_after).min(MAX_BUDGET_WAIT)),
            _ => None,
        };
        Self {
            why: error.to_string(),
            wait,
        }
    }
}

/// What is published, and what should be.
struct Both {
    published: Desired,
    wanted: Desired,
}

impl Publisher {
    /// Follows `input`. The receiver holds what is wrong, for people.
    pub fn new(
        input: PublishInput,
        rng: Rng,
        metrics: &MetricsRegistry,
    ) -> (Self, watch::Receiver<Arc<Vec<String>>>) {
        let problems = watch::Sender::new(Arc::new(Vec::new()));
        let seen = problems.subscribe();
        (
            Self {
                input,
                rng,
                meters: Meters::register(metrics),
                problems,
                refused: BTreeMap::new(),
                differs: None,
                attest_every: ATTEST_EVERY,
            },
            seen,
        )
    }

    /// None while nothing can be said: the empty first model says nothing yet, a cluster that is no member has nothing to
    /// say, and where another controller speaks this one does not.
    fn both(&self) -> Option<Both> {
        let input = &self.input;
        let catalog = input.store.catalog();
        let may = *input.speaking.borrow() && input.local.borrow().read;
        if !may || catalog.member(&input.own.cluster).is_none() {
            return None;
        }
        let published = published(&catalog, &input.own);
        let (intents, local) = (input.intents.borrow(), input.local.borrow());
        let told = tell(&catalog, &input.own);
        let wanted = desired(&intents, &local, &published, &input.own, told);
        Some(Both { published, wanted })
    }

    fn pending(&mut self) -> Vec<Command> {
        let Some(both) = self.both() else {
            return Vec::new();
        };
        let mut commands = plan(&both.published, &both.wanted);
        self.refused
            .retain(|_, (refused, _)| commands.contains(refused));
        commands.retain(|c| !self.refused.values().any(|(refused, _)| refused == c));
        commands
    }

    /// Publishes until the drain.
    pub async fn run(mut self, mut drain: drain::Observer) {
        let mut catalogs = self.input.store.watch();
        let (mut local, mut intents) = (self.input.local.clone(), self.input.intents.clone());
        let mut speaking = self.input.speaking.subscribe();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut schedule = Schedule::new(self.attest_every, Instant::now());
        loop {
            // Marked as seen before they are read: what comes later wakes the loop again.
            catalogs.mark_unchanged();
            local.mark_unchanged();
            intents.mark_unchanged();
            speaking.mark_unchanged();
            let commands = self.pending();
            let idle = commands.is_empty();
            let done = if idle {
                self.attest_if_due(&mut schedule).await
            } else {
                self.meters.round(&commands);
                self.send(commands).await
            };
            let pause = match done {
                Err(failed) => {
                    tracing::warn!(
                        error = failed.why,
                        "exports are not published; trying again"
                    );
                    self.tell(Some(failed.why));
                    Some(failed.wait.unwrap_or_else(|| backoff.next(&mut self.rng)))
                }
                Ok(()) => {
                    backoff.reset();
                    self.tell(None);
                    (!idle).then_some(SPACING)
                }
            };
            let wake = async {
                let Some(pause) = pause else {
                    return tokio::select! {
                        _ = catalogs.changed() => {}
                        _ = local.changed() => {}
                        _ = intents.changed() => {}
                        _ = speaking.changed() => {}
                        () = self.attest_is_due(&mut schedule) => {}
                    };
                };
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                () = wake => {}
            }
            if self.input.local.has_changed().is_err() {
                // The controller that made the model is gone.
                return;
            }
        }
    }

    /// Carries commands out. A refusal is remembered and does not stop the others; any other failure does.
    async fn send(&mut self, commands: Vec<Command>) -> Result<(), Failed> {
        let (store, own) = (self.input.store.clone(), self.input.own.cluster.clone());
        let mut answers = futures::stream::iter(commands)
            .map(|command| {
                let (store, own) = (store.clone(), own.clone());
                let asker = service_of(&command).and_then(|s| self.input.exports.asker(s));
                async move {
                    let answer = store.propose_as(&own, asker, command.clone()).await;
                    (command, answer)
                }
            })
            .buffered(CONCURRENT);
        while let Some((command, answer)) = answers.next().await {
            match answer? {
                Outcome::Done { .. } | Outcome::Joined { .. } => {}
                Outcome::Refused(refusal) => {
                    let Some(service) = service_of(&command) else {
                        continue;
                    };
                    tracing::warn!(%service, %refusal, "the store refused an export");
                    self.refused.insert(service.clone(), (command, refusal));
                }
            }
        }
        Ok(())
    }

    fn look(&self, schedule: &mut Schedule) -> bool {
        let status = self.input.store.status();
        let now = Instant::now();
        schedule.look(status.leader.filter(|_| status.can_write), now);
        schedule.is_due(now)
    }

    async fn attest_is_due(&self, schedule: &mut Schedule) {
        while !self.look(schedule) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Compares what should be published with what the store holds, when it is time; where they differ, everything is
    /// published again.
    async fn attest_if_due(&mut self, schedule: &mut Schedule) -> Result<(), Failed> {
        if !self.look(schedule) {
            return Ok(());
        }
        let (now, unit) = (Instant::now(), self.rng.unit());
        if self.input.store.catalog().level < ATTEST_LEVEL || self.both().is_none() {
            schedule.failed(now);
            return Ok(());
        }
        let done = self.compare().await;
        match &done {
            Ok(()) => schedule.done(now, unit),
            Err(_) => schedule.failed(now),
        }
        done
    }

    async fn compare(&mut self) -> Result<(), Failed> {
        let Some(mismatch) = self.attest().await? else {
            self.differs = None;
            return Ok(());
        };
        self.meters.mismatches.inc();
        tracing::error!(%mismatch, "the store's copy of this cluster's exports is wrong; publishing all of them again");
        // Kept until the next comparison, so that somebody sees that it happened.
        self.differs = Some(format!(
            "the store's copy of this cluster's exports was not what it publishes ({mismatch}); they are published again whole"
        ));
        let shown = self.input.store.linearizable().await?;
        let shown = published(&shown, &self.input.own);
        let Some(both) = self.both() else {
            return Ok(());
        };
        let commands = whole(&shown, &both.wanted);
        self.meters.round(&commands);
        self.send(commands).await?;
        self.meters.repairs.inc();
        if let Some(mismatch) = self.attest().await? {
            self.differs = Some(format!(
                "the store's copy of this cluster's exports differs from what it publishes even after all were published again: {mismatch}; compare `tradewind services` here and where the store leads"
            ));
        }
        Ok(())
    }

    /// Says what this cluster's exports add up to. Gives the difference, if there is one.
    async fn attest(&self) -> Result<Option<Refusal>, Failed> {
        let Some(both) = self.both() else {
            return Ok(None);
        };
        let refused: BTreeSet<ServiceName> = self.refused.keys().cloned().collect();
        let expected = expected(&both.published, both.wanted, &refused);
        let (digest, count) = digest_exports(expected.values());
        let command = Command::AttestExports { digest, count };
        let own = &self.input.own.cluster;
        match self.input.store.propose(own, command).await? {
            Outcome::Refused(mismatch @ Refusal::DigestMismatch { .. }) => {
                self.meters.attests.inc();
                Ok(Some(mismatch))
            }
            Outcome::Refused(refusal) => {
                tracing::warn!(%refusal, "the store compared nothing");
                Ok(None)
            }
            Outcome::Done { .. } | Outcome::Joined { .. } => {
                self.meters.attests.inc();
                Ok(None)
            }
        }
    }

    fn tell(&self, trouble: Option<String>) {
        let refused = self
            .refused
            .iter()
            .map(|(s, (_, r))| format!("the export of {s} was refused: {r}"));
        let waiting = trouble.map(|t| format!("changes of exports wait to be published: {t}"));
        let differs = self.differs.iter().cloned();
        let now: Vec<String> = waiting.into_iter().chain(differs).chain(refused).collect();
        self.problems.send_if_modified(|current| {
            let new = **current != now;
            if new {
                *current = Arc::new(now);
            }
            new
        });
    }

    /// Renews the lease until the drain, says where this controller is, and, where it speaks for its cluster, announces
    /// gateways and version. Best effort: without a quorum others cannot
    /// judge leases either.
    pub async fn keep_lease(input: PublishInput, mut drain: drain::Observer) {
        let mut every = tokio::time::interval(LEASE_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut registered = input.registered.clone();
        let mut gone = false;
        let mut floor = Floor::new(input.node_id, Instant::now());
        let own = &input.own.cluster;
        loop {
            let due = tokio::select! {
                biased;
                () = drain.triggered() => return,
                _ = every.tick() => true,
                changed = registered.changed(), if !gone => {
                    gone = changed.is_err();
                    false
                }
            };
            let catalog = input.store.catalog();
            let complete = *input.siblings.complete.borrow();
            let heard = Arc::clone(&input.siblings.heard.borrow());
            let standing = floor.look((&catalog, &heard), own, Instant::now());
            let speaks = complete && floor.speaks(standing, &heard, Instant::now());
            tell_speaking(&input, speaks);
            let command = address(&input, &catalog)
                .or_else(|| speaks.then(|| announcement(&input))?)
                .or_else(|| due.then(|| floor.sign(standing)));
            let Some(command) = command else { continue };
            let announced = matches!(command, Command::Announce { .. });
            let spoke = matches!(command, Command::Speak { .. });
            match input.store.propose(own, command).await {
                Ok(Outcome::Refused(refusal)) => {
                    tracing::warn!(%refusal, "the store refused a sign of life")
                }
                Ok(Outcome::Done { .. } | Outcome::Joined { .. }) if spoke => {
                    floor.written(&input.store.catalog(), own, Instant::now());
                }
                Ok(Outcome::Done { .. } | Outcome::Joined { .. }) => {}
                Err(error) => tracing::debug!(%error, "no sign of life was written"),
            }
            if announced {
                // A burst of gateway changes becomes one announcement more, not many.
                tokio::time::sleep(SPACING).await;
            }
        }
    }
}

fn tell_speaking(input: &PublishInput, speaks: bool) {
    let told = input.speaking.send_if_modified(|now| {
        let changed = *now != speaks;
        *now = speaks;
        changed
    });
    if told {
        tracing::info!(speaks, cluster = %input.own.cluster, "who publishes for this cluster was settled");
    }
}

/// Where this controller is, if the catalog says something else.
fn address(input: &PublishInput, catalog: &Catalog) -> Option<Command> {
    let address = input.address.clone()?;
    let member = catalog.member(&input.own.cluster)?;
    if catalog.level < CONTROLLERS || !member.nodes.contains(&input.node_id) {
        return None;
    }
    let record = catalog.controllers_of(&input.own.cluster);
    let known = record.and_then(|r| r.nodes.get(&input.node_id));
    let same = known.is_some_and(|c| c.address == address && c.level == LEVEL);
    (!same).then_some(Command::PutController {
        node: input.node_id,
        address,
        level: LEVEL,
    })
}

/// What has to be announced, if what the catalog says is not what is.
fn announcement(input: &PublishInput) -> Option<Command> {
    let catalog = input.store.catalog();
    let record = catalog.member(&input.own.cluster)?;
    let gateways = gateways(
        &input.registered.borrow(),
        &input.configured_gateways,
        &record.gateways,
    );
    let same = record.gateways == gateways && record.version == VERSION && record.level == LEVEL;
    (!same).then(|| Command::Announce {
        gateways,
        version: VERSION.to_owned(),
        level: LEVEL,
    })
}

fn service_of(command: &Command) -> Option<&ServiceName> {
    match command {
        Command::PutExport(export) => Some(&export.service),
        Command::PatchExport { service, .. } | Command::RemoveExport(service) => Some(service),
        Command::Found { .. }
        | Command::Join { .. }
        | Command::Announce { .. }
        | Command::RenewLease
        | Command::SetDraining { .. }
        | Command::Leave
        | Command::PutToken(_)
        | Command::RevokeToken(_)
        | Command::SetVoting { .. }
        | Command::RemoveNode { .. }
        | Command::AddNode { .. }
        | Command::AttestExports { .. }
        | Command::PutNodeKey { .. }
        | Command::PutSealKey { .. }
        | Command::AddController { .. }
        | Command::PutController { .. }
        | Command::Speak { .. }
        | Command::NoteTransfer { .. } => None,
    }
}

#[cfg(test)]
mod tests;
