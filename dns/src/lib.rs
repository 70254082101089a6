//! The DNS server: names below `clusterset.local` from the snapshot, everything else forwarded and cached.
//!
//! State: the snapshot it watches and the forwarder's bounded cache. It must never invent a name.

#![forbid(unsafe_code)]

mod app;
mod config;
mod error;
mod forward;
mod metrics;
pub mod respond;
mod serve;
mod socket;
#[cfg(test)]
mod tests;
pub mod zone;

pub use app::{Bound, Dns};
pub use config::{DnsConfig, Upstreams};
pub use error::DnsError;
