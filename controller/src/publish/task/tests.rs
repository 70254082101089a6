//! The publisher against a store of one node: copies that differ are found and repaired, and a crash loop stays small.

use tempfile::TempDir;
use tradewind_api::{
    model::Health,
    store::{Blob, EndpointSummary, Export},
};
use tradewind_federation::{Budget, StoreConfig, Timing};
use tradewind_runtime::{TaskSet, clock, metrics::MetricsRegistry};

use super::*;
use crate::{
    local::tests::own,
    publish::tests::{intents, model, record},
    raft_net::NoPeers,
};

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    store: Store,
    local: watch::Sender<Arc<LocalModel>>,
    problems: watch::Receiver<Arc<Vec<String>>>,
    meters: Meters,
    _intents: watch::Sender<Arc<Intents>>,
    _registered: watch::Sender<Arc<Registered>>,
    _trigger: drain::Trigger,
    _tasks: TaskSet,
    _dir: TempDir,
}

fn service() -> ServiceName {
    "shop/payments".parse().unwrap()
}

/// Fifty endpoints, of which the first is as told.
fn fifty(first: Health) -> Arc<LocalModel> {
    let mut all = vec![("shop/payments", 80, Health::Healthy); 50];
    all[0].2 = first;
    Arc::new(LocalModel {
        read: true,
        ..model(&all)
    })
}

impl World {
    async fn start(budget: Budget, attest_every: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            data_dir: dir.path().join("store"),
            node_id: 1,
            cluster: own().cluster,
            timing: Timing::default(),
            budget,
            level: LEVEL,
        };
        let metrics = MetricsRegistry::new();
        let (clock, rng) = (clock::system(), Rng::seeded(1));
        let store = Store::open(config, Arc::new(NoPeers), clock, rng, &metrics)
            .await
            .unwrap();
        let found = Command::Found {
            domain: own().domain,
            root: Blob(vec![1]),
            cluster: record("west", "west"),
        };
        store.found(found).await.unwrap();
        let (local, seen) = watch::channel(fifty(Health::Healthy));
        let (intents_tx, intents) = watch::channel(Arc::new(intents(&[("shop/payments", true)])));
        let (registered_tx, registered) = watch::channel(Arc::new(Registered::default()));
        let input = PublishInput {
            store: store.clone(),
            own: own(),
            local: seen,
            intents,
            exports: Exports::open(dir.path()).unwrap(),
            registered,
            node_id: 1,
            address: None,
            siblings: siblings::Seen::alone(),
            speaking: watch::Sender::new(true),
            configured_gateways: vec![],
        };
        let (mut publisher, problems) = Publisher::new(input, Rng::seeded(2), &metrics);
        publisher.attest_every = attest_every;
        let meters = publisher.meters.clone();
        let (trigger, drain) = drain::channel();
        let mut tasks = TaskSet::new();
        tasks.spawn("publish", publisher.run(drain.observer()));
        Self {
            store,
            local,
            problems,
            meters,
            _intents: intents_tx,
            _registered: registered_tx,
            _trigger: trigger,
            _tasks: tasks,
            _dir: dir,
        }
    }

    fn published(&self) -> Option<Arc<Export>> {
        let catalog = self.store.catalog();
        catalog.export(&service(), &own().cluster).cloned()
    }

    async fn until(&self, what: &str, mut seen: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !seen(self) {
            assert!(
                Instant::now() < end,
                "{what} never came; {:?}, problems {:?}",
                self.meters,
                self.problems.borrow()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_differs_is_found_and_repaired() {
    // Often enough for a test, seldom enough that the word of it is seen before the next one takes it back.
    let world = World::start(Budget::default(), Duration::from_millis(500)).await;
    world
        .until("the export", |w| {
            w.published().is_some_and(|e| e.endpoints.len() == 50)
        })
        .await;
    world
        .until("a first comparison", |w| w.meters.attests.get() > 0)
        .await;
    assert_eq!(world.meters.mismatches.get(), 0);

    // The damage is done silently where the next entry is applied, which is that of a comparison.
    let store = &world.store;
    store.corrupt_export_for_tests(service(), own().cluster);
    world
        .until("a word of it", |w| {
            let problems = w.problems.borrow();
            problems.iter().any(|p| p.contains("published again whole"))
        })
        .await;
    assert_eq!(world.meters.mismatches.get(), 1);
    assert_eq!(world.meters.repairs.get(), 1);
    // After the repair the same node says that its copy is right.
    world
        .until("the copy is right", |w| w.store.status().differs.is_empty())
        .await;
    let export = world.published().expect("an export");
    assert_eq!(export.endpoints.len(), 50);
    // The next comparison finds nothing, and the word is taken back.
    world
        .until("no problem", |w| w.problems.borrow().is_empty())
        .await;
    assert_eq!(world.meters.mismatches.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_is_published_in_small_rounds_and_few() {
    let world = World::start(Budget::default(), ATTEST_EVERY).await;
    world.until("the export", |w| w.published().is_some()).await;
    let (rounds, changes) = (
        world.meters.rounds.get(),
        world.meters.endpoint_changes.get(),
    );
    // One of fifty endpoints comes and goes every few ms for three seconds.
    let start = Instant::now();
    let mut flaps = 0_u64;
    while start.elapsed() < Duration::from_secs(3) {
        let health = [Health::Healthy, Health::Unhealthy][usize::from(flaps.is_multiple_of(2))];
        world.local.send_replace(fifty(health));
        flaps += 1;
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    let took = start.elapsed();
    let rounds = world.meters.rounds.get() - rounds;
    let changes = world.meters.endpoint_changes.get() - changes;
    // The first goes at once; then there is one in each spacing at the most.
    let most = u64::try_from(took.as_millis() / SPACING.as_millis()).unwrap() + 2;
    assert!(
        flaps > 4 * most,
        "the loop is faster than the rounds: {flaps}"
    );
    assert!(rounds >= 3 && rounds <= most, "{rounds} of at most {most}");
    assert!(
        changes <= rounds,
        "one endpoint each: {changes} in {rounds}"
    );
    // The last word is heard all the same.
    world.local.send_replace(fifty(Health::Unhealthy));
    world
        .until("the last state", |w| {
            let export = w.published().expect("an export");
            let ill = |e: &&EndpointSummary| e.health == Health::Unhealthy;
            export.endpoints.values().filter(ill).count() == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_used_up_is_waited_for() {
    let budget = Budget {
        commands_per_s: 2.0,
        command_burst: 3.0,
        ..Budget::default()
    };
    let world = World::start(budget, ATTEST_EVERY).await;
    world.until("the export", |w| w.published().is_some()).await;
    // Each round takes one; the third or so has to wait for half a second.
    for flap in 0..2_000_u32 {
        let health = [Health::Healthy, Health::Unhealthy][usize::from(flap.is_multiple_of(2))];
        world.local.send_replace(fifty(health));
        let waits = |p: &String| p.contains("more than its share");
        if world.problems.borrow().iter().any(waits) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told = world.problems.borrow().clone();
    assert!(
        told.iter().any(|p| p.contains("more than its share")),
        "{told:?}"
    );
    // It asks no more often than it may, and what it has to say gets through.
    world.local.send_replace(fifty(Health::Unhealthy));
    let start = (Instant::now(), world.meters.rounds.get());
    world
        .until("the last state", |w| {
            let export = w.published().expect("an export");
            export
                .endpoints
                .values()
                .any(|e| e.health == Health::Unhealthy)
        })
        .await;
    world
        .until("no problem", |w| w.problems.borrow().is_empty())
        .await;
    let asked = world.meters.rounds.get() - start.1;
    let allowed = start.0.elapsed().as_millis() / 400 + 3;
    assert!(
        u128::from(asked) <= allowed,
        "{asked} rounds, {allowed} allowed"
    );
}
