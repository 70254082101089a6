//! What is known of each other cluster's stream and answers, as a function of events and time. Pure.
//!
//! Three facts stay three facts. Here are two of them, the stream and the answers; the age of a cluster's data is its
//! lease's, in `compile`. None is concluded from another, and none of them ever removes anything.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tradewind_api::ClusterName;
use tradewind_federation::Vitals;

use super::{Row, Sight};
use crate::raft_net::{Streams, Unreached};

/// Pings in a row without an answer that make a cluster unreachable: one is chance.
const MISSES: u32 = 2;
/// The share of a new round trip in the smoothed one, as TCP has it.
const SMOOTH: u32 = 8;

/// Whether the one connection to a cluster's controller is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamFact {
    /// True while it is.
    pub up: bool,
    /// Since when it is as it is, Unix ms by this node's clock. From this process's start where it never was up.
    pub since_ms: u64,
    /// The gateway that it goes or went through; empty when there was none yet.
    pub gateway: String,
    opened: u64,
}

/// What is known of one other cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterReach {
    /// The connection.
    pub stream: StreamFact,
    /// True when it answers, false when it does not, none before the first answer or the second miss.
    pub reachable: Option<bool>,
    /// Since when that is so, Unix ms.
    pub reach_since_ms: u64,
    /// When it answered last, Unix ms.
    pub answered_at_ms: Option<u64>,
    /// How long the last answer took.
    pub last_round_trip: Option<Duration>,
    /// The same, smoothed.
    pub round_trip: Option<Duration>,
    /// Pings without an answer since the last one that had one.
    pub misses: u32,
    /// When the first of those was missed, Unix ms.
    pub missing_since_ms: Option<u64>,
    /// Why the last ping without an answer had none.
    pub error: Option<Unreached>,
    /// How many revisions its store trailed ours by when it last answered.
    pub trails: Option<u64>,
    /// What its store said of itself when it last answered.
    pub vitals: Option<Vitals>,
    /// Whom it reaches, as it last said.
    pub row: Option<Row>,
}

/// All other clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// By name.
    pub clusters: BTreeMap<ClusterName, Arc<ClusterReach>>,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The known clusters, each with its connection as it is now.
    Streams(&'a Streams),
    /// A ping was answered.
    Answered {
        /// By whom.
        cluster: &'a ClusterName,
        /// In what time.
        round_trip: Duration,
        /// How many revisions it trails.
        trails: u64,
        /// What it said of its store; nothing from an older version.
        vitals: Option<&'a Vitals>,
        /// Whom it reaches, if it said so this time.
        sights: Option<&'a Arc<Vec<Sight>>>,
    },
    /// A ping was not.
    Unanswered {
        /// By whom.
        cluster: &'a ClusterName,
        /// Why.
        error: &'a Unreached,
    },
}

/// The machine. See the module.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    reach: Reach,
}

impl Facts {
    /// Takes an event at `now_ms`. What concerns a cluster that is no longer known changes nothing.
    pub fn observe(&mut self, event: Event<'_>, now_ms: u64) {
        match event {
            Event::Streams(streams) => self.streams(streams, now_ms),
            Event::Answered {
                cluster,
                round_trip,
                trails,
                vitals,
                sights,
            } => {
                let Some(reach) = self.reach.clusters.get_mut(cluster) else {
                    return;
                };
                let reach = Arc::make_mut(reach);
                settle(reach, true, now_ms);
                reach.answered_at_ms = Some(now_ms);
                reach.last_round_trip = Some(round_trip);
                reach.round_trip = Some(smoothed(reach.round_trip, round_trip));
                (reach.misses, reach.missing_since_ms, reach.error) = (0, None, None);
                reach.trails = Some(trails);
                reach.vitals = vitals.cloned();
                if let Some(sights) = sights {
                    reach.row = Some(Row {
                        told_at_ms: now_ms,
                        sights: Arc::clone(sights),
                    });
                }
            }
            Event::Unanswered { cluster, error } => {
                let Some(reach) = self.reach.clusters.get_mut(cluster) else {
                    return;
                };
                let reach = Arc::make_mut(reach);
                reach.misses = reach.misses.saturating_add(1);
                let since_ms = *reach.missing_since_ms.get_or_insert(now_ms);
                reach.error = Some(error.clone());
                if reach.misses >= MISSES {
                    settle(reach, false, since_ms);
                }
            }
        }
    }

    fn streams(&mut self, streams: &Streams, now_ms: u64) {
        let clusters = &mut self.reach.clusters;
        clusters.retain(|cluster, _| streams.contains_key(cluster));
        for (cluster, stream) in streams {
            let fresh = || {
                Arc::new(ClusterReach {
                    stream: StreamFact {
                        since_ms: now_ms,
                        ..StreamFact::default()
                    },
                    reach_since_ms: now_ms,
                    ..ClusterReach::default()
                })
            };
            let reach = clusters.entry(cluster.clone()).or_insert_with(fresh);
            let fact = &reach.stream;
            // Opened anew counts as a change, though it was never seen down.
            if fact.up != stream.up || fact.opened != stream.opened {
                Arc::make_mut(reach).stream = StreamFact {
                    up: stream.up,
                    since_ms: now_ms,
                    gateway: stream.gateway.clone(),
                    opened: stream.opened,
                };
            }
        }
    }

    /// What is known now.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// What is known of one cluster.
    pub fn get(&self, cluster: &ClusterName) -> Option<&ClusterReach> {
        self.reach.clusters.get(cluster).map(|c| &**c)
    }

    /// True while no other cluster is known.
    pub fn is_empty(&self) -> bool {
        self.reach.clusters.is_empty()
    }
}

fn settle(reach: &mut ClusterReach, reachable: bool, since_ms: u64) {
    if reach.reachable != Some(reachable) {
        reach.reachable = Some(reachable);
        reach.reach_since_ms = since_ms;
    }
}

fn smoothed(before: Option<Duration>, now: Duration) -> Duration {
    match before {
        None => now,
        Some(before) => (before * (SMOOTH - 1) + now) / SMOOTH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_net::{Layer, PeerStream};

    fn east() -> ClusterName {
        ClusterName::new("east").unwrap()
    }

    fn streams(up: bool, opened: u64) -> Streams {
        let stream = PeerStream {
            up,
            opened,
            gateway: "g:1".into(),
        };
        [(east(), stream)].into()
    }

    fn answered(facts: &mut Facts, ms: u64, now_ms: u64) {
        let event = Event::Answered {
            cluster: &east(),
            round_trip: Duration::from_millis(ms),
            trails: 3,
            vitals: None,
            sights: None,
        };
        facts.observe(event, now_ms);
    }

    fn missed(facts: &mut Facts, now_ms: u64) {
        let error = Unreached {
            layer: Layer::Connect,
            short: "gateway refused the connection",
            text: "gateway g:1: connect: refused".into(),
        };
        let event = Event::Unanswered {
            cluster: &east(),
            error: &error,
        };
        facts.observe(event, now_ms);
    }

    #[test]
    fn nothing_is_said_before_something_was_seen() {
        let mut facts = Facts::default();
        facts.observe(Event::Streams(&streams(false, 0)), 100);
        let seen = facts.get(&east()).unwrap();
        assert_eq!((seen.reachable, seen.answered_at_ms), (None, None));
        assert_eq!((seen.stream.up, seen.stream.since_ms), (false, 100));
        missed(&mut facts, 200);
        assert_eq!(facts.get(&east()).unwrap().reachable, None, "one is chance");
    }

    #[test]
    fn two_misses_make_it_unreachable_since_the_first_and_one_answer_ends_it() {
        let mut facts = Facts::default();
        facts.observe(Event::Streams(&streams(true, 1)), 100);
        answered(&mut facts, 10, 150);
        missed(&mut facts, 2_000);
        let seen = facts.get(&east()).unwrap();
        assert_eq!((seen.reachable, seen.reach_since_ms), (Some(true), 150));
        assert_eq!(seen.misses, 1);
        missed(&mut facts, 4_000);
        missed(&mut facts, 6_000);
        let seen = facts.get(&east()).unwrap();
        assert_eq!((seen.reachable, seen.reach_since_ms), (Some(false), 2_000));
        assert_eq!(
            seen.answered_at_ms,
            Some(150),
            "the last answer keeps its age"
        );
        assert_eq!(seen.error.as_ref().map(|e| e.layer), Some(Layer::Connect));
        answered(&mut facts, 10, 8_000);
        let seen = facts.get(&east()).unwrap();
        assert_eq!((seen.reachable, seen.reach_since_ms), (Some(true), 8_000));
        assert_eq!((seen.misses, &seen.error), (0, &None));
    }

    #[test]
    fn stream_and_answers_are_facts_of_their_own() {
        let mut facts = Facts::default();
        facts.observe(Event::Streams(&streams(true, 1)), 100);
        answered(&mut facts, 10, 150);
        facts.observe(Event::Streams(&streams(false, 1)), 500);
        let seen = facts.get(&east()).unwrap();
        assert_eq!((seen.stream.up, seen.stream.since_ms), (false, 500));
        assert_eq!(
            seen.reachable,
            Some(true),
            "no conclusion from one to the other"
        );
        // As it was: the age goes on.
        facts.observe(Event::Streams(&streams(false, 1)), 900);
        assert_eq!(facts.get(&east()).unwrap().stream.since_ms, 500);
        facts.observe(Event::Streams(&streams(true, 2)), 1_000);
        facts.observe(Event::Streams(&streams(true, 3)), 1_100);
        let seen = facts.get(&east()).unwrap();
        assert_eq!(
            (seen.stream.up, seen.stream.since_ms),
            (true, 1_100),
            "opened anew"
        );
        missed(&mut facts, 1_200);
        missed(&mut facts, 1_300);
        let seen = facts.get(&east()).unwrap();
        assert!(seen.stream.up && seen.reachable == Some(false));
    }

    #[test]
    fn the_round_trip_is_smoothed() {
        let mut facts = Facts::default();
        facts.observe(Event::Streams(&streams(true, 1)), 0);
        answered(&mut facts, 80, 1);
        answered(&mut facts, 160, 2);
        let seen = facts.get(&east()).unwrap();
        assert_eq!(seen.last_round_trip, Some(Duration::from_millis(160)));
        assert_eq!(seen.round_trip, Some(Duration::from_millis(90)));
        assert_eq!(seen.trails, Some(3));
    }

    #[test]
    fn who_left_is_forgotten() {
        let mut facts = Facts::default();
        facts.observe(Event::Streams(&streams(true, 1)), 0);
        facts.observe(Event::Streams(&Streams::new()), 1);
        answered(&mut facts, 80, 2);
        missed(&mut facts, 3);
        assert!(facts.is_empty());
    }
}
