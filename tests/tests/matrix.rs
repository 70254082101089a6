//! What `tradewind status` says of the whole federation: who reaches whom, in each cluster's own words, and who cannot be
//! called for want of a key.

#![expect(
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use serde_json::Value;
use tradewind_tests::{
    Federation,
    federation::{ONE, THREE},
    wait::{USUAL, until},
};

const WEST: usize = 0;
const CENTRAL: usize = 1;
const EAST: usize = 2;

/// What `from` says of `to`, as one cluster's status has it.
fn said(status: &Value, from: &str, to: &str) -> Value {
    let rows = status["reach"].as_array().into_iter().flatten();
    let row = rows.filter(|r| r["from"] == from);
    let mut cells = row.flat_map(|r| r["reached"].as_array().into_iter().flatten());
    cells.find(|c| c["to"] == to).cloned().unwrap_or_default()
}

/// Every cluster with every other one.
fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    let names = || THREE.iter().map(|(name, _)| *name);
    names()
        .flat_map(move |from| names().map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
}

async fn status(federation: &Federation, number: usize) -> Value {
    // It ends with 1 while there is a problem.
    let shown = federation.cli(number, &["status", "-o", "json"]).await;
    shown.json()
}

async fn comes_true(
    federation: &Federation,
    number: usize,
    what: &str,
    is: impl Fn(&Value) -> bool,
) {
    until(what, USUAL, || async {
        let seen = status(federation, number).await;
        if is(&seen) {
            Ok(())
        } else {
            Err(seen["reach"].clone())
        }
    })
    .await;
}

#[tokio::test]
async fn every_cluster_shows_what_all_clusters_reach() {
    let mut federation = Federation::start(&THREE).await;
    for number in [WEST, CENTRAL] {
        comes_true(&federation, number, "all six links to be up", |seen| {
            pairs().all(|(from, to)| {
                let cell = said(seen, from, to);
                cell["reachable"] == true && cell["round_trip_us"].as_u64() > Some(0)
            })
        })
        .await;
    }
    let shown = federation.cli(WEST, &["status"]).await.good().stdout;
    let all_up = "links     6 of 6 up, round trip min";
    assert!(shown.contains(all_up), "{shown}");

    // East is gone. West sees that itself, and knows that central sees it too from central; of what east reaches, it has
    // what east said last, and how long ago that was.
    federation.kill_cluster(EAST).await;
    comes_true(&federation, WEST, "both ways to east to be down", |seen| {
        said(seen, "west", "east")["reachable"] == false
            && said(seen, "central", "east")["reachable"] == false
            && said(seen, "central", "west")["reachable"] == true
    })
    .await;
    let seen = status(&federation, WEST).await;
    let rows = seen["reach"].as_array().unwrap();
    let east = rows.iter().find(|r| r["from"] == "east").unwrap();
    // Two pings in a row were missed before it counted as unreachable.
    assert!(east["told_age_ms"].as_u64() > Some(500), "{east}");
    let shown = federation.cli(WEST, &["status"]).await.stdout;
    assert!(shown.contains(" of 6 up, 2 down"), "{shown}");
}

#[tokio::test]
async fn a_member_that_nobody_can_name_is_a_problem() {
    let federation = Federation::start(&ONE).await;
    let seen = status(&federation, WEST).await;
    assert_eq!(seen["names"]["phase"], "sealed", "founded so");
    let problem = "cluster east has no usable key for sealed names";
    assert!(!seen["problems"].to_string().contains(problem), "{seen}");
    let token = federation.token(&[]).await;
    federation.join("east", "eu-west", &token).await.good();
    // It has joined, and its controller was never started: there is no key of its.
    until("the missing key to be told", USUAL, || async {
        let all = status(&federation, WEST).await["problems"].to_string();
        if all.contains(problem) {
            Ok(())
        } else {
            Err(all)
        }
    })
    .await;
}
