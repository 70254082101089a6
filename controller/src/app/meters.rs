//! What a controller shows of its own view: figures for dashboards, none of them a decision.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use tradewind_api::{model::ClusterState, snapshot::Snapshot};
use tradewind_runtime::MetricsRegistry;

/// Figures of the newest snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Meters {
    revision: Gauge<u64, AtomicU64>,
    services: Gauge,
    endpoints: Gauge,
    members: Gauge,
    silent: Gauge,
    manifest_problems: Gauge,
}

impl Meters {
    pub(super) fn register(registry: &MetricsRegistry) -> Self {
        let m = Self::default();
        registry.register(|r| {
            r.register(
                "tradewind_controller_revision",
                "store revision of the newest snapshot",
                m.revision.clone(),
            );
            r.register(
                "tradewind_controller_services",
                "services in the newest snapshot",
                m.services.clone(),
            );
            r.register(
                "tradewind_controller_endpoints",
                "endpoints in the newest snapshot",
                m.endpoints.clone(),
            );
            r.register(
                "tradewind_controller_members",
                "member clusters",
                m.members.clone(),
            );
            r.register(
                "tradewind_controller_silent_clusters",
                "member clusters whose lease is overdue",
                m.silent.clone(),
            );
            r.register(
                "tradewind_controller_manifest_problems",
                "problems found in the manifest directory",
                m.manifest_problems.clone(),
            );
        });
        m
    }

    pub(super) fn show(&self, snapshot: &Snapshot, previous: &Snapshot, manifest_problems: usize) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.revision.set(snapshot.revision.0);
        if !snapshot.services.is(&previous.services) {
            let endpoints = snapshot.services.values().map(|s| s.endpoints.len());
            self.services.set(count(snapshot.services.len()));
            self.endpoints.set(count(endpoints.sum()));
        }
        let members = snapshot
            .clusters
            .values()
            .filter(|c| c.state != ClusterState::Left);
        self.members.set(count(members.clone().count()));
        self.silent
            .set(count(members.filter(|c| c.lease_expired).count()));
        self.manifest_problems.set(count(manifest_problems));
    }
}
