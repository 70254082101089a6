//! What browsers are told of requests from other origins: the CORS protocol of the Fetch standard, as the Gateway API's filter and
//! Istio's policy speak it. Pure.
//!
//! Nothing is refused here: a browser keeps an answer without permission from the page that asked, and every other client may ask as
//! before. Whoever must not be asked by strangers is guarded by who they are.

use http::{
    HeaderMap, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
        ORIGIN, VARY,
    },
};
use tradewind_api::route::Cors;

use super::{Call, matcher::Is};

/// All of them, in a list of methods or fields.
const ANY: &str = "*";

/// A policy, ready to be asked.
#[derive(Clone, Debug)]
pub struct CompiledCors {
    origins: Vec<Is>,
    methods: Named,
    headers: Named,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    forwards_unmatched: bool,
}

/// What a policy names of methods or fields.
#[derive(Clone, Debug)]
enum Named {
    /// Nothing: the answer says nothing of them.
    Nothing,
    /// These.
    These(HeaderValue),
    /// Whatever is asked for. The answer repeats it: a `*` means nothing to a browser that sends credentials.
    Any,
}

impl Named {
    fn new(names: &[String]) -> Self {
        if names.iter().any(|n| n == ANY) {
            return Self::Any;
        }
        list(names).map_or(Self::Nothing, Self::These)
    }

    fn answer<'a>(&'a self, asked: Option<&'a HeaderValue>) -> Option<&'a HeaderValue> {
        match self {
            Self::Nothing => None,
            Self::These(names) => Some(names),
            Self::Any => asked,
        }
    }
}

/// With commas between; none of no names, or of such as are none.
fn list(names: &[String]) -> Option<HeaderValue> {
    (!names.is_empty())
        .then(|| HeaderValue::try_from(names.join(",")).ok())
        .flatten()
}

/// What a policy says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsAnswer {
    /// It is a browser's question before the request itself, and these are the fields of its answer. Nobody else is asked.
    Preflight(HeaderMap),
    /// It goes on, and its answer gets these fields.
    Told(Permit),
}

/// The fields that an answer gets in place of those that the backend gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    origin: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    credentials: bool,
}

impl CompiledCors {
    /// An origin whose expression is none permits nobody; whoever made the policy reports it.
    pub fn new(cors: &Cors) -> Self {
        let expose = cors
            .expose
            .iter()
            // With credentials a browser reads it as a field of that name.
            .filter(|name| !(cors.credentials && *name == ANY))
            .cloned()
            .collect::<Vec<_>>();
        Self {
            origins: cors.origins.iter().filter_map(Is::new).collect(),
            methods: Named::new(&cors.methods),
            headers: Named::new(&cors.headers),
            expose: list(&expose),
            max_age: cors.max_age_s.map(HeaderValue::from),
            credentials: cors.credentials,
            forwards_unmatched: cors.forwards_unmatched,
        }
    }

    /// What it says of a request.
    pub fn ask(&self, call: &Call<'_>) -> CorsAnswer {
        let permit = self.permit(call);
        let asked = call.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
        let preflight =
            call.method == Method::OPTIONS && call.headers.contains_key(ORIGIN) && asked.is_some();
        if !preflight || (permit.origin.is_none() && self.forwards_unmatched) {
            return CorsAnswer::Told(permit);
        }
        let mut fields = HeaderMap::new();
        if permit.origin.is_some() {
            let asked_fields = call.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
            for (name, value) in [
                (ACCESS_CONTROL_ALLOW_METHODS, self.methods.answer(asked)),
                (
                    ACCESS_CONTROL_ALLOW_HEADERS,
                    self.headers.answer(asked_fields),
                ),
                (ACCESS_CONTROL_MAX_AGE, self.max_age.as_ref()),
            ] {
                if let Some(value) = value {
                    fields.insert(name, value.clone());
                }
            }
        }
        let permit = Permit {
            expose: None,
            ..permit
        };
        permit.apply(&mut fields);
        CorsAnswer::Preflight(fields)
    }

    fn permit(&self, call: &Call<'_>) -> Permit {
        let mut origins = call.headers.get_all(ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (Some(origin), None) => origin.to_str().ok().map(|text| (origin, text)),
            // None or several: no browser sends that.
            _ => None,
        };
        let allowed = origin.filter(|(_, text)| self.origins.iter().any(|is| is.holds(text)));
        match allowed {
            Some((origin, _)) => Permit {
                origin: Some(origin.clone()),
                expose: self.expose.clone(),
                credentials: self.credentials,
            },
            None => Permit::default(),
        }
    }
}

impl Permit {
    /// Whether it is one: the request comes from an origin that may read the answer.
    pub const fn is_given(&self) -> bool {
        self.origin.is_some()
    }

    /// Puts them into an answer. Without a permission the answer is as the backend gave it, but for `vary`: a cache must not give one
    /// origin's answer to another.
    pub fn apply(&self, fields: &mut HeaderMap) {
        fields.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = &self.origin else {
            return;
        };
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if let Some(expose) = &self.expose {
            fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        } else {
            fields.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        }
    }
}
