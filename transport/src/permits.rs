//! What is alive because a service is exported, by service and per thread, so that withdrawing the export ends it: a
//! gateway's connections, a proxy's streams of foreign callers. Register first, then decide, then race the watch: a
//! withdrawal between can then not be missed. Never decides who may come in.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tradewind_api::{ServicePortRef, snapshot::Snapshot};

#[derive(Debug)]
struct Entry {
    withdrawn: CancellationToken,
    holders: usize,
}

/// The services that something is alive for on this thread; an entry goes with its last holder.
#[derive(Debug, Default)]
pub struct Permits {
    entries: RefCell<HashMap<ServicePortRef, Entry>>,
}

impl Permits {
    /// Registers one holder. The caller has just found the service exported by the newest snapshot.
    pub fn take(self: &Rc<Self>, service: ServicePortRef) -> Permit {
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

    /// Follows the snapshot and withdraws what is no longer exported. Ends when nobody publishes snapshots any more.
    pub async fn watch(self: Rc<Self>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        while snapshots.changed().await.is_ok() {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.apply(&snapshot);
        }
    }

    fn apply(&self, snapshot: &Snapshot) {
        self.entries.borrow_mut().retain(|service, entry| {
            let keep = snapshot.exported_here(service).is_some();
            if !keep {
                tracing::info!(%service, holders = entry.holders, "no longer exported: ending what other clusters use it for");
                entry.withdrawn.cancel();
            }
            keep
        });
    }
}

/// One holder's permission; given back on drop.
#[derive(Debug)]
pub struct Permit {
    permits: Rc<Permits>,
    service: ServicePortRef,
    withdrawn: CancellationToken,
}

impl Permit {
    /// Cancelled when the permission is withdrawn.
    pub fn withdrawn(&self) -> &CancellationToken {
        &self.withdrawn
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
