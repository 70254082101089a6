//! Tokens: what holds, what does not and why, and how they are told.

use http::header::COOKIE;
use proptest::prelude::*;
use tradewind_api::route::{Edits, Kind};

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

fn origin(rule: &str) -> Origin {
    Origin {
        kind: Kind::HttpRoute,
        object: "shop/cart".parse().unwrap(),
        rule: rule.to_owned(),
        cluster: None,
    }
}

fn backends(names: &[&str]) -> Vec<Backend> {
    let backend = |name: &&str| Backend {
        to: BackendRef::Service {
            service: name.parse().unwrap(),
            port: Some(80),
            subset: None,
        },
        weight: 1,
        edits: Edits::default(),
    };
    names.iter().map(backend).collect()
}

fn by(by: Carrier, absolute_ms: Option<u64>, idle_ms: Option<u64>) -> CompiledPersistence {
    let persistence = Persistence {
        by,
        absolute_ms,
        idle_ms,
    };
    CompiledPersistence::new(&persistence, &origin("rules[0]")).unwrap()
}

fn cookie(permanent: bool) -> Carrier {
    Carrier::Cookie {
        name: "cart".to_owned(),
        path: "/shop".to_owned(),
        permanent,
    }
}

fn header() -> Carrier {
    Carrier::Header("x-cart".to_owned())
}

fn id(name: &str) -> EndpointId {
    EndpointId::new(name).unwrap()
}

/// The token that a new session with `endpoint` of the first of `backends` is given.
fn begun(persistence: &CompiledPersistence, to: &[Backend], endpoint: &str) -> String {
    let mut fields = HeaderMap::new();
    persistence.begin(&to[0].to, &id(endpoint), NOW_MS, &mut fields);
    match &persistence.carrier {
        Carried::Header(name) => fields[name].to_str().unwrap().to_owned(),
        Carried::Cookie { .. } => {
            let text = fields[SET_COOKIE].to_str().unwrap();
            let pair = text.split(';').next().unwrap();
            pair.strip_prefix("cart=").unwrap().to_owned()
        }
    }
}

fn brings(tokens: &[&str]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for token in tokens {
        fields.append("x-cart", HeaderValue::from_str(token).unwrap());
    }
    fields
}

#[test]
fn a_token_leads_back_to_its_endpoint_whatever_the_weights_and_the_order_of_backends() {
    let persistence = by(header(), None, None);
    let before = backends(&["shop/v1", "shop/v2"]);
    let token = begun(&persistence, &before, "e1");
    assert!(token.len() <= MAX_TOKEN_CHARS);
    let mut after = backends(&["shop/v2", "shop/v1"]);
    after[1].weight = 0;
    let found = persistence.ask(&brings(&[&token]), &after, NOW_MS + 1);
    let held = Held {
        backend: 1,
        endpoint: id("e1"),
        since_ms: NOW_MS,
    };
    assert_eq!(found, Brought::Held(held));
    assert_eq!(
        persistence.ask(&HeaderMap::new(), &after, NOW_MS),
        Brought::Nothing
    );
}

#[test]
fn what_does_not_hold_is_told_and_a_later_one_that_does_is_taken() {
    let persistence = by(header(), Some(10_000), Some(1_000));
    let to = backends(&["shop/v1"]);
    let token = begun(&persistence, &to, "e1");
    let ask =
        |tokens: &[&str], to: &[Backend], now_ms| persistence.ask(&brings(tokens), to, now_ms);
    let refused = |why| Brought::Refused(why);

    let long = "A".repeat(MAX_TOKEN_CHARS + 4);
    let flipped = token.replacen('A', "B", 1);
    for text in [
        "",
        "!",
        "AAAA",
        token.get(4..).unwrap(),
        &format!("{token}="),
        &long,
        &flipped,
    ] {
        assert_eq!(
            ask(&[text], &to, NOW_MS),
            refused(Refusal::Malformed),
            "{text}"
        );
    }
    let foreign = backends(&["shop/other"]);
    assert_eq!(
        ask(&[&token], &foreign, NOW_MS),
        refused(Refusal::OtherBackend)
    );
    let another = Persistence {
        by: header(),
        absolute_ms: None,
        idle_ms: None,
    };
    let another = CompiledPersistence::new(&another, &origin("rules[1]")).unwrap();
    assert_eq!(
        another.ask(&brings(&[&token]), &to, NOW_MS),
        refused(Refusal::OtherRule)
    );
    for (at, wanted) in [
        (NOW_MS + 999, None),
        (NOW_MS + 1_000, Some(Refusal::Idle)),
        (NOW_MS + 10_000, Some(Refusal::Over)),
        // A proxy whose clock is behind.
        (NOW_MS - MAX_AHEAD_MS, None),
        (NOW_MS - MAX_AHEAD_MS - 1, Some(Refusal::Ahead)),
    ] {
        let found = ask(&[&token], &to, at);
        match wanted {
            Some(why) => assert_eq!(found, refused(why), "{at}"),
            None => assert!(matches!(found, Brought::Held(_)), "{at}: {found:?}"),
        }
    }
    let found = ask(&["x", &token], &to, NOW_MS);
    assert!(matches!(found, Brought::Held(_)), "{found:?}");
    let mut many = vec!["x"; MAX_TOKENS];
    many.push(&token);
    assert_eq!(ask(&many, &to, NOW_MS), refused(Refusal::Malformed));
}

#[test]
fn an_idle_session_is_told_again_with_each_answer_and_ends_when_it_would_have() {
    let persistence = by(header(), Some(1_500), Some(1_000));
    let to = backends(&["shop/v1"]);
    let first = begun(&persistence, &to, "e1");
    let Brought::Held(held) = persistence.ask(&brings(&[&first]), &to, NOW_MS + 900) else {
        panic!("it holds");
    };
    let mut fields = HeaderMap::new();
    persistence.renew(&to[0].to, &held, NOW_MS + 900, &mut fields);
    let second = fields["x-cart"].to_str().unwrap().to_owned();
    assert_ne!(second, first);
    let ask = |now_ms| persistence.ask(&brings(&[&second]), &to, now_ms);
    assert_eq!(ask(NOW_MS + 1_400), Brought::Held(held.clone()));
    assert_eq!(ask(NOW_MS + 1_500), Brought::Refused(Refusal::Over));

    let lasting = by(header(), Some(1_500), None);
    let mut fields = HeaderMap::new();
    lasting.renew(&to[0].to, &held, NOW_MS + 900, &mut fields);
    assert!(fields.is_empty(), "nothing new is to be told");
}

#[test]
fn a_cookie_is_told_with_its_path_and_lifetime_beside_those_of_the_application() {
    let to = backends(&["shop/v1"]);
    let told = |persistence: &CompiledPersistence| {
        let mut fields = HeaderMap::new();
        fields.append(SET_COOKIE, HeaderValue::from_static("own=1"));
        persistence.begin(&to[0].to, &id("e1"), NOW_MS, &mut fields);
        let all: Vec<_> = fields.get_all(SET_COOKIE).iter().collect();
        assert_eq!(all.len(), 2);
        let text = all[1].to_str().unwrap();
        let (pair, attributes) = text.split_once("; ").unwrap();
        assert!(pair.starts_with("cart="), "{text}");
        attributes.to_owned()
    };
    let session = by(cookie(false), Some(90_500), None);
    assert_eq!(told(&session), "Path=/shop; HttpOnly; SameSite=Strict");
    let permanent = by(cookie(true), Some(90_500), Some(60_000));
    assert_eq!(
        told(&permanent),
        "Path=/shop; Max-Age=91; HttpOnly; SameSite=Strict"
    );
    let token = begun(&permanent, &to, "e1");
    let mut request = HeaderMap::new();
    let text = format!("own=1; cart=old; cart={token}");
    request.append(COOKIE, HeaderValue::from_str(&text).unwrap());
    let Brought::Held(held) = permanent.ask(&request, &to, NOW_MS + 30_000) else {
        panic!("it holds");
    };
    let mut fields = HeaderMap::new();
    permanent.renew(&to[0].to, &held, NOW_MS + 30_000, &mut fields);
    let text = fields[SET_COOKIE].to_str().unwrap();
    assert!(text.contains("; Max-Age=61;"), "what is left of it: {text}");
}

#[test]
fn a_header_of_the_applications_gives_way_and_what_no_message_can_carry_is_left_out() {
    let to = backends(&["shop/v1"]);
    let persistence = by(header(), None, None);
    let mut fields = HeaderMap::new();
    fields.insert("x-cart", HeaderValue::from_static("theirs"));
    persistence.begin(&to[0].to, &id("e1"), NOW_MS, &mut fields);
    assert_eq!(fields.get_all("x-cart").iter().count(), 1);
    assert_ne!(fields["x-cart"], "theirs");
    let broken = BackendRef::Broken("why".to_owned());
    let mut fields = HeaderMap::new();
    persistence.begin(&broken, &id("e1"), NOW_MS, &mut fields);
    assert!(fields.is_empty());
    let bad = [
        Carrier::Header("a b".to_owned()),
        Carrier::Cookie {
            name: "a\r\nb".to_owned(),
            path: "/".to_owned(),
            permanent: false,
        },
    ];
    for by in bad {
        let persistence = Persistence {
            by,
            absolute_ms: None,
            idle_ms: None,
        };
        assert!(CompiledPersistence::new(&persistence, &origin("rules[0]")).is_none());
    }
}

proptest! {
    #[test]
    fn strangers_bytes_never_panic_and_hold_only_where_they_are_a_token(
        text in proptest::collection::vec(any::<u8>(), 0..200),
        bytes in proptest::collection::vec(any::<u8>(), 0..110),
    ) {
        let persistence = by(header(), Some(1), Some(1));
        let to = backends(&["shop/v1"]);
        for text in [text, BASE64URL_NOPAD.encode(&bytes).into_bytes()] {
            if let Some(token) = Token::decode(&text) {
                // There is one way to write each.
                prop_assert_eq!(token.encode().into_bytes(), text.clone());
            }
            if let Ok(value) = HeaderValue::from_bytes(&text) {
                let mut fields = HeaderMap::new();
                fields.insert("x-cart", value);
                prop_assert!(!matches!(persistence.ask(&fields, &to, NOW_MS), Brought::Held(_)));
            }
        }
    }

    #[test]
    fn what_is_written_is_read(
        numbers in any::<[u64; 4]>(),
        name in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    ) {
        let [rule, backend, since_ms, last_ms] = numbers;
        let token = Token { rule, backend, since_ms, last_ms, endpoint: id(&name) };
        let text = token.encode();
        prop_assert!(text.len() <= MAX_TOKEN_CHARS);
        prop_assert_eq!(Token::decode(text.as_bytes()), Some(token));
    }
}
