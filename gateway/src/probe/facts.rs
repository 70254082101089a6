//! What is known of the other clusters' gateways, as a function of what probes of them gave and of time. Pure.
//!
//! An address is reachable once it answered and unreachable after two misses in a row; before that nothing is said of it.
//! A cluster is reachable while one of its addresses is. Nothing here ever ends a connection or keeps a call away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tradewind_api::{ClusterName, model::ClusterState, snapshot::Snapshot};

/// Misses in a row that make an address unreachable: one is chance.
const MISSES: u32 = 2;
/// The share of a new round trip in the smoothed one, as TCP has it.
const SMOOTH: u32 = 8;
/// Addresses of one cluster that are probed: as many as the store lets it announce.
const MAX_ADDRESSES: usize = 64;

/// Why an address gave no answer, as a closed set of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// Its host name leads to no IP address.
    Name,
    /// There is no way there.
    NoRoute,
    /// No connection came about in time.
    NoConnection,
    /// The connection was refused.
    Refused,
    /// Connected, and not a word in time.
    Silent,
    /// Connected, and closed without a word.
    Closed,
    /// What answers there is no gateway of ours.
    Stranger,
    /// A gateway of another cluster answers there.
    OtherCluster,
    /// A gateway that has no snapshot yet, or no room.
    NotReady,
    /// A gateway that does not know the question: of an older version. Nothing is concluded from it.
    Older,
    /// This process could not ask: it has no descriptor or port left. That says nothing of the other side.
    Unasked,
}

impl Why {
    /// The word that travels.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::NoRoute => "no-route",
            Self::NoConnection => "no-connection",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Closed => "closed",
            Self::Stranger => "stranger",
            Self::OtherCluster => "other-cluster",
            Self::NotReady => "not-ready",
            Self::Older => "older",
            Self::Unasked => "unasked",
        }
    }

    /// The same for people, after the address.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Name => "has a host name that leads to no address",
            Self::NoRoute => "has no way to it from here",
            Self::NoConnection => "takes no connection in time",
            Self::Refused => "refuses the connection",
            Self::Silent => "takes the connection and says nothing",
            Self::Closed => "closes the connection without a word",
            Self::Stranger => "is no gateway of this federation",
            Self::OtherCluster => "is another cluster's gateway",
            Self::NotReady => "is a gateway that is not ready or has no room",
            Self::Older => "is a gateway of a version that knows no probes",
            Self::Unasked => "could not be asked: this gateway has no descriptor or port left",
        }
    }

    /// Whether it says anything of the other side.
    const fn is_miss(self) -> bool {
        !matches!(self, Self::Older | Self::Unasked)
    }
}

/// The TLS alerts that a gateway answers with; everything else is no answer.
pub(crate) fn judge(answer: &[u8]) -> Result<(), Why> {
    const CLOSE_NOTIFY: u8 = 0;
    const ACCESS_DENIED: u8 = 49;
    const INTERNAL_ERROR: u8 = 80;
    const UNRECOGNIZED_NAME: u8 = 112;
    match answer {
        [] => Err(Why::Closed),
        [21, 3, _, 0, 2, 1, CLOSE_NOTIFY] => Ok(()),
        [21, 3, _, 0, 2, 2, ACCESS_DENIED] => Err(Why::OtherCluster),
        [21, 3, _, 0, 2, 2, INTERNAL_ERROR] => Err(Why::NotReady),
        [21, 3, _, 0, 2, 2, UNRECOGNIZED_NAME] => Err(Why::Older),
        _ => Err(Why::Stranger),
    }
}

/// What is known of one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// None before the first answer or the second miss.
    pub reachable: Option<bool>,
    /// Since when that is so, Unix ms.
    pub since_ms: u64,
    /// When it answered last, Unix ms.
    pub answered_at_ms: Option<u64>,
    /// Smoothed.
    pub round_trip: Option<Duration>,
    /// In a row.
    pub misses: u32,
    /// When the first of those was missed, Unix ms.
    missing_since_ms: Option<u64>,
    /// Why the last probe had no answer; none once one had.
    pub why: Option<Why>,
}

impl Sight {
    fn observe(&mut self, found: Result<Duration, Why>, now_ms: u64) {
        match found {
            Ok(round_trip) => {
                self.settle(true, now_ms);
                self.answered_at_ms = Some(now_ms);
                self.round_trip = Some(smoothed(self.round_trip, round_trip));
                (self.misses, self.missing_since_ms, self.why) = (0, None, None);
            }
            Err(why) => {
                self.why = Some(why);
                if why == Why::Older {
                    // Somebody is there who cannot say more.
                    self.reachable = None;
                    (self.misses, self.missing_since_ms) = (0, None);
                }
                if !why.is_miss() {
                    return;
                }
                self.misses = self.misses.saturating_add(1);
                let since_ms = *self.missing_since_ms.get_or_insert(now_ms);
                if self.misses >= MISSES {
                    self.settle(false, since_ms);
                }
            }
        }
    }

    fn settle(&mut self, reachable: bool, since_ms: u64) {
        if self.reachable != Some(reachable) {
            (self.reachable, self.since_ms) = (Some(reachable), since_ms);
        }
    }
}

fn smoothed(before: Option<Duration>, now: Duration) -> Duration {
    match before {
        None => now,
        Some(before) => (before * (SMOOTH - 1) + now) / SMOOTH,
    }
}

/// One other cluster, by its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub addresses: BTreeMap<String, Sight>,
}

/// One other cluster in sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict<'a> {
    /// True while one address is, false while all are known not to be.
    pub reachable: Option<bool>,
    /// The least of those that answer.
    pub round_trip: Option<Duration>,
    /// Since it last answered where it is reachable, else since it first gave no answer.
    pub age_ms: u64,
    /// Addresses that answer.
    pub answering: usize,
    /// The address that came furthest of those that do not answer, and why it does not.
    pub why: Option<(&'a str, Why)>,
}

impl Peer {
    /// True while one address is reachable, false while all of them are known not to be.
    pub(crate) fn reachable(&self) -> Option<bool> {
        let all = || self.addresses.values().map(|s| s.reachable);
        if all().any(|r| r == Some(true)) {
            return Some(true);
        }
        (!self.addresses.is_empty() && all().all(|r| r == Some(false))).then_some(false)
    }

    /// All of it in one, at `now_ms`.
    pub(crate) fn verdict(&self, now_ms: u64) -> Verdict<'_> {
        let reachable = self.reachable();
        let answer = |s: &&Sight| s.reachable == Some(true);
        let answering = || self.addresses.values().filter(answer);
        let at_ms = match reachable {
            Some(true) => answering().filter_map(|s| s.answered_at_ms).max(),
            // The whole cluster is gone since its last address is.
            Some(false) => self.addresses.values().map(|s| s.since_ms).max(),
            None => None,
        };
        let silent = self.addresses.iter().filter(|(_, s)| !answer(s));
        let whys = silent.filter_map(|(address, s)| Some((address.as_str(), s.why?)));
        Verdict {
            reachable,
            round_trip: answering().filter_map(|s| s.round_trip).min(),
            age_ms: at_ms.map_or(0, |at_ms| now_ms.saturating_sub(at_ms)),
            answering: answering().count(),
            why: whys.max_by_key(|(_, why)| *why),
        }
    }
}

/// All other clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peers {
    pub clusters: BTreeMap<ClusterName, Arc<Peer>>,
    /// Grows whenever a cluster became reachable, unreachable or unknown.
    pub turns: u64,
}

/// Whom to ask, and where: every other member and what it announces.
pub(crate) fn wanted(snapshot: &Snapshot) -> BTreeMap<ClusterName, BTreeSet<String>> {
    if snapshot.local().is_none() {
        return BTreeMap::new();
    }
    let others = snapshot.clusters.values();
    others
        .filter(|c| !c.local && c.state != ClusterState::Left)
        .map(|c| {
            let addresses = c.gateways.iter().take(MAX_ADDRESSES).cloned();
            (c.name.clone(), addresses.collect())
        })
        .collect()
}

/// The machine. See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    peers: Peers,
}

impl Facts {
    /// Takes up who is new and forgets who is gone. What is known of an address that stays, stays.
    pub(crate) fn follow(&mut self, wanted: &BTreeMap<ClusterName, BTreeSet<String>>, now_ms: u64) {
        let mut turns = self.peers.turns;
        let clusters = &mut self.peers.clusters;
        clusters.retain(|name, _| wanted.contains_key(name));
        for (name, addresses) in wanted {
            let peer = clusters.entry(name.clone()).or_default();
            if peer.addresses.keys().eq(addresses) {
                continue;
            }
            let before = peer.reachable();
            let peer = Arc::make_mut(peer);
            peer.addresses.retain(|a, _| addresses.contains(a));
            for address in addresses {
                let fresh = || Sight {
                    since_ms: now_ms,
                    ..Sight::default()
                };
                peer.addresses.entry(address.clone()).or_insert_with(fresh);
            }
            turns += u64::from(before != peer.reachable());
        }
        self.peers.turns = turns;
    }

    /// Takes what a probe gave. What concerns an address that is no longer announced changes nothing.
    pub(crate) fn observe(
        &mut self,
        (cluster, address): (&ClusterName, &str),
        found: Result<Duration, Why>,
        now_ms: u64,
    ) {
        let Some(peer) = self.peers.clusters.get_mut(cluster) else {
            return;
        };
        if !peer.addresses.contains_key(address) {
            return;
        }
        let before = peer.reachable();
        let peer = Arc::make_mut(peer);
        if let Some(sight) = peer.addresses.get_mut(address) {
            sight.observe(found, now_ms);
        }
        self.peers.turns += u64::from(before != peer.reachable());
    }

    /// What is known now.
    pub(crate) const fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Misses in a row of an address.
    pub(crate) fn misses(&self, cluster: &ClusterName, address: &str) -> u32 {
        let peer = self.peers.clusters.get(cluster);
        let sight = peer.and_then(|p| p.addresses.get(address));
        sight.map_or(0, |s| s.misses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{cluster, snapshot};

    const A: &str = "10.0.0.1:15443";
    const B: &str = "10.0.0.2:15443";

    fn east() -> ClusterName {
        ClusterName::new("east").unwrap()
    }

    fn following(addresses: &[&str], now_ms: u64) -> Facts {
        let mut facts = Facts::default();
        follow(&mut facts, addresses, now_ms);
        facts
    }

    fn follow(facts: &mut Facts, addresses: &[&str], now_ms: u64) {
        let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
        facts.follow(&[(east(), addresses)].into(), now_ms);
    }

    fn saw(facts: &mut Facts, address: &str, found: Result<u64, Why>, now_ms: u64) {
        let found = found.map(Duration::from_millis);
        facts.observe((&east(), address), found, now_ms);
    }

    fn reachable(facts: &Facts) -> Option<bool> {
        facts.peers().clusters[&east()].reachable()
    }

    #[test]
    fn one_miss_is_chance_two_are_unreachable_and_one_answer_ends_it() {
        let mut facts = following(&[A], 100);
        assert_eq!(reachable(&facts), None, "unknown is not dead");
        saw(&mut facts, A, Err(Why::Refused), 1_000);
        assert_eq!((reachable(&facts), facts.peers().turns), (None, 0));
        saw(&mut facts, A, Err(Why::Refused), 2_000);
        assert_eq!((reachable(&facts), facts.peers().turns), (Some(false), 1));
        let peer = Arc::clone(&facts.peers().clusters[&east()]);
        let verdict = peer.verdict(5_000);
        assert_eq!(verdict.age_ms, 4_000, "since the first miss");
        assert_eq!(verdict.why, Some((A, Why::Refused)));
        saw(&mut facts, A, Ok(12), 6_000);
        assert_eq!((reachable(&facts), facts.peers().turns), (Some(true), 2));
        saw(&mut facts, A, Ok(20), 7_000);
        saw(&mut facts, A, Err(Why::Silent), 8_000);
        assert_eq!((reachable(&facts), facts.peers().turns), (Some(true), 2));
        let verdict = facts.peers().clusters[&east()].verdict(9_000);
        assert_eq!(verdict.round_trip, Some(Duration::from_millis(13)));
        assert_eq!((verdict.age_ms, verdict.why), (2_000, None));
    }

    #[test]
    fn a_cluster_is_reached_by_any_of_its_addresses_and_the_nearest_counts() {
        let mut facts = following(&[A, B], 0);
        saw(&mut facts, A, Ok(30), 1_000);
        for at_ms in [1_000, 2_000] {
            saw(&mut facts, B, Err(Why::OtherCluster), at_ms);
        }
        let verdict = facts.peers().clusters[&east()].verdict(2_500);
        assert_eq!((verdict.reachable, verdict.answering), (Some(true), 1));
        assert_eq!(verdict.why, Some((B, Why::OtherCluster)));
        saw(&mut facts, B, Ok(10), 3_000);
        let verdict = facts.peers().clusters[&east()].verdict(3_000);
        assert_eq!(verdict.round_trip, Some(Duration::from_millis(10)));
        assert_eq!((verdict.answering, verdict.why), (2, None));
        // The last one decides since when it is gone, and one that is unknown keeps it from being so.
        for at_ms in [4_000, 5_000] {
            saw(&mut facts, A, Err(Why::NoConnection), at_ms);
        }
        assert_eq!(reachable(&facts), Some(true));
        for at_ms in [6_000, 7_000] {
            saw(&mut facts, B, Err(Why::Closed), at_ms);
        }
        let verdict = facts.peers().clusters[&east()].verdict(8_000);
        assert_eq!((verdict.reachable, verdict.age_ms), (Some(false), 2_000));
        assert_eq!(verdict.why, Some((B, Why::Closed)), "it came further");
        follow(&mut facts, &[A, B, "c:1"], 8_000);
        assert_eq!(reachable(&facts), None, "one was never asked");
        follow(&mut facts, &[], 9_000);
        assert_eq!(reachable(&facts), None, "nothing is announced");
        saw(&mut facts, A, Ok(1), 9_000);
        assert!(facts.peers().clusters[&east()].addresses.is_empty());
    }

    #[test]
    fn what_says_nothing_of_the_other_side_changes_nothing() {
        let mut facts = following(&[A], 0);
        for at_ms in 1..9 {
            saw(&mut facts, A, Err(Why::Older), at_ms);
        }
        assert_eq!((reachable(&facts), facts.misses(&east(), A)), (None, 0));
        saw(&mut facts, A, Ok(3), 10);
        for at_ms in 11..19 {
            saw(&mut facts, A, Err(Why::Unasked), at_ms);
        }
        assert_eq!(reachable(&facts), Some(true));
    }

    #[test]
    fn answers_are_told_apart() {
        for (answer, judged) in [
            (&[21, 3, 3, 0, 2, 1, 0][..], Ok(())),
            (&[21, 3, 3, 0, 2, 2, 49], Err(Why::OtherCluster)),
            (&[21, 3, 3, 0, 2, 2, 80], Err(Why::NotReady)),
            (&[21, 3, 3, 0, 2, 2, 112], Err(Why::Older)),
            (&[21, 3, 3, 0, 2, 2, 40], Err(Why::Stranger)),
            (&[21, 3, 3, 0, 2, 2, 0], Err(Why::Stranger)),
            (&[21, 3, 3, 0, 2, 1], Err(Why::Stranger)),
            (b"HTTP/1.", Err(Why::Stranger)),
            (&[], Err(Why::Closed)),
        ] {
            assert_eq!(judge(answer), judged, "{answer:?}");
        }
    }

    #[test]
    fn every_other_member_is_asked_at_its_addresses_and_nobody_before_a_snapshot() {
        assert!(wanted(&Snapshot::default()).is_empty());
        let mut s = snapshot(&[]);
        cluster(&mut s, "west").gateways = vec!["own:1".into()];
        let many = (0..MAX_ADDRESSES + 5).map(|n| format!("g{n}:1"));
        cluster(&mut s, "east").gateways = many.collect();
        let asked = wanted(&s);
        assert_eq!(asked.keys().collect::<Vec<_>>(), [&east()]);
        assert_eq!(asked[&east()].len(), MAX_ADDRESSES);
        cluster(&mut s, "east").state = ClusterState::Draining;
        assert_eq!(wanted(&s).len(), 1);
        cluster(&mut s, "east").state = ClusterState::Left;
        assert!(wanted(&s).is_empty());
    }
}
