//! The ground that tests against Kubernetes stand on: three real API servers come up with their controllers, pods become
//! ready and slices name them, tokens are reviewed, an API server goes and comes back, and nothing is left behind.
//!
//! Owns the clusters that it starts. Says that it is skipped where `testenv` was not built.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{collections::BTreeSet, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpListener, time::timeout};
use tradewind_tests::{
    kubernetes::{Clusters, Wanted},
    wait,
};

/// Longest until controllers made what they make, on busy cores.
const SOON: Duration = Duration::from_secs(60);

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: "example.com/web:1"}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: placed, namespace: shop, annotations: {testenv/pod-ip: 10.9.8.7}}
spec:
  nodeSelector: {topology.kubernetes.io/zone: us-west-2}
  containers: [{name: main, image: "example.com/main:1"}]
"#;

#[tokio::test]
async fn real_clusters_serve_what_a_mesh_needs_of_them() {
    let west = Wanted {
        region: Some("us-west".to_owned()),
        ..Wanted::from("west")
    };
    let wanted = [west, "central".into(), "east".into()];
    let Some(mut clusters) = Clusters::start("real API servers", wanted).await else {
        return;
    };
    let names: Vec<_> = clusters.all().iter().map(|c| c.name.clone()).collect();
    assert_eq!(names, ["west", "central", "east"]);

    clusters.apply("west", SHOP).await.good();
    slices_name_ready_pods(&clusters).await;
    pods_get_the_place_they_ask_for(&clusters).await;
    tokens_are_reviewed(&clusters).await;
    deleted_pods_go(&clusters).await;
    webhooks_on_loopback_are_asked(&clusters).await;

    let mut processes: BTreeSet<u32> = clusters
        .all()
        .iter()
        .flat_map(|c| c.processes.clone())
        .collect();
    objects_outlive_an_api_server(&mut clusters).await;
    processes.extend(clusters.all().iter().flat_map(|c| c.processes.clone()));
    processes.insert(clusters.id());
    assert!(processes.len() >= 3 * 2 + 1 + 2, "{processes:?}");

    drop(clusters);
    let left: Vec<_> = processes.iter().filter(|id| runs(**id)).collect();
    assert_eq!(left, Vec::<&u32>::new(), "processes are left");
}

/// The pods of a deployment become ready and the slice of its service holds their addresses and zones.
async fn slices_name_ready_pods(clusters: &Clusters) {
    let slices = [
        "-n",
        "shop",
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
    ];
    let endpoints = wait::until("two ready endpoints", SOON, async || {
        let found = get(clusters, "west", &slices).await;
        let endpoints = list(&found["items"][0]["endpoints"]);
        let ready = endpoints
            .iter()
            .filter(|e| e["conditions"]["ready"] == true);
        if ready.count() == 2 {
            Ok(endpoints)
        } else {
            Err(found)
        }
    })
    .await;
    let pods = get(
        clusters,
        "west",
        &["-n", "shop", "get", "pods", "-l", "app=web"],
    )
    .await;
    let pods = list(&pods["items"]);
    let addresses = |of: &[Value], path: &str| -> BTreeSet<String> {
        let each = of
            .iter()
            .map(|one| one.pointer(path).unwrap().as_str().unwrap().to_owned());
        each.collect()
    };
    let of_pods = addresses(&pods, "/status/podIP");
    assert_eq!(addresses(&endpoints, "/addresses/0"), of_pods);
    assert_eq!(of_pods.len(), 2);
    let zones = addresses(&endpoints, "/zone");
    assert!(zones.iter().all(|z| z.starts_with("us-west-")), "{zones:?}");
}

/// A pod gets the address that it is annotated with and the zone that it selects; its node says the region.
async fn pods_get_the_place_they_ask_for(clusters: &Clusters) {
    let pod = wait::until("a pod at its address", SOON, async || {
        let pod = get(clusters, "west", &["-n", "shop", "get", "pod", "placed"]).await;
        if pod["status"]["phase"] == "Running" {
            Ok(pod)
        } else {
            Err(pod)
        }
    })
    .await;
    assert_eq!(pod["status"]["podIP"], "10.9.8.7");
    let node = get(
        clusters,
        "west",
        &["get", "node", pod["spec"]["nodeName"].as_str().unwrap()],
    )
    .await;
    let labels = &node["metadata"]["labels"];
    assert_eq!(labels["topology.kubernetes.io/zone"], "us-west-2");
    assert_eq!(labels["topology.kubernetes.io/region"], "us-west");
}

/// A token bound to a pod authenticates at its own cluster with the pod's name, and at no other.
async fn tokens_are_reviewed(clusters: &Clusters) {
    let words = "-n shop create token default --bound-object-kind Pod --bound-object-name placed --audience tradewind";
    let words: Vec<_> = words.split(' ').collect();
    let token = clusters.kubectl("west", &words).await.good().stdout;
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token.trim(), "audiences": ["tradewind"]},
    });
    let file = clusters.dir().join("review.json");
    std::fs::write(&file, review.to_string()).unwrap();
    let file = file.to_string_lossy().into_owned();
    let ask = ["create", "-o", "json", "-f", &file];
    let status = clusters.kubectl("west", &ask).await.good().json()["status"].clone();
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:shop:default"
    );
    let extra = &status["user"]["extra"];
    assert_eq!(
        extra["authentication.kubernetes.io/pod-name"],
        json!(["placed"])
    );
    let elsewhere = clusters.kubectl("east", &ask).await.good().json()["status"].clone();
    assert_ne!(elsewhere["authenticated"], true, "{elsewhere}");
}

/// What is deleted goes, and what a controller keeps comes again under another name.
async fn deleted_pods_go(clusters: &Clusters) {
    let delete = ["-n", "shop", "delete", "pods", "--all", "--timeout", "50s"];
    clusters.kubectl("west", &delete).await.good();
    wait::until("two other pods", SOON, async || {
        let pods = get(clusters, "west", &["-n", "shop", "get", "pods"]).await;
        let all = list(&pods["items"]);
        let running = all.iter().filter(|p| p["status"]["phase"] == "Running");
        if running.count() == 2 && all.len() == 2 {
            Ok(())
        } else {
            Err(pods)
        }
    })
    .await;
}

/// The API server asks an admission webhook on a loopback address, and obeys when that does not answer as it should.
async fn webhooks_on_loopback_are_asked(clusters: &Clusters) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "asked"},
        "webhooks": [{
            "name": "asked.example.com",
            "clientConfig": {"url": format!("https://{}/", listener.local_addr().unwrap())},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
        }],
    });
    clusters.apply("east", &hook.to_string()).await.good();
    let asked = timeout(SOON, async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap()
    });
    // It heeds a new configuration a moment after it took that in, so more than one secret may be needed.
    let refused = wait::until("a refusal for want of the webhook", SOON, async || {
        let create = ["create", "secret", "generic", "--dry-run=server", "asked"];
        let created = clusters.kubectl("east", &create).await;
        if created.code == 0 {
            Err(created)
        } else {
            Ok(created)
        }
    });
    let (first, refused) = tokio::join!(asked, refused);
    // The first byte of TLS.
    assert_eq!(first, Ok(22));
    assert!(
        refused.stderr.contains("asked.example.com"),
        "{}",
        refused.stderr
    );
}

/// While one API server is away the others answer; it comes back at the same address with its objects, and its controllers work.
async fn objects_outlive_an_api_server(clusters: &mut Clusters) {
    let create = [
        "create",
        "configmap",
        "kept",
        "--from-literal",
        "a=b",
        "-o",
        "json",
    ];
    let kept = clusters.kubectl("central", &create).await.good().json();
    clusters.stop_api("central").await;
    let away = clusters.kubectl("central", &["get", "configmaps"]).await;
    assert_ne!(away.code, 0, "{}", away.stdout);
    get(clusters, "east", &["get", "configmaps"]).await;
    clusters.start_api("central").await;
    let found = get(clusters, "central", &["get", "configmap", "kept"]).await;
    assert_eq!(found["metadata"]["uid"], kept["metadata"]["uid"]);
    clusters
        .apply(
            "central",
            SHOP.split("---\napiVersion: v1\nkind: Service")
                .next()
                .unwrap(),
        )
        .await
        .good();
    wait::until("a deployment after the outage", SOON, async || {
        let web = get(
            clusters,
            "central",
            &["-n", "shop", "get", "deployment", "web"],
        )
        .await;
        if web["status"]["readyReplicas"] == 2 {
            Ok(())
        } else {
            Err(web)
        }
    })
    .await;
}

fn list(of: &Value) -> Vec<Value> {
    of.as_array().cloned().unwrap_or_default()
}

async fn get(clusters: &Clusters, name: &str, words: &[&str]) -> Value {
    let words = [words, &["-o", "json"]].concat();
    clusters.kubectl(name, &words).await.good().json()
}

/// Whether a process is there and no zombie.
fn runs(id: u32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status"));
    status.is_ok_and(|s| !s.contains("State:\tZ"))
}
