//! A cluster's control plane: reads local sources, publishes exports to the federation store, compiles snapshots and
//! serves them, signs workload certificates, and speaks with the other clusters' controllers.
//!
//! Every decision (what to publish, what a snapshot holds, who may ask) is a pure function in its own module; [`app`]
//! wires them to sockets. It must never put anything of its own on the data path: proxies live without it.

#![forbid(unsafe_code)]

pub mod actor;
pub mod admin_service;
pub mod ads;
mod answer;
pub mod app;
pub mod attest;
pub mod compile;
pub mod config;
pub mod datadir;
pub mod exports;
pub mod identity_service;
pub mod init;
pub mod join;
pub mod local;
pub mod mcs;
pub mod offline;
pub mod publish;
pub mod raft_net;
pub mod reach;
pub mod registry;
pub mod rules;
pub mod seals;
pub mod server;
pub mod siblings;
pub mod source;
pub mod webhook;

pub use app::{Bound, BuildError, Controller, RunError};
pub use config::ControllerConfig;
pub use datadir::{DataDir, DataDirError};
pub use init::{InitError, InitOptions, Initialised, init};
pub use join::{
    EnlistOptions, Enlisted, JoinError, JoinLayer, JoinOptions, JoinStep, Joined, Voucher, enlist,
    join,
};

/// The version this program announces to the federation.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
