//! The registrations as a pure state machine: events and time in, the published value out.
//!
//! A proxy's message replaces all that it fronts. When its stream breaks, its endpoints turn unknown after a grace, and
//! only `leaving` or a day of silence ends them. An endpoint's id is held by the proxy that is connected.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tradewind_api::{
    convert,
    id::{ClusterName, EndpointId, Namespace, ServiceName, SpiffeId, Zone, is_label},
    model::{AppProtocol, Health},
    proto::v1,
};

use super::{Registered, RegisteredEndpoint, RegisteredGateway};

/// Services one proxy fronts at most: a host runs dozens.
pub const MAX_PER_PROXY: usize = 256;
/// Endpoints of one cluster at most.
pub const MAX_TOTAL: usize = 50_000;
/// Gateways of one cluster at most.
pub const MAX_GATEWAYS: usize = 256;
/// Bytes of a `host:port`: a DNS name, a colon and a port.
const MAX_ADDRESS_BYTES: usize = 260;
/// How long a broken stream is waited for: a proxy reconnects within a fraction of it.
pub const GRACE_MS: u64 = 2_000;
/// How long after a start of the controller: every proxy has to find it again.
pub const START_GRACE_MS: u64 = 15_000;
/// A stream without a message for this long is silent: three signs of life were missed.
pub const SILENCE_MS: u64 = 15_000;
/// After this long a silent proxy is forgotten.
pub const FORGET_MS: u64 = 24 * 3_600_000;

/// Which stream an event came by. A proxy that reconnects has a new one while the old one may not have ended yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// One endpoint as a proxy registers it, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fronted {
    service: ServiceName,
    port: u16,
    app_protocol: AppProtocol,
    port_name: String,
    address: String,
    zone: Option<Zone>,
    weight: u32,
    health: Health,
    hostname: Option<String>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A proxy said what it fronts.
    Registered {
        /// By which stream.
        stream: StreamId,
        /// The proxy.
        proxy: String,
        /// The identity it proves.
        identity: SpiffeId,
        /// All that it fronts.
        fronted: Vec<Fronted>,
    },
    /// A proxy ended gracefully.
    Left {
        /// The proxy.
        proxy: String,
        /// The identity it proves.
        identity: SpiffeId,
    },
    /// A gateway said that it is there.
    GatewayHello {
        /// By which stream.
        stream: StreamId,
        /// The gateway.
        name: String,
        /// Where others dial it.
        address: String,
        /// It drains.
        draining: bool,
    },
    /// A stream ended, however.
    StreamEnded(StreamId),
    /// Time went by.
    Tick,
}

/// Why an event was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A field cannot be read.
    #[error("{field} {value:?} is not valid: expected {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What stood there, cut.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// One proxy may front services of its own namespace alone.
    #[error("{identity} may not serve {service}: its namespace is another")]
    Namespace {
        /// The proxy's identity.
        identity: SpiffeId,
        /// The service.
        service: ServiceName,
    },
    /// A connected proxy holds the same endpoint.
    #[error("{service} port {port} at {address} is served by the connected proxy {holder}")]
    Held {
        /// The service.
        service: ServiceName,
        /// Its port.
        port: u16,
        /// The address.
        address: String,
        /// Who holds it.
        holder: String,
    },
    /// The same endpoint stands twice in one message.
    #[error("{service} port {port} at {address} stands twice in one registration")]
    Twice {
        /// The service.
        service: ServiceName,
        /// Its port.
        port: u16,
        /// The address.
        address: String,
    },
    /// A bound was met.
    #[error("{what} would pass the limit of {limit}")]
    TooMuch {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

fn bad(field: &'static str, value: &str, expected: &'static str) -> Refused {
    Refused::Field {
        field,
        value: value.chars().take(80).collect(),
        expected,
    }
}

/// Checks a `host:port`.
pub fn check_address(field: &'static str, address: &str) -> Result<(), Refused> {
    let good = address.len() <= MAX_ADDRESS_BYTES
        && address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
                && port.parse::<u16>().is_ok_and(|p| p != 0)
        });
    if good {
        Ok(())
    } else {
        Err(bad(field, address, "host:port"))
    }
}

/// Checks the name of a proxy or gateway.
pub fn check_name(field: &'static str, name: &str) -> Result<(), Refused> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 253 && name.chars().all(plain) {
        Ok(())
    } else {
        Err(bad(
            field,
            name,
            "1 to 253 letters, digits, '-', '_' or '.'",
        ))
    }
}

impl Fronted {
    /// Checks one registration of a proxy with `identity`.
    pub fn check(r: v1::Registration, identity: &SpiffeId) -> Result<Self, Refused> {
        let service: ServiceName = r
            .service
            .parse()
            .map_err(|_| bad("service", &r.service, "namespace/name"))?;
        let port = u16::try_from(r.port)
            .ok()
            .filter(|p| *p != 0)
            .ok_or_else(|| bad("port", &r.port.to_string(), "1 to 65535"))?;
        if identity.account().map(|(namespace, _)| namespace) != Some(service.namespace.as_str()) {
            return Err(Refused::Namespace {
                identity: identity.clone(),
                service,
            });
        }
        check_address("hbone address", &r.hbone_address)?;
        if !r.port_name.is_empty() && Namespace::new(&r.port_name).is_err() {
            return Err(bad("port name", &r.port_name, "a label or nothing"));
        }
        if !r.hostname.is_empty() && !is_label(&r.hostname) {
            return Err(bad("hostname", &r.hostname, "a label or nothing"));
        }
        let zone = (!r.zone.is_empty())
            .then(|| Zone::new(&r.zone).map_err(|_| bad("zone", &r.zone, "a label or nothing")))
            .transpose()?;
        Ok(Self {
            service,
            port,
            app_protocol: convert::app_protocol(r.app_protocol),
            port_name: r.port_name,
            address: r.hbone_address,
            zone,
            weight: if r.weight == 0 {
                100
            } else {
                r.weight.min(65_535)
            },
            health: convert::health(r.health),
            hostname: (!r.hostname.is_empty()).then_some(r.hostname),
        })
    }

    fn id(&self, cluster: &ClusterName) -> EndpointId {
        EndpointId::derive(cluster, &self.service, self.port, &self.address)
    }
}

// How it stands with the link to a proxy or gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up(StreamId),
    // Broken; what was last said still counts until then.
    Waiting { until_ms: u64 },
    // Nothing is known any more.
    Silent,
}

impl Link {
    const fn is_up(self) -> bool {
        matches!(self, Self::Up(_))
    }

    // What time makes of it.
    const fn at(self, now_ms: u64, last_seen_ms: u64) -> Self {
        match self {
            Self::Up(_) if now_ms >= last_seen_ms.saturating_add(SILENCE_MS) => Self::Silent,
            Self::Waiting { until_ms } if now_ms >= until_ms => Self::Silent,
            Self::Up(_) | Self::Waiting { .. } | Self::Silent => self,
        }
    }

    fn is_forgotten(self, now_ms: u64, last_seen_ms: u64) -> bool {
        self == Self::Silent && now_ms >= last_seen_ms.saturating_add(FORGET_MS)
    }
}

#[derive(Clone, Debug)]
struct ProxyState {
    fronted: BTreeMap<EndpointId, Fronted>,
    link: Link,
    last_seen_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct GatewayState {
    address: String,
    draining: bool,
    link: Link,
    last_seen_ms: u64,
}

// A proxy is its name and its identity: another identity under the same name is another proxy.
type ProxyKey = (SpiffeId, String);

/// All registrations of one cluster.
#[derive(Clone, Debug)]
pub struct RegistryState {
    cluster: ClusterName,
    proxies: BTreeMap<ProxyKey, ProxyState>,
    gateways: BTreeMap<String, GatewayState>,
    // Who holds an endpoint's id.
    held: BTreeMap<EndpointId, ProxyKey>,
    changes: u64,
}

/// What lies on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    proxies: Vec<SavedProxy>,
    gateways: Vec<SavedGateway>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedProxy {
    identity: SpiffeId,
    proxy: String,
    fronted: Vec<Fronted>,
    last_seen_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedGateway {
    name: String,
    address: String,
    draining: bool,
    last_seen_ms: u64,
}

impl RegistryState {
    /// Nobody registered yet.
    pub fn new(cluster: ClusterName) -> Self {
        Self {
            cluster,
            proxies: BTreeMap::new(),
            gateways: BTreeMap::new(),
            held: BTreeMap::new(),
            changes: 0,
        }
    }

    /// What an earlier run saved: nobody is connected, and everybody has the longer grace to come back.
    pub fn restore(cluster: ClusterName, saved: Saved, now_ms: u64) -> Self {
        let link = Link::Waiting {
            until_ms: now_ms.saturating_add(START_GRACE_MS),
        };
        let mut state = Self::new(cluster);
        for p in saved.proxies {
            let key = (p.identity, p.proxy);
            let fronted: BTreeMap<_, _> = p
                .fronted
                .into_iter()
                .map(|f| (f.id(&state.cluster), f))
                .filter(|(id, _)| !state.held.contains_key(id))
                .collect();
            state
                .held
                .extend(fronted.keys().map(|id| (id.clone(), key.clone())));
            let last_seen_ms = p.last_seen_ms;
            state.proxies.insert(
                key,
                ProxyState {
                    fronted,
                    link,
                    last_seen_ms,
                },
            );
        }
        for g in saved.gateways {
            let (address, draining, last_seen_ms) = (g.address, g.draining, g.last_seen_ms);
            state.gateways.insert(
                g.name,
                GatewayState {
                    address,
                    draining,
                    link,
                    last_seen_ms,
                },
            );
        }
        state
    }

    /// What a later run needs.
    pub fn save(&self) -> Saved {
        Saved {
            proxies: self
                .proxies
                .iter()
                .map(|((identity, proxy), p)| SavedProxy {
                    identity: identity.clone(),
                    proxy: proxy.clone(),
                    fronted: p.fronted.values().cloned().collect(),
                    last_seen_ms: p.last_seen_ms,
                })
                .collect(),
            gateways: self
                .gateways
                .iter()
                .map(|(name, g)| SavedGateway {
                    name: name.clone(),
                    address: g.address.clone(),
                    draining: g.draining,
                    last_seen_ms: g.last_seen_ms,
                })
                .collect(),
        }
    }

    /// Applies one event. Gives the endpoint ids of a registration, in its order; nothing changes when it refuses.
    pub fn apply(&mut self, event: Event, now_ms: u64) -> Result<Vec<EndpointId>, Refused> {
        match event {
            Event::Registered {
                stream,
                proxy,
                identity,
                fronted,
            } => {
                return self.register((identity, proxy), stream, fronted, now_ms);
            }
            Event::Left { proxy, identity } => self.forget(&(identity, proxy)),
            Event::GatewayHello {
                stream,
                name,
                address,
                draining,
            } => {
                if !self.gateways.contains_key(&name) && self.gateways.len() >= MAX_GATEWAYS {
                    return Err(Refused::TooMuch {
                        what: "gateways",
                        limit: MAX_GATEWAYS,
                    });
                }
                let link = Link::Up(stream);
                let new = GatewayState {
                    address,
                    draining,
                    link,
                    last_seen_ms: now_ms,
                };
                let before = self.gateways.insert(name, new.clone());
                let same = before.is_some_and(|b| {
                    GatewayState {
                        last_seen_ms: now_ms,
                        ..b
                    } == new
                });
                self.changes += u64::from(!same);
            }
            Event::StreamEnded(stream) => self.stream_ended(stream, now_ms),
            Event::Tick => self.tick(now_ms),
        }
        Ok(Vec::new())
    }

    fn register(
        &mut self,
        key: ProxyKey,
        stream: StreamId,
        fronted: Vec<Fronted>,
        now_ms: u64,
    ) -> Result<Vec<EndpointId>, Refused> {
        if fronted.len() > MAX_PER_PROXY {
            return Err(Refused::TooMuch {
                what: "registrations of one proxy",
                limit: MAX_PER_PROXY,
            });
        }
        let had = self.proxies.get(&key).map_or(0, |p| p.fronted.len());
        if self.held.len().saturating_sub(had) + fronted.len() > MAX_TOTAL {
            return Err(Refused::TooMuch {
                what: "registrations of this cluster",
                limit: MAX_TOTAL,
            });
        }
        let mut ids = Vec::with_capacity(fronted.len());
        let mut new = BTreeMap::new();
        for f in fronted {
            let id = f.id(&self.cluster);
            let holder = self.held.get(&id).filter(|holder| **holder != key);
            if let Some(holder) = holder
                && self.proxies.get(holder).is_some_and(|p| p.link.is_up())
            {
                let holder = holder.1.clone();
                return Err(Refused::Held {
                    service: f.service,
                    port: f.port,
                    address: f.address,
                    holder,
                });
            }
            ids.push(id.clone());
            if let Some(f) = new.insert(id, f) {
                return Err(Refused::Twice {
                    service: f.service,
                    port: f.port,
                    address: f.address,
                });
            }
        }
        // Nothing below fails.
        for id in &ids {
            if let Some(old) = self.held.insert(id.clone(), key.clone())
                && old != key
                && let Some(p) = self.proxies.get_mut(&old)
            {
                p.fronted.remove(id);
            }
        }
        let link = Link::Up(stream);
        if let Some(p) = self.proxies.get_mut(&key)
            && p.link == link
            && p.fronted == new
        {
            // A sign of life alone.
            p.last_seen_ms = now_ms;
            return Ok(ids);
        }
        self.changes += 1;
        let state = ProxyState {
            fronted: new,
            link,
            last_seen_ms: now_ms,
        };
        if let Some(before) = self.proxies.insert(key.clone(), state) {
            let now: BTreeSet<&EndpointId> = ids.iter().collect();
            for id in before.fronted.keys().filter(|id| !now.contains(id)) {
                self.release(id, &key);
            }
        }
        Ok(ids)
    }

    fn release(&mut self, id: &EndpointId, key: &ProxyKey) {
        if self.held.get(id) == Some(key) {
            self.held.remove(id);
        }
    }

    fn forget(&mut self, key: &ProxyKey) {
        if let Some(p) = self.proxies.remove(key) {
            self.changes += 1;
            for id in p.fronted.keys() {
                self.release(id, key);
            }
        }
    }

    fn stream_ended(&mut self, stream: StreamId, now_ms: u64) {
        let waiting = Link::Waiting {
            until_ms: now_ms.saturating_add(GRACE_MS),
        };
        let links = self.proxies.values_mut().map(|p| &mut p.link);
        for link in links.chain(self.gateways.values_mut().map(|g| &mut g.link)) {
            if *link == Link::Up(stream) {
                *link = waiting;
                self.changes += 1;
            }
        }
    }

    fn tick(&mut self, now_ms: u64) {
        let proxies = self
            .proxies
            .values_mut()
            .map(|p| (&mut p.link, p.last_seen_ms));
        let gateways = self
            .gateways
            .values_mut()
            .map(|g| (&mut g.link, g.last_seen_ms));
        for (link, last_seen_ms) in proxies.chain(gateways) {
            let then = link.at(now_ms, last_seen_ms);
            if *link != then {
                *link = then;
                self.changes += 1;
            }
        }
        let forgotten: Vec<ProxyKey> = self
            .proxies
            .iter()
            .filter(|(_, p)| p.link.is_forgotten(now_ms, p.last_seen_ms))
            .map(|(key, _)| key.clone())
            .collect();
        for key in forgotten {
            self.forget(&key);
        }
        let before = self.gateways.len();
        self.gateways
            .retain(|_, g| !g.link.is_forgotten(now_ms, g.last_seen_ms));
        self.changes += u64::from(self.gateways.len() != before);
    }

    /// Grows with every change that readers can see; a mere sign of life is none.
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// The value that everybody else reads.
    pub fn view(&self) -> Registered {
        let mut view = Registered::default();
        for ((identity, proxy), p) in &self.proxies {
            if p.link.is_up() {
                view.connected_proxies += 1;
            }
            for (id, f) in &p.fronted {
                view.workloads.insert(
                    id.clone(),
                    RegisteredEndpoint {
                        service: f.service.clone(),
                        port: f.port,
                        app_protocol: f.app_protocol,
                        port_name: f.port_name.clone(),
                        address: f.address.clone(),
                        zone: f.zone.clone(),
                        weight: f.weight,
                        health: if p.link == Link::Silent {
                            Health::Unknown
                        } else {
                            f.health
                        },
                        hostname: f.hostname.clone(),
                        identity: identity.clone(),
                        proxy: proxy.clone(),
                        connected: p.link.is_up(),
                        last_seen_ms: p.last_seen_ms,
                    },
                );
            }
        }
        for (name, g) in &self.gateways {
            view.gateways.insert(
                name.clone(),
                RegisteredGateway {
                    address: g.address.clone(),
                    draining: g.draining,
                    connected: g.link.is_up(),
                    last_seen_ms: g.last_seen_ms,
                },
            );
        }
        view
    }

    /// Checks what must hold after every event; `Err` says what does not.
    pub fn validate(&self) -> Result<(), String> {
        let fronted: usize = self.proxies.values().map(|p| p.fronted.len()).sum();
        if fronted != self.held.len() {
            return Err(format!(
                "{fronted} endpoints are fronted, {} are held",
                self.held.len()
            ));
        }
        for (id, key) in &self.held {
            if !self
                .proxies
                .get(key)
                .is_some_and(|p| p.fronted.contains_key(id))
            {
                return Err(format!("{id} is held by {key:?}, which does not front it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
