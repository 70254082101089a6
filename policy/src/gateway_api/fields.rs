//! What becomes of each field of the Gateway API's routes (v1, with the experimental channel's fields).

use crate::fields::{Field, honoured, list, object, reported};

const PARENT: &[Field] = &[
    honoured("group"),
    honoured("kind"),
    honoured("namespace"),
    honoured("name"),
    honoured("port"),
    honoured("sectionName"),
];

const VALUE_MATCH: &[Field] = &[honoured("type"), honoured("name"), honoured("value")];

const HEADER: &[Field] = &[honoured("name"), honoured("value")];

const HEADERS: &[Field] = &[list("set", HEADER), list("add", HEADER), honoured("remove")];

/// What a copy goes to, and how many.
const MIRROR: &[Field] = &[
    object(
        "backendRef",
        &[
            honoured("group"),
            honoured("kind"),
            honoured("namespace"),
            honoured("name"),
            honoured("port"),
        ],
    ),
    honoured("percent"),
    object(
        "fraction",
        &[honoured("numerator"), honoured("denominator")],
    ),
];

const PATH_MODIFIER: &[Field] = &[
    honoured("type"),
    honoured("replaceFullPath"),
    honoured("replacePrefixMatch"),
];

const NO_EXTENSION: &str =
    "there are no extensions, and requests of the rule are answered with 500";

const HTTP_FILTERS: &[Field] = &[
    honoured("type"),
    object("requestHeaderModifier", HEADERS),
    object("responseHeaderModifier", HEADERS),
    object(
        "requestRedirect",
        &[
            honoured("scheme"),
            honoured("hostname"),
            object("path", PATH_MODIFIER),
            honoured("port"),
            honoured("statusCode"),
        ],
    ),
    object(
        "urlRewrite",
        &[honoured("hostname"), object("path", PATH_MODIFIER)],
    ),
    object("requestMirror", MIRROR),
    object(
        "cors",
        &[
            honoured("allowOrigins"),
            honoured("allowCredentials"),
            honoured("allowMethods"),
            honoured("allowHeaders"),
            honoured("exposeHeaders"),
            honoured("maxAge"),
        ],
    ),
    reported("extensionRef", NO_EXTENSION),
    reported(
        "externalAuth",
        "nobody outside is asked, and requests of the rule are answered with 500",
    ),
];

/// A backend takes changes of header fields alone: what else a filter does is decided before a backend is chosen.
const BACKEND_FILTERS: &[Field] = &[
    honoured("type"),
    object("requestHeaderModifier", HEADERS),
    object("responseHeaderModifier", HEADERS),
    reported("requestRedirect", OF_THE_RULE),
    reported("urlRewrite", OF_THE_RULE),
    reported("requestMirror", OF_THE_RULE),
    reported("cors", OF_THE_RULE),
    reported("extensionRef", OF_THE_RULE),
    reported("externalAuth", OF_THE_RULE),
];

const OF_THE_RULE: &str =
    "this filter works on a rule, and the backend's share is answered with 500";

const GRPC_FILTERS: &[Field] = &[
    honoured("type"),
    object("requestHeaderModifier", HEADERS),
    object("responseHeaderModifier", HEADERS),
    object("requestMirror", MIRROR),
    reported("extensionRef", NO_EXTENSION),
];

const GRPC_BACKEND_FILTERS: &[Field] = &[
    honoured("type"),
    object("requestHeaderModifier", HEADERS),
    object("responseHeaderModifier", HEADERS),
    reported("requestMirror", OF_THE_RULE),
    reported("extensionRef", OF_THE_RULE),
];

const HTTP_BACKEND: &[Field] = &backend(BACKEND_FILTERS);

const GRPC_BACKEND: &[Field] = &backend(GRPC_BACKEND_FILTERS);

const fn backend(filters: &'static [Field]) -> [Field; 7] {
    [
        honoured("group"),
        honoured("kind"),
        honoured("namespace"),
        honoured("name"),
        honoured("port"),
        honoured("weight"),
        list("filters", filters),
    ]
}

/// As releases up to 1.6 have it, and what follows them.
const PERSISTENCE: Field = object(
    "sessionPersistence",
    &[
        honoured("sessionName"),
        honoured("absoluteTimeout"),
        honoured("idleTimeout"),
        honoured("type"),
        object("cookieConfig", &[honoured("lifetimeType")]),
        object(
            "cookie",
            &[honoured("name"), honoured("path"), honoured("lifetimeType")],
        ),
        object("header", &[honoured("name")]),
    ],
);

const HOSTNAMES: Field = reported(
    "hostnames",
    "a route of a mesh holds for its parent, whatever host was asked for (GEP-1294)",
);

const DEFAULT_GATEWAYS: Field = reported("useDefaultGateways", "there are no default gateways");

/// HTTPRoute's `spec`.
pub(crate) const HTTP_ROUTE: &[Field] = &[
    list("parentRefs", PARENT),
    HOSTNAMES,
    DEFAULT_GATEWAYS,
    list(
        "rules",
        &[
            honoured("name"),
            list(
                "matches",
                &[
                    object("path", &[honoured("type"), honoured("value")]),
                    list("headers", VALUE_MATCH),
                    list("queryParams", VALUE_MATCH),
                    honoured("method"),
                ],
            ),
            list("filters", HTTP_FILTERS),
            list("backendRefs", HTTP_BACKEND),
            object(
                "timeouts",
                &[honoured("request"), honoured("backendRequest")],
            ),
            object(
                "retry",
                &[honoured("codes"), honoured("attempts"), honoured("backoff")],
            ),
            PERSISTENCE,
        ],
    ),
];

/// GRPCRoute's `spec`.
pub(crate) const GRPC_ROUTE: &[Field] = &[
    list("parentRefs", PARENT),
    HOSTNAMES,
    DEFAULT_GATEWAYS,
    list(
        "rules",
        &[
            honoured("name"),
            list(
                "matches",
                &[
                    object(
                        "method",
                        &[honoured("type"), honoured("service"), honoured("method")],
                    ),
                    list("headers", VALUE_MATCH),
                ],
            ),
            list("filters", GRPC_FILTERS),
            list("backendRefs", GRPC_BACKEND),
            PERSISTENCE,
        ],
    ),
];

const STREAM_RULES: Field = list(
    "rules",
    &[
        honoured("name"),
        list(
            "backendRefs",
            &[
                honoured("group"),
                honoured("kind"),
                honoured("namespace"),
                honoured("name"),
                honoured("port"),
                honoured("weight"),
            ],
        ),
    ],
);

/// TCPRoute's `spec`.
pub(crate) const TCP_ROUTE: &[Field] =
    &[list("parentRefs", PARENT), DEFAULT_GATEWAYS, STREAM_RULES];

/// TLSRoute's `spec`. Its host names are what the client asks for, not what the parent is called.
pub(crate) const TLS_ROUTE: &[Field] = &[
    list("parentRefs", PARENT),
    honoured("hostnames"),
    DEFAULT_GATEWAYS,
    STREAM_RULES,
];

/// ReferenceGrant's `spec`.
pub(crate) const REFERENCE_GRANT: &[Field] = &[
    list(
        "from",
        &[honoured("group"), honoured("kind"), honoured("namespace")],
    ),
    list(
        "to",
        &[honoured("group"), honoured("kind"), honoured("name")],
    ),
];
