//! VirtualService's rules for HTTP.

use std::{collections::BTreeMap, sync::Arc};

use data_encoding::BASE64_NOPAD;
use tradewind_api::{
    Namespace,
    route::{
        Action, Backend, BackendRef, Direct, Edits, FieldMatch, HeaderEdits, Match, Millionths,
        Mirror, PathEdit, PathIs, PathMatch, Redirect, RedirectPort, Retry, RetryOn, Rewrite, Text,
        To,
    },
};

use super::{
    cors,
    delegate::{Delegates, Root},
    fault::{fault, share},
    types::{self, Destination, HeaderOperations, HttpRoute, Percent, StringMatch},
    virtual_service::MESH,
};
use crate::{
    draft::{Callers, in_lowest_terms, service},
    finding::Code,
    hosts,
    object::{At, Object, Report},
    values::{check_timeouts, duration, expression, header, header_name, limit, regex},
    world::World,
};

/// What is tried again where a rule asks for retries and does not say after what.
const USUAL_RETRIES: [RetryOn; 4] = [
    RetryOn::ConnectFailure,
    RetryOn::RefusedStream,
    RetryOn::Unavailable,
    RetryOn::Cancelled,
];

/// The waiting time between tries where none is said, ms.
const USUAL_BACKOFF_MS: u64 = 25;

/// A rule's name, its match and its action.
pub(super) type Made = (String, Match, Arc<Action>);

/// Reads one object's rules.
pub(super) struct Reader<'a> {
    pub(super) object: &'a Object,
    pub(super) world: &'a World,
    /// For whose calls the rules hold.
    pub(super) callers: &'a Callers,
}

impl Reader<'_> {
    /// In order; each of several matches is a rule.
    pub(super) fn rules(&self, routes: &[HttpRoute], report: &mut Report<'_>) -> Vec<Made> {
        let mut made = Vec::new();
        let mut delegates = Delegates::default();
        for (i, route) in routes.iter().enumerate() {
            let at = At::spec().field("http").index(i);
            let name = if route.name.is_empty() {
                format!("http[{i}]")
            } else {
                route.name.clone()
            };
            if let Some(delegate) = &route.delegate {
                let root = Root {
                    route,
                    name: &name,
                    at: &at,
                };
                delegates.rules(self, &root, delegate, report, &mut made);
                continue;
            }
            let then = Arc::new(self.action(route, &at, report));
            if route.matches.is_empty() {
                made.push((name.clone(), Match::default(), Arc::clone(&then)));
            }
            for (j, m) in route.matches.iter().enumerate() {
                if !m.gateways.is_empty() && !m.gateways.iter().any(|g| g == MESH) {
                    continue;
                }
                let when = when(m, &at.field("match").index(j), report);
                made.push((name.clone(), when, Arc::clone(&then)));
            }
        }
        made
    }

    pub(super) fn action(&self, route: &HttpRoute, at: &At, report: &mut Report<'_>) -> Action {
        let mut action = Action::new(self.to(route, at, report));
        self.settings(route, at, &mut action, report);
        action.mirrors.extend(self.mirror(route, at, report));
        action.mirrors.extend(self.mirrors(route, at, report));
        action
    }

    /// All but who answers, and copies.
    pub(super) fn settings(
        &self,
        route: &HttpRoute,
        at: &At,
        action: &mut Action,
        report: &mut Report<'_>,
    ) {
        if let Some(headers) = &route.headers {
            action.edits = edits(headers, &at.field("headers"), report);
        }
        if let Some(rewrite) = &route.rewrite {
            action.rewrite = self::rewrite(rewrite, &at.field("rewrite"), report);
        }
        action.timeouts.whole_ms = limit(route.timeout.as_deref(), &at.field("timeout"), report);
        if let Some(retries) = &route.retries {
            let at = at.field("retries");
            let each = retries.per_try_timeout.as_deref();
            action.timeouts.try_ms = limit(each, &at.field("perTryTimeout"), report);
            action.retry = Some(retry(retries, &at, report));
        }
        check_timeouts(action.timeouts, &at.field("retries"), report);
        if let Some(doc) = &route.fault {
            action.fault = fault(doc, &at.field("fault"), report);
        }
        let in_cors = at.field("corsPolicy");
        action.cors = route
            .cors_policy
            .as_ref()
            .map(|c| cors::policy(c, &in_cors, report));
    }

    /// Where `mirror` has a rule's copies go.
    pub(super) fn mirror(
        &self,
        route: &HttpRoute,
        at: &At,
        report: &mut Report<'_>,
    ) -> Option<Mirror> {
        let mirror = route.mirror.as_ref()?;
        Some(Mirror {
            to: self.destination(mirror, &at.field("mirror"), report),
            share: mirror_share(route, None),
        })
    }

    /// Where `mirrors` does.
    pub(super) fn mirrors(
        &self,
        route: &HttpRoute,
        at: &At,
        report: &mut Report<'_>,
    ) -> Vec<Mirror> {
        let mut all = Vec::new();
        for (i, mirror) in route.mirrors.iter().enumerate() {
            let at = at.field("mirrors").index(i).field("destination");
            all.push(Mirror {
                to: self.destination(&mirror.destination, &at, report),
                share: share(mirror.percentage),
            });
        }
        all
    }

    pub(super) fn to(&self, route: &HttpRoute, at: &At, report: &mut Report<'_>) -> To {
        if let Some(redirect) = &route.redirect {
            return To::Redirect(self::redirect(redirect, &at.field("redirect"), report));
        }
        if let Some(answer) = &route.direct_response {
            return To::Direct(direct(answer, &at.field("directResponse"), report));
        }
        let at = at.field("route");
        // One destination alone has all of the requests, whatever its weight says.
        let alone = route.route.len() == 1;
        let backend = |(i, to): (usize, &types::RouteDestination)| {
            let at = at.index(i);
            Backend {
                to: self.destination(&to.destination, &at.field("destination"), report),
                weight: if alone { 1 } else { to.weight.unwrap_or(0) },
                edits: edits(&to.headers, &at.field("headers"), report),
            }
        };
        let mut backends: Vec<_> = route.route.iter().enumerate().map(backend).collect();
        if backends.iter().all(|b| b.weight == 0) {
            let text = if backends.is_empty() {
                "there is neither a route nor another answer"
            } else {
                "the weights sum to nothing"
            };
            report.say(Code::NoWeight, &at, text);
        }
        in_lowest_terms(&mut backends);
        To::Backends(backends)
    }

    pub(super) fn destination(
        &self,
        to: &Destination,
        at: &At,
        report: &mut Report<'_>,
    ) -> BackendRef {
        let subset = to.subset.as_ref().filter(|s| !s.is_empty());
        let found = hosts::service(&to.host, &self.object.name.namespace)
            .ok_or_else(|| format!("{:?} is no service", to.host))
            .and_then(|name| {
                let port = self.world.port_of(&name, to.port.number)?;
                Ok((name, port))
            });
        match found {
            Ok((name, port)) => {
                if let Some(subset) = subset
                    && !self.world.has_subset(&name, subset, self.callers)
                {
                    let text = format!(
                        "no DestinationRule for service {name} and these callers defines the subset {subset:?}"
                    );
                    report.say(Code::SubsetNotFound, &at.field("subset"), text);
                }
                service(name, port, subset.cloned())
            }
            Err(text) => {
                report.say(Code::BackendNotFound, at, text.clone());
                BackendRef::Broken(text)
            }
        }
    }
}

/// What a rule's `mirror` gets. Both ways to say it are looked for in the rule, then in the one that delegates to it.
pub(super) fn mirror_share(route: &HttpRoute, root: Option<&HttpRoute>) -> Millionths {
    let either = |f: fn(&HttpRoute) -> Option<Percent>| f(route).or_else(|| root.and_then(f));
    let whole = |r: &HttpRoute| r.mirror_percent.map(|p| Percent { value: p.into() });
    share(either(|r| r.mirror_percentage).or_else(|| either(whole)))
}

pub(super) fn when(m: &types::Match, at: &At, report: &mut Report<'_>) -> Match {
    let mut whole = |t: &Option<StringMatch>, key: &str| {
        let t = t.as_ref()?;
        text(t, &at.field(key), report)
    };
    let (method, scheme, authority) = (
        whole(&m.method, "method"),
        whole(&m.scheme, "scheme"),
        whole(&m.authority, "authority"),
    );
    let mut headers = fields(&m.headers, false, &at.field("headers"), report, true);
    headers.extend(fields(
        &m.without_headers,
        true,
        &at.field("withoutHeaders"),
        report,
        true,
    ));
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    let namespace = m.source_namespace.as_deref().filter(|n| !n.is_empty());
    Match {
        port: m.port,
        path: m
            .uri
            .as_ref()
            .and_then(|t| path(t, m.ignore_uri_case, &at.field("uri"), report)),
        method,
        scheme,
        authority,
        headers,
        query: fields(
            &m.query_params,
            false,
            &at.field("queryParams"),
            report,
            false,
        ),
        caller_namespace: namespace.and_then(|n| {
            let namespace = Namespace::new(n).ok();
            if namespace.is_none() {
                report.invalid(&at.field("sourceNamespace"), n, "a namespace");
            }
            namespace
        }),
        caller_labels: m.source_labels.clone(),
    }
}

/// None for one that says nothing.
pub(super) fn text(t: &StringMatch, at: &At, report: &mut Report<'_>) -> Option<Text> {
    match (&t.exact, &t.prefix, &t.regex) {
        (Some(exact), None, None) => Some(Text::Exact(exact.clone())),
        (None, Some(prefix), None) => Some(Text::Prefix(prefix.clone())),
        (None, None, Some(expression)) => Some(regex(expression, &at.field("regex"), report)),
        (None, None, None) => None,
        _ => {
            report.say(
                Code::InvalidValue,
                at,
                "one of exact, prefix and regex is expected, not several",
            );
            None
        }
    }
}

fn path(
    t: &StringMatch,
    ignores_case: bool,
    at: &At,
    report: &mut Report<'_>,
) -> Option<PathMatch> {
    let is = match text(t, at, report)? {
        Text::Exact(t) => PathIs::Exact(t),
        // Everything, whoever says so.
        Text::Prefix(t) if t == "/" || t.is_empty() => return None,
        Text::Prefix(t) => PathIs::Prefix(t),
        Text::Regex(t) => {
            expression(&t, &at.field("regex"), report);
            PathIs::Regex(t)
        }
        Text::Present => return None,
    };
    Some(PathMatch { is, ignores_case })
}

/// A comparison that says nothing is one with presence.
fn fields(
    map: &BTreeMap<String, StringMatch>,
    not: bool,
    at: &At,
    report: &mut Report<'_>,
    of_headers: bool,
) -> Vec<FieldMatch> {
    let mut all = Vec::new();
    for (name, t) in map {
        let at = at.field(name);
        let name = if of_headers {
            match header_name(name, &at, report) {
                Some(name) => name,
                None => continue,
            }
        } else {
            name.clone()
        };
        all.push(FieldMatch {
            name,
            is: text(t, &at, report).unwrap_or(Text::Present),
            not,
        });
    }
    all
}

fn edits(headers: &types::Headers, at: &At, report: &mut Report<'_>) -> Edits {
    Edits {
        request: operations(&headers.request, &at.field("request"), report),
        response: operations(&headers.response, &at.field("response"), report),
    }
}

fn operations(of: &HeaderOperations, at: &At, report: &mut Report<'_>) -> HeaderEdits {
    let mut pairs = |map: &BTreeMap<String, String>, key: &str| {
        let at = at.field(key);
        map.iter()
            .filter_map(|(n, v)| header(n, v, &at.field(n), report))
            .collect()
    };
    let (set, add) = (pairs(&of.set, "set"), pairs(&of.add, "add"));
    let at = at.field("remove");
    let removed = of.remove.iter().enumerate();
    HeaderEdits {
        set,
        add,
        remove: removed
            .filter_map(|(i, n)| header_name(n, &at.index(i), report))
            .collect(),
    }
}

fn rewrite(doc: &types::Rewrite, at: &At, report: &mut Report<'_>) -> Rewrite {
    let by_regex = doc.uri_regex_rewrite.as_ref().map(|r| {
        expression(&r.find, &at.field("uriRegexRewrite").field("match"), report);
        PathEdit::Regex {
            find: r.find.clone(),
            with: r.rewrite.clone(),
        }
    });
    Rewrite {
        authority: doc.authority.clone(),
        path: doc.uri.clone().map(PathEdit::Matched).or(by_regex),
    }
}

fn redirect(doc: &types::Redirect, at: &At, report: &mut Report<'_>) -> Redirect {
    let code = doc.redirect_code.filter(|c| *c != 0).unwrap_or(301);
    if !matches!(code, 301 | 302 | 303 | 307 | 308) {
        report.invalid(
            &at.field("redirectCode"),
            &code.to_string(),
            "301, 302, 303, 307 or 308",
        );
    }
    let port = match (doc.port, doc.derive_port.as_deref()) {
        (Some(number), _) => RedirectPort::Number(number),
        (None, None | Some("FROM_PROTOCOL_DEFAULT")) => RedirectPort::OfScheme,
        (None, Some("FROM_REQUEST_PORT")) => RedirectPort::OfRequest,
        (None, Some(other)) => {
            report.invalid(
                &at.field("derivePort"),
                other,
                "FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT",
            );
            RedirectPort::OfScheme
        }
    };
    let whole = doc.uri.clone().map(PathEdit::Whole);
    Redirect {
        code,
        scheme: doc.scheme.clone(),
        host: doc.authority.clone(),
        port,
        path: whole.or(doc.prefix_rewrite.clone().map(PathEdit::Matched)),
    }
}

/// An answer of the proxy's own.
pub(super) fn direct(doc: &types::DirectResponse, at: &At, report: &mut Report<'_>) -> Direct {
    if !(200..600).contains(&doc.status) {
        let at = at.field("status");
        report.invalid(&at, &doc.status.to_string(), "a status from 200 to 599");
    }
    Direct {
        status: doc.status,
        body: body(&doc.body, &at.field("body"), report),
    }
}

fn retry(doc: &types::Retries, at: &At, report: &mut Report<'_>) -> Retry {
    let mut retry = Retry {
        attempts: doc.attempts.unwrap_or(0),
        on: USUAL_RETRIES.into(),
        codes: [].into(),
        backoff_ms: duration(doc.backoff.as_deref(), &at.field("backoff"), report)
            .or(Some(USUAL_BACKOFF_MS)),
        other_localities: doc.retry_remote_localities,
        other_endpoints: doc.retry_ignore_previous_hosts,
    };
    if retry.attempts == 0 && (doc.retry_on.is_some() || doc.per_try_timeout.is_some()) {
        let text = "there are no attempts, so nothing of this is tried again";
        report.say(Code::IdleRetry, &at.field("attempts"), text);
    }
    let Some(on) = doc.retry_on.as_deref().filter(|on| !on.trim().is_empty()) else {
        return retry;
    };
    retry.on.clear();
    for word in on.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        if let Some(on) = RetryOn::by_word(word) {
            retry.on.insert(on);
        } else if let Some(code) = word.parse().ok().filter(|c| (100..600).contains(c)) {
            retry.codes.insert(code);
        } else if word != "retriable-status-codes" {
            let words: Vec<_> = RetryOn::ALL.iter().map(|(_, w)| *w).collect();
            let expected = format!("a status or one of {}", words.join(", "));
            report.invalid(&at.field("retryOn"), word, &expected);
        }
    }
    retry
}

/// As text, or in base64 as protobuf's JSON has bytes: of either alphabet, padded or not.
fn body(doc: &types::Body, at: &At, report: &mut Report<'_>) -> Option<Vec<u8>> {
    let Some(coded) = &doc.bytes else {
        return doc.string.clone().map(String::into_bytes);
    };
    if doc.string.is_some() {
        let text = "one of string and bytes is expected, not both";
        report.say(Code::InvalidValue, at, text);
    }
    let plain = coded
        .trim_end_matches('=')
        .replace('-', "+")
        .replace('_', "/");
    let decoded = BASE64_NOPAD.decode(plain.as_bytes()).ok();
    if decoded.is_none() {
        report.invalid(&at.field("bytes"), coded, "bytes in base64");
    }
    decoded
}
