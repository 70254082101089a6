//! Live connections by the service they were let in for, so that withdrawing an export ends them. One per thread.
//! Register first, then decide, then race the watch: a withdrawal between can then not be missed.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tradewind_api::{ServicePortRef, snapshot::Snapshot};

use crate::route::permitted;

#[derive(Debug)]
struct Entry {
    withdrawn: CancellationToken,
    holders: usize,
}

/// The services with live connections on this thread; an entry goes with its last connection.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    entries: RefCell<HashMap<ServicePortRef, Entry>>,
}

impl Permits {
    /// Registers one connection. The caller has just found the service permitted by the newest snapshot.
    pub(crate) fn take(self: &Rc<Self>, service: ServicePortRef) -> Permit {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(service.clone()).or_insert_with(|| Entry {
            withdrawn: CancellationToken::new(),
            holders: 0,
        });
        entry.holders += 1;
        let withdrawn = entry.withdrawn.clone();
        drop(entries);
        Permit {
            permits: Rc::clone(self),
            service,
            withdrawn,
        }
    }

    /// Follows the snapshot and withdraws what it no longer permits. Ends when nobody publishes snapshots any more.
    pub(crate) async fn watch(self: Rc<Self>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        while snapshots.changed().await.is_ok() {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.apply(&snapshot);
        }
    }

    fn apply(&self, snapshot: &Snapshot) {
        self.entries.borrow_mut().retain(|service, entry| {
            let keep = permitted(snapshot, service);
            if !keep {
                tracing::info!(%service, connections = entry.holders, "no longer exported: ending its connections");
                entry.withdrawn.cancel();
            }
            keep
        });
    }
}

/// One connection's permission; given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    permits: Rc<Permits>,
    service: ServicePortRef,
    withdrawn: CancellationToken,
}

impl Permit {
    /// Returns when the permission is withdrawn.
    pub(crate) async fn withdrawn(&self) {
        self.withdrawn.cancelled().await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // A withdrawn entry is out of the map already, and one of the same name may be new.
        if self.withdrawn.is_cancelled() {
            return;
        }
        let mut entries = self.permits.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(&self.service) {
            entry.holders = entry.holders.saturating_sub(1);
            if entry.holders == 0 {
                entries.remove(&self.service);
            }
        }
    }
}
