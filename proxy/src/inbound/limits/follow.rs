//! Finds out again which limits hold whenever the snapshot, what is served or the certificate is another one.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;
use tradewind_api::{Namespace, snapshot::Snapshot, traffic::Labels};
use tradewind_runtime::{clock::SharedClock, task::TaskSet};
use tradewind_transport::{control::Control, svid::Svid};

use super::Held;
use crate::serving::Serving;

/// What is looked at to know what holds.
struct Looking {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    serves: watch::Receiver<Arc<[Serving]>>,
    svids: watch::Receiver<Option<Arc<Svid>>>,
    workload: Workload,
    clock: SharedClock,
}

/// What is known of the workload besides.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Those that its proxy was told.
    pub(crate) labels: Arc<Labels>,
    /// Its address in a pod, by which the snapshot says what the pod is labelled with.
    pub(crate) at: Option<SocketAddr>,
}

impl Looking {
    fn look(&mut self, before: &Held) -> Held {
        let svid = self.svids.borrow_and_update().clone();
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        let serves = Arc::clone(&self.serves.borrow_and_update());
        // Before there is a certificate nobody is served either.
        let account = svid.as_ref().and_then(|svid| svid.id.account());
        let namespace = account.and_then(|(namespace, _)| Namespace::new(namespace).ok());
        namespace.map_or_else(Held::default, |namespace| {
            let labels = self.workload.labels_in(&snapshot, &serves);
            let workload = (&namespace, &*labels);
            before.next(&snapshot.limits, &serves, workload, self.clock.now())
        })
    }

    /// Until there may be something else to see; false once there will not.
    async fn changed(&mut self, serves_change: &mut bool) -> bool {
        tokio::select! {
            changed = self.snapshots.changed() => changed.is_ok(),
            changed = self.svids.changed() => changed.is_ok(),
            // What is served by flags is said once.
            changed = self.serves.changed(), if *serves_change => {
                *serves_change = changed.is_ok();
                true
            }
        }
    }
}

impl Workload {
    /// Its labels.
    fn labels_in(&self, snapshot: &Snapshot, serves: &[Serving]) -> Arc<Labels> {
        let (Some(at), Some(local)) = (self.at, snapshot.local()) else {
            return Arc::clone(&self.labels);
        };
        let at = at.to_string();
        let services = serves.iter();
        let services = services.filter_map(|s| snapshot.services.get(&s.target.service));
        let all = services.flat_map(|service| &service.endpoints);
        let mut here =
            all.filter(|e| e.cluster == local.name && e.address.as_deref() == Some(at.as_str()));
        // One address is one pod, whichever service it is behind.
        here.next().map_or_else(
            || Arc::clone(&self.labels),
            |own| {
                let mut labels = Labels::clone(&self.labels);
                labels.extend(own.labels.clone());
                labels.into()
            },
        )
    }
}

/// Keeps what holds current, from now on.
pub(crate) fn start(
    control: &Control,
    serves: watch::Receiver<Arc<[Serving]>>,
    workload: Workload,
    clock: SharedClock,
    tasks: &mut TaskSet,
) -> watch::Receiver<Arc<Held>> {
    let mut looking = Looking {
        snapshots: control.snapshot.clone(),
        serves,
        svids: control.svid.watch(),
        workload,
        clock,
    };
    let (tell, held) = watch::channel(Arc::new(looking.look(&Held::default())));
    tasks.spawn("limits", async move {
        let mut serves_change = true;
        while looking.changed(&mut serves_change).await {
            tell.send_if_modified(|before| {
                let now = looking.look(before);
                let changed = !before.is(&now);
                if changed {
                    let limits = now.all.len();
                    tracing::info!(limits, "the rate limits that hold have changed");
                    *before = now.into();
                }
                changed
            });
        }
    });
    held
}
