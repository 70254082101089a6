//! Keys for sealed names: who may put them, how many stand, when they go, and since when the federation knows them.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{
    NodeId, seal,
    store::{Blob, Command, LEVEL, Refusal, SealRecord},
};

use super::{Log, name, record};
use crate::Catalog;

fn node_key(node: NodeId) -> Command {
    Command::PutNodeKey {
        node,
        public: Blob(vec![1; 32]),
    }
}

fn seal_key(number: u64) -> Command {
    Command::PutSealKey {
        number,
        public: Blob(vec![number.to_le_bytes()[0]; 32]),
        boxes: [(2, Blob(vec![3; 80]))].into(),
        alone: false,
    }
}

fn numbers(record: &SealRecord) -> Vec<u64> {
    record.keys.iter().map(|k| k.number).collect()
}

#[test]
fn a_cluster_puts_keys_for_its_own_nodes_alone() {
    let mut log = Log::with(&["east"]);
    assert!(log.done("east", node_key(2)));
    assert!(!log.done("east", node_key(2)), "it stands already");
    assert_eq!(log.refused("east", node_key(1)), Refusal::UnknownNode(1));
    assert_eq!(log.refused("west", seal_key(1)), Refusal::UnknownNode(2));
    assert_eq!(
        log.refused("south", node_key(2)),
        Refusal::NotMember(name("south"))
    );
    assert!(log.done("east", seal_key(1)));
    assert!(!log.done("east", seal_key(1)));
    // The wrong length, the wrong number, another key under a number that is taken.
    let bad = |number, public: usize, boxed: usize| Command::PutSealKey {
        number,
        public: Blob(vec![9; public]),
        boxes: [(2, Blob(vec![3; boxed]))].into(),
        alone: false,
    };
    for command in [
        bad(2, 31, 80),
        bad(2, 32, 81),
        bad(3, 32, 80),
        bad(1, 32, 80),
        bad(0, 32, 80),
    ] {
        let refused = log.refused("east", command);
        assert!(matches!(refused, Refusal::Invalid { .. }), "{refused}");
    }
    let east = log.catalog.seals_of(&name("east")).unwrap();
    assert_eq!((numbers(east), east.node_keys.len()), (vec![1], 1));
    log.done("east", Command::Leave);
    assert!(log.catalog.seals.is_empty(), "what left has no keys");
}

#[test]
fn keys_go_when_their_names_have_ended_and_are_never_more_than_three() {
    let mut log = Log::with(&["east"]);
    let rotations = [
        vec![1],
        vec![1, 2],
        vec![1, 2, 3],
        vec![2, 3, 4],
        vec![3, 4, 5],
    ];
    for (number, expected) in (1..).zip(rotations) {
        log.done("east", seal_key(number));
        assert_eq!(
            numbers(log.catalog.seals_of(&name("east")).unwrap()),
            expected
        );
        log.at_ms += seal::ROTATE_MS;
    }
    // In a hurry the oldest goes early; and where nothing opens any more, all go.
    log.done("east", seal_key(6));
    log.done("east", seal_key(7));
    log.done("east", seal_key(8));
    assert_eq!(
        numbers(log.catalog.seals_of(&name("east")).unwrap()),
        [6, 7, 8]
    );
    let Command::PutSealKey { public, boxes, .. } = seal_key(9) else {
        panic!("it is one")
    };
    let lost = Command::PutSealKey {
        number: 9,
        public,
        boxes,
        alone: true,
    };
    log.done("east", lost);
    let east = log.catalog.seals_of(&name("east")).unwrap();
    assert_eq!(numbers(east), [9]);
    assert_eq!(
        east.keys[0].published_at_ms, log.at_ms,
        "stamped by the leader"
    );
}

#[test]
fn boxes_are_added_and_go_with_their_nodes() {
    let mut log = Log::with(&["east"]);
    log.done("east", node_key(2));
    log.done("east", seal_key(1));
    let node = Command::AddNode { replaces: None };
    log.put("east", node);
    assert!(log.done("east", node_key(3)));
    let Command::PutSealKey { public, .. } = seal_key(1) else {
        panic!("it is one")
    };
    let more = Command::PutSealKey {
        number: 1,
        public,
        boxes: [(3, Blob(vec![5; 80]))].into(),
        alone: false,
    };
    assert!(log.done("east", more.clone()));
    let nodes = |catalog: &Catalog| -> Vec<NodeId> {
        let east = catalog.seals_of(&name("east")).unwrap();
        east.keys[0].boxes.keys().copied().collect()
    };
    assert_eq!(nodes(&log.catalog), [2, 3]);
    log.done("west", Command::RemoveNode { node: 2 });
    assert!(log.done("east", more));
    assert_eq!(nodes(&log.catalog), [3]);
    assert_eq!(
        log.catalog.seals_of(&name("east")).unwrap().node_keys.len(),
        1
    );
}

#[test]
fn a_federation_remembers_since_when_it_knows_sealed_names() {
    let log = Log::with(&["east"]);
    assert_eq!((log.catalog.level, log.catalog.level_since_ms), (LEVEL, 0));
    // One that stood lower, as a version before wrote it.
    let mut old = log.catalog;
    old.level = 2;
    for member in Arc::make_mut(&mut old.clusters).values_mut() {
        member.level = 2;
    }
    let mut log = Log {
        catalog: old,
        at_ms: 5_000,
    };
    let needs = Refusal::NotYet { needs: 3, has: 2 };
    assert_eq!(log.refused("east", node_key(2)), needs);
    for cluster in ["west", "east"] {
        assert_eq!(log.catalog.level, 2);
        let announce = Command::Announce {
            gateways: record(cluster).gateways,
            version: "2".to_owned(),
            level: LEVEL,
        };
        log.at_ms += 1_000;
        log.done(cluster, announce);
    }
    assert_eq!(
        (log.catalog.level, log.catalog.level_since_ms),
        (LEVEL, 7_000)
    );
    log.done("east", node_key(2));
    // What a version before wrote reads as nothing published.
    let mut written = serde_json::to_value(&log.catalog).unwrap();
    let fields = written.as_object_mut().unwrap();
    fields.remove("seals");
    fields.remove("level_since_ms");
    let read: Catalog = serde_json::from_value(written).unwrap();
    assert_eq!(
        (read.level_since_ms, *read.seals == BTreeMap::new()),
        (0, true)
    );
}
