//! Installing into a real API server, and asking it for pods: what it takes, what it makes of them by the webhook, what the controller's
//! rights allow, and that nothing is left behind.
//!
//! Owns the cluster that it starts. Says that it is skipped where `testenv` was not built.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod controller;
mod pods;
mod removal;

use std::time::Duration;

use serde_json::Value;
use tradewind_tests::{
    kubernetes::Clusters,
    process::{self, Output},
};

use controller::{
    a_controller_starts_while_its_api_server_is_away,
    a_kind_that_may_not_be_listed_holds_up_nothing, by_the_controllers_account,
    every_kind_of_rule_is_served, every_request_was_allowed, it_fails_closed,
    routes_are_told_of_themselves, the_controller_may_what_it_needs_and_no_more,
    the_controller_tells_the_api_server,
};
use pods::pods_get_their_proxy;
use removal::uninstalls_without_residue;

/// Longest until controllers made what they make, on busy cores.
const SOON: Duration = Duration::from_secs(60);

const SET: [&str; 6] = [
    "--set",
    "cluster.name=west",
    "--set",
    "cluster.region=us-west",
    "--set",
    "cluster.gateways=127.1.0.1:15443",
];

#[tokio::test]
async fn a_real_api_server_takes_the_chart_and_makes_pods_with_a_proxy() {
    let Some(mut clusters) = Clusters::start("installing into Kubernetes", ["west"]).await else {
        return;
    };
    checks_before_and_installs(&clusters).await;
    what_other_values_leave_out_goes(&clusters).await;
    both_versions_of_the_mcs_api_work(&clusters).await;
    the_controller_may_what_it_needs_and_no_more(&clusters).await;
    every_kind_of_rule_is_served(&clusters).await;
    let mut federation = by_the_controllers_account(&clusters).await;
    pods_get_their_proxy(&clusters, &federation).await;
    the_controller_tells_the_api_server(&clusters, &federation).await;
    routes_are_told_of_themselves(&clusters).await;
    the_check_sees_it(&clusters).await;
    every_request_was_allowed(&federation);
    a_kind_that_may_not_be_listed_holds_up_nothing(&clusters, &mut federation).await;
    a_controller_starts_while_its_api_server_is_away(&mut clusters, &mut federation).await;
    it_fails_closed(&clusters, &mut federation).await;
    uninstalls_without_residue(&clusters).await;
}

async fn tradewind(clusters: &Clusters, words: &[&str]) -> Output {
    let file = clusters.kubeconfig().to_string_lossy().into_owned();
    let target = ["--kubeconfig", &file, "--context", "west"];
    process::run(&[words, &target].concat()).await
}

async fn get(clusters: &Clusters, words: &[&str]) -> Value {
    let words = [&["get"], words, &["-o", "json"]].concat();
    clusters.kubectl("west", &words).await.good().json()
}

/// An upgrade takes away what is no part of it, of what was applied, and nothing else.
async fn what_other_values_leave_out_goes(clusters: &Clusters) {
    let system = ["-n", "tradewind-system"];
    let is_there = async |what: &str| {
        let words = [&["get", what], &system[..]].concat();
        clusters.kubectl("west", &words).await.code == 0
    };
    let theirs = ["create", "configmap", "theirs"];
    let theirs = [&theirs[..], &system].concat();
    clusters.kubectl("west", &theirs).await.good();
    let label = "app.kubernetes.io/part-of=tradewind";
    let label = [&["label", "configmap", "theirs", label], &system[..]].concat();
    clusters.kubectl("west", &label).await.good();

    let without = [
        "--set",
        "dns.enabled=false",
        "--set",
        "injection.enabled=false",
    ];
    let without = [&["install", "--apply"], &SET[..], &without].concat();
    let dns = ["deployment/tradewind-dns", "service/tradewind-dns"];
    let webhook = "mutatingwebhookconfiguration/tradewind-injection";
    let planned = [&without[..], &["--dry-run"]].concat();
    let planned = tradewind(clusters, &planned).await.good().stderr;
    assert!(planned.contains("Deployment/tradewind-dns in"), "{planned}");
    assert!(is_there(dns[0]).await, "--dry-run removed it");
    tradewind(clusters, &without).await.good();
    for gone in [dns[0], dns[1], webhook] {
        assert!(!is_there(gone).await, "{gone}");
    }
    for stays in [
        "configmap/theirs",
        "statefulset/tradewind-controller",
        "deployment/tradewind-gateway",
        "service/tradewind-gateway",
        "crd/serviceexports.multicluster.x-k8s.io",
    ] {
        assert!(is_there(stays).await, "{stays}");
    }
    let with = [&["install", "--apply"], &SET[..]].concat();
    let again = tradewind(clusters, &with).await.good().stderr;
    assert!(!again.contains("no part of it"), "{again}");
    for back in [dns[0], dns[1], webhook] {
        assert!(is_there(back).await, "{back}");
    }
    let delete = [&["delete", "configmap", "theirs"], &system[..]].concat();
    clusters.kubectl("west", &delete).await.good();
}

async fn checks_before_and_installs(clusters: &Clusters) {
    let before = tradewind(clusters, &["check", "--pre", "-o", "json"])
        .await
        .good()
        .json();
    assert_eq!(before["schema"], "tradewind.check/v1");
    assert_eq!(before["ok"], true, "{before}");
    let absent = tradewind(clusters, &["check"]).await;
    assert_eq!(absent.code, 1, "{}", absent.stderr);
    assert!(
        absent.stdout.contains("tradewind-controller is not there"),
        "{}",
        absent.stdout
    );

    let install = |more: &[&'static str]| [&["install"], &SET[..], more].concat();
    let unknown = tradewind(clusters, &["install", "--set", "cluster.nam=west"]).await;
    unknown.fails(2, &["cluster.nam"]);
    tradewind(clusters, &install(&["--apply", "--dry-run"]))
        .await
        .good();
    let nothing = clusters
        .kubectl("west", &["get", "namespace", "tradewind-system"])
        .await;
    assert_ne!(nothing.code, 0, "--dry-run made a namespace");
    tradewind(clusters, &install(&["--apply"])).await.good();

    // What is printed is what the API server takes from kubectl, too: every manifest, with each branch of the chart.
    let all = [
        "--set",
        "injection.istioLabel=true",
        "--set",
        "networkPolicy.enabled=true",
        "--set",
        "gateway.service.type=NodePort",
        "--set",
        "gateway.service.nodePort=31443",
    ];
    let printed = tradewind(clusters, &install(&all)).await.good().stdout;
    let file = clusters.dir().join("printed.yaml");
    std::fs::write(&file, &printed).unwrap();
    let file = file.to_string_lossy().into_owned();
    let dry = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "-f",
        &file,
    ];
    let dry = clusters.kubectl("west", &dry).await.good();
    let lines = dry
        .stdout
        .lines()
        .filter(|line| line.contains("server dry run)"))
        .count();
    assert_eq!(
        lines,
        printed.matches("# Source: ").count(),
        "{}",
        dry.stdout
    );
    assert!(!dry.stderr.contains("Warning"), "{}", dry.stderr);

    // Twice is once.
    let version = async || {
        let roles = get(clusters, &["clusterrole", "tradewind-controller"]).await;
        let set = get(
            clusters,
            &["-n", "tradewind-system", "deployment", "tradewind-gateway"],
        )
        .await;
        (
            roles["metadata"]["resourceVersion"].clone(),
            set["metadata"]["generation"].clone(),
        )
    };
    let first = version().await;
    tradewind(clusters, &install(&["--apply"])).await.good();
    assert_eq!(version().await, first);
}

/// An export that is written in the older version is read in the newer one, and what the KEP does not allow is refused.
async fn both_versions_of_the_mcs_api_work(clusters: &Clusters) {
    let export = "{apiVersion: multicluster.x-k8s.io/v1alpha1, kind: ServiceExport, metadata: {name: web, namespace: default}, spec: {exportedLabels: {a: b}}}";
    clusters.apply("west", export).await.good();
    let read = get(
        clusters,
        &["serviceexports.v1beta1.multicluster.x-k8s.io", "web"],
    )
    .await;
    assert_eq!(read["apiVersion"], "multicluster.x-k8s.io/v1beta1");
    assert_eq!(read["spec"]["exportedLabels"]["a"], "b");
    for refused in [
        "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceImport, metadata: {name: web, namespace: default}, spec: {type: Other, ports: []}}",
        "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceImport, metadata: {name: web, namespace: default}, spec: {type: ClusterSetIP, ports: [], ips: [a, b, c]}}",
        "{apiVersion: about.k8s.io/v1beta1, kind: ClusterProperty, metadata: {name: clusterset.k8s.io}, spec: {value: ''}}",
    ] {
        assert_ne!(clusters.apply("west", refused).await.code, 0, "{refused}");
    }
    let import = "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceImport, metadata: {name: web, namespace: default}, spec: {type: ClusterSetIP, ips: [240.240.0.1], ipFamilies: [IPv4], ports: [{port: 80, name: http}]}}";
    clusters.apply("west", import).await.good();
    let read = get(
        clusters,
        &["serviceimports.v1alpha1.multicluster.x-k8s.io", "web"],
    )
    .await;
    assert_eq!(read["spec"]["ports"][0]["protocol"], "TCP");
    let property = "{apiVersion: about.k8s.io/v1beta1, kind: ClusterProperty, metadata: {name: cluster.clusterset.k8s.io}, spec: {value: west}}";
    clusters.apply("west", property).await.good();
}

/// One check of `tradewind check`.
fn check<'a>(found: &'a Value, id: &str) -> &'a Value {
    let categories = found["categories"].as_array().unwrap().iter();
    let mut all = categories.flat_map(|c| c["checks"].as_array().unwrap());
    all.find(|one| one["id"] == id).unwrap()
}

async fn the_check_sees_it(clusters: &Clusters) {
    let found = tradewind(clusters, &["check", "-o", "json"]).await.json();
    let result = |id: &str| check(&found, id)["result"].clone();
    assert_eq!(result("account-rights"), "ok", "{found}");
    assert_eq!(result("webhook-certificate"), "ok");
    assert_eq!(result("pods-without-proxy"), "ok", "{found}");
    assert_eq!(result("root-published"), "ok", "{found}");
}
