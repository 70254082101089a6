//! Maps that are handed around whole and seldom change: a copy costs a pointer, and two that are the same allocation are known to be equal
//! without a look into them.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Deref, DerefMut},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A map that copies share until one of them is changed: then that one gets an allocation of its own, entries and all. Whoever asks for a
/// change pays for it, so ask only where there is something to change.
pub struct SharedMap<K, V>(Arc<BTreeMap<K, V>>);

impl<K, V> SharedMap<K, V> {
    /// Whether both are one allocation. Two that are not may be equal all the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<K: Ord, V> SharedMap<K, Arc<V>> {
    /// Whose values are not the same allocation in both, or are in one of them alone.
    pub fn differing<'a>(&'a self, other: &'a Self) -> Vec<&'a K> {
        let mut found = Vec::new();
        if self.is(other) {
            return found;
        }
        // Both are in the same order.
        let mut others = other.iter().peekable();
        for (key, value) in self.iter() {
            while let Some((gone, _)) = others.next_if(|(k, _)| *k < key) {
                found.push(gone);
            }
            let same = others.next_if(|(k, _)| *k == key);
            if !same.is_some_and(|(_, other)| Arc::ptr_eq(value, other)) {
                found.push(key);
            }
        }
        found.extend(others.map(|(gone, _)| gone));
        found
    }
}

impl<K: Clone + Ord, V: PartialEq> SharedMap<K, Arc<V>> {
    /// Takes the allocations of `before` for all that is what it was: of values, and of the map where all of them are.
    pub fn keep(&mut self, before: &Self) {
        if self.is(before) {
            return;
        }
        for (key, value) in Arc::make_mut(&mut self.0) {
            if let Some(same) = before.get(key).filter(|b| *b == value) {
                *value = Arc::clone(same);
            }
        }
        if self.differing(before).is_empty() {
            self.clone_from(before);
        }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: std::fmt::Debug, V: std::fmt::Debug> std::fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || *self.0 == *other.0
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K, V> Deref for SharedMap<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K: Clone, V: Clone> DerefMut for SharedMap<K, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl<K, V> From<BTreeMap<K, V>> for SharedMap<K, V> {
    fn from(map: BTreeMap<K, V>) -> Self {
        Self(Arc::new(map))
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

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = btree_map::Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, K: Clone, V: Clone> IntoIterator for &'a mut SharedMap<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = btree_map::IterMut<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<K: Clone + Ord, V: Clone> IntoIterator for SharedMap<K, V> {
    type Item = (K, V);
    type IntoIter = btree_map::IntoIter<K, V>;

    fn into_iter(self) -> Self::IntoIter {
        Arc::unwrap_or_clone(self.0).into_iter()
    }
}

impl<K: Serialize, V: Serialize> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for SharedMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
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
}
