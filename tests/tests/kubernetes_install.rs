//! Installing into a real API server, and asking it for pods: what it takes, what it makes of them by the webhook, what the controller's
//! rights allow, and that nothing is left behind.
//!
//! Owns the cluster that it starts. Says that it is skipped where `testenv` was not built.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{net::SocketAddr, path::Path, time::Duration};

use serde_json::{Value, json};
use tradewind_controller::webhook::{Webhook, WebhookConfig, keep_published};
use tradewind_kubernetes::{Client, Place};
use tradewind_runtime::{clock, drain, metrics::MetricsRegistry, rng::Rng, task};
use tradewind_tests::{
    kubernetes::Clusters,
    process::{self, Output},
    wait,
};

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
    let Some(clusters) = Clusters::start("installing into Kubernetes", ["west"]).await else {
        return;
    };
    checks_before_and_installs(&clusters).await;
    both_versions_of_the_mcs_api_work(&clusters).await;
    the_controller_may_what_it_needs_and_no_more(&clusters).await;
    pods_get_their_proxy(&clusters).await;
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
    let refused = tradewind(clusters, &install(&["--apply"])).await;
    assert_eq!(
        refused.code, 5,
        "what it starts would not run: {}",
        refused.stderr
    );
    tradewind(clusters, &install(&["--apply", "--yes"]))
        .await
        .good();

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
    tradewind(clusters, &install(&["--apply", "--yes"]))
        .await
        .good();
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

/// As the API server's own authoriser says of the controller's account.
async fn the_controller_may_what_it_needs_and_no_more(clusters: &Clusters) {
    let may = async |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let who = "--as=system:serviceaccount:tradewind-system:tradewind-controller";
        let words = [&["auth", "can-i", who], &words[..]].concat();
        clusters.kubectl("west", &words).await.stdout.trim() == "yes"
    };
    for allowed in [
        "watch services -A",
        "list pods -A",
        "watch nodes",
        "create endpointslices -n shop",
        "patch serviceexports.multicluster.x-k8s.io --subresource=status -n shop",
        "create serviceimports.multicluster.x-k8s.io -n shop",
        "create tokenreviews.authentication.k8s.io",
        "patch mutatingwebhookconfigurations/tradewind-injection",
        "update configmaps/tradewind-root -n shop",
        "watch serviceexports.multicluster.x-k8s.io -A",
    ] {
        assert!(may(allowed).await, "{allowed}");
    }
    for refused in [
        "get secrets -n shop",
        "get secrets -n tradewind-system",
        "create pods -n shop",
        "delete pods -n shop",
        "patch serviceexports.multicluster.x-k8s.io -n shop",
        "patch mutatingwebhookconfigurations/other",
        "create mutatingwebhookconfigurations",
        "update configmaps/other -n shop",
        "list configmaps -n shop",
        "update clusterproperties.about.k8s.io/other",
        "impersonate users",
        "create serviceaccounts --subresource=token -n shop",
    ] {
        assert!(!may(refused).await, "{refused}");
    }
    let edit = [
        "auth",
        "can-i",
        "create",
        "serviceexports.multicluster.x-k8s.io",
        "-n",
        "default",
        "--as=ann",
    ];
    assert_eq!(clusters.kubectl("west", &edit).await.stdout.trim(), "no");
    let bind = [
        "create",
        "rolebinding",
        "ann",
        "-n",
        "default",
        "--clusterrole=edit",
        "--user=ann",
    ];
    clusters.kubectl("west", &bind).await.good();
    wait::until("aggregated rights", SOON, async || {
        let told = clusters.kubectl("west", &edit).await.stdout;
        if told.trim() == "yes" {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    let import = [
        "auth",
        "can-i",
        "create",
        "serviceimports.multicluster.x-k8s.io",
        "-n",
        "default",
        "--as=ann",
    ];
    assert_eq!(clusters.kubectl("west", &import).await.stdout.trim(), "no");
}

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tradewind.io/injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: quiet}
";

fn pod(name: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, spec: {{containers: [{{name: app, image: 'a:1'}}]{rest}}}}}"
    )
}

async fn pods_get_their_proxy(clusters: &Clusters) {
    let dir = tempfile::tempdir().unwrap();
    let (trigger, watch) = drain::channel();
    let address = webhook(clusters, dir.path(), watch).await;
    clusters.apply("west", SHOP).await.good();
    wait::until("the default account", SOON, async || {
        let words = ["-n", "shop", "get", "serviceaccount", "default"];
        let found = clusters.kubectl("west", &words).await;
        if found.code == 0 {
            Ok(())
        } else {
            Err(found.stderr)
        }
    })
    .await;

    // Before the API server knows our address pods of the namespace are refused: it fails closed.
    let refused = clusters.apply("west", &pod("early", "")).await;
    assert!(
        refused.stderr.contains("failed calling webhook"),
        "{}",
        refused.stderr
    );
    point_at(clusters, address).await;

    // A pod as the API server returns it.
    let made = wait::until("a pod with its proxy", SOON, async || {
        let applied = clusters.apply("west", &pod("plain", "")).await;
        if applied.code != 0 {
            return Err(applied.stderr);
        }
        Ok(get(clusters, &["-n", "shop", "pod", "plain"]).await)
    })
    .await;
    has_its_proxy(&made, 2);

    // Twice is once: the pod as it is now, under another name.
    let mut again = json!({ "apiVersion": "v1", "kind": "Pod", "spec": made["spec"] });
    again["metadata"] = json!({
        "name": "again", "namespace": "shop", "annotations": { "tradewind.io/status": made["metadata"]["annotations"]["tradewind.io/status"] },
    });
    again["spec"].as_object_mut().unwrap().remove("nodeName");
    clusters.apply("west", &again.to_string()).await.good();
    has_its_proxy(&get(clusters, &["-n", "shop", "pod", "again"]).await, 2);

    wishes_are_heard(clusters).await;
    controllers_pods_get_theirs(clusters).await;
    the_check_sees_it(clusters).await;

    trigger.drain(Duration::from_secs(5)).await;
    let away = clusters.apply("west", &pod("late", "")).await;
    assert!(
        away.stderr.contains("failed calling webhook"),
        "{}",
        away.stderr
    );
}

/// Refused politely, left out by wish, asked for by wish, refused for a wish that cannot be read.
async fn wishes_are_heard(clusters: &Clusters) {
    let told = clusters
        .apply("west", &pod("agent", ", hostNetwork: true"))
        .await
        .good();
    assert!(
        told.stderr
            .contains("Warning: tradewind: no proxy was added, because it uses the node's network"),
        "{}",
        told.stderr
    );
    has_none(&get(clusters, &["-n", "shop", "pod", "agent"]).await);
    let out = pod("out", "").replace(
        "namespace: shop",
        "namespace: shop, annotations: {tradewind.io/inject: \"false\"}",
    );
    let told = clusters.apply("west", &out).await.good();
    assert!(!told.stderr.contains("Warning"), "{}", told.stderr);
    has_none(&get(clusters, &["-n", "shop", "pod", "out"]).await);
    let asked = pod("asked", "").replace(
        "namespace: shop",
        "namespace: quiet, labels: {tradewind.io/inject: \"true\"}",
    );
    clusters.apply("west", &asked).await.good();
    has_its_proxy(&get(clusters, &["-n", "quiet", "pod", "asked"]).await, 2);
    let bad = pod("bad", "").replace(
        "namespace: shop",
        "namespace: shop, annotations: {tradewind.io/proxy-cpu: lots}",
    );
    let told = clusters.apply("west", &bad).await;
    assert!(
        told.stderr.contains("tradewind.io/proxy-cpu is \"lots\""),
        "{}",
        told.stderr
    );
}

/// A deployment's pods have no name when they are made; a job's own init container comes third.
async fn controllers_pods_get_theirs(clusters: &Clusters) {
    let more = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'a:1'}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: nightly, namespace: shop}
spec:
  template:
    metadata: {labels: {app: nightly}}
    spec: {restartPolicy: Never, initContainers: [{name: first, image: 'a:1'}], containers: [{name: nightly, image: 'a:1'}]}
";
    clusters.apply("west", more).await.good();
    for (label, containers) in [("app=web", 2), ("app=nightly", 3)] {
        let made = wait::until("a controller's pod", SOON, async || {
            let found = get(clusters, &["-n", "shop", "pods", "-l", label]).await;
            match found["items"].get(0) {
                Some(pod) => Ok(pod.clone()),
                None => Err(found),
            }
        })
        .await;
        has_its_proxy(&made, containers);
    }
}

async fn the_check_sees_it(clusters: &Clusters) {
    let found = tradewind(clusters, &["check", "-o", "json"]).await.json();
    let all: Vec<&Value> = found["categories"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|c| c["checks"].as_array().unwrap())
        .collect();
    let result = |id: &str| all.iter().find(|one| one["id"] == id).unwrap()["result"].clone();
    assert_eq!(result("webhook-certificate"), "ok");
    assert_eq!(result("pods-without-proxy"), "ok", "{found}");
    assert_eq!(
        result("root-published"),
        "error",
        "no controller publishes it here"
    );
}

/// The webhook of a controller, with the task that tells the API server whom to believe.
async fn webhook(clusters: &Clusters, dir: &Path, watch: drain::Watch) -> SocketAddr {
    let injection = get(
        clusters,
        &["-n", "tradewind-system", "configmap", "tradewind-injection"],
    )
    .await;
    let settings = dir.join("injection.yaml");
    std::fs::write(
        &settings,
        injection["data"]["injection.yaml"].as_str().unwrap(),
    )
    .unwrap();
    let config = WebhookConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        settings,
        names: vec!["localhost".to_owned()],
    };
    let webhook = Webhook::bind(
        config,
        dir,
        clock::system(),
        Rng::from_entropy(),
        &MetricsRegistry::new(),
    )
    .unwrap();
    let place = Place {
        kubeconfig: Some(clusters.kubeconfig().to_owned()),
        context: Some("west".to_owned()),
    };
    let client = Client::new(&place).await.unwrap();
    let address = webhook.local_addr();
    let publish = keep_published(
        webhook.bundle(),
        client,
        "tradewind-injection".to_owned(),
        clock::system(),
        Rng::from_entropy(),
    );
    drop(task::spawn("publish", publish));
    drop(task::spawn("webhook", webhook.run(watch)));
    address
}

/// There is no network of services here: the API server is told where the webhook is.
async fn point_at(clusters: &Clusters, address: SocketAddr) {
    let found = get(
        clusters,
        &["mutatingwebhookconfiguration", "tradewind-injection"],
    )
    .await;
    let count = found["webhooks"].as_array().unwrap().len();
    let mut patch = Vec::new();
    for at in 0..count {
        let path = format!("/webhooks/{at}/clientConfig");
        patch.push(json!({ "op": "remove", "path": format!("{path}/service") }));
        let url = format!("https://localhost:{}/inject", address.port());
        patch.push(json!({ "op": "add", "path": format!("{path}/url"), "value": url }));
    }
    let patch = json!(patch).to_string();
    let words = [
        "patch",
        "mutatingwebhookconfiguration",
        "tradewind-injection",
        "--type=json",
        "-p",
        &patch,
    ];
    clusters.kubectl("west", &words).await.good();
}

fn has_its_proxy(pod: &Value, init_containers: usize) {
    let all = pod["spec"]["initContainers"].as_array().unwrap();
    let names: Vec<&str> = all.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["tradewind-capture", "tradewind-proxy"]);
    assert_eq!(names.len(), init_containers, "{names:?}");
    assert_eq!(
        all[0]["securityContext"]["capabilities"]["add"],
        json!(["NET_ADMIN"])
    );
    assert_eq!(all[1]["restartPolicy"], "Always");
    assert_eq!(all[1]["securityContext"]["runAsUser"], 1337);
    let args = all[1]["args"].to_string();
    assert!(
        args.contains("--controller=tradewind-controller.tradewind-system.svc:15012"),
        "{args}"
    );
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let count = |name: &str| volumes.iter().filter(|v| v["name"] == name).count();
    assert_eq!(
        (count("tradewind-identity"), count("tradewind-state")),
        (1, 1)
    );
    assert!(pod["metadata"]["annotations"]["tradewind.io/status"].is_string());
}

fn has_none(pod: &Value) {
    assert_eq!(pod["spec"].get("initContainers"), None);
    assert_eq!(
        pod.pointer("/metadata/annotations/tradewind.io~1status"),
        None
    );
}

async fn uninstalls_without_residue(clusters: &Clusters) {
    let asked = tradewind(clusters, &["uninstall"]).await;
    asked.fails(5, &["--yes"]);
    assert!(
        asked
            .stderr
            .contains("CustomResourceDefinition/serviceexports.multicluster.x-k8s.io (--crds)"),
        "{}",
        asked.stderr
    );
    get(clusters, &["clusterrole", "tradewind-controller"]).await;
    // What the controller keeps is told by a label of its own: an exported one may stand where the chart's would.
    let kept = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept, namespace: default, labels: {tradewind.io/owned-by: controller, app.kubernetes.io/part-of: shop}}";
    clusters.apply("west", kept).await.good();
    tradewind(clusters, &["uninstall", "--yes"]).await.good();
    let kept = [
        "get",
        "configmap",
        "kept",
        "-n",
        "default",
        "-o",
        "name",
        "--ignore-not-found",
    ];
    wait::until("what the controller kept is gone", SOON, async || {
        let found = clusters.kubectl("west", &kept).await.good().stdout;
        if found.trim().is_empty() {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
    let left = [
        "-A",
        "-o",
        "name",
        "-l",
        "app.kubernetes.io/part-of=tradewind",
    ];
    let kinds = "crd,clusterroles,clusterrolebindings,roles,mutatingwebhookconfigurations,deployments,statefulsets,services,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies";
    let words = [&["get", kinds], &left[..]].concat();
    wait::until("only the CRDs are left", SOON, async || {
        let found = clusters.kubectl("west", &words).await.good().stdout;
        let others = found
            .lines()
            .filter(|line| !line.starts_with("customresourcedefinition"));
        if others.count() == 0 && found.lines().count() == 3 {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
    // Exports are people's own, and still there.
    get(clusters, &["serviceexport", "web"]).await;
    tradewind(clusters, &["uninstall", "--yes", "--crds", "--data"])
        .await
        .good();
    // No controller for disks runs here: what it would do once no pod uses the volume is done for it.
    let data = [
        "-n",
        "tradewind-system",
        "pvc",
        "data-tradewind-controller-0",
    ];
    let marked = get(clusters, &data).await;
    let when = &marked["metadata"]["deletionTimestamp"];
    assert!(when.is_string(), "the volume stays: {marked}");
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    let words = [&["patch"], &data[..], &["--type=merge", "-p", patch]].concat();
    clusters.kubectl("west", &words).await.good();
    let kinds_and_data = format!("{kinds},pvc,namespaces");
    wait::until("nothing is left", SOON, async || {
        let words = [&["get", kinds_and_data.as_str()], &left[..]].concat();
        let found = clusters.kubectl("west", &words).await.good().stdout;
        if found.trim().is_empty() {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
    let again = tradewind(clusters, &["uninstall"]).await.good();
    assert!(
        again.stderr.contains("nothing is installed"),
        "{}",
        again.stderr
    );
}
