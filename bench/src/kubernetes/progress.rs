//! Waits that say how far they are, and what was missing when their time is over.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

/// Between two words on it.
const EVERY: Duration = Duration::from_secs(10);

/// Waits for `work`, for `limit` at most. How far it is, in the words of `so_far`, stands on standard error every ten seconds, and in the error
/// of a wait that was too short.
pub(super) async fn within<T>(
    limit: Duration,
    so_far: impl Fn() -> String,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let started = Instant::now();
    let mut every = interval_at(started + EVERY, EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep_until(started + limit) => {
                return Err(format!("{limit:?} were not enough: {}", so_far()));
            }
            _ = every.tick() => {
                eprintln!("  {} after {:.0?} of {limit:?}", so_far(), started.elapsed());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_too_short_says_what_was_missing() {
        let so_far = || "3 of 5 pods".to_owned();
        let never = std::future::pending::<Result<(), String>>();
        let error = within(Duration::from_secs(60), so_far, never).await;
        assert_eq!(error.unwrap_err(), "60s were not enough: 3 of 5 pods");
        let done = within(Duration::from_secs(60), so_far, async { Ok(7) }).await;
        assert_eq!(done, Ok(7));
    }
}
