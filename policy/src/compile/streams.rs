//! Rules for streams of all objects into what holds for each service.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{
    ServiceName,
    route::{Routes, StreamMatch, StreamRule, StreamTable},
};

use super::{by_key, held, shadows};
use crate::{draft::StreamDraft, finding::Finding, object::Object};

/// Puts them beside the rules for requests.
pub(super) fn merge(
    objects: &[&Object],
    drafts: Vec<StreamDraft>,
    routes: &mut BTreeMap<ServiceName, Routes>,
    findings: &mut Vec<Finding>,
) {
    for ((service, callers), drafts) in by_key(drafts) {
        let on = format!("streams to service {service}");
        let Some((rules, otherwise)) = held(objects, &on, drafts, findings) else {
            continue;
        };
        let origin = |rule: &StreamRule| rule.origin.clone();
        let covers = |a: &StreamRule, b: &StreamRule| covers(&a.when, &b.when);
        let takes = format!("one of the {on}");
        shadows(objects, &takes, &rules, (origin, covers), findings);
        let table = Arc::new(StreamTable {
            rules: rules.into_iter().map(|(_, rule)| rule).collect(),
            otherwise,
        });
        let streams = &mut routes.entry(service).or_default().streams;
        match callers {
            Some(namespace) => drop(streams.of_callers.insert(namespace, table)),
            None => streams.of_all = Some(table),
        }
    }
}

/// Whether every stream that meets `b` meets `a` too, as far as can be told by looking.
fn covers(a: &StreamMatch, b: &StreamMatch) -> bool {
    fn same_or_any<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
        a.is_none() || a == b
    }
    let named = |b: &String| a.sni.iter().any(|a| covers_name(a, b));
    let names = a.sni.is_empty() || (!b.sni.is_empty() && b.sni.iter().all(named));
    names
        && same_or_any(&a.port, &b.port)
        && same_or_any(&a.caller_namespace, &b.caller_namespace)
        && a.caller_labels
            .iter()
            .all(|(k, v)| b.caller_labels.get(k) == Some(v))
}

fn covers_name(a: &str, b: &str) -> bool {
    let under = |end: &str| b.len() > end.len() && b.ends_with(end);
    a == b || a.strip_prefix('*').is_some_and(under)
}
