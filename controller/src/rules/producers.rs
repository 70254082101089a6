//! What exporters say of calls to their services everywhere: what this cluster publishes with its own exports, and what holds here of
//! what the others publish. Pure.
//!
//! What came from another cluster is looked at again: it may say something for everybody, and nothing else.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{
    ClusterName, ServiceName,
    route::{BackendRef, FORMAT, Routes, StreamTable, Streams, Table, To},
    store::PublishedRules,
};
use tradewind_federation::{Catalog, catalog::MAX_RULES_BYTES};
use tradewind_policy::{producers, tighten};

/// Copies that another cluster may have made of each request: it is this cluster's callers that send them.
const MAX_MIRRORS: usize = 4;

/// One exporter's rules for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Whose.
    pub cluster: ClusterName,
    /// Since when it exports the service, Unix ms.
    pub created_at_ms: u64,
    /// What it says.
    pub rules: Arc<PublishedRules>,
}

/// By service, the oldest export's first: its word holds (MCS's rule for conflicts).
pub type Offers = BTreeMap<ServiceName, Vec<Offer>>;

/// The others' rules, as the catalog has them.
pub fn offers(catalog: &Catalog, own: &ClusterName) -> Offers {
    let mut all = Offers::new();
    for (service, by) in catalog.exports.iter() {
        let mut offered: Vec<Offer> = by
            .iter()
            .filter(|(cluster, _)| *cluster != own && catalog.member(cluster).is_some())
            .filter_map(|(cluster, export)| {
                Some(Offer {
                    cluster: cluster.clone(),
                    created_at_ms: export.created_at_ms,
                    rules: Arc::clone(export.rules.as_ref()?),
                })
            })
            .collect();
        if !offered.is_empty() {
            offered
                .sort_by(|a, b| (a.created_at_ms, &a.cluster).cmp(&(b.created_at_ms, &b.cluster)));
            all.insert(service.clone(), offered);
        }
    }
    all
}

/// What others are told of calls to a service of this cluster, once it is exported. What is too long leaves what was told before.
pub fn published(
    service: &ServiceName,
    own: &Routes,
    before: Option<&Arc<PublishedRules>>,
    problems: &mut Vec<String>,
) -> Option<Arc<PublishedRules>> {
    let said = producers(service, own)?;
    // Nothing in the model cannot be written as JSON.
    let json = serde_json::to_string(&said).ok()?;
    if json.len() > MAX_RULES_BYTES {
        problems.push(format!(
            "the rules for {service} take {} bytes, and at most {MAX_RULES_BYTES} are published with its export; callers elsewhere keep what they had: split the service, or its rules",
            json.len()
        ));
        return before.cloned();
    }
    let now = PublishedRules {
        format: FORMAT,
        json,
    };
    let kept = before.filter(|before| ***before == now);
    Some(kept.map_or_else(|| Arc::new(now), Arc::clone))
}

/// What holds for calls to a service from here: the own cluster's rules within what its producer allows, and where the own ones say
/// nothing, the producer's.
pub fn merged(
    service: &ServiceName,
    own: Option<&Arc<Routes>>,
    offered: &[Offer],
    is_known: impl Fn(&ServiceName) -> bool,
    problems: &mut Vec<String>,
) -> Option<Arc<Routes>> {
    let theirs = chosen(service, offered, problems);
    let Some(own) = own else {
        let theirs = theirs?;
        missing(service, &theirs, is_known, problems);
        return Some(Arc::new(theirs));
    };
    // The own cluster is a producer too, where objects of the service's namespace say something to everybody.
    let here = producers(service, own).unwrap_or_default();
    let theirs = theirs.unwrap_or_default();
    let producer = Routes {
        of_callers: BTreeMap::new(),
        of_all: here.of_all.or(theirs.of_all),
        traffic: if here.traffic.is_empty() {
            theirs.traffic
        } else {
            here.traffic
        },
        streams: Streams {
            of_callers: BTreeMap::new(),
            of_all: here.streams.of_all.or(theirs.streams.of_all),
        },
    };
    let (mut routes, changed) = tighten(service, own, &producer);
    problems.extend(changed);
    routes.of_all = routes.of_all.or(producer.of_all);
    routes.streams.of_all = routes.streams.of_all.or(producer.streams.of_all);
    for policy in producer.traffic {
        if !routes.traffic.contains(&policy) {
            routes.traffic.push(policy);
        }
    }
    if routes == **own {
        return Some(Arc::clone(own));
    }
    missing(service, &routes, is_known, problems);
    Some(Arc::new(routes))
}

/// The word of the oldest export whose rules can be read.
fn chosen(service: &ServiceName, offered: &[Offer], problems: &mut Vec<String>) -> Option<Routes> {
    let mut held: Option<(&Offer, Routes)> = None;
    for offer in offered {
        let (cluster, rules) = (&offer.cluster, &offer.rules);
        match &held {
            None => match read(service, offer) {
                Ok(routes) => held = Some((offer, routes)),
                Err(why) => problems.push(format!(
                    "the rules that {cluster} publishes for {service} are left: {why}"
                )),
            },
            Some((first, _)) if first.rules == *rules => {}
            Some((first, _)) => problems.push(format!(
                "the rules that {cluster} publishes for {service} do not hold: {} exports it for longer, and says something else",
                first.cluster
            )),
        }
    }
    held.map(|(_, routes)| routes)
}

/// What an exporter says, marked as his.
fn read(service: &ServiceName, offer: &Offer) -> Result<Routes, String> {
    let PublishedRules { format, json } = &*offer.rules;
    if *format > FORMAT {
        return Err(format!(
            "they are of format {format}, and this controller knows {FORMAT}: upgrade it"
        ));
    }
    let said: Routes = serde_json::from_str(json).map_err(|e| format!("they are no rules: {e}"))?;
    let mut routes = producers(service, &said).unwrap_or_default();
    if routes != said {
        return Err("they are not of its own namespace, or not for everybody".to_owned());
    }
    let copies = |t: &Arc<Table>| t.rules.iter().map(|r| r.then.mirrors.len()).max();
    if routes.of_all.as_ref().and_then(copies) > Some(MAX_MIRRORS) {
        return Err(format!(
            "a request would be copied to more than {MAX_MIRRORS} places"
        ));
    }
    let wrong = routes.traffic.iter().find_map(|t| t.validate().err());
    if let Some(why) = wrong {
        return Err(format!("a policy cannot be acted on: {why}"));
    }
    let mark = |cluster: &mut Option<ClusterName>| *cluster = Some(offer.cluster.clone());
    if let Some(table) = &mut routes.of_all {
        let table = Arc::make_mut(table);
        table
            .rules
            .iter_mut()
            .for_each(|r| mark(&mut r.origin.cluster));
    }
    if let Some(table) = &mut routes.streams.of_all {
        let rules = &mut Arc::make_mut(table).rules;
        rules.iter_mut().for_each(|r| mark(&mut r.origin.cluster));
    }
    for policy in &mut routes.traffic {
        mark(&mut Arc::make_mut(policy).origin.cluster);
    }
    Ok(routes)
}

/// Tells of services that another cluster's rules send calls to, and that nobody knows here.
fn missing(
    service: &ServiceName,
    routes: &Routes,
    is_known: impl Fn(&ServiceName) -> bool,
    problems: &mut Vec<String>,
) {
    for (origin, backend) in routes.of_all.iter().flat_map(|t| backends(t)) {
        if !is_known(backend) {
            problems.push(format!(
                "{origin} sends calls of {service} to {backend}, which is not known here: its share is answered with 503 until a cluster exports it"
            ));
        }
    }
    let of_all = routes.streams.of_all.iter();
    for (origin, backend) in of_all.flat_map(|t| stream_backends(t)) {
        if !is_known(backend) {
            problems.push(format!(
                "{origin} sends streams of {service} to {backend}, which is not known here: its share is closed until a cluster exports it"
            ));
        }
    }
}

/// Those of other clusters' rules.
fn backends(table: &Table) -> impl Iterator<Item = (String, &ServiceName)> {
    let theirs = table.rules.iter().filter(|r| r.origin.cluster.is_some());
    theirs.flat_map(|rule| {
        let all = match &rule.then.to {
            To::Backends(all) => all.as_slice(),
            To::Redirect(_) | To::Direct(_) => &[],
        };
        let services = all.iter().filter_map(|backend| service_of(&backend.to));
        services.map(|service| (rule.origin.to_string(), service))
    })
}

/// The same of rules for streams.
fn stream_backends(table: &StreamTable) -> impl Iterator<Item = (String, &ServiceName)> {
    let theirs = table.rules.iter().filter(|r| r.origin.cluster.is_some());
    theirs.flat_map(|rule| {
        let services = rule.to.iter().filter_map(|backend| service_of(&backend.to));
        services.map(|service| (rule.origin.to_string(), service))
    })
}

fn service_of(backend: &BackendRef) -> Option<&ServiceName> {
    match backend {
        BackendRef::Service { service, .. } => Some(service),
        BackendRef::Broken(_) => None,
    }
}

#[cfg(test)]
mod tests;
