//! What every Tradewind process needs and no mesh concept enters: time, randomness, tasks, drain, readiness, signals,
//! backoff, logs, metrics, the admin server, listeners, worker threads, and files that survive a crash.
//!
//! It owns no mesh state and imports none of our crates. Reading the clock and spawning a task happen here and nowhere
//! else, so that everything above can be driven by a test.

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod dirs;
pub mod drain;
pub mod files;
pub mod histogram;
pub mod lane;
pub mod listen;
pub mod memory;
pub mod metrics;
pub mod ready;
pub mod rng;
pub mod setting;
pub mod signal;
pub mod task;
pub mod telemetry;
pub mod workers;

pub use admin::{AdminBound, AdminServer, AdminState};
pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use lane::Lane;
pub use listen::BindError;
pub use metrics::MetricsRegistry;
pub use ready::{Blocker, Readiness};
pub use rng::Rng;
pub use setting::Setting;
pub use task::TaskSet;
pub use telemetry::{LogFormat, LogHandle};
pub use workers::Workers;
