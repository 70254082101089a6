//! VirtualService: whose calls its rules hold for.

use tradewind_api::{
    ServiceName,
    route::{Kind, Origin, Otherwise, Rule},
};

use super::{http::Reader, scope, types::Spec};
use crate::{
    draft::{Api, Draft, Rank},
    finding::Code,
    object::{At, Object, Report},
    world::World,
};

/// The gateway that means the proxies of the mesh.
pub(super) const MESH: &str = "mesh";

/// Reads one; `index` is the object's place among all.
pub(crate) fn virtual_service(
    object: &Object,
    index: usize,
    world: &World,
    report: &mut Report<'_>,
) -> Vec<Draft> {
    let Some(spec) = object.spec::<Spec>(report) else {
        return Vec::new();
    };
    if !spec.gateways.is_empty() && !spec.gateways.iter().any(|g| g == MESH) {
        let text = "it holds for gateways at the edge alone, and those are not served; add mesh for calls inside";
        report.say(Code::UnsupportedField, &At::spec().field("gateways"), text);
        return Vec::new();
    }
    let callers = scope::callers(&spec.export_to, object, report);
    let services = services(&spec, object, world, report);
    if spec.http.is_empty() {
        return Vec::new();
    }
    let reader = Reader {
        object,
        world,
        callers: &callers,
    };
    let rules = reader.rules(&spec.http, report);
    let rule = |(name, when, then): &super::http::Made| {
        let rule = Rule {
            origin: Origin {
                kind: Kind::VirtualService,
                object: object.name.clone(),
                rule: name.clone(),
                cluster: None,
            },
            when: when.clone(),
            then: std::sync::Arc::clone(then),
        };
        (Rank::default(), rule)
    };
    services
        .into_iter()
        .map(|(service, by_pattern)| Draft {
            api: Api::Istio,
            object: index,
            service,
            callers: callers.clone(),
            by_pattern,
            otherwise: Otherwise::NotFound,
            rules: rules.iter().map(rule).collect(),
        })
        .collect()
}

/// The services that its hosts mean, and which of them by a pattern alone.
fn services(
    spec: &Spec,
    object: &Object,
    world: &World,
    report: &mut Report<'_>,
) -> Vec<(ServiceName, bool)> {
    let mut found: Vec<(ServiceName, bool)> = Vec::new();
    let mut add =
        |service: &ServiceName, by_pattern| match found.iter_mut().find(|(s, _)| s == service) {
            Some((_, known)) => *known &= by_pattern,
            None => found.push((service.clone(), by_pattern)),
        };
    for (i, host) in spec.hosts.iter().enumerate() {
        let at = At::spec().field("hosts").index(i);
        for service in scope::services(host, object, world, &at, report) {
            add(&service, scope::is_pattern(host));
        }
    }
    found
}
