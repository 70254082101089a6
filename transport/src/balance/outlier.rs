//! Ejection for answers: what a rule calls an error, how many in a row are too many, for how long, and of how many endpoints.
//!
//! Apart from what the transport sees, because the two end differently: a broken way is found whole again by a dial, an application
//! that answers with errors answers dials all the same. So this ends by time alone, and nothing is probed. One `Answers` an endpoint
//! holds its counts and its last ejection.

use tradewind_api::traffic::Outlier;

use super::{Micros, SECOND};

/// Longest ejection for answers, unless the first one is longer already. Envoy's where nothing is said, and a rule cannot say it.
pub const MAX_EJECTION: Micros = 300 * SECOND;
/// Thousandths of a second.
const MS: Micros = 1000;

/// An answer that counts against its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerError {
    /// An error of the application.
    Error,
    /// The same, and one of those that stand for something behind it: 502, 503, 504.
    Gateway,
}

impl AnswerError {
    /// The word that logs, metrics and JSON show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "errors",
            Self::Gateway => "gateway-errors",
        }
    }
}

/// What a status means to a rule; `None` for a success.
pub fn classify(outlier: &Outlier, status: u16) -> Option<AnswerError> {
    let is_error = if outlier.codes.is_empty() {
        (500..=599).contains(&status)
    } else {
        outlier.codes.contains(&status)
    };
    is_error.then_some(match status {
        502..=504 => AnswerError::Gateway,
        _ => AnswerError::Error,
    })
}

/// Whether a rule ejects anybody for answers now: not while so few of `total` are fit that leaving out more would hurt. What
/// is ejected already may be called then too.
pub const fn is_in_force(outlier: &Outlier, total: usize, fit: usize) -> bool {
    (fit as u64).saturating_mul(100)
        >= (total as u64).saturating_mul(outlier.min_health_percent as u64)
}

/// Whether one more may be ejected, of `total` endpoints of which `already` are ejected for their answers and `fit` are fit.
pub const fn may_eject(outlier: &Outlier, total: usize, already: usize, fit: usize) -> bool {
    let with_it = (already as u64).saturating_add(1).saturating_mul(100);
    let most = (total as u64).saturating_mul(outlier.max_ejection_percent as u64);
    already < total && is_in_force(outlier, total, fit) && (already == 0 || with_it <= most)
}

/// What one endpoint answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    errors: u32,
    gateway_errors: u32,
    /// When its last ejection ends, or ended.
    until: Option<Micros>,
    /// How often it was ejected, less what was forgiven until then.
    ejections: u32,
}

impl Answers {
    /// With nothing against it.
    pub const fn new() -> Self {
        Self {
            errors: 0,
            gateway_errors: 0,
            until: None,
            ejections: 0,
        }
    }

    /// When it may be called again; `None` unless it is ejected now.
    pub fn until(&self, now: Micros) -> Option<Micros> {
        self.until.filter(|until| now < *until)
    }

    /// Books an answer. True when it is one too many, and the endpoint is to be ejected if it may: the counts begin anew either way.
    pub fn book(&mut self, outlier: &Outlier, error: Option<AnswerError>, now: Micros) -> bool {
        if self.until(now).is_some() {
            // Asked before it was ejected, or because nothing better existed.
            return false;
        }
        self.errors = error.map_or(0, |_| self.errors.saturating_add(1));
        self.gateway_errors = match error {
            Some(AnswerError::Gateway) => self.gateway_errors.saturating_add(1),
            _ => 0,
        };
        let reached = |count: u32, most: Option<u32>| count > 0 && most.is_some_and(|m| count >= m);
        let due = reached(self.errors, outlier.errors)
            || reached(self.gateway_errors, outlier.gateway_errors);
        if due {
            (self.errors, self.gateway_errors) = (0, 0);
        }
        due
    }

    /// Ejects it from now on; returns for how long.
    pub fn eject(&mut self, outlier: &Outlier, now: Micros) -> Micros {
        let interval = outlier.interval_ms.saturating_mul(MS);
        let base = outlier.base_ejection_ms.saturating_mul(MS);
        // One is forgiven for each interval that it was back.
        let back_for = self.until.map_or(0, |until| now.saturating_sub(until));
        let forgiven = u32::try_from(back_for / interval.max(MS)).unwrap_or(u32::MAX);
        let before = self.ejections.saturating_sub(forgiven);
        let most = MAX_EJECTION.max(base);
        // Beyond the longest one there is nothing to forgive either.
        let grows = base.saturating_mul(u64::from(before)) < most;
        self.ejections = if grows {
            before.saturating_add(1)
        } else {
            before
        };
        let time = base.saturating_mul(u64::from(self.ejections)).min(most);
        let for_us = if interval == 0 {
            time
        } else {
            time.div_ceil(interval).max(1).saturating_mul(interval)
        };
        (self.errors, self.gateway_errors) = (0, 0);
        self.until = Some(now.saturating_add(for_us));
        for_us
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outlier(errors: Option<u32>, gateway_errors: Option<u32>) -> Outlier {
        Outlier {
            errors,
            gateway_errors,
            ..Outlier::default()
        }
    }

    /// Answers by status, a second apart; which of them was one too many.
    fn due(outlier: &Outlier, statuses: &[u16]) -> Vec<usize> {
        let mut answers = Answers::default();
        let book = |(i, status): (usize, &u16)| {
            answers
                .book(outlier, classify(outlier, *status), i as Micros * SECOND)
                .then_some(i)
        };
        statuses.iter().enumerate().filter_map(book).collect()
    }

    #[test]
    fn a_rule_says_which_answers_are_errors() {
        use AnswerError::{Error, Gateway};
        let usual = Outlier::default();
        let own = Outlier {
            codes: vec![429, 503],
            ..Outlier::default()
        };
        for (status, by_usual, by_own) in [
            (200, None, None),
            (429, None, Some(Error)),
            (499, None, None),
            (500, Some(Error), None),
            (502, Some(Gateway), None),
            (503, Some(Gateway), Some(Gateway)),
            (504, Some(Gateway), None),
            (505, Some(Error), None),
            (599, Some(Error), None),
            (600, None, None),
        ] {
            assert_eq!(classify(&usual, status), by_usual, "{status}");
            assert_eq!(classify(&own, status), by_own, "{status}");
        }
    }

    #[test]
    fn errors_in_a_row_eject_and_a_success_starts_anew() {
        let three = outlier(Some(3), None);
        assert_eq!(due(&three, &[500, 500, 200, 500, 503, 500]), [5]);
        assert_eq!(due(&three, &[500, 404, 500, 500, 500]), [4]);
        assert_eq!(due(&three, &[500; 7]), [2, 5], "the counts begin anew");
        assert!(due(&outlier(None, None), &[500; 50]).is_empty());
        assert_eq!(due(&outlier(Some(1), None), &[200, 500]), [1]);
    }

    #[test]
    fn gateway_errors_count_apart() {
        let both = outlier(Some(4), Some(2));
        assert_eq!(due(&both, &[502, 500, 503, 504]), [3]);
        assert_eq!(due(&both, &[500, 502, 500, 503]), [3], "all are errors");
        assert_eq!(due(&both, &[503, 200, 503, 500, 503]), [0usize; 0]);
        let gateway = outlier(None, Some(2));
        assert_eq!(due(&gateway, &[500, 500, 500, 502, 504]), [4]);
    }

    #[test]
    fn ejections_grow_and_are_forgiven_one_an_interval() {
        let rule = Outlier::default();
        let mut answers = Answers::default();
        let mut now = 0;
        for n in 1..=4 {
            assert_eq!(answers.eject(&rule, now), 30 * n * SECOND);
            now = answers.until(now).unwrap();
            assert_eq!(answers.until(now), None, "over is over");
        }
        // Two intervals and a bit back: the fifth is a third again.
        now += 25 * SECOND;
        assert_eq!(answers.eject(&rule, now), 90 * SECOND);
        now += 90 * SECOND + 3600 * SECOND;
        assert_eq!(answers.eject(&rule, now), 30 * SECOND);
    }

    #[test]
    fn ejections_are_bounded_and_what_is_beyond_is_not_owed() {
        let rule = Outlier::default();
        let mut answers = Answers::default();
        let mut now = 0;
        for _ in 0..100 {
            now += answers.eject(&rule, now);
        }
        assert_eq!(answers.eject(&rule, now), MAX_EJECTION);
        now += MAX_EJECTION + 10 * SECOND;
        assert_eq!(answers.eject(&rule, now), MAX_EJECTION, "nine and one");
        now += MAX_EJECTION + 90 * SECOND;
        assert_eq!(answers.eject(&rule, now), 60 * SECOND);
        let long = Outlier {
            base_ejection_ms: 3_600_000,
            ..rule
        };
        let mut answers = Answers::default();
        let hour = 3600 * SECOND;
        assert_eq!(answers.eject(&long, 0), hour);
        assert_eq!(answers.eject(&long, hour), hour);
    }

    #[test]
    fn ejections_end_at_multiples_of_the_interval() {
        for (interval_ms, base_ejection_ms, want_ms) in [
            (10_000, 30_000, 30_000),
            (10_000, 30_001, 40_000),
            (7_000, 30_000, 35_000),
            (60_000, 1_000, 60_000),
            (1_000, 0, 1_000),
            (0, 1_500, 1_500),
        ] {
            let rule = Outlier {
                interval_ms,
                base_ejection_ms,
                ..Outlier::default()
            };
            let mut answers = Answers::default();
            assert_eq!(answers.eject(&rule, 77), want_ms * MS);
            assert_eq!(
                answers.until(77),
                Some(77 + want_ms * MS),
                "from its own start on"
            );
        }
    }

    #[test]
    fn what_it_answers_while_it_is_out_does_not_count() {
        let rule = outlier(Some(2), None);
        let mut answers = Answers::default();
        answers.book(&rule, Some(AnswerError::Error), 0);
        let until = answers.eject(&rule, 0);
        for _ in 0..5 {
            assert!(!answers.book(&rule, Some(AnswerError::Error), until - 1));
        }
        assert!(!answers.book(&rule, Some(AnswerError::Error), until));
        assert!(answers.book(&rule, Some(AnswerError::Error), until));
    }

    #[test]
    fn only_so_many_are_out_at_once() {
        let rule = |max_ejection_percent, min_health_percent| Outlier {
            max_ejection_percent,
            min_health_percent,
            ..Outlier::default()
        };
        for (max, min, total, already, fit, may) in [
            (20, 0, 10, 0, 10, true),
            (20, 0, 10, 1, 9, true),
            (20, 0, 10, 2, 8, false),
            // Always one, and no second one.
            (10, 0, 3, 0, 3, true),
            (10, 0, 3, 1, 2, false),
            (0, 0, 5, 0, 5, true),
            (0, 0, 5, 1, 4, false),
            (100, 0, 3, 2, 1, true),
            (100, 0, 3, 3, 0, false),
            // While too few are fit, nobody.
            (100, 50, 10, 4, 6, true),
            (100, 50, 10, 5, 5, true),
            (100, 50, 10, 6, 4, false),
            (10, 100, 3, 0, 2, false),
            (100, 0, 0, 0, 0, false),
        ] {
            let got = may_eject(&rule(max, min), total, already, fit);
            assert_eq!(got, may, "{max} % {min} % {total} {already} {fit}");
        }
        assert!(!is_in_force(&rule(100, 50), 10, 4));
        assert!(is_in_force(&rule(100, 0), 10, 0));
    }

    proptest! {
        /// Whatever it answers, it can be called again after the longest ejection, rounded up.
        #[test]
        fn nothing_is_out_for_ever(
            steps in proptest::collection::vec((any::<bool>(), 0u64..400 * SECOND), 0..200),
            interval_ms in 0u64..100_000,
            base_ejection_ms in 0u64..400_000,
        ) {
            let rule = Outlier { errors: Some(1), interval_ms, base_ejection_ms, ..Outlier::default() };
            let mut answers = Answers::default();
            let mut now = 0;
            for (fails, dt) in steps {
                now += dt;
                if answers.book(&rule, fails.then_some(AnswerError::Error), now) {
                    let for_us = answers.eject(&rule, now);
                    prop_assert!(for_us > 0 || interval_ms + base_ejection_ms == 0);
                }
                let longest = MAX_EJECTION.max(base_ejection_ms * MS) + interval_ms * MS;
                prop_assert_eq!(answers.until(now + longest), None);
            }
        }
    }
}
