//! What is patched, as it is written, as far as it is acted on: Envoy's LocalRateLimit and what is in it. Names are those of the
//! messages, and those of their JSON besides. Numbers are wider than they may be, so that one that is too large is told by its path.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tradewind_api::traffic::Labels;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) workload_selector: Selector,
    pub(super) target_refs: Value,
    /// Of which each is read by itself: most may be other people's.
    pub(super) config_patches: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Selector {
    pub(super) labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConfigPatch {
    pub(super) apply_to: String,
    #[serde(rename = "match")]
    pub(super) matches: Match,
    pub(super) patch: Patch,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Match {
    pub(super) context: Option<String>,
    pub(super) listener: Option<Listener>,
    pub(super) route_configuration: Option<RouteConfiguration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Listener {
    pub(super) port_number: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RouteConfiguration {
    pub(super) vhost: Option<Vhost>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Vhost {
    pub(super) name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Patch {
    pub(super) operation: String,
    pub(super) value: Patched,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Patched {
    pub(super) name: Option<String>,
    #[serde(alias = "typedConfig")]
    pub(super) typed_config: Option<Value>,
    #[serde(alias = "typedPerFilterConfig")]
    pub(super) typed_per_filter_config: Option<BTreeMap<String, Value>>,
    pub(super) disabled: bool,
}

/// A config with its type; a TypedStruct holds the type that is meant and its value.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Typed {
    #[serde(rename = "@type")]
    pub(super) at_type: String,
    #[serde(alias = "typeUrl")]
    pub(super) type_url: String,
    pub(super) value: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LocalRateLimit {
    pub(super) status: Option<Status>,
    #[serde(alias = "tokenBucket")]
    pub(super) token_bucket: Option<TokenBucket>,
    #[serde(alias = "filterEnabled")]
    pub(super) filter_enabled: Option<Fraction>,
    #[serde(alias = "filterEnforced")]
    pub(super) filter_enforced: Option<Fraction>,
    #[serde(alias = "requestHeadersToAddWhenNotEnforced")]
    pub(super) request_headers_to_add_when_not_enforced: Vec<HeaderOption>,
    #[serde(alias = "responseHeadersToAdd")]
    pub(super) response_headers_to_add: Vec<HeaderOption>,
    pub(super) descriptors: Vec<serde::de::IgnoredAny>,
    #[serde(alias = "alwaysConsumeDefaultTokenBucket")]
    pub(super) always_consume_default_token_bucket: Option<bool>,
    #[serde(alias = "localRateLimitPerDownstreamConnection")]
    pub(super) local_rate_limit_per_downstream_connection: bool,
    #[serde(alias = "enableXRatelimitHeaders")]
    // Without quotes YAML may take OFF for false.
    pub(super) enable_x_ratelimit_headers: Option<Value>,
    #[serde(alias = "rateLimitedAsResourceExhausted")]
    pub(super) rate_limited_as_resource_exhausted: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenBucket {
    #[serde(alias = "maxTokens")]
    pub(super) max_tokens: Option<i64>,
    #[serde(alias = "tokensPerFill")]
    pub(super) tokens_per_fill: Option<i64>,
    #[serde(alias = "fillInterval")]
    pub(super) fill_interval: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fraction {
    #[serde(alias = "defaultValue")]
    pub(super) default_value: Option<Percent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Percent {
    pub(super) numerator: i64,
    pub(super) denominator: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HeaderOption {
    pub(super) header: Header,
    pub(super) append: Option<bool>,
    #[serde(alias = "appendAction")]
    pub(super) append_action: Option<String>,
    #[serde(alias = "keepEmptyValue")]
    pub(super) keep_empty_value: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    pub(super) key: String,
    pub(super) value: String,
}
