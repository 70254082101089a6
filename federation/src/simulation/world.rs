//! What one simulation shares between its hosts, its driver and its oracle: who sits where, what the clients did, and the
//! trace of everything. One thread runs it all, so the lock is never waited for; it is never held over an await.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tradewind_api::{ClusterName, NodeId};
use tradewind_runtime::{Clock, Rng};

use super::{
    Options,
    checker::{Action, Operation, Value},
    medium::SimMedium,
};
use crate::Store;

/// What the leaders' clocks show when a simulation starts, Unix ms.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// Services that each cluster's clients write; the last one only after healing.
pub(crate) const KEYS: u8 = 4;

/// One register: a service of one cluster.
pub(crate) type Key = (ClusterName, u8);

/// What the hosts are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Write and read while things break.
    Faults,
    /// Write once more, until it is acknowledged.
    Settle,
    /// Only follow.
    Compare,
    /// Read everything.
    Read,
}

/// Something a cluster is asked to do once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    Admit(ClusterName),
    Leave,
}

/// A node's place in the federation, kept over crashes.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) node_id: NodeId,
    pub(crate) medium: SimMedium,
    pub(crate) dir: PathBuf,
}

/// One cluster's host.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) seat: Option<Seat>,
    /// Whom its data directory says to believe: those of the join, then of what it knew last.
    pub(crate) kept: BTreeSet<ClusterName>,
    /// While its node is up.
    pub(crate) store: Option<Store>,
    /// How often its node was started.
    pub(crate) boots: u64,
    pub(crate) clock: SimClock,
    pub(crate) errand: Option<Errand>,
    /// It did what the phase asks.
    pub(crate) done: bool,
}

/// A clock that runs at its own pace and jumps.
#[derive(Clone, Debug)]
pub(crate) struct SimClock(Arc<Mutex<Skew>>);

#[derive(Debug)]
struct Skew {
    offset_ms: i64,
    per_mille: i64,
}

impl SimClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Skew {
            offset_ms: 0,
            per_mille: 1_000,
        })))
    }

    pub(crate) fn skew(&self, offset_ms: i64, per_mille: i64) {
        let mut skew = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *skew = Skew {
            offset_ms,
            per_mille,
        };
    }
}

impl Clock for SimClock {
    fn unix_ms(&self) -> u64 {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX / 10_000);
        let skew = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = EPOCH_MS + skew.offset_ms + elapsed_ms * skew.per_mille / 1_000;
        u64::try_from(shown).unwrap_or(0)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// Everything that happened, as a hash, and as text for those who look.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    lines: u64,
    text: Option<String>,
}

impl Trace {
    fn add(&mut self, at_ms: u64, what: fmt::Arguments<'_>) {
        // FNV-1a, over the lines with their ends.
        let line = format!("{at_ms:>6} {what}\n");
        if self.lines == 0 {
            self.hash = 0xcbf2_9ce4_8422_2325;
        }
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if let Some(text) = &mut self.text {
            text.push_str(&line);
        }
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) now_ms: u64,
    pub(crate) phase: Phase,
    pub(crate) places: BTreeMap<ClusterName, Place>,
    pub(crate) operations: Vec<(Key, Option<Operation>)>,
    /// The first thing that must not be.
    pub(crate) violation: Option<String>,
    /// Calls that get no route are refused at once, or hang until their deadline.
    pub(crate) refusals_hang: bool,
    /// Every disk acknowledges before it has written: the planted bug.
    pub(crate) lying_disks: bool,
    next_event: u64,
    next_value: u64,
    trace: Trace,
}

/// Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(seed: u64, clusters: &[ClusterName], options: Options) -> Self {
        let place = || Place {
            seat: None,
            kept: BTreeSet::new(),
            store: None,
            boots: 0,
            clock: SimClock::new(),
            errand: None,
            done: false,
        };
        let places = clusters.iter().map(|c| (c.clone(), place())).collect();
        Self(Arc::new(Mutex::new(World {
            seed,
            now_ms: 0,
            phase: Phase::Faults,
            places,
            operations: Vec::new(),
            violation: None,
            refusals_hang: false,
            lying_disks: options.planted,
            next_event: 0,
            next_value: 0,
            trace: Trace {
                text: options.trace.then(String::new),
                ..Trace::default()
            },
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        self.lock().note(what);
    }

    pub(crate) fn fail(&self, why: String) {
        self.lock().fail(why);
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub(crate) fn seat(&self, cluster: &ClusterName) -> Option<Seat> {
        self.lock().places.get(cluster)?.seat.clone()
    }

    pub(crate) fn store(&self, cluster: &ClusterName) -> Option<Store> {
        self.lock().places.get(cluster)?.store.clone()
    }

    /// Takes `work` on one place.
    pub(crate) fn place<T>(
        &self,
        cluster: &ClusterName,
        work: impl FnOnce(&mut Place) -> T,
    ) -> Option<T> {
        self.lock().places.get_mut(cluster).map(work)
    }

    pub(crate) fn fresh_value(&self) -> u64 {
        let mut world = self.lock();
        world.next_value += 1;
        world.next_value
    }

    /// A client calls.
    pub(crate) fn called(&self, key: Key, action: Action) -> usize {
        let mut world = self.lock();
        let at = world.event();
        world.note(format_args!("{} k{}: calls {action:?}", key.0, key.1));
        world.operations.push((
            key,
            Some(Operation {
                action,
                called: at,
                returned: None,
            }),
        ));
        world.operations.len() - 1
    }

    /// It was answered; `action` is what the call turned out to be.
    pub(crate) fn returned(&self, operation: usize, action: Action) {
        let mut world = self.lock();
        let at = world.event();
        if let Some((_, Some(op))) = world.operations.get_mut(operation) {
            op.returned = Some(at);
            op.action = action;
        }
        world.note(format_args!("operation {operation} returns {action:?}"));
    }

    /// It certainly did nothing.
    pub(crate) fn came_to_nothing(&self, operation: usize, why: &str) {
        let mut world = self.lock();
        if let Some((_, op)) = world.operations.get_mut(operation) {
            *op = None;
        }
        world.note(format_args!("operation {operation} did nothing: {why}"));
    }

    /// The operations on each register.
    pub(crate) fn histories(&self) -> BTreeMap<Key, Vec<Operation>> {
        let world = self.lock();
        let mut all: BTreeMap<Key, Vec<Operation>> = BTreeMap::new();
        for (key, op) in &world.operations {
            if let Some(op) = op {
                all.entry(key.clone()).or_default().push(*op);
            }
        }
        all
    }
}

impl World {
    fn event(&mut self) -> u64 {
        self.next_event += 1;
        self.next_event
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.add(self.now_ms, what);
    }

    pub(crate) fn fail(&mut self, why: String) {
        self.note(format_args!("VIOLATION {why}"));
        self.violation.get_or_insert(why);
    }

    /// The trace's hash, its lines, and its text if it was kept.
    pub(crate) fn trace(&mut self) -> (u64, u64, Option<String>) {
        (self.trace.hash, self.trace.lines, self.trace.text.take())
    }

    /// A generator for one purpose, determined by the seed.
    pub(crate) fn rng(&self, purpose: &str) -> Rng {
        let mut hash = self.seed ^ 0x9e37_79b9_7f4a_7c15;
        for byte in purpose.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Rng::seeded(hash)
    }
}

/// What a register holds, for people.
pub(crate) fn shown(value: Value) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| value.to_string())
}
