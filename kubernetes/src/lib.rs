//! What an API server says, as slim objects, and what it is told. The only crate that knows `kube`.
//!
//! Everything that can be decided without an API server is a pure function here or in the controller; clients, watchers and writers are thin.

#![forbid(unsafe_code)]
