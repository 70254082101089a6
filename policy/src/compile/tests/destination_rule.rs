//! What single values of a DestinationRule come to.

mod told;

use tradewind_api::traffic::{
    Balance, Cookie, Failover, Hash, HashKey, HashTable, Locality, Outlier, Pool, RetryBudget,
    Settings, Warmup,
};

use super::*;

fn text(policy: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: cart, namespace: shop}}
spec:
  host: cart
  trafficPolicy: {policy}"
    )
}

/// What a `trafficPolicy` comes to, and what is said of it, by paths inside of it.
fn read_in(policy: &str, world: &World) -> (Settings, Vec<(Code, String)>) {
    let policy = compile(&objects(&text(policy)), world);
    let rule = &policy.routes[&"shop/cart".parse().unwrap()].traffic[0];
    let said = found(&policy).into_iter().map(|(code, path)| {
        let path = path
            .trim_start_matches("spec.trafficPolicy")
            .trim_start_matches('.');
        (code, path.to_owned())
    });
    (rule.settings.all.as_ref().clone(), said.collect())
}

fn read(policy: &str) -> (Settings, Vec<(Code, String)>) {
    read_in(policy, &world())
}

/// Its settings, where there is nothing to say of it.
fn good(policy: &str) -> Settings {
    let (settings, said) = read(policy);
    assert_eq!(said, [], "{policy}");
    settings
}

fn hash(by: HashKey, table: HashTable) -> Balance {
    Balance::Hash(Hash { by, table })
}

#[test]
fn balancers_are_read() {
    let cookie = |path: Option<&str>, ttl_s, attributes: &[(&str, Option<&str>)]| {
        let attributes = attributes.iter();
        HashKey::Cookie(Cookie {
            name: "user".into(),
            path: path.map(str::to_owned),
            ttl_s,
            attributes: attributes
                .map(|(n, v)| ((*n).to_owned(), v.map(str::to_owned)))
                .collect(),
        })
    };
    for (policy, balance) in [
        ("simple: UNSPECIFIED", Balance::LeastRequest),
        ("simple: LEAST_CONN", Balance::LeastRequest),
        ("simple: LEAST_REQUEST", Balance::LeastRequest),
        ("simple: RANDOM", Balance::Random),
        ("simple: ROUND_ROBIN", Balance::RoundRobin),
        (
            "consistentHash: {httpHeaderName: X-User}",
            hash(HashKey::Header("x-user".into()), HashTable::Ring(1024)),
        ),
        (
            "consistentHash: {httpQueryParameterName: q, ringHash: {}}",
            hash(HashKey::Query("q".into()), HashTable::Ring(1024)),
        ),
        (
            "consistentHash: {useSourceIp: true, maglev: {}}",
            hash(HashKey::SourceAddress, HashTable::Maglev(65_537)),
        ),
        (
            "consistentHash: {useSourceIp: true, maglev: {tableSize: 4999999}, minimumRingSize: 7}",
            hash(HashKey::SourceAddress, HashTable::Maglev(4_999_999)),
        ),
        (
            "consistentHash: {useSourceIp: true, minimumRingSize: 7}",
            hash(HashKey::SourceAddress, HashTable::Ring(7)),
        ),
        (
            "consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 9}, minimumRingSize: 7}",
            hash(HashKey::SourceAddress, HashTable::Ring(9)),
        ),
        (
            "consistentHash: {httpCookie: {name: user}}",
            hash(cookie(None, None, &[]), HashTable::RING),
        ),
        (
            "consistentHash: {httpCookie: {name: user, ttl: 0s, path: /a}}",
            hash(cookie(Some("/a"), Some(0), &[]), HashTable::RING),
        ),
        (
            // Less than a second is not the browser's session.
            "consistentHash: {httpCookie: {name: user, ttl: 1ms, attributes: [{name: Secure}, {name: SameSite, value: Lax}]}}",
            hash(
                cookie(
                    None,
                    Some(1),
                    &[("Secure", None), ("SameSite", Some("Lax"))],
                ),
                HashTable::RING,
            ),
        ),
    ] {
        let policy = format!("{{loadBalancer: {{{policy}}}}}");
        assert_eq!(good(&policy).balance, balance, "{policy}");
    }
}

#[test]
fn warmups_are_read() {
    let warmup = |duration_ms, minimum, aggression_milli| {
        Some(Warmup {
            duration_ms,
            minimum,
            aggression_milli,
        })
    };
    for (policy, expected) in [
        ("warmupDurationSecs: 30s", warmup(30_000, 100_000, 1_000)),
        ("warmup: {duration: 1m}", warmup(60_000, 100_000, 1_000)),
        (
            "simple: ROUND_ROBIN, warmup: {duration: 1s, minimumPercent: 0, aggression: 1.5}",
            warmup(1_000, 0, 1_500),
        ),
    ] {
        let policy = format!("{{loadBalancer: {{{policy}}}}}");
        assert_eq!(good(&policy).warmup, expected, "{policy}");
    }
}

#[test]
fn bounds_are_read_and_zero_is_none() {
    for (policy, expected) in [
        ("{}", Pool::default()),
        (
            "{tcp: {maxConnections: 0}, http: {http1MaxPendingRequests: 0, http2MaxRequests: 0, maxRequestsPerConnection: 0, maxRetries: 0}}",
            Pool::default(),
        ),
        (
            "{tcp: {maxConnections: 1, connectTimeout: 1.5s}, http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRequestsPerConnection: 4, maxRetries: 2147483647}}",
            Pool {
                connections: Some(1),
                pending: Some(2),
                requests: Some(3),
                retries: Some(2_147_483_647),
                requests_per_connection: Some(4),
                connect_timeout_ms: Some(1_500),
            },
        ),
    ] {
        let policy = format!("{{connectionPool: {policy}}}");
        assert_eq!(good(&policy).pool, expected, "{policy}");
    }
    let budget = |share, min_concurrency| {
        Some(RetryBudget {
            share,
            min_concurrency,
        })
    };
    for (policy, expected) in [
        ("{}", budget(200_000, 3)),
        ("{percent: 0, minRetryConcurrency: 0}", budget(0, 3)),
        (
            "{percent: 12.5, minRetryConcurrency: 1}",
            budget(125_000, 1),
        ),
    ] {
        let policy =
            format!("{{retryBudget: {policy}, connectionPool: {{http: {{maxRetries: 1}}}}}}");
        assert_eq!(good(&policy).retry_budget, expected, "{policy}");
    }
}

#[test]
fn outliers_are_read() {
    let usual = Outlier::default;
    for (policy, expected) in [
        ("{}", usual()),
        (
            "{maxEjectionPercent: 0, minHealthPercent: 0, consecutiveErrors: 0}",
            usual(),
        ),
        (
            "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 3}",
            Outlier {
                errors: None,
                gateway_errors: Some(3),
                ..usual()
            },
        ),
        (
            // The old field counts gateways' errors, and no others.
            "{consecutiveErrors: 7}",
            Outlier {
                errors: None,
                gateway_errors: Some(7),
                ..usual()
            },
        ),
        (
            "{consecutiveErrors: 7, consecutive5xxErrors: 9, consecutiveGatewayErrors: 2}",
            Outlier {
                errors: Some(9),
                gateway_errors: Some(2),
                ..usual()
            },
        ),
        (
            "{splitExternalLocalOriginErrors: true}",
            Outlier {
                local_failures: Some(5),
                ..usual()
            },
        ),
        (
            "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 0}",
            Outlier {
                errors: None,
                local_failures: Some(2),
                ..usual()
            },
        ),
        (
            "{interval: 1s, baseEjectionTime: 1ms, maxEjectionPercent: 100, minHealthPercent: 50, outlierDetectionHttpErrorCodes: [503, 429, 503]}",
            Outlier {
                codes: vec![429, 503],
                interval_ms: 1_000,
                base_ejection_ms: 1,
                max_ejection_percent: 100,
                min_health_percent: 50,
                ..usual()
            },
        ),
    ] {
        let policy = format!("{{outlierDetection: {policy}}}");
        assert_eq!(good(&policy).outlier, Some(expected), "{policy}");
    }
    assert_eq!(good("{}"), Settings::default());
}

#[test]
fn localities_are_read() {
    let pattern = |region: &str, zone: &str| {
        let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
        serde_json::json!({ "region": some(region), "zone": some(zone) })
    };
    for (policy, expected) in [
        ("{}", serde_json::json!("nearest")),
        ("{enabled: true}", serde_json::json!("nearest")),
        ("{enabled: false}", serde_json::json!("ignored")),
        (
            "{failover: [{from: eu, to: us}]}",
            serde_json::json!({ "failover": [{ "from": "eu", "to": "us" }] }),
        ),
        (
            "{failoverPriority: [topology.kubernetes.io/region, version=v1]}",
            serde_json::json!({ "labels": [
                { "key": "topology.kubernetes.io/region", "value": null },
                { "key": "version", "value": "v1" },
            ]}),
        ),
        (
            // What means the same is one, with the sum of its weights.
            "{distribute: [{from: eu/*, to: {eu/a/*: 30, eu/a: 40, us: 20, '*': 10}}, {from: '*', to: {us: 1}}]}",
            serde_json::json!({ "distribute": [
                {
                    "from": pattern("eu", ""),
                    "to": [[pattern("", ""), 10], [pattern("eu", "a"), 70], [pattern("us", ""), 20]],
                },
                { "from": pattern("", ""), "to": [[pattern("us", ""), 1]] },
            ]}),
        ),
    ] {
        let policy = format!("{{loadBalancer: {{localityLbSetting: {policy}}}}}");
        let found = serde_json::to_value(good(&policy).locality).unwrap();
        assert_eq!(found, expected, "{policy}");
    }
}
