//! How long one change takes until every cluster of a large federation holds it, in simulated time: the real store of each
//! cluster over lines and disks with stated delays, one node a cluster, no faults. One endpoint changes after another;
//! for each it is noted when its proposer is answered and when each store shows it.
//!
//! All nodes live on one runtime whose clock stands still while anybody works: what work costs does not show in these
//! times. It owns the federation it makes, and checks nothing but that every change arrives.

mod figures;
mod line;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures::future::join_all;
use openraft::ServerState;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tradewind_api::{
    ClusterName, Domain, EndpointId, NodeId, Region, ServiceName, Zone,
    model::{AppProtocol, Health, ServiceKind, ServicePort},
    store::{Blob, ClusterRecord, Command, EndpointSummary, Export, LEVEL, Outcome},
};
use tradewind_runtime::{MetricsRegistry, Rng, TaskSet};

pub use self::figures::Found;
use self::{
    figures::{Cpu, Times},
    line::{Hub, Line, REGIONS},
};
use super::{host, medium::SimMedium, world::SimClock};
use crate::{
    Budget, Catalog, Store, StoreConfig, Timing,
    membership::MAX_VOTERS,
    store::{Compaction, Ground},
};

/// What every sync of every disk takes: a plain SSD in a virtual machine.
pub(crate) const SYNC: Duration = Duration::from_millis(4);
/// How long the federation may take to come about, and a change to reach everybody.
const DEADLINE: Duration = Duration::from_secs(300);
/// Between two looks whether something came about; finer would show nothing, timers count milliseconds.
const LOOK: Duration = Duration::from_millis(1);
/// The pause before a change: everything before it has ended, and it falls anywhere between two heartbeats.
const PAUSE_MS: (u64, u64) = (400, 200);
/// How long nothing is written, for the cost of that.
const QUIET: Duration = Duration::from_secs(20);
/// Simulated time in one go of the simulation; only its length in all matters.
const TICK: Duration = Duration::from_secs(1);
/// Simulated time after which something hangs.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// Clusters that export the same service, as in `bench scale`.
const EXPORTERS: usize = 5;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// From which all is drawn.
    pub seed: u64,
    /// Clusters, one node each.
    pub clusters: usize,
    /// Services that each exports.
    pub exports: usize,
    /// Endpoints of each.
    pub endpoints: usize,
    /// Changes, one after another.
    pub changes: usize,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            seed: 1,
            clusters: 100,
            exports: 10,
            endpoints: 10,
            changes: 200,
        }
    }
}

/// Makes the federation and measures. `root` is an empty directory for the nodes.
pub fn run(wish: &Wish, root: &Path) -> Result<Found, String> {
    let mut sim = turmoil::Builder::new()
        .epoch(SystemTime::UNIX_EPOCH)
        .rng_seed(wish.seed)
        .tick_duration(TICK)
        .simulation_duration(LONGEST)
        .build();
    let found = Arc::new(Mutex::new(None));
    let (wish, root, out) = (*wish, root.to_owned(), Arc::clone(&found));
    sim.client("federation", async move {
        let measured = Box::pin(measure(wish, &root)).await;
        *out.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
        Ok(())
    });
    sim.run().map_err(|e| e.to_string())?;
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    let nothing = || Err("the simulation ended early".to_owned());
    found.take().unwrap_or_else(nothing)
}

async fn measure(wish: Wish, root: &Path) -> Result<Found, String> {
    let mut federation = Federation::found(wish, root).await?;
    federation.admit_all(root).await?;
    federation.export_all().await?;
    let started = Instant::now();
    let cpu = [Cpu::now(), {
        sleep(QUIET).await;
        Cpu::now()
    }];
    let quiet = Cpu::between(cpu, started.elapsed());
    let (before, started, cpu) = (federation.hub.tally(), Instant::now(), Cpu::now());
    let mut changes = Vec::with_capacity(wish.changes);
    for round in 0..wish.changes {
        changes.push(federation.change(round).await?);
    }
    let took = started.elapsed();
    let cpu = Cpu::between([cpu, Cpu::now()], took);
    let sent = line::between(&before, &federation.hub.tally());
    let voters = federation.voters();
    federation.hub.close();
    Ok(Found {
        wish,
        voters,
        changes,
        sent,
        took,
        cpu: [quiet, cpu],
    })
}

/// The newest revision each store shows, and since when.
type Arrivals = Arc<Mutex<Vec<(u64, Instant)>>>;

struct Federation {
    wish: Wish,
    hub: Arc<Hub>,
    clusters: Vec<ClusterName>,
    stores: Vec<Store>,
    arrivals: Arrivals,
    watching: TaskSet,
    rng: Rng,
}

impl Federation {
    async fn found(wish: Wish, root: &Path) -> Result<Self, String> {
        let name = |number| ClusterName::new(&format!("cluster-{number:04}"));
        let clusters: Result<Vec<ClusterName>, _> = (0..wish.clusters).map(name).collect();
        let clusters = clusters.map_err(|e| e.to_string())?;
        let regions = clusters.iter().enumerate();
        let regions = regions.map(|(at, c)| (c.clone(), at % REGIONS)).collect();
        let mut this = Self {
            wish,
            hub: Arc::new(Hub::new(regions)),
            clusters,
            stores: Vec::new(),
            arrivals: Arc::default(),
            watching: TaskSet::new(),
            rng: Rng::seeded(wish.seed),
        };
        this.open(root, 1).await?;
        let mut cluster = this.record(0)?;
        cluster.nodes.insert(1);
        let command = Command::Found {
            domain: Domain::default(),
            root: Blob(vec![0; 400]),
            cluster,
        };
        let founded = this.store(0)?.found(command).await;
        done(founded.map_err(|e| e.to_string())?)?;
        Ok(this)
    }

    fn cluster(&self, at: usize) -> Result<&ClusterName, String> {
        let missing = || format!("there is no cluster {at}");
        self.clusters.get(at).ok_or_else(missing)
    }

    fn store(&self, at: usize) -> Result<&Store, String> {
        let missing = || format!("there is no store {at}");
        self.stores.get(at).ok_or_else(missing)
    }

    fn record(&self, at: usize) -> Result<ClusterRecord, String> {
        let region = format!("region-{}", at % REGIONS);
        Ok(ClusterRecord {
            region: Region::new(&region).map_err(|e| e.to_string())?,
            ..host::record(self.cluster(at)?)
        })
    }

    /// Starts the next cluster's node.
    async fn open(&mut self, root: &Path, node_id: NodeId) -> Result<(), String> {
        let at = self.stores.len();
        let cluster = self.cluster(at)?.clone();
        let dir = root.join(format!("node-{node_id}"));
        let config = StoreConfig {
            data_dir: dir.clone(),
            node_id,
            cluster: cluster.clone(),
            timing: Timing::default(),
            budget: Budget::default(),
            level: LEVEL,
        };
        let medium = SimMedium::steady(dir, self.rng.fork(), SYNC);
        let ground = Ground {
            medium: Arc::new(medium),
            compaction: Compaction::default(),
        };
        let line = Line {
            hub: Arc::clone(&self.hub),
            own: cluster,
        };
        let chances = (Arc::new(SimClock::new()) as _, self.rng.fork());
        let metrics = MetricsRegistry::new();
        let store = Store::open_on(config, ground, Arc::new(line), chances, &metrics).await;
        let store = store.map_err(|e| e.to_string())?;
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.push((0, Instant::now()));
        let noting = note(Arc::clone(&self.arrivals), at, store.watch());
        self.watching.spawn("sim-arrivals", noting);
        self.hub.is_up(node_id, store.clone());
        drop(arrivals);
        self.stores.push(store);
        Ok(())
    }

    async fn propose(&self, at: usize, command: Command) -> Result<Outcome, String> {
        let proposed = self.store(at)?.propose(self.cluster(at)?, command).await;
        proposed.map_err(|e| e.to_string())
    }

    /// Everybody joins, and the leader makes of them as many voters as there should be.
    async fn admit_all(&mut self, root: &Path) -> Result<(), String> {
        for at in 1..self.clusters.len() {
            let token_id = format!("token-{at}");
            let put = Command::PutToken(host::token(&token_id));
            done(self.propose(0, put).await?)?;
            let join = Command::Join {
                token_id: token_id.clone(),
                cluster: self.record(at)?,
            };
            match self.propose(0, join).await? {
                Outcome::Joined { node_id, .. } => self.open(root, node_id).await?,
                other => return Err(format!("cluster {at} cannot join: {other:?}")),
            }
            done(self.propose(0, Command::RevokeToken(token_id)).await?)?;
            // The first ones one by one: of many at once the nearest are ready first, and would be all who vote.
            if at < MAX_VOTERS {
                self.until("a cluster is taken up", Self::settled).await?;
            }
        }
        self.until("everybody is taken up", Self::settled).await
    }

    /// The leader took up all who joined, and as many of them vote as there should.
    fn settled(&self) -> bool {
        let Some(founder) = self.stores.first() else {
            return false;
        };
        let all = self.stores.len();
        let most = all.min(MAX_VOTERS);
        let voters = if most > 2 {
            most - (most + 1) % 2
        } else {
            most
        };
        let metrics = founder.raft_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        metrics.state == ServerState::Leader
            && membership.nodes().count() == all
            && membership.get_joint_config().len() == 1
            && membership.voter_ids().count() == voters
    }

    /// Voters in each region.
    fn voters(&self) -> [usize; REGIONS] {
        let status = self.stores.first().map(Store::status);
        let voters = status.map(|status| status.voters).unwrap_or_default();
        let mut regions = [0; REGIONS];
        for (at, store) in self.stores.iter().enumerate() {
            if voters.contains(&store.status().node_id)
                && let Some(voters) = regions.get_mut(at % REGIONS)
            {
                *voters += 1;
            }
        }
        regions
    }

    async fn export_all(&self) -> Result<(), String> {
        for at in 0..self.clusters.len() {
            let puts = (0..self.wish.exports).map(|number| async move {
                let export = self.export(at, number)?;
                done(self.propose(at, Command::PutExport(export)).await?)
            });
            for put in join_all(puts).await {
                put?;
            }
        }
        let even = |this: &Self| {
            let first = this.stores.first().map(Store::catalog);
            let same = |store: &Store| Some(store.catalog()) == first;
            this.stores.iter().all(same)
        };
        sleep(QUIET).await;
        self.until("all catalogs are the same", even).await
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        let until = Instant::now() + DEADLINE;
        while !holds(self) {
            if Instant::now() > until {
                return Err(format!("not within {DEADLINE:?}: {what}"));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn service(&self, cluster: usize, number: usize) -> Result<ServiceName, String> {
        let services = (self.wish.clusters * self.wish.exports).div_ceil(EXPORTERS);
        let number = (cluster * self.wish.exports + number) % services.max(1);
        let name = format!("team-{:03}/service-{number:05}", number % 200);
        name.parse().map_err(|e| format!("{name}: {e}"))
    }

    fn export(&self, cluster: usize, number: usize) -> Result<Export, String> {
        let mut endpoints = BTreeMap::new();
        for place in 0..self.wish.endpoints {
            endpoints.insert(endpoint_id(cluster, place)?, endpoint(100)?);
        }
        Ok(Export {
            service: self.service(cluster, number)?,
            created_at_ms: 1_700_000_000_000,
            kind: ServiceKind::ClusterSetIp,
            ports: vec![ServicePort {
                name: "http".to_owned(),
                port: 8080,
                app_protocol: AppProtocol::Detect,
            }],
            endpoints,
            rules: None,
            spec: None,
        })
    }

    /// One endpoint of some cluster changes its weight; waits until every store shows it.
    async fn change(&mut self, round: usize) -> Result<Times, String> {
        let (least, spread) = PAUSE_MS;
        let pause = least + self.rng.below(spread);
        let mut draw = |len| self.rng.index(len).ok_or("nothing to draw from");
        let at = draw(self.wish.clusters)?;
        let number = draw(self.wish.exports)?;
        let place = draw(self.wish.endpoints)?;
        let weight = 101 + u32::try_from(round).map_err(|e| e.to_string())?;
        let command = Command::PatchExport {
            service: self.service(at, number)?,
            upsert: BTreeMap::from([(endpoint_id(at, place)?, endpoint(weight)?)]),
            remove: BTreeSet::new(),
        };
        sleep(Duration::from_millis(pause)).await;
        let start = Instant::now();
        let outcome = self.propose(at, command).await?;
        let answered = start.elapsed();
        let Outcome::Done {
            revision,
            changed: true,
        } = outcome
        else {
            return Err(format!("change {round} did nothing: {outcome:?}"));
        };
        let arrivals = Arc::clone(&self.arrivals);
        let now = || {
            let arrivals = arrivals.lock();
            arrivals.unwrap_or_else(PoisonError::into_inner).clone()
        };
        let shown = |_: &Self| now().iter().all(|(shown, _)| *shown >= revision);
        self.until("a change is everywhere", shown).await?;
        let now = now();
        if now.iter().any(|(shown, _)| *shown != revision) {
            return Err(format!("something else was written beside change {round}"));
        }
        let held = now.iter().map(|(_, at)| at.duration_since(start)).collect();
        Ok(Times {
            region: at % REGIONS,
            answered,
            held,
        })
    }
}

/// Keeps the time of the newest catalog of the store at place `at`.
async fn note(arrivals: Arrivals, at: usize, mut catalog: watch::Receiver<Arc<Catalog>>) {
    while catalog.changed().await.is_ok() {
        let revision = catalog.borrow_and_update().revision;
        let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(arrival) = arrivals.get_mut(at) {
            *arrival = (revision, Instant::now());
        }
    }
}

fn done(outcome: Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Done { .. } | Outcome::Joined { .. } => Ok(()),
        Outcome::Refused(refusal) => Err(refusal.to_string()),
    }
}

fn endpoint_id(cluster: usize, number: usize) -> Result<EndpointId, String> {
    // As long as a pod's generated name.
    EndpointId::new(&format!("service-7d9c5b8f4-{cluster:03}x{number:02}"))
        .map_err(|e| e.to_string())
}

fn endpoint(weight: u32) -> Result<EndpointSummary, String> {
    Ok(EndpointSummary {
        zone: Some(Zone::new("eu-central-1a").map_err(|e| e.to_string())?),
        weight,
        health: Health::Healthy,
        account: "/ns/team-001/sa/service".to_owned(),
        hostname: None,
        labels: tradewind_api::traffic::Labels::new(),
        address: None,
        ports: vec![8080],
    })
}
