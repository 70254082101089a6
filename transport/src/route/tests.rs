//! Rules are asked as their languages say, and nothing that a caller sends harms whoever asks.

mod cors;

use http::HeaderValue;
use proptest::prelude::*;
use tradewind_api::route::{
    BackendRef, Edits, FieldMatch, HeaderEdits, Kind, PathEdit, PathIs, PathMatch, Redirect,
    RedirectPort, Text,
};

use super::*;

fn exact(text: &str) -> Text {
    Text::Exact(text.into())
}

fn path(is: PathIs) -> Match {
    Match {
        path: Some(PathMatch {
            is,
            ignores_case: false,
        }),
        ..Match::default()
    }
}

fn field(name: &str, is: Text) -> FieldMatch {
    FieldMatch {
        name: name.into(),
        is,
        not: false,
    }
}

fn rule(name: &str, when: Match) -> Rule {
    Rule {
        origin: Origin {
            kind: Kind::HttpRoute,
            object: "shop/cart".parse().unwrap(),
            rule: name.into(),
            cluster: None,
        },
        when,
        then: Arc::new(Action::new(To::Backends(vec![to("shop/cart", 1)]))),
    }
}

fn to(service: &str, weight: u32) -> Backend {
    Backend {
        to: BackendRef::Service {
            service: service.parse().unwrap(),
            port: None,
            subset: None,
        },
        weight,
        edits: Edits::default(),
    }
}

/// A request, to be changed before it is asked about.
struct Asked {
    method: Method,
    path: String,
    query: Option<String>,
    authority: String,
    headers: HeaderMap,
    port: u16,
    namespace: Namespace,
    labels: BTreeMap<String, String>,
}

fn get(path: &str) -> Asked {
    let (path, query) = path
        .split_once('?')
        .map_or((path, None), |(p, q)| (p, Some(q.to_owned())));
    Asked {
        method: Method::GET,
        path: path.into(),
        query,
        authority: "cart.shop:8080".into(),
        headers: HeaderMap::new(),
        port: 80,
        namespace: Namespace::new("front").unwrap(),
        labels: BTreeMap::new(),
    }
}

impl Asked {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers
            .append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    fn call(&self) -> Call<'_> {
        Call {
            port: self.port,
            method: &self.method,
            scheme: "http",
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            caller: Caller {
                namespace: &self.namespace,
                labels: &self.labels,
            },
        }
    }

    fn meets(&self, when: &Match) -> bool {
        self.mismatch(when).is_none()
    }

    fn mismatch(&self, when: &Match) -> Option<Mismatch> {
        let table = Table {
            rules: vec![rule("only", when.clone())],
            otherwise: Otherwise::NotFound,
        };
        let compiled = Compiled::new(&table);
        let answers = compiled.explain(&self.call());
        let decided = matches!(compiled.decide(&self.call()), Verdict::Rule(_));
        assert_eq!(decided, answers[0].mismatch.is_none(), "told as decided");
        answers[0].mismatch.clone()
    }
}

#[test]
fn paths_match_as_their_api_says() {
    let segments = path(PathIs::Segments("/abc".into()));
    let prefix = path(PathIs::Prefix("/abc".into()));
    for (asked, by_segments, by_prefix, by_exact) in [
        ("/abc", true, true, true),
        ("/abc/", true, true, false),
        ("/abc/def", true, true, false),
        ("/abcd", false, true, false),
        ("/ab", false, false, false),
        ("/ABC", false, false, false),
        ("/é", false, false, false),
    ] {
        assert_eq!(get(asked).meets(&segments), by_segments, "{asked}");
        assert_eq!(get(asked).meets(&prefix), by_prefix, "{asked}");
        let exact = path(PathIs::Exact("/abc".into()));
        assert_eq!(get(asked).meets(&exact), by_exact, "{asked}");
    }
    let mut any_case = path(PathIs::Segments("/abc".into()));
    any_case.path.as_mut().unwrap().ignores_case = true;
    assert!(get("/ABC/x").meets(&any_case));
    let mut regex = path(PathIs::Regex("/v[0-9]+/x|/y".into()));
    assert!(get("/v12/x").meets(&regex) && get("/y").meets(&regex));
    assert!(
        !get("/v12/xx").meets(&regex) && !get("/a/y").meets(&regex) && !get("/Y").meets(&regex)
    );
    regex.path.as_mut().unwrap().ignores_case = true;
    assert!(get("/Y").meets(&regex));
    // The query is none of the path.
    assert!(get("/abc?x=/def").meets(&path(PathIs::Exact("/abc".into()))));
}

#[test]
fn header_fields_match_by_value_presence_and_absence() {
    let when = |is, not| Match {
        headers: vec![FieldMatch {
            not,
            ..field("x-user", is)
        }],
        ..Match::default()
    };
    let (ann, none) = (get("/").with("x-user", "ann"), get("/"));
    for (is, of_ann, of_none) in [
        (exact("ann"), true, false),
        (exact("Ann"), false, false),
        (Text::Prefix("an".into()), true, false),
        (Text::Regex("a.n".into()), true, false),
        (Text::Regex("a".into()), false, false),
        (Text::Present, true, false),
    ] {
        assert_eq!(ann.meets(&when(is.clone(), false)), of_ann, "{is:?}");
        assert_eq!(none.meets(&when(is.clone(), false)), of_none, "{is:?}");
        assert_eq!(ann.meets(&when(is.clone(), true)), !of_ann, "not {is:?}");
        assert_eq!(none.meets(&when(is.clone(), true)), !of_none, "not {is:?}");
    }
    let two = get("/").with("x-user", "ann").with("x-user", "bob");
    assert!(two.meets(&when(exact("ann,bob"), false)));
    assert_eq!(
        none.mismatch(&when(Text::Present, false)).unwrap(),
        Mismatch::Is(Part::Header("x-user".into()))
    );
}

#[test]
fn query_parameters_match_decoded_and_by_their_first_value() {
    let when = |is| Match {
        query: vec![field("q", is)],
        ..Match::default()
    };
    for (asked, holds) in [
        ("/?q=a%20b", true),
        ("/?x=1&q=a%20b&q=c", true),
        ("/?%71=a%20b", true),
        ("/?q=c&q=a%20b", false),
        ("/?Q=a%20b", false),
        ("/?q=a%2", false),
        ("/", false),
    ] {
        assert_eq!(get(asked).meets(&when(exact("a b"))), holds, "{asked}");
    }
    assert!(get("/?q").meets(&when(Text::Present)) && !get("/?q=%ff").meets(&when(Text::Present)));
    assert!(get("/?q=%2").meets(&when(exact("%2"))) && get("/?q=%zz").meets(&when(exact("%zz"))));
}

#[test]
fn all_that_is_set_must_hold_and_the_first_that_does_not_is_told() {
    let mut when = Match {
        port: Some(80),
        method: Some(exact("POST")),
        scheme: Some(exact("http")),
        authority: Some(Text::Prefix("cart.".into())),
        caller_namespace: Some(Namespace::new("front").unwrap()),
        caller_labels: [("app".to_owned(), "web".to_owned())].into(),
        ..path(PathIs::Segments("/a".into()))
    };
    let mut asked = get("/a");
    for part in [Part::CallerLabel("app".into()), Part::Method] {
        assert_eq!(asked.mismatch(&when), Some(Mismatch::Is(part.clone())));
        match part {
            Part::CallerLabel(_) => drop(asked.labels.insert("app".into(), "web".into())),
            _ => asked.method = Method::POST,
        }
    }
    assert_eq!(asked.mismatch(&when), None);
    asked.port = 81;
    assert_eq!(asked.mismatch(&when), Some(Mismatch::Is(Part::Port)));
    asked.port = 80;
    asked.namespace = Namespace::new("back").unwrap();
    assert_eq!(
        asked.mismatch(&when),
        Some(Mismatch::Is(Part::CallerNamespace))
    );
    asked.namespace = Namespace::new("front").unwrap();
    asked.authority = "other".into();
    assert_eq!(asked.mismatch(&when), Some(Mismatch::Is(Part::Authority)));
    when.scheme = Some(exact("https"));
    assert_eq!(asked.mismatch(&when), Some(Mismatch::Is(Part::Scheme)));
    when.method = Some(Text::Regex("(".into()));
    assert_eq!(asked.mismatch(&when), Some(Mismatch::Broken));
}

#[test]
fn the_first_rule_that_matches_decides_and_the_rest_says_what_happens_else() {
    let mut table = Table {
        rules: vec![
            rule("a", path(PathIs::Exact("/a".into()))),
            rule("all of a", path(PathIs::Segments("/a".into()))),
        ],
        otherwise: Otherwise::NotFound,
    };
    let decided = |table: &Table, asked: &str| match Compiled::new(table).decide(&get(asked).call())
    {
        Verdict::Rule(rule) => rule.origin.rule.clone(),
        Verdict::Service => "service".into(),
        Verdict::NotFound => "404".into(),
    };
    assert_eq!(decided(&table, "/a"), "a");
    assert_eq!(decided(&table, "/a/b"), "all of a");
    assert_eq!(decided(&table, "/b"), "404");
    table.otherwise = Otherwise::Service;
    assert_eq!(decided(&table, "/b"), "service");
}

#[test]
fn path_edits_follow_the_table_of_the_gateway_api() {
    let edited = |prefix: &str, with: &str, path: &str| {
        let matched = PathMatch {
            is: PathIs::Segments(prefix.trim_end_matches('/').into()),
            ignores_case: false,
        };
        PathEditor::new(&PathEdit::Matched(with.into()), Some(&matched)).edit(path)
    };
    for (path, prefix, with, is) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
    ] {
        assert_eq!(edited(prefix, with, path), is, "{path} {prefix} {with}");
    }
    let by = |edit: PathEdit, is: Option<PathIs>, path: &str| {
        let matched = is.map(|is| PathMatch {
            is,
            ignores_case: false,
        });
        PathEditor::new(&edit, matched.as_ref()).edit(path)
    };
    let istio = |with: &str| PathEdit::Matched(with.into());
    assert_eq!(
        by(istio("/"), Some(PathIs::Prefix("/api/".into())), "/api/x"),
        "/x"
    );
    assert_eq!(
        by(istio(""), Some(PathIs::Prefix("/api".into())), "/api"),
        "/"
    );
    assert_eq!(
        by(istio("/new"), Some(PathIs::Exact("/old".into())), "/old"),
        "/new"
    );
    assert_eq!(by(istio("/new"), None, "/x/y"), "/new/x/y");
    assert_eq!(by(PathEdit::Whole("/w".into()), None, "/x/y"), "/w");
    let regex = PathEdit::Regex {
        find: "^/a/(.*)$".into(),
        with: r"/b/\1".into(),
    };
    assert_eq!(by(regex, None, "/a/x"), "/b/x");
}

#[test]
fn redirects_lead_where_they_say() {
    let redirect = |scheme: Option<&str>, host: Option<&str>, port| Redirect {
        code: 302,
        scheme: scheme.map(Into::into),
        host: host.map(Into::into),
        port,
        path: None,
    };
    let to = |r: Redirect, asked: &Asked| {
        let editor = r.path.as_ref().map(|p| PathEditor::new(p, None));
        location(&r, editor.as_ref(), &asked.call()).0
    };
    let asked = get("/a?b=c");
    let of = RedirectPort::OfRequest;
    assert_eq!(
        to(redirect(None, None, of), &asked),
        "http://cart.shop:8080/a?b=c"
    );
    assert_eq!(
        to(
            redirect(Some("https"), None, RedirectPort::OfScheme),
            &asked
        ),
        "https://cart.shop/a?b=c"
    );
    assert_eq!(
        to(
            redirect(Some("https"), Some("x.org"), RedirectPort::Number(443)),
            &asked
        ),
        "https://x.org/a?b=c"
    );
    let mut six = get("/");
    six.authority = "[::1]".into();
    let mut whole = redirect(None, None, RedirectPort::Number(81));
    whole.path = Some(PathEdit::Whole("/z".into()));
    assert_eq!(to(whole, &six), "http://[::1]:81/z");
    six.authority = "[::1]:9".into();
    assert_eq!(to(redirect(None, None, of), &six), "http://[::1]:9/");
}

#[test]
fn header_edits_are_made_in_order() {
    let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
    let edits = Edits {
        request: HeaderEdits {
            set: vec![pair("a", "1")],
            add: vec![pair("b", "2"), pair("c", "3"), pair("bad name", "x")],
            remove: vec!["c".into(), "d".into()],
        },
        response: HeaderEdits::default(),
    };
    let mut headers = get("/")
        .with("a", "0")
        .with("a", "00")
        .with("b", "0")
        .with("d", "0")
        .headers;
    CompiledEdits::new(&edits).request.apply(&mut headers);
    let all = |n: &str| {
        headers
            .get_all(n)
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (all("a"), all("b"), all("c"), all("d")),
        (
            vec!["1".into()],
            vec!["0".into(), "2".into()],
            vec![],
            vec![]
        )
    );
}

#[test]
fn shares_are_what_the_weights_say() {
    let backends = [to("shop/a", 9), to("shop/b", 0), to("shop/c", 1)];
    let mut rng = tradewind_runtime::rng::Rng::seeded(7);
    let mut counts = [0_u32; 3];
    for _ in 0..100_000 {
        counts[pick(&backends, rng.next_u64()).unwrap()] += 1;
    }
    assert!(
        (89_500..90_500).contains(&counts[0]) && counts[1] == 0,
        "{counts:?}"
    );
    assert!(pick(&[to("shop/a", 0)], 5).is_none() && pick(&[], 5).is_none());
    let fallen = (0..100_000)
        .filter(|_| falls(10_000, rng.next_u64()))
        .count();
    assert!((850..1_150).contains(&fallen), "1 %: {fallen}");
    assert!(!falls(0, 0) && falls(MILLION, u64::MAX));
}

proptest! {
    /// The edges of the draw: always one with weight, never past the end.
    #[test]
    fn a_pick_has_weight(weights in prop::collection::vec(0u32..5, 0..6), drawn: u64) {
        let backends: Vec<_> = weights.iter().map(|w| to("shop/a", *w)).collect();
        for drawn in [drawn, 0, u64::MAX] {
            match pick(&backends, drawn) {
                Some(index) => prop_assert!(weights[index] > 0),
                None => prop_assert!(weights.iter().all(|w| *w == 0)),
            }
        }
    }

    /// Peers' bytes: no path, query or authority makes asking, editing or redirecting panic, and an edited path is one.
    #[test]
    fn nothing_a_caller_sends_panics(p in "/\\PC{0,30}", q in "\\PC{0,30}", authority in "\\PC{0,30}", prefix in "/\\PC{0,4}", with in "\\PC{0,8}") {
        let mut asked = get(&p);
        asked.query = Some(q);
        asked.authority = authority;
        for is in [PathIs::Segments(prefix.clone()), PathIs::Prefix(prefix.clone()), PathIs::Exact(prefix)] {
            let mut when = path(is);
            when.query = vec![field("a", Text::Present)];
            let matched = when.path.clone();
            asked.meets(&when);
            let edited = PathEditor::new(&PathEdit::Matched(with.clone()), matched.as_ref()).edit(&asked.path);
            prop_assert!(edited.starts_with('/'));
        }
        let redirect = Redirect { code: 302, scheme: None, host: None, port: RedirectPort::OfRequest, path: None };
        prop_assert!(location(&redirect, None, &asked.call()).0.starts_with("http://"));
    }
}
