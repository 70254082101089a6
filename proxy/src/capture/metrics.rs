//! What a capture counts. The sources of plaintext callers are bounded: beyond that many they are one.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tradewind_runtime::metrics::MetricsRegistry;

/// Sources told apart: whoever turns a cluster to `strict` reads such a list, and no longer one.
const MAX_SOURCES: usize = 256;
/// What stands for all further ones.
const OTHERS: &str = "other";

/// What became of a captured outbound connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are")]
pub(crate) enum Fate {
    /// Its address is a service's.
    service,
    /// Its address is an endpoint's.
    endpoint,
    /// Its request names a service.
    host,
    /// It went on to where it was meant to go.
    passed,
    /// Nobody known, and such are refused.
    refused,
    /// It was to go on, and could not.
    unreached,
    /// It ended before it was known what it is.
    ended,
    /// Nobody captured it: it was dialled at the listener itself.
    direct,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FateLabels {
    result: Fate,
}

/// What became of a plaintext caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values are written as they are")]
pub(crate) enum Verdict {
    /// It reached the application.
    passed,
    /// It was reset.
    refused,
    /// The application did not take it.
    unreached,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallerLabels {
    port: u16,
    source: String,
    result: Verdict,
}

/// Every counter of a capture; clones share.
#[derive(Clone, Debug)]
pub(crate) struct CaptureMetrics {
    outbound: Family<FateLabels, Counter>,
    callers: Family<CallerLabels, Counter>,
    pub(crate) direct: Counter,
    pub(crate) active: Gauge,
    pub(crate) passing: Gauge,
    sources: Arc<Mutex<BTreeSet<IpAddr>>>,
}

impl CaptureMetrics {
    pub(crate) fn register(registry: &MetricsRegistry) -> Self {
        let m = Self {
            outbound: Family::default(),
            callers: Family::default(),
            direct: Counter::default(),
            active: Gauge::default(),
            passing: Gauge::default(),
            sources: Arc::default(),
        };
        registry.register(|r| {
            r.register(
                "tradewind_capture_outbound",
                "Captured outbound connections by what became of them",
                m.outbound.clone(),
            );
            r.register(
                "tradewind_plaintext_callers",
                "Captured callers without a proxy by port, source and what became of them",
                m.callers.clone(),
            );
            r.register(
                "tradewind_capture_inbound_direct",
                "Connections to the listener for captured callers that nobody captured: refused",
                m.direct.clone(),
            );
            r.register(
                "tradewind_plaintext_callers_active",
                "Captured callers without a proxy that are connected to the application now",
                m.active.clone(),
            );
            r.register(
                "tradewind_capture_passing",
                "Captured outbound connections to nobody known that are open now",
                m.passing.clone(),
            );
        });
        m
    }

    /// An outbound connection's fate.
    pub(crate) fn outbound(&self, result: Fate) {
        self.outbound.get_or_create(&FateLabels { result }).inc();
    }

    /// A caller's.
    pub(crate) fn caller(&self, port: u16, source: IpAddr, result: Verdict) {
        let source = match self.tell(source) {
            Told::Apart => source.to_string(),
            Told::New => {
                tracing::info!(%source, port, ?result, "a caller without a proxy");
                source.to_string()
            }
            Told::Together => OTHERS.to_owned(),
        };
        let labels = CallerLabels {
            port,
            source,
            result,
        };
        self.callers.get_or_create(&labels).inc();
    }

    fn tell(&self, source: IpAddr) -> Told {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.contains(&source) {
            Told::Apart
        } else if sources.len() < MAX_SOURCES {
            sources.insert(source);
            Told::New
        } else {
            Told::Together
        }
    }
}

/// How a source is told from the others.
enum Told {
    Apart,
    New,
    Together,
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn sources_are_bounded() {
        let registry = MetricsRegistry::new();
        let metrics = CaptureMetrics::register(&registry);
        for n in 0..2000_u32 {
            let source = Ipv4Addr::from(0x0a00_0000 + n).into();
            metrics.caller(8080, source, Verdict::passed);
        }
        metrics.caller(8080, Ipv4Addr::new(10, 0, 0, 0).into(), Verdict::refused);
        let text = registry.encode();
        let lines = text
            .lines()
            .filter(|l| l.starts_with("tradewind_plaintext_callers_total"));
        assert_eq!(lines.count(), MAX_SOURCES + 2);
        let others = format!(
            "source=\"other\",result=\"passed\"}} {}",
            2000 - MAX_SOURCES
        );
        assert!(text.contains(&others), "{text}");
    }
}
