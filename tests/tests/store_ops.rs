//! What an operator does with the store, on real processes: who holds it, moving votes and the lead, snapshots, and the
//! ways back after one node's store is lost, and after a majority of them.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a test's helpers fail by panicking, and a drill reads from its beginning to its end"
)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;
use tradewind_tests::{
    Federation,
    federation::{ADMIN, PATIENT, THREE, host},
    http, process,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const CENTRAL: usize = 1;
const EAST: usize = 2;

/// Waits until `peers` of cluster `ask` satisfies `holds`, and gives it.
async fn peers(
    federation: &Federation,
    ask: usize,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    until(what, PATIENT, || async {
        let seen = federation
            .cli(ask, &["store", "peers", "--stale", "-o", "json"])
            .await;
        let json: Value = serde_json::from_str(&seen.stdout).map_err(|_| seen.stderr.clone())?;
        if holds(&json) {
            Ok(json)
        } else {
            Err(seen.stdout)
        }
    })
    .await
}

fn rows(json: &Value) -> &Vec<Value> {
    json["peers"].as_array().expect("a list of peers")
}

fn roles(json: &Value, role: &str) -> usize {
    rows(json).iter().filter(|p| p["role"] == role).count()
}

/// All three vote, with nobody's vote still on its way, one of them leads, all answer.
fn is_whole(json: &Value) -> bool {
    json["changing"] == false
        && roles(json, "leader") == 1
        && roles(json, "voter") == 2
        && rows(json).len() == 3
        && rows(json).iter().all(|p| p["answers"] == true)
}

fn node_of(json: &Value, cluster: &str) -> u64 {
    let of = rows(json).iter().find(|p| p["cluster"] == cluster);
    let of = of.unwrap_or_else(|| panic!("no node of {cluster}: {json}"));
    of["node_id"].as_u64().expect("a number")
}

/// SIGTERM to a controller, until it has let go of its directory.
async fn stop(federation: &mut Federation, number: usize) {
    let mut controller = federation.clusters[number]
        .controller
        .take()
        .expect("it runs");
    assert_eq!(controller.stop(PATIENT).await, 0, "{}", controller.tail());
}

async fn start(federation: &mut Federation, number: usize) {
    federation.start_controller(number);
    federation
        .ready(federation.addr(number, host::CONTROLLER, ADMIN))
        .await;
}

async fn offline(federation: &Federation, number: usize, args: &[&str]) -> process::Output {
    let dir = federation.data_dir(number);
    process::run(&[&["store"], args, &["--data-dir", &dir]].concat()).await
}

/// A call through a caller's proxy succeeds.
async fn answers(address: std::net::SocketAddr) {
    until("a call", PATIENT, || async {
        http::get(address, "/").await?.ok()
    })
    .await;
}

async fn takes_writes(federation: &Federation, number: usize) {
    until("a write", PATIENT, || async {
        let made = federation.cli(number, &["token", "create"]).await;
        if made.code == 0 {
            Ok(())
        } else {
            Err(made.stderr)
        }
    })
    .await;
}

#[tokio::test]
async fn votes_and_the_lead_move_and_everybody_sees_who_did_it() {
    let federation = Federation::start(&THREE).await;
    // And each was asked how it is, which takes a round of pings.
    let told = |json: &Value| {
        let said = |p: &Value| p["fsync_p99_us"].as_u64() > Some(0);
        is_whole(json) && rows(json).iter().all(said)
    };
    let seen = peers(&federation, EAST, "three voters", told).await;
    assert_eq!(seen["can_lose"], 1, "{seen}");
    assert_eq!(seen["can_write"], true, "{seen}");
    for peer in rows(&seen) {
        assert!(peer["last_log"].as_u64() > Some(0), "{seen}");
        assert!(peer["applied"].as_u64() > Some(0), "{seen}");
        assert!(peer["fsync_p99_us"].as_u64() > Some(0), "{seen}");
    }
    let text = federation
        .cli(WEST, &["store", "peers"])
        .await
        .good()
        .stdout;
    for part in ["LAST LOG", "FSYNC p99", "leader", "can lose 1 more voter"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // The lead goes to a named voter, and to any.
    let leader = federation.leader(WEST).await.expect("a leader");
    let to = (leader + 1) % 3;
    let name = federation.clusters[to].name.clone();
    let plan = federation
        .cli(WEST, &["store", "transfer", "--to", &name, "--dry-run"])
        .await
        .good();
    assert!(
        plan.stderr.contains("nothing was changed"),
        "{}",
        plan.stderr
    );
    assert_eq!(federation.leader(WEST).await, Some(leader));
    let moved = federation
        .cli(WEST, &["store", "transfer", "--to", &name])
        .await
        .good();
    assert!(moved.stderr.contains("reverse with"), "{}", moved.stderr);
    until("the new leader", USUAL, || async {
        match federation.leader(EAST).await {
            Some(leads) if leads == to => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    // A vote goes and comes back.
    let follower = (to + 1) % 3;
    let name = federation.clusters[follower].name.clone();
    let demoted = federation
        .cli(WEST, &["store", "demote", &name])
        .await
        .good();
    assert!(
        demoted.stderr.contains("is a learner"),
        "{}",
        demoted.stderr
    );
    peers(&federation, WEST, "two voters", |j| {
        roles(j, "learner") == 1 && j["can_lose"] == 0
    })
    .await;
    let promoted = federation
        .cli(EAST, &["store", "promote", &name])
        .await
        .good();
    assert!(
        promoted.stderr.contains("is a voter"),
        "{}",
        promoted.stderr
    );
    federation
        .cli(EAST, &["store", "promote", &name, "--auto"])
        .await
        .good();
    let unknown = federation.cli(WEST, &["store", "demote", "centrel"]).await;
    assert_eq!(unknown.code, 1, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("central"), "{}", unknown.stderr);

    // Who did it is known everywhere, also of what the controller publishes by itself.
    let _workload = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(CENTRAL, "shop/payments", 1).await;
    federation
        .cli(EAST, &["unexport", "shop/payments"])
        .await
        .good();
    let log = federation.json(CENTRAL, &["audit", "--consistent"]).await;
    assert_eq!(log["age_ms"], 0, "{log}");
    let entries = log["entries"].as_array().expect("entries");
    let uid = format!("uid {}", nix::unistd::getuid().as_raw());
    for action in [
        "transfer-lead",
        "demote",
        "promote",
        "vote-auto",
        "create-token",
        "export",
        "unexport",
    ] {
        let entry = entries.iter().find(|e| e["action"] == action);
        let entry = entry.unwrap_or_else(|| panic!("{action}: {log}"));
        let actor = entry["actor"].as_str().expect("somebody");
        assert!(actor.starts_with(&uid), "{entry}");
    }
    let some = federation
        .json(
            CENTRAL,
            &[
                "audit",
                "--cluster",
                "east",
                "--limit",
                "1",
                "--since",
                "1h",
            ],
        )
        .await;
    assert_eq!(some["entries"].as_array().map(Vec::len), Some(1), "{some}");
    assert_eq!(some["entries"][0]["cluster"], "east", "{some}");
}

#[tokio::test]
async fn a_lost_store_is_refused_by_name_and_its_node_comes_back_under_a_new_id() {
    let mut federation = Federation::start(&THREE).await;
    let before = peers(&federation, WEST, "three voters", is_whole).await;
    let old = node_of(&before, "east");
    stop(&mut federation, EAST).await;
    // The middle of the log is not what was written.
    let journal = Path::new(&federation.data_dir(EAST)).join("store/log/journal");
    let mut segments = fs::read_dir(journal).expect("the journal");
    let segment = segments.next().expect("a segment").expect("read").path();
    let mut bytes = fs::read(&segment).expect("the log");
    let used = bytes
        .iter()
        .rposition(|b| *b != 0)
        .expect("something in it");
    for byte in &mut bytes[used / 4..used / 2] {
        *byte ^= 0x55;
    }
    fs::write(&segment, bytes).expect("written");
    federation.start_controller(EAST);
    let log = until("the refusal", PATIENT, || async {
        let controller = federation.clusters[EAST]
            .controller
            .as_ref()
            .expect("started");
        let log = controller.log();
        if log.contains("store rejoin") {
            Ok(log)
        } else {
            Err(log)
        }
    })
    .await;
    assert!(log.contains("hint:"), "{log}");
    let mut refused = federation.clusters[EAST]
        .controller
        .take()
        .expect("started");
    until("its end", USUAL, || {
        let ended = refused.ended();
        async move { ended.ok_or("it runs") }
    })
    .await;

    let asked = offline(&federation, EAST, &["rejoin"]).await;
    assert_eq!(asked.code, 5, "{}", asked.stderr);
    let damaged = offline(&federation, EAST, &["recover", "--yes"]).await;
    assert_eq!(
        damaged.code, 1,
        "a damaged store is no survivor: {}",
        damaged.stderr
    );
    let done = offline(&federation, EAST, &["rejoin", "--yes", "-o", "json"])
        .await
        .good();
    let new = done.json()["node_id"].as_u64().expect("a number");
    assert!(new > old, "{}", done.stdout);
    assert!(Path::new(done.json()["kept"].as_str().expect("a path")).is_dir());
    start(&mut federation, EAST).await;
    let after = peers(&federation, WEST, "three voters again", |j| {
        is_whole(j) && node_of(j, "east") == new
    })
    .await;
    assert!(rows(&after).iter().all(|p| p["node_id"] != old), "{after}");
    takes_writes(&federation, EAST).await;
    // A running controller's directory is nobody else's.
    let used = offline(&federation, EAST, &["rejoin", "--yes"]).await;
    assert_eq!(used.code, 1, "{}", used.stderr);
    assert!(used.stderr.contains("stop"), "{}", used.stderr);

    // Removed while it is away, it comes back in the same way. Not the last majority, though.
    stop(&mut federation, EAST).await;
    let gone = |j: &Value| {
        rows(j)
            .iter()
            .any(|p| p["cluster"] == "east" && p["answers"] == false)
    };
    peers(&federation, WEST, "east to be silent", gone).await;
    let last = federation
        .cli(WEST, &["store", "remove", "central", "--yes"])
        .await;
    assert_eq!(last.code, 5, "{}", last.stderr);
    assert!(last.stderr.contains("majority"), "{}", last.stderr);
    let plan = federation.cli(WEST, &["store", "remove", "east"]).await;
    assert_eq!(plan.code, 5, "{}", plan.stderr);
    let removed = federation
        .cli(WEST, &["store", "remove", "east", "--yes"])
        .await
        .good();
    assert!(removed.stderr.contains("rejoin"), "{}", removed.stderr);
    let two = peers(&federation, WEST, "two nodes", |j| rows(j).len() == 2).await;
    assert!(rows(&two).iter().all(|p| p["node_id"] != new), "{two}");
    let again = offline(&federation, EAST, &["rejoin", "--yes", "-o", "json"])
        .await
        .good();
    let third = again.json()["node_id"].as_u64().expect("a number");
    assert!(third > new, "{}", again.stdout);
    start(&mut federation, EAST).await;
    peers(&federation, WEST, "three voters once more", |j| {
        is_whole(j) && node_of(j, "east") == third
    })
    .await;
}

#[tokio::test]
async fn one_survivor_of_three_becomes_the_federation_and_the_others_come_back() {
    let mut federation = Federation::start(&THREE).await;
    let _workload = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    answers(address).await;
    let before = peers(&federation, EAST, "three voters", is_whole).await;

    for number in [WEST, CENTRAL] {
        let controller = federation.clusters[number].controller.take();
        controller.expect("it runs").kill().await;
    }
    // No leader: refused with the way to see more, and shown with it.
    until("the leader to be missed", PATIENT, || async {
        let seen = federation.cli(EAST, &["store", "peers"]).await;
        match (seen.code, seen.stderr.contains("--stale")) {
            (3, true) => Ok(()),
            _ => Err(format!("{}: {}", seen.code, seen.stderr)),
        }
    })
    .await;
    let lost = peers(&federation, EAST, "no majority", |j| {
        j["can_lose"].is_null()
    })
    .await;
    assert_eq!(lost["leader"], Value::Null, "{lost}");
    let text = federation
        .cli(EAST, &["store", "peers", "--stale"])
        .await
        .good();
    assert!(
        text.stdout.contains("cannot write: 1 of 3 voters"),
        "{}",
        text.stdout
    );
    answers(address).await;

    let busy = offline(&federation, EAST, &["recover", "--yes"]).await;
    assert_eq!(busy.code, 1, "its controller runs: {}", busy.stderr);
    stop(&mut federation, EAST).await;
    let plan = offline(&federation, EAST, &["recover", "--dry-run"])
        .await
        .good();
    for part in [
        "last entry",
        "forgotten",
        "is lost",
        "rejoin",
        "nothing was changed",
    ] {
        assert!(plan.stderr.contains(part), "{part}: {}", plan.stderr);
    }
    assert_eq!(offline(&federation, EAST, &["recover"]).await.code, 5);
    let done = offline(&federation, EAST, &["recover", "--yes", "-o", "json"])
        .await
        .good();
    let new = done.json()["node_id"].as_u64().expect("a number");
    assert!(new > node_of(&before, "east") + 1_000, "{}", done.stdout);
    start(&mut federation, EAST).await;
    takes_writes(&federation, EAST).await;
    let alone = peers(&federation, EAST, "one voter", |j| roles(j, "leader") == 1).await;
    assert_eq!(node_of(&alone, "east"), new, "{alone}");
    assert_eq!(alone["voters"], 1, "{alone}");

    for number in [WEST, CENTRAL] {
        offline(&federation, number, &["rejoin", "--yes"])
            .await
            .good();
        start(&mut federation, number).await;
    }
    let after = peers(&federation, WEST, "three voters", is_whole).await;
    assert_eq!(after["can_lose"], 1, "{after}");
    for number in [WEST, CENTRAL, EAST] {
        takes_writes(&federation, number).await;
        federation.sees(number, "shop/payments", 1).await;
    }
    answers(address).await;
    let log = federation.json(WEST, &["audit"]).await;
    let entries = log["entries"].as_array().expect("entries");
    assert!(entries.iter().any(|e| e["action"] == "recover"), "{log}");
}

#[tokio::test]
async fn the_store_is_saved_inspected_restored_and_watched() {
    let mut federation = Federation::start(&THREE).await;
    let _workload = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let file = federation.dir().join("store.snapshot");
    let name = file.to_str().expect("a plain path");
    let saved = federation
        .json(CENTRAL, &["store", "snapshot", "save", name])
        .await;
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let seen = process::run(&["store", "snapshot", "inspect", name, "-o", "json"])
        .await
        .good()
        .json();
    assert_eq!(seen["revision"], saved["revision"]);
    assert_eq!(seen["sha256"], saved["sha256"]);
    assert_eq!(seen["clusters"].as_array().map(Vec::len), Some(3), "{seen}");
    assert_eq!(
        (&seen["services"], &seen["endpoints"]),
        (&1.into(), &1.into()),
        "{seen}"
    );
    assert_eq!(seen["domain"], "mesh.internal", "{seen}");
    let text = process::run(&["store", "snapshot", "inspect", name])
        .await
        .good()
        .stdout;
    assert!(text.contains("central, east, west"), "{text}");
    let bad = federation.dir().join("bad.snapshot");
    let mut bytes = fs::read(&file).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&bad, bytes).expect("written");
    let damaged =
        process::run(&["store", "snapshot", "inspect", bad.to_str().expect("plain")]).await;
    assert_eq!(damaged.code, 1, "{}", damaged.stderr);
    assert!(damaged.stderr.contains("corrupt"), "{}", damaged.stderr);

    // Every change after the snapshot, once and in order, and again from where it ended.
    let from = saved["revision"].to_string();
    federation.cli(EAST, &["drain", "central"]).await.good();
    federation.cli(EAST, &["undrain", "central"]).await.good();
    let until_ = federation.json(EAST, &["clusters", "--consistent"]).await["revision"].to_string();
    let watched = federation
        .cli(
            EAST,
            &[
                "store", "watch", "--from", &from, "--until", &until_, "-o", "json",
            ],
        )
        .await
        .good();
    let lines: Vec<Value> = watched
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .unwrap_or_else(|e| panic!("{e}: {}", watched.stdout));
    let states: Vec<&str> = lines
        .iter()
        .filter(|l| l["name"] == "central")
        .filter_map(|l| l["value"]["state"].as_str())
        .collect();
    let drained = states
        .iter()
        .position(|s| s.eq_ignore_ascii_case("draining"));
    let back = states
        .iter()
        .rposition(|s| s.eq_ignore_ascii_case("active"));
    assert!(drained.is_some() && back > drained, "{states:?}");
    let revisions: Vec<u64> = lines
        .iter()
        .filter_map(|l| l["revision"].as_u64())
        .collect();
    assert!(revisions.is_sorted(), "{revisions:?}");
    assert!(watched.stderr.contains("--from"), "{}", watched.stderr);

    // What came after it is gone when it is restored; everybody comes back to that.
    federation.cli(EAST, &["drain", "central"]).await.good();
    for number in [WEST, CENTRAL, EAST] {
        stop(&mut federation, number).await;
    }
    let dir = federation.data_dir(WEST);
    let restore = ["store", "snapshot", "restore", name, "--data-dir", &dir];
    assert_eq!(process::run(&restore).await.code, 5);
    process::run(&[&restore[..], &["--yes"]].concat())
        .await
        .good();
    start(&mut federation, WEST).await;
    for number in [CENTRAL, EAST] {
        offline(&federation, number, &["rejoin", "--yes"])
            .await
            .good();
        start(&mut federation, number).await;
    }
    peers(&federation, EAST, "three voters", is_whole).await;
    let clusters = federation.json(EAST, &["clusters", "--consistent"]).await;
    let central = clusters["clusters"].as_array().expect("clusters");
    let central = central.iter().find(|c| c["name"] == "central").expect("it");
    assert_eq!(central["state"], "active", "{central}");
    federation.sees(CENTRAL, "shop/payments", 1).await;
}
