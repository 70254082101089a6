//! How many requests may be sent twice: a share of recent traffic, with a floor for quiet times.
//!
//! Only retries of what a peer may have processed are charged. The budget keeps a failing service from being hit with a
//! multiple of its load.

use super::{Micros, SECOND};

/// Retries allowed per request: 20 %.
const SHARE: f64 = 0.2;
/// Retries allowed per second whatever the traffic, so that a quiet caller can retry at all.
const FLOOR_PER_S: f64 = 10.0;
/// What was earned is forgotten at this rate (1/e), so that an hour of calm cannot pay for a storm.
const MEMORY: f64 = 10.0 * SECOND as f64;
/// Upper bound of what can be saved up.
const MAX_EARNED: f64 = 1000.0;

/// A retry budget.
#[derive(Clone, Debug)]
pub struct Budget {
    earned: f64,
    floor: f64,
    at: Micros,
}

impl Budget {
    /// A budget with its floor's first second available.
    pub const fn new(now: Micros) -> Self {
        Self {
            earned: 0.0,
            floor: FLOOR_PER_S,
            at: now,
        }
    }

    fn advance(&mut self, now: Micros) {
        let dt = now.saturating_sub(self.at) as f64;
        if dt > 0.0 {
            self.at = now;
            self.earned *= (-dt / MEMORY).exp();
            self.floor = (self.floor + FLOOR_PER_S * dt / SECOND as f64).min(FLOOR_PER_S);
        }
    }

    /// Books a first attempt.
    pub fn deposit(&mut self, now: Micros) {
        self.advance(now);
        self.earned = (self.earned + SHARE).min(MAX_EARNED);
    }

    /// Takes one retry out; false when nothing is left.
    pub fn withdraw(&mut self, now: Micros) -> bool {
        self.advance(now);
        for pot in [&mut self.earned, &mut self.floor] {
            if *pot >= 1.0 {
                *pot -= 1.0;
                return true;
            }
        }
        false
    }

    /// Retries that could be made now.
    pub fn available(&self) -> f64 {
        self.earned + self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_caller_has_ten_a_second() {
        let mut b = Budget::new(0);
        assert_eq!((0..100).filter(|_| b.withdraw(0)).count(), 10);
        assert_eq!((0..100).filter(|_| b.withdraw(SECOND / 2)).count(), 5);
    }

    #[test]
    fn a_busy_caller_has_a_fifth() {
        let mut b = Budget::new(0);
        let mut retries = 0;
        // 1,000 requests a second for 20 s, all of which want a retry.
        for i in 0..20_000u64 {
            let now = i * 1000;
            b.deposit(now);
            retries += u32::from(b.withdraw(now));
        }
        let share = f64::from(retries) / 20_000.0;
        assert!((0.19..0.23).contains(&share), "{share}");
    }

    #[test]
    fn calm_is_forgotten() {
        let mut b = Budget::new(0);
        (0..5000).for_each(|_| b.deposit(0));
        assert!(b.available() > 900.0);
        let later = 100 * SECOND;
        b.deposit(later);
        assert!(b.available() < 11.0, "{}", b.available());
    }

    #[test]
    fn a_clock_that_steps_back_is_harmless() {
        let mut b = Budget::new(SECOND);
        b.deposit(0);
        assert!(b.withdraw(0));
    }
}
