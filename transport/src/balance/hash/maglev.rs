//! Maglev's table, by the paper of Eisenbud and others (NSDI 2016): each member has its own order of all places, and members take the
//! first free place of theirs in turn.
//!
//! Weights as Envoy has them: the heaviest has a turn in every round, the others in as many as their part of its weight. A look-up is
//! one division, and shares are even to about one place; a member more or less moves a few keys of the others.

use tradewind_api::traffic::HashTable;

use super::{Entry, mix};

/// Keeps a member's first place and its step apart.
const SKIP: u64 = 0x736b_6970_2062_7920;
/// A place that is free.
const FREE: u32 = u32::MAX;

fn is_prime(n: u32) -> bool {
    n >= 2
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
}

/// The least prime number that is no less: every step must visit every place.
fn prime_from(n: u32) -> u32 {
    (n.min(HashTable::MAX_MAGLEV)..=HashTable::MAX_MAGLEV)
        .find(|n| is_prime(*n))
        .unwrap_or(HashTable::MAX_MAGLEV)
}

/// One member's way through the places.
struct Walk {
    member: u32,
    /// Its part of the heaviest one's weight, 0 to 1.
    part: f64,
    at: usize,
    skip: usize,
    turns: f64,
}

impl Walk {
    fn new(entry: &Entry, heaviest: f64, size: usize) -> Self {
        let below = |n: u64, limit: usize| (n % limit.max(1) as u64) as usize;
        Self {
            member: entry.index,
            part: entry.weight / heaviest,
            at: below(mix(entry.hash), size),
            skip: below(mix(entry.hash ^ SKIP), size - 1) + 1,
            turns: 0.0,
        }
    }

    /// Takes its next free place. There is one, and a prime number of places leads to it.
    fn take(&mut self, slots: &mut [u32]) {
        for _ in 0..slots.len() {
            let place = self.at;
            self.at = (self.at + self.skip) % slots.len();
            if let Some(slot) = slots.get_mut(place)
                && *slot == FREE
            {
                *slot = self.member;
                return;
            }
        }
    }
}

/// Whose each place is. Entries come sorted and have weights.
pub(super) fn slots(entries: &[Entry], size: u32) -> Vec<u32> {
    let size = prime_from(size) as usize;
    let heaviest = entries.iter().map(|e| e.weight).fold(0.0, f64::max);
    if entries.is_empty() {
        return Vec::new();
    }
    let mut slots = vec![FREE; size];
    let mut walks: Vec<_> = entries
        .iter()
        .map(|e| Walk::new(e, heaviest, size))
        .collect();
    let mut free = size;
    let mut round = 0.0;
    // The heaviest takes a place in every round, so there are no more rounds than places.
    while free > 0 {
        round += 1.0;
        for walk in &mut walks {
            if free == 0 {
                break;
            }
            if walk.turns < round * walk.part {
                walk.turns += 1.0;
                walk.take(&mut slots);
                free -= 1;
            }
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_become_prime_and_stay_within_the_limit() {
        for (asked, got) in [
            (0, 2),
            (2, 2),
            (4, 5),
            (65_536, 65_537),
            (65_537, 65_537),
            (u32::MAX, HashTable::MAX_MAGLEV),
        ] {
            assert_eq!(prime_from(asked), got, "{asked}");
        }
        assert!(is_prime(HashTable::MAX_MAGLEV));
    }
}
