//! What becomes of each field of EnvoyFilter, for patches that limit how much a workload takes. The fields of what is patched are
//! Envoy's: of a filter or a route, and of its LocalRateLimit.

use serde_json::Value;

use super::FILTER;
use crate::fields::{Field, honoured, inert, list, list_of, map, object, reported, reported_but};

const LEFT_OUT: &str =
    "the patch is left out: a limit is for all requests that come to a port of a workload";

const ALL_HOLD: &str = "all limits at a workload hold, and a request needs a token of each";

const NO_DESCRIPTORS: &str = "requests are not told apart by descriptors: the bucket of the limit itself holds for all of them";

const FRACTION: &[Field] = &[
    // There is no runtime whose keys could say something else.
    inert("runtime_key"),
    object(
        "default_value",
        &[honoured("numerator"), honoured("denominator")],
    ),
];

const HEADERS: &[Field] = &[
    object(
        "header",
        &[
            honoured("key"),
            honoured("value"),
            reported("raw_value", "the field is left out; give it a value"),
        ],
    ),
    honoured("append"),
    honoured("append_action"),
    honoured("keep_empty_value"),
];

/// Envoy's LocalRateLimit.
macro_rules! local_rate_limit {
    ($($before:expr),*) => {
        &[
            $($before,)*
            inert("stat_prefix"),
            object("status", &[honoured("code")]),
            object(
                "token_bucket",
                &[
                    honoured("max_tokens"),
                    honoured("tokens_per_fill"),
                    honoured("fill_interval"),
                    inert("name"),
                ],
            ),
            object("filter_enabled", FRACTION),
            object("filter_enforced", FRACTION),
            list("request_headers_to_add_when_not_enforced", HEADERS),
            list("response_headers_to_add", HEADERS),
            reported("descriptors", NO_DESCRIPTORS),
            reported("max_dynamic_descriptors", NO_DESCRIPTORS),
            reported("stage", NO_DESCRIPTORS),
            reported("vh_rate_limits", NO_DESCRIPTORS),
            reported("rate_limits", NO_DESCRIPTORS),
            reported(
                "always_consume_default_token_bucket",
                "without descriptors the bucket holds for all requests; where it is false beside some, the limit is left out",
            ),
            honoured("local_rate_limit_per_downstream_connection"),
            reported(
                "local_cluster_rate_limit",
                "each workload has its bucket for itself, however many there are",
            ),
            honoured("enable_x_ratelimit_headers"),
            honoured("rate_limited_as_resource_exhausted"),
        ]
    };
}

/// As its type, and as what a TypedStruct holds.
const TYPED_CONFIG: &[Field] = local_rate_limit!(
    honoured("@type"),
    honoured("type_url"),
    object("value", local_rate_limit!())
);

const ROUTES: &str = "where requests go and what is changed about them is written as routes";

/// Of a filter (`name`, `typed_config`), or of a route.
const PATCHED: &[Field] = &[
    honoured("name"),
    object("typed_config", TYPED_CONFIG),
    reported(
        "config_discovery",
        "what a limit says stands in typed_config",
    ),
    inert("is_optional"),
    reported("disabled", "the patch is left out where it says true"),
    map("typed_per_filter_config", TYPED_CONFIG),
    reported("match", ROUTES),
    reported("route", ROUTES),
    reported("redirect", ROUTES),
    reported("direct_response", ROUTES),
    reported("metadata", ROUTES),
    reported("decorator", ROUTES),
    reported("request_headers_to_add", ROUTES),
    reported("request_headers_to_remove", ROUTES),
    reported("response_headers_to_add", ROUTES),
    reported("response_headers_to_remove", ROUTES),
    reported("tracing", ROUTES),
];

const FILTER_CHAIN: &[Field] = &[
    reported("name", LEFT_OUT),
    reported("sni", LEFT_OUT),
    reported("transportProtocol", LEFT_OUT),
    reported("applicationProtocols", LEFT_OUT),
    reported("destinationPort", LEFT_OUT),
    object(
        "filter",
        &[
            reported_but(
                &["envoy.filters.network.http_connection_manager"],
                "name",
                LEFT_OUT,
            ),
            object(
                "subFilter",
                &[reported_but(
                    &["envoy.filters.http.router"],
                    "name",
                    LEFT_OUT,
                )],
            ),
        ],
    ),
];

/// Conditions of a patch. One that is reported is not met by anything.
pub(super) const MATCH: &[Field] = &[
    reported_but(&["SIDECAR_INBOUND", "ANY"], "context", LEFT_OUT),
    reported("proxy", LEFT_OUT),
    object(
        "listener",
        &[
            honoured("portNumber"),
            reported("portName", LEFT_OUT),
            reported_but(&["virtualInbound"], "name", LEFT_OUT),
            reported("listenerFilter", LEFT_OUT),
            object("filterChain", FILTER_CHAIN),
        ],
    ),
    object(
        "routeConfiguration",
        &[
            reported("portNumber", LEFT_OUT),
            reported("portName", LEFT_OUT),
            reported("gateway", LEFT_OUT),
            reported("name", LEFT_OUT),
            object(
                "vhost",
                &[
                    honoured("name"),
                    reported("domainName", LEFT_OUT),
                    object(
                        "route",
                        &[
                            reported_but(&["default"], "name", LEFT_OUT),
                            reported_but(&["ANY", "ROUTE"], "action", LEFT_OUT),
                        ],
                    ),
                ],
            ),
        ],
    ),
    reported("cluster", LEFT_OUT),
    reported("waypoint", LEFT_OUT),
];

/// Whether a patch is about limits; all others are reported as a whole.
pub(super) fn is_limit(patch: &Value) -> bool {
    let text = |pointer: &str| patch.pointer(pointer).and_then(Value::as_str);
    let value = patch.pointer("/patch/value");
    let child = |key, in_json| value.and_then(|v| v.get(key).or_else(|| v.get(in_json)));
    match text("/applyTo") {
        Some("HTTP_FILTER") => {
            let typed = child("typed_config", "typedConfig");
            let types = ["@type", "type_url", "typeUrl"];
            let mut types = types.iter().filter_map(|key| typed?.get(key)?.as_str());
            text("/patch/value/name") == Some(FILTER) || types.any(|t| t.ends_with(super::TYPE))
        }
        Some("HTTP_ROUTE") => {
            let per_filter = child("typed_per_filter_config", "typedPerFilterConfig");
            per_filter.is_some_and(|p| p.get(FILTER).is_some())
        }
        _ => false,
    }
}

/// EnvoyFilter's `spec`.
pub(crate) const ENVOY_FILTER: &[Field] = &[
    object("workloadSelector", &[honoured("labels")]),
    reported(
        "targetRefs",
        "the object is left out: there are no waypoints, and gateways pass on what they cannot read",
    ),
    reported("priority", ALL_HOLD),
    list_of(
        "configPatches",
        is_limit,
        &[
            honoured("applyTo"),
            object("match", MATCH),
            object(
                "patch",
                &[
                    honoured("operation"),
                    reported(
                        "filterClass",
                        "limits are asked behind the caller's authentication, and before the application",
                    ),
                    object("value", PATCHED),
                ],
            ),
        ],
    ),
];
