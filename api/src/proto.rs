//! Generated protobuf types and services. Only conversions, servers and subscribers name them.

#![expect(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::too_many_lines,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/protos.rs"));

/// Tradewind's own services and resources.
pub use tradewind::v1;

/// The standard's delta aggregated discovery service.
pub use envoy::service::discovery::v3 as discovery;

/// `google.rpc.Status`, which a NACK carries.
pub use google::rpc;

/// OpenTelemetry's protocol, as far as spans need it.
pub mod otlp {
    pub use super::opentelemetry::proto::{
        collector::trace::v1 as collector, common::v1 as common, resource::v1 as resource,
        trace::v1 as trace,
    };
}

/// Type URL of [`v1::Service`].
pub const SERVICE_TYPE: &str = "type.googleapis.com/tradewind.v1.Service";
/// Type URL of [`v1::Cluster`].
pub const CLUSTER_TYPE: &str = "type.googleapis.com/tradewind.v1.Cluster";
/// Type URL of [`v1::Openings`], for gateways alone.
pub const OPENINGS_TYPE: &str = "type.googleapis.com/tradewind.v1.Openings";
/// Type URL of [`v1::Routes`], for proxies alone.
pub const ROUTES_TYPE: &str = "type.googleapis.com/tradewind.v1.Routes";
/// Type URL of [`v1::LocalLimits`], for proxies alone.
pub const LIMITS_TYPE: &str = "type.googleapis.com/tradewind.v1.LocalLimits";
/// Type URL of [`v1::Trust`].
pub const TRUST_TYPE: &str = "type.googleapis.com/tradewind.v1.Trust";
/// Name of the only resource of [`TRUST_TYPE`].
pub const TRUST_NAME: &str = "trust";
