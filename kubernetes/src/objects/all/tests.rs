//! Changes in, what is known and what was touched out.

use super::*;
use crate::objects::{SliceEndpoint, SlicePort};

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn slice(service: &str, pods: &[&str]) -> Object {
    let endpoints = pods.iter().enumerate().map(|(i, pod)| SliceEndpoint {
        ip: format!("10.0.0.{}", i + 1).parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        zone: None,
        pod: Some((*pod).to_owned()),
    });
    Object::Slice(Slice {
        service: Key::new("shop", service),
        ports: vec![SlicePort {
            name: "http".into(),
            port: 8080,
        }],
        endpoints: endpoints.collect(),
    })
}

fn pod(account: &str) -> Object {
    Object::Pod(Pod {
        ips: vec![],
        account: account.into(),
        labels: BTreeMap::new(),
    })
}

#[test]
fn a_new_list_takes_away_what_it_lacks_and_only_when_it_is_complete() {
    let mut objects = Objects::default();
    assert!(!objects.has_listed(&Kind::Service));
    let all = |names: &[&str]| {
        let made = names
            .iter()
            .map(|n| (Key::new("shop", *n), Object::Service(Service::default())));
        Change::All(Kind::Service, made.collect())
    };
    let touched = objects.take(all(&["a", "b"]));
    assert_eq!(touched.services, [name("shop/a"), name("shop/b")].into());
    assert!(touched.others, "the kind counts from now on");
    assert!(objects.has_listed(&Kind::Service));
    assert!(objects.take(all(&["a", "b"])).is_empty(), "the same again");
    let touched = objects.take(all(&["b", "c"]));
    assert_eq!(touched.services, [name("shop/a"), name("shop/c")].into());
    assert_eq!(objects.services.len(), 2);
}

#[test]
fn a_pod_touches_the_services_that_it_serves() {
    let mut objects = Objects::default();
    objects.take(Change::Set(
        Key::new("shop", "a-1"),
        slice("a", &["p", "q"]),
    ));
    objects.take(Change::Set(Key::new("shop", "b-1"), slice("b", &["p"])));
    objects.take(Change::Set(Key::new("other", "b-1"), slice("b", &["p"])));
    let touched = objects.take(Change::Set(Key::new("shop", "p"), pod("x")));
    assert_eq!(touched.services, [name("shop/a"), name("shop/b")].into());
    assert!(
        objects
            .take(Change::Set(Key::new("shop", "p"), pod("x")))
            .is_empty()
    );

    // A slice that goes over to another service leaves nothing behind.
    let touched = objects.take(Change::Set(Key::new("shop", "a-1"), slice("c", &["q"])));
    assert_eq!(touched.services, [name("shop/a"), name("shop/c")].into());
    assert!(!objects.slices_of.contains_key(&Key::new("shop", "a")));
    let touched = objects.take(Change::Gone(Kind::Pod, Key::new("shop", "p")));
    assert_eq!(touched.services, [name("shop/b")].into());
    let touched = objects.take(Change::Gone(Kind::Slice, Key::new("shop", "b-1")));
    assert_eq!(touched.services, [name("shop/b")].into());
    assert_eq!(
        objects.slices_with.len(),
        1 + 1,
        "{:?}",
        objects.slices_with
    );
}

#[test]
fn a_rule_belongs_to_its_kind_and_an_equal_one_is_no_change() {
    let mut objects = Objects::default();
    let rule = |weight: u8| {
        let object = serde_json::json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "spec": {"weight": weight}});
        Object::Rule(Arc::new(Rule {
            object,
            parents: Vec::new(),
        }))
    };
    let kind = Kind::Rule("HTTPRoute.gateway.networking.k8s.io".into());
    let key = Key::new("shop", "r");
    assert!(objects.take(Change::Set(key.clone(), rule(1))).others);
    assert!(objects.take(Change::Set(key.clone(), rule(1))).is_empty());
    assert!(objects.take(Change::Set(key.clone(), rule(2))).others);
    assert!(objects.rules.contains_key(&(kind.clone(), key)));
    let other = Kind::Rule("GRPCRoute.gateway.networking.k8s.io".into());
    objects.take(Change::All(other, vec![]));
    assert_eq!(objects.rules.len(), 1, "another kind's list is not its");
    assert!(objects.take(Change::All(kind, vec![])).others);
    assert!(objects.rules.is_empty());
}
