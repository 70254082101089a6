//! Snapshots for this crate's tests.

use std::sync::Arc;

use tradewind_api::{
    ClusterName, EndpointId, Network, Region, ServiceName, SpiffeId,
    model::{
        AppProtocol, Cluster, ClusterState, Endpoint, Health, Service, ServiceKind, ServicePort,
    },
    snapshot::Snapshot,
};

/// Clusters `west` (local) and `east`, and services, exported by both or by none.
pub(crate) fn snapshot(services: &[(&str, bool, u16)]) -> Snapshot {
    let mut s = Snapshot::default();
    for (name, local) in [("west", true), ("east", false)] {
        let name = ClusterName::new(name).unwrap();
        let cluster = Cluster {
            name: name.clone(),
            region: Region::new("r").unwrap(),
            network: Network::new("n").unwrap(),
            state: ClusterState::Active,
            gateways: vec![],
            lease_expired: false,
            sealed_only: false,
            controllers: std::collections::BTreeMap::new(),
            round_trip_us: None,
            local,
        };
        s.clusters.insert(name, Arc::new(cluster));
    }
    for (name, exported, port) in services {
        let name: ServiceName = name.parse().unwrap();
        let service = Service {
            name: name.clone(),
            kind: ServiceKind::ClusterSetIp,
            clusterset_ips: vec![],
            cluster_ips: Vec::new(),
            ports: vec![ServicePort {
                name: "http".into(),
                port: *port,
                app_protocol: AppProtocol::Http1,
            }],
            exported_by: if *exported {
                s.clusters.keys().cloned().collect()
            } else {
                [].into()
            },
            endpoints: vec![],
            seals: vec![],
        };
        s.services.insert(name, Arc::new(service));
    }
    s
}

/// Adds an endpoint.
pub(crate) fn endpoint(
    s: &mut Snapshot,
    service: &str,
    cluster: &str,
    id: &str,
    health: Health,
    address: &str,
    port: u16,
) {
    let identity: SpiffeId = format!("spiffe://{cluster}.mesh.internal/ns/shop/sa/payments")
        .parse()
        .unwrap();
    let endpoint = Endpoint {
        id: EndpointId::new(id).unwrap(),
        cluster: ClusterName::new(cluster).unwrap(),
        region: Region::new("r").unwrap(),
        zone: None,
        weight: 100,
        health,
        identity,
        address: Some(address.into()),
        mesh_ips: vec![],
        hostname: None,
        labels: tradewind_api::traffic::Labels::new(),
        ports: vec![port],
        targets: Default::default(),
    };
    let service = s.services.get_mut(&service.parse().unwrap()).unwrap();
    Arc::make_mut(service).endpoints.push(endpoint);
}

/// The named cluster, to change it.
pub(crate) fn cluster<'a>(s: &'a mut Snapshot, name: &str) -> &'a mut Cluster {
    Arc::make_mut(
        s.clusters
            .get_mut(&ClusterName::new(name).unwrap())
            .unwrap(),
    )
}
