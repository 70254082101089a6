//! What tables must do: shares by weight, few keys moved, and the same answers everywhere.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const KINDS: [HashTable; 2] = [HashTable::RING, HashTable::MAGLEV];
const KEYS: u64 = 20_000;

fn members(weights: &[f64]) -> Vec<(u64, f64)> {
    let id = |i: usize| key(format!("endpoint-{i}").as_bytes());
    weights
        .iter()
        .enumerate()
        .map(|(i, w)| (id(i), *w))
        .collect()
}

fn keys() -> impl Iterator<Item = u64> {
    (0..KEYS).map(|i| key(format!("session-{i}").as_bytes()))
}

/// The hash of the member that each key leads to.
fn owners(members: &[(u64, f64)], kind: HashTable) -> Vec<u64> {
    let table = Table::new(members, kind);
    keys()
        .map(|k| members[table.members(k).next().unwrap()].0)
        .collect()
}

fn shares(members: &[(u64, f64)], kind: HashTable) -> Vec<f64> {
    let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
    for owner in owners(members, kind) {
        *counts.entry(owner).or_default() += 1;
    }
    members
        .iter()
        .map(|(h, _)| f64::from(counts.get(h).copied().unwrap_or(0)) / KEYS as f64)
        .collect()
}

#[test]
fn every_member_gets_keys_by_its_weight() {
    let weights = [100.0, 100.0, 200.0, 400.0, 50.0];
    let sum: f64 = weights.iter().sum();
    // Points of a ring fall by chance; places of Maglev's table do not.
    for (kind, within) in [(HashTable::RING, 0.15), (HashTable::MAGLEV, 0.04)] {
        for (got, weight) in shares(&members(&weights), kind).iter().zip(weights) {
            let want = weight / sum;
            assert!(
                (got / want - 1.0).abs() < within,
                "{kind:?}: {got} for {want}"
            );
        }
    }
}

#[test]
fn a_member_that_comes_takes_only_what_becomes_its_own() {
    let more = members(&[100.0; 11]);
    let less = &more[..10];
    let newcomer = more[10].0;
    for (kind, others) in [
        (HashTable::RING, 0),
        (HashTable::MAGLEV, KEYS as usize / 25),
    ] {
        let (before, after) = (owners(less, kind), owners(&more, kind));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).collect();
        let astray = moved.iter().filter(|(_, a)| **a != newcomer).count();
        assert!(
            astray <= others,
            "{kind:?}: {astray} keys moved among others"
        );
        let taken = after.iter().filter(|a| **a == newcomer).count() as f64 / KEYS as f64;
        assert!((0.07..0.12).contains(&taken), "{kind:?}: {taken}");
    }
}

#[test]
fn a_ring_whose_scale_follows_the_weights_moves_few_others() {
    // Too light for points of their own.
    let more = members(&[1.0; 41]);
    let (before, after) = (
        owners(&more[..40], HashTable::RING),
        owners(&more, HashTable::RING),
    );
    let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count() as f64;
    assert!(moved / (KEYS as f64) < 3.0 / 40.0, "{moved}");
}

#[test]
fn the_order_of_the_members_does_not_matter() {
    let sorted = members(&[100.0, 300.0, 1.0, 65_535.0, 100.0]);
    let mut turned = sorted.clone();
    turned.reverse();
    turned.swap(0, 2);
    for kind in KINDS {
        assert_eq!(owners(&sorted, kind), owners(&turned, kind), "{kind:?}");
    }
}

/// Two proxies of different builds must agree: if this test has to be changed, sessions move when a mesh is upgraded.
#[test]
fn tables_are_the_same_in_every_build() {
    let id = key(b"endpoint-0");
    let members = members(&[100.0, 200.0, 300.0]);
    let digest = |kind| {
        let table = Table::new(&members, kind);
        let all: Vec<u8> = keys()
            .take(1000)
            .flat_map(|k| table.members(k).map(|m| m as u8).collect::<Vec<_>>())
            .collect();
        (table.places(), key(&all))
    };
    assert_eq!(
        (id, unit(id).to_bits()),
        (15_407_635_644_000_248_043, 4_606_992_943_780_010_393)
    );
    assert_eq!(digest(HashTable::RING), (6144, 13_690_213_798_089_670_986));
    assert_eq!(
        digest(HashTable::MAGLEV),
        (65_537, 16_045_862_844_137_218_254)
    );
}

#[test]
fn the_next_one_is_another_one_for_other_keys() {
    // The keys of one that is gone spread over all that are left.
    let members = members(&[100.0; 5]);
    for kind in KINDS {
        let table = Table::new(&members, kind);
        let mut second = [0u32; 5];
        for k in keys() {
            let order: Vec<_> = table.members(k).take(2).collect();
            if order[0] == 0 {
                second[order[1]] += 1;
            }
        }
        let all: u32 = second.iter().sum();
        for count in &second[1..] {
            let share = f64::from(*count) / f64::from(all);
            assert!((0.15..0.36).contains(&share), "{kind:?}: {second:?}");
        }
    }
}

#[test]
fn a_tiers_keys_spread_over_all_its_members() {
    let members = members(&[100.0; 4]);
    let n = 400_000u64;
    // So few that as long a piece of a ring would have a handful of points.
    let tier: Vec<_> = (0..n)
        .map(|i| key(&i.to_le_bytes()))
        .filter(|k| unit(*k) < 0.005)
        .collect();
    let part = tier.len() as f64 / n as f64;
    assert!((part - 0.005).abs() < 0.0005, "{part}");
    for kind in KINDS {
        let table = Table::new(&members, kind);
        let mut counts = [0u32; 4];
        for k in &tier {
            counts[table.members(*k).next().unwrap()] += 1;
        }
        for count in counts {
            let share = f64::from(count) / tier.len() as f64;
            assert!((0.2..0.3).contains(&share), "{kind:?}: {counts:?}");
        }
    }
}

#[test]
fn a_ring_has_no_end() {
    let table = Table::new(&members(&[100.0; 8]), HashTable::RING);
    let order = |k| table.members(k).collect::<Vec<_>>();
    assert_eq!(order(u64::MAX), order(0));
}

#[test]
fn empty_and_single_tables_answer() {
    for kind in [
        HashTable::RING,
        HashTable::MAGLEV,
        HashTable::Ring(0),
        HashTable::Maglev(0),
    ] {
        let none = Table::new(&[], kind);
        assert!(none.is_empty());
        assert_eq!(none.members(7).next(), None);
        let one = Table::new(&members(&[0.0]), kind);
        assert_eq!(
            (one.len(), one.members(7).collect::<Vec<_>>()),
            (1, vec![0])
        );
    }
    assert_eq!(Table::default().members(7).next(), None);
}

#[test]
fn one_without_weight_comes_last() {
    let some = members(&[0.0, 100.0, 0.0, 100.0]);
    for kind in KINDS {
        let table = Table::new(&some, kind);
        for k in keys().take(200) {
            let order: Vec<_> = table.members(k).collect();
            assert!(order[..2].iter().all(|m| [1, 3].contains(m)), "{order:?}");
        }
    }
    // Nobody has any: all alike.
    let shares = shares(&members(&[0.0; 4]), HashTable::MAGLEV);
    assert!(shares.iter().all(|s| (s - 0.25).abs() < 0.02), "{shares:?}");
}

#[test]
fn a_ring_has_at_least_its_points_and_no_more_than_are_allowed() {
    for (weights, min) in [
        (vec![1.0], 1024),
        (vec![1.0; 3], 1024),
        (vec![100.0; 3], 5000),
        (vec![65_535.0, 1.0], 1024),
        (vec![100.0; 2000], 1024),
        (vec![1.0, 2.0, 3.0], 300_000),
    ] {
        let table = Table::new(&members(&weights), HashTable::Ring(min));
        assert!(
            table.places() >= min as usize,
            "{} of {min}",
            table.places()
        );
        assert!(table.places() <= HashTable::MAX as usize);
        assert!(table.places() >= weights.len());
    }
    let roomy = Table::new(&members(&[100.0; 2000]), HashTable::RING);
    assert!(roomy.places() < 70_000, "{}", roomy.places());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_member_is_named_once(
        weights in proptest::collection::vec(prop_oneof![Just(0.0), 0.001f64..1e6, Just(f64::NAN)], 0..60),
        ring in any::<bool>(),
        size in 0u32..3000,
        k in any::<u64>(),
    ) {
        let kind = if ring { HashTable::Ring(size) } else { HashTable::Maglev(size) };
        let table = Table::new(&members(&weights), kind);
        let mut all: Vec<_> = table.members(k).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..weights.len()).collect::<Vec<_>>());
    }

    #[test]
    fn a_unit_is_one(k in any::<u64>()) {
        prop_assert!((0.0..1.0).contains(&unit(k)));
    }
}
