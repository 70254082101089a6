//! Maps that are handed around whole and seldom change: a copy costs a pointer, one that is changed shares with the others all but the part
//! that the change is in, and two are compared without a look into what they share.

use std::{
    borrow::Borrow, collections::BTreeMap, iter::FusedIterator, ops::Index, slice, sync::Arc, vec,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most entries of one part. Whoever changes one entry of a map that is shared copies its part and a pointer to each other one; with ten
/// thousand entries both are some two hundred.
const MOST: usize = 64;
/// Entries of a part when a map is made: with some room, so that the next entry does not split it.
const FILLED: usize = 48;

type Part<K, V> = Vec<(K, V)>;
type Parts<K, V> = Vec<Arc<Part<K, V>>>;

/// A map in the order of its keys, in parts that copies share until one of them is changed.
///
/// No part is empty or has more than [`MOST`] entries, and keys ascend over all of them.
pub struct SharedMap<K, V> {
    parts: Arc<Parts<K, V>>,
    len: usize,
}

impl<K, V> SharedMap<K, V> {
    /// Whether both are one allocation. Two that are not may be equal all the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.parts, &other.parts)
    }

    /// How many entries it has.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            parts: self.parts.iter(),
            front: [].iter(),
            back: [].iter(),
            left: self.len,
        }
    }

    /// All keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// Takes all entries out.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Of keys that ascend.
    fn of_ascending(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        let (mut parts, mut part, mut len) = (Parts::new(), Part::new(), 0);
        for entry in entries {
            if part.len() == FILLED {
                parts.push(Arc::new(std::mem::take(&mut part)));
            }
            if part.capacity() == 0 {
                part.reserve_exact(FILLED);
            }
            part.push(entry);
            len += 1;
        }
        if !part.is_empty() {
            part.shrink_to_fit();
            parts.push(Arc::new(part));
        }
        let parts = Arc::new(parts);
        Self { parts, len }
    }
}

impl<K, V> SharedMap<K, V> {
    /// The part that a key is in, or would be in.
    fn at<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins = |part: &Arc<Part<K, V>>| part.first().is_some_and(|(k, _)| k.borrow() <= key);
        self.parts.partition_point(begins).saturating_sub(1)
    }

    /// Which part a key is in, and where in it; where it would be, if it is in none.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let at = self.at(key);
        let part = self.parts.get(at).map_or(&[][..], |part| part.as_slice());
        (at, part.binary_search_by(|(k, _)| k.borrow().cmp(key)))
    }

    /// The entry of a key.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (at, within) = self.find(key);
        let (key, value) = self.parts.get(at)?.get(within.ok()?)?;
        Some((key, value))
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// Whether it has that key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).is_some()
    }
}

impl<K: Clone + Ord, V: Clone> SharedMap<K, V> {
    /// The value of a key, to be changed. Its part is this map's own from then on.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (at, within) = self.find(key);
        let within = within.ok()?;
        let part = Arc::make_mut(&mut self.parts).get_mut(at)?;
        let (_, value) = Arc::make_mut(part).get_mut(within)?;
        Some(value)
    }

    /// All entries, their values to be changed; all parts are this map's own from then on.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let parts = Arc::make_mut(&mut self.parts).iter_mut();
        parts.flat_map(|part| {
            Arc::make_mut(part)
                .iter_mut()
                .map(|(key, value)| (&*key, value))
        })
    }

    /// All values, to be changed, as by [`Self::iter_mut`].
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// Puts an entry in; what its key had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (at, within) = self.find(&key);
        let parts = Arc::make_mut(&mut self.parts);
        let is_last = at + 1 == parts.len();
        let Some(part) = parts.get_mut(at) else {
            parts.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let part = Arc::make_mut(part);
        match within {
            Ok(within) => {
                let (_, known) = part.get_mut(within)?;
                return Some(std::mem::replace(known, value));
            }
            Err(within) => part.insert(within, (key, value)),
        }
        self.len += 1;
        if part.len() > MOST {
            // Keys that come in their order leave full parts behind them.
            let appended = is_last && within == Err(part.len() - 1);
            let rest = part.split_off(if appended { FILLED } else { part.len() / 2 });
            parts.insert(at + 1, Arc::new(rest));
        }
        None
    }

    /// Takes an entry out; what it was.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (at, within) = self.find(key);
        let within = within.ok()?;
        let parts = Arc::make_mut(&mut self.parts);
        let part = Arc::make_mut(parts.get_mut(at)?);
        let (_, value) = part.remove(within);
        self.len -= 1;
        let left = part.len();
        if left == 0 {
            drop(parts.remove(at));
        } else if let Some(next) = parts.get(at + 1)
            && left + next.len() <= MOST / 2
        {
            // So that a map of which most is gone has not as many parts as before.
            let next = Arc::unwrap_or_clone(parts.remove(at + 1));
            if let Some(part) = parts.get_mut(at) {
                Arc::make_mut(part).extend(next);
            }
        }
        Some(value)
    }

    /// Keeps those entries alone. Where all are kept, nothing is copied.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let kept = self.iter().filter(|(key, value)| keep(key, value));
        let kept: Vec<_> = kept
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if kept.len() < self.len {
            *self = Self::of_ascending(kept);
        }
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The entries of both by key, but for parts that are one allocation.
    fn beside<'a>(&'a self, other: &'a Self) -> Beside<'a, K, V> {
        let (a, b): (&[_], &[_]) = if self.is(other) {
            (&[], &[])
        } else {
            (&self.parts, &other.parts)
        };
        Beside(Walk { parts: a, at: 0 }, Walk { parts: b, at: 0 })
    }
}

impl<K: Ord, V> SharedMap<K, Arc<V>> {
    /// Keys whose values are not the same allocation as before, or are in one of both alone; each with its value, if it has one now.
    pub fn changes<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (&'a K, Option<&'a Arc<V>>)> {
        let beside = self.beside(before);
        beside.filter_map(|pair| match pair {
            (Some((key, now)), Some((_, before))) => {
                (!Arc::ptr_eq(now, before)).then_some((key, Some(now)))
            }
            (Some((key, now)), None) => Some((key, Some(now))),
            (None, Some((key, _))) => Some((key, None)),
            (None, None) => None,
        })
    }

    /// The keys of [`Self::changes`].
    pub fn differing<'a>(&'a self, other: &'a Self) -> Vec<&'a K> {
        self.changes(other).map(|(key, _)| key).collect()
    }
}

impl<K: Clone + Ord, V: PartialEq> SharedMap<K, Arc<V>> {
    /// Takes the allocations of `before` for all that is what it was: of values, and of the map where all of them are.
    pub fn keep(&mut self, before: &Self) {
        if self.is(before) {
            return;
        }
        let is_other =
            |(key, now): &(&K, Option<&Arc<V>>)| now.is_none() || *now != before.get(*key);
        let others = self.changes(before).filter(is_other);
        let others: Vec<_> = others
            .map(|(key, now)| (key.clone(), now.cloned()))
            .collect();
        // What is the same stands in the same parts, too.
        self.clone_from(before);
        for (key, now) in others {
            match now {
                Some(now) => drop(self.insert(key, now)),
                None => drop(self.remove(&key)),
            }
        }
    }
}

/// What two maps have for one key, which at least one of them has.
type Pair<'a, K, V> = (Option<(&'a K, &'a V)>, Option<(&'a K, &'a V)>);

/// Entries of two maps by key: see [`SharedMap::beside`].
struct Beside<'a, K, V>(Walk<'a, K, V>, Walk<'a, K, V>);

struct Walk<'a, K, V> {
    parts: &'a [Arc<Part<K, V>>],
    /// In the first of them.
    at: usize,
}

impl<'a, K, V> Walk<'a, K, V> {
    fn peek(&self) -> Option<&'a (K, V)> {
        self.parts.first()?.get(self.at)
    }

    fn step(&mut self) -> Option<(&'a K, &'a V)> {
        let (key, value) = self.peek()?;
        self.at += 1;
        if self.parts.first().is_none_or(|part| part.len() <= self.at) {
            self.skip();
        }
        Some((key, value))
    }

    fn skip(&mut self) {
        self.parts = self.parts.get(1..).unwrap_or_default();
        self.at = 0;
    }
}

impl<'a, K: Ord, V> Iterator for Beside<'a, K, V> {
    type Item = Pair<'a, K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self(a, b) = self;
        while (a.at, b.at) == (0, 0)
            && let (Some(one), Some(other)) = (a.parts.first(), b.parts.first())
            && Arc::ptr_eq(one, other)
        {
            a.skip();
            b.skip();
        }
        match (a.peek(), b.peek()) {
            (None, None) => None,
            (Some((x, _)), Some((y, _))) if x == y => Some((a.step(), b.step())),
            (Some((x, _)), Some((y, _))) if x > y => Some((None, b.step())),
            (None, Some(_)) => Some((None, b.step())),
            (Some(_), _) => Some((a.step(), None)),
        }
    }
}

/// Entries in the order of their keys.
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    parts: slice::Iter<'a, Arc<Part<K, V>>>,
    front: slice::Iter<'a, (K, V)>,
    back: slice::Iter<'a, (K, V)>,
    left: usize,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            front: self.front.clone(),
            back: self.back.clone(),
            left: self.left,
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        while self.front.len() == 0
            && let Some(part) = self.parts.next()
        {
            self.front = part.iter();
        }
        let (key, value) = self.front.next().or_else(|| self.back.next())?;
        self.left -= 1;
        Some((key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        while self.back.len() == 0
            && let Some(part) = self.parts.next_back()
        {
            self.back = part.iter();
        }
        let (key, value) = self.back.next_back().or_else(|| self.front.next_back())?;
        self.left -= 1;
        Some((key, value))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}
impl<K, V> FusedIterator for Iter<'_, K, V> {}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        let (parts, len) = (Arc::clone(&self.parts), self.len);
        Self { parts, len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let (parts, len) = (Arc::default(), 0);
        Self { parts, len }
    }
}

impl<K: std::fmt::Debug, V: std::fmt::Debug> std::fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |pair: Pair<'_, K, V>| {
            let (one, other) = pair;
            let value = |entry: Option<(_, _)>| entry.map(|(_, value)| value);
            value(one) == value(other)
        };
        self.len == other.len && self.beside(other).all(is_same)
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Borrow<Q> + Ord, Q: Ord + ?Sized, V> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// As of a `BTreeMap`: for keys that are known to be there.
    #[expect(clippy::expect_used, reason = "what indexing means")]
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry found for key")
    }
}

impl<K: Ord, V> From<BTreeMap<K, V>> for SharedMap<K, V> {
    fn from(map: BTreeMap<K, V>) -> Self {
        Self::of_ascending(map)
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        BTreeMap::from(entries).into()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        BTreeMap::from_iter(entries).into()
    }
}

impl<K: Clone + Ord, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Clone, V: Clone> IntoIterator for SharedMap<K, V> {
    type Item = (K, V);
    type IntoIter = vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        let parts = Arc::unwrap_or_clone(self.parts).into_iter();
        let all: Vec<_> = parts.flat_map(Arc::unwrap_or_clone).collect();
        all.into_iter()
    }
}

impl<K: Serialize, V: Serialize> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for SharedMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn copies_are_one_allocation_until_one_of_them_changes() {
        let one: SharedMap<u8, Arc<u8>> = [(1, Arc::new(1)), (2, Arc::new(2))].into();
        let mut other = one.clone();
        assert!(one.is(&other));
        other.insert(3, Arc::new(3));
        assert!(!one.is(&other));
        assert_eq!((one.len(), other.len()), (2, 3));
        other.remove(&3);
        assert!(!one.is(&other), "it has its own now");
        assert_eq!(one, other);
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(json, r#"{"1":1,"2":2}"#);
        assert_eq!(
            serde_json::from_str::<SharedMap<u8, Arc<u8>>>(&json).unwrap(),
            one
        );
    }

    #[test]
    fn what_says_the_same_is_the_same_allocation_again() {
        let of = |values: &[u8]| -> SharedMap<u8, Arc<u8>> {
            let entries = values.iter().map(|v| (*v, Arc::new(*v)));
            entries.collect()
        };
        let before = of(&[1, 2, 3]);
        let mut same = of(&[1, 2, 3]);
        same.keep(&before);
        assert!(same.is(&before));
        let mut other = of(&[1, 3, 4]);
        other.keep(&before);
        assert_eq!(other, of(&[1, 3, 4]));
        assert_eq!(other.differing(&before), [&2, &4]);
    }

    #[test]
    fn what_differs_is_what_was_replaced_is_new_or_is_gone() {
        let old: SharedMap<u8, Arc<u8>> = (0..6).map(|n| (n, Arc::new(n))).collect();
        assert!(old.differing(&old.clone()).is_empty());
        let mut new = old.clone();
        new.insert(2, Arc::new(2));
        new.insert(7, Arc::new(7));
        new.remove(&0);
        new.remove(&5);
        assert_eq!(new.differing(&old), [&0, &2, &5, &7]);
        assert_eq!(old.differing(&new), [&0, &2, &5, &7]);
    }

    impl<K: Ord, V> SharedMap<K, V> {
        fn validate(&self) {
            let lens = || self.parts.iter().map(|part| part.len());
            assert!(lens().all(|len| (1..=MOST).contains(&len)));
            assert_eq!(lens().sum::<usize>(), self.len);
            assert!(self.keys().is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn a_change_copies_one_part_and_shares_the_others() {
        let before: SharedMap<u32, Arc<u32>> = (0..10_000).map(|n| (2 * n, Arc::new(n))).collect();
        for change in [5_001, 5_002, 0, 19_998, 30_000] {
            let mut after = before.clone();
            after.insert(change, Arc::new(7));
            let known: Vec<_> = before.parts.iter().map(Arc::as_ptr).collect();
            let own = after.parts.iter().map(Arc::as_ptr);
            assert_eq!(
                own.filter(|part| !known.contains(part)).count(),
                1,
                "{change}"
            );
            assert_eq!(after.differing(&before), [&change]);
        }
        let mut fewer = before;
        for gone in 0..9_990 {
            assert!(fewer.remove(&(2 * gone)).is_some());
        }
        fewer.validate();
        assert!(fewer.parts.len() < 3, "{}", fewer.parts.len());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u8),
        Remove(u16),
        Retain(u16),
        Take,
        Keep,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..400_u16, 0..3_u8).prop_map(|(key, value)| Step::Insert(key, value)),
            4 => (0..400_u16).prop_map(Step::Remove),
            1 => (2..9_u16).prop_map(Step::Retain),
            2 => Just(Step::Take),
            2 => Just(Step::Keep),
        ]
    }

    proptest! {
        /// Whatever is done to it, it is what a plain map would be, and so is what is found to differ from a copy that was taken on the way.
        #[test]
        fn it_is_what_a_plain_map_would_be(
            first in proptest::collection::btree_map(0..400_u16, 0..3_u8, 0..300),
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut plain = first.clone();
            let shared = first.into_iter().map(|(key, value)| (key, Arc::new(value)));
            let mut shared: SharedMap<u16, Arc<u8>> = shared.collect();
            let (mut plain_copy, mut copy) = (plain.clone(), shared.clone());
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        let was = shared.insert(key, Arc::new(value)).map(|was| *was);
                        prop_assert_eq!(was, plain.insert(key, value));
                    }
                    Step::Remove(key) => {
                        prop_assert_eq!(shared.remove(&key).map(|was| *was), plain.remove(&key));
                    }
                    Step::Retain(of) => {
                        shared.retain(|key, _| key % of != 0);
                        plain.retain(|key, _| key % of != 0);
                    }
                    Step::Take => (plain_copy, copy) = (plain.clone(), shared.clone()),
                    Step::Keep => shared.keep(&copy),
                }
                shared.validate();
                prop_assert_eq!(shared.len(), plain.len());
                prop_assert!(shared.iter().map(|(k, v)| (k, &**v)).eq(plain.iter()));
                prop_assert!(shared.iter().rev().map(|(k, v)| (k, &**v)).eq(plain.iter().rev()));
                prop_assert_eq!(shared == copy, plain == plain_copy);
            }
            for key in 0..400 {
                prop_assert_eq!(shared.get(&key).map(|v| **v), plain.get(&key).copied());
            }
            let mut ends = (shared.iter(), plain.iter());
            while let Some((key, _)) = ends.0.next() {
                prop_assert_eq!(Some(key), ends.1.next().map(|(key, _)| key));
                prop_assert_eq!(ends.0.next_back().map(|e| e.0), ends.1.next_back().map(|e| e.0));
                prop_assert_eq!(ends.0.len(), ends.1.len());
            }
            let all: BTreeSet<_> = plain.keys().chain(plain_copy.keys()).collect();
            let other = |key: &u16| match (shared.get(key), copy.get(key)) {
                (Some(now), Some(before)) => !Arc::ptr_eq(now, before),
                _ => true,
            };
            let expected: Vec<_> = all.into_iter().filter(|key| other(key)).collect();
            prop_assert_eq!(shared.differing(&copy), expected);
            shared.keep(&copy);
            let others = |key: &&u16| plain.get(*key) != plain_copy.get(*key);
            let all: BTreeSet<_> = plain.keys().chain(plain_copy.keys()).collect();
            let expected: Vec<_> = all.into_iter().filter(others).collect();
            prop_assert_eq!(shared.differing(&copy), expected);
            prop_assert_eq!(shared.is(&copy), plain == plain_copy);
        }
    }
}
