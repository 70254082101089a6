//! What Tradewind's gateway is told in place of a controller: one cluster that exports one service with one endpoint, and
//! the server name by which a caller asks for it. Whoever changes how names are made changes this file.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;
use tradewind_api::{
    ClusterName, Domain, EndpointId, Network, Region, ServiceName, SpiffeId,
    model::{
        AppProtocol, Cluster, ClusterState, Endpoint, Health, Service, ServiceKind, ServicePort,
    },
    seal::OpeningKey,
    snapshot::Snapshot,
};
use tradewind_transport::{
    control::{Control, ControlStatus},
    seal::{Content, KeyId, Minter, Pair, ServiceId},
    server_name::{Target, encode},
    svid::SvidCell,
    trust::TrustCell,
};

const CLUSTER: &str = "west";
/// Who calls.
const CALLER: &str = "east";
/// The key that the two share, and its id. A measurement has no secrets.
const KEY: [u8; 32] = [7; 32];
const KEY_ID: u32 = 1;
/// The year 2096: no measurement outlives its name.
const EXPIRES_UNIX_S: u64 = 4_000_000_000;
const SERVICE: &str = "bench/echo";
const PORT: u16 = 443;

/// The name that leads a connection through the gateway to the one endpoint, sealed as a caller's controller would.
pub(super) fn server_name() -> Result<String, String> {
    let (caller, target, domain) = (name(CALLER)?, name(CLUSTER)?, Domain::default());
    let pair = Pair {
        domain: &domain,
        caller: &caller,
        target: &target,
    };
    let minter = Minter::new(&pair, KeyId(KEY_ID), &KEY, &KEY).map_err(text)?;
    let service: ServiceName = SERVICE.parse().map_err(text)?;
    let content = Content {
        service: ServiceId::of(&service),
        port: PORT,
        expires_unix_s: EXPIRES_UNIX_S,
    };
    let target = Target::Sealed {
        cluster: target,
        endpoint: None,
        seal: minter.mint(&content).map_err(text)?,
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
        sealed_only: true,
        controllers: std::collections::BTreeMap::new(),
        round_trip_us: None,
    };
    let caller = Cluster {
        name: name(CALLER)?,
        local: false,
        ..local.clone()
    };
    snapshot.clusters.insert(cluster.clone(), Arc::new(local));
    snapshot
        .clusters
        .insert(caller.name.clone(), Arc::new(caller));
    let endpoint = Endpoint {
        id: EndpointId::new("one").map_err(text)?,
        cluster: cluster.clone(),
        region,
        zone: None,
        weight: 100,
        health: Health::Healthy,
        identity,
        address: Some(backend.to_string()),
        mesh_ips: vec![],
        hostname: None,
        labels: tradewind_api::traffic::Labels::new(),
        ports: vec![PORT],
        targets: Default::default(),
    };
    let exported = Service {
        name: service.clone(),
        kind: ServiceKind::ClusterSetIp,
        clusterset_ips: vec![],
        cluster_ips: Vec::new(),
        ports: vec![ServicePort {
            name: "tls".into(),
            port: PORT,
            app_protocol: AppProtocol::Tcp,
        }],
        exported_by: [cluster].into(),
        endpoints: vec![endpoint],
        seals: vec![],
    };
    snapshot.services.insert(service, Arc::new(exported));
    let opening = OpeningKey {
        id: KEY_ID,
        secret: KEY,
    };
    let openings = Arc::new(vec![opening]);
    snapshot.openings.insert(name(CALLER)?, openings);
    Ok(snapshot)
}

fn name(s: &str) -> Result<ClusterName, String> {
    ClusterName::new(s).map_err(text)
}

fn text(e: impl std::fmt::Debug) -> String {
    format!("{e:?}")
}
