//! What a gateway counts. Labels are closed sets or names from the snapshot, so their number is bounded.

use std::{
    cell::Cell,
    sync::{Arc, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use tokio::time::Instant;
use tradewind_runtime::metrics::MetricsRegistry;

use crate::{limits::Limits, refusal::Refusal};

/// Whom a connection was for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ToLabels {
    /// `namespace/name:port`, `controller`, or `gateway` for what was passed on.
    pub to: String,
    /// The member on the other side: who calls, or whom it is passed on to. Empty where nobody can tell.
    pub peer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: &'static str,
    /// As [`ToLabels::to`], where it was known by then.
    to: String,
    /// As [`ToLabels::peer`].
    peer: String,
}

impl RefusedLabels {
    fn of(reason: Refusal, to: ToLabels) -> Self {
        let ToLabels { to, peer } = to;
        Self {
            reason: reason.as_str(),
            to,
            peer,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DialLabels {
    to: String,
    peer: String,
    result: &'static str,
}

/// Every counter of a gateway; clones share.
#[derive(Clone, Debug)]
pub(crate) struct GatewayMetrics {
    opened: Family<ToLabels, Counter>,
    closed: Family<ToLabels, Counter>,
    active: Family<ToLabels, Gauge>,
    received: Family<ToLabels, Counter>,
    sent: Family<ToLabels, Counter>,
    ended: Family<ToLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    dials: Family<DialLabels, Counter>,
    hello: Histogram,
    first_byte: Family<ToLabels, Histogram, fn() -> Histogram>,
    pub(crate) announced: Gauge,
    pub(crate) probes_answered: Counter,
}

/// Half a millisecond, a call inside one building, to what nobody waits for.
fn first_bytes() -> Histogram {
    Histogram::new([
        0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    ])
}

impl GatewayMetrics {
    pub(crate) fn new(registry: &MetricsRegistry, limits: &Arc<Limits>) -> Self {
        let m = Self {
            opened: Family::default(),
            closed: Family::default(),
            active: Family::default(),
            received: Family::default(),
            sent: Family::default(),
            ended: Family::default(),
            refused: Family::default(),
            dials: Family::default(),
            // 10 us to 5 s, the deadline of a hello.
            hello: Histogram::new([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0, 5.0]),
            first_byte: Family::new_with_constructor(first_bytes),
            announced: Gauge::default(),
            probes_answered: Counter::default(),
        };
        for reason in Refusal::ALL {
            let none = RefusedLabels::of(reason, ToLabels::default());
            drop(m.refused.get_or_create(&none));
        }
        let max = Gauge::<i64>::default();
        max.set(i64::try_from(limits.max()).unwrap_or(i64::MAX));
        registry.register(|r| {
            r.register(
                "tradewind_gateway_connections_opened",
                "Connections carried",
                m.opened.clone(),
            );
            r.register(
                "tradewind_gateway_connections_closed",
                "Carried connections that ended",
                m.closed.clone(),
            );
            r.register(
                "tradewind_gateway_connections_active",
                "Connections being carried",
                m.active.clone(),
            );
            r.register(
                "tradewind_gateway_bytes_received",
                "Bytes from callers",
                m.received.clone(),
            );
            r.register(
                "tradewind_gateway_bytes_sent",
                "Bytes to callers",
                m.sent.clone(),
            );
            r.register(
                "tradewind_gateway_connections_ended_by_policy",
                "Connections ended because their service is no longer exported",
                m.ended.clone(),
            );
            r.register(
                "tradewind_gateway_connections_refused",
                "Connections not carried, by reason, and by caller and called where these were known",
                m.refused.clone(),
            );
            r.register(
                "tradewind_gateway_dials",
                "Attempts to reach a workload, by result",
                m.dials.clone(),
            );
            r.register(
                "tradewind_gateway_hello_seconds",
                "From accept to a whole ClientHello",
                m.hello.clone(),
            );
            r.register(
                "tradewind_gateway_first_byte_seconds",
                "From accept to the first byte from the other side back to the caller",
                m.first_byte.clone(),
            );
            r.register(
                "tradewind_gateway_announced",
                "1 while the controller knows of this gateway",
                m.announced.clone(),
            );
            r.register(
                "tradewind_gateway_probes_answered",
                "Other clusters' gateways that asked whether this one is there, and were told",
                m.probes_answered.clone(),
            );
            r.register(
                "tradewind_gateway_connections_limit",
                "Most connections at once",
                max,
            );
        });
        m
    }

    pub(crate) fn refuse(&self, reason: Refusal, to: ToLabels) {
        self.refused
            .get_or_create(&RefusedLabels::of(reason, to))
            .inc();
    }

    pub(crate) fn hello(&self, seconds: f64) {
        self.hello.observe(seconds);
    }

    pub(crate) fn dialled(&self, to: &ToLabels, result: &'static str) {
        self.dials
            .get_or_create(&DialLabels {
                to: to.to.clone(),
                peer: to.peer.clone(),
                result,
            })
            .inc();
    }

    /// A connection that was accepted at that time.
    pub(crate) fn open(&self, to: &ToLabels, accepted: Instant) -> Carried {
        self.opened.get_or_create(to).inc();
        let active = self.active.get_or_create(to).clone();
        active.inc();
        Carried {
            active,
            closed: self.closed.get_or_create(to).clone(),
            ended_by_policy: self.ended.get_or_create(to).clone(),
            received: self.received.get_or_create(to).clone(),
            sent: self.sent.get_or_create(to).clone(),
            first_byte: self.first_byte.get_or_create(to).clone(),
            waits_since: Cell::new(Some(accepted)),
        }
    }
}

/// One carried connection; counted as closed on drop.
#[derive(Debug)]
pub(crate) struct Carried {
    active: Gauge,
    closed: Counter,
    pub(crate) ended_by_policy: Counter,
    pub(crate) received: Counter<u64, AtomicU64>,
    sent: Counter<u64, AtomicU64>,
    first_byte: Histogram,
    /// When it was accepted, until the first byte has gone back.
    waits_since: Cell<Option<Instant>>,
}

impl Carried {
    /// Counts bytes that went back to the caller; `now` is asked for the first ones alone.
    pub(crate) fn sent(&self, bytes: u64, now: impl FnOnce() -> Instant) {
        self.sent.inc_by(bytes);
        if let Some(accepted) = self.waits_since.take() {
            let waited = now().saturating_duration_since(accepted);
            self.first_byte.observe(waited.as_secs_f64());
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.active.dec();
        self.closed.inc();
    }
}
