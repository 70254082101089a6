//! What Tradewind's gateway is told in place of a controller: one cluster that exports one service with one endpoint, and
//! the server name by which a caller asks for it. Whoever changes how names are made changes this file.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;
use tradewind_api::{
    ClusterName, Domain, EndpointId, Network, Region, ServiceName, SpiffeId,
    model::{
        AppProtocol, Cluster, ClusterState, Endpoint, Health, Service, ServiceKind, ServicePort,
    },
    snapshot::Snapshot,
};
use tradewind_transport::{
    control::{Control, ControlStatus},
    server_name::{Target, encode},
    svid::SvidCell,
    trust::TrustCell,
};

const CLUSTER: &str = "west";
const SERVICE: &str = "bench/echo";
const PORT: u16 = 443;

/// The name that leads a connection through the gateway to the one endpoint.
pub(super) fn server_name() -> Result<String, String> {
    let target = Target::Endpoint {
        cluster: name(CLUSTER)?,
        service: SERVICE.parse().map_err(|e| format!("{SERVICE:?}: {e:?}"))?,
        port: PORT,
        endpoint: None,
    };
    Ok(encode(&target, &Domain::default()))
}

/// A link to a controller that has said all it will ever say.
pub(super) fn control(backend: SocketAddr) -> Result<Control, String> {
    let (keep, snapshot) = watch::channel(Arc::new(snapshot(backend)?));
    // Its end would count as a controller that is gone for good, to those that watch.
    drop(tradewind_runtime::task::spawn("snapshot", async move {
        keep.closed().await;
    }));
    Ok(Control::from_parts(
        SvidCell::empty(),
        TrustCell::empty(),
        snapshot,
        ControlStatus::default(),
    ))
}

fn snapshot(backend: SocketAddr) -> Result<Snapshot, String> {
    let (cluster, region) = (name(CLUSTER)?, Region::new("here").map_err(text)?);
    let service: ServiceName = SERVICE.parse().map_err(text)?;
    let identity: SpiffeId = "spiffe://west.mesh.internal/ns/bench/sa/echo"
        .parse()
        .map_err(text)?;
    let mut snapshot = Snapshot::default();
    let local = Cluster {
        name: cluster.clone(),
        region: region.clone(),
        network: Network::new("here").map_err(text)?,
        state: ClusterState::Active,
        gateways: vec![],
        lease_expired: false,
        local: true,
    };
    snapshot.clusters.insert(cluster.clone(), Arc::new(local));
    let endpoint = Endpoint {
        id: EndpointId::new("one").map_err(text)?,
        cluster: cluster.clone(),
        region,
        zone: None,
        weight: 100,
        health: Health::Healthy,
        identity,
        address: Some(backend.to_string()),
        hostname: None,
        ports: vec![PORT],
    };
    let exported = Service {
        name: service.clone(),
        kind: ServiceKind::ClusterSetIp,
        clusterset_ips: vec![],
        ports: vec![ServicePort {
            name: "tls".into(),
            port: PORT,
            app_protocol: AppProtocol::Tcp,
        }],
        exported_by: [cluster].into(),
        endpoints: vec![endpoint],
    };
    snapshot.services.insert(service, Arc::new(exported));
    Ok(snapshot)
}

fn name(s: &str) -> Result<ClusterName, String> {
    ClusterName::new(s).map_err(text)
}

fn text(e: impl std::fmt::Debug) -> String {
    format!("{e:?}")
}
