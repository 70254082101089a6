//! What objects make: each field by itself, the order of rules, for whom they hold, and one intent in three languages.

mod corpus;
mod delegates;
mod destination_rule;
mod edits;
mod every_field;
mod limits;
mod one_intent;
mod order;
mod persistence;
mod statuses;
mod streams;
mod traffic;

use serde_json::Value;
use tradewind_api::Namespace;

use super::*;

const SERVICES: [(&str, &[u16]); 8] = [
    ("shop/cart", &[80]),
    ("shop/v1", &[80]),
    ("shop/v2", &[80]),
    ("shop/two", &[80, 81]),
    ("front/web", &[80]),
    ("front/v1", &[80]),
    ("far/v1", &[80]),
    ("far/v2", &[80]),
];

fn world() -> World {
    let names: Vec<(ServiceName, &[u16])> = SERVICES
        .iter()
        .map(|(n, p)| (n.parse().unwrap(), *p))
        .collect();
    let mut world = World::of(names.iter().map(|(n, p)| (n, *p)));
    let two: ServiceName = "shop/two".parse().unwrap();
    world
        .services
        .insert(two, vec![("http".into(), 80), ("admin".into(), 81)]);
    world
}

/// The objects of a YAML text.
fn objects(yaml: &str) -> Vec<Object> {
    yaml.split("\n---\n")
        .enumerate()
        .map(|(i, text)| {
            let value: Value = serde_saphyr::from_str(text).unwrap();
            Object::new(&format!("t.yaml:{i}"), value).unwrap()
        })
        .collect()
}

fn compiled(yaml: &str) -> Policy {
    compile(&objects(yaml), &world())
}

/// Findings as code and path.
fn found(policy: &Policy) -> Vec<(Code, &str)> {
    policy
        .findings
        .iter()
        .map(|f| (f.code, f.path.as_str()))
        .collect()
}

fn table_of<'a>(policy: &'a Policy, service: &str) -> &'a Table {
    let routes = &policy.routes[&service.parse().unwrap()];
    routes.of_all.as_ref().unwrap()
}
