//! A gateway through real sockets: real TLS between a caller and workloads it cannot read, no controller anywhere.

mod bounds;
mod pass_on;
mod probes;
mod sealed;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tradewind_api::{
    ClusterName, Domain, EndpointId, SpiffeId,
    model::{ClusterState, Health},
    snapshot::{Snapshot, Trust},
};
use tradewind_ca::{AuthorityKey, Issuer, Root};
use tradewind_runtime::{
    clock, drain, metrics::MetricsRegistry, ready::Readiness, rng::Rng, task, task::TaskSet,
};
use tradewind_transport::{
    control::{Control, ControlStatus},
    keys::WorkloadKey,
    server_name::{Target, encode},
    svid::{Svid, SvidCell},
    tls::{self, ClientAuth, Expect},
    trust::TrustCell,
};

use crate::{
    Gateway, GatewayConfig,
    fixture::{cluster, endpoint, snapshot},
};

/// Certificates of a federation of `west` and `east`.
struct Pki {
    trust: Trust,
    issuers: BTreeMap<String, Issuer>,
}

impl Pki {
    fn new() -> Self {
        let (domain, now) = (Domain::default(), clock::system().unix_ms());
        let root = Root::generate(&domain, now).unwrap();
        let mut pki = Self {
            trust: Trust::default(),
            issuers: BTreeMap::new(),
        };
        pki.trust.roots.insert(root.cert_der().to_vec());
        for name in ["west", "east"] {
            let cluster = ClusterName::new(name).unwrap();
            let key = AuthorityKey::generate(&cluster, &domain).unwrap();
            let csr = key.csr_der().unwrap();
            let der = root.sign_authority(&csr, &cluster, &domain, now).unwrap();
            pki.trust
                .authorities
                .insert(domain.trust_domain(&cluster), [der.clone()].into());
            let issuer = Issuer::new(key, der, root.cert_der().to_vec()).unwrap();
            pki.issuers.insert(name.to_owned(), issuer);
        }
        pki
    }

    fn svid(&self, cluster: &str) -> SvidCell {
        let key = WorkloadKey::generate().unwrap();
        let id: SpiffeId = format!("spiffe://{cluster}.mesh.internal/ns/shop/sa/payments")
            .parse()
            .unwrap();
        let now = clock::system().unix_ms();
        let issued = self.issuers[cluster]
            .issue(&key.csr_der().unwrap(), &id, now, 3600)
            .unwrap();
        let cell = SvidCell::empty();
        cell.set(Svid::new(&key, &issued.chain_der).unwrap());
        cell
    }

    fn cell(&self) -> TrustCell {
        TrustCell::new(&self.trust).unwrap()
    }
}

/// A workload that says its name to whoever connects and then echoes.
async fn workload(pki: &Pki, name: &'static str, tasks: &mut TaskSet) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = tls::server_config(&pki.svid("west"), &pki.cell(), ClientAuth::Required);
    let acceptor = TlsAcceptor::from(config);
    tasks.spawn("workload", async move {
        let mut connections = TaskSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            connections.spawn("workload connection", async move {
                let Ok(mut tls) = acceptor.accept(stream).await else {
                    return;
                };
                tls.write_all(name.as_bytes()).await.unwrap();
                let (mut r, mut w) = tokio::io::split(tls);
                drop(tokio::io::copy(&mut r, &mut w).await);
                drop(w.shutdown().await);
            });
        }
    });
    address
}

/// An address nobody listens on, and nobody can while the socket is held: a port that is given back may be another test's next one.
fn dead() -> (SocketAddr, TcpSocket) {
    let held = TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (held.local_addr().unwrap(), held)
}

struct Running {
    address: SocketAddr,
    admin: SocketAddr,
    snapshot: watch::Sender<Arc<Snapshot>>,
    metrics: MetricsRegistry,
    readiness: Readiness,
    trigger: drain::Trigger,
    ended: tokio::task::JoinHandle<Result<(), crate::GatewayError>>,
}

fn start(s: Snapshot, change: impl FnOnce(&mut GatewayConfig)) -> Running {
    let mut config = GatewayConfig::new("gw-1", "unix:/nowhere".parse().unwrap());
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.admin_listen = "127.0.0.1:0".parse().unwrap();
    config.threads = 2;
    config.announce_grace = Duration::from_millis(100);
    change(&mut config);
    let bound = Gateway::build(config, clock::system(), Rng::seeded(1), None).unwrap();
    let (address, admin) = (bound.local_addr(), bound.admin_addr());
    let (metrics, readiness) = (bound.metrics(), bound.readiness());
    let (snapshot, rx) = watch::channel(Arc::new(s));
    let control = Control::from_parts(
        SvidCell::empty(),
        TrustCell::empty(),
        rx,
        ControlStatus::default(),
    );
    let (trigger, watch) = drain::channel();
    let ended = task::spawn("gateway", bound.run_with(control, TaskSet::new(), watch));
    Running {
        address,
        admin,
        snapshot,
        metrics,
        readiness,
        trigger,
        ended,
    }
}

impl Running {
    async fn metric(&self, line: &str) {
        until(line, || self.metrics.encode().contains(line)).await;
    }

    /// Its admin page.
    async fn state(&self) -> serde_json::Value {
        let mut admin = TcpStream::connect(self.admin).await.unwrap();
        let ask = b"GET /debug/state HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        admin.write_all(ask).await.unwrap();
        let mut page = String::new();
        admin.read_to_string(&mut page).await.unwrap();
        let (_head, body) = page.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body.trim()).unwrap()
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = time::Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(time::Instant::now() < deadline, "never: {what}");
        time::sleep(Duration::from_millis(5)).await;
    }
}

fn to(cluster: &str, service: &str, id: Option<&str>) -> String {
    let target = Target::Endpoint {
        cluster: ClusterName::new(cluster).unwrap(),
        service: service.parse().unwrap(),
        port: 80,
        endpoint: id.map(|i| EndpointId::new(i).unwrap()),
    };
    encode(&target, &Domain::default())
}

async fn call(pki: &Pki, gateway: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    over(pki, TcpStream::connect(gateway).await?, name).await
}

async fn over(pki: &Pki, stream: TcpStream, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let config = tls::client_config(&pki.svid("east"), &pki.cell(), Expect::AnyMember);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    time::timeout(
        Duration::from_secs(10),
        TlsConnector::from(config).connect(name, stream),
    )
    .await
    .unwrap()
}

async fn served_by(stream: &mut TlsStream<TcpStream>) -> String {
    let mut name = [0u8; 1];
    stream.read_exact(&mut name).await.unwrap();
    String::from_utf8(name.to_vec()).unwrap()
}

async fn echoes(stream: &mut TlsStream<TcpStream>, text: &str) -> bool {
    if stream.write_all(text.as_bytes()).await.is_err() {
        return false;
    }
    let mut back = vec![0u8; text.len()];
    stream.read_exact(&mut back).await.is_ok() && back == text.as_bytes()
}

async fn mesh(pki: &Pki, tasks: &mut TaskSet) -> Snapshot {
    let mut s = snapshot(&[("shop/payments", true, 80), ("shop/secret", false, 80)]);
    for name in ["a", "b"] {
        let at = workload(pki, name, tasks).await.to_string();
        endpoint(
            &mut s,
            "shop/payments",
            "west",
            name,
            Health::Healthy,
            &at,
            80,
        );
        endpoint(
            &mut s,
            "shop/secret",
            "west",
            name,
            Health::Healthy,
            &at,
            80,
        );
    }
    s
}

fn counted(g: &Running, what: &str) -> u64 {
    let text = g.metrics.encode();
    let found = text.lines().filter(|l| l.starts_with(what));
    found
        .filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn alert_of(error: &std::io::Error) -> String {
    format!("{error:?}")
}

#[tokio::test]
async fn a_call_reaches_the_endpoint_it_names_end_to_end() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = start(mesh(&pki, &mut tasks).await, |_| {});
    for id in ["a", "b", "a"] {
        let mut stream = call(&pki, g.address, &to("west", "shop/payments", Some(id)))
            .await
            .unwrap();
        assert_eq!(served_by(&mut stream).await, id);
        assert!(echoes(&mut stream, "over the border").await);
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }
    g.metric(r#"tradewind_gateway_connections_closed_total{to="shop/payments:80",peer=""} 3"#)
        .await;
    g.metric(r#"tradewind_gateway_connections_active{to="shop/payments:80",peer=""} 0"#)
        .await;
    let text = g.metrics.encode();
    let sent = text
        .lines()
        .find_map(|l| {
            l.strip_prefix(r#"tradewind_gateway_bytes_sent_total{to="shop/payments:80",peer=""} "#)
        })
        .unwrap();
    assert!(sent.parse::<u64>().unwrap() > 3 * 1000, "{sent}");
    assert!(g.readiness.is_ready());
}

#[tokio::test]
async fn any_spreads_and_bulk_arrives_whole() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = start(mesh(&pki, &mut tasks).await, |_| {});
    let mut seen = BTreeSet::new();
    for _ in 0..30 {
        let mut stream = call(&pki, g.address, &to("west", "shop/payments", None))
            .await
            .unwrap();
        seen.insert(served_by(&mut stream).await);
    }
    assert_eq!(seen.len(), 2);
    let mut stream = call(&pki, g.address, &to("west", "shop/payments", None))
        .await
        .unwrap();
    served_by(&mut stream).await;
    let sent: Vec<u8> = (0..4_000_000u32)
        .map(|i| i.to_le_bytes()[0] ^ 0x5a)
        .collect();
    let (mut r, mut w) = tokio::io::split(stream);
    let copy = sent.clone();
    tasks.spawn("sender", async move {
        w.write_all(&copy).await.unwrap();
        w.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    r.read_to_end(&mut back).await.unwrap();
    assert!(back == sent);
}

#[tokio::test]
async fn a_dead_endpoint_is_told_and_not_replaced_while_others_live() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let mut s = mesh(&pki, &mut tasks).await;
    let (gone, _held) = dead();
    let gone = gone.to_string();
    endpoint(
        &mut s,
        "shop/payments",
        "west",
        "dead",
        Health::Healthy,
        &gone,
        80,
    );
    let g = start(s, |_| {});
    for _ in 0..5 {
        let refused = call(&pki, g.address, &to("west", "shop/payments", Some("dead"))).await;
        let alert = alert_of(&refused.unwrap_err());
        assert!(alert.contains("InternalError"), "{alert}");
    }
    g.metric(r#"tradewind_gateway_dials_total{to="shop/payments:80",peer="",result="refused"} 5"#)
        .await;
    // Whom nobody here has heard of may be anybody: a caller that has heard nothing for long names those of before.
    for endpoint in [Some("gone"), None] {
        let mut seen = BTreeSet::new();
        for _ in 0..30 {
            let name = to("west", "shop/payments", endpoint);
            let mut stream = call(&pki, g.address, &name).await.unwrap();
            seen.insert(served_by(&mut stream).await);
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
    }
}

#[tokio::test]
async fn refusals_are_told_at_once_and_counted() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let mut s = mesh(&pki, &mut tasks).await;
    let (gone, _held) = dead();
    let gone = gone.to_string();
    let services = snapshot(&[("shop/lone", true, 80), ("shop/none", true, 80)]).services;
    s.services.extend(services);
    endpoint(&mut s, "shop/lone", "west", "x", Health::Healthy, &gone, 80);
    let g = start(s, |_| {});
    g.readiness.wait_ready().await;
    for (name, reason, alert) in [
        (
            to("west", "shop/secret", None),
            "not_exported",
            "UnrecognisedName",
        ),
        (
            to("west", "shop/secret", Some("a")),
            "not_exported",
            "UnrecognisedName",
        ),
        (
            to("west", "shop/what", None),
            "not_exported",
            "UnrecognisedName",
        ),
        (
            to("east", "shop/payments", None),
            "other_cluster",
            "AccessDenied",
        ),
        ("www.example.com".to_owned(), "bad_name", "UnrecognisedName"),
        (
            to("west", "shop/lone", None),
            "dial_failed",
            "InternalError",
        ),
        (
            to("west", "shop/none", None),
            "no_endpoint",
            "InternalError",
        ),
    ] {
        let count = || {
            let line =
                format!(r#"tradewind_gateway_connections_refused_total{{reason="{reason}","#);
            counted(&g, &line)
        };
        let before = count();
        let error = call(&pki, g.address, &name).await.unwrap_err();
        assert!(alert_of(&error).contains(alert), "{name}: {error:?}");
        assert_eq!(count(), before + 1, "{name}");
    }
    let config = tls::client_config(&pki.svid("east"), &pki.cell(), Expect::AnyMember);
    let stream = TcpStream::connect(g.address).await.unwrap();
    let nobody = ServerName::try_from("127.0.0.1").unwrap();
    let error = TlsConnector::from(config)
        .connect(nobody, stream)
        .await
        .unwrap_err();
    assert!(alert_of(&error).contains("UnrecognisedName"), "{error:?}");
    g.metric(r#"connections_refused_total{reason="no_name",to="",peer=""} 1"#)
        .await;
}

#[tokio::test]
async fn strangers_bytes_are_dropped_and_counted() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = start(mesh(&pki, &mut tasks).await, |_| {});
    let mut back = Vec::new();
    let mut stream = TcpStream::connect(g.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    drop(stream.read_to_end(&mut back).await);
    assert!(back.is_empty());
    g.metric(r#"connections_refused_total{reason="not_tls",to="",peer=""} 1"#)
        .await;
    let mut stream = TcpStream::connect(g.address).await.unwrap();
    stream.write_all(&[22, 3, 1, 2]).await.unwrap();
    drop(stream);
    g.metric(r#"connections_refused_total{reason="cut",to="",peer=""} 1"#)
        .await;
    let mut stream = TcpStream::connect(g.address).await.unwrap();
    // A ClientHello that says it has 64 KiB.
    stream
        .write_all(&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff])
        .await
        .unwrap();
    drop(stream.read_to_end(&mut back).await);
    assert_eq!(back, [21, 3, 3, 0, 2, 2, 40]);
    g.metric(r#"connections_refused_total{reason="too_large",to="",peer=""} 1"#)
        .await;
    let mut stream = call(&pki, g.address, &to("west", "shop/payments", None))
        .await
        .unwrap();
    served_by(&mut stream).await;
}

#[tokio::test]
async fn withdrawing_an_export_ends_its_connections_and_no_others() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let mut s = mesh(&pki, &mut tasks).await;
    let secret = s.services[&"shop/secret".parse().unwrap()].as_ref().clone();
    let mut other = secret.clone();
    other.name = "shop/other".parse().unwrap();
    other.exported_by = [ClusterName::new("west").unwrap()].into();
    s.services.insert(other.name.clone(), Arc::new(other));
    let g = start(s.clone(), |_| {});
    let mut ended = call(&pki, g.address, &to("west", "shop/payments", Some("a")))
        .await
        .unwrap();
    let mut stays = call(&pki, g.address, &to("west", "shop/other", Some("a")))
        .await
        .unwrap();
    served_by(&mut ended).await;
    served_by(&mut stays).await;
    // A change that has nothing to do with it ends nothing.
    cluster(&mut s, "west").state = ClusterState::Draining;
    g.snapshot.send_replace(Arc::new(s.clone()));
    assert!(echoes(&mut ended, "1").await && echoes(&mut stays, "1").await);
    let service = s
        .services
        .get_mut(&"shop/payments".parse().unwrap())
        .unwrap();
    Arc::make_mut(service).exported_by.clear();
    g.snapshot.send_replace(Arc::new(s));
    let mut byte = [0u8; 1];
    let cut = time::timeout(Duration::from_secs(10), ended.read(&mut byte))
        .await
        .unwrap();
    // A reset, not an orderly end.
    assert!(cut.is_err(), "{cut:?}");
    g.metric(r#"connections_ended_by_policy_total{to="shop/payments:80",peer=""} 1"#)
        .await;
    assert!(echoes(&mut stays, "2").await);
    assert!(
        call(&pki, g.address, &to("west", "shop/payments", Some("a")))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_controller_is_reached_by_its_name_and_strangers_are_refused_before_a_snapshot() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let controller = workload(&pki, "c", &mut tasks).await.to_string();
    let g = start(Snapshot::default(), |c| c.controller_backend = controller);
    let west = ClusterName::new("west").unwrap();
    let name = encode(&Target::Controller { cluster: west }, &Domain::default());
    let error = call(&pki, g.address, &name).await.unwrap_err();
    assert!(alert_of(&error).contains("InternalError"), "{error:?}");
    g.snapshot
        .send_replace(Arc::new(mesh(&pki, &mut tasks).await));
    let mut stream = call(&pki, g.address, &name).await.unwrap();
    assert_eq!(served_by(&mut stream).await, "c");
}

#[tokio::test]
async fn one_of_several_controllers_is_reached_by_its_node_and_any_by_the_clusters_name() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let second = workload(&pki, "d", &mut tasks).await.to_string();
    let mut snapshot = mesh(&pki, &mut tasks).await;
    cluster(&mut snapshot, "west").controllers = [(7, second)].into();
    // The controller beside this gateway is gone.
    let g = start(snapshot, |c| {
        c.controller_backend = "127.0.0.1:1".to_owned()
    });
    let west = || ClusterName::new("west").unwrap();
    let node = |node| Target::ControllerNode {
        cluster: west(),
        node,
    };
    for target in [Target::Controller { cluster: west() }, node(7)] {
        let name = encode(&target, &Domain::default());
        let mut stream = call(&pki, g.address, &name).await.unwrap();
        assert_eq!(served_by(&mut stream).await, "d", "{name}");
    }
    let name = encode(&node(8), &Domain::default());
    let error = call(&pki, g.address, &name).await.unwrap_err();
    assert!(alert_of(&error).contains("Alert"), "{error:?}");
}

#[tokio::test]
async fn a_drain_lets_connections_finish_and_takes_callers_meanwhile() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = start(mesh(&pki, &mut tasks).await, |c| {
        c.announce_grace = Duration::from_secs(1)
    });
    let mut early = call(&pki, g.address, &to("west", "shop/payments", Some("a")))
        .await
        .unwrap();
    served_by(&mut early).await;
    let readiness = g.readiness.clone();
    let drained = task::spawn("drain", g.trigger.drain(Duration::from_secs(30)));
    until("draining", || readiness.pending() == ["draining"]).await;
    let mut late = call(&pki, g.address, &to("west", "shop/payments", Some("b")))
        .await
        .unwrap();
    assert_eq!(served_by(&mut late).await, "b");
    let deadline = time::Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(g.address).await.is_ok() {
        assert!(time::Instant::now() < deadline, "the listener never closed");
        time::sleep(Duration::from_millis(20)).await;
    }
    assert!(echoes(&mut early, "still here").await && echoes(&mut late, "me too").await);
    assert!(!drained.is_finished());
    drop((early, late));
    assert!(drained.await.unwrap());
    g.ended.await.unwrap().unwrap();
}

/// The kernel hands a connection over with its first bytes. Whoever connected before a drain and speaks while callers are still taken
/// is served; who speaks later is told so at once, and goes elsewhere: nothing of a call was sent yet.
#[tokio::test]
async fn who_connected_before_a_drain_and_speaks_late_is_served_or_told_at_once() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = start(mesh(&pki, &mut tasks).await, |c| {
        c.announce_grace = Duration::from_millis(500)
    });
    let name = to("west", "shop/payments", Some("a"));
    let [soon, late] = [
        TcpStream::connect(g.address).await.unwrap(),
        TcpStream::connect(g.address).await.unwrap(),
    ];
    let readiness = g.readiness.clone();
    let drained = task::spawn("drain", g.trigger.drain(Duration::from_secs(30)));
    until("draining", || readiness.pending() == ["draining"]).await;
    let mut soon = over(&pki, soon, &name).await.unwrap();
    assert_eq!(served_by(&mut soon).await, "a");
    let deadline = time::Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(g.address).await.is_ok() {
        assert!(time::Instant::now() < deadline, "the listener never closed");
        time::sleep(Duration::from_millis(20)).await;
    }
    let begun = time::Instant::now();
    let told = over(&pki, late, &name).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2), "{told}");
    assert!(echoes(&mut soon, "still here").await);
    drop(soon);
    assert!(drained.await.unwrap());
    g.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_drain_deadline_cuts_what_is_left() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = start(mesh(&pki, &mut tasks).await, |c| {
        c.drain_deadline = Duration::from_millis(200)
    });
    let mut stream = call(&pki, g.address, &to("west", "shop/payments", Some("a")))
        .await
        .unwrap();
    served_by(&mut stream).await;
    assert!(g.trigger.drain(Duration::from_secs(30)).await);
    g.ended.await.unwrap().unwrap();
    let mut byte = [0u8; 1];
    assert!(!matches!(stream.read(&mut byte).await, Ok(1)));
}

#[tokio::test]
async fn its_state_and_a_bad_setting_are_shown() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = start(mesh(&pki, &mut tasks).await, |_| {});
    let page = g.state().await.to_string();
    assert!(
        page.contains("west") && page.contains("shop/payments"),
        "{page}"
    );
    assert!(!page.contains("shop/secret"), "{page}");

    let mut config = GatewayConfig::new("gw-1", "unix:/nowhere".parse().unwrap());
    let error = Gateway::build(config.clone(), clock::system(), Rng::seeded(1), None).unwrap_err();
    assert!(error.to_string().contains("advertise"), "{error}");
    config.listen = g.address;
    let error = Gateway::build(config, clock::system(), Rng::seeded(1), None).unwrap_err();
    assert!(error.to_string().contains("--listen"), "{error}");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_controllers() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let controller = workload(&pki, "c", &mut tasks).await.to_string();
    let g = start(mesh(&pki, &mut tasks).await, |c| {
        c.controller_backend = controller;
    });
    let west = ClusterName::new("west").unwrap();
    let name = encode(&Target::Controller { cluster: west }, &Domain::default());
    let mut stream = call(&pki, g.address, &name).await.unwrap();
    assert_eq!(served_by(&mut stream).await, "c");
    let begun = time::Instant::now();
    assert!(g.trigger.drain(Duration::from_secs(60)).await);
    g.ended.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15));
    let mut byte = [0u8; 1];
    assert!(stream.read(&mut byte).await.is_err());
}

#[tokio::test]
async fn every_metric_is_described_and_nothing_else_is() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let mut s = mesh(&pki, &mut tasks).await;
    let g = start(s.clone(), |_| {});
    // Families show once they have counted something; this connection counts in all of them.
    let mut stream = call(&pki, g.address, &to("west", "shop/payments", None))
        .await
        .unwrap();
    served_by(&mut stream).await;
    s.services.clear();
    g.snapshot.send_replace(Arc::new(s));
    g.metric("tradewind_gateway_connections_ended_by_policy_total")
        .await;
    let page = g.metrics.encode();
    let own = |name: &&str| name.starts_with("tradewind_gateway_");
    let counted: BTreeSet<&str> = page
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(own)
        .collect();
    let described: BTreeSet<&str> = include_str!("../../docs/metrics.md")
        .split('`')
        .filter(own)
        .map(|name| name.split('{').next().unwrap().trim_end_matches("_total"))
        .collect();
    assert_eq!(described, counted);
}
