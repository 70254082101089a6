//! Connections that are passed on and come back: what keeps a gateway from passing one on to itself until all its places
//! are taken, by whatever way it leads round.
//!
//! Owns a fingerprint of each ClientHello that is being passed on. It never keeps one longer than its connection.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The ClientHellos that are being passed on. One that comes again while it is has gone round in a circle: some cluster
/// announces this gateway, or what leads to it, as its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Circles(Arc<(RandomState, Mutex<HashSet<u64>>)>);

impl Circles {
    /// Notes a hello until the return value is dropped; none if it is here already.
    pub(crate) fn enter(&self, hello: &[u8]) -> Option<Entered> {
        let key = self.0.0.hash_one(hello);
        let new = self.lock().insert(key);
        new.then(|| Entered {
            circles: self.clone(),
            key,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Circles::enter`].
#[derive(Debug)]
pub(crate) struct Entered {
    circles: Circles,
    key: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.circles.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_that_comes_again_while_it_is_carried_has_gone_in_a_circle() {
        let circles = Circles::default();
        let first = circles.enter(b"hello").unwrap();
        let other = circles.enter(b"another").unwrap();
        assert!(circles.enter(b"hello").is_none());
        drop(first);
        assert!(circles.enter(b"hello").is_some());
        drop(other);
        assert!(circles.lock().is_empty());
    }
}
