//! The hearing side: one task for each of the others, which hands on to the registrations and exports what it hears.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tradewind_api::{
    InvalidName, NodeId, ServiceName, SpiffeId,
    proto::v1::{FollowRequest, FollowResponse, RegisterRequest},
};
use tradewind_runtime::{Backoff, Rng, SharedClock, TaskSet, drain, task};

use super::{Heard, Seen, Sibling, serve::ALIVE_EVERY};
use crate::{
    exports::{Commanded, Commands, Exports},
    raft_net::{Peers, read_vitals},
    registry::{
        RegistryHub, RelayStream,
        state::{
            Fronted, HeardGateway, ProxyKey, Refused, Relay, check_address, check_labels,
            check_name,
        },
    },
};

/// A stream that is silent for this long is lost: three signs of life were missed.
const SILENCE: Duration = Duration::from_secs(6);
/// How long opening a stream may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Waits between tries.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often it is looked who the others are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long nothing is concluded from what is missing, while one of the others has not told everything: one that runs is
/// reached within it, and one that does not has nothing to tell.
const COMPLETE_WITHIN: Duration = Duration::from_secs(5);

const _: () = assert!(SILENCE.as_millis() >= 3 * ALIVE_EVERY.as_millis());

/// Follows all of the others.
pub(crate) struct Followers {
    peers: Peers,
    hub: RegistryHub,
    exports: Exports,
    node_id: NodeId,
    clock: SharedClock,
    rng: Rng,
    heard: watch::Sender<Arc<Heard>>,
    whole: watch::Sender<BTreeSet<NodeId>>,
    complete: watch::Sender<bool>,
}

/// What one task shares with the others.
#[derive(Clone)]
struct Line {
    peers: Peers,
    hub: RegistryHub,
    exports: Exports,
    me: NodeId,
    node: NodeId,
    clock: SharedClock,
    heard: watch::Sender<Arc<Heard>>,
    whole: watch::Sender<BTreeSet<NodeId>>,
}

/// Why a stream was given up.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Call(String),
    #[error("it fell silent")]
    Silent,
    #[error("it ended the stream")]
    Ended,
    #[error("it says something that cannot be read: {0}")]
    Name(#[from] InvalidName),
    #[error("it says something that cannot be read: {0}")]
    Content(#[from] Refused),
}

impl Followers {
    pub(crate) fn new(
        peers: Peers,
        (hub, exports): (RegistryHub, Exports),
        node_id: NodeId,
        clock: SharedClock,
        rng: Rng,
    ) -> (Self, Seen) {
        let heard = watch::Sender::new(Arc::new(Heard::new()));
        let complete = watch::Sender::new(false);
        let seen = Seen {
            heard: heard.subscribe(),
            complete: complete.subscribe(),
        };
        let followers = Self {
            peers,
            hub,
            exports,
            node_id,
            clock,
            rng,
            heard,
            whole: watch::Sender::new(BTreeSet::new()),
            complete,
        };
        (followers, seen)
    }

    /// Runs until the drain.
    pub(crate) async fn run(mut self, mut drain: drain::Observer) {
        let started = Instant::now();
        let mut lines: BTreeMap<NodeId, TaskSet> = BTreeMap::new();
        loop {
            let siblings = self.peers.siblings();
            lines.retain(|node, _| siblings.contains_key(node));
            for (node, address) in siblings.iter() {
                self.show(*node, |s| s.address.clone_from(address));
                if !lines.contains_key(node) {
                    let mut tasks = TaskSet::new();
                    tasks.spawn("sibling", self.line(*node).run(self.rng.fork()));
                    lines.insert(*node, tasks);
                }
            }
            self.heard.send_if_modified(|heard| {
                let gone = heard.keys().any(|node| !siblings.contains_key(node));
                if gone {
                    Arc::make_mut(heard).retain(|node, _| siblings.contains_key(node));
                }
                gone
            });
            let all_told = siblings.keys().all(|n| self.whole.borrow().contains(n));
            if !*self.complete.borrow() && (all_told || started.elapsed() >= COMPLETE_WITHIN) {
                self.complete.send_replace(true);
            }
            let mut whole = self.whole.subscribe();
            whole.mark_unchanged();
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                _ = whole.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn line(&self, node: NodeId) -> Line {
        Line {
            peers: self.peers.clone(),
            hub: self.hub.clone(),
            exports: self.exports.clone(),
            me: self.node_id,
            node,
            clock: Arc::clone(&self.clock),
            heard: self.heard.clone(),
            whole: self.whole.clone(),
        }
    }

    fn show(&self, node: NodeId, change: impl FnOnce(&mut Sibling)) {
        show(&self.heard, node, change);
    }
}

fn show(heard: &watch::Sender<Arc<Heard>>, node: NodeId, change: impl FnOnce(&mut Sibling)) {
    heard.send_if_modified(|heard| {
        let before = heard.get(&node).cloned();
        let mut now = before.clone().unwrap_or_default();
        change(&mut now);
        let changed = before.as_ref() != Some(&now);
        if changed {
            Arc::make_mut(heard).insert(node, now);
        }
        changed
    });
}

impl Line {
    async fn run(self, mut rng: Rng) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let mut heard_any = false;
            let why = match self.follow(&mut heard_any).await {
                Ok(()) => Broken::Ended,
                Err(why) => why,
            };
            let now_ms = self.clock.unix_ms();
            let was_up = self.heard.borrow().get(&self.node).is_some_and(|s| s.up);
            show(&self.heard, self.node, |s| {
                if s.up || s.since_ms == 0 {
                    s.since_ms = now_ms;
                }
                s.up = false;
                s.error = why.to_string();
            });
            if was_up {
                tracing::warn!(node = self.node, %why, "another controller of this cluster was lost; what it said stands");
            }
            if heard_any {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next(&mut rng)).await;
        }
    }

    async fn follow(&self, heard_any: &mut bool) -> Result<(), Broken> {
        let mut client = self.peers.follow(self.node);
        let request = FollowRequest { node_id: self.me };
        let opened = tokio::time::timeout(OPEN_DEADLINE, client.follow(request)).await;
        let mut responses = opened
            .map_err(|_| Broken::Silent)?
            .map_err(|s| Broken::Call(s.message().to_owned()))?
            .into_inner();
        let relay = self.hub.relay();
        let mut connected: BTreeMap<ProxyKey, Vec<Fronted>> = BTreeMap::new();
        let mut gateways: BTreeMap<String, HeardGateway> = BTreeMap::new();
        let mut refreshed = Instant::now();
        loop {
            let next = tokio::time::timeout(SILENCE, responses.message()).await;
            let next = next
                .map_err(|_| Broken::Silent)?
                .map_err(|s| Broken::Call(s.message().to_owned()))?;
            let Some(response) = next else {
                return Ok(());
            };
            *heard_any = true;
            self.note(&response);
            self.take(response.clone(), &relay, (&mut connected, &mut gateways))
                .await?;
            // All whom it named live as it does; one that was here and is no more is with it.
            if refreshed.elapsed() >= ALIVE_EVERY {
                refreshed = Instant::now();
                for (key, fronted) in &connected {
                    relay.take(Relay::Up(key.clone(), fronted.clone()));
                }
                for (name, gateway) in &gateways {
                    relay.take(Relay::GatewayUp(name.clone(), gateway.clone()));
                }
            }
            if response.whole {
                self.whole.send_modify(|whole| {
                    whole.insert(self.node);
                });
            }
        }
    }

    fn note(&self, response: &FollowResponse) {
        let now_ms = self.clock.unix_ms();
        show(&self.heard, self.node, |s| {
            if !s.up {
                s.since_ms = now_ms;
                s.up = true;
                s.error.clear();
            }
            s.heard_ms = now_ms;
            s.revision = response.revision;
            s.speaker = response.speaker;
            s.vitals = response.vitals.map(read_vitals);
        });
    }

    async fn take(
        &self,
        response: FollowResponse,
        relay: &RelayStream,
        (connected, gateways): (
            &mut BTreeMap<ProxyKey, Vec<Fronted>>,
            &mut BTreeMap<String, HeardGateway>,
        ),
    ) -> Result<(), Broken> {
        for lost in response.lost {
            let key: ProxyKey = (self.own(&lost.identity)?, lost.proxy);
            connected.remove(&key);
            relay.take(Relay::Lost(key));
        }
        for proxy in response.proxies {
            let leaving = proxy.leaving;
            let (key, fronted) = self.proxy(proxy)?;
            if leaving {
                connected.remove(&key);
                relay.take(Relay::Left(key));
            } else {
                relay.take(Relay::Up(key.clone(), fronted.clone()));
                connected.insert(key, fronted);
            }
        }
        for name in response.lost_gateways {
            gateways.remove(&name);
            relay.take(Relay::GatewayLost(name));
        }
        for hello in response.gateways {
            check_name("gateway name", &hello.name)?;
            check_address("advertised address", &hello.advertised_address)?;
            let gateway = HeardGateway {
                address: hello.advertised_address,
                draining: hello.draining,
            };
            relay.take(Relay::GatewayUp(hello.name.clone(), gateway.clone()));
            gateways.insert(hello.name, gateway);
        }
        let mut words = Commands::new();
        for word in response.words {
            let service: ServiceName = word.service.parse()?;
            let said = Commanded {
                at_ms: word.at_unix_ms,
                created_at_ms: word.created_at_unix_ms,
            };
            words.insert(service, said);
        }
        if !words.is_empty() {
            let exports = self.exports.clone();
            let heard = task::spawn_blocking(move || exports.hear(&words)).await;
            if let Ok(Err(error)) = heard {
                tracing::warn!(%error, "what another controller heard of exports was not noted");
            }
        }
        Ok(())
    }

    /// An identity of this cluster: nobody is told of others.
    fn own(&self, identity: &str) -> Result<SpiffeId, Broken> {
        let id: SpiffeId = identity.parse()?;
        if id.trust_domain() == self.peers.own_trust_domain() {
            return Ok(id);
        }
        Err(Broken::Call(format!("it names {id}, which is elsewhere")))
    }

    fn proxy(&self, proxy: RegisterRequest) -> Result<(ProxyKey, Vec<Fronted>), Broken> {
        check_name("proxy name", &proxy.proxy)?;
        let identity = self.own(&proxy.identity)?;
        let labels = proxy.labels.into_iter().collect();
        check_labels(&labels)?;
        let fronted = proxy
            .registrations
            .into_iter()
            .map(|r| Fronted::check(r, &identity, &labels))
            .collect::<Result<_, _>>()?;
        Ok(((identity, proxy.proxy), fronted))
    }
}
