//! Readiness as a set of named blockers: a process is ready when nobody blocks it any more.
//!
//! Whoever must be up first takes a [`Blocker`] before it starts and drops it when it is up, so forgetting to report is
//! impossible, and `/readyz` can say what is pending. Events in another process never create one: a peer's death does
//! not touch our readiness.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// The blockers of one process.
#[derive(Debug, Clone)]
pub struct Readiness {
    pending: Arc<watch::Sender<Pending>>,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    names: BTreeMap<u64, String>,
}

impl Readiness {
    /// Without blockers, hence ready.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pending: Arc::new(watch::Sender::new(Pending::default())),
        }
    }

    /// Blocks readiness until the returned value is dropped.
    pub fn blocker(&self, name: impl Into<String>) -> Blocker {
        let name = name.into();
        let mut id = 0;
        self.pending.send_modify(|pending| {
            id = pending.next;
            pending.next += 1;
            pending.names.insert(id, name);
        });
        Blocker {
            pending: Arc::clone(&self.pending),
            id,
        }
    }

    /// What is not ready yet, in the order in which it was announced.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        self.pending.borrow().names.values().cloned().collect()
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.pending.borrow().names.is_empty()
    }

    /// Returns once nothing is pending.
    pub async fn wait_ready(&self) {
        let mut pending = self.pending.subscribe();
        // Cannot fail: `self` holds the sender.
        if pending
            .wait_for(|pending| pending.names.is_empty())
            .await
            .is_err()
        {
            tracing::trace!("readiness ended while waiting");
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// One reason not to be ready; dropping it removes the reason.
#[derive(Debug)]
#[must_use = "readiness is blocked only while this lives"]
pub struct Blocker {
    pending: Arc<watch::Sender<Pending>>,
    id: u64,
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.pending.send_modify(|pending| {
            pending.names.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pending_lists_the_blockers_until_they_drop() {
        let ready = Readiness::new();
        assert!(ready.is_ready());
        let certificate = ready.blocker("certificate");
        let snapshot = ready.blocker("first snapshot");
        assert_eq!(ready.pending(), ["certificate", "first snapshot"]);
        drop(certificate);
        assert_eq!(ready.pending(), ["first snapshot"]);
        assert!(!ready.is_ready());
        let waits = {
            let ready = ready.clone();
            crate::task::spawn("waits", async move { ready.wait_ready().await })
        };
        drop(snapshot);
        waits.await.unwrap();
        assert!(ready.is_ready());
    }

    #[test]
    fn two_blockers_of_one_name_are_two() {
        let ready = Readiness::new();
        let first = ready.blocker("listener");
        let second = ready.blocker("listener");
        drop(first);
        assert_eq!(ready.pending(), ["listener"]);
        drop(second);
        assert!(ready.is_ready());
    }
}
