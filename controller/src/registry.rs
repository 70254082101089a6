//! What proxies and gateways of this cluster say of themselves, and how they are while they are silent.
//!
//! Owns the registrations: in memory, as a watched value, and in `registrations.json`. All decisions are in [`state`],
//! which is pure. A broken stream never deletes anything: unknown is not dead. What gateways find of the other clusters is
//! kept beside them, in [`reports`].

mod gateways;
mod hub;
mod proxies;
pub mod reports;
pub mod state;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tradewind_api::{
    id::{EndpointId, ServiceName, SpiffeId, Zone},
    model::{AppProtocol, Health},
    traffic::Labels,
};

pub use gateways::GatewayRegistryService;
pub(crate) use hub::RelayStream;
pub use hub::{RegistryError, RegistryHub};
pub use proxies::RegistryService;
pub use reports::Reports;

/// One endpoint that a proxy of this cluster fronts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredEndpoint {
    /// The service it serves.
    pub service: ServiceName,
    /// The service's port, as callers name it.
    pub port: u16,
    /// What is spoken on it.
    pub app_protocol: AppProtocol,
    /// The port's name; may be empty.
    pub port_name: String,
    /// `host:port` of the proxy's HBONE listener.
    pub address: String,
    /// Its zone, if told.
    pub zone: Option<Zone>,
    /// Relative capacity, 1 to 65535.
    pub weight: u32,
    /// The proxy's own check, or unknown while the proxy is silent.
    pub health: Health,
    /// Its name in a headless service, if told.
    pub hostname: Option<String>,
    /// Its workload's labels.
    #[serde(default)]
    pub labels: Labels,
    /// The identity it proves.
    pub identity: SpiffeId,
    /// The proxy's name.
    pub proxy: String,
    /// The proxy's stream is up.
    pub connected: bool,
    /// Last sign of life, Unix ms, as of the last change of anything.
    pub last_seen_ms: u64,
}

/// One gateway of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredGateway {
    /// `host:port` that other clusters dial.
    pub address: String,
    /// It takes no new connections.
    pub draining: bool,
    /// Its stream is up.
    pub connected: bool,
    /// Last sign of life, Unix ms, as of the last change of anything.
    pub last_seen_ms: u64,
}

/// Everything registered, as one value that is replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Endpoints by id.
    pub workloads: BTreeMap<EndpointId, RegisteredEndpoint>,
    /// Gateways by name.
    pub gateways: BTreeMap<String, RegisteredGateway>,
    /// Proxies whose stream is up.
    pub connected_proxies: usize,
}
