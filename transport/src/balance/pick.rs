//! Picking inside a tier: power of two choices over peak EWMA latency and outstanding requests, or by weight alone.
//!
//! Two members are drawn by weight, the cheaper is taken; members that cost about the same are not told apart, so weights
//! hold where latency gives no reason against them. Turns and keys, the other ways, are in `round_robin` and `hash`.

use super::{Micros, SECOND};

/// The average's memory: what was slow this long ago counts 1/e.
const DECAY: f64 = 5.0 * SECOND as f64;
/// Added to every latency: differences well below it are scheduling and collectors at work, and must not undo weights.
const NOISE_FLOOR: f64 = 5000.0;
/// A member must be this much cheaper to be preferred to the one that was drawn first.
const BAND: f64 = 1.5;

/// A latency average that jumps up at once and comes down slowly, and fades when nothing is heard.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma {
    value: f64,
    at: Micros,
}

impl PeakEwma {
    /// Books one round trip.
    pub fn record(&mut self, latency: Micros, now: Micros) {
        let sample = latency as f64;
        let fresh = (-(now.saturating_sub(self.at) as f64) / DECAY).exp();
        self.at = self.at.max(now);
        self.value = if sample > self.value {
            sample
        } else {
            self.value * fresh + sample * (1.0 - fresh)
        };
    }

    /// The average now, in microseconds. Fades to zero so that one slow answer does not keep a member out for ever.
    pub fn value(&self, now: Micros) -> f64 {
        self.value * (-(now.saturating_sub(self.at) as f64) / DECAY).exp()
    }
}

/// One member of a tier, as picking sees it.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its weight times its ramp; not negative.
    pub weight: f64,
    /// Its latency average in microseconds.
    pub latency_us: f64,
    /// Requests that it has not finished.
    pub in_flight: u32,
}

/// What one more request costs on a member: latency times outstanding requests, these relative to its weight.
fn cost(m: &Member, mean_weight: f64) -> f64 {
    let relative = if m.weight > 0.0 {
        mean_weight / m.weight
    } else {
        f64::MAX.sqrt()
    };
    (m.latency_us + NOISE_FLOOR) * f64::from(m.in_flight).mul_add(relative, 1.0)
}

/// Draws one member by weight with `dice` in 0..1, leaving out `except`. `None` when nobody is left.
fn draw(members: &[Member], dice: f64, except: Option<usize>) -> Option<usize> {
    let candidates = || {
        members
            .iter()
            .enumerate()
            .filter(|(i, _)| Some(*i) != except)
    };
    let total: f64 = candidates().map(|(_, m)| m.weight).sum();
    if total <= 0.0 {
        // No weight at all (everybody at zero): all alike.
        let n = candidates().count();
        return candidates()
            .nth(((dice * n as f64) as usize).min(n.checked_sub(1)?))
            .map(|(i, _)| i);
    }
    let mut left = dice * total;
    let mut last = None;
    for (i, m) in candidates() {
        if m.weight <= 0.0 {
            continue;
        }
        last = Some(i);
        if left < m.weight {
            break;
        }
        left -= m.weight;
    }
    last
}

/// Picks a member's index. `dice` are two numbers in 0..1. `None` only when there are no members.
pub fn pick(members: &[Member], dice: [f64; 2]) -> Option<usize> {
    let [first_die, second_die] = dice;
    let first = draw(members, first_die, None)?;
    let Some(second) = draw(members, second_die, Some(first)) else {
        return Some(first);
    };
    let mean = members.iter().map(|m| m.weight).sum::<f64>() / members.len() as f64;
    let (a, b) = (members.get(first)?, members.get(second)?);
    if b.weight > 0.0 && cost(b, mean) * BAND < cost(a, mean) {
        Some(second)
    } else {
        Some(first)
    }
}

/// Picks a member's index by weight alone, with `dice` in 0..1. `None` only when there are no members.
pub fn random(members: &[Member], dice: f64) -> Option<usize> {
    draw(members, dice, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(weight: f64, latency_us: f64, in_flight: u32) -> Member {
        Member {
            weight,
            latency_us,
            in_flight,
        }
    }

    /// Even dice for `n` picks, without chance in the test.
    fn shares(members: &[Member], n: u64) -> Vec<f64> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = vec![0u64; members.len()];
        for _ in 0..n {
            counts[pick(members, [rng.f64(), rng.f64()]).unwrap()] += 1;
        }
        counts.iter().map(|c| *c as f64 / n as f64).collect()
    }

    #[test]
    fn weights_hold_where_latency_is_alike() {
        let m = [
            member(100.0, 300.0, 0),
            member(200.0, 200.0, 0),
            member(700.0, 250.0, 0),
        ];
        let s = shares(&m, 100_000);
        for (got, want) in s.iter().zip([0.1, 0.2, 0.7]) {
            assert!((got - want).abs() < 0.01, "{s:?}");
        }
    }

    #[test]
    fn the_slow_and_the_busy_are_avoided() {
        let slow = [
            member(100.0, 300.0, 0),
            member(100.0, 80_000.0, 0),
            member(100.0, 300.0, 0),
        ];
        assert!(shares(&slow, 10_000)[1] < 0.001);
        let busy = [member(100.0, 300.0, 50), member(100.0, 300.0, 0)];
        assert!(shares(&busy, 10_000)[0] < 0.001);
    }

    #[test]
    fn outstanding_requests_count_by_weight() {
        // Twice the weight carries twice the load at the same cost.
        let even = [member(200.0, 500.0, 20), member(100.0, 500.0, 10)];
        let s = shares(&even, 100_000);
        assert!((s[0] - 2.0 / 3.0).abs() < 0.01, "{s:?}");
    }

    #[test]
    fn at_random_only_weights_count() {
        let members = [
            member(100.0, 90_000.0, 50),
            member(0.0, 100.0, 0),
            member(300.0, 100.0, 0),
        ];
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = [0u32; 3];
        for _ in 0..40_000 {
            counts[random(&members, rng.f64()).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((9_700..10_300).contains(&counts[0]), "{counts:?}");
        let weightless = [member(0.0, 1.0, 0), member(0.0, 1.0, 0)];
        assert_eq!(random(&weightless, 0.7), Some(1));
        assert_eq!(random(&[], 0.7), None);
    }

    #[test]
    fn the_average_jumps_and_fades() {
        let mut e = PeakEwma::default();
        e.record(1000, 0);
        e.record(50_000, 1000);
        assert!(e.value(1000) > 49_000.0);
        e.record(1000, 2000);
        assert!(
            e.value(2000) > 48_000.0,
            "one good answer does not clear it"
        );
        assert!(e.value(60 * SECOND) < 200.0);
    }

    proptest! {
        #[test]
        fn somebody_is_always_picked(
            ms in proptest::collection::vec((0.0f64..1000.0, 0.0f64..1e7, 0u32..10_000), 1..40),
            a in 0.0f64..1.0, b in 0.0f64..1.0,
        ) {
            let ms: Vec<_> = ms.into_iter().map(|(w, l, f)| member(w, l, f)).collect();
            let got = pick(&ms, [a, b]);
            prop_assert!(got.is_some_and(|i| i < ms.len()));
            if ms.iter().any(|m| m.weight > 0.0) {
                prop_assert!(ms[got.unwrap()].weight > 0.0, "picked one without weight");
            }
        }
    }
}
