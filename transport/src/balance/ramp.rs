//! Slow start: an endpoint that comes back takes its share gradually while others carry it.
//!
//! Holds when the ramp began, and how it rises where a rule says so. An endpoint that is the first or only one starts at full.

use tradewind_api::{route::MILLION, traffic::Warmup};

use super::{Micros, SECOND};

/// From the first share to all of it.
pub const WINDOW: Micros = 5 * SECOND;
/// The first share.
pub const START: f64 = 0.1;

/// One endpoint's ramp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ramp {
    since: Option<Micros>,
    by: Option<Warmup>,
}

impl Ramp {
    /// At full.
    pub const FULL: Self = Self {
        since: None,
        by: None,
    };

    /// The ramp of an endpoint that becomes usable now: gradual if others serve meanwhile, else at full.
    pub const fn enter(now: Micros, others_serve: bool) -> Self {
        Self::enter_by(now, others_serve, None)
    }

    /// The same, as a rule has it.
    pub const fn enter_by(now: Micros, others_serve: bool, by: Option<Warmup>) -> Self {
        if others_serve {
            Self {
                since: Some(now),
                by,
            }
        } else {
            Self::FULL
        }
    }

    /// How long it rises.
    const fn window(&self) -> Micros {
        match &self.by {
            None => WINDOW,
            Some(by) => by.duration_ms.saturating_mul(1000),
        }
    }

    /// The part of its weight that counts now: [`START`] to 1, linear over [`WINDOW`], unless a rule says otherwise.
    pub fn value(&self, now: Micros) -> f64 {
        let Some(since) = self.since.filter(|_| self.is_active(now)) else {
            return 1.0;
        };
        let t = now.saturating_sub(since) as f64 / self.window() as f64;
        match &self.by {
            None => (START + (1.0 - START) * t).min(1.0),
            Some(by) => {
                let minimum = f64::from(by.minimum) / f64::from(MILLION);
                let power = 1000.0 / f64::from(by.aggression_milli.max(1));
                t.powf(power).max(minimum).min(1.0)
            }
        }
    }

    /// True while the value still changes.
    pub fn is_active(&self, now: Micros) -> bool {
        self.since
            .is_some_and(|s| now.saturating_sub(s) < self.window())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_only_endpoint_starts_at_full() {
        assert_eq!(Ramp::enter(7, false).value(7), 1.0);
        assert!(!Ramp::enter(7, false).is_active(7));
    }

    fn warmup(duration_ms: u64, minimum: u32, aggression_milli: u32) -> Warmup {
        Warmup {
            duration_ms,
            minimum,
            aggression_milli,
        }
    }

    #[test]
    fn a_rule_says_how_it_rises() {
        for (by, at_s, want) in [
            (warmup(10_000, 100_000, 1000), 0, 0.1),
            (warmup(10_000, 100_000, 1000), 1, 0.1),
            (warmup(10_000, 100_000, 1000), 5, 0.5),
            (warmup(10_000, 100_000, 1000), 10, 1.0),
            // Faster at first, and slower.
            (warmup(100_000, 0, 2000), 25, 0.5),
            (warmup(100_000, 0, 500), 50, 0.25),
            (warmup(100_000, 0, 0), 99, 0.0),
            (warmup(0, 0, 1000), 0, 1.0),
            (warmup(10_000, MILLION, 1000), 0, 1.0),
            (warmup(10_000, 2 * MILLION, 1000), 0, 1.0),
        ] {
            let got = Ramp::enter_by(7, true, Some(by)).value(7 + at_s * SECOND);
            assert!((got - want).abs() < 1e-4, "{by:?} at {at_s} s: {got}");
            let alone = Ramp::enter_by(7, false, Some(by));
            assert_eq!(alone, Ramp::FULL);
        }
        let long = Ramp::enter_by(0, true, Some(warmup(60_000, 0, 1000)));
        assert!(long.is_active(2 * WINDOW) && !long.is_active(60 * SECOND));
    }

    proptest! {
        #[test]
        fn it_only_rises_by_a_rule_too(
            (duration_ms, minimum, aggression_milli) in (1u64..200_000, 0u32..=MILLION, 1u32..20_000),
            a in 0.0f64..1.2, b in 0.0f64..1.2,
        ) {
            let r = Ramp::enter_by(9, true, Some(warmup(duration_ms, minimum, aggression_milli)));
            let at = |part: f64| r.value(9 + (part * duration_ms as f64 * 1000.0) as u64);
            // As exact as powers are.
            prop_assert!(at(a.min(b)) <= at(a.max(b)) + 1e-12);
            prop_assert!(at(a) >= f64::from(minimum) / f64::from(MILLION));
            prop_assert_eq!(r.value(9 + duration_ms * 1000), 1.0);
        }

        #[test]
        fn it_only_rises(start in 0u64..1 << 40, a in 0u64..2 * WINDOW, b in 0u64..2 * WINDOW) {
            let r = Ramp::enter(start, true);
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(r.value(start + a) <= r.value(start + b));
            prop_assert!(r.value(start + a) >= START);
            prop_assert_eq!(r.value(start + WINDOW), 1.0);
        }
    }
}
