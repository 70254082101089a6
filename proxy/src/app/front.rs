//! What a proxy fronts, and who is told of it. By its flags: it checks the applications itself and registers them. In Kubernetes: its
//! controller tells it what is at its address, the kubelet knows how that is, and there is nobody to register with.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time,
};
use tonic::transport::Channel;
use tradewind_api::{model::Health, snapshot::Snapshot};
use tradewind_runtime::task::TaskSet;
use tradewind_transport::control::Control;

use super::Bound;
use crate::{
    error::ProxyError,
    health,
    inbound::Checks,
    register::{self, Fronted, Heard, Standing},
    serving::{Serving, served},
};

/// How long a stopping proxy waits for the controller to hear that it leaves; one that is away hears nothing.
const LEAVE_DEADLINE: Duration = Duration::from_secs(2);

/// What is fronted, as it changes.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) serves: watch::Receiver<Arc<[Serving]>>,
    pub(super) checks: Checks,
    /// What its controller is told, where it is this proxy that tells.
    registered: Option<(watch::Sender<Standing>, watch::Receiver<Heard>)>,
}

/// The same to look at.
#[derive(Clone, Debug)]
pub(super) struct FrontView {
    serves: watch::Receiver<Arc<[Serving]>>,
    registered: Option<(watch::Receiver<Standing>, watch::Receiver<Heard>)>,
}

impl Front {
    /// Has callers move away, and gives them `grace` for it.
    pub(super) async fn leave(&self, grace: Duration) {
        if let Some((standing, hears)) = &self.registered {
            if self.serves.borrow().is_empty() {
                return;
            }
            standing.send_modify(|s| s.leaving = true);
            let mut hears = hears.clone();
            let left = hears.wait_for(|h| h.left);
            if time::timeout(LEAVE_DEADLINE, left).await.is_err() {
                tracing::warn!("the controller did not hear that this proxy leaves");
            }
        }
        time::sleep(grace).await;
    }

    pub(super) fn view(&self) -> FrontView {
        let registered = self.registered.as_ref();
        FrontView {
            serves: self.serves.clone(),
            registered: registered.map(|(standing, hears)| (standing.subscribe(), hears.clone())),
        }
    }
}

impl FrontView {
    /// What is served now, as flags would say it.
    pub(super) fn config(&self) -> serde_json::Value {
        self.serves
            .borrow()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// What is served now and how it is, and whether the controller has heard of it.
    pub(super) fn json(&self) -> (serde_json::Value, Option<bool>) {
        let told = self.registered.as_ref();
        let told = told.map(|(s, h)| (s.borrow().clone(), h.borrow().clone()));
        let serves = Arc::clone(&self.serves.borrow());
        let rows = serves.iter().enumerate().map(|(i, serving)| {
            let mut row = serde_json::json!({
                "service": serving.target.to_string(),
                "application": serving.app,
            });
            if let (Some((standing, heard)), Some(row)) = (&told, row.as_object_mut()) {
                let health = standing.health.get(i).map(|h| h.as_str());
                row.insert("health".into(), health.into());
                row.insert("endpoint".into(), heard.endpoint_ids.get(i).cloned().into());
            }
            row
        });
        (rows.collect(), told.map(|(_, heard)| heard.connected))
    }
}

impl Bound {
    /// Starts what keeps it current, and what tells the controller, which is reached by `channel`.
    pub(super) fn start_front(
        &mut self,
        control: &Control,
        channel: Channel,
        tasks: &mut TaskSet,
    ) -> Result<Front, ProxyError> {
        if !self.config.kubernetes {
            return Ok(self.start_registering(control, channel, tasks));
        }
        let at = self.pod_address()?;
        let mut snapshots = control.snapshot.clone();
        let first = served(&snapshots.borrow_and_update(), at);
        let (tell, serves) = watch::channel(first.into());
        tasks.spawn("served", follow(snapshots, at, tell));
        Ok(Front {
            serves,
            checks: Checks::default(),
            registered: None,
        })
    }

    fn start_registering(
        &mut self,
        control: &Control,
        channel: Channel,
        tasks: &mut TaskSet,
    ) -> Front {
        let (standing, stands) = watch::channel(Standing::default());
        let (heard, hears) = watch::channel(Heard::default());
        let checks = self.start_checks(&standing, tasks);
        let fronted = Fronted {
            proxy: self.config.name.clone(),
            serves: self.config.serves.clone(),
            address: self.advertised(),
            zone: self.config.zone.clone(),
            labels: Arc::clone(&self.config.labels),
        };
        let known = register::known(&control.snapshot.borrow(), &fronted);
        let registering = (!known).then(|| self.readiness.blocker("registration"));
        let serves: Arc<[_]> = self.config.serves.iter().map(Serving::from).collect();
        let svid = control.svid.clone();
        let rng = self.rng.fork();
        tasks.spawn(
            "register",
            register::register(channel, fronted, svid, stands, heard, registering, rng),
        );
        Front {
            serves: watch::channel(serves).1,
            checks,
            registered: Some((standing, hears)),
        }
    }

    /// One health check per served port; their findings meet in `standing`.
    fn start_checks(&mut self, standing: &watch::Sender<Standing>, tasks: &mut TaskSet) -> Checks {
        let (count, mark) = (self.config.serves.len(), self.mark());
        standing.send_modify(|s| s.health = vec![Health::Unknown; count]);
        let mut checks = BTreeMap::new();
        for (i, spec) in self.config.serves.iter().enumerate() {
            let check_now = Arc::new(Notify::new());
            checks.insert(spec.target.clone(), Arc::clone(&check_now));
            let (tell, mut told) = watch::channel(Health::Unknown);
            tasks.spawn(
                "health check",
                health::watch_app(spec.clone(), tell, check_now, mark, self.rng.fork()),
            );
            let standing = standing.clone();
            tasks.spawn("health", async move {
                loop {
                    let health = *told.borrow_and_update();
                    standing.send_if_modified(|s| match s.health.get_mut(i) {
                        Some(slot) if *slot != health => {
                            *slot = health;
                            true
                        }
                        _ => false,
                    });
                    if told.changed().await.is_err() {
                        return;
                    }
                }
            });
        }
        Arc::new(checks)
    }
}

/// Keeps what is served what the newest snapshot says.
async fn follow(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    at: SocketAddr,
    serves: watch::Sender<Arc<[Serving]>>,
) {
    loop {
        let now = served(&snapshots.borrow_and_update(), at);
        serves.send_if_modified(|before| {
            let changed = **before != *now;
            if changed {
                let targets: Vec<_> = now.iter().map(|s| s.target.to_string()).collect();
                tracing::info!(
                    serves = targets.join(" "),
                    "what this pod serves has changed"
                );
                *before = now.into();
            }
            changed
        });
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}
