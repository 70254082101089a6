//! What single values of a DestinationRule come to, and what is said of those that are none or cannot act.

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

/// A policy, and what is said of it.
type Said<'a> = (&'a str, &'a [(Code, &'a str)]);

fn assert_said(cases: &[Said<'_>], world: &World) {
    for (policy, expected) in cases {
        let (_, said) = read_in(policy, world);
        let said: Vec<_> = said.iter().map(|(c, p)| (*c, p.as_str())).collect();
        assert_eq!(said, *expected, "{policy}");
    }
}

/// Each comes to nothing.
const NO_VALUES: &[Said<'static>] = &[
    (
        "{loadBalancer: {simple: BEST}}",
        &[(Code::InvalidValue, "loadBalancer.simple")],
    ),
    (
        "{loadBalancer: {simple: PASSTHROUGH}}",
        &[(Code::UnsupportedField, "loadBalancer.simple")],
    ),
    (
        "{loadBalancer: {consistentHash: {httpHeaderName: ':path'}}}",
        &[(
            Code::InvalidValue,
            "loadBalancer.consistentHash.httpHeaderName",
        )],
    ),
    (
        "{loadBalancer: {consistentHash: {httpQueryParameterName: ''}}}",
        &[(
            Code::InvalidValue,
            "loadBalancer.consistentHash.httpQueryParameterName",
        )],
    ),
    (
        "{loadBalancer: {consistentHash: {httpCookie: {}}}}",
        &[(
            Code::InvalidValue,
            "loadBalancer.consistentHash.httpCookie.name",
        )],
    ),
    (
        "{loadBalancer: {warmup: {}}}",
        &[(Code::InvalidValue, "loadBalancer.warmup.duration")],
    ),
    (
        "{loadBalancer: {warmupDurationSecs: 0s}}",
        &[(Code::InvalidValue, "loadBalancer.warmupDurationSecs")],
    ),
    (
        "{loadBalancer: {localityLbSetting: {failover: [{from: EU, to: us}]}}}",
        &[(
            Code::InvalidValue,
            "loadBalancer.localityLbSetting.failover[0].from",
        )],
    ),
    (
        "{loadBalancer: {localityLbSetting: {failoverPriority: ['=a', topology.istio.io/subzone]}}}",
        &[
            (
                Code::UnsupportedField,
                "loadBalancer.localityLbSetting.failoverPriority[1]",
            ),
            (
                Code::InvalidValue,
                "loadBalancer.localityLbSetting.failoverPriority[0]",
            ),
        ],
    ),
    (
        "{loadBalancer: {localityLbSetting: {distribute: [{from: '*/a', to: {eu: 1}}]}}}",
        &[(
            Code::InvalidValue,
            "loadBalancer.localityLbSetting.distribute[0].from",
        )],
    ),
    (
        "{loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {eu: -1, us: 0}}]}}}",
        &[
            (
                Code::InvalidValue,
                "loadBalancer.localityLbSetting.distribute[0].to.eu",
            ),
            (
                Code::NoWeight,
                "loadBalancer.localityLbSetting.distribute[0].to",
            ),
        ],
    ),
    (
        "{connectionPool: {tcp: {connectTimeout: 0s}}}",
        &[(Code::InvalidValue, "connectionPool.tcp.connectTimeout")],
    ),
    (
        "{connectionPool: {tcp: {maxConnections: -1}, http: {maxRetries: 2147483648}}}",
        &[
            (Code::InvalidValue, "connectionPool.http.maxRetries"),
            (Code::InvalidValue, "connectionPool.tcp.maxConnections"),
        ],
    ),
    (
        "{retryBudget: {percent: 101, minRetryConcurrency: -1}}",
        &[
            (Code::InvalidValue, "retryBudget.minRetryConcurrency"),
            (Code::InvalidValue, "retryBudget.percent"),
        ],
    ),
    (
        "{portLevelSettings: [{loadBalancer: {simple: RANDOM}}, {port: {number: 70000}}]}",
        &[
            (Code::InvalidValue, "portLevelSettings[0].port.number"),
            (Code::InvalidValue, "portLevelSettings[1].port.number"),
        ],
    ),
    (
        "{portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}, {port: {number: 99}}]}",
        &[
            (Code::InvalidValue, "portLevelSettings[1].port.number"),
            (Code::IdleSetting, "portLevelSettings[2].port.number"),
        ],
    ),
    ("{tls: {mode: ISTIO_MUTUAL}}", &[]),
    (
        "{tls: {mode: DISABLE}}",
        &[(Code::UnsupportedField, "tls.mode")],
    ),
    ("{connectionPool: {http: {h2UpgradePolicy: DEFAULT}}}", &[]),
    (
        "{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}",
        &[(
            Code::UnsupportedField,
            "connectionPool.http.h2UpgradePolicy",
        )],
    ),
];

#[test]
fn values_that_are_none_are_told_and_left_out() {
    assert_said(NO_VALUES, &world());
    for (policy, _) in NO_VALUES {
        let settings = read(policy).0;
        let without = Settings {
            retry_budget: None,
            ..settings
        };
        assert_eq!(without, Settings::default(), "{policy}");
    }
}

#[test]
fn bad_values_leave_the_good_ones_beside_them() {
    let (settings, said) = read(
        "{outlierDetection: {consecutive5xxErrors: -1, consecutiveGatewayErrors: 3, interval: soon, maxEjectionPercent: 101, minHealthPercent: 7, outlierDetectionHttpErrorCodes: [99, 500]}}",
    );
    let expected = Outlier {
        gateway_errors: Some(3),
        codes: vec![500],
        min_health_percent: 7,
        ..Outlier::default()
    };
    assert_eq!(settings.outlier, Some(expected));
    let paths: BTreeSet<_> = said
        .iter()
        .map(|(code, path)| (*code, path.as_str()))
        .collect();
    let expected = [
        "consecutive5xxErrors",
        "interval",
        "maxEjectionPercent",
        "outlierDetectionHttpErrorCodes[0]",
    ];
    let expected = expected.map(|f| (Code::InvalidValue, format!("outlierDetection.{f}")));
    assert_eq!(
        paths,
        expected.iter().map(|(c, p)| (*c, p.as_str())).collect()
    );

    let (settings, said) = read(
        "{loadBalancer: {consistentHash: {httpCookie: {name: user, path: 'a;b', ttl: 9s, attributes: [{name: 'a b'}, {name: a, value: 'b;c'}, {name: c}]}, maglev: {tableSize: 65536}}}}",
    );
    let cookie = HashKey::Cookie(Cookie {
        name: "user".into(),
        path: None,
        ttl_s: Some(9),
        attributes: vec![("c".into(), None)],
    });
    assert_eq!(settings.balance, hash(cookie, HashTable::MAGLEV));
    assert_eq!(said.len(), 4, "{said:?}");

    for size in ["5000011", "-1", "8"] {
        let maglev = format!("{{maglev: {{tableSize: {size}}}, useSourceIp: true}}");
        let (settings, said) = read(&format!("{{loadBalancer: {{consistentHash: {maglev}}}}}"));
        assert_eq!(
            settings.balance,
            hash(HashKey::SourceAddress, HashTable::MAGLEV)
        );
        let at = "loadBalancer.consistentHash.maglev.tableSize";
        assert_eq!(said, [(Code::InvalidValue, at.to_owned())]);
    }
    let ring = "{loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 8388609}}}}";
    assert_eq!(
        read(ring).0.balance,
        hash(HashKey::SourceAddress, HashTable::RING)
    );

    let warm = "{loadBalancer: {warmup: {duration: 9s, minimumPercent: 101, aggression: 0.5}}}";
    let (settings, said) = read(warm);
    assert_eq!(settings.warmup.unwrap().minimum, 100_000);
    assert_eq!(settings.warmup.unwrap().aggression_milli, 1_000);
    assert_eq!(said.len(), 2, "{said:?}");
}

#[test]
fn of_several_where_one_may_be_the_first_holds() {
    use Code::InvalidValue;
    let (settings, said) =
        read("{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}");
    assert_eq!(
        settings.balance,
        hash(HashKey::SourceAddress, HashTable::RING)
    );
    assert_eq!(said, [(InvalidValue, "loadBalancer".to_owned())]);

    let (settings, said) = read(
        "{loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a, ringHash: {}, maglev: {}}}}",
    );
    assert_eq!(
        settings.balance,
        hash(HashKey::Header("a".into()), HashTable::MAGLEV)
    );
    let at = "loadBalancer.consistentHash".to_owned();
    assert_eq!(said, [(InvalidValue, at.clone()), (InvalidValue, at)]);

    let both = "{loadBalancer: {warmup: {duration: 1s}, warmupDurationSecs: 2s}}";
    let (settings, said) = read(both);
    assert_eq!(settings.warmup.unwrap().duration_ms, 1_000);
    assert_eq!(
        said,
        [(InvalidValue, "loadBalancer.warmupDurationSecs".to_owned())]
    );

    let failover = "failover: [{from: eu, to: us}]";
    let more = "failoverPriority: [a]";
    let in_setting = |key: &str| {
        (
            InvalidValue,
            format!("loadBalancer.localityLbSetting.{key}"),
        )
    };
    let policy = |fields: &str| format!("{{loadBalancer: {{localityLbSetting: {{{fields}}}}}}}");
    let (settings, said) = read(&policy(&format!("{more}, {failover}")));
    let expected = Failover {
        from: "eu".parse().unwrap(),
        to: "us".parse().unwrap(),
    };
    assert_eq!(settings.locality, Locality::Failover(vec![expected]));
    assert_eq!(said, [in_setting("failoverPriority")]);
    let all = format!("distribute: [{{from: eu, to: {{us: 1}}}}], {more}, {failover}");
    let (settings, said) = read(&policy(&all));
    assert!(matches!(settings.locality, Locality::Distribute(_)));
    assert_eq!(
        said,
        [in_setting("failover"), in_setting("failoverPriority")]
    );
}

#[test]
fn settings_that_cannot_act_are_told_of() {
    use Code::IdleSetting;
    let cases: &[Said<'_>] = &[
        (
            "{loadBalancer: {consistentHash: {useSourceIp: false, ringHash: {}}}}",
            &[(IdleSetting, "loadBalancer.consistentHash")],
        ),
        (
            "{loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}}",
            &[(IdleSetting, "loadBalancer.warmup")],
        ),
        (
            "{loadBalancer: {simple: RANDOM, warmupDurationSecs: 1s}}",
            &[(IdleSetting, "loadBalancer.warmupDurationSecs")],
        ),
        (
            "{loadBalancer: {simple: ROUND_ROBIN, warmupDurationSecs: 1s}}",
            &[],
        ),
        (
            "{loadBalancer: {localityLbSetting: {enabled: false, failoverPriority: [a]}}}",
            &[(
                IdleSetting,
                "loadBalancer.localityLbSetting.failoverPriority",
            )],
        ),
        (
            "{loadBalancer: {localityLbSetting: {enabled: true, failoverPriority: [a]}}}",
            &[],
        ),
        (
            "{outlierDetection: {consecutive5xxErrors: 0}}",
            &[(IdleSetting, "outlierDetection")],
        ),
        (
            "{outlierDetection: {consecutive5xxErrors: 0, consecutiveErrors: 1}}",
            &[],
        ),
        (
            "{outlierDetection: {consecutive5xxErrors: 0, splitExternalLocalOriginErrors: true}}",
            &[],
        ),
        (
            "{outlierDetection: {consecutiveLocalOriginFailures: 3}}",
            &[(
                IdleSetting,
                "outlierDetection.consecutiveLocalOriginFailures",
            )],
        ),
        (
            "{outlierDetection: {consecutiveGatewayErrors: 5}}",
            &[(IdleSetting, "outlierDetection.consecutiveGatewayErrors")],
        ),
        ("{outlierDetection: {consecutiveGatewayErrors: 4}}", &[]),
        ("{portLevelSettings: [{port: {number: 80}}]}", &[]),
    ];
    assert_said(cases, &world());
}

#[test]
fn a_failover_that_nobody_can_take_is_told_of() {
    use Code::IdleFailover;
    let same =
        "{loadBalancer: {localityLbSetting: {failover: [{from: eu, to: eu}, {from: eu, to: us}]}}}";
    let in_same = "loadBalancer.localityLbSetting.failover[0]";
    let away = "{loadBalancer: {localityLbSetting: {failover: [{from: eu, to: mars}]}}}";
    let spread = "{loadBalancer: {localityLbSetting: {distribute: [{from: moon/a, to: {mars/*: 1, us: 1, '*': 1}}]}}}";
    assert_said(
        &[
            (same, &[(IdleFailover, in_same)]),
            (away, &[]),
            (spread, &[]),
        ],
        &world(),
    );
    let settings = read(same).0;
    assert!(matches!(settings.locality, Locality::Failover(all) if all.len() == 1));
    let mut known = world();
    known.regions = Some(["eu".to_owned(), "us".to_owned()].into());
    let cases: &[Said<'_>] = &[
        (same, &[(IdleFailover, in_same)]),
        (
            away,
            &[(
                IdleFailover,
                "loadBalancer.localityLbSetting.failover[0].to",
            )],
        ),
        (
            spread,
            &[
                (
                    IdleFailover,
                    "loadBalancer.localityLbSetting.distribute[0].from",
                ),
                (
                    IdleFailover,
                    "loadBalancer.localityLbSetting.distribute[0].to.mars/*",
                ),
            ],
        ),
    ];
    assert_said(cases, &known);
}

#[test]
fn a_subset_without_endpoints_is_told_of_where_they_are_known() {
    let text = |host: &str, labels: &str| {
        text("{}").replace("host: cart", &format!("host: '{host}'"))
            + &format!("\n  subsets: [{{name: s, labels: {labels}}}]")
    };
    let labels = |version: &str| [("version".to_owned(), version.to_owned())].into();
    let mut known = world();
    known.labels = [
        (
            "shop/cart".parse().unwrap(),
            [labels("v1"), labels("v2")].into(),
        ),
        ("shop/v1".parse().unwrap(), [].into()),
    ]
    .into();
    let empty: &[(Code, &str)] = &[(Code::EmptySubset, "spec.subsets[0].labels")];
    for (host, wanted, expected) in [
        ("cart", "{version: v1}", &[][..]),
        ("cart", "{}", &[]),
        ("cart", "{version: v3}", empty),
        ("cart", "{version: v1, app: web}", empty),
        // Nobody is there at all.
        ("v1", "{}", empty),
        // Of these it is not known, or not of all.
        ("v2", "{version: v3}", &[]),
        ("*.shop.svc.cluster.local", "{version: v3}", &[]),
        (
            "cart",
            "{version: 'a b'}",
            &[(Code::InvalidValue, "spec.subsets[0].labels.version")],
        ),
    ] {
        let text = text(host, wanted);
        let policy = compile(&objects(&text), &known);
        assert_eq!(found(&policy), expected, "{text}");
        let policy = compile(&objects(&text), &world());
        let told = found(&policy).iter().any(|(c, _)| *c == Code::EmptySubset);
        assert!(!told, "{text}");
    }
}

#[test]
fn a_rule_without_a_service_or_a_subset_without_a_name_is_told_of() {
    let policy = compiled(&text("{}").replace("host: cart", "host: www.example.com"));
    assert_eq!(found(&policy), [(Code::ParentNotFound, "spec.host")]);
    assert!(policy.routes.is_empty());
    let subsets = "\n  subsets: [{labels: {version: v1}}]";
    let policy = compiled(&(text("{}") + subsets));
    assert_eq!(
        found(&policy),
        [(Code::InvalidValue, "spec.subsets[0].name")]
    );
    let rule = &policy.routes[&"shop/cart".parse().unwrap()].traffic[0];
    assert!(rule.subsets.is_empty());
}
