//! Several gateways of one cluster: one is killed, one is drained, under load that cannot be repeated, and no call fails.

#![expect(
    clippy::indexing_slicing,
    reason = "helpers of tests may panic as tests do"
)]

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tradewind_tests::{
    Federation,
    federation::{ADMIN, GATEWAY, TWO},
    http::Client,
    load::{Load, none_failed},
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
/// Last part of the second gateway's address.
const SECOND: u8 = 4;
/// Answers in a row that count as settled.
const SETTLED: usize = 50;

#[tokio::test]
async fn a_gateway_is_drained_and_another_killed_without_a_lost_call() {
    let mut federation = Federation::start(&TWO).await;
    let _payments = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;

    let listen = federation.addr(EAST, SECOND, GATEWAY);
    let mut second = start_second(&federation).await;
    announced(&federation, &[&listen.to_string()]).await;

    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let mut load = Load::start(address, 200);
    load.settles("east", SETTLED, USUAL).await;
    // What is no GET is never sent twice once it may have been processed: it shows every request that was cut.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let posts = tradewind_runtime::task::spawn("posts", async move {
        let (mut sent, mut failed) = (0, Vec::new());
        let mut client: Option<Client<Full<Bytes>>> = None;
        while !*stopped.borrow() {
            let result = async {
                let mut c = match client.take() {
                    Some(c) => c,
                    None => Client::open(address).await?,
                };
                let request = Request::post("/")
                    .header("host", "payments")
                    .body(Full::from("once"))
                    .map_err(|e| e.to_string())?;
                c.ask(request).await?.ok()?;
                Ok::<_, String>(c)
            };
            match result.await {
                Ok(c) => client = Some(c),
                Err(e) => failed.push(e),
            }
            sent += 1;
        }
        (sent, failed)
    });

    // Drained by SIGTERM: callers leave it before it goes.
    let code = federation.clusters[EAST]
        .gateway
        .as_mut()
        .expect("a gateway")
        .stop(Duration::from_secs(20))
        .await;
    assert_eq!(code, 0, "a gateway that was drained in time ends well");
    load.settles("east", SETTLED, USUAL).await;
    stop.send_replace(true);
    let (sent, failed) = posts.await.expect("the posts");
    assert!(
        failed.is_empty(),
        "{} of {sent} POSTs failed: {failed:?}",
        failed.len()
    );

    // The other one comes back, then this one is killed: what may be repeated is, elsewhere.
    federation.start_gateway(EAST);
    federation
        .ready(federation.addr(EAST, tradewind_tests::federation::host::GATEWAY, ADMIN))
        .await;
    announced(
        &federation,
        &[
            &listen.to_string(),
            &federation.gateway_addr(EAST).to_string(),
        ],
    )
    .await;
    second.kill().await;
    load.settles("east", SETTLED, USUAL).await;
    let shots = load.finish().await;
    none_failed(&shots);
}

async fn start_second(federation: &Federation) -> tradewind_tests::Process {
    let listen = federation.addr(EAST, SECOND, GATEWAY).to_string();
    let admin_addr = federation.addr(EAST, SECOND, ADMIN);
    let admin = admin_addr.to_string();
    let backend = federation
        .addr(EAST, 1, tradewind_tests::federation::CONTROLLER)
        .to_string();
    let dir = federation.data_dir(EAST);
    let process = federation.process(
        EAST,
        "gateway-2",
        &[
            "gateway",
            "--name",
            "gateway-2",
            "--data-dir",
            &dir,
            "--listen",
            &listen,
            "--admin-listen",
            &admin,
            "--controller-backend",
            &backend,
            "--threads",
            "1",
            "--drain-deadline",
            "5s",
        ],
    );
    federation.ready(admin_addr).await;
    process
}

/// Waits until west knows all of `gateways` as east's.
async fn announced(federation: &Federation, gateways: &[&str]) {
    until(
        &format!("the gateways {gateways:?} of east"),
        USUAL,
        || async {
            let seen = federation.json(WEST, &["clusters"]).await;
            let east = seen["clusters"]
                .as_array()
                .and_then(|all| all.iter().find(|c| c["name"] == "east"));
            let known = east.map(|c| c["gateways"].to_string()).unwrap_or_default();
            if gateways.iter().all(|g| known.contains(g)) {
                Ok(())
            } else {
                Err(known)
            }
        },
    )
    .await;
}
