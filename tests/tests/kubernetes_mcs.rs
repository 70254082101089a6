//! The Multi-Cluster Services API on real API servers: two clusters, their controllers, and what KEP-1645 requires of imports, conditions,
//! conflicts, un-export and an API server that goes away.
//!
//! Owns the clusters and the federation that it starts. Says that it is skipped where `testenv` was not built.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tradewind_tests::{
    federation::{ADMIN, Federation, TWO, host},
    http,
    kubernetes::Clusters,
    wait::until,
};

/// What the conformance suite of the API gives most of its waits, on busy cores with reserve.
const SOON: Duration = Duration::from_secs(60);

/// A Service as the conformance suite has it, with its export.
fn hello(spec: &str, export: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: v1
kind: Service
metadata: {{name: hello, namespace: shop, labels: {{own: "1"}}}}
spec:
{spec}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{name: hello, namespace: shop}}
{export}
"#
    )
}

const PLAIN: &str = r"
  selector: {app: hello}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 10}}
  internalTrafficPolicy: Cluster
  trafficDistribution: PreferClose
  ports:
  - {name: tcp, port: 42, protocol: TCP}
  - {name: udp, port: 42, protocol: UDP}
";

struct Lab {
    clusters: Clusters,
    federation: Federation,
}

impl Lab {
    async fn get(&self, cluster: &str, what: &[&str]) -> Option<Value> {
        let args = [&["get", "-o", "json", "--ignore-not-found"], what].concat();
        let output = self.clusters.kubectl(cluster, &args).await;
        serde_json::from_str(&output.stdout).ok()
    }

    async fn import(&self, cluster: &str) -> Option<Value> {
        self.get(cluster, &["serviceimport", "hello", "-n", "shop"])
            .await
    }

    /// When the export was made; as text it compares like the moments.
    async fn created(&self, cluster: &str) -> String {
        let export = ["serviceexport", "hello", "-n", "shop"];
        let export = self.get(cluster, &export).await.unwrap();
        export["metadata"]["creationTimestamp"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// `Type=Status Reason` of each condition of the export, sorted.
    async fn conditions(&self, cluster: &str) -> Vec<String> {
        let export = self
            .get(cluster, &["serviceexport", "hello", "-n", "shop"])
            .await;
        let conditions = export.map(|e| e["status"]["conditions"].clone());
        let text = |c: &Value, key: &str| c[key].as_str().unwrap_or_default().to_owned();
        let conditions = conditions
            .and_then(|c| c.as_array().cloned())
            .unwrap_or_default();
        let mut told: Vec<_> = conditions
            .iter()
            .map(|c| {
                format!(
                    "{}={} {}",
                    text(c, "type"),
                    text(c, "status"),
                    text(c, "reason")
                )
            })
            .collect();
        told.sort();
        told
    }

    async fn becomes(&self, cluster: &str, expected: &[&str]) {
        until(&format!("{cluster}: {expected:?}"), SOON, async || {
            let now = self.conditions(cluster).await;
            if now == expected {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        })
        .await;
    }

    async fn imported(&self, cluster: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(
            &format!("{cluster}: the import"),
            SOON,
            async || match self.import(cluster).await {
                Some(import) if is(&import) => Ok(import),
                other => Err(format!("{other:?}")),
            },
        )
        .await
    }

    async fn is_gone(&self, cluster: &str) {
        until(
            &format!("{cluster}: no import"),
            SOON,
            async || match self.import(cluster).await {
                None => Ok(()),
                Some(import) => Err(import.to_string()),
            },
        )
        .await;
    }

    async fn apply(&self, cluster: &str, text: &str) {
        // By the server: kubectl alone takes two protocols of one port for one port.
        let file = self.clusters.dir().join("applied.yaml");
        std::fs::write(&file, text).unwrap();
        let args = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            file.to_str().unwrap(),
        ];
        self.clusters.kubectl(cluster, &args).await.good();
    }

    async fn delete(&self, cluster: &str, what: &[&str]) {
        self.clusters
            .kubectl(cluster, &[&["delete"], what].concat())
            .await
            .good();
    }
}

const NO_CONFLICT: [&str; 3] = [
    "Conflict=False NoConflicts",
    "Ready=True Exported",
    "Valid=True Valid",
];

#[tokio::test]
async fn two_clusters_are_one_clusterset_to_their_api_servers() {
    let names = TWO.map(|(name, _)| name);
    let Some(clusters) = Clusters::start("the Multi-Cluster Services API", names).await else {
        return;
    };
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/tradewind/crds");
    for name in names {
        let crds = crds.to_str().unwrap();
        clusters.kubectl(name, &["apply", "-f", crds]).await.good();
    }
    let mut federation = Federation::empty();
    federation.kubeconfig = Some(clusters.kubeconfig().to_owned());
    for (name, region) in TWO {
        federation.add(name, region).await;
    }
    let mut lab = Lab {
        clusters,
        federation,
    };
    members_say_who_they_are(&lab).await;
    an_export_is_an_import_everywhere(&lab).await;
    conflicts_stand_on_all_and_the_oldest_holds(&lab).await;
    imports_end_with_the_last_export(&lab).await;
    headless_and_external_services(&lab).await;
    labels_are_passed_on_when_they_are_exported(&lab).await;
    what_is_written_here_is_put_right(&lab).await;
    an_api_server_may_go_away(&mut lab).await;
}

async fn members_say_who_they_are(lab: &Lab) {
    for (cluster, _) in TWO {
        for (name, expected) in [
            ("cluster.clusterset.k8s.io", cluster),
            ("clusterset.k8s.io", "mesh.internal"),
        ] {
            until(name, SOON, async || {
                let property = lab.get(cluster, &["clusterproperty", name]).await;
                match property {
                    Some(p) if p["spec"]["value"] == expected => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    }
}

async fn an_export_is_an_import_everywhere(lab: &Lab) {
    lab.apply("west", &hello(PLAIN, "")).await;
    lab.becomes("west", &NO_CONFLICT).await;
    let here = lab.imported("west", |_| true).await;
    assert!(
        lab.import("east").await.is_none(),
        "there is no such namespace"
    );
    lab.clusters
        .kubectl("east", &["create", "namespace", "shop"])
        .await
        .good();
    let there = lab.imported("east", |_| true).await;
    assert_eq!(here["spec"], there["spec"]);
    let spec = &there["spec"];
    assert_eq!(spec["type"], "ClusterSetIP");
    assert_eq!(
        spec["ports"],
        json!([{"name": "tcp", "port": 42, "protocol": "TCP"}, {"name": "udp", "port": 42, "protocol": "UDP"}])
    );
    assert_eq!(
        spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        10
    );
    assert_eq!(spec["internalTrafficPolicy"], "Cluster");
    assert_eq!(spec["trafficDistribution"], "PreferClose");
    let service = lab
        .get("west", &["service", "hello", "-n", "shop"])
        .await
        .unwrap();
    assert_eq!(spec["ipFamilies"], service["spec"]["ipFamilies"]);
    let families = spec["ipFamilies"].as_array().unwrap().len();
    assert_eq!(spec["ips"].as_array().unwrap().len(), families, "{spec}");
    let status = lab
        .imported("east", |i| i["status"]["conditions"].is_array())
        .await;
    assert_eq!(status["status"]["clusters"], json!([{"cluster": "west"}]));
    assert!(
        !there["metadata"]["labels"].to_string().contains("\"own\""),
        "{there}"
    );

    // Another cluster's export of it makes no difference, and neither does the end of the first one.
    lab.apply("east", &hello(PLAIN, "")).await;
    lab.becomes("east", &NO_CONFLICT).await;
    let both = json!([{"cluster": "east"}, {"cluster": "west"}]);
    let is_both = |i: &Value| i["status"]["clusters"] == both;
    let united = lab.imported("west", is_both).await;
    assert_eq!(united["spec"], here["spec"], "its address stands");
}

async fn conflicts_stand_on_all_and_the_oldest_holds(lab: &Lab) {
    let other = PLAIN.replace("port: 42, protocol: TCP", "port: 43, protocol: TCP");
    lab.apply(
        "east",
        &hello(
            &format!("{other}  - {{name: sctp, port: 142, protocol: SCTP}}\n"),
            "",
        ),
    )
    .await;
    let conflict = [
        "Conflict=True PortConflict",
        "Ready=True Exported",
        "Valid=True Valid",
    ];
    for cluster in ["west", "east"] {
        lab.becomes(cluster, &conflict).await;
        let import = lab
            .imported(cluster, |i| {
                i["spec"]["ports"].as_array().unwrap().len() == 3
            })
            .await;
        let ports: Vec<_> = import["spec"]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["port"].clone())
            .collect();
        assert_eq!(
            ports,
            [42, 42, 142],
            "the oldest export's port of that name stands"
        );
    }
    an_export_that_is_made_anew_is_the_younger_one(lab).await;
    for cluster in ["west", "east"] {
        lab.becomes(cluster, &conflict).await;
    }
    lab.apply("east", &hello(PLAIN, "")).await;
    for cluster in ["west", "east"] {
        lab.becomes(cluster, &NO_CONFLICT).await;
    }
}

/// Under the same name, and so soon that a watch may tell of it in one breath: it is another object, and what was older holds.
async fn an_export_that_is_made_anew_is_the_younger_one(lab: &Lab) {
    let before = lab.import("east").await.unwrap();
    lab.delete("west", &["serviceexport", "hello", "-n", "shop"])
        .await;
    lab.apply("west", &hello(PLAIN, "")).await;
    for cluster in ["west", "east"] {
        let import = lab
            .imported(cluster, |i| {
                let ports = i["spec"]["ports"].as_array().unwrap();
                let tcp = ports.iter().find(|p| p["name"] == "tcp");
                ports.len() == 3 && tcp.is_some_and(|p| p["port"] == 43)
            })
            .await;
        assert_eq!(import["spec"]["ips"], before["spec"]["ips"]);
    }
}

async fn imports_end_with_the_last_export(lab: &Lab) {
    let before = lab.import("east").await.unwrap();
    lab.delete("west", &["serviceexport", "hello", "-n", "shop"])
        .await;
    let only = json!([{"cluster": "east"}]);
    let after = lab
        .imported("west", |i| i["status"]["clusters"] == only)
        .await;
    assert_eq!(after["spec"]["ips"], before["spec"]["ips"]);
    lab.delete("east", &["serviceexport", "hello", "-n", "shop"])
        .await;
    lab.is_gone("west").await;
    lab.is_gone("east").await;
}

async fn headless_and_external_services(lab: &Lab) {
    lab.delete("west", &["service", "hello", "-n", "shop"])
        .await;
    lab.apply(
        "west",
        &hello(
            "  clusterIP: None\n  selector: {app: hello}\n  ports: [{name: tcp, port: 42}]",
            "",
        ),
    )
    .await;
    lab.becomes("west", &NO_CONFLICT).await;
    let import = lab
        .imported("east", |i| i["spec"]["type"] == "Headless")
        .await;
    assert_eq!(import["spec"].get("ips"), None, "{import}");
    // Of two types the oldest export's holds. Ages are told in whole seconds, and of equals the name decides.
    let plain = "  ports: [{name: tcp, port: 42}]\n  selector: {app: hello}";
    until("a younger export", SOON, async || {
        lab.apply("east", &hello(plain, "")).await;
        let (older, younger) = (lab.created("west").await, lab.created("east").await);
        if older < younger {
            return Ok(());
        }
        let export = ["serviceexport", "hello", "-n", "shop"];
        lab.delete("east", &export).await;
        Err(format!("{older} and {younger}"))
    })
    .await;
    let conflict = [
        "Conflict=True TypeConflict",
        "Ready=True Exported",
        "Valid=True Valid",
    ];
    for cluster in ["west", "east"] {
        lab.becomes(cluster, &conflict).await;
        assert_eq!(
            lab.import(cluster).await.unwrap()["spec"]["type"],
            "Headless"
        );
    }
    lab.delete("east", &["serviceexport", "hello", "-n", "shop"])
        .await;
    lab.delete("west", &["service", "hello", "-n", "shop"])
        .await;
    lab.becomes("west", &["Ready=False Pending", "Valid=False NoService"])
        .await;
    lab.is_gone("east").await;
    lab.apply(
        "west",
        &hello("  type: ExternalName\n  externalName: example.com", ""),
    )
    .await;
    lab.becomes(
        "west",
        &["Ready=False Pending", "Valid=False InvalidServiceType"],
    )
    .await;
    assert!(lab.import("west").await.is_none());
    lab.delete("west", &["service", "hello", "-n", "shop"])
        .await;
}

async fn labels_are_passed_on_when_they_are_exported(lab: &Lab) {
    let export = "spec: {exportedLabels: {a: b}, exportedAnnotations: {c: d}}";
    lab.apply("west", &hello(PLAIN, export)).await;
    let import = lab
        .imported("east", |i| i["metadata"]["labels"]["a"] == "b")
        .await;
    assert_eq!(import["metadata"]["annotations"]["c"], "d");
    lab.apply("west", &hello(PLAIN, "spec: {exportedAnnotations: {c: d}}"))
        .await;
    lab.imported("east", |i| i["metadata"]["labels"].get("a").is_none())
        .await;
}

async fn what_is_written_here_is_put_right(lab: &Lab) {
    let patch = r#"{"spec":{"ports":[]}}"#;
    let of = [
        "serviceimport",
        "hello",
        "-n",
        "shop",
        "--type",
        "merge",
        "-p",
        patch,
    ];
    lab.clusters
        .kubectl("east", &[&["patch"], &of[..]].concat())
        .await
        .good();
    lab.imported("east", |i| {
        i["spec"]["ports"].as_array().unwrap().len() == 2
    })
    .await;
    lab.delete("east", &["serviceimport", "hello", "-n", "shop"])
        .await;
    lab.imported("east", |i| i["spec"]["type"] == "ClusterSetIP")
        .await;
    let roots = lab
        .get("east", &["configmap", "tradewind-root", "-n", "shop"])
        .await
        .unwrap();
    let pem = roots["data"]["root.pem"].as_str().unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
}

async fn an_api_server_may_go_away(lab: &mut Lab) {
    lab.clusters.stop_api("west").await;
    let admin = lab.federation.addr(0, host::CONTROLLER, ADMIN);
    until("the controller to miss it", SOON, async || {
        let page = http::get(admin, "/debug/state").await?;
        let state: Value = serde_json::from_str(&page.text()).map_err(|e| e.to_string())?;
        let contact = state["api_server"].clone();
        if contact["trouble"].is_string() {
            Ok(())
        } else {
            Err(contact.to_string())
        }
    })
    .await;
    // What it said last stands: the export, and so the import elsewhere.
    let catalog = lab
        .federation
        .cli(1, &["services", "-o", "json"])
        .await
        .good();
    assert!(catalog.stdout.contains("hello"), "{}", catalog.stdout);
    assert!(lab.import("east").await.is_some());
    lab.clusters.start_api("west").await;
    lab.delete("west", &["serviceexport", "hello", "-n", "shop"])
        .await;
    lab.is_gone("east").await;
}
