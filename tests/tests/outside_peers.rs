//! TLS clients that are not ours, OpenSSL and Envoy, in a network where 15443 alone is open: with a member's certificate and a
//! sealed name they reach the workload behind the gateway, end to end, and without either they do not.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::{path::Path, time::Duration};

use tradewind_tests::{
    Federation,
    federation::{ADMIN, host},
    http, metrics,
    namespaces::{inside, skipped},
    outside::{self, Identity},
    peer,
    seals::Sealer,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
const SERVICE: &str = "shop/payments:80";
const WEB: &str = "/ns/shop/sa/web";
const OPENED: &str = "tradewind_gateway_connections_opened";
const REFUSED: &str = "tradewind_gateway_connections_refused";
/// Longest that one of these may take: several times what it does.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn openssl_reaches_a_workload_by_a_sealed_name_and_not_without() {
    if let Err(why) = outside::runs(Path::new("openssl"), "version").await {
        return skipped(&format!("OpenSSL as a caller: {why}"));
    }
    let name = "openssl_reaches_a_workload_by_a_sealed_name_and_not_without";
    inside(name, LIMIT, false, openssl).await;
}

/// A name as text, as others take it.
fn text(name: &rustls::pki_types::ServerName<'_>) -> String {
    name.to_str().into_owned()
}

async fn openssl() {
    let (federation, workloads) = Federation::closed_serving(SERVICE, 1).await;
    let west = peer::authority(&federation.clusters[WEST].data_dir);
    let files = Identity::make(federation.dir(), &west, WEB).await;
    let gateway = federation.gateway_addr(EAST);
    let admin = federation.addr(EAST, host::GATEWAY, ADMIN);
    let sealed = text(&Sealer::of(&federation, WEST).await.name("east", SERVICE));
    let answer = (SERVICE, "payments from east/1");
    let ask = |name: String, certificate| {
        let openssl = federation.program(WEST, Path::new("openssl"));
        let identity = (&files, certificate);
        async move { outside::openssl_get(openssl, gateway, &name, identity, answer).await }
    };

    let seen = ask(sealed.clone(), true).await;
    let good = [
        answer.1,
        "ALPN protocol: h2",
        "TLSv1.3",
        "Verify return code: 0 (ok)",
    ];
    assert!(seen.has(&good), "{seen:?}");
    let labels = ["to=\"shop/payments:80\"", "peer=\"west\""];
    metrics::reaches(admin, OPENED, &labels, 1.0).await;

    // Without a seal it ends at the gateway, without a certificate at the workload.
    let clear = text(&peer::name("east", SERVICE));
    let seen = ask(clear, true).await;
    assert!(seen.has(&["alert access denied"]), "{seen:?}");
    assert!(!seen.has(&[answer.1]), "{seen:?}");
    metrics::reaches(admin, REFUSED, &["reason=\"no_seal\""], 1.0).await;
    let seen = ask(sealed, false).await;
    assert!(!seen.has(&[answer.1]), "{seen:?}");
    let dropped = "tradewind_inbound_connections_dropped";
    metrics::reaches(workloads[0].admin, dropped, &["reason=\"handshake\""], 1.0).await;
}

#[tokio::test]
async fn envoy_reaches_a_workload_by_a_sealed_name_and_not_without() {
    let (envoy_program, openssl) = (outside::envoy_program(), Path::new("openssl"));
    // Its key is made by OpenSSL.
    for (program, version) in [(&*envoy_program, "--version"), (openssl, "version")] {
        if let Err(why) = outside::runs(program, version).await {
            let hint = "TRADEWIND_ENVOY names Envoy's program";
            return skipped(&format!("Envoy as a caller: {why} ({hint})"));
        }
    }
    let name = "envoy_reaches_a_workload_by_a_sealed_name_and_not_without";
    inside(name, LIMIT, false, envoy).await;
}

async fn envoy() {
    let (federation, _workloads) = Federation::closed_serving(SERVICE, 1).await;
    let west = peer::authority(&federation.clusters[WEST].data_dir);
    let files = Identity::make(federation.dir(), &west, WEB).await;
    let sealed = text(&Sealer::of(&federation, WEST).await.name("east", SERVICE));
    let clear = text(&peer::name("east", SERVICE));
    let listen = federation.addr(WEST, 101, 9090);
    let config = outside::envoy_config(
        listen,
        federation.gateway_addr(EAST),
        &[("sealed", &sealed), ("clear", &clear)],
        &files,
        (SERVICE, "spiffe://east.mesh.internal/ns/shop/sa/payments"),
    );
    let program = federation.program(WEST, &outside::envoy_program());
    let _envoy = outside::start_envoy(program, federation.dir(), &config);

    let answer = until("Envoy's call", USUAL, || async {
        http::get(listen, "/sealed").await?.ok()
    })
    .await;
    assert_eq!(answer.text(), "payments from east/1");
    let admin = federation.addr(EAST, host::GATEWAY, ADMIN);
    let labels = ["to=\"shop/payments:80\"", "peer=\"west\""];
    metrics::reaches(admin, OPENED, &labels, 1.0).await;
    let refused = http::get(listen, "/clear").await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    metrics::reaches(admin, REFUSED, &["reason=\"no_seal\""], 1.0).await;
}
