//! SMI's TrafficSplit (v1alpha1 to v1alpha4), with the HTTPRouteGroups that it refers to.

pub(crate) mod fields;

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;
use tradewind_api::{
    ServiceName,
    route::{
        Action, Backend, BackendRef, Edits, FieldMatch, Kind, Match, Origin, Otherwise, PathIs,
        PathMatch, Rule, Text, To,
    },
};

use crate::{
    draft::{Api, Callers, Draft, Rank, in_lowest_terms, service},
    finding::Code,
    hosts,
    object::{At, Object, Report},
    values::{expression, header_name, regex},
    world::World,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    service: String,
    backends: Vec<BackendDoc>,
    matches: Vec<GroupRef>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BackendDoc {
    service: String,
    weight: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupRef {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Group {
    matches: Vec<RouteMatch>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RouteMatch {
    path_regex: Option<String>,
    methods: Vec<String>,
    headers: BTreeMap<String, String>,
}

/// Reads one; `index` is its place among all, and `groups` are the HTTPRouteGroups.
pub(crate) fn traffic_split(
    object: &Object,
    index: usize,
    groups: &[&Object],
    world: &World,
    report: &mut Report<'_>,
) -> Vec<Draft> {
    let Some(spec) = object.spec::<Spec>(report) else {
        return Vec::new();
    };
    let at = At::spec();
    let root = hosts::service(&spec.service, &object.name.namespace);
    let Some(root) = root.filter(|r| world.services.contains_key(r)) else {
        let text = format!("there is no service that {:?} means", spec.service);
        report.say(Code::ParentNotFound, &at.field("service"), text);
        return Vec::new();
    };
    let backends = backends(&spec, object, world, &at.field("backends"), report);
    let then = Arc::new(Action::new(To::Backends(backends)));
    let whens = if spec.matches.is_empty() {
        vec![Match::default()]
    } else {
        of_groups(&spec, object, groups, &at.field("matches"), report)
    };
    let rule = |when| {
        let rule = Rule {
            origin: Origin {
                kind: Kind::TrafficSplit,
                object: object.name.clone(),
                rule: "spec".to_owned(),
                cluster: None,
            },
            when,
            then: Arc::clone(&then),
        };
        (Rank::default(), rule)
    };
    vec![Draft {
        api: Api::Smi,
        object: index,
        service: root,
        callers: Callers::All,
        by_pattern: false,
        otherwise: Otherwise::Service,
        rules: whens.into_iter().map(rule).collect(),
    }]
}

fn backends(
    spec: &Spec,
    object: &Object,
    world: &World,
    at: &At,
    report: &mut Report<'_>,
) -> Vec<Backend> {
    let mut backends = Vec::new();
    for (i, doc) in spec.backends.iter().enumerate() {
        let at = at.index(i);
        let found = ServiceName::new(object.name.namespace.as_str(), &doc.service)
            .map_err(|e| e.to_string())
            .and_then(|name| {
                let port = world.port_of(&name, None)?;
                Ok(service(name, port, None))
            });
        let to = found.unwrap_or_else(|text| {
            report.say(Code::BackendNotFound, &at.field("service"), text.clone());
            BackendRef::Broken(text)
        });
        let weight = weight(&doc.weight).unwrap_or_else(|| {
            let shown = doc.weight.to_string();
            report.invalid(
                &at.field("weight"),
                &shown,
                "a whole number, or one such as 500m",
            );
            0
        });
        backends.push(Backend {
            to,
            weight,
            edits: Edits::default(),
        });
    }
    if backends.iter().all(|b| b.weight == 0) {
        report.say(Code::NoWeight, at, "the weights sum to nothing");
    }
    in_lowest_terms(&mut backends);
    backends
}

/// In thousandths: `1`, `"1"` and `1000m` are the same.
fn weight(value: &Value) -> Option<u32> {
    let whole = |text: &str| text.parse::<u32>().ok();
    match value {
        Value::Null => Some(0),
        Value::Number(n) => u32::try_from(n.as_u64()?).ok()?.checked_mul(1_000),
        Value::String(text) => match text.strip_suffix('m') {
            Some(thousandths) => whole(thousandths),
            None => whole(text)?.checked_mul(1_000),
        },
        _ => None,
    }
}

fn of_groups(
    spec: &Spec,
    object: &Object,
    groups: &[&Object],
    at: &At,
    report: &mut Report<'_>,
) -> Vec<Match> {
    let mut whens = Vec::new();
    for (i, reference) in spec.matches.iter().enumerate() {
        let at = at.index(i);
        let group = groups
            .iter()
            .find(|g| g.name.namespace == object.name.namespace && g.name.name() == reference.name);
        let Some(group) = group else {
            let text = format!("there is no HTTPRouteGroup {:?} here", reference.name);
            report.say(Code::BackendNotFound, &at.field("name"), text);
            continue;
        };
        // Up to v1alpha2 it had no spec.
        let value = group.value.get("spec").unwrap_or(&group.value);
        match serde_json::from_value::<Group>(value.clone()) {
            Ok(group) => {
                for m in &group.matches {
                    when(m, &at, &mut whens, report);
                }
            }
            Err(error) => report.say(Code::Malformed, &at, format!("{group}: {error}")),
        }
    }
    whens
}

/// One for each method.
fn when(m: &RouteMatch, at: &At, whens: &mut Vec<Match>, report: &mut Report<'_>) {
    // It is held to the path's beginning and not to its end.
    let path = m
        .path_regex
        .as_deref()
        .filter(|r| !matches!(*r, "" | ".*" | "/.*" | "/"));
    let path = path.map(|r| {
        let r = r.trim_start_matches('^');
        let text = format!("(?:{r}).*");
        expression(&text, at, report);
        PathMatch {
            is: PathIs::Regex(text),
            ignores_case: false,
        }
    });
    let mut headers: Vec<FieldMatch> = Vec::new();
    for (name, value) in &m.headers {
        if let Some(name) = header_name(name, at, report) {
            headers.push(FieldMatch {
                name,
                is: regex(value, at, report),
                not: false,
            });
        }
    }
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    let one = |method: Option<Text>| Match {
        path: path.clone(),
        method,
        headers: headers.clone(),
        ..Match::default()
    };
    if m.methods.is_empty() || m.methods.iter().any(|m| m == "*") {
        whens.push(one(None));
    } else {
        whens.extend(m.methods.iter().map(|m| one(Some(Text::Exact(m.clone())))));
    }
}
