//! What routes are told of themselves: each reason of Gateway API that a mesh has, and that it is what the rules do.

use serde_json::json;
use tradewind_api::route::To;

use super::*;
use crate::status::{ConditionKind, ParentStatus, Reason};

const CART: &str = "{group: '', kind: Service, name: cart}";
const RULE: &str = "{backendRefs: [{name: v1, port: 80}]}";

fn route(kind: &str, parents: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: r, namespace: shop, generation: 7}}
spec:
  parentRefs: [{parents}]
  rules: [{rules}]"
    )
}

/// The parents of the only route.
fn parents(text: &str) -> Vec<ParentStatus> {
    let objects = objects(text);
    let found = statuses(&objects, &world());
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].parents.clone()
}

type Told = (ConditionKind, bool, Reason);

fn told(parent: &ParentStatus) -> Vec<Told> {
    let one = |c: &crate::status::Condition| (c.kind, c.status, c.reason);
    parent.conditions.iter().map(one).collect()
}

const ACCEPTED: Told = (ConditionKind::Accepted, true, Reason::Accepted);
const RESOLVED: Told = (ConditionKind::ResolvedRefs, true, Reason::ResolvedRefs);
const PARTLY: Told = (
    ConditionKind::PartiallyInvalid,
    true,
    Reason::UnsupportedValue,
);

const fn refused(reason: Reason) -> Told {
    (ConditionKind::Accepted, false, reason)
}

const fn unresolved(reason: Reason) -> Told {
    (ConditionKind::ResolvedRefs, false, reason)
}

#[test]
fn a_status_is_as_kubernetes_has_it() {
    let text = route("HTTPRoute", &format!("{CART}, {{name: edge}}"), RULE);
    let found = statuses(&objects(&text), &world());
    assert_eq!(
        serde_json::to_value(&found).unwrap(),
        json!([{
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "namespace": "shop",
            "name": "r",
            "generation": 7,
            "parents": [{
                "parentRef": {"group": "", "kind": "Service", "name": "cart"},
                "controllerName": "tradewind.io/mesh-controller",
                "conditions": [
                    {
                        "type": "Accepted", "status": "True", "reason": "Accepted",
                        "message": "its rules hold for the parent", "observedGeneration": 7,
                    },
                    {
                        "type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs",
                        "message": "all that it refers to is there", "observedGeneration": 7,
                    },
                ],
            }],
        }]),
        "a gateway is somebody else's parent"
    );
}

#[test]
fn parents_are_told_apart() {
    let all = [
        (CART, ACCEPTED),
        (
            "{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart}",
            ACCEPTED,
        ),
        (
            "{group: '', kind: Service, namespace: front, name: web, port: 80}",
            ACCEPTED,
        ),
        (
            "{group: '', kind: Service, name: two, sectionName: admin, port: 81}",
            ACCEPTED,
        ),
        (
            "{group: '', kind: Service, name: nobody}",
            refused(Reason::NoMatchingParent),
        ),
        (
            "{group: '', kind: Service, name: Not A Name}",
            refused(Reason::NoMatchingParent),
        ),
        (
            "{group: '', kind: Service, name: cart, port: 81}",
            refused(Reason::NoMatchingParent),
        ),
        (
            "{group: '', kind: Service, name: two, sectionName: nobody}",
            refused(Reason::NoMatchingParent),
        ),
        (
            "{group: '', kind: Service, name: two, sectionName: admin, port: 80}",
            refused(Reason::NoMatchingParent),
        ),
    ];
    let refs: Vec<&str> = all.iter().map(|(r, _)| *r).collect();
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"] {
        let found = parents(&route(kind, &refs.join(", "), RULE));
        let found: Vec<_> = found.iter().map(told).collect();
        let expected: Vec<_> = all.iter().map(|(_, t)| vec![*t, RESOLVED]).collect();
        assert_eq!(found, expected, "{kind}");
    }
    let foreign = parents(&route("HTTPRoute", "{name: edge}", RULE));
    assert!(foreign.is_empty(), "so that a writer takes away its own");
    // One route's missing parent is nothing to the other parent's rules.
    let both = route(
        "HTTPRoute",
        &format!("{CART}, {{group: '', kind: Service, name: nobody}}"),
        RULE,
    );
    assert_eq!(table_of(&compiled(&both), "shop/cart").rules.len(), 1);
}

/// Rules of an HTTPRoute, and what it is told of a parent that is there.
#[test]
fn each_reason_is_given_for_what_it_is_of() {
    let far = "{backendRefs: [{name: v1, namespace: far, port: 80}]}";
    let kind = "{backendRefs: [{group: example.com, kind: Bucket, name: b}]}";
    let missing = "{backendRefs: [{name: nobody, port: 80}]}";
    let port = "{backendRefs: [{name: v1, port: 81}]}";
    let mirror = "{backendRefs: [{name: v1, port: 80}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: nobody, port: 80}}}]}";
    let regex = "{matches: [{path: {type: RegularExpression, value: '('}}], backendRefs: [{name: v1, port: 80}]}";
    let word =
        "{matches: [{path: {type: Sounds, value: /a}}], backendRefs: [{name: v1, port: 80}]}";
    let time = "{timeouts: {request: soon}, backendRefs: [{name: v1, port: 80}]}";
    let extension = "{filters: [{type: ExtensionRef, extensionRef: {group: g, kind: K, name: n}}], backendRefs: [{name: v1, port: 80}]}";
    let clash = "{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {hostname: b}}]}";
    let on_backend = "{backendRefs: [{name: v1, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}]}";
    let idle = "{backendRefs: [{name: v1, port: 80, weight: 0}]}";
    let value = refused(Reason::UnsupportedValue);
    let filters = refused(Reason::IncompatibleFilters);
    for (rules, expected) in [
        (RULE.to_owned(), vec![ACCEPTED, RESOLVED]),
        (String::new(), vec![ACCEPTED, RESOLVED]),
        (idle.to_owned(), vec![ACCEPTED, RESOLVED]),
        (
            far.to_owned(),
            vec![ACCEPTED, unresolved(Reason::RefNotPermitted)],
        ),
        (
            kind.to_owned(),
            vec![ACCEPTED, unresolved(Reason::InvalidKind)],
        ),
        (
            missing.to_owned(),
            vec![ACCEPTED, unresolved(Reason::BackendNotFound)],
        ),
        (
            port.to_owned(),
            vec![ACCEPTED, unresolved(Reason::BackendNotFound)],
        ),
        (
            mirror.to_owned(),
            vec![ACCEPTED, unresolved(Reason::BackendNotFound)],
        ),
        // The first one that is met.
        (
            format!("{RULE}, {kind}, {far}"),
            vec![ACCEPTED, unresolved(Reason::InvalidKind)],
        ),
        (regex.to_owned(), vec![value, RESOLVED]),
        (word.to_owned(), vec![value, RESOLVED]),
        (time.to_owned(), vec![value, RESOLVED]),
        (extension.to_owned(), vec![filters, RESOLVED]),
        (clash.to_owned(), vec![filters, RESOLVED]),
        (on_backend.to_owned(), vec![filters, RESOLVED]),
        (format!("{regex}, {clash}"), vec![value, RESOLVED]),
        (format!("{extension}, {clash}"), vec![filters, RESOLVED]),
        (format!("{RULE}, {regex}"), vec![ACCEPTED, RESOLVED, PARTLY]),
        (
            format!("{extension}, {RULE}"),
            vec![ACCEPTED, RESOLVED, PARTLY],
        ),
        (
            format!("{regex}, {missing}"),
            vec![ACCEPTED, unresolved(Reason::BackendNotFound), PARTLY],
        ),
    ] {
        let found = parents(&route("HTTPRoute", CART, &rules));
        assert_eq!(told(&found[0]), expected, "{rules}");
    }
}

#[test]
fn a_grant_resolves() {
    let far = "{backendRefs: [{name: v1, namespace: far, port: 80}]}";
    let grant = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: far}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: '', kind: Service}]";
    let text = [route("HTTPRoute", CART, far), grant.to_owned()].join("\n---\n");
    assert_eq!(told(&parents(&text)[0]), [ACCEPTED, RESOLVED]);
}

#[test]
fn routes_for_streams_are_told_too() {
    let tls = |names: &str| {
        route("TLSRoute", CART, RULE).replace("spec:", &format!("spec:\n  hostnames: [{names}]"))
    };
    let value = refused(Reason::UnsupportedValue);
    for (text, expected) in [
        (tls("a.example.com"), vec![ACCEPTED, RESOLVED]),
        (tls("a.example.com, '*'"), vec![ACCEPTED, RESOLVED]),
        (tls("'*'"), vec![value, RESOLVED]),
        (route("TCPRoute", CART, ""), vec![value, RESOLVED]),
        (
            route(
                "TCPRoute",
                CART,
                "{backendRefs: [{name: nobody, port: 80}]}",
            ),
            vec![ACCEPTED, unresolved(Reason::BackendNotFound)],
        ),
    ] {
        assert_eq!(told(&parents(&text)[0]), expected, "{text}");
        let has_rules = !compiled(&text).routes.is_empty();
        assert_eq!(has_rules, expected[0] == ACCEPTED, "{text}");
    }
}

#[test]
fn what_cannot_be_read_says_so_to_the_parents_that_it_names() {
    let text = route(
        "HTTPRoute",
        &format!("{{name: edge}}, {CART}"),
        "{matches: 7}",
    );
    let found = parents(&text);
    assert_eq!(found.len(), 1);
    assert_eq!(told(&found[0]), [refused(Reason::UnsupportedValue)]);
    let message = &found[0].conditions[0].message;
    assert!(message.starts_with("spec: "), "{message}");
    assert!(compiled(&text).routes.is_empty());
}

/// A route that is told that a rule was dropped has no such rule, and one that is not accepted has none at all, but for rules that must not be
/// passed by.
#[test]
fn the_rules_are_what_the_status_says() {
    let broken = "{name: broken, matches: [{path: {type: RegularExpression, value: '('}}, {path: {value: /b}}], backendRefs: [{name: v1, port: 80}]}";
    let guarded = "{name: guarded, matches: [{path: {value: /g}}], filters: [{type: ExtensionRef, extensionRef: {group: g, kind: K, name: n}}], backendRefs: [{name: v1, port: 80}]}";
    let good = "{name: good, backendRefs: [{name: v2, port: 80}]}";
    let all = compiled(&route(
        "HTTPRoute",
        CART,
        &[broken, guarded, good].join(", "),
    ));
    let table = table_of(&all, "shop/cart");
    let names: Vec<_> = table.rules.iter().map(|r| r.origin.rule.as_str()).collect();
    assert_eq!(names, ["guarded", "good"]);
    assert!(
        matches!(&table.rules[0].then.to, To::Direct(d) if d.status == 500),
        "what a filter guards goes nowhere else"
    );
    let partly = &all.statuses[0].parents[0].conditions[2];
    assert!(
        partly.message.starts_with("Dropped Rule: spec.rules[0]."),
        "{partly:?}"
    );
    assert!(
        partly.message.contains("spec.rules[1].filters[0]"),
        "{partly:?}"
    );

    let none = compiled(&route("HTTPRoute", CART, broken));
    assert!(none.routes.is_empty(), "as if there were no route");
    assert!(found(&none).contains(&(
        Code::BrokenExpression,
        "spec.rules[0].matches[0].path.value"
    )));
    let guarded = compiled(&route("HTTPRoute", CART, guarded));
    assert_eq!(table_of(&guarded, "shop/cart").rules.len(), 1);
}

#[test]
fn statuses_have_an_order_and_bounds() {
    let named = |kind: &str, namespace: &str, name: &str| {
        route(kind, CART, RULE)
            .replace("name: r,", &format!("name: {name},"))
            .replace("namespace: shop,", &format!("namespace: {namespace},"))
    };
    let texts = [
        named("TCPRoute", "shop", "a"),
        named("HTTPRoute", "shop", "b"),
        named("HTTPRoute", "front", "z"),
        named("HTTPRoute", "shop", "a"),
    ];
    let keys = |texts: &[String]| {
        let found = statuses(&objects(&texts.join("\n---\n")), &world());
        let key = |s: &Arc<RouteStatus>| format!("{} {}/{}", s.kind, s.namespace, s.name);
        found.iter().map(key).collect::<Vec<_>>()
    };
    let expected = [
        "HTTPRoute front/z",
        "HTTPRoute shop/a",
        "HTTPRoute shop/b",
        "TCPRoute shop/a",
    ];
    assert_eq!(keys(&texts), expected);
    let turned: Vec<_> = texts.iter().rev().cloned().collect();
    assert_eq!(keys(&turned), expected);

    let bad: Vec<_> = (0..200)
        .map(|i| format!("{{matches: [{{path: {{type: RegularExpression, value: '({i}'}}}}]}}"))
        .collect();
    let many: Vec<_> = (0..40).map(|_| CART).collect();
    let found = parents(&route("HTTPRoute", &many.join(", "), &bad.join(", ")));
    assert_eq!(found.len(), 32);
    let longest = found[0]
        .conditions
        .iter()
        .map(|c| c.message.chars().count());
    assert!(longest.max() <= Some(1_024));
    assert_eq!(
        told(&found[0]),
        [refused(Reason::UnsupportedValue), RESOLVED]
    );
}

/// What is told is of what there is now, also where nothing of the route itself changed.
#[test]
fn a_status_follows_what_a_route_refers_to() {
    let objects = objects(&route("HTTPRoute", CART, RULE));
    let mut compiler = Compiler::default();
    let mut without = world();
    without.services.remove(&"shop/v1".parse().unwrap());
    for world in [world(), without, world()] {
        let policy = compiler.compile(&objects, &world);
        assert_eq!(policy, compile(&objects, &world));
        let has = world.services.contains_key(&"shop/v1".parse().unwrap());
        let refs = if has {
            RESOLVED
        } else {
            unresolved(Reason::BackendNotFound)
        };
        assert_eq!(told(&policy.statuses[0].parents[0]), [ACCEPTED, refs]);
    }
}
