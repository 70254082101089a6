//! Outlier detection: when an endpoint is left alone, for how long, and how it comes back.
//!
//! One detector per endpoint (and one per path to another cluster). By itself it judges only what the transport saw: an error
//! status is the application's answer, not a broken endpoint. Where a rule has endpoints ejected for answers, they are kept beside
//! (see `outlier`), and neither kind of ejection ends or prolongs the other. It never decides that nobody may be called: ejected
//! endpoints are used when nothing better exists (see `tiers`).

use tradewind_api::traffic::Outlier;

use super::{
    Micros, SECOND,
    outlier::{AnswerError, Answers},
};

/// First ejection; doubles with each that follows.
pub const FIRST_EJECTION: Micros = SECOND;
/// Longest ejection of one that comes back and fails again.
pub const MAX_EJECTION: Micros = 30 * SECOND;
/// Longest time between two probes of one that does not come back: it is found this soon when it does, and costs a dial until then.
pub const MAX_BETWEEN_PROBES: Micros = 5 * SECOND;
/// This long without a failure after coming back and the next ejection is a first one again.
const FORGIVEN_AFTER: Micros = 60 * SECOND;
/// A probe that was not answered in this time may be made again: its task may have been dropped.
const PROBE_LOST_AFTER: Micros = 10 * SECOND;
/// Stream resets in a row that eject. One may be the application's own doing.
const RESETS: u32 = 3;

/// What went wrong, as the transport saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No session could be made: refused, timed out, TLS failed.
    Connect,
    /// The peer proved another identity, or one that is no longer trusted.
    Identity,
    /// The peer's proxy answered that its application cannot take requests.
    Unprocessed,
    /// The peer refused the stream.
    Refused,
    /// The session ended under a request without a farewell.
    Lost,
    /// No answer to a keepalive ping in time.
    Keepalive,
    /// The peer reset one stream.
    Reset,
}

impl Failure {
    /// The word that logs, metrics and JSON show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Identity => "identity",
            Self::Unprocessed => "unprocessed",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Keepalive => "keepalive",
            Self::Reset => "reset",
        }
    }

    /// Failures of this kind in a row that eject.
    const fn strikes(self) -> u32 {
        match self {
            Self::Reset => RESETS,
            Self::Refused => 2,
            _ => 1,
        }
    }
}

/// What may be done with an endpoint now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Traffic flows.
    Closed,
    /// Ejected; usable again from `until` at the earliest. Where it is out for its answers alone, that is when it is back.
    Open {
        /// When a probe may be made.
        until: Micros,
    },
    /// Still ejected, and a probe is due (see [`Detector::begin_probe`]).
    ProbeDue,
    /// Still ejected, and a probe is under way.
    Probing,
}

impl Standing {
    /// True unless traffic flows.
    pub const fn is_ejected(self) -> bool {
        !matches!(self, Self::Closed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Micros },
    Probing { since: Micros },
}

/// One endpoint's detector.
#[derive(Clone, Debug)]
pub struct Detector {
    state: State,
    strikes: u32,
    ejections: u32,
    failed_probes: u32,
    last_failure: Option<(Failure, Micros)>,
    answers: Answers,
}

impl Default for Detector {
    fn default() -> Self {
        Self::new()
    }
}

impl Detector {
    /// With nothing against it.
    pub const fn new() -> Self {
        Self {
            state: State::Closed,
            strikes: 0,
            ejections: 0,
            failed_probes: 0,
            last_failure: None,
            answers: Answers::new(),
        }
    }

    /// What may be done now, by what the transport saw and by what was answered.
    pub fn standing(&self, now: Micros) -> Standing {
        let seen = self.seen(now);
        match (seen, self.answers.until(now)) {
            (_, None) => seen,
            (Standing::Closed, Some(until)) => Standing::Open { until },
            (Standing::Open { until: first }, Some(until)) => Standing::Open {
                until: until.max(first),
            },
            // The probe goes on: it is about something else.
            (Standing::ProbeDue | Standing::Probing, Some(_)) => seen,
        }
    }

    /// Whether it is out for what the transport saw, whatever it answers.
    pub fn is_broken(&self, now: Micros) -> bool {
        self.seen(now).is_ejected()
    }

    /// Until when it is out for its answers; `None` unless it is.
    pub fn answers_until(&self, now: Micros) -> Option<Micros> {
        self.answers.until(now)
    }

    /// By what the transport saw.
    fn seen(&self, now: Micros) -> Standing {
        match self.state {
            State::Closed => Standing::Closed,
            State::Open { until } if now < until => Standing::Open { until },
            State::Probing { since } if now.saturating_sub(since) < PROBE_LOST_AFTER => {
                Standing::Probing
            }
            State::Open { .. } | State::Probing { .. } => Standing::ProbeDue,
        }
    }

    /// The last failure and when it was.
    pub const fn last_failure(&self) -> Option<(Failure, Micros)> {
        self.last_failure
    }

    /// How often it was ejected since it was last forgiven.
    pub const fn ejections(&self) -> u32 {
        self.ejections
    }

    /// Books an answer where a rule is about them; `error` as `outlier::classify` says. True when it is one too many: then it is to be ejected
    /// (see [`Self::eject_for_answers`]) if `outlier::may_eject` allows it.
    pub fn answered(&mut self, outlier: &Outlier, error: Option<AnswerError>, now: Micros) -> bool {
        self.answers.book(outlier, error, now)
    }

    /// Ejects it for its answers; returns for how long. When that is over it is usable, without a probe.
    pub fn eject_for_answers(&mut self, outlier: &Outlier, now: Micros) -> Micros {
        self.answers.eject(outlier, now)
    }

    /// Books a failure. Returns for how long it is ejected, when this failure is what ejects it.
    pub fn failed(&mut self, failure: Failure, now: Micros) -> Option<Micros> {
        self.failed_after(failure, failure.strikes(), now)
    }

    /// The same where a rule says how many failures in a row eject, whatever their kind.
    pub fn failed_after(&mut self, failure: Failure, strikes: u32, now: Micros) -> Option<Micros> {
        let forgiven = self
            .last_failure
            .is_none_or(|(_, at)| now.saturating_sub(at) > FORGIVEN_AFTER + MAX_EJECTION);
        self.last_failure = Some((failure, now));
        let old_news = match self.seen(now) {
            // Requests that were under way, or sent because nothing better existed: it is out already.
            Standing::Open { .. } => true,
            // What broke was made before the probe, which tells more.
            Standing::Probing => {
                matches!(failure, Failure::Lost | Failure::Reset | Failure::Keepalive)
            }
            Standing::Closed | Standing::ProbeDue => false,
        };
        if old_news {
            return None;
        }
        self.strikes = self.strikes.saturating_add(1);
        if self.state == State::Closed && self.strikes < strikes {
            return None;
        }
        if forgiven {
            self.ejections = 0;
        }
        let (before, most) = if self.state == State::Closed {
            self.failed_probes = 0;
            self.ejections = self.ejections.saturating_add(1);
            (self.ejections - 1, MAX_EJECTION)
        } else {
            // It never was back: nobody was hurt by asking, and asking is all that a long wait would save.
            self.failed_probes = self.failed_probes.saturating_add(1);
            (self.failed_probes, MAX_BETWEEN_PROBES)
        };
        let for_us = FIRST_EJECTION.saturating_mul(1 << before.min(16)).min(most);
        self.strikes = 0;
        self.state = State::Open {
            until: now.saturating_add(for_us),
        };
        Some(for_us)
    }

    /// Books a success of a request or of a probe. Returns true when it comes back by this.
    pub const fn succeeded(&mut self) -> bool {
        self.strikes = 0;
        let back = !matches!(self.state, State::Closed);
        self.state = State::Closed;
        back
    }

    /// Takes the one probe that is due; false when none is.
    pub fn begin_probe(&mut self, now: Micros) -> bool {
        let due = self.seen(now) == Standing::ProbeDue;
        if due {
            self.state = State::Probing { since: now };
        }
        due
    }

    /// Somebody else learned that it may be back (its own cluster says so): a probe is due at once.
    pub fn hint_back(&mut self, now: Micros) {
        if let State::Open { until } = &mut self.state {
            *until = (*until).min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::outlier;
    use proptest::prelude::*;

    #[test]
    fn a_failed_connect_ejects_at_once() {
        let mut d = Detector::new();
        assert_eq!(d.failed(Failure::Connect, 0), Some(SECOND));
        assert!(d.standing(0).is_ejected());
        assert_eq!(d.standing(SECOND), Standing::ProbeDue);
    }

    #[test]
    fn one_reset_is_not_enough_and_a_success_forgets_it() {
        let mut d = Detector::new();
        assert_eq!(d.failed(Failure::Reset, 0), None);
        assert_eq!(d.failed(Failure::Reset, 0), None);
        assert!(!d.succeeded());
        assert_eq!(d.failed(Failure::Reset, 0), None);
        assert_eq!(d.failed(Failure::Reset, 0), None);
        assert!(d.failed(Failure::Reset, 0).is_some());
    }

    #[test]
    fn there_is_one_probe() {
        let mut d = Detector::new();
        d.failed(Failure::Connect, 0);
        assert!(!d.begin_probe(SECOND - 1));
        assert!(d.begin_probe(SECOND));
        assert!(!d.begin_probe(SECOND));
        assert!(d.standing(SECOND).is_ejected());
        assert!(d.succeeded());
        assert_eq!(d.standing(SECOND), Standing::Closed);
    }

    #[test]
    fn a_lost_probe_is_made_again() {
        let mut d = Detector::new();
        d.failed(Failure::Connect, 0);
        assert!(d.begin_probe(SECOND));
        assert!(d.begin_probe(SECOND + PROBE_LOST_AFTER));
    }

    #[test]
    fn time_grows_and_is_bounded_and_forgotten() {
        let mut d = Detector::new();
        let mut now = 0;
        let mut last = 0;
        for _ in 0..20 {
            let t = d.failed(Failure::Connect, now).unwrap();
            assert!(t >= last && t <= MAX_EJECTION);
            last = t;
            now += t;
            assert!(d.begin_probe(now));
            assert!(d.succeeded());
        }
        assert_eq!(last, MAX_EJECTION);
        now += FORGIVEN_AFTER + MAX_EJECTION + 1;
        assert_eq!(d.failed(Failure::Connect, now), Some(FIRST_EJECTION));
    }

    #[test]
    fn one_that_stays_away_is_looked_for_more_often_than_one_that_comes_back_and_fails() {
        let mut d = Detector::new();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..6 {
            let wait = d.failed(Failure::Connect, now).unwrap();
            waits.push(wait / SECOND);
            now += wait;
            assert!(d.begin_probe(now));
        }
        assert_eq!(waits, [1, 2, 4, 5, 5, 5]);
        // Back, and failing again: the second ejection.
        d.succeeded();
        assert_eq!(d.failed(Failure::Connect, now), Some(2 * SECOND));
    }

    #[test]
    fn late_failures_of_an_ejected_endpoint_do_not_prolong() {
        let mut d = Detector::new();
        d.failed(Failure::Lost, 0);
        assert_eq!(d.failed(Failure::Lost, 1), None);
        assert_eq!(d.standing(1), Standing::Open { until: SECOND });
    }

    #[test]
    fn requests_on_a_broken_session_do_not_decide_for_the_probe() {
        let mut d = Detector::new();
        d.failed(Failure::Lost, 0);
        d.hint_back(0);
        assert!(d.begin_probe(0));
        assert_eq!(d.failed(Failure::Lost, 1), None);
        assert_eq!(d.standing(1), Standing::Probing);
        assert_eq!(d.failed(Failure::Connect, 2), Some(2 * SECOND));
    }

    #[test]
    fn a_hint_makes_the_probe_due() {
        let mut d = Detector::new();
        d.failed(Failure::Connect, 0);
        d.hint_back(5);
        assert!(d.begin_probe(5));
        let mut fresh = Detector::new();
        fresh.hint_back(5);
        assert_eq!(fresh.standing(5), Standing::Closed);
    }

    fn out_for_answers(now: Micros) -> (Detector, Micros) {
        let mut d = Detector::new();
        let rule = Outlier {
            errors: Some(2),
            ..Outlier::default()
        };
        let error = Some(AnswerError::Error);
        assert!(!d.answered(&rule, error, now));
        assert!(d.answered(&rule, error, now));
        assert_eq!(d.standing(now), Standing::Closed, "the caller decides");
        let until = now + d.eject_for_answers(&rule, now);
        (d, until)
    }

    #[test]
    fn ejection_for_answers_ends_by_time_alone() {
        let (mut d, until) = out_for_answers(7);
        let out = Standing::Open { until };
        assert_eq!((d.standing(7), d.answers_until(7)), (out, Some(until)));
        d.hint_back(8);
        assert!(!d.begin_probe(8), "a dial would say nothing");
        assert!(!d.succeeded(), "nor does a session");
        assert_eq!(d.standing(until - 1), out);
        assert_eq!(d.standing(until), Standing::Closed);
        assert_eq!(d.answers_until(until), None);
    }

    #[test]
    fn the_transports_ejection_goes_on_beside_it() {
        let (mut d, until) = out_for_answers(0);
        assert_eq!(d.failed(Failure::Connect, 0), Some(SECOND));
        assert_eq!(d.standing(0), Standing::Open { until });
        assert_eq!(d.standing(SECOND), Standing::ProbeDue);
        assert!(d.begin_probe(SECOND));
        assert!(d.succeeded());
        assert_eq!(d.standing(SECOND), Standing::Open { until });
        // And the other way: the later end counts.
        let mut late = until - 1;
        for _ in 0..4 {
            late += d.failed(Failure::Connect, late).unwrap_or(0);
        }
        assert_eq!(d.standing(until), Standing::Open { until: late });
    }

    #[test]
    fn a_rule_says_how_many_failures_of_the_transport_eject() {
        let mut d = Detector::new();
        for _ in 0..4 {
            assert_eq!(d.failed_after(Failure::Connect, 5, 0), None);
        }
        assert_eq!(d.failed_after(Failure::Reset, 5, 0), Some(SECOND));
        d.succeeded();
        assert_eq!(d.failed_after(Failure::Reset, 1, 1), Some(2 * SECOND));
        let mut none = Detector::new();
        assert!(none.failed_after(Failure::Reset, 0, 0).is_some());
    }

    proptest! {
        /// Whatever happens, it can always come back within the longest ejection.
        #[test]
        fn nothing_is_out_for_ever(steps in proptest::collection::vec((0u8..5, 0u64..40 * SECOND), 0..200)) {
            let mut d = Detector::new();
            let mut now = 0;
            let rule = Outlier { errors: Some(1), ..Outlier::default() };
            for (what, dt) in steps {
                now += dt;
                match what {
                    0 => { d.failed(Failure::Connect, now); }
                    1 => { d.failed(Failure::Reset, now); }
                    2 => { d.succeeded(); }
                    3 => { d.begin_probe(now); }
                    _ => if d.answered(&rule, Some(AnswerError::Gateway), now) {
                        d.eject_for_answers(&rule, now);
                    }
                }
                let later = now + MAX_EJECTION.max(PROBE_LOST_AFTER);
                let seen = d.seen(later);
                prop_assert!(matches!(seen, Standing::Closed | Standing::ProbeDue));
                let later = now + outlier::MAX_EJECTION;
                prop_assert!(matches!(d.standing(later), Standing::Closed | Standing::ProbeDue));
            }
        }
    }
}
