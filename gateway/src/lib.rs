//! The east-west gateway: it reads the server name of a TLS connection that arrives from another cluster, finds the local
//! workload (or this cluster's controller) that is meant, and moves bytes. It holds no workload keys and decrypts nothing.
//!
//! State: live connections only. It must never forward to a service that its own cluster does not export.

#![forbid(unsafe_code)]

mod announce;
mod app;
mod circles;
mod config;
mod error;
mod exits;
#[cfg(test)]
mod fixture;
mod limits;
mod metrics;
mod names;
mod plan;
mod probe;
mod refusal;
mod route;
mod serve;
mod socket;
#[cfg(test)]
mod tests;

pub use app::{Bound, Gateway};
pub use config::GatewayConfig;
pub use error::GatewayError;
pub use exits::Exits;
pub use names::{Names, Opened};
pub use refusal::{Refusal, Refused};
pub use route::{Candidate, Circumstances, MAX_TRIES, Route, route};
