//! Which DestinationRules hold for whom, what one inherits from the other, and what is said of those that do not hold.

use proptest::prelude::*;
use tradewind_api::traffic::{Balance, Labels, PerPort, Settings, TrafficPolicy};

use super::*;

/// A rule of this namespace for a host of it, with more fields of its spec.
fn rule(namespace: &str, name: &str, host: &str, more: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{namespace: {namespace}, name: {name}}}
spec:
  host: '{host}'
{more}"
    )
}

fn dated(text: &str, year: u32) -> String {
    let stamp = format!("metadata: {{creationTimestamp: '{year}-01-01T00:00:00Z', ");
    text.replace("metadata: {", &stamp)
}

fn together(texts: &[&str]) -> Policy {
    compiled(&texts.join("\n---\n"))
}

fn traffic<'a>(policy: &'a Policy, service: &str) -> &'a [Arc<TrafficPolicy>] {
    let routes = policy.routes.get(&service.parse().unwrap());
    routes.map_or(&[], |routes| &routes.traffic)
}

/// The rule that holds for a caller.
fn holds(policy: &Policy, service: &str, namespace: &str, app: Option<&str>) -> Option<String> {
    let labels: Labels = app.map(|a| ("app".into(), a.into())).into_iter().collect();
    let routes = policy.routes.get(&service.parse().unwrap())?;
    let found = routes.traffic_for(&Namespace::new(namespace).unwrap(), &labels)?;
    Some(found.origin.object.to_string())
}

/// What settings say, as far as these tests set them.
fn words(settings: &Settings) -> String {
    let mut words = vec![match &settings.balance {
        Balance::LeastRequest => "least".to_owned(),
        Balance::RoundRobin => "turns".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }];
    words.extend(settings.pool.requests.map(|n| format!("requests={n}")));
    words.extend(settings.pool.retries.map(|n| format!("retries={n}")));
    words.extend(settings.outlier.as_ref().map(|_| "outlier".to_owned()));
    words.extend(settings.retry_budget.map(|b| format!("budget={}", b.share)));
    words.join(" ")
}

/// Of port 80, port 81 and any other.
fn of_ports(settings: &PerPort) -> [String; 3] {
    [80, 81, 7].map(|port| words(settings.of(port)))
}

#[test]
fn a_subset_inherits_by_section_and_a_port_not_at_all() {
    let text = rule(
        "shop",
        "two",
        "two",
        "
  trafficPolicy:
    connectionPool: {http: {http2MaxRequests: 1, maxRetries: 1}}
    outlierDetection: {}
    retryBudget: {percent: 1}
    portLevelSettings:
    - {port: {number: 81}, loadBalancer: {simple: RANDOM}}
  subsets:
  - {name: bare}
  - {name: turns, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
  - {name: pool, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 2}}, retryBudget: {percent: 2}}}
  - name: port
    trafficPolicy:
      connectionPool: {http: {http2MaxRequests: 3}}
      portLevelSettings:
      - {port: {number: 80}, loadBalancer: {simple: RANDOM}}
  - name: both
    trafficPolicy:
      portLevelSettings:
      - {port: {number: 81}, outlierDetection: {}}",
    );
    let policy = compiled(&text);
    assert!(policy.findings.is_empty(), "{:?}", policy.findings);
    let [found] = traffic(&policy, "shop/two") else {
        panic!("{policy:?}");
    };
    assert_eq!(
        found.origin.to_string(),
        "DestinationRule shop/two trafficPolicy"
    );
    let whole = "least requests=1 retries=1 outlier budget=10000";
    assert_eq!(of_ports(&found.settings), [whole, "random", whole]);
    for (name, expected) in [
        ("bare", [whole, "random", whole]),
        (
            "turns",
            [
                "turns requests=1 retries=1 outlier budget=10000",
                "turns",
                "turns requests=1 retries=1 outlier budget=10000",
            ],
        ),
        (
            // A section is taken as a whole: nothing is left of the rule's retries.
            "pool",
            [
                "least requests=2 outlier budget=20000",
                "random requests=2 budget=20000",
                "least requests=2 outlier budget=20000",
            ],
        ),
        (
            "port",
            [
                "random",
                "random requests=3",
                "least requests=3 outlier budget=10000",
            ],
        ),
        ("both", [whole, "least outlier", whole]),
    ] {
        assert_eq!(of_ports(&found.subsets[name].settings), expected, "{name}");
    }
}

#[test]
fn a_rule_holds_for_whom_it_is_exported_to_and_one_of_the_callers_own_goes_before() {
    let host = "cart.shop.svc.cluster.local";
    let in_shop = |name, more| rule("shop", name, host, more);
    let in_front = |name, more| rule("front", name, host, more);
    let everybodys = in_shop("all", "");
    let starred = in_shop("star", "  exportTo: [far, '*']");
    let own = in_shop("own", "  exportTo: ['.']");
    let fronts = in_shop("fronts", "  exportTo: [front]");
    let consumers = in_front("consumer", "");
    let selecting = in_front("web", "  workloadSelector: {matchLabels: {app: web}}");
    let of_shop = in_shop("shops-web", "  workloadSelector: {matchLabels: {app: web}}");
    let elsewhere = in_front("elsewhere", "  exportTo: [far]");
    // Callers: front's web, front's other, shop's web, far's web.
    let callers = [
        ("front", Some("web")),
        ("front", None),
        ("shop", Some("web")),
        ("far", Some("web")),
    ];
    for (rules, expected) in [
        (vec![&everybodys], ["shop/all"; 4]),
        (vec![&starred], ["shop/star"; 4]),
        (vec![&own], ["", "", "shop/own", ""]),
        (vec![&fronts], ["shop/fronts", "shop/fronts", "", ""]),
        (
            vec![&everybodys, &fronts],
            ["shop/fronts", "shop/fronts", "shop/all", "shop/all"],
        ),
        (
            vec![&everybodys, &own],
            ["shop/all", "shop/all", "shop/own", "shop/all"],
        ),
        (
            vec![&consumers],
            ["front/consumer", "front/consumer", "", ""],
        ),
        (
            vec![&everybodys, &fronts, &consumers],
            ["front/consumer", "front/consumer", "shop/all", "shop/all"],
        ),
        (
            vec![&everybodys, &selecting],
            ["front/web", "shop/all", "shop/all", "shop/all"],
        ),
        (
            vec![&consumers, &selecting],
            ["front/web", "front/consumer", "", ""],
        ),
        (
            vec![&everybodys, &of_shop],
            ["shop/all", "shop/all", "shop/shops-web", "shop/all"],
        ),
        (vec![&elsewhere], [""; 4]),
    ] {
        let texts: Vec<_> = rules.iter().map(|r| r.as_str()).collect();
        let policy = together(&texts);
        let found = callers.map(|(n, app)| holds(&policy, "shop/cart", n, app).unwrap_or_default());
        assert_eq!(found, expected, "{texts:#?}");
    }
}

#[test]
fn a_rule_that_is_exported_where_it_does_not_reach_is_told_of() {
    let text = |more: &str| rule("front", "r", "cart.shop", more);
    let idle = (Code::IdleSetting, "spec.exportTo");
    for (more, expected) in [
        ("", vec![]),
        ("  exportTo: ['*']", vec![]),
        ("  exportTo: [front]", vec![]),
        ("  exportTo: [front, far]", vec![idle]),
        ("  exportTo: [far, shop]", vec![idle, idle]),
        (
            "  exportTo: ['.', 'A_B']",
            vec![(Code::InvalidValue, "spec.exportTo[1]")],
        ),
    ] {
        assert_eq!(found(&compiled(&text(more))), expected, "{more}");
    }
    let of_service = |more: &str| compiled(&rule("shop", "r", "cart", more));
    assert_eq!(found(&of_service("  exportTo: [far]")), []);
    let selects = "  exportTo: ['.', far]\n  workloadSelector: {matchLabels: {app: web}}";
    assert_eq!(found(&of_service(selects)), [idle]);
}

#[test]
fn a_selector_that_is_none_leaves_the_rule_out() {
    let text = rule(
        "shop",
        "r",
        "cart",
        "  workloadSelector: {matchLabels: {'a b': c}}",
    );
    let policy = compiled(&text);
    let at = "spec.workloadSelector.matchLabels.a b";
    assert_eq!(found(&policy), [(Code::InvalidValue, at)]);
    assert!(traffic(&policy, "shop/cart").is_empty());
    // An empty one is for all workloads of its own namespace, and no others.
    let policy = compiled(&rule("shop", "r", "cart", "  workloadSelector: {}"));
    assert_eq!(holds(&policy, "shop/cart", "shop", None).unwrap(), "shop/r");
    assert_eq!(holds(&policy, "shop/cart", "front", None), None);
}

#[test]
fn the_more_exact_host_goes_before_and_what_never_holds_is_told() {
    let exact = rule("shop", "exact", "cart", "");
    let narrow = rule("shop", "narrow", "*.shop.svc.cluster.local", "");
    let wide = rule("shop", "wide", "*", "");
    let of_caller = rule("front", "wide", "*", "");
    let policy = together(&[&wide, &narrow, &exact, &of_caller]);
    let of = |service: &str, namespace: &str| holds(&policy, service, namespace, None).unwrap();
    assert_eq!(of("shop/cart", "shop"), "shop/exact");
    assert_eq!(of("shop/v1", "shop"), "shop/narrow");
    // The caller's own, though it is by a star.
    assert_eq!(of("shop/cart", "front"), "front/wide");
    // A star in shop is for shop's own callers, where the service is another's.
    assert_eq!(of("far/v1", "shop"), "shop/wide");
    assert_eq!(holds(&policy, "far/v1", "far", None), None);
    let told: BTreeSet<_> = policy
        .findings
        .iter()
        .map(|f| (f.code, f.object.as_str(), f.text.as_str()))
        .collect();
    let of_cart: Vec<_> = told
        .iter()
        .filter(|(_, _, text)| text.contains("service shop/cart:"))
        .map(|(code, object, _)| (*code, *object))
        .collect();
    assert_eq!(
        of_cart,
        [
            (Code::Superseded, "DestinationRule shop/narrow"),
            (Code::Superseded, "DestinationRule shop/wide")
        ]
    );
    // What never holds does not travel.
    assert_eq!(traffic(&policy, "shop/cart").len(), 2);
}

#[test]
fn rules_of_one_host_and_callers_are_one() {
    let of_first = "
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v1, labels: {version: twice}}";
    let of_second = "
  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 2}}}
  subsets:
  - {name: v1, labels: {version: other}}
  - {name: v2, labels: {version: v2}}";
    let of_third = "
  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 3}}}
  subsets:
  - {name: v3, labels: {version: v3}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}";
    let texts = [
        dated(&rule("shop", "c", "cart", of_first), 2024),
        dated(&rule("shop", "b", "cart.shop.svc", of_second), 2025),
        rule("shop", "a", "cart", of_third),
    ];
    let policy = together(&texts.each_ref().map(String::as_str));
    let [one] = traffic(&policy, "shop/cart") else {
        panic!("{policy:?}");
    };
    assert_eq!(one.origin.object.to_string(), "shop/c");
    assert_eq!(words(one.settings.of(80)), "least requests=2");
    let subsets: Vec<_> = one
        .subsets
        .iter()
        .map(|(name, s)| {
            (
                name.as_str(),
                s.labels["version"].as_str(),
                words(s.settings.of(80)),
            )
        })
        .collect();
    assert_eq!(
        subsets,
        [
            ("v1", "v1", "least requests=2".to_owned()),
            ("v2", "v2", "least requests=2".to_owned()),
            ("v3", "v3", "random requests=2".to_owned()),
        ]
    );
    let told: BTreeSet<_> = policy
        .findings
        .iter()
        .map(|f| (f.code, f.object.as_str(), f.path.as_str()))
        .collect();
    let expected = [
        ("DestinationRule shop/a", "spec.trafficPolicy"),
        ("DestinationRule shop/b", "spec.subsets[0]"),
        ("DestinationRule shop/c", "spec.subsets[1]"),
    ];
    assert_eq!(told, expected.map(|(o, p)| (Code::Superseded, o, p)).into());

    // Subsets alone are no conflict.
    let more = "  subsets: [{name: v9, labels: {version: v9}}]";
    let policy = together(&[&texts[1], &rule("shop", "z", "cart", more)]);
    assert!(policy.findings.is_empty(), "{:?}", policy.findings);
    assert_eq!(traffic(&policy, "shop/cart")[0].subsets.len(), 3);
    // Other callers' rules are other rules.
    let policy = together(&[&texts[1], &rule("front", "z", "cart.shop", more)]);
    let names = |p: &TrafficPolicy| p.subsets.keys().cloned().collect::<Vec<_>>();
    let all: Vec<_> = traffic(&policy, "shop/cart")
        .iter()
        .map(|p| names(p))
        .collect();
    assert_eq!(all, [vec!["v9".to_owned()], vec!["v1".into(), "v2".into()]]);
}

fn virtual_service(more: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: vs, namespace: shop}}
spec:
  hosts: [cart]
{more}
  http:
  - route: [{{destination: {{host: cart, subset: blue}}}}]
    mirror: {{host: v1, subset: green}}
    mirrors: [{{destination: {{host: v2, subset: red}}}}]"
    )
}

#[test]
fn a_subset_that_no_rule_for_the_callers_defines_is_told_of() {
    let subset = |namespace: &str, host: &str, name: &str| {
        let more = format!("  subsets: [{{name: {name}, labels: {{color: {name}}}}}]");
        rule(namespace, &format!("of-{name}"), host, &more)
    };
    let (blue, green, red) = (
        subset("shop", "cart", "blue"),
        subset("shop", "v1", "green"),
        subset("front", "v2.shop", "red"),
    );
    let [in_blue, in_green, in_red] = ["route[0].destination", "mirror", "mirrors[0].destination"]
        .map(|p| format!("spec.http[0].{p}.subset"));
    let all = virtual_service("");
    let shops = virtual_service("  exportTo: ['.']");
    for (texts, missing) in [
        (vec![&all], vec![&in_green, &in_red, &in_blue]),
        (vec![&all, &blue], vec![&in_green, &in_red]),
        (vec![&all, &blue, &green, &red], vec![]),
        // Red is for callers of front.
        (vec![&shops, &blue, &green, &red], vec![&in_red]),
    ] {
        let texts: Vec<_> = texts.iter().map(|t| t.as_str()).collect();
        let policy = together(&texts);
        let missing: Vec<_> = missing
            .iter()
            .map(|at| (Code::SubsetNotFound, at.as_str()))
            .collect();
        assert_eq!(found(&policy), missing, "{texts:?}");
        let routes = &policy.routes[&"shop/cart".parse().unwrap()];
        let table = routes.of_all.as_ref().or(routes.of_callers.values().next());
        let json = serde_json::to_value(table.unwrap()).unwrap();
        // It is asked for all the same, so that its share is answered with 503 and goes nowhere else.
        assert_eq!(
            json.pointer("/rules/0/then/to/backends/0/to/service/subset"),
            Some(&"blue".into())
        );
    }
}

/// One rule of each kind for the cart.
fn every_kind() -> Vec<String> {
    let host = "cart.shop.svc.cluster.local";
    let sections = [
        "  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 1}}}",
        "  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 2}}}\n  subsets: [{name: s, labels: {v: a}}]",
        "  subsets: [{name: s, labels: {v: b}}, {name: t, labels: {v: c}}]",
        "  exportTo: [front, '.']",
        "  exportTo: [front]\n  subsets: [{name: s, labels: {v: d}}]",
        "  workloadSelector: {matchLabels: {app: web}}",
        "  workloadSelector: {matchLabels: {app: other}}",
    ];
    let mut all = vec![
        rule("shop", "star", "*", sections[0]),
        rule("shop", "narrow", "*.shop.svc.cluster.local", sections[1]),
        rule("front", "consumer", host, sections[1]),
        rule("front", "another", host, sections[2]),
        virtual_service(""),
    ];
    for (i, more) in sections.iter().enumerate() {
        all.push(rule("shop", &format!("r{i}"), host, more));
    }
    all
}

proptest! {
    /// The order of objects does not matter.
    #[test]
    fn the_same_rules_make_the_same(order in Just((0..12).collect::<Vec<usize>>()).prop_shuffle()) {
        let all = every_kind();
        prop_assert_eq!(all.len(), order.len());
        let sorted: Vec<_> = all.iter().map(String::as_str).collect();
        let shuffled: Vec<_> = order.iter().map(|i| sorted[*i]).collect();
        let (policy, sorted) = (together(&shuffled), together(&sorted));
        prop_assert_eq!(&policy.routes, &sorted.routes);
        let told = |p: &Policy| {
            let place_is_none = |f: &Finding| (f.code, f.object.clone(), f.path.clone());
            p.findings.iter().map(place_is_none).collect::<BTreeSet<_>>()
        };
        prop_assert_eq!(told(&policy), told(&sorted));
        // Those of front, of two apps in shop, of the rest of shop, and of all.
        prop_assert_eq!(traffic(&policy, "shop/cart").len(), 5);
    }

    /// Whoever calls, the first that is for him is of his own namespace where that has one for him.
    #[test]
    fn a_callers_own_namespace_decides_first(
        kept in prop::collection::btree_set(0_usize..12, 1..12),
        namespace in prop::sample::select(vec!["shop", "front", "far"]),
        app in prop::sample::select(vec![None, Some("web"), Some("other")]),
    ) {
        let all = every_kind();
        let kept: Vec<_> = kept.iter().map(|i| all[*i].as_str()).collect();
        let policy = together(&kept);
        let labels: Labels = app.map(|a| ("app".into(), a.into())).into_iter().collect();
        let callers = Namespace::new(namespace).unwrap();
        let list = traffic(&policy, "shop/cart");
        let fit: Vec<_> = list.iter().filter(|t| t.is_for(&callers, &labels)).collect();
        let is_own = |t: &&&Arc<TrafficPolicy>| t.origin.object.namespace == callers;
        if let (Some(first), Some(_)) = (fit.first(), fit.iter().find(is_own)) {
            prop_assert_eq!(&first.origin.object.namespace, &callers);
        }
    }
}
