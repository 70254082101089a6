//! The only place that reads the time. A [`Clock`] is handed to whoever needs one, so tests and simulations decide
//! what time it is.
//!
//! Wall time (`unix_ms`) is for certificates and for what people read; monotonic time (`now`) is for every wait.
//! Nothing here sleeps.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A source of time.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch. May jump when the machine's clock is set; zero before 1970.
    fn unix_ms(&self) -> u64;

    /// The same in microseconds, for what is ordered on the wall clock below a millisecond, such as spans.
    fn unix_us(&self) -> u64 {
        self.unix_ms().saturating_mul(1000)
    }

    /// Monotonic time. Follows tokio's clock, so a paused test runtime pauses it.
    fn now(&self) -> Instant;

    /// Seconds since the Unix epoch, rounded down.
    fn unix_s(&self) -> u64 {
        self.unix_ms() / 1000
    }
}

/// A clock that many owners share.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock, ready to be shared.
#[must_use]
pub fn system() -> SharedClock {
    Arc::new(SystemClock)
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        self.unix_us() / 1000
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the Clock the ban points to"
    )]
    fn unix_us(&self) -> u64 {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that moves only when told to. Clones show the same time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    start: Instant,
    start_unix_ms: u64,
    advanced_ms: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that stands at `unix_ms` until it is advanced.
    #[must_use]
    pub fn new(unix_ms: u64) -> Self {
        Self {
            start: Instant::now(),
            start_unix_ms: unix_ms,
            advanced_ms: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Moves wall time and monotonic time forward together; what is below a millisecond is lost.
    pub fn advance(&self, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.advanced_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// The same clock behind the shared type.
    #[must_use]
    pub fn shared(&self) -> SharedClock {
        Arc::new(self.clone())
    }
}

impl Clock for ManualClock {
    fn unix_ms(&self) -> u64 {
        self.start_unix_ms
            .saturating_add(self.advanced_ms.load(Ordering::SeqCst))
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.advanced_ms.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_is_after_2026_and_monotonic() {
        let clock = system();
        assert!(clock.unix_ms() > 1_767_000_000_000);
        assert_eq!(clock.unix_s(), clock.unix_ms() / 1000);
        let ms = clock.unix_ms();
        assert!(clock.unix_us() / 1000 >= ms);
        let before = clock.now();
        assert!(clock.now() >= before);
    }

    #[test]
    fn manual_clock_moves_both_times_for_every_clone() {
        let clock = ManualClock::new(1_000);
        let shared = clock.shared();
        let before = shared.now();
        assert_eq!(shared.unix_ms(), 1_000);
        clock.advance(Duration::from_secs(90));
        assert_eq!(shared.unix_ms(), 91_000);
        assert_eq!(shared.now() - before, Duration::from_secs(90));
    }
}
