//! What is known of one service port: its endpoints, what was learnt about each, and the choice among them.
//!
//! `Peer` and `Link` outlive snapshots and hold what this thread learnt by itself; `Target` joins a peer with what the
//! current snapshot says; `Route` is the set of targets with the choice made from them.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

use http::HeaderValue;
use tradewind_api::{
    id::{ClusterName, ServicePortRef},
    model::{AppProtocol, ClusterState, Endpoint, Health},
    traffic::{Settings, TrafficPolicy},
};
use tradewind_transport::{
    balance::{
        Micros, SECOND,
        budget::Budget,
        detector::{Detector, Failure},
        outlier,
        pick::PeakEwma,
        ramp::Ramp,
        round_robin::RoundRobin,
        tiers::{Candidate, Choice},
    },
    hbone::Destination,
};

use super::{balancer::Tables, breaker::Breaker, metrics::Served};
use crate::{
    called::{Called, Scope},
    standard::Pair,
    telemetry::{Notes, Tier},
};

/// An answer this recent is first-hand proof of life.
const PROVEN_FOR: Micros = 10 * SECOND;

/// Whom a call is for: all endpoints of a service's port, or those of one of its subsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Callee<'a> {
    pub(super) service: &'a ServicePortRef,
    pub(super) scope: Scope,
    pub(super) subset: Option<&'a str>,
}

impl<'a> From<&'a Called> for Callee<'a> {
    fn from(called: &'a Called) -> Self {
        Self {
            service: &called.to,
            scope: called.scope,
            subset: None,
        }
    }
}

impl Callee<'_> {
    /// To keep something by.
    pub(super) fn key(&self) -> CalleeKey {
        CalleeKey {
            service: self.service.clone(),
            scope: self.scope,
            subset: self.subset.map(str::to_owned),
        }
    }
}

/// A [`Callee`] that something is kept by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CalleeKey {
    pub(super) service: ServicePortRef,
    pub(super) scope: Scope,
    pub(super) subset: Option<String>,
}

impl CalleeKey {
    pub(super) fn callee(&self) -> Callee<'_> {
        Callee {
            service: &self.service,
            scope: self.scope,
            subset: self.subset.as_deref(),
        }
    }
}

/// What this thread learnt about one endpoint.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) detector: RefCell<Detector>,
    pub(super) latency: Cell<PeakEwma>,
    pub(super) in_flight: Cell<u32>,
    pub(super) ramp: Cell<Ramp>,
    /// When it last answered.
    pub(super) proven_at: Cell<Option<Micros>>,
    /// Since when it is not fit; `None` while it is. Fit endpoints that were out for long come back ramped.
    pub(super) unfit_since: Cell<Option<Micros>>,
    /// What its cluster last said of it.
    pub(super) health: Cell<Option<Health>>,
    /// Seen in a choice before.
    pub(super) known: Cell<bool>,
}

impl Peer {
    /// True while it has answered moments ago.
    pub(super) fn is_proven(&self, now: Micros) -> bool {
        self.proven_at
            .get()
            .is_some_and(|at| now.saturating_sub(at) < PROVEN_FOR)
    }

    /// Books an answer.
    pub(super) fn answered(&self, latency: Micros, now: Micros) {
        let mut average = self.latency.get();
        average.record(latency, now);
        self.latency.set(average);
        self.proven_at.set(Some(now));
    }
}

/// What this thread learnt about the way to one other cluster.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) detector: RefCell<Detector>,
    pub(super) rtt_us: Cell<Option<u64>>,
    /// A first measurement was started.
    pub(super) measuring: Cell<bool>,
}

impl Link {
    /// Smooths one measured round trip in.
    pub(super) fn measured(&self, rtt: std::time::Duration) {
        let sample = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        // The lowest seen counts most: what is above it is load, not distance.
        let next = self.rtt_us.get().map_or(sample, |old| {
            if sample < old {
                sample
            } else {
                old.saturating_mul(7).saturating_add(sample) / 8
            }
        });
        self.rtt_us.set(Some(next));
    }
}

/// One endpoint of a route.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) cluster_state: ClusterState,
    pub(super) lease_expired: bool,
    /// How far its cluster is, as the snapshot says: for as long as nothing was measured here.
    pub(super) told_rtt_us: Option<u64>,
    pub(super) destination: Destination,
    /// Of its id, for tables and turns.
    pub(super) hash: u64,
    /// How it is called here.
    pub(super) settings: Arc<Settings>,
    pub(super) peer: Rc<Peer>,
    /// The way to its cluster; `None` where it is dialled directly.
    pub(super) link: Option<Rc<Link>>,
    pub(super) served: Served,
    /// Between whom its calls are, once there was one.
    pub(super) pair: OnceCell<Rc<Pair>>,
    /// `<cluster>/<id>`, as the response's header says it.
    pub(super) served_by: HeaderValue,
}

impl Target {
    /// Its cluster.
    pub(super) const fn cluster(&self) -> &ClusterName {
        &self.endpoint.cluster
    }

    /// True while it, or the way to it, is kept out.
    pub(super) fn is_ejected(&self, now: Micros) -> bool {
        self.peer.detector.borrow().standing(now).is_ejected() || self.is_cut_off(now)
    }

    /// The same, whatever it answers.
    pub(super) fn is_broken(&self, now: Micros) -> bool {
        self.peer.detector.borrow().is_broken(now) || self.is_cut_off(now)
    }

    /// Whether it is out for its answers alone.
    pub(super) fn answers_badly(&self, now: Micros) -> bool {
        self.peer.detector.borrow().answers_until(now).is_some()
    }

    fn is_cut_off(&self, now: Micros) -> bool {
        self.link
            .as_ref()
            .is_some_and(|l| l.detector.borrow().standing(now).is_ejected())
    }

    /// As the pure choice sees it. `heeded`: what it answers counts.
    pub(super) fn candidate(&self, now: Micros, heeded: bool) -> Candidate<'_> {
        Candidate {
            id: &self.endpoint.id,
            cluster: &self.endpoint.cluster,
            region: &self.endpoint.region,
            zone: self.endpoint.zone.as_ref(),
            weight: self.endpoint.weight,
            health: self.endpoint.health,
            ejected: if heeded {
                self.is_ejected(now)
            } else {
                self.is_broken(now)
            },
            proven: self.peer.is_proven(now),
            ramp: self.peer.ramp.get().value(now),
            cluster_state: self.cluster_state,
            lease_expired: self.lease_expired,
            rtt_us: self.rtt_us(),
        }
    }

    /// How far it is: by this thread's own measurement, else by its gateways' and controller's.
    pub(super) fn rtt_us(&self) -> Option<u64> {
        let measured = self.link.as_ref().and_then(|l| l.rtt_us.get());
        measured.or(self.told_rtt_us)
    }
}

/// An endpoint that was drawn, and the tier that it was drawn from; none where a persistent session led to one that is in no tier.
#[derive(Clone, Debug)]
pub(super) struct Picked {
    pub(super) target: Rc<Target>,
    pub(super) tier: Option<Tier>,
}

impl Picked {
    /// Has it written down that this one is asked now.
    pub(super) fn note(&self, notes: &mut Notes) {
        let endpoint = &self.target.endpoint;
        let through_gateway = self.target.link.is_some();
        notes.attempt(
            (&endpoint.id, &endpoint.cluster),
            self.tier,
            through_gateway,
        );
    }
}

/// Counts one request on an endpoint.
#[derive(Debug)]
pub(super) struct InFlight(Rc<Peer>);

impl InFlight {
    pub(super) fn new(peer: &Rc<Peer>) -> Self {
        peer.in_flight.set(peer.in_flight.get().saturating_add(1));
        Self(Rc::clone(peer))
    }
}

impl InFlight {
    /// On this one from now on.
    pub(super) fn of(self, peer: &Rc<Peer>) -> Self {
        if Rc::ptr_eq(&self.0, peer) {
            self
        } else {
            Self::new(peer)
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0
            .in_flight
            .set(self.0.in_flight.get().saturating_sub(1));
    }
}

/// A choice and when it was made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) choice: Choice,
    pub(super) at: Micros,
    /// The balancer's count of changes then.
    pub(super) generation: u64,
}

/// One service port with its endpoints.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) service: ServicePortRef,
    /// Whether they are the exporters' alone, where that makes a difference.
    pub(super) scope: Scope,
    /// Which of the service's endpoints alone.
    pub(super) subset: Option<String>,
    /// How they are called, if a policy says so.
    pub(super) policy: Option<Arc<TrafficPolicy>>,
    /// What of that holds here; else what proxies do by themselves.
    pub(super) settings: Arc<Settings>,
    /// The service as requests name it to the peer.
    pub(super) service_value: HeaderValue,
    pub(super) protocol: AppProtocol,
    pub(super) targets: Vec<Rc<Target>>,
    pub(super) made: RefCell<Option<Made>>,
    /// When it was last seen to that the next tier can be called at once.
    pub(super) stood_by_at: Cell<Option<Micros>>,
    /// Shared with the routes of later snapshots.
    pub(super) kept: Rc<Kept>,
    /// How much at once, where a policy bounds that.
    pub(super) breaker: Option<Breaker>,
}

/// What is kept of a callee while snapshots come and go.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) budget: RefCell<Budget>,
    pub(super) turns: RefCell<RoundRobin>,
    pub(super) tables: Tables,
}

impl Route {
    /// Whether endpoints are left alone for their answers now: not while too few are fit.
    pub(super) fn heeds_answers(&self, now: Micros) -> bool {
        let Some(outlier) = &self.settings.outlier else {
            // Another policy's doing, or one of before.
            return false;
        };
        outlier.min_health_percent == 0
            || outlier::is_in_force(outlier, self.targets.len(), self.fit(now))
    }

    /// How many endpoints are well, as far as is known.
    pub(super) fn fit(&self, now: Micros) -> usize {
        let well = |t: &&Rc<Target>| t.endpoint.health == Health::Healthy && !t.is_ejected(now);
        self.targets.iter().filter(well).count()
    }

    /// Whom it leads to.
    pub(super) fn callee(&self) -> Callee<'_> {
        Callee {
            service: &self.service,
            scope: self.scope,
            subset: self.subset.as_deref(),
        }
    }
}

/// Why a service cannot be called at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoute {
    /// Nothing was ever heard from a controller.
    #[error("no snapshot has been received from the controller yet")]
    NoSnapshot,
    /// No cluster exports it, and it is not local.
    #[error("{0} is not known: no cluster exports it to this one")]
    UnknownService(ServicePortRef),
    /// It has other ports.
    #[error("{service} has no such port; it has {has}")]
    UnknownPort {
        /// What was asked for.
        service: ServicePortRef,
        /// What there is.
        has: String,
    },
    /// A rule means a part of it that no policy defines.
    #[error("{service} has no subset {subset}: no DestinationRule for these callers defines it")]
    UnknownSubset {
        /// Of what.
        service: ServicePortRef,
        /// Its name.
        subset: String,
    },
    /// It has no endpoint at all.
    #[error("{0} has no endpoint in any cluster")]
    NoEndpoint(ServicePortRef),
}

impl NoRoute {
    /// The word for the error header.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::NoSnapshot => "no-snapshot",
            Self::UnknownService(_) => "unknown-service",
            Self::UnknownPort { .. } => "unknown-port",
            Self::UnknownSubset { .. } => "unknown-subset",
            Self::NoEndpoint(_) => "no-endpoint",
        }
    }
}

/// How a failed dial or request is booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// On the endpoint.
    Endpoint(Failure),
    /// On the way to its cluster.
    Link(Failure),
}
