//! Booking what happened on the endpoint or the way it happened on, and finding out in the background who is back.
//!
//! The detector decides; here it is told, and its decisions are counted and logged. A probe is a dial: no request is put
//! at risk by it.

use std::rc::Rc;

use tradewind_api::{
    id::{EndpointId, ServicePortRef},
    model::{ClusterState, Health},
    traffic::Outlier,
};
use tradewind_transport::{
    balance::{
        Micros, SECOND,
        detector::{Failure, Standing},
        outlier::{self, AnswerError},
    },
    hbone::{Closed, DialError, Fault, Session},
};

use super::{Balancer, Blame, ByScope, Route, Target, detach};

/// How often it is looked whether the next tier can be called at once. Sessions that nobody uses end after minutes.
const STAND_BY_EVERY: Micros = 5 * SECOND;

impl Balancer {
    /// Starts the probes that are due, and a first measurement of every way that has none.
    pub(super) fn probe(&self, route: &Route, now: Micros) {
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

    /// Sees to it that one endpoint of the first tier that only stands by has a session: were one dialled when it is needed, that would
    /// be three round trips to a farther place. Services that nobody calls have none.
    pub(super) fn stand_by(&self, route: &Route, now: Micros) {
        let last = route.stood_by_at.get();
        if last.is_some_and(|at| now.saturating_sub(at) < STAND_BY_EVERY) {
            return;
        }
        route.stood_by_at.set(Some(now));
        let made = route.made.borrow();
        let tiers = made.iter().flat_map(|m| &m.choice.tiers);
        let Some(tier) = tiers.into_iter().find(|t| t.share <= 0.0) else {
            return;
        };
        let targets = || tier.members.iter().filter_map(|i| route.targets.get(*i));
        let has_one = |t: &&Rc<Target>| self.pool.rtt(&t.endpoint.id).is_some();
        if targets().any(|t| has_one(&t)) {
            return;
        }
        if let Some(target) = targets().find(|t| self.is_fit(t)) {
            self.probe_one(route, target);
        }
    }

    /// Dials in the background: no request is put at risk to find out whether somebody is back.
    pub(in crate::outbound) fn probe_one(&self, route: &Route, target: &Rc<Target>) {
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

    /// Whether nothing is known against an endpoint.
    pub(in crate::outbound) fn is_fit(&self, target: &Target) -> bool {
        target.endpoint.health == Health::Healthy
            && target.cluster_state == ClusterState::Active
            && !target.is_ejected(self.now())
    }

    /// Whether there is no session with `target`, and one with another endpoint that is fit.
    pub(in crate::outbound) fn another_has_a_session(
        &self,
        route: &Route,
        target: &Target,
    ) -> bool {
        let has_one = |t: &Target| self.pool.rtt(&t.endpoint.id).is_some();
        !has_one(target)
            && route
                .targets
                .iter()
                .any(|t| t.endpoint.id != target.endpoint.id && has_one(t) && self.is_fit(t))
    }

    /// A session with `target` exists: the way to its cluster works.
    pub(in crate::outbound) fn reached(&self, target: &Target, session: &Session) {
        if let Some(link) = &target.link {
            link.measured(session.rtt());
            if link.detector.borrow_mut().succeeded() {
                tracing::info!(cluster = %target.cluster(), "cluster reachable again");
                self.improved();
            }
        }
    }

    /// Books an answer of `target`.
    pub(in crate::outbound) fn answered(&self, target: &Target, latency: Micros) {
        target.peer.answered(latency, self.now());
        self.succeeded(target);
    }

    /// Judges an endpoint by what it answered, where the service's policy is about that.
    pub(in crate::outbound) fn judge(&self, route: &Route, target: &Target, status: u16) {
        if let Some(outlier) = &route.settings.outlier {
            self.judge_by(route, target, outlier, outlier::classify(outlier, status));
        }
    }

    fn judge_by(
        &self,
        route: &Route,
        target: &Target,
        outlier: &Outlier,
        error: Option<AnswerError>,
    ) {
        let now = self.now();
        let due = target
            .peer
            .detector
            .borrow_mut()
            .answered(outlier, error, now);
        let Some(error) = error.filter(|_| due) else {
            return;
        };
        let out = route
            .targets
            .iter()
            .filter(|t| t.answers_badly(now))
            .count();
        if !outlier::may_eject(outlier, route.targets.len(), out, route.fit(now)) {
            tracing::info!(service = %route.service, endpoint = %target.endpoint.id, cluster = %target.cluster(), cause = error.as_str(), "endpoint not ejected for its answers: as many are out as may be");
            return;
        }
        let for_us = target
            .peer
            .detector
            .borrow_mut()
            .eject_for_answers(outlier, now);
        self.metrics
            .ejected(&route.service, target.cluster(), error.as_str());
        tracing::warn!(
            service = %route.service, endpoint = %target.endpoint.id, cluster = %target.cluster(),
            cause = error.as_str(), for_ms = for_us / 1000, "endpoint ejected for its answers"
        );
        self.changed();
    }

    fn succeeded(&self, target: &Target) {
        if target.peer.detector.borrow_mut().succeeded() {
            tracing::info!(endpoint = %target.endpoint.id, cluster = %target.cluster(), "endpoint back");
            self.improved();
        }
    }

    /// Books a failed dial.
    pub(in crate::outbound) fn dial_failed(
        &self,
        service: &ServicePortRef,
        target: &Target,
        error: &DialError,
    ) {
        let failure = error.failure();
        let blame = match error.fault {
            // Nobody else can help that.
            Fault::Ourselves => return,
            Fault::Name => {
                tracing::warn!(%service, endpoint = %target.endpoint.id, cluster = %target.cluster(), %error, "no gateway takes this endpoint's name");
                Blame::Link(failure)
            }
            Fault::Link => Blame::Link(failure),
            Fault::Endpoint | Fault::Identity => {
                // The gateway answered: the way itself is fine.
                if let Some(link) = &target.link
                    && link.detector.borrow_mut().succeeded()
                {
                    self.improved();
                }
                Blame::Endpoint(failure)
            }
        };
        tracing::debug!(endpoint = %target.endpoint.id, cluster = %target.cluster(), %error, "dial failed");
        self.failed(service, target, blame);
    }

    /// Books a failure of `target`.
    pub(in crate::outbound) fn failed(
        &self,
        service: &ServicePortRef,
        target: &Target,
        blame: Blame,
    ) {
        let now = self.now();
        let (ejected, failure, what) = match (blame, &target.link) {
            (Blame::Link(f), Some(link)) => {
                (link.detector.borrow_mut().failed(f, now), f, "cluster")
            }
            (Blame::Link(f) | Blame::Endpoint(f), _) => {
                target.peer.proven_at.set(None);
                let outlier = target.settings.outlier.as_ref();
                let mut detector = target.peer.detector.borrow_mut();
                let ejected = match outlier.and_then(|o| o.local_failures) {
                    Some(strikes) => detector.failed_after(f, strikes, now),
                    None => detector.failed(f, now),
                };
                (ejected, f, "endpoint")
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
    pub(super) fn session_closed(&self, id: &EndpointId, why: &Closed) {
        let Some(failure) = why.failure() else {
            return;
        };
        let found = self
            .routes
            .borrow()
            .values()
            .flat_map(ByScope::all)
            .find_map(|route| {
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
