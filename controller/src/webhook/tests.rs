//! The webhook over real sockets, asked by hyper's client as an API server asks.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;
use tradewind_runtime::{
    clock::{self, ManualClock, SharedClock},
    drain,
    metrics::MetricsRegistry,
    rng::Rng,
    task,
};

use super::*;

const NAME: &str = "tradewind-webhook.tradewind-system.svc";
const SETTINGS: &str = "image: registry.example/tradewind:1\naudience: tradewind.west\n";

struct Running {
    address: SocketAddr,
    bundle: Bundle,
    metrics: MetricsRegistry,
    trigger: drain::Trigger,
    shared: Arc<Shared>,
    ended: tokio::task::JoinHandle<()>,
}

fn config(dir: &Path) -> WebhookConfig {
    let settings = dir.join("injection.yaml");
    if !settings.exists() {
        std::fs::write(&settings, SETTINGS).unwrap();
    }
    WebhookConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        settings,
        names: vec![NAME.to_owned()],
    }
}

fn start(dir: &Path, clock: SharedClock) -> Running {
    let metrics = MetricsRegistry::new();
    let webhook = Webhook::bind(config(dir), dir, clock, Rng::seeded(1), &metrics).unwrap();
    let (trigger, watch) = drain::channel();
    Running {
        address: webhook.local_addr(),
        bundle: webhook.bundle(),
        shared: Arc::clone(&webhook.shared),
        metrics,
        trigger,
        ended: task::spawn("webhook", webhook.run(watch)),
    }
}

fn client(
    bundle: &[Vec<u8>],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for der in bundle {
        roots.add(CertificateDer::from(der.clone())).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn connect(
    running: &Running,
    bundle: &[Vec<u8>],
    name: &'static str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(running.address).await?;
    let connector = client(bundle, rustls::ALL_VERSIONS);
    connector
        .connect(ServerName::try_from(name).unwrap(), stream)
        .await
}

async fn send(
    running: &Running,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> (StatusCode, Bytes) {
    let stream = connect(running, &running.bundle.certificates(), NAME)
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let driver = task::spawn("client", async move { drop(connection.await) });
    let request = Request::builder()
        .method(method)
        .uri(format!("https://{NAME}{path}"))
        .body(Full::new(body.into()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    driver.abort();
    (status, body)
}

fn review(pod: &Value) -> String {
    let request = json!({
        "uid": "u", "operation": "CREATE", "namespace": "shop", "object": pod,
        "kind": { "group": "", "version": "v1", "kind": "Pod" },
    });
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request })
        .to_string()
}

fn pod() -> Value {
    json!({ "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "a", "image": "a" }] } })
}

#[tokio::test]
async fn a_pod_gets_its_proxy_over_https() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), clock::system());
    let (status, body) = send(
        &running,
        Method::POST,
        "/inject?timeout=10s",
        review(&pod()),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"]["uid"], "u");
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    let mut on_the_node = pod();
    on_the_node["spec"]["hostNetwork"] = json!(true);
    let (_, body) = send(&running, Method::POST, "/inject", review(&on_the_node)).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert!(
        answer["response"]["warnings"][0]
            .as_str()
            .unwrap()
            .contains("hostNetwork")
    );
    let text = running.metrics.encode();
    assert!(
        text.contains("tradewind_webhook_answers_total{result=\"injected\",reason=\"none\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("{result=\"left\",reason=\"host-network\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), clock::system());
    for (method, path, body, expected) in [
        (
            Method::GET,
            "/inject",
            String::new(),
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (Method::POST, "/", String::new(), StatusCode::NOT_FOUND),
        (
            Method::POST,
            "/inject",
            "{".to_owned(),
            StatusCode::BAD_REQUEST,
        ),
        (
            Method::POST,
            "/inject",
            "x".repeat((4 << 20) + 1),
            StatusCode::BAD_REQUEST,
        ),
    ] {
        assert_eq!(
            send(&running, method, path, body).await.0,
            expected,
            "{path}"
        );
    }
}

#[tokio::test]
async fn only_its_own_bundle_and_name_are_believed() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let running = start(dir.path(), clock::system());
    let elsewhere = start(other.path(), clock::system());
    let bundle = running.bundle.certificates();
    assert!(connect(&running, &bundle, NAME).await.is_ok());
    assert!(
        connect(&running, &elsewhere.bundle.certificates(), NAME)
            .await
            .is_err()
    );
    assert!(
        connect(&running, &bundle, "kubernetes.default.svc")
            .await
            .is_err()
    );
    // Two replicas behind one name: who believes both reaches either.
    let both = [bundle, elsewhere.bundle.certificates()].concat();
    assert!(connect(&running, &both, NAME).await.is_ok());
    assert!(connect(&elsewhere, &both, NAME).await.is_ok());
}

#[tokio::test]
async fn tls_1_2_is_spoken_too() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), clock::system());
    let connector = client(&running.bundle.certificates(), &[&rustls::version::TLS12]);
    let stream = TcpStream::connect(running.address).await.unwrap();
    let stream = connector
        .connect(ServerName::try_from(NAME).unwrap(), stream)
        .await
        .unwrap();
    assert_eq!(
        stream.get_ref().1.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_2)
    );
}

#[tokio::test]
async fn a_controller_that_is_started_anew_is_believed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let before = start(dir.path(), clock::system());
    let bundle = before.bundle.certificates();
    assert!(before.trigger.drain(Duration::from_secs(5)).await);
    before.ended.await.unwrap();
    let after = start(dir.path(), clock::system());
    assert_eq!(after.bundle.certificates(), bundle);
    assert!(connect(&after, &bundle, NAME).await.is_ok());
}

/// A CA says which names it may sign: one of before is of no use to a webhook that is called otherwise.
#[tokio::test]
async fn a_webhook_of_another_name_has_another_ca() {
    let dir = tempfile::tempdir().unwrap();
    let before = start(dir.path(), clock::system());
    let bundle = before.bundle.certificates();
    assert!(before.trigger.drain(Duration::from_secs(5)).await);
    let mut told = config(dir.path());
    told.names = vec!["localhost".to_owned()];
    let metrics = MetricsRegistry::new();
    let webhook =
        Webhook::bind(told, dir.path(), clock::system(), Rng::seeded(1), &metrics).unwrap();
    let (_trigger, watch) = drain::channel();
    let (address, ours) = (webhook.local_addr(), webhook.bundle().certificates());
    assert_ne!(ours, bundle);
    let serving = task::spawn("webhook", webhook.run(watch));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let believed = client(&ours, rustls::ALL_VERSIONS)
        .connect(name, stream)
        .await;
    assert!(believed.is_ok(), "{believed:?}");
    serving.abort();
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_refuses_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), clock::system());
    let bundle = running.bundle.certificates();
    let mut idle = connect(&running, &bundle, NAME).await.unwrap();
    idle.write_all(b"GET /inject HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let silent = TcpStream::connect(running.address).await.unwrap();
    let begun = tokio::time::Instant::now();
    running.trigger.drain(Duration::from_secs(1)).await;
    running.ended.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(TcpStream::connect(running.address).await.is_err());
    drop(silent);
}

/// What is due, by a clock that the test moves.
#[test]
fn certificates_are_renewed_and_a_next_ca_signs_only_once_it_is_published() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let dir = tempfile::tempdir().unwrap();
    let start_ms = clock::system().unix_ms();
    let open = |now| Certificates::open(dir.path().to_owned(), vec![NAME.to_owned()], now).unwrap();
    let certificates = open(start_ms);
    let bundle = certificates.bundle();
    let first = bundle.certificates();
    let until = certificates.until_unix_s();
    certificates.tend(start_ms + DAY_MS / 3, 0.5).unwrap();
    assert_eq!(certificates.until_unix_s(), until, "too early");
    certificates.tend(start_ms + DAY_MS * 6 / 10, 0.5).unwrap();
    assert!(certificates.until_unix_s() > until, "renewed at half life");
    assert_eq!(bundle.certificates(), first);

    certificates.tend(start_ms + 46 * DAY_MS, 0.5).unwrap();
    let both = bundle.certificates();
    assert_eq!(
        (both.len(), &both[0]),
        (2, &first[0]),
        "the next one is believed, and does not sign"
    );
    bundle.published(&first);
    certificates.tend(start_ms + 47 * DAY_MS, 0.5).unwrap();
    assert_eq!(
        bundle.certificates(),
        both,
        "the API server knows only the old one"
    );
    // A restart in between keeps both.
    assert_eq!(open(start_ms + 47 * DAY_MS).bundle().certificates(), both);
    bundle.published(&both);
    certificates.tend(start_ms + 48 * DAY_MS, 0.5).unwrap();
    assert_eq!(bundle.certificates(), both[1..], "the next one signs");
    assert_eq!(
        open(start_ms + 48 * DAY_MS).bundle().certificates(),
        both[1..]
    );

    certificates.tend(start_ms + 400 * DAY_MS, 0.5).unwrap();
    let renewed = bundle.certificates();
    assert_eq!(renewed.len(), 1);
    assert_ne!(renewed, both[1..], "all were over");
    assert!(is_still_good(&renewed[0], (start_ms + 401 * DAY_MS) / 1000));
    assert!(!is_still_good(&first[0], (start_ms + 401 * DAY_MS) / 1000));
    assert!(!is_still_good(b"rubbish", 0));
}

#[tokio::test(start_paused = true)]
async fn changed_settings_are_taken_and_bad_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(clock::system().unix_ms());
    let running = start(dir.path(), Arc::new(clock));
    let file = dir.path().join("injection.yaml");
    let image = || running.shared.settings.load().image.clone();
    std::fs::write(&file, SETTINGS.replace(":1", ":2")).unwrap();
    for _ in 0..100 {
        if image().ends_with(":2") {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(image().ends_with(":2"), "{}", image());
    std::fs::write(&file, "image: ''\naudience: x\n").unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(image().ends_with(":2"));
}

#[test]
fn settings_that_cannot_be_used_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let bind = |config: WebhookConfig| {
        let metrics = MetricsRegistry::new();
        let clock = clock::system();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _guard = runtime.enter();
        Webhook::bind(config, dir.path(), clock, Rng::seeded(1), &metrics).map(|_| ())
    };
    std::fs::write(&config.settings, "image: a\naudience: b\ncolour: red\n").unwrap();
    let error = bind(config.clone()).unwrap_err().to_string();
    assert!(error.contains("colour"), "{error}");
    config.settings = dir.path().join("absent.yaml");
    let error = bind(config).unwrap_err().to_string();
    assert!(error.contains("absent.yaml"), "{error}");
}
