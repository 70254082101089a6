//! The controller as a process: opens the data directory and the store, binds its listeners, wires every part to the
//! others and stops them in order.
//!
//! Owns the tasks and the wiring, no decision. A peer's death must never touch this process's readiness.

mod follow;
mod identity;
mod introduce;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use nix::unistd::geteuid;
use serde_json::json;
use tokio::sync::watch;
use tonic::service::{Routes, RoutesBuilder};
use tradewind_api::{
    proto::v1::{
        admin_server::AdminServer as AdminGrpc, federation_server::FederationServer,
        raft_server::RaftServer,
    },
    snapshot::{Snapshot, Trust},
};
use tradewind_ca::{AuthorityKey, Issuer, Root, StoredError};
use tradewind_federation::{Store, StoreConfig, StoreError, Timing};
use tradewind_runtime::{
    AdminBound, AdminServer, AdminState, BindError, Blocker, LogHandle, MetricsRegistry, Readiness,
    Rng, SharedClock, TaskSet, drain, files::FileError,
};
use tradewind_transport::{
    svid::SvidCell,
    tls::{ClientAuth, server_config},
    trust::{TrustCell, TrustError, sha256},
};

use crate::{
    admin_service::{AdminInput, AdminService},
    ads::AdsService,
    attest::{HostIdentities, HostIdentitiesError},
    compile::Leases,
    config::ControllerConfig,
    datadir::{DataDir, DataDirError},
    exports::Exports,
    identity_service::{IdentityConfig, IdentityService, TokensError, WorkloadTokens},
    join::FederationService,
    local::{LocalModel, Own},
    publish::{PublishInput, Publisher},
    raft_net::{MAX_MESSAGE_BYTES, Peers, RaftService},
    registry::{GatewayRegistryService, RegistryError, RegistryHub, RegistryService},
    server::{Access, ListenConfig, ListenError, Listeners, Serving},
    source::{Manifests, YamlModel},
};

use follow::Follower;
use identity::{CertificateError, KeepCertificate};

/// Users of this host and the identities they may ask for: optional, in the data directory.
const IDENTITIES_FILE: &str = "identities.yaml";
/// The socket's mode: for the owner alone, or for all where other users are mapped to identities (each call is
/// authorised by the caller's uid either way).
const SOCKET_OWNER: u32 = 0o600;
const SOCKET_ALL: u32 = 0o666;

/// Why a controller could not be made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A key or certificate in it.
    #[error(transparent)]
    Keys(#[from] StoredError),
    /// It has no authority.
    #[error("data directory {path} has no authority.key: this cluster could sign nothing", path = .0.display())]
    NoAuthority(PathBuf),
    /// Another of its files.
    #[error(transparent)]
    File(#[from] FileError),
    /// The registrations.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The workload tokens.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The users' identities.
    #[error(transparent)]
    Identities(#[from] HostIdentitiesError),
    /// A gRPC listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] BindError),
    /// The own certificate.
    #[error("this controller's own certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BuildError {
    /// What the operator can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::DataDir(error) => error.hint(),
            Self::Keys(_) | Self::NoAuthority(_) | Self::File(_) | Self::Registry(_) | Self::Tokens(_) => {
                "restore the data directory from a backup; if there is none, join again under a new --data-dir".into()
            }
            Self::Identities(_) => format!("correct {IDENTITIES_FILE} in the data directory"),
            Self::Listen(_) => "stop what listens there, or choose another with --listen or --socket".into(),
            Self::Admin(_) => "stop what listens there, or choose another with --admin-listen".into(),
            Self::Certificate(_) => "see that this host's clock is right".into(),
            Self::Store(_) => "the message says what helps; nothing was changed".into(),
        }
    }
}

/// Why a running controller ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener stopped being one.
    #[error("the controller's listener: {0}")]
    Listener(io::Error),
    /// The store stopped by itself: its disk failed.
    #[error("the store has stopped: {0}")]
    Store(String),
}

/// What a controller is made from.
#[derive(Debug)]
pub struct Controller;

/// A controller that listens but does not serve yet.
pub struct Bound {
    config: ControllerConfig,
    listen_addr: SocketAddr,
    socket: PathBuf,
    listeners: Listeners,
    admin: AdminBound,
    readiness: Readiness,
    blockers: Blockers,
    parts: Parts,
    log: Option<LogHandle>,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("listen_addr", &self.listen_addr)
            .finish_non_exhaustive()
    }
}

/// What readiness waits for; each is released by being dropped.
struct Blockers {
    store: Blocker,
    listeners: Blocker,
}

/// Everything that is open.
struct Parts {
    own: Own,
    node_id: u64,
    data_dir: Arc<Mutex<DataDir>>,
    spool: PathBuf,
    configured_gateways: Vec<String>,
    first_trust: Arc<Trust>,
    replicated: bool,
    root: Option<Root>,
    issuer: Arc<Issuer>,
    hosts: Arc<HostIdentities>,
    exports: Exports,
    tokens: WorkloadTokens,
    registry: RegistryHub,
    svid: SvidCell,
    trust: TrustCell,
    certificate: KeepCertificate,
    peers: Peers,
    store: Store,
    metrics: MetricsRegistry,
    clock: SharedClock,
    rng: Rng,
}

impl Controller {
    /// Opens the data directory and the store, and binds every listener. Changes nothing when it fails.
    pub async fn build(
        config: ControllerConfig,
        clock: SharedClock,
        mut rng: Rng,
        log: Option<LogHandle>,
    ) -> Result<Bound, BuildError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let node = data_dir.node().clone();
        let own = Own::from(&node);
        let path = data_dir.path().to_owned();
        let issuer =
            AuthorityKey::load(&path)?.ok_or_else(|| BuildError::NoAuthority(path.clone()))?;
        let root = Root::load(&path)?;
        let metrics = MetricsRegistry::new();
        let root_sha256 = sha256(issuer.root_der());
        let tokens =
            WorkloadTokens::open(&path, own.cluster.clone(), own.domain.clone(), root_sha256)?;
        let hosts = HostIdentities::load(&path.join(IDENTITIES_FILE))?;
        let exports = Exports::open(&path)?;
        let registry = RegistryHub::open(&path, own.cluster.clone(), Arc::clone(&clock), &metrics)?;
        let first_trust = first_trust(&data_dir, &own, &issuer)?;

        let socket = config.socket_path();
        let listen = ListenConfig {
            tcp: config.listen,
            socket: Some(socket.clone()),
            socket_mode: if hosts == HostIdentities::default() {
                SOCKET_OWNER
            } else {
                SOCKET_ALL
            },
        };
        let admin = AdminServer::bind(config.admin_listen)?;
        let listeners = Listeners::bind(&listen).await?;
        let listen_addr = listeners
            .local_addr()
            .map_err(|cause| ListenError::Socket {
                path: path.clone(),
                cause,
            })?;

        let readiness = Readiness::new();
        let blockers = Blockers {
            store: readiness.blocker("store"),
            listeners: readiness.blocker("listeners"),
        };
        let certified = readiness.blocker("certificate");
        let issuer = Arc::new(issuer);
        let svid = SvidCell::empty();
        let trust = TrustCell::new(&first_trust).map_err(|e| corrupt_trust(&path, &e))?;
        let certificate = KeepCertificate::new(
            Arc::clone(&issuer),
            &own,
            node.node_id,
            Arc::clone(&clock),
            rng.fork(),
        );
        svid.set(certificate.issue()?);
        drop(certified);

        let peers = Peers::new(
            own.cluster.clone(),
            node.node_id,
            own.domain.clone(),
            svid.clone(),
            trust.clone(),
            node.known_clusters.clone(),
        );
        let store_config = StoreConfig {
            data_dir: data_dir.store(),
            node_id: node.node_id,
            cluster: own.cluster.clone(),
            timing: Timing::default(),
        };
        let store = Store::open(
            store_config,
            Arc::new(peers.clone()),
            Arc::clone(&clock),
            rng.fork(),
            &metrics,
        )
        .await?;
        let parts = Parts {
            own,
            node_id: node.node_id,
            data_dir: Arc::new(Mutex::new(data_dir)),
            spool: path,
            configured_gateways: node.gateways,
            first_trust: Arc::new(first_trust),
            replicated: node.replicated,
            root,
            issuer,
            hosts: Arc::new(hosts),
            exports,
            tokens,
            registry,
            svid,
            trust,
            certificate,
            peers,
            store,
            metrics,
            clock,
            rng,
        };
        Ok(Bound {
            config,
            listen_addr,
            socket,
            listeners,
            admin,
            readiness,
            blockers,
            parts,
            log,
        })
    }
}

/// Whom to believe before the store says so: what was saved last, else this cluster's own authority.
fn first_trust(data_dir: &DataDir, own: &Own, issuer: &Issuer) -> Result<Trust, BuildError> {
    let saved = data_dir.trust()?;
    Ok(saved
        .filter(|t| !t.roots.is_empty())
        .unwrap_or_else(|| Trust {
            domain: own.domain.clone(),
            roots: [issuer.root_der().to_vec()].into(),
            authorities: [(
                own.domain.trust_domain(&own.cluster),
                [issuer.authority_der().to_vec()].into(),
            )]
            .into(),
        }))
}

fn corrupt_trust(path: &Path, error: &TrustError) -> BuildError {
    DataDirError::Corrupt {
        path: path.join("trust.json"),
        why: error.to_string(),
    }
    .into()
}

impl Bound {
    /// Where it listens for gRPC.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen_addr
    }

    /// Where its health and metrics are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// The unix socket for local callers.
    pub fn socket_path(&self) -> &Path {
        &self.socket
    }

    /// What it still waits for.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Serves until the drain, or until the cluster left.
    pub async fn run(self, mut drain: drain::Watch) -> Result<(), RunError> {
        let Self {
            config,
            listeners,
            admin,
            readiness,
            blockers,
            mut parts,
            log,
            ..
        } = self;
        // Leaving ends the process from inside, so everything follows a drain of its own.
        let (trigger, inner) = drain::channel();
        let (left, mut has_left) = watch::channel(false);
        let mut tasks = TaskSet::new();
        let wired = parts.wire(&config, &mut tasks, &inner, left, blockers.store);
        let state = parts.admin_state(&config, readiness, log, &wired);
        tasks.spawn("admin", admin.run(state, inner.clone()));
        let serving = Serving {
            tls: server_config(&parts.svid, &parts.trust, ClientAuth::Optional),
            trust: parts.trust.clone(),
            clock: Arc::clone(&parts.clock),
        };
        let (metrics, watch) = (parts.metrics.clone(), inner.clone());
        let mut serve = TaskSet::new();
        serve.spawn("serve", async move {
            listeners
                .serve(wired.routes, serving, &metrics, watch)
                .await
        });
        drop(inner);
        drop(blockers.listeners);
        tracing::info!(cluster = %parts.own.cluster, node_id = parts.node_id, "controller serves");

        let store = parts.store.clone();
        let ended = tokio::select! {
            biased;
            () = drain.triggered() => Ok(()),
            _ = has_left.wait_for(|left| *left) => Ok(()),
            why = store_stopped(&store) => Err(RunError::Store(why)),
        };
        if !trigger.drain(config.drain_deadline).await {
            tracing::warn!("calls were still in flight at the deadline");
        }
        serve.abort_all().await;
        tasks.abort_all().await;
        parts.store.shutdown().await;
        drop(drain);
        ended
    }
}

/// Returns once the store stopped by itself.
async fn store_stopped(store: &Store) -> String {
    /// A store that stopped answers nobody; a second more does not matter.
    const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(why) = store.status().stopped {
            return why;
        }
    }
}

/// What the wiring yields.
struct Wired {
    routes: Routes,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    yaml: watch::Receiver<Arc<YamlModel>>,
}

impl Parts {
    /// Starts every task and makes the routes.
    fn wire(
        &mut self,
        config: &ControllerConfig,
        tasks: &mut TaskSet,
        drain: &drain::Watch,
        left: watch::Sender<bool>,
        store_blocker: Blocker,
    ) -> Wired {
        let access = Access::new(
            &self.own.cluster,
            &self.own.domain,
            self.trust.clone(),
            Arc::clone(&self.hosts),
            geteuid().as_raw(),
        );
        self.registry.start(tasks);
        let registered = self.registry.watch();
        let (yaml_tx, yaml) = watch::channel(Arc::new(YamlModel::default()));
        let (local_tx, local) = watch::channel(Arc::new(LocalModel::default()));
        // Empty, and so not pushed, until the first one is compiled.
        let (snapshot_tx, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let (leases_tx, leases) = watch::channel(Arc::new(Leases::default()));
        let (introduced_tx, introduced) = watch::channel(None);
        match &config.manifests {
            Some(directory) => {
                tasks.spawn(
                    "manifests",
                    Manifests::new(directory.clone()).run(yaml_tx, drain.observer()),
                );
            }
            None => {
                yaml_tx.send_replace(Arc::new(YamlModel {
                    read: true,
                    ..YamlModel::default()
                }));
            }
        }
        let follower = Follower {
            own: self.own.clone(),
            store: self.store.clone(),
            peers: self.peers.clone(),
            trust: self.trust.clone(),
            data_dir: Arc::clone(&self.data_dir),
            exports: self.exports.clone(),
            clock: Arc::clone(&self.clock),
            first_trust: Arc::clone(&self.first_trust),
            replicated: self.replicated,
            registered: registered.clone(),
            yaml: yaml.clone(),
            introduced,
            local: local_tx,
            snapshots: snapshot_tx,
            leases: leases_tx,
            left: left.clone(),
        };
        tasks.spawn("compile", follower.run(store_blocker, drain.observer()));
        tasks.spawn(
            "certificate",
            self.certificate
                .clone()
                .run(self.svid.clone(), drain.observer()),
        );
        let introducer = introduce::Introducer {
            store: self.store.clone(),
            peers: self.peers.clone(),
            node_id: self.node_id,
            rng: self.rng.fork(),
            told: introduced_tx,
        };
        tasks.spawn("introduce", introducer.run(drain.observer()));
        let publish = PublishInput {
            store: self.store.clone(),
            own: self.own.clone(),
            local: local.clone(),
            intents: self.exports.watch(),
            registered: registered.clone(),
            configured_gateways: self.configured_gateways.clone(),
        };
        tasks.spawn(
            "lease",
            Publisher::keep_lease(publish.clone(), drain.observer()),
        );
        let (publisher, publishing) = Publisher::new(publish, self.rng.fork());
        tasks.spawn("publish", publisher.run(drain.observer()));

        let admin = AdminService::new(AdminInput {
            store: self.store.clone(),
            access: access.clone(),
            own: self.own.clone(),
            root_sha256: sha256(self.issuer.root_der()),
            exports: self.exports.clone(),
            local,
            yaml: yaml.clone(),
            registered,
            snapshots: snapshots.clone(),
            leases,
            publishing,
            tokens: self.tokens.clone(),
            configured_gateways: self.configured_gateways.clone(),
            data_dir: Arc::clone(&self.data_dir),
            left,
            clock: Arc::clone(&self.clock),
        });
        let routes = self.routes(&access, admin, snapshots.clone());
        Wired {
            routes,
            snapshots,
            yaml,
        }
    }

    fn routes(
        &mut self,
        access: &Access,
        admin: AdminService,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Routes {
        let federation = FederationService::new(
            self.own.cluster.clone(),
            self.store.clone(),
            access.clone(),
            self.peers.clone(),
            self.root.take(),
            Arc::clone(&self.clock),
        );
        let raft = RaftService::new(
            self.store.clone(),
            access.clone(),
            self.node_id,
            self.spool.clone(),
        );
        let identity = IdentityConfig {
            issuer: Arc::clone(&self.issuer),
            access: access.clone(),
            tokens: self.tokens.clone(),
            snapshots: snapshots.clone(),
            cluster: self.own.cluster.clone(),
            region: self.own.region.clone(),
            clock: Arc::clone(&self.clock),
        };
        let mut routes = RoutesBuilder::default();
        routes
            .add_service(AdminGrpc::new(admin))
            .add_service(
                RaftServer::new(raft)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                FederationServer::new(federation)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(IdentityService::new(identity, &self.metrics).into_service())
            .add_service(AdsService::new(access.clone(), snapshots, &self.metrics).into_service())
            .add_service(RegistryService::new(self.registry.clone(), access.clone()).into_service())
            .add_service(
                GatewayRegistryService::new(self.registry.clone(), access.clone()).into_service(),
            );
        routes.routes()
    }

    fn admin_state(
        &self,
        config: &ControllerConfig,
        readiness: Readiness,
        log: Option<LogHandle>,
        wired: &Wired,
    ) -> AdminState {
        let shown = json!({
            "data_dir": config.data_dir,
            "listen": config.listen,
            "admin_listen": config.admin_listen,
            "manifests": config.manifests,
            "socket": config.socket_path(),
            "node": self.data_dir.lock().unwrap_or_else(PoisonError::into_inner).node(),
        });
        let (store, snapshots, yaml) = (
            self.store.clone(),
            wired.snapshots.clone(),
            wired.yaml.clone(),
        );
        let registered = self.registry.watch();
        AdminState {
            readiness,
            metrics: self.metrics.clone(),
            log,
            config: Arc::new(move || shown.clone()),
            state: Arc::new(move || {
                json!({
                    "store": store.status(),
                    "registered": **registered.borrow(),
                    "problems": yaml.borrow().problems,
                    "snapshot": **snapshots.borrow(),
                })
            }),
        }
    }
}
