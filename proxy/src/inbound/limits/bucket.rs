//! A bucket that threads share. All of it is one number, so that whoever takes a token waits for nobody.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;
use tradewind_api::limit::{Level, TokenBucket};

/// A bucket, and when it was full at first.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(super) of: TokenBucket,
    since: Instant,
    level: AtomicU64,
}

/// What a bucket said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) had_one: bool,
    pub(super) left: u32,
    pub(super) until_fill_ms: u64,
}

impl Bucket {
    pub(super) fn new(of: TokenBucket, now: Instant) -> Self {
        let level = of.full().bits().into();
        Self {
            of,
            since: now,
            level,
        }
    }

    fn elapsed_ms(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.since);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a token, if there is one. The number is all there is, so no order with anything else is asked for.
    pub(super) fn take(&self, now: Instant) -> Taken {
        let elapsed_ms = self.elapsed_ms(now);
        let until_fill_ms = self.of.until_fill_ms(elapsed_ms);
        let mut bits = self.level.load(Ordering::Relaxed);
        loop {
            let Some(after) = self.of.take(Level::of_bits(bits), elapsed_ms) else {
                return Taken {
                    had_one: false,
                    left: 0,
                    until_fill_ms,
                };
            };
            let set = self.level.compare_exchange_weak(
                bits,
                after.bits(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match set {
                Ok(_) => {
                    return Taken {
                        had_one: true,
                        left: after.tokens,
                        until_fill_ms,
                    };
                }
                Err(newer) => bits = newer,
            }
        }
    }

    pub(super) fn left(&self, now: Instant) -> u32 {
        let level = Level::of_bits(self.level.load(Ordering::Relaxed));
        self.of.at(level, self.elapsed_ms(now)).tokens
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let of = TokenBucket {
            max_tokens: 1_000,
            tokens_per_fill: 100,
            fill_interval_ms: 50,
        };
        let now = Instant::now();
        let bucket = Bucket::new(of, now);
        // Of each moment all of them together get what there is, whoever is first.
        let all_at = |at: Instant| {
            let ask = || (0..600).filter(|_| bucket.take(at).had_one).count();
            std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(ask));
                threads
                    .into_iter()
                    .map(|t| t.join().unwrap())
                    .sum::<usize>()
            })
        };
        assert_eq!(all_at(now), 1_000);
        for interval in 1..=5 {
            assert_eq!(all_at(now + Duration::from_millis(50 * interval)), 100);
        }
        assert_eq!(bucket.left(now + Duration::from_millis(299)), 0);
        assert_eq!(bucket.left(now + Duration::from_millis(300)), 100);
    }
}
