//! What is said of values of a DestinationRule that are none, or cannot act.

use super::*;

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
