//! `tradewind analyze` finds what is wrong in files of routes, by itself, in what a running cluster has, and in both together; `tradewind routes`
//! shows what holds there, whoever published it.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is not there"
)]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{fs, path::PathBuf};

use tradewind_tests::{
    Federation,
    federation::TWO,
    process,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;

/// Two halves of the cart, of which one is defined here.
const ROUTES: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart}]
  rules:
  - backendRefs:
    - {name: cart, port: 80, weight: 90}
    - {name: payments, port: 80, weight: 10}
";

/// Codes with their paths.
fn found(output: &process::Output) -> Vec<(String, String)> {
    let json = output.json();
    let findings = json["findings"].as_array().into_iter().flatten();
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    findings
        .map(|f| (text(&f["code"]), text(&f["path"])))
        .collect()
}

#[tokio::test]
async fn files_are_judged_by_themselves_or_with_what_a_cluster_knows() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("routes.yaml");
    fs::write(&file, ROUTES).unwrap();
    let path = file.to_str().unwrap();

    // By themselves: nobody knows one of the backends.
    let alone = process::run(&["analyze", path, "-o", "json"]).await;
    assert_eq!(alone.code, 1, "{}", alone.stderr);
    let missing = (
        "TW0211".to_owned(),
        "spec.rules[0].backendRefs[1]".to_owned(),
    );
    assert_eq!(found(&alone), [missing]);
    let table = process::run(&["analyze", path]).await;
    assert!(
        table.stdout.contains(&format!("{path}:15")),
        "{}",
        table.stdout
    );
    assert!(table.stdout.contains("there is no service shop/payments"));
    assert!(table.stderr.contains("hint: TW0211: define the service"));

    // A running cluster does, though it is another one that has it.
    let federation = Federation::start(&TWO).await;
    let _payments = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let live = federation
        .cli(WEST, &["analyze", path, "--live", "-o", "json"])
        .await;
    assert_eq!(found(&live.good()), []);

    // Warnings fail for who wants them to.
    let typo = ROUTES.replace("  - backendRefs", "  - timeOuts: {}\n    backendRefs");
    fs::write(&file, typo).unwrap();
    let lax = federation
        .cli(WEST, &["analyze", path, "--live", "-o", "json"])
        .await;
    let unknown = ("TW0202".to_owned(), "spec.rules[0].timeOuts".to_owned());
    assert_eq!(found(&lax.good()), [unknown]);
    let strict = federation
        .cli(WEST, &["analyze", path, "--live", "--strict"])
        .await;
    assert_eq!(strict.code, 1, "{}", strict.stdout);
}

#[tokio::test]
async fn what_cannot_be_read_is_told_apart_from_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere");
    let missing = process::run(&["analyze", nowhere.to_str().unwrap()]).await;
    missing.fails(2, &["nowhere", "No such file"]);
    let broken = dir.path().join("broken.yaml");
    fs::write(&broken, "kind: [").unwrap();
    let output = process::run(&["analyze", broken.to_str().unwrap()]).await;
    assert_eq!(output.code, 1);
    assert!(output.stdout.contains("TW0200"), "{}", output.stdout);
    let fields = process::run(&["analyze", "--fields"]).await.good();
    assert!(
        fields
            .stdout
            .contains("| `rules[].backendRefs[].weight` | honoured |")
    );
}

/// A federation whose clusters read a directory each, with `shop/payments` in east, exported and known in west.
async fn with_manifests() -> (
    Federation,
    [PathBuf; 2],
    tradewind_tests::workloads::Workload,
) {
    let mut federation = Federation::start(&TWO).await;
    let dirs = ["west", "east"].map(|name| federation.dir().join(format!("manifests-{name}")));
    for (cluster, dir) in [(WEST, &dirs[0]), (EAST, &dirs[1])] {
        fs::create_dir(dir).unwrap();
        federation.kill_cluster(cluster).await;
        federation.start_controller_with(cluster, &["--manifests", dir.to_str().unwrap()]);
        federation.start_gateway(cluster);
    }
    federation.is_well(WEST).await;
    federation.is_well(EAST).await;
    let payments = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    (federation, dirs, payments)
}

/// Calls of west's own namespace `web`, sent to a service that nobody knows.
const BROKEN: &str = "# how web calls payments
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payments, namespace: web}
spec:
  hosts: [payments.shop]
  exportTo: [.]
  http:
  - match: [{uri: {prefix: /pay}}]
    route:
    - destination:
        host: gone
";
/// What east says of calls to its service, to everybody.
const OF_EAST: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: payments, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: payments}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /pay}}]
    timeouts: {request: 2s}
    backendRefs: [{name: payments, port: 80}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payments, namespace: shop}
spec:
  host: payments
  trafficPolicy: {loadBalancer: {simple: RANDOM}}
";

#[tokio::test]
async fn a_running_cluster_is_judged_and_shown_alone_and_with_files() {
    let (federation, [west, east], _payments) = with_manifests().await;
    fs::write(east.join("route.yaml"), OF_EAST).unwrap();
    fs::write(west.join("rules.yaml"), BROKEN).unwrap();
    let live = async |more: &[&str]| {
        let args = [&["analyze", "--live", "-o", "json"], more].concat();
        federation.cli(WEST, &args).await
    };
    let missing = (
        "TW0211".to_owned(),
        "spec.http[0].route[0].destination".to_owned(),
    );
    let output = until("the file is read", USUAL, || async {
        let output = live(&[]).await;
        if found(&output).is_empty() {
            Err(output.stdout)
        } else {
            Ok(output)
        }
    })
    .await;
    assert_eq!((output.code, found(&output)), (1, vec![missing.clone()]));
    let json = output.json();
    let finding = &json["findings"][0];
    assert_eq!(finding["place"], "rules.yaml:11", "the field's own line");
    assert!(
        finding["hint"]
            .as_str()
            .unwrap()
            .contains("define the service")
    );
    assert!(finding.get("change").is_none());
    // The status says the same, on the same line.
    let status = federation.cli(WEST, &["status"]).await;
    assert!(
        status.stdout.contains("rules.yaml:11: TW0211"),
        "{}",
        status.stdout
    );

    mends_and_breaks(&live, missing).await;
    rules_are_shown(&federation).await;
}

/// Files that mend what is wrong in the cluster, and files that do not.
async fn mends_and_breaks(
    live: &impl AsyncFn(&[&str]) -> process::Output,
    missing: (String, String),
) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mended.yaml");
    let path = file.to_str().unwrap();
    let mended = BROKEN.replace("host: gone", "host: payments.shop");
    fs::write(
        &file,
        mended.replace("    route:", "    typo: 1\n    route:"),
    )
    .unwrap();
    let output = live(&[path]).await.good();
    let typo = ("TW0202".to_owned(), "spec.http[0].typo".to_owned());
    assert_eq!(found(&output), [typo]);
    let json = output.json();
    assert_eq!(json["findings"][0]["change"], "new");
    assert_eq!(json["findings"][0]["place"], format!("{path}:10"));
    assert_eq!(json["gone"][0]["code"], "TW0211");
    assert_eq!(json["gone"][0]["place"], "rules.yaml:11");
    assert_eq!(live(&[path, "--strict"]).await.code, 1);

    fs::write(&file, BROKEN).unwrap();
    let output = live(&[path]).await;
    assert_eq!((output.code, found(&output)), (1, vec![missing]));
    let json = output.json();
    assert_eq!(json["findings"][0]["change"], "as it was");
    assert_eq!(json["findings"][0]["place"], format!("{path}:11"));
    assert_eq!(json["gone"].as_array().map(Vec::len), Some(0));
}

/// Own rules and those that came with another cluster's export, in both clusters' words.
async fn rules_are_shown(federation: &Federation) {
    let lines = |output: &process::Output| {
        let line = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
        output.stdout.lines().skip(1).map(line).collect::<Vec<_>>()
    };
    let expected = [
        "shop/payments web VirtualService web/payments 1 DestinationRule shop/payments of east - -",
        "shop/payments all HTTPRoute shop/payments of east 1 DestinationRule shop/payments of east from east, format 1 -",
    ];
    let listed = until("the rules have travelled", USUAL, || async {
        let listed = federation.cli(WEST, &["routes"]).await.good();
        let lines = lines(&listed);
        if lines.len() == 2 {
            Ok(lines)
        } else {
            Err(listed.stdout)
        }
    })
    .await;
    assert_eq!(listed, expected);
    let there = federation.cli(EAST, &["routes"]).await.good();
    let expected =
        "shop/payments all HTTPRoute shop/payments 1 DestinationRule shop/payments format 1 -";
    assert_eq!(lines(&there), [expected]);

    let named = federation.cli(WEST, &["routes", "shop/payments"]).await;
    let named = named.good().stdout;
    for words in [
        "rules for calls to shop/payments, for callers in namespace web, in order",
        "VirtualService web/payments http[0]",
        "when  the path begins with \"/pay\"",
        "answers 500 for a share: there is no service web/gone",
        "HTTPRoute shop/payments rules[0] of east",
        "100.0 % to shop/payments:80",
        "within 2000 ms",
        "otherwise 404",
        "DestinationRule shop/payments of east, for all callers",
        "endpoints are drawn by weight alone",
        "published: from east, format 1",
    ] {
        assert!(named.contains(words), "{words}: {named}");
    }
    let json = federation.cli(WEST, &["routes", "-o", "json"]).await.json();
    assert_eq!(json["schema"], "tradewind.routes/v1");
    let service = &json["services"][0];
    assert_eq!(service["received_formats"]["east"], 1);
    let rule = &service["routes"]["of_all"]["rules"][0];
    assert_eq!(rule["origin"]["cluster"], "east");
    let names = federation.cli(WEST, &["routes", "-o", "name"]).await;
    assert_eq!(names.good().stdout.trim(), "shop/payments");

    let unknown = federation.cli(WEST, &["routes", "shop/paymenst"]).await;
    unknown.fails(
        1,
        &["shop/paymenst is not known", "did you mean shop/payments?"],
    );
}
