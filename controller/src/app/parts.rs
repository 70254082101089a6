//! Everything a controller has open, and how its parts are wired to each other.
//!
//! Owns no decision: each part follows watched values, and this file says which part follows what.

mod pages;
mod reach;
mod seals;
mod siblings;
mod sources;
mod telling;
mod webhook;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use nix::unistd::geteuid;
use tokio::sync::watch;
use tonic::service::{Routes, RoutesBuilder};
use tradewind_api::{
    proto::v1::{
        admin_server::AdminServer as AdminGrpc, federation_server::FederationServer,
        raft_server::RaftServer, store_admin_server::StoreAdminServer,
    },
    snapshot::{Snapshot, Trust},
};
use tradewind_ca::{AuthorityKey, Issuer, Root};
use tradewind_federation::{Budget, Store, StoreConfig, Timing};
use tradewind_kubernetes::Client;
use tradewind_runtime::{Blocker, MetricsRegistry, Rng, SharedClock, TaskSet, drain};
use tradewind_transport::{
    seal::keys::SealKey,
    svid::SvidCell,
    trust::{TrustCell, TrustError, sha256},
};

use self::sources::Sources;
use super::{
    BuildError, IDENTITIES_FILE,
    follow::Follower,
    identity::KeepCertificate,
    introduce::{Introduced, Introducer},
    meters::Meters,
};
use crate::{
    admin_service::{AdminInput, AdminService},
    ads::{AdsService, Proxies},
    attest::HostIdentities,
    compile::Leases,
    config::ControllerConfig,
    datadir::{DataDir, DataDirError, KeptTrust},
    exports::Exports,
    identity_service::{Accounts, IdentityConfig, IdentityService, WorkloadTokens},
    join::FederationService,
    local::{LocalModel, Own},
    raft_net::{MAX_MESSAGE_BYTES, Peers, RaftService},
    reach::{Reach, Seen},
    registry::{GatewayRegistryService, RegistryHub, RegistryService},
    seals::node_key,
    server::Access,
};

/// What lies in the data directory, read and found good.
pub(super) struct Files {
    pub(super) hosts: HostIdentities,
    pub(super) own: Own,
    data_dir: DataDir,
    issuer: Issuer,
    root: Option<Root>,
    tokens: WorkloadTokens,
    exports: Exports,
    registry: RegistryHub,
    node_key: SealKey,
    first_trust: KeptTrust,
    trust: TrustCell,
    pub(super) metrics: MetricsRegistry,
}

impl Files {
    /// Reads everything but the store.
    pub(super) fn open(path: &Path, clock: &SharedClock) -> Result<Self, BuildError> {
        let data_dir = DataDir::open(path)?;
        let own = Own::from(data_dir.node());
        let issuer =
            AuthorityKey::load(path)?.ok_or_else(|| BuildError::NoAuthority(path.to_owned()))?;
        let root = Root::load(path)?;
        let metrics = MetricsRegistry::new();
        let root_sha256 = sha256(issuer.root_der());
        let tokens =
            WorkloadTokens::open(path, own.cluster.clone(), own.domain.clone(), root_sha256)?;
        let hosts = HostIdentities::load(&path.join(IDENTITIES_FILE))?;
        let exports = Exports::open(path)?;
        let registry = RegistryHub::open(path, own.cluster.clone(), Arc::clone(clock), &metrics)?;
        let node_key = node_key(path)?;
        let first_trust = first_trust(data_dir.trust()?, &own, &issuer);
        let trust = TrustCell::new(&first_trust.trust).map_err(|e| corrupt_trust(path, &e))?;
        Ok(Self {
            hosts,
            own,
            data_dir,
            issuer,
            root,
            tokens,
            exports,
            registry,
            node_key,
            first_trust,
            trust,
            metrics,
        })
    }
}

/// Whom to believe before the store says so: what was saved last, else this cluster's own authority.
pub(crate) fn first_trust(saved: Option<KeptTrust>, own: &Own, issuer: &Issuer) -> KeptTrust {
    let alone = || Trust {
        domain: own.domain.clone(),
        roots: [issuer.root_der().to_vec()].into(),
        authorities: [(
            own.domain.trust_domain(&own.cluster),
            [issuer.authority_der().to_vec()].into(),
        )]
        .into(),
    };
    saved
        .filter(|kept| !kept.trust.roots.is_empty())
        .unwrap_or_else(|| KeptTrust::of_no_revision(alone()))
}

fn corrupt_trust(path: &Path, error: &TrustError) -> BuildError {
    DataDirError::Corrupt {
        path: path.join("trust.json"),
        why: error.to_string(),
    }
    .into()
}

/// Everything that is open.
pub(super) struct Parts {
    pub(super) own: Own,
    pub(super) node_id: u64,
    pub(super) svid: SvidCell,
    pub(super) trust: TrustCell,
    pub(super) store: Store,
    pub(super) metrics: MetricsRegistry,
    pub(super) clock: SharedClock,
    data_dir: Arc<Mutex<DataDir>>,
    spool: PathBuf,
    configured_gateways: Vec<String>,
    address: Option<String>,
    first_trust: Arc<Trust>,
    first_revision: u64,
    replicated: bool,
    root: Option<Root>,
    issuer: Arc<Issuer>,
    hosts: Arc<HostIdentities>,
    exports: Exports,
    tokens: WorkloadTokens,
    registry: RegistryHub,
    node_key: SealKey,
    certificate: KeepCertificate,
    peers: Peers,
    rng: Rng,
    kubernetes: Option<Client>,
    host_workloads: bool,
}

impl Parts {
    /// Takes the own certificate and opens the store.
    pub(super) async fn open(
        files: Files,
        clock: SharedClock,
        mut rng: Rng,
        (kubernetes, host_workloads): (Option<Client>, bool),
        address: Option<String>,
    ) -> Result<Self, BuildError> {
        let node = files.data_dir.node().clone();
        let (own, trust, metrics) = (files.own, files.trust, files.metrics);
        let issuer = Arc::new(files.issuer);
        let certificate = KeepCertificate::new(
            Arc::clone(&issuer),
            &own,
            node.node_id,
            Arc::clone(&clock),
            rng.fork(),
        );
        let svid = SvidCell::empty();
        svid.set(certificate.issue()?);
        let peers = Peers::new(
            own.cluster.clone(),
            node.node_id,
            own.domain.clone(),
            svid.clone(),
            trust.clone(),
            node.known_clusters,
        );
        peers.know_siblings(node.siblings);
        let config = StoreConfig {
            data_dir: files.data_dir.store(),
            node_id: node.node_id,
            cluster: own.cluster.clone(),
            timing: Timing::default(),
            budget: Budget::default(),
            level: tradewind_api::store::LEVEL,
        };
        let transport = Arc::new(peers.clone());
        let store =
            Store::open_apart(config, transport, Arc::clone(&clock), rng.fork(), &metrics).await?;
        Ok(Self {
            own,
            node_id: node.node_id,
            svid,
            trust,
            store,
            metrics,
            clock,
            spool: files.data_dir.path().to_owned(),
            data_dir: Arc::new(Mutex::new(files.data_dir)),
            configured_gateways: node.gateways,
            address: address.or(node.address),
            first_trust: Arc::new(files.first_trust.trust),
            first_revision: files.first_trust.revision,
            replicated: node.replicated,
            root: files.root,
            issuer,
            hosts: Arc::new(files.hosts),
            exports: files.exports,
            tokens: files.tokens,
            registry: files.registry,
            node_key: files.node_key,
            certificate,
            peers,
            rng,
            kubernetes,
            host_workloads,
        })
    }
}

/// What the wiring yields.
pub(super) struct Wired {
    pub(super) routes: Routes,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    sources: Sources,
}

impl Parts {
    /// Gives the data directory to the next process, once a write under way is over.
    pub(super) fn release(&self) {
        self.data_dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .release();
    }

    /// Whose service accounts' tokens are, where an API server can say it.
    fn accounts(&self) -> Option<Accounts> {
        let client = self.kubernetes.clone()?;
        let system = client.namespace().to_owned();
        Some(Accounts::new(client, &self.own.cluster, &system))
    }

    /// Whether nobody but service accounts has an identity here.
    fn accounts_alone(&self) -> bool {
        self.kubernetes.is_some() && !self.host_workloads
    }

    /// Starts every task and makes the routes.
    pub(super) fn wire(
        &mut self,
        config: &ControllerConfig,
        tasks: &mut TaskSet,
        drain: &drain::Watch,
        left: watch::Sender<bool>,
        store_blocker: Blocker,
    ) -> Wired {
        let access = Access::new(
            &self.own.cluster,
            &self.own.domain,
            self.trust.clone(),
            Arc::clone(&self.hosts),
            geteuid().as_raw(),
        );
        if !self.own.witness {
            self.registry.start(tasks);
        }
        let registered = self.registry.watch();
        let (local_tx, local) = watch::channel(Arc::new(LocalModel::default()));
        // Empty, and so not pushed, until the first one is compiled.
        let (snapshot_tx, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let (statuses_tx, statuses) = watch::channel(Arc::default());
        let (leases_tx, leases) = watch::channel(Arc::new(Leases::default()));
        let (introduced_tx, introduced) = watch::channel(None);
        let sources = sources::start(config, self.kubernetes.as_ref(), &self.clock, tasks, drain);
        let yaml = sources.yaml.clone();
        let seals = self.keep_seals(tasks, drain);
        let seals_seen = seals.clone();
        let siblings = self.follow_siblings(tasks, drain);
        let reach = self.reach(leases.clone(), tasks, drain);
        let reports = self.registry.reports();
        let follower = Follower {
            own: self.own.clone(),
            store: self.store.clone(),
            peers: self.peers.clone(),
            trust: self.trust.clone(),
            data_dir: Arc::clone(&self.data_dir),
            exports: self.exports.clone(),
            clock: Arc::clone(&self.clock),
            first_trust: Arc::clone(&self.first_trust),
            first_revision: self.first_revision,
            replicated: self.replicated,
            registered: registered.clone(),
            yaml: yaml.clone(),
            introduced,
            siblings: siblings.clone(),
            node_id: self.node_id,
            seals,
            reach: reach.clone(),
            reports: reports.clone(),
            local: local_tx,
            snapshots: snapshot_tx,
            statuses: statuses_tx,
            leases: leases_tx,
            left: left.clone(),
            meters: Meters::register(&self.metrics),
        };
        tasks.spawn("compile", follower.run(store_blocker, drain.observer()));
        self.keep_identity(introduced_tx, tasks, drain);
        let publishing = self.publish(local.clone(), registered.clone(), &siblings, tasks, drain);
        let told = (snapshots.clone(), statuses);
        self.tell_api_server(&sources, told, &publishing, tasks, drain);
        let publishing = publishing.problems;
        let proxies = Proxies::default();
        let admin = AdminService::new(AdminInput {
            store: self.store.clone(),
            access: access.clone(),
            own: self.own.clone(),
            root_sha256: sha256(self.issuer.root_der()),
            exports: self.exports.clone(),
            kubernetes: self.kubernetes.clone(),
            local,
            yaml,
            registered,
            siblings: siblings.heard,
            proxies: proxies.clone(),
            snapshots: snapshots.clone(),
            leases,
            reach: reach.clone(),
            reports,
            seals: seals_seen,
            publishing,
            tokens: self.tokens.clone(),
            accounts_alone: self.accounts_alone(),
            configured_gateways: self.configured_gateways.clone(),
            data_dir: Arc::clone(&self.data_dir),
            left,
            drain: drain.observer(),
            clock: Arc::clone(&self.clock),
        });
        let routes = self.routes(&access, admin, (snapshots.clone(), reach), proxies, drain);
        Wired {
            routes,
            snapshots,
            sources,
        }
    }

    /// Starts what renews the own certificate, and what asks others whom to believe.
    fn keep_identity(
        &mut self,
        introduced_tx: watch::Sender<Option<Arc<Introduced>>>,
        tasks: &mut TaskSet,
        drain: &drain::Watch,
    ) {
        tasks.spawn(
            "certificate",
            self.certificate
                .clone()
                .run(self.svid.clone(), drain.observer()),
        );
        let introducer = Introducer {
            store: self.store.clone(),
            peers: self.peers.clone(),
            own: self.own.cluster.clone(),
            node_id: self.node_id,
            rng: self.rng.fork(),
            told: introduced_tx,
        };
        tasks.spawn("introduce", introducer.run(drain.observer()));
    }

    fn routes(
        &mut self,
        access: &Access,
        admin: AdminService,
        (snapshots, reach): (watch::Receiver<Arc<Snapshot>>, watch::Receiver<Arc<Reach>>),
        proxies: Proxies,
        drain: &drain::Watch,
    ) -> Routes {
        let federation = FederationService::new(
            self.own.cluster.clone(),
            self.store.clone(),
            access.clone(),
            self.peers.clone(),
            self.root.take(),
            Arc::clone(&self.clock),
        )
        .adding(self.adding())
        .sharing(Seen {
            reach,
            reports: self.registry.reports(),
        });
        let raft = RaftService::new(
            self.store.clone(),
            access.clone(),
            self.node_id,
            self.spool.clone(),
        );
        let identity = IdentityConfig {
            issuer: Arc::clone(&self.issuer),
            access: access.clone(),
            tokens: self.tokens.clone(),
            accounts: self.accounts(),
            accounts_alone: self.accounts_alone(),
            snapshots: snapshots.clone(),
            cluster: self.own.cluster.clone(),
            region: self.own.region.clone(),
            clock: Arc::clone(&self.clock),
        };
        let mut routes = RoutesBuilder::default();
        routes
            .add_service(StoreAdminServer::new(admin.clone()))
            .add_service(AdminGrpc::new(admin))
            .add_service(
                RaftServer::new(raft)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                FederationServer::new(federation)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            );
        if self.own.witness {
            // Nobody has workloads, proxies or gateways here.
            return routes.routes();
        }
        routes
            .add_service(IdentityService::new(identity, &self.metrics).into_service())
            .add_service(
                AdsService::new(access.clone(), snapshots, proxies, &self.metrics).into_service(),
            )
            .add_service(self.siblings_service(access, drain))
            .add_service(RegistryService::new(self.registry.clone(), access.clone()).into_service())
            .add_service(
                GatewayRegistryService::new(self.registry.clone(), access.clone()).into_service(),
            );
        routes.routes()
    }
}
