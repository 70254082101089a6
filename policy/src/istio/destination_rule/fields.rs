//! What becomes of each field of DestinationRule (v1, v1beta1 and v1alpha3 are one schema). Where nothing of a message is acted on, the
//! message is reported as a whole: an empty one asks for something too.

use crate::fields::{Field, honoured, list, object, reported, reported_but};

const NO_ZONES: &str = "callers go to the nearest: by zone, cluster, region and round trip";

const LOAD_BALANCER: &[Field] = &[
    honoured("simple"),
    object(
        "consistentHash",
        &[
            honoured("httpHeaderName"),
            object(
                "httpCookie",
                &[
                    honoured("name"),
                    honoured("path"),
                    honoured("ttl"),
                    list("attributes", &[honoured("name"), honoured("value")]),
                ],
            ),
            honoured("useSourceIp"),
            honoured("httpQueryParameterName"),
            object("ringHash", &[honoured("minimumRingSize")]),
            object("maglev", &[honoured("tableSize")]),
            honoured("minimumRingSize"),
        ],
    ),
    object(
        "localityLbSetting",
        &[
            list("distribute", &[honoured("from"), honoured("to")]),
            list("failover", &[honoured("from"), honoured("to")]),
            honoured("failoverPriority"),
            honoured("enabled"),
        ],
    ),
    reported("zoneAwareLbSetting", NO_ZONES),
    honoured("warmupDurationSecs"),
    object(
        "warmup",
        &[
            honoured("duration"),
            honoured("minimumPercent"),
            honoured("aggression"),
        ],
    ),
];

const PINGS: &str = "a session that is silent while calls wait is pinged";

const SESSIONS: &str = "sessions between proxies are kept while they are of use, and ended by neither age nor idleness that a rule sets";

const VERSIONS: &str = "calls travel as HTTP/2 between proxies, and reach the application in the version that they were made in";

const CONNECTION_POOL: &[Field] = &[
    object(
        "tcp",
        &[
            honoured("maxConnections"),
            honoured("connectTimeout"),
            reported("tcpKeepalive", PINGS),
            reported("maxConnectionDuration", SESSIONS),
            reported("idleTimeout", SESSIONS),
        ],
    ),
    object(
        "http",
        &[
            honoured("http1MaxPendingRequests"),
            honoured("http2MaxRequests"),
            honoured("maxRequestsPerConnection"),
            honoured("maxRetries"),
            reported("idleTimeout", SESSIONS),
            reported_but(&["DEFAULT"], "h2UpgradePolicy", VERSIONS),
            reported("useClientProtocol", VERSIONS),
            reported(
                "maxConcurrentStreams",
                "a session carries as many calls as its other end allows",
            ),
            reported("http2KeepAlive", PINGS),
        ],
    ),
];

const OUTLIER_DETECTION: &[Field] = &[
    honoured("consecutiveErrors"),
    honoured("splitExternalLocalOriginErrors"),
    honoured("consecutiveLocalOriginFailures"),
    honoured("consecutiveGatewayErrors"),
    honoured("consecutive5xxErrors"),
    honoured("interval"),
    honoured("baseEjectionTime"),
    honoured("maxEjectionPercent"),
    honoured("minHealthPercent"),
    honoured("outlierDetectionHttpErrorCodes"),
];

const MESH_TLS: &str =
    "calls inside the mesh always use the mesh's own mutual TLS, with its certificates and names";

const TLS: &[Field] = &[
    reported_but(
        &["ISTIO_MUTUAL"],
        "mode",
        "calls inside the mesh always use the mesh's own mutual TLS (ISTIO_MUTUAL says so, and is not reported)",
    ),
    reported("clientCertificate", MESH_TLS),
    reported("privateKey", MESH_TLS),
    reported("caCertificates", MESH_TLS),
    reported("credentialName", MESH_TLS),
    reported("subjectAltNames", MESH_TLS),
    reported("sni", MESH_TLS),
    reported("insecureSkipVerify", MESH_TLS),
    reported("caCrl", MESH_TLS),
];

const PORT_POLICY: &[Field] = &[
    object("port", &[honoured("number")]),
    object("loadBalancer", LOAD_BALANCER),
    object("connectionPool", CONNECTION_POOL),
    object("outlierDetection", OUTLIER_DETECTION),
    object("tls", TLS),
];

const TRAFFIC_POLICY: &[Field] = &[
    object("loadBalancer", LOAD_BALANCER),
    object("connectionPool", CONNECTION_POOL),
    object("outlierDetection", OUTLIER_DETECTION),
    object("tls", TLS),
    list("portLevelSettings", PORT_POLICY),
    reported("tunnel", "streams go to the service itself"),
    reported(
        "proxyProtocol",
        "applications are told nothing of the caller's address by this protocol",
    ),
    object(
        "retryBudget",
        &[
            honoured("percent"),
            honoured("minRetryConcurrency"),
            reported(
                "budgetInterval",
                "the share is one of the requests that are not answered yet",
            ),
        ],
    ),
];

/// DestinationRule's `spec`.
pub(crate) const DESTINATION_RULE: &[Field] = &[
    honoured("host"),
    object("trafficPolicy", TRAFFIC_POLICY),
    list(
        "subsets",
        &[
            honoured("name"),
            honoured("labels"),
            object("trafficPolicy", TRAFFIC_POLICY),
        ],
    ),
    honoured("exportTo"),
    object("workloadSelector", &[honoured("matchLabels")]),
];
