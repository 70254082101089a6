//! Whole federations in one thread, everything in them drawn from one seed: the network, the disks, the clocks, what breaks
//! and what the clients do. First things break, then all is healed; an oracle checks at every tick what must hold, and at
//! the end what the clients saw. Two runs of a seed give the same trace, if tokio was built with `tokio_unstable`.
//!
//! It is for tests and for `cargo xtask sim` only; no product contains it.

mod checker;
mod faults;
mod host;
mod medium;
mod oracle;
pub mod scale;
mod trust;
mod wire;
mod world;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, SystemTime},
};

use tradewind_api::{ClusterName, NodeId};
use tradewind_runtime::Rng;
use turmoil::Sim;

use self::{
    checker::Verdict,
    faults::Chaos,
    oracle::Oracle,
    world::{Phase, Shared, shown},
};
use crate::{membership::MAX_VOTERS, store::Compaction};

#[cfg(test)]
pub(crate) use self::medium::SimMedium;

/// Clusters there may be, at most.
const CLUSTERS: [&str; 7] = [
    "west", "central", "east", "north", "south", "upper", "lower",
];
/// How long things break, in simulated time.
const FAULTS_MS: u64 = 12_000;
/// How long a healed federation may take until everybody wrote again and all agree: several elections and a deadline.
const SETTLE_MS: u64 = 30_000;
/// How long a founder that crashes at once stays down.
const EARLY_DOWN_MS: u64 = 50;
/// How often seats are given and the end is looked for.
const LOOK_MS: u64 = 20;

/// What one simulation gave.
#[derive(Debug)]
pub struct Report {
    /// From which everything was drawn.
    pub seed: u64,
    /// The hash of its trace.
    pub hash: u64,
    /// Lines of its trace.
    pub lines: u64,
    /// What must not be and was; `None` when all is well.
    pub violation: Option<String>,
    /// How much happened.
    pub summary: String,
    /// The trace, if it was asked for.
    pub trace: Option<String>,
}

/// What a run is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keeps the trace's text.
    pub trace: bool,
    /// Plants a bug that must be found: every disk acknowledges before it has written.
    pub planted: bool,
}

/// Runs the simulation of `seed`. `root` is an empty directory for the nodes' snapshots.
pub fn run(seed: u64, root: &Path, options: Options) -> Report {
    let mut rng = Rng::seeded(seed);
    // Two to seven, mostly three to five.
    let count = 2 + rng.below(4) + rng.below(3).min(rng.below(3));
    let names = CLUSTERS
        .iter()
        .filter_map(|name| ClusterName::new(name).ok());
    let clusters: Vec<ClusterName> = names.take(usize::try_from(count).unwrap_or(2)).collect();
    let shared = Shared::new(seed, &clusters, options);
    let mut run = Run::new(&mut rng, shared.clone(), &clusters, root);
    // A panic inside is a finding like any other.
    if catch_unwind(AssertUnwindSafe(|| run.all())).is_err() {
        shared.fail("something panicked, see above".to_owned());
    }
    let (leaders, entries, shared_terms) = run.oracle.counts();
    drop(run);
    let mut world = shared.lock();
    let (hash, lines, trace) = world.trace();
    Report {
        seed,
        hash,
        lines,
        violation: world.violation.clone(),
        summary: format!(
            "{} clusters, {} ms, {} operations, {entries} entries, {leaders} terms led, {shared_terms} by more than one",
            clusters.len(),
            world.now_ms,
            world.operations.len(),
        ),
        trace,
    }
}

struct Run<'a> {
    sim: Sim<'a>,
    shared: Shared,
    chaos: Chaos,
    oracle: Oracle,
    root: &'a Path,
    tick_ms: u64,
    /// When the founder crashes while it is alone; 0 for not at all.
    early_crash_ms: u64,
}

impl<'a> Run<'a> {
    fn new(rng: &mut Rng, shared: Shared, clusters: &[ClusterName], root: &'a Path) -> Self {
        let tick_ms = 2 + rng.below(3);
        let mut sim = turmoil::Builder::new()
            .epoch(SystemTime::UNIX_EPOCH)
            .rng_seed(rng.next_u64())
            .tick_duration(Duration::from_millis(tick_ms))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(12))
            .repair_rate(0.1)
            .tcp_capacity(1_024)
            .build();
        let compaction = Compaction {
            snapshot_every: 8 + rng.below(60),
            keep_entries: rng.below(20),
        };
        shared.note(format_args!(
            "{clusters:?}, ticks of {tick_ms} ms, {compaction:?}"
        ));
        for cluster in clusters {
            let (shared, cluster) = (shared.clone(), cluster.clone());
            let name = cluster.to_string();
            sim.host(name, move || {
                host::live(shared.clone(), cluster.clone(), compaction)
            });
        }
        if let Some(founder) = clusters.first() {
            let (disk, lying) = {
                let world = shared.lock();
                (world.rng("disk of the founder"), world.lying_disks)
            };
            let seat = faults::seat(1, disk, (root, lying));
            shared.place(founder, |place| {
                place.seat = Some(seat);
                place.kept = BTreeSet::from([founder.clone()]);
            });
        }
        Self {
            sim,
            shared,
            chaos: Chaos::new(rng.fork()),
            oracle: Oracle::default(),
            root,
            tick_ms,
            early_crash_ms: rng.below(2) * rng.below(120),
        }
    }

    fn all(&mut self) {
        self.admit_everybody();
        let until = self.now() + FAULTS_MS;
        while self.now() < until && self.step() {
            let newest = self.oracle.newest();
            self.chaos.tick(&mut self.sim, &self.shared, newest);
        }
        self.shared.note(format_args!("healing"));
        self.chaos.heal(&mut self.sim, &self.shared);
        self.until(Phase::Settle, "everybody writes", |run| run.wrote());
        self.until(Phase::Compare, "all agree", |run| run.agrees());
        self.until(Phase::Read, "everybody reads", |run| {
            run.all_seated(|place| place.done)
        });
        if !self.failed() {
            self.judge();
        }
    }

    fn now(&self) -> u64 {
        self.shared.lock().now_ms
    }

    fn failed(&self) -> bool {
        self.shared.lock().violation.is_some()
    }

    /// One tick of everything; false when something was found.
    fn step(&mut self) -> bool {
        if self.failed() {
            return false;
        }
        if let Err(error) = self.sim.step() {
            self.shared.fail(format!("a host failed: {error}"));
        }
        let now = {
            let mut world = self.shared.lock();
            world.now_ms += self.tick_ms;
            self.oracle.tick(&mut world);
            world.now_ms
        };
        if now % LOOK_MS < self.tick_ms
            && let Some(newest) = self.oracle.newest().filter(|c| c.is_founded())
        {
            self.chaos.seat(&self.shared, newest, self.root);
        }
        !self.failed()
    }

    /// The founder admits some at once, so that faults meet more than one.
    fn admit_everybody(&mut self) {
        let clusters: Vec<ClusterName> = self.shared.lock().places.keys().cloned().collect();
        let until = self.now() + SETTLE_MS;
        let mut early = clusters
            .first()
            .cloned()
            .filter(|_| self.early_crash_ms > 0);
        while self.now() < until && self.step() {
            self.chaos.mend(&mut self.sim, &self.shared);
            if self.now() >= self.early_crash_ms
                && let Some(founder) = early.take()
            {
                let until = self.now() + EARLY_DOWN_MS;
                self.chaos
                    .crash(&mut self.sim, &self.shared, founder, until);
            }
            let Some(newest) = self.oracle.newest().filter(|c| c.is_founded()) else {
                continue;
            };
            let missing = clusters.iter().find(|c| newest.member(c).is_none());
            let (Some(missing), Some(founder)) = (missing, newest.founder.clone()) else {
                return;
            };
            // Once in a while, in case an errand was lost.
            if self.now() % 500 < self.tick_ms {
                let errand = world::Errand::Admit(missing.clone());
                self.shared
                    .place(&founder, |place| place.errand = Some(errand));
            }
        }
        self.shared
            .fail("not everybody was admitted in time".to_owned());
    }

    fn until(&mut self, phase: Phase, what: &str, holds: impl Fn(&Self) -> bool) {
        {
            let mut world = self.shared.lock();
            world.note(format_args!("{phase:?}: until {what}"));
            world.phase = phase;
            for place in world.places.values_mut() {
                place.done = false;
            }
        }
        let until = self.now() + SETTLE_MS;
        while self.step() {
            if holds(self) {
                return;
            }
            if self.now() > until {
                let why = format!("{what}: not within {SETTLE_MS} ms of healing");
                return self.shared.fail(why);
            }
        }
    }

    fn all_seated(&self, holds: impl Fn(&world::Place) -> bool) -> bool {
        let world = self.shared.lock();
        let mut seated = world.places.values().filter(|p| p.seat.is_some());
        seated.all(holds)
    }

    fn wrote(&self) -> bool {
        self.chaos.seated() && self.all_seated(|place| place.done)
    }

    /// One leader, as many voters as there should be, and one catalog on all.
    fn agrees(&self) -> bool {
        let Some(newest) = self.oracle.newest() else {
            return false;
        };
        let members: BTreeSet<NodeId> = newest.members().flat_map(|c| c.nodes.clone()).collect();
        let most = members.len().min(MAX_VOTERS);
        // Of four, three may do: an even voter protects nothing.
        let least = if most > 2 {
            most - (most + 1) % 2
        } else {
            most
        };
        self.chaos.seated()
            && faults::leader(&self.shared).is_some()
            && self.all_seated(|place| {
                let Some(store) = &place.store else {
                    return false;
                };
                let metrics = store.raft_metrics();
                let metrics = metrics.borrow();
                let voters = metrics.membership_config.membership().get_joint_config();
                let votes =
                    matches!(voters.as_slice(), [voters] if (least..=most).contains(&voters.len()));
                votes && *store.catalog() == *newest
            })
    }

    /// What the clients saw.
    fn judge(&self) {
        let newest = self.oracle.newest();
        for (key, operations) in self.shared.histories() {
            let name = format!("k{} of {}", key.1, key.0);
            match checker::check(&operations) {
                Verdict::Linearizable => {}
                Verdict::Undecided => self
                    .shared
                    .note(format_args!("{name}: too much to be checked")),
                Verdict::Broken { fit, of } => {
                    let why = format!(
                        "{name} is not linearizable: {fit} of {of} operations fit: {operations:?}"
                    );
                    self.shared.fail(why);
                }
            }
            let holds = newest.and_then(|catalog| host::value_in(catalog, &key));
            if let Some(must) = checker::must_hold(&operations)
                && must != holds
            {
                let why = format!(
                    "an acknowledged write is lost: {name} should hold {} and holds {}",
                    shown(must),
                    shown(holds)
                );
                self.shared.fail(why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_seeds_find_nothing() {
        for seed in 1..=2 {
            let root = tempfile::tempdir().unwrap();
            let report = super::run(seed, root.path(), super::Options::default());
            assert_eq!(report.violation, None, "seed {seed}");
            assert!(report.lines > 1_000, "{report:?}");
        }
    }
}
