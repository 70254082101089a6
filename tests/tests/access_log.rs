//! The access log of both proxies across a cluster border, key by key: a call that went well, one that was tried again, one that
//! nobody could take, a connection; and a file that is rotated or cannot be written. Real processes; the test is caller and
//! application.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Barrier,
};
use tradewind_tests::{
    Federation, Process, Workload, apps,
    federation::{ADMIN, ONE, TWO},
    http::{Answer, ask, get},
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
const GREETING: &str = "220 ready\r\n";
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Every key of a line, in order: Istio's, then ours.
const KEYS: [&str; 39] = [
    "start_time",
    "route_name",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
    "upstream_transport_failure_reason",
    "reporter",
    "service",
    "source_cluster",
    "source_principal",
    "destination_cluster",
    "destination_principal",
    "endpoint",
    "tier",
    "tier_name",
    "gateway",
    "attempts",
    "grpc_status",
    "trace_id",
    "span_id",
    "trace_sampled",
];

/// The lines of a file, each a JSON object; a line that is not is a failure.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect()
}

/// Waits for a line that `is` the one.
async fn line(path: &Path, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    until(&format!("{what} in {}", path.display()), USUAL, || async {
        let all = lines(path);
        all.iter().find(|l| is(l)).cloned().ok_or(all)
    })
    .await
}

/// Compares every key of a line: with what is expected, and else with null. What differs from run to run is taken out first.
#[track_caller]
fn compare(mut line: Value, taken: &[&str], expected: &Value) {
    let object = line.as_object_mut().expect("an object");
    let keys: Vec<_> = object.keys().cloned().collect();
    let mut all = KEYS.to_vec();
    all.sort_unstable();
    assert_eq!(keys, all);
    for key in taken {
        let value = object.remove(*key).expect("a key");
        assert!(!value.is_null(), "{key} is null");
    }
    let expected = expected.as_object().expect("an object");
    for (key, value) in object.iter() {
        assert_eq!(
            value,
            expected.get(key).unwrap_or(&Value::Null),
            "{key} of {object:#?}"
        );
    }
    for key in expected.keys() {
        assert!(object.contains_key(key), "{key} is expected and taken");
    }
}

/// Both of them in one object.
fn with(mut all: Value, more: &Value) -> Value {
    let more = more.as_object().expect("an object").clone();
    all.as_object_mut().expect("an object").extend(more);
    all
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

async fn call(to: SocketAddr, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let fields = [&[("host", "payments.shop")], fields].concat();
    ask(to, (method, path), &fields, body).await
}

/// What differs from run to run, in every line of a request that was answered.
const VARIES: [&str; 5] = [
    "start_time",
    "duration",
    "upstream_service_time",
    "downstream_remote_address",
    "downstream_local_address",
];

/// A caller in the west, an application in the east, and what both their proxies write.
struct World {
    federation: Federation,
    app: SocketAddr,
    west: PathBuf,
    east: PathBuf,
    to: SocketAddr,
    _processes: (Workload, Process),
}

impl World {
    async fn start() -> Self {
        let federation = Federation::start(&TWO).await;
        let app = federation.addr(EAST, 11, 8080);
        apps::heads(apps::bind(app).await);
        let (west, east) = (
            federation.dir().join("west-access.log"),
            federation.dir().join("east-access.log"),
        );
        let spec = format!("shop/payments:80={app},protocol=http1");
        let flags = ["--access-log", text(&east)];
        let payments = federation.serve(EAST, 1, &spec, &flags).await;
        federation.export(EAST, "shop/payments").await;
        federation.sees(WEST, "shop/payments", 1).await;
        let flags = ["--access-log", text(&west)];
        let caller = federation.caller_with(WEST, 0, "shop/payments:80", &flags);
        let (caller, to) = caller.await;
        Self {
            app,
            west,
            east,
            to,
            _processes: (payments, caller),
            federation,
        }
    }

    /// A call whose every key is known.
    async fn tells_a_call(&self) {
        // Bytes that no log may be made to carry as they are.
        let said = [
            ("traceparent", TRACE),
            ("x-request-id", "till-7"),
            ("user-agent", "a\"b\\c\u{e9}"),
            ("x-forwarded-for", "10.1.1.1"),
        ];
        let answer = call(self.to, "/pay?order=7", &said, "hello").await;
        let answer = answer.ok().expect("200");
        let is = |l: &Value| l["request_id"] == "till-7";
        let source = line(&self.west, "the call", is).await;
        let destination = line(&self.east, "the call", is).await;
        let time = source["start_time"].as_str().expect("text");
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
        let longer = source["duration"].as_u64() >= destination["duration"].as_u64();
        assert!(longer, "{source}\n{destination}");
        assert_eq!(source["downstream_local_address"], self.to.to_string());
        self.source_tells(source, &answer);
        self.destination_tells(destination);
    }

    /// What both sides say of it.
    fn both(more: &Value) -> Value {
        with(
            json!({
                "method": "POST",
                "path": "/pay?order=7",
                "protocol": "HTTP/1.1",
                "response_code": 200,
                "response_flags": "-",
                "response_code_details": "via_upstream",
                "bytes_received": 5,
                "bytes_sent": 2,
                "x_forwarded_for": "10.1.1.1",
                "user_agent": "a\"b\\c\u{e9}",
                "request_id": "till-7",
                "authority": "payments.shop",
                "service": "shop/payments:80",
                "source_cluster": "west",
                "source_principal": "spiffe://west.mesh.internal/ns/shop/sa/web",
                "destination_cluster": "east",
                "destination_principal": "spiffe://east.mesh.internal/ns/shop/sa/payments",
                "trace_id": "0af7651916cd43dd8448eb211c80319c",
                "span_id": "b7ad6b7169203331",
                "trace_sampled": true,
            }),
            more,
        )
    }

    fn source_tells(&self, source: Value, answer: &Answer) {
        let served_by = &answer.headers["tradewind-served-by"];
        let served_by = served_by.to_str().expect("text").to_owned();
        let (_, endpoint) = served_by.split_once('/').expect("cluster and endpoint");
        let gateway = self.federation.gateway_addr(EAST).to_string();
        let tier_name = source["tier_name"].clone();
        let far = tier_name.as_str().expect("text");
        assert!(far.starts_with("other region"), "{far}");
        let mut attempts = source["attempts"].clone();
        for varies in ["began", "took"] {
            let attempt = attempts[0].as_object_mut().expect("an attempt");
            let number = attempt.remove(varies).expect("a key");
            assert!(number.is_u64(), "{number}");
        }
        assert_eq!(
            attempts,
            json!([{
                "endpoint": endpoint,
                "cluster": "east",
                "tier": 0,
                "tier_name": tier_name,
                "gateway": gateway,
                "failure": null,
                "reason": null,
            }])
        );
        compare(
            source,
            &[&VARIES[..], &["attempts"]].concat(),
            &Self::both(&json!({
                "reporter": "source",
                "upstream_host": gateway,
                "upstream_cluster": "outbound|80||payments.shop.svc.cluster.local",
                "endpoint": endpoint,
                "tier": 0,
                "tier_name": tier_name,
                "gateway": gateway,
            })),
        );
    }

    fn destination_tells(&self, destination: Value) {
        let name = destination["requested_server_name"].clone();
        let sealed = name.as_str().expect("text");
        assert!(sealed.ends_with(".east.gw.mesh.internal"), "{sealed}");
        compare(
            destination,
            &VARIES,
            &Self::both(&json!({
                "reporter": "destination",
                "upstream_host": self.app.to_string(),
                "upstream_cluster": "inbound|8080||",
                "requested_server_name": name,
                "attempts": [],
            })),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_tell_the_same_call_and_why_it_went_where_it_went() {
    let world = World::start().await;
    let (west, east, to) = (&world.west, &world.east, world.to);
    world.tells_a_call().await;

    // A failure of the application's, and the id that the proxy made is the same on both sides.
    assert_eq!(call(to, "/broken", &[], "").await.status, 500);
    let source = line(west, "the failure", |l| l["path"] == "/broken").await;
    let destination = line(east, "the failure", |l| l["path"] == "/broken").await;
    for (key, value) in [
        ("response_code", json!(500)),
        ("response_code_details", json!("via_upstream")),
        ("request_id", source["request_id"].clone()),
    ] {
        assert_eq!((&source[key], &destination[key]), (&value, &value), "{key}");
    }
    assert_eq!(source["request_id"].as_str().map(str::len), Some(36));

    // Rotation by rename: what comes after goes into a new file, and nothing is lost.
    let old = west.with_extension("log.1");
    std::fs::rename(west, &old).expect("a rename");
    call(to, "/after", &[], "").await.ok().expect("200");
    line(west, "the line after the rename", |l| l["path"] == "/after").await;
    assert_eq!((lines(west).len(), lines(&old).len()), (1, 2));
    std::fs::remove_file(west).expect("removed");
    call(to, "/again", &[], "").await.ok().expect("200");
    line(west, "the line after the removal", |l| {
        l["path"] == "/again"
    })
    .await;
}

/// Asks for a WebSocket, says as much as `frames` on it, and leaves.
async fn websocket(to: SocketAddr, frames: &[u8]) {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    let head = "GET /chat HTTP/1.1\r\nHost: payments.shop\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        X-Request-Id: chat-1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("a head"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
    stream.write_all(frames).await.expect("sent");
    let mut echo = vec![0; frames.len() - 4];
    stream.read_exact(&mut echo).await.expect("an echo");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_has_a_line_for_its_request_and_one_for_its_connection() {
    let federation = Federation::start(&TWO).await;
    let app = federation.addr(EAST, 11, 8080);
    apps::http1(apps::bind(app).await, "chat", Arc::new(Barrier::new(1)));
    let (west, east) = (
        federation.dir().join("west-access.log"),
        federation.dir().join("east-access.log"),
    );
    let spec = format!("shop/chat:80={app},protocol=http1");
    let flags = ["--access-log", text(&east)];
    let _chat = federation.serve(EAST, 1, &spec, &flags).await;
    federation.export(EAST, "shop/chat").await;
    federation.sees(WEST, "shop/chat", 1).await;
    let flags = ["--access-log", text(&west)];
    let caller = federation.caller_with(WEST, 0, "shop/chat:80", &flags);
    let (_caller, to) = caller.await;
    // A masked text frame; it comes back without its mask.
    let frame = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
    websocket(to, &frame).await;

    let request = line(&west, "the request", |l| l["response_code"] == 101).await;
    assert_eq!(
        (&request["method"], &request["path"]),
        (&json!("GET"), &json!("/chat"))
    );
    let connection = line(&west, "the connection", |l| l["response_code"] == 0).await;
    for told in [&request, &connection] {
        assert_eq!(told["request_id"], "chat-1");
        assert_eq!(told["endpoint"], request["endpoint"]);
    }
    assert_eq!(connection["method"], Value::Null);
    let bytes = |l: &Value| (l["bytes_received"].clone(), l["bytes_sent"].clone());
    assert_eq!(bytes(&connection), (json!(8), json!(4)));
    // The other side sees a tunnel that carried the request's head as well.
    let tunnel = line(&east, "the tunnel", |_| true).await;
    assert_eq!(
        (&tunnel["method"], &tunnel["response_code"]),
        (&Value::Null, &json!(0))
    );
    assert!(tunnel["bytes_received"].as_u64() > Some(8), "{tunnel}");
    assert_eq!((lines(&west).len(), lines(&east).len()), (2, 1));
}

/// Nobody at all: a proxy whose service is not known.
async fn nobody_takes_it(federation: &Federation) {
    let log = federation.dir().join("nobody.log");
    let flags = ["--access-log", text(&log), "--access-log-filter", "errors"];
    let other = federation.caller_with(WEST, 1, "shop/nobody:80", &flags);
    let (_other, to) = other.await;
    assert_eq!(call(to, "/", &[], "").await.status, 503);
    let told = line(&log, "the refusal", |_| true).await;
    let sent = told["bytes_sent"].clone();
    assert!(sent.as_u64() > Some(0), "{told}");
    compare(
        told,
        &[
            "start_time",
            "duration",
            "downstream_remote_address",
            "downstream_local_address",
            "request_id",
        ],
        &json!({
            "method": "GET",
            "path": "/",
            "protocol": "HTTP/1.1",
            "response_code": 503,
            "response_flags": "NR",
            "response_code_details": "unknown-service",
            "bytes_received": 0,
            "bytes_sent": sent,
            "authority": "payments.shop",
            "upstream_cluster": "outbound|80||nobody.shop.svc.cluster.local",
            "reporter": "source",
            "service": "shop/nobody:80",
            "source_cluster": "west",
            "source_principal": "spiffe://west.mesh.internal/ns/shop/sa/web",
            "attempts": [],
        }),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_or_are_tried_again_say_so_and_others_are_left_out_if_asked() {
    let federation = Federation::start(&TWO).await;
    let log = federation.dir().join("access.log");
    let path = log.to_str().expect("a plain path").to_owned();
    let errors = ["--access-log", &path, "--access-log-filter", "errors"];
    // Nobody listens at the first, which takes nearly all calls.
    let absent = federation.addr(EAST, 11, 8080);
    let spec = format!("shop/payments:80={absent},check=none,weight=65535");
    let theirs = federation.dir().join("east-access.log");
    let flags = ["--access-log", theirs.to_str().expect("a plain path")];
    let _absent = federation.serve(EAST, 1, &spec, &flags).await;
    let app = federation.addr(EAST, 12, 8080);
    apps::heads(apps::bind(app).await);
    let spec = format!("shop/payments:80={app},weight=1");
    let _payments = federation.serve(EAST, 2, &spec, &[]).await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 2).await;
    let (_caller, to) = federation
        .caller_with(WEST, 0, "shop/payments:80", &errors)
        .await;

    let tried = until("a call that is tried again", USUAL, || async {
        call(to, "/", &[], "").await.ok()?;
        let all = lines(&log);
        all.into_iter().next().ok_or_else(|| "no line".to_owned())
    })
    .await;
    assert_eq!(
        (&tried["response_code"], &tried["response_flags"]),
        (&json!(200), &json!("-")),
        "{tried}"
    );
    let attempts = tried["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 2, "{tried}");
    assert_eq!(
        (&attempts[0]["failure"], &attempts[0]["reason"]),
        (&json!("unprocessed"), &json!("not processed: connect"))
    );
    assert_eq!(attempts[1]["failure"], Value::Null);
    assert_eq!(tried["endpoint"], attempts[1]["endpoint"]);
    assert_ne!(attempts[0]["endpoint"], attempts[1]["endpoint"]);
    // The other side of the first attempt.
    let id = tried["request_id"].clone();
    let refused = line(&theirs, "the attempt", |l| l["request_id"] == id).await;
    for (key, value) in [
        ("response_code", json!(503)),
        ("response_flags", json!("UF")),
        ("response_code_details", json!("connect")),
        ("upstream_host", json!(absent.to_string())),
        ("upstream_service_time", Value::Null),
    ] {
        assert_eq!(refused[key], value, "{key} of {refused}");
    }

    nobody_takes_it(&federation).await;
    // All but what was tried again went well, and got no line.
    for told in lines(&log) {
        assert_eq!(told["attempts"].as_array().map(Vec::len), Some(2), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_gets_its_line_at_its_end_on_both_sides() {
    let federation = Federation::start(&TWO).await;
    let mail = federation.addr(EAST, 12, 2525);
    apps::server_first(apps::bind(mail).await, GREETING);
    let (west, east) = (
        federation.dir().join("west-access.log"),
        federation.dir().join("east-access.log"),
    );
    let spec = format!("shop/mail:25={mail},protocol=tcp");
    let flags = ["--access-log", east.to_str().expect("a plain path")];
    let _smtp = federation.serve(EAST, 1, &spec, &flags).await;
    federation.export(EAST, "shop/mail").await;
    federation.sees(WEST, "shop/mail", 1).await;
    let flags = ["--access-log", west.to_str().expect("a plain path")];
    let (_caller, to) = federation
        .caller_with(WEST, 0, "shop/mail:25", &flags)
        .await;

    let mut connection = TcpStream::connect(to).await.expect("a connection");
    let own = connection.local_addr().expect("an address").to_string();
    let mut read = vec![0; GREETING.len()];
    connection.read_exact(&mut read).await.expect("a greeting");
    connection.write_all(b"EHLO").await.expect("sent");
    let mut echo = [0; 4];
    connection.read_exact(&mut echo).await.expect("an echo");
    assert!(
        lines(&west).is_empty() && lines(&east).is_empty(),
        "it still lives"
    );
    connection.shutdown().await.expect("an end");
    let mut farewell = Vec::new();
    let read = connection.read_to_end(&mut farewell).await;
    read.expect("an end in order");

    let source = line(&west, "the connection", |_| true).await;
    let destination = line(&east, "the connection", |_| true).await;
    assert_eq!(source["downstream_remote_address"], own);
    let common = json!({
        "response_code": 0,
        "response_flags": "-",
        "bytes_received": 4,
        "bytes_sent": GREETING.len() + 4 + farewell.len(),
        "service": "shop/mail:25",
        "source_cluster": "west",
        "source_principal": "spiffe://west.mesh.internal/ns/shop/sa/web",
        "destination_cluster": "east",
        "destination_principal": "spiffe://east.mesh.internal/ns/shop/sa/mail",
    });
    let gateway = federation.gateway_addr(EAST).to_string();
    let taken = [
        "start_time",
        "duration",
        "downstream_remote_address",
        "downstream_local_address",
    ];
    compare(
        destination,
        &[&taken[..], &["requested_server_name"]].concat(),
        &with(
            common.clone(),
            &json!({
                "reporter": "destination",
                "upstream_host": mail.to_string(),
                "upstream_cluster": "inbound|2525||",
                "attempts": [],
            }),
        ),
    );
    compare(
        source,
        &[&taken[..], &["endpoint", "tier_name", "attempts"]].concat(),
        &with(
            common,
            &json!({
                "reporter": "source",
                "upstream_host": gateway,
                "upstream_cluster": "outbound|25||mail.shop.svc.cluster.local",
                "tier": 0,
                "gateway": gateway,
            }),
        ),
    );
}

/// A metric of a proxy, with its labels.
async fn metric(admin: SocketAddr, name: &str) -> Option<f64> {
    let page = get(admin, "/metrics").await.expect("the page").text();
    let line = page.lines().find(|l| l.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_lines_and_no_call() {
    let federation = Federation::start(&ONE).await;
    // Every write fails there, as on a full disk.
    let flags = ["--access-log", "/dev/full"];
    let (caller, to) = federation
        .caller_with(WEST, 0, "shop/nobody:80", &flags)
        .await;
    let admin = federation.addr(WEST, 100, ADMIN);
    for _ in 0..3 {
        assert_eq!(call(to, "/", &[], "").await.status, 503);
    }
    until("three lines that were lost", USUAL, || async {
        let lost = metric(
            admin,
            "tradewind_access_log_lines_dropped_total{reason=\"write_failed\"}",
        )
        .await;
        if lost == Some(3.0) { Ok(()) } else { Err(lost) }
    })
    .await;
    assert_eq!(
        metric(admin, "tradewind_access_log_writable").await,
        Some(0.0)
    );
    assert_eq!(
        caller
            .log()
            .matches("the access log cannot be written")
            .count(),
        1,
        "{}",
        caller.tail()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_output_carries_the_lines_and_nothing_else() {
    let federation = Federation::start(&ONE).await;
    let (caller, to) = federation
        .caller_with(WEST, 0, "shop/nobody:80", &["--access-log", "-"])
        .await;
    assert_eq!(call(to, "/", &[], "").await.status, 503);
    // The harness puts both outputs into one file; what is not a line of ours is the process's own log.
    until("the line", USUAL, || async {
        let log = caller.log();
        let found = log
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let told: Vec<_> = found.filter(|l| l["reporter"] == "source").collect();
        if told.len() == 1 { Ok(()) } else { Err(log) }
    })
    .await;
}
