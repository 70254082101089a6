//! VirtualService's `delegate`: a rule of one with hosts (the root) that is made of the rules of one without. What both say of a request must
//! hold, and a delegate's rule that contradicts the root's is left out there; what a rule's answer is like is the delegate's word, and the
//! root's where that is silent. One level, and of rules for HTTP alone. As Istio merges them (`pilot/pkg/model/virtualservice.go`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::Value;
use tradewind_api::{
    ServiceName,
    route::{Action, Mirror, To},
};

use super::{
    http::{Made, Reader, direct, mirror_share, when},
    scope,
    types::{Delegate, HttpRoute, Match, Spec, StringMatch},
    virtual_service::MESH,
};
use crate::{
    compile::id,
    draft::Callers,
    finding::{Code, Finding},
    object::{At, Object, Report},
    values::check_timeouts,
    world::World,
};

/// Rules that one object has of its delegates, one for each match: each of its rules may have all of theirs, and nobody reads so many.
const MAX_DELEGATED: usize = 1_000;

/// What each VirtualService says of delegates, remembered for as long as there is one.
#[derive(Debug, Default)]
pub(crate) struct Delegations(HashMap<usize, Said>);

#[derive(Debug)]
struct Said {
    object: Object,
    /// Whom it delegates to; none for one without hosts, which others delegate to.
    to: Option<Vec<ServiceName>>,
}

impl Said {
    fn of(object: &Object) -> Self {
        Self {
            object: object.clone(),
            to: has_hosts(object).then(|| named_by(object).collect()),
        }
    }
}

impl Delegations {
    /// VirtualServices without hosts, by name, of all of them in the order of their age; of several of one name the first. Those that nobody
    /// delegates to are told.
    pub(crate) fn among(
        &mut self,
        objects: &[&Object],
        findings: &mut Vec<Finding>,
    ) -> BTreeMap<ServiceName, Object> {
        let mut before = std::mem::take(&mut self.0);
        let mut all = Vec::with_capacity(objects.len());
        for object in objects {
            let same = before.remove(&id(object)).filter(|s| s.object == **object);
            all.push(same.unwrap_or_else(|| Said::of(object)));
        }
        let found = delegates(&all, findings);
        self.0 = all.into_iter().map(|s| (id(&s.object), s)).collect();
        found
    }
}

/// Whether both are roots and delegate to the same, as far as others can tell.
pub(crate) fn delegate_alike(a: &Object, b: &Object) -> bool {
    let (a, b) = (Said::of(a), Said::of(b));
    a.to.is_some() && a.to == b.to
}

fn delegates(all: &[Said], findings: &mut Vec<Finding>) -> BTreeMap<ServiceName, Object> {
    let mut found: BTreeMap<ServiceName, Object> = BTreeMap::new();
    let mut named = BTreeSet::new();
    for Said { object, to } in all {
        if let Some(to) = to {
            named.extend(to);
        } else if let Some(first) = found.get(&object.name) {
            let text = format!("has no effect: {first} ({}) goes before it", first.place);
            Report::new(object, findings).say(Code::Superseded, &At::default(), text);
        } else {
            found.insert(object.name.clone(), Object::clone(object));
        }
    }
    for (name, object) in &found {
        if !named.contains(name) {
            let text = "it has no hosts, and no VirtualService with hosts delegates to it";
            Report::new(object, findings).say(Code::IdleDelegate, &At::default(), text);
        }
    }
    found
}

fn has_hosts(object: &Object) -> bool {
    let hosts = object.value.pointer("/spec/hosts");
    hosts
        .and_then(Value::as_array)
        .is_some_and(|h| !h.is_empty())
}

/// Whom an object's rules delegate to.
fn named_by(object: &Object) -> impl Iterator<Item = ServiceName> {
    let rules = object.value.pointer("/spec/http").and_then(Value::as_array);
    rules.into_iter().flatten().filter_map(|rule| {
        let text = |key| rule.pointer(key).and_then(Value::as_str);
        let namespace = text("/delegate/namespace").unwrap_or_default();
        name(object, text("/delegate/name")?, namespace)
    })
}

/// The object that is meant; its namespace is the root's where none is said.
fn name(root: &Object, name: &str, namespace: &str) -> Option<ServiceName> {
    let namespace = match namespace {
        "" => root.name.namespace.as_str(),
        other => other,
    };
    ServiceName::new(namespace, name).ok()
}

/// What is wrong with a delegate, whoever delegates to it.
pub(super) fn check(spec: &Spec, object: &Object, world: &World, report: &mut Report<'_>) {
    // Told where it is none.
    scope::callers(&spec.export_to, object, report);
    let in_spec = At::spec();
    let idle = [
        (
            !spec.gateways.is_empty(),
            "gateways",
            "a delegate's rules hold where those that delegate to it do",
        ),
        (
            !spec.tls.is_empty(),
            "tls",
            "only rules of http are delegated to, and no connection meets these",
        ),
        (
            !spec.tcp.is_empty(),
            "tcp",
            "only rules of http are delegated to, and no connection meets these",
        ),
        (
            spec.http.is_empty(),
            "http",
            "there are no rules to delegate to",
        ),
    ];
    for (_, field, text) in idle.into_iter().filter(|(is, ..)| *is) {
        report.say(Code::IdleSetting, &in_spec.field(field), text);
    }
    // Who calls is known only to those who delegate to it.
    let reader = Reader {
        object,
        world,
        callers: &Callers::All,
    };
    for (i, route) in spec.http.iter().enumerate() {
        let at = in_spec.field("http").index(i);
        if route.delegate.is_some() {
            let text = "a delegate's rule cannot delegate; it is left out";
            report.say(Code::InvalidValue, &at.field("delegate"), text);
            continue;
        }
        reader.action(route, &at, report);
        for (j, m) in route.matches.iter().enumerate() {
            when(m, &at.field("match").index(j), report);
        }
    }
}

/// A rule that delegates.
pub(super) struct Root<'a> {
    pub(super) route: &'a HttpRoute,
    /// Its name, or its place.
    pub(super) name: &'a str,
    pub(super) at: &'a At,
}

/// The delegates of one object, each read once.
#[derive(Default)]
pub(super) struct Delegates {
    read: BTreeMap<ServiceName, Option<Arc<Spec>>>,
    made: usize,
}

impl Delegates {
    /// Adds what a root's rule is made of. None at all where there is no such delegate: requests go on to the next rule.
    pub(super) fn rules(
        &mut self,
        reader: &Reader<'_>,
        root: &Root<'_>,
        to: &Delegate,
        report: &mut Report<'_>,
        made: &mut Vec<Made>,
    ) {
        for (is, field) in [
            (root.route.redirect.is_some(), "redirect"),
            (!root.route.route.is_empty(), "route"),
        ] {
            if is {
                let text = "the delegate's rules say where requests go";
                report.say(Code::IdleSetting, &root.at.field(field), text);
            }
        }
        for (j, m) in root.route.matches.iter().enumerate() {
            when(m, &root.at.field("match").index(j), report);
        }
        let (object, spec) = match self.find(reader, to) {
            Ok(found) => found,
            Err(text) => {
                report.say(Code::DelegateNotFound, &root.at.field("delegate"), text);
                return;
            }
        };
        // Who answers is not asked of the root.
        let inherited = inherited(reader, root, report);
        let leaves = Reader { object, ..*reader };
        for (j, leaf) in spec.http.iter().enumerate() {
            // Those that delegate themselves are told by the delegate.
            if leaf.delegate.is_some() {
                continue;
            }
            let at = At::spec().field("http").index(j);
            let room = MAX_DELEGATED.saturating_sub(self.made);
            let Some(matches) = merged(&root.route.matches, &leaf.matches, room) else {
                let text = format!(
                    "contradicts {} {}, which delegates to it: no request meets both, and the rule is left out there",
                    reader.object, root.name
                );
                let mut there = report.on(object);
                there.say(Code::Contradiction, &at.field("match"), text);
                continue;
            };
            if matches.len() > room {
                let text = format!(
                    "delegates to more than {MAX_DELEGATED} rules and matches together with those before it; the others are left out"
                );
                report.say(Code::InvalidValue, &root.at.field("delegate"), text);
                return;
            }
            self.made += matches.len();
            let action = with_the_roots(&leaves, (leaf, &at), root, &inherited, report);
            let name = named(root, leaf, object, j);
            let then = Arc::new(action);
            for m in &matches {
                // Told already, by the root and by the delegate.
                let mut told = Vec::new();
                let when = when(m, &at, &mut Report::new(object, &mut told));
                made.push((name.clone(), when, Arc::clone(&then)));
            }
        }
    }

    /// The delegate that is meant, or why there is none.
    fn find<'a>(
        &mut self,
        reader: &Reader<'a>,
        to: &Delegate,
    ) -> Result<(&'a Object, Arc<Spec>), String> {
        let missing = |name: &dyn std::fmt::Display| {
            format!("there is no VirtualService {name} without hosts; the rule is left out")
        };
        let name = name(reader.object, &to.name, &to.namespace)
            .ok_or_else(|| missing(&format!("{:?} in {:?}", to.name, to.namespace)))?;
        let object = reader.world.delegates.get(&name);
        let object = object.ok_or_else(|| missing(&name))?;
        let spec = self.read.entry(name).or_insert_with(|| {
            // What is wrong with it is told of itself.
            let mut told = Vec::new();
            object
                .spec(&mut Report::new(object, &mut told))
                .map(Arc::new)
        });
        let Some(spec) = spec else {
            return Err(format!("{object} cannot be read; the rule is left out"));
        };
        let mut told = Vec::new();
        let to = scope::callers(&spec.export_to, object, &mut Report::new(object, &mut told));
        match to {
            Callers::Of(namespaces) if !namespaces.contains(&reader.object.name.namespace) => {
                let whose = &reader.object.name.namespace;
                Err(format!(
                    "{object} is not exported to {whose}; the rule is left out"
                ))
            }
            Callers::All | Callers::Of(_) => Ok((object, Arc::clone(spec))),
        }
    }
}

/// A rule's name for whoever asks why, which leads to both places where it stands.
fn named(root: &Root<'_>, leaf: &HttpRoute, object: &Object, index: usize) -> String {
    let (root, to) = (root.name, &object.name);
    if leaf.name.is_empty() {
        format!("{root}, by {to} http[{index}]")
    } else {
        format!("{root}, by {to} {}", leaf.name)
    }
}

/// What the root's rule says of a request, but for where it goes: its `mirror` apart from `mirrors`.
fn inherited(
    reader: &Reader<'_>,
    root: &Root<'_>,
    report: &mut Report<'_>,
) -> (Action, Option<Mirror>) {
    let mut action = Action::new(To::Backends(Vec::new()));
    reader.settings(root.route, root.at, &mut action, report);
    if let Some(answer) = &root.route.direct_response {
        let at = root.at.field("directResponse");
        action.to = To::Direct(direct(answer, &at, report));
    }
    action.mirrors = reader.mirrors(root.route, root.at, report);
    (action, reader.mirror(root.route, root.at, report))
}

/// What becomes of a request: as the delegate's rule says, and as the root's does where that says nothing.
fn with_the_roots(
    leaves: &Reader<'_>,
    (leaf, at): (&HttpRoute, &At),
    root: &Root<'_>,
    (inherited, mirror): &(Action, Option<Mirror>),
    report: &mut Report<'_>,
) -> Action {
    let mut there = report.on(leaves.object);
    let own = leaf.redirect.is_some() || leaf.direct_response.is_some();
    let to = match &inherited.to {
        // Istio lets an answer go before a route, whoever gives it.
        To::Direct(answer) if !own => To::Direct(answer.clone()),
        _ => leaves.to(leaf, at, &mut there),
    };
    let mut action = Action::new(to);
    leaves.settings(leaf, at, &mut action, &mut there);
    if leaf.headers.is_none() {
        action.edits = inherited.edits.clone();
    }
    if leaf.rewrite.is_none() {
        action.rewrite = inherited.rewrite.clone();
    }
    if leaf.timeout.is_none() {
        action.timeouts.whole_ms = inherited.timeouts.whole_ms;
    }
    if leaf.retries.is_none() {
        action.timeouts.try_ms = inherited.timeouts.try_ms;
        action.retry = inherited.retry.clone();
    }
    if leaf.fault.is_none() {
        action.fault = inherited.fault.clone();
    }
    if leaf.cors_policy.is_none() {
        action.cors = inherited.cors.clone();
    }
    let own = leaves.mirror(leaf, at, &mut there);
    let mut mirrored = own.or_else(|| mirror.clone());
    if let Some(mirror) = &mut mirrored {
        mirror.share = mirror_share(leaf, Some(root.route));
    }
    action.mirrors.extend(mirrored);
    if leaf.mirrors.is_empty() {
        action.mirrors.extend(inherited.mirrors.iter().cloned());
    } else {
        action.mirrors.extend(leaves.mirrors(leaf, at, &mut there));
    }
    // Where both are of one of them, that one is told.
    let of_both = leaf.timeout.is_some() != leaf.retries.is_some();
    if of_both && (root.route.timeout.is_some() || root.route.retries.is_some()) {
        check_timeouts(action.timeouts, &at.field("retries"), &mut there);
    }
    action
}

/// The request that both mean: of each match of the delegate's rule with each of the root's that it does not contradict. None where one of the delegate's
/// contradicts all of them. At most one more than there is room for.
fn merged(root: &[Match], leaf: &[Match], room: usize) -> Option<Vec<Match>> {
    if root.is_empty() && leaf.is_empty() {
        return Some(vec![Match::default()]);
    }
    if root.is_empty() || leaf.is_empty() {
        let all = root.iter().chain(leaf).filter(|m| is_for_mesh(m));
        return Some(all.take(room.saturating_add(1)).cloned().collect());
    }
    let mut all = Vec::new();
    for leaf in leaf {
        let fitting = || root.iter().filter(|root| !contradict(root, leaf));
        fitting().next()?;
        let both = fitting().map(|root| both(root, leaf)).filter(is_for_mesh);
        all.extend(both.take(room.saturating_add(1).saturating_sub(all.len())));
    }
    Some(all)
}

/// Whether calls inside of the mesh meet it.
fn is_for_mesh(m: &Match) -> bool {
    m.gateways.is_empty() || m.gateways.iter().any(|g| g == MESH)
}

fn both(root: &Match, leaf: &Match) -> Match {
    fn over<T: Clone>(
        root: &BTreeMap<String, T>,
        leaf: &BTreeMap<String, T>,
    ) -> BTreeMap<String, T> {
        let mut all = root.clone();
        all.extend(leaf.iter().map(|(k, v)| (k.clone(), v.clone())));
        all
    }
    let text =
        |of: fn(&Match) -> &Option<StringMatch>| of(leaf).clone().or_else(|| of(root).clone());
    Match {
        uri: text(|m| &m.uri),
        scheme: text(|m| &m.scheme),
        method: text(|m| &m.method),
        authority: text(|m| &m.authority),
        headers: over(&root.headers, &leaf.headers),
        without_headers: over(&root.without_headers, &leaf.without_headers),
        query_params: over(&root.query_params, &leaf.query_params),
        port: leaf.port.or(root.port),
        source_labels: over(&root.source_labels, &leaf.source_labels),
        source_namespace: namespace(leaf).or(namespace(root)).map(str::to_owned),
        gateways: match leaf.gateways.is_empty() {
            true => root.gateways.clone(),
            false => leaf.gateways.clone(),
        },
        ignore_uri_case: leaf.ignore_uri_case,
    }
}

fn namespace(m: &Match) -> Option<&str> {
    m.source_namespace.as_deref().filter(|n| !n.is_empty())
}

/// Whether what the delegate asks of a request is not within what the root asks, by Istio's rules.
fn contradict(root: &Match, leaf: &Match) -> bool {
    type Text = Option<StringMatch>;
    type Fields = BTreeMap<String, StringMatch>;
    let text = |root: &Text, leaf: &Text| {
        let both = root.as_ref().zip(leaf.as_ref());
        both.is_some_and(|(root, leaf)| !is_within(leaf, root))
    };
    let fields = |root: &Fields, leaf: &Fields| {
        let differs = |(name, leaf)| root.get(name).is_some_and(|root| !is_within(leaf, root));
        leaf.iter().any(differs)
    };
    let port = |m: &Match| m.port.filter(|p| *p > 0);
    let other_label = |(k, v)| {
        root.source_labels
            .get(k)
            .is_some_and(|of_root| of_root != v)
    };
    let other_gateway = |g| !root.gateways.is_empty() && !root.gateways.contains(g);
    text(&root.uri, &leaf.uri)
        || text(&root.scheme, &leaf.scheme)
        || text(&root.method, &leaf.method)
        || text(&root.authority, &leaf.authority)
        || fields(&root.headers, &leaf.headers)
        || fields(&root.without_headers, &leaf.without_headers)
        || fields(&root.query_params, &leaf.query_params)
        || root.ignore_uri_case != leaf.ignore_uri_case
        || port(root).zip(port(leaf)).is_some_and(|(a, b)| a != b)
        // One that names none asks for more callers than the root does.
        || namespace(root).is_some_and(|n| namespace(leaf) != Some(n))
        || leaf.source_labels.iter().any(other_label)
        || leaf.gateways.iter().any(other_gateway)
}

/// Whether whatever meets the one text meets the other too, as far as Istio looks: of expressions, and of what says nothing, it is never said.
fn is_within(leaf: &StringMatch, root: &StringMatch) -> bool {
    fn set(text: &Option<String>) -> Option<&str> {
        text.as_deref().filter(|t| !t.is_empty())
    }
    if set(&root.regex).is_some() || set(&leaf.regex).is_some() {
        return false;
    }
    match (set(&root.exact), set(&root.prefix)) {
        (Some(exact), _) => set(&leaf.prefix).is_none() && set(&leaf.exact) == Some(exact),
        (None, Some(prefix)) => set(&leaf.prefix)
            .or(set(&leaf.exact))
            .is_some_and(|text| text.starts_with(prefix)),
        (None, None) => false,
    }
}
