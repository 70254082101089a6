//! What a VirtualService's delegate makes of the rule that names it: matches put together, actions inherited, and everything that cannot be
//! told by whoever wrote it.

use tradewind_api::route::{Action, BackendRef, Direct, PathIs, Rewrite, To};

use super::*;

/// The objects of a root for the cart, of a delegate `front/leaf`, and of what else there is.
fn policy(root: &str, leaf: &str) -> Policy {
    compiled(
        &[&root_of(root), &leaf_of(leaf)]
            .map(String::as_str)
            .join("\n---\n"),
    )
}

fn root_of(rules: &str) -> String {
    vs("root", "shop", &format!("hosts: [cart], http: [{rules}]"))
}

fn leaf_of(rules: &str) -> String {
    vs("leaf", "front", &format!("http: [{rules}]"))
}

fn vs(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{spec}}}"
    )
}

const TO: &str = "delegate: {name: leaf, namespace: front}";
const ROUTE: &str = "route: [{destination: {host: v1}}]";

fn backends(action: &Action) -> Vec<String> {
    let To::Backends(all) = &action.to else {
        panic!("{action:?}")
    };
    let name = |to: &BackendRef| match to {
        BackendRef::Service { service, .. } => service.to_string(),
        BackendRef::Broken(text) => text.clone(),
    };
    all.iter().map(|b| name(&b.to)).collect()
}

#[test]
fn a_root_and_its_delegate_are_what_one_object_would_say() {
    let root = format!(
        "{{name: pay, match: [{{uri: {{prefix: /pay}}, headers: {{x: {{exact: a}}}}}}], {TO}, timeout: 3s, mirror: {{host: v2}}, mirrorPercentage: {{value: 5}}}}, {{{ROUTE}}}"
    );
    let leaf = format!(
        "{{name: in, match: [{{uri: {{exact: /pay/in}}, method: {{exact: GET}}}}], {ROUTE}}}, {{{ROUTE}, timeout: 1s}}"
    );
    let made = policy(&root, &leaf);
    assert!(made.findings.is_empty(), "{:?}", made.findings);
    let common = "headers: {x: {exact: a}}";
    let mirror = "mirror: {host: v2}, mirrorPercentage: {value: 5}";
    let by_hand = format!(
        "{{match: [{{uri: {{exact: /pay/in}}, method: {{exact: GET}}, {common}}}], route: [{{destination: {{host: v1.front}}}}], timeout: 3s, {mirror}}}, {{match: [{{uri: {{prefix: /pay}}, {common}}}], route: [{{destination: {{host: v1.front}}}}], timeout: 1s, {mirror}}}, {{{ROUTE}}}"
    );
    let by_hand = compiled(&root_of(&by_hand));
    let rules = |p: &Policy| -> Vec<_> {
        let rules = table_of(p, "shop/cart").rules.iter();
        rules.map(|r| (r.when.clone(), r.then.clone())).collect()
    };
    assert_eq!(rules(&made), rules(&by_hand));
    let names: Vec<_> = table_of(&made, "shop/cart")
        .rules
        .iter()
        .map(|r| r.origin.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "VirtualService shop/root pay, by front/leaf in",
            "VirtualService shop/root pay, by front/leaf http[1]",
            "VirtualService shop/root http[1]",
        ]
    );
}

/// What the delegate's rule makes with each of these settings at the root, at itself, and at both.
#[test]
fn what_a_delegate_leaves_out_is_the_roots() {
    for (root, leaf) in [
        ("rewrite: {uri: /a}", "rewrite: {uri: /b}"),
        ("timeout: 1s", "timeout: 2s"),
        (
            "retries: {attempts: 1, perTryTimeout: 1s}",
            "retries: {attempts: 2}",
        ),
        (
            "fault: {abort: {httpStatus: 500}}",
            "fault: {delay: {fixedDelay: 1s}}",
        ),
        ("mirror: {host: v1.shop}", "mirror: {host: v2.shop}"),
        (
            "mirrors: [{destination: {host: v1.shop}}]",
            "mirrors: [{destination: {host: v2.shop}}, {destination: {host: v1.shop}}]",
        ),
        (
            "corsPolicy: {allowOrigins: [{exact: a}]}",
            "corsPolicy: {allowOrigins: [{exact: b}]}",
        ),
        (
            "headers: {request: {set: {a: '1'}}}",
            "headers: {response: {remove: [b]}}",
        ),
        (
            "directResponse: {status: 200}",
            "directResponse: {status: 201}",
        ),
    ] {
        let action = |of_root: &str, of_leaf: &str| {
            let ends = |more: &str| {
                if more.is_empty() {
                    String::new()
                } else {
                    format!(", {more}")
                }
            };
            // What answers by itself has no route.
            let route = if of_leaf.starts_with("direct") {
                "name: x"
            } else {
                ROUTE
            };
            let policy = policy(
                &format!("{{{TO}{}}}", ends(of_root)),
                &format!("{{{route}{}}}", ends(of_leaf)),
            );
            assert!(policy.findings.is_empty(), "{:?}", policy.findings);
            table_of(&policy, "shop/cart").rules[0].then.clone()
        };
        let nothing = action("", "");
        assert_ne!(action(root, ""), nothing, "{root}");
        assert_eq!(action(root, ""), action("", root), "{root}");
        assert_eq!(action(root, leaf), action("", leaf), "{leaf}");
        assert_ne!(action(root, leaf), action(root, ""), "{leaf}");
    }
}

#[test]
fn shares_of_a_mirror_are_looked_for_in_both() {
    let share = |root: &str, leaf: &str| {
        let policy = policy(&format!("{{{TO}{root}}}"), &format!("{{{ROUTE}{leaf}}}"));
        let then = &table_of(&policy, "shop/cart").rules[0].then;
        assert_eq!(then.mirrors.len(), 1);
        then.mirrors[0].share
    };
    let of_leaf = ", mirror: {host: v1.shop}";
    assert_eq!(share("", of_leaf), 1_000_000);
    assert_eq!(share(", mirrorPercentage: {value: 5}", of_leaf), 50_000);
    assert_eq!(share(", mirrorPercent: 7", of_leaf), 70_000);
    let both = ", mirror: {host: v1.shop}, mirrorPercent: 7";
    assert_eq!(share(", mirrorPercentage: {value: 5}", both), 50_000);
}

#[test]
fn a_redirect_of_the_delegate_goes_before_the_roots_answer() {
    let made = policy(
        &format!("{{{TO}, directResponse: {{status: 204}}}}"),
        &format!("{{match: [{{uri: {{exact: /a}}}}], redirect: {{uri: /b}}}}, {{{ROUTE}}}"),
    );
    assert!(made.findings.is_empty(), "{:?}", made.findings);
    let rules = &table_of(&made, "shop/cart").rules;
    assert!(matches!(rules[0].then.to, To::Redirect(_)));
    let expected = Direct {
        status: 204,
        body: None,
    };
    assert_eq!(rules[1].then.to, To::Direct(expected));
    assert_eq!(rules[1].then.rewrite, Rewrite::default());
}

/// Pairs of matches, and whether what both mean is a rule. By the table of Istio's own tests, and its rules.
#[test]
fn what_contradicts_is_left_out_and_told() {
    for (root, leaf, fits) in [
        ("uri: {prefix: /a}", "uri: {prefix: /a/b}", true),
        ("uri: {prefix: /a}", "uri: {exact: /a/b}", true),
        ("uri: {prefix: /a/b}", "uri: {prefix: /a}", false),
        ("uri: {prefix: /a/b}", "uri: {exact: /a}", false),
        ("uri: {exact: /a}", "uri: {exact: /a}", true),
        ("uri: {exact: /a}", "uri: {exact: /b}", false),
        ("uri: {exact: /a}", "uri: {prefix: /a}", false),
        ("uri: {regex: /a}", "uri: {exact: /a}", false),
        ("uri: {prefix: /a}", "uri: {regex: /a}", false),
        ("uri: {regex: /a}", "uri: {regex: /a}", false),
        ("uri: {regex: /a}", "method: {exact: GET}", true),
        ("uri: {prefix: /a}", "uri: {}", false),
        ("scheme: {exact: http}", "scheme: {exact: https}", false),
        ("method: {exact: GET}", "method: {exact: PUT}", false),
        ("authority: {exact: a}", "authority: {exact: b}", false),
        (
            "headers: {x: {exact: a}}",
            "headers: {x: {exact: b}}",
            false,
        ),
        ("headers: {x: {exact: a}}", "headers: {y: {exact: b}}", true),
        (
            "withoutHeaders: {x: {exact: a}}",
            "withoutHeaders: {x: {exact: b}}",
            false,
        ),
        (
            "queryParams: {x: {exact: a}}",
            "queryParams: {x: {exact: b}}",
            false,
        ),
        (
            "uri: {prefix: /a}",
            "uri: {prefix: /a}, ignoreUriCase: true",
            false,
        ),
        ("port: 80", "port: 81", false),
        ("port: 80", "port: 80", true),
        ("sourceNamespace: front", "sourceNamespace: front", true),
        ("sourceNamespace: front", "sourceNamespace: shop", false),
        ("sourceNamespace: front", "port: 80", false),
        ("port: 80", "sourceNamespace: front", true),
        ("sourceLabels: {a: b}", "sourceLabels: {a: c}", false),
        ("sourceLabels: {a: b}", "sourceLabels: {c: d}", true),
        ("gateways: [mesh, edge]", "gateways: [mesh]", true),
        ("gateways: [mesh]", "gateways: [mesh, edge]", false),
        ("gateways: [mesh]", "port: 80", true),
    ] {
        let made = policy(
            &format!("{{match: [{{{root}}}], {TO}}}"),
            &format!(
                "{{match: [{{{leaf}}}], {ROUTE}}}, {{match: [{{{root}}}], directResponse: {{status: 200}}}}"
            ),
        );
        let table = table_of(&made, "shop/cart");
        let first = table.rules.first().map(|r| &r.then.to);
        let is_there = matches!(first, Some(To::Backends(_)));
        assert_eq!(is_there, fits, "{root} / {leaf}: {table:?}");
        let told = (Code::Contradiction, "spec.http[0].match");
        assert_eq!(found(&made).contains(&told), !fits, "{root} / {leaf}");
    }
}

#[test]
fn each_match_is_put_together_with_each_that_it_fits() {
    let roots = "match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}, {port: 81}]";
    let made = policy(
        &format!("{{{roots}, {TO}}}"),
        &format!(
            "{{match: [{{uri: {{exact: /a/x}}}}, {{uri: {{exact: /b/x}}, port: 80}}], {ROUTE}}}, {{match: [{{uri: {{exact: /a/x}}}}, {{uri: {{exact: /z}}, port: 80}}], {ROUTE}}}"
        ),
    );
    // Of the second rule one match fits none, so all of it is left out. The root's third match asks for less than its first.
    assert_eq!(
        found(&made),
        [
            (Code::Shadowed, "spec"),
            (Code::Contradiction, "spec.http[1].match"),
        ]
    );
    let of: Vec<_> = table_of(&made, "shop/cart")
        .rules
        .iter()
        .map(|r| (r.when.path.as_ref().map(|p| p.is.clone()), r.when.port))
        .collect();
    let exact = |p: &str| Some(PathIs::Exact(p.to_owned()));
    assert_eq!(
        of,
        [
            (exact("/a/x"), None),
            (exact("/a/x"), Some(81)),
            (exact("/b/x"), Some(80)),
        ]
    );
}

#[test]
fn a_delegate_that_is_none_leaves_its_rule_out_and_is_told() {
    let next = "{directResponse: {status: 200}}";
    let root = root_of(&format!("{{{TO}}}, {next}"));
    let missing = (Code::DelegateNotFound, "spec.http[0].delegate");
    for (others, told) in [
        (vec![], vec![missing]),
        (
            vec![vs("leaf", "shop", &format!("http: [{{{ROUTE}}}]"))],
            vec![missing, (Code::IdleDelegate, "")],
        ),
        (
            vec![vs(
                "leaf",
                "front",
                &format!("hosts: [web], http: [{{{ROUTE}}}]"),
            )],
            vec![missing],
        ),
        (
            vec![vs(
                "leaf",
                "front",
                &format!("exportTo: [.], http: [{{{ROUTE}}}]"),
            )],
            vec![missing],
        ),
        (
            vec![vs("leaf", "front", "http: {}")],
            vec![missing, (Code::Malformed, "spec")],
        ),
    ] {
        let mut texts = vec![root.clone()];
        texts.extend(others.clone());
        let made = compiled(&texts.join("\n---\n"));
        assert_eq!(found(&made), told, "{others:?}");
        let rules = &table_of(&made, "shop/cart").rules;
        assert_eq!(rules.len(), 1, "requests meet the next rule");
    }
    let exported = vs(
        "leaf",
        "front",
        &format!("exportTo: [shop], http: [{{{ROUTE}}}]"),
    );
    let alone = root_of(&format!("{{{TO}}}"));
    let made = compiled(&[alone, exported].join("\n---\n"));
    assert!(made.findings.is_empty(), "{:?}", made.findings);
    assert_eq!(
        backends(&table_of(&made, "shop/cart").rules[0].then),
        ["front/v1"]
    );
}

#[test]
fn what_a_delegate_cannot_have_is_told() {
    let leaf = vs(
        "leaf",
        "front",
        &format!(
            "gateways: [edge], http: [{{{TO}}}, {{{ROUTE}}}], tcp: [{{{ROUTE}}}], tls: [{{match: [{{sniHosts: [a.example]}}], {ROUTE}}}]"
        ),
    );
    let root = root_of(&format!("{{{TO}, {ROUTE}, redirect: {{uri: /a}}}}"));
    let made = compiled(&[root, leaf].join("\n---\n"));
    assert_eq!(
        found(&made),
        [
            (Code::IdleSetting, "spec.http[0].redirect"),
            (Code::IdleSetting, "spec.http[0].route"),
            (Code::InvalidValue, "spec.http[0].delegate"),
            (Code::IdleSetting, "spec.gateways"),
            (Code::IdleSetting, "spec.tcp"),
            (Code::IdleSetting, "spec.tls"),
        ]
    );
    let rules = &table_of(&made, "shop/cart").rules;
    assert_eq!(rules.len(), 1, "one level: {rules:?}");
    let empty = compiled(&[root_of(&format!("{{{TO}}}")), leaf_of("")].join("\n---\n"));
    assert_eq!(found(&empty), [(Code::IdleSetting, "spec.http")]);
}

#[test]
fn what_is_wrong_in_a_delegate_is_told_once_and_there() {
    let leaf = leaf_of(
        "{match: [{headers: {'bad name': {exact: a}}}], route: [{destination: {host: nobody}}]}",
    );
    let roots = format!("{{match: [{{port: 80}}], {TO}}}, {{match: [{{port: 81}}], {TO}}}");
    let made = compiled(&[root_of(&roots), leaf].join("\n---\n"));
    let told: Vec<_> = made
        .findings
        .iter()
        .map(|f| (f.code, f.object.as_str(), f.path.as_str()))
        .collect();
    let object = "VirtualService front/leaf";
    assert_eq!(
        told,
        [
            (
                Code::InvalidValue,
                object,
                "spec.http[0].match[0].headers.bad name"
            ),
            (
                Code::BackendNotFound,
                object,
                "spec.http[0].route[0].destination"
            ),
        ]
    );
}

#[test]
fn of_two_delegates_of_one_name_the_older_holds() {
    let dated = leaf_of(&format!("{{{ROUTE}}}")).replace(
        "name: leaf,",
        "name: leaf, creationTimestamp: '2024-01-01T00:00:00Z',",
    );
    let other = leaf_of("{directResponse: {status: 200}}");
    for (a, b) in [(&dated, &other), (&other, &dated)] {
        let texts = [a.clone(), root_of(&format!("{{{TO}}}")), b.clone()];
        let made = compiled(&texts.join("\n---\n"));
        assert_eq!(found(&made), [(Code::Superseded, "")]);
        assert_eq!(
            backends(&table_of(&made, "shop/cart").rules[0].then),
            ["front/v1"]
        );
    }
}

#[test]
fn delegated_rules_have_a_bound() {
    let matches: Vec<_> = (0..40).map(|i| format!("{{port: {}}}", i + 1)).collect();
    let roots = format!("{{match: [{}], {TO}}}", matches.join(", "));
    let leaves: Vec<_> = (0..40)
        .map(|i| format!("{{headers: {{x: {{exact: '{i}'}}}}}}"))
        .collect();
    let leaf = format!(
        "{{match: [{{method: {{exact: GET}}}}], {ROUTE}}}, {{match: [{}], {ROUTE}}}, {{{ROUTE}}}",
        leaves.join(", ")
    );
    let made = policy(&roots, &leaf);
    let told = found(&made);
    assert!(
        told.contains(&(Code::InvalidValue, "spec.http[0].delegate")),
        "{told:?}"
    );
    assert_eq!(table_of(&made, "shop/cart").rules.len(), 40);
}

/// A delegate is no part of its root's text, so whoever reads objects again only when they change must know of it.
#[test]
fn a_change_of_a_delegate_changes_its_roots_rules() {
    let root = root_of(&format!("{{{TO}}}"));
    let with = |leaf: &str| objects(&[root.as_str(), leaf].join("\n---\n"));
    let (one, two) = (
        with(&leaf_of(&format!("{{{ROUTE}}}"))),
        with(&leaf_of("{directResponse: {status: 200}}")),
    );
    let mut compiler = Compiler::default();
    for objects in [&one, &two, &one] {
        let again = compiler.compile(objects, &world());
        assert_eq!(again, compile(objects, &world()));
    }
    assert_ne!(
        compile(&one, &world()).routes,
        compile(&two, &world()).routes
    );
}
