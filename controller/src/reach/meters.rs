//! The three facts of every other cluster as metrics. Read at each scrape, so that an age is as old as it is then, and a
//! cluster that is no longer known has no series.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};
use tokio::sync::watch;
use tradewind_api::ClusterName;
use tradewind_runtime::{MetricsRegistry, SharedClock};

use super::{ClusterReach, Reach};
use crate::compile::Leases;

/// Collects them.
pub struct ReachMeters {
    /// Streams and answers.
    pub reach: watch::Receiver<Arc<Reach>>,
    /// Ages of the data.
    pub leases: watch::Receiver<Arc<Leases>>,
    /// Time.
    pub clock: SharedClock,
}

impl fmt::Debug for ReachMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReachMeters").finish_non_exhaustive()
    }
}

type Labels = [(&'static str, String); 1];

impl ReachMeters {
    /// Registers them.
    pub fn register(self, registry: &MetricsRegistry) {
        registry.register(|r| r.register_collector(Box::new(self)));
    }
}

/// One gauge over all clusters; those for which `value` has none are left out.
fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    unit: Option<&Unit>,
    reach: &Reach,
    value: impl Fn(&ClusterName, &ClusterReach) -> Option<f64>,
) -> fmt::Result {
    let mut family: MetricEncoder<'_> =
        encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (cluster, facts) in &reach.clusters {
        if let Some(value) = value(cluster, facts) {
            let labels: Labels = [("cluster", cluster.to_string())];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn flag(on: bool) -> Option<f64> {
    Some(if on { 1.0 } else { 0.0 })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a figure to look at, far below 2^52"
)]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

impl Collector for ReachMeters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now_ms = self.clock.unix_ms();
        let reach = Arc::clone(&self.reach.borrow());
        let leases = Arc::clone(&self.leases.borrow());
        let since = |at_ms: u64| Some(seconds(now_ms.saturating_sub(at_ms)));
        let (e, s) = (&mut encoder, Some(&Unit::Seconds));
        let name = (
            "tradewind_cluster_stream_up",
            "1 while the connection to the cluster's controller is up",
        );
        gauge(e, name, None, &reach, |_, c| flag(c.stream.up))?;
        let name = (
            "tradewind_cluster_stream_age",
            "since when that connection is as it is",
        );
        gauge(e, name, s, &reach, |_, c| since(c.stream.since_ms))?;
        let name = (
            "tradewind_cluster_data_age",
            "since the cluster's lease was last seen to be renewed",
        );
        gauge(e, name, s, &reach, |cluster, _| {
            Some(seconds(leases.data_age_ms(cluster, now_ms)))
        })?;
        let name = (
            "tradewind_cluster_trails_revisions",
            "revisions that the cluster's store trailed this one's by when it last answered",
        );
        #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
        gauge(e, name, None, &reach, |_, c| c.trails.map(|t| t as f64))?;
        let name = (
            "tradewind_cluster_reachable",
            "1 while the cluster's controller answers pings; absent before that is known",
        );
        gauge(e, name, None, &reach, |_, c| c.reachable.and_then(flag))?;
        let name = (
            "tradewind_cluster_reach_age",
            "since the cluster's controller last answered; absent before it first did",
        );
        gauge(e, name, s, &reach, |_, c| c.answered_at_ms.and_then(since))?;
        let name = (
            "tradewind_cluster_round_trip",
            "smoothed round trip of pings to the cluster's controller",
        );
        gauge(e, name, s, &reach, |_, c| {
            c.round_trip.map(|r| r.as_secs_f64())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tradewind_runtime::ManualClock;

    use super::*;
    use crate::{
        raft_net::{PeerStream, Streams},
        reach::{Event, Facts},
    };

    #[test]
    fn ages_grow_between_scrapes_and_a_cluster_that_left_has_no_series() {
        let east = ClusterName::new("east").unwrap();
        let stream = PeerStream {
            up: true,
            opened: 1,
            gateway: "g:1".into(),
        };
        let mut facts = Facts::default();
        let streams = Streams::from([(east.clone(), stream)]);
        facts.observe(Event::Streams(&streams), 10_000);
        let event = Event::Answered {
            cluster: &east,
            round_trip: Duration::from_millis(12),
            trails: 4,
            vitals: None,
            sights: None,
        };
        facts.observe(event, 11_000);
        let (reach, seen) = watch::channel(Arc::new(facts.reach().clone()));
        let (_leases, leases) = watch::channel(Arc::new(Leases::default()));
        let clock = ManualClock::new(12_500);
        let registry = MetricsRegistry::new();
        let meters = ReachMeters {
            reach: seen,
            leases,
            clock: Arc::new(clock.clone()),
        };
        meters.register(&registry);
        let text = registry.encode();
        for line in [
            r#"tradewind_cluster_stream_up{cluster="east"} 1.0"#,
            r#"tradewind_cluster_stream_age_seconds{cluster="east"} 2.5"#,
            r#"tradewind_cluster_data_age_seconds{cluster="east"} 0.0"#,
            r#"tradewind_cluster_trails_revisions{cluster="east"} 4.0"#,
            r#"tradewind_cluster_reachable{cluster="east"} 1.0"#,
            r#"tradewind_cluster_reach_age_seconds{cluster="east"} 1.5"#,
            r#"tradewind_cluster_round_trip_seconds{cluster="east"} 0.012"#,
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "{line} is missing in {text}"
            );
        }
        clock.advance(Duration::from_secs(1));
        let older = r#"tradewind_cluster_reach_age_seconds{cluster="east"} 2.5"#;
        assert!(registry.encode().contains(older));
        reach.send_replace(Arc::new(Reach::default()));
        assert!(!registry.encode().contains("east"));
    }
}
