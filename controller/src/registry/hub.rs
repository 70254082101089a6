//! The registrations where tasks and streams meet them: a lock around the state, a watched value, a file.
//!
//! Owns the state and its file. Readers see the first change at once and further ones after a breath; the disk sees at
//! most one write a second.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::{Notify, watch};
use tradewind_api::id::{ClusterName, EndpointId};
use tradewind_runtime::{
    clock::SharedClock,
    files::{self, FileError},
    metrics::MetricsRegistry,
    task::{self, TaskSet},
};

use super::{
    Registered,
    reports::{PeerSight, Reports},
    state::{Event, FirstHand, Refused, RegistryState, Relay, Saved, StreamId},
};

/// Magic of the registrations' file.
const MAGIC: [u8; 4] = *b"TWRG";
/// Version of the registrations' file: a framed JSON.
const VERSION: u16 = 1;
/// How often time is looked at: small against the grace of two seconds.
const TICK: Duration = Duration::from_millis(200);
/// Between two publications: a thousand proxies that come back together are a few changes, not a thousand.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);
/// Between two writes to disk.
const PERSIST_INTERVAL: Duration = Duration::from_secs(1);

/// Why the registrations could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file is there and out of reach.
    #[error("registrations: {0}")]
    File(#[from] FileError),
}

#[derive(Clone, Debug, Default)]
struct Meters {
    proxies: Gauge,
    endpoints: Gauge,
    gateways: Gauge,
    refused: Counter,
    file_errors: Counter,
}

struct Inner {
    state: Mutex<RegistryState>,
    published: watch::Sender<Arc<Registered>>,
    reports: watch::Sender<Arc<Reports>>,
    changed: Notify,
    to_save: Notify,
    path: PathBuf,
    clock: SharedClock,
    streams: AtomicU64,
    meters: Meters,
}

/// The registrations of this cluster. Cheap to clone.
#[derive(Clone)]
pub struct RegistryHub(Arc<Inner>);

impl std::fmt::Debug for RegistryHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryHub")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

impl RegistryHub {
    /// Reads what an earlier run left in `data_dir`. A damaged file is ignored: proxies tell everything again.
    pub fn open(
        data_dir: &Path,
        cluster: ClusterName,
        clock: SharedClock,
        metrics: &MetricsRegistry,
    ) -> Result<Self, RegistryError> {
        let path = data_dir.join("registrations.json");
        let meters = Meters::default();
        metrics.register(|r| {
            let m = &meters;
            r.register(
                "tradewind_registry_proxies",
                "proxies whose registration stream is up",
                m.proxies.clone(),
            );
            r.register(
                "tradewind_registry_endpoints",
                "endpoints registered by proxies",
                m.endpoints.clone(),
            );
            r.register(
                "tradewind_registry_gateways",
                "gateways whose stream is up",
                m.gateways.clone(),
            );
            r.register(
                "tradewind_registry_refused",
                "registrations refused",
                m.refused.clone(),
            );
            r.register(
                "tradewind_registry_file_errors",
                "failed reads and writes of the registrations' file",
                m.file_errors.clone(),
            );
        });
        let now_ms = clock.unix_ms();
        let saved = match files::read_framed(&path, MAGIC, VERSION) {
            Ok(Some((_, payload))) => {
                serde_json::from_slice::<Saved>(&payload).map_err(|e| e.to_string())
            }
            Ok(None) => Ok(Saved::default()),
            Err(error) if error.is_corrupt() => Err(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let saved = saved.unwrap_or_else(|why| {
            meters.file_errors.inc();
            tracing::warn!(path = %path.display(), why, "the saved registrations are ignored");
            Saved::default()
        });
        let state = RegistryState::restore(cluster, saved, now_ms);
        let published = watch::Sender::new(Arc::new(state.view()));
        let hub = Self(Arc::new(Inner {
            state: Mutex::new(state),
            published,
            reports: watch::Sender::new(Arc::default()),
            changed: Notify::new(),
            to_save: Notify::new(),
            path,
            clock,
            streams: AtomicU64::new(1),
            meters,
        }));
        Ok(hub)
    }

    /// The registered endpoints and gateways, followed.
    pub fn watch(&self) -> watch::Receiver<Arc<Registered>> {
        self.0.published.subscribe()
    }

    /// What the gateways find of the other clusters, followed.
    pub fn reports(&self) -> watch::Receiver<Arc<Reports>> {
        self.0.reports.subscribe()
    }

    /// Starts what makes time pass, publishes and saves.
    pub fn start(&self, tasks: &mut TaskSet) {
        let hub = self.clone();
        tasks.spawn("registry-tick", async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                drop(hub.apply(Event::Tick));
            }
        });
        let hub = self.clone();
        tasks.spawn("registry-publish", async move {
            loop {
                hub.0.changed.notified().await;
                hub.publish();
                tokio::time::sleep(PUBLISH_INTERVAL).await;
            }
        });
        let hub = self.clone();
        tasks.spawn("registry-save", async move {
            loop {
                hub.0.to_save.notified().await;
                hub.save().await;
                tokio::time::sleep(PERSIST_INTERVAL).await;
            }
        });
    }

    /// A number for a stream that just opened.
    pub(super) fn stream(&self) -> StreamId {
        StreamId(self.0.streams.fetch_add(1, Ordering::Relaxed))
    }

    /// Who is connected to this very controller.
    pub(crate) fn first_hand(&self) -> FirstHand {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.first_hand()
    }

    /// For a stream to another controller of this cluster, by which it tells what it knows.
    pub(crate) fn relay(&self) -> RelayStream {
        RelayStream {
            hub: self.clone(),
            stream: self.stream(),
        }
    }

    /// Applies one event at the clock's time.
    pub(super) fn apply(&self, event: Event) -> Result<Vec<EndpointId>, Refused> {
        let now_ms = self.0.clock.unix_ms();
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.changes();
        let applied = state.apply(event, now_ms);
        debug_assert_eq!(state.validate(), Ok(()));
        let changed = state.changes() != before;
        drop(state);
        if applied.is_err() {
            self.0.meters.refused.inc();
        }
        if changed {
            self.0.changed.notify_one();
        }
        applied
    }

    /// Takes what a gateway says of the others.
    pub(super) fn reported(
        &self,
        stream: StreamId,
        gateway: &str,
        peers: BTreeMap<ClusterName, PeerSight>,
    ) {
        let now_ms = self.0.clock.unix_ms();
        self.0.reports.send_modify(|reports| {
            Arc::make_mut(reports).take((stream, gateway), peers, now_ms);
        });
    }

    fn publish(&self) {
        let view = self
            .0
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .view();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let m = &self.0.meters;
        m.proxies.set(count(view.connected_proxies));
        m.endpoints.set(count(view.workloads.len()));
        m.gateways.set(count(
            view.gateways.values().filter(|g| g.connected).count(),
        ));
        self.0.published.send_replace(Arc::new(view));
        self.0.to_save.notify_one();
    }

    async fn save(&self) {
        let saved = self
            .0
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .save();
        let path = self.0.path.clone();
        let written = task::spawn_blocking(move || {
            let json = serde_json::to_vec(&saved).map_err(|e| e.to_string())?;
            files::write_framed(&path, MAGIC, VERSION, &json, 0o600).map_err(|e| e.to_string())
        })
        .await
        .map_err(|e| e.to_string())
        .and_then(|r| r);
        if let Err(why) = written {
            self.0.meters.file_errors.inc();
            tracing::warn!(path = %self.0.path.display(), why, "registrations were not saved");
        }
    }
}

/// What another controller tells, for as long as its stream lasts.
#[derive(Debug)]
pub(crate) struct RelayStream {
    hub: RegistryHub,
    stream: StreamId,
}

impl RelayStream {
    /// Takes one thing. What cannot stand beside what is known here is left: whoever is connected is believed first.
    pub(crate) fn take(&self, relay: Relay) {
        let stream = self.stream;
        if let Err(refused) = self.hub.apply(Event::Relayed { stream, relay }) {
            tracing::debug!(%refused, "another controller's registration was left");
        }
    }
}

impl Drop for RelayStream {
    fn drop(&mut self) {
        drop(self.hub.apply(Event::RelayEnded(self.stream)));
    }
}

/// Tells the hub when a stream ends, however it ends.
pub(super) struct Ends {
    hub: RegistryHub,
    stream: StreamId,
}

impl Ends {
    pub(super) fn of(hub: &RegistryHub) -> Self {
        Self {
            hub: hub.clone(),
            stream: hub.stream(),
        }
    }

    pub(super) const fn stream(&self) -> StreamId {
        self.stream
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.hub.apply(Event::StreamEnded(self.stream)));
        self.hub.0.reports.send_if_modified(|reports| {
            // Nearly all streams are proxies'.
            reports.holds(self.stream) && Arc::make_mut(reports).ended(self.stream)
        });
    }
}
