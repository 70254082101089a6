//! Attempts at one request: who is asked next, what a failed one leaves safe, and what another one costs.
//!
//! What was certainly not processed goes elsewhere whatever its method; what may have been processed only if it is
//! idempotent, its body is still whole, and the budget allows. Attempts and time are bounded, nothing waits for the store.

use std::{rc::Rc, time::Duration};

use http::{Method, Request, Response};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tradewind_api::id::EndpointId;
use tradewind_transport::balance::detector::Failure as Detected;
use tradewind_transport::hbone::{Closed, RecvBody, Replay, SendError, Session, headers};

use super::{
    Outbound,
    arriving::Arriving,
    breaker::Breaker,
    convert,
    failure::{Tries, printable},
    mirror::Tee,
    patience::Patience,
    route::{Blame, Callee, NoRoute, Picked, Route, Target},
    status,
    taker::{Taker, says},
};
use crate::{
    standard::{Counted, Flags},
    telemetry::Notes,
};

/// An application's body, counted, and copied where a rule wants that.
pub(super) type AppBody = Tee<Counted<Arriving>>;

/// Attempts for one request: past this many failures in a row another one does not help.
const MAX_ATTEMPTS: usize = 8;
/// No new attempt starts after this.
const ATTEMPTS_FOR: Duration = Duration::from_secs(10);
/// When nobody is usable, one who comes back is awaited for at most this long in all.
const WAIT_FOR_BETTER: Duration = Duration::from_secs(1);
/// And everybody is asked again this often meanwhile: a process that restarts says so to nobody else first.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// A dial that takes longer goes on by itself where somebody else can be called at once: its three round trips between
/// continents fit in, and what waits for a black hole does not wait for the dial's own deadline.
const DIAL_PATIENCE: Duration = Duration::from_millis(500);
/// Sessions that are made one after the other for a call, where others took all of their places: then it goes beyond the bound
/// that a policy sets rather than wait for ever.
const MAX_FULL_SESSIONS: usize = 8;
/// No such new round starts when the request is this old, however the time was spent.
const ROUNDS_FOR: Duration = Duration::from_secs(2);

/// What is safe after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safe {
    /// Nobody processed it.
    Always,
    /// The same endpoint can be asked again: its session had only ended.
    SameEndpoint,
    /// It may have been processed.
    IfIdempotent,
    /// The same, and its endpoint is out with the session that ended under it.
    IfIdempotentAndGone,
    /// The same, and nothing came back from its endpoint, not even an answer to a ping, which no request brings about: several
    /// endpoints of one place fall silent together, one is found out a moment before the other.
    IfIdempotentAndSilent,
    /// The client is gone, or its body was at fault.
    Never,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) safe: Safe,
    pub(super) cause: &'static str,
    pub(super) why: String,
}

/// Which attempts were made, and whether another may be.
#[derive(Debug)]
pub(super) struct Attempts {
    pub(super) tries: Tries,
    except: Vec<EndpointId>,
    /// What the call is held together with others by.
    key: Option<u64>,
    /// The endpoint that its persistent session is with.
    home: Option<EndpointId>,
    /// One retry was made that the budget was not asked for.
    spared: bool,
    started: Instant,
    waited: Duration,
}

impl Attempts {
    pub(super) fn new(key: Option<u64>, home: Option<EndpointId>) -> Self {
        Self {
            tries: Tries::default(),
            except: Vec::new(),
            key,
            home,
            spared: false,
            started: Instant::now(),
            waited: Duration::ZERO,
        }
    }

    /// Goes on with another backend's endpoints, which are held together by another key.
    pub(super) fn turn(&mut self, key: Option<u64>) {
        (self.key, self.home) = (key, None);
    }

    /// True while another attempt may start.
    pub(super) fn may_go_on(&self) -> bool {
        self.tries.len() < MAX_ATTEMPTS && self.started.elapsed() < ATTEMPTS_FOR
    }

    /// In Envoy's words, what a request ended with that nobody answered.
    pub(super) fn flags(&self, maybe_processed: bool) -> Flags {
        match self.tries.len() {
            _ if maybe_processed => Flags::UpstreamCut,
            0 => Flags::NoHealthyUpstream,
            MAX_ATTEMPTS.. => Flags::RetryLimit,
            _ => Flags::UpstreamConnect,
        }
    }

    /// Notes an answer that is not taken; its endpoint is left out from now on, unless the rule says that it need not be.
    pub(super) fn declined(&mut self, target: &Target, why: &str, leaves: bool) {
        self.tries.add(target, &why);
        if leaves {
            self.except.push(target.endpoint.id.clone());
        }
    }

    /// Leaves out who is where that one is, if anybody else is left.
    pub(super) fn leave_place(&mut self, route: &Route, target: &Target) {
        let place = |t: &Target| (t.cluster().clone(), t.endpoint.zone.clone());
        let own = place(target);
        let left = route.targets.iter();
        let left = left.filter(|t| !self.except.contains(&t.endpoint.id));
        let (near, others): (Vec<_>, Vec<_>) = left.partition(|t| place(t) == own);
        if !others.is_empty() {
            let near = near.iter().map(|t| t.endpoint.id.clone());
            self.except.extend(near);
        }
    }

    /// Notes a failed attempt; its endpoint is left out from now on unless only its session had ended.
    fn failed(&mut self, target: &Target, failed: &Failed) {
        self.tries.add(target, &failed.why);
        if failed.safe != Safe::SameEndpoint {
            self.except.push(target.endpoint.id.clone());
        }
    }
}

impl Failed {
    /// No answer in the time that a rule gives one try.
    fn too_slow() -> Self {
        Self {
            safe: Safe::IfIdempotent,
            cause: "timeout",
            why: "no answer in the time that a rule gives one try".to_owned(),
        }
    }
}

impl Outbound {
    /// The route to whom a call is for; waits briefly for one that is not there yet.
    pub(super) async fn route(&self, to: Callee<'_>) -> Result<Rc<Route>, NoRoute> {
        let started = Instant::now();
        loop {
            match self.balancer.route(to) {
                // Waiting does not make a port appear, nor an unknown service where everything else is known.
                Err(NoRoute::NoSnapshot | NoRoute::NoEndpoint(_))
                    if started.elapsed() < WAIT_FOR_BETTER =>
                {
                    let left = WAIT_FOR_BETTER.saturating_sub(started.elapsed());
                    self.balancer.better_within(left).await;
                }
                other => return other,
            }
        }
    }

    /// The next endpoint to try. When all were tried it waits briefly for one that comes back, and everybody may be asked
    /// again. `None` when attempts and patience are used up.
    pub(super) async fn next_target(
        &self,
        route: &mut Rc<Route>,
        attempts: &mut Attempts,
    ) -> Option<Picked> {
        loop {
            if !attempts.may_go_on() {
                return None;
            }
            let home = attempts.home.as_ref();
            let home = home.filter(|home| !attempts.except.contains(*home));
            if let Some(picked) = home.and_then(|home| self.balancer.home(route, home)) {
                return Some(picked);
            }
            if let Some(picked) = self.balancer.pick(route, &attempts.except, attempts.key) {
                return Some(picked);
            }
            if attempts.waited >= WAIT_FOR_BETTER || attempts.started.elapsed() >= ROUNDS_FOR {
                return None;
            }
            let asked = Instant::now();
            self.balancer.better_within(ASK_AGAIN_AFTER).await;
            attempts.waited += asked.elapsed();
            attempts.except.clear();
            if let Ok(newer) = self.balancer.route(route.callee()) {
                *route = newer;
            }
        }
    }

    /// A session with `target`, booking what is learnt on the way.
    pub(super) async fn session(
        &self,
        route: &Route,
        target: &Rc<Target>,
    ) -> Result<Session, Failed> {
        let pool = &route.settings.pool;
        let places = pool.requests_per_connection;
        let has_place = |session: &Session| places.is_none_or(|most| session.place(most));
        for _ in 0..MAX_FULL_SESSIONS {
            let existing = self.balancer.pool.existing(&target.destination);
            if let Some(session) = existing.filter(has_place) {
                return Ok(session);
            }
            let session = self.dialled(route, target).await?;
            if has_place(&session) {
                return Ok(session);
            }
        }
        self.dialled(route, target).await
    }

    /// A session that is made now, or was being made already.
    async fn dialled(&self, route: &Route, target: &Rc<Target>) -> Result<Session, Failed> {
        let dial = self.balancer.pool.dial(&target.destination);
        let allowed = route.settings.pool.connect_timeout_ms;
        let allowed = allowed.map(Duration::from_millis);
        let patience = if self.balancer.another_has_a_session(route, target) {
            Some(allowed.unwrap_or(DIAL_PATIENCE).min(DIAL_PATIENCE))
        } else {
            allowed
        };
        let dialled = match patience {
            Some(patience) => match timeout(patience, dial).await {
                Ok(dialled) => dialled,
                Err(_) => return Err(self.left_dialling(route, target, patience)),
            },
            None => dial.await,
        };
        match dialled {
            Ok(session) => {
                self.balancer.reached(target, &session);
                Ok(session)
            }
            Err(error) => {
                self.balancer.dial_failed(&route.service, target, &error);
                Err(Failed {
                    safe: Safe::Always,
                    cause: error.failure().as_str(),
                    why: error.to_string(),
                })
            }
        }
    }

    /// Leaves a slow dial to itself: its endpoint is out until the dial's end says otherwise.
    fn left_dialling(&self, route: &Route, target: &Rc<Target>, patience: Duration) -> Failed {
        let failure = Detected::Connect;
        self.balancer
            .failed(&route.service, target, Blame::Endpoint(failure));
        self.balancer.probe_one(route, target);
        Failed {
            safe: Safe::Always,
            cause: failure.as_str(),
            why: format!("no session in {} ms", patience.as_millis()),
        }
    }

    /// Notes a failed attempt. Where nothing came back over the way to a cluster, nobody behind it is asked next while somebody else
    /// can be: nothing may come back from them either.
    pub(super) fn note(
        &self,
        route: &Route,
        target: &Target,
        attempts: &mut Attempts,
        failed: &Failed,
    ) {
        attempts.failed(target, failed);
        if target.link.is_none() || failed.cause != Detected::Keepalive.as_str() {
            return;
        }
        let (behind, others): (Vec<_>, Vec<_>) = route
            .targets
            .iter()
            .filter(|t| !attempts.except.contains(&t.endpoint.id))
            .partition(|t| t.cluster() == target.cluster());
        if others.iter().any(|t| self.balancer.is_fit(t)) {
            let behind = behind.iter().map(|t| t.endpoint.id.clone());
            attempts.except.extend(behind);
        }
    }

    /// Books an attempt that got no response and says what is safe now.
    pub(super) fn send_failed(&self, route: &Route, target: &Target, error: &SendError) -> Failed {
        let failure = error.failure();
        if let Some(failure) = failure {
            self.balancer
                .failed(&route.service, target, Blame::Endpoint(failure));
        }
        let safe = match error {
            SendError::Unsent => Safe::SameEndpoint,
            SendError::Body(_) => Safe::Never,
            e if e.unprocessed() => Safe::Always,
            SendError::Lost(Closed::Keepalive) => Safe::IfIdempotentAndSilent,
            SendError::Lost(closed) if closed.failure().is_some() => Safe::IfIdempotentAndGone,
            _ => Safe::IfIdempotent,
        };
        Failed {
            safe,
            cause: failure.map_or("unsent", |f| f.as_str()),
            why: error.to_string(),
        }
    }

    /// Another endpoint was connected in the place of one that alone is meant. The next connection may lead to it; this one never will.
    pub(super) fn misled(&self, route: &Route, target: &Target, why: String) -> Failed {
        let failure = Detected::Unprocessed;
        self.replaced(route, target, failure);
        Failed {
            safe: Safe::Always,
            cause: failure.as_str(),
            why,
        }
    }

    async fn attempt(
        &self,
        route: &Route,
        target: &Rc<Target>,
        head: Request<()>,
        body: &Replay<AppBody>,
        notes: &mut Notes,
    ) -> Result<(Response<RecvBody>, Taker), Failed> {
        let session = self.session(route, target).await?;
        notes.via(session.via());
        let sent = self.balancer.now();
        let response = session
            .request(head, body.attempt())
            .await
            .map_err(|e| self.send_failed(route, target, &e))?;
        let by = says(response.headers());
        let taker = self.taker(route, target, by.as_ref(), notes);
        let target = &taker.target;
        if let Some(reason) = response.headers().get(headers::UNPROCESSED) {
            let failure = Detected::Unprocessed;
            let why = format!("not processed: {}", printable(reason));
            if reason == headers::OTHER_ENDPOINT {
                return Err(self.misled(route, target, why));
            }
            self.balancer
                .failed(&route.service, target, Blame::Endpoint(failure));
            return Err(Failed {
                safe: Safe::Always,
                cause: failure.as_str(),
                why,
            });
        }
        if response
            .headers()
            .get(headers::ERROR)
            .is_some_and(|v| v == headers::APP_FAILED)
        {
            // As if the application's own connection had broken here.
            let failure = Detected::Reset;
            self.balancer
                .failed(&route.service, target, Blame::Endpoint(failure));
            return Err(Failed {
                safe: Safe::IfIdempotent,
                cause: headers::APP_FAILED,
                why: "its application broke off".into(),
            });
        }
        let latency = self.balancer.now().saturating_sub(sent);
        self.balancer.answered(target, latency);
        self.balancer.judge(route, target, status::of(&response));
        Ok((response, taker))
    }

    /// One attempt, in the time that the rule gives it.
    pub(super) async fn attempt_within(
        &self,
        (route, target): (&Route, &Rc<Target>),
        head: Request<()>,
        body: &Replay<AppBody>,
        (notes, patience): (&mut Notes, &Patience),
    ) -> Result<(Response<RecvBody>, Taker), Failed> {
        let attempt = self.attempt(route, target, head, body, notes);
        match patience.try_until(Instant::now()) {
            None => attempt.await,
            Some(until) => match timeout_at(until, attempt).await {
                Ok(answered) => answered,
                Err(_) => Err(Failed::too_slow()),
            },
        }
    }

    /// Whether the request may be sent once more; takes it out of the budget where that applies.
    ///
    /// The budget keeps a service that fails from being asked a multiple of its load. An endpoint that is gone takes none of the
    /// load any more, and all that waited for it at once is no more than the others would have got without it: so each request
    /// has one such retry free. A second one may be what ends the endpoints.
    pub(super) fn may_retry(
        &self,
        route: &Route,
        method: &Method,
        safe: Safe,
        body: &Replay<AppBody>,
        attempts: &mut Attempts,
    ) -> bool {
        let (allowed, free) = match safe {
            Safe::Never => (false, false),
            Safe::Always | Safe::SameEndpoint => (true, true),
            Safe::IfIdempotent => (convert::is_idempotent(method), false),
            Safe::IfIdempotentAndSilent => (convert::is_idempotent(method), true),
            Safe::IfIdempotentAndGone => {
                let free = !std::mem::replace(&mut attempts.spared, true);
                (convert::is_idempotent(method), free)
            }
        };
        let allowed = allowed && body.is_replayable();
        if !allowed || free {
            return allowed;
        }
        self.pays(route)
    }

    /// Takes one retry out of the budget: the policy's, where it has one.
    pub(super) fn pays(&self, route: &Route) -> bool {
        if route.breaker.as_ref().is_some_and(Breaker::has_budget) {
            return true;
        }
        let paid = route.kept.budget.borrow_mut().withdraw(self.balancer.now());
        if !paid {
            self.metrics.retries_over_budget.inc();
        }
        paid
    }

    /// Waits before a retry that a rule wants, and no longer than until the request's time is over.
    pub(super) async fn back_off(&self, patience: &mut Patience) {
        let wait = patience.retries(self.balancer.unit());
        let until = Instant::now() + wait;
        sleep_until(patience.until.map_or(until, |over| over.min(until))).await;
    }
}
