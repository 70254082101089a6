//! What the webhook counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tradewind_kubernetes::injection::Kind;
use tradewind_runtime::metrics::MetricsRegistry;

/// Why a connection or a request was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Why {
    /// No TLS handshake, or none that believes the certificate.
    Handshake,
    /// Too slow.
    Slow,
    /// One too many.
    Limit,
    /// Not what the admission API sends.
    Garbage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    reason: Why,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Meters {
    dropped: Family<Dropped, Counter>,
    answers: Family<Answered, Counter>,
    expires: Gauge,
}

impl Meters {
    pub(super) fn register(registry: &MetricsRegistry) -> Self {
        let m = Self::default();
        registry.register(|r| {
            r.register(
                "tradewind_webhook_answers",
                "pods that the API server asked about, by what became of them and why",
                m.answers.clone(),
            );
            r.register(
                "tradewind_webhook_dropped",
                "connections and requests of the webhook that were dropped, by reason",
                m.dropped.clone(),
            );
            r.register(
                "tradewind_webhook_certificate_expires_unix_seconds",
                "end of the webhook's certificate",
                m.expires.clone(),
            );
        });
        m
    }

    pub(super) fn answered(&self, kind: Kind) {
        let (result, reason) = match kind {
            Kind::Injected => ("injected", "none"),
            Kind::Left(reason) => ("left", reason),
            Kind::Denied => ("denied", "unreadable"),
            Kind::Foreign => ("left", "foreign"),
        };
        self.answers
            .get_or_create(&Answered { result, reason })
            .inc();
    }

    pub(super) fn dropped(&self, reason: Why) {
        self.dropped.get_or_create(&Dropped { reason }).inc();
    }

    pub(super) fn expires(&self, unix_s: u64) {
        self.expires.set(i64::try_from(unix_s).unwrap_or(i64::MAX));
    }
}
