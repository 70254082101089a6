//! Who took a call. A gateway does not see what it carries, and connects another endpoint where it has never heard of the one that it is
//! asked for; the callee's proxy says who it is. What is learnt from the answer is booked on that one.

use std::rc::Rc;

use http::{HeaderMap, HeaderValue};
use tradewind_api::id::EndpointId;
use tradewind_transport::{balance::detector::Failure, hbone::headers};

use super::{
    Outbound,
    route::{Blame, Route, Target},
};
use crate::telemetry::Notes;

/// Who took a call.
#[derive(Debug)]
pub(super) struct Taker {
    /// Whom what is learnt is booked on.
    pub(super) target: Rc<Target>,
    /// `<cluster>/<id>`, as the response's header says it.
    pub(super) served_by: HeaderValue,
}

impl Taker {
    /// The one that was asked.
    fn named(target: &Rc<Target>) -> Self {
        Self {
            target: Rc::clone(target),
            served_by: target.served_by.clone(),
        }
    }
}

impl Outbound {
    /// Who took a call that `named` was asked with, by what the peer says of itself. One that says nothing is the one that was asked.
    ///
    /// Where it is another endpoint that is known here too, the named one was not reached, and is out; the next session may lead to it.
    /// Where it is one that nobody here has heard of, all names here may be old: what is asked by them is served, and nobody is out.
    pub(super) fn taker(
        &self,
        route: &Route,
        named: &Rc<Target>,
        says: Option<&EndpointId>,
        notes: &mut Notes,
    ) -> Taker {
        let id = &named.endpoint.id;
        let Some(other) = says.filter(|says| *says != id) else {
            return Taker::named(named);
        };
        notes.taken_by(other);
        let cluster = named.cluster();
        let is_it = |t: &&Rc<Target>| t.endpoint.id == *other && t.cluster() == cluster;
        let Some(target) = route.targets.iter().find(is_it) else {
            let served_by = HeaderValue::from_str(&format!("{cluster}/{other}"));
            return Taker {
                served_by: served_by.unwrap_or_else(|_| named.served_by.clone()),
                ..Taker::named(named)
            };
        };
        tracing::info!(service = %route.service, endpoint = %id, by = %other, %cluster, "another endpoint took a call");
        self.replaced(route, named, Failure::Connect);
        Taker::named(target)
    }

    /// Another endpoint was connected in the place of this one, which is out. A connection to it that there is leads to the other for ever,
    /// and the next one may not.
    pub(super) fn replaced(&self, route: &Route, target: &Target, failure: Failure) {
        self.balancer
            .failed(&route.service, target, Blame::Endpoint(failure));
        let replaced = &target.endpoint.id;
        self.balancer.pool.retain(|id, _| id != replaced);
    }
}

/// Whom a response says that it is from.
pub(super) fn says(fields: &HeaderMap) -> Option<EndpointId> {
    fields
        .get(headers::ENDPOINT)
        .and_then(headers::parse_endpoint)
}
