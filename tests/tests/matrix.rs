//! What `tradewind status` says of the whole federation: who reaches whom, in each cluster's own words, what its gateways see
//! beside its controller, and who cannot be called for want of a key.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::time::Duration;

use serde_json::Value;
use tradewind_tests::{
    Federation, Process,
    federation::{ADMIN, GATEWAY, ONE, THREE, TWO, host},
    http,
    namespaces::inside,
    process::tradewind,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const CENTRAL: usize = 1;
const EAST: usize = 2;
/// Longest that the work in namespaces may take: several times what it does.
const LIMIT: Duration = Duration::from_secs(120);

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

/// What the gateways of `from` see of `to`: how many know, and how many of those reach it.
fn by_gateways(status: &Value, from: &str, to: &str) -> (u64, u64) {
    let cell = said(status, from, to);
    let count = |field: &str| cell[field].as_u64().unwrap_or_default();
    (count("gateways"), count("gateways_reaching"))
}

/// What a gateway's page says of another cluster.
async fn page_of(federation: &Federation, number: usize, at: u8, cluster: &str) -> Value {
    let admin = federation.addr(number, at, ADMIN);
    let page = http::get(admin, "/debug/state").await.expect("a page");
    let state: Value = serde_json::from_str(&page.text()).expect("JSON");
    let mut all = state["peers"].as_array().into_iter().flatten();
    let found = all.find(|p| p["cluster"] == cluster);
    found.cloned().unwrap_or_default()
}

#[tokio::test]
async fn gateways_probe_each_other_and_the_matrix_shows_what_they_see() {
    let mut federation = Federation::start(&TWO).await;
    let east = 1;
    let second = federation.second_gateway(WEST, "5s").await;
    for number in [WEST, east] {
        comes_true(&federation, number, "all gateways to reach all", |seen| {
            by_gateways(seen, "west", "east") == (2, 2)
                && by_gateways(seen, "east", "west") == (1, 1)
                && said(seen, "west", "east")["gateway_round_trip_us"].as_u64() > Some(0)
        })
        .await;
    }
    let seen = page_of(&federation, WEST, host::SECOND_GATEWAY, "east").await;
    assert_eq!(seen["reachable"], true, "{seen}");
    // So far as they measured is what proxies are told.
    until("the distance to be told", USUAL, || async {
        let all = federation.json(WEST, &["clusters"]).await;
        let rows = all["clusters"].as_array().into_iter().flatten();
        let mut told = rows.map(|c| (c["name"].clone(), c["round_trip_us"].as_u64()));
        let east = told.find(|(name, _)| name == "east");
        match east {
            Some((_, Some(us))) if us > 0 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    federation.is_well(WEST).await;

    // East's controller alone is gone: its gateway answers, and whose fault it is stands there.
    let controller = federation.clusters[east].controller.as_mut();
    controller.expect("a controller").kill().await;
    comes_true(&federation, WEST, "a controller that is gone", |seen| {
        said(seen, "west", "east")["reachable"] == false
    })
    .await;
    let seen = status(&federation, WEST).await;
    assert_eq!(by_gateways(&seen, "west", "east"), (2, 2), "{seen}");
    let problems = seen["problems"].to_string();
    let told = "though 2 of 2 gateways here reach a gateway of it";
    assert!(problems.contains(told), "{problems}");
    let shown = federation.cli(WEST, &["status"]).await.stdout;
    assert!(shown.contains("no (gw "), "{shown}");
    federation.start_controller(east);
    federation.is_well(WEST).await;

    // Its gateway alone is gone. Nobody here gets through, and each says for itself why; its own still reaches out.
    let gateway = federation.clusters[east].gateway.as_mut();
    gateway.expect("a gateway").kill().await;
    comes_true(&federation, WEST, "nobody to get through", |seen| {
        by_gateways(seen, "west", "east") == (2, 0)
            && said(seen, "west", "east")["reachable"] == false
    })
    .await;
    let seen = page_of(&federation, WEST, host::GATEWAY, "east").await;
    assert_eq!(seen["addresses"][0]["why"], "refuses the connection");
    let problems = status(&federation, WEST).await["problems"].to_string();
    let told = "no gateway here reaches one of its gateways either";
    assert!(problems.contains(told), "{problems}");
    // Its word went with it.
    comes_true(&federation, east, "no word of a gateway", |seen| {
        by_gateways(seen, "east", "west") == (0, 0)
    })
    .await;
    federation.start_gateway(east);
    federation.is_well(WEST).await;
    drop(second);
}

#[tokio::test]
async fn a_gateway_that_alone_does_not_get_through_is_named() {
    let name = "a_gateway_that_alone_does_not_get_through_is_named";
    inside(name, LIMIT, false, one_apart).await;
}

async fn one_apart() {
    let mut federation = Federation::in_namespaces();
    for (name, region) in TWO {
        federation.add(name, region).await;
    }
    // West's second gateway stands in a network of its own, which can be cut off alone.
    let apart = TWO.len();
    let Federation {
        namespaces, block, ..
    } = &mut federation;
    let namespaces = namespaces.as_mut().expect("namespaces");
    namespaces.add(block, &[host::GATEWAY]).await;
    let listen = federation.addr(apart, host::GATEWAY, GATEWAY).to_string();
    let admin = federation.addr(apart, host::GATEWAY, ADMIN).to_string();
    let data_dir = federation.data_dir(WEST);
    let args = [
        "gateway",
        "--name",
        "apart",
        "--data-dir",
        &data_dir,
        "--listen",
        &listen,
        "--admin-listen",
        &admin,
    ];
    let command = federation.program(apart, &tradewind());
    let _gateway = Process::start_behind("apart", federation.dir(), command, &args, &[]);
    comes_true(&federation, WEST, "both gateways to reach east", |seen| {
        by_gateways(seen, "west", "east") == (2, 2)
    })
    .await;

    let cut = [(apart, 1)].into();
    federation.router().cut(&cut).await;
    comes_true(&federation, WEST, "one gateway to be cut off", |seen| {
        by_gateways(seen, "west", "east") == (2, 1)
            && said(seen, "west", "east")["reachable"] == true
    })
    .await;
    let shown = federation.cli(WEST, &["status"]).await;
    for word in [
        ", 1 of 2 gw",
        "problem: 1 of 2 gateways here does not reach cluster east: apart for ",
        "takes no connection in time); see what stands between the host of apart and the gateways of east",
    ] {
        assert!(shown.stdout.contains(word), "{word:?}: {}", shown.stdout);
    }
    federation.router().cut(&[].into()).await;
    comes_true(&federation, WEST, "both to reach it again", |seen| {
        by_gateways(seen, "west", "east") == (2, 2)
    })
    .await;
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
