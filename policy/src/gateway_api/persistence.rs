//! A rule's `sessionPersistence` (GEP-1619), as it is written in two ways: that of releases up to 1.6 (`sessionName`, `cookieConfig`) and
//! that of what follows them (`cookie`, `header`). Where an object has both, the newer one counts.

use serde::Deserialize;
use tradewind_api::route::{Carrier, Kind, Origin, Persistence, To};

use super::{Named, Reader, name_of};
use crate::{
    finding::Code,
    object::{At, Report},
    values::{header_name, is_token, span},
};

/// Longest name of a cookie or header field, and longest path of a cookie, in characters, as the API has them.
const MAX_NAME: usize = 256;
const MAX_PATH: usize = 1024;

/// What responses and requests say of themselves: a token in its place would break them.
const TAKEN: [&str; 19] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "host",
    "keep-alive",
    "location",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Session {
    session_name: Option<String>,
    absolute_timeout: Option<String>,
    idle_timeout: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    cookie_config: Option<CookieConfig>,
    cookie: Option<Cookie>,
    header: Option<Header>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CookieConfig {
    lifetime_type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Cookie {
    name: Option<String>,
    path: Option<String>,
    lifetime_type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Header {
    name: Option<String>,
}

/// A text and where it stands.
type Placed<'a> = (&'a str, At);

impl Reader<'_> {
    /// How a rule keeps clients with endpoints.
    pub(super) fn persistence(
        &self,
        kind: Kind,
        named: Named<'_>,
        (session, to, at): (Option<&Session>, &To, &At),
        report: &mut Report<'_>,
    ) -> Option<Persistence> {
        let (session, at) = (session?, at.field("sessionPersistence"));
        if let To::Redirect(_) = to {
            let text = "it has no effect where requests are redirected";
            report.say(Code::IdleSetting, &at, text);
            return None;
        }
        let rule = self.origin(kind, &name_of(named));
        session.read(&rule, &at, report)
    }
}

impl Session {
    /// What is acted on of it; none where it is for something that there is not.
    fn read(&self, rule: &Origin, at: &At, report: &mut Report<'_>) -> Option<Persistence> {
        let absolute_ms = span(
            self.absolute_timeout.as_deref(),
            &at.field("absoluteTimeout"),
            report,
        );
        let idle_ms = span(
            self.idle_timeout.as_deref(),
            &at.field("idleTimeout"),
            report,
        );
        let by = match self.kind.as_deref().unwrap_or("Cookie") {
            "Cookie" => {
                self.idle(at, report, "Cookie", &[("header", self.header.is_some())]);
                self.cookie(rule, absolute_ms, at, report)
            }
            "Header" => {
                let cookies = [
                    ("cookie", self.cookie.is_some()),
                    ("cookieConfig", self.cookie_config.is_some()),
                ];
                self.idle(at, report, "Header", &cookies);
                self.header(rule, at, report)
            }
            other => {
                report.invalid(&at.field("type"), other, "Cookie or Header");
                return None;
            }
        };
        Some(Persistence {
            by,
            absolute_ms,
            idle_ms,
        })
    }

    /// Tells of what is for the other type.
    fn idle(&self, at: &At, report: &mut Report<'_>, kind: &str, fields: &[(&str, bool)]) {
        for (field, is_there) in fields {
            if *is_there {
                let text = format!("it has no effect with type {kind}");
                report.say(Code::IdleSetting, &at.field(field), text);
            }
        }
    }

    /// The name that either way of writing gives, the newer one's first.
    fn name<'a>(&'a self, newer: Option<&'a String>, of: &str, at: &At) -> Option<Placed<'a>> {
        let newer = newer.map(|name| (name.as_str(), at.field(of).field("name")));
        let older = self.session_name.as_deref();
        newer.or_else(|| Some((older?, at.field("sessionName"))))
    }

    fn cookie(
        &self,
        rule: &Origin,
        absolute_ms: Option<u64>,
        at: &At,
        report: &mut Report<'_>,
    ) -> Carrier {
        let newer = self.cookie.as_ref();
        let name = self.name(newer.and_then(|c| c.name.as_ref()), "cookie", at);
        let name = name.and_then(|name| cookie_name(name, report));
        let path = newer.and_then(|c| c.path.as_deref());
        let path =
            path.and_then(|path| cookie_path(path, &at.field("cookie").field("path"), report));
        let lifetime = newer.and_then(|c| c.lifetime_type.as_deref());
        let lifetime = lifetime.map(|text| (text, at.field("cookie").field("lifetimeType")));
        let older = || {
            let text = self.cookie_config.as_ref()?.lifetime_type.as_deref()?;
            Some((text, at.field("cookieConfig").field("lifetimeType")))
        };
        let lifetime = lifetime.or_else(older);
        Carrier::Cookie {
            name: name.unwrap_or_else(|| Persistence::usual_name(rule)),
            // Of everything: what the rule matches may be a part of it, an expression, or not what the client asked for (GEP-1619).
            path: path.unwrap_or("/").to_owned(),
            permanent: lifetime.is_some_and(|l| is_permanent(&l, absolute_ms, report)),
        }
    }

    fn header(&self, rule: &Origin, at: &At, report: &mut Report<'_>) -> Carrier {
        let newer = self.header.as_ref().and_then(|h| h.name.as_ref());
        let name = self.name(newer, "header", at);
        let name = name.and_then(|(name, at)| {
            let field = header_name(name, &at, report)?;
            if TAKEN.contains(&field.as_str()) || field.len() > MAX_NAME {
                report.invalid(&at, name, "a header field that is for nothing else");
                return None;
            }
            Some(field)
        });
        Carrier::Header(name.unwrap_or_else(|| Persistence::usual_name(rule)))
    }
}

fn cookie_name((name, at): Placed<'_>, report: &mut Report<'_>) -> Option<String> {
    // Browsers take cookies of these names from https alone (RFC 6265bis section 4.1.3), and applications call their own proxy by http.
    let secure = ["__secure-", "__host-"];
    let lower = name.to_ascii_lowercase();
    let is_one =
        is_token(name) && name.len() <= MAX_NAME && !secure.iter().any(|p| lower.starts_with(p));
    if !is_one {
        let expected = "the name of a cookie (RFC 6265), and none that is for https alone";
        report.invalid(&at, name, expected);
    }
    is_one.then(|| name.to_owned())
}

fn cookie_path<'a>(path: &'a str, at: &At, report: &mut Report<'_>) -> Option<&'a str> {
    let inside = |c: u8| (0x20..0x7f).contains(&c) && c != b';';
    let is_one = path.starts_with('/') && path.len() <= MAX_PATH && path.bytes().all(inside);
    if !is_one {
        report.invalid(at, path, "a path that begins with a slash");
    }
    is_one.then_some(path)
}

/// A cookie that outlives the client's own session needs an end.
fn is_permanent(
    (lifetime, at): &Placed<'_>,
    absolute_ms: Option<u64>,
    report: &mut Report<'_>,
) -> bool {
    match *lifetime {
        "Session" => false,
        "Permanent" if absolute_ms.is_some() => true,
        "Permanent" => {
            report.say(
                Code::InvalidValue,
                at,
                "a permanent cookie needs an absoluteTimeout",
            );
            false
        }
        other => {
            report.invalid(at, other, "Session or Permanent");
            false
        }
    }
}
