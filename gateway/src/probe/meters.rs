//! What is known of the other clusters' gateways as metrics. Read at each scrape, so that a cluster that is no longer known
//! has no series. Owns nothing.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};
use tokio::sync::watch;
use tradewind_runtime::metrics::MetricsRegistry;

use super::facts::{Peer, Peers};

/// Collects them.
#[derive(Debug)]
struct PeerMeters(watch::Receiver<Arc<Peers>>);

/// Registers them.
pub(crate) fn register(registry: &MetricsRegistry, peers: watch::Receiver<Arc<Peers>>) {
    registry.register(|r| r.register_collector(Box::new(PeerMeters(peers))));
}

/// One gauge over all clusters; those for which `value` has none are left out.
fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    unit: Option<&Unit>,
    peers: &Peers,
    value: impl Fn(&Peer) -> Option<f64>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (cluster, peer) in &peers.clusters {
        if let Some(value) = value(peer) {
            let labels = [("peer", cluster.to_string())];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

impl Collector for PeerMeters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let peers = Arc::clone(&self.0.borrow());
        let name = (
            "tradewind_gateway_peer_reachable",
            "1 while a gateway of the other cluster answers probes; absent before that is known",
        );
        gauge(&mut encoder, name, None, &peers, |p| {
            p.reachable().map(|up| if up { 1.0 } else { 0.0 })
        })?;
        let name = (
            "tradewind_gateway_peer_round_trip",
            "smoothed round trip to the nearest of the other cluster's gateways that answer",
        );
        gauge(&mut encoder, name, Some(&Unit::Seconds), &peers, |p| {
            p.verdict(0).round_trip.map(|r| r.as_secs_f64())
        })
    }
}
