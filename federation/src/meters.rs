//! The store's metrics. Registered once when it opens; holding them costs a few reference counts.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};
use tradewind_runtime::MetricsRegistry;

use crate::status::StoreStatus;

#[derive(Clone, Debug)]
pub(crate) struct Meters {
    fsync: Histogram,
    entries: Counter,
    pub(crate) proposed: Counter,
    pub(crate) pre_votes: Counter,
    pub(crate) elections: Counter,
    term: Gauge<u64, AtomicU64>,
    applied: Gauge<u64, AtomicU64>,
    leads: Gauge,
    can_write: Gauge,
    voters: Gauge,
    trail: Gauge<u64, AtomicU64>,
    disk: Gauge<u64, AtomicU64>,
    pub(crate) mismatches: Counter,
    pub(crate) over_budget: Counter,
    recent: Arc<Mutex<VecDeque<u32>>>,
}

/// Flushes that the 99th percentile is taken of: the last minutes of a busy store.
const RECENT: usize = 1_024;

impl Meters {
    pub(crate) fn new(registry: &MetricsRegistry) -> Self {
        // From a fast SSD to a disk in trouble.
        let fsync = Histogram::new([
            0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
        ]);
        let meters = Self {
            fsync,
            entries: Counter::default(),
            proposed: Counter::default(),
            pre_votes: Counter::default(),
            elections: Counter::default(),
            term: Gauge::default(),
            applied: Gauge::default(),
            leads: Gauge::default(),
            can_write: Gauge::default(),
            voters: Gauge::default(),
            trail: Gauge::default(),
            disk: Gauge::default(),
            mismatches: Counter::default(),
            over_budget: Counter::default(),
            recent: Arc::default(),
        };
        registry.register(|r| {
            let m = meters.clone();
            r.register(
                "tradewind_store_append_seconds",
                "Time until appended entries are safe on disk",
                m.fsync,
            );
            r.register(
                "tradewind_store_appended_entries",
                "Log entries made safe on disk",
                m.entries,
            );
            r.register(
                "tradewind_store_proposals",
                "Changes proposed on this node",
                m.proposed,
            );
            r.register(
                "tradewind_store_pre_votes",
                "Times this node asked whether others miss the leader too",
                m.pre_votes,
            );
            r.register(
                "tradewind_store_elections",
                "Elections this node started",
                m.elections,
            );
            r.register("tradewind_store_term", "Current term", m.term);
            r.register(
                "tradewind_store_revision",
                "Last applied log index",
                m.applied,
            );
            r.register("tradewind_store_is_leader", "1 on the leader", m.leads);
            r.register(
                "tradewind_store_can_write",
                "1 while a write would most likely be taken",
                m.can_write,
            );
            r.register("tradewind_store_voters", "Voters of the store", m.voters);
            r.register(
                "tradewind_store_furthest_trail",
                "Entries the slowest node trails; on the leader",
                m.trail,
            );
            r.register(
                "tradewind_store_log_bytes",
                "Bytes the log takes on disk",
                m.disk,
            );
            r.register(
                "tradewind_store_digest_mismatches",
                "Times this copy of a cluster's exports was not what that cluster attested",
                m.mismatches,
            );
            r.register(
                "tradewind_store_over_budget",
                "Writes refused because their cluster asked for more than its share; on the leader",
                m.over_budget,
            );
        });
        meters
    }

    pub(crate) fn flushed(&self, took: Duration, entries: usize) {
        self.fsync.observe(took.as_secs_f64());
        self.entries.inc_by(entries as u64);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= RECENT {
            recent.pop_front();
        }
        recent.push_back(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// What 99 of 100 of the last flushes stayed within, µs. `None` before the first.
    pub(crate) fn fsync_p99_us(&self) -> Option<u64> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<u32> = recent.iter().copied().collect();
        drop(recent);
        sorted.sort_unstable();
        let at = sorted.len().saturating_sub(1) * 99 / 100;
        sorted.get(at).map(|us| u64::from(*us))
    }

    pub(crate) fn show(&self, status: &StoreStatus, disk: u64) {
        self.term.set(status.term);
        self.applied.set(status.applied.unwrap_or(0));
        self.leads
            .set(i64::from(status.leader == Some(status.node_id)));
        self.can_write.set(i64::from(status.can_write));
        self.voters
            .set(i64::try_from(status.voters.len()).unwrap_or(i64::MAX));
        self.trail.set(
            status
                .trails
                .values()
                .map(|t| t.unwrap_or(0))
                .max()
                .unwrap_or(0),
        );
        self.disk.set(disk);
    }
}

/// Meters that nobody reads, for tests and tools.
impl Default for Meters {
    fn default() -> Self {
        Self::new(&MetricsRegistry::new())
    }
}
