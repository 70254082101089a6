//! Between whom a call is, for the standard metrics: this proxy's own certificate on one side, the endpoint's identity on the
//! other. Found once per endpoint and snapshot; the requests after that take what was found.

use std::rc::Rc;

use tradewind_api::id::ServicePortRef;

use super::{
    Outbound,
    route::{NoRoute, Route, Target},
};
use crate::standard::{Flags, Pair, PairKey, Party, Reporter, Security};

impl Outbound {
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
            Self::UnknownService(_) | Self::UnknownPort { .. } => Flags::NoRoute,
            Self::NoSnapshot | Self::NoEndpoint(_) => Flags::NoHealthyUpstream,
        }
    }
}
