//! Snapshots for this crate's tests.

use std::sync::Arc;

use tradewind_api::{
    ClusterName, EndpointId, Network, Region, ServiceName,
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

/// Makes `cluster` the only exporter.
pub(crate) fn export_only_from(s: &mut Snapshot, service: &str, cluster: &str) {
    let service = s.services.get_mut(&service.parse().unwrap()).unwrap();
    Arc::make_mut(service).exported_by = [ClusterName::new(cluster).unwrap()].into();
}

/// An endpoint of `cluster` at `address` (`ip:port`) whose application listens there, by service port.
pub(crate) fn endpoint(id: &str, cluster: &str, address: &str, targets: &[(u16, u16)]) -> Endpoint {
    Endpoint {
        id: EndpointId::new(id).unwrap(),
        cluster: ClusterName::new(cluster).unwrap(),
        region: Region::new("r").unwrap(),
        zone: None,
        weight: 100,
        health: Health::Healthy,
        identity: format!("spiffe://{cluster}.mesh.internal/ns/shop/sa/payments")
            .parse()
            .unwrap(),
        address: Some(address.to_owned()),
        mesh_ips: vec![],
        hostname: None,
        labels: Default::default(),
        ports: targets.iter().map(|(port, _)| *port).collect(),
        targets: targets.iter().copied().collect(),
    }
}

/// Changes a service.
pub(crate) fn change(s: &mut Snapshot, service: &str, change: impl FnOnce(&mut Service)) {
    let service = s.services.get_mut(&service.parse().unwrap()).unwrap();
    change(Arc::make_mut(service));
}
