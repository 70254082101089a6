//! What a controller is told at start, already checked for form.
//!
//! Owns no state and reads no environment: the command line fills it in. What belongs to the cluster itself (its name,
//! its domain, its node id) is not here but in the data directory, where `init` and `join` put it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::webhook::WebhookConfig;

/// Where controllers listen for gRPC over mTLS.
pub const DEFAULT_PORT: u16 = 15012;
/// Where every role serves its health and metrics.
pub const DEFAULT_ADMIN_PORT: u16 = 15020;
/// How long a stopping controller waits for calls in flight. Streams end at once, so that only unary calls count.
pub const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// One controller process.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// The directory that `init` or `join` filled.
    pub data_dir: PathBuf,
    /// gRPC over mTLS: proxies, gateways, other controllers through the gateway.
    pub listen: SocketAddr,
    /// `host:port` of that listener as its own cluster's gateways, proxies and other controllers dial it. Needed where the
    /// cluster has several controllers; without it, what the data directory holds.
    pub advertise: Option<String>,
    /// HTTP: health, metrics, debugging.
    pub admin_listen: SocketAddr,
    /// Directory of Kubernetes YAML to watch, if any.
    pub manifests: Option<PathBuf>,
    /// The API server whose Services and other objects are this cluster's, if it has one. Then no directory is watched.
    pub kubernetes: Option<tradewind_kubernetes::Place>,
    /// With an API server: workloads on hosts outside of it are certified too, by one-time tokens, and whoever has a certificate renews
    /// it with that alone. Without it a service account's token is asked for each time.
    pub host_workloads: bool,
    /// The webhook that gives pods of that API server a proxy, if there is to be one.
    pub webhook: Option<WebhookConfig>,
    /// The unix socket for local callers; `controller.sock` in the data directory unless told.
    pub socket: Option<PathBuf>,
    /// How long calls in flight may take once the process is asked to stop.
    pub drain_deadline: Duration,
    /// A witness is to run, not a cluster's controller. The data directory must agree.
    pub witness: bool,
}

impl ControllerConfig {
    /// The defaults, on loopback, for a data directory.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            listen: (Ipv4Addr::LOCALHOST, DEFAULT_PORT).into(),
            advertise: None,
            admin_listen: (Ipv4Addr::LOCALHOST, DEFAULT_ADMIN_PORT).into(),
            manifests: None,
            kubernetes: None,
            host_workloads: false,
            webhook: None,
            socket: None,
            drain_deadline: DEFAULT_DRAIN_DEADLINE,
            witness: false,
        }
    }

    /// Where the unix socket is.
    pub fn socket_path(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| self.data_dir.join("controller.sock"))
    }
}
