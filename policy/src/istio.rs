//! Istio's VirtualService and DestinationRule, for calls inside of the mesh, and EnvoyFilter, as far as it limits how many a workload takes.

mod cors;
mod delegate;
pub(crate) mod destination_rule;
pub(crate) mod envoy_filter;
mod fault;
pub(crate) mod fields;
mod http;
mod scope;
mod stream;
mod types;
mod virtual_service;

pub(crate) use delegate::{Delegations, delegate_alike};
pub(crate) use destination_rule::destination_rule;
pub(crate) use envoy_filter::envoy_filter;
pub(crate) use virtual_service::virtual_service;
