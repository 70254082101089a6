//! Objects in, the local model's terms out.

use tradewind_api::mcs::{IpFamily, SpecPort};
use tradewind_kubernetes::{
    Object,
    install::{NAMESPACE, Values, render},
    objects::{Change, Rule, SlicePort},
};

use super::*;

fn cart() -> ServiceName {
    "shop/cart".parse().unwrap()
}

fn service() -> Service {
    let port = |name: &str, protocol, port| SpecPort {
        name: name.into(),
        protocol,
        app_protocol: None,
        port,
    };
    Service {
        kind: Type::ClusterIp,
        cluster_ips: vec!["10.96.0.7".parse().unwrap()],
        ip_families: vec![IpFamily::V4],
        ports: vec![
            port("tcp", Protocol::Tcp, 90),
            port("http", Protocol::Tcp, 80),
            port("dns", Protocol::Udp, 53),
        ],
        ..Service::default()
    }
}

fn endpoint(pod: &str, last: u8) -> SliceEndpoint {
    SliceEndpoint {
        ip: [10, 0, 0, last].into(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        zone: Some("a".into()),
        pod: Some(pod.into()),
    }
}

fn slice(ports: &[(&str, u16)], endpoints: Vec<SliceEndpoint>) -> Object {
    let ports = ports.iter().map(|(name, port)| SlicePort {
        name: (*name).into(),
        port: *port,
    });
    Object::Slice(Slice {
        service: Key::new("shop", "cart"),
        ports: ports.collect(),
        endpoints,
    })
}

fn pod(account: &str, ips: &[&str]) -> Object {
    Object::Pod(Pod {
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        account: account.into(),
        labels: [
            ("version".to_owned(), "v2".to_owned()),
            ("no label!".to_owned(), String::new()),
        ]
        .into(),
    })
}

#[derive(Default)]
struct World {
    objects: Objects,
    model: Model,
}

impl World {
    fn set(&mut self, name: &str, object: Object) {
        self.take(Change::Set(Key::new("shop", name), object));
    }

    fn take(&mut self, change: Change) {
        let touched = self.objects.take(change);
        self.model.update(&self.objects, &touched);
    }

    fn cart(&self) -> Arc<SourceService> {
        Arc::clone(&self.model.told().services[&cart()])
    }

    fn problems(&self) -> Vec<String> {
        self.model
            .told()
            .problems
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

#[test]
fn an_endpoint_is_its_pod_with_the_ports_that_its_slices_lead_to() {
    let mut world = World::default();
    world.set("cart", Object::Service(service()));
    world.set("p", pod("web", &["10.0.0.1", "fd00::1"]));
    world.set("cart-4", slice(&[("http", 8080)], vec![endpoint("p", 1)]));
    let mut six = endpoint("p", 1);
    six.ip = "fd00::1".parse().unwrap();
    six.hostname = Some("p-0".into());
    world.set("cart-6", slice(&[("http", 8080), ("tcp", 9090)], vec![six]));

    let cart = world.cart();
    assert_eq!(
        cart.ports.iter().map(|p| p.port).collect::<Vec<_>>(),
        [80, 90],
        "TCP, sorted"
    );
    assert_eq!(cart.cluster_ips.len(), 1);
    let [one] = &cart.endpoints[..] else {
        panic!("one Pod is one endpoint: {:?}", cart.endpoints);
    };
    assert_eq!(one.address, "10.0.0.1:15008");
    assert_eq!(one.identity.as_deref(), Some("/ns/shop/sa/web"));
    assert_eq!(one.ports, [80, 90]);
    assert_eq!(one.targets, [(80, 8080), (90, 9090)].into());
    assert_eq!(one.labels.len(), 1, "what is no label is left out");
    assert_eq!(one.zone.as_ref().map(Zone::as_str), Some("a"));
    assert_eq!(world.problems(), Vec::<String>::new());
    assert!(world.model.told().exports.is_empty());
}

#[test]
fn conditions_become_health() {
    let mut world = World::default();
    world.set("cart", Object::Service(service()));
    for (ready, serving, terminating, expected) in [
        (true, true, false, Health::Healthy),
        (false, false, false, Health::Unhealthy),
        (false, true, true, Health::Draining),
        (false, false, true, Health::Draining),
    ] {
        world.set("p", pod("web", &["10.0.0.1"]));
        let mut one = endpoint("p", 1);
        (one.ready, one.serving, one.terminating) = (ready, serving, terminating);
        world.set("cart-4", slice(&[("http", 8080)], vec![one]));
        assert_eq!(world.cart().endpoints[0].health, expected);
    }
}

#[test]
fn a_service_of_pods_without_proxies_is_left_alone_and_a_mixed_one_is_told_of() {
    let mut world = World::default();
    world.set("cart", Object::Service(service()));
    world.set(
        "cart-4",
        slice(&[("http", 8080)], vec![endpoint("p", 1), endpoint("q", 2)]),
    );
    world.set("p", Object::Bare);
    world.set("q", Object::Bare);
    assert!(
        world.cart().cluster_ips.is_empty(),
        "its callers get what they got before"
    );
    assert!(world.cart().endpoints.is_empty());
    assert_eq!(world.problems(), Vec::<String>::new(), "that is no problem");

    world.take(Change::Gone(Kind::Bare, Key::new("shop", "p")));
    world.set("p", pod("web", &["10.0.0.1"]));
    assert_eq!(world.cart().cluster_ips.len(), 1);
    assert_eq!(world.cart().endpoints.len(), 1);
    let problems = world.problems();
    assert!(
        problems.len() == 1
            && problems[0]
                .starts_with("Service shop/cart: 1 of 2 endpoints have no proxy, q first"),
        "{problems:?}"
    );
    world.set("q", pod("web", &["10.0.0.2"]));
    assert_eq!(world.cart().endpoints.len(), 2);
    assert_eq!(world.problems(), Vec::<String>::new());
    world.take(Change::Gone(Kind::Slice, Key::new("shop", "cart-4")));
    assert_eq!(
        world.cart().cluster_ips.len(),
        1,
        "calls to a service that is scaled to nothing may go elsewhere"
    );
}

#[test]
fn an_export_says_how_old_it_is_and_what_it_passes_on() {
    let mut world = World::default();
    let export = Export {
        uid: "u".into(),
        created_at_ms: 7_000,
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..Export::default()
    };
    world.set("cart", Object::Export(export));
    assert!(
        world.model.told().exports.is_empty(),
        "no Service, no export"
    );
    world.set("cart", Object::Service(service()));
    let told = world.model.told();
    assert_eq!(told.exports[&cart()].created_at_ms, Some(7_000));
    let spec = told.services[&cart()].spec.clone().unwrap();
    assert_eq!(spec.ports.len(), 3, "of every protocol");
    assert_eq!((spec.labels.len(), spec.ip_families.len()), (1, 1));

    let view = world.model.view(&world.objects);
    assert_eq!(view.exported[&cart()].export.uid, "u");
    assert!(view.exported[&cart()].service.is_some());

    let name = Service {
        kind: Type::ExternalName,
        ..service()
    };
    world.set("cart", Object::Service(name));
    assert!(
        world.model.told().exports.is_empty(),
        "nothing that a mesh can serve"
    );
    world.set("cart", Object::Service(service()));
    world.take(Change::Gone(Kind::Export, Key::new("shop", "cart")));
    assert!(world.model.told().exports.is_empty());
    assert_eq!(world.cart().spec, None);
}

#[test]
fn rules_are_those_of_policy_and_what_did_not_change_is_kept() {
    let mut world = World::default();
    let rule = |name: &str, weight: u32| {
        let object = serde_json::json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": "shop"}, "spec": {"weight": weight}});
        Object::Rule(Arc::new(Rule {
            object,
            parents: Vec::new(),
        }))
    };
    world.set("a", rule("a", 1));
    world.set("b", rule("b", 1));
    let before = world.model.told();
    assert_eq!(before.policy[0].place, "HTTPRoute shop/a");
    world.set("b", rule("b", 2));
    let after = world.model.told();
    assert!(Arc::ptr_eq(&before.policy[0].value, &after.policy[0].value));
    assert_ne!(before.policy[1], after.policy[1]);
    let named_badly = serde_json::json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {}});
    world.set(
        "c",
        Object::Rule(Arc::new(Rule {
            object: named_badly,
            parents: Vec::new(),
        })),
    );
    assert_eq!(
        world.problems(),
        ["HTTPRoute shop/c: metadata.name is missing"]
    );
}

#[test]
fn the_chart_lets_every_kind_that_policy_reads_be_watched() {
    let mut values = Values::default();
    values
        .merge("cluster: {name: west, region: us-west, gateways: 'g:1'}")
        .unwrap();
    let all = render(&values, NAMESPACE).unwrap();
    let role = all
        .iter()
        .find(|m| m.id() == "ClusterRole/tradewind-controller");
    let rules = role.unwrap().object["rules"].as_array().unwrap().clone();
    let has = |rule: &serde_json::Value, key: &str, word: &str| {
        let words = rule[key].as_array().into_iter().flatten();
        words.into_iter().any(|w| w == word)
    };
    for kind in super::super::rule_kinds() {
        for verb in ["list", "watch"] {
            let allowed = rules.iter().any(|rule| {
                has(rule, "apiGroups", kind.group)
                    && has(rule, "resources", kind.plural)
                    && has(rule, "verbs", verb)
                    && rule.get("resourceNames").is_none()
            });
            assert!(allowed, "{verb} {}.{}", kind.plural, kind.group);
        }
    }
}

#[test]
fn every_kind_that_policy_reads_is_watched_by_its_name_in_paths() {
    for kind in super::super::rule_kinds() {
        assert_eq!(kind.plural, format!("{}s", kind.kind.to_ascii_lowercase()));
        assert!(
            kind.versions
                .iter()
                .all(|v| tradewind_policy::is_known(&format!("{}/{v}", kind.group), kind.kind))
        );
    }
}

#[test]
fn a_pod_that_is_not_known_yet_or_no_more_is_not_one_without_a_proxy() {
    let mut world = World::default();
    world.set("cart", Object::Service(service()));
    world.set("cart-4", slice(&[("http", 8080)], vec![endpoint("p", 1)]));
    let is_the_meshs = |world: &World| {
        assert_eq!(world.cart().endpoints, []);
        assert_eq!(world.cart().cluster_ips.len(), 1);
        assert_eq!(world.problems(), [""; 0]);
    };
    is_the_meshs(&world);
    world.set("p", pod("web", &["10.0.0.1"]));
    assert_eq!(world.cart().endpoints.len(), 1);
    world.take(Change::Gone(Kind::Pod, Key::new("shop", "p")));
    is_the_meshs(&world);
    world.set("p", Object::Bare);
    assert!(world.cart().cluster_ips.is_empty());
    world.take(Change::Gone(Kind::Bare, Key::new("shop", "p")));
    is_the_meshs(&world);
}
