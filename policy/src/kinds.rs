//! The kinds that are read here: what they are called in which versions, and the table of their fields.

use crate::{fields::Field, gateway_api, istio, smi};

/// A kind that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Gateway API.
    HttpRoute,
    /// Gateway API.
    GrpcRoute,
    /// Gateway API.
    TcpRoute,
    /// Gateway API.
    TlsRoute,
    /// Gateway API.
    ReferenceGrant,
    /// Istio.
    VirtualService,
    /// Istio.
    DestinationRule,
    /// Istio.
    EnvoyFilter,
    /// SMI.
    TrafficSplit,
    /// SMI.
    HttpRouteGroup,
}

impl Known {
    /// All of them.
    pub(crate) const ALL: [Self; 10] = [
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::ReferenceGrant,
        Self::VirtualService,
        Self::DestinationRule,
        Self::EnvoyFilter,
        Self::TrafficSplit,
        Self::HttpRouteGroup,
    ];

    /// Its name.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::EnvoyFilter => "EnvoyFilter",
            Self::TrafficSplit => "TrafficSplit",
            Self::HttpRouteGroup => "HTTPRouteGroup",
        }
    }

    /// Its name in paths.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TcpRoute => "tcproutes",
            Self::TlsRoute => "tlsroutes",
            Self::ReferenceGrant => "referencegrants",
            Self::VirtualService => "virtualservices",
            Self::DestinationRule => "destinationrules",
            Self::EnvoyFilter => "envoyfilters",
            Self::TrafficSplit => "trafficsplits",
            Self::HttpRouteGroup => "httproutegroups",
        }
    }

    pub(crate) const fn group(self) -> &'static str {
        match self {
            Self::HttpRoute
            | Self::GrpcRoute
            | Self::TcpRoute
            | Self::TlsRoute
            | Self::ReferenceGrant => "gateway.networking.k8s.io",
            Self::VirtualService | Self::DestinationRule | Self::EnvoyFilter => {
                "networking.istio.io"
            }
            Self::TrafficSplit => "split.smi-spec.io",
            Self::HttpRouteGroup => "specs.smi-spec.io",
        }
    }

    pub(crate) const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::HttpRoute | Self::ReferenceGrant => &["v1", "v1beta1"],
            Self::GrpcRoute => &["v1"],
            Self::TcpRoute => &["v1", "v1alpha2"],
            Self::TlsRoute => &["v1", "v1alpha3", "v1alpha2"],
            Self::VirtualService | Self::DestinationRule => &["v1", "v1beta1", "v1alpha3"],
            Self::EnvoyFilter => &["v1alpha3"],
            Self::TrafficSplit | Self::HttpRouteGroup => {
                &["v1alpha4", "v1alpha3", "v1alpha2", "v1alpha1"]
            }
        }
    }

    /// The fields of its `spec`.
    pub(crate) const fn fields(self) -> &'static [Field] {
        match self {
            Self::HttpRoute => gateway_api::fields::HTTP_ROUTE,
            Self::GrpcRoute => gateway_api::fields::GRPC_ROUTE,
            Self::TcpRoute => gateway_api::fields::TCP_ROUTE,
            Self::TlsRoute => gateway_api::fields::TLS_ROUTE,
            Self::ReferenceGrant => gateway_api::fields::REFERENCE_GRANT,
            Self::VirtualService => istio::fields::VIRTUAL_SERVICE,
            Self::DestinationRule => istio::destination_rule::fields::DESTINATION_RULE,
            Self::EnvoyFilter => istio::envoy_filter::fields::ENVOY_FILTER,
            Self::TrafficSplit => smi::fields::TRAFFIC_SPLIT,
            Self::HttpRouteGroup => smi::fields::HTTP_ROUTE_GROUP,
        }
    }

    /// By what an object says of itself.
    pub(crate) fn of(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = api_version.split_once('/')?;
        Self::ALL
            .into_iter()
            .find(|k| k.kind() == kind && k.group() == group && k.versions().contains(&version))
    }
}

/// A kind, and where an API server serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchedKind {
    /// Its API group.
    pub group: &'static str,
    /// Versions that are read, best first.
    pub versions: &'static [&'static str],
    /// Its name.
    pub kind: &'static str,
    /// Its name in paths.
    pub plural: &'static str,
}

/// All kinds that are read here.
pub fn watched_kinds() -> Vec<WatchedKind> {
    let of = |known: Known| WatchedKind {
        group: known.group(),
        versions: known.versions(),
        kind: known.kind(),
        plural: known.plural(),
    };
    Known::ALL.into_iter().map(of).collect()
}
