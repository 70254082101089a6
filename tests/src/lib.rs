//! The end-to-end harness: federations of real processes on loopback addresses of their own.
//!
//! Owns every process it starts and ends them, by id, when it is dropped. Waits on what can be observed and never on time
//! alone. What it needs and does not find, it names and fails.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a harness fails by panicking, with a word on what it waited for"
)]

pub mod addresses;
pub mod apps;
pub mod border;
pub mod collector;
pub mod crowd;
pub mod dns;
pub mod failures;
pub mod faults;
pub mod federation;
pub mod gateways;
pub mod grpc;
pub mod http;
pub mod kubernetes;
pub mod lab;
pub mod load;
pub mod mesh;
pub mod metrics;
pub mod namespaces;
pub mod outside;
pub mod peer;
pub mod process;
pub mod seals;
pub mod soak;
pub mod wait;
pub mod wan;
pub mod workloads;

pub use addresses::Block;
pub use federation::{Cluster, Federation};
pub use process::{Output, Process, tradewind};
pub use workloads::Workload;
