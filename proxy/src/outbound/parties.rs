//! What a call is accounted under, for the standard metrics and whoever else writes it down: this proxy's own certificate on one side, the endpoint's identity on the
//! other. Found once per endpoint and snapshot; the requests after that take what was found.

use std::rc::Rc;

use http::request;
use tradewind_api::id::ServicePortRef;

use super::{
    Outbound,
    route::{NoRoute, Route, Target},
};
use crate::{
    standard::{Account, Flags, Pair, PairKey, Party, Reporter, Security, is_grpc},
    telemetry::Ends,
};

impl Outbound {
    /// A new request's account. From now on the request has an id, and a trace if it is to have one.
    pub(super) fn account(
        &self,
        head: &mut request::Parts,
        service: &ServicePortRef,
        client: Option<Ends>,
    ) -> Account {
        let now = self.balancer.clock().now();
        let grpc = is_grpc(&head.headers);
        self.balancer.name_request(&mut head.headers);
        let line = (&head.method, &head.uri, head.version);
        let telemetry = self.standard.telemetry();
        let mut notes = telemetry.request(Reporter::Source, line, &mut head.headers, || {
            self.balancer.random()
        });
        notes.for_service(service, client);
        Account::new(now, grpc).noting(notes)
    }

    /// The pair of this proxy and `target`.
    pub(super) fn pair(&self, route: &Route, target: &Target) -> Rc<Pair> {
        if let Some(pair) = target.pair.get() {
            return Rc::clone(pair);
        }
        let pair = self.find(&route.service, Some(target));
        if self.svid.current().is_some() {
            // Without a certificate this proxy does not know yet who it is: asked again next time.
            drop(target.pair.set(Rc::clone(&pair)));
        }
        pair
    }

    /// The pair of this proxy and nobody, for a call that no endpoint could be found for.
    pub(super) fn pair_with_nobody(&self, service: &ServicePortRef) -> Rc<Pair> {
        self.find(service, None)
    }

    fn find(&self, service: &ServicePortRef, target: Option<&Target>) -> Rc<Pair> {
        let domain = self.balancer.domain();
        let own = self.svid.current();
        self.standard.pair(PairKey {
            reporter: Reporter::Source,
            source: own.map_or_else(Party::unknown, |own| Party::of(&own.id, &domain)),
            destination: target
                .map_or_else(Party::unknown, |t| Party::of(&t.endpoint.identity, &domain)),
            service: Some(service.service.clone()),
            security: match target {
                Some(_) => Security::MutualTls,
                None => Security::Unknown,
            },
        })
    }
}

impl NoRoute {
    /// In Envoy's words.
    pub(super) const fn flags(&self) -> Flags {
        match self {
            Self::UnknownService(_) | Self::UnknownPort { .. } | Self::UnknownSubset { .. } => {
                Flags::NoRoute
            }
            Self::NoSnapshot | Self::NoEndpoint(_) => Flags::NoHealthyUpstream,
        }
    }
}
