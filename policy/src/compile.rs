//! All objects into what holds for each service. Where several objects have rules for the same service and callers, Gateway
//! API's go before Istio's and those before SMI's. Routes of the Gateway API are one list, by the precedence that it states; of the
//! others one object holds, the oldest that names the service. Whatever does not hold is reported. Rules for streams are merged
//! by themselves, in the same way.

mod covers;
mod edits;
mod limits;
mod merged;
mod sessions;
mod streams;

use std::{
    borrow::Borrow,
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tradewind_api::{
    Namespace, ServiceName,
    limit::{Limits, LocalLimits},
    route::{Origin, Routes, Rule, StreamTable, Table, Text},
    traffic::TrafficPolicy,
};

use crate::{
    draft::{Api, Draft, Drafts},
    fields,
    finding::{Code, Finding},
    gateway_api, istio,
    kinds::Known,
    object::{At, Object, Report},
    smi,
    status::RouteStatus,
    traffic::{self, TrafficDraft},
    world::{Grant, World},
};
use covers::covers;
pub use edits::{Compiled, Edits};
use merged::Remembered;

/// What objects make together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// By the service that is called.
    pub routes: BTreeMap<ServiceName, Routes>,
    /// What is wrong or without effect, by place.
    pub findings: Vec<Finding>,
    /// What each route of Gateway API is told of itself, by kind, namespace and name.
    pub statuses: Vec<Arc<RouteStatus>>,
    /// How much workloads take, by the object that says it.
    pub limits: Limits<Arc<LocalLimits>>,
}

/// Whether objects of this kind are read here.
pub fn is_known(api_version: &str, kind: &str) -> bool {
    Known::of(api_version, kind).is_some()
}

/// Compiles. Objects of kinds that are not known here are other people's. The same objects make the same, in whatever order
/// they come.
pub fn compile(objects: &[impl Borrow<Object>], services: &World) -> Policy {
    Compiler::default().compile(objects, services)
}

/// What Gateway API's routes among the objects are told of themselves, by kind, namespace and name; of what [`compile`] makes of them.
pub fn statuses(objects: &[impl Borrow<Object>], services: &World) -> Vec<Arc<RouteStatus>> {
    compile(objects, services).statuses
}

/// Compiles again and again, and reads again only those objects that changed, as long as what objects refer to is the same. What it
/// makes is what [`compile`] makes.
#[derive(Debug, Default)]
pub struct Compiler {
    /// What was referred to the last time.
    world: World,
    groups: Vec<Object>,
    /// What each object made then.
    read: HashMap<Id, Arc<Read>>,
    ruled: HashMap<Id, Arc<Ruled>>,
    /// What VirtualServices say of delegates.
    delegations: istio::Delegations,
    /// What all DestinationRules made, in the order of their age.
    of_ruled: Vec<Arc<Ruled>>,
    traffic_findings: Vec<Finding>,
    requests: Remembered<Table>,
    streams: Remembered<StreamTable>,
    /// What was looked at last, if all of it was.
    seen: Option<edits::Seen>,
}

/// Where an object's value lies: that of another one, or of another reading of it, lies elsewhere for as long as this one is held. Whether it
/// is the same object is for its comparison to say.
type Id = usize;

pub(crate) fn id(object: &Object) -> Id {
    Arc::as_ptr(&object.value) as usize
}

/// What one object said by itself.
#[derive(Debug)]
struct Read {
    object: Object,
    drafts: Drafts,
    findings: Vec<Finding>,
    status: Option<Arc<RouteStatus>>,
}

/// The same of a DestinationRule.
#[derive(Debug)]
struct Ruled {
    object: Object,
    drafts: Vec<TrafficDraft>,
    findings: Vec<Finding>,
}

impl Compiler {
    /// Compiles what there is now.
    pub fn compile(&mut self, objects: &[impl Borrow<Object>], services: &World) -> Policy {
        self.seen = None;
        let mut objects: Vec<&Object> = objects.iter().map(Borrow::borrow).collect();
        objects.sort_by(|a, b| order(a, b));
        let kinds: Vec<Option<Known>> = objects.iter().map(|o| known(o)).collect();
        let of_kind = |kind: Known| {
            let all = objects.iter().zip(&kinds);
            all.filter(move |(_, k)| **k == Some(kind)).map(|(o, _)| *o)
        };
        if !self.world.is_of_the_same(services) {
            self.world = services.clone();
            self.read.clear();
            self.ruled.clear();
        }
        let mut findings = Vec::new();
        let grants: Vec<_> = of_kind(Known::ReferenceGrant).map(Grant::read).collect();
        let groups: Vec<Object> = of_kind(Known::HttpRouteGroup).cloned().collect();
        let traffic = self.traffic((&objects, &kinds), &mut findings);
        let services: Vec<&Object> = of_kind(Known::VirtualService).collect();
        let delegates = self.delegations.among(&services, &mut findings);
        let refer = (&self.world.grants, &self.world.delegates, &self.groups);
        if traffic.is_some() || refer != (&grants, &delegates, &groups) {
            (self.world.grants, self.world.delegates) = (grants, delegates);
            self.groups = groups;
            self.world.traffic = traffic.unwrap_or_else(|| std::mem::take(&mut self.world.traffic));
            self.read.clear();
        }
        let mut reads = Vec::new();
        let mut statuses = Vec::new();
        let mut before = std::mem::take(&mut self.read);
        for (index, (object, kind)) in objects.iter().zip(&kinds).enumerate() {
            let Some(kind) = *kind else { continue };
            let id = id(object);
            let same = before.remove(&id).filter(|r| r.object == **object);
            let read = same.unwrap_or_else(|| Arc::new(self.read(object, kind)));
            findings.extend(read.findings.iter().cloned());
            statuses.extend(read.status.clone());
            reads.push((index, Arc::clone(&read)));
            self.read.insert(id, read);
        }
        let mut routes = BTreeMap::new();
        merge(
            &mut self.requests,
            (&objects, &reads),
            &mut routes,
            &mut findings,
        );
        streams::merge(
            &mut self.streams,
            (&objects, &reads),
            &mut routes,
            &mut findings,
        );
        for (service, traffic) in &self.world.traffic {
            routes
                .entry(service.clone())
                .or_default()
                .traffic
                .clone_from(traffic);
        }
        let limits = limits::of_all(&objects, &reads, &mut findings);
        findings.sort();
        findings.dedup();
        statuses.sort_by(|a: &Arc<RouteStatus>, b| a.key().cmp(&b.key()));
        Policy {
            routes,
            findings,
            statuses,
            limits,
        }
    }

    /// What one object says by itself.
    fn read(&self, object: &Object, kind: Known) -> Read {
        let mut findings = Vec::new();
        let mut report = Report::new(object, &mut findings);
        // SMI's groups had no spec at first.
        let (spec, at) = match object.value.get("spec") {
            Some(spec) => (spec, At::spec()),
            None => (&serde_json::Value::Null, At::default()),
        };
        fields::check(spec, kind.fields(), &at, &mut report);
        let groups: Vec<&Object> = self.groups.iter().collect();
        let drafts = read(object, 0, kind, (&groups, &self.world), &mut report);
        let status = report.facts.status(object, kind);
        Read {
            object: object.clone(),
            drafts,
            findings,
            status: status.map(Arc::new),
        }
    }

    /// What DestinationRules make, before the routes that refer to their subsets; none where that is what they made the last time.
    fn traffic(
        &mut self,
        (objects, kinds): (&[&Object], &[Option<Known>]),
        findings: &mut Vec<Finding>,
    ) -> Option<BTreeMap<ServiceName, Vec<Arc<TrafficPolicy>>>> {
        let mut all = Vec::new();
        let mut before = std::mem::take(&mut self.ruled);
        for (index, (object, kind)) in objects.iter().zip(kinds).enumerate() {
            if *kind != Some(Known::DestinationRule) {
                continue;
            }
            let id = id(object);
            let same = before.remove(&id).filter(|r| r.object == **object);
            let ruled = same.unwrap_or_else(|| {
                let mut findings = Vec::new();
                let mut report = Report::new(object, &mut findings);
                let drafts = istio::destination_rule(object, 0, &self.world, &mut report);
                Arc::new(Ruled {
                    object: Object::clone(object),
                    drafts,
                    findings,
                })
            });
            findings.extend(ruled.findings.iter().cloned());
            all.push((index, Arc::clone(&ruled)));
            self.ruled.insert(id, ruled);
        }
        let is_same =
            |((_, now), last): (&(usize, Arc<Ruled>), &Arc<Ruled>)| Arc::ptr_eq(now, last);
        let last = &self.of_ruled;
        let made = if last.len() == all.len() && all.iter().zip(last).all(is_same) {
            None
        } else {
            let of = |(object, ruled): &(usize, Arc<Ruled>)| {
                let mut drafts = ruled.drafts.clone();
                drafts.iter_mut().for_each(|d| d.object = *object);
                drafts
            };
            let drafts = all.iter().flat_map(of).collect();
            self.traffic_findings.clear();
            let made = traffic::merge(objects, drafts, &mut self.traffic_findings);
            self.of_ruled = all.into_iter().map(|(_, ruled)| ruled).collect();
            Some(made)
        };
        findings.extend(self.traffic_findings.iter().cloned());
        made.filter(|made| *made != self.world.traffic)
    }
}

/// By age, and of one age by kind.
fn order(a: &Object, b: &Object) -> Ordering {
    age(&a).cmp(&age(&b)).then_with(|| a.kind.cmp(&b.kind))
}

fn known(object: &Object) -> Option<Known> {
    Known::of(&object.api_version, &object.kind)
}

/// What one object says by itself.
fn read(
    object: &Object,
    index: usize,
    kind: Known,
    (groups, world): (&[&Object], &World),
    report: &mut Report<'_>,
) -> Drafts {
    match kind {
        Known::HttpRoute => {
            Drafts::of_requests(gateway_api::http_route(object, index, world, report))
        }
        Known::GrpcRoute => {
            Drafts::of_requests(gateway_api::grpc_route(object, index, world, report))
        }
        Known::TcpRoute => Drafts::of_streams(gateway_api::tcp_route(object, index, world, report)),
        Known::TlsRoute => Drafts::of_streams(gateway_api::tls_route(object, index, world, report)),
        Known::VirtualService => istio::virtual_service(object, index, world, report),
        Known::EnvoyFilter => Drafts {
            limits: istio::envoy_filter(object, world, report).map(Arc::new),
            ..Drafts::default()
        },
        Known::TrafficSplit => {
            Drafts::of_requests(smi::traffic_split(object, index, groups, world, report))
        }
        Known::ReferenceGrant | Known::HttpRouteGroup | Known::DestinationRule => Drafts::default(),
    }
}

/// Oldest first; those of files have no age and come last, by name.
fn age<'a>(object: &&'a Object) -> (bool, Option<&'a str>, &'a ServiceName) {
    let created = object.created.as_deref();
    (created.is_none(), created, &object.name)
}

fn merge(
    remembered: &mut Remembered<Table>,
    (objects, reads): (&[&Object], &[(usize, Arc<Read>)]),
    routes: &mut BTreeMap<ServiceName, Routes>,
    findings: &mut Vec<Finding>,
) {
    let make = |service: &ServiceName, drafts, findings: &mut Vec<Finding>| {
        table(objects, service, drafts, findings)
    };
    for ((service, callers), table) in
        remembered.tables(reads, |r| &r.drafts.requests, make, findings)
    {
        put(routes.entry(service.clone()).or_default(), callers, table);
    }
}

fn put(routes: &mut Routes, callers: &Option<Namespace>, table: &Arc<Table>) {
    let table = Arc::clone(table);
    match callers {
        Some(namespace) => drop(routes.of_callers.insert(namespace.clone(), table)),
        None => routes.of_all = Some(table),
    }
}

/// The table of one service and its callers.
fn table(
    objects: &[&Object],
    service: &ServiceName,
    drafts: Vec<Draft>,
    findings: &mut Vec<Finding>,
) -> Option<Table> {
    let on = format!("service {service}");
    let (rules, otherwise) = held(objects, &on, drafts, findings)?;
    let origin = |rule: &Rule| rule.origin.clone();
    let covers = |a: &Rule, b: &Rule| covers(&a.when, &b.when);
    let takes = format!("a request for {on}");
    shadows(objects, &takes, &rules, (origin, covers), findings);
    unasked(objects, service, &rules, findings);
    sessions::shared(objects, &on, &rules, findings);
    Some(Table {
        rules: rules.into_iter().map(|(_, rule)| rule).collect(),
        otherwise,
    })
}

/// Rules, each with its object.
type Held<R> = Vec<(usize, R)>;

/// The rules that hold for one service and its callers, in order, and what becomes of what they do not match. Those that do not hold are
/// told that they have no effect on `what`.
fn held<R, O: Copy>(
    objects: &[&Object],
    what: &str,
    mut drafts: Vec<Draft<R, O>>,
    findings: &mut Vec<Finding>,
) -> Option<(Held<R>, O)> {
    // Objects are in the order of their age, so the index is it.
    drafts.sort_by_key(|d| (d.api, d.by_pattern, d.object));
    let first = drafts.first()?;
    let (api, otherwise, winner) = (first.api, first.otherwise, first.object);
    let (held, lost): (Vec<_>, Vec<_>) = drafts
        .into_iter()
        .partition(|d| d.api == api && (api == Api::Gateway || d.object == winner));
    let mut told = BTreeSet::new();
    for draft in &lost {
        let (Some(object), Some(winner)) = (objects.get(draft.object), objects.get(winner)) else {
            continue;
        };
        if told.insert(draft.object) {
            let text = format!(
                "has no effect on {what}: {winner} ({}) goes before it",
                winner.place
            );
            Report::new(object, findings).say(Code::Superseded, &At::default(), text);
        }
    }
    let mut rules: Vec<_> = held
        .into_iter()
        .flat_map(|d| {
            d.rules
                .into_iter()
                .map(move |(rank, rule)| (rank, d.object, rule))
        })
        .collect();
    if api == Api::Gateway {
        // Stable: within one route the order of its rules stays.
        rules.sort_by_key(|(rank, object, _)| (Reverse(*rank), *object));
    }
    let rules = rules.into_iter().map(|(_, object, rule)| (object, rule));
    Some((rules.collect(), otherwise))
}

/// Rules of one service that are compared with each other: what they cost is the square of it.
const MAX_COMPARED: usize = 1_000;

/// Reports rules that are never asked: each one that another before it takes everything of, which is called `what`.
fn shadows<R>(
    objects: &[&Object],
    what: &str,
    rules: &[(usize, R)],
    (origin, covers): (impl Fn(&R) -> Origin, impl Fn(&R, &R) -> bool),
    findings: &mut Vec<Finding>,
) {
    let mut told = BTreeSet::new();
    for (i, (object, rule)) in rules.iter().take(MAX_COMPARED).enumerate() {
        let before = rules.iter().take(i).find(|(_, b)| covers(b, rule));
        let (Some((_, before)), Some(object)) = (before, objects.get(*object)) else {
            continue;
        };
        let (origin, before) = (origin(rule), origin(before));
        let text = format!(
            "{} never takes {what}: {before} takes them all",
            origin.rule
        );
        // One of several matches of a rule says it for all.
        if told.insert((origin, before)) {
            Report::new(object, findings).say(Code::Shadowed, &At::spec(), text);
        }
    }
}

/// Reports permissions for browsers, of rules that no preflight reaches. One rule that takes preflights is enough: which requests it
/// answers for is not compared.
fn unasked(
    objects: &[&Object],
    service: &ServiceName,
    rules: &[(usize, Rule)],
    findings: &mut Vec<Finding>,
) {
    let with = || rules.iter().filter(|(_, rule)| rule.then.cors.is_some());
    let takes_options = |rule: &Rule| match &rule.when.method {
        None | Some(Text::Present | Text::Regex(_)) => true,
        Some(Text::Exact(method)) => method == "OPTIONS",
        Some(Text::Prefix(begin)) => "OPTIONS".starts_with(begin.as_str()),
    };
    if with().any(|(_, rule)| takes_options(rule)) {
        return;
    }
    for (object, rule) in with() {
        let Some(object) = objects.get(*object) else {
            continue;
        };
        let text = format!(
            "{} of service {service} answers no preflight: it takes no OPTIONS requests",
            rule.origin.rule
        );
        Report::new(object, findings).say(Code::IdleCors, &At::spec(), text);
    }
}

#[cfg(test)]
mod tests;
