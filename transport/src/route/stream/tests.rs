//! Streams and the rules that they meet.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tradewind_api::{
    Namespace,
    route::{BackendRef, Kind, Origin},
};

use super::*;

fn rule(name: &str, when: StreamMatch) -> StreamRule {
    StreamRule {
        origin: Origin {
            kind: Kind::TlsRoute,
            object: "shop/db".parse().unwrap(),
            rule: name.into(),
            cluster: None,
        },
        when,
        to: Vec::new(),
    }
}

fn named(name: &str, sni: &[&str]) -> StreamRule {
    let sni = sni.iter().map(|s| (*s).to_owned()).collect();
    rule(
        name,
        StreamMatch {
            sni,
            ..StreamMatch::default()
        },
    )
}

fn table(rules: Vec<StreamRule>, otherwise: StreamOtherwise) -> StreamTable {
    StreamTable { rules, otherwise }
}

/// A caller with one label, and what it is asked of.
fn with_caller<T>(then: impl FnOnce(Caller<'_>) -> T) -> T {
    let namespace = Namespace::new("front").unwrap();
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    then(Caller {
        namespace: &namespace,
        labels: &labels,
    })
}

/// The name of the rule that takes it, or what becomes of it.
fn said(table: &StreamTable, port: u16, sni: Option<&str>) -> String {
    with_caller(|caller| {
        let call = StreamCall { port, sni, caller };
        let answers = explain(table, &call);
        let first = answers.iter().find(|a| a.mismatch.is_none());
        let verdict = decide(table, &call);
        match verdict {
            StreamVerdict::Rule(rule) => {
                assert_eq!(first.unwrap().rule, rule, "explained as decided");
                rule.origin.rule.clone()
            }
            other => {
                assert!(first.is_none());
                format!("{other:?}")
            }
        }
    })
}

#[test]
fn names_steer_whatever_their_case_and_stars_take_more_labels() {
    let table = table(
        vec![
            named("one", &["a.example.com", "b.example.com"]),
            named("deep", &["*.b.example.com"]),
            named("all", &["*.example.com"]),
            named("any", &["*"]),
        ],
        StreamOtherwise::Closed,
    );
    for (sni, is) in [
        (Some("a.example.com"), "one"),
        (Some("B.Example.COM"), "one"),
        (Some("b.example.com."), "one"),
        (Some("x.b.example.com"), "deep"),
        (Some("x.y.example.com"), "all"),
        (Some("example.com"), "any"),
        (Some(".example.com"), "any"),
        (Some("xexample.com"), "any"),
        (Some("é.example.com"), "all"),
        (Some("a.example.comé"), "any"),
        (None, "Closed"),
    ] {
        assert_eq!(said(&table, 443, sni), is, "{sni:?}");
    }
}

#[test]
fn what_no_rule_takes_is_closed_where_a_route_is_for_its_port_and_passes_elsewhere() {
    let mut on_443 = named("tls", &["a.example.com"]);
    on_443.when.port = Some(443);
    let closed = table(vec![on_443.clone()], StreamOtherwise::Closed);
    assert_eq!(said(&closed, 443, Some("b.example.com")), "Closed");
    assert_eq!(said(&closed, 443, None), "Closed");
    assert_eq!(said(&closed, 5432, Some("a.example.com")), "Service");
    let passed = table(vec![on_443], StreamOtherwise::Service);
    assert_eq!(said(&passed, 443, None), "Service");
    let empty = table(Vec::new(), StreamOtherwise::Closed);
    assert_eq!(said(&empty, 443, None), "Service");
}

#[test]
fn each_condition_counts_and_is_named_where_it_does_not_hold() {
    let whole = StreamMatch {
        port: Some(443),
        sni: vec!["a".into()],
        caller_namespace: Some(Namespace::new("front").unwrap()),
        caller_labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
    };
    let asked = |when: &StreamMatch| {
        with_caller(|caller| {
            let sni = Some("a");
            mismatch(
                when,
                &StreamCall {
                    port: 443,
                    sni,
                    caller,
                },
            )
        })
    };
    assert_eq!(asked(&whole), None);
    let changed = |change: fn(&mut StreamMatch)| {
        let mut when = whole.clone();
        change(&mut when);
        asked(&when)
    };
    for (is, part) in [
        (changed(|w| w.port = Some(80)), Part::Port),
        (changed(|w| w.sni = vec!["b".into()]), Part::ServerName),
        (
            changed(|w| w.caller_namespace = Namespace::new("shop").ok()),
            Part::CallerNamespace,
        ),
        (
            changed(|w| drop(w.caller_labels.insert("app".into(), "db".into()))),
            Part::CallerLabel("app".into()),
        ),
        (
            changed(|w| drop(w.caller_labels.insert("tier".into(), "x".into()))),
            Part::CallerLabel("tier".into()),
        ),
    ] {
        assert_eq!(is, Some(Mismatch::Is(part)));
    }
}

#[test]
fn a_name_is_asked_for_only_where_it_decides() {
    let asks = |rules: Vec<StreamRule>, port| {
        let table = table(rules, StreamOtherwise::Closed);
        with_caller(|caller| asks_for_name(&table, port, caller))
    };
    let mut elsewhere = named("elsewhere", &["a"]);
    elsewhere.when.port = Some(80);
    let mut strangers = named("strangers", &["a"]);
    strangers.when.caller_namespace = Some(Namespace::new("other").unwrap());
    let all = named("all", &[]);
    assert!(!asks(Vec::new(), 443));
    assert!(!asks(vec![elsewhere.clone(), strangers], 443));
    assert!(asks(vec![elsewhere], 80));
    assert!(asks(vec![named("tls", &["a"]), all.clone()], 443));
    assert!(!asks(vec![all, named("tls", &["a"])], 443), "never reached");
}

proptest! {
    /// Where the name is not asked for, it changes nothing.
    #[test]
    fn without_a_question_for_the_name_every_name_has_the_same_answer(
        rules in prop::collection::vec((0u16..3, prop::option::of("[ab]")), 0..5),
        port in 0u16..3,
        sni in prop::option::of("[ab]"),
        closed: bool,
    ) {
        let rules = rules.into_iter().enumerate().map(|(i, (port, sni))| {
            let mut rule = named(&i.to_string(), &[]);
            rule.when.sni.extend(sni);
            rule.when.port = (port > 0).then_some(port);
            rule
        });
        let otherwise = if closed { StreamOtherwise::Closed } else { StreamOtherwise::Service };
        let table = table(rules.collect(), otherwise);
        if !with_caller(|caller| asks_for_name(&table, port, caller)) {
            prop_assert_eq!(said(&table, port, sni.as_deref()), said(&table, port, None));
        }
    }
}

#[test]
fn shares_are_drawn_as_those_of_requests_are() {
    let to = |weight| StreamBackend {
        to: BackendRef::Broken(String::new()),
        weight,
    };
    let backends = [to(3), to(0), to(1)];
    let drawn = |quarter: u64| pick(&backends, quarter * (u64::MAX / 4 + 1));
    assert_eq!(
        [0, 1, 2, 3].map(drawn),
        [Some(0), Some(0), Some(0), Some(2)]
    );
    assert_eq!(pick(&[to(0)], 5), None);
    assert_eq!(pick(&[], 5), None);
}
