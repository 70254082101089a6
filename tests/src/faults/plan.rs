//! Which fault comes next: a function of the dice alone, so that a seed gives the same faults again. Who leads is found out
//! when it is needed. Owns nothing.

use std::{collections::BTreeSet, fmt, time::Duration};

/// What is done to the federation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL to a controller.
    KillController,
    /// SIGKILL to the store's leader.
    KillLeader,
    /// SIGKILL to a gateway.
    KillGateway,
    /// SIGKILL to both of a cluster.
    KillCluster,
    /// SIGKILL to so many controllers that no majority is left.
    KillMajority,
    /// A cluster hears and reaches nobody.
    Isolate,
    /// The same for the leader's.
    IsolateLeader,
    /// A cluster reaches the others and hears nothing.
    Deaf,
    /// The leader's cluster hears the others and reaches nobody.
    MuteLeader,
    /// Two clusters do not reach each other; the others reach both.
    CutPair,
    /// One cluster does not reach another; every other way is open.
    CutOneWay,
    /// No majority: two sides and, of five, one alone.
    Split,
    /// A controller stands still.
    PauseController,
    /// The store's leader stands still.
    PauseLeader,
    /// A gateway stands still.
    PauseGateway,
    /// Two of the others at once, on two clusters.
    Two,
}

/// All of them.
const ALL: [Kind; 16] = [
    Kind::KillController,
    Kind::KillLeader,
    Kind::KillGateway,
    Kind::KillCluster,
    Kind::KillMajority,
    Kind::Isolate,
    Kind::IsolateLeader,
    Kind::Deaf,
    Kind::MuteLeader,
    Kind::CutPair,
    Kind::CutOneWay,
    Kind::Split,
    Kind::PauseController,
    Kind::PauseLeader,
    Kind::PauseGateway,
    Kind::Two,
];

/// Shortest and longest that a fault lasts: from below one election to several.
const LASTS_MS: std::ops::Range<u64> = 700..4_000;
/// The same where the time is short.
const LASTS_BRIEFLY_MS: std::ops::Range<u64> = 700..1_300;
/// One in so many lasts longer than every deadline of the store.
const LONG_EVERY: u8 = 12;
/// How long that is.
const LONG: Duration = Duration::from_secs(9);

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// For how long.
    pub lasts: Duration,
    /// The clusters in the order in which they are drawn.
    order: Vec<usize>,
    /// For a fault of two: of which kinds.
    pair: (u8, u8),
}

/// What is done, in pieces that can be undone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Controllers to kill.
    pub kill_controllers: BTreeSet<usize>,
    /// Gateways to kill.
    pub kill_gateways: BTreeSet<usize>,
    /// Controllers to stop.
    pub pause_controllers: BTreeSet<usize>,
    /// Gateways to stop.
    pub pause_gateways: BTreeSet<usize>,
    /// Directions to cut.
    pub cuts: BTreeSet<(usize, usize)>,
}

impl Deeds {
    /// Clusters that feel it by themselves, not only through others.
    pub fn touched(&self, clusters: usize) -> BTreeSet<usize> {
        let mut touched = BTreeSet::new();
        for set in [
            &self.kill_controllers,
            &self.kill_gateways,
            &self.pause_controllers,
            &self.pause_gateways,
        ] {
            touched.extend(set);
        }
        let ends = self.cuts.iter().flat_map(|(from, to)| [*from, *to]);
        let ends: Vec<_> = ends.collect();
        for cluster in 0..clusters {
            let cut = ends.iter().filter(|c| **c == cluster).count();
            // The others of an isolated cluster lose one neighbour alone.
            if cut * 2 > clusters - 1 || (cut > 0 && self.cuts.len() <= 2) {
                touched.insert(cluster);
            }
        }
        touched
    }
}

impl Fault {
    /// Draws the next one. In the first round every kind comes once, in a drawn order.
    pub fn draw(
        rng: &mut fastrand::Rng,
        number: usize,
        deck: &mut Vec<Kind>,
        clusters: usize,
        brief: bool,
    ) -> Self {
        if deck.is_empty() {
            *deck = ALL.to_vec();
            rng.shuffle(deck);
        }
        let kind = deck.pop().unwrap_or(Kind::KillController);
        let mut order: Vec<usize> = (0..clusters).collect();
        rng.shuffle(&mut order);
        let range = if brief { LASTS_BRIEFLY_MS } else { LASTS_MS };
        let drawn = Duration::from_millis(rng.u64(range));
        let long = rng.u8(0..LONG_EVERY) == 0 && !brief && number > 0;
        Self {
            kind,
            lasts: if long { LONG } else { drawn },
            order,
            pair: (rng.u8(0..5), rng.u8(0..5)),
        }
    }

    /// What to do, where `leader` leads the store.
    pub fn deeds(&self, leader: usize) -> Deeds {
        let mut deeds = Deeds::default();
        let (one, other) = (self.order[0], self.order[1]);
        match self.kind {
            Kind::KillController => drop(deeds.kill_controllers.insert(one)),
            Kind::KillLeader => drop(deeds.kill_controllers.insert(leader)),
            Kind::KillGateway => drop(deeds.kill_gateways.insert(one)),
            Kind::KillCluster => {
                deeds.kill_controllers.insert(one);
                deeds.kill_gateways.insert(one);
            }
            Kind::KillMajority => {
                let many = self.order.len() / 2 + 1;
                deeds.kill_controllers.extend(self.order.iter().take(many));
            }
            Kind::Isolate => self.cut(&mut deeds, one, true, true),
            Kind::IsolateLeader => self.cut(&mut deeds, leader, true, true),
            Kind::Deaf => self.cut(&mut deeds, one, false, true),
            Kind::MuteLeader => self.cut(&mut deeds, leader, true, false),
            Kind::CutPair => deeds.cuts.extend([(one, other), (other, one)]),
            Kind::CutOneWay => drop(deeds.cuts.insert((one, other))),
            Kind::Split => self.split(&mut deeds),
            Kind::PauseController => drop(deeds.pause_controllers.insert(one)),
            Kind::PauseLeader => drop(deeds.pause_controllers.insert(leader)),
            Kind::PauseGateway => drop(deeds.pause_gateways.insert(one)),
            Kind::Two => {
                self.piece(&mut deeds, one, self.pair.0);
                self.piece(&mut deeds, other, self.pair.1);
            }
        }
        deeds
    }

    fn piece(&self, deeds: &mut Deeds, cluster: usize, which: u8) {
        match which {
            0 => drop(deeds.kill_controllers.insert(cluster)),
            1 => {
                deeds.kill_controllers.insert(cluster);
                deeds.kill_gateways.insert(cluster);
            }
            2 => drop(deeds.pause_controllers.insert(cluster)),
            3 => drop(deeds.kill_gateways.insert(cluster)),
            _ => self.cut(deeds, cluster, true, true),
        }
    }

    fn cut(&self, deeds: &mut Deeds, cluster: usize, out: bool, into: bool) {
        for other in self.order.iter().filter(|c| **c != cluster) {
            if out {
                deeds.cuts.insert((cluster, *other));
            }
            if into {
                deeds.cuts.insert((*other, cluster));
            }
        }
    }

    /// Into sides of two clusters at most: of three and five, none has a majority of five, and of three one has.
    fn split(&self, deeds: &mut Deeds) {
        let side = |place: usize| place / 2;
        for (i, from) in self.order.iter().enumerate() {
            for (j, to) in self.order.iter().enumerate() {
                if side(i) != side(j) {
                    deeds.cuts.insert((*from, *to));
                }
            }
        }
    }
}

impl fmt::Display for Deeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sets = [
            ("killed controllers", &self.kill_controllers),
            ("killed gateways", &self.kill_gateways),
            ("paused controllers", &self.pause_controllers),
            ("paused gateways", &self.pause_gateways),
        ];
        for (what, set) in sets.iter().filter(|(_, set)| !set.is_empty()) {
            write!(f, "{what} {set:?} ")?;
        }
        if !self.cuts.is_empty() {
            write!(f, "cuts {:?}", self.cuts)?;
        }
        Ok(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KillController => "kill a controller",
            Self::KillLeader => "kill the leader",
            Self::KillGateway => "kill a gateway",
            Self::KillCluster => "kill a cluster",
            Self::KillMajority => "kill a majority",
            Self::Isolate => "isolate a cluster",
            Self::IsolateLeader => "isolate the leader",
            Self::Deaf => "a cluster hears nothing",
            Self::MuteLeader => "the leader is not heard",
            Self::CutPair => "cut between two",
            Self::CutOneWay => "cut one way",
            Self::Split => "split into sides of two",
            Self::PauseController => "pause a controller",
            Self::PauseLeader => "pause the leader",
            Self::PauseGateway => "pause a gateway",
            Self::Two => "two at once",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, clusters: usize) -> Vec<String> {
        let (mut rng, mut deck) = (fastrand::Rng::with_seed(seed), Vec::new());
        let faults = (0..32).map(|n| Fault::draw(&mut rng, n, &mut deck, clusters, false));
        faults.map(|f| format!("{f:?} {:?}", f.deeds(1))).collect()
    }

    #[test]
    fn a_seed_gives_the_same_faults_and_a_round_has_all_kinds() {
        assert_eq!(draw(7, 5), draw(7, 5));
        assert_ne!(draw(7, 5), draw(8, 5));
        let (mut rng, mut deck) = (fastrand::Rng::with_seed(1), Vec::new());
        let kinds: BTreeSet<_> = (0..ALL.len())
            .map(|n| Fault::draw(&mut rng, n, &mut deck, 3, true).kind)
            .collect();
        assert_eq!(kinds.len(), ALL.len());
    }

    #[test]
    fn a_split_of_five_leaves_no_majority_and_an_isolated_one_is_alone_in_feeling_it() {
        let fault = |kind| Fault {
            kind,
            lasts: LONG,
            order: vec![0, 1, 2, 3, 4],
            pair: (0, 0),
        };
        let split = fault(Kind::Split).deeds(0);
        assert_eq!(split.cuts.len(), 2 * (2 * 2 + 2 + 2));
        assert_eq!(split.touched(5).len(), 5);
        let isolated = fault(Kind::Isolate).deeds(0);
        assert_eq!(isolated.touched(5), BTreeSet::from([0]));
        let pair = fault(Kind::CutPair).deeds(0);
        assert_eq!(pair.touched(5), BTreeSet::from([0, 1]));
    }
}
