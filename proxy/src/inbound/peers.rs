//! The peers of a thread's live connections, so that one whose authority leaves the trust map is cut at once. Register
//! first, then check, then race the watch: a revocation between cannot be missed.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tradewind_transport::trust::{PeerIdentity, TrustMap};

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
