//! The routes as they are written, as far as they are acted on. What is not here is reported by the tables of fields.

use serde::Deserialize;

use super::persistence::Session;
use crate::status::ParentReference as ParentRef;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpRouteSpec {
    pub(super) parent_refs: Vec<ParentRef>,
    /// None is one rule for everything.
    pub(super) rules: Option<Vec<HttpRule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpRule {
    pub(super) name: Option<String>,
    pub(super) matches: Vec<HttpMatch>,
    pub(super) filters: Vec<Filter>,
    pub(super) backend_refs: Vec<BackendRef>,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<Retry>,
    pub(super) session_persistence: Option<Session>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpMatch {
    pub(super) path: Option<PathMatch>,
    pub(super) headers: Vec<ValueMatch>,
    pub(super) query_params: Vec<ValueMatch>,
    pub(super) method: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PathMatch {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) value: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ValueMatch {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendRef {
    #[serde(flatten)]
    pub(super) to: ObjectRef,
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) filters: Vec<Filter>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ObjectRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) request_header_modifier: Option<HeaderFilter>,
    pub(super) response_header_modifier: Option<HeaderFilter>,
    pub(super) request_redirect: Option<RedirectFilter>,
    pub(super) url_rewrite: Option<RewriteFilter>,
    pub(super) request_mirror: Option<MirrorFilter>,
    pub(super) cors: Option<CorsFilter>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HeaderFilter {
    pub(super) set: Vec<Header>,
    pub(super) add: Vec<Header>,
    pub(super) remove: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RedirectFilter {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathModifier>,
    pub(super) port: Option<u16>,
    pub(super) status_code: Option<u16>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RewriteFilter {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathModifier>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PathModifier {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MirrorFilter {
    pub(super) backend_ref: ObjectRef,
    pub(super) percent: Option<u32>,
    pub(super) fraction: Option<Fraction>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Fraction {
    pub(super) numerator: u32,
    pub(super) denominator: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CorsFilter {
    pub(super) allow_origins: Vec<String>,
    pub(super) allow_credentials: Option<bool>,
    pub(super) allow_methods: Vec<String>,
    pub(super) allow_headers: Vec<String>,
    pub(super) expose_headers: Vec<String>,
    pub(super) max_age: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Timeouts {
    pub(super) request: Option<String>,
    pub(super) backend_request: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Retry {
    pub(super) codes: Vec<u16>,
    pub(super) attempts: Option<u32>,
    pub(super) backoff: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GrpcRouteSpec {
    pub(super) parent_refs: Vec<ParentRef>,
    pub(super) rules: Option<Vec<GrpcRule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GrpcRule {
    pub(super) name: Option<String>,
    pub(super) matches: Vec<GrpcMatch>,
    pub(super) filters: Vec<Filter>,
    pub(super) backend_refs: Vec<BackendRef>,
    pub(super) session_persistence: Option<Session>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GrpcMatch {
    pub(super) method: Option<MethodMatch>,
    pub(super) headers: Vec<ValueMatch>,
}

#[derive(Debug, Deserialize)]
pub(super) struct MethodMatch {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
}

/// TCPRoute and TLSRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StreamRouteSpec {
    pub(super) parent_refs: Vec<ParentRef>,
    pub(super) hostnames: Vec<String>,
    pub(super) rules: Vec<StreamRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StreamRule {
    pub(super) name: Option<String>,
    pub(super) backend_refs: Vec<StreamBackendRef>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamBackendRef {
    #[serde(flatten)]
    pub(super) to: ObjectRef,
    pub(super) weight: Option<u32>,
}
