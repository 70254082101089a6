//! Consistent hashing: the same key leads to the same endpoint, in every proxy and every build.
//!
//! A table is made of endpoints' hashes and weights, and of nothing else: not of their order, nor of who was there before. Asked
//! with a key it names all members in an order of preference, so that an unfit one leads to the next. Whoever keeps a table
//! makes it anew when members or weights change; it holds no state that would be lost by that.

use std::ops::Range;

use tradewind_api::traffic::HashTable;

mod maglev;
mod ring;
mod xxh64;

/// The golden ratio's fraction: steps of it visit all 64-bit numbers, far from each other.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Keeps the number that finds a tier apart from the one that finds an endpoint.
const UNIT: u64 = 0x7469_6572_206f_6620;
/// Most members of a table: places name them by 32 bits, and one number is for none.
const MAX_MEMBERS: usize = u32::MAX as usize - 1;
/// Weights outside of this say nothing that a table could hold, and would take its arithmetic to its limits.
const WEIGHTS: (f64, f64) = (1e-9, 1e9);

/// The hash of what a call is held together by, or of an endpoint's id: xxHash's 64-bit function with seed zero, which is the same on
/// every machine. Whoever chooses keys can make them meet; that earns him one endpoint, which he could have had anyway.
pub fn key(bytes: &[u8]) -> u64 {
    xxh64::hash(bytes)
}

/// Where a key falls in 0..1, to find the tier by. It tells nothing of where the key falls in a table, so that a tier's part of the keys
/// spreads over all of its members.
pub const fn unit(key: u64) -> f64 {
    // As many bits as the fraction of a double has.
    (mix(key ^ UNIT) >> 11) as f64 / (1u64 << 53) as f64
}

/// Spreads what differs between two numbers over all bits (the finaliser of splitmix64).
const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Where a number stands on a ring. A ring has at most some millions of points, so the upper half tells them apart.
const fn position(x: u64) -> u32 {
    (x >> 32) as u32
}

/// One member while a table is made.
#[derive(Clone, Copy, Debug)]
struct Entry {
    index: u32,
    hash: u64,
    weight: f64,
}

/// Members by key.
#[derive(Clone, Debug, Default)]
pub struct Table {
    places: Places,
    /// All members by their hash: those that have no place come last, in this order.
    order: Vec<u32>,
}

#[derive(Clone, Debug)]
enum Places {
    /// Sorted by position; a key's place is the first at or after its own.
    Ring(Vec<(u32, u32)>),
    /// A key's place is its remainder.
    Slots(Vec<u32>),
}

impl Default for Places {
    fn default() -> Self {
        Self::Slots(Vec::new())
    }
}

impl Table {
    /// The table of `members`: the hashes of their ids (see [`key`]) and their weights, as they are without a ramp: what changes all the time would
    /// move keys all the time. Making it costs a sort of the ring's points, or a few steps for each of Maglev's places. One without a weight has no place while anybody has one; where nobody
    /// has, all are alike.
    pub fn new(members: &[(u64, f64)], kind: HashTable) -> Self {
        let mut entries: Vec<_> = (0u32..)
            .zip(members)
            .take(MAX_MEMBERS)
            .map(|(index, (hash, weight))| Entry {
                index,
                hash: *hash,
                weight: if *weight > 0.0 {
                    weight.clamp(WEIGHTS.0, WEIGHTS.1)
                } else {
                    0.0
                },
            })
            .collect();
        // Everything below goes by this order, so that it is all the same in which one they came.
        entries.sort_unstable_by_key(|e| (e.hash, e.index));
        let order = entries.iter().map(|e| e.index).collect();
        if entries.iter().all(|e| e.weight <= 0.0) {
            entries.iter_mut().for_each(|e| e.weight = 1.0);
        }
        entries.retain(|e| e.weight > 0.0);
        let places = match kind {
            HashTable::Ring(min) => Places::Ring(ring::points(&entries, min)),
            HashTable::Maglev(size) => Places::Slots(maglev::slots(&entries, size)),
        };
        Self { places, order }
    }

    /// How many members there are.
    pub const fn len(&self) -> usize {
        self.order.len()
    }

    /// True without members.
    pub const fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many places the members share.
    pub const fn places(&self) -> usize {
        match &self.places {
            Places::Ring(points) => points.len(),
            Places::Slots(slots) => slots.len(),
        }
    }

    /// The members' indices in the order in which `key` prefers them, each once. The first costs a look-up, all of them at most a walk
    /// through the table.
    pub fn members(&self, key: u64) -> Members<'_> {
        let places = self.places();
        let start = match &self.places {
            Places::Ring(points) => points.partition_point(|(at, _)| *at < position(key)),
            Places::Slots(_) => (key % (places as u64).max(1)) as usize,
        };
        Members {
            table: self,
            ahead: start..places,
            behind: 0..start,
            rest: 0,
            first: None,
            seen: Vec::new(),
        }
    }

    fn at(&self, place: usize) -> Option<u32> {
        match &self.places {
            Places::Ring(points) => points.get(place).map(|(_, member)| *member),
            Places::Slots(slots) => slots.get(place).copied(),
        }
    }
}

/// See [`Table::members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    table: &'a Table,
    /// Places from the key's on, then those before it.
    ahead: Range<usize>,
    behind: Range<usize>,
    /// How many of those that may have no place were looked at.
    rest: usize,
    first: Option<u32>,
    /// By member; empty until a second one is asked for, which few calls do.
    seen: Vec<bool>,
}

impl Members<'_> {
    /// Whether this one was not named before.
    fn is_new(&mut self, member: u32) -> bool {
        let Some(first) = self.first else {
            self.first = Some(member);
            return true;
        };
        if self.seen.is_empty() {
            self.seen.resize(self.table.len(), false);
            if let Some(seen) = self.seen.get_mut(first as usize) {
                *seen = true;
            }
        }
        self.seen
            .get_mut(member as usize)
            .is_some_and(|seen| !std::mem::replace(seen, true))
    }
}

impl Iterator for Members<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while let Some(place) = self.ahead.next().or_else(|| self.behind.next()) {
            if let Some(member) = self.table.at(place)
                && self.is_new(member)
            {
                return Some(member as usize);
            }
        }
        while let Some(member) = self.table.order.get(self.rest).copied() {
            self.rest += 1;
            if self.is_new(member) {
                return Some(member as usize);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
