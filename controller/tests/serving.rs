//! A controller's listeners and services against the real client, over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests may panic as tests do"
)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, service::Routes, transport::Channel};
use tradewind_api::{
    id::{ClusterName, Domain, Revision, ServiceName, SpiffeId},
    model::{AppProtocol, Cluster, ClusterState, Health, Service, ServiceKind, ServicePort},
    proto::{
        SERVICE_TYPE,
        discovery::{
            DeltaDiscoveryRequest,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
        v1::{
            self, GatewayHello, RegisterRequest, Registration, SignRequest,
            gateway_registry_client::GatewayRegistryClient, identity_client::IdentityClient,
            registry_client::RegistryClient,
        },
    },
    snapshot::{Snapshot, Trust},
};
use tradewind_ca::{AuthorityKey, Issuer, Root};
use tradewind_controller::{
    ads::AdsService,
    attest::HostIdentities,
    identity_service::{IdentityConfig, IdentityService, WorkloadTokens},
    registry::{GatewayRegistryService, Registered, RegistryHub, RegistryService},
    server::{Access, ListenConfig, ListenError, Listeners, Serving},
};
use tradewind_runtime::{
    clock, drain, metrics::MetricsRegistry, ready::Readiness, rng::Rng, task::TaskSet,
};
use tradewind_transport::{
    control::{Control, ControlConfig, ControllerAddr},
    keys::WorkloadKey,
    svid::{Svid, SvidCell},
    tls::{self, ClientAuth, Expect},
    trust::TrustCell,
};

const PAYMENTS: &str = "/ns/shop/sa/payments";
const DEADLINE: Duration = Duration::from_secs(20);

// Polls until `what` is true.
async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let poll = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, poll).await.is_ok(),
        "never: {what}"
    );
}

fn name(s: &str) -> ClusterName {
    ClusterName::new(s).unwrap()
}

fn service(name: &str, port: u16) -> (ServiceName, Arc<Service>) {
    let name: ServiceName = name.parse().unwrap();
    let port = ServicePort {
        name: "http".into(),
        port,
        app_protocol: AppProtocol::Http1,
    };
    let service = Service {
        name: name.clone(),
        kind: ServiceKind::ClusterSetIp,
        clusterset_ips: vec![],
        ports: vec![port],
        exported_by: [ClusterName::new("west").unwrap()].into(),
        endpoints: vec![],
    };
    (name, Arc::new(service))
}

// A federation of two clusters below one root.
struct Federation {
    domain: Domain,
    root: Root,
    west: Arc<Issuer>,
    east: Arc<Issuer>,
}

impl Federation {
    fn new() -> Self {
        let domain = Domain::default();
        let now = clock::system().unix_ms();
        let root = Root::generate(&domain, now).unwrap();
        let issuer = |cluster: &str| {
            let key = AuthorityKey::generate(&name(cluster), &domain).unwrap();
            let csr = key.csr_der().unwrap();
            let der = root
                .sign_authority(&csr, &name(cluster), &domain, now)
                .unwrap();
            Arc::new(Issuer::new(key, der, root.cert_der().to_vec()).unwrap())
        };
        let (west, east) = (issuer("west"), issuer("east"));
        Self {
            domain,
            root,
            west,
            east,
        }
    }

    fn trust(&self, members: &[&Arc<Issuer>]) -> Trust {
        Trust {
            domain: self.domain.clone(),
            roots: [self.root.cert_der().to_vec()].into(),
            authorities: members
                .iter()
                .map(|i| {
                    (
                        i.trust_domain().clone(),
                        [i.authority_der().to_vec()].into(),
                    )
                })
                .collect(),
        }
    }

    fn svid(issuer: &Issuer, path: &str) -> SvidCell {
        let key = WorkloadKey::generate().unwrap();
        let id = SpiffeId::from_path(issuer.trust_domain(), path).unwrap();
        let now = clock::system().unix_ms();
        let issued = issuer
            .issue(&key.csr_der().unwrap(), &id, now, 3600)
            .unwrap();
        let cell = SvidCell::empty();
        cell.set(Svid::new(&key, &issued.chain_der).unwrap());
        cell
    }

    fn snapshot(&self, revision: u64, services: &[(&str, u16)]) -> Arc<Snapshot> {
        let west = Cluster {
            name: name("west"),
            region: "us-west".parse().unwrap(),
            network: "west".parse().unwrap(),
            state: ClusterState::Active,
            gateways: vec![],
            lease_expired: false,
            local: true,
        };
        Arc::new(Snapshot {
            revision: Revision(revision),
            services: services.iter().map(|(n, p)| service(n, *p)).collect(),
            clusters: [(west.name.clone(), Arc::new(west))].into(),
            trust: Arc::new(self.trust(&[&self.west, &self.east])),
        })
    }
}

// The controller of `west`, as far as it is tested here.
struct West {
    address: SocketAddr,
    socket: PathBuf,
    snapshots: watch::Sender<Arc<Snapshot>>,
    trust: TrustCell,
    tokens: WorkloadTokens,
    registered: watch::Receiver<Arc<Registered>>,
    metrics: MetricsRegistry,
    trigger: drain::Trigger,
    _tasks: TaskSet,
}

impl West {
    async fn start(federation: &Federation, dir: &Path, snapshot: Arc<Snapshot>) -> Self {
        let trust =
            TrustCell::new(&federation.trust(&[&federation.west, &federation.east])).unwrap();
        let svid = Federation::svid(&federation.west, "/tradewind/controller/west-1");
        let metrics = MetricsRegistry::new();
        let snapshots = watch::Sender::new(snapshot);
        let hosts = Arc::new(HostIdentities::default());
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir).unwrap());
        let access = Access::new(&name("west"), &federation.domain, trust.clone(), hosts, uid);
        let tokens = WorkloadTokens::open(
            dir,
            name("west"),
            federation.domain.clone(),
            federation.root.sha256(),
        )
        .unwrap();
        let hub = RegistryHub::open(dir, name("west"), clock::system(), &metrics).unwrap();
        let identity = IdentityService::new(
            IdentityConfig {
                issuer: Arc::clone(&federation.west),
                access: access.clone(),
                tokens: tokens.clone(),
                snapshots: snapshots.subscribe(),
                cluster: name("west"),
                region: "us-west".parse().unwrap(),
                clock: clock::system(),
            },
            &metrics,
        );
        let ads = AdsService::new(access.clone(), snapshots.subscribe(), &metrics);
        let routes = Routes::new(ads.into_service())
            .add_service(identity.into_service())
            .add_service(RegistryService::new(hub.clone(), access.clone()).into_service())
            .add_service(GatewayRegistryService::new(hub.clone(), access).into_service());
        let mut tasks = TaskSet::new();
        hub.start(&mut tasks);
        let socket = dir.join("controller.sock");
        let listeners = Listeners::bind(&ListenConfig {
            tcp: "127.0.0.1:0".parse().unwrap(),
            socket: Some(socket.clone()),
            socket_mode: 0o600,
        })
        .await
        .unwrap();
        let address = listeners.local_addr().unwrap();
        let serving = Serving {
            tls: tls::server_config(&svid, &trust, ClientAuth::Optional),
            trust: trust.clone(),
            clock: clock::system(),
        };
        let (trigger, watch) = drain::channel();
        let (registered, serve_metrics) = (hub.watch(), metrics.clone());
        tasks.spawn("serve", async move {
            listeners
                .serve(routes, serving, &serve_metrics, watch)
                .await;
        });
        Self {
            address,
            socket,
            snapshots,
            trust,
            tokens,
            registered,
            metrics,
            trigger,
            _tasks: tasks,
        }
    }

    // Ends it as a drain does; everything it had open is closed.
    async fn stop(self) {
        assert!(self.trigger.drain(DEADLINE).await, "the drain was forced");
        assert!(!self.socket.exists(), "the socket is left behind");
    }

    fn metric(&self, name: &str) -> f64 {
        metric(&self.metrics, name)
    }
}

fn metric(metrics: &MetricsRegistry, name: &str) -> f64 {
    let text = metrics.encode();
    let line = text.lines().find(|l| l.starts_with(name));
    line.and_then(|l| l.rsplit(' ').next())
        .and_then(|v| v.parse().ok())
        .unwrap_or(0.0)
}

// A client process.
struct Client {
    control: Control,
    readiness: Readiness,
    metrics: MetricsRegistry,
    _tasks: TaskSet,
}

impl Client {
    async fn start(
        controller: ControllerAddr,
        token: Option<String>,
        state_dir: Option<&Path>,
    ) -> Self {
        let config = ControlConfig {
            controller,
            role: "proxy",
            node_name: "p-1".into(),
            identity_path: Some(PAYMENTS.into()),
            token,
            zone: None,
            state_dir: state_dir.map(Path::to_owned),
        };
        let (readiness, metrics, mut tasks) =
            (Readiness::new(), MetricsRegistry::new(), TaskSet::new());
        let control = Control::start(
            config,
            clock::system(),
            Rng::from_entropy(),
            &metrics,
            &readiness,
            &mut tasks,
        )
        .await
        .unwrap();
        Self {
            control,
            readiness,
            metrics,
            _tasks: tasks,
        }
    }

    fn services(&self) -> BTreeMap<String, u16> {
        let snapshot = self.control.snapshot.borrow();
        snapshot
            .services
            .values()
            .map(|s| (s.name.to_string(), s.ports[0].port))
            .collect()
    }

    fn connected(&self) -> bool {
        self.control.status.borrow().connected
    }
}

fn services(of: &[(&str, u16)]) -> BTreeMap<String, u16> {
    of.iter().map(|(n, p)| ((*n).to_owned(), *p)).collect()
}

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
        token: String::new(),
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
        token: None,
        zone: None,
        state_dir: None,
    };
    assert!(start(config.clone()).await.contains("a token is missing"));
    let no_identity = ControlConfig {
        identity_path: None,
        ..config.clone()
    };
    assert!(start(no_identity).await.contains("an identity is missing"));
    let bad_token = ControlConfig {
        token: Some("tww1.zzz".into()),
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
