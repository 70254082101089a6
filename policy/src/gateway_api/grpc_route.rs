//! GRPCRoute: a method's name is a path, `/<service>/<method>`.

use std::sync::Arc;

use tradewind_api::route::{Action, Kind, Match, PathIs, PathMatch, To};

use super::{
    Made, Reader,
    filters::escaped,
    http_route::header_matches,
    rank,
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
    let Some(spec) = object.spec::<GrpcRouteSpec>(report) else {
        return Vec::new();
    };
    let at = At::spec().field("rules");
    let whole = [GrpcRule::default()];
    let rules = spec.rules.as_deref().unwrap_or(&whole);
    let mut made = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        let to = reader.backends(&rule.backend_refs, &at, report);
        let mut action = Action::new(To::Backends(to));
        reader.filters(&rule.filters, &mut action, &at, report);
        let then = Arc::new(action);
        let any = [GrpcMatch::default()];
        let matches = if rule.matches.is_empty() {
            &any[..]
        } else {
            &rule.matches
        };
        for (j, m) in matches.iter().enumerate() {
            let at = at.field("matches").index(j);
            let when = Match {
                path: m
                    .method
                    .as_ref()
                    .and_then(|m| method(m, &at.field("method"), report)),
                headers: header_matches(&m.headers, &at.field("headers"), report),
                ..Match::default()
            };
            made.push(Made {
                name: rule.name.clone().unwrap_or_else(|| format!("rules[{i}]")),
                rank: rank(&when),
                when,
                then: Arc::clone(&then),
            });
        }
    }
    reader.attach(&spec.parent_refs, index, Kind::GrpcRoute, &made, report)
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
