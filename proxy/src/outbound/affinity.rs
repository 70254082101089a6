//! What holds calls together: the key that a policy has hashed, so that calls with the same key go to the same endpoint, and the cookie
//! that a browser is given where it has none. Pure; owns nothing.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Request, header::SET_COOKIE};
use tradewind_api::{
    id::EndpointId,
    traffic::{Balance, Cookie, HashKey},
};
use tradewind_transport::{
    balance::hash,
    route::{cookies, parameter},
};

use crate::telemetry::Ends;

/// What is known of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traits<'a> {
    /// A request's fields; none of a stream of bytes.
    pub(super) headers: Option<&'a HeaderMap>,
    /// A request's query.
    pub(super) query: Option<&'a str>,
    /// Where the application calls from.
    pub(super) from: Option<IpAddr>,
    /// The endpoint that its persistent session is with.
    pub(super) home: Option<&'a EndpointId>,
}

impl<'a> Traits<'a> {
    /// Of a request that came from there.
    pub(super) fn of<B>(request: &'a Request<B>, from: Option<Ends>) -> Self {
        Self {
            headers: Some(request.headers()),
            query: request.uri().query(),
            from: from.map(|f| f.remote.ip()),
            home: None,
        }
    }
}

/// What a call is held by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Affinity {
    /// Calls with the same one go to the same endpoint; none goes anywhere.
    pub(super) key: Option<u64>,
    /// Goes into the answer, so that the next call has it.
    pub(super) cookie: Option<HeaderValue>,
}

impl Affinity {
    /// By how a service is balanced. `random` makes up the value of a new cookie.
    pub(super) fn of(balance: &Balance, call: Traits<'_>, random: impl FnMut() -> u64) -> Self {
        let Balance::Hash(wanted) = balance else {
            return Self::default();
        };
        let held = |key: Option<u64>| Self { key, cookie: None };
        match &wanted.by {
            HashKey::Header(name) => held(call.headers.and_then(|h| field(h, name))),
            HashKey::Query(name) => {
                held(parameter(call.query, name).map(|v| hash::key(v.as_bytes())))
            }
            HashKey::SourceAddress => {
                held(call.from.map(|ip| hash::key(ip.to_string().as_bytes())))
            }
            HashKey::Cookie(cookie) => {
                let Some(headers) = call.headers else {
                    return Self::default();
                };
                match cookies(headers, &cookie.name).next() {
                    Some(value) => held(Some(hash::key(value.as_bytes()))),
                    None => given(cookie, random),
                }
            }
        }
    }

    /// Tells the application's own caller of its cookie.
    pub(super) fn tell(self, fields: &mut HeaderMap) {
        if let Some(cookie) = self.cookie {
            fields.append(SET_COOKIE, cookie);
        }
    }
}

/// All values of a field, in whatever order they came.
fn field(headers: &HeaderMap, name: &str) -> Option<u64> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let mut values: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    values.sort_unstable();
    match values.as_slice() {
        [] => None,
        all => Some(hash::key(&all.join(&b'\n'))),
    }
}

/// A new cookie, where the policy gives one.
fn given(cookie: &Cookie, mut random: impl FnMut() -> u64) -> Affinity {
    let Some(ttl_s) = cookie.ttl_s else {
        return Affinity::default();
    };
    let value = format!("{:016x}{:016x}", random(), random());
    let mut text = format!("{}=\"{value}\"", cookie.name);
    if ttl_s > 0 {
        text.push_str(&format!("; Max-Age={ttl_s}"));
    }
    if let Some(path) = &cookie.path {
        text.push_str(&format!("; Path={path}"));
    }
    for (name, value) in &cookie.attributes {
        text.push_str(&match value {
            Some(value) => format!("; {name}={value}"),
            None => format!("; {name}"),
        });
    }
    text.push_str("; HttpOnly");
    Affinity {
        key: Some(hash::key(value.as_bytes())),
        // A name or path that no field can have: the call is held together by nothing, and goes anywhere.
        cookie: HeaderValue::try_from(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::traffic::{Hash, HashTable};

    use super::*;

    fn by(by: HashKey) -> Balance {
        Balance::Hash(Hash {
            by,
            table: HashTable::RING,
        })
    }

    fn cookie(ttl_s: Option<u64>) -> Balance {
        by(HashKey::Cookie(Cookie {
            name: "cart".to_owned(),
            path: Some("/shop".to_owned()),
            ttl_s,
            attributes: vec![
                ("SameSite".to_owned(), Some("Lax".to_owned())),
                ("Secure".to_owned(), None),
            ],
        }))
    }

    fn key(balance: &Balance, fields: &[(&str, &str)], query: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let call = Traits {
            headers: Some(&headers),
            query,
            ..Traits::default()
        };
        Affinity::of(balance, call, || panic!("nothing is made up")).key
    }

    #[test]
    fn the_same_value_is_the_same_key_and_another_another() {
        let header = by(HashKey::Header("x-user".to_owned()));
        let ann = key(&header, &[("x-user", "ann")], None);
        assert!(ann.is_some());
        assert_eq!(
            ann,
            key(&header, &[("x-user", "ann"), ("other", "1")], None)
        );
        assert_ne!(ann, key(&header, &[("x-user", "bob")], None));
        assert_eq!(key(&header, &[], None), None);
        let two = [("x-user", "a"), ("x-user", "b")];
        let turned = [("x-user", "b"), ("x-user", "a")];
        assert_eq!(key(&header, &two, None), key(&header, &turned, None));

        let query = by(HashKey::Query("user".to_owned()));
        let ann = key(&query, &[], Some("a=1&user=ann"));
        assert!(ann.is_some());
        assert_eq!(ann, key(&query, &[], Some("user=%61nn&b=2")));
        assert_ne!(ann, key(&query, &[], Some("user=bob")));
        assert_eq!(key(&query, &[], None), None);

        let cart = cookie(None);
        let ann = key(&cart, &[("cookie", "a=1; cart=ann; b=2")], None);
        assert!(ann.is_some());
        assert_eq!(
            ann,
            key(
                &cart,
                &[("cookie", "a=1"), ("cookie", "cart=\"ann\"")],
                None
            )
        );
        assert_ne!(ann, key(&cart, &[("cookie", "cart=bob")], None));
        assert_eq!(key(&cart, &[("cookie", "cartoon=ann")], None), None);
        assert_eq!(key(&Balance::Random, &[("x-user", "ann")], None), None);
    }

    #[test]
    fn the_address_is_the_callers() {
        let balance = by(HashKey::SourceAddress);
        let of = |ip: &str| {
            let call = Traits {
                from: Some(ip.parse().unwrap()),
                ..Traits::default()
            };
            Affinity::of(&balance, call, || 0).key
        };
        assert!(of("10.0.0.1").is_some());
        assert_eq!(of("10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(Affinity::of(&balance, Traits::default(), || 0).key, None);
    }

    #[test]
    fn a_browser_without_a_cookie_is_given_one_that_leads_to_the_same_place() {
        let none = HeaderMap::new();
        let call = Traits {
            headers: Some(&none),
            ..Traits::default()
        };
        let mut dice = [7, 9].into_iter();
        let made = Affinity::of(&cookie(Some(60)), call, || dice.next().unwrap());
        let text = made.cookie.clone().unwrap();
        assert_eq!(
            text.to_str().unwrap(),
            "cart=\"00000000000000070000000000000009\"; Max-Age=60; Path=/shop; SameSite=Lax; Secure; HttpOnly"
        );
        let back = "cart=00000000000000070000000000000009";
        assert_eq!(made.key, key(&cookie(Some(60)), &[("cookie", back)], None));
        let mut fields = HeaderMap::new();
        fields.append(SET_COOKIE, HeaderValue::from_static("own=1"));
        made.tell(&mut fields);
        assert_eq!(
            fields.get_all(SET_COOKIE).iter().count(),
            2,
            "the application's own stays"
        );

        let session = Affinity::of(&cookie(Some(0)), call, || 1).cookie.unwrap();
        assert!(!session.to_str().unwrap().contains("Max-Age"));
        assert_eq!(Affinity::of(&cookie(None), call, || 1), Affinity::default());
        let stream = Affinity::of(&cookie(Some(60)), Traits::default(), || 1);
        assert_eq!(stream, Affinity::default(), "bytes carry no cookie");
    }
}
