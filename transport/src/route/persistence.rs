//! Persistent sessions (GEP-1619): what a client's token says, when it holds, and how it is given. Pure: of (rule, request, now).
//!
//! A token names the rule that made it, the backend and the endpoint, when the session began and when it was last told. It holds no
//! address: endpoints are known by ids, those of other clusters too, and `tradewind-served-by` tells the same id with every answer.
//!
//! Tokens are neither encrypted nor signed. No key is common to all proxies, and any of them must be able to read what another one gave.
//! A client that makes one up gains little: it leads to endpoints of the rule's own backends alone, each of which it reaches by calling
//! often enough, and what the rule says of who may be called and what is changed holds as it does without a token. It may stay with one
//! endpoint for longer than the rule's times allow; they keep sessions from lasting, and clients from nothing. An endpoint authorises
//! each request by itself, whatever led to it.

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, HeaderName, HeaderValue, header::SET_COOKIE};
use tradewind_api::{
    EndpointId,
    route::{Backend, BackendRef, Carrier, Origin, Persistence},
};

use super::cookie::cookies;
use crate::balance::hash;

/// The format, a token's first byte.
const FORMAT: u8 = 1;
/// Format 1, rule 8, backend 8, beginning 8, last 8. The endpoint's id follows.
const FIXED_BYTES: usize = 33;
/// Longest endpoint id: a label.
const MAX_ID_BYTES: usize = 63;
/// Longest token, in characters: what is longer is not looked at.
pub const MAX_TOKEN_CHARS: usize = (FIXED_BYTES + MAX_ID_BYTES).div_ceil(3) * 4;
/// Tokens of one request that are looked at: clients send a cookie again for each path that they have it for.
const MAX_TOKENS: usize = 8;
/// A token may be from so far in the future, ms: proxies' clocks differ by less, or their certificates would not hold.
const MAX_AHEAD_MS: u64 = 5 * 60 * 1000;

/// How a rule keeps clients with endpoints, ready to be asked.
#[derive(Clone, Debug)]
pub struct CompiledPersistence {
    carrier: Carried,
    absolute_ms: Option<u64>,
    idle_ms: Option<u64>,
    rule: u64,
}

#[derive(Clone, Debug)]
enum Carried {
    Cookie {
        name: String,
        path: String,
        permanent: bool,
    },
    Header(HeaderName),
}

/// A session that a request brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which of the rule's backends.
    pub backend: usize,
    /// Its endpoint that answered first. It may be gone.
    pub endpoint: EndpointId,
    /// When that was, Unix ms.
    since_ms: u64,
}

/// What a request brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Brought {
    /// No token.
    Nothing,
    /// One that does not hold.
    Refused(Refusal),
    /// One that holds.
    Held(Held),
}

/// Why a token does not hold. The request goes where one without a token does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is none.
    #[error("it is no token of a session")]
    Malformed,
    /// Rules do not share sessions.
    #[error("another rule made it")]
    OtherRule,
    /// The rule does not name it any more.
    #[error("its backend is none of the rule's")]
    OtherBackend,
    /// Of the rule's absolute timeout.
    #[error("its session has lasted as long as the rule allows")]
    Over,
    /// Of the rule's idle timeout.
    #[error("its session was idle for as long as the rule allows")]
    Idle,
    /// Later than clocks differ.
    #[error("it is of the future")]
    Ahead,
}

/// What stands in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    rule: u64,
    backend: u64,
    since_ms: u64,
    last_ms: u64,
    endpoint: EndpointId,
}

impl Token {
    fn encode(&self) -> String {
        let mut bytes = vec![FORMAT];
        for number in [self.rule, self.backend, self.since_ms, self.last_ms] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(self.endpoint.as_str().as_bytes());
        BASE64URL_NOPAD.encode(&bytes)
    }

    fn decode(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_TOKEN_CHARS {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(text).ok()?;
        let (&format, rest) = bytes.split_first()?;
        if format != FORMAT {
            return None;
        }
        let mut rest = rest;
        let mut number = || {
            let (number, more) = rest.split_first_chunk::<8>()?;
            rest = more;
            Some(u64::from_be_bytes(*number))
        };
        Some(Self {
            rule: number()?,
            backend: number()?,
            since_ms: number()?,
            last_ms: number()?,
            endpoint: EndpointId::new(std::str::from_utf8(rest).ok()?).ok()?,
        })
    }
}

impl CompiledPersistence {
    /// None where no request or response could carry its token.
    pub fn new(persistence: &Persistence, rule: &Origin) -> Option<Self> {
        let Persistence {
            by,
            absolute_ms,
            idle_ms,
        } = persistence;
        let carrier = match by.clone() {
            Carrier::Cookie {
                name,
                path,
                permanent,
            } => {
                HeaderValue::try_from(format!("{name}=; Path={path}")).ok()?;
                Carried::Cookie {
                    name,
                    path,
                    permanent,
                }
            }
            Carrier::Header(name) => Carried::Header(HeaderName::try_from(name).ok()?),
        };
        Some(Self {
            carrier,
            absolute_ms: *absolute_ms,
            idle_ms: *idle_ms,
            rule: hash::key(rule.place().as_bytes()),
        })
    }

    /// What a request brings: the first token that holds, else what stands against the first.
    pub fn ask(&self, request: &HeaderMap, backends: &[Backend], now_ms: u64) -> Brought {
        let mut refused = Brought::Nothing;
        let mut hold = |text: &[u8]| match self.holds(text, backends, now_ms) {
            Ok(held) => Some(held),
            Err(refusal) => {
                if refused == Brought::Nothing {
                    refused = Brought::Refused(refusal);
                }
                None
            }
        };
        let held = match &self.carrier {
            Carried::Cookie { name, .. } => cookies(request, name)
                .take(MAX_TOKENS)
                .find_map(|value| hold(value.as_bytes())),
            Carried::Header(name) => {
                let values = request.get_all(name).iter().take(MAX_TOKENS);
                values.map(HeaderValue::as_bytes).find_map(hold)
            }
        };
        held.map_or(refused, Brought::Held)
    }

    fn holds(&self, text: &[u8], backends: &[Backend], now_ms: u64) -> Result<Held, Refusal> {
        let token = Token::decode(text).ok_or(Refusal::Malformed)?;
        if token.rule != self.rule {
            return Err(Refusal::OtherRule);
        }
        let latest = now_ms.saturating_add(MAX_AHEAD_MS);
        if token.since_ms > latest || token.last_ms > latest {
            return Err(Refusal::Ahead);
        }
        let over = |since_ms: u64, most: Option<u64>| {
            most.is_some_and(|most| now_ms.saturating_sub(since_ms) >= most)
        };
        if over(token.since_ms, self.absolute_ms) {
            return Err(Refusal::Over);
        }
        if over(token.last_ms, self.idle_ms) {
            return Err(Refusal::Idle);
        }
        let its = |b: &Backend| backend_id(&b.to) == Some(token.backend);
        let backend = backends.iter().position(its);
        Ok(Held {
            backend: backend.ok_or(Refusal::OtherBackend)?,
            endpoint: token.endpoint,
            since_ms: token.since_ms,
        })
    }

    /// Gives the client of a response a session that begins now, with the endpoint of that backend which gave it.
    pub fn begin(
        &self,
        to: &BackendRef,
        endpoint: &EndpointId,
        now_ms: u64,
        fields: &mut HeaderMap,
    ) {
        self.tell((to, endpoint), now_ms, now_ms, fields);
    }

    /// Tells the client of a response of its session again, where that keeps it from being idle for too long.
    pub fn renew(&self, to: &BackendRef, held: &Held, now_ms: u64, fields: &mut HeaderMap) {
        if self.idle_ms.is_some() {
            self.tell((to, &held.endpoint), held.since_ms, now_ms, fields);
        }
    }

    fn tell(
        &self,
        (to, endpoint): (&BackendRef, &EndpointId),
        since_ms: u64,
        now_ms: u64,
        fields: &mut HeaderMap,
    ) {
        let Some(backend) = backend_id(to) else {
            return;
        };
        let token = Token {
            rule: self.rule,
            backend,
            since_ms,
            last_ms: now_ms,
            endpoint: endpoint.clone(),
        };
        let token = token.encode();
        match &self.carrier {
            Carried::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(token) {
                    fields.insert(name, value);
                }
            }
            Carried::Cookie {
                name,
                path,
                permanent,
            } => {
                let mut text = format!("{name}={token}; Path={path}");
                if let Some(most) = self.absolute_ms.filter(|_| *permanent) {
                    // What is left of it. Rounded up, so that it is the token that ends a session.
                    let left_ms = most.saturating_sub(now_ms.saturating_sub(since_ms));
                    text.push_str(&format!("; Max-Age={}", left_ms.div_ceil(1000)));
                }
                // Not Secure: applications call their own proxy by http, and their clients would never send it back.
                text.push_str("; HttpOnly; SameSite=Strict");
                if let Ok(value) = HeaderValue::try_from(text) {
                    fields.append(SET_COOKIE, value);
                }
            }
        }
    }
}

/// A backend in eight bytes; none of one that cannot be called.
fn backend_id(to: &BackendRef) -> Option<u64> {
    let BackendRef::Service {
        service,
        port,
        subset,
    } = to
    else {
        return None;
    };
    let port = port.map(|p| p.to_string()).unwrap_or_default();
    let subset = subset.as_deref().unwrap_or_default();
    Some(hash::key(format!("{service}\n{port}\n{subset}").as_bytes()))
}

#[cfg(test)]
mod tests;
