//! What is counted of spans and access-log lines.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tradewind_runtime::metrics::MetricsRegistry;

use super::TelemetryConfig;

/// Why something was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are")]
pub(super) enum Lost {
    /// The queue was full: the other side is away, or slower than there is to tell.
    queue_full,
    /// The collector did not take it for as long as it is tried.
    unreachable,
    /// The collector refused it.
    refused,
    /// The file could not be written.
    write_failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LostLabels {
    reason: Lost,
}

/// Clones count into the same.
#[derive(Clone, Debug, Default)]
pub(super) struct TelemetryMetrics {
    pub(super) exported: Counter,
    spans_lost: Family<LostLabels, Counter>,
    /// 1 while the collector takes spans.
    pub(super) collector: Gauge,
    pub(super) lines: Counter,
    lines_lost: Family<LostLabels, Counter>,
    /// 1 while the log can be written.
    pub(super) log: Gauge,
}

impl TelemetryMetrics {
    /// Registers those of what is configured.
    pub(super) fn register(registry: &MetricsRegistry, config: &TelemetryConfig) -> Self {
        let own = Self::default();
        registry.register(|r| {
            if config.otlp.is_some() {
                r.register(
                    "tradewind_trace_spans_exported",
                    "Spans that the collector took",
                    own.exported.clone(),
                );
                r.register(
                    "tradewind_trace_spans_dropped",
                    "Spans that were recorded and not told",
                    own.spans_lost.clone(),
                );
                r.register(
                    "tradewind_trace_collector_reachable",
                    "1 while the collector takes spans",
                    own.collector.clone(),
                );
                for reason in [Lost::queue_full, Lost::unreachable, Lost::refused] {
                    own.spans_lost(reason, 0);
                }
            }
            if config.access_log.is_some() {
                r.register(
                    "tradewind_access_log_lines",
                    "Lines of the access log that were written",
                    own.lines.clone(),
                );
                r.register(
                    "tradewind_access_log_lines_dropped",
                    "Lines of the access log that were not written",
                    own.lines_lost.clone(),
                );
                r.register(
                    "tradewind_access_log_writable",
                    "1 while the access log can be written",
                    own.log.clone(),
                );
                for reason in [Lost::queue_full, Lost::write_failed] {
                    own.lines_lost(reason, 0);
                }
            }
        });
        own
    }

    /// Handles for data threads are taken once, so that a lost one costs no look-up.
    pub(super) fn spans_counter(&self, reason: Lost) -> Counter {
        self.spans_lost.get_or_create_owned(&LostLabels { reason })
    }

    pub(super) fn lines_counter(&self, reason: Lost) -> Counter {
        self.lines_lost.get_or_create_owned(&LostLabels { reason })
    }

    pub(super) fn spans_lost(&self, reason: Lost, count: u64) {
        self.spans_counter(reason).inc_by(count);
    }

    pub(super) fn lines_lost(&self, reason: Lost, count: u64) {
        self.lines_counter(reason).inc_by(count);
    }
}
