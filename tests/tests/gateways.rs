//! Gateways in trouble: of several one is killed, one is drained, under load that cannot be repeated, and no call fails; one has
//! no descriptors left, and keeps what it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tradewind_tests::{
    Federation,
    crowd::{Calls, Crowd},
    federation::{ADMIN, GATEWAY, TWO, host},
    http,
    load::{Load, Posts, none_failed},
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
/// Answers in a row that count as settled.
const SETTLED: usize = 50;

#[tokio::test]
async fn a_gateway_is_drained_and_another_killed_without_a_lost_call() {
    let mut federation = Federation::start(&TWO).await;
    let _payments = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;

    let mut second = federation.second_gateway(EAST, "5s").await;
    let both = [host::GATEWAY, host::SECOND_GATEWAY];
    federation.announced(EAST, WEST, &both).await;

    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let mut load = Load::start(address, 200);
    load.settles("east", SETTLED, USUAL).await;
    let posts = Posts::start(address);

    // Drained by SIGTERM: callers leave it before it goes.
    let code = federation.clusters[EAST]
        .gateway
        .as_mut()
        .expect("a gateway")
        .stop(Duration::from_secs(20))
        .await;
    assert_eq!(code, 0, "a gateway that was drained in time ends well");
    load.settles("east", SETTLED, USUAL).await;
    posts.none_failed().await;

    // The other one comes back, then this one is killed: what may be repeated is, elsewhere.
    federation.start_gateway(EAST);
    federation
        .ready(federation.addr(EAST, host::GATEWAY, ADMIN))
        .await;
    federation.announced(EAST, WEST, &both).await;
    second.kill().await;
    load.settles("east", SETTLED, USUAL).await;
    let shots = load.finish().await;
    none_failed(&shots);
}

/// A session and a request take milliseconds; who waits for a second is not served.
const NOT_SERVED: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_gateway_without_descriptors_keeps_what_it_has_and_takes_more_when_it_can() {
    let service = "shop/payments:80";
    let federation = Federation::start(&TWO).await;
    let _payments = federation.workload(EAST, 1, service).await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let calls = Calls::between(&federation, [WEST, EAST], service).await;
    let gateway = federation.addr(EAST, host::GATEWAY, GATEWAY);
    let process = federation.clusters[EAST].gateway.as_ref().expect("one");
    let crowd = Crowd::gather(calls.clone(), 8, &[gateway]).await;

    // Room for two connections and the half of a third. A probe holds a descriptor for a moment: the least of many looks
    // is what stays.
    let mut kept = process.files();
    for _ in 0..20 {
        sleep(Duration::from_millis(25)).await;
        kept = kept.min(process.files());
    }
    process.limit_files_to(kept + 5).await;
    let mut more = Vec::new();
    while let Ok(Ok(session)) = timeout(NOT_SERVED, calls.open(gateway)).await {
        more.push(session);
        assert!(more.len() < 8, "the limit does not hold");
    }
    assert!(!more.is_empty(), "there was room for one");
    let others: Vec<_> = (0..8)
        .map(|_| timeout(NOT_SERVED, calls.open(gateway)))
        .collect();
    for other in futures::future::join_all(others).await {
        assert!(!matches!(other, Ok(Ok(_))), "there was no room");
    }
    crowd.ask_all().await;
    for session in &more {
        assert_eq!(session.get(service).await.expect("an answer").0, 200);
    }

    // Whoever lets go makes room.
    drop(more);
    until("room for another", USUAL, || async {
        match timeout(NOT_SERVED, calls.open(gateway)).await {
            Ok(opened) => opened.map(drop),
            Err(_elapsed) => Err("not served".to_owned()),
        }
    })
    .await;
    crowd.ask_all().await;
}

/// Longer than several probes of an endpoint that is out take.
const PROBED: Duration = Duration::from_secs(5);

/// What a caller's proxy knows of the endpoints that it calls: whether each is out, by id.
#[expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]
async fn standing(admin: SocketAddr) -> BTreeMap<String, bool> {
    let page = http::get(admin, "/debug/state").await.expect("a page");
    let state: Value = serde_json::from_str(&page.text()).expect("JSON");
    let mut found = BTreeMap::new();
    let threads = state["outbound_threads"].as_array().into_iter().flatten();
    for thread in threads {
        let services = thread["services"].as_array().into_iter().flatten();
        for endpoint in services.flat_map(|s| s["endpoints"].as_array().into_iter().flatten()) {
            let id = endpoint["id"].as_str().expect("an id").to_owned();
            *found.entry(id).or_default() |= endpoint["detector"] != "closed";
        }
    }
    found
}

#[tokio::test]
async fn a_dead_endpoint_behind_a_gateway_is_not_taken_for_alive_while_another_serves() {
    let federation = Federation::start(&TWO).await;
    let mut workloads = Vec::new();
    for n in [1, 2] {
        workloads.push(federation.workload(EAST, n, "shop/payments:80").await);
    }
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 2).await;
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let admin = federation.addr(WEST, host::CALLERS, ADMIN);

    // What answers say is true: each endpoint's id goes with its own words.
    let mut words: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for _ in 0..100 {
        let answer = http::get(address, "/").await.unwrap().ok().unwrap();
        let by = answer.headers["tradewind-served-by"].to_str().unwrap();
        words
            .entry(by.to_owned())
            .or_default()
            .insert(answer.text());
    }
    assert_eq!(words.len(), 2, "{words:?}");
    assert!(words.values().all(|w| w.len() == 1), "{words:?}");
    let of = |n: &str| {
        let is = |w: &BTreeSet<String>| w.iter().all(|w| w.ends_with(n));
        let found = words.iter().find(|(_, w)| is(w));
        let found = found.unwrap_or_else(|| panic!("{n} in {words:?}"));
        found.0.trim_start_matches("east/").to_owned()
    };
    let (dead, alive) = (of("/1"), of("/2"));

    workloads[0].kill().await;
    until("the dead endpoint to be out", USUAL, || async {
        http::get(address, "/").await?.ok()?;
        let known = standing(admin).await;
        if known.get(&dead) == Some(&true) {
            Ok(())
        } else {
            Err(format!("{known:?}"))
        }
    })
    .await;
    // Its gateway is asked for it again and again, and has another one to connect.
    let since = Instant::now();
    while since.elapsed() < PROBED {
        let answer = http::get(address, "/").await.unwrap().ok().unwrap();
        assert_eq!(
            answer.headers["tradewind-served-by"],
            format!("east/{alive}")
        );
        assert_eq!(answer.text(), "payments from east/2");
        let known = standing(admin).await;
        // Until its own cluster has given it up.
        assert_ne!(known.get(&dead), Some(&false), "it is dead: {known:?}");
        assert_eq!(known.get(&alive), Some(&false), "{known:?}");
    }
}
