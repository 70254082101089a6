//! Objects that were edited: what becomes of the services that they speak of, without a look at all others. An edit leaves an object its kind,
//! its name and its age. Whatever may change more than rules of the object's own services is for [`Compiler::compile`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tradewind_api::{ServiceName, route::Routes};

use super::{Compiler, Policy, id, known, put, streams, table};
use crate::{istio, kinds::Known, object::Object, status::RouteStatus, world::World};

/// Edits at once; with more of them everything is compiled, which costs about as much as this many.
const MAX_EDITS: usize = 100;

/// All objects and what they refer to.
pub(super) type Seen = (Arc<Vec<Arc<Object>>>, Arc<World>);

/// What a look found.
#[derive(Debug)]
pub enum Compiled {
    /// All of it; anything may be another than before.
    All(Policy),
    /// What is another than before, or may be.
    Edits(Edits),
}

/// What edits changed. Findings and limits are what they were.
#[derive(Debug, Default, PartialEq)]
pub struct Edits {
    /// The rules of these services; none where there are none any more.
    pub routes: BTreeMap<ServiceName, Option<Routes>>,
    /// What these routes of Gateway API are told, each instead of what it was told before.
    pub statuses: Vec<Arc<RouteStatus>>,
}

impl Compiler {
    /// Looks at what there is now. What did not change is the same allocation as at the last look.
    pub fn look(&mut self, objects: &Arc<Vec<Arc<Object>>>, services: &Arc<World>) -> Compiled {
        let last = self.seen.take();
        let edits = last
            .filter(|(_, world)| Arc::ptr_eq(world, services))
            .and_then(|(last, _)| self.edits(&last, objects));
        let compiled = match edits {
            Some(edits) => Compiled::Edits(edits),
            None => Compiled::All(self.compile(objects, services)),
        };
        self.seen = Some((Arc::clone(objects), Arc::clone(services)));
        compiled
    }

    fn edits(&mut self, before: &[Arc<Object>], now: &[Arc<Object>]) -> Option<Edits> {
        if before.len() != now.len() {
            return None;
        }
        let both = before.iter().zip(now);
        let edited: Vec<_> = both
            .filter(|(old, new)| !Arc::ptr_eq(old, new) && old != new)
            .take(MAX_EDITS + 1)
            .collect();
        if edited.len() > MAX_EDITS {
            return None;
        }
        let mut services = BTreeSet::new();
        let mut statuses = Vec::new();
        for (old, new) in edited {
            statuses.extend(self.edit(old, new, &mut services)?);
        }
        let routes = services.into_iter().map(|name| {
            let routes = self.routes_of(&name);
            (name, routes)
        });
        Some(Edits {
            routes: routes.collect(),
            statuses,
        })
    }

    /// Reads `new` in the place of `old`. None where that changes more than their services' rules, which are added to `services`; then nothing
    /// has changed.
    fn edit(
        &mut self,
        old: &Object,
        new: &Object,
        services: &mut BTreeSet<ServiceName>,
    ) -> Option<Option<Arc<RouteStatus>>> {
        let kind = known(new)?;
        let is_edit =
            known(old) == Some(kind) && (&old.name, &old.created) == (&new.name, &new.created);
        let by_itself = match kind {
            Known::HttpRoute
            | Known::GrpcRoute
            | Known::TcpRoute
            | Known::TlsRoute
            | Known::TrafficSplit => true,
            Known::VirtualService => istio::delegate_alike(old, new),
            // Others refer to them, or they to each other.
            Known::ReferenceGrant
            | Known::DestinationRule
            | Known::EnvoyFilter
            | Known::HttpRouteGroup => false,
        };
        if !is_edit || !by_itself {
            return None;
        }
        let before = self.read.get(&id(old)).filter(|r| r.object == *old)?;
        let now = Arc::new(self.read(new, kind));
        if before.findings != now.findings || before.status.is_some() != now.status.is_some() {
            return None;
        }
        let both = (before, &now);
        let requests = self.requests.anew(both, |r| &r.drafts.requests, table)?;
        let streams = self
            .streams
            .anew(both, |r| &r.drafts.streams, streams::table)?;
        let keys = requests.keys().chain(streams.keys());
        services.extend(keys.map(|(service, _)| service.clone()));
        self.requests.take(requests);
        self.streams.take(streams);
        self.read.remove(&id(old));
        let status = now.status.clone();
        self.read.insert(id(new), now);
        Some(status)
    }

    /// The rules of one service, of what was read.
    fn routes_of(&self, service: &ServiceName) -> Option<Routes> {
        let mut routes: Option<Routes> = None;
        for (callers, table) in self.requests.of(service) {
            put(routes.get_or_insert_default(), callers, table);
        }
        for (callers, table) in self.streams.of(service) {
            streams::put(routes.get_or_insert_default(), callers, table);
        }
        if let Some(traffic) = self.world.traffic.get(service) {
            routes.get_or_insert_default().traffic.clone_from(traffic);
        }
        routes
    }
}
