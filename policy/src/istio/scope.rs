//! What Istio's kinds say alike: which services a host means, and to whose namespaces a rule is exported.

use std::collections::BTreeSet;

use tradewind_api::{Namespace, ServiceName};

use crate::{
    draft::Callers,
    finding::Code,
    hosts,
    object::{At, Object, Report},
    world::World,
};

/// `exportTo`: `*` is everybody, `.` the object's own namespace, nothing is everybody too.
pub(super) fn callers(export_to: &[String], object: &Object, report: &mut Report<'_>) -> Callers {
    let mut of = BTreeSet::new();
    for (i, to) in export_to.iter().enumerate() {
        match to.as_str() {
            "*" => return Callers::All,
            "." => drop(of.insert(object.name.namespace.clone())),
            name => match Namespace::new(name) {
                Ok(namespace) => drop(of.insert(namespace)),
                Err(_) => {
                    let at = At::spec().field("exportTo").index(i);
                    report.invalid(&at, name, "a namespace, \".\" or \"*\"");
                }
            },
        }
    }
    if export_to.is_empty() {
        Callers::All
    } else {
        Callers::Of(of)
    }
}

/// Whether a host is a pattern.
pub(super) fn is_pattern(host: &str) -> bool {
    host.starts_with('*')
}

/// The services that a host of this object means; that there is none is told.
pub(super) fn services(
    host: &str,
    object: &Object,
    world: &World,
    at: &At,
    report: &mut Report<'_>,
) -> Vec<ServiceName> {
    let found: Vec<_> = if is_pattern(host) {
        hosts::pattern(host, world).cloned().collect()
    } else {
        let named = hosts::service(host, &object.name.namespace);
        let known = named.filter(|s| world.services.contains_key(s));
        known.into_iter().collect()
    };
    if found.is_empty() {
        let text = format!("there is no service that {host:?} means");
        report.say(Code::ParentNotFound, at, text);
    }
    found
}
