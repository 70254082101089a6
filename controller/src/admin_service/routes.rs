//! What rules hold for the calls to each service here, as proxies have them, and whose word they are; and how many requests its endpoints
//! here take. Reads only.
//!
//! Each service is a message of its own: its rules may take as much as a message may.

use std::{collections::BTreeMap, sync::Arc};

use futures::{Stream, stream};
use tonic::{Code, Status};
use tradewind_api::{
    ClusterName, ServiceName,
    model::Service,
    proto::v1::{RoutesRequest, ServiceRoutes},
    route::Routes,
    snapshot::Snapshot,
};
use tradewind_federation::Catalog;

use super::{AdminInput, limits, service_name};
use crate::{answer::refuse, local::nearest};

/// Of the one service that is asked for, or of all that have any.
pub(super) fn routes(
    input: &AdminInput,
    asked: &RoutesRequest,
) -> Result<impl Stream<Item = Result<ServiceRoutes, Status>> + Send + use<>, Status> {
    let snapshot = Arc::clone(&input.snapshots.borrow());
    let (catalog, own) = (input.store.catalog(), input.own.cluster.clone());
    let chosen = chosen(&snapshot, &asked.service)?;
    let revision = snapshot.revision.0;
    // One at a time, as the reader takes them.
    Ok(stream::iter(chosen.into_iter().map(
        move |(name, routes)| {
            let told = told(revision, &name, &routes, &catalog, &own)?;
            let service = snapshot.services.get(&name);
            let limits = service.map(|s| limits::of_service(&snapshot, s));
            Ok(ServiceRoutes {
                limits: limits.unwrap_or_default(),
                ..told
            })
        },
    )))
}

type Chosen = Vec<(ServiceName, Arc<Routes>)>;

fn chosen(snapshot: &Snapshot, asked: &str) -> Result<Chosen, Status> {
    let limited = |s: &Service| !limits::of_service(snapshot, s).is_empty();
    if asked.is_empty() {
        let all = snapshot.routes.iter();
        let mut all: BTreeMap<_, _> = all.map(|(n, r)| (n.clone(), Arc::clone(r))).collect();
        if !snapshot.limits.is_empty() {
            for service in snapshot.services.values().filter(|s| limited(s)) {
                all.entry(service.name.clone()).or_default();
            }
        }
        return Ok(all.into_iter().collect());
    }
    let name = service_name(asked)?;
    if let Some(routes) = snapshot.routes.get(&name) {
        return Ok(vec![(name, Arc::clone(routes))]);
    }
    if let Some(service) = snapshot.services.get(&name) {
        if limited(service) {
            return Ok(vec![(name, Arc::default())]);
        }
        return Err(refuse(
            Code::NotFound,
            format!("no rules hold for calls to {name}: they go to the service itself"),
            "`tradewind routes` lists the services that have some",
        ));
    }
    let known = snapshot.routes.keys().chain(snapshot.services.keys());
    let hint = match nearest(&name, known) {
        Some(near) => format!("did you mean {near}?"),
        None => "`tradewind services` lists what this cluster knows".to_owned(),
    };
    Err(refuse(
        Code::NotFound,
        format!("{name} is not known: no cluster exports it, and this one does not run it"),
        hint,
    ))
}

fn told(
    revision: u64,
    service: &ServiceName,
    routes: &Routes,
    catalog: &Catalog,
    own: &ClusterName,
) -> Result<ServiceRoutes, Status> {
    let format = |cluster: &ClusterName| {
        let export = catalog.export(service, cluster)?;
        Some(u32::from(export.rules.as_ref()?.format))
    };
    let json = serde_json::to_string(routes);
    Ok(ServiceRoutes {
        revision,
        service: service.to_string(),
        json: json.map_err(|e| Status::internal(format!("the rules for {service}: {e}")))?,
        published: format(own),
        received: received(routes, format),
        limits: Vec::new(),
    })
}

/// The formats of what other clusters publish and what holds here.
fn received(
    routes: &Routes,
    format: impl Fn(&ClusterName) -> Option<u32>,
) -> BTreeMap<String, u32> {
    let tables = routes.of_callers.values().chain(&routes.of_all);
    let rules = tables.flat_map(|t| &t.rules).map(|r| &r.origin);
    let streams = &routes.streams;
    let tables = streams.of_callers.values().chain(&streams.of_all);
    let streams = tables.flat_map(|t| &t.rules).map(|r| &r.origin);
    let policies = routes.traffic.iter().map(|p| &p.origin);
    let origins = rules.chain(streams).chain(policies);
    let clusters = origins.filter_map(|o| o.cluster.as_ref());
    // What was published until a moment ago holds for a moment longer.
    clusters
        .filter_map(|cluster| Some((cluster.to_string(), format(cluster)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradewind_api::{
        model::ServiceKind,
        route::{Action, Kind, Match, Origin, Otherwise, Rule, Table, To},
    };

    fn table(clusters: &[Option<&str>]) -> Arc<Table> {
        let rule = |cluster: &Option<&str>| Rule {
            origin: Origin {
                kind: Kind::HttpRoute,
                object: "shop/cart".parse().unwrap(),
                rule: "rules[0]".to_owned(),
                cluster: cluster.map(|c| c.parse().unwrap()),
            },
            when: Match::default(),
            then: Arc::new(Action::new(To::Backends(Vec::new()))),
        };
        Arc::new(Table {
            rules: clusters.iter().map(rule).collect(),
            otherwise: Otherwise::NotFound,
        })
    }

    /// `shop/cart` has rules, `shop/payments` has none.
    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for name in ["shop/cart", "shop/payments"] {
            let name: ServiceName = name.parse().unwrap();
            let service = Service {
                name: name.clone(),
                kind: ServiceKind::ClusterSetIp,
                clusterset_ips: Vec::new(),
                cluster_ips: Vec::new(),
                ports: Vec::new(),
                exported_by: [].into(),
                endpoints: Vec::new(),
                seals: Vec::new(),
            };
            snapshot.services.insert(name, Arc::new(service));
        }
        let routes = Routes {
            of_callers: [("web".parse().unwrap(), table(&[None]))].into(),
            of_all: Some(table(&[Some("east"), Some("south"), Some("east")])),
            ..Routes::default()
        };
        let cart = "shop/cart".parse().unwrap();
        snapshot.routes.insert(cart, Arc::new(routes));
        snapshot
    }

    #[test]
    fn all_that_have_rules_are_listed_or_the_one_that_is_asked_for() {
        let snapshot = snapshot();
        let names = |asked: &str| {
            let found = chosen(&snapshot, asked).unwrap();
            found
                .into_iter()
                .map(|(n, _)| n.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["shop/cart"]);
        assert_eq!(names("shop/cart"), ["shop/cart"]);
        for (asked, code, words) in [
            (
                "shop/payments",
                Code::NotFound,
                "no rules hold for calls to shop/payments",
            ),
            ("shop/crat", Code::NotFound, "did you mean shop/cart?"),
            ("zoo/giraffe", Code::NotFound, "`tradewind services` lists"),
            ("cart", Code::InvalidArgument, "write namespace/name"),
        ] {
            let refused = chosen(&snapshot, asked).unwrap_err();
            assert_eq!(refused.code(), code, "{asked}");
            assert!(refused.message().contains(words), "{}", refused.message());
        }
    }

    #[test]
    fn whose_rules_hold_is_told_with_the_format_that_they_publish() {
        let snapshot = snapshot();
        let routes = &snapshot.routes[&"shop/cart".parse().unwrap()];
        let format = |cluster: &ClusterName| (cluster.as_str() == "east").then_some(1);
        let expected = [("east".to_owned(), 1)];
        assert_eq!(received(routes, format), expected.into());
        let own: ClusterName = "west".parse().unwrap();
        let cart = "shop/cart".parse().unwrap();
        let told = told(7, &cart, routes, &Catalog::default(), &own).unwrap();
        assert_eq!((told.revision, told.service.as_str()), (7, "shop/cart"));
        assert_eq!((told.published, told.received.len()), (None, 0));
        let read: Routes = serde_json::from_str(&told.json).unwrap();
        assert_eq!(read, **routes);
    }
}
