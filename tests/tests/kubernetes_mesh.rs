//! The main story on Kubernetes, as people install it: three API servers, everything of the chart and every pod of an application as real
//! processes in network namespaces, one port open between clusters, and calls by the plain name of a Service.
//!
//! Owns the clusters. Says that it is skipped where `testenv` was not built, or where there is neither root nor a network namespace.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_proto::rr::{RData, RecordType};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tradewind_runtime::clock;
use tradewind_tests::{
    dns::{self, Asking, Over},
    federation::THREE,
    http::{self, Client},
    mesh::{Mesh, PORT, SOON, SYSTEM},
    namespaces::{self, connect_from, from_its},
    process,
    wait::until,
};

/// The whole story; most of it is waiting for servers to start on few cores.
const LIMIT: Duration = Duration::from_secs(900);
/// The API server of a cluster is away for so long while the calls go on.
const AWAY: Duration = Duration::from_secs(60);
/// From one call to the next.
const PACE: Duration = Duration::from_millis(40);
/// Answers in a row by which it is said who serves.
const IN_A_ROW: usize = 25;

/// The clusters, with nothing in them yet.
async fn start() -> Option<Mesh> {
    let lab = PathBuf::from(env!("CARGO_BIN_EXE_tradewind-lab"));
    let names = THREE.map(|(name, _)| name);
    Mesh::start(
        "a mesh of three clusters",
        &names,
        [("lab", lab)],
        Some(PORT),
    )
    .await
}

/// The names of an application's pods that do not end.
async fn pods_of(lab: &Mesh, cluster: &str, app: &str) -> Vec<String> {
    let label = format!("app={app}");
    let args = ["get", "pods", "-n", "shop", "-l", &label, "-o", "json"];
    let all = lab.kubectl(cluster, &args).await.json();
    let all = all["items"].as_array().unwrap();
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    all.iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(name)
        .collect()
}

/// What a name stands for in a pod, by the DNS server that the pod asks.
async fn resolve(lab: &Mesh, cluster: &str, pod: &str, name: &str) -> IpAddr {
    until(&format!("{name} to be known"), SOON, async || {
        let ask = ["exec", "-n", "shop", pod, "-c", "app", "--"];
        let ask = [&ask[..], &["getent", "ahostsv4", name]].concat();
        let answer = lab.clusters.kubectl(cluster, &ask).await;
        let first = answer.stdout.split_whitespace().next();
        first.and_then(|ip| ip.parse().ok()).ok_or(answer)
    })
    .await
}

/// Packets that anybody sent to another cluster by another port.
async fn dropped() -> String {
    let args = [
        "-c",
        "PATH=$PATH:/usr/sbin nft list counter ip between dropped",
    ];
    let mut nft = tokio::process::Command::new("sh");
    nft.args(args);
    process::finish(nft).await.good().stdout
}

/// The application: two pods that say who they are, behind a Service, exported.
fn payments(cluster: &str, replicas: u8) -> String {
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{tradewind.io/injection: enabled}}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: payments, namespace: shop}}
---
apiVersion: v1
kind: Service
metadata: {{name: payments, namespace: shop}}
spec:
  selector: {{app: payments}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: payments, namespace: shop}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: payments}}}}
  template:
    metadata: {{labels: {{app: payments}}}}
    spec:
      serviceAccountName: payments
      terminationGracePeriodSeconds: 10
      containers:
      - name: app
        image: lab:1
        args: [app, "0.0.0.0:8080", "{cluster}/$(POD)", /var/lib/app/journal]
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
        volumeMounts: [{{name: journal, mountPath: /var/lib/app}}]
      volumes: [{{name: journal, emptyDir: {{}}}}]
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{name: payments, namespace: shop}}
"#
    )
}

/// Somebody who calls: a pod with a proxy that serves nobody.
const CALLER: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: caller, namespace: shop}
spec:
  selector: {matchLabels: {app: caller}}
  template:
    metadata: {labels: {app: caller}}
    spec:
      containers:
      - name: app
        image: lab:1
        args: [app, '127.0.0.1:9999', caller, /var/lib/app/journal]
        volumeMounts: [{name: journal, mountPath: /var/lib/app}]
      volumes: [{name: journal, emptyDir: {}}]
";

/// What became of a call.
#[derive(Clone, Debug)]
struct Call {
    at: Instant,
    /// For comparing with logs.
    unix_ms: u64,
    result: Result<String, String>,
}

/// One GET from a pod's network to an address, on a connection of its own, as `name`.
async fn call(process: u32, to: SocketAddr, name: &str) -> Result<String, String> {
    let whole = async {
        let stream = connect_from(process, to).await.map_err(|e| e.to_string())?;
        let mut request = http::get_request("/");
        let host = http::host(name)?;
        request.headers_mut().insert("host", host);
        let answer = Client::over(stream).await?.ask(request).await?.ok()?;
        Ok(answer.text())
    };
    let limited = tokio::time::timeout(http::LIMIT, whole).await;
    limited.unwrap_or_else(|_| Err(format!("no answer in {:?}", http::LIMIT)))
}

fn now_ms() -> u64 {
    clock::system().unix_ms()
}

/// Calls that go on until they are stopped.
struct Load {
    all: Arc<Mutex<Vec<Call>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Load {
    fn start(process: u32, to: SocketAddr) -> Self {
        let all = Arc::new(Mutex::new(Vec::new()));
        let (stop, mut stopped) = watch::channel(false);
        let calls = Arc::clone(&all);
        let task = tradewind_runtime::task::spawn("calls", async move {
            while !*stopped.borrow_and_update() {
                let (at, unix_ms) = (Instant::now(), now_ms());
                let result = call(process, to, "payments").await;
                let call = Call {
                    at,
                    unix_ms,
                    result,
                };
                calls.lock().unwrap().push(call);
                tokio::time::sleep_until(at + PACE).await;
            }
        });
        Self { all, stop, task }
    }

    /// Waits, after something was done, until so many answers in a row came from pods whose names begin so. Says how long it took.
    async fn settles(&self, after: &str, whom: &str) -> Duration {
        let begun = Instant::now();
        eprintln!("{} {after}: {whom} is to serve", now_ms());
        until(&format!("answers from {whom}"), SOON, async || {
            let all = self.all.lock().unwrap();
            let last: Vec<_> = all.iter().rev().take(IN_A_ROW).cloned().collect();
            let all_theirs = last.iter().all(|call| {
                call.at >= begun && call.result.as_ref().is_ok_and(|who| who.starts_with(whom))
            });
            match all_theirs && last.len() == IN_A_ROW {
                true => Ok(()),
                false => Err(format!("{:?}", last.first())),
            }
        })
        .await;
        begun.elapsed()
    }

    async fn finish(self) -> Vec<Call> {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        let all = self.all.lock().unwrap();
        all.clone()
    }
}

#[tokio::test]
async fn plain_names_of_services_lead_to_all_clusters() {
    let name = "plain_names_of_services_lead_to_all_clusters";
    namespaces::inside(name, LIMIT, true, || async {
        if let Some(mut lab) = start().await {
            story(&mut lab).await;
        }
    })
    .await;
}

/// Two clusters have more than one controller, one that founded and one that joined.
const TWO: &str = "controller.replicas=2";
/// The pod of a cluster's second one.
const SECOND: &str = "tradewind-controller-1";

/// A cluster's two controllers, once they hear each other and one of them speaks: the node of the second one, and of the speaker.
async fn two_controllers(lab: &Mesh, cluster: &str) -> (u64, u64) {
    until(&format!("{cluster}'s two controllers"), SOON, async || {
        let status = lab.outside(cluster, &["status", "-o", "json"]).await;
        let status: Value = serde_json::from_str(&status.stdout).map_err(|_| status.stderr)?;
        let all = status["controllers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let heard = all
            .iter()
            .all(|c| c["this_node"] == true || c["up"] == true);
        let speakers: Vec<_> = all.iter().filter(|c| c["speaks"] == true).collect();
        let address = |c: &&Value| c["address"].as_str().is_some_and(|a| a.starts_with(SECOND));
        let second = all.iter().find(address).and_then(|c| c["node_id"].as_u64());
        match (second, speakers.as_slice()) {
            (Some(second), [one]) if all.len() == 2 && heard => {
                Ok((second, one["node_id"].as_u64().unwrap()))
            }
            _ => Err(status["controllers"].to_string()),
        }
    })
    .await
}

/// `tradewind check` from outside: all is well, and both controllers are named.
async fn the_check_names_both_controllers(lab: &Mesh, cluster: &str) {
    until("a check without a failure", SOON, async || {
        let told = lab.outside(cluster, &["check", "-o", "json"]).await;
        let found: Value = serde_json::from_str(&told.stdout).map_err(|_| told.stderr)?;
        let categories = found["categories"].as_array().into_iter().flatten();
        let mut all = categories.flat_map(|c| c["checks"].as_array().into_iter().flatten());
        let heard = all.find(|one| one["id"] == "controllers-heard");
        let heard = heard.map(|one| one["message"].to_string());
        let named = heard.is_some_and(|heard| {
            ["tradewind-controller-0.", SECOND]
                .iter()
                .all(|pod| heard.contains(pod))
        });
        if told.code == 0 && named {
            Ok(())
        } else {
            Err(found.to_string())
        }
    })
    .await;
}

/// While calls go on: the one that speaks goes and comes back, and the second one comes back without its volume.
async fn a_controller_comes_and_goes(lab: &Mesh) {
    for cluster in ["west", "central"] {
        let (second, speaker) = two_controllers(lab, cluster).await;
        the_check_names_both_controllers(lab, cluster).await;
        let first = "tradewind-controller-0";
        let pod = if speaker == second { SECOND } else { first };
        lab.kubectl(cluster, &["delete", "pod", pod, "-n", SYSTEM])
            .await;
        two_controllers(lab, cluster).await;
        the_second_loses_its_volume(lab, cluster, second).await;
        lab.is_well(cluster).await;
    }
}

/// It comes back as another node in place of the one that it was.
async fn the_second_loses_its_volume(lab: &Mesh, cluster: &str, was: u64) {
    let scale = async |replicas: &str| {
        let set = "statefulset/tradewind-controller";
        lab.kubectl(cluster, &["scale", set, "-n", SYSTEM, replicas])
            .await;
    };
    scale("--replicas=1").await;
    until("the second controller to be gone", SOON, async || {
        let args = ["get", "pod", SECOND, "-n", SYSTEM, "--ignore-not-found"];
        match lab.kubectl(cluster, &args).await.stdout {
            none if none.is_empty() => Ok(()),
            there => Err(there),
        }
    })
    .await;
    let claim = format!("{cluster}/claims/{SYSTEM}/data-{SECOND}");
    std::fs::remove_dir_all(lab.clusters.dir().join(claim)).unwrap();
    scale("--replicas=2").await;
    until(
        "another second controller",
        SOON,
        async || match two_controllers(lab, cluster).await.0 {
            new if new > was => Ok(()),
            old => Err(old),
        },
    )
    .await;
}

async fn story(lab: &mut Mesh) {
    federate(lab).await;
    for (cluster, _) in THREE {
        lab.apply(cluster, &payments(cluster, 2)).await;
    }
    lab.apply("west", CALLER).await;
    for (cluster, _) in THREE {
        lab.rolled_out(cluster, "shop", "payments").await;
    }
    lab.rolled_out("west", "shop", "caller").await;
    ask_from_outside(lab).await;
    let caller = pods_of(lab, "west", "caller").await.remove(0);
    let process = lab.clusters.pod("west", &format!("shop/{caller}")).await;
    let process = process.expect("the caller runs");
    let service = resolve(lab, "west", &caller, "payments").await;
    let load = Load::start(process, SocketAddr::new(service, 80));
    load.settles("the start", "west/").await;
    // From here on no call may fail.
    let from = load.all.lock().unwrap().len();
    names_of_the_clusterset(lab, process).await;
    pods_of_another_cluster_have_names(lab, process).await;
    others_are_left_alone(lab, process).await;
    jobs_end(lab).await;

    let before = pods_of(lab, "west", "payments").await;
    for pod in &before {
        lab.clusters.kill_pod("west", &format!("shop/{pod}")).await;
    }
    let over = load.settles("the death of its pods", "central/").await;
    lab.clusters.stop_api("west").await;
    let until_back = Instant::now() + AWAY;
    tokio::time::sleep_until(until_back).await;
    lab.clusters.start_api("west").await;
    load.settles("the API server's return", "central/").await;

    let delete = ["delete", "pod", "-n", "shop", "--force"];
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    lab.kubectl("west", &[&delete[..], &before].concat()).await;
    let home = load.settles("new pods", "west/").await;

    scale(lab, 0).await;
    load.settles("scaling to none", "central/").await;
    scale(lab, 2).await;
    load.settles("scaling up", "west/").await;
    a_controller_comes_and_goes(lab).await;

    let calls = load.finish().await;
    let failed: Vec<_> = calls[from..]
        .iter()
        .filter_map(|c| Some((c.unix_ms, c.result.as_ref().err()?)))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} calls failed: {failed:#?}",
        failed.len(),
        calls.len()
    );
    eprintln!(
        "{} calls, none failed; another cluster served after {over:?}, home again after {home:?}; {}",
        calls.len(),
        dropped().await
    );
}

/// What west's DNS server answers a pod.
async fn lookup(lab: &Mesh, process: u32, name: &str) -> Result<IpAddr, String> {
    let service = lab.get("west", SYSTEM, "service", "tradewind-dns").await;
    let server = service["spec"]["clusterIP"].as_str().unwrap();
    let server: SocketAddr = format!("{server}:53").parse().unwrap();
    let asking = from_its(process, move || Asking::to(server, Over::Udp)).await;
    let answer = dns::ask_by(asking.unwrap(), name, RecordType::A).await?;
    match dns::data(&answer).first() {
        Some(RData::A(address)) => Ok(address.0.into()),
        _ => Err(format!("{name}: {:?}", answer.metadata.response_code)),
    }
}

/// Pods that are called one by one, by their names in a headless Service.
const LEDGER: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: shop}
spec:
  clusterIP: None
  selector: {app: ledger}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ledger, namespace: shop}
spec:
  replicas: 2
  serviceName: ledger
  selector: {matchLabels: {app: ledger}}
  template:
    metadata: {labels: {app: ledger}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: app
        image: lab:1
        args: [app, "0.0.0.0:8080", "central/$(POD)", /var/lib/app/journal]
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: journal, mountPath: /var/lib/app}]
      volumes: [{name: journal, emptyDir: {}}]
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: ledger, namespace: shop}
"#;

/// Each pod of another cluster's StatefulSet is called by a name of its own, whose address stands for it alone, and under which the next one
/// of that name is found.
async fn pods_of_another_cluster_have_names(lab: &Mesh, process: u32) {
    lab.apply("central", LEDGER).await;
    let answers = async |pod: &str| {
        let name = format!("{pod}.central.ledger.shop.svc.clusterset.local");
        until(&name, SOON, async || {
            let ip = lookup(lab, process, &name).await?;
            let who = call(process, SocketAddr::new(ip, 8080), &name).await?;
            if who.starts_with(&format!("central/{pod}")) {
                Ok(ip)
            } else {
                Err(who)
            }
        })
        .await
    };
    let pods = ["ledger-0", "ledger-1"];
    let before = [answers(pods[0]).await, answers(pods[1]).await];
    let slices = "multicluster.kubernetes.io/service-name=ledger,multicluster.kubernetes.io/source-cluster=central";
    let slices = [
        "get",
        "endpointslices",
        "-n",
        "shop",
        "-l",
        slices,
        "-o",
        "json",
    ];
    let told = async || {
        let slices = lab.kubectl("west", &slices).await.json();
        let all = slices["items"].as_array().unwrap().iter();
        let all = all.flat_map(|s| s["endpoints"].as_array().unwrap());
        let mut all: Vec<_> = all
            .map(|e| format!("{} {}", e["hostname"], e["addresses"][0]))
            .collect();
        all.sort();
        all
    };
    let expected: Vec<_> = pods
        .iter()
        .zip(before)
        .map(|(pod, ip)| format!("{pod:?} \"{ip}\""))
        .collect();
    until("slices that say the same", SOON, async || {
        let told = told().await;
        (told == expected).then_some(()).ok_or(told)
    })
    .await;
    lab.kubectl("central", &["delete", "pod", "ledger-0", "-n", "shop"])
        .await;
    until("another pod of that name", SOON, async || {
        let ip = answers("ledger-0").await;
        (ip != before[0]).then_some(()).ok_or(ip)
    })
    .await;
    let unexport = ["delete", "serviceexport", "ledger", "-n", "shop"];
    lab.kubectl("central", &unexport).await;
    until("the slices to go", SOON, async || {
        let told = told().await;
        told.is_empty().then_some(()).ok_or(told)
    })
    .await;
}

/// The name that holds in all clusters, as the DNS server answers it to a pod, leads into the mesh, too.
async fn names_of_the_clusterset(lab: &Mesh, process: u32) {
    let name = "payments.shop.svc.clusterset.local";
    let address = lookup(lab, process, name).await.unwrap();
    let import = lab.get("west", "shop", "serviceimport", "payments").await;
    assert_eq!(import["spec"]["ips"][0], address.to_string());
    assert_eq!(import["status"]["endpointSliceObjects"], "Present");
    let to = SocketAddr::new(address, 80);
    let who = call(process, to, name).await.unwrap();
    assert!(who.starts_with("west/"), "{who}");
}

/// A Service without a proxy behind it is reached as without a mesh, and who has none reaches those who have one.
async fn others_are_left_alone(lab: &mut Mesh, process: u32) {
    let plain = payments("plain", 1)
        .replace("tradewind.io/injection: enabled", "plain: 'yes'")
        .replace("shop", "plain");
    let (plain, _export) = plain.rsplit_once("---").unwrap();
    lab.apply("west", plain).await;
    let service = lab.get("west", "plain", "service", "payments").await;
    let to = service["spec"]["clusterIP"].as_str().unwrap();
    let to = SocketAddr::new(to.parse().unwrap(), 80);
    until("an answer without a mesh", SOON, async || {
        let who = call(process, to, "payments.plain").await?;
        match who.starts_with("plain/") {
            true => Ok(()),
            false => Err(who),
        }
    })
    .await;
    let pods = ["get", "pods", "-n", "plain", "-o", "json"];
    let pods = lab.kubectl("west", &pods).await.json();
    let pod = pods["items"][0]["metadata"]["name"].as_str().unwrap();
    let outsider = lab.clusters.pod("west", &format!("plain/{pod}")).await;
    let caller = pods_of(lab, "west", "caller").await.remove(0);
    let ours = SocketAddr::new(resolve(lab, "west", &caller, "payments").await, 80);
    let who = call(outsider.unwrap(), ours, "payments.shop").await;
    assert!(who.unwrap().starts_with("west/"));
}

/// A Job ends, with a proxy and with none.
async fn jobs_end(lab: &Mesh) {
    for (name, inject) in [("with-proxy", "true"), ("without", "false")] {
        let job = format!(
            r"
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}, namespace: shop}}
spec:
  template:
    metadata: {{labels: {{tradewind.io/inject: '{inject}', job: {name}}}}}
    spec:
      restartPolicy: Never
      containers: [{{name: app, image: 'lab:1', args: [help]}}]
"
        );
        lab.apply("west", &job).await;
        let id = format!("job/{name}");
        let wait = [
            "wait",
            "--for=condition=complete",
            &id,
            "-n",
            "shop",
            "--timeout=1s",
        ];
        until(&id, SOON, async || {
            let output = lab.clusters.kubectl("west", &wait).await;
            match output.code {
                0 => Ok(()),
                _ => Err(output.stderr),
            }
        })
        .await;
        let label = format!("job={name}");
        let pods = ["get", "pods", "-n", "shop", "-l", &label, "-o", "json"];
        let pods = lab.kubectl("west", &pods).await.json();
        let sidecars = pods["items"][0]["spec"]["initContainers"].as_array();
        assert_eq!(sidecars.is_some(), inject == "true", "{name}");
    }
}

/// Installs all three; the second and third join the first from outside, by somebody who has a kubeconfig for both and nothing else.
async fn federate(lab: &Mesh) {
    let [(founder, region), others @ ..] = THREE;
    lab.install(founder, region, &[TWO]).await;
    lab.is_well(founder).await;
    for (cluster, region) in others {
        let found = "cluster.found=false";
        let more = if cluster == "central" {
            &[found, TWO][..]
        } else {
            &[found]
        };
        lab.install(cluster, region, more).await;
        let join = ["join", "--context", founder, "-o", "json"];
        let planned = [&join[..], &["--dry-run"]].concat();
        let planned = lab.outside(cluster, &planned).await.good().json();
        assert_eq!(planned["was_member"], false, "{planned}");
        lab.join(cluster, founder).await;
        let again = lab.outside(cluster, &join).await.good().json();
        assert_eq!(again["cluster"], cluster);
        assert_eq!(again["was_member"], true, "{again}");
        let secrets = ["get", "secrets", "-n", SYSTEM, "-o", "name"];
        let secrets = lab.kubectl(cluster, &secrets).await.stdout;
        assert!(!secrets.contains("tradewind-join"), "{secrets}");
    }
    for (cluster, _) in THREE {
        lab.is_well(cluster).await;
    }
}

/// What an operator asks from outside, beyond whether all is well.
async fn ask_from_outside(lab: &Mesh) {
    for (cluster, _) in THREE {
        let said = lab.outside(cluster, &["status", "-o", "json"]).await;
        // 1 is that something is not well, which a busy machine may bring about.
        assert!(matches!(said.code, 0 | 1), "{said:?}");
        assert_eq!(said.json()["cluster"], cluster);
    }
    let explain = ["explain", "--to", "shop/payments:80", "-o", "json"];
    lab.outside("east", &explain).await.good();
    let endpoints = ["endpoints", "shop/payments", "-o", "json"];
    let endpoints = lab.outside("east", &endpoints).await.good().stdout;
    for (cluster, _) in THREE {
        assert!(endpoints.contains(cluster), "{endpoints}");
    }
    let create = ["create", "service", "clusterip", "second", "-n", "shop"];
    let create = [&create[..], &["--tcp=80"]].concat();
    lab.kubectl("east", &create).await;
    for (verb, exported) in [("export", 0), ("unexport", 1)] {
        until(verb, SOON, async || {
            let done = lab.outside("east", &[verb, "shop/second"]).await;
            match done.code {
                0 => Ok(()),
                _ => Err(done.stderr),
            }
        })
        .await;
        let get = ["get", "serviceexport", "second", "-n", "shop"];
        let found = lab.clusters.kubectl("east", &get).await;
        assert_eq!(found.code, exported, "{verb}: {}", found.stderr);
    }
    // Whoever did it stands in the log of changes under a name that says where they came from.
    let audit = lab.outside("west", &["audit", "-o", "json"]).await.good();
    assert!(
        audit.stdout.contains("/tradewind/operator/kubernetes"),
        "{}",
        audit.stdout
    );
    let nowhere = lab.outside("north", &["status"]).await;
    nowhere.fails(2, &["north"]);
    let kubeconfig = std::fs::read_to_string(lab.clusters.kubeconfig()).unwrap();
    let user = "\n    client-certificate-data:";
    let others = lab.clusters.dir().join("kubeconfig-of-another");
    std::fs::write(
        &others,
        kubeconfig.replace(user, &format!("\n    as: another{user}")),
    )
    .unwrap();
    let others = others.to_string_lossy();
    let status = ["status", "--kubeconfig", &others, "--context", "west"];
    let refused = process::run(&status).await;
    refused.fails(5, &["does not allow it", "west"]);
    let bind = [
        "create",
        "rolebinding",
        "another",
        "-n",
        SYSTEM,
        "--user=another",
    ];
    let bind = [&bind[..], &["--role=tradewind-operator"]].concat();
    lab.kubectl("west", &bind).await;
    until("the Role to be enough", SOON, async || {
        let status = process::run(&status).await;
        match status.code {
            0 => Ok(()),
            _ => Err(status.stderr),
        }
    })
    .await;
}

async fn scale(lab: &Mesh, replicas: u8) {
    let replicas = format!("--replicas={replicas}");
    let args = ["scale", "deployment/payments", "-n", "shop", &replicas];
    lab.kubectl("west", &args).await;
}
