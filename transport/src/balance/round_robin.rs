//! Picking in turn: each member as often as its weight says, and never twice in a row without need.
//!
//! The smooth weighted kind: every pick gives all members credit by their weight and takes all of that from the one that has most. The
//! state is the credits, by the endpoints' hashes, so that they outlive a list of members, and the lists of several tiers can share it.

use std::collections::BTreeSet;

/// Members whose credits are kept while picks go to others: those of other tiers, and those that a second attempt leaves out.
const ABSENT_KEPT: usize = 1024;

/// Whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    /// Decides between equal credits.
    start: u64,
    /// Sorted by hash.
    credits: Vec<(u64, f64)>,
}

impl RoundRobin {
    /// Nobody had a turn. Of those that are alike, `start` says who begins: were it the same one for all callers, they would all
    /// call him at once.
    pub const fn new(start: u64) -> Self {
        Self {
            start,
            credits: Vec::new(),
        }
    }

    /// How many members it remembers.
    pub const fn len(&self) -> usize {
        self.credits.len()
    }

    /// True while it remembers nobody.
    pub const fn is_empty(&self) -> bool {
        self.credits.is_empty()
    }

    fn credit(&self, hash: u64) -> Option<f64> {
        let at = self.credits.binary_search_by_key(&hash, |c| c.0).ok()?;
        self.credits.get(at).map(|c| c.1)
    }

    fn set(&mut self, hash: u64, credit: f64) {
        match self.credits.binary_search_by_key(&hash, |c| c.0) {
            Ok(at) => {
                if let Some(c) = self.credits.get_mut(at) {
                    c.1 = credit;
                }
            }
            Err(at) => self.credits.insert(at, (hash, credit)),
        }
    }

    /// Lets in those that it does not remember, in the middle of the others: neither owed a turn nor owing one.
    fn admit(&mut self, members: &[(u64, f64)]) {
        let known: Vec<_> = members.iter().filter_map(|m| self.credit(m.0)).collect();
        if known.len() == members.len() {
            return;
        }
        let middle = known.iter().sum::<f64>() / known.len().max(1) as f64;
        for (hash, _) in members {
            if self.credit(*hash).is_none() {
                self.set(*hash, middle);
            }
        }
        if self.credits.len() > members.len() + ABSENT_KEPT {
            let present: BTreeSet<_> = members.iter().map(|m| m.0).collect();
            self.credits.retain(|(hash, _)| present.contains(hash));
        }
    }
}

/// Picks the index of the member whose turn it is, by hashes of the endpoints (see `hash::key`) and weights. One without a weight has no
/// turn while anybody has one. `None` only when there are no members.
pub fn round_robin(members: &[(u64, f64)], state: &mut RoundRobin) -> Option<usize> {
    state.admit(members);
    let nobody_weighs = !members.iter().any(|(_, w)| *w > 0.0);
    let weight = |w: f64| if nobody_weighs { 1.0 } else { w.max(0.0) };
    let mut total = 0.0;
    let mut best: Option<(usize, u64, f64)> = None;
    for (i, (hash, w)) in members.iter().enumerate() {
        let w = weight(*w);
        if w <= 0.0 {
            continue;
        }
        total += w;
        let credit = state.credit(*hash).unwrap_or(0.0) + w;
        state.set(*hash, credit);
        let order = hash ^ state.start;
        if best.is_none_or(|(_, o, c)| credit > c || (credit >= c && order < o)) {
            best = Some((i, order, credit));
        }
    }
    let (picked, order, credit) = best?;
    state.set(order ^ state.start, credit - total);
    Some(picked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(members: &[(u64, f64)], state: &mut RoundRobin, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; members.len()];
        for _ in 0..picks {
            counts[round_robin(members, state).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn shares_are_exact_over_one_round_and_turns_are_spread() {
        let members = [(7, 5.0), (8, 1.0), (9, 1.0)];
        let mut state = RoundRobin::default();
        let picks: Vec<_> = (0..7)
            .map(|_| round_robin(&members, &mut state).unwrap())
            .collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
        for _ in 0..3 {
            assert_eq!(counts(&members, &mut state, 7), [5, 1, 1]);
        }
    }

    #[test]
    fn callers_begin_with_different_members() {
        let members = [(3 << 60, 1.0), (5 << 60, 1.0), (9 << 60, 1.0)];
        let first = |start| round_robin(&members, &mut RoundRobin::new(start)).unwrap();
        let begun: BTreeSet<_> = (0..16u64).map(|s| first(s << 60)).collect();
        assert_eq!(begun.len(), 3);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let members = [(3, 1.0), (5, 2.0), (9, 1.0)];
        let turned = [(9, 1.0), (3, 1.0), (5, 2.0)];
        let (mut a, mut b) = (RoundRobin::new(4), RoundRobin::new(4));
        for _ in 0..40 {
            let one = members[round_robin(&members, &mut a).unwrap()].0;
            let other = turned[round_robin(&turned, &mut b).unwrap()].0;
            assert_eq!(one, other);
        }
    }

    #[test]
    fn one_that_comes_gets_its_part_and_no_more() {
        let all = [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)];
        let mut state = RoundRobin::new(0);
        counts(&all[..3], &mut state, 4);
        let c = counts(&all, &mut state, 8);
        assert!(c.iter().all(|n| (1..=3).contains(n)), "{c:?}");
        assert_eq!(counts(&all, &mut state, 400), [100; 4]);
    }

    #[test]
    fn one_that_goes_leaves_the_others_fair() {
        let all = [(1, 3.0), (2, 1.0), (3, 1.0)];
        let mut state = RoundRobin::new(0);
        counts(&all, &mut state, 3);
        assert_eq!(counts(&all[..2], &mut state, 400), [300, 100]);
        let c = counts(&all, &mut state, 500);
        assert!((298..=302).contains(&c[0]), "{c:?}");
    }

    #[test]
    fn one_that_comes_when_most_have_gone_does_not_take_all_turns() {
        let many: Vec<_> = (0..100u64).map(|i| (i, 1.0)).collect();
        let mut state = RoundRobin::new(0);
        for _ in 0..50 {
            round_robin(&many, &mut state);
        }
        // Two that have just had their turns, and a newcomer.
        let left = [(0, 1.0), (1, 1.0), (100, 1.0)];
        let c = counts(&left, &mut state, 9);
        assert!(c.iter().all(|n| (2..=4).contains(n)), "{c:?}");
    }

    #[test]
    fn tiers_that_share_a_state_do_not_disturb_each_other() {
        let near = [(1, 1.0), (2, 1.0), (3, 1.0)];
        let far = [(4, 1.0), (5, 1.0)];
        let mut state = RoundRobin::new(0);
        let mut got = [0; 6];
        for _ in 0..30 {
            got[near[round_robin(&near, &mut state).unwrap()].0 as usize] += 1;
            got[far[round_robin(&far, &mut state).unwrap()].0 as usize] += 1;
        }
        assert_eq!(got, [0, 10, 10, 10, 15, 15]);
    }

    #[test]
    fn what_it_remembers_is_bounded() {
        let mut state = RoundRobin::new(0);
        for generation in 0..300u64 {
            let members: Vec<_> = (0..20).map(|i| (generation * 20 + i, 1.0)).collect();
            round_robin(&members, &mut state);
            assert!(state.len() <= members.len() + ABSENT_KEPT);
        }
        assert!(!state.is_empty());
    }

    #[test]
    fn one_without_weight_has_no_turn_while_others_have() {
        let mut state = RoundRobin::new(0);
        assert_eq!(counts(&[(1, 0.0), (2, 4.0)], &mut state, 10), [0, 10]);
        assert_eq!(counts(&[(1, 0.0), (2, 0.0)], &mut state, 10), [5, 5]);
        assert_eq!(round_robin(&[], &mut state), None);
    }

    proptest! {
        /// Over any number of rounds of whole weights, each has exactly its own.
        #[test]
        fn every_round_is_exact(weights in proptest::collection::vec(1u32..20, 1..12), start in any::<u64>()) {
            let members: Vec<_> = (0u64..).zip(&weights).map(|(i, w)| (i * 77, f64::from(*w))).collect();
            let mut state = RoundRobin::new(start);
            let round = weights.iter().sum::<u32>() as usize;
            for _ in 0..2 {
                let got = counts(&members, &mut state, round);
                prop_assert!(got.iter().zip(&weights).all(|(g, w)| *g == *w as usize), "{:?}", got);
            }
        }
    }
}
