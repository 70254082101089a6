//! The CORS protocol, as the Fetch standard and the Gateway API have it.

use tradewind_api::route::Cors;

use super::*;

fn policy() -> Cors {
    Cors {
        origins: vec![
            exact("https://shop.example"),
            Text::Regex("https://.+\\.example\\.org".into()),
        ],
        methods: vec!["PUT".into(), "DELETE".into()],
        headers: vec!["x-token".into()],
        expose: vec!["x-total".into()],
        max_age_s: Some(60),
        credentials: true,
        forwards_unmatched: true,
    }
}

fn ask(cors: &Cors, asked: &Asked) -> CorsAnswer {
    CompiledCors::new(cors).ask(&asked.call())
}

fn of(fields: &HeaderMap, name: &str) -> Option<String> {
    fields.get(name).map(|v| v.to_str().unwrap().to_owned())
}

fn preflight(origin: &str) -> Asked {
    let mut asked = get("/")
        .with("origin", origin)
        .with("access-control-request-method", "PUT");
    asked.method = Method::OPTIONS;
    asked.with("access-control-request-headers", "x-token,x-other")
}

/// What becomes of an answer whose backend says something else.
fn told(cors: &Cors, asked: &Asked) -> HeaderMap {
    let CorsAnswer::Told(permit) = ask(cors, asked) else {
        panic!("it is no preflight")
    };
    let mut fields = HeaderMap::new();
    fields.insert(
        "access-control-allow-origin",
        HeaderValue::from_static("https://backend"),
    );
    fields.insert(
        "access-control-allow-credentials",
        HeaderValue::from_static("true"),
    );
    permit.apply(&mut fields);
    fields
}

#[test]
fn a_preflight_of_an_origin_that_may_ask_is_answered_here() {
    let cors = policy();
    let CorsAnswer::Preflight(fields) = ask(&cors, &preflight("https://a.b.example.org")) else {
        panic!("it is a preflight")
    };
    for (name, value) in [
        (
            "access-control-allow-origin",
            Some("https://a.b.example.org"),
        ),
        ("access-control-allow-methods", Some("PUT,DELETE")),
        ("access-control-allow-headers", Some("x-token")),
        ("access-control-max-age", Some("60")),
        ("access-control-allow-credentials", Some("true")),
        ("access-control-expose-headers", None),
        ("vary", Some("origin")),
    ] {
        assert_eq!(of(&fields, name).as_deref(), value, "{name}");
    }
}

#[test]
fn the_answer_itself_says_what_the_policy_says() {
    let cors = policy();
    let asked = get("/").with("origin", "https://shop.example");
    let fields = told(&cors, &asked);
    assert_eq!(
        of(&fields, "access-control-allow-origin").as_deref(),
        Some("https://shop.example")
    );
    assert_eq!(
        of(&fields, "access-control-expose-headers").as_deref(),
        Some("x-total")
    );
    assert_eq!(
        of(&fields, "access-control-allow-credentials").as_deref(),
        Some("true")
    );
    assert_eq!(
        of(&fields, "access-control-max-age"),
        None,
        "that is for preflights"
    );
    let without = Cors {
        credentials: false,
        ..cors
    };
    let fields = told(&without, &asked);
    assert_eq!(
        of(&fields, "access-control-allow-credentials"),
        None,
        "the policy's word is the last"
    );
}

#[test]
fn strangers_get_no_permission_and_no_browser_asks_otherwise() {
    let cors = policy();
    let twice = get("/")
        .with("origin", "https://shop.example")
        .with("origin", "https://shop.example");
    for asked in [
        get("/"),
        get("/").with("origin", "https://shop.example.evil"),
        twice,
    ] {
        let fields = told(&cors, &asked);
        assert_eq!(
            of(&fields, "access-control-allow-origin").as_deref(),
            Some("https://backend")
        );
        assert_eq!(of(&fields, "vary").as_deref(), Some("origin"));
    }
    let strange = preflight("https://evil");
    assert!(
        matches!(ask(&cors, &strange), CorsAnswer::Told(_)),
        "the backend answers it"
    );
    let here = Cors {
        forwards_unmatched: false,
        ..cors.clone()
    };
    let CorsAnswer::Preflight(fields) = ask(&here, &strange) else {
        panic!("it is answered here")
    };
    assert_eq!(
        fields.keys().map(|k| k.as_str()).collect::<Vec<_>>(),
        ["vary"]
    );
    let mut plain = get("/").with("origin", "https://shop.example");
    plain.method = Method::OPTIONS;
    assert!(
        matches!(ask(&cors, &plain), CorsAnswer::Told(_)),
        "OPTIONS alone asks for no permission"
    );
}

#[test]
fn any_method_field_and_origin_is_answered_with_what_was_asked_for() {
    let any = || vec!["*".to_owned()];
    let cors = Cors {
        origins: vec![Text::Present],
        methods: any(),
        headers: any(),
        expose: any(),
        max_age_s: None,
        credentials: true,
        forwards_unmatched: false,
    };
    let mut asked = get("/")
        .with("origin", "null")
        .with("access-control-request-method", "PATCH");
    asked.method = Method::OPTIONS;
    let CorsAnswer::Preflight(fields) = CompiledCors::new(&cors).ask(&asked.call()) else {
        panic!("it is a preflight")
    };
    assert_eq!(fields["access-control-allow-origin"], "null");
    assert_eq!(fields["access-control-allow-methods"], "PATCH");
    assert!(
        !fields.contains_key("access-control-allow-headers"),
        "none were asked for"
    );
    assert!(!fields.contains_key("access-control-max-age"));
    let expose = |cors: &Cors| {
        let compiled = CompiledCors::new(cors);
        let CorsAnswer::Told(permit) = compiled.ask(&get("/").with("origin", "https://a").call())
        else {
            panic!("it is no preflight")
        };
        let mut fields = HeaderMap::new();
        permit.apply(&mut fields);
        fields.get("access-control-expose-headers").cloned()
    };
    assert_eq!(expose(&cors), None, "with credentials a star is a name");
    let without = Cors {
        credentials: false,
        ..cors
    };
    assert_eq!(expose(&without), Some(HeaderValue::from_static("*")));
}
