//! Both sources in one model, and names that are near.

use proptest::prelude::*;

use super::*;
use crate::source::yaml::{assemble, parse};

pub(crate) fn own() -> Own {
    Own {
        cluster: ClusterName::new("west").unwrap(),
        region: Region::new("us-west").unwrap(),
        network: Network::new("west").unwrap(),
        domain: Domain::default(),
        witness: false,
    }
}

/// Merges both sources once.
pub(crate) fn merge(registered: &Registered, yaml: &SourceModel, own: &Own) -> LocalModel {
    Merger::default().merge(registered, yaml, own)
}

pub(crate) fn registration(
    service: &str,
    port: u16,
    address: &str,
    health: Health,
) -> (EndpointId, RegisteredEndpoint) {
    let service: ServiceName = service.parse().unwrap();
    let id = EndpointId::derive(&own().cluster, &service, port, address);
    let endpoint = RegisteredEndpoint {
        service,
        port,
        app_protocol: AppProtocol::Detect,
        port_name: String::new(),
        address: address.into(),
        zone: None,
        weight: 100,
        health,
        hostname: None,
        labels: Labels::new(),
        identity: "spiffe://west.mesh.internal/ns/shop/sa/payments"
            .parse()
            .unwrap(),
        proxy: "p".into(),
        connected: true,
        last_seen_ms: 1,
    };
    (id, endpoint)
}

pub(crate) fn registered(
    all: impl IntoIterator<Item = (EndpointId, RegisteredEndpoint)>,
) -> Registered {
    Registered {
        workloads: all.into_iter().collect(),
        ..Registered::default()
    }
}

fn yaml(text: &str) -> SourceModel {
    assemble([&parse("a.yaml", text).unwrap()])
}

const FILE: &str = r"
apiVersion: v1
kind: Service
metadata: {name: payments, namespace: shop}
spec:
  clusterIP: None
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: payments-1, namespace: shop, labels: {kubernetes.io/service-name: payments}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.1]}
- {addresses: [10.0.0.2], conditions: {ready: false}, zone: a}
";

#[test]
fn both_sources_make_one_service() {
    let registered = registered([
        registration("shop/payments", 80, "127.0.0.1:15008", Health::Healthy),
        registration("shop/payments", 81, "127.0.0.1:15008", Health::Healthy),
        registration("shop/orders", 80, "127.0.0.1:15008", Health::Unknown),
    ]);
    let model = merge(&registered, &yaml(FILE), &own());
    assert_eq!(model.services.len(), 2);
    let payments = &model.services[&"shop/payments".parse().unwrap()];
    assert_eq!(payments.kind, ServiceKind::Headless);
    let ports: Vec<_> = payments
        .ports
        .iter()
        .map(|p| (p.port, p.name.as_str(), p.app_protocol))
        .collect();
    assert_eq!(
        ports,
        [
            (80, "http", AppProtocol::Http1),
            (81, "", AppProtocol::Detect)
        ]
    );
    assert_eq!(payments.endpoints.len(), 4);
    let pod = payments
        .endpoints
        .values()
        .find(|e| e.address == "10.0.0.2:15008")
        .unwrap();
    assert_eq!(
        (pod.health, pod.ports.as_slice()),
        (Health::Unhealthy, [80].as_slice())
    );
    assert_eq!(
        pod.identity.as_str(),
        "spiffe://west.mesh.internal/ns/shop/sa/default"
    );
    assert!(model.problems.is_empty(), "{:?}", model.problems);
}

#[test]
fn a_service_is_made_anew_when_its_source_changed_and_not_before() {
    let payments: ServiceName = "shop/payments".parse().unwrap();
    let (mut merger, nobody) = (Merger::default(), Registered::default());
    let file = yaml(FILE);
    let first = merger.merge(&nobody, &file, &own());
    let made = Arc::clone(&first.services[&payments]);
    let id = registration("shop/payments", 81, "127.0.0.1:15008", Health::Healthy);
    let more = merger.merge(&registered([id]), &file, &own());
    assert_eq!(more.services[&payments].endpoints.len(), 3);
    let again = merger.merge(&nobody, &file, &own());
    assert!(Arc::ptr_eq(&again.services[&payments], &made));

    let elsewhere = "annotations: {tradewind.io/identity: /no}, name: payments-1";
    let wrong = yaml(&FILE.replace("name: payments-1", elsewhere));
    for _ in 0..2 {
        let told = merger.merge(&nobody, &wrong, &own());
        assert_eq!(told, merge(&nobody, &wrong, &own()));
        assert_eq!(told.problems.len(), 2, "{:?}", told.problems);
    }
    let gone = merger.merge(&nobody, &SourceModel::default(), &own());
    assert!(gone.services.is_empty());
}

#[test]
fn identities_of_elsewhere_are_problems() {
    for (annotation, good) in [
        ("/ns/shop/sa/till", true),
        ("spiffe://west.mesh.internal/ns/shop/sa/till", true),
        ("spiffe://east.mesh.internal/ns/shop/sa/till", false),
        ("/tradewind/controller/x", false),
    ] {
        let annotated =
            format!("annotations: {{tradewind.io/identity: \"{annotation}\"}}, name: payments-1");
        let model = merge(
            &Registered::default(),
            &yaml(&FILE.replace("name: payments-1", &annotated)),
            &own(),
        );
        let payments = &model.services[&"shop/payments".parse().unwrap()];
        assert_eq!(
            payments.endpoints.len(),
            if good { 2 } else { 0 },
            "{annotation}"
        );
        assert_eq!(
            model.problems.is_empty(),
            good,
            "{annotation}: {:?}",
            model.problems
        );
    }
}

#[test]
fn the_nearest_name_is_found() {
    let names: Vec<ServiceName> = ["shop/payments", "shop/orders", "bank/ledger"]
        .iter()
        .map(|n| n.parse().unwrap())
        .collect();
    for (wanted, expected) in [
        ("shop/payment", Some("shop/payments")),
        ("bank/orders", Some("shop/orders")),
        ("shop/ordres", Some("shop/orders")),
        ("x/y", None),
    ] {
        let found = nearest(&wanted.parse().unwrap(), &names).map(ToString::to_string);
        assert_eq!(found.as_deref(), expected, "{wanted}");
    }
}

proptest! {
    #[test]
    fn distance_is_a_metric(a in "[a-c]{0,8}", b in "[a-c]{0,8}", c in "[a-c]{0,8}") {
        prop_assert_eq!(distance(&a, &a), 0);
        prop_assert_eq!(distance(&a, &b), distance(&b, &a));
        prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
        prop_assert!(distance(&a, &b) >= a.len().abs_diff(b.len()));
    }
}
