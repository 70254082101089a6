//! How everything goes again.

use tradewind_tests::{kubernetes::Clusters, wait};

use crate::{SOON, get, tradewind};

/// It writes anew what is taken from it, so that nothing is before it is gone.
async fn a_controller_on_its_way_out_is_waited_for(clusters: &Clusters) {
    let lingers = "{apiVersion: v1, kind: Pod, metadata: {name: lingers, namespace: tradewind-system, labels: {app.kubernetes.io/name: tradewind-controller}}, spec: {securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}, containers: [{name: controller, image: 'a:1', securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}";
    clusters.apply("west", lingers).await.good();
    let set = [
        "-n",
        "tradewind-system",
        "get",
        "statefulsets",
        "-o",
        "name",
    ];
    let watched = async {
        wait::until("the controller is told to end", SOON, async || {
            let found = clusters.kubectl("west", &set).await.good().stdout;
            if found.trim().is_empty() {
                Ok(())
            } else {
                Err(found)
            }
        })
        .await;
        get(clusters, &["-n", "default", "configmap", "kept"]).await;
        let delete = "--now";
        let words = ["delete", "pod", "lingers", "-n", "tradewind-system", delete];
        clusters.kubectl("west", &words).await.good();
    };
    let words = ["uninstall", "--yes"];
    let (removed, ()) = tokio::join!(tradewind(clusters, &words), watched);
    removed.good();
}

pub(crate) async fn uninstalls_without_residue(clusters: &Clusters) {
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
    a_controller_on_its_way_out_is_waited_for(clusters).await;
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
