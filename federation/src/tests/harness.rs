//! A federation in one process: stores that reach each other through memory, with switches for cut lines and death.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;
use tradewind_api::{
    ClusterName, Domain, NodeId,
    model::ServiceKind,
    store::{Blob, ClusterRecord, Command, Export, LEVEL, Outcome, TokenRecord},
};
use tradewind_runtime::{MetricsRegistry, Rng, clock};

use crate::{
    Budget, PeerError, PeerTransport, Store, StoreConfig, StoreError, Timing,
    catalog::tests::{name, record},
    peer::Call,
};

#[derive(Debug, Default)]
struct Lines {
    stores: BTreeMap<NodeId, (ClusterName, Store)>,
    cut: BTreeSet<NodeId>,
    /// How many answers to proposals get lost on their way back.
    lose_answers: usize,
}

/// The memory that joins the stores.
#[derive(Clone, Debug, Default)]
pub(super) struct Hub(Arc<Mutex<Lines>>);

impl Hub {
    pub(super) fn cut(&self, node: NodeId) {
        self.0.lock().unwrap().cut.insert(node);
    }
    pub(super) fn heal(&self, node: NodeId) {
        self.0.lock().unwrap().cut.remove(&node);
    }
    pub(super) fn lose_next_answer(&self) {
        self.0.lock().unwrap().lose_answers += 1;
    }
    fn answer_is_lost(&self) -> bool {
        let mut lines = self.0.lock().unwrap();
        let lost = lines.lose_answers > 0;
        lines.lose_answers = lines.lose_answers.saturating_sub(1);
        lost
    }
    fn reach(&self, from: NodeId, to: NodeId, cluster: &ClusterName) -> Result<Store, PeerError> {
        let lines = self.0.lock().unwrap();
        // Nobody in particular is whoever runs the cluster.
        let to = match to {
            0 => lines.stores.iter().find(|(_, (c, _))| c == cluster),
            node => lines.stores.get_key_value(&node),
        };
        let open = |node: &NodeId| !lines.cut.contains(&from) && !lines.cut.contains(node);
        let store = to.filter(|(node, _)| open(node)).map(|(_, (_, s))| s);
        store.cloned().ok_or_else(|| PeerError::Unreachable {
            cluster: cluster.clone(),
            cause: "cut".to_owned(),
        })
    }
}

/// One node's end of the lines.
#[derive(Debug)]
pub(super) struct Line {
    hub: Hub,
    me: NodeId,
    cluster: ClusterName,
}

fn refused(cluster: &ClusterName) -> impl FnOnce(crate::HandleError) -> PeerError {
    let cluster = cluster.clone();
    move |e| PeerError::Refused {
        cluster,
        cause: e.to_string(),
    }
}

#[async_trait]
impl PeerTransport for Line {
    async fn call(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        call: Call,
        payload: Vec<u8>,
        _: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let peer = self.hub.reach(self.me, to, cluster)?;
        let done = peer.handle(call, &self.cluster, payload).await;
        if call == Call::Propose && self.hub.answer_is_lost() {
            return Err(PeerError::NoAnswer {
                cluster: cluster.clone(),
                cause: "lost".to_owned(),
            });
        }
        done.map_err(refused(cluster))
    }

    async fn install_snapshot(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        header: Vec<u8>,
        file: &Path,
        _: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let peer = self.hub.reach(self.me, to, cluster)?;
        let done = peer.handle_install_snapshot(header, file.to_owned()).await;
        done.map_err(refused(cluster))
    }
}

/// Clusters with one node each, numbered from 1.
pub(super) struct Federation {
    pub(super) hub: Hub,
    dir: tempfile::TempDir,
    clusters: BTreeMap<NodeId, ClusterName>,
    timing: Timing,
    budget: Budget,
    level: u16,
}

pub(super) async fn open(
    hub: &Hub,
    dir: PathBuf,
    node_id: NodeId,
    cluster: &ClusterName,
) -> Result<Store, StoreError> {
    let config = StoreConfig {
        data_dir: dir,
        node_id,
        cluster: cluster.clone(),
        timing: Timing::default(),
        budget: Budget::unlimited(),
        level: LEVEL,
    };
    open_with(hub, config).await
}

async fn open_with(hub: &Hub, config: StoreConfig) -> Result<Store, StoreError> {
    let node_id = config.node_id;
    let line = Line {
        hub: hub.clone(),
        me: node_id,
        cluster: config.cluster.clone(),
    };
    let rng = Rng::seeded(node_id);
    let metrics = MetricsRegistry::new();
    Store::open(config, Arc::new(line), clock::system(), rng, &metrics).await
}

impl Federation {
    /// Founds one with the first cluster and joins the others by token; returns once all of them vote.
    pub(super) async fn start(names: &[&str]) -> Self {
        Self::start_with(names, |_timing| {}).await
    }

    pub(super) async fn start_with(names: &[&str], change: impl Fn(&mut Timing)) -> Self {
        let mut timing = Timing::default();
        change(&mut timing);
        Self::start_as(names, timing, Budget::unlimited(), LEVEL).await
    }

    /// Every node knows no more than `level`.
    pub(super) async fn start_at(names: &[&str], level: u16) -> Self {
        Self::start_as(names, Timing::default(), Budget::unlimited(), level).await
    }

    pub(super) async fn start_budgeted(names: &[&str], budget: Budget) -> Self {
        Self::start_as(names, Timing::default(), budget, LEVEL).await
    }

    async fn start_as(names: &[&str], timing: Timing, budget: Budget, level: u16) -> Self {
        let mut this = Self {
            hub: Hub::default(),
            dir: tempfile::tempdir().unwrap(),
            clusters: BTreeMap::new(),
            timing,
            budget,
            level,
        };
        this.clusters.insert(1, name(names[0]));
        this.boot(1).await;
        let mut command = found(names[0]);
        if let Command::Found { cluster, .. } = &mut command {
            cluster.level = level;
        }
        let found = this.store(1).found(command).await.unwrap();
        assert!(
            matches!(found, Outcome::Done { changed: true, .. }),
            "{found:?}"
        );
        for joiner in &names[1..] {
            this.join(joiner).await;
        }
        let all: BTreeSet<NodeId> = this.clusters.keys().copied().collect();
        // An odd number of them, but for two.
        let wanted = match all.len().min(5) {
            4 => 3,
            few => few,
        };
        // In everybody's eyes: while a third voter is only half in, two must agree, and one of them may not die.
        let settled = |n: &NodeId| this.store(*n).settled_voters().map(|v| v.len());
        until("all vote", || {
            all.iter().all(|n| settled(n) == Some(wanted))
        })
        .await;
        this
    }

    pub(super) async fn join(&mut self, joiner: &str) -> NodeId {
        self.join_at(joiner, self.level).await
    }

    pub(super) async fn join_at(&mut self, joiner: &str, level: u16) -> NodeId {
        let host = self.clusters[&1].clone();
        let token_id = format!("token-{}", self.clusters.len());
        let put = Command::PutToken(token(&token_id));
        self.store(1).propose(&host, put).await.unwrap();
        let join = Command::Join {
            token_id,
            cluster: ClusterRecord {
                level,
                ..record(joiner)
            },
        };
        let joined = self.store(1).propose(&host, join).await.unwrap();
        let Outcome::Joined { node_id, .. } = joined else {
            panic!("{joined:?}");
        };
        self.clusters.insert(node_id, name(joiner));
        self.boot_at(node_id, level).await;
        node_id
    }

    /// The line of a controller of `cluster` whose store is not open.
    pub(super) fn line(&self, cluster: &str) -> Line {
        Line {
            hub: self.hub.clone(),
            me: 0,
            cluster: name(cluster),
        }
    }

    /// A node whose directory was made by other means; `boot` starts it.
    pub(super) fn adopt(&mut self, node: NodeId, cluster: ClusterName) {
        self.clusters.insert(node, cluster);
    }

    pub(super) fn path(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    pub(super) async fn boot(&self, node: NodeId) {
        self.boot_at(node, self.level).await;
    }

    pub(super) async fn boot_at(&self, node: NodeId, level: u16) {
        let config = StoreConfig {
            data_dir: self.path(node),
            node_id: node,
            cluster: self.clusters[&node].clone(),
            timing: self.timing.clone(),
            budget: self.budget,
            level,
        };
        let store = open_with(&self.hub, config).await.unwrap();
        let held = (self.clusters[&node].clone(), store);
        self.hub.0.lock().unwrap().stores.insert(node, held);
    }

    pub(super) async fn kill(&self, node: NodeId) {
        let store = self
            .hub
            .0
            .lock()
            .unwrap()
            .stores
            .remove(&node)
            .map(|(_, s)| s);
        store.unwrap().shutdown().await;
    }

    pub(super) fn store(&self, node: NodeId) -> Store {
        self.hub.0.lock().unwrap().stores[&node].1.clone()
    }

    pub(super) fn cluster(&self, node: NodeId) -> ClusterName {
        self.clusters[&node].clone()
    }

    pub(super) fn living(&self) -> Vec<NodeId> {
        self.hub.0.lock().unwrap().stores.keys().copied().collect()
    }

    /// Who leads, in the eyes of itself.
    pub(super) async fn leader(&self) -> NodeId {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let leads = |n: &NodeId| {
                let status = self.store(*n).status();
                status.leader == Some(*n) && status.can_write
            };
            if let Some(leader) = self.living().into_iter().find(leads) {
                return leader;
            }
            assert!(Instant::now() < until, "no leader");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn put(&self, node: NodeId, service: &str) -> Outcome {
        let (store, cluster) = (self.store(node), self.cluster(node));
        store.propose(&cluster, export(service, 80)).await.unwrap()
    }

    /// Waits until all living nodes hold the same catalog.
    pub(super) async fn agree(&self) {
        until("all agree", || {
            let mut all = self.living().into_iter().map(|n| self.store(n).catalog());
            let first = all.next().unwrap();
            all.all(|c| c == first)
        })
        .await;
    }
}

pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn found(cluster: &str) -> Command {
    let mut founder = record(cluster);
    founder.nodes.insert(1);
    Command::Found {
        domain: Domain::default(),
        root: Blob(vec![1]),
        cluster: founder,
    }
}

pub(super) fn token(id: &str) -> TokenRecord {
    TokenRecord {
        id: id.to_owned(),
        secret_sha256: Blob(vec![0; 32]),
        cluster: None,
        expires_at_ms: u64::MAX,
        used: None,
    }
}

pub(super) fn export(service: &str, port: u16) -> Command {
    Command::PutExport(Export {
        service: format!("shop/{service}").parse().unwrap(),
        created_at_ms: 1,
        kind: ServiceKind::ClusterSetIp,
        ports: vec![tradewind_api::model::ServicePort {
            name: String::new(),
            port,
            app_protocol: tradewind_api::model::AppProtocol::Detect,
        }],
        endpoints: BTreeMap::new(),
        rules: None,
        spec: None,
    })
}
