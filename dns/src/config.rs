//! What a DNS server is told when it starts. Validated by the command line; nothing here reads the environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tradewind_transport::control::{ControllerAddr, Proof};

/// Where names go that are not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// The servers of /etc/resolv.conf.
    System,
    /// These servers, in this order. Empty: every foreign name is answered SERVFAIL.
    Servers(Vec<SocketAddr>),
}

/// Everything a DNS server is told.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Its name, a label unique within its cluster.
    pub name: String,
    /// Where its own cluster's controller is.
    pub controller: ControllerAddr,
    /// What proves it, where the controller's unix socket does not.
    pub proof: Proof,
    /// UDP and TCP address (15053). Port 0 picks a free one, the same for both.
    pub listen: SocketAddr,
    /// Where foreign names go.
    pub upstreams: Upstreams,
    /// The firewall mark of its own sockets: where a proxy captures questions to name servers, this server's must not come back
    /// to it.
    pub mark: Option<u32>,
    /// Metrics, readiness and debug pages.
    pub admin_listen: SocketAddr,
    /// Where the last good snapshot is kept; none keeps it in memory only.
    pub state_dir: Option<PathBuf>,
    /// How long answers under way may take after the order to stop.
    pub drain_deadline: Duration,
}

impl DnsConfig {
    /// A configuration with the documented defaults around what has none.
    pub fn new(name: impl Into<String>, controller: ControllerAddr) -> Self {
        Self {
            name: name.into(),
            controller,
            proof: Proof::None,
            listen: SocketAddr::from(([127, 0, 0, 1], 15053)),
            upstreams: Upstreams::System,
            mark: None,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 15020)),
            state_dir: None,
            drain_deadline: Duration::from_secs(5),
        }
    }
}
