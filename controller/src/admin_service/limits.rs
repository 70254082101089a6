//! How many requests a service's endpoints of this cluster take, by the function that their proxies find it out with. Reads only.
//!
//! What labels a proxy alone was told of is not known here, and other clusters' endpoints have limits of their own.

use std::collections::BTreeMap;

use tradewind_api::{
    Namespace,
    limit::{LocalLimit, in_force},
    model::{Endpoint, Service},
    proto::v1::HeldLimit,
    snapshot::Snapshot,
};

/// A limit at one port, and at which endpoints.
type Found<'a> = BTreeMap<(String, usize), (&'a LocalLimit, Vec<String>)>;

/// Those that hold at one port of a service, by the object that says them.
pub(super) fn at_port(snapshot: &Snapshot, service: &Service, port: u16) -> Vec<HeldLimit> {
    let Some(local) = snapshot.local().filter(|_| !snapshot.limits.is_empty()) else {
        return Vec::new();
    };
    let here = |e: &&Endpoint| e.cluster == local.name && e.ports.contains(&port);
    let mut found = Found::new();
    for endpoint in service.endpoints.iter().filter(here) {
        let account = endpoint.identity.account();
        let Some(namespace) = account.and_then(|(n, _)| Namespace::new(n).ok()) else {
            continue;
        };
        let workload = (&namespace, &endpoint.labels);
        let ports = (port, endpoint.targets.get(&port).copied());
        for (object, index, limit) in in_force(&snapshot.limits, workload, ports) {
            let held = found.entry((object.to_string(), index));
            let (_, endpoints) = held.or_insert_with(|| (limit, Vec::new()));
            endpoints.push(endpoint.id.to_string());
        }
    }
    let told = |((object, index), (limit, endpoints)): ((String, usize), _)| HeldLimit {
        object,
        index: u32::try_from(index).unwrap_or(u32::MAX),
        port: port.into(),
        endpoints,
        words: LocalLimit::words(limit),
        json: serde_json::to_string(limit).unwrap_or_default(),
    };
    found.into_iter().map(told).collect()
}

/// Those that hold at any of its ports.
pub(super) fn of_service(snapshot: &Snapshot, service: &Service) -> Vec<HeldLimit> {
    let ports = service.ports.iter();
    ports
        .flat_map(|port| at_port(snapshot, service, port.port))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use tradewind_api::{
        limit::{Answer, LocalLimits, Place, TokenBucket},
        model::{AppProtocol, Cluster, ClusterState, Health, ServiceKind, ServicePort},
        route::MILLION,
    };

    fn cluster(name: &str, local: bool) -> Arc<Cluster> {
        Arc::new(Cluster {
            name: name.parse().unwrap(),
            region: "r".parse().unwrap(),
            network: name.parse().unwrap(),
            state: ClusterState::Active,
            gateways: Vec::new(),
            controllers: BTreeMap::new(),
            lease_expired: false,
            sealed_only: false,
            round_trip_us: None,
            local,
        })
    }

    fn endpoint(id: &str, cluster: &str, app: &str) -> Endpoint {
        Endpoint {
            id: id.parse().unwrap(),
            cluster: cluster.parse().unwrap(),
            region: "r".parse().unwrap(),
            zone: None,
            weight: 100,
            health: Health::Healthy,
            identity: format!("spiffe://{cluster}.mesh.internal/ns/shop/sa/cart")
                .parse()
                .unwrap(),
            address: None,
            mesh_ips: vec![],
            hostname: None,
            labels: [("app".to_owned(), app.to_owned())].into(),
            ports: vec![80, 81],
            targets: [(80, 8080)].into(),
        }
    }

    fn limits(namespace: &str, app: &str, port: u16) -> Arc<LocalLimits> {
        Arc::new(LocalLimits {
            namespace: Some(namespace.parse().unwrap()),
            labels: [("app".to_owned(), app.to_owned())].into(),
            limits: vec![LocalLimit {
                place: Place::Filter { port: Some(port) },
                bucket: Some(TokenBucket {
                    max_tokens: 10,
                    tokens_per_fill: 1,
                    fill_interval_ms: 1000,
                }),
                per_connection: false,
                enabled: MILLION,
                enforced: MILLION,
                answer: Answer::default(),
                passed_headers: Vec::new(),
                tells: false,
            }],
        })
    }

    #[test]
    fn limits_are_told_with_the_endpoints_that_they_hold_at() {
        let port = |port| ServicePort {
            name: String::new(),
            port,
            app_protocol: AppProtocol::Http1,
        };
        let service = Service {
            name: "shop/cart".parse().unwrap(),
            kind: ServiceKind::ClusterSetIp,
            clusterset_ips: Vec::new(),
            cluster_ips: Vec::new(),
            ports: vec![port(80), port(81)],
            exported_by: [].into(),
            endpoints: vec![
                endpoint("one", "west", "cart"),
                endpoint("two", "west", "cart"),
                endpoint("other", "west", "batch"),
                endpoint("far", "east", "cart"),
            ],
            seals: Vec::new(),
        };
        let mut snapshot = Snapshot::default();
        for (name, local) in [("west", true), ("east", false)] {
            snapshot
                .clusters
                .insert(name.parse().unwrap(), cluster(name, local));
        }
        assert!(of_service(&snapshot, &service).is_empty());
        for (name, namespace, app, port) in [
            ("shop/by-application", "shop", "cart", 8080),
            ("shop/by-service", "shop", "cart", 81),
            ("zoo/others", "zoo", "cart", 80),
        ] {
            let limits = limits(namespace, app, port);
            snapshot.limits.insert(name.parse().unwrap(), limits);
        }
        let held = of_service(&snapshot, &service);
        let told: Vec<_> = held
            .iter()
            .map(|h| (h.object.as_str(), h.port, h.endpoints.join(",")))
            .collect();
        let both = "one,two".to_owned();
        assert_eq!(
            told,
            [
                ("shop/by-application", 80, both.clone()),
                ("shop/by-service", 81, both)
            ]
        );
        assert!(held[0].words[0].contains("10 requests at once"));
        let read: LocalLimit = serde_json::from_str(&held[0].json).unwrap();
        assert_eq!(read.words(), held[0].words);
    }
}
