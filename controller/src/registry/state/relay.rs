//! What controllers of one cluster tell each other of who registered with them. Pure.
//!
//! Each tells only what it knows at first hand, so that nothing goes round in circles. A proxy that is connected here is not
//! touched by another's word: it moved, and the other has not noticed yet.

use std::collections::BTreeMap;

use tradewind_api::id::SpiffeId;

use super::{Fronted, GatewayState, Link, RELAY_GRACE_MS, Refused, RegistryState, StreamId};

/// A proxy is its name and its identity: another identity under the same name is another proxy.
pub type ProxyKey = (SpiffeId, String);

/// Graceful ends that are remembered for the other controllers; one that missed some knows those proxies as silent.
const MAX_DEPARTED: usize = 1_024;

/// One thing that another controller says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    /// The proxy is connected there, and fronts all this.
    Up(ProxyKey, Vec<Fronted>),
    /// The proxy is connected there no more.
    Lost(ProxyKey),
    /// The proxy ended gracefully.
    Left(ProxyKey),
    /// The gateway is connected there.
    GatewayUp(String, HeardGateway),
    /// The gateway is connected there no more.
    GatewayLost(String),
}

/// What a gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeardGateway {
    /// Where others dial it.
    pub address: String,
    /// It drains.
    pub draining: bool,
}

/// Who is connected to this very controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstHand {
    /// Proxies, with all that they front.
    pub proxies: BTreeMap<ProxyKey, Vec<Fronted>>,
    /// Gateways.
    pub gateways: BTreeMap<String, HeardGateway>,
    /// Proxies that ended gracefully, each with its number; numbers grow.
    pub departed: Vec<(u64, ProxyKey)>,
}

impl RegistryState {
    /// What this controller can tell the others.
    pub fn first_hand(&self) -> FirstHand {
        let proxies = self.proxies.iter();
        let gateways = self.gateways.iter();
        FirstHand {
            proxies: proxies
                .filter(|(_, p)| p.here && p.link.is_up())
                .map(|(key, p)| (key.clone(), p.fronted.values().cloned().collect()))
                .collect(),
            gateways: gateways
                .filter(|(_, g)| g.here && g.link.is_up())
                .map(|(name, g)| {
                    let heard = HeardGateway {
                        address: g.address.clone(),
                        draining: g.draining,
                    };
                    (name.clone(), heard)
                })
                .collect(),
            departed: self.departed.iter().cloned().collect(),
        }
    }

    pub(super) fn depart(&mut self, key: ProxyKey) {
        self.departures += 1;
        self.changes += 1;
        self.departed.push_back((self.departures, key));
        if self.departed.len() > MAX_DEPARTED {
            self.departed.pop_front();
        }
    }

    pub(super) fn relayed(
        &mut self,
        stream: StreamId,
        relay: Relay,
        now_ms: u64,
    ) -> Result<(), Refused> {
        let waiting = Link::Waiting {
            until_ms: now_ms.saturating_add(RELAY_GRACE_MS),
        };
        match relay {
            Relay::Up(key, fronted) => {
                if !self.is_here(&key) {
                    self.register(key, (stream, false), fronted, now_ms)?;
                }
            }
            Relay::Lost(key) => {
                if let Some(p) = self.proxies.get_mut(&key)
                    && p.link == Link::Up(stream)
                {
                    p.link = waiting;
                    self.changes += 1;
                }
            }
            Relay::Left(key) => {
                if !self.is_here(&key) {
                    self.forget(&key);
                }
            }
            Relay::GatewayUp(name, heard) => {
                let here = |g: &GatewayState| g.here && g.link.is_up();
                if !self.gateways.get(&name).is_some_and(here) {
                    let new = GatewayState {
                        address: heard.address,
                        draining: heard.draining,
                        link: Link::Up(stream),
                        last_seen_ms: now_ms,
                        here: false,
                    };
                    self.hello(name, new)?;
                }
            }
            Relay::GatewayLost(name) => {
                if let Some(g) = self.gateways.get_mut(&name)
                    && g.link == Link::Up(stream)
                {
                    g.link = waiting;
                    self.changes += 1;
                }
            }
        }
        Ok(())
    }

    fn is_here(&self, key: &ProxyKey) -> bool {
        let here = |p: &super::ProxyState| p.here && p.link.is_up();
        self.proxies.get(key).is_some_and(here)
    }
}
