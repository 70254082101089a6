//! Several gateways of one cluster: one is killed, one is drained, under load that cannot be repeated, and no call fails.

use std::time::Duration;

use tradewind_tests::{
    Federation,
    federation::{ADMIN, TWO, host},
    load::{Load, Posts, none_failed},
    wait::USUAL,
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
