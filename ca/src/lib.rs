//! Certificates made: the federation's root, each cluster's authority, workload certificates, and the tokens that let
//! strangers ask for them.
//!
//! Owns CA keys, as files of mode 0600 and in memory only. A CA key never leaves its cluster: what crosses a border is a
//! signing request. Who may have which identity is decided by the caller; whom to believe by `tradewind_transport::trust`.

#![forbid(unsafe_code)]

pub mod authority;
pub mod issuer;
mod key;
mod mint;
pub mod renew;
pub mod root;
pub mod serving;
pub mod stored;
pub mod token;

pub use authority::AuthorityKey;
pub use issuer::{DEFAULT_LIFETIME_S, IssueError, Issued, Issuer};
pub use renew::renew_at_unix_s;
pub use root::Root;
pub use serving::{Serving, ServingAuthority};
pub use stored::StoredError;
pub use token::{JoinToken, TokenError, WorkloadToken};

#[cfg(test)]
mod tests;
