//! A small federation for one test: a root, two authorities, a serving controller, and clients of it. Owns their tasks and
//! directories.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tonic::service::Routes;
use tradewind_api::{
    id::{ClusterName, Domain, Revision, ServiceName, SpiffeId},
    model::{AppProtocol, Cluster, ClusterState, Service, ServiceKind, ServicePort},
    snapshot::{Snapshot, Trust},
};
use tradewind_ca::{AuthorityKey, Issuer, Root};
use tradewind_controller::{
    ads::{AdsService, Proxies},
    attest::HostIdentities,
    identity_service::{IdentityConfig, IdentityService, WorkloadTokens},
    registry::{GatewayRegistryService, Registered, RegistryHub, RegistryService, Reports},
    server::{Access, ListenConfig, Listeners, Serving},
};
use tradewind_runtime::{
    clock, drain, metrics::MetricsRegistry, ready::Readiness, rng::Rng, task::TaskSet,
};
use tradewind_transport::{
    control::{Control, ControlConfig, ControllerAddr, Proof},
    keys::WorkloadKey,
    svid::{Svid, SvidCell},
    tls::{self, ClientAuth},
    trust::TrustCell,
};

pub(crate) const PAYMENTS: &str = "/ns/shop/sa/payments";
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

// Polls until `what` is true.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
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

pub(crate) fn name(s: &str) -> ClusterName {
    ClusterName::new(s).unwrap()
}

pub(crate) fn service(name: &str, port: u16) -> (ServiceName, Arc<Service>) {
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
        cluster_ips: Vec::new(),
        ports: vec![port],
        exported_by: [ClusterName::new("west").unwrap()].into(),
        endpoints: vec![],
        seals: vec![],
    };
    (name, Arc::new(service))
}

// A federation of two clusters below one root.
pub(crate) struct Federation {
    pub(crate) domain: Domain,
    pub(crate) root: Root,
    pub(crate) west: Arc<Issuer>,
    pub(crate) east: Arc<Issuer>,
}

impl Federation {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn trust(&self, members: &[&Arc<Issuer>]) -> Trust {
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

    pub(crate) fn svid(issuer: &Issuer, path: &str) -> SvidCell {
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

    pub(crate) fn snapshot(&self, revision: u64, services: &[(&str, u16)]) -> Arc<Snapshot> {
        let west = Cluster {
            name: name("west"),
            region: "us-west".parse().unwrap(),
            network: "west".parse().unwrap(),
            state: ClusterState::Active,
            gateways: vec![],
            lease_expired: false,
            sealed_only: false,
            controllers: BTreeMap::new(),
            round_trip_us: None,
            local: true,
        };
        Arc::new(Snapshot {
            revision: Revision(revision),
            services: services.iter().map(|(n, p)| service(n, *p)).collect(),
            clusters: [(west.name.clone(), Arc::new(west))].into(),
            trust: Arc::new(self.trust(&[&self.west, &self.east])),
            ..Snapshot::default()
        })
    }
}

// The controller of `west`, as far as it is tested here.
pub(crate) struct West {
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) trust: TrustCell,
    pub(crate) tokens: WorkloadTokens,
    pub(crate) registered: watch::Receiver<Arc<Registered>>,
    pub(crate) proxies: Proxies,
    pub(crate) reports: watch::Receiver<Arc<Reports>>,
    pub(crate) metrics: MetricsRegistry,
    pub(crate) trigger: drain::Trigger,
    pub(crate) _tasks: TaskSet,
}

impl West {
    pub(crate) async fn start(
        federation: &Federation,
        dir: &Path,
        snapshot: Arc<Snapshot>,
    ) -> Self {
        Self::start_as(federation, dir, (snapshot, false)).await
    }

    /// The same, where identities may be service accounts' alone.
    pub(crate) async fn start_as(
        federation: &Federation,
        dir: &Path,
        (snapshot, accounts_alone): (Arc<Snapshot>, bool),
    ) -> Self {
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
                accounts: None,
                accounts_alone,
                snapshots: snapshots.subscribe(),
                cluster: name("west"),
                region: "us-west".parse().unwrap(),
                clock: clock::system(),
            },
            &metrics,
        );
        let proxies = Proxies::default();
        let ads = AdsService::new(
            access.clone(),
            snapshots.subscribe(),
            proxies.clone(),
            &metrics,
        );
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
        let (registered, reports) = (hub.watch(), hub.reports());
        let serve_metrics = metrics.clone();
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
            proxies,
            reports,
            metrics,
            trigger,
            _tasks: tasks,
        }
    }

    // Ends it as a drain does; everything it had open is closed.
    pub(crate) async fn stop(self) {
        assert!(self.trigger.drain(DEADLINE).await, "the drain was forced");
        assert!(!self.socket.exists(), "the socket is left behind");
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        metric(&self.metrics, name)
    }
}

pub(crate) fn metric(metrics: &MetricsRegistry, name: &str) -> f64 {
    let text = metrics.encode();
    let line = text.lines().find(|l| l.starts_with(name));
    line.and_then(|l| l.rsplit(' ').next())
        .and_then(|v| v.parse().ok())
        .unwrap_or(0.0)
}

// A client process.
pub(crate) struct Client {
    pub(crate) control: Control,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: MetricsRegistry,
    pub(crate) _tasks: TaskSet,
}

impl Client {
    pub(crate) async fn start(
        controller: ControllerAddr,
        token: Option<String>,
        state_dir: Option<&Path>,
    ) -> Self {
        let config = ControlConfig {
            controller,
            role: "proxy",
            node_name: "p-1".into(),
            identity_path: Some(PAYMENTS.into()),
            proof: token.map_or(Proof::None, Proof::Token),
            zone: None,
            state_dir: state_dir.map(Path::to_owned),
            mark: None,
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

    pub(crate) fn services(&self) -> BTreeMap<String, u16> {
        let snapshot = self.control.snapshot.borrow();
        snapshot
            .services
            .values()
            .map(|s| (s.name.to_string(), s.ports[0].port))
            .collect()
    }

    pub(crate) fn connected(&self) -> bool {
        self.control.status.borrow().connected
    }
}

pub(crate) fn services(of: &[(&str, u16)]) -> BTreeMap<String, u16> {
    of.iter().map(|(n, p)| ((*n).to_owned(), *p)).collect()
}
