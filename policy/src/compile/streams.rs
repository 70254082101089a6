//! Rules for streams of all objects into what holds for each service.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{
    Namespace, ServiceName,
    route::{Routes, StreamMatch, StreamRule, StreamTable},
};

use super::{Read, held, merged::Remembered, shadows};
use crate::{draft::StreamDraft, finding::Finding, object::Object};

/// Puts them beside the rules for requests.
pub(super) fn merge(
    remembered: &mut Remembered<StreamTable>,
    (objects, reads): (&[&Object], &[(usize, Arc<Read>)]),
    routes: &mut BTreeMap<ServiceName, Routes>,
    findings: &mut Vec<Finding>,
) {
    let make = |service: &ServiceName, drafts, findings: &mut Vec<Finding>| {
        table(objects, service, drafts, findings)
    };
    for ((service, callers), table) in
        remembered.tables(reads, |r| &r.drafts.streams, make, findings)
    {
        put(routes.entry(service.clone()).or_default(), callers, table);
    }
}

pub(super) fn put(routes: &mut Routes, callers: &Option<Namespace>, table: &Arc<StreamTable>) {
    let (streams, table) = (&mut routes.streams, Arc::clone(table));
    match callers {
        Some(namespace) => drop(streams.of_callers.insert(namespace.clone(), table)),
        None => streams.of_all = Some(table),
    }
}

/// The table of one service and its callers.
pub(super) fn table(
    objects: &[&Object],
    service: &ServiceName,
    drafts: Vec<StreamDraft>,
    findings: &mut Vec<Finding>,
) -> Option<StreamTable> {
    let on = format!("streams to service {service}");
    let (rules, otherwise) = held(objects, &on, drafts, findings)?;
    let origin = |rule: &StreamRule| rule.origin.clone();
    let covers = |a: &StreamRule, b: &StreamRule| covers(&a.when, &b.when);
    let takes = format!("one of the {on}");
    shadows(objects, &takes, &rules, (origin, covers), findings);
    Some(StreamTable {
        rules: rules.into_iter().map(|(_, rule)| rule).collect(),
        otherwise,
    })
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
