//! An ordered map whose copies share everything but the path to what changed. Every change of the catalog leaves the
//! copy that was published before it as it was; with 20,000 services a copied B-tree costs milliseconds a change, this
//! microseconds. It is written down like any map, in the order of its keys.

use std::fmt;

use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

/// See the module. The names are those of `BTreeMap`.
#[derive(Clone, Eq, Serialize, Deserialize)]
#[serde(
    transparent,
    bound(
        serialize = "K: Ord + Serialize, V: Serialize",
        deserialize = "K: Ord + Deserialize<'de>, V: Deserialize<'de>"
    )
)]
pub struct SharedMap<K: Ord, V>(RedBlackTreeMapSync<K, V>);

impl<K: Ord, V> SharedMap<K, V> {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.size()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// What stands under `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }
    /// Whether something does.
    pub fn contains_key(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }
    /// All, in the order of the keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.0.iter()
    }
    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }
    /// The values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }
    /// Puts `value` under `key`. Copies made before do not see it.
    pub fn insert(&mut self, key: K, value: V) {
        self.0.insert_mut(key, value);
    }
    /// Takes out what stands under `key`; says whether something did.
    pub fn remove(&mut self, key: &K) -> bool {
        self.0.remove_mut(key)
    }
}

impl<K: Ord, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self(RedBlackTreeMapSync::new_sync())
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_written_like_a_b_tree_and_copies_stay_as_they_were(
            changes in proptest::collection::vec((0_u8..40, proptest::option::of(0_u32..9)), 0..200)
        ) {
            let mut shared = SharedMap::<u8, u32>::default();
            let mut plain = BTreeMap::<u8, u32>::new();
            for (key, value) in changes {
                let (before, written) = (shared.clone(), serde_json::to_string(&plain).unwrap());
                match value {
                    Some(value) => {
                        shared.insert(key, value);
                        plain.insert(key, value);
                    }
                    None => prop_assert_eq!(shared.remove(&key), plain.remove(&key).is_some()),
                }
                prop_assert_eq!(serde_json::to_string(&before).unwrap(), written);
            }
            let written = serde_json::to_string(&plain).unwrap();
            prop_assert_eq!(&serde_json::to_string(&shared).unwrap(), &written);
            prop_assert_eq!(serde_json::from_str::<SharedMap<u8, u32>>(&written).unwrap(), shared);
        }
    }
}
