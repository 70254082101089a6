//! A federation on loopback for outbound's tests: authorities, certificates, a snapshot that tests change, one proxy.

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, task::LocalSet, time::Instant};
use tradewind_api::{
    id::{ClusterName, Domain, EndpointId, Network, Region, ServicePortRef, SpiffeId},
    model::{
        AppProtocol, Cluster, ClusterState, Endpoint, Health, Service, ServiceKind, ServicePort,
    },
    snapshot::{Snapshot, Trust},
};
use tradewind_ca::{AuthorityKey, Issuer, Root};
use tradewind_runtime::{clock, drain, metrics::MetricsRegistry, rng::Rng};
use tradewind_transport::{
    control::{Control, ControlStatus},
    keys::WorkloadKey,
    svid::{Svid, SvidCell},
    trust::TrustCell,
};

use crate::{
    config::Exit,
    outbound::{Breakers, Outbound, OutboundContext, OutboundMetrics, StandardMetrics},
};

pub(super) const SERVICE: &str = "shop/payments:80";
/// Longer than anything here may take; reached only by a failing test.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

pub(super) struct World {
    issuers: BTreeMap<ClusterName, Issuer>,
    pub(super) domain: Domain,
    pub(super) trust: TrustCell,
    pub(super) trust_map: Trust,
    snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) control: Control,
    pub(super) metrics: MetricsRegistry,
}

pub(super) fn now_ms() -> u64 {
    clock::system().unix_ms()
}

pub(super) fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

impl World {
    /// Clusters `west` (the proxy's own), `central` and `east`.
    pub(super) fn new() -> Self {
        let domain = Domain::default();
        let root = Root::generate(&domain, now_ms()).unwrap();
        let mut trust_map = Trust {
            domain: domain.clone(),
            roots: [root.cert_der().to_vec()].into(),
            ..Trust::default()
        };
        let mut issuers = BTreeMap::new();
        let mut snapshot = Snapshot::default();
        for (name, region) in [
            ("west", "us-west"),
            ("central", "us-central"),
            ("east", "eu-west"),
        ] {
            let name = cluster(name);
            let key = AuthorityKey::generate(&name, &domain).unwrap();
            let der = root
                .sign_authority(&key.csr_der().unwrap(), &name, &domain, now_ms())
                .unwrap();
            trust_map
                .authorities
                .insert(domain.trust_domain(&name), [der.clone()].into());
            issuers.insert(
                name.clone(),
                Issuer::new(key, der, root.cert_der().to_vec()).unwrap(),
            );
            let c = Cluster {
                name: name.clone(),
                region: Region::new(region).unwrap(),
                network: Network::new(name.as_str()).unwrap(),
                state: ClusterState::Active,
                gateways: vec![],
                lease_expired: false,
                sealed_only: false,
                controllers: BTreeMap::new(),
                round_trip_us: None,
                local: name.as_str() == "west",
            };
            snapshot.clusters.insert(name, Arc::new(c));
        }
        let trust = TrustCell::new(&trust_map).unwrap();
        snapshot.trust = Arc::new(trust_map.clone());
        let service = Service {
            name: "shop/payments".parse().unwrap(),
            kind: ServiceKind::ClusterSetIp,
            clusterset_ips: vec![],
            cluster_ips: Vec::new(),
            ports: vec![ServicePort {
                name: String::new(),
                port: 80,
                app_protocol: AppProtocol::Detect,
            }],
            exported_by: issuers.keys().cloned().collect(),
            endpoints: vec![],
            seals: vec![],
        };
        snapshot
            .services
            .insert(service.name.clone(), Arc::new(service));
        let snapshot = watch::Sender::new(Arc::new(snapshot));
        let svid = SvidCell::empty();
        let control = Control::from_parts(
            svid.clone(),
            trust.clone(),
            snapshot.subscribe(),
            ControlStatus::default(),
        );
        let world = Self {
            issuers,
            domain,
            trust,
            trust_map,
            snapshot,
            control,
            metrics: MetricsRegistry::new(),
        };
        svid.set(world.svid("west", "caller"));
        world
    }

    pub(super) fn identity(&self, in_cluster: &str, account: &str) -> SpiffeId {
        let domain = self.domain.trust_domain(&cluster(in_cluster));
        SpiffeId::from_path(&domain, &format!("/ns/shop/sa/{account}")).unwrap()
    }

    pub(super) fn svid(&self, in_cluster: &str, account: &str) -> Svid {
        let key = WorkloadKey::generate().unwrap();
        let id = self.identity(in_cluster, account);
        let issued = self.issuers[&cluster(in_cluster)]
            .issue(&key.csr_der().unwrap(), &id, now_ms(), 3600)
            .unwrap();
        Svid::new(&key, &issued.chain_der).unwrap()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|s| change(Arc::make_mut(s)));
    }

    pub(super) fn change_service(&self, change: impl FnOnce(&mut Service)) {
        self.change(|s| {
            let name = "shop/payments".parse().unwrap();
            change(Arc::make_mut(s.services.get_mut(&name).unwrap()));
        });
    }

    /// Adds an endpoint at `address`, dialled directly.
    pub(super) fn endpoint(&self, id: &str, in_cluster: &str, address: SocketAddr) {
        let region = self.snapshot.borrow().clusters[&cluster(in_cluster)]
            .region
            .clone();
        let endpoint = Endpoint {
            id: EndpointId::new(id).unwrap(),
            cluster: cluster(in_cluster),
            region,
            zone: None,
            weight: 100,
            health: Health::Healthy,
            identity: self.identity(in_cluster, "payments"),
            address: Some(address.to_string()),
            mesh_ips: vec![],
            hostname: None,
            labels: tradewind_api::traffic::Labels::new(),
            ports: vec![80],
            targets: Default::default(),
        };
        self.change_service(|s| s.endpoints.push(endpoint));
    }

    /// Has `id` dialled through `gateway` instead.
    pub(super) fn behind(&self, id: &str, gateways: &[SocketAddr]) {
        let gateways: Vec<_> = gateways.iter().map(ToString::to_string).collect();
        self.change(|s| {
            let all = s.services.values_mut();
            let mut all = all.flat_map(|service| &mut Arc::make_mut(service).endpoints);
            let e = all.find(|e| e.id.as_str() == id).unwrap();
            e.address = None;
            Arc::make_mut(s.clusters.get_mut(&e.cluster).unwrap()).gateways = gateways;
        });
    }

    pub(super) fn set_health(&self, id: &str, health: Health) {
        self.change_service(|s| {
            s.endpoints
                .iter_mut()
                .find(|e| e.id.as_str() == id)
                .unwrap()
                .health = health;
        });
    }

    /// Starts the proxy with one listener.
    pub(super) async fn proxy(&self) -> Running {
        self.proxy_at(clock::system()).await
    }

    /// Starts the proxy with a clock of the test's. One that stands still makes all latencies alike.
    pub(super) async fn proxy_at(&self, clock: clock::SharedClock) -> Running {
        self.proxy_with(clock, Exit::Direct).await
    }

    /// The same with a way out of its cluster.
    pub(super) async fn proxy_with(&self, clock: clock::SharedClock, exit: Exit) -> Running {
        let outbound = Outbound::new(OutboundContext {
            control: self.control.clone(),
            metrics: OutboundMetrics::register(&self.metrics),
            standard: StandardMetrics::register(&self.metrics, clock.clone()),
            clock,
            rng: Rng::seeded(1),
            zone: None,
            labels: Arc::new([("app".to_owned(), "web".to_owned())].into()),
            exit,
            mark: None,
            breakers: Breakers::default(),
            name: "test".into(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, watch) = drain::channel();
        let target: ServicePortRef = SERVICE.parse().unwrap();
        let serving = Rc::clone(&outbound).serve(listener, target, watch);
        let served = tradewind_runtime::task::spawn_local("serve", serving);
        Running {
            outbound,
            address,
            trigger: Some(trigger),
            served,
        }
    }

    pub(super) fn count(&self, line: &str) -> u64 {
        self.metrics
            .encode()
            .lines()
            .filter(|l| l.starts_with(line))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>() as u64
    }
}

pub(super) struct Running {
    pub(super) outbound: Rc<Outbound>,
    pub(super) address: SocketAddr,
    pub(super) trigger: Option<drain::Trigger>,
    pub(super) served: tokio::task::JoinHandle<()>,
}

/// Runs a test on one thread, as the data plane does.
pub(super) async fn on_one_thread(test: impl Future<Output = ()>) {
    LocalSet::new()
        .run_until(async {
            tokio::time::timeout(PATIENCE, test)
                .await
                .expect("the test took too long")
        })
        .await;
}

/// Polls until `ready` holds.
pub(super) async fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
