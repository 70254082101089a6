//! Choosing an endpoint: tiers, picking, consistent hashing, outlier detection, circuit breaking, retry budget, ramp.
//!
//! Everything here is a function of (state, input, now): no clock, socket or random source. Times are microseconds on any
//! monotonic scale the caller keeps to; random numbers come in as arguments. The proxy, `explain` and simulations call the
//! same functions.

pub mod breaker;
pub mod budget;
pub mod detector;
pub mod hash;
pub mod outlier;
pub mod pick;
pub mod ramp;
pub mod round_robin;
pub mod tiers;

/// Microseconds on the caller's monotonic scale.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;
