//! What a phase expects, what it was, and the whole told. Pure: times come in, verdicts go out.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{
    load::Record,
    plan::Place,
    tally::{self, Count, Span},
};
use crate::exit::Failure;

/// Share of the calls that "home again" means: the ramp's last steps need not be over.
const HOME_SHARE: f64 = 0.95;

/// Who must serve.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// This cluster and no other.
    Only(Place),
    /// This cluster nearly always.
    Home(Place),
    /// Anybody but this cluster.
    Never(Place),
}

impl Expect {
    /// What is wrong with the calls counted, if anything.
    pub fn unmet(self, count: &Count) -> Option<String> {
        let served = count.by.iter().sum::<u64>() > 0;
        let met = match self {
            Self::Only(place) => served && count.share(place.index()) >= 1.0,
            Self::Home(place) => served && count.share(place.index()) >= HOME_SHARE,
            Self::Never(place) => served && count.share(place.index()) <= 0.0,
        };
        (!met).then(|| {
            format!(
                "expected {}, but it was {}",
                self.words(),
                count.served_by()
            )
        })
    }

    /// In words.
    pub fn words(self) -> String {
        match self {
            Self::Only(place) => format!("to be served by {} alone", place.name),
            Self::Home(place) => format!("to be served by {}", place.name),
            Self::Never(place) => format!("that {} serves nothing", place.name),
        }
    }
}

/// A phase that is over.
#[derive(Debug)]
pub struct Phase {
    /// 0 for the time before anything happens.
    pub number: usize,
    /// What happened.
    pub title: String,
    /// When.
    pub span: Span,
    /// Its calls.
    pub count: Count,
    /// The calls of its settled end.
    pub settled: Count,
    /// What was not as it must be.
    pub problems: Vec<String>,
}

/// Everything there is to report.
#[derive(Debug)]
pub struct Told {
    /// The phases in order.
    pub phases: Vec<Phase>,
    /// Measured along the way: milliseconds or KiB, as their names say.
    pub figures: BTreeMap<String, f64>,
    /// The different errors that callers saw, with their counts.
    pub errors: BTreeMap<String, u64>,
    /// Calls a second.
    pub rate: u32,
}

impl Told {
    /// True when no call failed and every phase was served by whom it should be.
    pub fn ok(&self) -> bool {
        self.phases.len() == 6
            && self
                .phases
                .iter()
                .all(|p| p.count.failed == 0 && p.problems.is_empty())
    }
}

/// A phase under way.
#[derive(Debug)]
pub struct Open {
    /// 0 for the time before anything happens.
    pub number: usize,
    /// What happens.
    pub title: &'static str,
    /// Who must serve at its end.
    pub expect: Expect,
    /// When it began.
    pub start: Instant,
    /// What went wrong so far.
    pub problems: Vec<String>,
}

/// A phase whose time is over, and whose calls are not counted yet.
#[derive(Debug)]
pub struct Closed {
    /// The phase.
    pub open: Open,
    /// From when on it must be as expected.
    pub settled: Instant,
    /// Its end.
    pub end: Instant,
}

/// Counts the calls of every phase and judges it.
pub fn finish(
    closed: Vec<Closed>,
    record: &Record,
    figures: BTreeMap<String, f64>,
    rate: u32,
) -> Told {
    let samples = record.samples();
    let last = closed.len().saturating_sub(1);
    let phase = |(index, closed): (usize, Closed)| {
        let Open {
            number,
            title,
            expect,
            start,
            mut problems,
        } = closed.open;
        let span = Span {
            from_us: record.us(start),
            to_us: record.us(closed.end),
        };
        let settled = tally::count(
            &samples,
            Span {
                from_us: record.us(closed.settled),
                ..span
            },
        );
        problems.extend(
            expect
                .unmet(&settled)
                .map(|why| format!("at its end: {why}")),
        );
        let mut count = tally::count(&samples, span);
        if index == last {
            // What was still under way when the load ended belongs to the last phase; its gap ends with the load.
            let rest = tally::count(
                &samples,
                Span {
                    to_us: u64::MAX,
                    ..span
                },
            );
            count = Count {
                longest_gap_us: count.longest_gap_us,
                ..rest
            };
        }
        if count.failed > 0 {
            problems.push(format!("{} calls failed", count.failed));
        }
        Phase {
            number,
            title: title.to_owned(),
            span,
            count,
            settled,
            problems,
        }
    };
    Told {
        phases: closed.into_iter().enumerate().map(phase).collect(),
        figures,
        errors: record.errors(),
        rate,
    }
}

/// A failure in one line.
pub fn format_failure(failure: &Failure) -> String {
    std::iter::once(&failure.what)
        .chain(&failure.causes)
        .cloned()
        .collect::<Vec<_>>()
        .join(": ")
}
