//! What the inbound side counts. Labels are closed sets or the services that this proxy serves or has served.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tradewind_api::ServicePortRef;
use tradewind_runtime::metrics::MetricsRegistry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    service: String,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    service: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitedLabels {
    service: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    service: String,
    failure: &'static str,
}

/// Every counter of the inbound side; clones share.
#[derive(Clone, Debug, Default)]
pub(crate) struct InboundMetrics {
    accepted: Counter,
    active: Gauge,
    dropped: Family<ReasonLabels, Counter>,
    revoked: Counter,
    expired: Counter,
    refused: Family<ReasonLabels, Counter>,
    withdrawn: Family<ServiceLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    limited: Family<LimitedLabels, Counter>,
    tunnels: Family<ServiceLabels, Counter>,
    tunnels_active: Family<ServiceLabels, Gauge>,
    received: Family<ServiceLabels, Counter>,
    sent: Family<ServiceLabels, Counter>,
}

impl InboundMetrics {
    pub(crate) fn new(registry: &MetricsRegistry) -> Self {
        let m = Self::default();
        registry.register(|r| {
            r.register(
                "tradewind_inbound_connections",
                "Mutual TLS connections accepted",
                m.accepted.clone(),
            );
            r.register(
                "tradewind_inbound_connections_active",
                "Connections that live",
                m.active.clone(),
            );
            r.register(
                "tradewind_inbound_connections_dropped",
                "Connections that did not become one, by reason",
                m.dropped.clone(),
            );
            r.register(
                "tradewind_inbound_connections_revoked",
                "Connections closed because their peer is no longer trusted",
                m.revoked.clone(),
            );
            r.register(
                "tradewind_inbound_connections_expired",
                "Connections closed because their peer's certificate ended",
                m.expired.clone(),
            );
            r.register(
                "tradewind_inbound_streams_refused",
                "Streams refused before the application, by reason",
                m.refused.clone(),
            );
            r.register(
                "tradewind_inbound_streams_withdrawn",
                "Streams of other clusters ended because their service is no longer exported",
                m.withdrawn.clone(),
            );
            r.register(
                "tradewind_inbound_responses",
                "The application's responses, by class",
                m.responses.clone(),
            );
            r.register(
                "tradewind_inbound_app_failures",
                "Requests and tunnels that the application failed, by how",
                m.failures.clone(),
            );
            r.register(
                "tradewind_inbound_rate_limited",
                "Requests beyond a local rate limit, by what became of them",
                m.limited.clone(),
            );
            r.register(
                "tradewind_inbound_tunnels",
                "CONNECT tunnels opened",
                m.tunnels.clone(),
            );
            r.register(
                "tradewind_inbound_tunnels_active",
                "CONNECT tunnels that live",
                m.tunnels_active.clone(),
            );
            r.register(
                "tradewind_inbound_tunnel_bytes_received",
                "Bytes from callers through tunnels",
                m.received.clone(),
            );
            r.register(
                "tradewind_inbound_tunnel_bytes_sent",
                "Bytes to callers through tunnels",
                m.sent.clone(),
            );
        });
        m
    }

    pub(crate) fn connection(&self) -> LiveConnection {
        self.accepted.inc();
        self.active.inc();
        LiveConnection(self.active.clone())
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn revoked(&self) {
        self.revoked.inc();
    }

    pub(crate) fn expired(&self) {
        self.expired.inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn withdrawn(&self, service: &ServicePortRef) {
        self.withdrawn
            .get_or_create(&ServiceLabels {
                service: service.to_string(),
            })
            .inc();
    }

    /// One served service's counters, looked up once instead of at every request.
    pub(crate) fn service(&self, service: &ServicePortRef) -> ServiceMetrics {
        let service = service.to_string();
        let class = |class| {
            self.responses
                .get_or_create(&ResponseLabels {
                    service: service.clone(),
                    class,
                })
                .clone()
        };
        let failure = |failure| {
            self.failures
                .get_or_create(&FailureLabels {
                    service: service.clone(),
                    failure,
                })
                .clone()
        };
        let limited = |outcome| {
            self.limited
                .get_or_create(&LimitedLabels {
                    service: service.clone(),
                    outcome,
                })
                .clone()
        };
        let labels = ServiceLabels {
            service: service.clone(),
        };
        ServiceMetrics {
            classes: [
                class("other"),
                class("2xx"),
                class("3xx"),
                class("4xx"),
                class("5xx"),
            ],
            connect: failure("connect"),
            unsent: failure("unsent"),
            cut: failure("cut"),
            limited: limited("refused"),
            over_limit: limited("passed"),
            tunnels: self.tunnels.get_or_create(&labels).clone(),
            tunnels_active: self.tunnels_active.get_or_create(&labels).clone(),
            received: self.received.get_or_create(&labels).clone(),
            sent: self.sent.get_or_create(&labels).clone(),
        }
    }
}

/// One live connection; counted out on drop.
#[derive(Debug)]
pub(crate) struct LiveConnection(Gauge);

impl Drop for LiveConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One served service's counters.
#[derive(Clone, Debug)]
pub(crate) struct ServiceMetrics {
    classes: [Counter; 5],
    pub(crate) connect: Counter,
    pub(crate) unsent: Counter,
    pub(crate) cut: Counter,
    /// Refused by a limit.
    pub(crate) limited: Counter,
    /// Beyond a limit that is not enforced.
    pub(crate) over_limit: Counter,
    tunnels: Counter,
    tunnels_active: Gauge,
    received: Counter<u64, AtomicU64>,
    sent: Counter<u64, AtomicU64>,
}

impl ServiceMetrics {
    pub(crate) fn response(&self, status: http::StatusCode) {
        let [other, two, three, four, five] = &self.classes;
        match status.as_u16() / 100 {
            2 => two,
            3 => three,
            4 => four,
            5 => five,
            _ => other,
        }
        .inc();
    }

    pub(crate) fn tunnel(&self) -> LiveConnection {
        self.tunnels.inc();
        self.tunnels_active.inc();
        LiveConnection(self.tunnels_active.clone())
    }

    pub(crate) fn tunnel_bytes(&self, received: u64, sent: u64) {
        self.received.inc_by(received);
        self.sent.inc_by(sent);
    }
}
