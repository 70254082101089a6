//! Is the stream to each other cluster up, and does the cluster answer? A task pings every known cluster's controller
//! through its gateway, and what came of it is published for listings, metrics and problems.
//!
//! Owns the pings under way and nothing else: what a ping means is decided in [`facts`], which is pure. A cluster that
//! does not answer must never touch this process's readiness, nor take an endpoint away: that is for leases and
//! detectors, which only demote.

mod distances;
mod facts;
mod meters;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};
use tradewind_api::{ClusterName, proto::v1};
use tradewind_federation::Store;
use tradewind_runtime::{Rng, SharedClock, drain};

use crate::{
    raft_net::{Answer, Peers, Streams, Unreached},
    registry::Reports,
};

pub use distances::Distances;
pub use facts::{ClusterReach, Event, Facts, Reach, StreamFact};
pub use meters::ReachMeters;
pub use rows::{Row, Sight, matrix, read as read_row};

/// Between two pings of one cluster: a person who looks sees what is true now, and a thousand clusters cost each
/// controller five hundred small calls a second.
pub const PING_EVERY: Duration = Duration::from_secs(2);
/// How long a ping may take: several of the longest round trips on earth, and less than the time to the next.
pub const PING_DEADLINE: Duration = Duration::from_millis(1_500);
/// After a first miss the next ping comes sooner: whether it was chance should be known soon.
const PING_AGAIN: Duration = Duration::from_millis(500);
/// By what part of itself each wait is shortened or lengthened, so that controllers do not ping in step.
const JITTER: f64 = 0.1;
/// Pings under way at once: even if all time out, a thousand clusters are gone through in half a minute.
const MAX_AT_ONCE: usize = 64;
/// Least time between two publications: with many clusters, answers come every few ms.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// What this cluster sees of the others, as others read it: its controller's pings, and its gateways' probes.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The controller's.
    pub reach: watch::Receiver<Arc<Reach>>,
    /// The gateways'.
    pub reports: watch::Receiver<Arc<Reports>>,
}

impl Seen {
    /// Of one that asks nobody.
    pub fn nobody() -> Self {
        Self {
            reach: watch::channel(Arc::default()).1,
            reports: watch::channel(Arc::default()).1,
        }
    }

    /// This cluster's row of the matrix.
    pub fn row(&self, now_ms: u64) -> Vec<v1::Reached> {
        // Taken out one by one, so that no lock is held while another is waited for.
        let reach = Arc::clone(&self.reach.borrow());
        let reports = Arc::clone(&self.reports.borrow());
        rows::own(&reach, &reports, now_ms)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Pinger {
    peers: Peers,
    store: Store,
    clock: SharedClock,
    rng: Rng,
    published: watch::Sender<Arc<Reach>>,
}

/// What one ping gave.
struct Asked {
    cluster: ClusterName,
    sent: Instant,
    round_trip: Duration,
    answer: Result<Answer, Unreached>,
}

async fn ask(peers: Peers, cluster: ClusterName, with_reach: bool) -> Asked {
    let sent = Instant::now();
    let answer = peers.ping(&cluster, with_reach, PING_DEADLINE).await;
    Asked {
        cluster,
        sent,
        round_trip: sent.elapsed(),
        answer,
    }
}

/// When each cluster is pinged next.
#[derive(Debug, Default)]
struct Schedule {
    due: BTreeMap<ClusterName, Instant>,
    asking: BTreeSet<ClusterName>,
}

impl Schedule {
    /// Takes up new clusters, drops those gone, and asks at once where a stream fell.
    fn follow(&mut self, streams: &Streams, facts: &Facts, now: Instant, rng: &mut Rng) {
        self.due.retain(|cluster, _| streams.contains_key(cluster));
        for (cluster, stream) in streams {
            let before = facts.get(cluster);
            let fell = !stream.up && before.is_some_and(|b| b.stream.up);
            if fell {
                self.due.insert(cluster.clone(), now);
            } else if !self.due.contains_key(cluster) {
                // The first ones spread over some time, those of a small federation hardly wait.
                let spread = PING_AGAIN.mul_f64(rng.unit());
                self.due.insert(cluster.clone(), now + spread);
            }
        }
    }

    /// The clusters to ping now, as many as there is room for.
    fn take_due(&mut self, now: Instant) -> Vec<ClusterName> {
        let room = MAX_AT_ONCE.saturating_sub(self.asking.len());
        let mut due: Vec<(Instant, ClusterName)> = self
            .waiting()
            .filter(|(_, at)| **at <= now)
            .map(|(cluster, at)| (*at, cluster.clone()))
            .collect();
        // The longest overdue first: nobody waits for ever behind others that do not answer.
        due.sort();
        due.truncate(room);
        let due: Vec<ClusterName> = due.into_iter().map(|(_, cluster)| cluster).collect();
        self.asking.extend(due.iter().cloned());
        due
    }

    fn waiting(&self) -> impl Iterator<Item = (&ClusterName, &Instant)> {
        self.due
            .iter()
            .filter(|(cluster, _)| !self.asking.contains(*cluster))
    }

    /// When to look again; none while all room is taken.
    fn next(&self) -> Option<Instant> {
        if self.asking.len() >= MAX_AT_ONCE {
            return None;
        }
        self.waiting().map(|(_, at)| *at).min()
    }

    fn asked(&mut self, asked: &Asked, first_miss: bool, rng: &mut Rng) {
        self.asking.remove(&asked.cluster);
        if let Some(due) = self.due.get_mut(&asked.cluster) {
            let every = if first_miss { PING_AGAIN } else { PING_EVERY };
            let jitter = 1.0 - JITTER + 2.0 * JITTER * rng.unit();
            *due = asked.sent + every.mul_f64(jitter);
        }
    }
}

impl Pinger {
    /// Over the streams of `peers`. The receiver has what is known of each cluster.
    pub fn new(
        peers: Peers,
        store: Store,
        clock: SharedClock,
        rng: Rng,
    ) -> (Self, watch::Receiver<Arc<Reach>>) {
        let published = watch::Sender::new(Arc::new(Reach::default()));
        let seen = published.subscribe();
        let pinger = Self {
            peers,
            store,
            clock,
            rng,
            published,
        };
        (pinger, seen)
    }

    /// Runs until the drain.
    pub async fn run(mut self, mut drain: drain::Observer) {
        let mut streams = self.peers.streams();
        let (mut facts, mut schedule) = (Facts::default(), Schedule::default());
        let mut under_way = FuturesUnordered::new();
        let (mut moved, mut changed, mut published_at) = (true, false, None::<Instant>);
        loop {
            if moved {
                let now = Arc::clone(&streams.borrow_and_update());
                schedule.follow(&now, &facts, Instant::now(), &mut self.rng);
                facts.observe(Event::Streams(&now), self.clock.unix_ms());
                (moved, changed) = (false, true);
            }
            for cluster in schedule.take_due(Instant::now()) {
                let row = rows::is_due(facts.reach(), &cluster, self.clock.unix_ms());
                under_way.push(ask(self.peers.clone(), cluster, row));
            }
            let publish_at = published_at.map_or_else(Instant::now, |at| at + PUBLISH_EVERY);
            if changed && Instant::now() >= publish_at {
                self.published.send_replace(Arc::new(facts.reach().clone()));
                (changed, published_at) = (false, Some(Instant::now()));
            }
            let next = schedule.next();
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                more = streams.changed() => {
                    if more.is_err() {
                        return;
                    }
                    moved = true;
                }
                Some(asked) = under_way.next(), if !under_way.is_empty() => {
                    self.take(&mut facts, &asked);
                    let misses = facts.get(&asked.cluster).map_or(0, |c| c.misses);
                    schedule.asked(&asked, misses == 1, &mut self.rng);
                    changed = true;
                }
                () = tokio::time::sleep_until(next.unwrap_or(publish_at)), if next.is_some() => {}
                () = tokio::time::sleep_until(publish_at), if changed => {}
            }
        }
    }

    fn take(&self, facts: &mut Facts, asked: &Asked) {
        let (cluster, now_ms) = (&asked.cluster, self.clock.unix_ms());
        match &asked.answer {
            Ok(answer) => {
                let event = Event::Answered {
                    cluster,
                    round_trip: asked.round_trip,
                    trails: self
                        .store
                        .catalog()
                        .revision
                        .saturating_sub(answer.revision),
                    vitals: answer.vitals.as_ref(),
                    sights: answer.sights.as_ref(),
                };
                facts.observe(event, now_ms);
            }
            Err(error) => {
                tracing::debug!(%cluster, layer = %error.layer, error = error.text, "a ping was not answered");
                facts.observe(Event::Unanswered { cluster, error }, now_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_net::PeerStream;

    fn name(n: usize) -> ClusterName {
        ClusterName::new(&format!("c{n}")).unwrap()
    }

    fn streams(count: usize) -> Streams {
        let all = (0..count).map(|n| (name(n), PeerStream::default()));
        all.collect()
    }

    fn asked(cluster: &ClusterName, sent: Instant) -> Asked {
        Asked {
            cluster: cluster.clone(),
            sent,
            round_trip: Duration::ZERO,
            answer: Ok(Answer::default()),
        }
    }

    #[test]
    fn pings_are_bounded_and_nobody_is_forgotten() {
        let (mut rng, start) = (Rng::seeded(7), Instant::now());
        let mut schedule = Schedule::default();
        schedule.follow(&streams(200), &Facts::default(), start, &mut rng);
        let mut now = start + PING_AGAIN;
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            let taken = schedule.take_due(now);
            assert!(taken.len() <= MAX_AT_ONCE && schedule.take_due(now).is_empty());
            for cluster in &taken {
                schedule.asked(&asked(cluster, now), false, &mut rng);
            }
            seen.extend(taken);
            now += Duration::from_millis(1);
        }
        assert_eq!(seen.len(), 200);
        // Each again in its turn, a little apart.
        let soonest = schedule.next().unwrap();
        assert!(
            soonest >= start + PING_AGAIN + PING_EVERY.mul_f64(0.89),
            "jitter has a bound"
        );
        let due: BTreeSet<_> = schedule.due.values().collect();
        assert!(due.len() > 100, "not in step");
    }

    #[test]
    fn a_stream_that_fell_is_asked_about_at_once() {
        let (mut rng, start) = (Rng::seeded(7), Instant::now());
        let (mut schedule, mut facts) = (Schedule::default(), Facts::default());
        let mut up = streams(1);
        up.insert(
            name(0),
            PeerStream {
                up: true,
                opened: 1,
                gateway: "g:1".into(),
            },
        );
        schedule.follow(&up, &facts, start, &mut rng);
        facts.observe(Event::Streams(&up), 1);
        schedule.take_due(start + PING_AGAIN);
        schedule.asked(&asked(&name(0), start + PING_AGAIN), false, &mut rng);
        assert!(schedule.take_due(start + PING_AGAIN).is_empty());
        let mut down = up.clone();
        down.insert(
            name(0),
            PeerStream {
                up: false,
                opened: 1,
                gateway: "g:1".into(),
            },
        );
        schedule.follow(&down, &facts, start + PING_AGAIN, &mut rng);
        assert_eq!(schedule.take_due(start + PING_AGAIN), [name(0)]);
        schedule.follow(&Streams::new(), &facts, start, &mut rng);
        assert!(schedule.due.is_empty());
    }
}
