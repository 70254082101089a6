//! The task that carries plans out, and the one that renews the lease and announces gateways.
//!
//! Owns no truth: what is published is what the catalog says. Its problems are for `tradewind status`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::sync::watch;
use tradewind_api::{
    ServiceName,
    store::{Command, LEVEL, Outcome, Refusal},
};
use tradewind_federation::Store;
use tradewind_runtime::{Backoff, Rng, drain};

use super::{Desired, desired, gateways, plan, published, shares_network};
use crate::{
    VERSION,
    exports::Intents,
    local::{LocalModel, Own},
    registry::Registered,
};

/// Least time between two rounds: changes that come in a burst go together.
const SPACING: Duration = Duration::from_millis(100);
/// How often the lease is renewed; others call it expired after five of these.
const LEASE_EVERY: Duration = Duration::from_secs(2);
/// Waits between tries while the store takes no writes.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Writes under way at once: the store batches them into one log entry.
const CONCURRENT: usize = 16;

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
    /// Its gateways.
    pub registered: watch::Receiver<Arc<Registered>>,
    /// Gateway addresses that the operator named.
    pub configured_gateways: Vec<String>,
}

/// Keeps the federation told.
#[derive(Debug)]
pub struct Publisher {
    input: PublishInput,
    rng: Rng,
    problems: watch::Sender<Arc<Vec<String>>>,
    /// What the store refused for good, until something else is asked for it.
    refused: BTreeMap<ServiceName, (Command, Refusal)>,
}

impl Publisher {
    /// Follows `input`. The receiver holds what is wrong, for people.
    pub fn new(input: PublishInput, rng: Rng) -> (Self, watch::Receiver<Arc<Vec<String>>>) {
        let problems = watch::Sender::new(Arc::new(Vec::new()));
        let seen = problems.subscribe();
        (
            Self {
                input,
                rng,
                problems,
                refused: BTreeMap::new(),
            },
            seen,
        )
    }

    fn pending(&mut self) -> Vec<Command> {
        let input = &self.input;
        let catalog = input.store.catalog();
        // The empty first model says nothing yet, and a cluster that is no member has nothing to say.
        if !input.local.borrow().read || catalog.member(&input.own.cluster).is_none() {
            return Vec::new();
        }
        let published = published(&catalog, &input.own);
        let wanted: Desired = {
            let (intents, local) = (input.intents.borrow(), input.local.borrow());
            desired(
                &intents,
                &local,
                &published,
                &input.own,
                shares_network(&catalog, &input.own),
            )
        };
        let mut commands = plan(&published, &wanted);
        self.refused
            .retain(|_, (refused, _)| commands.contains(refused));
        commands.retain(|c| !self.refused.values().any(|(refused, _)| refused == c));
        commands
    }

    /// Publishes until the drain.
    pub async fn run(mut self, mut drain: drain::Observer) {
        let mut catalogs = self.input.store.watch();
        let (mut local, mut intents) = (self.input.local.clone(), self.input.intents.clone());
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            // Marked as seen before they are read: what comes later wakes the loop again.
            catalogs.mark_unchanged();
            local.mark_unchanged();
            intents.mark_unchanged();
            let commands = self.pending();
            let idle = commands.is_empty();
            let pause = if idle {
                self.tell(None);
                None
            } else if let Err(error) = self.send(commands).await {
                tracing::warn!(error, "exports are not published; trying again");
                self.tell(Some(error));
                Some(backoff.next(&mut self.rng))
            } else {
                backoff.reset();
                self.tell(None);
                Some(SPACING)
            };
            let wake = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => tokio::select! {
                        _ = catalogs.changed() => {}
                        _ = local.changed() => {}
                        _ = intents.changed() => {}
                    },
                }
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
    async fn send(&mut self, commands: Vec<Command>) -> Result<(), String> {
        let (store, own) = (self.input.store.clone(), self.input.own.cluster.clone());
        let mut answers = futures::stream::iter(commands)
            .map(|command| {
                let (store, own) = (store.clone(), own.clone());
                async move {
                    let answer = store.propose(&own, command.clone()).await;
                    (command, answer)
                }
            })
            .buffered(CONCURRENT);
        while let Some((command, answer)) = answers.next().await {
            match answer {
                Ok(Outcome::Done { .. } | Outcome::Joined { .. }) => {}
                Ok(Outcome::Refused(refusal)) => {
                    let Some(service) = service_of(&command) else {
                        continue;
                    };
                    tracing::warn!(%service, %refusal, "the store refused an export");
                    self.refused.insert(service.clone(), (command, refusal));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn tell(&self, trouble: Option<String>) {
        let refused = self
            .refused
            .iter()
            .map(|(s, (_, r))| format!("the export of {s} was refused: {r}"));
        let waiting = trouble.map(|t| format!("changes of exports wait to be published: {t}"));
        let now: Vec<String> = waiting.into_iter().chain(refused).collect();
        self.problems.send_if_modified(|current| {
            let new = **current != now;
            if new {
                *current = Arc::new(now);
            }
            new
        });
    }

    /// Renews the lease and announces gateways and version until the drain. Best effort: without a quorum others cannot
    /// judge leases either.
    pub async fn keep_lease(input: PublishInput, mut drain: drain::Observer) {
        let mut every = tokio::time::interval(LEASE_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut registered = input.registered.clone();
        let mut gone = false;
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
            let command = announcement(&input).or(due.then_some(Command::RenewLease));
            let Some(command) = command else { continue };
            let announced = matches!(command, Command::Announce { .. });
            match input.store.propose(&input.own.cluster, command).await {
                Ok(Outcome::Refused(refusal)) => {
                    tracing::warn!(%refusal, "the store refused a sign of life")
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
        | Command::AttestExports { .. } => None,
    }
}
