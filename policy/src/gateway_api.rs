//! Gateway API's routes with a Service or a ServiceImport as their parent (GAMMA). Rules of all routes for one parent are one
//! list, ordered by the precedence that the API states; a route in another namespace than its parent's holds for the callers
//! of its own.

mod backends;
pub(crate) mod fields;
mod filters;
mod grpc_route;
mod http_route;
mod persistence;
mod stream_route;
mod types;

use tradewind_api::{
    Namespace, ServiceName,
    route::{Action, Direct, Kind, Match, Origin, Otherwise, PathIs, Rule, To},
};

pub(crate) use grpc_route::grpc_route;
pub(crate) use http_route::http_route;
pub(crate) use stream_route::{tcp_route, tls_route};

use crate::{
    draft::{Api, Callers, Draft, Rank},
    finding::Code,
    object::{At, Object, Report},
    status::ParentReference as ParentRef,
    world::{World, service_kind},
};

/// The group of the API's own kinds, which references have when they say none.
const GROUP: &str = "gateway.networking.k8s.io";

/// The kind that parents have when they say none.
const GATEWAY: &str = "Gateway";

/// What the answer is where a route cannot be followed, as the API has it.
fn answers_500() -> To {
    To::Direct(Direct {
        status: 500,
        body: None,
    })
}

/// A route's `spec`. Where it is none, its parents are told so as far as they can be read.
fn spec<T: serde::de::DeserializeOwned>(object: &Object, report: &mut Report<'_>) -> Option<T> {
    let spec = object.spec::<T>(report);
    if spec.is_none() {
        let parents = object.value.pointer("/spec/parentRefs");
        for parent in parents.and_then(|p| p.as_array()).into_iter().flatten() {
            if let Ok(parent) = serde_json::from_value::<ParentRef>(parent.clone())
                && is_service(&parent)
            {
                report.facts.parent(parent, None);
            }
        }
    }
    spec
}

fn is_service(parent: &ParentRef) -> bool {
    let group = parent.group.as_deref().unwrap_or(GROUP);
    service_kind(group, parent.kind.as_deref().unwrap_or(GATEWAY)).is_some()
}

/// Reads one kind's objects.
pub(crate) struct Reader<'a> {
    pub(crate) object: &'a Object,
    pub(crate) world: &'a World,
}

/// One rule, before it is known for whom.
struct Made {
    /// Its name, or its place.
    name: String,
    rank: Rank,
    when: Match,
    then: std::sync::Arc<Action>,
}

/// A rule's name and its place among the rules.
type Named<'a> = (Option<&'a String>, usize);

fn name_of((name, index): Named<'_>) -> String {
    name.cloned().unwrap_or_else(|| format!("rules[{index}]"))
}

/// A rule as one for each of its matches; for everything where it has none.
fn for_each_match<M>(
    (name, index): Named<'_>,
    (matches, at): (&[M], &At),
    action: Action,
    report: &mut Report<'_>,
    read: impl Fn(&M, &At, &mut Report<'_>) -> Match,
) -> Vec<Made> {
    let at = at.field("matches");
    let mut whens: Vec<_> = matches
        .iter()
        .enumerate()
        .map(|(i, m)| read(m, &at.index(i), report))
        .collect();
    if whens.is_empty() {
        whens.push(Match::default());
    }
    if report.facts.drops_rule() {
        return Vec::new();
    }
    let name = name_of((name, index));
    let then = std::sync::Arc::new(action);
    let made = |when| Made {
        name: name.clone(),
        rank: rank(&when),
        when,
        then: std::sync::Arc::clone(&then),
    };
    whens.into_iter().map(made).collect()
}

impl Reader<'_> {
    fn namespace(&self) -> &Namespace {
        &self.object.name.namespace
    }

    /// The rules for each parent that is a service.
    fn attach(
        &self,
        parents: &[ParentRef],
        index: usize,
        kind: Kind,
        made: &[Made],
        report: &mut Report<'_>,
    ) -> Vec<Draft> {
        let rule = |m: &Made, port: Option<u16>| {
            let when = Match {
                port: port.or(m.when.port),
                ..m.when.clone()
            };
            let rule = Rule {
                origin: self.origin(kind, &m.name),
                when,
                then: std::sync::Arc::clone(&m.then),
            };
            (m.rank, rule)
        };
        self.drafts(parents, index, Otherwise::NotFound, report, |port| {
            made.iter().map(|m| rule(m, port)).collect()
        })
    }

    /// What each parent that is a service has, with the rules for it or for its port. A route in its namespace is the producer's and for
    /// everybody, another one a consumer's and for the callers of its own.
    fn drafts<R, O: Copy>(
        &self,
        parents: &[ParentRef],
        index: usize,
        otherwise: O,
        report: &mut Report<'_>,
        rules: impl Fn(Option<u16>) -> Vec<(Rank, R)>,
    ) -> Vec<Draft<R, O>> {
        report.facts.no_rule();
        let at = At::spec().field("parentRefs");
        let mut drafts = Vec::new();
        for (i, parent) in parents.iter().enumerate() {
            let Some((service, port)) = self.parent(parent, &at.index(i), report) else {
                continue;
            };
            let rules = rules(port);
            if rules.is_empty() && report.facts.explain_no_rules() {
                continue;
            }
            let callers = if service.namespace == *self.namespace() {
                Callers::All
            } else {
                Callers::Of([self.namespace().clone()].into())
            };
            drafts.push(Draft {
                api: Api::Gateway,
                object: index,
                service,
                callers,
                by_pattern: false,
                otherwise,
                rules,
            });
        }
        drafts
    }

    /// Where a rule stands.
    fn origin(&self, kind: Kind, rule: &str) -> Origin {
        Origin {
            kind,
            object: self.object.name.clone(),
            rule: rule.to_owned(),
            cluster: None,
        }
    }

    /// The service that a parent is, and the port where it says one.
    fn parent(
        &self,
        parent: &ParentRef,
        at: &At,
        report: &mut Report<'_>,
    ) -> Option<(ServiceName, Option<u16>)> {
        if !is_service(parent) {
            let kind = parent.kind.as_deref().unwrap_or(GATEWAY);
            let text = format!(
                "a parent of kind {kind} is not served: only a Service, or a ServiceImport of multicluster.x-k8s.io, is"
            );
            report.say(Code::UnsupportedField, at, text);
            return None;
        }
        let namespace = parent
            .namespace
            .as_deref()
            .unwrap_or(self.namespace().as_str());
        let found = ServiceName::new(namespace, &parent.name)
            .map_err(|e| (Code::InvalidValue, at.clone(), e.to_string()))
            .and_then(|service| {
                let port = self.parents_port(parent, &service, at)?;
                Ok((service, port))
            });
        match found {
            Ok(found) => {
                report.facts.parent(parent.clone(), None);
                Some(found)
            }
            Err((code, at, text)) => {
                report.facts.parent(parent.clone(), Some(text.clone()));
                report.say(code, &at, text);
                None
            }
        }
    }

    /// The port of the parent that is meant, where one is; or what is missing.
    fn parents_port(
        &self,
        parent: &ParentRef,
        service: &ServiceName,
        at: &At,
    ) -> Result<Option<u16>, (Code, At, String)> {
        let missing = |at: At, text: String| Err((Code::ParentNotFound, at, text));
        let Some(ports) = self.world.services.get(service) else {
            return missing(at.clone(), format!("there is no service {service}"));
        };
        let number = |(_, port): &(String, u16)| parent.port.is_none_or(|p| p == *port);
        if let Some(port) = parent.port
            && !ports.iter().any(number)
        {
            let text = format!("service {service} has no port {port}");
            return missing(at.field("port"), text);
        }
        let Some(section) = &parent.section_name else {
            return Ok(parent.port);
        };
        // A name and a number must mean the same port.
        match ports.iter().find(|p| p.0 == *section && number(p)) {
            Some((_, port)) => Ok(Some(*port)),
            None => {
                let text = format!("service {service} has no such port named {section}");
                missing(at.field("sectionName"), text)
            }
        }
    }
}

/// The rank of a match, by the API's list.
fn rank(when: &Match) -> Rank {
    let (path, path_length) = match when.path.as_ref().map(|p| &p.is) {
        Some(PathIs::Exact(t)) => (3, t.chars().count()),
        Some(PathIs::Segments(t) | PathIs::Prefix(t)) => (2, t.chars().count()),
        Some(PathIs::Regex(t)) => (1, t.chars().count()),
        // The prefix `/`.
        None => (2, 1),
    };
    Rank {
        path,
        path_length,
        method: when.method.is_some(),
        headers: when.headers.len(),
        query: when.query.len(),
    }
}
