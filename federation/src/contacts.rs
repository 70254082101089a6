//! Who was heard of, and when: the leader by a follower, each follower by the leader. Plain memory behind a lock.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tradewind_api::NodeId;

#[derive(Debug)]
pub(crate) struct Contacts(Mutex<Heard>);

#[derive(Debug)]
struct Heard {
    leader: Instant,
    peers: BTreeMap<NodeId, Instant>,
}

impl Contacts {
    /// Counts from `now`: a node that just started waits before it misses anybody.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Heard {
            leader: now,
            peers: BTreeMap::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leader_spoke(&self, now: Instant) {
        self.lock().leader = now;
    }

    pub(crate) fn leader_age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.lock().leader)
    }

    pub(crate) fn peer_answered(&self, peer: NodeId, now: Instant) {
        self.lock().peers.insert(peer, now);
    }

    /// Peers that answered within `window`.
    pub(crate) fn answering(&self, now: Instant, window: Duration) -> Vec<NodeId> {
        let heard = self.lock();
        let fresh = |at: &Instant| now.saturating_duration_since(*at) <= window;
        let fresh = heard.peers.iter().filter(|(_, at)| fresh(at));
        fresh.map(|(id, _)| *id).collect()
    }

    /// How long ago each peer answered.
    pub(crate) fn ages(&self, now: Instant) -> BTreeMap<NodeId, Duration> {
        let heard = self.lock();
        let age = |at: &Instant| now.saturating_duration_since(*at);
        heard.peers.iter().map(|(id, at)| (*id, age(at))).collect()
    }

    /// Forgets peers that are members no more.
    pub(crate) fn keep(&self, member: impl Fn(NodeId) -> bool) {
        self.lock().peers.retain(|id, _| member(*id));
    }
}
