//! Records from a request's head to a line and a span, a collector that refuses or stays away, and the bounds on the way.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Response, Uri, Version};
use http_body_util::Empty;
use proptest::prelude::*;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Status};
use tradewind_api::proto::otlp::{
    collector::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::any_value::Value,
    trace::Span,
};
use tradewind_runtime::{clock, rng::Rng, task};

use super::*;
use crate::standard::{Account, Flags};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn teller() -> Teller {
    Teller {
        name: "test".into(),
        zone: None,
        svid: SvidCell::empty(),
        mark: None,
    }
}

struct World {
    telemetry: Telemetry,
    running: Running,
    registry: MetricsRegistry,
    _tasks: TaskSet,
}

impl World {
    fn new(config: &TelemetryConfig) -> Self {
        let (registry, mut tasks) = (MetricsRegistry::new(), TaskSet::new());
        let opened = open(config).unwrap();
        let source = (clock::system(), Rng::seeded(1));
        let (telemetry, running) =
            Telemetry::start(config, source, &registry, opened, teller(), &mut tasks).unwrap();
        Self {
            telemetry,
            running,
            registry,
            _tasks: tasks,
        }
    }

    fn tracing(to: SocketAddr, ratio: f64) -> Self {
        Self::new(&TelemetryConfig {
            otlp: Some(format!("http://{to}").parse().unwrap()),
            sampling: Ratio::new(ratio),
            ..TelemetryConfig::default()
        })
    }

    /// A request with these headers, ended with 200.
    fn request(&self, fields: &mut HeaderMap) -> bool {
        let (method, uri) = (Method::GET, Uri::from_static("/"));
        let line = (&method, &uri, Version::HTTP_11);
        let notes = self.telemetry.request(Reporter::Source, line, fields, || 5);
        let on = notes.is_on();
        let mut account = Account::new(clock::system().now(), false).noting(notes);
        account.answered(&Response::new(Empty::<bytes::Bytes>::new()));
        on
    }

    fn value(&self, name: &str) -> Option<u64> {
        let page = self.registry.encode();
        let line = page.lines().find(|l| l.starts_with(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    async fn reaches(&self, name: &str, value: u64) {
        let there = async {
            while self.value(name) != Some(value) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(120), there).await;
        waited.unwrap_or_else(|_| panic!("{name} is {:?} and not {value}", self.value(name)));
    }
}

fn traced(context: &'static str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert("traceparent", HeaderValue::from_static(context));
    fields
}

/// Answers every batch the same.
struct Answer(Result<i64, Status>);

#[tonic::async_trait]
impl TraceService for Answer {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        let rejected_spans = self.0.clone()?;
        Ok(tonic::Response::new(ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: "no room".into(),
            }),
        }))
    }
}

async fn collector(answer: Result<i64, Status>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(task::spawn("collector", async move {
        let served = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Answer(answer)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        drop(served.await);
    }));
    address
}

#[tokio::test]
async fn only_what_is_sampled_is_written_down_and_told() {
    let world = World::tracing(collector(Ok(0)).await, 0.0);
    let mut begun = HeaderMap::new();
    assert!(!world.request(&mut begun), "begun and not sampled");
    assert!(begun["traceparent"].to_str().unwrap().ends_with("-00"));
    let foreign = SAMPLED.replace("-01", "-00");
    let mut fields = HeaderMap::new();
    fields.insert("traceparent", foreign.parse().unwrap());
    assert!(!world.request(&mut fields), "somebody else's, not sampled");
    assert!(world.request(&mut traced(SAMPLED)));
    world
        .reaches("tradewind_trace_spans_exported_total", 1)
        .await;
    assert_eq!(world.value("tradewind_trace_collector_reachable"), Some(1));
    world.running.close().await;
    assert_eq!(
        size_of::<Notes>(),
        size_of::<usize>(),
        "what is off is nothing"
    );
}

#[tokio::test]
async fn what_waits_is_told_before_the_end() {
    let world = World::tracing(collector(Ok(0)).await, 1.0);
    for _ in 0..3 {
        world.request(&mut HeaderMap::new());
    }
    let registry = world.registry.clone();
    world.running.close().await;
    let told = "tradewind_trace_spans_exported_total 3";
    assert!(registry.encode().lines().any(|l| l == told));
}

#[tokio::test]
async fn what_a_collector_refuses_is_not_sent_again() {
    let refused = "tradewind_trace_spans_dropped_total{reason=\"refused\"}";
    for refusal in [
        Status::invalid_argument("no"),
        Status::resource_exhausted("larger than what is taken here"),
    ] {
        let world = World::tracing(collector(Err(refusal)).await, 1.0);
        world.request(&mut HeaderMap::new());
        world.reaches(refused, 1).await;
        assert_eq!(world.value("tradewind_trace_collector_reachable"), Some(0));
    }
    let picky = World::tracing(collector(Ok(2)).await, 1.0);
    for _ in 0..3 {
        picky.request(&mut HeaderMap::new());
    }
    picky.reaches(refused, 2).await;
    picky
        .reaches("tradewind_trace_spans_exported_total", 1)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_given_up_after_a_while() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let world = World::tracing(address, 1.0);
    world.request(&mut HeaderMap::new());
    let given_up = "tradewind_trace_spans_dropped_total{reason=\"unreachable\"}";
    world.reaches(given_up, 1).await;
    assert_eq!(world.value("tradewind_trace_collector_reachable"), Some(0));
}

#[tokio::test]
async fn the_ratio_is_a_setting_where_traces_begin() {
    let off = Telemetry::off(clock::system()).setting();
    assert_eq!(off.current(), "off");
    assert!(off.set("1").unwrap_err().contains("--otlp-endpoint"));
    let telemetry = World::tracing(collector(Ok(0)).await, 0.25).telemetry;
    let setting = telemetry.setting();
    assert_eq!(setting.path(), "/debug/tracesampling");
    assert_eq!(setting.current(), "0.25");
    assert!(setting.set("more").is_err());
    assert_eq!(setting.current(), "0.25");
    setting.set(" 1 ").unwrap();
    assert_eq!(telemetry.rule().begin, Ratio::new(1.0));
}

#[test]
fn off_leaves_headers_alone_and_writes_nothing_down() {
    let telemetry = Telemetry::off(clock::system());
    let (method, uri) = (Method::GET, Uri::from_static("/"));
    let mut fields = traced("nonsense");
    let line = (&method, &uri, Version::HTTP_11);
    let notes = telemetry.request(Reporter::Source, line, &mut fields, || panic!("no dice"));
    assert!(!notes.is_on());
    assert_eq!(fields, traced("nonsense"));
    assert!(!telemetry.connection(Reporter::Source).is_on());
}

/// A record of a request with whatever a peer may send.
fn record(path: &str, value: &HeaderValue) -> Option<Record> {
    let mut fields = HeaderMap::new();
    for name in [
        "host",
        "user-agent",
        "x-forwarded-for",
        "x-request-id",
        "tracestate",
    ] {
        fields.insert(name, value.clone());
    }
    fields.insert("traceparent", HeaderValue::from_static(SAMPLED));
    let uri: Uri = path.parse().ok()?;
    let method = Method::from_bytes(b"ANY").unwrap();
    let mut record = Telemetry::off(clock::system()).record(Reporter::Source);
    record.head = Some(Head::of((&method, &uri, Version::HTTP_2), None, &fields));
    record.request_id = fields.get(X_REQUEST_ID).map(record::short);
    let rule = Rule {
        begin: None,
        records: true,
    };
    let followed = trace_context::follow(&mut fields, rule, || 3)?;
    record.traced = Some(Traced::new(followed, &fields));
    Some(record)
}

/// Longest line of a request without attempts: nine texts of a peer's, each escaped to six times its length at worst.
const MAX_LINE: usize = 6 * (1024 + 5 * 260) + 4096;

proptest! {
    #[test]
    fn whatever_a_peer_sends_is_one_line_of_json_and_a_span_of_bounded_size(
        path in "/[!-~]{0,2000}",
        value in proptest::collection::vec(any::<u8>(), 0..1000),
        code in 0u16..1000,
        flags in prop_oneof![Just(Flags::None), Just(Flags::UpstreamCut), Just(Flags::DownstreamCut)],
    ) {
        let Ok(value) = HeaderValue::from_bytes(&value) else {
            return Ok(());
        };
        let Some(record) = record(&path, &value) else {
            return Ok(());
        };
        let ended = Ended { record, end: End { code, flags, ..End::default() } };
        let mut out = b"before\n".to_vec();
        line::write(&ended, &mut out);
        let text = String::from_utf8(out).unwrap();
        let line = text.strip_prefix("before\n").unwrap();
        prop_assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
        prop_assert!(!line.trim_end().chars().any(char::is_control));
        prop_assert!(line.len() <= MAX_LINE, "{}", line.len());
        let read: serde_json::Value = serde_json::from_str(line).unwrap();
        prop_assert_eq!(&read["response_code"], code);
        let span = span::of(&ended).unwrap();
        prop_assert_eq!(span.name, "HTTP");
        prop_assert_eq!(span.status.is_some(), code >= 400 || flags != Flags::None);
        let length = prost::Message::encoded_len(&span::of(&ended).unwrap());
        prop_assert!(length <= MAX_LINE, "{}", length);
    }
}

/// The spans of both sides of a gRPC call that ended with this status.
fn grpc(status: u8) -> [Span; 2] {
    [Reporter::Source, Reporter::Destination].map(|reporter| {
        let mut record = record("/shop.Till/Charge", &HeaderValue::from_static("x")).unwrap();
        record.reporter = reporter;
        let end = End {
            code: 200,
            grpc: true,
            grpc_status: Some(status),
            ..End::default()
        };
        span::of(&Ended { record, end }).unwrap()
    })
}

#[test]
fn grpc_calls_are_named_by_their_method_and_judged_by_their_status() {
    for (status, client_error, server_error) in
        [(0, false, false), (5, true, false), (14, true, true)]
    {
        let [client, server] = grpc(status);
        for span in [&client, &server] {
            assert_eq!(span.name, "shop.Till/Charge");
            for (key, value) in [
                ("rpc.system", Value::StringValue("grpc".into())),
                ("rpc.service", Value::StringValue("shop.Till".into())),
                ("rpc.method", Value::StringValue("Charge".into())),
                ("rpc.grpc.status_code", Value::IntValue(status.into())),
            ] {
                let found = span.attributes.iter().find(|a| a.key == key);
                let found = found.and_then(|a| a.value.clone()?.value);
                assert_eq!(found, Some(value), "{key}");
            }
        }
        let errors = (client.status.is_some(), server.status.is_some());
        assert_eq!(errors, (client_error, server_error), "{status}");
        assert_eq!((client.kind, server.kind), (3, 2));
    }
}

#[test]
fn what_an_application_says_of_the_version_is_not_believed() {
    let opened = std::env::temp_dir().join(format!("tradewind-access-{}", std::process::id()));
    let config = TelemetryConfig {
        access_log: Some(AccessLogTarget::File(opened.clone())),
        ..TelemetryConfig::default()
    };
    let sink = open(&config).unwrap().unwrap().0;
    let metrics = TelemetryMetrics::default();
    let (lines, _log) = access_log::start(sink, AccessLogFilter::All, metrics).unwrap();
    let telemetry = Telemetry(Arc::new(Inner {
        clock: clock::system(),
        sampling: None,
        spans: None,
        lines: Some(lines),
    }));
    let (method, uri) = (Method::GET, Uri::from_static("/"));
    for (reporter, version) in [
        (Reporter::Source, Version::HTTP_2),
        (Reporter::Destination, Version::HTTP_10),
    ] {
        let mut fields = HeaderMap::new();
        fields.insert(headers::VERSION, HeaderValue::from_static("HTTP/1.0"));
        let line = (&method, &uri, Version::HTTP_2);
        let mut notes = telemetry.request(reporter, line, &mut fields, || 1);
        notes.with(|record, _| assert_eq!(record.head.as_ref().unwrap().version, version));
        assert!(notes.is_on());
    }
    std::fs::remove_file(opened).unwrap();
}

#[test]
fn every_key_of_a_line_is_in_the_documents() {
    let record = record("/", &HeaderValue::from_static("x")).unwrap();
    let ended = Ended {
        record,
        end: End::default(),
    };
    let mut out = Vec::new();
    line::write(&ended, &mut out);
    let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let docs = include_str!("../../../docs/access-log.md");
    for key in read.as_object().unwrap().keys() {
        assert!(docs.contains(&format!("`{key}`")), "{key} is not described");
    }
    let docs = include_str!("../../../docs/tracing.md");
    for attribute in span::of(&ended).unwrap().attributes {
        let key = attribute.key;
        assert!(docs.contains(&format!("`{key}`")), "{key} is not described");
    }
}

#[test]
fn errors_are_told_from_what_went_well() {
    let plain = || {
        let mut record = record("/", &HeaderValue::from_static("x")).unwrap();
        record.details = Some(record::VIA_UPSTREAM.into());
        let end = End {
            code: 200,
            ..End::default()
        };
        Ended { record, end }
    };
    assert!(plain().is_plain());
    type Change = (&'static str, fn(&mut Ended));
    let changes: [Change; 6] = [
        ("a server's error", |e| e.end.code = 500),
        ("no response", |e| e.end.code = 0),
        ("a flag", |e| e.end.flags = Flags::DownstreamCut),
        ("gRPC's error", |e| e.end.grpc_status = Some(14)),
        ("a refusal by the proxy", |e| {
            e.end.code = 403;
            e.record.details = Some("not_exported".into());
        }),
        ("a second attempt", |e| {
            let (id, cluster) = ("a".parse().unwrap(), "east".parse().unwrap());
            e.record.attempts.push(record::Attempt {
                endpoint: id,
                cluster,
                tier: None,
                through_gateway: false,
                via: None,
                began_us: 0,
                took_us: Some(1),
                failed: Some(("connect", "refused".into())),
            });
        }),
    ];
    for (what, change) in changes {
        let mut ended = plain();
        change(&mut ended);
        assert!(!ended.is_plain(), "{what}");
    }
    let mut theirs = plain();
    theirs.end.code = 404;
    assert!(
        theirs.is_plain(),
        "the application's own answer to its caller"
    );
}

#[test]
fn a_queue_that_is_full_drops_and_counts_and_never_waits() {
    let metrics = TelemetryMetrics::default();
    let (lines, _unwritten) = access_log::unread(&metrics);
    let (spans, _untold) = export::unread(&metrics);
    let ended = || {
        let record = record("/", &HeaderValue::from_static("x")).unwrap();
        let end = End::default();
        Arc::new(Ended { record, end })
    };
    for _ in 0..3 {
        lines.push(ended());
        spans.push(ended());
    }
    use metrics::Lost;
    assert_eq!(metrics.lines_counter(Lost::queue_full).get(), 2);
    assert_eq!(metrics.spans_counter(Lost::queue_full).get(), 2);
}

#[tokio::test]
async fn a_reader_that_hangs_costs_lines_and_holds_nobody_up() {
    const LINES: usize = 3 * access_log::QUEUE;
    let (reader, writer) = std::io::pipe().unwrap();
    let sink = access_log::Sink::Stdout(std::os::fd::OwnedFd::from(writer).into());
    let metrics = TelemetryMetrics::default();
    let counts = metrics.clone();
    let (lines, log) = access_log::start(sink, AccessLogFilter::All, metrics).unwrap();
    let record = record("/", &HeaderValue::from_static("x")).unwrap();
    for _ in 0..LINES {
        let (record, end) = (record.clone(), End::default());
        lines.push(Arc::new(Ended { record, end }));
    }
    let lost = counts.lines_counter(metrics::Lost::queue_full).get();
    assert!(lost > 0, "the pipe holds less than that");
    // The reader comes back: what was not dropped is there, each line whole.
    let read = task::spawn_blocking(move || std::io::read_to_string(reader).unwrap());
    log.close().await;
    drop(lines);
    let text = read.await.unwrap();
    assert!(
        text.lines()
            .all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok())
    );
    assert_eq!(text.lines().count() as u64 + lost, LINES as u64);
    assert_eq!(counts.lines.get() + lost, LINES as u64);
}

#[tokio::test(start_paused = true)]
async fn batches_keep_to_their_bounds_and_lose_nothing() {
    let (long, short) = ("/".to_owned() + &"p".repeat(1000), "/".to_owned());
    let value = HeaderValue::from_bytes(&[b'v'; 250]).unwrap();
    for (path, count) in [(long, 1200usize), (short, 700)] {
        let record = record(&path, &value).unwrap();
        let sizes = export::batches(&record, count).await;
        assert_eq!(sizes.iter().map(|(spans, _)| spans).sum::<usize>(), count);
        for (spans, bytes) in sizes {
            assert!(spans <= 512 && bytes <= 1 << 20, "{spans} {bytes}");
        }
    }
}
