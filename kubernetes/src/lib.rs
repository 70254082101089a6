//! What an API server says, as slim objects, and what it is told. The only crate that knows `kube`.
//!
//! Everything that can be decided without an API server is a pure function here or in the controller; clients, watchers and writers are thin.
//! Nothing here is waited for by running traffic: an API server that is away leaves everybody with what was known last.

#![forbid(unsafe_code)]

pub mod check;
pub mod client;
pub mod export;
pub mod forward;
pub mod injection;
pub mod install;
pub mod managed;
pub mod objects;
pub mod status;
pub mod token_review;
pub mod watch;
mod wire;
pub mod write;

pub use client::{Client, ClientError, Place};
pub use objects::{Key, Kind, Object, Objects};
