//! The store on a thread of its own. Owns nothing: the thread ends with the store.

use std::sync::{Arc, PoisonError};

use tradewind_runtime::{Lane, MetricsRegistry, Rng, SharedClock};

use super::{Store, StoreConfig};
use crate::{PeerTransport, StoreError};

impl Store {
    /// Opens the store as [`Store::open`] does, on a thread of its own: its tasks wake each other many times a write, which
    /// costs a multiple between cores, and no other work of this process delays a sign of life. The calls that
    /// `transport` makes are made there, too.
    pub async fn open_apart(
        config: StoreConfig,
        transport: Arc<dyn PeerTransport>,
        clock: SharedClock,
        rng: Rng,
        metrics: &MetricsRegistry,
    ) -> Result<Self, StoreError> {
        let lane = Lane::start("store").map_err(|e| StoreError::Thread(e.to_string()))?;
        let metrics = metrics.clone();
        let opening = async move { Self::open(config, transport, clock, rng, &metrics).await };
        let opened = lane.run("store-open", opening).await;
        let store = opened.map_err(|e| StoreError::Thread(e.to_string()))??;
        let owned = store.inner.owned.lock();
        owned.unwrap_or_else(PoisonError::into_inner).lane = Some(lane);
        Ok(store)
    }
}
