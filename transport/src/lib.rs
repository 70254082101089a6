//! How Tradewind's roles talk: identity and mTLS, HBONE tunnels, byte copying, protocol detection, balancing, and the
//! client side of the control plane.
//!
//! Owns no policy and no routes: callers decide, this crate carries the decision out. The one check of a peer's
//! certificate is [`trust::TrustMap::verify`]; nothing may accept a peer by another way.

pub mod accept;
pub mod balance;
pub mod client_hello;
pub mod control;
pub mod detect;
pub mod discovery;
pub mod grpc;
pub mod hbone;
pub mod keys;
pub mod marked;
pub mod permits;
pub mod prefixed;
pub mod relay;
pub mod request_id;
pub mod route;
pub mod seal;
pub mod server_name;
pub mod svid;
pub mod tls;
pub mod trace_context;
pub mod trust;
