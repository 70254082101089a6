//! Rules in words, for whoever asks what holds: what a request must be like, and what becomes of it. Pure.
//!
//! A condition that is left out here would be a lie, so what a rule consists of is taken apart whole: a new field does not compile
//! until it has words.

use std::fmt::Write as _;

use super::{
    Abort, Action, BackendRef, Carrier, Cors, Edits, Fault, FieldMatch, HeaderEdits, MILLION,
    Match, Millionths, Mirror, Otherwise, PathEdit, PathIs, Persistence, Redirect, RedirectPort,
    Retry, RetryOn, Rewrite, StreamMatch, StreamOtherwise, StreamRule, Text, Timeouts, To,
};
use crate::{id::Namespace, traffic::Labels};

fn percent(share: Millionths) -> String {
    format!("{} %", f64::from(share) * 100.0 / f64::from(MILLION))
}

impl Otherwise {
    /// What becomes of a request that no rule matches.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotFound => "404",
            Self::Service => "it goes to the service",
        }
    }
}

impl StreamOtherwise {
    /// What becomes of a stream that no rule matches.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Closed => "closed, if a rule is for its port; else it goes to the service",
            Self::Service => "it goes to the service",
        }
    }
}

impl StreamMatch {
    /// What must hold, a sentence each; none where every stream will do.
    pub fn words(&self) -> Vec<String> {
        let Self {
            port,
            sni,
            caller_namespace,
            caller_labels,
        } = self;
        let mut words = Vec::new();
        words.extend(port.map(|p| format!("the port is {p}")));
        if !sni.is_empty() {
            words.push(format!("the server name is {}", sni.join(" or ")));
        }
        callers(caller_namespace.as_ref(), caller_labels, &mut words);
        words
    }
}

impl StreamRule {
    /// What becomes of a stream, a sentence each.
    pub fn words(&self) -> Vec<String> {
        let backends = || self.to.iter().filter(|b| b.weight > 0);
        if backends().next().is_none() {
            return vec!["closes it: no backend has a weight".to_owned()];
        }
        let all: u64 = backends().map(|b| u64::from(b.weight)).sum();
        let mut words = vec!["sends on".to_owned()];
        words.extend(backends().map(|b| share(b.weight, all, &b.to)));
        words
    }
}

fn callers(namespace: Option<&Namespace>, labels: &Labels, words: &mut Vec<String>) {
    words.extend(namespace.map(|n| format!("the caller is in namespace {n}")));
    for (key, value) in labels {
        words.push(format!("the caller's label {key} is {value:?}"));
    }
}

fn share(weight: u32, all: u64, to: &BackendRef) -> String {
    let share = f64::from(weight) * 100.0 / (all.max(1) as f64);
    format!("{share:.1} % to {}", to.words(None))
}

impl Match {
    /// What must hold, a sentence each; none where every request will do.
    pub fn words(&self) -> Vec<String> {
        let Self {
            port,
            path,
            method,
            scheme,
            authority,
            headers,
            query,
            caller_namespace,
            caller_labels,
        } = self;
        let mut words = Vec::new();
        words.extend(port.map(|p| format!("the port is {p}")));
        words.extend(path.as_ref().map(|p| {
            let case = if p.ignores_case {
                ", in whatever case"
            } else {
                ""
            };
            format!("the path {}{case}", path_is(&p.is))
        }));
        for (what, is) in [("method", method), ("scheme", scheme), ("host", authority)] {
            words.extend(is.as_ref().map(|is| format!("the {what} {}", text(is))));
        }
        words.extend(headers.iter().map(|f| field("header", f)));
        words.extend(query.iter().map(|f| field("query parameter", f)));
        callers(caller_namespace.as_ref(), caller_labels, &mut words);
        words
    }
}

fn text(is: &Text) -> String {
    match is {
        Text::Exact(value) => format!("is {value:?}"),
        Text::Prefix(value) => format!("begins with {value:?}"),
        Text::Regex(value) => format!("matches {value:?}"),
        Text::Present => "is there".to_owned(),
    }
}

fn path_is(is: &PathIs) -> String {
    match is {
        PathIs::Exact(value) => format!("is {value:?}"),
        PathIs::Segments(value) if value.is_empty() => "is any".to_owned(),
        PathIs::Segments(value) => format!("is {value:?} or below it"),
        PathIs::Prefix(value) => format!("begins with {value:?}"),
        PathIs::Regex(value) => format!("matches {value:?}"),
    }
}

fn field(what: &str, field: &FieldMatch) -> String {
    let FieldMatch { name, is, not } = field;
    let is = text(is);
    if *not {
        format!("it is not so that the {what} {name} {is}")
    } else {
        format!("the {what} {name} {is}")
    }
}

impl Fault {
    /// What is broken on purpose.
    pub fn words(&self) -> Vec<String> {
        let Self { delay, abort } = self;
        let mut words = Vec::new();
        words.extend(delay.map(|(ms, share)| format!("delays {} by {ms} ms", percent(share))));
        words.extend(abort.map(|(abort, share)| {
            let with = match abort {
                Abort::Http(status) => format!("status {status}"),
                Abort::Grpc(status) => format!("gRPC status {status}"),
            };
            format!("fails {} with {with}", percent(share))
        }));
        words
    }
}

impl To {
    /// Who answers, without the shares of those who do.
    pub fn words(&self) -> String {
        let backends = match self {
            Self::Redirect(redirect) => return format!("redirects with {}", redirect.code),
            Self::Direct(direct) => return format!("answers {}", direct.status),
            Self::Backends(backends) => backends,
        };
        if backends.iter().all(|b| b.weight == 0) {
            return "answers 500: no backend has a weight".to_owned();
        }
        let broken = backends.iter().find_map(|b| match &b.to {
            BackendRef::Broken(why) if b.weight > 0 => Some(why),
            BackendRef::Broken(_) | BackendRef::Service { .. } => None,
        });
        match broken {
            Some(why) => format!("sends on, and answers 500 for a share: {why}"),
            None => "sends on".to_owned(),
        }
    }
}

impl BackendRef {
    /// Who it is. A port that is not said is the one that was `called`, where that is known.
    pub fn words(&self, called: Option<u16>) -> String {
        match self {
            Self::Broken(why) => format!("nobody: {why}"),
            Self::Service {
                service,
                port,
                subset,
            } => {
                let mut words = String::new();
                if let Some(subset) = subset {
                    let _ = write!(words, "subset {subset} of ");
                }
                let _ = write!(words, "{service}");
                if let Some(port) = port.or(called) {
                    let _ = write!(words, ":{port}");
                }
                words
            }
        }
    }
}

impl Mirror {
    /// What is copied to whom.
    pub fn words(&self, called: Option<u16>) -> String {
        let Self { to, share } = self;
        format!("copies {} to {}", percent(*share), to.words(called))
    }
}

impl Action {
    /// What becomes of a request, a sentence each.
    pub fn words(&self) -> Vec<String> {
        let Self {
            to,
            edits,
            rewrite,
            mirrors,
            fault,
            cors,
            timeouts,
            retry,
            persistence,
        } = self;
        let mut words = fault.words();
        words.push(to.words());
        match to {
            To::Backends(backends) => {
                let all: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
                for backend in backends.iter().filter(|b| b.weight > 0) {
                    words.push(share(backend.weight, all, &backend.to));
                    let its = edits_words(&backend.edits);
                    words.extend(its.into_iter().map(|w| format!("  for those, {w}")));
                }
            }
            To::Redirect(redirect) => words.extend(elsewhere(redirect)),
            To::Direct(direct) => {
                let bytes = direct.body.as_ref().map(Vec::len);
                words.extend(bytes.map(|n| format!("with a body of {n} bytes")));
            }
        }
        words.extend(edits_words(edits));
        let Rewrite { authority, path } = rewrite;
        words.extend(authority.iter().map(|a| format!("sets the host to {a:?}")));
        words.extend(path.iter().map(path_edit));
        words.extend(mirrors.iter().map(|m| m.words(None)));
        let Timeouts { whole_ms, try_ms } = timeouts;
        words.extend(whole_ms.map(|ms| format!("within {ms} ms")));
        words.extend(try_ms.map(|ms| format!("each try within {ms} ms")));
        words.extend(retry.iter().map(retried));
        words.extend(persistence.iter().map(Persistence::words));
        words.extend(cors.iter().map(permitted));
        words
    }
}

fn edits_words(edits: &Edits) -> Vec<String> {
    let Edits { request, response } = edits;
    let mut words = Vec::new();
    for (what, edits) in [("request", request), ("response", response)] {
        let HeaderEdits { set, add, remove } = edits;
        let pair = |verb: &'static str| {
            move |(name, value): &(String, String)| {
                format!("{verb} the {what}'s header {name}: {value}")
            }
        };
        words.extend(set.iter().map(pair("sets")));
        words.extend(add.iter().map(pair("adds")));
        let removed = |name: &String| format!("removes the {what}'s header {name}");
        words.extend(remove.iter().map(removed));
    }
    words
}

fn path_edit(edit: &PathEdit) -> String {
    match edit {
        PathEdit::Whole(path) => format!("sets the path to {path:?}"),
        PathEdit::Matched(path) => format!("puts {path:?} in place of the path that matched"),
        PathEdit::Regex { find, with } => {
            format!("puts {with:?} in place of what {find:?} finds in the path")
        }
    }
}

fn elsewhere(redirect: &Redirect) -> Vec<String> {
    let Redirect {
        code: _,
        scheme,
        host,
        port,
        path,
    } = redirect;
    let mut words = Vec::new();
    words.extend(scheme.iter().map(|s| format!("to the scheme {s}")));
    words.extend(host.iter().map(|h| format!("to the host {h}")));
    words.extend(match port {
        RedirectPort::OfScheme => None,
        RedirectPort::OfRequest => Some("to the port of the request".to_owned()),
        RedirectPort::Number(port) => Some(format!("to port {port}")),
    });
    words.extend(path.iter().map(path_edit));
    words
}

fn retried(retry: &Retry) -> String {
    let Retry {
        attempts,
        on,
        codes,
        backoff_ms,
        other_localities,
        other_endpoints,
    } = retry;
    if *attempts == 0 {
        return "is not tried again".to_owned();
    }
    let word = |on: &RetryOn| {
        let found = RetryOn::ALL.iter().find(|(o, _)| o == on);
        found.map(|(_, word)| (*word).to_owned())
    };
    let mut after: Vec<String> = on.iter().filter_map(word).collect();
    after.extend(codes.iter().map(ToString::to_string));
    let mut words = format!("tries again up to {attempts} times");
    if !after.is_empty() {
        let _ = write!(words, " after {}", after.join(", "));
    }
    if let Some(ms) = backoff_ms {
        let _ = write!(words, ", {ms} ms apart at least");
    }
    for (wanted, what) in [(other_localities, "places"), (other_endpoints, "endpoints")] {
        match wanted {
            Some(true) => drop(write!(words, ", at other {what}")),
            Some(false) => drop(write!(words, ", at the same {what} too")),
            None => {}
        }
    }
    words
}

impl Persistence {
    /// What holds a client's requests together, and for how long.
    pub fn words(&self) -> String {
        let Self {
            by,
            absolute_ms,
            idle_ms,
        } = self;
        let (carrier, kept) = match by {
            Carrier::Cookie {
                name,
                path,
                permanent,
            } => {
                let kept = if *permanent {
                    ", which clients keep when they are closed"
                } else {
                    ""
                };
                (format!("the cookie {name} (path {path})"), kept)
            }
            Carrier::Header(name) => (format!("the header {name}"), ""),
        };
        let mut words =
            format!("keeps a client with the endpoint that answered it first, by {carrier}{kept}");
        if let Some(ms) = absolute_ms {
            let _ = write!(words, ", for {ms} ms");
        }
        if let Some(ms) = idle_ms {
            let _ = write!(words, ", until it is idle for {ms} ms");
        }
        words
    }
}

fn permitted(cors: &Cors) -> String {
    let origins: Vec<_> = cors.origins.iter().map(text).collect();
    let what = match origins.as_slice() {
        [] => "permits pages of no other origin".to_owned(),
        origins => format!("permits pages whose origin {}", origins.join(" or ")),
    };
    let credentials = if cors.credentials {
        ", with credentials"
    } else {
        ""
    };
    format!("{what}{credentials}")
}

#[cfg(test)]
mod tests {
    use super::super::{Backend, Direct};
    use super::*;

    #[test]
    fn everything_that_a_request_must_be_is_said() {
        assert!(Match::default().words().is_empty());
        let header = |name: &str, is, not| FieldMatch {
            name: name.to_owned(),
            is,
            not,
        };
        let when = Match {
            port: Some(80),
            path: Some(super::super::PathMatch {
                is: PathIs::Segments("/a".to_owned()),
                ignores_case: true,
            }),
            method: Some(Text::Exact("GET".to_owned())),
            scheme: Some(Text::Prefix("http".to_owned())),
            authority: Some(Text::Regex("shop.*".to_owned())),
            headers: vec![header("x-a", Text::Present, true)],
            query: vec![header("q", Text::Exact("1".to_owned()), false)],
            caller_namespace: Some("web".parse().unwrap()),
            caller_labels: [("app".to_owned(), "batch".to_owned())].into(),
        };
        let expected = [
            "the port is 80",
            "the path is \"/a\" or below it, in whatever case",
            "the method is \"GET\"",
            "the scheme begins with \"http\"",
            "the host matches \"shop.*\"",
            "it is not so that the header x-a is there",
            "the query parameter q is \"1\"",
            "the caller is in namespace web",
            "the caller's label app is \"batch\"",
        ];
        assert_eq!(when.words(), expected);
        let root = PathIs::Segments(String::new());
        assert_eq!(path_is(&root), "is any");
    }

    fn backend(name: &str, weight: u32) -> Backend {
        Backend {
            to: BackendRef::Service {
                service: name.parse().unwrap(),
                port: Some(80),
                subset: (weight == 1).then(|| "v2".to_owned()),
            },
            weight,
            edits: Edits::default(),
        }
    }

    #[test]
    fn everything_that_becomes_of_it_is_said() {
        let mut action = Action::new(To::Backends(vec![
            backend("shop/a", 3),
            backend("shop/b", 1),
        ]));
        action.fault.delay = Some((5, MILLION / 10));
        action.fault.abort = Some((Abort::Grpc(14), MILLION));
        let pair = ("x-a".to_owned(), "b".to_owned());
        action.edits.request.set.push(pair);
        action.edits.response.remove.push("server".to_owned());
        action.rewrite.authority = Some("other".to_owned());
        action.rewrite.path = Some(PathEdit::Whole("/x".to_owned()));
        action.mirrors.push(Mirror {
            to: backend("shop/c", 1).to,
            share: MILLION / 2,
        });
        action.timeouts.whole_ms = Some(100);
        action.timeouts.try_ms = Some(10);
        action.retry = Some(Retry {
            attempts: 2,
            on: [RetryOn::ServerError].into(),
            codes: [409].into(),
            backoff_ms: Some(25),
            other_localities: None,
            other_endpoints: Some(true),
        });
        action.persistence = Some(Persistence {
            by: Carrier::Cookie {
                name: "cart".to_owned(),
                path: "/shop".to_owned(),
                permanent: true,
            },
            absolute_ms: Some(9_000),
            idle_ms: Some(60),
        });
        action.cors = Some(Cors {
            origins: vec![Text::Exact("https://shop".to_owned())],
            methods: Vec::new(),
            headers: Vec::new(),
            expose: Vec::new(),
            max_age_s: None,
            credentials: true,
            forwards_unmatched: false,
        });
        let expected = [
            "delays 10 % by 5 ms",
            "fails 100 % with gRPC status 14",
            "sends on",
            "75.0 % to shop/a:80",
            "25.0 % to subset v2 of shop/b:80",
            "sets the request's header x-a: b",
            "removes the response's header server",
            "sets the host to \"other\"",
            "sets the path to \"/x\"",
            "copies 50 % to subset v2 of shop/c:80",
            "within 100 ms",
            "each try within 10 ms",
            "tries again up to 2 times after 5xx, 409, 25 ms apart at least, at other endpoints",
            "keeps a client with the endpoint that answered it first, by the cookie cart (path /shop), which clients keep when they are closed, for 9000 ms, until it is idle for 60 ms",
            "permits pages whose origin is \"https://shop\", with credentials",
        ];
        assert_eq!(action.words(), expected);
    }

    #[test]
    fn rules_for_streams_are_told_too() {
        let rule: StreamRule = serde_json::from_value(serde_json::json!({
            "origin": {"kind": "TLSRoute", "object": "shop/db", "rule": "rules[0]", "cluster": null},
            "when": {"port": 5432, "sni": ["a.example", "*.b.example"], "caller_namespace": "web",
                     "caller_labels": {"app": "batch"}},
            "to": [{"to": backend("shop/a", 3).to, "weight": 3}, {"to": {"broken": "why"}, "weight": 1}],
        }))
        .unwrap();
        let expected = [
            "the port is 5432",
            "the server name is a.example or *.b.example",
            "the caller is in namespace web",
            "the caller's label app is \"batch\"",
        ];
        assert_eq!(rule.when.words(), expected);
        let expected = ["sends on", "75.0 % to shop/a:80", "25.0 % to nobody: why"];
        assert_eq!(rule.words(), expected);
        let closed = StreamRule {
            to: Vec::new(),
            ..rule
        };
        assert_eq!(closed.words(), ["closes it: no backend has a weight"]);
    }

    #[test]
    fn answers_of_the_proxy_itself_are_told_with_what_they_are() {
        let of = |to| Action::new(to).words().join(", ");
        let direct = Direct {
            status: 503,
            body: Some(b"later".to_vec()),
        };
        assert_eq!(
            of(To::Direct(direct)),
            "answers 503, with a body of 5 bytes"
        );
        let redirect = Redirect {
            code: 301,
            scheme: Some("https".to_owned()),
            host: None,
            port: RedirectPort::Number(8443),
            path: Some(PathEdit::Matched("/b".to_owned())),
        };
        assert_eq!(
            of(To::Redirect(redirect)),
            "redirects with 301, to the scheme https, to port 8443, puts \"/b\" in place of the path that matched"
        );
        assert_eq!(
            of(To::Backends(vec![backend("shop/a", 0)])),
            "answers 500: no backend has a weight"
        );
        let broken = Backend {
            to: BackendRef::Broken("there is no service shop/x".to_owned()),
            weight: 1,
            edits: Edits::default(),
        };
        assert_eq!(
            of(To::Backends(vec![broken])),
            "sends on, and answers 500 for a share: there is no service shop/x, 100.0 % to nobody: there is no service shop/x"
        );
    }
}
