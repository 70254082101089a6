//! Objects that have, together, every field that is acted on.

use crate::kinds::Known;

/// Documents for a kind. Each is compiled by itself; whatever else it needs stands behind it.
pub(super) fn of(kind: Known) -> Vec<String> {
    let texts: &[&str] = match kind {
        Known::HttpRoute => &[
            HTTP_ROUTE,
            HTTP_ROUTE_REDIRECT,
            HTTP_ROUTE_CONSUMER,
            HTTP_ROUTE_SESSIONS,
        ],
        Known::GrpcRoute => {
            let sessions = HTTP_ROUTE_SESSIONS.replace("HTTPRoute", "GRPCRoute");
            return [GRPC_ROUTE.into(), GRPC_ROUTE_CONSUMER.into(), sessions].into();
        }
        Known::TcpRoute => &[TCP_ROUTE, TCP_ROUTE_CONSUMER],
        Known::TlsRoute => {
            let as_tls = |text: &str| {
                let hostnames = "spec:\n  hostnames: ['*.example.com', a.example.com]";
                let text = text.replace("TCPRoute", "TLSRoute");
                text.replacen("spec:", hostnames, 1)
            };
            return [TCP_ROUTE, TCP_ROUTE_CONSUMER].map(as_tls).into();
        }
        Known::ReferenceGrant => &[REFERENCE_GRANT],
        Known::VirtualService => &[
            VIRTUAL_SERVICE,
            VIRTUAL_SERVICE_EDGE,
            VIRTUAL_SERVICE_OLD,
            VIRTUAL_SERVICE_STREAMS,
            VIRTUAL_SERVICE_ROOT,
        ],
        Known::DestinationRule => {
            let exported = [DESTINATION_RULE_EXPORTED.to_owned()];
            return SECTIONS
                .map(destination_rule)
                .into_iter()
                .chain(exported)
                .collect();
        }
        Known::EnvoyFilter => return envoy_filters().into(),
        Known::TrafficSplit => &[TRAFFIC_SPLIT],
        Known::HttpRouteGroup => &[HTTP_ROUTE_GROUP],
    };
    texts.iter().map(|&t| t.to_owned()).collect()
}

/// Limits as their own type and in a TypedStruct, of filters and of routes.
fn envoy_filters() -> [String; 4] {
    let headers = "[{header: {key: a, value: b}, append: false}, {header: {key: c, value: d}, append_action: ADD_IF_ABSENT}, {header: {key: e, value: ''}, keep_empty_value: true}]";
    let limit =
        "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
    let config = format!(
        "stat_prefix: limit, status: {{code: 503}}, token_bucket: {{max_tokens: 10, tokens_per_fill: 5, fill_interval: 1s}}, \
        filter_enabled: {{runtime_key: a, default_value: {{numerator: 50, denominator: TEN_THOUSAND}}}}, \
        filter_enforced: {{runtime_key: b, default_value: {{numerator: 7, denominator: MILLION}}}}, \
        request_headers_to_add_when_not_enforced: {headers}, response_headers_to_add: {headers}, \
        local_rate_limit_per_downstream_connection: true, enable_x_ratelimit_headers: DRAFT_VERSION_03, \
        rate_limited_as_resource_exhausted: true"
    );
    let direct = format!("{{'@type': {limit}, {config}}}");
    let typed = format!(
        "{{'@type': type.googleapis.com/udpa.type.v1.TypedStruct, type_url: {limit}, value: {{{config}}}}}"
    );
    let name = "envoy.filters.http.local_ratelimit";
    let filter = |config: &str| {
        format!(
            "{{applyTo: HTTP_FILTER, match: {{context: SIDECAR_INBOUND, listener: {{portNumber: 80}}}}, \
            patch: {{operation: INSERT_BEFORE, value: {{name: {name}, typed_config: {config}}}}}}}"
        )
    };
    let route = |config: &str| {
        format!(
            "{{applyTo: HTTP_ROUTE, match: {{context: SIDECAR_INBOUND, routeConfiguration: {{vhost: {{name: 'inbound|http|80'}}}}}}, \
            patch: {{operation: MERGE, value: {{typed_per_filter_config: {{{name}: {config}}}}}}}}}"
        )
    };
    [
        filter(&direct),
        filter(&typed),
        route(&direct),
        route(&typed),
    ]
    .map(|patch| {
        format!(
            "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: cart, namespace: shop}}
spec:
  workloadSelector: {{labels: {{app: cart}}}}
  configPatches: [{patch}]
"
        )
    })
}

/// A rule that has these sections itself, for a port, in a subset and for a port of the subset.
fn destination_rule(sections: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: two, namespace: shop}}
spec:
  host: two
  workloadSelector: {{matchLabels: {{app: web}}}}
  trafficPolicy: &policy
    {sections}
    retryBudget: {{percent: 12.5, minRetryConcurrency: 9}}
    portLevelSettings:
    - port: {{number: 80}}
      {sections}
  subsets:
  - name: blue
    labels: {{version: v1}}
    trafficPolicy: *policy
  - name: green
    labels: {{version: v2}}
"
    )
}

const DESTINATION_RULE_EXPORTED: &str = r"
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: '*.shop.svc.cluster.local'
  exportTo: [front]
";

/// What may stand in one rule together.
const SECTIONS: [&str; 10] = [
    "connectionPool: {tcp: {maxConnections: 5, connectTimeout: 3s}, http: {http1MaxPendingRequests: 6, http2MaxRequests: 7, maxRequestsPerConnection: 8, maxRetries: 9}}",
    "outlierDetection: {consecutive5xxErrors: 7, consecutiveGatewayErrors: 3, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 4, interval: 1s, baseEjectionTime: 1m, maxEjectionPercent: 50, minHealthPercent: 20, outlierDetectionHttpErrorCodes: [429, 503]}",
    "outlierDetection: {consecutiveErrors: 9}",
    "loadBalancer: {simple: RANDOM, localityLbSetting: {failover: [{from: eu, to: us}]}}",
    "loadBalancer: {consistentHash: {httpHeaderName: x-user, ringHash: {minimumRingSize: 99}}}",
    "loadBalancer: {consistentHash: {httpCookie: {name: user, path: /, ttl: 60s, attributes: [{name: SameSite, value: Lax}]}, maglev: {tableSize: 251}}}",
    "loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 99}}",
    "loadBalancer: {consistentHash: {httpQueryParameterName: q}, localityLbSetting: {enabled: false}}",
    "loadBalancer: {warmup: {duration: 30s, minimumPercent: 5, aggression: 2}, localityLbSetting: {distribute: [{from: eu/a/*, to: {eu/a: 80, us/*: 20}}]}}",
    "loadBalancer: {warmupDurationSecs: 30s, localityLbSetting: {failoverPriority: [version]}}",
];

const VIRTUAL_SERVICE_ROOT: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root, namespace: shop}
spec:
  hosts: [cart]
  http:
  - delegate: {name: leaf, namespace: front}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: leaf, namespace: front}
spec:
  http:
  - route: [{destination: {host: v1}}]
";

const HTTP_ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs:
  - {group: '', kind: Service, name: cart, port: 80}
  - {group: '', kind: Service, name: two, sectionName: admin}
  rules:
  - name: all of it
    matches:
    - path: {type: Exact, value: /a}
      method: GET
      headers:
      - {type: RegularExpression, name: X-User, value: a.*}
      queryParams:
      - {type: RegularExpression, name: q, value: b.*}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: a, value: '1'}]
        add: [{name: b, value: '2'}]
        remove: [c]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: a, value: '1'}]
        add: [{name: b, value: '2'}]
        remove: [c]
    - type: URLRewrite
      urlRewrite:
        hostname: other.example
        path: {type: ReplaceFullPath, replaceFullPath: /b}
    - type: RequestMirror
      requestMirror:
        backendRef: {group: multicluster.x-k8s.io, kind: ServiceImport, namespace: shop, name: two, port: 81}
        percent: 10
    - type: RequestMirror
      requestMirror:
        backendRef: {name: v2, port: 80}
        fraction: {numerator: 1, denominator: 1000}
    - type: CORS
      cors:
        allowOrigins: ['https://*.example.com']
        allowCredentials: true
        allowMethods: [GET]
        allowHeaders: [x]
        exposeHeaders: [z]
        maxAge: 60
    backendRefs:
    - group: multicluster.x-k8s.io
      kind: ServiceImport
      namespace: shop
      name: v1
      port: 80
      weight: 9
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier:
          set: [{name: a, value: '1'}]
          add: [{name: b, value: '2'}]
          remove: [c]
      - type: ResponseHeaderModifier
        responseHeaderModifier:
          set: [{name: a, value: '1'}]
          add: [{name: b, value: '2'}]
          remove: [c]
    - {name: two, port: 81, weight: 2}
    timeouts: {request: 10s, backendRequest: 2s}
    retry: {attempts: 3, codes: [503], backoff: 100ms}
";

const HTTP_ROUTE_REDIRECT: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs:
  - {group: '', kind: Service, name: cart}
  rules:
  - matches:
    - path: {type: PathPrefix, value: /a}
    filters:
    - type: RequestRedirect
      requestRedirect:
        scheme: https
        hostname: other.example
        port: 8443
        statusCode: 301
        path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}
  - matches:
    - path: {type: PathPrefix, value: /b}
    filters:
    - type: RequestRedirect
      requestRedirect:
        path: {type: ReplaceFullPath, replaceFullPath: /c}
  - matches:
    - path: {type: PathPrefix, value: /c}
    filters:
    - type: URLRewrite
      urlRewrite:
        path: {type: ReplacePrefixMatch, replacePrefixMatch: /d}
    backendRefs:
    - {name: v1, port: 80}
";

const HTTP_ROUTE_SESSIONS: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs:
  - {group: '', kind: Service, name: cart}
  rules:
  - matches: [{headers: [{name: a, value: '1'}]}]
    backendRefs: [{name: v1, port: 80}]
    sessionPersistence:
      sessionName: cart
      absoluteTimeout: 1h
      idleTimeout: 10m
      cookieConfig: {lifetimeType: Permanent}
  - matches: [{headers: [{name: a, value: '2'}]}]
    backendRefs: [{name: v1, port: 80}]
    sessionPersistence:
      type: Cookie
      absoluteTimeout: 1h
      cookie: {name: cart, path: /shop, lifetimeType: Permanent}
  - matches: [{headers: [{name: a, value: '3'}]}]
    backendRefs: [{name: v1, port: 80}]
    sessionPersistence:
      type: Header
      header: {name: X-Cart}
";

const HTTP_ROUTE_CONSUMER: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: front}
spec:
  parentRefs:
  - {group: '', kind: Service, namespace: shop, name: cart}
  rules:
  - filters:
    - type: RequestMirror
      requestMirror:
        backendRef: {namespace: far, name: v1, port: 80}
    backendRefs:
    - {namespace: far, name: v1, port: 80}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: all, namespace: far}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: front}
  to:
  - {group: '', kind: Service}
";

const GRPC_ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs:
  - {group: '', kind: Service, name: cart, port: 80}
  - {group: '', kind: Service, name: two, sectionName: admin}
  rules:
  - name: all of it
    matches:
    - method: {type: RegularExpression, service: a.*, method: b.*}
      headers:
      - {type: RegularExpression, name: x-user, value: a.*}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: a, value: '1'}]
        add: [{name: b, value: '2'}]
        remove: [c]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: a, value: '1'}]
        add: [{name: b, value: '2'}]
        remove: [c]
    - type: RequestMirror
      requestMirror:
        backendRef: {group: multicluster.x-k8s.io, kind: ServiceImport, namespace: shop, name: two, port: 81}
        percent: 10
    - type: RequestMirror
      requestMirror:
        backendRef: {name: v2, port: 80}
        fraction: {numerator: 1, denominator: 1000}
    backendRefs:
    - group: multicluster.x-k8s.io
      kind: ServiceImport
      namespace: shop
      name: v1
      port: 80
      weight: 9
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier:
          set: [{name: a, value: '1'}]
          add: [{name: b, value: '2'}]
          remove: [c]
      - type: ResponseHeaderModifier
        responseHeaderModifier:
          set: [{name: a, value: '1'}]
          add: [{name: b, value: '2'}]
          remove: [c]
    - {name: two, port: 81, weight: 2}
";

const GRPC_ROUTE_CONSUMER: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: cart, namespace: front}
spec:
  parentRefs:
  - {group: '', kind: Service, namespace: shop, name: cart}
  rules:
  - filters:
    - type: RequestMirror
      requestMirror:
        backendRef: {namespace: far, name: v1, port: 80}
    backendRefs:
    - {namespace: far, name: v1, port: 80}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: all, namespace: far}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: front}
  to:
  - {group: '', kind: Service, name: v1}
";

const TCP_ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs:
  - {group: '', kind: Service, name: cart, port: 80}
  - {group: '', kind: Service, name: two, sectionName: admin}
  rules:
  - name: all of it
    backendRefs:
    - {group: multicluster.x-k8s.io, kind: ServiceImport, namespace: shop, name: v1, port: 80, weight: 9}
    - {name: two, port: 81, weight: 2}
";

const TCP_ROUTE_CONSUMER: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: cart, namespace: front}
spec:
  parentRefs:
  - {group: '', kind: Service, namespace: shop, name: cart}
  rules:
  - backendRefs:
    - {namespace: far, name: v1, port: 80}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: all, namespace: far}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: TCPRoute, namespace: front}
  to:
  - {group: '', kind: Service}
";

const REFERENCE_GRANT: &str = r"
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: all, namespace: far}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: front}
  to:
  - {group: multicluster.x-k8s.io, kind: ServiceImport, name: v1}
  - {group: '', kind: Service, name: other}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: front}
spec:
  parentRefs:
  - {group: '', kind: Service, namespace: shop, name: cart}
  rules:
  - backendRefs:
    - {group: multicluster.x-k8s.io, kind: ServiceImport, namespace: far, name: v1, port: 80}
  - matches: [{method: PUT}]
    backendRefs:
    - {group: multicluster.x-k8s.io, kind: ServiceImport, namespace: far, name: v2, port: 80}
";

const VIRTUAL_SERVICE: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  exportTo: [front]
  http:
  - name: all of it
    match:
    - uri: {prefix: /a}
      ignoreUriCase: true
      scheme: {exact: http}
      method: {exact: GET}
      authority: {exact: cart}
      headers: {x-a: {exact: '1'}, x-b: {prefix: '2'}, x-c: {regex: '3+'}}
      withoutHeaders: {y-a: {exact: '1'}, y-b: {prefix: '2'}, y-c: {regex: '3+'}}
      queryParams: {q: {exact: '1'}, r: {prefix: '2'}, s: {regex: '3+'}}
      port: 80
      sourceLabels: {app: web}
      sourceNamespace: front
    - uri: {exact: /b}
      scheme: {prefix: h}
      method: {prefix: P}
      authority: {prefix: c}
    - uri: {regex: '/c.*'}
      scheme: {regex: 'h.*'}
      method: {regex: 'P.*'}
      authority: {regex: 'c.*'}
    - uri: {exact: /d}
      gateways: [edge]
    route:
    - destination: {host: two, subset: blue, port: {number: 81}}
      weight: 9
      headers:
        request: {set: {a: '1'}, add: {b: '2'}, remove: [c]}
        response: {set: {a: '1'}, add: {b: '2'}, remove: [c]}
    - destination: {host: v2.shop.svc.cluster.local}
      weight: 2
    headers:
      request: {set: {a: '1'}, add: {b: '2'}, remove: [c]}
      response: {set: {a: '1'}, add: {b: '2'}, remove: [c]}
    rewrite: {uri: /z, authority: other.example}
    timeout: 10s
    retries:
      attempts: 3
      perTryTimeout: 2s
      retryOn: 5xx,503
      retryRemoteLocalities: true
      retryIgnorePreviousHosts: false
      backoff: 100ms
    fault:
      delay: {fixedDelay: 5s, percentage: {value: 0.1}}
      abort: {httpStatus: 503, percentage: {value: 0.2}}
    mirror: {host: two, subset: blue, port: {number: 81}}
    mirrorPercentage: {value: 10}
    mirrors:
    - destination: {host: two, subset: green, port: {number: 81}}
      percentage: {value: 1}
    corsPolicy:
      allowOrigins: [{exact: 'https://a'}, {prefix: 'https://b'}, {regex: 'https://c.*'}]
      allowMethods: [GET]
      allowHeaders: [x]
      exposeHeaders: [z]
      maxAge: 60s
      allowCredentials: true
      unmatchedPreflights: IGNORE
  - match: [{uri: {exact: /r1}}]
    redirect: {uri: /x, authority: other.example, port: 8443, scheme: https, redirectCode: 302}
  - match: [{uri: {prefix: /r2}}]
    redirect: {prefixRewrite: /y, derivePort: FROM_REQUEST_PORT}
  - match: [{uri: {exact: /r3}}]
    directResponse: {status: 503, body: {string: closed}}
  - match: [{uri: {exact: /r5}}]
    directResponse: {status: 200, body: {bytes: b3Blbg==}}
  - match: [{uri: {prefix: /r4}}]
    rewrite: {uriRegexRewrite: {match: '^/(.*)', rewrite: '/new/\1'}}
    fault:
      abort: {grpcStatus: UNAVAILABLE}
    route:
    - destination: {host: v1}
";

const VIRTUAL_SERVICE_EDGE: &str = r"
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  gateways: [edge]
  http:
  - route:
    - destination: {host: v1}
";

const VIRTUAL_SERVICE_OLD: &str = r"
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http:
  - fault:
      delay: {fixedDelay: 5s, percent: 10}
    mirror: {host: v2}
    mirrorPercent: 5
    corsPolicy: {allowOrigin: ['*']}
    route:
    - destination: {host: v1}
";

const VIRTUAL_SERVICE_STREAMS: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http:
  - route:
    - destination: {host: v1}
  tls:
  - match:
    - {sniHosts: [a.example.com, '*.example.org'], port: 80, sourceLabels: {app: web}, sourceNamespace: front}
    - {sniHosts: ['*'], gateways: [edge]}
    route:
    - {destination: {host: two, subset: blue, port: {number: 81}}, weight: 9}
    - {destination: {host: v2}, weight: 2}
  tcp:
  - match:
    - {port: 80, sourceLabels: {app: web}, sourceNamespace: front}
    - {gateways: [edge]}
    route:
    - {destination: {host: two, subset: blue, port: {number: 81}}, weight: 9}
    - {destination: {host: v2}, weight: 2}
";

const TRAFFIC_SPLIT: &str = r"
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: cart, namespace: shop}
spec:
  service: cart.shop.svc.cluster.local
  matches:
  - {kind: HTTPRouteGroup, apiGroup: specs.smi-spec.io, name: canary}
  backends:
  - {service: v1, weight: 90}
  - {service: v2, weight: 10}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: canary, namespace: shop}
spec:
  matches:
  - name: firefox
    headers: {user-agent: '.*Firefox.*'}
";

const HTTP_ROUTE_GROUP: &str = r"
apiVersion: specs.smi-spec.io/v1alpha3
kind: HTTPRouteGroup
metadata: {name: canary, namespace: shop}
spec:
  matches:
  - name: firefox
    pathRegex: /a.*
    methods: [GET, HEAD]
    headers: {user-agent: '.*Firefox.*'}
---
apiVersion: split.smi-spec.io/v1alpha3
kind: TrafficSplit
metadata: {name: cart, namespace: shop}
spec:
  service: cart
  matches:
  - {kind: HTTPRouteGroup, name: canary}
  backends:
  - {service: v1, weight: 90}
  - {service: v2, weight: 10}
";
