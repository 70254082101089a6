//! What live streams and connections go on by, per thread: exports for streams of foreign callers, the trust map for
//! every connection. Register first, then decide, then race the watch: what is withdrawn between cannot be missed.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tradewind_api::{ServicePortRef, snapshot::Snapshot};
use tradewind_transport::trust::{PeerIdentity, TrustMap};

use super::authorise::exported;

#[derive(Debug)]
struct Entry {
    withdrawn: CancellationToken,
    holders: usize,
}

/// The services that foreign streams are for; an entry goes with its last stream.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    entries: RefCell<HashMap<ServicePortRef, Entry>>,
}

impl Permits {
    /// Registers one stream. The caller has just found the service exported by the newest snapshot.
    pub(crate) fn take(self: &Rc<Self>, target: &ServicePortRef) -> Permit {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(target.clone()).or_insert_with(|| Entry {
            withdrawn: CancellationToken::new(),
            holders: 0,
        });
        entry.holders += 1;
        let withdrawn = entry.withdrawn.clone();
        drop(entries);
        Permit {
            permits: Rc::clone(self),
            target: target.clone(),
            withdrawn,
        }
    }

    /// Follows the snapshot and withdraws what is no longer exported.
    pub(crate) async fn watch(self: Rc<Self>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        while snapshots.changed().await.is_ok() {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.entries.borrow_mut().retain(|target, entry| {
                let keep = exported(&snapshot, target);
                if !keep {
                    tracing::info!(service = %target, streams = entry.holders, "no longer exported: ending the streams of other clusters");
                    entry.withdrawn.cancel();
                }
                keep
            });
        }
    }
}

/// One foreign stream's permission; given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    permits: Rc<Permits>,
    target: ServicePortRef,
    withdrawn: CancellationToken,
}

impl Permit {
    /// Cancelled when the permission is withdrawn.
    pub(crate) fn token(&self) -> &CancellationToken {
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
        if let Some(entry) = entries.get_mut(&self.target) {
            entry.holders = entry.holders.saturating_sub(1);
            if entry.holders == 0 {
                entries.remove(&self.target);
            }
        }
    }
}

/// The peers of a thread's live connections.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    next: Cell<u64>,
    live: RefCell<HashMap<u64, (PeerIdentity, CancellationToken)>>,
}

impl Peers {
    /// Registers a connection. The caller checks the peer against the trust map of this moment afterwards.
    pub(crate) fn enter(self: &Rc<Self>, peer: PeerIdentity) -> PeerGuard {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let revoked = CancellationToken::new();
        self.live.borrow_mut().insert(id, (peer, revoked.clone()));
        PeerGuard {
            peers: Rc::clone(self),
            id,
            revoked,
        }
    }

    /// Follows the trust map and revokes the connections of peers it no longer accepts.
    pub(crate) async fn watch(self: Rc<Self>, mut trust: watch::Receiver<Arc<TrustMap>>) {
        while trust.changed().await.is_ok() {
            let map = Arc::clone(&trust.borrow_and_update());
            for (peer, revoked) in self.live.borrow().values() {
                if !map.accepts(peer) {
                    tracing::warn!(peer = %peer.id, "no longer trusted: closing its connection");
                    revoked.cancel();
                }
            }
        }
    }
}

/// One connection's entry; removed on drop.
#[derive(Debug)]
pub(crate) struct PeerGuard {
    peers: Rc<Peers>,
    id: u64,
    revoked: CancellationToken,
}

impl PeerGuard {
    /// Cancelled when the peer is no longer trusted.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.revoked
    }
}

impl Drop for PeerGuard {
    fn drop(&mut self) {
        self.peers.live.borrow_mut().remove(&self.id);
    }
}
