//! One thread's knowledge of all services it calls: builds routes from snapshots, picks targets, books what happened.
//!
//! The decisions themselves are pure and live in `tradewind_transport::balance`; here is the state they are made from.
//! It never waits: probes and first measurements run in tasks of their own.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    fmt,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tradewind_api::{
    id::{ClusterName, Domain, EndpointId, Namespace, ServiceName, ServicePortRef, Zone},
    route::Routes,
    snapshot::Snapshot,
    traffic::Locality,
};
use tradewind_runtime::{clock::SharedClock, rng::Rng};
use tradewind_transport::{
    balance::{
        Micros,
        detector::Detector,
        ramp::Ramp,
        tiers::{self, Extra, Extras, Here, Rung},
    },
    control::Control,
    hbone::{Pool, PoolConfig},
    request_id,
    svid::SvidCell,
};

use super::{
    breaker::Breakers,
    detach,
    metrics::{OutboundMetrics, Served},
    route::{Blame, Callee, CalleeKey, Kept, Link, Made, NoRoute, Peer, Picked, Route, Target},
};

use crate::{
    called::Scope,
    {config::Exit, labels::Labels},
};

mod book;
mod build;
mod draw;
mod state;

pub(super) use draw::Tables;

/// A choice is used this long, unless something changed: ramps and averages move slowly.
const CHOICE_AGE: Micros = 100_000;
/// An endpoint that was out for less than this comes back at full: its connections were renewed, nothing grew cold.
const BLINK: Micros = 500_000;

/// Where this proxy stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// This host's zone, if it has one.
    pub(super) zone: Option<Zone>,
    /// What this workload is labelled with.
    pub(super) labels: Labels,
    /// How calls leave the cluster.
    pub(super) exit: Exit,
}

/// A service port's routes, by whom of it callers ask for: a few.
#[derive(Debug, Default)]
struct ByScope(Vec<(Scope, Rc<Route>)>);

impl ByScope {
    /// Each once.
    fn all(&self) -> impl Iterator<Item = &Rc<Route>> {
        let own = self.0.iter().filter(|(scope, r)| *scope == r.scope);
        own.map(|(_, route)| route)
    }

    fn of(&self, to: Callee<'_>) -> Option<&Rc<Route>> {
        let mut all = self.0.iter();
        let found = all.find(|(s, r)| *s == to.scope && r.subset.as_deref() == to.subset);
        found.map(|(_, route)| route)
    }
}

/// One thread's balancer.
pub(super) struct Balancer {
    pub(super) pool: Pool,
    metrics: OutboundMetrics,
    clock: SharedClock,
    start: Instant,
    rng: RefCell<Rng>,
    place: Place,
    snapshots: RefCell<watch::Receiver<Arc<Snapshot>>>,
    snapshot: RefCell<Arc<Snapshot>>,
    routes: RefCell<HashMap<ServicePortRef, ByScope>>,
    kept: RefCell<BTreeMap<CalleeKey, Rc<Kept>>>,
    breakers: Breakers,
    /// Whose calls they are, once this proxy has a certificate that says so.
    caller: RefCell<Option<Namespace>>,
    svid: SvidCell,
    peers: RefCell<BTreeMap<EndpointId, Rc<Peer>>>,
    links: RefCell<BTreeMap<ClusterName, Rc<Link>>>,
    /// Counts changes after which choices must be made anew.
    generation: Cell<u64>,
    /// Told whenever somebody came back: requests wait for it when nobody is usable.
    better: watch::Sender<()>,
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
        (place, breakers): (Place, Breakers),
    ) -> Rc<Self> {
        let svid = control.svid.clone();
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
            place,
            snapshots: RefCell::new(snapshots),
            snapshot: RefCell::new(snapshot),
            routes: RefCell::default(),
            kept: RefCell::default(),
            breakers,
            caller: RefCell::default(),
            svid,
            peers: RefCell::default(),
            links: RefCell::default(),
            generation: Cell::new(0),
            better: watch::Sender::new(()),
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

    /// The federation's domain.
    pub(super) fn domain(&self) -> Domain {
        self.snapshot.borrow().trust.domain.clone()
    }

    /// The clock that all bookkeeping here is by.
    pub(super) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Gives a request an id unless it has one.
    pub(super) fn name_request(&self, fields: &mut HeaderMap) {
        request_id::ensure(fields, || self.rng.borrow_mut().next_u64());
    }

    /// A number, uniform over `0.0..1.0`.
    pub(super) fn unit(&self) -> f64 {
        self.rng.borrow_mut().unit()
    }

    /// A number, uniform over u64.
    pub(super) fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// Independent dice for a listener.
    pub(super) fn fork_rng(&self) -> Rng {
        self.rng.borrow_mut().fork()
    }

    /// The route to whom a call is for, by the newest snapshot.
    pub(super) fn route(&self, to: Callee<'_>) -> Result<Rc<Route>, NoRoute> {
        self.refresh();
        if let Some(known) = self.routes.borrow().get(to.service)
            && let Some(route) = known.of(to)
        {
            return Ok(Rc::clone(route));
        }
        let same = self.widened(to);
        let route = match same == to {
            true => Rc::new(self.build(to)?),
            false => self.route(same)?,
        };
        let mut routes = self.routes.borrow_mut();
        let of = routes.entry(to.service.clone()).or_default();
        of.0.push((to.scope, Rc::clone(&route)));
        Ok(route)
    }

    /// The rules for calls to a service by the newest snapshot.
    pub(super) fn routes_of(&self, service: &ServiceName) -> Option<Arc<Routes>> {
        self.refresh();
        self.snapshot.borrow().routes.get(service).cloned()
    }

    fn changed(&self) {
        self.generation.set(self.generation.get() + 1);
    }

    /// Somebody came back.
    fn improved(&self) {
        self.changed();
        self.better.send_replace(());
    }

    /// Keeps what this thread knows of the services it calls current while it has no calls: those that failed are probed
    /// and their ramps run on, so that calls which come to this thread later find everybody where the other threads do.
    pub(super) fn tend(&self) {
        let now = self.now();
        let news = self.snapshots.borrow().has_changed().unwrap_or(false);
        let out = |d: &RefCell<Detector>| d.borrow().standing(now).is_ejected();
        let unsettled = self.peers.borrow().values().any(|p| out(&p.detector))
            || self.links.borrow().values().any(|l| out(&l.detector));
        if !news && !unsettled {
            return;
        }
        let called: Vec<_> = self.kept.borrow().keys().cloned().collect();
        for called in called {
            if let Ok(route) = self.route(called.callee()) {
                self.make(&route, now);
            }
        }
    }

    /// Waits until somebody may have become usable, at most `limit`.
    pub(super) async fn better_within(&self, limit: Duration) {
        let mut better = self.better.subscribe();
        let mut snapshots = self.snapshots.borrow().clone();
        let waited = timeout(limit, async {
            tokio::select! {
                Ok(()) = better.changed() => {}
                Ok(()) = snapshots.changed() => {}
                else => std::future::pending().await,
            }
        });
        // Waiting in vain is no news: whoever asked looks again either way.
        drop(waited.await);
    }

    fn choose(&self, route: &Route, targets: &[Rc<Target>], now: Micros) -> Option<tiers::Choice> {
        let snapshot = self.snapshot.borrow();
        let local = snapshot.local();
        let here = self.here(&snapshot, targets.first()?);
        let heeded = route.heeds_answers(now);
        let candidates: Vec<_> = targets.iter().map(|t| t.candidate(now, heeded)).collect();
        let locality = &route.settings.locality;
        let network = |name: &ClusterName| snapshot.clusters.get(name).map(|c| c.network.as_str());
        let known: Vec<_> = match locality {
            Locality::Labels(_) => targets
                .iter()
                .map(|t| Extra {
                    labels: &t.endpoint.labels,
                    network: network(t.cluster()),
                })
                .collect(),
            _ => Vec::new(),
        };
        let extras = Extras {
            own: Extra {
                labels: &self.place.labels,
                network: local.map(|c| c.network.as_str()),
            },
            candidates: &known,
        };
        Some(tiers::choose_by(&candidates, &here, locality, extras))
    }

    /// Where this proxy stands. Before its own cluster is known nobody is near: any endpoint's will do.
    fn here<'a>(&'a self, snapshot: &'a Snapshot, any: &'a Target) -> Here<'a> {
        let local = snapshot.local();
        Here {
            cluster: local.map_or(&any.endpoint.cluster, |c| &c.name),
            region: local.map_or(&any.endpoint.region, |c| &c.region),
            zone: self.place.zone.as_ref(),
        }
    }

    /// Makes the route's choice anew if it is old or something changed.
    pub(super) fn make(&self, route: &Route, now: Micros) {
        let generation = self.generation.get();
        let current =
            route.made.borrow().as_ref().is_some_and(|m| {
                m.generation == generation && now.saturating_sub(m.at) < CHOICE_AGE
            });
        if current {
            return;
        }
        self.enter(route, now);
        self.probe(route, now);
        if let Some(choice) = self.choose(route, &route.targets, now) {
            *route.made.borrow_mut() = Some(Made {
                choice,
                at: now,
                generation,
            });
        }
        self.stand_by(route, now);
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
            zone: self.place.zone.as_ref(),
        };
        let heeded = route.heeds_answers(now);
        let warmup = route.settings.warmup;
        let fit: Vec<_> = route
            .targets
            .iter()
            .map(|t| tiers::rung_of(&t.candidate(now, heeded), &here) == Rung::Fit)
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
                    Some(Ramp::enter_by(now, served(i), warmup))
                }
                // New to this thread while others were called already.
                (true, None) if !t.peer.known.get() => Some(Ramp::enter_by(now, served(i), warmup)),
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
}
