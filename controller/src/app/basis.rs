//! What a snapshot is made of besides rules, and what was made of it. Pure but for what it remembers.
//!
//! Rules change without anything else, and with many services everything else costs more than they do. So what was made a moment ago is
//! taken again where nothing came that would change it.

use std::sync::Arc;

use tradewind_api::{
    ServiceName,
    shared::SharedMap,
    snapshot::{Snapshot, Trust},
};
use tradewind_federation::Catalog;

use crate::{
    compile::{self, Leases, MeshIps},
    local::{LocalModel, Merger, Own},
    reach::Distances,
    registry::Registered,
    seals::Ring,
    source::{SourceModel, SourceService},
};

/// How long what was made may be taken again, ms: leases and names end by time alone, which is looked at once a second.
const FRESH_MS: u64 = 900;

/// What there is, but for rules and time. What did not change keeps its allocation.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) catalog: Arc<Catalog>,
    pub(super) registered: Arc<Registered>,
    pub(super) services: SharedMap<ServiceName, Arc<SourceService>>,
    pub(super) seals: Arc<Ring>,
    pub(super) trust: Arc<Trust>,
    pub(super) leases: Leases,
    pub(super) distances: Distances,
}

impl Seen {
    fn is(&self, other: &Self) -> bool {
        self.is_of_the_local(other)
            && Arc::ptr_eq(&self.catalog, &other.catalog)
            && Arc::ptr_eq(&self.seals, &other.seals)
            && Arc::ptr_eq(&self.trust, &other.trust)
            && self.leases == other.leases
            && self.distances == other.distances
    }

    /// Whether the local model is the same.
    fn is_of_the_local(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.registered, &other.registered) && self.services.is(&other.services)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Basis {
    merger: Merger,
    mesh_ips: MeshIps,
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    of: Seen,
    at_ms: u64,
    local: LocalModel,
}

impl Basis {
    /// The local model and the snapshot of what there is `now`, both without rules. `previous` is the snapshot that was made last.
    pub(super) fn look(
        &mut self,
        now: Seen,
        (source, own): (&SourceModel, &Own),
        now_ms: u64,
        previous: &Snapshot,
    ) -> (LocalModel, Snapshot) {
        let fresh = |at_ms: u64| (at_ms..at_ms.saturating_add(FRESH_MS)).contains(&now_ms);
        let before = self.made.take().filter(|m| m.local.read == source.read);
        if let Some(made) = &before
            && fresh(made.at_ms)
            && made.of.is(&now)
        {
            let local = made.local.clone();
            self.made = before;
            return (local, previous.clone());
        }
        let local = match before.as_ref().filter(|m| m.of.is_of_the_local(&now)) {
            Some(made) => made.local.clone(),
            None => self.merger.merge(&now.registered, source, own),
        };
        self.mesh_ips.observe(&now.catalog, own);
        let input = compile::Input {
            mesh_ips: &self.mesh_ips,
            catalog: &now.catalog,
            local: &local,
            own,
            leases: &now.leases,
            distances: &now.distances,
            trust: &now.trust,
            seals: &now.seals,
            now_ms,
        };
        let before = before.as_ref().map(|m| (&m.local, &*m.of.catalog));
        let snapshot = compile::compile(&input, previous, before);
        self.made = Some(Made {
            of: now,
            at_ms: now_ms,
            local: local.clone(),
        });
        (local, snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        local::tests::{own, registered, registration},
        source::yaml::{assemble, parse},
    };
    use tradewind_api::model::Health;

    const ONE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: payments, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n";
    const TWO: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n";

    fn source(text: &str, before: Option<&SourceModel>) -> SourceModel {
        let mut model = assemble([&parse("a.yaml", text).unwrap()]);
        if let Some(before) = before {
            model.keep(before);
        }
        model
    }

    /// A lease that is renewed, which happens all the time, is a catalog that says something else of no service.
    #[test]
    fn services_are_left_alone_where_nothing_but_the_catalog_or_time_changed() {
        let somebody = registration("shop/orders", 80, "10.0.0.1:15008", Health::Healthy);
        let registered = Arc::new(registered([somebody]));
        let source = source(&format!("{ONE}---\n{TWO}"), None);
        let mut basis = Basis::default();
        let mut look = |now_ms, last: &Snapshot| {
            let now = Seen {
                catalog: Arc::default(),
                registered: Arc::clone(&registered),
                services: source.services.clone(),
                seals: Arc::default(),
                trust: Arc::default(),
                leases: Leases::default(),
                distances: Distances::default(),
            };
            basis.look(now, (&source, &own()), now_ms, last)
        };
        let first = look(1_000, &Snapshot::default());
        assert_eq!(first.1.services.len(), 3);
        let second = look(1_000 + FRESH_MS, &first.1);
        assert!(second.0.services.is(&first.0.services));
        assert!(second.1.services.is(&first.1.services));
        assert_eq!(second, first);
    }

    #[test]
    fn what_was_made_is_taken_again_until_something_comes_or_time_passes() {
        let nobody = Arc::new(Registered::default());
        let catalog = Arc::new(Catalog::default());
        let (seals, trust) = (Arc::default(), Arc::<Trust>::default());
        let mut basis = Basis::default();
        let mut last = Snapshot::default();
        let mut look = |source: &SourceModel, registered: &Arc<Registered>, now_ms| {
            let seen = || Seen {
                catalog: Arc::clone(&catalog),
                registered: Arc::clone(registered),
                services: source.services.clone(),
                seals: Arc::clone(&seals),
                trust: Arc::clone(&trust),
                leases: Leases::default(),
                distances: Distances::default(),
            };
            let before = basis.made.as_ref().map(|made| made.at_ms);
            let told = basis.look(seen(), (source, &own()), now_ms, &last);
            let made_again = basis.made.as_ref().map(|made| made.at_ms) != before;
            let anew = Basis::default().look(seen(), (source, &own()), now_ms, &last);
            assert_eq!(told, anew);
            last = told.1;
            (made_again, last.services.len())
        };
        let one = source(ONE, None);
        assert_eq!(look(&one, &nobody, 1_000), (true, 1));
        // The files were read again, and say the same.
        let again = source(ONE, Some(&one));
        assert_eq!(look(&again, &nobody, 1_010), (false, 1));
        let both = source(&format!("{ONE}---\n{TWO}"), Some(&again));
        assert_eq!(look(&both, &nobody, 1_020), (true, 2));
        let id = registration("shop/orders", 80, "10.0.0.1:15008", Health::Healthy);
        let somebody = Arc::new(registered([id]));
        assert_eq!(look(&both, &somebody, 1_030), (true, 3));
        assert_eq!(look(&both, &somebody, 1_040), (false, 3));
        assert_eq!(look(&both, &somebody, 1_040 + FRESH_MS), (true, 3));
        // A clock that was put back.
        assert_eq!(look(&both, &somebody, 10), (true, 3));
    }
}
