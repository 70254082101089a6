//! Entering a federation: what the joiner does, layer by layer, and what the member it asks does.
//!
//! Owns nothing but the attempt. The joiner must change nothing, here or there, before both directions are proven, and
//! must write its data directory as the very last step.

mod adding;
mod client;
mod dial;
mod enlist;
mod holder;
mod server;
mod way_back;

use std::{fmt, path::PathBuf};

use tradewind_api::{ClusterName, Domain, Network, NodeId, Region};

pub use adding::Adding;
pub use client::join;
pub use enlist::{EnlistOptions, Enlisted, Voucher, enlist};
pub use server::FederationService;

/// What `tradewind join` is told.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// `host:port` of a member's gateway.
    pub address: String,
    /// The join token's text.
    pub token: String,
    /// The new cluster's name.
    pub cluster: ClusterName,
    /// Its region.
    pub region: Region,
    /// Its network; its own name when not told.
    pub network: Option<Network>,
    /// Where to put it; absent or empty.
    pub data_dir: PathBuf,
    /// `host:port` under which others will dial the new cluster's gateways.
    pub gateway_addresses: Vec<String>,
    /// `host:port` to bind for the way-back check, where that differs from the addresses advertised (NAT, a load
    /// balancer). Empty: bind the advertised ones.
    pub bind_addresses: Vec<String>,
    /// Join without having seen that the others reach the new cluster: for one whose gateways come up after it joined, as in Kubernetes.
    pub skip_way_back: bool,
    /// Enter as a voter without a cluster: the addresses are its own listener's.
    pub witness: bool,
    /// Check everything, change nothing.
    pub dry_run: bool,
}

/// Where an attempt to join stands, or what it failed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JoinLayer {
    /// The new data directory and the addresses given.
    Local,
    /// The token's text.
    Token,
    /// The member's host name.
    Resolve,
    /// TCP to the member's gateway.
    Connect,
    /// TLS with the member's controller, against the root that the token pins.
    Tls,
    /// The member's yes: token, name, version.
    Admission,
    /// From the member back to our gateway address.
    WayBack,
    /// The authority's signature and the new member's entry in the store.
    Sign,
    /// The data directory.
    Write,
}

impl JoinLayer {
    /// The word that progress and errors show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Token => "token",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Admission => "admission",
            Self::WayBack => "way-back",
            Self::Sign => "sign",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for JoinLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One layer passed.
#[derive(Clone, Debug)]
pub struct JoinStep {
    /// Which.
    pub layer: JoinLayer,
    /// What was found, for people.
    pub detail: String,
}

/// Why a cluster did not join, and in which layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{layer}: {message}")]
pub struct JoinError {
    /// Where it failed.
    pub layer: JoinLayer,
    /// What went wrong.
    pub message: String,
    /// What the operator can do about it.
    pub hint: String,
    /// False as long as nothing was changed anywhere. True: the federation counts the cluster as a member already.
    pub admitted: bool,
}

impl JoinError {
    fn new(layer: JoinLayer, message: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self {
            layer,
            message: message.to_string(),
            hint: hint.into(),
            admitted: false,
        }
    }
}

/// A cluster that joined, or that could have (after a dry run).
#[derive(Clone, Debug)]
pub struct Joined {
    /// The new member.
    pub cluster: ClusterName,
    /// The federation's domain.
    pub domain: Domain,
    /// The member that was asked.
    pub through: ClusterName,
    /// The new controller's node id; none after a dry run.
    pub node_id: Option<NodeId>,
    /// The other members.
    pub members: Vec<ClusterName>,
    /// Where it lies.
    pub data_dir: PathBuf,
}
