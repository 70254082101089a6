//! The figures of a run, as a table for people and as JSON for scripts. Owns nothing; computes medians and ratios.

use std::{fmt, time::Duration};

use serde::Serialize;

/// Median, least and greatest of several rounds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of the rounds' figures.
    pub(crate) fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let at = |place: usize| rounds.get(place).copied().unwrap_or_default();
        let middle = rounds.len() / 2;
        Self {
            median: if rounds.len().is_multiple_of(2) {
                f64::midpoint(at(middle.saturating_sub(1)), at(middle))
            } else {
                at(middle)
            },
            min: at(0),
            max: at(rounds.len().saturating_sub(1)),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max } = self;
        let digits = if *median >= 100.0 { 0 } else { 2 };
        write!(f, "{median:.digits$} ({min:.digits$}..{max:.digits$})")
    }
}

/// How long many of the same took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Percentiles {
    /// Of all that were measured.
    pub(crate) fn of(mut times: Vec<Duration>) -> Result<Self, String> {
        times.sort_unstable();
        let at = |part: f64| {
            let index = ((times.len() as f64 * part).ceil() as usize).max(1) - 1;
            let time = times.get(index.min(times.len().saturating_sub(1)));
            time.map(|t| t.as_secs_f64() * 1e3)
                .ok_or("nothing was measured")
        };
        Ok(Self {
            p50_ms: at(0.5)?,
            p99_ms: at(0.99)?,
            max_ms: at(1.0)?,
        })
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            p50_ms,
            p99_ms,
            max_ms,
        } = self;
        write!(
            f,
            "p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms"
        )
    }
}

/// One figure of both systems.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What is measured, with its unit.
    pub(crate) what: String,
    pub(crate) tradewind: Spread,
    pub(crate) etcd: Spread,
    /// Ours by etcd's, of the medians.
    pub(crate) ratio: f64,
}

/// All figures of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    /// How it was measured.
    pub(crate) setting: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// Writes that failed, if any did.
    pub(crate) errors: Vec<String>,
}

impl Report {
    /// Adds a figure.
    pub(crate) fn row(&mut self, what: impl Into<String>, tradewind: Spread, etcd: Spread) {
        self.rows.push(Row {
            what: what.into(),
            tradewind,
            etcd,
            ratio: tradewind.median / etcd.median,
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.setting {
            writeln!(f, "{line}")?;
        }
        let (first, second, third) = ("median (min..max)", "tradewind", "etcd");
        writeln!(f, "\n{first:<44} {second:>28} {third:>28}  ratio")?;
        for row in &self.rows {
            let (ours, theirs) = (row.tradewind.to_string(), row.etcd.to_string());
            writeln!(
                f,
                "{:<44} {ours:>28} {theirs:>28}  {:>5.2}",
                row.what, row.ratio
            )?;
        }
        for error in &self.errors {
            writeln!(f, "{error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_middle_two() {
        let odd = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        let even = Spread::of(vec![4.0, 1.0, 2.0, 3.0]);
        assert!((even.median - 2.5).abs() < 1e-9);
    }
}
