//! The store as the controller sees it: open it, propose, read, answer peers. It owns the Raft node, its disk thread and
//! its two driving tasks, and ends them. It never decides anything itself: the decisions are in `catalog`, `election`
//! and `membership`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{Config, SnapshotPolicy};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use tradewind_api::{
    ClusterName, NodeId,
    store::{Command, Outcome},
};
use tradewind_runtime::{
    Lane, MetricsRegistry, Rng, SharedClock, TaskSet,
    dirs::{self, DirError, DirLock},
};

use crate::{
    budget::{Budget, Budgets},
    catalog::Catalog,
    contacts::Contacts,
    driver::{self, Core},
    error::{ProposeError, StoreError},
    forward::Forwarder,
    history::{Compacted, History, Watch},
    leaving::Leaving,
    log_store::LogStore,
    machine::Machine,
    medium::{Files, Medium, Writer},
    meters::Meters,
    net::Net,
    peer::PeerTransport,
    propose::{Batcher, MAX_WAITING},
    snapshot::SnapshotDir,
    status::{StoreStatus, Vitals},
    types::{Raft, RaftNode},
    yielding::Yielding,
};

mod apart;
pub(crate) mod identity;
mod inbound;
mod outbound;
mod saving;

pub use saving::Saved;

/// How fast the store notices and reacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two signs of life of the leader.
    pub heartbeat: Duration,
    /// How long a voter that heard the leader refuses to vote for another.
    pub lease: Duration,
    /// How long the first voter in line waits for a sign before it asks for an election.
    pub election: Duration,
    /// How much longer each next voter in line waits; half of it is random.
    pub election_step: Duration,
    /// The longest one call to another node may take.
    pub rpc: Duration,
    /// How long a write may take, waiting for a leader included.
    pub propose: Duration,
    /// After which time away a voter is replaced, if somebody is there to vote instead.
    pub replace_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            lease: Duration::from_millis(800),
            election: Duration::from_millis(900),
            election_step: Duration::from_millis(250),
            rpc: Duration::from_millis(600),
            propose: Duration::from_secs(5),
            // Longer than a restart or a short cut of a line, shorter than it takes to lose another voter.
            replace_after: Duration::from_secs(60),
        }
    }
}

/// What a store needs to know to open.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The store's own directory, made if missing (its parent must exist).
    pub data_dir: PathBuf,
    /// This node's id: 1 for the founder, else as the join gave it.
    pub node_id: NodeId,
    /// This node's cluster.
    pub cluster: ClusterName,
    /// How fast it reacts.
    pub timing: Timing,
    /// How much each cluster may write while this node leads.
    pub budget: Budget,
    /// The newest level of commands that this node takes: `api::store::LEVEL`, but for tests of mixed versions.
    pub level: u16,
}

/// When the log is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compaction {
    /// Entries between two snapshots.
    pub(crate) snapshot_every: u64,
    /// Entries kept behind a snapshot.
    pub(crate) keep_entries: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Self {
            snapshot_every: SNAPSHOT_EVERY,
            keep_entries: KEEP_ENTRIES,
        }
    }
}

/// What a store stands on.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) medium: Arc<dyn Medium>,
    pub(crate) compaction: Compaction,
}

/// Entries between two snapshots: replaying as many takes well under a second.
const SNAPSHOT_EVERY: u64 = 5_000;
/// Entries kept behind a snapshot, so that a node that was away for a moment needs no snapshot.
const KEEP_ENTRIES: u64 = 1_000;
/// Entries in one RPC at most; `log_store` bounds its bytes.
const RPC_ENTRIES: u64 = 512;
/// How long a snapshot may take on its way.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(60);
/// How long the lock of a process that just ended is waited for.
const LOCK_RETRY: Duration = Duration::from_secs(5);
/// Between two looks at something that should come about soon.
const LOOK: Duration = Duration::from_millis(20);
/// How long a stopping store waits for its disk thread.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// One node of the federation store. Clones are the same store; it stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: ClusterName,
    core: Arc<Core>,
    batcher: Batcher,
    forwarder: Forwarder,
    history: History,
    level: u16,
    waiting: Semaphore,
    owned: Mutex<Owned>,
    #[cfg(feature = "testing")]
    damage: crate::machine::Damage,
}

/// What ends with the store.
#[derive(Debug, Default)]
struct Owned {
    tasks: Option<TaskSet>,
    disk: Option<Writer>,
    lock: Option<DirLock>,
    lane: Option<Lane>,
}

impl Store {
    /// Opens the store in `config.data_dir`, or makes an empty one that waits to be founded or to be spoken to.
    pub async fn open(
        config: StoreConfig,
        transport: Arc<dyn PeerTransport>,
        clock: SharedClock,
        rng: Rng,
        metrics: &MetricsRegistry,
    ) -> Result<Self, StoreError> {
        let ground = Ground {
            medium: Arc::new(Files::new(&config.data_dir)),
            compaction: Compaction::default(),
        };
        Self::open_on(config, ground, transport, (clock, rng), metrics).await
    }

    /// The same as `open` on any ground.
    pub(crate) async fn open_on(
        config: StoreConfig,
        ground: Ground,
        transport: Arc<dyn PeerTransport>,
        (clock, rng): (SharedClock, Rng),
        metrics: &MetricsRegistry,
    ) -> Result<Self, StoreError> {
        let dir = config.data_dir.clone();
        let lock = take_dir(&dir).await?;
        identity::check(&dir, &config)?;
        let meters = Meters::new(metrics);
        let (log, disk) = LogStore::open_on(ground.medium, meters.clone()).await?;
        let (snapshots, state) = SnapshotDir::open(&dir.join("snapshots"), log.purged())?;
        let snapshots = snapshots.with_hands(log.hands());
        log.stand_down(config.node_id);
        if let Some(state) = &state {
            log.note_membership(&state.membership);
        }
        let history = History::default();
        let (machine, catalog) = Machine::new(
            state,
            snapshots.clone(),
            history.clone(),
            meters.clone(),
            config.level,
        );
        let differing = machine.differing();
        #[cfg(feature = "testing")]
        let damage = machine.damage();
        let contacts = Arc::new(Contacts::new(Instant::now()));
        let net = Net {
            transport: Arc::clone(&transport),
            snapshots: snapshots.clone(),
            contacts: Arc::clone(&contacts),
            log: log.clone(),
        };
        let raft_config = raft_config(&config.timing, ground.compaction)?;
        let raft = Raft::new(config.node_id, raft_config, net, log.clone(), machine)
            .await
            .map_err(|e| StoreError::Consensus(e.to_string()))?;
        let core = Arc::new(Core {
            me: config.node_id,
            raft: raft.clone(),
            log,
            snapshots,
            contacts,
            transport,
            catalog,
            timing: config.timing,
            meters,
            nudge: Notify::new(),
            leaving: Leaving::default(),
            budgets: Mutex::new(Budgets::new(config.budget)),
            yielding: Yielding::default(),
            differing,
        });
        let mut tasks = TaskSet::new();
        tasks.spawn(
            "store-elections",
            driver::drive_elections(Arc::clone(&core), rng),
        );
        tasks.spawn(
            "store-membership",
            driver::drive_membership(Arc::clone(&core)),
        );
        let batcher = Batcher::start(raft, clock, &mut tasks);
        let forwarder = Forwarder::start(
            config.cluster.clone(),
            Arc::clone(&core.transport),
            &mut tasks,
        );
        let owned = Owned {
            tasks: Some(tasks),
            disk: Some(disk),
            lock: Some(lock),
            lane: None,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                cluster: config.cluster,
                core,
                batcher,
                forwarder,
                history,
                level: config.level,
                waiting: Semaphore::new(MAX_WAITING),
                owned: Mutex::new(owned),
                #[cfg(feature = "testing")]
                damage,
            }),
        })
    }

    /// Before the next entry is applied this node's copy of an export loses its endpoints, without a word to anybody.
    #[cfg(feature = "testing")]
    pub fn corrupt_export_for_tests(
        &self,
        service: tradewind_api::ServiceName,
        cluster: ClusterName,
    ) {
        let mut slot = self
            .inner
            .damage
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Some((service, cluster));
    }

    /// Founds a federation: makes this node its single voter and applies `command`, a `Command::Found`. May be repeated
    /// after a failure.
    pub async fn found(&self, command: Command) -> Result<Outcome, ProposeError> {
        let core = &self.inner.core;
        let node = RaftNode::new(self.inner.cluster.clone());
        let members = std::collections::BTreeMap::from([(core.me, node)]);
        let stopped = |e: String| ProposeError::Stopped(e);
        if !core
            .raft
            .is_initialized()
            .await
            .map_err(|e| stopped(e.to_string()))?
        {
            let made = core.raft.initialize(members).await;
            made.map_err(|e| stopped(e.to_string()))?;
        }
        self.propose(&self.inner.cluster, command).await
    }

    /// The catalog as this node knows it.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.inner.core.catalog.borrow())
    }

    /// Every later catalog, coalesced: a slow reader sees the newest.
    pub fn watch(&self) -> watch::Receiver<Arc<Catalog>> {
        self.inner.core.catalog.clone()
    }

    /// Everything that changes after `revision`, which the caller has read (0: everything from the founding on).
    pub fn watch_from(&self, revision: u64) -> Result<Watch, Compacted> {
        Watch::new(self.inner.history.clone(), self.watch(), revision)
    }

    /// What this node knows of the store.
    pub fn status(&self) -> StoreStatus {
        let core = &self.inner.core;
        StoreStatus {
            fsync_p99_us: core.meters.fsync_p99_us(),
            ..core.status()
        }
    }

    /// What this node says of itself to others.
    pub fn vitals(&self) -> Vitals {
        let status = self.status();
        Vitals {
            node_id: status.node_id,
            term: status.term,
            leader: self.inner.core.live_leader(),
            last_log: status.last_log,
            applied: status.applied,
            fsync_p99_us: status.fsync_p99_us,
            level: self.inner.level,
        }
    }

    /// Tells the leader loop that a node, which the catalog lists under `cluster`, is up now. On any other node it only
    /// checks: the leader looks by itself twice a second.
    pub async fn introduce(
        &self,
        node_id: NodeId,
        cluster: &ClusterName,
    ) -> Result<(), ProposeError> {
        if self.catalog().cluster_of(node_id) != Some(cluster) {
            let why = format!("the catalog lists no node {node_id} of cluster {cluster}");
            return Err(ProposeError::Rejected(why));
        }
        self.inner.core.nudge.notify_one();
        Ok(())
    }

    /// Stops the node and closes its files. Idempotent.
    pub async fn shutdown(&self) {
        let Owned {
            tasks,
            disk,
            lock,
            lane,
        } = {
            let mut owned = self
                .inner
                .owned
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *owned)
        };
        if let Some(mut tasks) = tasks {
            tasks.abort_all().await;
        }
        // It waits for the disk, and a disk may hang.
        match timeout(STOP_DEADLINE, self.inner.core.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the store's consensus did not stop cleanly");
            }
            Err(_elapsed) => tracing::warn!("the store's consensus did not stop in time"),
        }
        self.inner.core.log.close();
        if let Some(disk) = disk {
            match timeout(STOP_DEADLINE, disk.ended()).await {
                Ok(true) => {}
                _ => tracing::warn!("the store's disk thread did not end cleanly"),
            }
        }
        drop(lock);
        drop(lane);
    }
}

/// For the simulation's oracle.
#[cfg(any(test, feature = "simulation"))]
impl Store {
    pub(crate) fn raft_metrics(&self) -> watch::Receiver<crate::types::Metrics> {
        self.inner.core.raft.metrics()
    }

    pub(crate) fn last_log(&self) -> Option<crate::types::LogId> {
        self.inner.core.log.last()
    }
}

#[cfg(test)]
impl Store {
    /// Who votes, as far as this node knows; none while a change of that is under way.
    pub(crate) fn settled_voters(&self) -> Option<std::collections::BTreeSet<NodeId>> {
        match self.inner.core.standing().voters.as_slice() {
            [voters] => Some(voters.clone()),
            _ => None,
        }
    }

    /// How often this node asked for votes.
    pub(crate) fn pre_votes(&self) -> u64 {
        self.inner.core.meters.pre_votes.get()
    }

    /// Asks for a snapshot, which must fail: what the store then says of itself.
    pub(crate) async fn snapshot_fails(&self) -> String {
        let raft = &self.inner.core.raft;
        raft.trigger().snapshot().await.expect("runs");
        let wait = raft.wait(Some(Duration::from_secs(10)));
        let stopped = |m: &crate::types::Metrics| m.running_state.is_err();
        wait.metrics(stopped, "stop").await.expect("in time");
        self.status().stopped.expect("it stopped")
    }

    /// Snapshots now, and drops every log entry the snapshot holds.
    pub(crate) async fn compact(&self) {
        let raft = &self.inner.core.raft;
        let applied = self.status().applied.expect("something was applied");
        raft.trigger().snapshot().await.expect("runs");
        let wait = raft.wait(Some(Duration::from_secs(10)));
        let reached = |m: &crate::types::Metrics| m.snapshot.is_some_and(|s| s.index >= applied);
        wait.metrics(reached, "snapshot").await.expect("in time");
        raft.trigger().purge_log(applied).await.expect("runs");
        let wait = raft.wait(Some(Duration::from_secs(10)));
        let reached = |m: &crate::types::Metrics| m.purged.is_some_and(|p| p.index >= applied);
        wait.metrics(reached, "purge").await.expect("in time");
    }
}

async fn take_dir(dir: &Path) -> Result<DirLock, StoreError> {
    dirs::ensure_dir(dir, 0o700)?;
    let until = Instant::now() + LOCK_RETRY;
    loop {
        match dirs::lock(dir) {
            Ok(lock) => return Ok(lock),
            Err(DirError::InUse { .. }) if Instant::now() < until => sleep(LOOK).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn raft_config(timing: &Timing, compaction: Compaction) -> Result<Arc<Config>, StoreError> {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "tradewind".to_owned(),
        // openraft uses this as the deadline of one append, too; the heartbeats themselves are the driver's.
        heartbeat_interval: ms(timing.rpc),
        enable_heartbeat: false,
        enable_elect: false,
        // The deadline of one vote request.
        election_timeout_min: ms(timing.rpc) + 1,
        // The lease.
        election_timeout_max: ms(timing.lease).max(ms(timing.rpc) + 2),
        max_payload_entries: RPC_ENTRIES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(compaction.snapshot_every),
        max_in_snapshot_log_to_keep: compaction.keep_entries,
        replication_lag_threshold: compaction.snapshot_every + compaction.keep_entries,
        install_snapshot_timeout: ms(SNAPSHOT_DEADLINE),
        ..Config::default()
    };
    config
        .validate()
        .map(Arc::new)
        .map_err(|e| StoreError::Consensus(e.to_string()))
}
