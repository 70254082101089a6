//! VirtualService: whose calls its rules hold for.

use tradewind_api::{
    ServiceName,
    route::{Kind, Origin, Otherwise, Rule, StreamOtherwise, StreamRule},
};

use super::{delegate, http::Reader, scope, types::Spec};
use crate::{
    draft::{Api, Callers, Draft, Drafts, Rank},
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
) -> Drafts {
    let Some(spec) = object.spec::<Spec>(report) else {
        return Drafts::default();
    };
    if spec.hosts.is_empty() {
        delegate::check(&spec, object, world, report);
        return Drafts::default();
    }
    if !spec.gateways.is_empty() && !spec.gateways.iter().any(|g| g == MESH) {
        let text = "it holds for gateways at the edge alone, and those are not served; add mesh for calls inside";
        report.say(Code::UnsupportedField, &At::spec().field("gateways"), text);
        return Drafts::default();
    }
    let callers = scope::callers(&spec.export_to, object, report);
    let services = services(&spec, object, world, report);
    let reader = Reader {
        object,
        world,
        callers: &callers,
    };
    let whose = Whose {
        index,
        services: &services,
        callers: &callers,
    };
    let origin = |rule: &String| Origin {
        kind: Kind::VirtualService,
        object: object.name.clone(),
        rule: rule.clone(),
        cluster: None,
    };
    let mut drafts = Drafts::default();
    if !spec.http.is_empty() {
        let rules = reader.rules(&spec.http, report);
        let rule = |(name, when, then): &super::http::Made| Rule {
            origin: origin(name),
            when: when.clone(),
            then: std::sync::Arc::clone(then),
        };
        let rules: Vec<_> = rules.iter().map(rule).collect();
        drafts.requests = whose.drafts(Otherwise::NotFound, &rules);
    }
    if !spec.tls.is_empty() || !spec.tcp.is_empty() {
        let rules = reader.streams(&spec.tls, &spec.tcp, report);
        let rule = |(name, when, to): super::stream::Made| StreamRule {
            origin: origin(&name),
            when,
            to,
        };
        let rules: Vec<_> = rules.into_iter().map(rule).collect();
        drafts.streams = whose.drafts(StreamOtherwise::Service, &rules);
    }
    drafts
}

/// Whom an object's rules are for.
struct Whose<'a> {
    index: usize,
    /// Each with whether a pattern alone means it.
    services: &'a [(ServiceName, bool)],
    callers: &'a Callers,
}

impl Whose<'_> {
    /// The same rules for each of the services, in the object's order.
    fn drafts<R: Clone, O: Copy>(&self, otherwise: O, rules: &[R]) -> Vec<Draft<R, O>> {
        let draft = |(service, by_pattern): &(ServiceName, bool)| Draft {
            api: Api::Istio,
            object: self.index,
            service: service.clone(),
            callers: self.callers.clone(),
            by_pattern: *by_pattern,
            otherwise,
            rules: rules.iter().map(|r| (Rank::default(), r.clone())).collect(),
        };
        self.services.iter().map(draft).collect()
    }
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
