//! A cluster with two controllers: the second one joins beside the first, and everything goes on when the first is killed.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde_json::Value;
use tokio::process::Command;
use tradewind_tests::{
    Federation, Process,
    federation::{ADMIN, CONTROLLER, PATIENT, THREE, host},
    http,
    process::{self, Output, tradewind},
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 2;
/// Where the second controller is.
const SECOND: u8 = 7;

/// The federation, and west's second controller.
struct World {
    federation: Federation,
    second_dir: PathBuf,
    _second: Process,
}

impl World {
    async fn start() -> Self {
        let mut federation = Federation::start(&THREE).await;
        let early = federation
            .cli(WEST, &["token", "create", "--controller"])
            .await;
        assert!(
            early.code != 0 && early.stderr.contains("--advertise"),
            "{early:?}"
        );
        // The first controller says where it is, as one must that is not to stay alone.
        restart_first(&mut federation).await;
        until("a token for a controller", USUAL, || async {
            let made = federation
                .cli(WEST, &["token", "create", "--controller"])
                .await;
            if made.code == 0 {
                Ok(())
            } else {
                Err(made.stderr)
            }
        })
        .await;
        let made = federation
            .cli(WEST, &["token", "create", "--controller"])
            .await;
        let token = made.good().stdout.trim().to_owned();
        let second_dir = federation.dir().join("west-2");
        let first = federation
            .addr(WEST, host::CONTROLLER, CONTROLLER)
            .to_string();
        let own = federation.addr(WEST, SECOND, CONTROLLER).to_string();
        let dir = second_dir.to_str().expect("a plain path").to_owned();
        let add = |token: String, dir: String| {
            let mut command = Command::new(tradewind());
            let rest = ["--advertise", &own, "--data-dir", &dir];
            command.args(["add-controller", &first, "--token", &token]);
            command.args(rest);
            process::finish(command)
        };
        add(token.clone(), dir.clone()).await.good();
        // It is good for one.
        let again = add(token, format!("{dir}-again")).await;
        assert_ne!(again.code, 0, "{}", again.stdout);
        assert!(!federation.dir().join("west-2-again").exists());
        let second = start_second(&federation, &dir);
        federation.ready(federation.addr(WEST, SECOND, ADMIN)).await;
        let mut world = Self {
            federation,
            second_dir,
            _second: second,
        };
        // The gateway knows both.
        let gateway = &mut world.federation.clusters[WEST].gateway;
        gateway.as_mut().expect("a gateway").kill().await;
        let both = world.both();
        let more = ["--controller", both.as_str()];
        let started =
            world
                .federation
                .start_gateway_at(WEST, host::GATEWAY, "gateway", "5s", &more);
        world.federation.clusters[WEST].gateway = Some(started);
        let admin = world.federation.addr(WEST, host::GATEWAY, ADMIN);
        world.federation.ready(admin).await;
        world
    }

    /// What a process on the first controller's host is told.
    fn both(&self) -> String {
        format!(
            "unix:{}/controller.sock,{}",
            self.federation.data_dir(WEST),
            self.federation.addr(WEST, SECOND, CONTROLLER)
        )
    }

    /// A command asked of the second controller.
    async fn second(&self, args: &[&str]) -> Output {
        let mut command = Command::new(tradewind());
        command
            .args(args)
            .env("TRADEWIND_DATA_DIR", &self.second_dir);
        process::finish(command).await
    }

    async fn second_json(&self, args: &[&str]) -> Value {
        self.second(&[args, &["-o", "json"]].concat())
            .await
            .good_or_problems()
    }

    /// Waits until the second controller says that this node publishes, and how the others are.
    async fn publishes(&self, node: u64) {
        until(&format!("node {node} to publish"), PATIENT, || async {
            let status = self.second_json(&["status"]).await;
            let controllers = status["controllers"].as_array().cloned();
            let controllers = controllers.unwrap_or_default();
            let speaks = controllers.iter().find(|c| c["speaks"] == true);
            if speaks.is_some_and(|c| c["node_id"] == node) {
                Ok(())
            } else {
                Err(status)
            }
        })
        .await;
    }
}

trait GoodOrProblems {
    fn good_or_problems(self) -> Value;
}

impl GoodOrProblems for Output {
    /// A status with problems ends with 1 and is one all the same.
    fn good_or_problems(self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or(Value::Null)
    }
}

fn start_second(federation: &Federation, dir: &str) -> Process {
    let listen = federation.addr(WEST, SECOND, CONTROLLER).to_string();
    let admin = federation.addr(WEST, SECOND, ADMIN).to_string();
    let args = [
        "controller",
        "--data-dir",
        dir,
        "--listen",
        &listen,
        "--admin-listen",
        &admin,
    ];
    federation.process(WEST, "controller-2", &args)
}

async fn restart_first(federation: &mut Federation) {
    if let Some(running) = &mut federation.clusters[WEST].controller {
        running.kill().await;
    }
    let address = federation
        .addr(WEST, host::CONTROLLER, CONTROLLER)
        .to_string();
    federation.start_controller_with(WEST, &["--advertise", &address]);
    let admin = federation.addr(WEST, host::CONTROLLER, ADMIN);
    federation.ready(admin).await;
}

/// Calls in a loop until it is dropped, and counts what failed.
struct Calls {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Calls {
    fn start(address: std::net::SocketAddr) -> Self {
        let calls = Self {
            stop: Arc::default(),
            made: Arc::default(),
            failed: Arc::default(),
        };
        let (stop, made) = (Arc::clone(&calls.stop), Arc::clone(&calls.made));
        let failed = Arc::clone(&calls.failed);
        tradewind_runtime::task::spawn("calls", async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = http::get(address, "/").await;
                let good = answer.is_ok_and(|a| a.ok().is_ok());
                made.fetch_add(1, Ordering::Relaxed);
                failed.fetch_add(u64::from(!good), Ordering::Relaxed);
            }
        });
        calls
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (made, failed) = (&self.made, &self.failed);
        assert!(made.load(Ordering::Relaxed) > 10, "there were calls");
        assert_eq!(failed.load(Ordering::Relaxed), 0, "calls failed");
    }
}

/// What is registered at the first one is known to the second.
async fn the_second_knows_the_workload(world: &World) {
    until(
        "the second controller knows the workload",
        USUAL,
        || async {
            let seen = world.second_json(&["endpoints", "shop/payments"]).await;
            let all = seen["endpoints"].as_array().map_or(0, Vec::len);
            if all == 1 { Ok(()) } else { Err(seen) }
        },
    )
    .await;
}

/// One check of `tradewind check` at the second controller: its result and message, and the command's exit code.
async fn checked(world: &World, id: &str) -> (String, String, i32) {
    let told = world.second(&["check", "-o", "json"]).await;
    let code = told.code;
    let found = told.json();
    let categories = found["categories"].as_array().into_iter().flatten();
    let mut all = categories.flat_map(|c| c["checks"].as_array().into_iter().flatten());
    let one = all.find(|one| one["id"] == id).expect("the check");
    let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    (text("result"), text("message"), code)
}

/// Both are named, and the one that publishes.
async fn both_are_well(world: &World, speaker: u64) {
    let addresses = [host::CONTROLLER, SECOND].map(|host| {
        let address = world.federation.addr(WEST, host, CONTROLLER);
        address.to_string()
    });
    until("the check finds both controllers", PATIENT, || async {
        let (result, message, code) = checked(world, "controllers-heard").await;
        let named = addresses.iter().all(|address| message.contains(address));
        let heard = message.contains("node 1 at ") && message.contains(" s ago");
        if (result.as_str(), code) == ("ok", 0) && named && heard {
            Ok(())
        } else {
            Err((result, message, code))
        }
    })
    .await;
    // A leader may be elected anew at any time, where processors are busy.
    until("both follow the store", PATIENT, || async {
        let (result, message, _) = checked(world, "controllers-follow").await;
        let follows = |node: u64| message.contains(&format!("node {node} "));
        let all = follows(1) && follows(4) && message.contains("with leader");
        (result == "ok" && all).then_some(()).ok_or(message)
    })
    .await;
    until("one publishes", PATIENT, || async {
        let (result, message, _) = checked(world, "controllers-speaker").await;
        let named = message.starts_with(&format!("node {speaker} at "));
        (result == "ok" && named).then_some(()).ok_or(message)
    })
    .await;
}

/// The second one is the last that is left, and says so.
async fn the_first_is_missed(world: &World) {
    until("the check misses the first controller", PATIENT, || async {
        let (result, message, code) = checked(world, "controllers-heard").await;
        let told = message.starts_with("node 1 at ")
            && message.contains(" is away for ")
            && message.contains("None is left beside it: node 4 at ");
        if (result.as_str(), code) == ("error", 1) && told {
            Ok(())
        } else {
            Err((result, message, code))
        }
    })
    .await;
}

/// However many controllers a cluster has.
async fn one_vote_a_cluster(world: &World) {
    until("one vote a cluster", PATIENT, || async {
        let seen = world
            .federation
            .cli(EAST, &["store", "peers", "-o", "json"])
            .await;
        let peers: Value = serde_json::from_str(&seen.stdout).map_err(|_| seen.stderr)?;
        let nodes = peers["peers"].as_array().into_iter().flatten();
        let west: Vec<_> = nodes.filter(|p| p["cluster"] == "west").collect();
        let votes = west.iter().filter(|p| p["role"] != "learner").count();
        if (west.len(), votes) == (2, 1) {
            Ok(())
        } else {
            Err(peers.to_string())
        }
    })
    .await;
}

async fn each_change_was_published_once(world: &World) {
    let audit = world.federation.json(EAST, &["audit"]).await;
    let entries = audit["entries"].as_array().cloned().unwrap_or_default();
    let count = |action: &str, subject: &str| {
        let same = |e: &&Value| e["action"] == action && e["subject"] == subject;
        entries.iter().filter(same).count()
    };
    assert_eq!(count("export", "shop/payments"), 1, "{audit}");
    assert_eq!(count("unexport", "shop/payments"), 0, "{audit}");
    assert_eq!(count("export", "shop/orders"), 1, "{audit}");
    assert_eq!(count("unexport", "shop/orders"), 1, "{audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_when_the_first_of_its_two_controllers_is_killed() {
    let mut world = World::start().await;
    let both = world.both();
    let more = ["--controller", both.as_str()];
    let federation = &world.federation;
    let _payments = federation
        .workload_with(WEST, 1, "shop/payments:80", &more)
        .await;
    federation.export(WEST, "shop/payments").await;
    federation.sees(EAST, "shop/payments", 1).await;
    let (_caller, from_east) = federation.caller(EAST, 0, "shop/payments:80").await;
    let (_west, to_east) = federation
        .caller_with(WEST, 0, "shop/ledger:80", &more)
        .await;
    until("an answer from west", USUAL, || async {
        http::get(from_east, "/").await?.ok()
    })
    .await;
    world.publishes(1).await;
    the_second_knows_the_workload(&world).await;
    one_vote_a_cluster(&world).await;
    both_are_well(&world, 1).await;

    let calls = Calls::start(from_east);
    let first = &mut world.federation.clusters[WEST].controller;
    first.as_mut().expect("a controller").kill().await;
    *first = None;
    let second_node = 4;
    world.publishes(second_node).await;
    the_first_is_missed(&world).await;
    world.federation.sees(EAST, "shop/payments", 1).await;

    // A workload that knows the second one alone gets a certificate there, below its own authority, and is published.
    let token = world
        .second(&["token", "create", "--workload", "shop/payments"])
        .await;
    let token = token.good().stdout.trim().to_owned();
    let second_at = world.federation.addr(WEST, SECOND, CONTROLLER).to_string();
    let alone = ["--controller", &second_at, "--token", &token];
    let _another = world
        .federation
        .workload_with(WEST, 2, "shop/payments:80", &alone)
        .await;
    world.federation.sees(EAST, "shop/payments", 2).await;
    until("an answer from the new workload", USUAL, || async {
        let answer = http::get(from_east, "/").await?.ok()?;
        let text = answer.text();
        if text.ends_with("west/2") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    // Proxies that were with the first one hear of what is new elsewhere.
    let _ledger = world.federation.workload(EAST, 3, "shop/ledger:80").await;
    world.federation.export(EAST, "shop/ledger").await;
    until("an answer from the ledger", USUAL, || async {
        http::get(to_east, "/").await?.ok()
    })
    .await;
    // And what operators say is said to the second one.
    let beside = format!("unix:{}/controller.sock", world.second_dir.display());
    let _orders = world
        .federation
        .workload_with(WEST, 4, "shop/orders:80", &["--controller", &beside])
        .await;
    world.second(&["export", "shop/orders"]).await.good();
    world.federation.sees(EAST, "shop/orders", 1).await;

    // The first one comes back: nothing changes hands, and it knows what was said meanwhile.
    restart_first(&mut world.federation).await;
    world.federation.is_well(WEST).await;
    world.publishes(second_node).await;
    both_are_well(&world, second_node).await;
    let unexported = world
        .federation
        .cli(WEST, &["unexport", "shop/orders"])
        .await;
    unexported.good();
    until("the orders are exported no more", USUAL, || async {
        let seen = world
            .federation
            .cli(EAST, &["endpoints", "shop/orders"])
            .await;
        if seen.code == 1 {
            Ok(())
        } else {
            Err(seen.stdout)
        }
    })
    .await;
    calls.end();
    each_change_was_published_once(&world).await;
}
