//! The federation store: one small replicated database of who is a member, what is exported and whom to trust.
//!
//! openraft agrees on a log, sled keeps it, `catalog` applies it. This crate owns the store's directory and everything in
//! it. It opens no sockets (the controller gives it a `PeerTransport`), reads no clock of its own, and keeps no secret.

#![forbid(unsafe_code)]

mod budget;
pub mod catalog;
pub mod codec;
mod contacts;
mod differing;
pub mod disaster;
mod disk;
mod driver;
mod election;
mod engine;
pub mod error;
mod flush;
mod forward;
mod history;
mod hold;
mod leaving;
mod loaded;
mod log_store;
mod machine;
mod marks;
mod medium;
mod membership;
mod meters;
mod net;
pub mod peer;
mod propose;
mod quorum;
pub mod rejoin;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod snapshot;
pub mod status;
pub mod store;
mod tail;
mod types;
mod yielding;

pub use budget::Budget;
pub use catalog::{Catalog, Merged};
pub use error::{HandleError, ProposeError, StoreError};
pub use history::{Compacted, Step, Watch};
pub use peer::{PeerError, PeerTransport};
pub use propose::{MAX_COMMAND, MAX_WAITING};
pub use quorum::{Quorum, quorum};
pub use snapshot::Content as SnapshotContent;
pub use status::{StoreStatus, Vitals};
pub use store::{Store, StoreConfig, Timing};
pub use types::{Batch, Outcomes, RaftNode, TypeConfig};

#[cfg(test)]
mod tests;
