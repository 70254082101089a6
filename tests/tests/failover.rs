//! The main story, with assertions: a service is lost locally, a whole region is lost, both come back, the store's leader is
//! lost, a region is drained, and no call fails. Real processes, constant load.

use std::time::Duration;

use tradewind_tests::{
    Federation,
    federation::{PATIENT, THREE},
    http,
    load::{Load, none_failed},
    wait::{USUAL, until},
};

const WEST: usize = 0;
const CENTRAL: usize = 1;
const EAST: usize = 2;

/// Requests a second: a request is always under way when something dies.
const RATE: u32 = 200;
/// Answers in a row that count as settled: a quarter of a second.
const SETTLED: usize = 50;

#[tokio::test]
async fn five_phases_lose_no_call() {
    let mut federation = Federation::start(&THREE).await;
    let mut west = vec![federation.workload(WEST, 1, "shop/payments:80").await];
    west.push(federation.workload(WEST, 2, "shop/payments:80").await);
    let mut central = federation.workload(CENTRAL, 1, "shop/payments:80").await;
    let _east = federation.workload(EAST, 1, "shop/payments:80").await;
    for cluster in [WEST, CENTRAL, EAST] {
        federation.export(cluster, "shop/payments").await;
    }
    for cluster in [WEST, CENTRAL, EAST] {
        federation.sees(cluster, "shop/payments", 4).await;
    }
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let mut load = Load::start(address, RATE);
    load.settles("west", SETTLED, USUAL).await;

    // 1: every local application dies at once; the nearest other region serves.
    for workload in &mut west {
        workload.app.as_mut().expect("an application").kill().await;
    }
    load.settles("central", SETTLED, USUAL).await;

    // 2: the whole of that region dies while it serves.
    federation.kill_cluster(CENTRAL).await;
    central.kill().await;
    load.settles("east", SETTLED, USUAL).await;

    // 3: both come back, and the calls come home.
    for workload in &mut west {
        *workload = federation
            .workload_again(WEST, workload, "shop/payments:80")
            .await;
    }
    federation.start_controller(CENTRAL);
    federation.start_gateway(CENTRAL);
    let _central = federation.workload(CENTRAL, 1, "shop/payments:80").await;
    load.settles("west", SETTLED * 4, PATIENT).await;

    // 4: the store's leader dies; what is exported afterwards is callable between those that live.
    let leader = until("a leader", USUAL, || async {
        federation.leader(WEST).await.ok_or("none")
    })
    .await;
    federation.clusters[leader]
        .controller
        .as_mut()
        .expect("a controller")
        .kill()
        .await;
    let live: Vec<usize> = [WEST, CENTRAL, EAST]
        .into_iter()
        .filter(|c| *c != leader)
        .collect();
    let (exporter, caller) = (live[0], live[1]);
    let _ledger = federation.workload(exporter, 3, "shop/ledger:80").await;
    federation.export(exporter, "shop/ledger").await;
    let (_other, ledger) = federation.caller(caller, 1, "shop/ledger:80").await;
    let answer = until("the new service across the border", USUAL, || async {
        http::get(ledger, "/").await?.ok()
    })
    .await;
    assert_eq!(
        answer.text(),
        format!("ledger from {}/3", federation.clusters[exporter].name)
    );
    let new = federation.leader(exporter).await.expect("a new leader");
    assert_ne!(new, leader, "the dead cannot lead");
    federation.start_controller(leader);
    until("the killed controller to catch up", USUAL, || async {
        let services = federation.cli(leader, &["services", "-o", "name"]).await;
        if services.stdout.contains("shop/ledger") {
            Ok(())
        } else {
            Err(services)
        }
    })
    .await;
    load.settles("west", SETTLED, USUAL).await;

    // 5: a region is drained by command; a caller inside it is served from elsewhere.
    let (_eastern, inside) = federation.caller(EAST, 2, "shop/payments:80").await;
    let mut eastern = Load::start(inside, RATE / 2);
    eastern.settles("east", SETTLED, USUAL).await;
    federation.cli(WEST, &["drain", "east"]).await.good();
    eastern.leaves("east", SETTLED * 2, USUAL).await;
    let drained = eastern.finish().await;
    none_failed(&drained);
    let served_late = drained
        .iter()
        .rev()
        .take(SETTLED)
        .filter(|s| s.result.as_ref().is_ok_and(|w| w.contains("east")));
    assert_eq!(served_late.count(), 0, "a drained cluster serves nothing");
    federation.cli(WEST, &["undrain", "east"]).await.good();

    let shots = load.finish().await;
    none_failed(&shots);
    let slowest = shots.iter().map(|s| s.took).max().unwrap_or_default();
    assert!(
        slowest < Duration::from_secs(5),
        "the longest wait was {slowest:?}"
    );
}
