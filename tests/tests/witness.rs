//! A witness makes a majority with either of two clusters, and does nothing else.

#![expect(
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::time::Duration;

use serde_json::Value;
use tradewind_tests::{
    Federation,
    federation::{ADMIN, Cluster, TWO, host},
    http, process,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
const WITNESS: usize = 2;
/// A write may wait for an election, and the command for the write.
const ELECTED: Duration = Duration::from_secs(60);

/// Starts the witness: joining, where `join` says how, else from its directory alone.
async fn start_witness(federation: &mut Federation, join: &[&str]) {
    let listen = federation.gateway_addr(WITNESS).to_string();
    let admin = federation.addr(WITNESS, host::CONTROLLER, ADMIN);
    let (dir, admin_text) = (federation.data_dir(WITNESS), admin.to_string());
    let args = [
        "witness",
        "--data-dir",
        &dir,
        "--listen",
        &listen,
        "--admin-listen",
        &admin_text,
    ];
    let args = [&args, join].concat();
    let process = federation.process(WITNESS, "process", &args);
    federation.clusters[WITNESS].controller = Some(process);
    federation.ready(admin).await;
}

async fn three_voters(federation: &Federation) -> Value {
    until("three voters", USUAL, || async {
        let seen = federation.cli(WEST, &["status", "-o", "json"]).await;
        let status: Value = serde_json::from_str(&seen.stdout).unwrap_or_default();
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let votes = peers.iter().filter(|p| p["role"] != "learner").count();
        if votes == 3 { Ok(status) } else { Err(status) }
    })
    .await
}

/// A cluster writes: a token for whoever joins next, and an export.
async fn writes(federation: &Federation, number: usize, service: &str) {
    until("a token", ELECTED, || async {
        let made = federation.cli(number, &["token", "create"]).await;
        if made.code == 0 {
            Ok(())
        } else {
            Err(made.stderr)
        }
    })
    .await;
    federation.cli(number, &["export", service]).await.good();
    let name = federation.clusters[number].name.clone();
    until("the export in the store", ELECTED, || async {
        let seen = federation.json(number, &["services"]).await;
        let services = seen["services"].as_array().cloned().unwrap_or_default();
        let exported = services.iter().any(|s| {
            let by = s["exported_by"].as_array().cloned().unwrap_or_default();
            s["name"] == service && by.contains(&Value::from(name.as_str()))
        });
        if exported { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test]
async fn with_a_witness_either_of_two_clusters_may_die() {
    let mut federation = Federation::start(&TWO).await;
    let name = "witness";
    let data_dir = federation.dir().join(name);
    federation.clusters.push(Cluster {
        name: name.to_owned(),
        data_dir,
        number: 2,
        controller: None,
        gateway: None,
    });
    // Without being told how to join it has nothing to run.
    let dir = federation.data_dir(WITNESS);
    let vacant = process::run(&["witness", "--data-dir", &dir]).await;
    vacant.fails(2, &["holds no witness yet", "--join"]);

    let token = federation.token(&["--cluster", name]).await;
    let through = federation.gateway_addr(WEST).to_string();
    let join = [
        "--join",
        &through,
        "--token",
        &token,
        "--region",
        "us-central",
    ];
    start_witness(&mut federation, &join).await;
    let status = three_voters(&federation).await;
    let peers = status["peers"].as_array().expect("peers");
    let voter = peers
        .iter()
        .find(|p| p["cluster"] == name)
        .expect("its node");
    assert_eq!(voter["witness"], true, "{status}");
    // Nobody misses a gateway of it, here or there, and its facts are known as any cluster's.
    for number in [WEST, EAST, WITNESS] {
        federation.is_well(number).await;
    }
    // It is asked with the next round of pings.
    until("the witness answers pings", USUAL, || async {
        let table = federation.cli(WEST, &["clusters"]).await.good().stdout;
        let row = table.lines().find(|l| l.contains(" witness "));
        let row = row.expect("a row").to_owned();
        if row.contains("us-central") && row.contains("reachable") {
            Ok(())
        } else {
            Err(row)
        }
    })
    .await;

    // It is no place to go to, and believed as any member.
    let admin = federation.addr(WEST, host::CONTROLLER, ADMIN);
    let page = http::get(admin, "/debug/state").await.expect("a page");
    let state: Value = serde_json::from_str(&page.text()).expect("JSON");
    let snapshot = &state["snapshot"];
    assert!(snapshot["clusters"]["east"].is_object(), "{snapshot}");
    assert!(snapshot["clusters"][name].is_null(), "{snapshot}");
    let authorities = &snapshot["trust"]["authorities"];
    assert!(
        authorities["witness.mesh.internal"].is_array(),
        "{snapshot}"
    );

    // It offers nothing, signs for nobody, and is no cluster's controller.
    let refused = federation.cli(WITNESS, &["export", "shop/payments"]).await;
    refused.fails(5, &["witness is a witness", "exports nothing"]);
    let token = ["token", "create", "--workload", "shop/payments"];
    let refused = federation.cli(WITNESS, &token).await;
    refused.fails(5, &["witness is a witness"]);

    let _western = federation.workload(WEST, 1, "shop/payments:80").await;
    let _eastern = federation.workload(EAST, 1, "shop/orders:80").await;
    // A whole cluster dies: the other and the witness go on.
    federation.kill_cluster(EAST).await;
    writes(&federation, WEST, "shop/payments").await;
    federation.start_controller(EAST);
    federation.start_gateway(EAST);
    federation.is_well(EAST).await;
    federation.is_well(WEST).await;

    // The witness dies instead: the two go on.
    federation.kill_cluster(WITNESS).await;
    let wrong = process::run(&["controller", "--data-dir", &dir]).await;
    wrong.fails(1, &["holds the witness witness", "tradewind witness"]);
    writes(&federation, EAST, "shop/orders").await;
    federation.sees(WEST, "shop/orders", 1).await;
    until("a word of it", USUAL, || async {
        let status = federation.cli(WEST, &["status"]).await.stdout;
        let told = "problem: cluster witness is unreachable for ";
        if status.contains(told) {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
    // From its directory alone it comes back.
    start_witness(&mut federation, &[]).await;
    for number in [WEST, EAST, WITNESS] {
        federation.is_well(number).await;
    }
}
