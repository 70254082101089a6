//! The registrations as a pure state machine: events and time in, the published value out.
//!
//! A proxy's message replaces all that it fronts. When its stream breaks, its endpoints turn unknown after a grace, and
//! only `leaving` or a day of silence ends them. An endpoint's id is held by the proxy that is connected.

mod check;
mod link;
mod relay;
mod saved;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tradewind_api::{
    id::{ClusterName, EndpointId, SpiffeId},
    model::Health,
};

use super::{Registered, RegisteredEndpoint, RegisteredGateway};
pub use check::{Fronted, Refused, check_address, check_labels, check_name};
use link::Link;
pub use relay::{FirstHand, HeardGateway, ProxyKey, Relay};
pub use saved::Saved;
use saved::{SavedGateway, SavedProxy};

/// Services one proxy fronts at most: a host runs dozens.
pub const MAX_PER_PROXY: usize = 256;
/// Endpoints of one cluster at most.
pub const MAX_TOTAL: usize = 50_000;
/// Gateways of one cluster at most.
pub const MAX_GATEWAYS: usize = 256;
/// How long a broken stream is waited for: a proxy reconnects within a fraction of it.
pub const GRACE_MS: u64 = 2_000;
/// How long after a start of the controller: every proxy has to find it again.
pub const START_GRACE_MS: u64 = 15_000;
/// How long after another controller of the cluster was lost: all who were with it have to find this one, as after a start.
pub const RELAY_GRACE_MS: u64 = START_GRACE_MS;
/// A stream without a message for this long is silent: three signs of life were missed.
pub const SILENCE_MS: u64 = 15_000;
/// After this long a silent proxy is forgotten.
pub const FORGET_MS: u64 = 24 * 3_600_000;

/// Which stream an event came by. A proxy that reconnects has a new one while the old one may not have ended yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

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
    /// Another controller of this cluster says what it knows at first hand.
    Relayed {
        /// By which stream.
        stream: StreamId,
        /// What.
        relay: Relay,
    },
    /// The stream to another controller ended: what it knew of finds the way to a third or to here.
    RelayEnded(StreamId),
    /// A stream ended, however.
    StreamEnded(StreamId),
    /// Time went by.
    Tick,
}

#[derive(Clone, Debug)]
struct ProxyState {
    fronted: BTreeMap<EndpointId, Fronted>,
    link: Link,
    last_seen_ms: u64,
    // Its last stream was to this controller.
    here: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct GatewayState {
    address: String,
    draining: bool,
    link: Link,
    last_seen_ms: u64,
    here: bool,
}

/// All registrations of one cluster.
#[derive(Clone, Debug)]
pub struct RegistryState {
    cluster: ClusterName,
    proxies: BTreeMap<ProxyKey, ProxyState>,
    gateways: BTreeMap<String, GatewayState>,
    // Who holds an endpoint's id.
    held: BTreeMap<EndpointId, ProxyKey>,
    changes: u64,
    // Those that ended gracefully here, newest last, each with its number.
    departed: VecDeque<(u64, ProxyKey)>,
    departures: u64,
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
            departed: VecDeque::new(),
            departures: 0,
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
                    here: p.here,
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
                    here: g.here,
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
                    here: p.here,
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
                    here: g.here,
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
                return self.register((identity, proxy), (stream, true), fronted, now_ms);
            }
            Event::Left { proxy, identity } => {
                let key = (identity, proxy);
                self.forget(&key);
                self.depart(key);
            }
            Event::GatewayHello {
                stream,
                name,
                address,
                draining,
            } => {
                let new = GatewayState {
                    address,
                    draining,
                    link: Link::Up(stream),
                    last_seen_ms: now_ms,
                    here: true,
                };
                self.hello(name, new)?;
            }
            Event::Relayed { stream, relay } => self.relayed(stream, relay, now_ms)?,
            Event::RelayEnded(stream) => self.stream_ended(stream, now_ms, RELAY_GRACE_MS),
            Event::StreamEnded(stream) => self.stream_ended(stream, now_ms, GRACE_MS),
            Event::Tick => self.tick(now_ms),
        }
        Ok(Vec::new())
    }

    fn hello(&mut self, name: String, new: GatewayState) -> Result<(), Refused> {
        if !self.gateways.contains_key(&name) && self.gateways.len() >= MAX_GATEWAYS {
            return Err(Refused::TooMuch {
                what: "gateways",
                limit: MAX_GATEWAYS,
            });
        }
        let before = self.gateways.insert(name, new.clone());
        let same = before.is_some_and(|b| {
            GatewayState {
                last_seen_ms: new.last_seen_ms,
                ..b
            } == new
        });
        self.changes += u64::from(!same);
        Ok(())
    }

    fn register(
        &mut self,
        key: ProxyKey,
        (stream, here): (StreamId, bool),
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
            && p.here == here
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
            here,
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

    fn stream_ended(&mut self, stream: StreamId, now_ms: u64, grace_ms: u64) {
        let waiting = Link::Waiting {
            until_ms: now_ms.saturating_add(grace_ms),
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
                        labels: f.labels.clone(),
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
