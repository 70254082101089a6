//! From single calls to a phase's row. Pure: times are microseconds since the load began.

use super::plan::CLUSTERS;

/// A call belongs to the time in which it was answered: one that is under way when a cluster dies is served by the next one,
/// and says nothing about the time before. A call that failed belongs to when it was due.
impl Sample {
    const fn at_us(&self) -> u64 {
        match self.served {
            Served::By(_) => self.done_us,
            Served::Failed => self.due_us,
        }
    }
}

/// Who answered a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// A cluster, by its place in the plan.
    By(usize),
    /// Nobody, or not as it should be.
    Failed,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was due.
    pub due_us: u64,
    /// When it was answered or given up.
    pub done_us: u64,
    /// By whom.
    pub served: Served,
}

/// A stretch of time, its end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its begin.
    pub from_us: u64,
    /// Its end.
    pub to_us: u64,
}

impl Span {
    const fn holds(self, at_us: u64) -> bool {
        self.from_us <= at_us && at_us < self.to_us
    }
}

/// What happened to the calls of a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls.
    pub requests: u64,
    /// Calls without a good answer.
    pub failed: u64,
    /// Good answers by cluster.
    pub by: [u64; CLUSTERS.len()],
    /// Longest time without a good answer that touches the span.
    pub longest_gap_us: u64,
    /// Half of the good answers came within this, measured from when they were due.
    pub p50_us: u64,
    /// 99 of 100 did.
    pub p99_us: u64,
}

impl Count {
    /// The share of good answers that a cluster gave, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "shares of a few thousand calls")]
    pub fn share(&self, cluster: usize) -> f64 {
        let served: u64 = self.by.iter().sum();
        let by = self.by.get(cluster).copied().unwrap_or_default();
        if served == 0 {
            0.0
        } else {
            by as f64 / served as f64
        }
    }

    /// Clusters that served, the busiest first, as `west 98 %, east 2 %`.
    pub fn served_by(&self) -> String {
        let mut by: Vec<(usize, u64)> = self
            .by
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, n)| *n > 0)
            .collect();
        by.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let name = |index: usize| CLUSTERS.get(index).map_or("?", |c| c.name);
        match by.as_slice() {
            [] => "nobody".to_owned(),
            [(only, _)] => name(*only).to_owned(),
            all => all
                .iter()
                .map(|(index, _)| format!("{} {}", name(*index), percent(self.share(*index))))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 1.0 {
        "<1 %".to_owned()
    } else {
        format!("{percent:.0} %")
    }
}

/// Counts the calls of `span`.
pub fn count(samples: &[Sample], span: Span) -> Count {
    let mut count = Count::default();
    let mut waits: Vec<u64> = Vec::new();
    for sample in samples.iter().filter(|s| span.holds(s.at_us())) {
        count.requests += 1;
        match sample.served {
            Served::By(cluster) => {
                if let Some(by) = count.by.get_mut(cluster) {
                    *by += 1;
                }
                waits.push(sample.done_us.saturating_sub(sample.due_us));
            }
            Served::Failed => count.failed += 1,
        }
    }
    waits.sort_unstable();
    count.p50_us = quantile(&waits, 50);
    count.p99_us = quantile(&waits, 99);
    count.longest_gap_us = longest_gap(samples, span);
    count
}

/// The value that `percent` of the sorted values do not exceed.
fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn longest_gap(samples: &[Sample], span: Span) -> u64 {
    let good = samples.iter().filter(|s| s.served != Served::Failed);
    let mut done: Vec<u64> = good.map(|s| s.done_us).collect();
    done.sort_unstable();
    let last_before = done.iter().rev().find(|at| **at < span.from_us).copied();
    let mut previous = last_before.unwrap_or(span.from_us);
    let mut longest = 0;
    for at in done.iter().copied().filter(|at| span.holds(*at)) {
        longest = longest.max(at - previous);
        previous = at;
    }
    longest.max(span.to_us.saturating_sub(previous))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(due_us: u64, took_us: u64, served: Served) -> Sample {
        Sample {
            due_us,
            done_us: due_us + took_us,
            served,
        }
    }

    #[test]
    fn calls_count_where_they_were_answered() {
        let mut samples: Vec<Sample> = (0..100)
            .map(|i| sample(i * 1_000, i * 10, Served::By(0)))
            .collect();
        samples.push(sample(50_500, 5_000_000, Served::Failed));
        samples.push(sample(200_000, 10, Served::By(1)));
        let all = count(
            &samples,
            Span {
                from_us: 0,
                to_us: 100_000,
            },
        );
        assert_eq!((all.requests, all.failed, all.by), (101, 1, [100, 0, 0]));
        assert_eq!((all.p50_us, all.p99_us), (490, 980));
        // Due before the span's end, answered after it.
        samples.push(sample(99_999, 10_002, Served::By(2)));
        let after = Span {
            from_us: 110_000,
            to_us: 110_002,
        };
        assert_eq!(count(&samples, after).by, [0, 0, 1]);
        let again = Span {
            from_us: 0,
            to_us: 100_000,
        };
        assert_eq!(count(&samples, again).by, [100, 0, 0]);
        assert_eq!(all.served_by(), "west");
        let none = count(
            &samples,
            Span {
                from_us: 120_000,
                to_us: 130_000,
            },
        );
        assert_eq!((none.requests, none.served_by()), (0, "nobody".to_owned()));
    }

    #[test]
    fn a_gap_counts_where_it_ends_and_where_it_is_open() {
        let good = |at| sample(at, 0, Served::By(2));
        let samples = [good(0), good(10), good(500), good(510)];
        assert_eq!(
            count(
                &samples,
                Span {
                    from_us: 0,
                    to_us: 100
                }
            )
            .longest_gap_us,
            90
        );
        assert_eq!(
            count(
                &samples,
                Span {
                    from_us: 100,
                    to_us: 511
                }
            )
            .longest_gap_us,
            490
        );
        assert_eq!(
            count(
                &samples,
                Span {
                    from_us: 511,
                    to_us: 2_000
                }
            )
            .longest_gap_us,
            1_490
        );
    }

    #[test]
    fn shares_are_told_busiest_first() {
        let samples: Vec<Sample> = (0..1000)
            .map(|i| sample(i, 1, Served::By(if i < 3 { 0 } else { 1 })))
            .collect();
        let all = count(
            &samples,
            Span {
                from_us: 0,
                to_us: 1_000,
            },
        );
        assert_eq!(all.served_by(), "central 100 %, west <1 %");
        assert!(all.share(1) > 0.99);
    }
}
