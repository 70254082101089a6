//! The local proxy beside a workload: outbound listeners that find the nearest healthy endpoint anywhere in the
//! federation, and the inbound HBONE listener that authorises callers and hands their streams to the application. It may
//! capture what applications dial, so that they need not know of it.
//!
//! State: connections and pools, per data thread. It must never forward on an identity it has not verified.

#![forbid(unsafe_code)]

mod app;
mod called;
pub mod capture;
mod config;
mod error;
#[cfg(test)]
mod fixture;
mod health;
mod inbound;
pub mod labels;
pub mod outbound;
mod register;
mod serving;
mod standard;
mod telemetry;
#[cfg(test)]
mod tests;

pub use app::{Bound, Proxy};
pub use config::{Exit, HealthCheck, InvalidSpec, ListenSpec, ProxyConfig, ServeSpec};
pub use error::ProxyError;
pub use telemetry::{AccessLogFilter, AccessLogTarget, OtlpEndpoint, TelemetryConfig};
