//! Waiting on what can be observed, with a deadline and the last thing seen. Owns nothing.

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::time::Instant;

/// How often an observation is repeated.
const POLL: Duration = Duration::from_millis(25);

/// Repeats `look` until it gives `Ok`, at most `limit`; panics with `what` and the last `Err` seen.
pub async fn until<T, E: Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + limit;
    loop {
        let seen = match look().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(
            Instant::now() < end,
            "waited {limit:?} for {what}; last seen: {seen:?}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// The usual limit: much longer than anything takes on a busy machine, short enough to fail in.
pub const USUAL: Duration = Duration::from_secs(30);
