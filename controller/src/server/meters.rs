//! What the controller's listeners count.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
};
use tradewind_runtime::metrics::MetricsRegistry;

/// Why a connection was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Why {
    /// What came is no TLS handshake of a peer that is believed.
    Garbage,
    /// The handshake took too long.
    Slow,
    /// One connection too many.
    Limit,
    /// The unix socket does not say who called.
    Credentials,
    /// The peer's authority left the trust map.
    Revoked,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Why,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Meters {
    accepted: Counter,
    dropped: Family<Labels, Counter>,
}

impl Meters {
    pub(super) fn register(registry: &MetricsRegistry) -> Self {
        let m = Self::default();
        registry.register(|r| {
            r.register(
                "tradewind_controller_connections_accepted",
                "connections taken by the controller's listeners",
                m.accepted.clone(),
            );
            r.register(
                "tradewind_controller_connections_dropped",
                "connections dropped before or after their handshake, by reason",
                m.dropped.clone(),
            );
        });
        m
    }

    pub(super) fn accepted(&self) {
        self.accepted.inc();
    }

    pub(super) fn dropped(&self, reason: Why) {
        self.dropped.get_or_create(&Labels { reason }).inc();
    }
}
