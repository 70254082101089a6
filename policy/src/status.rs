//! What Gateway API's routes are told of themselves: their `status.parents`, by the API's conditions and reasons, for whoever writes it into
//! objects. It comes of the same reading that makes the rules, so that a route is never told anything else than what happens.
//!
//! No times: a condition's transition is known only to whoever has the last one, and that is the writer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    kinds::Known,
    object::{At, Object},
};

/// Who writes these.
pub const CONTROLLER_NAME: &str = "tradewind.io/mesh-controller";

/// References and rules that one message names; whoever has more mends these first.
const MAX_NAMED: usize = 8;
/// Longest message of a condition, characters (the API allows 32768 bytes, and nobody reads so many).
const MAX_MESSAGE: usize = 1_024;
/// Most parents in a status (the API's bound, of `parentRefs` too).
const MAX_PARENTS: usize = 32;

/// What one route is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// `group/version`, as the object was read.
    pub api_version: String,
    /// The route's kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation that was read, where the object has one (those of files have none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// For each parent of its that is a Service or a ServiceImport, in the order of `parentRefs`. A route without such a parent is listed with
    /// none, so that a writer takes away what it wrote before.
    pub parents: Vec<ParentStatus>,
}

impl RouteStatus {
    /// Kind, namespace and name, by which they are ordered.
    pub fn key(&self) -> (&str, &str, &str) {
        (&self.kind, &self.namespace, &self.name)
    }
}

/// What a route is told of one parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// As the route names it.
    pub parent_ref: ParentReference,
    /// [`CONTROLLER_NAME`].
    pub controller_name: &'static str,
    /// `Accepted` first, then `ResolvedRefs`, then `PartiallyInvalid`, where there is something to say.
    pub conditions: Vec<Condition>,
}

/// A parent as a route names it; what it leaves out is left out here too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The name of one of its ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// One of its ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A condition but for its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    /// Whether it is so.
    #[serde(serialize_with = "as_kubernetes_has_it")]
    pub status: bool,
    /// Why.
    pub reason: Reason,
    /// The same for people; at most 1024 characters.
    pub message: String,
    /// The object's generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn as_kubernetes_has_it<S: serde::Serializer>(is: &bool, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(if *is { "True" } else { "False" })
}

/// The types of conditions that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ConditionKind {
    /// Whether its rules hold for the parent.
    Accepted,
    /// Whether all that it refers to is there and may be referred to.
    ResolvedRefs,
    /// That some of its rules hold and others do not; never false.
    PartiallyInvalid,
}

/// Gateway API's reasons, as far as a mesh has them: there are no listeners here, and what was read is never pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Reason {
    /// Of Accepted, where it is so.
    Accepted,
    /// The parent, or its port, is not there.
    NoMatchingParent,
    /// A value that is none, in every rule; of PartiallyInvalid in some.
    UnsupportedValue,
    /// Filters that are not served, or not together, in every rule.
    IncompatibleFilters,
    /// Of ResolvedRefs, where it is so.
    ResolvedRefs,
    /// No ReferenceGrant lets the route refer to it.
    RefNotPermitted,
    /// What is referred to is of a kind that cannot be called.
    InvalidKind,
    /// The service, or its port, is not there.
    BackendNotFound,
}

/// What is wrong with a reference.
#[derive(Clone, Debug)]
struct BadRef {
    reason: Reason,
    text: String,
}

/// What is wrong with a rule.
#[derive(Clone, Debug)]
struct BadRule {
    /// A filter of its is not served.
    filter: bool,
    /// A value of its is none.
    value: bool,
    text: String,
}

/// What the reading of one route finds, beside rules and findings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Those that are services by their kind, each with why it has no rules of this route.
    parents: Vec<(ParentReference, Option<String>)>,
    refs: Vec<BadRef>,
    rules: usize,
    /// The one that is being read.
    current: Option<usize>,
    bad_rules: BTreeMap<usize, BadRule>,
    /// Why nothing of the route can be used.
    unusable: Option<String>,
    /// It is not even known whom it refers to.
    unread: bool,
}

impl Facts {
    pub(crate) fn parent(&mut self, parent: ParentReference, missing: Option<String>) {
        if self.parents.len() < MAX_PARENTS {
            self.parents.push((parent, missing));
        }
    }

    pub(crate) fn bad_ref(&mut self, reason: Reason, at: &At, text: &str) {
        if self.refs.len() < MAX_NAMED {
            let text = format!("{at}: {text}");
            self.refs.push(BadRef { reason, text });
        }
    }

    /// That there is one more rule; what is found wrong from now on is in it.
    pub(crate) fn rule(&mut self) {
        self.current = Some(self.rules);
        self.rules += 1;
    }

    /// That what comes is in no rule.
    pub(crate) fn no_rule(&mut self) {
        self.current = None;
    }

    pub(crate) fn bad_value(&mut self, at: &At, text: &str) {
        if let Some(bad) = self.bad_rule(at, text) {
            bad.value = true;
        }
    }

    pub(crate) fn bad_filter(&mut self, at: &At, text: &str) {
        if let Some(bad) = self.bad_rule(at, text) {
            bad.filter = true;
        }
    }

    fn bad_rule(&mut self, at: &At, text: &str) -> Option<&mut BadRule> {
        let bad = self.bad_rules.entry(self.current?);
        Some(bad.or_insert_with(|| BadRule {
            filter: false,
            value: false,
            text: format!("{at}: {text}"),
        }))
    }

    /// Whether the rule that is being read is left out. One with a filter that is not served stays, and is answered with 500: what a filter
    /// guards must not go to the next rule.
    pub(crate) fn drops_rule(&self) -> bool {
        let bad = self.current.and_then(|rule| self.bad_rules.get(&rule));
        bad.is_some_and(|bad| bad.value && !bad.filter)
    }

    pub(crate) fn unusable(&mut self, text: impl Into<String>) {
        self.unusable.get_or_insert(text.into());
    }

    /// The object is not what its kind is. Who its parents are may still be read.
    pub(crate) fn unread(&mut self, text: String) {
        self.unread = true;
        self.unusable = Some(text);
    }

    /// Whether some of its rules are as they should be; a route may also have none.
    fn are_good(&self) -> bool {
        self.rules == 0 || self.bad_rules.len() < self.rules
    }

    /// Whether nothing was made because of what is wrong, rather than because nothing was asked for.
    pub(crate) fn explain_no_rules(&self) -> bool {
        self.unusable.is_some() || self.rules > 0
    }

    fn accepted(&self, missing: Option<&String>) -> (bool, Reason, String) {
        if let Some(text) = &self.unusable {
            return (false, Reason::UnsupportedValue, text.clone());
        }
        if let Some(text) = missing {
            return (false, Reason::NoMatchingParent, text.clone());
        }
        if !self.are_good() {
            let only_filters = self.bad_rules.values().all(|b| b.filter && !b.value);
            let reason = if only_filters {
                Reason::IncompatibleFilters
            } else {
                Reason::UnsupportedValue
            };
            return (false, reason, self.named_rules());
        }
        (
            true,
            Reason::Accepted,
            "its rules hold for the parent".to_owned(),
        )
    }

    fn named_rules(&self) -> String {
        let texts = self.bad_rules.values().map(|b| b.text.as_str());
        let named: Vec<&str> = texts.take(MAX_NAMED).collect();
        named.join("; ")
    }

    fn conditions(&self, missing: Option<&String>, generation: Option<i64>) -> Vec<Condition> {
        let condition = |kind, (status, reason, message): (bool, Reason, String)| Condition {
            kind,
            status,
            reason,
            message: message.chars().take(MAX_MESSAGE).collect(),
            observed_generation: generation,
        };
        let accepted = self.accepted(missing);
        let partly = accepted.0 && !self.bad_rules.is_empty();
        let mut all = vec![condition(ConditionKind::Accepted, accepted)];
        if !self.unread {
            let refs = match self.refs.first() {
                Some(first) => {
                    let texts: Vec<&str> = self.refs.iter().map(|r| r.text.as_str()).collect();
                    (false, first.reason, texts.join("; "))
                }
                None => (
                    true,
                    Reason::ResolvedRefs,
                    "all that it refers to is there".to_owned(),
                ),
            };
            all.push(condition(ConditionKind::ResolvedRefs, refs));
        }
        if partly {
            // The API wants these words in front.
            let text = format!("Dropped Rule: {}", self.named_rules());
            let partly = (true, Reason::UnsupportedValue, text);
            all.push(condition(ConditionKind::PartiallyInvalid, partly));
        }
        all
    }

    /// As the object is told; none for kinds that have no such status.
    pub(crate) fn status(&self, object: &Object, kind: Known) -> Option<RouteStatus> {
        match kind {
            Known::HttpRoute | Known::GrpcRoute | Known::TcpRoute | Known::TlsRoute => {}
            Known::ReferenceGrant
            | Known::VirtualService
            | Known::DestinationRule
            | Known::EnvoyFilter
            | Known::TrafficSplit
            | Known::HttpRouteGroup => return None,
        }
        let generation = object.value.pointer("/metadata/generation");
        let generation = generation.and_then(serde_json::Value::as_i64);
        let parent = |(parent, missing): &(ParentReference, Option<String>)| ParentStatus {
            parent_ref: parent.clone(),
            controller_name: CONTROLLER_NAME,
            conditions: self.conditions(missing.as_ref(), generation),
        };
        Some(RouteStatus {
            api_version: object.api_version.clone(),
            kind: object.kind.clone(),
            namespace: object.name.namespace.to_string(),
            name: object.name.name().to_owned(),
            generation,
            parents: self.parents.iter().map(parent).collect(),
        })
    }
}
