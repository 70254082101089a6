//! One thread's knowledge of all services it calls: builds routes from snapshots, picks targets, books what happened.
//!
//! The decisions themselves are pure and live in `tradewind_transport::balance`; here is the state they are made from.
//! It never waits: probes and first measurements run in tasks of their own.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tradewind_api::{
    id::{ClusterName, EndpointId, ServicePortRef, Zone},
    model::{Cluster, ClusterState, Endpoint, Health, Service},
    snapshot::Snapshot,
};
use tradewind_runtime::{clock::SharedClock, rng::Rng};
use tradewind_transport::{
    balance::{
        Micros,
        budget::Budget,
        detector::{Failure, Standing},
        pick::{self, Member},
        ramp::Ramp,
        tiers::{self, Here, Rung},
    },
    control::Control,
    hbone::{Closed, Destination, DialError, Fault, Path, Pool, PoolConfig, Session, headers},
    server_name,
};

use super::{
    detach,
    metrics::{OutboundMetrics, Served},
    route::{Blame, Link, Made, NoRoute, Peer, Route, Target},
};

mod state;

/// A choice is used this long, unless something changed: ramps and averages move slowly.
const CHOICE_AGE: Micros = 100_000;
/// An endpoint that was out for less than this comes back at full: its connections were renewed, nothing grew cold.
const BLINK: Micros = 500_000;

/// One thread's balancer.
pub(super) struct Balancer {
    pub(super) pool: Pool,
    metrics: OutboundMetrics,
    clock: SharedClock,
    start: Instant,
    rng: RefCell<Rng>,
    zone: Option<Zone>,
    snapshots: RefCell<watch::Receiver<Arc<Snapshot>>>,
    snapshot: RefCell<Arc<Snapshot>>,
    routes: RefCell<HashMap<ServicePortRef, Rc<Route>>>,
    budgets: RefCell<BTreeMap<ServicePortRef, Rc<RefCell<Budget>>>>,
    peers: RefCell<BTreeMap<EndpointId, Rc<Peer>>>,
    links: RefCell<BTreeMap<ClusterName, Rc<Link>>>,
    /// Counts changes after which choices must be made anew; watched by requests that wait for a usable endpoint.
    generation: watch::Sender<u64>,
    own: Weak<Self>,
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer")
            .field("routes", &self.routes.borrow().len())
            .field("peers", &self.peers.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Balancer {
    pub(super) fn new(
        control: Control,
        metrics: OutboundMetrics,
        clock: SharedClock,
        rng: Rng,
        zone: Option<Zone>,
    ) -> Rc<Self> {
        let pool = Pool::new(PoolConfig {
            svid: control.svid,
            trust: control.trust,
            clock: Arc::clone(&clock),
        });
        let mut snapshots = control.snapshot;
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let start = clock.now();
        let balancer = Rc::new_cyclic(|own| Self {
            pool,
            metrics,
            clock,
            start,
            rng: RefCell::new(rng),
            zone,
            snapshots: RefCell::new(snapshots),
            snapshot: RefCell::new(snapshot),
            routes: RefCell::default(),
            budgets: RefCell::default(),
            peers: RefCell::default(),
            links: RefCell::default(),
            generation: watch::Sender::new(0),
            own: Weak::clone(own),
        });
        let weak = Rc::downgrade(&balancer);
        balancer.pool.on_closed(Box::new(move |id, why| {
            if let Some(balancer) = weak.upgrade() {
                balancer.session_closed(id, why);
            }
        }));
        balancer
    }

    /// Now, on the scale of all bookkeeping here.
    pub(super) fn now(&self) -> Micros {
        let since = self.clock.now().saturating_duration_since(self.start);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// Independent dice for a listener.
    pub(super) fn fork_rng(&self) -> Rng {
        self.rng.borrow_mut().fork()
    }

    /// The route for `target` by the newest snapshot.
    pub(super) fn route(&self, target: &ServicePortRef) -> Result<Rc<Route>, NoRoute> {
        self.refresh();
        if let Some(route) = self.routes.borrow().get(target) {
            return Ok(Rc::clone(route));
        }
        let route = Rc::new(self.build(target)?);
        self.routes
            .borrow_mut()
            .insert(target.clone(), Rc::clone(&route));
        Ok(route)
    }

    /// Takes over a newer snapshot, if there is one.
    fn refresh(&self) {
        if !self.snapshots.borrow().has_changed().unwrap_or(false) {
            return;
        }
        let snapshot = Arc::clone(&self.snapshots.borrow_mut().borrow_and_update());
        let before = self.snapshot.replace(Arc::clone(&snapshot));
        self.routes.borrow_mut().clear();
        let now = self.now();
        let services = &snapshot.services;
        self.budgets
            .borrow_mut()
            .retain(|s, _| services.contains_key(&s.service));
        let returned = self.returned(&before, &snapshot, now);
        // Only services that are called: a federation may have many more.
        let budgets = self.budgets.borrow();
        let alive: BTreeMap<&EndpointId, &Endpoint> = budgets
            .keys()
            .filter_map(|s| services.get(&s.service))
            .flat_map(|s| &s.endpoints)
            .map(|e| (&e.id, e))
            .collect();
        self.peers.borrow_mut().retain(|id, peer| {
            let Some(endpoint) = alive.get(id) else {
                return false;
            };
            let before = peer.health.replace(Some(endpoint.health));
            let healed =
                endpoint.health == Health::Healthy && before.is_some_and(|b| b != Health::Healthy);
            if healed || returned.contains(&&endpoint.cluster) {
                // Its own cluster says that it is back: no need to sit out the ejection.
                peer.detector.borrow_mut().hint_back(now);
            }
            if healed && let Some(link) = self.links.borrow().get(&endpoint.cluster) {
                link.detector.borrow_mut().hint_back(now);
            }
            true
        });
        self.pool.retain(|id| alive.contains_key(id));
        drop(budgets);
        self.changed();
    }

    /// The clusters that the newer snapshot shows alive again or reachable in another way; their links may be tried now.
    fn returned<'a>(
        &self,
        before: &Snapshot,
        after: &'a Snapshot,
        now: Micros,
    ) -> Vec<&'a ClusterName> {
        let mut links = self.links.borrow_mut();
        links.retain(|c, _| after.clusters.contains_key(c));
        let returned = |(name, link): (&ClusterName, &Rc<Link>)| {
            let (old, new) = (before.clusters.get(name)?, after.clusters.get(name)?);
            let back = (old.lease_expired && !new.lease_expired) || old.gateways != new.gateways;
            back.then(|| link.detector.borrow_mut().hint_back(now))?;
            Some(&new.name)
        };
        links.iter().filter_map(returned).collect()
    }

    fn changed(&self) {
        self.generation.send_modify(|g| *g += 1);
    }

    /// Waits until a choice may turn out differently, at most `limit`. False when nothing changed.
    pub(super) async fn changed_within(&self, limit: Duration) -> bool {
        let mut generation = self.generation.subscribe();
        let mut snapshots = self.snapshots.borrow().clone();
        timeout(limit, async {
            tokio::select! {
                Ok(()) = generation.changed() => {}
                Ok(()) = snapshots.changed() => {}
                else => std::future::pending().await,
            }
        })
        .await
        .is_ok()
    }

    fn build(&self, target: &ServicePortRef) -> Result<Route, NoRoute> {
        let snapshot = self.snapshot.borrow();
        if snapshot.clusters.is_empty() && snapshot.services.is_empty() {
            return Err(NoRoute::NoSnapshot);
        }
        let service = snapshot
            .services
            .get(&target.service)
            .ok_or_else(|| NoRoute::UnknownService(target.clone()))?;
        let port = service
            .port(target.port)
            .ok_or_else(|| no_port(target, service))?;
        let mut served: BTreeMap<&ClusterName, Served> = BTreeMap::new();
        let targets: Vec<_> = service
            .endpoints
            .iter()
            .filter(|e| e.ports.contains(&target.port))
            .filter_map(|e| {
                let served = served
                    .entry(&e.cluster)
                    .or_insert_with(|| self.metrics.served(target, &e.cluster));
                self.target(&snapshot, target, e, served)
            })
            .map(Rc::new)
            .collect();
        if targets.is_empty() {
            return Err(NoRoute::NoEndpoint(target.clone()));
        }
        let now = self.now();
        let budget = Rc::clone(
            self.budgets
                .borrow_mut()
                .entry(target.clone())
                .or_insert_with(|| Rc::new(RefCell::new(Budget::new(now)))),
        );
        Ok(Route {
            service: target.clone(),
            service_value: headers::service_value(target),
            protocol: port.app_protocol,
            targets,
            made: RefCell::new(None),
            budget,
        })
    }

    fn target(
        &self,
        snapshot: &Snapshot,
        to: &ServicePortRef,
        e: &Endpoint,
        served: &Served,
    ) -> Option<Target> {
        let name = server_name::Target::Endpoint {
            cluster: e.cluster.clone(),
            service: to.service.clone(),
            port: to.port,
            endpoint: Some(e.id.clone()),
        };
        let server_name = match server_name::server_name(&name, &snapshot.trust.domain) {
            Ok(name) => name,
            Err(error) => {
                tracing::warn!(endpoint = %e.id, service = %to, %error, "endpoint left out");
                return None;
            }
        };
        let cluster = snapshot.clusters.get(&e.cluster);
        let (path, link) = match &e.address {
            Some(address) => (Path::Direct(address.clone()), None),
            None => {
                let gateways = self.shuffled(cluster);
                let link = Rc::clone(
                    self.links
                        .borrow_mut()
                        .entry(e.cluster.clone())
                        .or_default(),
                );
                (Path::Gateways(gateways), Some(link))
            }
        };
        let peer = Rc::clone(self.peers.borrow_mut().entry(e.id.clone()).or_default());
        peer.health.set(Some(e.health));
        let served_by = HeaderValue::try_from(format!("{}/{}", e.cluster, e.id)).ok()?;
        Some(Target {
            cluster_state: cluster.map_or(ClusterState::Active, |c| c.state),
            lease_expired: cluster.is_some_and(|c| c.lease_expired),
            destination: Destination {
                endpoint: e.id.clone(),
                identity: e.identity.clone(),
                path,
                server_name,
            },
            peer,
            link,
            served: served.clone(),
            served_by,
            endpoint: e.clone(),
        })
    }

    /// A cluster's gateways, beginning with another one each time: sessions spread over them.
    fn shuffled(&self, cluster: Option<&Arc<Cluster>>) -> Vec<String> {
        let mut gateways = cluster.map(|c| c.gateways.clone()).unwrap_or_default();
        if let Some(first) = self.rng.borrow_mut().index(gateways.len()) {
            gateways.rotate_left(first);
        }
        gateways
    }

    /// Picks a target, leaving out those in `except`. `None` only when nobody is left.
    pub(super) fn pick(&self, route: &Route, except: &[EndpointId]) -> Option<Rc<Target>> {
        let now = self.now();
        if except.is_empty() {
            self.make(route, now);
            let made = route.made.borrow();
            return self.draw(&made.as_ref()?.choice, &route.targets, now);
        }
        // A second attempt: rare, and the choice is another one without those that failed.
        let left: Vec<_> = route
            .targets
            .iter()
            .filter(|t| !except.contains(&t.endpoint.id))
            .cloned()
            .collect();
        let choice = self.choose(&left, now)?;
        self.draw(&choice, &left, now)
    }

    fn draw(
        &self,
        choice: &tiers::Choice,
        targets: &[Rc<Target>],
        now: Micros,
    ) -> Option<Rc<Target>> {
        let mut rng = self.rng.borrow_mut();
        let tier = choice.tier(rng.unit())?;
        if let [only] = tier.members.as_slice() {
            return targets.get(*only).cloned();
        }
        let members: Vec<_> = tier
            .members
            .iter()
            .filter_map(|i| targets.get(*i))
            .map(|t| Member {
                weight: f64::from(t.endpoint.weight) * t.peer.ramp.get().value(now),
                latency_us: t.peer.latency.get().value(now),
                in_flight: t.peer.in_flight.get(),
            })
            .collect();
        let picked = pick::pick(&members, [rng.unit(), rng.unit()])?;
        targets.get(*tier.members.get(picked)?).cloned()
    }

    fn choose(&self, targets: &[Rc<Target>], now: Micros) -> Option<tiers::Choice> {
        let snapshot = self.snapshot.borrow();
        // Before the own cluster is known nobody is near: any name that is no cluster's will do.
        let local = snapshot.local();
        let first = targets.first()?;
        let here = Here {
            cluster: local.map_or(&first.endpoint.cluster, |c| &c.name),
            region: local.map_or(&first.endpoint.region, |c| &c.region),
            zone: self.zone.as_ref(),
        };
        let candidates: Vec<_> = targets.iter().map(|t| t.candidate(now)).collect();
        Some(tiers::choose(&candidates, &here))
    }

    /// Makes the route's choice anew if it is old or something changed.
    pub(super) fn make(&self, route: &Route, now: Micros) {
        let generation = *self.generation.borrow();
        let current =
            route.made.borrow().as_ref().is_some_and(|m| {
                m.generation == generation && now.saturating_sub(m.at) < CHOICE_AGE
            });
        if current {
            return;
        }
        self.enter(route, now);
        self.probe(route, now);
        if let Some(choice) = self.choose(&route.targets, now) {
            *route.made.borrow_mut() = Some(Made {
                choice,
                at: now,
                generation,
            });
        }
    }

    /// Notes who became fit or unfit since the last choice, and ramps those that come back while others serve.
    fn enter(&self, route: &Route, now: Micros) {
        let snapshot = self.snapshot.borrow();
        let Some(local) = snapshot.local() else {
            return;
        };
        let here = Here {
            cluster: &local.name,
            region: &local.region,
            zone: self.zone.as_ref(),
        };
        let fit: Vec<_> = route
            .targets
            .iter()
            .map(|t| tiers::rung_of(&t.candidate(now), &here) == Rung::Fit)
            .collect();
        let served = |i: usize| {
            let stays = |(j, t): (usize, &Rc<Target>)| {
                j != i && t.peer.known.get() && t.peer.unfit_since.get().is_none()
            };
            route.targets.iter().enumerate().any(stays)
        };
        let ramps: Vec<_> = route
            .targets
            .iter()
            .enumerate()
            .zip(&fit)
            .map(|((i, t), fit)| match (fit, t.peer.unfit_since.get()) {
                (true, Some(since)) if now.saturating_sub(since) >= BLINK => {
                    Some(Ramp::enter(now, served(i)))
                }
                // New to this thread while others were called already.
                (true, None) if !t.peer.known.get() => Some(Ramp::enter(now, served(i))),
                _ => None,
            })
            .collect();
        for ((target, fit), ramp) in route.targets.iter().zip(fit).zip(ramps) {
            let peer = &target.peer;
            peer.known.set(true);
            if let Some(ramp) = ramp {
                peer.ramp.set(ramp);
            }
            let since = peer.unfit_since.get();
            peer.unfit_since
                .set(if fit { None } else { since.or(Some(now)) });
        }
    }

    /// Starts the probes that are due, and a first measurement of every way that has none.
    fn probe(&self, route: &Route, now: Micros) {
        for target in &route.targets {
            if let Some(link) = &target.link {
                let due = link.detector.borrow_mut().begin_probe(now);
                if due || (link.rtt_us.get().is_none() && !link.measuring.replace(true)) {
                    self.probe_one(route, target);
                    continue;
                }
                if link.detector.borrow().standing(now) != Standing::Closed {
                    // The way is known to be closed: its own probe finds out, not each endpoint's.
                    continue;
                }
            }
            let due = target.peer.detector.borrow_mut().begin_probe(now);
            if due {
                self.probe_one(route, target);
            }
        }
    }

    /// Dials in the background: no request is put at risk to find out whether somebody is back.
    fn probe_one(&self, route: &Route, target: &Rc<Target>) {
        let Some(own) = self.own.upgrade() else {
            return;
        };
        let (service, target) = (route.service.clone(), Rc::clone(target));
        detach("outbound_probe", async move {
            match own.pool.session(&target.destination).await {
                Ok(session) => {
                    own.reached(&target, &session);
                    own.succeeded(&target);
                }
                Err(error) => own.dial_failed(&service, &target, &error),
            }
        });
    }

    /// A session with `target` exists: the way to its cluster works.
    pub(super) fn reached(&self, target: &Target, session: &Session) {
        if let Some(link) = &target.link {
            link.measured(session.rtt());
            if link.detector.borrow_mut().succeeded() {
                tracing::info!(cluster = %target.cluster(), "cluster reachable again");
                self.changed();
            }
        }
    }

    /// Books an answer of `target`.
    pub(super) fn answered(&self, target: &Target, latency: Micros) {
        target.peer.answered(latency, self.now());
        self.succeeded(target);
    }

    fn succeeded(&self, target: &Target) {
        if target.peer.detector.borrow_mut().succeeded() {
            tracing::info!(endpoint = %target.endpoint.id, cluster = %target.cluster(), "endpoint back");
            self.changed();
        }
    }

    /// Books a failed dial.
    pub(super) fn dial_failed(&self, service: &ServicePortRef, target: &Target, error: &DialError) {
        let failure = error.failure();
        let blame = match error.fault {
            // Nobody else can help that.
            Fault::Ourselves => return,
            Fault::Link => Blame::Link(failure),
            Fault::Endpoint | Fault::Identity => {
                // The gateway answered: the way itself is fine.
                if let Some(link) = &target.link
                    && link.detector.borrow_mut().succeeded()
                {
                    self.changed();
                }
                Blame::Endpoint(failure)
            }
        };
        tracing::debug!(endpoint = %target.endpoint.id, cluster = %target.cluster(), %error, "dial failed");
        self.failed(service, target, blame);
    }

    /// Books a failure of `target`.
    pub(super) fn failed(&self, service: &ServicePortRef, target: &Target, blame: Blame) {
        let now = self.now();
        let (ejected, failure, what) = match (blame, &target.link) {
            (Blame::Link(f), Some(link)) => {
                (link.detector.borrow_mut().failed(f, now), f, "cluster")
            }
            (Blame::Link(f) | Blame::Endpoint(f), _) => {
                target.peer.proven_at.set(None);
                (
                    target.peer.detector.borrow_mut().failed(f, now),
                    f,
                    "endpoint",
                )
            }
        };
        if let Some(for_us) = ejected {
            self.metrics
                .ejected(service, target.cluster(), failure.as_str());
            tracing::warn!(
                %service, endpoint = %target.endpoint.id, cluster = %target.cluster(),
                cause = failure.as_str(), for_ms = for_us / 1000, "{what} ejected"
            );
            self.changed();
        }
    }

    /// A session ended, perhaps with nobody on it.
    fn session_closed(&self, id: &EndpointId, why: &Closed) {
        let Some(failure) = why.failure() else {
            return;
        };
        let found = self.routes.borrow().values().find_map(|route| {
            let target = route.targets.iter().find(|t| t.endpoint.id == *id)?;
            Some((Rc::clone(route), Rc::clone(target)))
        });
        let Some((route, target)) = found else {
            return;
        };
        self.failed(&route.service, &target, Blame::Endpoint(failure));
        if failure == Failure::Lost {
            // A connection can break under a healthy endpoint (a gateway restarts): find out now, not in a second.
            let now = self.now();
            target.peer.detector.borrow_mut().hint_back(now);
            self.probe(&route, now);
        }
    }
}

fn no_port(target: &ServicePortRef, service: &Service) -> NoRoute {
    let has: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
    NoRoute::UnknownPort {
        service: target.clone(),
        has: if has.is_empty() {
            "none".into()
        } else {
            has.join(", ")
        },
    }
}
