//! EnvoyFilter, as far as it limits how much a workload takes: patches that put Envoy's `envoy.filters.http.local_ratelimit` before
//! the application, or say for a route what it does there. Every other patch is reported as a whole.

mod config;
pub(crate) mod fields;
mod types;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tradewind_api::{
    Namespace, ServiceName,
    limit::{LocalLimit, LocalLimits, MAX_LIMITS, Place},
    traffic::has_labels,
};

use self::types::{ConfigPatch, LocalRateLimit, Match, Patched, Spec, Typed};
use super::destination_rule::are_labels;
use crate::{
    fields::check,
    finding::Code,
    object::{At, Object, Report},
    world::{Ports, World},
};

/// The filter, as it is called wherever it stands.
const FILTER: &str = "envoy.filters.http.local_ratelimit";
/// What says what it does.
const TYPE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// What may hold that as something that is only known by name.
const TYPED_STRUCTS: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];
/// Objects here are for workloads of every namespace: Istio's root namespace, unless somebody gives it another name.
const ROOT_NAMESPACE: &str = "istio-system";
/// A virtual host of what a workload is called for, before the service's port.
const VIRTUAL_HOST: &str = "inbound|http|";

/// Reads one; none where nothing of it limits anything.
pub(crate) fn envoy_filter(
    object: &Object,
    world: &World,
    report: &mut Report<'_>,
) -> Option<LocalLimits> {
    let spec = object.spec::<Spec>(report)?;
    let at = At::spec();
    let mut limits = Vec::new();
    for (i, patch) in spec.config_patches.iter().enumerate() {
        let at = at.field("configPatches").index(i);
        if !fields::is_limit(patch) {
            let text = format!(
                "is not acted on: of all patches those alone are that put {FILTER} before a workload's application (HTTP_FILTER), or say for a route what it does (HTTP_ROUTE)"
            );
            report.say(Code::UnsupportedField, &at, text);
        } else if limits.len() == MAX_LIMITS {
            let text = format!("an object has at most {MAX_LIMITS} limits; this one is left out");
            report.say(Code::InvalidValue, &at, text);
        } else {
            limits.extend(limit((object, world), patch, &at, report));
        }
    }
    let labels = spec.workload_selector.labels;
    let in_labels = at.field("workloadSelector").field("labels");
    // A condition that is not understood must not be left out.
    if !are_labels(&labels, &in_labels, report) || !spec.target_refs.is_null() || limits.is_empty()
    {
        return None;
    }
    let limits = LocalLimits {
        namespace: of(object).cloned(),
        labels,
        limits,
    };
    if meets_nobody(&limits, world) {
        let whose = limits
            .namespace
            .as_ref()
            .map(|n| format!(" of namespace {n}"));
        let text = format!(
            "there is no workload with these labels behind a service{}",
            whose.unwrap_or_default()
        );
        report.say(Code::EmptySelector, &in_labels, text);
    }
    Some(limits)
}

/// Whether nobody has these labels, where all that are called are known.
fn meets_nobody(limits: &LocalLimits, world: &World) -> bool {
    !world.labels.is_empty()
        && services(limits.namespace.as_ref(), world).all(|(service, _)| {
            let known = world.labels.get(service);
            known.is_some_and(|sets| !sets.iter().any(|l| has_labels(l, &limits.labels)))
        })
}

/// Whether nobody has a service with this port, where there are any.
fn has_no_service(port: u16, namespace: Option<&Namespace>, world: &World) -> bool {
    let has = |ports: &Ports| ports.iter().any(|(_, p)| *p == port);
    !world.services.is_empty() && !services(namespace, world).any(|(_, ports)| has(ports))
}

/// The namespace whose workloads an object is for; none for all.
fn of(object: &Object) -> Option<&Namespace> {
    Some(&object.name.namespace).filter(|n| n.as_str() != ROOT_NAMESPACE)
}

/// The services of a namespace, or of all.
fn services<'w>(
    namespace: Option<&Namespace>,
    world: &'w World,
) -> impl Iterator<Item = (&'w ServiceName, &'w Ports)> {
    let all = world.services.iter();
    all.filter(move |(name, _)| namespace.is_none_or(|n| name.namespace == *n))
}

/// What is in `value`, as a type; what is wrong with it is told.
fn read<T: DeserializeOwned>(value: &Value, at: &At, report: &mut Report<'_>) -> Option<T> {
    match serde_json::from_value(value.clone()) {
        Ok(read) => Some(read),
        Err(error) => {
            report.say(Code::Malformed, at, error.to_string());
            None
        }
    }
}

/// One patch.
fn limit(
    (object, world): (&Object, &World),
    patch: &Value,
    at: &At,
    report: &mut Report<'_>,
) -> Option<LocalLimit> {
    let doc: ConfigPatch = read(patch, at, report)?;
    let in_match = at.field("match");
    let place = place(&doc, &in_match, report)?;
    // What is wrong in it is told by the table.
    let mut unmet = Vec::new();
    if let Some(conditions) = patch.get("match") {
        check(
            conditions,
            fields::MATCH,
            &At::default(),
            &mut Report::new(object, &mut unmet),
        );
    }
    let in_patch = at.field("patch");
    let operations: &[&str] = match place {
        Place::Filter { .. } => &["INSERT_BEFORE", "INSERT_FIRST"],
        Place::Route { .. } => &["MERGE"],
    };
    if !operations.contains(&doc.patch.operation.as_str()) {
        let text = format!(
            "the patch is left out: {:?} is not acted on here, {} is",
            doc.patch.operation,
            operations.join(" or ")
        );
        report.say(Code::UnsupportedField, &in_patch.field("operation"), text);
        return None;
    }
    let (config, at) = config(&doc.patch.value, place, &in_patch.field("value"), report)?;
    let limit = config::limit(&config, place, &at, report)?;
    if let Place::Route { port: Some(port) } = place
        && has_no_service(port, of(object), world)
    {
        let at = in_match
            .field("routeConfiguration")
            .field("vhost")
            .field("name");
        let text = format!("no service of these workloads has a port {port}");
        report.say(Code::IdleSetting, &at, text);
    }
    if !matches!(doc.matches.context.as_deref(), Some("SIDECAR_INBOUND")) && unmet.is_empty() {
        let text = "it holds for what a workload is called for and not for what it calls, as if it said SIDECAR_INBOUND";
        report.say(Code::UnsupportedField, &in_match.field("context"), text);
    }
    Some(limit).filter(|_| unmet.is_empty())
}

/// Where a patch stands.
fn place(doc: &ConfigPatch, at: &At, report: &mut Report<'_>) -> Option<Place> {
    let Match {
        listener,
        route_configuration,
        ..
    } = &doc.matches;
    let of_filter = doc.apply_to == "HTTP_FILTER";
    let other = match (of_filter, listener, route_configuration) {
        (true, _, Some(_)) => Some("routeConfiguration"),
        (false, Some(_), _) => Some("listener"),
        _ => None,
    };
    if let Some(other) = other {
        let text = format!(
            "the patch is left out: {} is not matched by this",
            doc.apply_to
        );
        report.say(Code::InvalidValue, &at.field(other), text);
        return None;
    }
    if of_filter {
        let at = at.field("listener").field("portNumber");
        let number = listener.as_ref().and_then(|l| l.port_number);
        let port = number.filter(|n| *n != 0).map(|n| n.to_string());
        return Some(Place::Filter {
            port: of_port(port.as_deref(), "the number of a port", &at, report)?,
        });
    }
    let at = at.field("routeConfiguration").field("vhost").field("name");
    let vhost = route_configuration.as_ref().and_then(|r| r.vhost.as_ref());
    let name = vhost
        .and_then(|v| v.name.as_deref())
        .filter(|n| !n.is_empty());
    let expected = "inbound|http| and the number of a service's port";
    let port = match name.map(|n| n.strip_prefix(VIRTUAL_HOST).ok_or(n)) {
        None => None,
        Some(Ok(port)) => of_port(Some(port), expected, &at, report)?,
        Some(Err(name)) => {
            report.invalid(&at, name, expected);
            return None;
        }
    };
    Some(Place::Route { port })
}

/// A port, if one is said; none where it is none.
fn of_port(
    text: Option<&str>,
    expected: &str,
    at: &At,
    report: &mut Report<'_>,
) -> Option<Option<u16>> {
    let Some(text) = text else { return Some(None) };
    let port = text.parse().ok().filter(|p: &u16| *p > 0);
    if port.is_none() {
        report.invalid(at, text, expected);
    }
    port.map(Some)
}

/// What the filter is told, and where that stands.
fn config(
    value: &Patched,
    place: Place,
    at: &At,
    report: &mut Report<'_>,
) -> Option<(LocalRateLimit, At)> {
    let mut is_no_field = |name: &str, of: &str| {
        let text = format!("there is no such field of a {of}; it has no effect");
        report.say(Code::UnknownField, &at.field(name), text);
    };
    let (typed, at) = match place {
        Place::Filter { .. } => {
            if value.typed_per_filter_config.is_some() {
                is_no_field("typed_per_filter_config", "filter");
            }
            let name = value.name.as_deref().unwrap_or_default();
            if name != FILTER {
                report.invalid(&at.field("name"), name, FILTER);
                return None;
            }
            (value.typed_config.as_ref(), at.field("typed_config"))
        }
        Place::Route { .. } => {
            if value.typed_config.is_some() {
                is_no_field("typed_config", "route");
            }
            if value.name.is_some() {
                let text = "is not acted on: a route of what a workload is called for has one name";
                report.say(Code::UnsupportedField, &at.field("name"), text);
            }
            let all = value.typed_per_filter_config.as_ref();
            let at = at.field("typed_per_filter_config");
            for other in all
                .into_iter()
                .flatten()
                .map(|(k, _)| k)
                .filter(|k| *k != FILTER)
            {
                let text =
                    format!("is not acted on: of what filters do for a route {FILTER} alone is");
                report.say(Code::UnsupportedField, &at.field(other), text);
            }
            (all.and_then(|a| a.get(FILTER)), at.field(FILTER))
        }
    };
    if value.disabled {
        return None;
    }
    let Some(typed) = typed else {
        report.say(
            Code::InvalidValue,
            &at,
            format!("is missing: a {TYPE} says what the limit is"),
        );
        return None;
    };
    of_type(typed, &at, report)
}

/// A LocalRateLimit, as its own type or in a TypedStruct.
fn of_type(value: &Value, at: &At, report: &mut Report<'_>) -> Option<(LocalRateLimit, At)> {
    let typed: Typed = read(value, at, report)?;
    let name = |url: &str| url.rsplit('/').next().unwrap_or_default().to_owned();
    let of_struct = ["type_url", "typeUrl", "value"];
    let is_direct = name(&typed.at_type) == TYPE;
    if !is_direct && !TYPED_STRUCTS.contains(&name(&typed.at_type).as_str()) {
        report.invalid(
            &at.field("@type"),
            &typed.at_type,
            "the type of LocalRateLimit, or a TypedStruct",
        );
        return None;
    }
    let all = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str());
    let beside = all.filter(|k| *k != "@type" && of_struct.contains(k) == is_direct);
    for key in beside {
        let of = if is_direct {
            "LocalRateLimit"
        } else {
            "TypedStruct"
        };
        let text = format!("there is no such field of a {of}; it has no effect");
        report.say(Code::UnknownField, &at.field(key), text);
    }
    if is_direct {
        return Some((read(value, at, report)?, at.clone()));
    }
    if name(&typed.type_url) != TYPE {
        report.invalid(
            &at.field("type_url"),
            &typed.type_url,
            "the type of LocalRateLimit",
        );
        return None;
    }
    let at = at.field("value");
    let inside = typed
        .value
        .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    Some((read(&inside, &at, report)?, at))
}
