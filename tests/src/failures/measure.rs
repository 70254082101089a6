//! What one fault did to the requests that were sent meanwhile. Pure: from what the load noted and what the applications noted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::load::open::{Outcome, Record};

/// The proxy's reasons for an answer of its own that stands for a request which an application may have processed.
const MAYBE: [&str; 1] = ["lost"];
/// The tier is whole when each of its members has at least this part of the share that it had before,
const MEMBER: f64 = 0.5;
/// and all of them together this part,
const TOGETHER: f64 = 0.98;
/// of the requests of this time, none of which failed.
const WINDOW: Duration = Duration::from_secs(1);
/// Who had less than this share before is no member of the tier.
const STRAY: f64 = 0.02;

/// When what happened. Times are since the load's start.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From here on all was well.
    pub well: Duration,
    /// The fault began.
    pub injected: Duration,
    /// It ended.
    pub healed: Duration,
}

/// The shares of the calls that each application had while all was well.
pub type Shares = BTreeMap<String, f64>;

/// What came out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// GETs from the fault's beginning on.
    pub gets: usize,
    /// Of those, not answered well.
    pub gets_failed: usize,
    /// POSTs likewise.
    pub posts: usize,
    /// Not answered well although nobody can have processed them, so the proxy says: they should have gone elsewhere.
    pub posts_unsent: usize,
    /// Not answered well, sent already, and taken by an application.
    pub posts_taken: usize,
    /// Not answered well, sent already, and not taken by any.
    pub posts_not_taken: usize,
    /// Taken by more than one application, or more than once.
    pub posts_twice: usize,
    /// Said to be processed by nobody, and taken.
    pub posts_denied: usize,
    /// Longest time without a good answer.
    pub gap: Duration,
    /// The latest that a request was made after it was due: so long the machine stood still, whatever the fault.
    pub late: Duration,
    /// Of the requests that were due while the fault lasted and were answered well.
    pub p99: Duration,
    /// The longest wait of any that was answered well, whenever.
    pub longest: Duration,
    /// From the fault's end until the tier was whole again.
    pub whole: Option<Duration>,
    /// How the first few failed.
    pub failures: Vec<String>,
}

/// Failures that are kept to be shown.
const SHOWN: usize = 6;

/// The shares between two times.
pub fn shares(records: &[Record], from: Duration, until: Duration) -> Shares {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = 0;
    for record in records.iter().filter(|r| (from..until).contains(&r.due)) {
        if let Outcome::Served(who) = &record.outcome {
            *counts.entry(who.clone()).or_default() += 1;
            all += 1;
        }
    }
    let share = |(who, count)| (who, count as f64 / f64::from(all.max(1)));
    counts
        .into_iter()
        .map(share)
        .filter(|(_, share)| *share >= STRAY)
        .collect()
}

/// When the tier was whole again after `since`: the beginning of the first time in which everything is as before.
pub fn whole(records: &[Record], before: &Shares, since: Duration) -> Option<Duration> {
    let mut gets: Vec<&Record> = records
        .iter()
        .filter(|r| !r.post && r.due >= since)
        .collect();
    gets.sort_by_key(|r| r.due);
    let last = gets.last()?.due;
    let mut begin = 0;
    let mut end = 0;
    let mut served: BTreeMap<&str, usize> = BTreeMap::new();
    let mut failed = 0;
    let mut count = |record: &Record, by: isize, served: &mut BTreeMap<_, usize>| {
        let place = match &record.outcome {
            Outcome::Served(who) => match before.get_key_value(who) {
                Some((who, _)) => served.entry(who.as_str()).or_default(),
                None => return,
            },
            Outcome::Refused { .. } | Outcome::Broken(_) => &mut failed,
        };
        *place = place.saturating_add_signed(by);
    };
    loop {
        let first = *gets.get(begin)?;
        if first.due + WINDOW > last {
            return None;
        }
        while let Some(next) = gets.get(end).filter(|r| r.due < first.due + WINDOW) {
            count(next, 1, &mut served);
            end += 1;
        }
        let all = (end - begin) as f64;
        let of = |who: &str| served.get(who).copied().unwrap_or_default() as f64 / all;
        let each = before.iter().all(|(who, share)| of(who) >= share * MEMBER);
        let together: f64 = before.keys().map(|who| of(who)).sum();
        let were: f64 = before.values().sum();
        let bad = gets
            .get(begin..end)
            .into_iter()
            .flatten()
            .any(|r| !is_good(r));
        if each && together >= were * TOGETHER && !bad {
            return Some(first.due.saturating_sub(since));
        }
        count(first, -1, &mut served);
        begin += 1;
    }
}

const fn is_good(record: &Record) -> bool {
    matches!(record.outcome, Outcome::Served(_))
}

/// Judges a whole load. `taken` are the ids of POSTs as the applications noted them, as often as they did.
pub fn measure(records: &[Record], taken: &[u64], times: Times) -> Measured {
    let mut measured = Measured::default();
    let before = shares(records, times.well, times.injected);
    measured.whole = whole(records, &before, times.healed);
    let mut once = BTreeSet::new();
    let twice: BTreeSet<u64> = taken
        .iter()
        .copied()
        .filter(|id| !once.insert(*id))
        .collect();
    for record in records.iter().filter(|r| r.due >= times.injected) {
        let good = is_good(record);
        if record.post {
            measured.posts += 1;
            measured.posts_twice += usize::from(twice.contains(&record.id));
        } else {
            measured.gets += 1;
        }
        let late = record.made.saturating_sub(record.due);
        measured.late = measured.late.max(late);
        let took = record.ended.saturating_sub(record.due);
        if good {
            measured.longest = measured.longest.max(took);
            continue;
        }
        if record.post {
            measured.failed_post(record, once.contains(&record.id));
        } else {
            measured.gets_failed += 1;
        }
        if measured.failures.len() < SHOWN {
            let kind = if record.post { "POST" } else { "GET" };
            let at = record.due.as_secs_f64() - times.injected.as_secs_f64();
            measured.failures.push(format!(
                "{kind} {:.3} s after the fault's beginning, after {took:?}: {:?}",
                at, record.outcome
            ));
        }
    }
    measured.gap = gap(records, times.injected);
    measured.p99 = p99(records, times);
    measured
}

impl Measured {
    fn failed_post(&mut self, record: &Record, taken: bool) {
        let unsent = match &record.outcome {
            Outcome::Refused { reason, .. } => {
                !reason.is_empty() && !MAYBE.contains(&reason.as_str())
            }
            Outcome::Served(_) | Outcome::Broken(_) => false,
        };
        let place = match (unsent, taken) {
            (true, true) => &mut self.posts_denied,
            (true, false) => &mut self.posts_unsent,
            (false, true) => &mut self.posts_taken,
            (false, false) => &mut self.posts_not_taken,
        };
        *place += 1;
    }
}

fn gap(records: &[Record], since: Duration) -> Duration {
    let mut good: Vec<Duration> = records
        .iter()
        .filter(|r| is_good(r))
        .map(|r| r.ended)
        .collect();
    good.sort();
    let pairs = good.windows(2).filter_map(|w| <&[_; 2]>::try_from(w).ok());
    let after = pairs.filter(|[_, b]| *b >= since);
    let gaps = after.map(|[a, b]| b.saturating_sub(*a));
    gaps.max().unwrap_or(Duration::MAX)
}

fn p99(records: &[Record], times: Times) -> Duration {
    let during = |r: &&Record| (times.injected..times.healed).contains(&r.due) && is_good(r);
    let mut took: Vec<_> = records
        .iter()
        .filter(during)
        .map(|r| r.ended.saturating_sub(r.due))
        .collect();
    took.sort();
    let place = (took.len() * 99).div_ceil(100).saturating_sub(1);
    took.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn record(id: u64, due: u64, outcome: Outcome) -> Record {
        Record {
            post: false,
            id,
            due: ms(due),
            made: ms(due),
            ended: ms(due + 1),
            outcome,
        }
    }

    fn served(who: &str) -> Outcome {
        Outcome::Served(who.to_owned())
    }

    fn refused(reason: &str) -> Outcome {
        Outcome::Refused {
            status: 503,
            reason: reason.to_owned(),
            text: String::new(),
        }
    }

    /// A GET each 10 ms: by a and b in turns; from 1 s to 2 s by c; from 2 s on by a alone; from 3 s on as before.
    fn story() -> Vec<Record> {
        let who = |n: u64| match n {
            100..200 => "c",
            200..300 => "a",
            _ if n.is_multiple_of(2) => "a",
            _ => "b",
        };
        (0..500)
            .map(|n| record(n, n * 10, served(who(n))))
            .collect()
    }

    const TIMES: Times = Times {
        well: Duration::ZERO,
        injected: Duration::from_millis(1_000),
        healed: Duration::from_millis(2_000),
    };

    #[test]
    fn the_tier_is_whole_when_each_member_has_its_share_again() {
        let measured = measure(&story(), &[], TIMES);
        let whole = measured.whole.unwrap();
        // With half of its share b is back, and it has a quarter of the calls a second from 2.5 s on.
        assert!((ms(480)..=ms(520)).contains(&whole), "{whole:?}");
        assert_eq!((measured.gets, measured.gets_failed), (400, 0));
        assert_eq!(measured.gap, ms(10));
        let never: Vec<_> = story().into_iter().filter(|r| r.due < ms(3_000)).collect();
        assert_eq!(measure(&never, &[], TIMES).whole, None);
    }

    #[test]
    fn a_failure_is_a_gap_and_keeps_the_tier_from_being_whole() {
        let mut story = story();
        for record in &mut story[340..350] {
            record.outcome = Outcome::Broken("x".to_owned());
        }
        let measured = measure(&story, &[], TIMES);
        assert_eq!(measured.gets_failed, 10);
        assert_eq!(measured.gap, ms(110));
        assert_eq!(measured.whole, Some(ms(1_500)));
        assert_eq!(measured.failures.len(), SHOWN);
    }

    #[test]
    fn failed_posts_are_told_apart() {
        let mut story = story();
        for (n, outcome) in [
            (0, refused("no-endpoint-answered")),
            (1, refused("no-endpoint-answered")),
            (2, refused("lost")),
            (3, refused("lost")),
            (4, Outcome::Broken("x".to_owned())),
            (5, served("a")),
        ] {
            let record = &mut story[150 + n];
            (record.post, record.outcome) = (true, outcome);
        }
        let measured = measure(&story, &[151, 153, 155, 155], TIMES);
        let told = (
            measured.posts_unsent,
            measured.posts_denied,
            measured.posts_not_taken,
            measured.posts_taken,
            measured.posts_twice,
        );
        assert_eq!(told, (1, 1, 2, 1, 1));
        assert_eq!((measured.posts, measured.gets_failed), (6, 0));
    }
}
