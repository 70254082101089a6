//! Slow start: an endpoint that comes back takes its share gradually while others carry it.
//!
//! Holds when the ramp began, nothing else. An endpoint that is the first or only one starts at full.

use super::{Micros, SECOND};

/// From the first share to all of it.
pub const WINDOW: Micros = 5 * SECOND;
/// The first share.
pub const START: f64 = 0.1;

/// One endpoint's ramp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ramp {
    since: Option<Micros>,
}

impl Ramp {
    /// At full.
    pub const FULL: Self = Self { since: None };

    /// The ramp of an endpoint that becomes usable now: gradual if others serve meanwhile, else at full.
    pub const fn enter(now: Micros, others_serve: bool) -> Self {
        Self {
            since: if others_serve { Some(now) } else { None },
        }
    }

    /// The part of its weight that counts now: [`START`] to 1, linear over [`WINDOW`].
    pub fn value(&self, now: Micros) -> f64 {
        match self.since {
            None => 1.0,
            Some(since) => {
                let t = now.saturating_sub(since) as f64 / WINDOW as f64;
                (START + (1.0 - START) * t).min(1.0)
            }
        }
    }

    /// True while the value still changes.
    pub fn is_active(&self, now: Micros) -> bool {
        self.since.is_some_and(|s| now.saturating_sub(s) < WINDOW)
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

    proptest! {
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
