//! Pods as the API server returns them.

use serde_json::{Value, json};
use tradewind_tests::{federation::Federation, kubernetes::Clusters, wait};

use crate::{
    SOON,
    controller::{point_at, webhook},
    get,
};

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tradewind.io/injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: quiet}
";

pub(crate) fn pod(name: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, spec: {{containers: [{{name: app, image: 'a:1'}}]{rest}}}}}"
    )
}

pub(crate) async fn pods_get_their_proxy(clusters: &Clusters, federation: &Federation) {
    let address = webhook(federation).await;
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
