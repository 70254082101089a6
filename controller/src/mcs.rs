//! The Multi-Cluster Services API in this cluster's API server: imports, slices, properties, and what exports are told (KEP-1645).
//!
//! [`desired`] says what there should be, purely; the task writes what differs from what is watched. It waits for nobody: the API server's
//! absence delays what people read there and nothing else. Of several controllers of one cluster the one writes that speaks for it, so that
//! none takes back what another one knows already.

pub mod desired;
pub mod export_status;
pub mod merge;
pub mod route_status;
mod slices;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use tokio::sync::watch;
use tradewind_api::snapshot::Snapshot;
use tradewind_federation::Store;
use tradewind_kubernetes::{
    Client,
    managed::{self, Resource, Step},
    write,
};
use tradewind_runtime::{SharedClock, drain};

use crate::{local::Own, source::kubernetes::View};
use desired::{Desired, Input, desired};

/// Writes under way at a time: what an API server takes of one client without queueing it.
const AT_ONCE: usize = 16;
/// Writes of one round; the next round looks anew.
const PER_ROUND: usize = 500;
/// Least time between two rounds: what was written comes back by the watch before it is looked at again.
const SPACING: Duration = Duration::from_millis(100);
/// When a write failed, the next round waits this long.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// How often all is looked at again when nothing changes.
const TICK: Duration = Duration::from_secs(30);

/// What the task follows.
#[derive(Debug)]
pub struct Writer {
    /// This cluster.
    pub own: Own,
    /// The way to the API server.
    pub client: Client,
    /// What it says.
    pub view: watch::Receiver<Arc<View>>,
    /// What the federation says.
    pub store: Store,
    /// For the trust, and for addresses of other clusters' endpoints.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Why exports could not be published.
    pub troubles: watch::Receiver<Arc<Vec<String>>>,
    /// Whether this controller speaks for its cluster.
    pub speaking: watch::Receiver<bool>,
    /// For the moments of conditions.
    pub clock: SharedClock,
}

impl Writer {
    /// Writes until the drain.
    pub async fn run(mut self, mut drain: drain::Observer) {
        let mut catalogs = self.store.watch();
        loop {
            let wait = if self.round().await {
                SPACING
            } else {
                AFTER_FAILURE
            };
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                () = tokio::time::sleep(wait) => {}
            }
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                changed = self.view.changed() => if changed.is_err() { return },
                changed = catalogs.changed() => if changed.is_err() { return },
                changed = self.snapshots.changed() => if changed.is_err() { return },
                changed = self.troubles.changed() => if changed.is_err() { return },
                changed = self.speaking.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(if wait == SPACING { TICK } else { Duration::ZERO }) => {}
            }
        }
    }

    /// Looks once and writes what differs; false when something could not be written.
    async fn round(&mut self) -> bool {
        let view = Arc::clone(&self.view.borrow_and_update());
        let catalog = Arc::clone(&self.store.watch().borrow());
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        let troubles = Arc::clone(&self.troubles.borrow_and_update());
        let speaks = *self.speaking.borrow_and_update();
        // Before all is known nothing may be taken away.
        if !speaks || !view.read || snapshot.trust.roots.is_empty() {
            return true;
        }
        let now = write::moment(self.clock.unix_ms());
        let Desired {
            bodies,
            mut conditions,
        } = desired(&Input {
            own: &self.own,
            view: &view,
            catalog: &catalog,
            services: &snapshot.services,
            trust: &snapshot.trust,
            troubles: &troubles,
            now: &now,
        });
        let mut steps = managed::plan(&bodies, &view.owned, &view.absent);
        if !catalog.is_founded() {
            // A cluster that has just joined hears of the others through its gateways, and their Pods begin with the roots.
            steps.retain(|step| matches!(step, Step::Apply(Resource::ConfigMap, ..)));
            conditions.clear();
        }
        let told = conditions
            .into_iter()
            .take(PER_ROUND)
            .map(|(export, said)| {
                let client = self.client.clone();
                async move { client.set_conditions(&export, &said).await }.boxed()
            });
        let mut good = all(told.collect()).await;
        let (statuses, objects): (Vec<_>, Vec<_>) = steps
            .into_iter()
            .take(PER_ROUND)
            .partition(|step| matches!(step, Step::ApplyStatus(..)));
        // A status is written when its object is there.
        for steps in [objects, statuses] {
            let done = steps.into_iter().map(|step| {
                let client = self.client.clone();
                async move { client.perform(&step).await }.boxed()
            });
            good &= all(done.collect()).await;
        }
        good
    }
}

type Write = BoxFuture<'static, Result<(), write::WriteError>>;

/// Does them, some at a time; false when one was not done.
async fn all(writes: Vec<Write>) -> bool {
    let mut done = stream::iter(writes).buffer_unordered(AT_ONCE);
    let mut good = true;
    while let Some(done) = done.next().await {
        if let Err(error) = done {
            tracing::warn!(%error, "the API server was not told; it is tried again");
            good = false;
        }
    }
    good
}
