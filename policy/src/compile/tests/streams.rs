//! Rules for streams: which goes before which, for whom they hold, and what is said of those that do not.

use proptest::prelude::*;
use tradewind_api::route::{BackendRef, StreamOtherwise, StreamTable};

use super::*;

/// A route of a kind for the cart, with one rule that leads to `v1`.
fn route(kind: &str, (namespace, name): (&str, &str), hostnames: &[&str]) -> String {
    let hostnames: String = match hostnames {
        [] => String::new(),
        all => format!("\n  hostnames: ['{}']", all.join("', '")),
    };
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, namespace: shop, name: cart}}]{hostnames}
  rules:
  - name: {name}
    backendRefs: [{{namespace: {namespace}, name: v1, port: 80}}]"
    )
}

fn virtual_service(name: &str, host: &str, rules: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: ['{host}']
{rules}"
    )
}

const TO_V2: &str = "route: [{destination: {host: v2}}]";

fn together(texts: &[&str]) -> Policy {
    compiled(&texts.join("\n---\n"))
}

fn streams_of<'a>(policy: &'a Policy, service: &str) -> &'a StreamTable {
    let routes = &policy.routes[&service.parse().unwrap()];
    routes.streams.of_all.as_ref().unwrap()
}

/// Each rule's name and the server names that it wants.
fn rules(table: &StreamTable) -> Vec<(String, String)> {
    let rule = |r: &tradewind_api::route::StreamRule| (r.origin.rule.clone(), r.when.sni.join(" "));
    table.rules.iter().map(rule).collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    all.iter().map(own).collect()
}

#[test]
fn the_more_a_name_says_the_earlier_it_is_asked_whatever_route_it_stands_in() {
    let texts = [
        route("TCPRoute", ("shop", "all"), &[]),
        route(
            "TLSRoute",
            ("shop", "one"),
            &["*.example.com", "A.example.com", "b.org"],
        ),
        route(
            "TLSRoute",
            ("shop", "two"),
            &["*.b.example.com", "c.example.com"],
        ),
    ];
    let mut reversed = texts.each_ref().map(String::as_str);
    reversed.reverse();
    for texts in [texts.each_ref().map(String::as_str), reversed] {
        let policy = together(&texts);
        assert!(policy.findings.is_empty(), "{:?}", policy.findings);
        let table = streams_of(&policy, "shop/cart");
        let expected = pairs(&[
            ("one", "a.example.com b.org"),
            ("two", "c.example.com"),
            ("two", "*.b.example.com"),
            ("one", "*.example.com"),
            ("all", ""),
        ]);
        assert_eq!(rules(table), expected);
        assert_eq!(table.otherwise, StreamOtherwise::Closed);
    }
}

#[test]
fn a_virtual_service_has_rules_for_requests_names_and_streams_at_once() {
    let text = format!(
        "  http: [{{{TO_V2}}}]
  tcp: [{{match: [{{port: 80}}], {TO_V2}}}, {{{TO_V2}}}]
  tls: [{{match: [{{sniHosts: [a, '*']}}], {TO_V2}}}]"
    );
    let policy = compiled(&virtual_service("vs", "cart", &text));
    assert!(policy.findings.is_empty(), "{:?}", policy.findings);
    assert_eq!(table_of(&policy, "shop/cart").rules.len(), 1);
    let table = streams_of(&policy, "shop/cart");
    let expected = pairs(&[("tls[0]", "a *"), ("tcp[0]", ""), ("tcp[1]", "")]);
    assert_eq!(rules(table), expected);
    assert_eq!(table.otherwise, StreamOtherwise::Service);
    assert_eq!(table.rules[1].when.port, Some(80));
    assert_eq!(table.rules[2].to[0].weight, 1, "one alone has all");

    // Without rules for streams there is no table for them.
    let policy = compiled(&virtual_service(
        "vs",
        "cart",
        &format!("  http: [{{{TO_V2}}}]"),
    ));
    assert!(
        policy.routes[&"shop/cart".parse().unwrap()]
            .streams
            .is_empty()
    );
}

#[test]
fn one_language_holds_for_streams_whoever_holds_for_requests() {
    let both = format!("  http: [{{{TO_V2}}}]\n  tcp: [{{{TO_V2}}}]");
    let (istio, tcp) = (
        virtual_service("vs", "cart", &both),
        route("TCPRoute", ("shop", "tcp"), &[]),
    );
    let policy = together(&[&istio, &tcp]);
    assert_eq!(
        rules(streams_of(&policy, "shop/cart")),
        pairs(&[("tcp", "")])
    );
    let of_requests = &table_of(&policy, "shop/cart").rules[0].origin;
    assert_eq!(of_requests.to_string(), "VirtualService shop/vs http[0]");
    assert_eq!(found(&policy), [(Code::Superseded, "")]);
    let told = &policy.findings[0];
    assert_eq!(told.object, "VirtualService shop/vs");
    assert!(
        told.text
            .starts_with("has no effect on streams to service shop/cart: TCPRoute"),
        "{told}"
    );

    // A host by its name before one by a star.
    let tcp = format!("  tcp: [{{{TO_V2}}}]");
    let policy = together(&[
        &virtual_service("a", "*.shop.svc.cluster.local", &tcp),
        &virtual_service("b", "cart", &tcp),
    ]);
    let by = |service| {
        streams_of(&policy, service).rules[0]
            .origin
            .object
            .to_string()
    };
    assert_eq!([by("shop/cart"), by("shop/v1")], ["shop/b", "shop/a"]);
}

#[test]
fn a_route_of_another_namespace_is_for_its_callers_and_needs_a_grant_for_what_is_not_its_own() {
    let producer = route("TLSRoute", ("shop", "producer"), &["a"]);
    let consumer = route("TLSRoute", ("front", "consumer"), &["b"]);
    let policy = together(&[&producer, &consumer]);
    assert!(policy.findings.is_empty(), "{:?}", policy.findings);
    let of = |namespace| {
        let streams = &policy.routes[&"shop/cart".parse().unwrap()].streams;
        rules(
            streams
                .for_caller(&Namespace::new(namespace).unwrap())
                .unwrap(),
        )
    };
    assert_eq!(of("front"), pairs(&[("consumer", "b")]));
    assert_eq!(of("far"), pairs(&[("producer", "a")]));

    let foreign = consumer.replace("namespace: front, name: v1", "namespace: far, name: v1");
    let grant = |kind| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {{name: g, namespace: far}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: front}}]
  to: [{{group: '', kind: Service}}]"
        )
    };
    let refused = [(Code::NotGranted, "spec.rules[0].backendRefs[0]")];
    let policy = together(&[&foreign, &grant("TCPRoute")]);
    assert_eq!(found(&policy), refused, "another kind's");
    let streams = &policy.routes[&"shop/cart".parse().unwrap()].streams;
    let front = &streams.of_callers[&Namespace::new("front").unwrap()];
    assert!(
        matches!(&front.rules[0].to[0].to, BackendRef::Broken(why) if why.contains("ReferenceGrant"))
    );
    assert!(
        together(&[&foreign, &grant("TLSRoute")])
            .findings
            .is_empty()
    );
}

#[test]
fn what_is_wrong_with_a_route_is_told_by_its_path() {
    let good = route("TLSRoute", ("shop", "r"), &["a.example.com"]);
    assert!(compiled(&good).findings.is_empty());
    let backend = "spec.rules[0].backendRefs[0]";
    for (change, with, code, path) in [
        (
            "name: cart}]",
            "name: nobody}]",
            Code::ParentNotFound,
            "spec.parentRefs[0]",
        ),
        (
            "name: cart}]",
            "name: cart, sectionName: nobody}]",
            Code::ParentNotFound,
            "spec.parentRefs[0].sectionName",
        ),
        ("name: v1", "name: nobody", Code::BackendNotFound, backend),
        ("port: 80", "port: 81", Code::BackendNotFound, backend),
        (
            "port: 80",
            "port: 80, weight: 0",
            Code::NoWeight,
            "spec.rules[0].backendRefs",
        ),
        (
            "a.example.com",
            "127.0.0.1",
            Code::InvalidValue,
            "spec.hostnames[0]",
        ),
        (
            "a.example.com",
            "a*.example.com",
            Code::InvalidValue,
            "spec.hostnames[0]",
        ),
        (
            "a.example.com",
            "*",
            Code::InvalidValue,
            "spec.hostnames[0]",
        ),
        (
            "spec:",
            "spec:\n  useDefaultGateways: All",
            Code::UnsupportedField,
            "spec.useDefaultGateways",
        ),
        (
            "port: 80",
            "port: 80, filters: []",
            Code::UnknownField,
            "spec.rules[0].backendRefs[0].filters",
        ),
        ("  rules:", "  ruels:", Code::InvalidValue, "spec.rules"),
        ("port: 80", "port: http", Code::Malformed, "spec"),
    ] {
        let text = good.replace(change, with);
        assert_ne!(text, good, "{change}");
        let policy = compiled(&text);
        assert!(
            found(&policy).contains(&(code, path)),
            "{with}: {:#?}",
            policy.findings
        );
    }
    // A name that is none takes nothing, and a route without one takes all.
    let rules = |name: &str| {
        let policy = compiled(&good.replace("a.example.com", name));
        let is_there = !policy.routes.is_empty();
        is_there.then(|| streams_of(&policy, "shop/cart").rules.len())
    };
    assert_eq!((rules("_"), rules("a..b")), (Some(1), None));
    // Names are TLSRoute's alone.
    let policy = compiled(&good.replace("TLSRoute", "TCPRoute"));
    assert_eq!(found(&policy), [(Code::UnknownField, "spec.hostnames")]);
    assert_eq!(
        self::rules(streams_of(&policy, "shop/cart")),
        pairs(&[("r", "")])
    );
    // Of several rules without a match the first takes all.
    let second = "\n  - name: second\n    backendRefs: [{name: v2, port: 80}]";
    let policy = compiled(&(good.clone() + second));
    assert_eq!(found(&policy), [(Code::Shadowed, "spec")]);
    // As does a route that takes all that another one would.
    let narrow = route("TLSRoute", ("shop", "t"), &["a.example.com"]);
    let policy = together(&[&good, &narrow]);
    assert_eq!(found(&policy), [(Code::Shadowed, "spec")]);
    assert_eq!(policy.findings[0].object, "TLSRoute shop/t");
}

#[test]
fn what_a_virtual_service_cannot_have_here_is_told_and_takes_no_stream() {
    let tcp = |m: &str| format!("  tcp: [{{match: [{m}], {TO_V2}}}]");
    let tls = |m: &str| format!("  tls: [{{match: [{m}], {TO_V2}}}]");
    let (names, tcp_match) = ("spec.tls[0].match[0].sniHosts", "spec.tcp[0].match[0]");
    for (rules, code, path) in [
        (
            tcp("{destinationSubnets: [10.0.0.0/8]}"),
            Code::UnsupportedField,
            format!("{tcp_match}.destinationSubnets"),
        ),
        (
            tcp("{sourceSubnet: 10.0.0.0/8}"),
            Code::UnsupportedField,
            format!("{tcp_match}.sourceSubnet"),
        ),
        (
            tls("{sniHosts: [a], destinationSubnets: [10.0.0.0/8]}"),
            Code::UnsupportedField,
            "spec.tls[0].match[0].destinationSubnets".to_owned(),
        ),
        (
            tcp("{sourceNamespace: '-'}"),
            Code::InvalidValue,
            format!("{tcp_match}.sourceNamespace"),
        ),
        (tls("{port: 80}"), Code::InvalidValue, names.to_owned()),
        (
            tls("{sniHosts: ['a b']}"),
            Code::InvalidValue,
            format!("{names}[0]"),
        ),
        (
            format!("  tls: [{{{TO_V2}}}]"),
            Code::InvalidValue,
            "spec.tls[0].match".to_owned(),
        ),
    ] {
        let policy = compiled(&virtual_service("vs", "cart", &rules));
        assert!(
            found(&policy).contains(&(code, &path)),
            "{rules}: {:#?}",
            policy.findings
        );
        assert!(streams_of(&policy, "shop/cart").rules.is_empty(), "{rules}");
    }
    for (rules, code, path) in [
        ("  tcp: [{}]", Code::NoWeight, "spec.tcp[0].route"),
        (
            "  tcp: [{route: [{destination: {host: nobody}}]}]",
            Code::BackendNotFound,
            "spec.tcp[0].route[0].destination",
        ),
        (
            "  tls: [{match: [{sniHosts: [a]}], route: [{destination: {host: v2, subset: b}}]}]",
            Code::SubsetNotFound,
            "spec.tls[0].route[0].destination.subset",
        ),
        (
            "  tcp: [{match: [{sniHosts: [a]}]}]",
            Code::UnknownField,
            "spec.tcp[0].match[0].sniHosts",
        ),
    ] {
        let policy = compiled(&virtual_service("vs", "cart", rules));
        assert!(
            found(&policy).contains(&(code, path)),
            "{rules}: {:#?}",
            policy.findings
        );
        assert_eq!(streams_of(&policy, "shop/cart").rules.len(), 1, "{rules}");
    }
}

proptest! {
    /// The order of objects does not matter.
    #[test]
    fn the_same_objects_make_the_same_rules_for_streams(order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle()) {
        let tcp = format!("  tcp: [{{{TO_V2}}}]");
        let all = [
            virtual_service("b", "cart", &tcp),
            virtual_service("a", "*.shop.svc.cluster.local", &tcp),
            route("TLSRoute", ("shop", "one"), &["*.example.com", "a.example.com"]),
            route("TLSRoute", ("shop", "two"), &["a.example.com", "*.org"]),
            route("TCPRoute", ("shop", "three"), &[]),
            route("TCPRoute", ("front", "four"), &[]),
        ];
        let shuffled: Vec<_> = order.iter().map(|i| all[*i].as_str()).collect();
        let (policy, sorted) = (together(&shuffled), together(&all.each_ref().map(|t| t.as_str())));
        prop_assert_eq!(&policy.routes, &sorted.routes);
        let told = |p: &Policy| p.findings.iter().map(|f| (f.code, f.object.clone())).collect::<BTreeSet<_>>();
        prop_assert_eq!(told(&policy), told(&sorted));
    }
}
