//! What breaks, and when: drawn from the seed, one fault of the network at a time, beside crashes, slow disks, wrong clocks
//! and clusters that come and go. It only breaks things and mends them; whether that matters is the oracle's business.

use std::{collections::BTreeMap, time::Duration};

use tradewind_api::ClusterName;
use tradewind_runtime::Rng;
use turmoil::Sim;

use super::{
    trust::members,
    world::{Errand, Seat, Shared},
};
use crate::Catalog;

/// The longest pause between two faults.
const PAUSE_MS: u64 = 900;
/// The longest a fault of the network lasts; several elections fit.
const NETWORK_MS: u64 = 4_000;
/// The longest a crashed host stays down.
const DOWN_MS: u64 = 3_000;
/// How long a cluster's node stays up after the cluster left; the product's own grace is a second.
const LEAVE_MS: u64 = 1_500;
/// The usual latency of a message, at most.
const LATENCY_MS: u64 = 12;

/// A fault of the network that lasts.
#[derive(Clone, Debug)]
enum Net {
    Held(Vec<(ClusterName, ClusterName)>),
    Cut,
    Slow,
    Lossy,
}

/// Draws and undoes faults.
#[derive(Debug)]
pub(crate) struct Chaos {
    rng: Rng,
    next_ms: u64,
    net: Option<(u64, Net)>,
    down: BTreeMap<ClusterName, u64>,
    slow_disks: BTreeMap<ClusterName, u64>,
    /// When a node whose cluster left stops.
    leaving: BTreeMap<ClusterName, u64>,
}

impl Chaos {
    pub(crate) fn new(mut rng: Rng) -> Self {
        // First everybody gets to know each other, sometimes.
        let next_ms = 500 + rng.below(4_000);
        Self {
            rng,
            next_ms,
            net: None,
            down: BTreeMap::new(),
            slow_disks: BTreeMap::new(),
            leaving: BTreeMap::new(),
        }
    }

    /// Breaks something when it is time, and mends what is due.
    pub(crate) fn tick(&mut self, sim: &mut Sim<'_>, shared: &Shared, newest: Option<&Catalog>) {
        self.mend(sim, shared);
        let now = shared.lock().now_ms;
        if now < self.next_ms {
            return;
        }
        self.next_ms = now + 50 + self.rng.below(PAUSE_MS);
        match self.rng.below(100) {
            0..40 => self.break_network(sim, shared, now),
            40..72 => self.crash_some(sim, shared, now),
            72..80 => self.slow_disk(shared, now),
            80..88 => self.wrong_clock(shared),
            _ => self.come_or_go(shared, newest),
        }
    }

    /// Mends what is due.
    pub(crate) fn mend(&mut self, sim: &mut Sim<'_>, shared: &Shared) {
        let now = shared.lock().now_ms;
        if self.net.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.mend_network(sim, shared);
        }
        let due = |all: &BTreeMap<ClusterName, u64>| -> Vec<ClusterName> {
            let due = all.iter().filter(|(_, until)| **until <= now);
            due.map(|(cluster, _)| cluster.clone()).collect()
        };
        for cluster in due(&self.down) {
            self.restart(sim, shared, &cluster);
        }
        for cluster in due(&self.slow_disks) {
            self.slow_disks.remove(&cluster);
            disk(shared, &cluster, false);
        }
    }

    /// Ends every fault.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>, shared: &Shared) {
        self.mend_network(sim, shared);
        for cluster in self.down.clone().into_keys() {
            self.restart(sim, shared, &cluster);
        }
        for cluster in std::mem::take(&mut self.slow_disks).into_keys() {
            disk(shared, &cluster, false);
        }
        for place in shared.lock().places.values_mut() {
            place.errand = None;
        }
    }

    /// Seats nodes that the catalog admitted, and unseats those whose cluster left. Good at any time.
    pub(crate) fn seat(&mut self, shared: &Shared, newest: &Catalog, root: &std::path::Path) {
        let mut world = shared.lock();
        let (now, lying) = (world.now_ms, world.lying_disks);
        let clusters: Vec<ClusterName> = world.places.keys().cloned().collect();
        for cluster in clusters {
            let node = newest
                .member(&cluster)
                .and_then(|c| c.nodes.last().copied());
            let rng = world.rng(&format!("disk of node {node:?}"));
            let Some(place) = world.places.get_mut(&cluster) else {
                continue;
            };
            let sits = place.seat.as_ref().map(|seat| seat.node_id);
            if sits.is_some() && sits != node {
                let until = *self
                    .leaving
                    .entry(cluster.clone())
                    .or_insert(now + LEAVE_MS);
                if until <= now {
                    place.seat = None;
                    self.leaving.remove(&cluster);
                }
            } else if let Some(node_id) = node.filter(|_| sits.is_none() && place.store.is_none()) {
                place.seat = Some(seat(node_id, rng, (root, lying)));
                place.kept = members(newest);
            }
        }
    }

    /// Nobody is on the way out any more.
    pub(crate) fn seated(&self) -> bool {
        self.leaving.is_empty()
    }

    fn mend_network(&mut self, sim: &mut Sim<'_>, shared: &Shared) {
        let Some((_, net)) = self.net.take() else {
            return;
        };
        shared.note(format_args!("mended: {net:?}"));
        match net {
            Net::Held(pairs) => {
                for (a, b) in pairs {
                    sim.release(a.as_str(), b.as_str());
                }
            }
            Net::Cut => {}
            Net::Slow => {
                for (a, b) in pairs(shared) {
                    let usual = Duration::from_millis(LATENCY_MS);
                    sim.set_link_max_message_latency(a.as_str(), b.as_str(), usual);
                }
            }
            Net::Lossy => sim.set_fail_rate(0.0),
        }
        for (a, b) in pairs(shared) {
            sim.repair(a.as_str(), b.as_str());
        }
    }

    fn break_network(&mut self, sim: &mut Sim<'_>, shared: &Shared, now: u64) {
        if self.net.is_some() {
            return;
        }
        let until = now + 100 + self.rng.below(NETWORK_MS);
        shared.lock().refusals_hang = self.rng.below(2) == 0;
        let all: Vec<ClusterName> = shared.lock().places.keys().cloned().collect();
        let pairs = pairs(shared);
        let net = match self.rng.below(6) {
            0 => {
                // Two sides.
                let side: Vec<bool> = all.iter().map(|_| self.rng.below(2) == 0).collect();
                let side: BTreeMap<_, _> = all.iter().zip(side).collect();
                for (a, b) in pairs.iter().filter(|(a, b)| side.get(a) != side.get(b)) {
                    sim.partition(a.as_str(), b.as_str());
                }
                Net::Cut
            }
            1 => {
                // The leader alone, or whoever is drawn.
                let alone = leader(shared).or_else(|| self.pick(&all));
                for (a, b) in &pairs {
                    if Some(a) == alone.as_ref() || Some(b) == alone.as_ref() {
                        sim.partition(a.as_str(), b.as_str());
                    }
                }
                Net::Cut
            }
            2 => {
                // One speaks and is not heard, or hears and does not speak.
                let (deaf, whose) = (self.rng.below(2) == 0, self.pick(&all));
                for other in all.iter().filter(|o| Some(*o) != whose.as_ref()) {
                    let Some(one) = &whose else { continue };
                    let (from, to) = if deaf { (other, one) } else { (one, other) };
                    sim.partition_oneway(from.as_str(), to.as_str());
                }
                Net::Cut
            }
            3 => {
                let draws = pairs.iter().filter(|_| self.rng.below(3) == 0);
                let held: Vec<_> = draws.cloned().collect();
                for (a, b) in &held {
                    sim.hold(a.as_str(), b.as_str());
                }
                Net::Held(held)
            }
            4 => {
                for (a, b) in &pairs {
                    if self.rng.below(2) == 0 {
                        let most = Duration::from_millis(50 + self.rng.below(1_500));
                        sim.set_link_max_message_latency(a.as_str(), b.as_str(), most);
                    }
                }
                Net::Slow
            }
            _ => {
                sim.set_fail_rate(0.002 + self.rng.unit() / 20.0);
                Net::Lossy
            }
        };
        shared.note(format_args!("until {until}: {net:?}"));
        self.net = Some((until, net));
    }

    fn crash_some(&mut self, sim: &mut Sim<'_>, shared: &Shared, now: u64) {
        let up: Vec<ClusterName> = {
            let world = shared.lock();
            let up = world.places.iter().filter(|(_, p)| p.seat.is_some());
            up.map(|(cluster, _)| cluster.clone()).collect()
        };
        let up: Vec<_> = up
            .into_iter()
            .filter(|c| !self.down.contains_key(c))
            .collect();
        let victims = match self.rng.below(12) {
            0 => up,
            1..5 => leader(shared)
                .into_iter()
                .filter(|l| up.contains(l))
                .collect(),
            _ => self.pick(&up).into_iter().collect(),
        };
        for victim in victims {
            let until = now + 20 + self.rng.below(DOWN_MS);
            self.crash(sim, shared, victim, until);
        }
    }

    /// Ends everything on a host at once, until then.
    pub(crate) fn crash(
        &mut self,
        sim: &mut Sim<'_>,
        shared: &Shared,
        victim: ClusterName,
        until: u64,
    ) {
        let power = self.rng.below(2) == 0;
        let others = pairs(shared).into_iter();
        let others = others.filter(|(a, b)| *a == victim || *b == victim);
        let others: Vec<_> = others.filter(|_| power && self.net.is_none()).collect();
        for (a, b) in &others {
            // Without power nobody says goodbye.
            sim.partition(a.as_str(), b.as_str());
        }
        let kept = shared.place(&victim, |place| {
            place.store = None;
            place.seat.as_ref().map(|seat| seat.medium.crash())
        });
        sim.crash(victim.as_str());
        for (a, b) in &others {
            sim.repair(a.as_str(), b.as_str());
        }
        shared.note(format_args!(
            "{victim} crashes until {until}, power lost: {power}, writes under way and kept: {kept:?}"
        ));
        self.down.insert(victim, until);
    }

    fn restart(&mut self, sim: &mut Sim<'_>, shared: &Shared, cluster: &ClusterName) {
        self.down.remove(cluster);
        shared.note(format_args!("{cluster} restarts"));
        sim.bounce(cluster.as_str());
    }

    fn slow_disk(&mut self, shared: &Shared, now: u64) {
        let all: Vec<ClusterName> = shared.lock().places.keys().cloned().collect();
        if let Some(cluster) = self.pick(&all) {
            shared.note(format_args!("the disk of {cluster} is slow"));
            disk(shared, &cluster, true);
            let until = now + self.rng.below(NETWORK_MS);
            self.slow_disks.insert(cluster, until);
        }
    }

    fn wrong_clock(&mut self, shared: &Shared) {
        let all: Vec<ClusterName> = shared.lock().places.keys().cloned().collect();
        let Some(cluster) = self.pick(&all) else {
            return;
        };
        let minutes = i64::try_from(self.rng.below(41)).unwrap_or(0) - 20;
        let per_mille = 900 + i64::try_from(self.rng.below(200)).unwrap_or(100);
        shared.note(format_args!(
            "the clock of {cluster} is {minutes} min off and runs at {per_mille} per mille"
        ));
        shared.place(&cluster, |place| {
            place.clock.skew(minutes * 60_000, per_mille);
        });
    }

    fn come_or_go(&mut self, shared: &Shared, newest: Option<&Catalog>) {
        let Some(catalog) = newest.filter(|c| c.is_founded()) else {
            return;
        };
        let all: Vec<ClusterName> = shared.lock().places.keys().cloned().collect();
        let (inside, outside): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|c| catalog.member(c).is_some());
        let joiner = self.pick(&outside);
        let errand = match joiner {
            Some(joiner) if self.rng.below(4) > 0 => Errand::Admit(joiner),
            _ => Errand::Leave,
        };
        let founder = catalog.founder.as_ref();
        let may = |c: &&ClusterName| errand != Errand::Leave || Some(*c) != founder;
        let inside: Vec<_> = inside.iter().filter(may).cloned().collect();
        if let Some(cluster) = self.pick(&inside) {
            shared.note(format_args!("{cluster} is asked to: {errand:?}"));
            shared.place(&cluster, |place| place.errand = Some(errand));
        }
    }

    fn pick(&mut self, from: &[ClusterName]) -> Option<ClusterName> {
        let at = self.rng.index(from.len())?;
        from.get(at).cloned()
    }
}

/// A seat with an empty disk below `root`, which may lie.
pub(crate) fn seat(node_id: u64, rng: Rng, (root, lying): (&std::path::Path, bool)) -> Seat {
    let dir = root.join(format!("node-{node_id}"));
    let medium = super::medium::SimMedium::new(dir.clone(), rng);
    if lying {
        medium.lie();
    }
    Seat {
        node_id,
        medium,
        dir,
    }
}

fn disk(shared: &Shared, cluster: &ClusterName, slow: bool) {
    shared.place(cluster, |place| {
        if let Some(seat) = &place.seat {
            seat.medium.set_slow(slow);
        }
    });
}

/// Who leads in the latest term, in its own eyes.
pub(crate) fn leader(shared: &Shared) -> Option<ClusterName> {
    let world = shared.lock();
    let led = world.places.iter().filter_map(|(cluster, place)| {
        let metrics = place.store.as_ref()?.raft_metrics();
        let metrics = metrics.borrow();
        let leads = metrics.state == openraft::ServerState::Leader;
        leads.then(|| (metrics.current_term, metrics.id, cluster.clone()))
    });
    led.max().map(|(_, _, cluster)| cluster)
}

fn pairs(shared: &Shared) -> Vec<(ClusterName, ClusterName)> {
    let all: Vec<ClusterName> = shared.lock().places.keys().cloned().collect();
    let with_later = |(at, a): (usize, &ClusterName)| {
        let later = all.iter().skip(at + 1);
        let a = a.clone();
        later
            .map(move |b| (a.clone(), b.clone()))
            .collect::<Vec<_>>()
    };
    all.iter().enumerate().flat_map(with_later).collect()
}
