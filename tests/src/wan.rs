//! A wide area network between the clusters of a test: in the router's namespace a TUN device that everything from one
//! cluster to another is routed through, and a thread that decides of each packet whether it arrives, and when.
//!
//! Owns the device and the thread; both end with it. What happens inside a cluster never comes here.

mod carry;
pub mod line;
pub mod packet;
mod tun;

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Block, namespaces::sh};
use carry::Carrier;
use line::{Line, Loss, Shape};
use tun::Tun;

/// The device's name.
const DEVICE: &str = "wan";
/// The routing table of what goes from one cluster to another.
const TABLE: u32 = 100;
/// Rules before the one that leads there: within a cluster, and what comes out of the device, go by the main table.
const BEFORE: u32 = 1_000;
/// The rule that leads there.
const LEADS: u32 = 2_000;

/// From one cluster to another, by their numbers.
pub type Direction = (usize, usize);

/// What became of the packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// They arrive, now or later.
    pub carried: u64,
    /// They met a cut.
    pub cut: u64,
    /// The dice took them.
    pub lost: u64,
    /// The queue was full.
    pub overflowed: u64,
}

/// What the thread and the handle share.
#[derive(Debug, Default)]
struct Directions(BTreeMap<Direction, (Line, Counts)>);

impl Directions {
    fn line(&mut self, direction: Direction) -> &mut (Line, Counts) {
        self.0.entry(direction).or_default()
    }
}

impl Counts {
    /// Books one packet.
    const fn book(&mut self, fate: &line::Fate) {
        let place = match fate {
            line::Fate::Arrives(_) => &mut self.carried,
            line::Fate::Lost(Loss::Cut) => &mut self.cut,
            line::Fate::Lost(Loss::Dice) => &mut self.lost,
            line::Fate::Lost(Loss::Queue) => &mut self.overflowed,
        };
        *place += 1;
    }
}

/// The network. See the module.
pub struct Wan {
    directions: Arc<Mutex<Directions>>,
    prefix: [u8; 2],
    carrier: Option<Carrier>,
}

impl fmt::Debug for Wan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wan")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Wan {
    /// Whether one can be opened here; or why not, and what to do.
    pub fn is_possible() -> Result<(), String> {
        tun::may_ask()
    }

    /// Opens one between the clusters of `block`, in the namespace of the calling thread. `seed` is for its dice.
    pub async fn open(block: &Block, seed: u64) -> io::Result<Self> {
        let prefix = block.prefix();
        let tun = Tun::open(DEVICE)?;
        let [a, b] = prefix;
        let all = format!("{a}.{b}.0.0/16");
        sh(&format!(
            "for c in all default {DEVICE}; do echo 0 > /proc/sys/net/ipv4/conf/$c/rp_filter; done && \
             ip link set {DEVICE} up && ip route add default dev {DEVICE} table {TABLE} && \
             ip rule add iif {DEVICE} lookup main priority {BEFORE} && \
             ip rule add iif lo lookup main priority {BEFORE} && \
             ip rule add from {all} to {all} lookup {TABLE} priority {LEADS}"
        ))
        .await;
        let directions = Arc::new(Mutex::new(Directions::default()));
        let carrier = Carrier::start(tun, Arc::clone(&directions), prefix, seed)?;
        Ok(Self {
            directions,
            prefix,
            carrier: Some(carrier),
        })
    }

    /// From now on packets inside of a cluster do not come here.
    pub(crate) async fn leave_alone(&self, cluster: usize) {
        let [a, b] = self.prefix;
        let own = format!("{a}.{b}.{cluster}.0/24");
        sh(&format!(
            "ip rule add from {own} to {own} lookup main priority {BEFORE}"
        ))
        .await;
    }

    /// Changes what one direction is like, for packets that come from now on.
    pub fn change(&self, direction: Direction, change: impl FnOnce(&mut Shape)) {
        let mut directions = self.lock();
        let (line, _) = directions.line(direction);
        let mut shape = line.shape();
        change(&mut shape);
        line.set(shape);
    }

    /// The same of both directions between two clusters.
    pub fn change_both(&self, a: usize, b: usize, change: impl Fn(&mut Shape)) {
        self.change((a, b), &change);
        self.change((b, a), &change);
    }

    /// What one direction is like.
    pub fn shape(&self, direction: Direction) -> Shape {
        self.lock().line(direction).0.shape()
    }

    /// What became of one direction's packets.
    pub fn counts(&self, direction: Direction) -> Counts {
        self.lock().line(direction).1
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Directions> {
        self.directions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        if let Some(carrier) = self.carrier.take() {
            carrier.stop();
        }
    }
}
