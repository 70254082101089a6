//! GRPCRoute: a method's name is a path, `/<service>/<method>`.

use tradewind_api::route::{Action, Kind, Match, PathIs, PathMatch, To};

use super::{
    Reader,
    filters::escaped,
    for_each_match,
    http_route::header_matches,
    spec,
    types::{GrpcMatch, GrpcRouteSpec, GrpcRule, MethodMatch},
};
use crate::{
    draft::Draft,
    object::{At, Object, Report},
    values::expression,
    world::World,
};

/// Reads one; `index` is the object's place among all.
pub(crate) fn grpc_route(
    object: &Object,
    index: usize,
    world: &World,
    report: &mut Report<'_>,
) -> Vec<Draft> {
    let reader = Reader { object, world };
    let Some(spec) = spec::<GrpcRouteSpec>(object, report) else {
        return Vec::new();
    };
    let at = At::spec().field("rules");
    let whole = [GrpcRule::default()];
    let rules = spec.rules.as_deref().unwrap_or(&whole);
    let mut made = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        report.facts.rule();
        let at = at.index(i);
        let to = reader.backends(&rule.backend_refs, &at, report);
        let mut action = Action::new(To::Backends(to));
        reader.filters(&rule.filters, &mut action, &at, report);
        let named = (rule.name.as_ref(), i);
        let session = (rule.session_persistence.as_ref(), &action.to, &at);
        action.persistence = reader.persistence(Kind::GrpcRoute, named, session, report);
        made.extend(for_each_match(
            named,
            (&rule.matches, &at),
            action,
            report,
            grpc_match,
        ));
    }
    reader.attach(&spec.parent_refs, index, Kind::GrpcRoute, &made, report)
}

fn grpc_match(m: &GrpcMatch, at: &At, report: &mut Report<'_>) -> Match {
    Match {
        path: m
            .method
            .as_ref()
            .and_then(|m| method(m, &at.field("method"), report)),
        headers: header_matches(&m.headers, &at.field("headers"), report),
        ..Match::default()
    }
}

fn method(m: &MethodMatch, at: &At, report: &mut Report<'_>) -> Option<PathMatch> {
    let set = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let (service, method) = (set(&m.service), set(&m.method));
    let is = match m.kind.as_deref().unwrap_or("Exact") {
        "Exact" => match (service, method) {
            (Some(service), Some(method)) => PathIs::Exact(format!("/{service}/{method}")),
            (Some(service), None) => PathIs::Segments(format!("/{service}")),
            (None, Some(method)) => PathIs::Regex(format!("/[^/]+/{}", escaped(&method))),
            (None, None) => return None,
        },
        "RegularExpression" => {
            let part = |text: Option<String>| text.unwrap_or_else(|| "[^/]+".to_owned());
            let text = format!("/(?:{})/(?:{})", part(service), part(method));
            expression(&text, at, report);
            PathIs::Regex(text)
        }
        other => {
            report.invalid(&at.field("type"), other, "Exact or RegularExpression");
            PathIs::Regex("[^\\s\\S]".to_owned())
        }
    };
    Some(PathMatch {
        is,
        ignores_case: false,
    })
}
