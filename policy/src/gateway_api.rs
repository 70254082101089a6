//! Gateway API's routes with a Service or a ServiceImport as their parent (GAMMA). Rules of all routes for one parent are one
//! list, ordered by the precedence that the API states; a route in another namespace than its parent's holds for the callers
//! of its own.

mod backends;
pub(crate) mod fields;
mod filters;
mod grpc_route;
mod http_route;
mod stream_route;
mod types;

use tradewind_api::{
    Namespace, ServiceName,
    route::{Action, Direct, Kind, Match, Origin, Otherwise, PathIs, Rule, To},
};

pub(crate) use grpc_route::grpc_route;
pub(crate) use http_route::http_route;
pub(crate) use stream_route::{tcp_route, tls_route};
use types::ParentRef;

use crate::{
    draft::{Api, Callers, Draft, Rank},
    finding::Code,
    object::{At, Object, Report},
    world::{World, service_kind},
};

/// The group of the API's own kinds, which references have when they say none.
const GROUP: &str = "gateway.networking.k8s.io";

/// What the answer is where a route cannot be followed, as the API has it.
fn answers_500() -> To {
    To::Direct(Direct {
        status: 500,
        body: None,
    })
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
        let at = At::spec().field("parentRefs");
        let mut drafts = Vec::new();
        for (i, parent) in parents.iter().enumerate() {
            let Some((service, port)) = self.parent(parent, &at.index(i), report) else {
                continue;
            };
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
                rules: rules(port),
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
        let group = parent.group.as_deref().unwrap_or(GROUP);
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        if service_kind(group, kind).is_none() {
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
        let service = match ServiceName::new(namespace, &parent.name) {
            Ok(service) => service,
            Err(error) => {
                report.say(Code::InvalidValue, at, error.to_string());
                return None;
            }
        };
        let Some(ports) = self.world.services.get(&service) else {
            let text = format!("there is no service {service}");
            report.say(Code::ParentNotFound, at, text);
            return None;
        };
        let Some(section) = &parent.section_name else {
            return Some((service, parent.port));
        };
        match ports.iter().find(|(name, _)| name == section) {
            Some((_, port)) => Some((service, Some(*port))),
            None => {
                let text = format!("service {service} has no port named {section}");
                report.say(Code::ParentNotFound, &at.field("sectionName"), text);
                None
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
