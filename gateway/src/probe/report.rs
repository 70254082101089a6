//! What the controller and the admin page are told of the other clusters' gateways. Pure.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tradewind_api::{ClusterName, proto::v1};

use super::facts::{Peer, Peers, Sight, Verdict, Why};

/// Clusters in one message: more than a federation has, and what the controller takes.
const MAX_PEERS: usize = 4_096;

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// For the controller: each cluster in one, with the address that most is to be said of.
pub(crate) fn for_controller(peers: &Peers, now_ms: u64) -> Vec<v1::PeerReach> {
    let one = |(cluster, peer): (&ClusterName, &Arc<Peer>)| {
        let Verdict {
            reachable,
            round_trip,
            age_ms,
            answering,
            why,
        } = peer.verdict(now_ms);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        v1::PeerReach {
            cluster: cluster.to_string(),
            reachable,
            round_trip_us: round_trip.map(micros),
            age_ms,
            addresses: count(peer.addresses.len()),
            answering: count(answering),
            why: why
                .map(|(_, why)| why.as_str().to_owned())
                .unwrap_or_default(),
            why_text: why
                .map(|(address, why)| format!("{address} {}", why.text()))
                .unwrap_or_default(),
        }
    };
    peers.clusters.iter().take(MAX_PEERS).map(one).collect()
}

/// For the admin page: every address.
pub(crate) fn for_people(peers: &Peers, now_ms: u64) -> Value {
    let since = |at_ms: u64| now_ms.saturating_sub(at_ms);
    let address = |(address, sight): (&String, &Sight)| {
        json!({
            "address": address,
            "reachable": sight.reachable,
            "since_ms": sight.reachable.map(|_| since(sight.since_ms)),
            "answered_ms_ago": sight.answered_at_ms.map(since),
            "round_trip_us": sight.round_trip.map(micros),
            "misses": sight.misses,
            "why": sight.why.map(Why::text),
        })
    };
    let one = |(cluster, peer): (&ClusterName, &Arc<Peer>)| {
        let verdict = peer.verdict(now_ms);
        json!({
            "cluster": cluster.to_string(),
            "reachable": verdict.reachable,
            "round_trip_us": verdict.round_trip.map(micros),
            "addresses": peer.addresses.iter().map(address).collect::<Vec<_>>(),
        })
    };
    peers.clusters.iter().map(one).collect()
}
