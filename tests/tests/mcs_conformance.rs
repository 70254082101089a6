//! The conformance suite of the Multi-Cluster Services API, whole, against two clusters as people install them: its pods are processes in
//! network namespaces with proxies beside them, names go through CoreDNS, and what the suite asks in a pod it asks by `exec`.
//!
//! The suite is not ours and not part of this: `TRADEWIND_MCS_SUITE` names its program, and docs/mcs-conformance.md says how it is built.
//! `TRADEWIND_MCS_REPORT` names a directory that keeps its reports. Says that it is skipped where the suite or something else is missing.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test's helpers fail by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command, time::Instant};
use tradewind_tests::{
    kubernetes,
    mesh::{Mesh, PORT, SOON, SYSTEM},
    namespaces::{inside, skipped},
    wait::until,
};

/// The clusters. The suite takes the first for the one whose services the others call.
const CLUSTERS: [&str; 2] = ["west", "east"];
/// The whole story: the suite's minutes, and waiting for servers to start on few cores.
const LIMIT: Duration = Duration::from_secs(1500);
/// The suite alone, on busy cores.
const SUITE_LIMIT: Duration = Duration::from_secs(1000);
/// Programs that the suite's pods run, and Debian's packages of them.
const PROGRAMS: [(&str, &str); 3] = [
    ("socat", "socat"),
    ("nslookup", "bind9-dnsutils"),
    ("nc", "netcat-openbsd"),
];
/// Required specs that there are.
const REQUIRED: usize = 14;

/// What becomes of an optional spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passes,
    /// And why.
    Fails(&'static str),
}
use Outcome::{Fails, Passes};

const MESH_ADDRESSES: &str = "another cluster's pods have addresses of the mesh, by which proxies lead to them, not their own";

/// Every optional spec by its number in docs/mcs-conformance.md, by words that only its description has, and what becomes of it where each
/// cluster has a network of its own. On one network all pass.
const OPTIONAL: [(u8, &[&str], Outcome); 13] = [
    (15, &["labels and annotations specified"], Passes),
    (16, &["conflicting annotations and labels"], Passes),
    (17, &["create an MCS EndpointSlice"], Passes),
    (18, &["accessible through DNS"], Passes),
    (19, &["two clusters but exported from one"], Passes),
    (20, &["same port name but different port numbers"], Passes),
    (21, &["different port name on each"], Passes),
    (22, &["DNS lookup of", "the clusterset IP"], Passes),
    (23, &["SRV query", "for a ClusterIP service"], Passes),
    (24, &["DNS lookups of", "svc.cluster.local"], Passes),
    (25, &["ready endpoint addresses"], Fails(MESH_ADDRESSES)),
    (26, &["headless StatefulSet"], Passes),
    (
        27,
        &["SRV query", "for a headless service"],
        Fails(MESH_ADDRESSES),
    ),
];

/// Namespaces that the suite makes are labelled for injection, since their pods have no proxy otherwise, as an operator does whose
/// namespaces all belong to the mesh.
const LABELLED: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: the-suites-namespaces}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules:
      - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [namespaces]}
  matchConditions:
    - {name: made-by-the-suite, expression: "object.metadata.name.startsWith('mcs-conformance-')"}
  mutations:
    - patchType: ApplyConfiguration
      applyConfiguration:
        expression: "Object{metadata: Object.metadata{labels: {'tradewind.io/injection': 'enabled'}}}"
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: the-suites-namespaces}
spec: {policyName: the-suites-namespaces}
"#;

/// How the clusters are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Networks {
    /// By their gateways' ports and nothing else, as it is where nothing is said.
    Apart,
    /// Pods reach each other, and both clusters name the same network.
    One,
}

#[tokio::test]
async fn the_conformance_suite_passes_but_for_what_is_known() {
    let name = "the_conformance_suite_passes_but_for_what_is_known";
    conform(name, Networks::Apart).await;
}

#[tokio::test]
async fn the_conformance_suite_passes_whole_on_one_network() {
    let name = "the_conformance_suite_passes_whole_on_one_network";
    conform(name, Networks::One).await;
}

async fn conform(name: &str, networks: Networks) {
    let Some(suite) = std::env::var_os("TRADEWIND_MCS_SUITE") else {
        return skipped(&format!(
            "{name}: TRADEWIND_MCS_SUITE names no program of the suite (docs/mcs-conformance.md says how it is built)"
        ));
    };
    let suite = PathBuf::from(suite);
    assert!(
        suite.is_file(),
        "TRADEWIND_MCS_SUITE names {}, which is no file",
        suite.display()
    );
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| found(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return skipped(&format!("{name}: the suite's pods need Debian's {missing}"));
    }
    inside(name, LIMIT, true, || async {
        story(&suite, networks).await
    })
    .await;
}

/// Where a program is.
fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

async fn story(suite: &Path, networks: Networks) {
    // The images' entry points: one has a program, the other runs what it is told.
    let programs = [
        ("alpine/socat", found("socat").unwrap()),
        ("nicolaka/netshoot", PathBuf::from("/usr/bin/env")),
    ];
    let (between, network) = match networks {
        Networks::Apart => (Some(PORT), "cluster.network="),
        Networks::One => (None, "cluster.network=flat"),
    };
    let started = Mesh::start("the conformance suite", &CLUSTERS, programs, between);
    let Some(mesh) = started.await else {
        return;
    };
    let [founder, other] = CLUSTERS;
    mesh.install(founder, founder, &[network]).await;
    mesh.is_well(founder).await;
    mesh.install(other, other, &["cluster.found=false", network])
        .await;
    mesh.join(other, founder).await;
    for cluster in CLUSTERS {
        mesh.is_well(cluster).await;
        forward_names(&mesh, cluster).await;
        label_namespaces(&mesh, cluster).await;
    }
    let report = run(&mesh, suite, networks).await;
    judge(&report, networks);
}

/// Has a cluster's CoreDNS send names of the clusterset to Tradewind's DNS server, as `kind-configs/run.sh` does.
async fn forward_names(mesh: &Mesh, cluster: &str) {
    let service = mesh.get(cluster, SYSTEM, "service", "tradewind-dns").await;
    let server = service["spec"]["clusterIP"].as_str().unwrap();
    let config = mesh
        .get(cluster, "kube-system", "configmap", "coredns")
        .await;
    let own = config["data"]["Corefile"].as_str().unwrap();
    let text = format!(
        "{own}clusterset.local:53 {{\n    errors\n    cache 5\n    forward . {server}\n}}\n"
    );
    let patch = json!({ "data": { "Corefile": text } }).to_string();
    let patch = [
        "patch",
        "configmap",
        "coredns",
        "--type=merge",
        "-p",
        &patch,
    ];
    let restart = ["rollout", "restart", "deployment/coredns"];
    for words in [&patch[..], &restart] {
        let there = [words, &["-n", "kube-system"]].concat();
        mesh.kubectl(cluster, &there).await;
    }
    mesh.rolled_out(cluster, "kube-system", "coredns").await;
    mesh.rolled_out(cluster, SYSTEM, "tradewind-dns").await;
}

/// Has the suite's namespaces labelled, and waits until they are.
async fn label_namespaces(mesh: &Mesh, cluster: &str) {
    mesh.apply(cluster, LABELLED).await;
    until("the suite's namespaces to be labelled", SOON, async || {
        let create = ["create", "namespace", "mcs-conformance-0", "-o", "json"];
        let create = [&create[..], &["--dry-run=server"]].concat();
        let made = mesh.kubectl(cluster, &create).await.json();
        match &made["metadata"]["labels"]["tradewind.io/injection"] {
            label if label == "enabled" => Ok(()),
            _ => Err(made),
        }
    })
    .await;
}

/// Runs the suite, keeps its report where that is wished, and gives it.
async fn run(mesh: &Mesh, suite: &Path, networks: Networks) -> Value {
    let dir = mesh.clusters.dir().join("suite");
    fs::create_dir(&dir).unwrap();
    let log = fs::File::create(dir.join("suite.log")).unwrap();
    let mut command = Command::new(suite);
    command
        .arg("-kubeconfig")
        .arg(mesh.clusters.kubeconfig())
        .args(["-contexts", &CLUSTERS.join(",")])
        .args(["-project", "Tradewind", "-version"])
        .arg(env!("CARGO_PKG_VERSION"))
        .args(["--ginkgo.no-color", "--ginkgo.v"])
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true);
    let begun = Instant::now();
    let ended = tokio::time::timeout(SUITE_LIMIT, command.status()).await;
    // That specs failed is no error yet: the report says which.
    ended
        .unwrap_or_else(|_| panic!("the suite took over {SUITE_LIMIT:?}"))
        .unwrap();
    eprintln!("the suite took {:?}", begun.elapsed());
    if let Some(kept) = std::env::var_os("TRADEWIND_MCS_REPORT") {
        let kept = PathBuf::from(kept).join(match networks {
            Networks::Apart => "networks-apart",
            Networks::One => "one-network",
        });
        fs::create_dir_all(&kept).unwrap();
        for file in ["report.yaml", "report.html", "suite.log"] {
            fs::copy(dir.join(file), kept.join(file)).unwrap();
        }
    }
    let text = fs::read_to_string(dir.join("report.yaml")).unwrap();
    read_yaml(&text).await
}

/// YAML, as kubectl reads it.
async fn read_yaml(text: &str) -> Value {
    let mut child = Command::new(kubernetes::program().unwrap())
        .arg("read-manifests")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).await.unwrap();
    drop(stdin);
    let read = child.wait_with_output().await.unwrap();
    serde_json::from_slice(&read.stdout).unwrap()
}

/// Compares a report with what is known.
fn judge(report: &Value, networks: Networks) {
    assert_eq!(report["suitefailure"], "", "{report}");
    let specs = |name: &str| -> Vec<&Value> {
        let groups = report["groups"].as_array().unwrap();
        let group = groups.iter().find(|group| group["name"] == name).unwrap();
        group["tests"].as_array().unwrap().iter().collect()
    };
    let mut wrong = Vec::new();
    let required = specs("Required");
    assert_eq!(required.len(), REQUIRED, "{report}");
    for spec in required {
        if spec["passed"] != true {
            wrong.push(format!("required: {spec}"));
        }
    }
    let optional = specs("Optional");
    assert_eq!(optional.len(), OPTIONAL.len(), "{report}");
    for (number, words, expected) in OPTIONAL {
        let has_all = |spec: &&&Value| {
            let text = spec["desc"].as_str().unwrap();
            words.iter().all(|word| text.contains(word))
        };
        let meant: Vec<_> = optional.iter().filter(has_all).collect();
        let [spec] = meant.as_slice() else {
            panic!("{number} is not one spec, but {meant:?}");
        };
        let expected = match networks {
            Networks::Apart => expected,
            Networks::One => Passes,
        };
        match (spec["passed"] == true, expected) {
            (true, Passes) | (false, Fails(_)) => {}
            (true, Fails(why)) => wrong.push(format!("{number} passes now, although {why}")),
            (false, Passes) => wrong.push(format!("{number}: {spec}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
