//! The tasks behind a `Control`: identity, discovery, disk, gauges.
//!
//! Owns the write ends of the cells that `Control` hands out. Every loop retries for as long as the process lives;
//! losing the controller changes the status and nothing else.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tradewind_api::{
    id::{ClusterName, Domain, Region, SpiffeId},
    proto::discovery::{
        Locality, Node, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    snapshot::{Snapshot, Trust},
};
use tradewind_runtime::{
    backoff::Backoff,
    clock::SharedClock,
    dirs,
    metrics::MetricsRegistry,
    ready::{Blocker, Readiness},
    rng::Rng,
    task::TaskSet,
};

use super::{
    BootstrapToken, Control, ControlConfig, ControlError, ControlStatus, ControllerAddr,
    InvalidToken, Proof, ServiceAccount, disk, identity, link, metrics::Meters, openings, sealed,
};
use crate::{
    discovery,
    svid::SvidCell,
    trust::{TrustCell, TrustError},
};

/// First wait before a broken stream is opened again.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
/// Longest wait: a controller that comes back is followed within seconds.
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// How long opening a stream may take; the controller answers with headers at once.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// Largest response: the first one carries every service of the federation.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// Answers waiting to be sent: one per type is outstanding, and three open the stream.
const REPLIES: usize = 16;
/// How often the gauges that depend on time are set.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// What the tasks share.
pub(super) struct Shared {
    pub(super) config: ControlConfig,
    pub(super) clock: SharedClock,
    pub(super) svid: SvidCell,
    pub(super) trust: TrustCell,
    pub(super) proof: Checked,
    pub(super) channel: Channel,
    /// Whose turn it is to be asked by one without a certificate, where there are several controllers.
    pub(super) turns: link::Turns,
    pub(super) meters: Meters,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) status: watch::Sender<ControlStatus>,
    blockers: Mutex<Blockers>,
}

/// A proof as far as it can be checked at the start: a service account's files come and change while the process runs.
pub(super) enum Checked {
    None,
    Token(BootstrapToken),
    ServiceAccount(ServiceAccount),
}

impl TryFrom<&Proof> for Checked {
    type Error = InvalidToken;

    fn try_from(proof: &Proof) -> Result<Self, InvalidToken> {
        Ok(match proof {
            Proof::None => Self::None,
            Proof::Token(text) => Self::Token(BootstrapToken::parse(text)?),
            Proof::ServiceAccount(account) => Self::ServiceAccount(account.clone()),
        })
    }
}

#[derive(Default)]
struct Blockers {
    certificate: Option<Blocker>,
    snapshot: Option<Blocker>,
}

impl Shared {
    pub(super) fn now_unix_s(&self) -> i64 {
        i64::try_from(self.clock.unix_ms() / 1000).unwrap_or(i64::MAX)
    }

    /// Takes the trust map that came with a certificate, if there is none yet. A later one comes by discovery alone,
    /// so that an answer delayed on its way never brings back an authority that was removed meanwhile.
    pub(super) fn first_trust(&self, trust: &Trust) -> Result<(), TrustError> {
        if self.snapshot.borrow().trust.roots.is_empty() {
            self.trust.set(trust)
        } else {
            Ok(())
        }
    }

    /// Remembers which cluster this process belongs to.
    pub(super) fn belongs_to(&self, cluster: ClusterName, region: Region) {
        self.status.send_modify(|s| {
            s.cluster = Some(cluster);
            s.region = Some(region);
        });
    }

    pub(super) fn cluster(&self) -> Option<ClusterName> {
        self.status.borrow().cluster.clone()
    }

    pub(super) fn region(&self) -> Option<Region> {
        self.status.borrow().region.clone()
    }

    pub(super) fn release_certificate(&self) {
        drop(
            self.blockers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .certificate
                .take(),
        );
    }

    // Puts a snapshot in force. A trust map that cannot be compiled is refused; the rest of the snapshot counts.
    fn publish(&self, snapshot: Arc<Snapshot>, since_unix_ms: u64, from_disk: bool) {
        let old = self.snapshot.borrow().clone();
        if !snapshot.trust.roots.is_empty()
            && (from_disk || *old.trust != *snapshot.trust)
            && let Err(error) = self.trust.set(&snapshot.trust)
        {
            self.meters.nacks.inc();
            tracing::error!(%error, "the trust map cannot be used; the last good one stays");
        }
        let local = snapshot.local().cloned();
        self.status.send_modify(|s| {
            s.revision = snapshot.revision;
            s.from_disk = from_disk;
            s.changed_at_unix_ms = since_unix_ms;
            if let Some(local) = local {
                s.cluster = Some(local.name.clone());
                s.region = Some(local.region.clone());
            }
        });
        self.meters
            .revision
            .set(i64::try_from(snapshot.revision.0).unwrap_or(i64::MAX));
        self.snapshot.send_replace(snapshot);
        drop(
            self.blockers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .snapshot
                .take(),
        );
    }

    fn connected(&self, connected: bool) {
        let now = self.clock.unix_ms();
        self.meters.connected.set(i64::from(connected));
        self.status.send_if_modified(|s| {
            let changed = s.connected != connected;
            s.connected = connected;
            if connected {
                s.heard_at_unix_ms = now;
                s.from_disk = false;
            }
            changed
        });
    }
}

/// See [`Control::start`].
pub(super) async fn start(
    config: ControlConfig,
    clock: SharedClock,
    mut rng: Rng,
    metrics: &MetricsRegistry,
    readiness: &Readiness,
    tasks: &mut TaskSet,
) -> Result<Control, ControlError> {
    let proof = Checked::try_from(&config.proof)?;
    check(&config)?;
    let (svid, trust) = (SvidCell::empty(), TrustCell::empty());
    let turns = link::Turns::default();
    let channel = match &config.controller {
        ControllerAddr::Unix(path) => link::unix(path.clone()),
        ControllerAddr::Tcp(address) => {
            let dial = link::tcp(address.clone(), config.mark);
            link::mutual(dial, svid.clone(), trust.clone())
        }
        ControllerAddr::OneOf(all) => {
            let turns = turns.clone();
            link::one_of(
                (all.clone(), turns),
                config.mark,
                svid.clone(),
                trust.clone(),
            )
        }
    };
    let blockers = Blockers {
        certificate: config
            .identity_path
            .as_ref()
            .map(|_| readiness.blocker("certificate")),
        snapshot: Some(readiness.blocker("snapshot")),
    };
    let shared = Arc::new(Shared {
        clock,
        svid,
        trust,
        proof,
        channel,
        turns,
        meters: Meters::register(metrics),
        snapshot: watch::Sender::new(Arc::default()),
        status: watch::Sender::new(ControlStatus::default()),
        blockers: Mutex::new(blockers),
        config,
    });
    if let Some(dir) = shared.config.state_dir.clone() {
        load(&shared, &dir).await?;
    }
    if shared.config.controller.is_remote()
        && matches!(shared.proof, Checked::None)
        && shared.svid.current().is_none()
    {
        return Err(ControlError::NeedsIdentity {
            address: shared.config.controller.to_string(),
            missing: "a token",
        });
    }
    if let Some(path) = shared.config.identity_path.clone() {
        tasks.spawn(
            "control-identity",
            identity::keep(Arc::clone(&shared), path, rng.fork()),
        );
    }
    tasks.spawn("control-discovery", follow(Arc::clone(&shared), rng.fork()));
    if let Some(dir) = &shared.config.state_dir {
        let path = dir.join(disk::FILE);
        tasks.spawn(
            "control-disk",
            disk::keep(Arc::clone(&shared), path, rng.fork()),
        );
        if is_gateway(&shared) {
            let kept = openings::keep(
                Arc::clone(&shared),
                dir.clone(),
                shared.snapshot.subscribe(),
            );
            tasks.spawn("control-openings", kept);
        }
    }
    tasks.spawn("control-gauges", gauges(Arc::clone(&shared)));
    Ok(Control {
        svid: shared.svid.clone(),
        trust: shared.trust.clone(),
        snapshot: shared.snapshot.subscribe(),
        status: shared.status.subscribe(),
        channel: Some(shared.channel.clone()),
    })
}

/// True for the one role that opens sealed names.
fn is_gateway(shared: &Shared) -> bool {
    shared.config.role == "gateway"
}

fn check(config: &ControlConfig) -> Result<(), ControlError> {
    if let Some(path) = &config.identity_path {
        // Any trust domain will do to check a path's form.
        let domain = Domain::default();
        let known = ClusterName::new("any").map(|c| domain.trust_domain(&c));
        let good =
            path.starts_with('/') && known.is_ok_and(|td| SpiffeId::from_path(&td, path).is_ok());
        if !good {
            return Err(ControlError::IdentityPath { path: path.clone() });
        }
    } else if config.controller.is_remote() {
        let (address, missing) = (config.controller.to_string(), "an identity");
        return Err(ControlError::NeedsIdentity { address, missing });
    }
    Ok(())
}

// What an earlier run left. Only a directory that cannot be used is an error: what is in it is a cache.
async fn load(shared: &Arc<Shared>, dir: &Path) -> Result<(), ControlError> {
    dirs::ensure_dir(dir, 0o700).map_err(|e| ControlError::StateDir {
        path: dir.to_owned(),
        why: e.to_string(),
    })?;
    if shared.config.identity_path.is_some() {
        sealed::load(shared, dir).await;
    }
    let path = dir.join(disk::FILE);
    match disk::read(path.clone()).await {
        Ok(Some(saved)) => {
            tracing::info!(revision = %saved.snapshot.revision, "the last good snapshot was read from disk");
            let mut snapshot = saved.snapshot;
            if is_gateway(shared) {
                snapshot.openings = openings::load(shared, dir).await;
            }
            shared.publish(Arc::new(snapshot), saved.since_unix_ms, true);
        }
        Ok(None) => {}
        Err(why) => {
            shared.meters.cache_errors.inc();
            tracing::warn!(path = %path.display(), %why, "the snapshot on disk is ignored");
        }
    }
    Ok(())
}

async fn follow(shared: Arc<Shared>, mut rng: Rng) {
    let mut client = match shared.config.role {
        _ if is_gateway(&shared) => discovery::Client::with_openings(),
        "proxy" => discovery::Client::with_routes(),
        _ => discovery::Client::new(),
    };
    let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
    let mut told = String::new();
    loop {
        if shared.config.controller.is_remote() {
            let mut svid = shared.svid.watch();
            if svid.wait_for(Option::is_some).await.is_err() {
                return;
            }
        }
        let why = match stream(&shared, &mut client, &mut backoff).await {
            Ok(()) => "the controller ended the stream".to_owned(),
            Err(status) => reason(&status),
        };
        let was_connected = shared.status.borrow().connected;
        shared.connected(false);
        if was_connected || why != told {
            tracing::warn!(controller = %shared.config.controller, %why, "discovery stream lost; the last good snapshot stays in force");
            told = why;
        }
        tokio::time::sleep(backoff.next(&mut rng)).await;
    }
}

async fn stream(
    shared: &Shared,
    client: &mut discovery::Client,
    backoff: &mut Backoff,
) -> Result<(), tonic::Status> {
    let node = Node {
        id: shared.config.node_name.clone(),
        cluster: shared
            .status
            .borrow()
            .cluster
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        locality: shared.config.zone.as_ref().map(|zone| Locality {
            zone: zone.to_string(),
            ..Locality::default()
        }),
        user_agent_name: shared.config.role.to_owned(),
    };
    let (replies, outgoing) = mpsc::channel(REPLIES);
    for request in client.open(&node) {
        replies
            .try_send(request)
            .map_err(|e| tonic::Status::internal(e.to_string()))?;
    }
    let mut grpc = AggregatedDiscoveryServiceClient::new(shared.channel.clone())
        .max_decoding_message_size(MAX_RESPONSE_BYTES);
    let opening = grpc.delta_aggregated_resources(ReceiverStream::new(outgoing));
    let mut responses = tokio::time::timeout(OPEN_DEADLINE, opening)
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("the stream did not open within 10 s"))??
        .into_inner();
    while let Some(response) = responses.message().await? {
        let step = client.receive(response);
        for rejected in &step.rejected {
            shared.meters.nacks.inc();
            tracing::warn!(resource = %rejected.name, why = %rejected.why, "a resource was rejected");
        }
        if let Some(snapshot) = step.snapshot {
            shared.publish(snapshot, shared.clock.unix_ms(), false);
        }
        if client.in_sync() {
            backoff.reset();
            if !shared.status.borrow().connected {
                tracing::info!(controller = %shared.config.controller, "discovery stream in sync");
            }
            shared.connected(true);
        }
        if replies.send(step.reply).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn gauges(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(GAUGE_INTERVAL);
    loop {
        ticks.tick().await;
        let now = shared.clock.unix_ms();
        let status = shared.status.borrow().clone();
        let since = status.heard_at_unix_ms.max(status.changed_at_unix_ms);
        let age = if status.connected {
            shared.connected(true);
            0.0
        } else if since == 0 {
            -1.0
        } else {
            Duration::from_millis(now.saturating_sub(since)).as_secs_f64()
        };
        shared.meters.age_seconds.set(age);
        let left_s = shared.svid.current().map_or(0, |svid| {
            u64::try_from(svid.not_after_unix_s.saturating_sub(shared.now_unix_s())).unwrap_or(0)
        });
        shared
            .meters
            .expiry_seconds
            .set(Duration::from_secs(left_s).as_secs_f64());
    }
}

/// A failed call's cause, down to the socket where there is one.
pub(super) fn reason(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
