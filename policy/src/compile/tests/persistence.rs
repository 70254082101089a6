//! A rule's `sessionPersistence`: what each way of writing it makes, and what is told of values that cannot work.

use tradewind_api::route::{Carrier, Kind, Origin, Persistence};

use super::*;

/// The only rule of a route of this kind with that `sessionPersistence`.
fn with(kind: &str, session: &str) -> Policy {
    compiled(&format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules:
  - backendRefs: [{{name: v1, port: 80}}]
    sessionPersistence: {session}
"
    ))
}

fn read(kind: &str, session: &str) -> Option<Persistence> {
    let policy = with(kind, session);
    assert!(
        policy.findings.is_empty(),
        "{session}: {:?}",
        policy.findings
    );
    table_of(&policy, "shop/cart").rules[0]
        .then
        .persistence
        .clone()
}

fn cookie(name: &str, path: &str, permanent: bool) -> Carrier {
    Carrier::Cookie {
        name: name.to_owned(),
        path: path.to_owned(),
        permanent,
    }
}

#[test]
fn both_ways_of_writing_are_read_for_both_kinds() {
    for (kind, origin_kind) in [
        ("HTTPRoute", Kind::HttpRoute),
        ("GRPCRoute", Kind::GrpcRoute),
    ] {
        let usual = Persistence::usual_name(&Origin {
            kind: origin_kind,
            object: "shop/cart".parse().unwrap(),
            rule: "rules[0]".to_owned(),
            cluster: None,
        });
        let table: [(&str, Carrier, Option<u64>, Option<u64>); 10] = [
            ("{}", cookie(&usual, "/", false), None, None),
            (
                "{type: Cookie, cookie: {}}",
                cookie(&usual, "/", false),
                None,
                None,
            ),
            ("{type: Header}", Carrier::Header(usual.clone()), None, None),
            ("{sessionName: a}", cookie("a", "/", false), None, None),
            (
                "{sessionName: a, type: Header, idleTimeout: 1m30s}",
                Carrier::Header("a".to_owned()),
                None,
                Some(90_000),
            ),
            (
                "{sessionName: a, absoluteTimeout: 1h, idleTimeout: 500ms, cookieConfig: {lifetimeType: Permanent}}",
                cookie("a", "/", true),
                Some(3_600_000),
                Some(500),
            ),
            (
                "{absoluteTimeout: 1h, cookieConfig: {lifetimeType: Session}}",
                cookie(&usual, "/", false),
                Some(3_600_000),
                None,
            ),
            (
                "{absoluteTimeout: 1h, cookie: {name: b, path: /shop, lifetimeType: Permanent}}",
                cookie("b", "/shop", true),
                Some(3_600_000),
                None,
            ),
            // The newer way counts.
            (
                "{sessionName: a, cookie: {name: b, lifetimeType: Session}, absoluteTimeout: 1s, cookieConfig: {lifetimeType: Permanent}}",
                cookie("b", "/", false),
                Some(1_000),
                None,
            ),
            (
                "{sessionName: a, type: Header, header: {name: X-B}}",
                Carrier::Header("x-b".to_owned()),
                None,
                None,
            ),
        ];
        for (session, by, absolute_ms, idle_ms) in table {
            let wanted = Persistence {
                by,
                absolute_ms,
                idle_ms,
            };
            assert_eq!(read(kind, session), Some(wanted), "{kind}: {session}");
        }
    }
}

#[test]
fn what_cannot_work_is_told_where_it_stands_and_its_rule_is_left_out() {
    let long = format!("{{sessionName: {}}}", "a".repeat(257));
    for (session, at) in [
        ("{cookie: {lifetimeType: Permanent}}", "cookie.lifetimeType"),
        (
            "{cookieConfig: {lifetimeType: Permanent}}",
            "cookieConfig.lifetimeType",
        ),
        (
            "{cookieConfig: {lifetimeType: Eternal}}",
            "cookieConfig.lifetimeType",
        ),
        ("{type: Query}", "type"),
        ("{absoluteTimeout: 0s}", "absoluteTimeout"),
        ("{absoluteTimeout: soon}", "absoluteTimeout"),
        ("{idleTimeout: 0s}", "idleTimeout"),
        ("{sessionName: 'a b'}", "sessionName"),
        ("{sessionName: ''}", "sessionName"),
        (long.as_str(), "sessionName"),
        ("{sessionName: __Host-a}", "sessionName"),
        ("{cookie: {name: 'a;b'}}", "cookie.name"),
        ("{cookie: {path: shop}}", "cookie.path"),
        ("{cookie: {path: '/shop; Domain=x'}}", "cookie.path"),
        ("{type: Header, sessionName: 'a b'}", "sessionName"),
        (
            "{type: Header, header: {name: Content-Length}}",
            "header.name",
        ),
        (
            "{type: Header, header: {name: tradewind-served-by}}",
            "header.name",
        ),
    ] {
        let policy = with("HTTPRoute", session);
        let at = format!("spec.rules[0].sessionPersistence.{at}");
        assert_eq!(
            found(&policy),
            [(Code::InvalidValue, at.as_str())],
            "{session}"
        );
        let routes = policy.routes.get(&"shop/cart".parse().unwrap());
        let rules = routes.and_then(|r| r.of_all.as_ref()).map(|t| &t.rules);
        let kept = rules
            .into_iter()
            .flatten()
            .any(|r| r.then.persistence.is_some());
        assert!(!kept, "{session}");
    }
}

#[test]
fn what_is_for_the_other_type_or_for_no_endpoint_is_told_and_left() {
    for (session, at) in [
        (
            "{type: Header, header: {name: a}, cookie: {name: b}}",
            "cookie",
        ),
        (
            "{type: Header, header: {name: a}, cookieConfig: {lifetimeType: Session}}",
            "cookieConfig",
        ),
        (
            "{type: Cookie, cookie: {name: b}, header: {name: a}}",
            "header",
        ),
    ] {
        let policy = with("GRPCRoute", session);
        let at = format!("spec.rules[0].sessionPersistence.{at}");
        assert_eq!(
            found(&policy),
            [(Code::IdleSetting, at.as_str())],
            "{session}"
        );
        let persistence = &table_of(&policy, "shop/cart").rules[0].then.persistence;
        assert!(persistence.is_some(), "{session}");
    }
    let policy = compiled(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart}]
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {hostname: a.example}}]
    sessionPersistence: {}
",
    );
    let at = "spec.rules[0].sessionPersistence";
    assert_eq!(found(&policy), [(Code::IdleSetting, at)]);
}

/// Two routes of a service, with this `sessionPersistence` each; the second one's rule has a name.
fn two(first: &str, second: &str) -> Policy {
    let route = |name: &str, path: &str, rule: &str, session: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules:
  - matches: [{{path: {{value: {path}}}}}, {{path: {{value: {path}s}}}}]
    backendRefs: [{{name: v1, port: 80}}]
    {rule}
    sessionPersistence: {session}
"
        )
    };
    let (a, b) = (
        route("a", "/aaa", "", first),
        route("b", "/b", "name: late", second),
    );
    compiled(&format!("{a}---{b}"))
}

#[test]
fn rules_that_keep_their_sessions_under_one_name_are_told() {
    for (first, second, by) in [
        (
            "{sessionName: c}",
            "{cookie: {name: c}, absoluteTimeout: 1h}",
            r#"cookie "c" with the path "/""#,
        ),
        (
            "{sessionName: x-c, type: Header}",
            "{type: Header, header: {name: X-C}}",
            r#"header "x-c""#,
        ),
    ] {
        let policy = two(first, second);
        let at = "spec.rules[0].sessionPersistence";
        assert_eq!(found(&policy), [(Code::SharedSession, at)]);
        let finding = &policy.findings[0];
        assert_eq!(finding.object, "HTTPRoute shop/b");
        let text = format!(
            "its sessions for service shop/cart overwrite those of HTTPRoute shop/a rules[0]: clients keep both in the {by}"
        );
        assert_eq!(finding.text, text);
    }
    for (first, second) in [
        ("{}", "{}"),
        ("{sessionName: a}", "{sessionName: b}"),
        ("{sessionName: a}", "{sessionName: a, type: Header}"),
        (
            "{cookie: {name: a, path: /aaa}}",
            "{cookie: {name: a, path: /b}}",
        ),
    ] {
        let policy = two(first, second);
        assert!(policy.findings.is_empty(), "{:?}", policy.findings);
    }
}
