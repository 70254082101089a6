//! Istio's VirtualService and DestinationRule, for calls inside of the mesh.

mod cors;
mod delegate;
pub(crate) mod destination_rule;
mod fault;
pub(crate) mod fields;
mod http;
mod scope;
mod stream;
mod types;
mod virtual_service;

pub(crate) use delegate::delegates;
pub(crate) use destination_rule::destination_rule;
pub(crate) use virtual_service::virtual_service;
