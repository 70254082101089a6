//! What controllers of several clusters tell the store and make of it: names that the target's gateways open and nobody
//! else, the same from every controller, through rotation, restarts and losses.

use tradewind_api::{
    Network, Region,
    seal::{FIRST_AHEAD_MS, LIFE_S, ROTATE_MS},
    store::{ClusterRecord, LEVEL, Outcome, Stamped, TokenRecord},
};
use tradewind_transport::seal::{KeyId, Opener, Seal, Unopened};

use super::*;

fn name(n: &str) -> ClusterName {
    ClusterName::new(n).unwrap()
}

fn payments() -> ServiceName {
    "shop/payments".parse().unwrap()
}

/// Controllers over one catalog, each with its own private keys.
struct World {
    catalog: Catalog,
    at_ms: u64,
    /// By cluster and node.
    controllers: Vec<(ClusterName, NodeId, Held, Deriver)>,
}

fn record(cluster: &str) -> ClusterRecord {
    ClusterRecord {
        name: name(cluster),
        region: Region::new("r").unwrap(),
        network: Network::new(cluster).unwrap(),
        gateways: vec![],
        state: ClusterState::Active,
        nodes: [1].into(),
        authorities: BTreeSet::new(),
        version: "1".into(),
        joined_at_ms: 0,
        lease_at_ms: 0,
        level: LEVEL,
        witness: false,
    }
}

impl World {
    fn new(joiners: &[&str]) -> Self {
        let mut world = Self {
            catalog: Catalog::default(),
            at_ms: 1_800_000_000_000,
            controllers: vec![],
        };
        let found = Command::Found {
            domain: Domain::default(),
            root: Blob(vec![1]),
            cluster: record("west"),
        };
        world.apply("west", found);
        world.add("west", 1);
        for joiner in joiners {
            let token = TokenRecord {
                id: (*joiner).into(),
                secret_sha256: Blob(vec![0; 32]),
                cluster: None,
                expires_at_ms: u64::MAX,
                used: None,
            };
            world.apply("west", Command::PutToken(token));
            let join = Command::Join {
                token_id: (*joiner).into(),
                cluster: record(joiner),
            };
            let Outcome::Joined { node_id, .. } = world.apply("west", join) else {
                panic!("{joiner} did not join")
            };
            world.add(joiner, node_id);
        }
        world.settle();
        world
    }

    fn add(&mut self, cluster: &str, node: NodeId) {
        let held = Held::new(SealKey::generate().unwrap());
        self.controllers
            .push((name(cluster), node, held, Deriver::default()));
    }

    fn apply(&mut self, proposer: &str, command: Command) -> Outcome {
        let stamped = Stamped {
            proposer: name(proposer),
            at_ms: self.at_ms,
            command,
            actor: None,
        };
        let outcome = self.catalog.apply(self.catalog.revision + 1, &stamped);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        outcome
    }

    /// Every controller tells what it has to tell, until nobody has.
    fn settle(&mut self) {
        for _ in 0..20 {
            let mut told = false;
            for i in 0..self.controllers.len() {
                let catalog = self.catalog.clone();
                let (cluster, node, held, _) = &mut self.controllers[i];
                let none = SealRecord::default();
                let record = catalog.seals_of(cluster).map_or(&none, |r| r);
                held.learn(&catalog.domain, cluster, record);
                let Some(wanted) = wanted(&catalog, cluster, *node, held, false) else {
                    continue;
                };
                let command = match wanted {
                    Wanted::NodeKey => Command::PutNodeKey {
                        node: *node,
                        public: Blob(held.node_key.public().to_vec()),
                    },
                    Wanted::Boxes { number } => {
                        put(&catalog, cluster, number, &held.keys[&number], false).unwrap()
                    }
                    Wanted::NextKey { number, alone } => {
                        let key = SealKey::generate().unwrap();
                        put(&catalog, cluster, number, &key, alone).unwrap()
                    }
                };
                let proposer = cluster.to_string();
                self.apply(&proposer, command);
                told = true;
            }
            if !told {
                return;
            }
        }
        panic!("they never settle");
    }

    fn pass(&mut self, ms: u64) {
        self.at_ms += ms;
        self.apply("west", Command::RenewLease);
        self.settle();
    }

    fn ring(&mut self, i: usize) -> Ring {
        let (cluster, _, held, deriver) = &mut self.controllers[i];
        deriver.ring(&self.catalog, self.at_ms, cluster, held)
    }

    fn now_s(&self) -> u64 {
        self.at_ms / 1000
    }

    /// What controller `i` calls `shop/payments:80` of a cluster.
    fn names(&mut self, i: usize, target: &str, before: &[SealedPort]) -> Vec<SealedPort> {
        let (now, target) = (self.now_s(), name(target));
        let exported = [(&target, 80)].into_iter();
        self.ring(i).seals(&payments(), exported, now, before)
    }

    /// Opens a name as the gateways of controller `i` do: by the id, whoever the caller is.
    fn open(&mut self, i: usize, label: &str) -> Vec<Result<(ClusterName, Content), Unopened>> {
        let (own, now) = (self.controllers[i].0.clone(), self.now_s());
        let seal = Seal::parse(label).unwrap();
        let domain = Domain::default();
        let ring = self.ring(i);
        let mut found = vec![];
        for (caller, keys) in ring.openings() {
            for key in keys.iter().filter(|k| KeyId(k.id) == seal.key_id()) {
                let pair = Pair {
                    domain: &domain,
                    caller,
                    target: &own,
                };
                let opener = Opener::new(&pair, KeyId(key.id), &key.secret).unwrap();
                found.push(opener.open(&seal, now).map(|c| (caller.clone(), c)));
            }
        }
        found
    }
}

#[test]
fn names_open_at_their_target_and_say_who_calls() {
    let mut world = World::new(&["east", "south"]);
    assert!(
        world.names(0, "east", &[]).is_empty(),
        "not everybody has heard of the keys"
    );
    world.pass(FIRST_AHEAD_MS);
    assert_eq!(world.ring(0).phase(), Phase::Sealed);
    let names = world.names(0, "east", &[]);
    assert_eq!((names.len(), names[0].port), (1, 80));
    let opened = world.open(1, &names[0].label);
    let (caller, content) = opened[0].as_ref().unwrap();
    assert_eq!((opened.len(), caller), (1, &name("west")));
    assert_eq!(
        (content.service, content.port),
        (ServiceId::of(&payments()), 80)
    );
    assert!(
        world.open(2, &names[0].label).is_empty(),
        "south has no such key"
    );
    assert!(world.open(0, &names[0].label).is_empty(), "nor has west");
    assert_eq!(world.names(0, "east", &names), names, "taken over");
    assert!(world.names(0, "north", &[]).is_empty(), "nobody's");
    // A cluster that left has neither names nor openings.
    world.apply("south", Command::Leave);
    world.controllers.pop();
    let ring = world.ring(1);
    assert_eq!(ring.targets().collect::<Vec<_>>(), [&name("west")]);
    assert_eq!(ring.openings().len(), 1);
}

#[test]
fn every_name_opens_for_its_whole_life_through_weeks_of_rotation() {
    const STEP_MS: u64 = 2 * 3600 * 1000;
    let mut world = World::new(&["east"]);
    world.pass(FIRST_AHEAD_MS);
    let mut names = world.names(0, "east", &[]);
    let mut alive: Vec<SealedPort> = vec![];
    let mut keys = BTreeSet::new();
    for step in 0..12 * 10 {
        names = world.names(0, "east", &names);
        keys.insert(names[0].key_id);
        if alive.last() != names.last() {
            alive.push(names[0].clone());
        }
        let now = world.now_s();
        alive.retain(|n| n.expires_unix_s > now);
        for name in alive.clone() {
            let opened = world.open(1, &name.label);
            assert!(
                matches!(opened.as_slice(), [Ok(_)]),
                "step {step}: {opened:?}"
            );
            assert!(name.expires_unix_s <= now + LIFE_S);
        }
        // East's clock of rotation runs half a day later than west's.
        world.pass(STEP_MS);
    }
    assert!(keys.len() > 8, "{} keys in ten days", keys.len());
    let left = world.open(1, &alive[0].label);
    assert!(left[0].is_ok() || alive[0].expires_unix_s <= world.now_s());
    world.pass(2 * LIFE_S * 1000);
    assert!(
        world.open(1, &names[0].label).iter().all(Result::is_err),
        "all ends"
    );
}

#[test]
fn controllers_of_a_cluster_share_their_keys_and_mint_the_same() {
    let mut world = World::new(&["east"]);
    let added = world.apply("west", Command::AddNode { replaces: None });
    let Outcome::Joined { node_id, .. } = added else {
        panic!("{added:?}")
    };
    world.add("west", node_id);
    world.settle();
    world.pass(FIRST_AHEAD_MS);
    let one = world.names(0, "east", &[]);
    assert_eq!(one.len(), 1);
    assert_eq!(world.names(2, "east", &[]), one);
    // A controller that starts again finds its keys in its boxes.
    let node_key = world.controllers[0].2.node_key.clone();
    world.controllers[0].2 = Held::new(node_key);
    world.settle();
    assert_eq!(world.names(0, "east", &[]), one);
    // The second one's node goes; its boxes go with the next key.
    world.apply("east", Command::RemoveNode { node: node_id });
    world.controllers.pop();
    world.pass(ROTATE_MS);
    let west = world.catalog.seals_of(&name("west")).unwrap();
    let boxes: BTreeSet<_> = west.keys.iter().flat_map(|k| k.boxes.keys()).collect();
    assert_eq!((west.keys.len(), boxes), (2, BTreeSet::from([&1])));
}

#[test]
fn a_controller_that_lost_its_key_starts_anew_at_once() {
    let mut world = World::new(&["east"]);
    world.pass(ROTATE_MS);
    let before = world.names(0, "east", &[]);
    world.controllers[1].2 = Held::new(SealKey::generate().unwrap());
    world.settle();
    assert!(
        world.open(1, &before[0].label).is_empty(),
        "nobody holds it any more"
    );
    world.pass(FIRST_AHEAD_MS);
    let after = world.names(0, "east", &before);
    assert!(matches!(world.open(1, &after[0].label).as_slice(), [Ok(_)]));
    // Of two, the one that lost it waits for the other's box.
    let added = world.apply("east", Command::AddNode { replaces: None });
    let Outcome::Joined { node_id, .. } = added else {
        panic!("{added:?}")
    };
    let newcomer = Held::new(SealKey::generate().unwrap());
    let node_key = Command::PutNodeKey {
        node: node_id,
        public: Blob(newcomer.node_key.public().to_vec()),
    };
    world.apply("east", node_key);
    let east = name("east");
    assert_eq!(
        wanted(&world.catalog, &east, node_id, &newcomer, false),
        None
    );
    let alone = wanted(&world.catalog, &east, node_id, &newcomer, true);
    assert!(matches!(alone, Some(Wanted::NextKey { alone: true, .. })));
}

#[test]
fn an_upgraded_federation_opens_first_then_sends_then_refuses() {
    let mut world = World::new(&["east"]);
    world.pass(FIRST_AHEAD_MS);
    let since = world.at_ms;
    world.catalog.level_since_ms = since;
    for (hours, phase, named) in [
        (0, Phase::Prepare, false),
        (23, Phase::Prepare, false),
        (24, Phase::Both, true),
        (47, Phase::Both, true),
        (48, Phase::Sealed, true),
    ] {
        world.pass(since + hours * 3600 * 1000 - world.at_ms);
        assert_eq!(world.ring(1).phase(), phase, "hour {hours}");
        assert_eq!(
            !world.names(0, "east", &[]).is_empty(),
            named,
            "hour {hours}"
        );
        assert!(
            !world.ring(1).openings().is_empty(),
            "gateways open all along"
        );
    }
    world.catalog.level = 2;
    let (own, held) = (name("west"), &world.controllers[0].2);
    assert_eq!(wanted(&world.catalog, &own, 1, held, true), None);
    assert_eq!(world.ring(0).phase(), Phase::Clear);
}
