//! When to renew a certificate.
//!
//! Owns nothing. Pure.

/// How much of a certificate's life the jitter spreads over, so that a fleet started at once does not renew at once.
const SPREAD: f64 = 0.1;

/// Half of the life, give or take a twentieth of it. `jitter` is in 0..1. Never before the start nor after the end.
pub fn renew_at_unix_s(not_before_unix_s: i64, not_after_unix_s: i64, jitter: f64) -> i64 {
    let life = not_after_unix_s.saturating_sub(not_before_unix_s).max(0);
    let share = 0.5 + SPREAD * (jitter.clamp(0.0, 1.0) - 0.5);
    let wait = (life as f64 * share) as i64;
    not_before_unix_s.saturating_add(wait.clamp(0, life))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn half_life_with_jitter() {
        assert_eq!(renew_at_unix_s(1000, 2000, 0.5), 1500);
        assert_eq!(renew_at_unix_s(1000, 2000, 0.0), 1450);
        assert_eq!(renew_at_unix_s(1000, 2000, 1.0), 1550);
        assert_eq!(renew_at_unix_s(2000, 1000, 0.5), 2000);
    }

    proptest! {
        #[test]
        fn always_within_the_life(a in 0i64..1 << 40, life in 0i64..1 << 33, jitter in -1.0f64..2.0) {
            let at = renew_at_unix_s(a, a + life, jitter);
            prop_assert!(at >= a && at <= a + life);
        }
    }
}
