//! Routes in a cluster's files, acted on by its proxies, across a border: a canary that grows under load, calls steered by a header,
//! copied, and answered for browsers; and what `status` says of a rule that cannot hold.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use http::Request;
use http_body_util::Empty;
use tradewind_tests::{
    Federation,
    federation::{ADMIN, TWO, host},
    http::Client,
    load::{Load, none_failed},
    metrics,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
const STABLE: &str = "payments from west";
const CANARY: &str = "canary from east";
/// What a caller's proxy counts of copies, and those that the canary answered.
const MIRRORS: &str = "tradewind_outbound_mirrors";
const COPIED: [&str; 2] = ["shop/canary:80", "answered"];

/// `shop/payments` in west and `shop/canary` in east, known to west, whose controller reads a directory.
async fn federation() -> (
    Federation,
    PathBuf,
    Vec<tradewind_tests::workloads::Workload>,
) {
    let mut federation = Federation::start(&TWO).await;
    let manifests = federation.dir().join("manifests");
    fs::create_dir(&manifests).unwrap();
    federation.kill_cluster(WEST).await;
    federation.start_controller_with(WEST, &["--manifests", manifests.to_str().unwrap()]);
    federation.start_gateway(WEST);
    federation.is_well(WEST).await;
    let stable = federation.workload(WEST, 1, "shop/payments:80").await;
    let canary = federation.workload(EAST, 1, "shop/canary:80").await;
    federation.export(EAST, "shop/canary").await;
    federation.sees(WEST, "shop/canary", 1).await;
    federation.sees(WEST, "shop/payments", 1).await;
    (federation, manifests, vec![stable, canary])
}

fn http_route(weights: [u32; 2]) -> String {
    let [stable, canary] = weights;
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: payments, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: payments}}]
  rules:
  - backendRefs:
    - {{name: payments, port: 80, weight: {stable}}}
    - {{name: canary, port: 80, weight: {canary}}}
"
    )
}

/// As editors and tools do: whole or not at all.
fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

#[tokio::test]
async fn a_canary_across_the_border_grows_under_load_and_no_call_fails() {
    let (federation, manifests, _workloads) = federation().await;
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let mut load = Load::start(address, 200);
    load.settles(STABLE, 20, USUAL).await;

    let file = manifests.join("route.yaml");
    write(&file, &http_route([90, 10]));
    load.settles(CANARY, 1, USUAL).await;
    load.settles(" from ", 800, USUAL).await;
    let split = load.finish().await;
    none_failed(&split);
    let first = split
        .iter()
        .position(|s| s.result.as_ref().is_ok_and(|r| r.contains(CANARY)));
    let after = &split[first.expect("one by the canary")..];
    let canaries = after
        .iter()
        .filter(|s| s.result.as_ref().is_ok_and(|r| r.contains(CANARY)));
    let share = canaries.count() as f64 / after.len() as f64;
    assert!(
        after.len() > 500 && (0.05..0.16).contains(&share),
        "{share} of {}",
        after.len()
    );

    let mut load = Load::start(address, 200);
    write(&file, &http_route([0, 1]));
    load.settles(CANARY, 100, USUAL).await;
    // The same in Istio's words, in another file; then nothing.
    let istio = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payments, namespace: shop}
spec:
  hosts: [payments.shop.svc.cluster.local]
  http: [{route: [{destination: {host: canary}}]}]
";
    write(&manifests.join("istio.yaml"), istio);
    fs::remove_file(&file).unwrap();
    load.settles(CANARY, 100, USUAL).await;
    fs::remove_file(manifests.join("istio.yaml")).unwrap();
    load.settles(STABLE, 100, USUAL).await;
    none_failed(&load.finish().await);
}

/// The rules below are explained as they happen, and what is wrong with them stands in the status.
async fn is_told(federation: &Federation) {
    let explain = async |more: &[&str]| {
        let args = [
            &["explain", "--to", "shop/payments:80", "--caller", "shop"],
            more,
        ]
        .concat();
        federation.cli(WEST, &args).await.good().stdout
    };
    let steered = explain(&["--header", "x-canary: yes"]).await;
    assert!(
        steered.contains("=> VirtualService shop/payments http[0]: sends on"),
        "{steered}"
    );
    assert!(steered.contains("100.0 % to shop/canary:80"), "{steered}");
    let plain = explain(&["--path", "/closed?a=b"]).await;
    assert!(
        plain.contains("http[0]: the header x-canary does not match"),
        "{plain}"
    );
    assert!(
        plain.contains("=> VirtualService shop/payments http[1]: answers 503"),
        "{plain}"
    );
    assert!(plain.contains("http[2]: not asked"), "{plain}");
    let batch = explain(&["--caller-label", "app=batch"]).await;
    let decides = "=> VirtualService shop/payments http[3]: sends on";
    assert!(batch.contains(decides), "{batch}");
    let copied = explain(&[]).await;
    let missing = "http[3]: the caller's label app does not match";
    assert!(copied.contains(missing), "{copied}");
    assert!(
        copied.contains("sends on, copies 100 % to shop/canary:80"),
        "{copied}"
    );

    // The controller says it too, by file, field and code.
    let status = federation.cli(WEST, &["status"]).await;
    for word in [
        "rules.yaml:1",
        "TW0211",
        "spec.http[2].route[0].destination",
        "shop/gone",
    ] {
        assert!(status.stdout.contains(word), "{word}: {}", status.stdout);
    }
}

/// A page of another origin asks before it asks, and is answered by the caller's proxy, as `explain` says.
async fn a_browser_is_answered(federation: &Federation, address: SocketAddr) {
    let preflight = Request::options("/pay")
        .header("host", "payments.shop")
        .header("origin", "https://shop.example")
        .header("access-control-request-method", "PUT");
    let mut client = Client::open(address).await.unwrap();
    let preflight = preflight.body(Empty::new()).unwrap();
    let answer = client.ask(preflight).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    let permitted = answer.headers.get("access-control-allow-origin").unwrap();
    assert_eq!(permitted, "https://shop.example");
    let asked = [
        "explain",
        "--to",
        "shop/payments:80",
        "--caller",
        "shop",
        "--method",
        "OPTIONS",
        "--header",
        "origin: https://shop.example",
        "--header",
        "access-control-request-method: PUT",
    ];
    let said = federation.cli(WEST, &asked).await.good().stdout;
    assert!(said.contains("answers the preflight itself"), "{said}");
    assert!(!said.contains("% to shop/payments:80"), "{said}");
}

#[tokio::test]
async fn calls_are_steered_by_a_header_answered_by_a_rule_and_told_what_cannot_hold() {
    let (mut federation, manifests, _workloads) = federation().await;
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let file = manifests.join("rules.yaml");
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payments, namespace: shop}
spec:
  hosts: [payments]
  http:
  - match: [{headers: {x-canary: {exact: 'yes'}}}]
    route: [{destination: {host: canary}}]
    headers: {response: {set: {x-version: canary}}}
  - match: [{uri: {prefix: /closed}}]
    directResponse: {status: 503, body: {string: come back later}}
  - match: [{uri: {prefix: /nowhere}}]
    route: [{destination: {host: gone}}]
  - match: [{sourceLabels: {app: batch}}]
    route: [{destination: {host: canary}}]
  - route: [{destination: {host: payments}}]
    corsPolicy: {allowOrigins: [{exact: 'https://shop.example'}], allowMethods: [PUT]}
    mirror: {host: canary}
";
    write(&file, rules);
    let ask = async |path: &str, canary: bool| {
        let mut request = Request::get(path).header("host", "payments.shop");
        if canary {
            request = request.header("x-canary", "yes");
        }
        let mut client = Client::open(address).await?;
        client.ask(request.body(Empty::new()).unwrap()).await
    };
    until("the header steers", USUAL, || async {
        let answer = ask("/", true).await?;
        if answer.text().contains(CANARY) && answer.headers.get("x-version").is_some() {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;
    let plain = ask("/", false).await.unwrap();
    assert!(plain.text().contains(STABLE), "{}", plain.text());
    assert!(plain.headers.get("x-version").is_none());
    let closed = ask("/closed/today", false).await.unwrap();
    assert_eq!(
        (closed.status, closed.text().as_str()),
        (503, "come back later")
    );
    let nowhere = ask("/nowhere", false).await.unwrap();
    assert_eq!(nowhere.status, 500);
    assert!(
        nowhere.text().contains("there is no service shop/gone"),
        "{}",
        nowhere.text()
    );

    is_told(&federation).await;

    // Another caller, by its label.
    let label = ["--label", "app=batch"];
    let (_batch, its) = federation
        .caller_with(WEST, 1, "shop/payments:80", &label)
        .await;
    let request = Request::get("/").header("host", "payments.shop");
    let mut client = Client::open(its).await.unwrap();
    let request = request.body(Empty::new()).unwrap();
    let answer = client.ask(request).await.unwrap();
    assert!(answer.text().contains(CANARY), "{}", answer.text());

    a_browser_is_answered(&federation, address).await;

    // Each call gets one answer, and the other cluster's service a copy.
    let caller = federation.addr(WEST, host::CALLERS, ADMIN);
    let copies = async || metrics::total(caller, MIRRORS, &COPIED).await.unwrap();
    let before = copies().await;
    for _ in 0..20 {
        let plain = ask("/", false).await.unwrap();
        assert!(plain.text().contains(STABLE), "{}", plain.text());
    }
    let after = metrics::reaches(caller, MIRRORS, &COPIED, before + 20.0).await;
    assert!(after <= before + 20.0, "{before} {after}");

    // While no controller answers the rules hold.
    let controller = federation.clusters[WEST].controller.as_mut().unwrap();
    controller.kill().await;
    for _ in 0..20 {
        let answer = ask("/", true).await.unwrap();
        assert!(answer.text().contains(CANARY), "{}", answer.text());
    }
    let closed = ask("/closed", false).await.unwrap();
    assert_eq!(closed.status, 503);
}
