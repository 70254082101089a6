//! The main story on Kubernetes, as people install it: three API servers, everything of the chart and every pod of an application as real
//! processes in network namespaces, one port open between clusters, and calls by the plain name of a Service.
//!
//! Owns the clusters. Says that it is skipped where `testenv` was not built, or where there is neither root nor a network namespace.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
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
    kubernetes::{Clusters, Running},
    namespaces::{self, connect_from, from_its},
    process::{self, Output},
    tradewind,
    wait::until,
};

/// The whole story; most of it is waiting for servers to start on few cores.
const LIMIT: Duration = Duration::from_secs(900);
/// Anything that pods must first start for, on busy cores with reserve.
const SOON: Duration = Duration::from_secs(180);
/// The port of the nodes at which each cluster's gateways are reached from outside: the only one that is open.
const PORT: u16 = 31_443;
/// The API server of a cluster is away for so long while the calls go on.
const AWAY: Duration = Duration::from_secs(60);
/// The namespace of what is installed.
const SYSTEM: &str = "tradewind-system";
/// From one call to the next.
const PACE: Duration = Duration::from_millis(40);
/// Answers in a row by which it is said who serves.
const IN_A_ROW: usize = 25;

struct Lab {
    clusters: Clusters,
}

impl Lab {
    async fn start() -> Option<Self> {
        let running = Running {
            programs: vec![
                ("tradewind".to_owned(), tradewind()),
                (
                    "lab".to_owned(),
                    PathBuf::from(env!("CARGO_BIN_EXE_tradewind-lab")),
                ),
            ],
            between_port: Some(PORT),
        };
        let names = THREE.map(|(name, _)| name);
        let clusters = Clusters::start_running("a mesh of three clusters", names, &running).await?;
        Some(Self { clusters })
    }

    /// Where a cluster's nodes are reached at the gateways' port: the first address of its pods' range.
    fn door(&self, cluster: &str) -> String {
        let range = &self.clusters.cluster(cluster).pod_cidr;
        let (network, _) = range.split_once('/').unwrap();
        let network = network.strip_suffix('0').unwrap();
        format!("{network}1:{PORT}")
    }

    async fn tradewind(&self, args: &[&str]) -> Output {
        process::run(args).await
    }

    /// A command about a cluster, as an operator runs it: from outside, with the kubeconfig alone.
    async fn outside(&self, cluster: &str, args: &[&str]) -> Output {
        let kubeconfig = self.clusters.kubeconfig().to_string_lossy();
        let there = ["--kubeconfig", &kubeconfig, "--context", cluster];
        self.tradewind(&[args, &there].concat()).await
    }

    async fn install(&self, cluster: &str, region: &str, more: &[&str]) {
        let values = [
            format!("cluster.name={cluster}"),
            format!("cluster.region={region}"),
            format!("cluster.gateways={}", self.door(cluster)),
            "image.tag=test".to_owned(),
            "gateway.replicas=1".to_owned(),
            "dns.replicas=1".to_owned(),
            "gateway.service.type=NodePort".to_owned(),
            format!("gateway.service.nodePort={PORT}"),
        ];
        let kubeconfig = self.clusters.kubeconfig().to_string_lossy();
        let mut args = vec!["install", "--apply", "--kubeconfig", &kubeconfig];
        args.extend(["--context", cluster]);
        for value in values
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
        {
            args.extend(["--set", value]);
        }
        self.tradewind(&args).await.good();
    }

    /// Waits until a cluster's controller says that all is well.
    async fn is_well(&self, cluster: &str) {
        until(&format!("{cluster} to be well"), SOON, async || {
            let status = self.outside(cluster, &["status"]).await;
            match status.code {
                0 => Ok(()),
                _ => Err(format!("{}{}", status.stdout, status.stderr)),
            }
        })
        .await;
    }

    async fn apply(&self, cluster: &str, text: &str) {
        until("the manifest to be taken", SOON, async || {
            let applied = self.clusters.apply(cluster, text).await;
            match applied.code {
                0 => Ok(()),
                // The webhook's pod may have just begun.
                _ => Err(applied.stderr),
            }
        })
        .await;
    }

    async fn kubectl(&self, cluster: &str, args: &[&str]) -> Output {
        self.clusters.kubectl(cluster, args).await.good()
    }

    async fn rolled_out(&self, cluster: &str, deployment: &str) {
        let name = format!("deployment/{deployment}");
        let args = ["rollout", "status", &name, "-n", "shop", "--timeout=1s"];
        until(&format!("{cluster}: {name}"), SOON, async || {
            let output = self.clusters.kubectl(cluster, &args).await;
            match output.code {
                0 => Ok(()),
                _ => Err(format!("{}{}", output.stdout, output.stderr)),
            }
        })
        .await;
    }

    async fn pods(&self, cluster: &str, app: &str) -> Vec<String> {
        let label = format!("app={app}");
        let args = ["get", "pods", "-n", "shop", "-l", &label, "-o", "json"];
        let all = self.kubectl(cluster, &args).await.json();
        let all = all["items"].as_array().unwrap();
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        all.iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(name)
            .collect()
    }

    /// What a name stands for in a pod.
    fn resolve(&self, cluster: &str, pod: &str, name: &str) -> IpAddr {
        let dir = self.clusters.pod_dir(cluster, "shop", pod).unwrap();
        let hosts = std::fs::read_to_string(dir.join("etc/hosts")).unwrap();
        let line = hosts.lines().find(|l| l.split(' ').any(|w| w == name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in {hosts}"));
        line.split(' ').next().unwrap().parse().unwrap()
    }

    /// Packets that anybody sent to another cluster by another port.
    async fn dropped(&self) -> String {
        let args = [
            "-c",
            "PATH=$PATH:/usr/sbin nft list counter ip between dropped",
        ];
        let mut nft = tokio::process::Command::new("sh");
        nft.args(args);
        process::finish(nft).await.good().stdout
    }
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
        if let Some(mut lab) = Lab::start().await {
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
async fn two_controllers(lab: &Lab, cluster: &str) -> (u64, u64) {
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
async fn the_check_names_both_controllers(lab: &Lab, cluster: &str) {
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
async fn a_controller_comes_and_goes(lab: &Lab) {
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
async fn the_second_loses_its_volume(lab: &Lab, cluster: &str, was: u64) {
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

async fn story(lab: &mut Lab) {
    federate(lab).await;
    for (cluster, _) in THREE {
        lab.apply(cluster, &payments(cluster, 2)).await;
    }
    lab.apply("west", CALLER).await;
    for (cluster, _) in THREE {
        lab.rolled_out(cluster, "payments").await;
    }
    lab.rolled_out("west", "caller").await;
    ask_from_outside(lab).await;
    let caller = lab.pods("west", "caller").await.remove(0);
    let process = lab.clusters.pod("west", &format!("shop/{caller}")).await;
    let process = process.expect("the caller runs");
    let service = lab.resolve("west", &caller, "payments");
    let load = Load::start(process, SocketAddr::new(service, 80));
    load.settles("the start", "west/").await;
    // From here on no call may fail.
    let from = load.all.lock().unwrap().len();
    names_of_the_clusterset(lab, process).await;
    others_are_left_alone(lab, process).await;
    jobs_end(lab).await;

    let before = lab.pods("west", "payments").await;
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
        lab.dropped().await
    );
}

/// The name that holds in all clusters, as the DNS server answers it to a pod, leads into the mesh, too.
async fn names_of_the_clusterset(lab: &Lab, process: u32) {
    let service = [
        "get",
        "service",
        "tradewind-dns",
        "-n",
        SYSTEM,
        "-o",
        "json",
    ];
    let service = lab.kubectl("west", &service).await.json();
    let server = service["spec"]["clusterIP"].as_str().unwrap();
    let server: SocketAddr = format!("{server}:53").parse().unwrap();
    let name = "payments.shop.svc.clusterset.local";
    let asking = from_its(process, move || Asking::to(server, Over::Udp)).await;
    let answer = dns::ask_by(asking.unwrap(), name, RecordType::A).await;
    let RData::A(address) = dns::data(&answer.unwrap()).remove(0) else {
        panic!("no address");
    };
    let import = [
        "get",
        "serviceimport",
        "payments",
        "-n",
        "shop",
        "-o",
        "json",
    ];
    let import = lab.kubectl("west", &import).await.json();
    assert_eq!(import["spec"]["ips"][0], address.0.to_string());
    let to = SocketAddr::new(address.0.into(), 80);
    let who = call(process, to, name).await.unwrap();
    assert!(who.starts_with("west/"), "{who}");
}

/// A Service without a proxy behind it is reached as without a mesh, and who has none reaches those who have one.
async fn others_are_left_alone(lab: &mut Lab, process: u32) {
    let plain = payments("plain", 1)
        .replace("tradewind.io/injection: enabled", "plain: 'yes'")
        .replace("shop", "plain");
    let (plain, _export) = plain.rsplit_once("---").unwrap();
    lab.apply("west", plain).await;
    let service = ["get", "service", "payments", "-n", "plain", "-o", "json"];
    let service = lab.kubectl("west", &service).await.json();
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
    let caller = lab.pods("west", "caller").await.remove(0);
    let ours = SocketAddr::new(lab.resolve("west", &caller, "payments"), 80);
    let who = call(outsider.unwrap(), ours, "payments.shop").await;
    assert!(who.unwrap().starts_with("west/"));
}

/// A Job ends, with a proxy and with none.
async fn jobs_end(lab: &Lab) {
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
async fn federate(lab: &Lab) {
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
        let within = [&join[..], &["--wait", "45s"]].concat();
        until(&format!("{cluster} to join"), SOON, async || {
            let joined = lab.outside(cluster, &within).await;
            match joined.code {
                0 => Ok(()),
                4 => Err(joined.stderr),
                _ => Err(joined.good().stderr),
            }
        })
        .await;
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
async fn ask_from_outside(lab: &Lab) {
    for (cluster, _) in THREE {
        let said = lab.outside(cluster, &["status", "-o", "json"]).await;
        assert_eq!(said.good().json()["cluster"], cluster);
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
    let anns = lab.clusters.dir().join("kubeconfig-of-ann");
    std::fs::write(
        &anns,
        kubeconfig.replace(user, &format!("\n    as: ann{user}")),
    )
    .unwrap();
    let anns = anns.to_string_lossy();
    let status = ["status", "--kubeconfig", &anns, "--context", "west"];
    let refused = lab.tradewind(&status).await;
    refused.fails(5, &["does not allow it", "west"]);
    let bind = ["create", "rolebinding", "ann", "-n", SYSTEM, "--user=ann"];
    let bind = [&bind[..], &["--role=tradewind-operator"]].concat();
    lab.kubectl("west", &bind).await;
    until("the Role to be enough", SOON, async || {
        let status = lab.tradewind(&status).await;
        match status.code {
            0 => Ok(()),
            _ => Err(status.stderr),
        }
    })
    .await;
}

async fn scale(lab: &Lab, replicas: u8) {
    let replicas = format!("--replicas={replicas}");
    let args = ["scale", "deployment/payments", "-n", "shop", &replicas];
    lab.kubectl("west", &args).await;
}
