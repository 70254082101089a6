//! What starts while no controller answers serves from its last snapshot, and under its last identity where the kernel's
//! keyring keeps the key that seals it.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::{io::Write as _, time::Duration};

use tradewind_tests::{
    Federation,
    federation::{TWO, host},
    http, metrics,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
/// The graceful end of an idle role.
const STOP: Duration = Duration::from_secs(20);

/// Waits until the snapshot on disk of a role has the export: the disk is written some seconds after the last change, at the latest.
async fn on_disk(federation: &Federation, number: usize, role: &str) {
    let dir = federation.clusters[number]
        .data_dir
        .join("state")
        .join(role);
    let file = dir.join("snapshot.json");
    until(
        &format!("the export in {}", file.display()),
        USUAL,
        || async {
            let text = std::fs::read(&file).map_err(|e| e.to_string())?;
            let text = String::from_utf8_lossy(&text).into_owned();
            // The service, and the cluster that exports it.
            let exported = text.split("\"shop/payments\"").any(|t| {
                t.split("\"exported_by\":[")
                    .nth(1)
                    .is_some_and(|t| t.starts_with("\"east\""))
            });
            // Whoever calls from elsewhere also needs a name that the gateways take.
            let named = !role.starts_with("caller") || text.contains("\"expires_unix_s\"");
            if exported && named { Ok(()) } else { Err(text) }
        },
    )
    .await;
}

async fn kill_controllers(federation: &mut Federation) {
    for cluster in &mut federation.clusters {
        cluster
            .controller
            .as_mut()
            .expect("a controller")
            .kill()
            .await;
        cluster.controller = None;
    }
}

#[tokio::test]
async fn a_gateway_that_starts_alone_carries_from_its_snapshot() {
    let mut federation = Federation::start(&TWO).await;
    let _workload = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let answer = http::get(address, "/").await.unwrap().ok().unwrap();
    assert_eq!(answer.text(), "payments from east/1");

    on_disk(&federation, EAST, "gateway").await;
    kill_controllers(&mut federation).await;
    federation.clusters[EAST]
        .gateway
        .as_mut()
        .unwrap()
        .kill()
        .await;
    federation.start_gateway(EAST);
    let admin = federation.addr(EAST, host::GATEWAY, 15020);
    federation.ready(admin).await;
    let answer = until("an answer through the new gateway", USUAL, || async {
        http::get(address, "/").await?.ok()
    })
    .await;
    assert_eq!(answer.text(), "payments from east/1");
    let opened = "tradewind_gateway_connections_opened";
    metrics::reaches(admin, opened, &["shop/payments"], 1.0).await;
    // What was not exported before is not carried now.
    let (_other, ledger) = federation.start_caller(WEST, 1, "shop/ledger:80");
    drop(http::get(ledger, "/").await.err());
    let opened = metrics::total(admin, opened, &["shop/ledger"]).await;
    assert_eq!(opened.unwrap(), 0.0);
}

#[tokio::test]
async fn proxies_that_start_alone_serve_from_their_snapshot_and_sealed_identity() {
    let mut federation = Federation::start(&TWO).await;
    let mut workload = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (mut caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    http::get(address, "/").await.unwrap().ok().unwrap();
    let off = "tradewind_control_identity_cache_off";
    let admin = federation.addr(WEST, 100, 15020);
    if metrics::total(admin, off, &[]).await.unwrap() > 0.0 {
        // Not by the macro: the test runner would keep that to itself.
        let skipped = "SKIPPED: proxies that start alone: this kernel's keyring keeps no keys";
        writeln!(std::io::stderr(), "{skipped}").unwrap();
        return;
    }
    // The key never reaches the disk unsealed.
    let state = federation.clusters[WEST].data_dir.join("state/caller-0");
    for file in std::fs::read_dir(&state).expect("the caller's state directory") {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(11).any(|w| w == b"PRIVATE KEY");
        assert!(!found, "{} holds a key", path.display());
    }

    on_disk(&federation, WEST, "caller-0").await;
    on_disk(&federation, EAST, "payments-1").await;
    kill_controllers(&mut federation).await;
    // The callee: SIGKILL and start, the application lives on.
    workload.proxy.as_mut().unwrap().kill().await;
    let app = federation.addr(EAST, 11, 8080);
    let spec = format!("shop/payments:80={app},check=http:/healthz");
    let _again = federation.serve(EAST, 1, &spec, &[]).await;
    until("an answer from the restarted callee", USUAL, || async {
        http::get(address, "/").await?.ok()
    })
    .await;
    // The caller likewise.
    caller.kill().await;
    let (mut caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let answer = until("an answer through the restarted caller", USUAL, || async {
        http::get(address, "/").await?.ok()
    })
    .await;
    assert_eq!(answer.text(), "payments from east/1");
    // And an orderly restart as well.
    assert_eq!(caller.stop(STOP).await, 0, "{}", caller.tail());
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    until("an answer after an orderly restart", USUAL, || async {
        http::get(address, "/").await?.ok()
    })
    .await;
}
