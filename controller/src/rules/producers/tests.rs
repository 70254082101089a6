//! Rules from one cluster's objects to another cluster's callers, and what is not let through.

use serde_json::json;
use tradewind_api::{
    Namespace,
    route::{Kind, Otherwise},
};
use tradewind_policy::{Object, World, compile};

use super::*;

fn cart() -> ServiceName {
    "shop/cart".parse().unwrap()
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

/// An HTTPRoute for `shop/cart` in a namespace.
fn route(namespace: &str, backend: &str, timeout: Option<&str>) -> Object {
    let mut rule = json!({ "backendRefs": [{ "name": backend, "namespace": "shop", "port": 80 }] });
    if let Some(timeout) = timeout {
        rule["timeouts"] = json!({ "request": timeout });
    }
    let value = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": { "name": "cart", "namespace": namespace },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "cart", "namespace": "shop" }],
            "rules": [rule],
        },
    });
    Object::new("cart.yaml:1", value).unwrap()
}

fn grant() -> Object {
    let value = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "ReferenceGrant",
        "metadata": { "name": "cart", "namespace": "shop" },
        "spec": {
            "from": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "front" }],
            "to": [{ "group": "", "kind": "Service" }],
        },
    });
    Object::new("grant.yaml:1", value).unwrap()
}

fn rules_of(objects: &[Object]) -> BTreeMap<ServiceName, Arc<Routes>> {
    let services = [cart(), "shop/canary".parse().unwrap()];
    let ports: &[u16] = &[80];
    let world = World::of(services.iter().map(|s| (s, ports)));
    let policy = compile(objects, &world);
    assert!(policy.findings.is_empty(), "{:?}", policy.findings);
    let routes = policy.routes.into_iter();
    routes.map(|(name, r)| (name, Arc::new(r))).collect()
}

/// What is published of all of them, by service.
fn all_published(
    own: &BTreeMap<ServiceName, Arc<Routes>>,
    before: &BTreeMap<ServiceName, Arc<PublishedRules>>,
    problems: &mut Vec<String>,
) -> BTreeMap<ServiceName, Arc<PublishedRules>> {
    let mut one = |(name, routes): (&ServiceName, &Arc<Routes>)| {
        let rules = published(name, routes, before.get(name), problems)?;
        Some((name.clone(), rules))
    };
    own.iter().filter_map(&mut one).collect()
}

fn publish(objects: &[Object]) -> Arc<PublishedRules> {
    let mut problems = Vec::new();
    let all = all_published(&rules_of(objects), &BTreeMap::new(), &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    Arc::clone(&all[&cart()])
}

fn offer(of: &str, created_at_ms: u64, rules: &Arc<PublishedRules>) -> Offer {
    Offer {
        cluster: cluster(of),
        created_at_ms,
        rules: Arc::clone(rules),
    }
}

fn held(
    own: Option<&Arc<Routes>>,
    offered: &[Offer],
    known: &[&str],
) -> (Option<Arc<Routes>>, Vec<String>) {
    let mut problems = Vec::new();
    let is_known = |name: &ServiceName| known.contains(&name.to_string().as_str());
    let routes = merged(&cart(), own, offered, is_known, &mut problems);
    (routes, problems)
}

const BOTH: [&str; 2] = ["shop/cart", "shop/canary"];

#[test]
fn what_a_producer_says_holds_elsewhere_and_names_its_cluster() {
    let rules = publish(&[
        route("shop", "canary", Some("1s")),
        grant(),
        route("front", "cart", None),
    ]);
    assert_eq!(rules.format, FORMAT);
    assert!(
        !rules.json.contains("front"),
        "consumers' rules stay at home"
    );
    let (routes, problems) = held(None, &[offer("east", 1, &rules)], &BOTH);
    assert!(problems.is_empty(), "{problems:?}");
    let routes = routes.unwrap();
    assert!(routes.of_callers.is_empty());
    let rule = &routes.of_all.as_ref().unwrap().rules[0];
    assert_eq!(
        rule.origin.to_string(),
        "HTTPRoute shop/cart rules[0] of east"
    );
    assert_eq!(rule.then.timeouts.whole_ms, Some(1_000));

    let (_, problems) = held(None, &[offer("east", 1, &rules)], &["shop/cart"]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("of east sends calls of shop/cart to shop/canary"));
}

#[test]
fn the_oldest_exports_word_holds_and_what_cannot_be_read_is_left() {
    let (old, new) = (
        publish(&[route("shop", "canary", None)]),
        publish(&[route("shop", "cart", None)]),
    );
    let backend = |routes: &Routes| {
        let to = &routes.of_all.as_ref().unwrap().rules[0].then.to;
        serde_json::to_string(to).unwrap()
    };
    let both = [offer("east", 1, &old), offer("central", 2, &new)];
    let (routes, problems) = held(None, &both, &BOTH);
    assert!(backend(&routes.unwrap()).contains("canary"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("the rules that central publishes for shop/cart do not hold"));
    let (_, alike) = held(
        None,
        &[offer("east", 1, &old), offer("west", 2, &old)],
        &BOTH,
    );
    assert!(alike.is_empty(), "they say the same: {alike:?}");

    let text = &old.json;
    let front: Routes = {
        let mut routes: Routes = serde_json::from_str(text).unwrap();
        let table = routes.of_all.take().unwrap();
        let front = Namespace::new("front").unwrap();
        routes.of_callers.insert(front, table);
        routes
    };
    let backends = r#""to":{"backends":"#;
    let mirror = r#"{"to":{"broken":"x"},"share":1}"#;
    let mirrors = format!(r#""mirrors":[{}],{backends}"#, [mirror; 5].join(","));
    let policy = r#""traffic":[{"origin":{"kind":"DestinationRule","object":"shop/cart","rule":"","cluster":null},"settings":{"all":{"pool":{"connect_timeout_ms":0}}}}],"of_all""#;
    for (json, why) in [
        (text.replace("\"rules\"", "\"rulez\""), "they are no rules"),
        (
            text.replace("shop/cart", "other/cart"),
            "not of its own namespace",
        ),
        (serde_json::to_string(&front).unwrap(), "not for everybody"),
        (
            text.replace(r#""mirrors":[],"#, "")
                .replace(backends, &mirrors),
            "copied to more than 4 places",
        ),
        (text.replace("\"of_all\"", policy), "no time to connect"),
    ] {
        assert_ne!(json, *text);
        let bad = Arc::new(PublishedRules {
            format: FORMAT,
            json,
        });
        let (routes, problems) = held(None, &[offer("east", 1, &bad)], &BOTH);
        assert_eq!(routes, None, "{why}");
        assert!(problems[0].contains(why), "{problems:?}");
        let (routes, _) = held(
            None,
            &[offer("east", 1, &bad), offer("central", 2, &new)],
            &BOTH,
        );
        assert!(backend(&routes.unwrap()).contains("cart"), "the next one's");
    }
    let newer = Arc::new(PublishedRules {
        format: FORMAT + 1,
        json: text.clone(),
    });
    let (routes, problems) = held(None, &[offer("east", 1, &newer)], &BOTH);
    assert_eq!(routes, None);
    assert!(problems[0].contains("upgrade it"), "{problems:?}");
}

#[test]
fn consumers_send_calls_where_they_like_within_the_producers_time() {
    let theirs = publish(&[route("shop", "cart", Some("1s"))]);
    let own = rules_of(&[grant(), route("front", "canary", Some("10s"))]);
    let (routes, problems) = held(own.get(&cart()), &[offer("east", 1, &theirs)], &BOTH);
    let routes = routes.unwrap();
    let front = &routes.of_callers[&Namespace::new("front").unwrap()].rules[0];
    assert_eq!(front.then.timeouts.whole_ms, Some(1_000));
    assert!(
        serde_json::to_string(&front.then.to)
            .unwrap()
            .contains("canary")
    );
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("a request may take 1000 ms, as its producer says"));
    let of_all = routes.of_all.as_ref().unwrap();
    assert_eq!(of_all.rules[0].origin.cluster, Some(cluster("east")));
    assert_eq!(of_all.otherwise, Otherwise::NotFound);

    // The own cluster's word in the service's namespace goes before what others publish.
    let own = rules_of(&[route("shop", "canary", None)]);
    let (routes, problems) = held(own.get(&cart()), &[offer("east", 1, &theirs)], &BOTH);
    assert!(Arc::ptr_eq(&routes.unwrap(), &own[&cart()]), "{problems:?}");
}

/// A TCPRoute for `shop/cart` in a namespace.
fn tcp_route(namespace: &str, backend: &str) -> Object {
    let value = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "TCPRoute",
        "metadata": { "name": "cart", "namespace": namespace },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "cart", "namespace": "shop" }],
            "rules": [{ "backendRefs": [{ "name": backend, "namespace": namespace, "port": 80 }] }],
        },
    });
    Object::new("cart.yaml:1", value).unwrap()
}

#[test]
fn rules_for_streams_travel_with_the_others_and_name_their_cluster() {
    let rules = publish(&[tcp_route("shop", "canary"), route("shop", "cart", None)]);
    let (routes, problems) = held(None, &[offer("east", 1, &rules)], &BOTH);
    assert!(problems.is_empty(), "{problems:?}");
    let routes = routes.unwrap();
    assert!(routes.of_all.is_some());
    let origin = |routes: &Routes| {
        let table = routes.streams.of_all.as_ref().unwrap();
        table.rules[0].origin.to_string()
    };
    assert_eq!(origin(&routes), "TCPRoute shop/cart rules[0] of east");
    let (_, problems) = held(None, &[offer("east", 1, &rules)], &["shop/cart"]);
    assert!(
        problems[0].contains("of east sends streams of shop/cart to shop/canary"),
        "{problems:?}"
    );

    // Beside what the own cluster says of requests alone; its own word for streams goes before.
    let own = rules_of(&[route("shop", "cart", None)]);
    let (routes, problems) = held(own.get(&cart()), &[offer("east", 1, &rules)], &BOTH);
    assert!(problems.is_empty(), "{problems:?}");
    let routes = routes.unwrap();
    assert_eq!(routes.of_all, own[&cart()].of_all);
    assert_eq!(origin(&routes), "TCPRoute shop/cart rules[0] of east");
    let own = rules_of(&[tcp_route("shop", "cart")]);
    let (routes, _) = held(own.get(&cart()), &[offer("east", 1, &rules)], &BOTH);
    assert_eq!(origin(&routes.unwrap()), "TCPRoute shop/cart rules[0]");

    // What is for one namespace is none of the exporter's to say.
    let mut said: Routes = serde_json::from_str(&rules.json).unwrap();
    let table = said.streams.of_all.take().unwrap();
    let front = Namespace::new("front").unwrap();
    said.streams.of_callers.insert(front, table);
    let bad = Arc::new(PublishedRules {
        format: FORMAT,
        json: serde_json::to_string(&said).unwrap(),
    });
    let (routes, problems) = held(None, &[offer("east", 1, &bad)], &BOTH);
    assert_eq!(routes, None);
    assert!(problems[0].contains("not for everybody"), "{problems:?}");
}

#[test]
fn what_is_too_long_to_publish_leaves_what_was_told_before() {
    let before: BTreeMap<_, _> = [(cart(), publish(&[route("shop", "cart", None)]))].into();
    let one = rules_of(&[route("shop", "canary", None)]);
    let mut routes = Routes::clone(&one[&cart()]);
    let table = Arc::make_mut(routes.of_all.as_mut().unwrap());
    let rule = table.rules[0].clone();
    assert_eq!(rule.origin.kind, Kind::HttpRoute);
    table.rules = vec![rule; 1_000];
    let many = [(cart(), Arc::new(routes))].into();
    let mut problems = Vec::new();
    assert_eq!(all_published(&many, &before, &mut problems), before);
    assert!(
        problems[0].contains("at most 65536 are published"),
        "{problems:?}"
    );
    assert!(all_published(&many, &BTreeMap::new(), &mut problems).is_empty());
    let again = all_published(&one, &before, &mut problems);
    let same = all_published(&one, &again, &mut problems);
    assert!(Arc::ptr_eq(&again[&cart()], &same[&cart()]));
}
