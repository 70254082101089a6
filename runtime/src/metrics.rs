//! The process's metrics registry. Components register a struct of their own metrics once, at construction; nothing is
//! global. Every metric's name begins with `tradewind_`, but for those of Istio's standard, and is written out in full where it is registered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use prometheus_client;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// The content type of [`MetricsRegistry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry that many components share. Clones are the same registry.
#[derive(Debug, Clone)]
pub struct MetricsRegistry {
    registry: Arc<Mutex<Registry>>,
}

impl MetricsRegistry {
    /// A registry that knows the process's own metrics and nothing else yet.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        Self {
            registry: Arc::new(Mutex::new(registry)),
        }
    }

    /// Lets a component register its metrics. Names are given in full, with the `tradewind_` prefix but without the
    /// `_total` that the encoding adds to counters.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.lock())
    }

    /// The OpenMetrics text of everything registered.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.lock()) {
            tracing::error!(%error, "cannot encode metrics");
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MetricsRegistry {
    fn default() -> Self {
        Self::new()
    }
}

/// What the kernel and the runtime say about this process, read at each scrape.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let resident = resident_bytes().unwrap_or(0);
        gauge(
            &mut encoder,
            "resident_memory",
            "Resident memory",
            Some(&Unit::Bytes),
            resident,
        )?;
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        gauge(
            &mut encoder,
            "open_files",
            "Open file descriptors",
            None,
            count(files),
        )?;
        let tasks = crate::task::alive();
        gauge(
            &mut encoder,
            "tasks",
            "Tasks that have not ended",
            None,
            count(tasks),
        )
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: i64,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(value);
    let name = format!("tradewind_process_{name}");
    gauge.encode(encoder.encode_descriptor(&name, help, unit, gauge.metric_type())?)
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn encodes_what_was_registered_and_the_process() {
        let metrics = MetricsRegistry::new();
        let counter = Counter::<u64>::default();
        let registered = counter.clone();
        metrics.register(|registry| {
            registry.register(
                "tradewind_test_calls",
                "Calls made by this test",
                registered,
            );
        });
        counter.inc_by(3);
        let text = metrics.encode();
        assert!(text.contains("tradewind_test_calls_total 3"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let resident = text
            .lines()
            .find_map(|line| line.strip_prefix("tradewind_process_resident_memory_bytes "))
            .unwrap();
        assert!(resident.parse::<i64>().unwrap() > 100_000, "{resident}");
    }
}
