//! What people write as routes, and what is like it: never a panic, the same result twice, and rules that can be asked.
//!
//! The input is YAML as it stands, or, where it begins with `@`, changes to good objects: each line is a number, which says the
//! value that is replaced, and behind a blank what takes its place.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tradewind_api::{Namespace, ServiceName};
use tradewind_policy::{Object, World, compile};
use tradewind_transport::route::{Call, Caller, Compiled, Verdict};

const GOOD: [&str; 5] = [
    "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: cart, port: 80}], rules: [{name: r, matches: [{path: {type: PathPrefix, value: /a}, method: GET, headers: [{type: RegularExpression, name: x, value: a.*}], queryParams: [{type: Exact, name: q, value: v}]}], filters: [{type: URLRewrite, urlRewrite: {hostname: h, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}], backendRefs: [{name: cart, port: 80, weight: 9}, {name: v2, port: 80, weight: 1}], timeouts: {request: 10s, backendRequest: 1s}, retry: {attempts: 3, codes: [503], backoff: 10ms}}]}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a, namespace: shop}, spec: {hosts: [cart], exportTo: ['*'], http: [{match: [{uri: {prefix: /a}, ignoreUriCase: true, headers: {x: {regex: a.*}}, withoutHeaders: {y: {exact: b}}, sourceLabels: {app: web}, port: 80}], route: [{destination: {host: cart, subset: s, port: {number: 80}}, weight: 3}, {destination: {host: v2}, weight: 1}], rewrite: {uriRegexRewrite: {match: '^/(.*)', rewrite: '/\\1'}}, retries: {attempts: 2, perTryTimeout: 1s, retryOn: '5xx,503'}, fault: {abort: {httpStatus: 503, percentage: {value: 0.1}}, delay: {fixedDelay: 1s, percent: 5}}, corsPolicy: {allowOrigins: [{regex: a.*}], maxAge: 1m}}, {redirect: {uri: /x, redirectCode: 302}}]}}",
    "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: b, namespace: shop}, spec: {host: cart, exportTo: ['.'], workloadSelector: {matchLabels: {app: web}}, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: user, path: /, ttl: 60s, attributes: [{name: SameSite, value: Lax}]}, maglev: {tableSize: 251}}, localityLbSetting: {distribute: [{from: 'eu/*', to: {'eu/a': 80, us: 20}}]}}, outlierDetection: {consecutive5xxErrors: 7, interval: 5s, maxEjectionPercent: 50, outlierDetectionHttpErrorCodes: [503]}, retryBudget: {percent: 12.5}, portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 5, connectTimeout: 3s}, http: {http2MaxRequests: 7, maxRetries: 9}}}]}, subsets: [{name: s, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, aggression: 2}, localityLbSetting: {failoverPriority: ['version=v1', zone]}}}}]}}",
    "{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: a, namespace: shop}, spec: {service: cart, backends: [{service: cart, weight: 500m}, {service: v2, weight: 1}]}}",
    "{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: c, namespace: shop}, spec: {workloadSelector: {labels: {app: cart}}, configPatches: [{applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND, listener: {portNumber: 80, filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}, patch: {operation: INSERT_BEFORE, value: {name: envoy.filters.http.local_ratelimit, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, status: {code: 503}, token_bucket: {max_tokens: 10, tokens_per_fill: 5, fill_interval: 1s}, filter_enabled: {default_value: {numerator: 100}}, response_headers_to_add: [{append: false, header: {key: a, value: b}}]}}}}, {applyTo: HTTP_ROUTE, match: {routeConfiguration: {vhost: {name: 'inbound|http|80'}}}, patch: {operation: MERGE, value: {typed_per_filter_config: {envoy.filters.http.local_ratelimit: {'@type': type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, value: {token_bucket: {max_tokens: 1, fill_interval: 50ms}, filter_enforced: {default_value: {numerator: 5, denominator: MILLION}}}}}}}}]}}",
];

/// How many values there are, and whether the wanted one was replaced.
fn replace(value: &mut Value, wanted: usize, with: &Value, seen: &mut usize) {
    match value {
        Value::Object(map) => map.values_mut().for_each(|v| replace(v, wanted, with, seen)),
        Value::Array(list) => list.iter_mut().for_each(|v| replace(v, wanted, with, seen)),
        _ => {}
    }
    if *seen == wanted {
        *value = with.clone();
    }
    *seen += 1;
}

fn changed(lines: &str) -> Vec<Value> {
    let mut good: Vec<Value> = GOOD.iter().filter_map(|t| serde_saphyr::from_str(t).ok()).collect();
    assert_eq!(good.len(), GOOD.len());
    for line in lines.lines().take(8) {
        let (number, with) = line.split_once(' ').unwrap_or((line, ""));
        let (Ok(number), Ok(with)) = (number.parse::<usize>(), serde_saphyr::from_str::<Value>(with)) else {
            continue;
        };
        let which = number % good.len();
        replace(&mut good[which], number / GOOD.len() % 80, &with, &mut 0);
    }
    good
}

fuzz_target!(|text: &str| {
    let values = match text.strip_prefix('@') {
        Some(lines) => changed(lines),
        None => serde_saphyr::from_str::<Value>(text).into_iter().collect(),
    };
    let objects: Vec<Object> = values.into_iter().filter_map(|v| Object::new("f:1", v).ok()).collect();
    let names: Vec<ServiceName> = ["shop/cart", "shop/v2"].iter().filter_map(|n| n.parse().ok()).collect();
    let world = World::of(names.iter().map(|n| (n, &[80_u16][..])));
    let policy = compile(&objects, &world);
    assert_eq!(policy, compile(&objects, &world));
    let (Ok(namespace), labels, headers) = (Namespace::new("shop"), BTreeMap::new(), http::HeaderMap::new()) else {
        return;
    };
    // What a proxy reads of it is what was written, and no bucket is one that Envoy would refuse.
    for limits in policy.limits.values() {
        let wire = serde_json::to_vec(limits).ok();
        assert_eq!(wire.and_then(|w| serde_json::from_slice(&w).ok()).as_ref(), Some(limits));
        for bucket in limits.limits.iter().filter_map(|l| l.bucket) {
            assert!(bucket.max_tokens > 0 && bucket.tokens_per_fill > 0);
            assert!(bucket.fill_interval_ms >= tradewind_api::limit::MIN_FILL_INTERVAL_MS);
        }
    }
    for routes in policy.routes.values() {
        let Some(table) = routes.for_caller(&namespace) else { continue };
        let compiled = Compiled::new(table);
        let call = Call {
            port: 80,
            method: &http::Method::GET,
            scheme: "http",
            authority: "cart",
            path: "/a/b",
            query: Some("q=v"),
            headers: &headers,
            caller: Caller { namespace: &namespace, labels: &labels },
        };
        if let Verdict::Rule(rule) = compiled.decide(&call)
            && let Some(path) = &rule.path
        {
            assert!(path.edit(call.path).starts_with('/'));
        }
    }
});
