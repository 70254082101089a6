//! Istio's VirtualService, for calls inside of the mesh.

mod cors;
pub(crate) mod fields;
mod http;
mod types;
mod virtual_service;

pub(crate) use virtual_service::virtual_service;
