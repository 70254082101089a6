//! One request: from the application's head to the head of a response, over as many attempts as are safe or wanted.

mod turn;

use std::rc::Rc;

use http::{Request, Response, StatusCode, Version, request::Parts};
use tokio::time::{Instant, sleep_until};
use tradewind_api::id::ServicePortRef;
use tradewind_transport::hbone::{RecvBody, Replay, headers};

use self::turn::Plain;
use super::{
    Outbound,
    affinity::{Affinity, Traits},
    arriving::Arriving,
    attempts::{AppBody, Attempts, Safe},
    body::{OutBody, PeerBody},
    breaker::{Overflow, Permit, Retrying, Takes},
    convert,
    failure::{Failure, Form, Tries},
    mirror::Tee,
    patience::{OUT_OF_TIME, Patience},
    route::{InFlight, NoRoute, Route},
    rules::{Backend, Own, Ruled},
    taker::Taker,
};
use crate::{
    called::Called,
    standard::{Account, Counted, Flags},
    telemetry::Ends,
};

/// A request as it came.
struct Arrived {
    parts: Parts,
    body: AppBody,
    account: Account,
    started: u64,
    form: Form,
    /// Where the application calls from.
    from: Option<Ends>,
}

/// A request that somebody is to answer.
struct Asking {
    head: Request<()>,
    body: Replay<AppBody>,
    /// Where a rule sends it.
    backend: Option<Backend>,
    /// What it was before that, where another backend may have to answer it.
    plain: Option<Box<Plain>>,
    patience: Patience,
    affinity: Affinity,
    /// Its part of what may be under way at once, where a policy bounds that.
    permit: Option<Permit>,
    account: Account,
    started: u64,
    form: Form,
}

impl Outbound {
    /// Answers one request. Never fails: what goes wrong becomes a response that says so.
    pub(super) async fn exchange(
        self: &Rc<Self>,
        called: &Called,
        client: Option<Ends>,
        request: Request<Arriving>,
    ) -> Response<OutBody> {
        let started = self.balancer.now();
        let (mut parts, body) = request.into_parts();
        let form = Form::of(&parts.headers);
        let body = Counted::new(body);
        let mut account = self.account(&mut parts, called, client);
        account.request(body.bytes());
        let body = Tee::new(body);
        let (ruled, permit) = self.ruled(called, &parts).await;
        let mut arrived = Arrived {
            parts,
            body,
            account,
            started,
            form,
            from: client,
        };
        let mut response = match ruled {
            Ruled::Own(own) => self.answer(own, called, form, &mut arrived.account),
            Ruled::AsCalled => self.send_on(called, None, arrived).await,
            Ruled::To(backend) => self.send_on(called, Some(backend), arrived).await,
        };
        // Errors too: a page is to read why it got none of what it asked for.
        if let Some(permit) = permit {
            permit.apply(response.headers_mut());
        }
        response
    }

    /// Has it answered by the service that was called, or by the backend that a rule chose.
    async fn send_on(
        self: &Rc<Self>,
        called: &Called,
        backend: Option<Backend>,
        arrived: Arrived,
    ) -> Response<OutBody> {
        let Arrived {
            mut parts,
            mut body,
            mut account,
            started,
            form,
            from,
        } = arrived;
        let takes = match parts.version {
            Version::HTTP_2 => Takes::Request,
            _ => Takes::OwnConnection,
        };
        let service = backend.as_ref().map_or(&called.to, |b| &b.service);
        let mut head = match convert::outgoing(&mut parts, called) {
            Ok(head) => head,
            Err(error) => {
                let status = error.status();
                account.between(&self.pair_with_nobody(service));
                let what = error.to_string();
                let refusal =
                    self.refuse(service, status, "bad-request", what, Tries::default(), form);
                account.refused(&refusal, Flags::None);
                return refusal;
            }
        };
        let to = backend.as_ref().map_or(called.into(), Backend::callee);
        let route = match self.route(to).await {
            Ok(route) => route,
            Err(error) => {
                account.between(&self.pair_with_nobody(service));
                let refusal = self.no_route(service, &error, form);
                account.refused(&refusal, error.flags());
                return refusal;
            }
        };
        let action = backend.as_ref().map(|b| &*b.rule.then);
        let patience = Patience::new(action, Instant::now());
        let permit = match self.admit(&route, takes, patience.until).await {
            Ok(permit) => permit,
            Err(overflow) => {
                account.between(&self.pair_with_nobody(service));
                let over = patience.is_over(Instant::now());
                let (refusal, flags) = self.not_admitted(&route, overflow, over, form);
                account.refused(&refusal, flags);
                return refusal;
            }
        };
        let traits = Traits::of(&head, from);
        let affinity = Affinity::of(&route.settings.balance, traits, || self.balancer.random());
        let in_session = backend.as_ref().is_some_and(|b| b.held.is_some());
        let plain = in_session.then(|| {
            Box::new(Plain {
                head: head.clone(),
                called: called.clone(),
                from,
                takes,
            })
        });
        if let Some(backend) = &backend {
            backend.prepare(&mut head);
        }
        route.kept.budget.borrow_mut().deposit(started);
        self.balancer.name_request(head.headers_mut());
        if let Some(backend) = &backend {
            self.mirror(&backend.rule.then, called, &head, &mut body);
        }
        head.headers_mut()
            .insert(headers::SERVICE, route.service_value.clone());
        let asking = Asking {
            patience,
            affinity,
            permit,
            head,
            body: Replay::new(body),
            backend,
            plain,
            account,
            started,
            form,
        };
        self.ask(route, asking).await
    }

    /// Asks one endpoint after the other, as often as that is safe or wanted.
    async fn ask(self: &Rc<Self>, mut route: Rc<Route>, mut asking: Asking) -> Response<OutBody> {
        let held = asking.backend.as_ref().and_then(|b| b.held.as_ref());
        let home = held.map(|h| h.endpoint.clone());
        let mut attempts = Attempts::new(asking.affinity.key, home);
        let mut maybe_processed = false;
        let mut retrying: Option<Retrying> = None;
        while let Some(picked) = self.next_target(&mut route, &mut attempts).await {
            let Asking {
                head,
                body,
                backend,
                patience,
                account,
                ..
            } = &mut asking;
            picked.note(&mut account.notes);
            let target = picked.target;
            let in_flight = InFlight::new(&target.peer);
            account.between(&self.pair(&route, &target));
            let limits = (&mut account.notes, &*patience);
            let mut head = head.clone();
            if backend.as_ref().is_some_and(Backend::persists) {
                let id = headers::endpoint_value(&target.endpoint.id);
                head.headers_mut().insert(headers::ENDPOINT, id);
            }
            let method = head.method().clone();
            let answered = self
                .attempt_within((&route, &target), head, body, limits)
                .await;
            // The retry that this may have been is over.
            drop(retrying.take());
            let cause = match answered {
                Ok((response, taker)) => {
                    let in_flight = in_flight.of(&taker.target.peer);
                    if !Rc::ptr_eq(&taker.target, &target) {
                        account.between(&self.pair(&route, &taker.target));
                    }
                    let again = patience.wants_after(response.status(), response.headers());
                    let may = body.is_replayable() && attempts.may_go_on();
                    let again = again.filter(|_| may && self.pays(&route));
                    let room = again.and_then(|_| self.room_to_retry(&route));
                    let (Some(cause), Some(room)) = (again, room) else {
                        return self.deliver(response, (&route, taker), in_flight, asking);
                    };
                    retrying = room;
                    let why = format!("answered {}", response.status());
                    account.notes.failed(cause, &why);
                    attempts.declined(&taker.target, &why, patience.leaves_endpoints());
                    self.back_off(patience).await;
                    cause
                }
                Err(failed) => {
                    tracing::debug!(service = %route.service, endpoint = %target.endpoint.id, cluster = %target.cluster(), why = failed.why, "attempt failed");
                    self.note(&route, &target, &mut attempts, &failed);
                    account.notes.failed(failed.cause, &failed.why);
                    let safe = failed.safe;
                    if patience.is_over(Instant::now()) {
                        break;
                    }
                    if !self.may_retry(&route, &method, safe, body, &mut attempts) {
                        let wanted = patience.wants_after_failure(&failed) && body.is_replayable();
                        if !wanted || !self.pays(&route) {
                            maybe_processed =
                                !matches!(safe, Safe::Never | Safe::Always | Safe::SameEndpoint);
                            break;
                        }
                        self.back_off(patience).await;
                    }
                    // What nobody processed weighs on nobody.
                    if !matches!(safe, Safe::Always | Safe::SameEndpoint) {
                        let Some(room) = self.room_to_retry(&route) else {
                            maybe_processed = true;
                            break;
                        };
                        retrying = room;
                    }
                    failed.cause
                }
            };
            if patience.leaves_places() {
                attempts.leave_place(&route, &target);
            }
            self.metrics.retry(&route.service, target.cluster(), cause);
            self.turn(&mut route, &mut attempts, &mut asking).await;
        }
        self.unanswered(&route.service, attempts, maybe_processed, asking)
    }

    /// The answer when nobody's came.
    fn unanswered(
        &self,
        service: &ServicePortRef,
        attempts: Attempts,
        maybe_processed: bool,
        asking: Asking,
    ) -> Response<OutBody> {
        let mut account = asking.account;
        let too_slow = asking.patience.is_over(Instant::now());
        let (status, reason, what, flags) = if too_slow {
            (
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                OUT_OF_TIME,
                Flags::Timeout,
            )
        } else if maybe_processed {
            (
                StatusCode::BAD_GATEWAY,
                "lost",
                "the connection broke after the request was sent, and it is not safe to send it again",
                attempts.flags(true),
            )
        } else {
            let what = if attempts.tries.len() == 0 {
                "no endpoint is usable"
            } else {
                "no endpoint answered"
            };
            let unavailable = StatusCode::SERVICE_UNAVAILABLE;
            (
                unavailable,
                "no-endpoint-answered",
                what,
                attempts.flags(false),
            )
        };
        if attempts.tries.len() == 0 {
            account.between(&self.pair_with_nobody(service));
        }
        let what = what.to_owned();
        let refusal = self.refuse(service, status, reason, what, attempts.tries, asking.form);
        account.refused(&refusal, flags);
        refusal
    }

    /// Answers by a rule.
    pub(super) fn answer(
        &self,
        own: Own,
        called: &Called,
        form: Form,
        account: &mut Account,
    ) -> Response<OutBody> {
        account.between(&self.pair_with_nobody(called));
        let (reason, flags) = (own.reason(), own.flags());
        if reason.is_some() {
            self.metrics.failed(called);
        }
        tracing::debug!(service = %called, reason = reason.unwrap_or("rule"), ?own, "answered by a rule");
        let response = own.respond(called, form);
        account.refused(&response, flags);
        response
    }

    fn deliver(
        self: &Rc<Self>,
        mut response: Response<RecvBody>,
        (route, taker): (&Rc<Route>, Taker),
        in_flight: InFlight,
        asking: Asking,
    ) -> Response<OutBody> {
        let elapsed_us = self.balancer.now().saturating_sub(asking.started);
        let (mut account, until) = (asking.account, asking.patience.until);
        let Taker { target, served_by } = taker;
        convert::incoming(&mut response, &served_by);
        if let Some(backend) = &asking.backend {
            backend.answered(response.headers_mut());
            self.persist(backend, &target, response.headers_mut());
        }
        asking.affinity.tell(response.headers_mut());
        if response.status().is_server_error() {
            target.served.error_status.inc();
        } else {
            target.served.ok.inc();
        }
        target.served.latency.observe(elapsed_us as f64 / 1e6);
        account.answered(&response);
        response.map(|body| {
            OutBody::Peer(Box::new(PeerBody {
                body,
                route: Rc::clone(route),
                target,
                balancer: Rc::clone(&self.balancer),
                account,
                until: until.map(|at| Box::pin(sleep_until(at))),
                _in_flight: in_flight,
                _permit: asking.permit,
            }))
        })
    }

    /// Lets a call start, as far as a policy bounds what is under way.
    pub(super) async fn admit(
        &self,
        route: &Route,
        takes: Takes,
        until: Option<Instant>,
    ) -> Result<Option<Permit>, Overflow> {
        match &route.breaker {
            None => Ok(None),
            Some(breaker) => breaker.admit(takes, until).await.map(Some),
        }
    }

    /// Whether a request may be tried again, as far as a policy bounds how many are at once; `None` where it may not.
    fn room_to_retry(&self, route: &Route) -> Option<Option<Retrying>> {
        let Some(breaker) = &route.breaker else {
            return Some(None);
        };
        let room = breaker.retry();
        if room.is_none() {
            self.metrics.overflowed(&route.service, "retries");
        }
        room.map(Some)
    }

    /// The answer where as much is under way as may be, or where a rule's time was over before there was room.
    fn not_admitted(
        &self,
        route: &Route,
        overflow: Overflow,
        over: bool,
        form: Form,
    ) -> (Response<OutBody>, Flags) {
        let (status, reason, what, flags) = if over {
            let what = OUT_OF_TIME.to_owned();
            (StatusCode::GATEWAY_TIMEOUT, "timeout", what, Flags::Timeout)
        } else {
            let what = self.overflow(route, overflow);
            let flags = Flags::UpstreamOverflow;
            (StatusCode::SERVICE_UNAVAILABLE, "overflow", what, flags)
        };
        let tries = Tries::default();
        let refusal = self.refuse(&route.service, status, reason, what, tries, form);
        (refusal, flags)
    }

    /// Counts it, and says it.
    pub(super) fn overflow(&self, route: &Route, Overflow(bound): Overflow) -> String {
        self.metrics.overflowed(&route.service, bound);
        let policy = route.policy.as_ref().map(|p| p.origin.to_string());
        let policy = policy.unwrap_or_default();
        format!("as much is under way as {policy} allows ({bound})")
    }

    /// The answer for a service that cannot be called at all.
    pub(super) fn no_route(
        &self,
        service: &ServicePortRef,
        error: &NoRoute,
        form: Form,
    ) -> Response<OutBody> {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        self.refuse(
            service,
            unavailable,
            error.as_str(),
            error.to_string(),
            Tries::default(),
            form,
        )
    }

    /// An answer of the proxy itself.
    pub(super) fn refuse(
        &self,
        service: &ServicePortRef,
        status: StatusCode,
        reason: &'static str,
        what: String,
        tries: Tries,
        form: Form,
    ) -> Response<OutBody> {
        self.metrics.failed(service);
        let failure = Failure {
            status,
            reason,
            service,
            what,
            tries,
        };
        tracing::info!(%service, reason, detail = ?failure.tries, what = failure.what, "request not answered by any endpoint");
        failure.respond(form)
    }
}
