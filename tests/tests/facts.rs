//! Three facts of another cluster, each with its age: is the stream up, is the data fresh, does it answer. A cluster whose
//! gateway alone dies shows all three, one after the other, and nothing of it is deleted.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's helpers fail by panicking"
)]

use std::time::Duration;

use serde_json::Value;
use tradewind_tests::{
    Federation,
    federation::{ADMIN, THREE, host},
    http, metrics,
    wait::{USUAL, until},
};

const WEST: usize = 0;
/// A lease's term and the time that a busy machine needs to see its end.
const LEASE_ENDS: Duration = Duration::from_secs(45);

/// What `west` says of another cluster.
async fn seen(federation: &Federation, cluster: &str) -> Value {
    let all = federation.json(WEST, &["clusters"]).await;
    let rows = all["clusters"].as_array().expect("a list").clone();
    let found = rows.into_iter().find(|c| c["name"] == cluster);
    found.unwrap_or_else(|| panic!("{cluster} is not listed: {all}"))
}

fn is_well(row: &Value) -> bool {
    let facts = &row["facts"];
    facts["stream"]["up"] == true
        && facts["data"]["fresh"] == true
        && facts["reach"]["reachable"] == true
        && facts["reach"]["round_trip_us"].as_u64() > Some(0)
        && row["state"] == "active"
}

async fn becomes(
    federation: &Federation,
    cluster: &str,
    what: &str,
    is: fn(&Value) -> bool,
) -> Value {
    until(what, LEASE_ENDS, || async {
        let row = seen(federation, cluster).await;
        if is(&row) { Ok(row) } else { Err(row) }
    })
    .await
}

/// Another cluster's death is no business of this one's readiness.
async fn still_ready(federation: &Federation) {
    for role in [host::CONTROLLER, host::GATEWAY] {
        let admin = federation.addr(WEST, role, ADMIN);
        let answer = http::get(admin, "/readyz").await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_dead_gateway_shows_in_three_facts_and_deletes_nothing() {
    let mut federation = Federation::start(&THREE).await;
    // Not the leader: that one reaches out by itself, and its data stays fresh.
    let leader = until("a leader", USUAL, || async {
        federation.leader(WEST).await.ok_or("none")
    })
    .await;
    let victim = if leader == 2 { 1 } else { 2 };
    let name = THREE[victim].0;
    let _workload = federation.workload(victim, 1, "shop/payments:80").await;
    federation.export(victim, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let well = becomes(&federation, name, "three good facts", is_well).await;
    assert!(well["facts"]["stream"]["gateway"].is_string(), "{well}");
    assert!(well["facts"]["reach"]["error"].is_null(), "{well}");

    let gateway = federation.clusters[victim].gateway.as_mut();
    gateway.expect("a gateway").kill().await;
    // The stream falls and the answers end at once; what is known of it is still fresh.
    let unreachable = becomes(&federation, name, "unreachable", |row| {
        row["facts"]["stream"]["up"] == false && row["facts"]["reach"]["reachable"] == false
    })
    .await;
    let facts = &unreachable["facts"];
    assert_eq!(facts["data"]["fresh"], true, "{unreachable}");
    assert_eq!(facts["reach"]["error_layer"], "connect", "{unreachable}");
    assert_eq!(unreachable["state"], "active", "{unreachable}");
    still_ready(&federation).await;
    let status = federation.cli(WEST, &["status"]).await;
    assert_eq!(status.code, 1, "{}", status.stdout);
    for word in [
        "STREAM",
        "FRESH",
        "REACHABLE",
        ": gateway refused the connection",
        &format!("problem: cluster {name} is unreachable for "),
        "see that a gateway of",
    ] {
        assert!(status.stdout.contains(word), "{word:?}: {}", status.stdout);
    }

    // Then its data grows old: demoted, and all of it still there.
    let stale = becomes(&federation, name, "stale", |row| {
        row["facts"]["data"]["fresh"] == false && row["state"] == "silent"
    })
    .await;
    let age = |row: &Value, fact: &str| row["facts"][fact]["age_ms"].as_u64().expect("an age");
    assert!(age(&stale, "data") > 10_000, "{stale}");
    assert!(
        age(&stale, "stream") > age(&unreachable, "stream"),
        "{stale}"
    );
    assert!(age(&stale, "reach") > age(&unreachable, "reach"), "{stale}");
    let endpoints = federation.json(WEST, &["endpoints", "shop/payments"]).await;
    assert_eq!(endpoints["endpoints"].as_array().map(Vec::len), Some(1));
    assert_eq!(endpoints["endpoints"][0]["health"], "healthy");
    assert_eq!(endpoints["service"]["exported_by"][0], name);
    let admin = federation.addr(WEST, host::CONTROLLER, ADMIN);
    let label = format!("cluster=\"{name}\"");
    for (metric, least, most) in [
        ("tradewind_cluster_stream_up", 0.0, 0.0),
        ("tradewind_cluster_reachable", 0.0, 0.0),
        ("tradewind_cluster_stream_age_seconds", 1.0, 600.0),
        ("tradewind_cluster_data_age_seconds", 10.0, 600.0),
        ("tradewind_cluster_reach_age_seconds", 1.0, 600.0),
    ] {
        let page = http::get(admin, "/metrics").await.expect("a page").text();
        assert!(
            page.contains(&format!("{metric}{{{label}}}")),
            "{metric}: {page}"
        );
        let value = metrics::total(admin, metric, &[&label])
            .await
            .expect("a sample");
        assert!(value >= least && value <= most, "{metric} is {value}");
    }
    still_ready(&federation).await;
    // The other two are a majority.
    federation.token(&[]).await;

    // It comes back, and everything is as it was.
    federation.start_gateway(victim);
    let back = becomes(&federation, name, "three good facts again", is_well).await;
    assert!(back["facts"]["reach"]["error"].is_null(), "{back}");
    federation.sees(WEST, "shop/payments", 1).await;
    federation.is_well(WEST).await;
    let opened = metrics::total(admin, "tradewind_cluster_stream_up", &[]).await;
    assert_eq!(opened.expect("samples"), 2.0, "one of each other cluster");
}
