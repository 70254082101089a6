//! Traces across a cluster border, as a collector is told them: the caller's proxy and the callee's in one trace with the
//! applications' own spans, sampling that changes live, and a collector that is away. Real processes; the test is caller,
//! application and collector.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;
use tradewind_tests::{
    Federation, Process, Workload,
    apps::{self, Heads},
    collector::{Attributes, Collector, Told},
    federation::{ADMIN, ONE, TWO},
    http::{self as web, Answer, Client},
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
/// A context that an application has begun.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const APP_SPAN: &str = "b7ad6b7169203331";
/// More than the exporter's queue and the batch that it holds.
const FLOOD: usize = 6000;

/// One request with these headers on a connection of its own.
async fn ask(
    to: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Answer {
    let fields = [&[("host", "payments.shop:8080")], fields].concat();
    web::ask(to, (method, path), &fields, body).await
}

async fn call(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Answer {
    ask(to, "GET", path, fields, "").await
}

/// Sets, or asks for, the sampling ratio of a running proxy.
async fn sampling(admin: SocketAddr, ratio: &str) -> Answer {
    ask(admin, "PUT", "/debug/tracesampling", &[], ratio).await
}

/// The parts of a traceparent.
fn parent(fields: &HeaderMap) -> [String; 4] {
    let text = fields["traceparent"].to_str().expect("text");
    let parts: Vec<_> = text.split('-').map(str::to_owned).collect();
    parts.try_into().expect("four parts")
}

/// Waits until the collector has `count` spans of a trace.
async fn spans(collector: &Collector, trace: &str, count: usize) -> Vec<Told> {
    until(&format!("{count} spans of {trace}"), USUAL, || async {
        let spans = collector.of(trace);
        if spans.len() >= count {
            Ok(spans)
        } else {
            Err(collector.all())
        }
    })
    .await
}

fn one<'s>(spans: &'s [Told], kind: &str) -> &'s Told {
    let mut of_kind = spans.iter().filter(|s| s.kind == kind);
    let found = of_kind
        .next()
        .unwrap_or_else(|| panic!("no {kind} span in {spans:#?}"));
    assert!(
        of_kind.next().is_none(),
        "more than one {kind} span in {spans:#?}"
    );
    found
}

fn says(all: &Attributes, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(
            all.get(*key).map(String::as_str),
            Some(*value),
            "{key} in {all:#?}"
        );
    }
}

/// A caller in the west, an application in the east, and a collector that both their proxies tell.
struct World {
    federation: Federation,
    collector: Collector,
    app: SocketAddr,
    heads: Heads,
    to: SocketAddr,
    admin: SocketAddr,
    _processes: (Workload, Process),
}

impl World {
    /// No trace that begins here is sampled.
    async fn start() -> Self {
        let federation = Federation::start(&TWO).await;
        let collector_at = federation.addr(WEST, 50, 4317);
        let collector = Collector::start(collector_at).await;
        let endpoint = format!("http://{collector_at}");
        let app = federation.addr(EAST, 11, 8080);
        let heads = apps::heads(apps::bind(app).await);
        let spec = format!("shop/payments:80={app},protocol=http1");
        let tracing = ["--otlp-endpoint", &endpoint, "--trace-sampling", "0"];
        let payments = federation.serve(EAST, 1, &spec, &tracing).await;
        federation.export(EAST, "shop/payments").await;
        federation.sees(WEST, "shop/payments", 1).await;
        let caller = federation.caller_with(WEST, 0, "shop/payments:80", &tracing);
        let (caller, to) = caller.await;
        Self {
            collector,
            app,
            heads,
            to,
            admin: federation.addr(WEST, 100, ADMIN),
            _processes: (payments, caller),
            federation,
        }
    }

    /// What both sides say of the same call.
    fn says_the_same(spans: &[Told]) {
        for span in spans {
            assert_eq!(span.name, "GET");
            assert_eq!(span.state, "congo=t61rcWkgMzE");
            // Sampled, and the parent is another process's.
            assert_eq!(span.flags, 0x301);
            assert!(span.time.0 > 0 && span.time.0 <= span.time.1, "{span:?}");
            assert!(!span.error, "{span:?}");
            says(
                &span.attributes,
                &[
                    ("http.request.method", "GET"),
                    ("http.response.status_code", "200"),
                    ("http.response.body.size", "2"),
                    ("url.path", "/pay"),
                    ("url.query", "order=7"),
                    ("server.address", "payments.shop"),
                    ("server.port", "8080"),
                    ("network.protocol.version", "1.1"),
                    ("user_agent.original", "till/1"),
                    ("tradewind.service", "shop/payments:80"),
                    ("tradewind.source.cluster", "west"),
                    ("tradewind.destination.cluster", "east"),
                    (
                        "tradewind.source.principal",
                        "spiffe://west.mesh.internal/ns/shop/sa/web",
                    ),
                    (
                        "tradewind.destination.principal",
                        "spiffe://east.mesh.internal/ns/shop/sa/payments",
                    ),
                ],
            );
        }
    }

    /// The application's own trace goes on below its span, whatever the ratio.
    async fn continues_the_applications_trace(&self) {
        let context = format!("00-{TRACE}-{APP_SPAN}-01");
        let said = [
            ("traceparent", &*context),
            ("tracestate", "congo=t61rcWkgMzE"),
            ("user-agent", "till/1"),
        ];
        call(self.to, "/pay?order=7", &said)
            .await
            .ok()
            .expect("200");
        let both = spans(&self.collector, TRACE, 2).await;
        let (client, server) = (one(&both, "client"), one(&both, "server"));
        assert_eq!(client.parent, APP_SPAN);
        assert_eq!(server.parent, client.span);
        let head = self.heads.last();
        let [_, trace, above, flags] = parent(&head);
        assert_eq!((&*trace, &*above, &*flags), (TRACE, &*server.span, "01"));
        assert_eq!(head["tracestate"], "congo=t61rcWkgMzE");
        Self::says_the_same(&both);
        let gateway = self.federation.gateway_addr(EAST).to_string();
        says(
            &client.attributes,
            &[
                ("url.full", "http://payments.shop:8080/pay?order=7"),
                ("tradewind.attempts", "1"),
                ("tradewind.tier", "0"),
                ("tradewind.gateway", &gateway),
            ],
        );
        let tier = &client.attributes["tradewind.tier_name"];
        assert!(tier.starts_with("other region"), "{tier}");
        let [event] = client.events.as_slice() else {
            panic!("one attempt: {client:#?}");
        };
        says(
            event,
            &[
                ("tradewind.attempt.outcome", "answered"),
                ("tradewind.attempt.cluster", "east"),
            ],
        );
        let app = self.app.to_string();
        says(&server.attributes, &[("tradewind.application", &app)]);
        says(
            &client.resource,
            &[
                ("service.name", "web"),
                ("service.namespace", "shop"),
                ("service.instance.id", "caller-0"),
                ("k8s.cluster.name", "west"),
            ],
        );
        says(
            &server.resource,
            &[("service.name", "payments"), ("k8s.cluster.name", "east")],
        );
    }

    /// A call whose trace begins at the caller's proxy and is sampled. It fails, and both spans are errors.
    async fn begins_a_trace(&self) {
        let invalid = [("traceparent", "00-not-valid-01"), ("tracestate", "a=1")];
        call(self.to, "/broken", &invalid).await;
        let head = self.heads.last();
        let [_, begun, _, flags] = parent(&head);
        assert_eq!(flags, "01");
        assert!(!head.contains_key("tracestate"), "of what was invalid");
        let both = spans(&self.collector, &begun, 2).await;
        let (client, server) = (one(&both, "client"), one(&both, "server"));
        assert_eq!((&*client.parent, client.flags), ("", 0x101));
        assert_eq!(server.parent, client.span);
        for span in &both {
            assert!(span.error, "{span:?}");
            let status = ("http.response.status_code", "500");
            says(&span.attributes, &[status, ("error.type", "500")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_application_to_application_across_the_border() {
    let world = World::start().await;
    world.continues_the_applications_trace().await;

    // Begun here and not sampled; and one that the application did not sample: it passes as it is.
    call(world.to, "/", &[]).await.ok().expect("200");
    let [_, unsampled, _, flags] = parent(&world.heads.last());
    assert_eq!(flags, "00");
    let foreign = "00-11111111111111111111111111111111-2222222222222222-00";
    let said = [("traceparent", foreign)];
    call(world.to, "/", &said).await.ok().expect("200");
    assert_eq!(world.heads.last()["traceparent"], foreign);

    // The ratio changes live, and a bad one changes nothing.
    assert_eq!(sampling(world.admin, "1").await.text(), "1");
    let refused = sampling(world.admin, "2").await;
    assert_eq!(refused.status, 400);
    let why = refused.text();
    assert!(why.contains("from 0 (none) to 1 (all)"), "{why}");
    world.begins_a_trace().await;
    // Both proxies have told of a later call by now, in order: these will not be told.
    for trace in [&*unsampled, "11111111111111111111111111111111"] {
        let told = world.collector.of(trace);
        assert!(told.is_empty(), "{told:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_tried_again_shows_both_attempts() {
    let federation = Federation::start(&TWO).await;
    let collector_at = federation.addr(WEST, 50, 4317);
    let collector = Collector::start(collector_at).await;
    let endpoint = format!("http://{collector_at}");
    let tracing = ["--otlp-endpoint", &endpoint, "--trace-sampling", "1"];
    // Nobody listens at the first, which takes nearly all calls.
    let absent = federation.addr(EAST, 11, 8080);
    let spec = format!("shop/payments:80={absent},check=none,weight=65535");
    let _absent = federation.serve(EAST, 1, &spec, &tracing).await;
    let app = federation.addr(EAST, 12, 8080);
    let heads = apps::heads(apps::bind(app).await);
    let spec = format!("shop/payments:80={app},weight=1");
    let _payments = federation.serve(EAST, 2, &spec, &tracing).await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 2).await;
    let caller = federation.caller_with(WEST, 0, "shop/payments:80", &tracing);
    let (_caller, to) = caller.await;

    let trace = until("a call that is tried again", USUAL, || async {
        call(to, "/", &[]).await.ok()?;
        let [_, trace, ..] = parent(&heads.last());
        let client = until("the caller's span", USUAL, || async {
            let told = collector.of(&trace);
            told.into_iter().find(|s| s.kind == "client").ok_or(())
        })
        .await;
        if client.attributes["tradewind.attempts"] == "2" {
            Ok(trace)
        } else {
            Err(format!("{client:#?}"))
        }
    })
    .await;
    let told = spans(&collector, &trace, 3).await;
    let client = one(&told, "client");
    says(
        &client.attributes,
        &[
            ("http.request.resend_count", "1"),
            ("tradewind.attempts", "2"),
            ("http.response.status_code", "200"),
        ],
    );
    assert!(!client.error);
    assert_eq!(client.events.len(), 2, "{client:#?}");
    says(
        &client.events[0],
        &[
            ("tradewind.attempt.number", "1"),
            ("tradewind.attempt.failure", "unprocessed"),
            ("tradewind.attempt.reason", "not processed: connect"),
        ],
    );
    says(
        &client.events[1],
        &[
            ("tradewind.attempt.number", "2"),
            ("tradewind.attempt.outcome", "answered"),
        ],
    );
    let servers: Vec<_> = told.iter().filter(|s| s.kind == "server").collect();
    assert_eq!(servers.len(), 2);
    for server in servers {
        assert_eq!(server.parent, client.span);
        let absent = server.attributes["tradewind.application"] == absent.to_string();
        assert_eq!(server.error, absent, "{server:#?}");
        if absent {
            says(
                &server.attributes,
                &[
                    ("error.type", "UF"),
                    ("tradewind.response_details", "connect"),
                ],
            );
        }
    }
}

/// A metric of a proxy without labels, or the sum over them.
async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let page = call(admin, "/metrics", &[]).await.text();
    let lines = page.lines().filter(|l| l.starts_with(name));
    lines
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_no_call_and_is_counted() {
    let federation = Federation::start(&ONE).await;
    let collector_at = federation.addr(WEST, 50, 4317);
    let endpoint = format!("http://{collector_at}");
    let tracing = ["--otlp-endpoint", &endpoint, "--trace-sampling", "1"];
    let caller = federation.caller_with(WEST, 0, "shop/nobody:80", &tracing);
    let (caller, to) = caller.await;
    let admin = federation.addr(WEST, 100, ADMIN);

    let request = || {
        let request = Request::get("/").header("host", "x");
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    let mut client = Client::open(to).await.expect("a connection");
    for _ in 0..FLOOD {
        let answer = client.ask(request()).await.expect("an answer");
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    let dropped = metric(
        admin,
        "tradewind_trace_spans_dropped_total{reason=\"queue_full\"}",
    )
    .await;
    assert!(dropped >= 1.0, "{dropped}");
    assert_eq!(
        metric(admin, "tradewind_trace_collector_reachable").await,
        0.0
    );
    assert_eq!(
        metric(admin, "tradewind_trace_spans_exported_total").await,
        0.0
    );
    assert_eq!(
        caller.log().matches("collector takes no spans").count(),
        1,
        "{}",
        caller.tail()
    );

    let collector = Collector::start(collector_at).await;
    until("what waited to be told", USUAL, || async {
        let exported = metric(admin, "tradewind_trace_spans_exported_total").await;
        if exported + dropped >= FLOOD as f64 {
            Ok(())
        } else {
            Err(exported)
        }
    })
    .await;
    assert_eq!(
        metric(admin, "tradewind_trace_collector_reachable").await,
        1.0
    );
    assert_eq!(caller.log().matches("collector takes spans").count(), 1);
    let all = collector.all();
    assert_eq!(all.len() as f64 + dropped, FLOOD as f64);
    says(
        &all[0].attributes,
        &[
            ("tradewind.response_flags", "NR"),
            ("tradewind.response_details", "unknown-service"),
            ("tradewind.attempts", "0"),
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopping_proxy_has_recorded_is_told_first() {
    let federation = Federation::start(&ONE).await;
    let collector_at = federation.addr(WEST, 50, 4317);
    let collector = Collector::start(collector_at).await;
    let endpoint = format!("http://{collector_at}");
    let tracing = ["--otlp-endpoint", &endpoint, "--trace-sampling", "1"];
    let caller = federation.caller_with(WEST, 0, "shop/nobody:80", &tracing);
    let (mut caller, to) = caller.await;
    assert_eq!(call(to, "/", &[]).await.status, 503);
    assert_eq!(caller.stop(USUAL).await, 0);
    assert_eq!(collector.all().len(), 1);
}
