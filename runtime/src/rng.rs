//! Randomness as an argument: jitter, load balancing choices and ids draw from an [`Rng`] that a test can seed.
//!
//! Fast and not for secrets: keys, tokens and salts come from the crypto library. An `Rng` belongs to one thread;
//! give another thread its own by [`Rng::fork`].

use std::hash::{BuildHasher, Hasher, RandomState};

/// A small, fast, seedable generator. A clone continues with the same numbers as the original; a fork does not.
#[derive(Debug, Clone)]
pub struct Rng {
    inner: fastrand::Rng,
}

impl Rng {
    /// Seeded by the operating system.
    #[must_use]
    pub fn from_entropy() -> Self {
        // RandomState takes its keys from the operating system and changes them with every use.
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    /// The same seed gives the same numbers in every run.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            inner: fastrand::Rng::with_seed(seed),
        }
    }

    /// A generator of its own for another thread or task, determined by this one's state.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self {
            inner: self.inner.fork(),
        }
    }

    /// A number from 0 up to but not including `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.inner.u64(0..n) }
    }

    /// An index into something of length `len`; `None` when it is empty.
    pub fn index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.inner.usize(0..len))
    }

    /// Any 64-bit number.
    pub fn next_u64(&mut self) -> u64 {
        self.inner.u64(..)
    }

    /// A number from 0 up to but not including 1.
    pub fn unit(&mut self) -> f64 {
        self.inner.f64()
    }

    /// Fills `out`. Not for secrets.
    pub fn bytes(&mut self, out: &mut [u8]) {
        self.inner.fill(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_a_fork_differs() {
        let mut a = Rng::seeded(7);
        let mut b = Rng::seeded(7);
        let from_a: Vec<u64> = (0..8).map(|_| a.next_u64()).collect();
        let from_b: Vec<u64> = (0..8).map(|_| b.next_u64()).collect();
        assert_eq!(from_a, from_b);
        let mut fork = a.fork();
        assert_ne!(fork.next_u64(), a.clone().next_u64());
    }

    #[test]
    fn entropy_differs_between_generators() {
        assert_ne!(
            Rng::from_entropy().next_u64(),
            Rng::from_entropy().next_u64()
        );
    }

    #[test]
    fn bounds_hold_at_the_edges() {
        let mut rng = Rng::seeded(1);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.index(0), None);
        for _ in 0..1000 {
            assert!(rng.below(3) < 3);
            assert_eq!(rng.index(1), Some(0));
            let unit = rng.unit();
            assert!((0.0..1.0).contains(&unit));
        }
        let mut bytes = [0; 32];
        rng.bytes(&mut bytes);
        assert_ne!(bytes, [0; 32]);
    }
}
