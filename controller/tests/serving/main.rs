//! A controller's listeners and services against the real client, over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests may panic as tests do"
)]

mod openings;
mod registration;
mod world;

use std::{net::SocketAddr, sync::Arc};

use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};
use tradewind_api::{
    id::Revision,
    model::Health,
    proto::{
        SERVICE_TYPE,
        discovery::{
            DeltaDiscoveryRequest,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
        v1::{
            self, GatewayHello, PeerReach, RegisterRequest, Registration, SignRequest,
            gateway_registry_client::GatewayRegistryClient, identity_client::IdentityClient,
            registry_client::RegistryClient,
        },
    },
};
use tradewind_controller::server::{ListenConfig, ListenError, Listeners};
use tradewind_runtime::{
    clock, metrics::MetricsRegistry, ready::Readiness, rng::Rng, task::TaskSet,
};
use tradewind_transport::{
    control::{Control, ControlConfig, ControllerAddr, Proof},
    keys::WorkloadKey,
    svid::SvidCell,
    tls::{self, Expect},
    trust::TrustCell,
};

use world::*;

#[tokio::test]
async fn over_the_unix_socket_a_proxy_is_signed_and_follows_every_change() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(
        &federation,
        dir.path(),
        federation.snapshot(1, &[("shop/a", 1), ("shop/b", 2)]),
    )
    .await;
    let client = Client::start(ControllerAddr::Unix(west.socket.clone()), None, None).await;
    tokio::time::timeout(DEADLINE, client.readiness.wait_ready())
        .await
        .unwrap();
    let svid = client.control.svid.current().unwrap();
    assert_eq!(
        svid.id.as_str(),
        "spiffe://west.mesh.internal/ns/shop/sa/payments"
    );
    assert_eq!(client.control.cluster().unwrap().as_str(), "west");
    assert_eq!(client.control.region().unwrap().as_str(), "us-west");
    assert_eq!(client.services(), services(&[("shop/a", 1), ("shop/b", 2)]));
    assert!(!client.control.trust.load().is_empty());

    west.snapshots
        .send_replace(federation.snapshot(2, &[("shop/a", 10), ("shop/c", 3)]));
    eventually("change, addition and removal arrive", || {
        client.services() == services(&[("shop/a", 10), ("shop/c", 3)])
    })
    .await;
    let status = client.control.status.borrow().clone();
    assert_eq!(
        (status.revision, status.connected, status.from_disk),
        (Revision(2), true, false)
    );
    west.stop().await;
    eventually("the loss is seen", || !client.connected()).await;
    assert_eq!(
        client.services(),
        services(&[("shop/a", 10), ("shop/c", 3)]),
        "the last good snapshot stays"
    );
}

#[tokio::test]
async fn a_reconnect_tells_versions_and_is_sent_nothing_again() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let snapshot = federation.snapshot(5, &[("shop/a", 1), ("shop/b", 2)]);
    let west = West::start(&federation, dir.path(), Arc::clone(&snapshot)).await;
    let client = Client::start(ControllerAddr::Unix(west.socket.clone()), None, None).await;
    eventually("in sync", || client.connected()).await;
    assert!(west.metric("tradewind_ads_resources_total") >= 4.0);
    west.stop().await;
    eventually("the loss is seen", || !client.connected()).await;
    // Another process, with the same state compiled anew: no Arc in common.
    let again = federation.snapshot(6, &[("shop/a", 1), ("shop/b", 2)]);
    let west = West::start(&federation, dir.path(), again).await;
    eventually("in sync again", || client.connected()).await;
    assert_eq!(
        west.metric("tradewind_ads_resources_total"),
        0.0,
        "everything was held already"
    );
    west.snapshots
        .send_replace(federation.snapshot(7, &[("shop/b", 2)]));
    eventually("the removal arrives", || {
        client.services() == services(&[("shop/b", 2)])
    })
    .await;
    assert_eq!(west.metric("tradewind_ads_resources_total"), 0.0);
}

#[tokio::test]
async fn with_no_controller_the_snapshot_comes_from_disk_and_a_damaged_one_is_ignored() {
    let federation = Federation::new();
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let west = West::start(
        &federation,
        dir.path(),
        federation.snapshot(3, &[("shop/a", 1)]),
    )
    .await;
    let controller = ControllerAddr::Unix(west.socket.clone());
    let client = Client::start(controller.clone(), None, Some(state.path())).await;
    let file = state.path().join("snapshot.json");
    eventually("the snapshot is on disk", || file.exists()).await;
    drop(client);
    west.stop().await;

    let client = Client::start(controller.clone(), None, Some(state.path())).await;
    assert_eq!(
        client.services(),
        services(&[("shop/a", 1)]),
        "there at once"
    );
    let status = client.control.status.borrow().clone();
    assert_eq!(
        (status.revision, status.connected, status.from_disk),
        (Revision(3), false, true)
    );
    assert!(
        !client.control.trust.load().is_empty(),
        "peers can be verified"
    );
    assert!(!client.readiness.pending().contains(&"snapshot".to_owned()));
    drop(client);

    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let client = Client::start(controller, None, Some(state.path())).await;
    assert!(client.services().is_empty());
    assert_eq!(
        metric(&client.metrics, "tradewind_control_cache_errors_total"),
        1.0
    );
    assert!(client.readiness.pending().contains(&"snapshot".to_owned()));
}

#[tokio::test]
async fn a_process_that_starts_alone_still_has_its_identity() {
    let federation = Federation::new();
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let west = West::start(
        &federation,
        dir.path(),
        federation.snapshot(3, &[("shop/a", 1)]),
    )
    .await;
    let controller = ControllerAddr::Unix(west.socket.clone());
    let client = Client::start(controller.clone(), None, Some(state.path())).await;
    let sealed = state.path().join("identity.sealed");
    let off = "tradewind_control_identity_cache_off";
    eventually("sealed, or given up where there is no keyring", || {
        sealed.exists() || metric(&client.metrics, off) > 0.0
    })
    .await;
    let keyring = sealed.exists();
    let first = client.control.svid.current().unwrap();
    drop(client);
    west.stop().await;
    let client = Client::start(controller, None, Some(state.path())).await;
    let again = client
        .control
        .svid
        .current()
        .map(|svid| svid.certified.cert.clone());
    assert_eq!(again, keyring.then(|| first.certified.cert.clone()));
    if keyring {
        assert_eq!(client.control.cluster().unwrap().as_str(), "west");
        assert_eq!(
            std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&sealed).unwrap()) & 0o777,
            0o600
        );
    }
}

#[tokio::test]
async fn a_token_is_good_for_one_process_over_tls() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(
        &federation,
        dir.path(),
        federation.snapshot(1, &[("shop/a", 1)]),
    )
    .await;
    let (token, _) = west
        .tokens
        .create(PAYMENTS, 900, clock::system().unix_ms())
        .unwrap();
    let controller = ControllerAddr::Tcp(west.address.to_string());
    let client = Client::start(controller.clone(), Some(token.to_string()), None).await;
    tokio::time::timeout(DEADLINE, client.readiness.wait_ready())
        .await
        .unwrap();
    assert_eq!(
        client.services(),
        services(&[("shop/a", 1)]),
        "discovery goes over mTLS with the new certificate"
    );
    let second = Client::start(controller, Some(token.to_string()), None).await;
    eventually("the second bearer is refused", || {
        metric(&second.metrics, "tradewind_control_sign_failures_total") >= 1.0
    })
    .await;
    assert!(second.control.svid.current().is_none());
    assert_eq!(west.tokens.list(clock::system().unix_ms())[0].state, "used");
}

#[tokio::test]
async fn a_token_is_not_sent_to_a_controller_of_another_root() {
    let (federation, other) = (Federation::new(), Federation::new());
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let west = West::start(&federation, dir.path(), federation.snapshot(1, &[])).await;
    let fake = West::start(&other, other_dir.path(), other.snapshot(1, &[])).await;
    let (token, _) = west
        .tokens
        .create(PAYMENTS, 900, clock::system().unix_ms())
        .unwrap();
    let client = Client::start(
        ControllerAddr::Tcp(fake.address.to_string()),
        Some(token.to_string()),
        None,
    )
    .await;
    eventually("the dial fails", || {
        metric(&client.metrics, "tradewind_control_sign_failures_total") >= 2.0
    })
    .await;
    assert_eq!(
        fake.metric("tradewind_identity_refused_total"),
        0.0,
        "it was never asked"
    );
}

// A channel to west's TLS listener with the certificate in `svid`, or without one.
async fn dial(
    west: &West,
    federation: &Federation,
    svid: Option<SvidCell>,
) -> Result<Channel, tonic::transport::Error> {
    let trust = TrustCell::new(&federation.trust(&[&federation.west])).unwrap();
    let expect = Expect::ControllerOf(federation.west.trust_domain().clone());
    let config = match svid {
        Some(svid) => tls::client_config(&svid, &trust, expect),
        None => tls::anonymous_client_config(&trust, expect),
    };
    let address = west.address;
    let connector = tower_connector(address, config);
    tonic::transport::Endpoint::from_static("http://west")
        .connect_with_connector(connector)
        .await
}

fn tower_connector(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> impl tower::Service<
    http::Uri,
    Response = hyper_util::rt::TokioIo<tokio_rustls::client::TlsStream<TcpStream>>,
    Error = std::io::Error,
    Future: Send,
> + Send
+ 'static {
    tower::service_fn(move |_: http::Uri| {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = rustls_pki_types::ServerName::try_from("controller.west").unwrap();
            Ok(hyper_util::rt::TokioIo::new(
                connector.connect(name, stream).await?,
            ))
        }
    })
}

async fn discover(channel: Channel) -> Result<usize, Code> {
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let request = DeltaDiscoveryRequest {
        type_url: SERVICE_TYPE.into(),
        resource_names_subscribe: vec!["*".into()],
        ..Default::default()
    };
    tx.send(request).await.unwrap();
    let mut stream = AggregatedDiscoveryServiceClient::new(channel)
        .delta_aggregated_resources(ReceiverStream::new(rx))
        .await
        .map_err(|s| s.code())?
        .into_inner();
    Ok(stream
        .message()
        .await
        .map_err(|s| s.code())?
        .unwrap()
        .resources
        .len())
}

async fn sign(channel: Channel, path: &str) -> Result<(), Code> {
    let csr_der = WorkloadKey::generate().unwrap().csr_der().unwrap();
    let request = SignRequest {
        csr_der,
        path: path.into(),
        ..SignRequest::default()
    };
    IdentityClient::new(channel)
        .sign(request)
        .await
        .map(|_| ())
        .map_err(|s| s.code())
}

#[tokio::test]
async fn callers_get_what_their_certificate_gives_them_and_no_more() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(
        &federation,
        dir.path(),
        federation.snapshot(1, &[("shop/a", 1)]),
    )
    .await;
    let own = dial(
        &west,
        &federation,
        Some(Federation::svid(&federation.west, PAYMENTS)),
    )
    .await
    .unwrap();
    assert_eq!(discover(own.clone()).await, Ok(1));
    assert_eq!(
        sign(own.clone(), PAYMENTS).await,
        Ok(()),
        "its own identity is renewed"
    );
    for path in [
        "/ns/shop/sa/other",
        "/tradewind/controller/west-1",
        "/tradewind/operator/me",
    ] {
        assert_eq!(
            sign(own.clone(), path).await,
            Err(Code::PermissionDenied),
            "{path}"
        );
    }
    assert_eq!(sign(own, "nonsense").await, Err(Code::InvalidArgument));
    let foreign = dial(
        &west,
        &federation,
        Some(Federation::svid(&federation.east, PAYMENTS)),
    )
    .await
    .unwrap();
    assert_eq!(discover(foreign.clone()).await, Err(Code::PermissionDenied));
    assert_eq!(sign(foreign, PAYMENTS).await, Err(Code::PermissionDenied));
    let anonymous = dial(&west, &federation, None).await.unwrap();
    assert_eq!(
        discover(anonymous.clone()).await,
        Err(Code::Unauthenticated)
    );
    assert_eq!(sign(anonymous, PAYMENTS).await, Err(Code::Unauthenticated));
    // A certificate of another root does not pass the handshake.
    let stranger = Federation::new();
    let outcome = dial(
        &west,
        &federation,
        Some(Federation::svid(&stranger.west, PAYMENTS)),
    )
    .await;
    let refused = match outcome {
        Ok(channel) => discover(channel).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    eventually("it is counted", || {
        west.metric("tradewind_controller_connections_dropped_total{reason=\"Garbage\"}") >= 1.0
    })
    .await;
}

/// Whoever took a certificate out of a process has it for its day, and not for ever.
#[tokio::test]
async fn where_identities_are_service_accounts_a_certificate_does_not_renew_itself() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let snapshot = federation.snapshot(1, &[("shop/a", 1)]);
    let west = West::start_as(&federation, dir.path(), (snapshot, true)).await;
    for path in [PAYMENTS, "/tradewind/gateway/gw-1", "/tradewind/dns/dns-1"] {
        let svid = Federation::svid(&federation.west, path);
        let own = dial(&west, &federation, Some(svid)).await.unwrap();
        assert_eq!(sign(own, path).await, Err(Code::Unauthenticated), "{path}");
    }
}

#[tokio::test]
async fn a_revoked_cluster_is_cut_while_it_is_connected() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(
        &federation,
        dir.path(),
        federation.snapshot(1, &[("shop/a", 1)]),
    )
    .await;
    // Its own trust domain, so that its stream is open; revoking it is what a rotation in a hurry does.
    let channel = dial(
        &west,
        &federation,
        Some(Federation::svid(&federation.west, PAYMENTS)),
    )
    .await
    .unwrap();
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let request = DeltaDiscoveryRequest {
        type_url: SERVICE_TYPE.into(),
        resource_names_subscribe: vec!["*".into()],
        ..Default::default()
    };
    tx.send(request).await.unwrap();
    let mut stream = AggregatedDiscoveryServiceClient::new(channel)
        .delta_aggregated_resources(ReceiverStream::new(rx))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    west.trust
        .set(&federation.trust(&[&federation.east]))
        .unwrap();
    let ended = tokio::time::timeout(DEADLINE, stream.message())
        .await
        .unwrap();
    assert!(ended.is_err(), "the stream was cut");
}

#[tokio::test]
async fn garbage_is_dropped_and_counted_and_serving_goes_on() {
    let federation = Federation::new();
    let dir = tempfile::tempdir().unwrap();
    let west = West::start(&federation, dir.path(), federation.snapshot(1, &[])).await;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(west.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    }
    drop(TcpStream::connect(west.address).await.unwrap());
    eventually("all are counted", || {
        west.metric("tradewind_controller_connections_dropped_total{reason=\"Garbage\"}") >= 4.0
    })
    .await;
    let mut unix = tokio::net::UnixStream::connect(&west.socket).await.unwrap();
    unix.write_all(&[0xff; 4096]).await.unwrap();
    let client = Client::start(ControllerAddr::Unix(west.socket.clone()), None, None).await;
    tokio::time::timeout(DEADLINE, client.readiness.wait_ready())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_socket_left_by_a_crash_is_taken_over_and_one_in_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("controller.sock");
    let config = ListenConfig {
        tcp: "127.0.0.1:0".parse().unwrap(),
        socket: Some(socket.clone()),
        socket_mode: 0o600,
    };
    let first = Listeners::bind(&config).await.unwrap();
    assert!(matches!(
        Listeners::bind(&config).await,
        Err(ListenError::SocketInUse(_))
    ));
    drop(first);
    assert!(socket.exists(), "as a crash leaves it");
    let second = Listeners::bind(&config).await.unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&socket).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    drop(second);
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    assert!(matches!(
        Listeners::bind(&config).await,
        Err(ListenError::Socket { .. })
    ));
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

#[tokio::test]
async fn what_a_control_client_cannot_work_with_is_said_at_once() {
    let start = async |config: ControlConfig| {
        let (metrics, readiness, mut tasks) =
            (MetricsRegistry::new(), Readiness::new(), TaskSet::new());
        Control::start(
            config,
            clock::system(),
            Rng::seeded(1),
            &metrics,
            &readiness,
            &mut tasks,
        )
        .await
        .unwrap_err()
        .to_string()
    };
    let config = ControlConfig {
        controller: ControllerAddr::Tcp("127.0.0.1:1".into()),
        role: "proxy",
        node_name: "p".into(),
        identity_path: Some(PAYMENTS.into()),
        proof: Proof::None,
        zone: None,
        state_dir: None,
        mark: None,
    };
    assert!(start(config.clone()).await.contains("a token is missing"));
    let no_identity = ControlConfig {
        identity_path: None,
        ..config.clone()
    };
    assert!(start(no_identity).await.contains("an identity is missing"));
    let bad_token = ControlConfig {
        proof: Proof::Token("tww1.zzz".into()),
        ..config.clone()
    };
    assert!(start(bad_token).await.contains("token"));
    let bad_path = ControlConfig {
        identity_path: Some("ns/shop".into()),
        ..config.clone()
    };
    assert!(start(bad_path).await.contains("identity path"));
    let unix = ControlConfig {
        controller: ControllerAddr::Unix("/nowhere".into()),
        state_dir: Some("/proc/nowhere".into()),
        ..config
    };
    assert!(start(unix).await.contains("state directory"));
}
