//! Traffic policies in a cluster's files, acted on by its proxies for endpoints of another cluster: subsets by label, sessions that
//! stick and persist, breakers, ejection for answers, faults and retries, gRPC routes, and a producer's rules that travel with its export;
//! and local rate limits of one cluster, which callers of the other meet.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod limits;
mod persistence;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use http::Request;
use http_body_util::Empty;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tradewind_api::proto::discovery::{
    DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tradewind_tests::{
    Federation, apps,
    federation::{ADMIN, TWO, host},
    grpc,
    http::{self as client, Answer, Client},
    load::{Load, none_failed},
    metrics,
    wait::{USUAL, until},
    workloads::Workload,
};

const WEST: usize = 0;
const EAST: usize = 1;
const SERVICE: &str = "shop/payments:80";
/// Calls that go through a gate before it is shut: more than are made to see whether a rule has come.
const OPEN: usize = 4096;

/// Two clusters of which one reads a directory.
async fn federation(reads: usize) -> (Federation, PathBuf) {
    let mut federation = Federation::start(&TWO).await;
    let manifests = federation.dir().join("manifests");
    fs::create_dir(&manifests).unwrap();
    federation.kill_cluster(reads).await;
    federation.start_controller_with(reads, &["--manifests", manifests.to_str().unwrap()]);
    federation.start_gateway(reads);
    federation.is_well(reads).await;
    (federation, manifests)
}

/// As editors and tools do: whole or not at all.
fn write(dir: &Path, text: &str) {
    let file = dir.join("policy.yaml");
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

async fn ask(address: SocketAddr, fields: &[(&str, &str)]) -> Answer {
    client::ask(address, ("GET", "/"), fields, "").await
}

/// Calls until an answer is as wanted.
async fn until_answered(address: SocketAddr, what: &str, wanted: impl Fn(&Answer) -> bool) {
    until(what, USUAL, || async {
        let mut client = Client::open(address).await?;
        let request = Request::get("/").header("host", "payments.shop");
        let answer = client.ask(request.body(Empty::new()).unwrap()).await?;
        if wanted(&answer) {
            Ok(())
        } else {
            Err(format!("{} {}", answer.status, answer.text()))
        }
    })
    .await;
}

/// One endpoint of the first version and two of the second, all in the east.
async fn versions(federation: &Federation) -> Vec<Workload> {
    let mut workloads = Vec::new();
    for (n, version) in [(1, "v1"), (2, "v2"), (3, "v2")] {
        let label = format!("version={version}");
        let more = ["--label", label.as_str()];
        let workload = federation.workload_with(EAST, n, SERVICE, &more).await;
        workloads.push(workload);
    }
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 3).await;
    workloads
}

fn subsets(traffic_policy: &str, weights: [u32; 2]) -> String {
    let [v1, v2] = weights;
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: payments, namespace: shop}}
spec:
  host: payments
  trafficPolicy: {traffic_policy}
  subsets:
  - {{name: v1, labels: {{version: v1}}}}
  - {{name: v2, labels: {{version: v2}}}}
  - {{name: v3, labels: {{version: v3}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: payments, namespace: shop}}
spec:
  hosts: [payments]
  http:
  - match: [{{uri: {{prefix: /gone}}}}]
    route: [{{destination: {{host: payments, subset: v4}}}}]
  - route:
    - {{destination: {{host: payments, subset: v1}}, weight: {v1}}}
    - {{destination: {{host: payments, subset: v2}}, weight: {v2}}}
"
    )
}

#[tokio::test]
async fn a_canary_among_another_clusters_endpoints_grows_by_label_and_no_call_fails() {
    let (federation, manifests) = federation(WEST).await;
    let _workloads = versions(&federation).await;
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    let mut load = Load::start(address, 200);
    load.settles("payments from east", 20, USUAL).await;
    write(&manifests, &subsets("{}", [90, 10]));
    load.settles("east/1", 10, USUAL).await;
    load.settles("payments from east", 600, USUAL).await;
    let split = load.finish().await;
    none_failed(&split);
    let last: Vec<_> = split.iter().rev().take(500).collect();
    let canaries = last
        .iter()
        .filter(|s| s.result.as_ref().is_ok_and(|r| !r.contains("east/1")));
    let share = canaries.count() as f64 / last.len() as f64;
    assert!((0.05..0.16).contains(&share), "{share}");

    let mut load = Load::start(address, 200);
    write(&manifests, &subsets("{}", [0, 100]));
    load.leaves("east/1", 100, USUAL).await;
    none_failed(&load.finish().await);

    // It is told as it happens, and what cannot hold stands in the status.
    let explain = async |more: &[&str]| {
        let args = [&["explain", "--to", SERVICE, "--caller", "shop"], more].concat();
        federation.cli(WEST, &args).await
    };
    let rules = explain(&[]).await.good().stdout;
    assert!(
        rules.contains("100.0 % to subset v2 of shop/payments:80"),
        "{rules}"
    );
    assert!(
        rules.contains("as DestinationRule shop/payments"),
        "{rules}"
    );
    let json = explain(&["--subset", "v2", "-o", "json"])
        .await
        .good()
        .json();
    let endpoints = json["explained"]["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 2, "{json}");
    let unknown = explain(&["--subset", "v5"]).await;
    assert!(
        unknown.stderr.contains("there are v1, v2, v3"),
        "{}",
        unknown.stderr
    );
    let proxy = federation.addr(WEST, host::CALLERS, ADMIN).to_string();
    let args = [
        "explain", "--to", SERVICE, "--proxy", &proxy, "--subset", "v2",
    ];
    let said = federation.cli(WEST, &args).await.good().stdout;
    assert!(
        said.contains("subset v2 of shop/payments:80 goes to"),
        "{said}"
    );
    let status = federation.cli(WEST, &["status"]).await;
    for word in ["TW0214", "TW0226", "v3", "v4"] {
        assert!(status.stdout.contains(word), "{word}: {}", status.stdout);
    }
    let gone = client::ask(address, ("GET", "/gone"), &[("host", "payments.shop")], "").await;
    assert_eq!(gone.status, 503);
    assert_eq!(gone.headers["tradewind-error"], "unknown-subset");
}

#[tokio::test]
async fn sessions_stick_to_an_endpoint_of_another_cluster() {
    let (federation, manifests) = federation(WEST).await;
    let mut workloads = versions(&federation).await;
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    let by = |what: &str| format!("{{loadBalancer: {{consistentHash: {{{what}}}}}}}");
    let rule = |what: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: payments, namespace: shop}}
spec: {{host: payments, trafficPolicy: {}}}
",
            by(what)
        )
    };
    write(
        &manifests,
        &rule("httpCookie: {name: cart, ttl: 0s}, maglev: {}"),
    );
    until_answered(address, "a cookie to be given", |a| {
        a.headers.contains_key("set-cookie")
    })
    .await;
    let mut met = BTreeSet::new();
    let mut sessions = Vec::new();
    for _ in 0..30 {
        let first = ask(address, &[("host", "payments.shop")]).await;
        let set = first.headers["set-cookie"].to_str().unwrap().to_owned();
        let cookie = set.split(';').next().unwrap().to_owned();
        met.insert(first.text());
        sessions.push((cookie, first.text()));
    }
    assert_eq!(met.len(), 3, "sessions spread: {met:?}");
    let stays = async |sessions: &[(String, String)]| {
        for (cookie, home) in sessions {
            let fields = [("host", "payments.shop"), ("cookie", cookie.as_str())];
            let answer = ask(address, &fields).await;
            assert_eq!((answer.status, answer.text()), (200, home.clone()));
        }
    };
    stays(&sessions).await;
    // One endpoint dies: the sessions of the others stay, but for the few that Maglev's table moves.
    workloads[0].kill().await;
    let (lost, kept): (Vec<_>, Vec<_>) = sessions
        .iter()
        .cloned()
        .partition(|(_, home)| home.contains("east/1"));
    assert!(!lost.is_empty() && !kept.is_empty());
    for (cookie, _) in &lost {
        let fields = [("host", "payments.shop"), ("cookie", cookie.as_str())];
        let answer = ask(address, &fields).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains("east/1"));
    }
    let mut moved = 0;
    for (cookie, home) in &kept {
        let fields = [("host", "payments.shop"), ("cookie", cookie.as_str())];
        let answer = ask(address, &fields).await;
        assert_eq!(answer.status, 200);
        moved += usize::from(answer.text() != *home);
    }
    assert!(moved <= kept.len() / 4, "{moved} of {} moved", kept.len());

    // The same by a header, on a ring.
    write(&manifests, &rule("httpHeaderName: x-user"));
    until_answered(address, "no cookie to be given", |a| {
        !a.headers.contains_key("set-cookie")
    })
    .await;
    for user in ["ann", "bob", "cid", "dan"] {
        let fields = [("host", "payments.shop"), ("x-user", user)];
        let home = ask(address, &fields).await.text();
        for _ in 0..10 {
            assert_eq!(ask(address, &fields).await.text(), home, "{user}");
        }
    }
}

#[tokio::test]
async fn a_breaker_opens_and_closes_for_a_service_of_another_cluster() {
    let (federation, manifests) = federation(WEST).await;
    let app = federation.addr(EAST, host::WORKLOADS + 1, 8080);
    let (arrived, mut arrives) = mpsc::channel(OPEN);
    let gate = Arc::new(Semaphore::new(OPEN));
    apps::held(apps::bind(app).await, arrived, Arc::clone(&gate));
    let spec = format!("{SERVICE}={app}");
    let _workload = federation.serve(EAST, 1, &spec, &[]).await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    write(
        &manifests,
        "
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: payments, namespace: shop}
spec:
  host: payments.shop.svc.cluster.local
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}
",
    );
    let admin = federation.addr(WEST, host::CALLERS, ADMIN);
    let call = || {
        tradewind_runtime::task::spawn("a held call", async move {
            ask(address, &[("host", "payments.shop")]).await
        })
    };
    let in_use = async || -> Result<serde_json::Value, String> {
        let page = client::get(admin, "/debug/state").await?.text();
        let state: serde_json::Value = serde_json::from_str(&page).map_err(|e| e.to_string())?;
        Ok(state["outbound_threads"][0]["services"][0]["in_use"].clone())
    };
    until("the breaker to be there", USUAL, || async {
        client::get(address, "/").await?;
        match in_use().await? {
            serde_json::Value::Null => Err("services are not counted"),
            _ => Ok(()),
        }
        .map_err(str::to_owned)
    })
    .await;
    gate.forget_permits(OPEN);
    while arrives.try_recv().is_ok() {}
    let first = call();
    arrives.recv().await.unwrap();
    let second = call();
    until("the second to wait", USUAL, || async {
        let counts = in_use().await?;
        if counts["pending"] == 1 {
            Ok(())
        } else {
            Err(counts.to_string())
        }
    })
    .await;
    let third = ask(address, &[("host", "payments.shop")]).await;
    assert_eq!(third.status, 503, "{}", third.text());
    assert_eq!(third.headers["tradewind-error"], "overflow");
    assert!(
        third.text().contains("DestinationRule shop/payments"),
        "{}",
        third.text()
    );
    let overflows = ["shop/payments:80", "pending"];
    let counted = metrics::total(admin, "tradewind_outbound_overflows", &overflows).await;
    assert!(counted.unwrap() >= 1.0);
    assert!(
        arrives.try_recv().is_err(),
        "neither reached the application"
    );
    gate.add_permits(10);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(second.await.unwrap().status, 200);
    for _ in 0..5 {
        let answer = ask(address, &[("host", "payments.shop")]).await;
        assert_eq!(answer.status, 200, "closed again: {}", answer.text());
    }
}

/// Two endpoints in the east, of which one answers under a status that the test may change.
async fn sick_and_well(federation: &Federation, status: u16) -> (Arc<AtomicU16>, Vec<Workload>) {
    let sick = Arc::new(AtomicU16::new(status));
    let well = Arc::new(AtomicU16::new(200));
    let mut workloads = Vec::new();
    for (n, name, status) in [(1, "sick", &sick), (2, "well", &well)] {
        let app = federation.addr(EAST, host::WORKLOADS + n, 8080);
        apps::with_status(apps::bind(app).await, name, Arc::clone(status));
        let spec = format!("{SERVICE}={app}");
        workloads.push(federation.serve(EAST, n, &spec, &[]).await);
    }
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 2).await;
    (sick, workloads)
}

#[tokio::test]
async fn an_endpoint_of_another_cluster_that_answers_with_errors_is_left_alone_until_it_is_well() {
    let (federation, manifests) = federation(WEST).await;
    let (sick, _workloads) = sick_and_well(&federation, 200).await;
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    write(
        &manifests,
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payments, namespace: shop}
spec:
  host: payments
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 50}
",
    );
    let admin = federation.addr(WEST, host::CALLERS, ADMIN);
    until("the rule to be known", USUAL, || async {
        client::get(address, "/").await?;
        let page = client::get(admin, "/debug/state").await?.text();
        if page.contains("DestinationRule shop/payments") {
            Ok(())
        } else {
            Err(page)
        }
    })
    .await;
    sick.store(503, Ordering::SeqCst);
    let mut failed = 0;
    let mut in_a_row = 0;
    while in_a_row < 20 {
        let answer = ask(address, &[("host", "payments.shop")]).await;
        if answer.status == 200 {
            in_a_row += 1;
        } else {
            (failed, in_a_row) = (failed + 1, 0);
            assert!(failed <= 3, "it should have been left alone by now");
        }
    }
    assert_eq!(failed, 3);
    let labels = ["shop/payments:80", "errors"];
    let ejected = metrics::total(admin, "tradewind_outbound_ejections", &labels).await;
    assert_eq!(ejected.unwrap(), 1.0);
    sick.store(200, Ordering::SeqCst);
    until_answered(address, "it to be called again", |a| {
        assert_eq!(a.status, 200);
        a.text() == "sick"
    })
    .await;
}

#[tokio::test]
async fn faults_and_retries_by_a_rule_hold_for_another_clusters_service() {
    let (federation, manifests) = federation(WEST).await;
    let (_sick, _workloads) = sick_and_well(&federation, 503).await;
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    write(
        &manifests,
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payments, namespace: shop}
spec: {host: payments, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, retryBudget: {percent: 100, minRetryConcurrency: 10}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payments, namespace: shop}
spec:
  hosts: [payments]
  http:
  - match: [{headers: {x-fault: {exact: abort}}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: payments}}]
  - match: [{headers: {x-fault: {exact: delay}}}]
    fault: {delay: {fixedDelay: 300ms, percentage: {value: 100}}}
    route: [{destination: {host: payments}}]
    retries: {attempts: 2, retryOn: gateway-error}
  - match: [{method: {exact: GET}}]
    route: [{destination: {host: payments}}]
    retries: {attempts: 2, retryOn: gateway-error}
  - route: [{destination: {host: payments}}]
",
    );
    until("the fault", USUAL, || async {
        let answer = ask(address, &[("host", "payments.shop"), ("x-fault", "abort")]).await;
        if answer.status == 418 {
            Ok(())
        } else {
            Err(answer.status)
        }
    })
    .await;
    // Each GET is saved by the other endpoint; of the POSTs nobody asked to be sent twice, half fail.
    for _ in 0..20 {
        let answer = ask(address, &[("host", "payments.shop")]).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "well"));
    }
    let mut failed = 0;
    for _ in 0..20 {
        let answer = client::ask(address, ("POST", "/"), &[("host", "payments.shop")], "x").await;
        failed += usize::from(answer.status == 503);
    }
    assert_eq!(failed, 10);
    let started = Instant::now();
    let answer = ask(address, &[("host", "payments.shop"), ("x-fault", "delay")]).await;
    assert_eq!(answer.status, 200);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_grpc_method_is_routed_to_another_clusters_service() {
    let (federation, manifests) = federation(WEST).await;
    let app = federation.addr(EAST, host::WORKLOADS + 1, 8080);
    grpc::serve(apps::bind(app).await);
    let spec = format!("shop/echo:80={app},protocol=http2");
    let _echo = federation.serve(EAST, 1, &spec, &[]).await;
    federation.export(EAST, "shop/echo").await;
    federation.sees(WEST, "shop/echo", 1).await;
    // What the caller dials is another service, which does not speak gRPC.
    let _payments = federation.workload(WEST, 1, SERVICE).await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    let route = |method: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: echo, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: payments}}]
  rules:
  - matches: [{{method: {{service: envoy.service.discovery.v3.AggregatedDiscoveryService, method: {method}}}}}]
    backendRefs: [{{name: echo, port: 80}}]
"
        )
    };
    let call = async || -> Result<String, tonic::Status> {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = channel.unwrap().connect().await;
        let channel = channel.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let (send, requests) = mpsc::channel(1);
        let message = DeltaDiscoveryRequest {
            type_url: "echo".to_owned(),
            ..Default::default()
        };
        send.send(message).await.unwrap();
        drop(send);
        let stream = client.delta_aggregated_resources(ReceiverStream::new(requests));
        let mut stream = stream.await?.into_inner();
        let echoed = stream.message().await?;
        echoed
            .map(|e| e.type_url)
            .ok_or_else(|| tonic::Status::unknown("no message"))
    };
    write(&manifests, &route("DeltaAggregatedResources"));
    until("the method to be routed", USUAL, || async {
        match call().await {
            Ok(kind) if kind == "echo" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    write(&manifests, &route("StreamAggregatedResources"));
    until("no rule to be for it", USUAL, || async {
        match call().await {
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// What a server says first.
async fn greeting(address: SocketAddr) -> Result<String, String> {
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let mut words = vec![0; 16];
    let read = timeout(USUAL, stream.read(&mut words)).await;
    let read = read
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())?;
    words.truncate(read);
    String::from_utf8(words).map_err(|e| e.to_string())
}

#[tokio::test]
async fn a_stream_whose_server_speaks_first_is_routed_to_another_clusters_service() {
    let (federation, manifests) = federation(WEST).await;
    let mut workloads = Vec::new();
    for (n, name) in [(1, "old"), (2, "new")] {
        let app = federation.addr(EAST, host::WORKLOADS + n, 8080);
        apps::server_first(apps::bind(app).await, name);
        let service = format!("shop/{name}");
        let spec = format!("{service}:5432={app},protocol=tcp");
        workloads.push(federation.serve(EAST, n, &spec, &[]).await);
        federation.export(EAST, &service).await;
        federation.sees(WEST, &service, 1).await;
    }
    let (_caller, address) = federation.caller(WEST, 0, "shop/old:5432").await;
    let says = async |wanted: &str| {
        until(&format!("the greeting {wanted:?}"), USUAL, || async {
            match greeting(address).await? {
                said if said == wanted => Ok(()),
                other => Err(other),
            }
        })
        .await;
    };
    says("old").await;
    let open = TcpStream::connect(address).await.unwrap();
    write(
        &manifests,
        "
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: db, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: old}]
  rules: [{backendRefs: [{name: new, port: 5432}]}]
",
    );
    says("new").await;
    // What was open stays where it was.
    let mut open = open;
    let mut words = [0; 3];
    open.read_exact(&mut words).await.unwrap();
    assert_eq!(&words, b"old");
    fs::remove_file(manifests.join("policy.yaml")).unwrap();
    says("old").await;
}

#[tokio::test]
async fn a_producers_rules_hold_for_callers_in_every_cluster_and_end_with_it() {
    let (mut federation, manifests) = federation(EAST).await;
    let _workloads = versions(&federation).await;
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    write(
        &manifests,
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: payments, namespace: shop}
spec: {host: payments, subsets: [{name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payments, namespace: shop}
spec:
  hosts: [payments]
  http:
  - route: [{destination: {host: payments, subset: v2}}]
    timeout: 5s
    headers: {response: {set: {x-by: producer}}}
",
    );
    until_answered(address, "the producer's rule", |a| {
        a.headers.contains_key("x-by")
    })
    .await;
    for _ in 0..20 {
        let answer = ask(address, &[("host", "payments.shop")]).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.text().contains("east/1"), "{}", answer.text());
    }
    let args = ["explain", "--to", SERVICE, "--caller", "shop"];
    let said = federation.cli(WEST, &args).await.good().stdout;
    let decides = "=> VirtualService shop/payments http[0] of east: sends on, within 5000 ms";
    assert!(said.contains(decides), "{said}");
    assert!(said.contains("of east says"), "{said}");
    // While the producer's controller is away its word holds.
    let controller = federation.clusters[EAST].controller.as_mut().unwrap();
    controller.kill().await;
    for _ in 0..10 {
        let answer = ask(address, &[("host", "payments.shop")]).await;
        assert_eq!(answer.headers["x-by"], "producer");
    }
    federation.start_controller_with(EAST, &["--manifests", manifests.to_str().unwrap()]);
    federation.is_well(EAST).await;
    fs::remove_file(manifests.join("policy.yaml")).unwrap();
    until_answered(address, "the rule to end", |a| {
        !a.headers.contains_key("x-by")
    })
    .await;
}
