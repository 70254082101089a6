//! What opens sealed names over real sockets: this cluster's gateway gets it, and nobody else does, whatever he calls himself.

use tradewind_api::{
    proto::{OPENINGS_TYPE, discovery::Node},
    seal::OpeningKey,
    snapshot::Snapshot,
};

use super::*;

const GATEWAY: &str = "/tradewind/gateway/gw-1";

/// Asks for openings under a name: how many callers there are, or the refusal.
async fn openings(channel: Channel, node: &str) -> Result<usize, Code> {
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            id: node.into(),
            user_agent_name: "gateway".into(),
            ..Node::default()
        }),
        type_url: OPENINGS_TYPE.into(),
        resource_names_subscribe: vec!["*".into()],
        ..Default::default()
    };
    tx.send(request).await.unwrap();
    let mut stream = AggregatedDiscoveryServiceClient::new(channel)
        .delta_aggregated_resources(ReceiverStream::new(rx))
        .await
        .map_err(|s| s.code())?
        .into_inner();
    let answer = stream.message().await.map_err(|s| s.code())?;
    Ok(answer.unwrap().resources.len())
}

#[tokio::test]
async fn what_opens_names_goes_to_this_clusters_gateway_alone() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let mut snapshot = Snapshot::clone(&federation.snapshot(1, &[("shop/a", 1)]));
    let key = OpeningKey {
        id: 1,
        secret: [7; 32],
    };
    snapshot.openings = [(name("east"), Arc::new(vec![key]))].into();
    let west = West::start(&federation, dir.path(), Arc::new(snapshot)).await;
    let as_whom = async |issuer: &Arc<tradewind_ca::Issuer>, path: &str| {
        let svid = Federation::svid(issuer, path);
        dial(&west, &federation, Some(svid)).await.unwrap()
    };
    let gateway = as_whom(&federation.west, GATEWAY).await;
    assert_eq!(openings(gateway.clone(), "gw-1").await, Ok(1));
    let denied = Err(Code::PermissionDenied);
    assert_eq!(
        openings(gateway, "gw-2").await,
        denied,
        "another gateway's name"
    );
    let workload = as_whom(&federation.west, PAYMENTS).await;
    assert_eq!(openings(workload, "gw-1").await, denied);
    let foreign = as_whom(&federation.east, GATEWAY).await;
    assert_eq!(openings(foreign, "gw-1").await, denied);
    // Who runs the controller may be its gateway; and a proxy never asks.
    let socket = ControllerAddr::Unix(west.socket.clone());
    let client = Client::start(socket, None, None).await;
    eventually("in sync", || client.connected()).await;
    assert!(client.control.snapshot.borrow().openings.is_empty());
    assert_eq!(openings(client.control.channel(), "gw-1").await, Ok(1));
}

#[tokio::test]
async fn proxies_are_counted_while_they_are_connected_and_gateways_are_not_among_them() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(&federation, dir.path(), federation.snapshot(1, &[])).await;
    let socket = ControllerAddr::Unix(west.socket.clone());
    let client = Client::start(socket.clone(), None, None).await;
    let second = Client::start(socket, None, None).await;
    eventually("both are there", || west.proxies.connected() == 2).await;
    assert_eq!(openings(client.control.channel(), "gw-1").await, Ok(0));
    assert_eq!(west.proxies.connected(), 2);
    drop(second);
    eventually("one went", || west.proxies.connected() == 1).await;
}
