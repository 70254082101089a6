//! Rules for requests: which one a request meets, and what that makes of it before anybody is asked. The decision is
//! `tradewind_transport::route`; here are the compiled tables of this thread, and what of an answer is this proxy's own.
//!
//! Owns one compiled table for each service that was called and has rules. A table is compiled once, and again when it changes.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, HOST, LOCATION},
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use tradewind_api::{
    Namespace,
    id::{ServiceName, ServicePortRef},
    route::{self, Abort, BackendRef, Routes, Table, To},
};
use tradewind_transport::route::{
    Call, Caller, Compiled, CompiledRule, CorsAnswer, Permit, Verdict, falls, location,
    persistence::Held, pick,
};

use super::{
    Outbound,
    body::OutBody,
    failure::{Failure, Form, Tries},
    route::Callee,
};
use crate::{
    called::{Called, Scope},
    standard::Flags,
};

/// Longest that a request is delayed on purpose: whoever waits longer has left.
const MAX_DELAY: Duration = Duration::from_secs(300);

/// The tables of one thread.
#[derive(Debug, Default)]
pub(super) struct Rules(RefCell<HashMap<ServiceName, Known>>);

#[derive(Debug)]
struct Known {
    table: Arc<Table>,
    compiled: Rc<Compiled>,
}

impl Rules {
    fn of(
        &self,
        service: &ServiceName,
        routes: Option<&Arc<Routes>>,
        caller: &Namespace,
    ) -> Option<Rc<Compiled>> {
        let mut known = self.0.borrow_mut();
        let Some(table) = routes.and_then(|r| r.for_caller(caller)) else {
            known.remove(service);
            return None;
        };
        if let Some(same) = known.get(service).filter(|k| Arc::ptr_eq(&k.table, table)) {
            return Some(Rc::clone(&same.compiled));
        }
        let compiled = Rc::new(Compiled::new(table));
        let new = Known {
            table: Arc::clone(table),
            compiled: Rc::clone(&compiled),
        };
        known.insert(service.clone(), new);
        Some(compiled)
    }
}

/// Where a rule sends a request, and what it makes of it.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) service: ServicePortRef,
    /// Of which clusters.
    pub(super) scope: Scope,
    /// Which of its endpoints alone.
    pub(super) subset: Option<String>,
    pub(super) rule: Arc<CompiledRule>,
    /// The persistent session that led here, with an endpoint that can be called.
    pub(super) held: Option<Held>,
    /// Among the rule's backends.
    pub(super) index: usize,
}

/// What the rules say of a request.
#[derive(Debug)]
pub(super) enum Ruled {
    /// Nothing: on to the service that was called.
    AsCalled,
    /// On to that backend.
    To(Backend),
    /// This proxy answers.
    Own(Own),
}

/// An answer of this proxy by a rule.
#[derive(Debug)]
pub(super) enum Own {
    /// Rules, and none of them for this.
    NotFound,
    /// A rule that leads nowhere, and why.
    Nowhere(String),
    /// A fault on purpose.
    Fault(Abort),
    /// Another place to ask.
    Redirect(StatusCode, String),
    /// As it was written.
    Direct(StatusCode, Option<Bytes>),
    /// To a browser that asks before it asks.
    Preflight(HeaderMap),
}

impl Own {
    /// One word for the error header; none where it is no error.
    pub(super) const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::NotFound => Some("no-rule"),
            Self::Nowhere(_) => Some("no-backend"),
            Self::Fault(_) => Some("fault"),
            Self::Redirect(..) | Self::Direct(..) | Self::Preflight(_) => None,
        }
    }

    /// In Envoy's words.
    pub(super) const fn flags(&self) -> Flags {
        match self {
            Self::NotFound | Self::Nowhere(_) => Flags::NoRoute,
            Self::Fault(_) => Flags::Fault,
            Self::Redirect(..) | Self::Direct(..) | Self::Preflight(_) => Flags::None,
        }
    }

    /// The response to a call of `service`.
    pub(super) fn respond(self, service: &ServicePortRef, form: Form) -> Response<OutBody> {
        let failure = |status, reason, what: String| Failure {
            status,
            reason,
            service,
            what,
            tries: Tries::default(),
        };
        match self {
            Self::NotFound => {
                let what = "there are rules for it, and none of them is for this request";
                failure(StatusCode::NOT_FOUND, "no-rule", what.to_owned()).respond(form)
            }
            Self::Nowhere(why) => {
                failure(StatusCode::INTERNAL_SERVER_ERROR, "no-backend", why).respond(form)
            }
            Self::Fault(abort) => {
                let what = "a rule makes this request fail on purpose".to_owned();
                match abort {
                    Abort::Http(status) => {
                        failure(status_of(status), "fault", what).respond(Form::Http)
                    }
                    Abort::Grpc(code) => {
                        let mut response =
                            failure(StatusCode::OK, "fault", what).respond(Form::Grpc);
                        response.headers_mut().insert("grpc-status", code.into());
                        response
                    }
                }
            }
            Self::Redirect(status, to) => {
                let mut response = Response::new(OutBody::Own(None));
                *response.status_mut() = status;
                if let Ok(to) = HeaderValue::try_from(to) {
                    response.headers_mut().insert(LOCATION, to);
                }
                response
            }
            Self::Direct(status, body) => {
                let mut response = Response::new(OutBody::Own(body));
                *response.status_mut() = status;
                let text = HeaderValue::from_static("text/plain");
                response.headers_mut().insert(CONTENT_TYPE, text);
                response
            }
            Self::Preflight(fields) => {
                let mut response = Response::new(OutBody::Own(None));
                *response.headers_mut() = fields;
                response
            }
        }
    }
}

/// A status that was checked when the rule was read; one that is none is an error of ours.
fn status_of(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl Backend {
    /// One of a rule's by its index; why not, where it cannot be called.
    pub(super) fn new(
        rule: &Arc<CompiledRule>,
        index: usize,
        called: &Called,
    ) -> Result<Self, String> {
        let (service, port, subset) = match rule.backends().get(index).map(|b| &b.to) {
            Some(BackendRef::Service {
                service,
                port,
                subset,
            }) => (service, port, subset),
            Some(BackendRef::Broken(why)) => return Err(format!("{}: {why}", rule.origin)),
            None => return Err(format!("{} has no such backend", rule.origin)),
        };
        let service = ServicePortRef {
            service: service.clone(),
            port: port.unwrap_or(called.port),
        };
        Ok(Self {
            // Another service is named by whoever wrote the rule, and no part of the clusterset by that.
            scope: if service == called.to {
                called.scope
            } else {
                Scope::Everybody
            },
            service,
            subset: subset.clone(),
            rule: Arc::clone(rule),
            held: None,
            index,
        })
    }

    /// Whom it is.
    pub(super) fn callee(&self) -> Callee<'_> {
        Callee {
            service: &self.service,
            scope: self.scope,
            subset: self.subset.as_deref(),
        }
    }

    /// Whether clients stay with one of its endpoints.
    pub(super) fn persists(&self) -> bool {
        self.rule.persistence.is_some()
    }

    /// What the rule says of it.
    pub(super) fn told(&self) -> Option<&route::Backend> {
        self.rule.backends().get(self.index)
    }

    /// Makes the request what the rule wants the backend to see. What cannot be written as a request stays.
    pub(super) fn prepare<B>(&self, head: &mut Request<B>) {
        let fields = head.headers_mut();
        self.rule.edits.request.apply(fields);
        if let Some(of_backend) = self.rule.of_backends.get(self.index) {
            of_backend.request.apply(fields);
        }
        let rewritten = self.rule.then.rewrite.authority.as_deref();
        let mut authority = rewritten.and_then(|a| Authority::try_from(a).ok());
        if head.version() == Version::HTTP_2 {
            // A rule may set the host as if it were a field; between proxies it is the authority.
            let set = head.headers_mut().remove(HOST);
            let set = set.and_then(|h| Authority::try_from(h.as_bytes()).ok());
            authority = authority.or(set);
        } else if let Some(authority) = authority.take()
            && let Ok(host) = HeaderValue::try_from(authority.as_str())
        {
            head.headers_mut().insert(HOST, host);
        }
        let path = self.rule.path.as_ref().and_then(|editor| {
            let path = editor.edit(head.uri().path());
            let whole = match head.uri().query() {
                Some(query) => format!("{path}?{query}"),
                None => path,
            };
            PathAndQuery::try_from(whole).ok()
        });
        if authority.is_none() && path.is_none() {
            return;
        }
        let mut parts = head.uri().clone().into_parts();
        parts.authority = authority.or(parts.authority);
        parts.path_and_query = path.or(parts.path_and_query);
        if let Ok(uri) = Uri::from_parts(parts) {
            *head.uri_mut() = uri;
        }
    }

    /// Makes the response what the rule wants the application to see.
    pub(super) fn answered(&self, fields: &mut HeaderMap) {
        if let Some(of_backend) = self.rule.of_backends.get(self.index) {
            of_backend.response.apply(fields);
        }
        self.rule.edits.response.apply(fields);
    }
}

impl Outbound {
    /// The namespace of this proxy's own workload. Without a certificate it does not know yet who it is; nobody would take its call
    /// either.
    pub(super) fn caller(&self) -> Option<Namespace> {
        let own = self.svid.current()?;
        let (namespace, _) = own.id.account()?;
        Namespace::new(namespace).ok()
    }

    /// What the rules say of a request to `service`, after the delay that they may want; and what its answer, whosever it is, tells
    /// browsers.
    pub(super) async fn ruled(&self, service: &Called, head: &Parts) -> (Ruled, Option<Permit>) {
        let as_called = (Ruled::AsCalled, None);
        let routes = self.balancer.routes_of(&service.service);
        if routes.is_none() {
            return as_called;
        }
        let Some(caller) = self.caller() else {
            return as_called;
        };
        let Some(table) = self.rules.of(&service.service, routes.as_ref(), &caller) else {
            return as_called;
        };
        let authority = match head.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => head.headers.get(HOST).and_then(|h| h.to_str().ok()),
        };
        let call = Call {
            port: service.port,
            method: &head.method,
            scheme: "http",
            authority: authority.unwrap_or_default(),
            path: head.uri.path(),
            query: head.uri.query(),
            headers: &head.headers,
            caller: Caller {
                namespace: &caller,
                labels: &self.labels,
            },
        };
        let rule = match table.decide(&call) {
            Verdict::Service => return as_called,
            Verdict::NotFound => return (Ruled::Own(Own::NotFound), None),
            Verdict::Rule(rule) => Arc::clone(rule),
        };
        // Before faults, as Istio has it: a browser that may not ask would never meet them.
        let permit = match rule.cors.as_ref().map(|c| c.ask(&call)) {
            None => None,
            Some(CorsAnswer::Told(permit)) => Some(permit),
            Some(CorsAnswer::Preflight(fields)) => {
                return (Ruled::Own(Own::Preflight(fields)), None);
            }
        };
        (self.follow(rule, service, &call).await, permit)
    }

    async fn follow(&self, rule: Arc<CompiledRule>, called: &Called, call: &Call<'_>) -> Ruled {
        let fault = &rule.then.fault;
        if let Some((ms, share)) = fault.delay
            && falls(share, self.balancer.random())
        {
            tokio::time::sleep(Duration::from_millis(ms).min(MAX_DELAY)).await;
        }
        if let Some((abort, share)) = fault.abort
            && falls(share, self.balancer.random())
        {
            return Ruled::Own(Own::Fault(abort));
        }
        match &rule.then.to {
            To::Redirect(redirect) => {
                let to = location(redirect, rule.path.as_ref(), call).0;
                return Ruled::Own(Own::Redirect(status_of(redirect.code), to));
            }
            To::Direct(direct) => {
                let body = direct.body.clone().map(Bytes::from);
                return Ruled::Own(Own::Direct(status_of(direct.status), body));
            }
            To::Backends(_) => {}
        }
        // Whoever has a persistent session stays with it, whatever the weights.
        match self.held(&rule, called, call.headers) {
            Some(backend) => Ruled::To(backend),
            None => self.drawn(&rule, called),
        }
    }

    /// One of a rule's backends, by their weights.
    pub(super) fn drawn(&self, rule: &Arc<CompiledRule>, called: &Called) -> Ruled {
        let Some(index) = pick(rule.backends(), self.balancer.random()) else {
            let why = format!("{} has no backend with a weight", rule.origin);
            return Ruled::Own(Own::Nowhere(why));
        };
        match Backend::new(rule, index, called) {
            Ok(backend) => Ruled::To(backend),
            Err(why) => Ruled::Own(Own::Nowhere(why)),
        }
    }
}
