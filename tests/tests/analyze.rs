//! `tradewind analyze` finds what is wrong in files of routes, by itself and with the services of a running cluster.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is not there"
)]

use std::fs;

use tradewind_tests::{Federation, federation::TWO, process};

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
