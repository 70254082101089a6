//! Istio's standard metrics, for both directions: who called whom, how it ended, how long it took, how many bytes it moved.
//!
//! Owns every series of the process. Series are found once per pair of workloads, under a lock; requests count through
//! handles, with atomics alone. Who somebody is comes from verified certificates, never from what was sent.

mod account;
mod pair;
mod series;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};
use tokio::time::Instant;
use tradewind_runtime::{clock::SharedClock, metrics::MetricsRegistry};

pub(crate) use account::{Account, Counted, Refusal, is_grpc};
pub(crate) use pair::{Pair, PairKey, Party, Reporter, Security, UNKNOWN};
use series::{Ending, HttpSeries, Series, TcpSeries};
pub(crate) use series::{Flags, LiveTunnel};

use crate::telemetry::Telemetry;

/// Pairs that one process tells apart. A service with four thousand different callers is one whose callers nobody looks
/// through one by one, and a page of this many takes about a second to write.
const MAX_PAIRS: usize = 4096;
/// A pair that nobody holds any more (no connection, no endpoint) is forgotten after this: long after the last scrape has seen it.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Entry {
    series: Arc<Series>,
    unheld_since: Option<Instant>,
}

/// Where both directions count; clones count into the same.
#[derive(Clone, Debug)]
pub struct StandardMetrics {
    pairs: Arc<Mutex<HashMap<PairKey, Entry>>>,
    clock: SharedClock,
    telemetry: Telemetry,
}

impl StandardMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry, clock: SharedClock) -> Self {
        let own = Self {
            pairs: Arc::default(),
            telemetry: Telemetry::off(Arc::clone(&clock)),
            clock,
        };
        registry.register(|r| r.register_collector(Box::new(own.clone())));
        own
    }

    /// Has what is counted written down as well.
    pub(crate) fn telling(self, telemetry: Telemetry) -> Self {
        Self { telemetry, ..self }
    }

    /// Who else is told of what is counted.
    pub(crate) const fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// The handles of a pair. Past the bound its two sides are known by their clusters alone.
    pub(crate) fn pair(&self, key: PairKey) -> Rc<Pair> {
        let mut pairs = self.lock();
        let whole = Arc::new(key.clone());
        let key = if pairs.len() < MAX_PAIRS || pairs.contains_key(&key) {
            key
        } else {
            key.coarse()
        };
        let entry = pairs.entry(key).or_insert_with(|| Entry {
            series: Arc::default(),
            unheld_since: None,
        });
        Pair::new(Arc::clone(&entry.series), whole, Arc::clone(&self.clock))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PairKey, Entry>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets whom nobody holds for long, and tells what is left.
    fn kept(&self) -> Vec<(PairKey, Arc<Series>)> {
        let now = self.clock.now();
        let mut pairs = self.lock();
        pairs.retain(|_, entry| {
            if Arc::strong_count(&entry.series) > 1 {
                entry.unheld_since = None;
                return true;
            }
            let since = *entry.unheld_since.get_or_insert(now);
            now.saturating_duration_since(since) < FORGET_AFTER
        });
        let mut kept: Vec<_> = pairs
            .iter()
            .map(|(key, entry)| (key.clone(), Arc::clone(&entry.series)))
            .collect();
        drop(pairs);
        kept.sort_by(|(a, _), (b, _)| a.cmp(b));
        kept
    }
}

/// All pairs, with the series of each by how it ended.
type Lines<E, S> = Vec<(PairKey, Vec<(E, Arc<S>)>)>;
/// A number of a connection's series.
type Read = fn(&TcpSeries) -> u64;
/// One of a gRPC call's.
type ReadCall = fn(&HttpSeries) -> u64;
/// Writes one of a request's series.
type Write = fn(&HttpSeries, &mut MetricEncoder<'_>) -> std::fmt::Result;

/// Those of requests: name, what for, kind, how to write it.
const OF_REQUESTS: [(&str, &str, MetricType, Write); 4] = [
    (
        "istio_requests",
        "Requests by who called whom and how it ended",
        MetricType::Counter,
        |s, e| total(e, s.requests()),
    ),
    (
        "istio_request_duration_milliseconds",
        "Time from a request to the end of its response",
        MetricType::Histogram,
        |s, e| s.duration.encode(e),
    ),
    (
        "istio_request_bytes",
        "Bytes of requests' bodies",
        MetricType::Histogram,
        |s, e| s.request_bytes.encode(e),
    ),
    (
        "istio_response_bytes",
        "Bytes of responses' bodies",
        MetricType::Histogram,
        |s, e| s.response_bytes.encode(e),
    ),
];

/// Those of gRPC calls alone, all of them counters.
const OF_GRPC: [(&str, &str, ReadCall); 2] = [
    (
        "istio_request_messages",
        "Messages of gRPC requests",
        HttpSeries::request_messages,
    ),
    (
        "istio_response_messages",
        "Messages of gRPC responses",
        HttpSeries::response_messages,
    ),
];

/// Those of connections, all of them counters.
const OF_CONNECTIONS: [(&str, &str, Read); 4] = [
    (
        "istio_tcp_received_bytes",
        "Bytes from the client of opaque and upgraded connections",
        TcpSeries::received,
    ),
    (
        "istio_tcp_sent_bytes",
        "Bytes to the client of opaque and upgraded connections",
        TcpSeries::sent,
    ),
    (
        "istio_tcp_connections_opened",
        "Opaque and upgraded connections opened",
        TcpSeries::opened,
    ),
    (
        "istio_tcp_connections_closed",
        "Opaque and upgraded connections closed",
        TcpSeries::closed,
    ),
];

impl Collector for StandardMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let (mut requests, mut connections): (Lines<Ending, HttpSeries>, Lines<Flags, TcpSeries>) =
            (Vec::new(), Vec::new());
        for (key, series) in self.kept() {
            requests.push((key.clone(), series.http()));
            connections.push((key, series.tcp()));
        }
        for (name, help, kind, write) in OF_REQUESTS {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (key, lines) in &requests {
                for (ending, series) in lines {
                    let ending = ending.labels();
                    write(series, &mut family.encode_family(&key.labels(&ending))?)?;
                }
            }
        }
        for (name, help, read) in OF_GRPC {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (key, lines) in &requests {
                for (ending, series) in lines.iter().filter(|(ending, _)| ending.grpc) {
                    let ending = ending.labels();
                    total(
                        &mut family.encode_family(&key.labels(&ending))?,
                        read(series),
                    )?;
                }
            }
        }
        for (name, help, read) in OF_CONNECTIONS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (key, lines) in &connections {
                for (flags, series) in lines {
                    let ending = flags.tcp_labels();
                    total(
                        &mut family.encode_family(&key.labels(&ending))?,
                        read(series),
                    )?;
                }
            }
        }
        Ok(())
    }
}

fn total(encoder: &mut MetricEncoder<'_>, value: u64) -> std::fmt::Result {
    encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}
