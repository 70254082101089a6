//! What is wrong, in sentences: the store, the files, the exports, silent proxies and clusters. Reads only.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{
    ClusterName,
    proto::v1::ClusterFacts,
    seal::{Phase, SEALS_LEVEL},
    store::ClusterRecord,
};
use tradewind_federation::{Catalog, StoreStatus, catalog::Conflict};

use super::{AdminInput, listing};
use crate::registry::{Reports, reports::Gateways};

/// Problems shown. Whoever has more fixes the first ones first.
const MAX_SHOWN: usize = 200;
/// A stream that fell is dialled again with the next ping; one that is down for longer is worth a word.
const STREAM_TOLD_MS: u64 = 5_000;
/// A disk that has been at one write for longer is not only slow: heartbeats of the store are lost meanwhile.
const DISK_TOLD_MS: u64 = 5_000;
/// Revisions behind that are worth a word: entries on their way are far fewer, a snapshot is due at five thousand.
const TRAILS_TOLD: u64 = 1_000;

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
    if let Some(busy) = store.disk_busy_ms.filter(|ms| *ms >= DISK_TOLD_MS) {
        found.push(format!(
            "this node's disk has not finished a write for {} s: it counts for no majority meanwhile; see the kernel's log, and `tradewind store peers` for who still can",
            busy / 1000
        ));
    }
    for cluster in &store.differs {
        found.push(format!(
            "this node's copy of the exports of cluster {cluster} is not what {cluster} attests; it is compared again once a minute; where it stays, `tradewind store rejoin` fetches the whole store anew"
        ));
    }
    silent_clusters(input, catalog, &mut found);
    silent_controllers(input, &mut found);
    silent_proxies(input, &mut found);
    if !input.own.witness
        && !input
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
    seals(input, catalog, &mut found);
    exports(input, catalog, &mut found);
    found.extend(input.publishing.borrow().iter().cloned());
    let local = Arc::clone(&input.local.borrow());
    found.extend(local.problems.iter().chain(&*local.rule_problems).cloned());
    found.extend(input.yaml.borrow().problems.iter().map(ToString::to_string));
    if found.len() > MAX_SHOWN {
        let more = found.len() - MAX_SHOWN;
        found.truncate(MAX_SHOWN);
        found.push(format!("and {more} more"));
    }
    found
}

/// The other controllers of this cluster that are not heard. They take nothing with them: any one of them serves all.
fn silent_controllers(input: &AdminInput, found: &mut Vec<String>) {
    let now_ms = input.clock.unix_ms();
    let heard = input.siblings.borrow().clone();
    for (node, sibling) in heard.iter().filter(|(_, s)| !s.up) {
        let age_ms = now_ms.saturating_sub(sibling.since_ms);
        if age_ms >= STREAM_TOLD_MS {
            found.push(format!(
                "controller {node} of this cluster at {} is not heard for {} s: {}; see that it runs, or take it out with `tradewind store remove {node} --yes`",
                sibling.address,
                age_ms / 1000,
                sibling.error
            ));
        }
    }
}

/// The other clusters' bad facts, each with what to look at next. All of them speak of what is seen from here.
fn silent_clusters(input: &AdminInput, catalog: &Catalog, found: &mut Vec<String>) {
    let now_ms = input.clock.unix_ms();
    for record in catalog.members().filter(|r| r.name != input.own.cluster) {
        let name = &record.name;
        if input.leases.borrow().expired(name, now_ms) {
            let age_s = input.leases.borrow().data_age_ms(name, now_ms) / 1000;
            found.push(format!(
                "cluster {name} gave no sign of life for {age_s} s: its endpoints are demoted, none is removed; see there that its controller runs and that `tradewind status` shows a leader"
            ));
        }
        if record.gateways.is_empty() {
            found.push(format!("cluster {name} has announced no gateway"));
        }
        let facts = listing::facts(input, name, now_ms);
        let reports = input.reports.borrow().clone();
        found.extend(unreached(name, &facts, reports.together(name, now_ms)));
        found.extend(apart(name, &facts, &reports, now_ms));
    }
}

/// Gateways here that do not reach a cluster, unless nobody here does: that is told already.
fn apart(
    name: &ClusterName,
    facts: &ClusterFacts,
    reports: &Reports,
    now_ms: u64,
) -> Option<String> {
    let all = reports.together(name, now_ms);
    if all.reaching == 0 && facts.reachable == Some(false) {
        return None;
    }
    let silent = reports.of(name, now_ms);
    let silent = silent.filter(|(_, sight, _)| sight.reachable == Some(false));
    let (gateway, sight, age_ms) = silent.max_by_key(|(_, _, age_ms)| *age_ms)?;
    let (count, knowing) = (all.knowing - all.reaching, all.knowing);
    let next = match sight.why.as_str() {
        "refused" | "closed" | "silent" | "not-ready" => {
            format!("see that the gateways of {name} run and are ready")
        }
        "no-connection" | "no-route" => {
            format!("see what stands between the host of {gateway} and the gateways of {name}")
        }
        "name" => {
            format!("see that the host of {gateway} resolves the names that {name} announces")
        }
        "other-cluster" | "stranger" => {
            format!("see what {name} announces as its gateways: it leads to somebody else")
        }
        _ => format!("see `/debug/state` of {gateway}"),
    };
    let (do_not, age_s) = (if count == 1 { "does" } else { "do" }, age_ms / 1000);
    Some(format!(
        "{count} of {knowing} gateways here {do_not} not reach cluster {name}: {gateway} for {age_s} s ({}); {next}",
        sight.why_text
    ))
}

/// Keys for sealed names that are missing: whoever has none is called by nobody, or calls nobody.
fn seals(input: &AdminInput, catalog: &Catalog, found: &mut Vec<String>) {
    let ring = input.seals.borrow().clone();
    if input.own.witness || ring.phase() == Phase::Clear {
        return;
    }
    if !ring.mints() {
        found.push(
            "this controller has no usable key for sealed names: calls to other clusters go on under the names made before, for a day at most; see in its log why no key is published, and that `seal.key` is the data directory's own"
                .to_owned(),
        );
        return;
    }
    let called = |r: &&ClusterRecord| r.name != input.own.cluster && !r.witness;
    for record in catalog.members().filter(called) {
        let name = &record.name;
        if !ring.targets().any(|t| t == name) {
            found.push(format!(
                "cluster {name} has no usable key for sealed names: no new names can be made for its gateways; see that its controller runs, knows level {SEALS_LEVEL} of the store, and hears the store's leader"
            ));
        }
    }
}

/// What is wrong with the way to a cluster.
fn unreached(name: &ClusterName, facts: &ClusterFacts, gateways: Gateways) -> Option<String> {
    let stream_s = facts.stream_age_ms / 1000;
    if facts.reachable == Some(false) {
        let reach_s = facts.reach_age_ms / 1000;
        let stream = if facts.stream_up {
            format!("its stream is up for {stream_s} s all the same")
        } else {
            format!("its stream is down for {stream_s} s")
        };
        let next = match facts.error_layer.as_str() {
            "address" => {
                format!("see that a gateway of {name} runs and announces where it is dialled")
            }
            "connect" => {
                format!("see that a gateway of {name} runs and that no firewall stands before it")
            }
            "tls" => format!("see that the controller of {name} runs behind that gateway"),
            "refused" => format!("see in the log of {name}'s controller why"),
            _ => format!("see how busy the controller of {name} is"),
        };
        let (layer, error) = (&facts.error_layer, &facts.error);
        let gateways = match (gateways.reaching, gateways.knowing) {
            (0, 0) => String::new(),
            (0, _) => ", and no gateway here reaches one of its gateways either".to_owned(),
            (n, all) => format!(", though {n} of {all} gateways here reach a gateway of it"),
        };
        return Some(format!(
            "cluster {name} is unreachable for {reach_s} s ({layer}: {error}), {stream}{gateways}; {next}"
        ));
    }
    if facts.reachable == Some(true) && !facts.stream_up && facts.stream_age_ms > STREAM_TOLD_MS {
        return Some(format!(
            "the stream to cluster {name} is down for {stream_s} s though it answered {} s ago; it is dialled again with every ping",
            facts.reach_age_ms / 1000
        ));
    }
    let trails = facts.trails.filter(|t| *t > TRAILS_TOLD)?;
    Some(format!(
        "the store of cluster {name} trails this one by {trails} revisions; `tradewind status` there shows whether it hears the leader"
    ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::reports::tests::reports;

    fn east() -> ClusterName {
        ClusterName::new("east").unwrap()
    }

    fn facts(reachable: bool) -> ClusterFacts {
        ClusterFacts {
            reachable: Some(reachable),
            reach_age_ms: 35_000,
            stream_age_ms: 36_000,
            error_layer: "tls".into(),
            error: "nobody is behind it".into(),
            ..ClusterFacts::default()
        }
    }

    #[test]
    fn gateways_that_do_not_reach_a_cluster_are_told_with_the_fault_and_the_next_step() {
        let said = |all: &[(Option<bool>, u64)], reachable| {
            let reports = reports(all, 1_000);
            apart(&east(), &facts(reachable), &reports, 4_000)
        };
        let (up, down, unknown) = ((Some(true), 12), (Some(false), 1), (None, 1));
        assert_eq!(
            said(&[up, down, unknown], true).unwrap(),
            "1 of 2 gateways here does not reach cluster east: gw-2 for 3 s (10.0.0.1:15443 refuses the connection); \
             see that the gateways of east run and are ready"
        );
        assert!(
            said(&[down, down], true)
                .unwrap()
                .starts_with("2 of 2 gateways here do not")
        );
        assert_eq!(said(&[up, up, unknown], true), None);
        assert_eq!(said(&[down, down], false), None, "the controller says it");
        assert!(said(&[up, down], false).is_some());
    }

    #[test]
    fn a_controller_that_is_silent_behind_gateways_that_answer_is_told_apart() {
        let said = |all: &[(Option<bool>, u64)]| {
            let reports = reports(all, 1_000);
            unreached(&east(), &facts(false), reports.together(&east(), 1_000)).unwrap()
        };
        let (up, down) = ((Some(true), 12), (Some(false), 1));
        assert_eq!(
            said(&[up, down]),
            "cluster east is unreachable for 35 s (tls: nobody is behind it), its stream is down for 36 s, \
             though 1 of 2 gateways here reach a gateway of it; see that the controller of east runs behind that gateway"
        );
        assert!(
            said(&[down]).contains(", and no gateway here reaches one of its gateways either; see")
        );
        assert!(said(&[]).contains("is down for 36 s; see"));
    }
}
