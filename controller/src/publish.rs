//! What this cluster tells the federation of its services, and the task that keeps it told.
//!
//! [`desired`] and [`plan`] are pure: intents and the local model into exports, and the difference to what the catalog
//! holds into commands. The task sends the first change at once and further ones at most every 100 ms, and starts over
//! from the catalog after every failure, so that a lost answer can do no harm.

mod attest;
mod meters;
mod speaker;
mod task;

use std::collections::{BTreeMap, BTreeSet};

use tradewind_api::{
    EndpointId, ServiceName,
    model::ServiceKind,
    store::{Command, EndpointSummary, Export, LABELS, RULES, SPEC},
    traffic::Labels,
};
use tradewind_federation::{
    Catalog,
    catalog::{MAX_ENDPOINTS_PER_EXPORT, MAX_GATEWAYS_PER_CLUSTER},
};

use crate::{
    exports::Intents,
    local::{LocalEndpoint, LocalModel, LocalService, Own},
    registry::Registered,
};

pub use task::{PublishInput, Publisher};

/// Endpoint changes in one patch; more are sent as the whole export, which is bounded by the store.
const MAX_PATCH: usize = 1_000;

/// What others are told of endpoints, beside what they need in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tell {
    /// Where they are dialled: another member is on this cluster's network.
    pub addresses: bool,
    /// Their labels: every member understands them.
    pub labels: bool,
    /// The rules for their service: likewise.
    pub rules: bool,
    /// What a ServiceImport says of it: likewise.
    pub spec: bool,
}

/// What may be told, as the catalog stands.
pub fn tell(catalog: &Catalog, own: &Own) -> Tell {
    Tell {
        addresses: shares_network(catalog, own),
        labels: catalog.level >= LABELS,
        rules: catalog.level >= RULES,
        spec: catalog.level >= SPEC,
    }
}

/// What this cluster wants to have exported, by service.
pub type Desired = BTreeMap<ServiceName, Export>;

/// The exports that the intents ask for. An intent by command outlives its workloads: while nobody serves the service
/// it stays exported with the shape it had (`published`) and no endpoints. One that a file asks for does not outlive
/// the file's Service.
pub fn desired(
    intents: &Intents,
    local: &LocalModel,
    published: &Desired,
    own: &Own,
    tell: Tell,
) -> Desired {
    let mut desired = Desired::new();
    for (name, intent) in intents {
        let rules = local.rules.get(name).filter(|_| tell.rules).cloned();
        let export = match (local.services.get(name), published.get(name)) {
            (Some(service), _) => Export {
                service: name.clone(),
                created_at_ms: intent.created_at_ms,
                kind: service.kind,
                ports: service.ports.clone(),
                endpoints: summaries(service, own, tell),
                rules,
                spec: service.spec.clone().filter(|_| tell.spec),
            },
            (None, Some(before)) if intent.by_command => Export {
                created_at_ms: intent.created_at_ms,
                endpoints: BTreeMap::new(),
                rules,
                ..before.clone()
            },
            (None, None) if intent.by_command => Export {
                service: name.clone(),
                created_at_ms: intent.created_at_ms,
                kind: ServiceKind::ClusterSetIp,
                ports: Vec::new(),
                endpoints: BTreeMap::new(),
                rules,
                spec: None,
            },
            (None, _) => continue,
        };
        // Without ports nobody could call it: it is told once it has some. Those of other protocols stand in imports alone.
        if !export.ports.is_empty() || export.spec.is_some() {
            desired.insert(name.clone(), export);
        }
    }
    desired
}

fn summaries(
    service: &LocalService,
    own: &Own,
    tell: Tell,
) -> BTreeMap<EndpointId, EndpointSummary> {
    service
        .endpoints
        .iter()
        // Others could not verify an identity of elsewhere; the store would refuse the whole export.
        .filter(|(_, e)| e.identity.trust_domain() == own.domain.trust_domain(&own.cluster))
        .take(MAX_ENDPOINTS_PER_EXPORT)
        .map(|(id, e)| (id.clone(), summary(e, tell)))
        .collect()
}

fn summary(endpoint: &LocalEndpoint, tell: Tell) -> EndpointSummary {
    EndpointSummary {
        zone: endpoint.zone.clone(),
        weight: endpoint.weight,
        health: endpoint.health,
        account: endpoint.identity.path().to_owned(),
        hostname: endpoint.hostname.clone(),
        labels: if tell.labels {
            endpoint.labels.clone()
        } else {
            Labels::new()
        },
        address: tell.addresses.then(|| endpoint.address.clone()),
        ports: endpoint.ports.clone(),
    }
}

/// What the catalog holds of this cluster's exports.
pub fn published(catalog: &Catalog, own: &Own) -> Desired {
    catalog
        .exports_of(&own.cluster)
        .map(|e| (e.service.clone(), Export::clone(e)))
        .collect()
}

/// True if another member is on this cluster's network, so that addresses are of use to it.
fn shares_network(catalog: &Catalog, own: &Own) -> bool {
    catalog
        .members()
        .any(|c| c.name != own.cluster && c.network == own.network)
}

/// Where this cluster's gateways are dialled: those that registered and do not drain, and those the operator named. A
/// silent gateway stays (unknown is not dead) unless another one has its address by now; then that one's word counts.
/// Where nothing is left, what was announced stays.
pub fn gateways(
    registered: &Registered,
    configured: &[String],
    announced: &[String],
) -> Vec<String> {
    let draining: BTreeSet<&String> = registered
        .gateways
        .values()
        .filter(|g| g.draining)
        .map(|g| &g.address)
        .collect();
    let drained_by_another: BTreeSet<&String> = registered
        .gateways
        .values()
        .filter(|g| g.draining && g.connected)
        .map(|g| &g.address)
        .collect();
    let serving = registered
        .gateways
        .values()
        .filter(|g| !g.draining)
        .filter(|g| g.connected || !drained_by_another.contains(&g.address))
        .map(|g| &g.address);
    let serving: BTreeSet<&String> = serving
        .chain(configured.iter().filter(|c| !draining.contains(c)))
        .collect();
    let chosen: Vec<String> = serving
        .into_iter()
        .take(MAX_GATEWAYS_PER_CLUSTER)
        .cloned()
        .collect();
    if chosen.is_empty() {
        announced.to_vec()
    } else {
        chosen
    }
}

/// The commands that write everything again, whole, whatever the store's copy holds: strays that it shows go first.
pub fn whole(shown: &Desired, desired: &Desired) -> Vec<Command> {
    let strays = shown.keys().filter(|name| !desired.contains_key(*name));
    let strays = strays.map(|name| Command::RemoveExport(name.clone()));
    let all = desired.values().cloned().map(Command::PutExport);
    strays.chain(all).collect()
}

/// The commands that turn what is published into what is desired: withdrawals first, since they free room.
pub fn plan(published: &Desired, desired: &Desired) -> Vec<Command> {
    let gone = published.keys().filter(|name| !desired.contains_key(*name));
    let mut commands: Vec<Command> = gone
        .map(|name| Command::RemoveExport(name.clone()))
        .collect();
    for (name, export) in desired {
        match published.get(name) {
            Some(before) if before == export => {}
            Some(before) if same_shape(before, export) => commands.push(change(before, export)),
            Some(_) | None => commands.push(Command::PutExport(export.clone())),
        }
    }
    commands
}

fn same_shape(a: &Export, b: &Export) -> bool {
    let shape = |e: &Export| (e.created_at_ms, e.kind);
    shape(a) == shape(b) && a.ports == b.ports && a.rules == b.rules && a.spec == b.spec
}

fn change(before: &Export, after: &Export) -> Command {
    let upsert: BTreeMap<_, _> = after
        .endpoints
        .iter()
        .filter(|(id, e)| before.endpoints.get(*id) != Some(*e))
        .map(|(id, e)| (id.clone(), e.clone()))
        .collect();
    let remove: BTreeSet<_> = before
        .endpoints
        .keys()
        .filter(|id| !after.endpoints.contains_key(*id))
        .cloned()
        .collect();
    let touched = upsert.len() + remove.len();
    if touched > MAX_PATCH {
        return Command::PutExport(after.clone());
    }
    Command::PatchExport {
        service: after.service.clone(),
        upsert,
        remove,
    }
}

#[cfg(test)]
pub(crate) mod tests;
