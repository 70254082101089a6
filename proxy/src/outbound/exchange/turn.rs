//! What becomes of a request whose persistent session lost its endpoint while it was asked: the rule's weights decide anew to which
//! backend it goes, as for a request without a session.

use std::rc::Rc;

use http::Request;
use tradewind_transport::{hbone::headers, request_id::X_REQUEST_ID};

use super::{Asking, Outbound};
use crate::{
    called::Called,
    outbound::{
        affinity::{Affinity, Traits},
        attempts::Attempts,
        breaker::Takes,
        route::Route,
        rules::Ruled,
    },
    telemetry::Ends,
};

/// A request of a persistent session as it was before it was made ready for a backend.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) head: Request<()>,
    pub(super) called: Called,
    pub(super) from: Option<Ends>,
    pub(super) takes: Takes,
}

impl Outbound {
    /// Turns to another backend where the endpoint of the request's session is lost; stays where that is not so, or where there is no way
    /// to the other one.
    pub(super) async fn turn(
        &self,
        route: &mut Rc<Route>,
        attempts: &mut Attempts,
        asking: &mut Asking,
    ) {
        let (Some(plain), Some(backend)) = (&asking.plain, &mut asking.backend) else {
            return;
        };
        let lost = |endpoint| !self.balancer.keeps(backend.callee(), endpoint);
        if !backend.held.as_ref().is_some_and(|h| lost(&h.endpoint)) {
            return;
        }
        let Ruled::To(next) = self.drawn(&backend.rule, &plain.called) else {
            return;
        };
        if next.index == backend.index {
            backend.held = None;
            return;
        }
        let Ok(to) = self.route(next.callee()).await else {
            return;
        };
        let Ok(permit) = self.admit(&to, plain.takes, asking.patience.until).await else {
            return;
        };
        let mut head = plain.head.clone();
        let traits = Traits::of(&head, plain.from);
        asking.affinity = Affinity::of(&to.settings.balance, traits, || self.balancer.random());
        next.prepare(&mut head);
        let fields = head.headers_mut();
        if let Some(id) = asking.head.headers().get(X_REQUEST_ID) {
            fields.insert(X_REQUEST_ID, id.clone());
        }
        fields.insert(headers::SERVICE, to.service_value.clone());
        to.kept.budget.borrow_mut().deposit(asking.started);
        attempts.turn(asking.affinity.key);
        (asking.head, asking.permit) = (head, permit);
        (*backend, *route) = (next, to);
    }
}
