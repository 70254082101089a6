//! Who holds the store, as this controller knows it: its own node of itself, the others by their last answer to a ping,
//! and, where it leads, by what they have confirmed. Reads only.

use std::collections::BTreeSet;

use tradewind_api::{
    ClusterName, NodeId, Region,
    proto::v1::{StorePeer, StorePeersResponse},
    store::Voting,
};
use tradewind_federation::{Catalog, StoreStatus, Vitals, quorum};

use super::super::{AdminInput, listing::LEADER_FRESH_MS};

/// An answer that counts: two pings may be late.
const ANSWER_FRESH_MS: u64 = 5_000;

/// What one node last said, and how long ago.
#[derive(Default)]
struct Said {
    vitals: Option<Vitals>,
    ago_ms: Option<u64>,
}

fn said(input: &AdminInput, store: &StoreStatus, node: NodeId, home: Option<&ClusterName>) -> Said {
    if node == store.node_id {
        return Said {
            vitals: Some(input.store.vitals()),
            ago_ms: Some(0),
        };
    }
    let sibling = input.siblings.borrow().get(&node).cloned();
    if let Some(sibling) = sibling.filter(|s| s.heard_ms > 0) {
        let now_ms = input.clock.unix_ms();
        return Said {
            vitals: sibling.vitals,
            ago_ms: Some(now_ms.saturating_sub(sibling.heard_ms)),
        };
    }
    let reach = home.and_then(|c| input.reach.borrow().clusters.get(c).cloned());
    let pinged = reach.and_then(|r| {
        // Another node of that cluster answered, or this one under an older id.
        let vitals = r.vitals.clone().filter(|v| v.node_id == node)?;
        let now_ms = input.clock.unix_ms();
        Some((vitals, r.answered_at_ms.map(|at| now_ms.saturating_sub(at))))
    });
    let (vitals, pinged_ms) = pinged.map_or((None, None), |(v, ms)| (Some(v), ms));
    let replied_ms = store.answered_ms.get(&node).copied();
    // Whoever leads says so several times a second.
    let led_ms = store.leader_age_ms.filter(|_| store.leader == Some(node));
    Said {
        vitals,
        ago_ms: pinged_ms.into_iter().chain(replied_ms).chain(led_ms).min(),
    }
}

fn nodes(catalog: &Catalog, store: &StoreStatus) -> BTreeSet<NodeId> {
    let listed = catalog.members().flat_map(|c| c.nodes.iter().copied());
    listed
        .chain(store.voters.iter().copied())
        .chain(store.learners.iter().copied())
        .collect()
}

/// The nodes that answered lately, this one among them.
pub(super) fn answering(input: &AdminInput) -> BTreeSet<NodeId> {
    let (catalog, store) = (input.store.catalog(), input.store.status());
    let fresh = |node: &NodeId| {
        let said = said(input, &store, *node, catalog.cluster_of(*node));
        said.ago_ms.is_some_and(|ms| ms < ANSWER_FRESH_MS)
    };
    nodes(&catalog, &store).into_iter().filter(fresh).collect()
}

/// All of it.
pub(super) fn all(input: &AdminInput) -> StorePeersResponse {
    let (catalog, store) = (input.store.catalog(), input.store.status());
    let fresh = store.leader_age_ms.is_some_and(|ms| ms < LEADER_FRESH_MS);
    let leader = store.leader.filter(|_| fresh);
    let leads = leader == Some(store.node_id);
    let led_to = leader.and_then(|l| {
        said(input, &store, l, catalog.cluster_of(l))
            .vitals?
            .last_log
    });
    let mut peers = Vec::new();
    for node in nodes(&catalog, &store) {
        let cluster = catalog.cluster_of(node);
        let record = cluster.and_then(|c| catalog.clusters.get(c));
        let Said { vitals, ago_ms } = said(input, &store, node, cluster);
        let last_log = vitals.as_ref().and_then(|v| v.last_log);
        // The leader knows what was confirmed to it; others compare the last words of both.
        let trails = match (leads, leader == Some(node)) {
            (_, true) => None,
            (true, false) => store.trails.get(&node).copied().flatten(),
            (false, false) => led_to.zip(last_log).map(|(to, at)| to.saturating_sub(at)),
        };
        peers.push(StorePeer {
            node_id: node,
            cluster: cluster.map(ToString::to_string).unwrap_or_default(),
            region: record
                .map(|r| Region::to_string(&r.region))
                .unwrap_or_default(),
            role: role(&store, leader, node).to_owned(),
            voting: voting(catalog.voting_of(node)).to_owned(),
            this_node: node == store.node_id,
            witness: record.is_some_and(|r| r.witness),
            term: vitals.as_ref().map(|v| v.term),
            last_log,
            applied: vitals.as_ref().and_then(|v| v.applied),
            trails,
            fsync_p99_us: vitals.as_ref().and_then(|v| v.fsync_p99_us),
            answered_ms: ago_ms,
            answers: ago_ms.is_some_and(|ms| ms < ANSWER_FRESH_MS),
        });
    }
    let there = peers.iter().filter(|p| p.answers).map(|p| p.node_id);
    let can = quorum(&store.electorates, &there.collect());
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    StorePeersResponse {
        peers,
        term: store.term,
        leader,
        leader_age_ms: store.leader_age_ms,
        revision: catalog.revision,
        can_write: store.can_write,
        voters: number(can.voters),
        majority: number(can.majority),
        answering: number(can.answering),
        spare: can.spare.map(number),
        level: catalog.level.into(),
        changing: store.electorates.len() > 1,
    }
}

fn role(store: &StoreStatus, leader: Option<NodeId>, node: NodeId) -> &'static str {
    if leader == Some(node) {
        "leader"
    } else if store.voters.contains(&node) {
        "voter"
    } else if store.learners.contains(&node) {
        "learner"
    } else {
        "joining"
    }
}

const fn voting(voting: Voting) -> &'static str {
    match voting {
        Voting::Auto => "auto",
        Voting::Preferred => "preferred",
        Voting::Never => "never",
    }
}
