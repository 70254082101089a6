//! Registrations and gateways over real sockets: who may register what, and what becomes of it when a stream breaks.

use super::*;

fn registration(address: &str) -> Registration {
    Registration {
        service: "shop/payments".into(),
        port: 80,
        hbone_address: address.into(),
        health: v1::Health::Healthy.into(),
        ..Default::default()
    }
}

fn register(proxy: &str, identity: &str) -> RegisterRequest {
    RegisterRequest {
        proxy: proxy.into(),
        identity: identity.into(),
        registrations: vec![registration("127.1.0.11:15008")],
        leaving: false,
        ..Default::default()
    }
}

const IDENTITY: &str = "spiffe://west.mesh.internal/ns/shop/sa/payments";

#[tokio::test]
async fn a_broken_registration_turns_unknown_and_a_leaving_one_goes() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(&federation, dir.path(), federation.snapshot(1, &[])).await;
    let client = Client::start(ControllerAddr::Unix(west.socket.clone()), None, None).await;
    let open = async || {
        let (tx, rx) = tokio::sync::mpsc::channel(4);
        tx.send(register("p-1", IDENTITY)).await.unwrap();
        let mut stream = RegistryClient::new(client.control.channel())
            .register(ReceiverStream::new(rx))
            .await
            .unwrap()
            .into_inner();
        let ids = stream.message().await.unwrap().unwrap().endpoint_ids;
        assert_eq!(ids.len(), 1);
        (tx, stream)
    };
    let health = || {
        west.registered
            .borrow()
            .workloads
            .values()
            .map(|e| (e.health, e.connected))
            .collect::<Vec<_>>()
    };
    let (tx, stream) = open().await;
    eventually("registered", || health() == [(Health::Healthy, true)]).await;
    drop((tx, stream));
    eventually("disconnected, and still counted", || {
        health() == [(Health::Healthy, false)]
    })
    .await;
    eventually("unknown after the grace", || {
        health() == [(Health::Unknown, false)]
    })
    .await;
    let (tx, mut stream) = open().await;
    eventually("back", || health() == [(Health::Healthy, true)]).await;
    tx.send(RegisterRequest {
        leaving: true,
        ..register("p-1", IDENTITY)
    })
    .await
    .unwrap();
    stream.message().await.unwrap();
    eventually("gone", || health().is_empty()).await;
}

#[tokio::test]
async fn registrations_and_gateways_need_the_identity_they_claim() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(&federation, dir.path(), federation.snapshot(1, &[])).await;
    let channel = dial(
        &west,
        &federation,
        Some(Federation::svid(&federation.west, PAYMENTS)),
    )
    .await
    .unwrap();
    let ask = async |request: RegisterRequest| {
        let mut stream = RegistryClient::new(channel.clone())
            .register(futures::stream::iter([request]))
            .await
            .map_err(|s| s.code())?
            .into_inner();
        stream.message().await.map(|_| ()).map_err(|s| s.code())
    };
    assert_eq!(ask(register("p", IDENTITY)).await, Ok(()));
    let other = "spiffe://west.mesh.internal/ns/shop/sa/other";
    assert_eq!(ask(register("p", other)).await, Err(Code::PermissionDenied));
    let foreign = "spiffe://east.mesh.internal/ns/shop/sa/payments";
    assert_eq!(
        ask(register("p", foreign)).await,
        Err(Code::PermissionDenied)
    );
    let mut elsewhere = register("p", IDENTITY);
    elsewhere.registrations[0].service = "bank/payments".into();
    assert_eq!(ask(elsewhere).await, Err(Code::PermissionDenied));
    let hello = GatewayHello {
        name: "gw-1".into(),
        advertised_address: "127.1.0.1:15443".into(),
        draining: false,
        peers: Vec::new(),
    };
    let announce = async |channel: Channel| {
        let hellos = futures::stream::iter([hello.clone()]);
        let mut stream = GatewayRegistryClient::new(channel)
            .announce(hellos)
            .await
            .map_err(|s| s.code())?
            .into_inner();
        stream.message().await.map(|_| ()).map_err(|s| s.code())
    };
    assert_eq!(announce(channel.clone()).await, Err(Code::PermissionDenied));
    let gateway = Federation::svid(&federation.west, "/tradewind/gateway/gw-1");
    assert_eq!(
        announce(dial(&west, &federation, Some(gateway)).await.unwrap()).await,
        Ok(())
    );
    eventually("the gateway is known", || {
        west.registered.borrow().gateways.contains_key("gw-1")
    })
    .await;
}

#[tokio::test]
async fn what_a_gateway_finds_is_kept_while_it_says_so_and_wakes_nobody_else() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(&federation, dir.path(), federation.snapshot(1, &[])).await;
    let gateway = Federation::svid(&federation.west, "/tradewind/gateway/gw-1");
    let channel = dial(&west, &federation, Some(gateway)).await.unwrap();
    let hello = |round_trip_us| GatewayHello {
        name: "gw-1".into(),
        advertised_address: "127.1.0.1:15443".into(),
        draining: false,
        peers: vec![PeerReach {
            cluster: "east".into(),
            reachable: Some(true),
            round_trip_us: Some(round_trip_us),
            ..PeerReach::default()
        }],
    };
    let east = name("east");
    let seen = || {
        let now_ms = clock::system().unix_ms();
        let all = west.reports.borrow().together(&east, now_ms);
        (all.reaching, all.round_trip_us)
    };
    let (tx, rx) = tokio::sync::mpsc::channel(4);
    tx.send(hello(9_000)).await.unwrap();
    let mut stream = GatewayRegistryClient::new(channel)
        .announce(ReceiverStream::new(rx))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    assert_eq!(seen(), (1, Some(9_000)));
    let mut registered = west.registered.clone();
    eventually("the gateway is known", || {
        registered.borrow_and_update().gateways.contains_key("gw-1")
    })
    .await;
    tx.send(hello(14_000)).await.unwrap();
    stream.message().await.unwrap();
    assert_eq!(seen(), (1, Some(14_000)));
    assert!(!registered.has_changed().unwrap(), "a sign of life alone");
    drop((tx, stream));
    eventually("its word ends with its stream", || seen() == (0, None)).await;
    assert!(west.registered.borrow().gateways.contains_key("gw-1"));
}

#[tokio::test]
async fn registrations_survive_a_restart_of_the_controller() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(&federation, dir.path(), federation.snapshot(1, &[])).await;
    let channel = dial(
        &west,
        &federation,
        Some(Federation::svid(&federation.west, PAYMENTS)),
    )
    .await
    .unwrap();
    let (tx, rx) = tokio::sync::mpsc::channel(4);
    tx.send(register("p-1", IDENTITY)).await.unwrap();
    let mut stream = RegistryClient::new(channel)
        .register(ReceiverStream::new(rx))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    let file = dir.path().join("registrations.json");
    eventually("saved", || {
        std::fs::read(&file).is_ok_and(|f| String::from_utf8_lossy(&f).contains("p-1"))
    })
    .await;
    west.stop().await;
    let west = West::start(&federation, dir.path(), federation.snapshot(1, &[])).await;
    let known: Vec<_> = west
        .registered
        .borrow()
        .workloads
        .values()
        .map(|e| (e.proxy.clone(), e.health, e.connected))
        .collect();
    assert_eq!(
        known,
        [("p-1".to_owned(), Health::Healthy, false)],
        "there, with time to come back"
    );
}
