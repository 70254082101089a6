//! The client side of a controller: identity, trust and the last good snapshot of one data-plane process.
//!
//! Owns the tasks that keep them fresh and the cells that everybody else reads. It never blocks the data path: when no
//! controller answers, what was last known stays in force, in memory and on disk, and readers see only its age.

mod disk;
mod identity;
mod keyring;
mod link;
mod metrics;
mod openings;
mod operator;
mod renew;
mod sealed;
pub mod service_account;
mod session;
mod token;

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use tokio::sync::watch;
use tonic::transport::Channel;
use tradewind_api::{
    id::{ClusterName, Region, Revision, SpiffeId, Zone},
    snapshot::Snapshot,
};
use tradewind_runtime::{
    clock::SharedClock, metrics::MetricsRegistry, ready::Readiness, rng::Rng, task::TaskSet,
};

use crate::{svid::SvidCell, trust::TrustCell};

pub use identity::SignError;
pub use operator::Operator;
pub use service_account::{ServiceAccount, ServiceAccountError};
pub use token::{BootstrapToken, InvalidToken};

/// What proves a process that has no certificate yet.
#[derive(Clone, Default)]
pub enum Proof {
    /// Nothing but what the connection itself says: the unix socket's peer credentials.
    #[default]
    None,
    /// A one-time token's text.
    Token(String),
    /// A Kubernetes service account.
    ServiceAccount(ServiceAccount),
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            // The text is a secret.
            Self::Token(_) => f.write_str("Token"),
            Self::ServiceAccount(account) => account.fmt(f),
        }
    }
}

/// Where a controller listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerAddr {
    /// A unix socket on this host; its peer credentials attest the caller.
    Unix(PathBuf),
    /// `host:port`, spoken to by mTLS.
    Tcp(String),
    /// The several controllers of one cluster, in the order in which they are tried: one is spoken to at a time.
    OneOf(Vec<Self>),
}

/// Controllers that one process is told of: twice as many as a cluster has.
const MAX_CONTROLLERS: usize = 8;

impl ControllerAddr {
    /// Each place by itself, in order.
    pub fn places(&self) -> &[Self] {
        match self {
            Self::Unix(_) | Self::Tcp(_) => std::slice::from_ref(self),
            Self::OneOf(all) => all,
        }
    }

    /// True where no place is on this host, so that nothing but a certificate or a token says who calls.
    pub fn is_remote(&self) -> bool {
        self.places()
            .iter()
            .all(|place| matches!(place, Self::Tcp(_)))
    }
}

/// Why a controller's address was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "controller address {0:?} is not valid: expected unix:/path/to/controller.sock or host:port, several of them separated by commas"
)]
pub struct InvalidControllerAddr(String);

impl FromStr for ControllerAddr {
    type Err = InvalidControllerAddr;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || InvalidControllerAddr(s.chars().take(200).collect());
        if s.contains(',') {
            let all: Vec<Self> = s.split(',').map(Self::from_str).collect::<Result<_, _>>()?;
            return if all.len() > MAX_CONTROLLERS {
                Err(bad())
            } else {
                Ok(Self::OneOf(all))
            };
        }
        if let Some(path) = s.strip_prefix("unix:") {
            // A relative path depends on where the process was started, which a service manager changes.
            return if path.is_empty() {
                Err(bad())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let (host, port) = s.rsplit_once(':').ok_or_else(bad)?;
        let port_ok = port.parse::<u16>().is_ok_and(|p| p != 0);
        if host.is_empty() || !port_ok || host.contains('/') {
            return Err(bad());
        }
        Ok(Self::Tcp(s.to_owned()))
    }
}

impl fmt::Display for ControllerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
            Self::OneOf(all) => {
                for (n, place) in all.iter().enumerate() {
                    let comma = if n == 0 { "" } else { "," };
                    write!(f, "{comma}{place}")?;
                }
                Ok(())
            }
        }
    }
}

/// What a process needs to reach its controller.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Where its controller listens.
    pub controller: ControllerAddr,
    /// `proxy`, `gateway` or `dns`: shown in the controller's lists and logs.
    pub role: &'static str,
    /// This process's name, unique in its cluster.
    pub node_name: String,
    /// The identity to ask for, without the trust domain (`/ns/shop/sa/payments`); none for a process that needs none.
    pub identity_path: Option<String>,
    /// What proves it, where no unix socket attests the caller.
    pub proof: Proof,
    /// The zone it runs in.
    pub zone: Option<Zone>,
    /// Where the last good snapshot (and the sealed identity) is kept; memory only without it.
    pub state_dir: Option<PathBuf>,
    /// The firewall mark of its sockets, where a capture tells them by it.
    pub mark: Option<u32>,
}

/// Why a control client could not be set up. Nothing here is about a controller that is merely away.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The token's text is not one.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// The wanted identity's path is not one.
    #[error(
        "identity path {path:?} is not valid: expected a SPIFFE path such as /ns/shop/sa/payments"
    )]
    IdentityPath {
        /// What stood there.
        path: String,
    },
    /// Over TCP the controller knows a caller by its certificate alone.
    #[error(
        "controller {address} is reached over TCP, which needs an identity and a token, one-time or a service account's: {missing} is missing"
    )]
    NeedsIdentity {
        /// The controller's address.
        address: String,
        /// What was not given.
        missing: &'static str,
    },
    /// The state directory cannot be used.
    #[error("state directory {path} cannot be used: {why}")]
    StateDir {
        /// Which directory.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
}

/// What is known of the link to the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlStatus {
    /// The discovery stream is up and its first round is complete.
    pub connected: bool,
    /// Revision of the snapshot in force.
    pub revision: Revision,
    /// When the snapshot last changed, Unix ms; 0 before the first.
    pub changed_at_unix_ms: u64,
    /// When the controller was last heard, Unix ms; 0 before the first time.
    pub heard_at_unix_ms: u64,
    /// The snapshot in force was read from disk and no controller has confirmed it since.
    pub from_disk: bool,
    /// The cluster this process belongs to, once known.
    pub cluster: Option<ClusterName>,
    /// That cluster's region, once known.
    pub region: Option<Region>,
}

/// The cells that the rest of the process reads, and the channel to the controller.
#[derive(Clone)]
pub struct Control {
    /// This process's own certificate, replaced on renewal.
    pub svid: SvidCell,
    /// Whom to believe; follows the snapshot.
    pub trust: TrustCell,
    /// The last good snapshot; empty until the first.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// State of the link.
    pub status: watch::Receiver<ControlStatus>,
    channel: Option<Channel>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}

impl Control {
    /// Puts one together from given cells, with a channel that reaches nobody: for tests of what stands above.
    pub fn from_parts(
        svid: SvidCell,
        trust: TrustCell,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        status: ControlStatus,
    ) -> Self {
        Self {
            svid,
            trust,
            snapshot,
            status: watch::channel(status).1,
            channel: None,
        }
    }

    /// A channel to the controller for further calls (registration, for one). Lazy, reconnecting, cheap to clone.
    /// A call on it fails while no controller answers: retry with backoff.
    pub fn channel(&self) -> Channel {
        self.channel.clone().unwrap_or_else(link::nowhere)
    }

    /// The cluster this process belongs to, once known.
    pub fn cluster(&self) -> Option<ClusterName> {
        self.status.borrow().cluster.clone()
    }

    /// That cluster's region, once known.
    pub fn region(&self) -> Option<Region> {
        self.status.borrow().region.clone()
    }

    /// The current identity, once there is one.
    pub fn identity(&self) -> Option<SpiffeId> {
        self.svid.current().map(|svid| svid.id.clone())
    }

    /// Starts the link: loads what is on disk, then keeps identity, trust and snapshot fresh from tasks in `tasks`.
    /// Returns at once; `readiness` holds "certificate" (if an identity is wanted) and "snapshot" until each is there.
    pub async fn start(
        config: ControlConfig,
        clock: SharedClock,
        rng: Rng,
        metrics: &MetricsRegistry,
        readiness: &Readiness,
        tasks: &mut TaskSet,
    ) -> Result<Self, ControlError> {
        session::start(config, clock, rng, metrics, readiness, tasks).await
    }
}
