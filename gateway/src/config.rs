//! What a gateway is told when it starts. Validated by the command line; nothing here reads the environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tradewind_transport::control::{ControllerAddr, Proof};

/// Everything a gateway is told.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Its name, a label unique within its cluster; part of its identity.
    pub name: String,
    /// Where its own cluster's controller is.
    pub controller: ControllerAddr,
    /// What proves it, where the controller's unix socket does not.
    pub proof: Proof,
    /// The address that other clusters reach it at (15443). Port 0 picks a free one.
    pub listen: SocketAddr,
    /// `host:port` that other clusters dial, where it differs from `listen`.
    pub advertise: Option<String>,
    /// `host:port` of its own controller's TLS port, for connections that name the controller.
    pub controller_backend: String,
    /// Metrics, readiness and debug pages.
    pub admin_listen: SocketAddr,
    /// Data threads; 0 means one a core.
    pub threads: usize,
    /// Where the last good snapshot is kept; none keeps it in memory only.
    pub state_dir: Option<PathBuf>,
    /// How long live connections may go on after the order to stop.
    pub drain_deadline: Duration,
    /// How long it goes on accepting after it announced that it drains, so that callers move away first.
    pub announce_grace: Duration,
    /// Pass connections that name another cluster on to that cluster's gateways (source-side exit of a closed network).
    pub pass_on: bool,
    /// Most connections at once; none takes what the file descriptor limit allows.
    pub max_connections: Option<usize>,
}

impl GatewayConfig {
    /// A configuration with the documented defaults around what has none.
    pub fn new(name: impl Into<String>, controller: ControllerAddr) -> Self {
        Self {
            name: name.into(),
            controller,
            proof: Proof::None,
            listen: SocketAddr::from(([0, 0, 0, 0], 15443)),
            advertise: None,
            controller_backend: "127.0.0.1:15012".to_owned(),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 15020)),
            threads: 0,
            state_dir: None,
            drain_deadline: Duration::from_secs(30),
            announce_grace: Duration::from_secs(2),
            pass_on: false,
            max_connections: None,
        }
    }
}
