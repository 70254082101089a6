//! A client's token of a persistent session, in a cookie and in a header: never a panic, and what holds leads to the rule's own backends and
//! is told again so that it still does.
#![no_main]

use http::{HeaderMap, HeaderValue, header::COOKIE};
use libfuzzer_sys::fuzz_target;
use tradewind_api::route::{Backend, BackendRef, Carrier, Edits, Kind, Origin, Persistence};
use tradewind_transport::route::persistence::{Brought, CompiledPersistence};

fuzz_target!(|input: (&[u8], u64, Option<u64>, Option<u64>)| {
    let (text, now_ms, absolute_ms, idle_ms) = input;
    let backends: Vec<Backend> = ["shop/v1", "shop/v2"]
        .iter()
        .map(|name| Backend {
            to: BackendRef::Service {
                service: name.parse().expect("a name"),
                port: Some(80),
                subset: None,
            },
            weight: 1,
            edits: Edits::default(),
        })
        .collect();
    let rule = Origin {
        kind: Kind::HttpRoute,
        object: "shop/cart".parse().expect("a name"),
        rule: "rules[0]".to_owned(),
        cluster: None,
    };
    let Ok(value) = HeaderValue::from_bytes(text) else {
        return;
    };
    let cookie = Carrier::Cookie {
        name: "a".to_owned(),
        path: "/".to_owned(),
        permanent: true,
    };
    for by in [Carrier::Header("a".to_owned()), cookie] {
        let persistence = Persistence {
            by,
            absolute_ms,
            idle_ms,
        };
        let compiled = CompiledPersistence::new(&persistence, &rule).expect("a name that may be");
        let mut fields = HeaderMap::new();
        fields.insert("a", value.clone());
        fields.insert(COOKIE, value.clone());
        if let Brought::Held(held) = compiled.ask(&fields, &backends, now_ms) {
            let to = &backends[held.backend].to;
            let mut told = HeaderMap::new();
            compiled.begin(to, &held.endpoint, now_ms, &mut told);
            compiled.renew(to, &held, now_ms, &mut told);
            if let Some(token) = told.get("a") {
                let mut again = HeaderMap::new();
                again.insert("a", token.clone());
                let found = compiled.ask(&again, &backends, now_ms);
                assert!(matches!(found, Brought::Held(h) if h.endpoint == held.endpoint));
            }
        }
    }
});
