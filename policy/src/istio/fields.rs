//! What becomes of each field of VirtualService (v1, v1beta1 and v1alpha3 are one schema).

use crate::fields::{Field, honoured, inert, list, map, object, reported};

const TEXT: &[Field] = &[honoured("exact"), honoured("prefix"), honoured("regex")];

const DESTINATION: &[Field] = &[
    honoured("host"),
    honoured("subset"),
    object("port", &[honoured("number")]),
];

const PERCENT: &[Field] = &[honoured("value")];

const OPERATIONS: &[Field] = &[honoured("set"), honoured("add"), honoured("remove")];

const HEADERS: &[Field] = &[
    object("request", OPERATIONS),
    object("response", OPERATIONS),
];

const MATCH: &[Field] = &[
    inert("name"),
    object("uri", TEXT),
    object("scheme", TEXT),
    object("method", TEXT),
    object("authority", TEXT),
    map("headers", TEXT),
    map("withoutHeaders", TEXT),
    map("queryParams", TEXT),
    honoured("port"),
    honoured("sourceLabels"),
    honoured("sourceNamespace"),
    honoured("gateways"),
    honoured("ignoreUriCase"),
    inert("statPrefix"),
];

const NO_SUBNETS: &str =
    "streams are told apart by the service that they are for, and none meets the match";

const NO_SOURCES: &str =
    "a caller's own proxy sees no other address than its own, and no stream meets the match";

const STREAM_ROUTE: Field = list(
    "route",
    &[object("destination", DESTINATION), honoured("weight")],
);

const TLS: &[Field] = &[
    list(
        "match",
        &[
            honoured("sniHosts"),
            reported("destinationSubnets", NO_SUBNETS),
            honoured("port"),
            honoured("sourceLabels"),
            honoured("gateways"),
            honoured("sourceNamespace"),
        ],
    ),
    STREAM_ROUTE,
];

const TCP: &[Field] = &[
    list(
        "match",
        &[
            reported("destinationSubnets", NO_SUBNETS),
            honoured("port"),
            reported("sourceSubnet", NO_SOURCES),
            honoured("sourceLabels"),
            honoured("gateways"),
            honoured("sourceNamespace"),
        ],
    ),
    STREAM_ROUTE,
];

const ROUTE: &[Field] = &[
    honoured("name"),
    list("match", MATCH),
    list(
        "route",
        &[
            object("destination", DESTINATION),
            honoured("weight"),
            object("headers", HEADERS),
        ],
    ),
    object(
        "redirect",
        &[
            honoured("uri"),
            honoured("authority"),
            honoured("port"),
            honoured("derivePort"),
            honoured("scheme"),
            honoured("redirectCode"),
            honoured("prefixRewrite"),
        ],
    ),
    object(
        "directResponse",
        &[
            honoured("status"),
            object("body", &[honoured("string"), honoured("bytes")]),
        ],
    ),
    object("delegate", &[honoured("name"), honoured("namespace")]),
    object(
        "rewrite",
        &[
            honoured("uri"),
            honoured("authority"),
            object("uriRegexRewrite", &[honoured("match"), honoured("rewrite")]),
        ],
    ),
    honoured("timeout"),
    object(
        "retries",
        &[
            honoured("attempts"),
            honoured("perTryTimeout"),
            honoured("retryOn"),
            honoured("retryRemoteLocalities"),
            honoured("retryIgnorePreviousHosts"),
            honoured("backoff"),
        ],
    ),
    object(
        "fault",
        &[
            object(
                "delay",
                &[
                    honoured("percent"),
                    honoured("fixedDelay"),
                    reported("exponentialDelay", "nothing is delayed"),
                    object("percentage", PERCENT),
                ],
            ),
            object(
                "abort",
                &[
                    honoured("httpStatus"),
                    honoured("grpcStatus"),
                    reported("http2Error", "nothing is aborted"),
                    object("percentage", PERCENT),
                ],
            ),
        ],
    ),
    object("mirror", DESTINATION),
    honoured("mirrorPercent"),
    object("mirrorPercentage", PERCENT),
    reported("mirror_percent", "its name is mirrorPercentage"),
    list(
        "mirrors",
        &[
            object("destination", DESTINATION),
            object("percentage", PERCENT),
        ],
    ),
    object(
        "corsPolicy",
        &[
            honoured("allowOrigin"),
            list("allowOrigins", TEXT),
            honoured("allowMethods"),
            honoured("allowHeaders"),
            honoured("exposeHeaders"),
            honoured("maxAge"),
            honoured("allowCredentials"),
            honoured("unmatchedPreflights"),
        ],
    ),
    object("headers", HEADERS),
];

/// VirtualService's `spec`.
pub(crate) const VIRTUAL_SERVICE: &[Field] = &[
    honoured("hosts"),
    honoured("gateways"),
    list("http", ROUTE),
    list("tls", TLS),
    list("tcp", TCP),
    honoured("exportTo"),
];
