//! The client side of delta ADS.
//!
//! [`client`] is the protocol as a pure state machine; the stream task that feeds it lives with the rest of the link to
//! a controller, in `control`. Nothing here opens a connection or reads a clock.

mod client;

pub use client::{Client, Rejected, Step, TYPES};
