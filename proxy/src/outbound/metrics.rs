//! What outbound counts. Handles for the hot path are taken once per endpoint, not per request.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use tradewind_api::id::{ClusterName, ServicePortRef};
use tradewind_runtime::metrics::MetricsRegistry;

/// How a request ended for the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are")]
pub(super) enum Outcome {
    /// A response below 500.
    ok,
    /// The application answered 500 or above.
    error_status,
    /// Nobody answered; the proxy did.
    failed,
    /// The response broke off.
    broken,
}

/// Why an application's connection ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are")]
pub(super) enum Dropped {
    /// It broke the rules of what it speaks.
    malformed,
    /// It went away in the middle.
    cut,
}

/// What became of a copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are")]
pub(super) enum Mirrored {
    /// It was answered, whatever with.
    answered,
    /// It was not, or not in time, or not taken as fast as the call's own.
    failed,
    /// It was not sent: too many were under way.
    dropped,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MirrorLabels {
    service: String,
    outcome: Mirrored,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OverflowLabels {
    service: String,
    /// Which bound was met: connections, pending, requests, retries.
    bound: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedLabels {
    reason: Dropped,
}

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    service: String,
    /// The cluster that answered; `none` when nobody did.
    cluster: String,
    outcome: Outcome,
}

/// Labels of what happens to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CauseLabels {
    service: String,
    cluster: String,
    cause: String,
}

/// Labels of a service served by a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ServedLabels {
    service: String,
    cluster: String,
}

/// A process's outbound metrics; clones count into the same.
#[derive(Clone, Debug)]
pub struct OutboundMetrics {
    requests: Family<RequestLabels, Counter>,
    tunnels: Family<RequestLabels, Counter>,
    retries: Family<CauseLabels, Counter>,
    ejections: Family<CauseLabels, Counter>,
    latency: Family<ServedLabels, Histogram, fn() -> Histogram>,
    dropped: Family<DroppedLabels, Counter>,
    mirrors: Family<MirrorLabels, Counter>,
    overflows: Family<OverflowLabels, Counter>,
    pub(super) refused_connections: Counter,
    pub(super) connections: Gauge,
    pub(super) retries_over_budget: Counter,
}

fn histogram() -> Histogram {
    // 0.25 ms to about 16 s in steps of two.
    Histogram::new(exponential_buckets(0.000_25, 2.0, 17))
}

impl OutboundMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> Self {
        let m = Self {
            requests: Family::default(),
            tunnels: Family::default(),
            retries: Family::default(),
            ejections: Family::default(),
            latency: Family::new_with_constructor(histogram),
            dropped: Family::default(),
            mirrors: Family::default(),
            overflows: Family::default(),
            refused_connections: Counter::default(),
            connections: Gauge::default(),
            retries_over_budget: Counter::default(),
        };
        registry.register(|r| {
            r.register(
                "tradewind_outbound_requests",
                "Requests by service, cluster that answered, and outcome",
                m.requests.clone(),
            );
            r.register(
                "tradewind_outbound_tunnels",
                "Opaque and upgraded connections by service, cluster that took them, and outcome",
                m.tunnels.clone(),
            );
            r.register(
                "tradewind_outbound_retries",
                "Attempts that failed and were made again elsewhere, by the failed one's cluster and cause",
                m.retries.clone(),
            );
            r.register(
                "tradewind_outbound_ejections",
                "Endpoints taken out after failures, by cluster and cause",
                m.ejections.clone(),
            );
            r.register(
                "tradewind_outbound_latency_seconds",
                "Time from a request to the head of its response",
                m.latency.clone(),
            );
            r.register(
                "tradewind_outbound_connections_dropped",
                "Application connections that broke off or broke the rules, by reason",
                m.dropped.clone(),
            );
            r.register(
                "tradewind_outbound_mirrors",
                "Copies of requests by the service that got them and outcome",
                m.mirrors.clone(),
            );
            r.register(
                "tradewind_outbound_overflows",
                "Calls and retries not made because a policy allows no more at once, by the bound that was met",
                m.overflows.clone(),
            );
            r.register(
                "tradewind_outbound_refused_connections",
                "Connections closed at once because too many were open",
                m.refused_connections.clone(),
            );
            r.register(
                "tradewind_outbound_connections",
                "Application connections open now",
                m.connections.clone(),
            );
            r.register(
                "tradewind_outbound_retries_over_budget",
                "Retries not made because the budget was used up",
                m.retries_over_budget.clone(),
            );
        });
        m
    }

    /// Handles for what one cluster serves of one service.
    pub(super) fn served(&self, service: &ServicePortRef, cluster: &ClusterName) -> Served {
        let request = |outcome| {
            self.requests.get_or_create_owned(&RequestLabels {
                service: service.to_string(),
                cluster: cluster.to_string(),
                outcome,
            })
        };
        Served {
            ok: request(Outcome::ok),
            error_status: request(Outcome::error_status),
            broken: request(Outcome::broken),
            latency: self.latency.get_or_create_owned(&ServedLabels {
                service: service.to_string(),
                cluster: cluster.to_string(),
            }),
        }
    }

    /// A request that nobody answered.
    pub(super) fn failed(&self, service: &ServicePortRef) {
        self.requests
            .get_or_create(&RequestLabels {
                service: service.to_string(),
                cluster: "none".into(),
                outcome: Outcome::failed,
            })
            .inc();
    }

    /// A tunnel's fate; `cluster` is the one that took it.
    pub(super) fn tunnel(
        &self,
        service: &ServicePortRef,
        cluster: Option<&ClusterName>,
        outcome: Outcome,
    ) {
        self.tunnels
            .get_or_create(&RequestLabels {
                service: service.to_string(),
                cluster: cluster.map_or_else(|| "none".into(), ClusterName::to_string),
                outcome,
            })
            .inc();
    }

    /// An application's connection that ended before its time.
    pub(super) fn dropped(&self, reason: Dropped) {
        self.dropped.get_or_create(&DroppedLabels { reason }).inc();
    }

    /// A copy of a request.
    pub(super) fn mirrored(&self, service: &ServicePortRef, outcome: Mirrored) {
        let service = service.to_string();
        self.mirrors
            .get_or_create(&MirrorLabels { service, outcome })
            .inc();
    }

    /// A call or a retry beyond what a policy allows at once.
    pub(super) fn overflowed(&self, service: &ServicePortRef, bound: &'static str) {
        let service = service.to_string();
        self.overflows
            .get_or_create(&OverflowLabels { service, bound })
            .inc();
    }

    /// An attempt that is made again elsewhere.
    pub(super) fn retry(&self, service: &ServicePortRef, cluster: &ClusterName, cause: &str) {
        self.retries
            .get_or_create(&cause_labels(service, cluster, cause))
            .inc();
    }

    /// An endpoint that was taken out.
    pub(super) fn ejected(&self, service: &ServicePortRef, cluster: &ClusterName, cause: &str) {
        self.ejections
            .get_or_create(&cause_labels(service, cluster, cause))
            .inc();
    }
}

fn cause_labels(service: &ServicePortRef, cluster: &ClusterName, cause: &str) -> CauseLabels {
    CauseLabels {
        service: service.to_string(),
        cluster: cluster.to_string(),
        cause: cause.to_owned(),
    }
}

/// Handles for what one cluster serves of one service.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) ok: Counter,
    pub(super) error_status: Counter,
    pub(super) broken: Counter,
    pub(super) latency: Histogram,
}

/// Counts one open connection.
#[derive(Debug)]
pub(super) struct Open(Gauge);

impl Open {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
