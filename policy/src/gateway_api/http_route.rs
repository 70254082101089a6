//! HTTPRoute.

use tradewind_api::route::{
    Action, FieldMatch, Kind, Match, PathIs, PathMatch, Retry, RetryOn, Text, Timeouts, To,
};

use super::{
    Made, Reader, for_each_match, spec,
    types::{HttpMatch, HttpRouteSpec, HttpRule, Retry as RetryDoc, ValueMatch},
};
use crate::{
    draft::Draft,
    finding::Code,
    object::{At, Object, Report},
    values::{check_timeouts, duration, header_name, limit, regex},
    world::World,
};

/// How often a request is tried again where a rule asks for it and says no number.
const USUAL_ATTEMPTS: u32 = 2;

/// Reads one; `index` is the object's place among all.
pub(crate) fn http_route(
    object: &Object,
    index: usize,
    world: &World,
    report: &mut Report<'_>,
) -> Vec<Draft> {
    let reader = Reader { object, world };
    let Some(spec) = spec::<HttpRouteSpec>(object, report) else {
        return Vec::new();
    };
    let at = At::spec().field("rules");
    let whole = [HttpRule::default()];
    let rules = spec.rules.as_deref().unwrap_or(&whole);
    let mut made = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        report.facts.rule();
        made.extend(reader.http_rule(rule, i, &at.index(i), report));
    }
    reader.attach(&spec.parent_refs, index, Kind::HttpRoute, &made, report)
}

impl Reader<'_> {
    fn http_rule(
        &self,
        rule: &HttpRule,
        index: usize,
        at: &At,
        report: &mut Report<'_>,
    ) -> Vec<Made> {
        let redirects = rule.filters.iter().any(|f| f.kind == "RequestRedirect");
        let to = if redirects && rule.backend_refs.is_empty() {
            Vec::new()
        } else {
            self.backends(&rule.backend_refs, at, report)
        };
        let mut action = Action::new(To::Backends(to));
        self.filters(&rule.filters, &mut action, at, report);
        let in_timeouts = at.field("timeouts");
        action.timeouts = Timeouts {
            whole_ms: limit(
                rule.timeouts.request.as_deref(),
                &in_timeouts.field("request"),
                report,
            ),
            try_ms: limit(
                rule.timeouts.backend_request.as_deref(),
                &in_timeouts.field("backendRequest"),
                report,
            ),
        };
        check_timeouts(action.timeouts, &in_timeouts, report);
        action.retry = rule
            .retry
            .as_ref()
            .map(|r| retry(r, &at.field("retry"), report));
        let named = (rule.name.as_ref(), index);
        let session = (rule.session_persistence.as_ref(), &action.to, at);
        action.persistence = self.persistence(Kind::HttpRoute, named, session, report);
        for_each_match(named, (&rule.matches, at), action, report, http_match)
    }
}

fn http_match(m: &HttpMatch, at: &At, report: &mut Report<'_>) -> Match {
    Match {
        path: m.path.as_ref().and_then(|p| {
            path(
                p.kind.as_deref(),
                p.value.as_deref(),
                &at.field("path"),
                report,
            )
        }),
        method: m.method.clone().map(Text::Exact),
        headers: header_matches(&m.headers, &at.field("headers"), report),
        query: values(
            &m.query_params,
            &at.field("queryParams"),
            report,
            |n, _, _| Some(n.to_owned()),
        ),
        ..Match::default()
    }
}

fn path(
    kind: Option<&str>,
    value: Option<&str>,
    at: &At,
    report: &mut Report<'_>,
) -> Option<PathMatch> {
    let value = value.unwrap_or("/");
    let is = match kind.unwrap_or("PathPrefix") {
        // Everything, whoever says so.
        "PathPrefix" if value.trim_end_matches('/').is_empty() => return None,
        "PathPrefix" => PathIs::Segments(value.trim_end_matches('/').to_owned()),
        "Exact" => PathIs::Exact(value.to_owned()),
        "RegularExpression" => {
            crate::values::expression(value, &at.field("value"), report);
            PathIs::Regex(value.to_owned())
        }
        other => {
            report.invalid(
                &at.field("type"),
                other,
                "Exact, PathPrefix or RegularExpression",
            );
            // Nothing is sent where it was not meant to go.
            PathIs::Regex("[^\\s\\S]".to_owned())
        }
    };
    if !value.starts_with('/') && !matches!(is, PathIs::Regex(_)) {
        report.invalid(&at.field("value"), value, "a path that begins with a slash");
    }
    Some(PathMatch {
        is,
        ignores_case: false,
    })
}

/// Comparisons of header fields.
pub(super) fn header_matches(
    list: &[ValueMatch],
    at: &At,
    report: &mut Report<'_>,
) -> Vec<FieldMatch> {
    values(list, at, report, header_name)
}

/// Of several for one name the first counts.
fn values(
    list: &[ValueMatch],
    at: &At,
    report: &mut Report<'_>,
    name_of: impl Fn(&str, &At, &mut Report<'_>) -> Option<String>,
) -> Vec<FieldMatch> {
    let mut all: Vec<FieldMatch> = Vec::new();
    for (i, m) in list.iter().enumerate() {
        let at = at.index(i);
        let Some(name) = name_of(&m.name, &at.field("name"), report) else {
            continue;
        };
        if all.iter().any(|f| f.name == name) {
            let text = format!("{name} is compared already, and only the first counts");
            report.say(Code::Shadowed, &at, text);
            continue;
        }
        let is = match m.kind.as_deref().unwrap_or("Exact") {
            "Exact" => Text::Exact(m.value.clone()),
            "RegularExpression" => regex(&m.value, &at.field("value"), report),
            other => {
                report.invalid(&at.field("type"), other, "Exact or RegularExpression");
                Text::Exact(m.value.clone())
            }
        };
        all.push(FieldMatch {
            name,
            is,
            not: false,
        });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Connection errors are tried again wherever there is a retry (GEP-1731); statuses are as they are listed.
fn retry(doc: &RetryDoc, at: &At, report: &mut Report<'_>) -> Retry {
    if doc.attempts == Some(0) {
        report.say(Code::IdleRetry, &at.field("attempts"), "no attempt is left");
    }
    for (i, code) in doc.codes.iter().enumerate() {
        if !(400..600).contains(code) {
            let at = at.field("codes").index(i);
            report.invalid(&at, &code.to_string(), "a status from 400 to 599");
        }
    }
    Retry {
        attempts: doc.attempts.unwrap_or(USUAL_ATTEMPTS),
        on: [
            RetryOn::ConnectFailure,
            RetryOn::RefusedStream,
            RetryOn::Reset,
        ]
        .into(),
        codes: doc.codes.iter().copied().collect(),
        backoff_ms: duration(doc.backoff.as_deref(), &at.field("backoff"), report),
        other_localities: None,
        other_endpoints: None,
    }
}
