//! A histogram for hot paths: counts in fixed buckets with nothing but atomics, so that threads that count into the same one
//! never wait for one another. It encodes itself; whoever owns it registers it through a collector of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

/// Counts of what was observed, by size.
#[derive(Debug)]
pub struct AtomicHistogram {
    bounds: &'static [f64],
    /// One more than there are bounds: the last is for what exceeds them all.
    counts: Box<[AtomicU64]>,
    /// In parts of the unit.
    sum: AtomicU64,
    parts: f64,
}

impl AtomicHistogram {
    /// `bounds` ascend, in the unit that the page shows; what is observed comes in whole parts of it, `parts` to the unit.
    #[must_use]
    pub fn new(bounds: &'static [f64], parts: u32) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            parts: f64::from(parts.max(1)),
        }
    }

    /// Counts one value.
    pub fn observe(&self, value: u64) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "which bucket 2^53 falls into does not matter"
        )]
        let size = value as f64 / self.parts;
        let bucket = self.bounds.partition_point(|b| *b < size);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Writes the buckets, their sum and their count.
    pub fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|c| c.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        // Counted here, so that it agrees with the buckets however many are counting meanwhile.
        let count = buckets.iter().map(|(_, n)| n).sum();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a page shows fifteen digits of a sum at most"
        )]
        let sum = self.sum.load(Ordering::Relaxed) as f64 / self.parts;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        collector::Collector, encoding::DescriptorEncoder, metrics::MetricType,
    };

    use super::*;
    use crate::metrics::MetricsRegistry;

    #[derive(Debug)]
    struct Page(std::sync::Arc<AtomicHistogram>);

    impl Collector for Page {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
            let mut metric =
                encoder.encode_descriptor("test_sizes", "Sizes", None, MetricType::Histogram)?;
            self.0.encode(&mut metric)
        }
    }

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let sizes = std::sync::Arc::new(AtomicHistogram::new(&[0.5, 1.0, 10.0], 1000));
        for value in [0, 500, 501, 1000, 10_000, 10_001] {
            sizes.observe(value);
        }
        let metrics = MetricsRegistry::new();
        metrics.register(|r| r.register_collector(Box::new(Page(sizes))));
        let page = metrics.encode();
        for line in [
            "test_sizes_sum 22.002",
            "test_sizes_count 6",
            "test_sizes_bucket{le=\"0.5\"} 2",
            "test_sizes_bucket{le=\"1.0\"} 4",
            "test_sizes_bucket{le=\"10.0\"} 5",
            "test_sizes_bucket{le=\"+Inf\"} 6",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }
}
