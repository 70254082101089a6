//! Which rule goes before which, and what is said of those that do not hold.

use proptest::prelude::*;
use tradewind_api::route::{BackendRef, To};

use super::*;

/// A route for the cart, with a rule for each of the matches, named `<route>: <match>`, all to `v1`.
fn route(namespace: &str, name: &str, more: &str, matches: &[&str]) -> String {
    let rule = |m: &&str| {
        format!(
            "
  - name: '{name}: {m}'
    matches: [{{{m}}}]
    backendRefs: [{{namespace: shop, name: v1, port: 80}}]"
        )
    };
    let rules: String = matches.iter().map(rule).collect();
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}{more}}}
spec:
  parentRefs: [{{group: '', kind: Service, namespace: shop, name: cart}}]
  rules:{rules}
"
    )
}

fn names(table: &Table) -> Vec<String> {
    table.rules.iter().map(|r| r.origin.rule.clone()).collect()
}

fn together(texts: &[&str]) -> Policy {
    compiled(&texts.join("\n---\n"))
}

#[test]
fn rules_of_all_routes_go_by_the_precedence_of_the_api() {
    let prefix = "path: {value: /a}";
    let longer = "path: {value: /a/b}";
    let exact = "path: {type: Exact, value: /a}";
    let regex = "path: {type: RegularExpression, value: /a/b/c/d/e}";
    let method = "path: {value: /a}, method: GET";
    let header = "path: {value: /a}, headers: [{name: x, value: z}]";
    let query = "path: {value: /a}, queryParams: [{name: x, value: z}]";
    let anything = "method: PUT";
    let one = route("shop", "one", "", &[prefix, regex, query, exact]);
    let two = route("shop", "two", "", &[anything, header, longer, method]);
    for texts in [[&one, &two], [&two, &one]] {
        let policy = together(&texts.map(String::as_str));
        let expected = [
            ("one", exact),
            ("two", longer),
            ("two", method),
            ("two", header),
            ("one", query),
            ("one", prefix),
            ("two", anything),
            ("one", regex),
        ];
        let expected = expected.map(|(route, m)| format!("{route}: {m}"));
        assert_eq!(names(table_of(&policy, "shop/cart")), expected);
        assert!(policy.findings.is_empty(), "{:?}", policy.findings);
    }
}

#[test]
fn of_equals_the_older_goes_first_then_the_name_and_what_never_acts_is_told() {
    let m = "path: {value: /a}";
    let dated = |year: u32| format!(", creationTimestamp: '{year}-01-01T00:00:00Z'");
    let policy = together(&[
        &route("shop", "a", "", &[m]),
        &route("shop", "z", &dated(2024), &[m]),
        &route("shop", "m", &dated(2025), &[m]),
    ]);
    let expected = ["z", "m", "a"].map(|n| format!("{n}: {m}"));
    assert_eq!(names(table_of(&policy, "shop/cart")), expected);
    assert_eq!(found(&policy), [(Code::Shadowed, "spec"); 2]);
    for finding in &policy.findings {
        assert!(finding.text.contains("HTTPRoute shop/z"), "{finding}");
    }
}

fn virtual_service(name: &str, host: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: ['{host}']
  http: [{{route: [{{destination: {{host: v2}}}}]}}]"
    )
}

const SPLIT: &str = "
apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: split, namespace: shop}
spec: {service: cart, backends: [{service: v1, weight: 1}]}";

#[test]
fn one_language_holds_and_the_others_are_told_so() {
    let (istio, http) = (
        virtual_service("vs", "cart"),
        route("shop", "route", "", &["method: GET"]),
    );
    let policy = together(&[SPLIT, &istio, &http]);
    assert_eq!(
        names(table_of(&policy, "shop/cart")),
        ["route: method: GET"]
    );
    let told: Vec<_> = policy
        .findings
        .iter()
        .map(|f| (f.code, f.object.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (Code::Superseded, "TrafficSplit shop/split"),
            (Code::Superseded, "VirtualService shop/vs")
        ]
    );
    let of = |policy: &Policy, service: &str| table_of(policy, service).rules[0].origin.to_string();
    let policy = together(&[SPLIT, &istio]);
    assert_eq!(of(&policy, "shop/cart"), "VirtualService shop/vs http[0]");
    assert_eq!(
        of(&together(&[SPLIT]), "shop/cart"),
        "TrafficSplit shop/split spec"
    );

    // A host by its name before one by a star, and of two the first name.
    let policy = together(&[
        &virtual_service("a", "*"),
        &virtual_service("c", "cart"),
        &virtual_service("b", "cart.shop.svc.clusterset.local"),
    ]);
    assert_eq!(of(&policy, "shop/cart"), "VirtualService shop/b http[0]");
    assert_eq!(of(&policy, "far/v1"), "VirtualService shop/a http[0]");
    assert_eq!(policy.routes.len(), SERVICES.len());
}

#[test]
fn rules_of_a_namespace_hold_for_its_callers_alone() {
    let producer = route("shop", "producer", "", &["method: GET"]);
    let grant = "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: g, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: front}]
  to: [{group: '', kind: Service, name: v1}]";
    let consumer = route("front", "consumer", "", &["method: PUT"]);
    let policy = together(&[&producer, &consumer, grant]);
    assert!(policy.findings.is_empty(), "{:?}", policy.findings);
    let table = |policy: &Policy, namespace| {
        let routes = &policy.routes[&"shop/cart".parse().unwrap()];
        let namespace = Namespace::new(namespace).unwrap();
        routes.for_caller(&namespace).unwrap().as_ref().clone()
    };
    assert_eq!(names(&table(&policy, "front")), ["consumer: method: PUT"]);
    assert_eq!(names(&table(&policy, "shop")), ["producer: method: GET"]);
    assert_eq!(names(&table(&policy, "far")), ["producer: method: GET"]);

    // Without the grant the backend is none.
    let policy = together(&[&producer, &consumer]);
    let refused = (Code::NotGranted, "spec.rules[0].backendRefs[0]");
    assert_eq!(found(&policy), [refused]);
    match &table(&policy, "front").rules[0].then.to {
        To::Backends(backends) => match &backends[0].to {
            BackendRef::Broken(why) => assert!(why.contains("ReferenceGrant"), "{why}"),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_is_told_by_its_path() {
    let good = route("shop", "r", "", &["path: {value: /a}"]);
    assert!(compiled(&good).findings.is_empty());
    let rule = "spec.rules[0]";
    for (change, with, code, path) in [
        (
            "name: cart}]",
            "name: nobody}]",
            Code::ParentNotFound,
            "spec.parentRefs[0]".to_owned(),
        ),
        (
            "name: v1",
            "name: nobody",
            Code::BackendNotFound,
            format!("{rule}.backendRefs[0]"),
        ),
        (
            "port: 80",
            "port: 81",
            Code::BackendNotFound,
            format!("{rule}.backendRefs[0]"),
        ),
        (
            "port: 80",
            "port: 80, weight: 0",
            Code::NoWeight,
            format!("{rule}.backendRefs"),
        ),
        (
            "[{path: {value: /a}}]",
            "[{path: {value: a}}]",
            Code::InvalidValue,
            format!("{rule}.matches[0].path.value"),
        ),
        (
            "[{path: {value: /a}}]",
            "[{path: {type: RegularExpression, value: '(?=a)'}}]",
            Code::BrokenExpression,
            format!("{rule}.matches[0].path.value"),
        ),
        (
            "[{path: {value: /a}}]",
            "[{path: {type: Prefix, value: /a}}]",
            Code::InvalidValue,
            format!("{rule}.matches[0].path.type"),
        ),
        (
            "spec:",
            "spec:\n  parentRef: {}",
            Code::UnknownField,
            "spec.parentRef".to_owned(),
        ),
        (
            "  rules:",
            "  hostnames: [x]\n  rules:",
            Code::UnsupportedField,
            "spec.hostnames".to_owned(),
        ),
        ("port: 80", "port: http", Code::Malformed, "spec".to_owned()),
    ] {
        let text = good.replace(change, with);
        assert_ne!(text, good, "{change}");
        let policy = compiled(&text);
        assert!(
            found(&policy).contains(&(code, &path)),
            "{with}: {:#?}",
            policy.findings
        );
    }
    // A filter that is not served guards nothing: the rule answers 500.
    let filter =
        "    filters: [{type: ExtensionRef, extensionRef: {group: x, kind: y, name: z}}]\n";
    let policy = compiled(&(good + filter));
    let at = "spec.rules[0].filters[0].extensionRef";
    assert!(
        found(&policy).contains(&(Code::UnsupportedField, at)),
        "{:?}",
        policy.findings
    );
    let to = &table_of(&policy, "shop/cart").rules[0].then.to;
    assert!(matches!(to, To::Direct(d) if d.status == 500), "{to:?}");
}

#[test]
fn a_permission_for_browsers_is_told_of_where_no_preflight_reaches_it() {
    let text = |matches: &str| {
        format!(
            r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules:
  - matches: [{matches}]
    filters: [{{type: CORS, cors: {{allowOrigins: ['https://a:443', 'http://b:8080', '*.c']}}}}]
    backendRefs: [{{name: v1, port: 80}}]
"
        )
    };
    let idle = |matches| {
        let policy = compiled(&text(matches));
        found(&policy)
            .iter()
            .any(|(code, _)| *code == Code::IdleCors)
    };
    assert!(idle("{method: PUT}, {method: GET}"));
    assert!(!idle("{method: PUT}, {method: OPTIONS}"));
    assert!(!idle("{path: {value: /a}}"));
    let policy = compiled(&text(""));
    let cors = table_of(&policy, "shop/cart").rules[0]
        .then
        .cors
        .as_ref()
        .unwrap();
    let origins = ["https://a", "http://b:8080"].map(|o| Text::Exact(o.into()));
    assert_eq!(cors.origins[..2], origins, "as browsers write them");
    assert!(matches!(&cors.origins[2], Text::Regex(_)));
    for (with, at) in [
        ("allowMethods: ['a b']", "allowMethods[0]"),
        ("allowHeaders: ['a b']", "allowHeaders[0]"),
        ("exposeHeaders: ['']", "exposeHeaders[0]"),
    ] {
        let text = text("").replace("cors: {", &format!("cors: {{{with}, "));
        let policy = compiled(&text);
        let at = format!("spec.rules[0].filters[0].cors.{at}");
        assert!(
            found(&policy).contains(&(Code::InvalidValue, &at)),
            "{:?}",
            policy.findings
        );
    }
}

proptest! {
    /// The order of objects does not matter.
    #[test]
    fn the_same_objects_make_the_same(order in Just((0..5).collect::<Vec<usize>>()).prop_shuffle()) {
        let all = [
            SPLIT.to_owned(),
            virtual_service("b", "cart"),
            virtual_service("a", "*.shop.svc.cluster.local"),
            route("shop", "one", "", &["method: GET", "path: {value: /a}"]),
            route("shop", "two", "", &["path: {value: /a}", "method: PUT"]),
        ];
        let shuffled: Vec<_> = order.iter().map(|i| all[*i].as_str()).collect();
        let (policy, sorted) = (together(&shuffled), together(&all.each_ref().map(|t| t.as_str())));
        prop_assert_eq!(&policy.routes, &sorted.routes);
        let told = |p: &Policy| p.findings.iter().map(|f| (f.code, f.object.clone())).collect::<BTreeSet<_>>();
        prop_assert_eq!(told(&policy), told(&sorted));
    }
}

#[test]
fn whoever_compiles_again_and_again_makes_what_one_does_who_begins_anew() {
    let mut all = Vec::new();
    for kind in Known::ALL {
        for (n, text) in corpus::of(kind).iter().enumerate() {
            for mut object in objects(text) {
                object.place = format!("{}-{n}.yaml:1", object.kind);
                all.push(object);
            }
        }
    }
    let mut compiler = Compiler::default();
    let mut check = |objects: &[Object], world: &World| {
        let again = compiler.compile(objects, world);
        assert_eq!(again, compile(objects, world));
    };
    let mut world = world();
    check(&all, &world);
    check(&all, &world);
    // Each object goes and comes back; one that others refer to changes what they make.
    for index in 0..all.len() {
        let gone = all.remove(index);
        check(&all, &world);
        all.insert(index, gone);
        check(&all, &world);
        let spec = Arc::make_mut(&mut all[index].value)
            .get_mut("spec")
            .map(std::mem::take);
        check(&all, &world);
        if let Some(spec) = spec {
            Arc::make_mut(&mut all[index].value)["spec"] = spec;
        }
    }
    all.reverse();
    check(&all, &world);
    let first = world.services.keys().next().unwrap().clone();
    world.services.remove(&first);
    check(&all, &world);
    world.regions = Some(["eu".to_owned()].into());
    check(&all, &world);
}
