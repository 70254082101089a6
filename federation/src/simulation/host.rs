//! What runs on a simulated host: the node of its cluster, while it has a seat, and the clients beside it. A crash ends
//! all of it at once; the next boot starts from what the disk kept.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tradewind_api::{
    ClusterName, Domain, Network, Region,
    model::{AppProtocol, ClusterState, ServiceKind, ServicePort},
    store::{Blob, ClusterRecord, Command, Export, LEVEL, Outcome, Refusal, TokenRecord},
};
use tradewind_runtime::{MetricsRegistry, Rng, TaskSet};

use super::{
    checker::{Action, Value},
    trust::Trust,
    wire::{self, Wire},
    world::{Errand, KEYS, Key, Phase, Seat, Shared},
};
use crate::{
    Budget, Catalog, ProposeError, Store, StoreConfig, StoreError, Timing,
    store::{Compaction, Ground},
};

/// Between two looks at what the driver wants.
const LOOK: Duration = Duration::from_millis(20);
/// How long a node that no longer belongs here takes to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// The key that is written once everything is healed.
const LAST_KEY: u8 = KEYS - 1;

/// The life of a host.
pub(crate) async fn live(
    shared: Shared,
    cluster: ClusterName,
    compaction: Compaction,
) -> turmoil::Result {
    loop {
        if let Some(seat) = shared.seat(&cluster) {
            let run = node(&shared, &cluster, &seat, compaction).await;
            if let Err(error) = run {
                // Nothing that a crash leaves behind may keep a node from starting.
                shared.fail(format!("{cluster} does not start again: {error}"));
                return Ok(());
            }
        }
        sleep(LOOK).await;
    }
}

async fn node(
    shared: &Shared,
    cluster: &ClusterName,
    seat: &Seat,
    compaction: Compaction,
) -> Result<(), StoreError> {
    let boot = shared.place(cluster, |place| {
        place.boots += 1;
        (place.boots, place.clock.clone())
    });
    let Some((boot, clock)) = boot else {
        return Ok(());
    };
    let rng = |what: &str| {
        let purpose = format!("{what} of {cluster}, boot {boot}");
        shared.lock().rng(&purpose)
    };
    shared.note(format_args!("{cluster} boots node {}", seat.node_id));
    let config = StoreConfig {
        data_dir: seat.dir.clone(),
        node_id: seat.node_id,
        cluster: cluster.clone(),
        timing: Timing::default(),
        budget: Budget::default(),
        level: LEVEL,
    };
    let ground = Ground {
        medium: Arc::new(seat.medium.clone()),
        compaction,
    };
    let trust = Trust::new(shared.clone(), cluster.clone());
    let way_out = Arc::new(Wire {
        shared: shared.clone(),
        own: cluster.clone(),
        me: seat.node_id,
        trust: trust.clone(),
    });
    let chances = (Arc::new(clock) as _, rng("store"));
    let metrics = MetricsRegistry::new();
    let store =
        Store::open_on(config, ground, Arc::clone(&way_out) as _, chances, &metrics).await?;
    shared.place(cluster, |place| place.store = Some(store.clone()));
    let mut tasks = TaskSet::new();
    let serving = wire::serve(shared.clone(), seat.clone(), store.clone(), trust.clone());
    tasks.spawn("sim-serve", serving);
    let keeping = trust.clone().keep(store.clone(), rng("keeping"));
    tasks.spawn("sim-keep", keeping);
    let introducing = trust.introduce(store.clone(), way_out, seat.node_id, rng("introductions"));
    tasks.spawn("sim-introduce", introducing);
    let client = |what: &str| Client {
        shared: shared.clone(),
        own: cluster.clone(),
        store: store.clone(),
        rng: rng(what),
    };
    if seat.node_id == 1 {
        tasks.spawn("sim-found", client("founder").found());
    }
    tasks.spawn("sim-writer", client("first writer").write(&[0, 1]));
    tasks.spawn("sim-writer", client("second writer").write(&[2]));
    tasks.spawn("sim-reader", client("reader").read());
    tasks.spawn("sim-errands", client("errands").run_errands());
    let stays = || {
        let now = shared.seat(cluster);
        now.is_some_and(|now| now.node_id == seat.node_id)
    };
    while stays() {
        sleep(LOOK).await;
    }
    shared.place(cluster, |place| place.store = None);
    tasks.abort_all().await;
    drop(timeout(STOP_DEADLINE, store.shutdown()).await);
    Ok(())
}

struct Client {
    shared: Shared,
    own: ClusterName,
    store: Store,
    rng: Rng,
}

impl Client {
    async fn pause(&mut self, most_ms: u64) {
        let pause = Duration::from_millis(1 + self.rng.below(most_ms));
        sleep(pause).await;
    }

    async fn found(self) {
        while !self.store.catalog().is_founded() {
            let mut founder = record(&self.own);
            founder.nodes.insert(1);
            let command = Command::Found {
                domain: Domain::default(),
                root: Blob(vec![1]),
                cluster: founder,
            };
            let founded = self.store.found(command).await;
            self.shared
                .note(format_args!("{}: founding: {founded:?}", self.own));
            sleep(LOOK).await;
        }
    }

    /// Writes some registers, one operation after another, and once more when everything is healed.
    async fn write(mut self, keys: &'static [u8]) {
        loop {
            self.pause(220).await;
            if self.store.catalog().member(&self.own).is_none() {
                continue;
            }
            match self.shared.phase() {
                Phase::Faults => {
                    let key = self.rng.index(keys.len()).and_then(|at| keys.get(at));
                    let key = key.copied().unwrap_or_default();
                    match self.rng.below(100) {
                        0..70 => drop(self.put(key).await),
                        70..84 => self.remove(key).await,
                        _ => self.other().await,
                    }
                }
                // One of the two is enough.
                Phase::Settle if keys.contains(&0) => {
                    let done = self.shared.place(&self.own, |place| place.done);
                    if done == Some(false) && self.put(LAST_KEY).await {
                        self.shared.place(&self.own, |place| place.done = true);
                    }
                }
                Phase::Settle | Phase::Compare | Phase::Read => {}
            }
        }
    }

    async fn put(&self, key: u8) -> bool {
        let value = Some(self.shared.fresh_value());
        let key = (self.own.clone(), key);
        let operation = self.shared.called(key.clone(), Action::Write(value));
        let put = self.store.propose(&self.own, export(&key, value));
        match put.await {
            Ok(Outcome::Done { .. }) => {
                self.shared.returned(operation, Action::Write(value));
                true
            }
            Ok(outcome) => {
                let why = format!("{outcome:?}");
                self.shared.came_to_nothing(operation, &why);
                false
            }
            Err(error) => {
                self.failed(operation, &error);
                false
            }
        }
    }

    async fn remove(&self, key: u8) {
        let key = (self.own.clone(), key);
        let operation = self.shared.called(key.clone(), Action::Write(None));
        let Some(service) = service(&key) else { return };
        let removed = self
            .store
            .propose(&self.own, Command::RemoveExport(service));
        match removed.await {
            Ok(Outcome::Done { .. }) => self.shared.returned(operation, Action::Write(None)),
            Ok(Outcome::Refused(Refusal::NotExported { .. })) => {
                self.shared.returned(operation, Action::Read(None));
            }
            Ok(outcome) => {
                let why = format!("{outcome:?}");
                self.shared.came_to_nothing(operation, &why);
            }
            Err(error) => self.failed(operation, &error),
        }
    }

    fn failed(&self, operation: usize, error: &ProposeError) {
        if error.is_unknown() {
            self.shared
                .note(format_args!("operation {operation}: {error}"));
        } else {
            self.shared.came_to_nothing(operation, &error.to_string());
        }
    }

    /// Whatever else clusters write, so that the log holds all of it.
    async fn other(&mut self) {
        let number = self.rng.below(1_000);
        let command = match self.rng.below(5) {
            0 => Command::RenewLease,
            1 => Command::Announce {
                gateways: vec![format!("{}.example:{}", self.own, 10_000 + number)],
                version: format!("0.1.{number}"),
                level: LEVEL,
            },
            2 => Command::PutToken(token(&format!("spare-{number}"))),
            3 => Command::RevokeToken(format!("spare-{}", number / 10)),
            _ => {
                let names: Vec<ClusterName> = self.shared.lock().places.keys().cloned().collect();
                let Some(cluster) = self.rng.index(names.len()).and_then(|at| names.get(at)) else {
                    return;
                };
                Command::SetDraining {
                    cluster: cluster.clone(),
                    draining: number.is_multiple_of(2),
                }
            }
        };
        let done = self.store.propose(&self.own, command.clone()).await;
        self.shared
            .note(format_args!("{}: {command:?}: {done:?}", self.own));
    }

    async fn read(mut self) {
        let mut next = 0;
        loop {
            self.pause(350).await;
            let keys = all_keys(&self.shared);
            match self.shared.phase() {
                Phase::Faults => {
                    let key = self.rng.index(keys.len()).and_then(|at| keys.get(at));
                    if let Some(key) = key {
                        self.read_one(key).await;
                    }
                }
                Phase::Settle | Phase::Compare => {}
                Phase::Read => match keys.get(next) {
                    Some(key) => next += usize::from(self.read_one(key).await),
                    None => drop(self.shared.place(&self.own, |place| place.done = true)),
                },
            }
        }
    }

    async fn read_one(&self, key: &Key) -> bool {
        let operation = self.shared.called(key.clone(), Action::Read(None));
        match self.store.linearizable().await {
            Ok(catalog) => {
                let seen = Action::Read(value_in(&catalog, key));
                self.shared.returned(operation, seen);
                true
            }
            Err(error) => {
                self.shared.came_to_nothing(operation, &error.to_string());
                false
            }
        }
    }

    async fn run_errands(self) {
        loop {
            sleep(LOOK).await;
            let errand = self.shared.place(&self.own, |place| place.errand.take());
            match errand.flatten() {
                None => {}
                Some(Errand::Admit(joiner)) => self.admit(&joiner).await,
                Some(Errand::Leave) => self.leave().await,
            }
        }
    }

    async fn admit(&self, joiner: &ClusterName) {
        let token_id = format!("token-{}", self.shared.fresh_value());
        let put = Command::PutToken(token(&token_id));
        let put = self.store.propose(&self.own, put).await;
        let join = Command::Join {
            token_id,
            cluster: record(joiner),
        };
        let joined = self.store.propose(&self.own, join).await;
        self.shared.note(format_args!(
            "{}: admits {joiner}: {put:?}, {joined:?}",
            self.own
        ));
    }

    /// Leaving withdraws everything.
    async fn leave(&self) {
        let withdraw = |key| {
            let key = (self.own.clone(), key);
            self.shared.called(key, Action::Write(None))
        };
        let operations: Vec<usize> = (0..KEYS).map(withdraw).collect();
        let left = self.store.propose(&self.own, Command::Leave).await;
        for operation in operations {
            match &left {
                Ok(Outcome::Done { .. }) => self.shared.returned(operation, Action::Write(None)),
                Ok(outcome) => {
                    let why = format!("{outcome:?}");
                    self.shared.came_to_nothing(operation, &why);
                }
                Err(error) => self.failed(operation, error),
            }
        }
    }
}

fn all_keys(shared: &Shared) -> Vec<Key> {
    let world = shared.lock();
    let clusters = world.places.keys();
    clusters
        .flat_map(|c| (0..KEYS).map(move |key| (c.clone(), key)))
        .collect()
}

fn service(key: &Key) -> Option<tradewind_api::ServiceName> {
    format!("shop/k{}", key.1).parse().ok()
}

/// What a register holds in `catalog`.
pub(crate) fn value_in(catalog: &Catalog, key: &Key) -> Value {
    let export = catalog.export(&service(key)?, &key.0)?;
    Some(export.created_at_ms)
}

fn export(key: &Key, value: Value) -> Command {
    let Some(service) = service(key) else {
        return Command::RenewLease;
    };
    Command::PutExport(Export {
        service,
        created_at_ms: value.unwrap_or_default(),
        kind: ServiceKind::ClusterSetIp,
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            app_protocol: AppProtocol::Detect,
        }],
        endpoints: BTreeMap::new(),
        rules: None,
        spec: None,
    })
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

#[expect(
    clippy::expect_used,
    reason = "constants that the api crate's own tests accept"
)]
pub(super) fn record(cluster: &ClusterName) -> ClusterRecord {
    ClusterRecord {
        name: cluster.clone(),
        region: Region::new("r1").expect("a region"),
        network: Network::new(cluster.as_str()).expect("a network"),
        gateways: vec![format!("{cluster}.example:15443")],
        state: ClusterState::Active,
        nodes: std::collections::BTreeSet::new(),
        authorities: std::collections::BTreeSet::from([Blob(cluster.as_str().as_bytes().to_vec())]),
        version: "0.1.0".to_owned(),
        joined_at_ms: 0,
        lease_at_ms: 0,
        level: LEVEL,
        witness: false,
    }
}
