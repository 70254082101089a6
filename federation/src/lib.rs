//! The federation store: one small replicated database of who is a member, what is exported and whom to trust.
//!
//! openraft agrees on a log, sled keeps it, `catalog` applies it. This crate owns the store's directory and everything in
//! it. It opens no sockets (the controller gives it a `PeerTransport`), reads no clock of its own, and keeps no secret.

#![forbid(unsafe_code)]

pub mod catalog;
pub mod codec;
pub mod error;
pub mod peer;
pub mod status;
pub mod store;
mod types;

pub use catalog::{Catalog, Merged};
pub use error::{HandleError, ProposeError, StoreError};
pub use peer::{PeerError, PeerTransport};
pub use status::StoreStatus;
pub use store::{Store, StoreConfig, Timing};
pub use types::{Batch, Outcomes, RaftNode, TypeConfig};
