//! What this cluster's gateways find when they probe the other clusters': the newest word of each gateway, while its stream
//! is up and it is of now. Pure.
//!
//! Kept apart from the registrations: a report comes with every sign of life and must wake nobody who compiles or
//! publishes. It is shown and measured by, and takes nothing away from anybody. It is never saved.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{ClusterName, proto::v1};

use super::state::StreamId;

/// Clusters in one report: more than a federation has, and a bound all the same.
const MAX_PEERS: usize = 4_096;
/// A report that is older says nothing of now: four of the gateway's signs of life were missed.
const OLD_MS: u64 = 20_000;
/// Characters of a gateway's text that are kept: an address of any length and a sentence.
const MAX_TEXT: usize = 400;

/// What one gateway found out of one other cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSight {
    /// None before it is known.
    pub reachable: Option<bool>,
    /// The least of the addresses that answer, smoothed, µs.
    pub round_trip_us: Option<u64>,
    /// Since it last answered when the report was made, or for how long it had not, ms.
    pub age_ms: u64,
    /// A word for why an address does not answer; empty where all do.
    pub why: String,
    /// The whole.
    pub why_text: String,
}

/// One gateway's report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    stream: StreamId,
    told_at_ms: u64,
    peers: BTreeMap<ClusterName, PeerSight>,
}

/// The reports by gateway. See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports(BTreeMap<String, Arc<Report>>);

/// What the gateways say together of one other cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gateways {
    /// Those that know whether they reach it.
    pub knowing: u32,
    /// Those of them that do.
    pub reaching: u32,
    /// The least of those.
    pub round_trip_us: Option<u64>,
}

fn cut(text: String) -> String {
    if text.len() <= MAX_TEXT && !text.contains(char::is_control) {
        return text;
    }
    let plain = text.chars().filter(|c| !c.is_control());
    plain.take(MAX_TEXT).collect()
}

/// What a gateway sent, within its bounds. What is no cluster's name is left out.
pub(super) fn read(peers: Vec<v1::PeerReach>) -> BTreeMap<ClusterName, PeerSight> {
    let sight = |peer: v1::PeerReach| {
        let sight = PeerSight {
            reachable: peer.reachable,
            // What does not answer has no round trip now, whatever it had.
            round_trip_us: peer.round_trip_us.filter(|_| peer.reachable == Some(true)),
            age_ms: peer.age_ms,
            why: cut(peer.why),
            why_text: cut(peer.why_text),
        };
        Some((ClusterName::new(&peer.cluster).ok()?, sight))
    };
    peers
        .into_iter()
        .take(MAX_PEERS)
        .filter_map(sight)
        .collect()
}

impl Reports {
    /// Takes a gateway's newest word.
    pub(super) fn take(
        &mut self,
        (stream, gateway): (StreamId, &str),
        peers: BTreeMap<ClusterName, PeerSight>,
        now_ms: u64,
    ) {
        self.0.retain(|_, report| is_fresh(report, now_ms));
        if peers.is_empty() {
            // Of an older version, or alone: it has nothing to say.
            self.0.remove(gateway);
            return;
        }
        let report = Report {
            stream,
            told_at_ms: now_ms,
            peers,
        };
        self.0.insert(gateway.to_owned(), Arc::new(report));
    }

    /// Whether any came by this stream.
    pub(super) fn holds(&self, stream: StreamId) -> bool {
        self.0.values().any(|report| report.stream == stream)
    }

    /// A stream ended: what came by it is no word of now. True if there was any.
    pub(super) fn ended(&mut self, stream: StreamId) -> bool {
        let before = self.0.len();
        self.0.retain(|_, report| report.stream != stream);
        self.0.len() != before
    }

    /// What each gateway says of a cluster now, with its age.
    pub fn of<'a>(
        &'a self,
        cluster: &'a ClusterName,
        now_ms: u64,
    ) -> impl Iterator<Item = (&'a str, &'a PeerSight, u64)> {
        let fresh = self.0.iter().filter(move |(_, r)| is_fresh(r, now_ms));
        fresh.filter_map(move |(gateway, report)| {
            let sight = report.peers.get(cluster)?;
            let passed = now_ms.saturating_sub(report.told_at_ms);
            Some((gateway.as_str(), sight, sight.age_ms.saturating_add(passed)))
        })
    }

    /// What they say of it together.
    pub fn together(&self, cluster: &ClusterName, now_ms: u64) -> Gateways {
        let mut all = Gateways::default();
        for (_, sight, _) in self.of(cluster, now_ms) {
            all.knowing += u32::from(sight.reachable.is_some());
            all.reaching += u32::from(sight.reachable == Some(true));
            let known = all.round_trip_us.into_iter();
            all.round_trip_us = known.chain(sight.round_trip_us).min();
        }
        all
    }
}

const fn is_fresh(report: &Report, now_ms: u64) -> bool {
    now_ms.saturating_sub(report.told_at_ms) <= OLD_MS
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn east() -> ClusterName {
        ClusterName::new("east").unwrap()
    }

    fn said(reachable: Option<bool>, ms: u64) -> v1::PeerReach {
        v1::PeerReach {
            cluster: "east".into(),
            reachable,
            round_trip_us: Some(ms * 1_000),
            age_ms: 300,
            addresses: 2,
            answering: 1,
            why: "refused".into(),
            why_text: "10.0.0.1:15443 refuses the connection".into(),
        }
    }

    /// What gateways `gw-1`, `gw-2` and so on say of east at `now_ms`: whether they reach it, and in how many ms.
    pub(crate) fn reports(all: &[(Option<bool>, u64)], now_ms: u64) -> Reports {
        let mut reports = Reports::default();
        for (n, (reachable, ms)) in (1..).zip(all) {
            let peers = read(vec![said(*reachable, *ms)]);
            reports.take((StreamId(n), &format!("gw-{n}")), peers, now_ms);
        }
        reports
    }

    #[test]
    fn gateways_are_counted_and_the_nearest_that_reaches_counts() {
        let all = [
            (Some(true), 20),
            (Some(true), 12),
            (Some(false), 3),
            (None, 1),
        ];
        let reports = reports(&all, 1_000);
        let expected = Gateways {
            knowing: 3,
            reaching: 2,
            round_trip_us: Some(12_000),
        };
        assert_eq!(reports.together(&east(), 1_000), expected);
        let east = east();
        let (gateway, sight, age_ms) = reports.of(&east, 1_200).nth(2).unwrap();
        assert_eq!(
            (gateway, sight.reachable, age_ms),
            ("gw-3", Some(false), 500)
        );
        let west = ClusterName::new("west").unwrap();
        assert_eq!(reports.together(&west, 1_000), Gateways::default());
    }

    #[test]
    fn an_old_report_or_a_broken_stream_says_nothing_and_a_newer_one_replaces() {
        let mut all = reports(&[(Some(true), 20), (Some(false), 0)], 1_000);
        let knowing = |r: &Reports, now_ms| r.together(&east(), now_ms).knowing;
        assert_eq!(knowing(&all, 1_000 + OLD_MS), 2);
        assert_eq!(knowing(&all, 1_001 + OLD_MS), 0);
        assert!(all.ended(StreamId(1)) && !all.ended(StreamId(1)));
        assert_eq!(knowing(&all, 1_000), 1);
        // The gateway came back by another stream before the old one's end was noticed.
        let peers = read(vec![said(Some(true), 5)]);
        all.take((StreamId(9), "gw-2"), peers, 2_000);
        assert!(!all.ended(StreamId(2)));
        assert_eq!(all.together(&east(), 2_000).reaching, 1);
        all.take((StreamId(9), "gw-2"), BTreeMap::new(), 3_000);
        assert_eq!(all, Reports::default());
    }

    #[test]
    fn what_a_gateway_sends_has_bounds() {
        let mut long = said(Some(false), 1);
        long.why_text = "x\n".repeat(10_000);
        let mut nameless = said(Some(true), 1);
        nameless.cluster = "no name".into();
        let sights = read(vec![long, nameless]);
        assert_eq!(sights.len(), 1);
        assert_eq!(sights[&east()].why_text, "x".repeat(MAX_TEXT));
        assert_eq!(sights[&east()].round_trip_us, None, "it does not answer");
        let many = (0..MAX_PEERS + 10).map(|n| v1::PeerReach {
            cluster: format!("c{n}"),
            ..v1::PeerReach::default()
        });
        assert_eq!(read(many.collect()).len(), MAX_PEERS);
    }
}
