//! What is wrong, in sentences: the store, the files, the exports, silent proxies and clusters. Reads only.

use std::collections::BTreeMap;

use tradewind_api::model::ClusterState;
use tradewind_federation::{Catalog, StoreStatus, catalog::Conflict};

use super::AdminInput;

/// Problems shown. Whoever has more fixes the first ones first.
const MAX_SHOWN: usize = 200;

pub(super) fn all(input: &AdminInput, catalog: &Catalog, store: &StoreStatus) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(why) = &store.stopped {
        found.push(format!("this node's store has stopped: {why}"));
    } else if !store.can_write {
        found.push(match store.leader_age_ms {
            Some(age) => format!(
                "the store takes no writes: no majority of its voters was heard of for {} s; what is known stays in force",
                age / 1000
            ),
            None => "the store takes no writes: no leader was heard of since the start".to_owned(),
        });
    }
    silent_clusters(input, catalog, &mut found);
    silent_proxies(input, &mut found);
    if !input
        .registered
        .borrow()
        .gateways
        .values()
        .any(|g| g.connected)
    {
        found.push(
            "no gateway of this cluster is connected: the other clusters cannot reach it"
                .to_owned(),
        );
    }
    exports(input, catalog, &mut found);
    found.extend(input.publishing.borrow().iter().cloned());
    found.extend(input.local.borrow().problems.iter().cloned());
    found.extend(input.yaml.borrow().problems.iter().map(ToString::to_string));
    if found.len() > MAX_SHOWN {
        let more = found.len() - MAX_SHOWN;
        found.truncate(MAX_SHOWN);
        found.push(format!("and {more} more"));
    }
    found
}

fn silent_clusters(input: &AdminInput, catalog: &Catalog, found: &mut Vec<String>) {
    let (leases, now_ms) = (input.leases.borrow(), input.clock.unix_ms());
    for record in catalog.members().filter(|r| r.name != input.own.cluster) {
        if leases.expired(&record.name, now_ms) {
            found.push(format!(
                "cluster {} gave no sign of life for {} s",
                record.name,
                leases.age_ms(&record.name, now_ms) / 1000
            ));
        }
        if record.gateways.is_empty() && record.state != ClusterState::Left {
            found.push(format!("cluster {} has announced no gateway", record.name));
        }
    }
}

fn silent_proxies(input: &AdminInput, found: &mut Vec<String>) {
    let now_ms = input.clock.unix_ms();
    let mut silent: BTreeMap<String, u64> = BTreeMap::new();
    for endpoint in input
        .registered
        .borrow()
        .workloads
        .values()
        .filter(|e| !e.connected)
    {
        silent.insert(
            endpoint.proxy.clone(),
            now_ms.saturating_sub(endpoint.last_seen_ms) / 1000,
        );
    }
    for (proxy, silent_s) in silent {
        found.push(format!(
            "proxy {proxy} is silent for {silent_s} s: its endpoints count as unknown"
        ));
    }
}

fn exports(input: &AdminInput, catalog: &Catalog, found: &mut Vec<String>) {
    let (intents, local) = (input.exports.current(), input.local.borrow());
    for name in intents.keys() {
        if !local.services.contains_key(name) {
            found.push(format!(
                "{name} is to be exported, and nothing in this cluster serves it"
            ));
        }
        let conflicts = catalog
            .merged(name)
            .map(|m| m.conflicts)
            .unwrap_or_default();
        for conflict in conflicts {
            found.push(match conflict {
                Conflict::Kind { cluster } => {
                    format!("{name}: {cluster} exports it as another kind than the oldest export, which stands")
                }
                Conflict::Port { port, cluster } => {
                    format!("{name}: {cluster} describes port {port} differently from an older export, which stands")
                }
                Conflict::PortSet { cluster } => {
                    format!("{name}: {cluster} exports other ports than the oldest export; each takes traffic for its own")
                }
            });
        }
    }
}
