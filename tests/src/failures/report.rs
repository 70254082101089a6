//! The matrix as text and as data. Owns the rows.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use super::{fault::Fault, measure::Measured};

/// One fault and what it did.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub fault: Fault,
    /// What came out.
    pub measured: Measured,
}

/// All rows of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed of the network's dice.
    pub seed: u64,
    /// Round trip between regions.
    pub round_trip: Duration,
    /// Requests a second: GETs and POSTs.
    pub rates: (u32, u32),
    /// How long a fault lasted.
    pub hold: Duration,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A machine that stood still for longer than this while calls were measured has measured itself.
const STOOD_STILL: Duration = Duration::from_millis(40);

impl Row {
    /// Whether the only goal that is missed is the longest time without an answer, and the machine stood still.
    pub fn is_disturbed(&self) -> bool {
        let over = self.measured.gap > self.fault.goal();
        over && self.misses().len() == 1 && self.measured.late > STOOD_STILL
    }

    /// What misses the goals.
    pub fn misses(&self) -> Vec<String> {
        let m = &self.measured;
        let mut misses = Vec::new();
        for (count, what) in [
            (m.gets_failed, "idempotent requests failed"),
            (
                m.posts_unsent,
                "POSTs failed that nobody can have processed",
            ),
            (m.posts_twice, "POSTs were processed twice"),
            (m.posts_denied, "POSTs were processed and said not to be"),
        ] {
            if count > 0 {
                misses.push(format!("{count} {what}"));
            }
        }
        if m.gap > self.fault.goal() {
            let ms = |d: Duration| d.as_millis();
            misses.push(format!(
                "no answer for {} ms (the load was late by {})",
                ms(m.gap),
                ms(m.late)
            ));
        }
        if m.whole.is_none() {
            misses.push("never whole again".to_owned());
        }
        misses
    }

    fn json(&self) -> Value {
        let m = &self.measured;
        let ms = |d: Duration| (d.as_secs_f64() * 10_000.0).round() / 10.0;
        json!({
            "fault": self.fault.word(),
            "gets": m.gets,
            "gets_failed": m.gets_failed,
            "posts": m.posts,
            "posts_failed_unsent": m.posts_unsent,
            "posts_failed_sent_taken": m.posts_taken,
            "posts_failed_sent_not_taken": m.posts_not_taken,
            "posts_twice": m.posts_twice,
            "posts_denied": m.posts_denied,
            "gap_ms": ms(m.gap),
            "gap_goal_ms": ms(self.fault.goal()),
            "late_ms": ms(m.late),
            "p99_ms": ms(m.p99),
            "longest_ms": ms(m.longest),
            "whole_after_ms": m.whole.map(ms),
            "misses": self.misses(),
            "failures": m.failures,
        })
    }
}

impl Report {
    /// Whether every goal was reached.
    pub fn is_good(&self) -> bool {
        self.rows.iter().all(|row| row.misses().is_empty())
    }

    /// All of it as data.
    pub fn json(&self) -> Value {
        json!({
            "schema": "tradewind.failures/v1",
            "seed": self.seed,
            "round_trip_ms": self.round_trip.as_millis() as u64,
            "gets_per_second": self.rates.0,
            "posts_per_second": self.rates.1,
            "hold_ms": self.hold.as_millis() as u64,
            "good": self.is_good(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gets, posts) = self.rates;
        writeln!(
            f,
            "{gets} GET/s and {posts} POST/s, {} ms between regions, each fault for {:.1} s, seed {}",
            self.round_trip.as_millis(),
            self.hold.as_secs_f64(),
            self.seed
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "{:38}{:>6}{:>7}{:>7}{:>8}{:>7}{:>7}{:>7}{:>11}{:>6}{:>6}{:>6}{:>9}{:>8}  ",
            "",
            "GETs",
            "failed",
            "POSTs",
            "failed:",
            "sent,",
            "sent,",
            "twice",
            "no answer",
            "goal",
            "late",
            "p99",
            "longest",
            "whole"
        )?;
        writeln!(
            f,
            "{:38}{:>6}{:>7}{:>7}{:>8}{:>7}{:>7}{:>7}{:>11}{:>6}{:>6}{:>6}{:>9}{:>8}  verdict",
            "fault",
            "",
            "",
            "",
            "unsent",
            "taken",
            "not",
            "",
            "ms",
            "ms",
            "ms",
            "ms",
            "wait ms",
            "after s"
        )?;
        for row in &self.rows {
            let m = &row.measured;
            let ms = |d: Duration| format!("{:.0}", d.as_secs_f64() * 1e3);
            let whole = m
                .whole
                .map_or_else(|| "never".to_owned(), |w| format!("{:.1}", w.as_secs_f64()));
            let misses = row.misses();
            let verdict = if misses.is_empty() {
                "good".to_owned()
            } else {
                misses.join("; ")
            };
            writeln!(
                f,
                "{:38}{:>6}{:>7}{:>7}{:>8}{:>7}{:>7}{:>7}{:>11}{:>6}{:>6}{:>6}{:>9}{:>8}  {verdict}",
                row.fault,
                m.gets,
                m.gets_failed,
                m.posts,
                m.posts_unsent + m.posts_denied,
                m.posts_taken,
                m.posts_not_taken,
                m.posts_twice,
                ms(m.gap),
                ms(row.fault.goal()),
                ms(m.late),
                ms(m.p99),
                ms(m.longest),
                whole,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(measured: Measured) -> Row {
        Row {
            fault: Fault::Reset,
            measured,
        }
    }

    fn good() -> Measured {
        Measured {
            gets: 10,
            gap: Duration::from_millis(20),
            whole: Some(Duration::ZERO),
            ..Measured::default()
        }
    }

    #[test]
    fn what_misses_a_goal_is_said_and_fails_the_run() {
        let late = Measured {
            gap: Duration::from_millis(101),
            ..good()
        };
        let lost = Measured {
            posts_taken: 3,
            ..good()
        };
        let never = Measured {
            whole: None,
            gets_failed: 1,
            ..good()
        };
        let all = [good(), lost, late, never];
        let counts = all.clone().map(|m| row(m).misses().len());
        assert_eq!(counts, [0, 0, 1, 2]);
        let stood_still = |m: &Measured| {
            let late = Duration::from_millis(90);
            row(Measured { late, ..m.clone() }).is_disturbed()
        };
        assert_eq!(all.each_ref().map(stood_still), [false, false, true, false]);
        assert!(
            !row(all[2].clone()).is_disturbed(),
            "nothing but the fault is to blame"
        );
        let mut report = Report {
            seed: 1,
            round_trip: Duration::from_millis(60),
            rates: (200, 50),
            hold: Duration::from_secs(5),
            rows: all.into_iter().map(row).collect(),
        };
        assert!(!report.is_good());
        assert!(report.to_string().contains("never whole again"), "{report}");
        assert_eq!(report.json()["rows"][2]["gap_ms"], 101.0);
        report.rows.truncate(2);
        assert!(report.is_good());
    }
}
