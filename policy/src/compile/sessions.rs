//! Rules that keep sessions of their own under one name: a client that calls by both has its session with the one overwritten by the
//! other, at each call, and is kept with nobody.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tradewind_api::route::{Carrier, Rule};

use crate::{
    finding::{Code, Finding},
    object::{At, Object, Report},
};

/// What clients keep a token by: of cookies that differ in their path they keep both (RFC 6265 section 5.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum KeptBy<'a> {
    Cookie { name: &'a str, path: &'a str },
    Header(&'a str),
}

impl<'a> KeptBy<'a> {
    fn of(rule: &'a Rule) -> Option<Self> {
        Some(match &rule.then.persistence.as_ref()?.by {
            Carrier::Cookie { name, path, .. } => Self::Cookie { name, path },
            Carrier::Header(name) => Self::Header(name),
        })
    }

    fn words(self) -> String {
        match self {
            Self::Cookie { name, path } => format!("cookie {name:?} with the path {path:?}"),
            Self::Header(name) => format!("header {name:?}"),
        }
    }
}

/// Reports each rule for `what` whose sessions are kept by what an earlier rule's are kept by.
pub(super) fn shared(
    objects: &[&Object],
    what: &str,
    rules: &[(usize, Rule)],
    findings: &mut Vec<Finding>,
) {
    let mut first = BTreeMap::new();
    // One of several matches of a rule says it for all.
    let mut told = BTreeSet::new();
    for (object, rule) in rules {
        let Some(by) = KeptBy::of(rule) else {
            continue;
        };
        let before = *first.entry(by).or_insert(&rule.origin);
        let Some(object) = objects.get(*object).filter(|_| *before != rule.origin) else {
            continue;
        };
        if told.insert(&rule.origin) {
            let text = format!(
                "its sessions for {what} overwrite those of {before}: clients keep both in the {}",
                by.words()
            );
            let at = at(object, &rule.origin.rule);
            Report::new(object, findings).say(Code::SharedSession, &at, text);
        }
    }
}

/// Where a rule's sessions are said, by the name that it has or by its place, `rules[1]`.
fn at(object: &Object, rule: &str) -> At {
    let rules = object.value.pointer("/spec/rules");
    let mut rules = rules.and_then(Value::as_array).into_iter().flatten();
    let named = rules.position(|r| r.get("name").and_then(Value::as_str) == Some(rule));
    let place = || rule.strip_prefix("rules[")?.strip_suffix(']')?.parse().ok();
    match named.or_else(place) {
        Some(index) => At::spec()
            .field("rules")
            .index(index)
            .field("sessionPersistence"),
        None => At::spec(),
    }
}
