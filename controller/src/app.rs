//! The controller as a process: opens the data directory and the store, binds its listeners, wires every part to the
//! others and stops them in order.
//!
//! Owns the tasks and the wiring, no decision. A peer's death must never touch this process's readiness.

mod basis;
mod follow;
mod identity;
mod introduce;
mod meters;
mod parts;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::watch;
use tradewind_api::ClusterName;
use tradewind_ca::StoredError;
use tradewind_federation::{Store, StoreError};
use tradewind_kubernetes::{Client, ClientError};
use tradewind_runtime::{
    AdminBound, AdminServer, BindError, Blocker, LogHandle, Readiness, Rng, SharedClock, TaskSet,
    drain, files::FileError,
};
use tradewind_transport::tls::{ClientAuth, server_config};

use crate::{
    attest::{HostIdentities, HostIdentitiesError},
    config::ControllerConfig,
    datadir::DataDirError,
    identity_service::TokensError,
    registry::RegistryError,
    server::{ListenConfig, ListenError, Listeners, Serving},
    webhook::{Webhook, WebhookError},
};

pub use identity::CertificateError;
pub(crate) use identity::KeepCertificate;
pub(crate) use introduce::{Introduced, read as read_introduction};
pub(crate) use parts::first_trust;
use parts::{Files, Parts};

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
    /// It belongs to the other kind of member.
    #[error("data directory {path} holds the {} {name}, not a {}", kind(*.witness), kind(!*.witness), path = path.display())]
    Kind {
        /// Which.
        path: PathBuf,
        /// Whose.
        name: ClusterName,
        /// True if a witness's.
        witness: bool,
    },
    /// The directory of manifests.
    #[error("manifest directory {path} cannot be read: {cause}", path = path.display())]
    Manifests {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The way to the API server.
    #[error(transparent)]
    Kubernetes(#[from] ClientError),
    /// The webhook.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const fn kind(witness: bool) -> &'static str {
    if witness { "witness" } else { "cluster" }
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
            Self::Kind { witness, .. } => format!(
                "start it with `tradewind {}`",
                if *witness { "witness" } else { "controller" }
            ),
            Self::Certificate(_) => "see that this host's clock is right".into(),
            Self::Manifests { .. } => "make the directory, or start without --manifests".into(),
            Self::Kubernetes(_) => "name a kubeconfig that works with --kubeconfig, or start without --kubernetes".into(),
            Self::Webhook(error) => error.hint().into(),
            Self::Store(StoreError::File(_)) => {
                "while other clusters hold the store, `tradewind store rejoin` brings this node back under a new id".into()
            }
            Self::Store(_) => "the message says what helps; nothing was changed".into(),
        }
    }
}

/// Why a running controller ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
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
    webhook: Option<Webhook>,
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

impl Controller {
    /// Opens the data directory and the store, and binds every listener. Changes nothing when it fails.
    pub async fn build(
        mut config: ControllerConfig,
        clock: SharedClock,
        mut rng: Rng,
        log: Option<LogHandle>,
    ) -> Result<Bound, BuildError> {
        let files = Files::open(&config.data_dir, &clock)?;
        if files.own.witness != config.witness {
            return Err(BuildError::Kind {
                path: config.data_dir,
                name: files.own.cluster,
                witness: files.own.witness,
            });
        }
        if let Some(path) = &config.manifests {
            // Missing later takes nothing away; missing at the start would say that nothing was ever there.
            std::fs::read_dir(path).map_err(|cause| BuildError::Manifests {
                path: path.clone(),
                cause,
            })?;
        }
        let kubernetes = match &config.kubernetes {
            Some(place) => Some(Client::new(place).await?),
            None => None,
        };
        let socket = config.socket_path();
        let listen = ListenConfig {
            tcp: config.listen,
            socket: Some(socket.clone()),
            socket_mode: if files.hosts == HostIdentities::default() {
                SOCKET_OWNER
            } else {
                SOCKET_ALL
            },
        };
        // Listeners before the store: a port in use is found out before anybody else is spoken to.
        let admin = AdminServer::bind(config.admin_listen)?;
        let listeners = Listeners::bind(&listen).await?;
        let listen_addr = listeners
            .local_addr()
            .map_err(|cause| ListenError::Socket {
                path: socket.clone(),
                cause,
            })?;
        let webhook = match &mut config.webhook {
            Some(told) => {
                let (clock, rng) = (Arc::clone(&clock), rng.fork());
                let bound =
                    Webhook::bind(told.clone(), &config.data_dir, clock, rng, &files.metrics)?;
                told.listen = bound.local_addr();
                Some(bound)
            }
            None => None,
        };
        let readiness = Readiness::new();
        let blockers = Blockers {
            store: readiness.blocker("store"),
            listeners: readiness.blocker("listeners"),
        };
        let certificate = readiness.blocker("certificate");
        let parts = Parts::open(
            files,
            clock,
            rng,
            (kubernetes, config.host_workloads),
            config.advertise.clone(),
        )
        .await?;
        drop(certificate);
        Ok(Bound {
            config,
            listen_addr,
            socket,
            listeners,
            admin,
            webhook,
            readiness,
            blockers,
            parts,
            log,
        })
    }
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

    /// Where the API server asks about pods, if it does.
    pub fn webhook_addr(&self) -> Option<SocketAddr> {
        self.webhook.as_ref().map(Webhook::local_addr)
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
            webhook,
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
        if let Some(webhook) = webhook {
            parts.serve_webhook(webhook, &mut tasks, &inner);
        }
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
        parts.release();
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
