//! What a data-plane process tells about its link to the controller.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tradewind_runtime::metrics::MetricsRegistry;

/// One instance per process; updated by the link's own tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Meters {
    pub(super) connected: Gauge<i64, AtomicI64>,
    pub(super) revision: Gauge<i64, AtomicI64>,
    pub(super) age_seconds: Gauge<f64, AtomicU64>,
    pub(super) expiry_seconds: Gauge<f64, AtomicU64>,
    pub(super) nacks: Counter,
    pub(super) cache_errors: Counter,
    pub(super) sign_failures: Counter,
    pub(super) seal_off: Gauge<i64, AtomicI64>,
}

impl Meters {
    pub(super) fn register(registry: &MetricsRegistry) -> Self {
        let m = Self::default();
        registry.register(|r| {
            r.register(
                "tradewind_control_connected",
                "1 while the discovery stream is up and in sync",
                m.connected.clone(),
            );
            r.register(
                "tradewind_control_snapshot_revision",
                "store revision of the snapshot in force",
                m.revision.clone(),
            );
            r.register(
                "tradewind_control_snapshot_age_seconds",
                "time since the snapshot in force was last known to be current; 0 while connected, -1 without one",
                m.age_seconds.clone(),
            );
            r.register(
                "tradewind_control_certificate_expiry_seconds",
                "time until the certificate in use ends; 0 without one",
                m.expiry_seconds.clone(),
            );
            r.register(
                "tradewind_control_nacks",
                "discovery resources rejected by this process",
                m.nacks.clone(),
            );
            r.register(
                "tradewind_control_cache_errors",
                "snapshot or identity files that could not be read or written",
                m.cache_errors.clone(),
            );
            r.register(
                "tradewind_control_sign_failures",
                "signing requests that failed",
                m.sign_failures.clone(),
            );
            r.register(
                "tradewind_control_identity_cache_off",
                "1 when the kernel keyring cannot keep the key that seals the identity",
                m.seal_off.clone(),
            );
        });
        m
    }
}
