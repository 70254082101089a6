//! How long to wait before the next try: doubling, capped, fully jittered so that a crowd that failed together does not
//! come back together. Pure: it neither sleeps nor reads a clock.

use std::time::Duration;

use crate::rng::Rng;

/// Waits that grow from `min` to `max`.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// The first wait lies between half of `min` and `min`, later ones between half of `min` and a ceiling that doubles
    /// up to `max` (taken as `min` where it is smaller).
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            ceiling: min,
        }
    }

    /// The next wait.
    pub fn next(&mut self, rng: &mut Rng) -> Duration {
        let floor = self.min / 2;
        let spread = self.ceiling.saturating_sub(floor).mul_f64(rng.unit());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        floor.saturating_add(spread)
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.ceiling = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_starts_anew() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(min, max);
        let mut rng = Rng::seeded(3);
        let mut ceiling = min;
        for _ in 0..50 {
            let wait = backoff.next(&mut rng);
            assert!(
                wait >= min / 2 && wait <= ceiling,
                "{wait:?} outside of {min:?}/2..{ceiling:?}"
            );
            ceiling = (ceiling * 2).min(max);
        }
        let late: Vec<Duration> = (0..50).map(|_| backoff.next(&mut rng)).collect();
        assert!(
            late.iter().any(|wait| *wait > Duration::from_secs(3)),
            "never near its cap"
        );
        assert!(
            late.iter().any(|wait| *wait < Duration::from_secs(2)),
            "no jitter"
        );
        backoff.reset();
        assert!(backoff.next(&mut rng) <= min);
    }

    #[test]
    fn nonsense_bounds_do_not_panic() {
        let mut rng = Rng::seeded(3);
        assert_eq!(
            Backoff::new(Duration::ZERO, Duration::ZERO).next(&mut rng),
            Duration::ZERO
        );
        let mut huge = Backoff::new(Duration::from_secs(2), Duration::MAX);
        for _ in 0..200 {
            let _wait = huge.next(&mut rng);
        }
        let mut inverted = Backoff::new(Duration::from_secs(2), Duration::from_secs(1));
        assert!(inverted.next(&mut rng) <= Duration::from_secs(2));
    }
}
