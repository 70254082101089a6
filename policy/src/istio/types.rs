//! VirtualService as it is written, as far as it is acted on. What is not here is reported by the table of fields. Every field
//! may be missing: protobuf has no required ones.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) hosts: Vec<String>,
    pub(super) gateways: Vec<String>,
    pub(super) http: Vec<HttpRoute>,
    pub(super) tls: Vec<StreamRoute>,
    pub(super) tcp: Vec<StreamRoute>,
    pub(super) export_to: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpRoute {
    pub(super) name: String,
    #[serde(rename = "match")]
    pub(super) matches: Vec<Match>,
    pub(super) route: Vec<RouteDestination>,
    pub(super) redirect: Option<Redirect>,
    pub(super) direct_response: Option<DirectResponse>,
    pub(super) delegate: Option<Delegate>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) timeout: Option<String>,
    pub(super) retries: Option<Retries>,
    pub(super) fault: Option<Fault>,
    pub(super) mirror: Option<Destination>,
    pub(super) mirror_percent: Option<u32>,
    pub(super) mirror_percentage: Option<Percent>,
    pub(super) mirrors: Vec<MirrorPolicy>,
    pub(super) cors_policy: Option<CorsPolicy>,
    pub(super) headers: Option<Headers>,
}

/// Whose rules a rule is made of.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delegate {
    pub(super) name: String,
    pub(super) namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Match {
    pub(super) uri: Option<StringMatch>,
    pub(super) scheme: Option<StringMatch>,
    pub(super) method: Option<StringMatch>,
    pub(super) authority: Option<StringMatch>,
    pub(super) headers: BTreeMap<String, StringMatch>,
    pub(super) without_headers: BTreeMap<String, StringMatch>,
    pub(super) query_params: BTreeMap<String, StringMatch>,
    pub(super) port: Option<u16>,
    pub(super) source_labels: BTreeMap<String, String>,
    pub(super) source_namespace: Option<String>,
    pub(super) gateways: Vec<String>,
    pub(super) ignore_uri_case: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StringMatch {
    pub(super) exact: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) regex: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RouteDestination {
    pub(super) destination: Destination,
    pub(super) weight: Option<u32>,
    pub(super) headers: Headers,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Destination {
    pub(super) host: String,
    pub(super) subset: Option<String>,
    pub(super) port: PortSelector,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PortSelector {
    pub(super) number: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Headers {
    pub(super) request: HeaderOperations,
    pub(super) response: HeaderOperations,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HeaderOperations {
    pub(super) set: BTreeMap<String, String>,
    pub(super) add: BTreeMap<String, String>,
    pub(super) remove: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Redirect {
    pub(super) uri: Option<String>,
    pub(super) authority: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) derive_port: Option<String>,
    pub(super) scheme: Option<String>,
    pub(super) redirect_code: Option<u16>,
    pub(super) prefix_rewrite: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DirectResponse {
    pub(super) status: u16,
    pub(super) body: Body,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Body {
    pub(super) string: Option<String>,
    pub(super) bytes: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rewrite {
    pub(super) uri: Option<String>,
    pub(super) authority: Option<String>,
    pub(super) uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RegexRewrite {
    #[serde(rename = "match")]
    pub(super) find: String,
    pub(super) rewrite: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Retries {
    pub(super) attempts: Option<u32>,
    pub(super) per_try_timeout: Option<String>,
    pub(super) retry_on: Option<String>,
    pub(super) retry_remote_localities: Option<bool>,
    pub(super) retry_ignore_previous_hosts: Option<bool>,
    pub(super) backoff: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    pub(super) delay: Option<Delay>,
    pub(super) abort: Option<Abort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Delay {
    pub(super) fixed_delay: Option<String>,
    pub(super) percent: Option<u32>,
    pub(super) percentage: Option<Percent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Abort {
    pub(super) http_status: Option<u16>,
    pub(super) grpc_status: Option<String>,
    pub(super) percentage: Option<Percent>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Percent {
    pub(super) value: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct MirrorPolicy {
    pub(super) destination: Destination,
    pub(super) percentage: Option<Percent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CorsPolicy {
    pub(super) allow_origin: Vec<String>,
    pub(super) allow_origins: Vec<StringMatch>,
    pub(super) allow_methods: Vec<String>,
    pub(super) allow_headers: Vec<String>,
    pub(super) expose_headers: Vec<String>,
    pub(super) max_age: Option<String>,
    pub(super) allow_credentials: Option<bool>,
    pub(super) unmatched_preflights: Option<String>,
}

/// A rule of `tls` or of `tcp`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamRoute {
    #[serde(rename = "match")]
    pub(super) matches: Vec<L4Match>,
    pub(super) route: Vec<RouteDestination>,
}

/// What both match by; a rule of `tcp` has no names, and one of `tls` no address that streams come from.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct L4Match {
    pub(super) sni_hosts: Vec<String>,
    pub(super) destination_subnets: Option<serde::de::IgnoredAny>,
    pub(super) source_subnet: Option<serde::de::IgnoredAny>,
    pub(super) port: Option<u16>,
    pub(super) source_labels: BTreeMap<String, String>,
    pub(super) source_namespace: Option<String>,
    pub(super) gateways: Vec<String>,
}
