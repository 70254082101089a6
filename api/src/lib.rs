//! The contract between the roles of Tradewind: names, the domain model, the snapshot that controllers push, and the
//! protobufs that carry it. No I/O, no clock, no randomness.

#![forbid(unsafe_code)]

pub mod convert;
pub mod expression;
pub mod id;
pub mod limit;
pub mod mcs;
pub mod model;
pub mod proto;
pub mod route;
pub mod seal;
pub mod shared;
pub mod snapshot;
pub mod store;
pub mod traffic;

pub use id::{
    ClusterName, Domain, EndpointId, InvalidName, Namespace, Network, NodeId, Region, Revision,
    ServiceName, ServicePortRef, SpiffeId, TrustDomain, Zone,
};
