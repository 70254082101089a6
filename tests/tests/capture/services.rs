//! Services under the addresses of one cluster alone: what is reached in the mesh under a plain cluster IP, what goes where it went
//! before, and a proxy that serves what the Services say of its own address, itself as its own caller.

use std::{net::SocketAddr, path::PathBuf};

use serde_json::Value;
use tradewind_tests::{
    Process,
    federation::{ADMIN, HBONE, host},
    http,
    namespaces::inside,
    process, tradewind,
    wait::{USUAL, until},
};

use super::{LIMIT, POD, WEST, outside, pod::Pod};

/// Cluster IPs: blocks for documentation, which the router has as its own, as kube-proxy has those of a cluster on each node.
const PAYMENTS: &str = "203.0.113.7";
const PLAIN: &str = "203.0.113.8";
const WEB: &str = "203.0.113.9";

fn service(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: {address}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\n"
    )
}

/// The slice of a Service whose one Pod is there, with an application at port 8080.
fn slice(service: &str, ip: impl std::fmt::Display, identity: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata:\n  name: {service}-1\n  namespace: shop\n  labels: {{kubernetes.io/service-name: {service}}}\n  \
         annotations: {{tradewind.io/identity: {identity}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [{ip}]}}]\n---\n"
    )
}

/// What west's controller reads, in one file.
struct Objects(PathBuf);

impl Objects {
    fn say(&self, objects: &[String]) {
        // As a whole or not at all.
        let new = self.0.join("new");
        std::fs::write(&new, objects.concat()).unwrap();
        std::fs::rename(new, self.0.join("objects.yaml")).unwrap();
    }

    /// West's controller anew, with these.
    async fn read_by_west(pod: &mut Pod, objects: &[String]) -> Self {
        let dir = pod.federation.dir().join("manifests");
        std::fs::create_dir(&dir).unwrap();
        let read = Self(dir);
        read.say(objects);
        let told = ["--manifests", read.0.to_str().unwrap()];
        let federation = &mut pod.federation;
        federation.kill_cluster(WEST).await;
        federation.start_controller_with(WEST, &told);
        federation.start_gateway(WEST);
        federation.is_well(WEST).await;
        federation.sees(WEST, "shop/payments", 1).await;
        read
    }
}

#[tokio::test]
async fn a_service_is_reached_by_its_cluster_ip_and_a_pod_serves_what_selects_it() {
    let name = "services::a_service_is_reached_by_its_cluster_ip_and_a_pod_serves_what_selects_it";
    inside(name, LIMIT, false, services).await;
}

async fn services() {
    let Some(mut pod) = Pod::new().await else {
        return;
    };
    for ip in [PAYMENTS, PLAIN, WEB] {
        let mut sh = tokio::process::Command::new("sh");
        let own = format!("PATH=$PATH:/usr/sbin:/sbin; ip addr add {ip}/32 dev lo");
        process::finish({
            sh.args(["-c", &own]);
            sh
        })
        .await
        .good();
        for port in [80, 81] {
            outside(SocketAddr::new(ip.parse().unwrap(), port), "not the mesh").await;
        }
    }
    // Payments has no Pod here and is exported by east; nobody with a proxy has plain.
    let base = [service("payments", PAYMENTS), service("plain", PLAIN)];
    let objects = Objects::read_by_west(&mut pod, &base).await;
    let at = |ip: &str, port: u16| format!("http://{ip}:{port}/");
    assert_eq!(pod.get(&at(PAYMENTS, 80)).await, "not the mesh");

    let mut proxy = pod
        .proxy(&["--kubernetes", "--capture-inbound-ports", "none"])
        .await;
    let captured = async || {
        let said = pod.curl(&["-f", &at(PAYMENTS, 80)]).await;
        match said.stdout.trim() {
            "payments from east/1" => Ok(()),
            _ => Err(format!("{}{}", said.stdout, said.stderr)),
        }
    };
    until("the proxy to know the cluster IP", USUAL, captured).await;
    let others = [at(PLAIN, 80), at(PAYMENTS, 81), at(WEB, 80)];
    for url in others {
        let passed = pod
            .passes(async { assert_eq!(pod.get(&url).await, "not the mesh") })
            .await;
        assert!(passed, "{url}");
    }
    serves(&pod, &objects, &base).await;
    dials_pods(&pod, &objects, &base).await;
    assert_eq!(proxy.stop(USUAL).await, 0);
}

/// The pod is selected by a Service while its proxy runs: others call it, and it calls itself.
async fn serves(pod: &Pod, objects: &Objects, base: &[String]) {
    let app = SocketAddr::new(pod.own, 8080).to_string();
    let command = pod.federation.router().command(POD, &tradewind());
    let args = ["demo-app", "--listen", &app, "--name", "web"];
    let _app = Process::start_behind("web", pod.federation.dir(), command, &args, &[]);
    let web = [
        service("web", WEB),
        slice("web", pod.own, "/ns/shop/sa/web"),
    ];
    objects.say(&[base, &web].concat());
    let (_caller, address) = pod.federation.caller(WEST, 0, "shop/web:80").await;
    until("a caller elsewhere", USUAL, || async {
        let answer = http::get(address, "/").await?.ok()?;
        (answer.text() == "web").then_some(()).ok_or(answer.text())
    })
    .await;
    let url = format!("http://{WEB}/");
    until("itself", USUAL, || async {
        let said = pod.curl(&["-f", &url]).await;
        (said.stdout.trim() == "web")
            .then_some(())
            .ok_or(said.stdout)
    })
    .await;
    let before = pod.count("service").await;
    assert_eq!(pod.get(&url).await, "web");
    assert_eq!(pod.count("service").await, before + 1.0);
    let state = http::get(pod.admin, "/debug/state").await.unwrap();
    let state: Value = serde_json::from_str(&state.ok().unwrap().text()).unwrap();
    assert_eq!(state["serves"][0]["service"], "shop/web:80", "{state}");
    assert_eq!(state["serves"][0]["application"], app, "{state}");
    // Selected no longer, it serves nobody.
    objects.say(base);
    until("the pod to be left alone", USUAL, || async {
        let answer = http::get(address, "/").await?;
        answer
            .ok()
            .err()
            .ok_or_else(|| "it still answers".to_owned())
    })
    .await;
}

/// A Pod that is dialled at its own address, as those of headless Services are.
async fn dials_pods(pod: &Pod, objects: &Objects, base: &[String]) {
    let federation = &pod.federation;
    let at = |port| federation.addr(WEST, host::WORKLOADS + 1, port);
    let (app, hbone, admin) = (at(8080), at(HBONE), at(ADMIN));
    let [app_text, hbone, admin_text] = [app, hbone, admin].map(|a| a.to_string());
    let args = ["demo-app", "--listen", &app_text, "--name", "db"];
    let _app = federation.process_at(WEST, host::WORKLOADS + 1, "db", &args);
    let dir = federation.data_dir(WEST);
    let args = [
        "proxy",
        "--kubernetes",
        "--name=db-0",
        "--identity=shop/db",
        "--threads=1",
        "--data-dir",
        &dir,
        "--hbone-listen",
        &hbone,
        "--admin-listen",
        &admin_text,
    ];
    let _proxy = federation.process_at(WEST, host::WORKLOADS + 1, "db-proxy", &args);
    federation.ready(admin).await;
    let url = format!("http://{app}/");
    until("the application to listen", USUAL, || async {
        let said = pod.curl(&["-f", &url]).await;
        (said.stdout.trim() == "db")
            .then_some(())
            .ok_or(said.stderr)
    })
    .await;
    // Nobody says yet that it is one.
    assert!(
        pod.passes(async { assert_eq!(pod.get(&url).await, "db") })
            .await
    );
    let db = [
        service("db", "None"),
        slice("db", app.ip(), "/ns/shop/sa/db"),
    ];
    objects.say(&[base, &db].concat());
    until("a tunnel to that Pod", USUAL, || async {
        let before = pod.count("endpoint").await;
        // Which of the two proxies learns of it first is open.
        let said = pod.curl(&["-f", &url]).await;
        let tunnels = pod.count("endpoint").await - before;
        (said.stdout.trim() == "db" && tunnels > 0.0)
            .then_some(())
            .ok_or_else(|| format!("{tunnels} tunnels, {}{}", said.stdout, said.stderr))
    })
    .await;
}
