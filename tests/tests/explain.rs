//! `tradewind explain` says what calls do: by the controller for a caller anywhere, by a proxy for itself. Each of its words
//! is compared with who answers.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::net::SocketAddr;

use serde_json::Value;
use tradewind_tests::{
    Federation,
    federation::THREE,
    http,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const CENTRAL: usize = 1;
const EAST: usize = 2;
const TO: &str = "shop/payments:80";

fn verdict<'a>(said: &'a Value, cluster: &str) -> &'a str {
    let endpoints = said["explained"]["endpoints"].as_array();
    let found = endpoints
        .expect("endpoints")
        .iter()
        .find(|e| e["cluster"] == cluster);
    found.expect("its endpoint")["verdict"]
        .as_str()
        .expect("a verdict")
}

async fn explain(federation: &Federation, cluster: usize, more: &[&str]) -> Value {
    let args = [&["explain", "--to", TO], more].concat();
    federation.json(cluster, &args).await
}

/// Waits until calls are answered by that cluster.
async fn served_by(address: SocketAddr, cluster: &str) {
    until(cluster, USUAL, || async {
        let text = http::get(address, "/").await?.ok()?.text();
        if text.contains(cluster) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
}

/// Without central, calls go where they go below once it drains; and the exit code says that something would break.
async fn is_planned(federation: &Federation) {
    let plan = async |lost: &str| {
        let args = ["plan", "--without", lost, "-o", "json"];
        let said = federation.cli(WEST, &args).await;
        let json: Value = serde_json::from_str(&said.stdout).expect("JSON");
        (said.code, json)
    };
    let (code, said) = plan("central").await;
    let calls = said["calls"].as_array().expect("calls");
    let west = calls.iter().find(|c| c["from"] == "west").expect("west");
    assert_eq!(west["now"][0]["cluster"], "central", "{said}");
    assert_eq!(west["then"][0]["cluster"], "east", "{said}");
    // One of two alike endpoints is left.
    assert_eq!(
        (&west["effect"], &west["load"]),
        (&"overload".into(), &2.0.into()),
        "{said}"
    );
    assert_eq!(
        (code, &said["store"]["voters_then"]),
        (1, &2.into()),
        "{said}"
    );
    assert_eq!(said["store"]["writes_then"], true, "{said}");

    let (_, said) = plan("east").await;
    let calls = said["calls"].as_array().expect("calls");
    assert!(
        calls.iter().all(|c| c["then"][0]["cluster"] == "central"),
        "{said}"
    );
    let both = ["plan", "--without", "east", "--without", "central"];
    let both = federation.cli(WEST, &both).await;
    assert_eq!(both.code, 1);
    for word in [
        "1 of 3 voters stay: writes end",
        "fails     1: nobody is left",
        "shop/payments:80",
    ] {
        assert!(both.stdout.contains(word), "{}", both.stdout);
    }
    let unknown = federation
        .cli(WEST, &["plan", "--without", "nowhere"])
        .await;
    assert_eq!(unknown.code, 1, "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("no cluster \"nowhere\""),
        "{}",
        unknown.stderr
    );
}

#[tokio::test]
async fn what_is_explained_is_what_calls_do() {
    let federation = Federation::start(&THREE).await;
    let _central = federation.workload(CENTRAL, 1, TO).await;
    let mut east = federation.workload(EAST, 1, TO).await;
    for cluster in [CENTRAL, EAST] {
        federation.export(cluster, "shop/payments").await;
    }
    federation.sees(WEST, "shop/payments", 2).await;
    let (_caller, address) = federation.caller(WEST, 0, TO).await;
    served_by(address, "central").await;

    // The nearer region serves, the other stands by, for a caller in west; for one in east it is the other way round.
    let said = until("round trips", USUAL, || async {
        let said = explain(&federation, WEST, &[]).await;
        let known = said["explained"]["endpoints"][0]["round_trip_us"].is_u64();
        if known {
            Ok(said)
        } else {
            Err(said.to_string())
        }
    })
    .await;
    assert_eq!(said["from"]["cluster"], "west", "{said}");
    assert_eq!(verdict(&said, "central"), "serves in tier 0", "{said}");
    assert!(verdict(&said, "east").starts_with("stands by"), "{said}");
    let gateway = federation.gateway_addr(CENTRAL).to_string();
    let ways = said["explained"]["endpoints"]
        .as_array()
        .expect("endpoints");
    let central = ways.iter().find(|e| e["cluster"] == "central");
    assert_eq!(central.expect("central")["way"]["addresses"][0], gateway);
    let there = explain(&federation, WEST, &["--from", "east"]).await;
    assert_eq!(verdict(&there, "east"), "serves in tier 0", "{there}");
    // Its own controller says the same, once west has heard what east measured.
    until("one story", USUAL, || async {
        let there = explain(&federation, WEST, &["--from", "east"]).await;
        let own = explain(&federation, EAST, &[]).await;
        let same = own["explained"]["tiers"] == there["explained"]["tiers"];
        if same {
            Ok(())
        } else {
            Err(format!("{own}, {there}"))
        }
    })
    .await;

    // The proxy that calls says the same, and more once somebody failed it.
    let admin = federation.addr(WEST, 100, 15020).to_string();
    let live = explain(&federation, WEST, &["--proxy", &admin]).await;
    assert_eq!(live["source"], "proxy");
    assert_eq!(verdict(&live, "central"), "serves in tier 0", "{live}");
    is_planned(&federation).await;
    federation.cli(WEST, &["drain", "central"]).await.good();
    served_by(address, "east").await;
    let drained = explain(&federation, WEST, &[]).await;
    assert_eq!(
        verdict(&drained, "central"),
        "not used: its cluster drains",
        "{drained}"
    );
    assert_eq!(verdict(&drained, "east"), "serves in tier 0");
    east.kill().await;
    until(
        "central serves again, for want of others",
        USUAL,
        || async {
            let text = http::get(address, "/").await?.ok()?.text();
            let live = explain(&federation, WEST, &["--proxy", &admin]).await;
            let ejected = verdict(&live, "east") == "not used: ejected after failures";
            if text.contains("central") && ejected {
                Ok(())
            } else {
                Err(format!("{text}: {live}"))
            }
        },
    )
    .await;

    // For people; and what is not there is said with the nearest that is.
    let table = federation.cli(WEST, &["explain", "--to", TO]).await.good();
    for part in ["of the calls", "VERDICT", &gateway] {
        assert!(table.stdout.contains(part), "{part}: {}", table.stdout);
    }
    for (args, hint) in [
        (["explain", "--to", "shop/paymants:80"], "shop/payments"),
        (["explain", "--to", "shop/payments:81"], "it has 80"),
    ] {
        let refused = federation.cli(WEST, &args).await;
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert!(refused.stderr.contains(hint), "{}", refused.stderr);
    }
}
