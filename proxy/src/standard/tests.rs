//! The standard metrics as a page shows them: every label, both directions' words, and the bounds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::Full;
use tradewind_api::{Domain, SpiffeId};
use tradewind_runtime::{clock::ManualClock, metrics::MetricsRegistry};
use tradewind_transport::relay::Side;

use super::{
    Account, FORGET_AFTER, Flags, MAX_PAIRS, PairKey, Party, Reporter, Security, StandardMetrics,
    series::MAX_ENDINGS,
};

fn world() -> (MetricsRegistry, ManualClock, StandardMetrics) {
    let (registry, clock) = (MetricsRegistry::new(), ManualClock::new(0));
    let metrics = StandardMetrics::register(&registry, Arc::new(clock.clone()));
    (registry, clock, metrics)
}

fn party(cluster: &str, account: &str) -> Party {
    let id: SpiffeId = format!("spiffe://{cluster}.mesh.internal/ns/shop/sa/{account}")
        .parse()
        .unwrap();
    Party::of(&id, &Domain::default())
}

fn key(account: &str) -> PairKey {
    PairKey {
        reporter: Reporter::Source,
        source: party("west", account),
        destination: party("east", "payments"),
        service: Some("shop/payments".parse().unwrap()),
        security: Security::MutualTls,
    }
}

/// A response with this many bytes.
fn response(status: StatusCode, bytes: usize) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(vec![0; bytes])));
    *response.status_mut() = status;
    response
}

/// The samples of `name`.
fn samples<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    page.lines()
        .filter(|l| l.split('{').next() == Some(name))
        .collect()
}

#[tokio::test]
async fn a_grpc_call_is_told_with_every_label_and_its_numbers() {
    let (registry, clock, metrics) = world();
    let pair = metrics.pair(key("web"));
    let mut account = Account::new(pair.now(), true);
    account.between(&pair);
    account.answered(&response(StatusCode::OK, 300));
    account.frame(&Frame::data(Bytes::from_static(&[0; 300])));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("5"));
    account.frame(&Frame::trailers(trailers));
    account.complete();
    clock.advance(Duration::from_millis(7));
    drop(account);
    let page = registry.encode();
    let labels = "{reporter=\"source\",source_workload=\"web\",source_canonical_service=\"web\",\
        source_canonical_revision=\"unknown\",source_workload_namespace=\"shop\",\
        source_principal=\"spiffe://west.mesh.internal/ns/shop/sa/web\",source_app=\"web\",source_version=\"unknown\",\
        source_cluster=\"west\",destination_workload=\"payments\",destination_workload_namespace=\"shop\",\
        destination_principal=\"spiffe://east.mesh.internal/ns/shop/sa/payments\",destination_app=\"payments\",\
        destination_version=\"unknown\",destination_service=\"payments.shop.svc.cluster.local\",\
        destination_canonical_service=\"payments\",destination_canonical_revision=\"unknown\",\
        destination_service_name=\"payments\",destination_service_namespace=\"shop\",destination_cluster=\"east\",\
        request_protocol=\"grpc\",response_code=\"200\",grpc_response_status=\"5\",response_flags=\"-\",\
        connection_security_policy=\"mutual_tls\"}";
    for line in [
        format!("istio_requests_total{labels} 1"),
        format!("istio_request_duration_milliseconds_sum{labels} 7.0"),
        format!("istio_request_duration_milliseconds_count{labels} 1"),
        format!("istio_response_bytes_sum{labels} 300.0"),
        format!("istio_request_bytes_sum{labels} 0.0"),
        // Three hundred zeros are sixty empty messages.
        format!("istio_response_messages_total{labels} 60"),
        format!("istio_request_messages_total{labels} 0"),
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
    let buckets = samples(&page, "istio_request_duration_milliseconds_bucket");
    assert_eq!(buckets.len(), 20);
    assert!(buckets[19].contains("le=\"+Inf\""), "{}", buckets[19]);
}

#[tokio::test]
async fn a_client_that_leaves_and_a_service_that_breaks_off_are_told_apart() {
    let (registry, _clock, metrics) = world();
    let pair = metrics.pair(key("web"));
    let begin = || {
        let mut account = Account::new(pair.now(), false);
        account.between(&pair);
        account
    };
    drop(begin());
    let mut account = begin();
    account.answered(&response(StatusCode::OK, 1));
    account.broken();
    drop(account);
    let page = registry.encode();
    assert!(
        samples(&page, "istio_response_messages_total").is_empty(),
        "none of them is a gRPC call"
    );
    let ends = |what: &str| {
        samples(&page, "istio_requests_total")
            .iter()
            .filter(|l| l.contains(what))
            .count()
    };
    let unknown = "grpc_response_status=\"unknown\"";
    assert_eq!(
        ends(&format!(
            "response_code=\"0\",{unknown},response_flags=\"DC\""
        )),
        1,
        "{page}"
    );
    assert_eq!(
        ends(&format!(
            "response_code=\"200\",{unknown},response_flags=\"UC\""
        )),
        1,
        "{page}"
    );
}

#[tokio::test]
async fn a_response_of_known_length_is_whole_when_all_of_it_went_by() {
    let (registry, _clock, metrics) = world();
    let pair = metrics.pair(key("web"));
    // An HTTP/1 connection asks for no more once it has what was announced.
    for went_by in [300, 299] {
        let mut account = Account::new(pair.now(), false);
        account.between(&pair);
        account.answered(&response(StatusCode::OK, 300));
        account.frame(&Frame::data(Bytes::from(vec![0; went_by])));
    }
    let mut account = Account::new(pair.now(), false);
    account.between(&pair);
    account.refused(&response(StatusCode::BAD_GATEWAY, 70), Flags::UpstreamCut);
    drop(account);
    let page = registry.encode();
    for (flags, bytes) in [("-", "300.0"), ("DC", "299.0"), ("UC", "70.0")] {
        let found = samples(&page, "istio_response_bytes_sum");
        let flags = format!("response_flags=\"{flags}\"");
        let line = found.iter().find(|l| l.contains(&flags)).unwrap();
        assert!(line.ends_with(&format!(" {bytes}")), "{line}");
    }
}

#[tokio::test]
async fn a_connections_bytes_are_seen_while_it_lives() {
    let (registry, _clock, metrics) = world();
    let live = metrics.pair(key("web")).tunnel(Flags::None);
    live.count(Side::A, 10);
    live.count(Side::B, 200);
    let value = |name: &str| {
        let page = registry.encode();
        let found = samples(&page, name);
        assert_eq!(found.len(), 1, "{page}");
        assert!(found[0].contains("request_protocol=\"tcp\",response_flags=\"-\""));
        found[0].rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(value("istio_tcp_received_bytes_total"), "10");
    assert_eq!(value("istio_tcp_sent_bytes_total"), "200");
    assert_eq!(value("istio_tcp_connections_opened_total"), "1");
    assert_eq!(value("istio_tcp_connections_closed_total"), "0");
    drop(live);
    assert_eq!(value("istio_tcp_connections_closed_total"), "1");
}

#[tokio::test]
async fn neither_statuses_nor_callers_make_the_page_grow_without_end() {
    let (registry, _clock, metrics) = world();
    let pair = metrics.pair(key("web"));
    for code in 100..1000 {
        let mut account = Account::new(pair.now(), false);
        account.between(&pair);
        account.answered(&response(StatusCode::from_u16(code).unwrap(), 0));
        account.complete();
    }
    let page = registry.encode();
    let found = samples(&page, "istio_requests_total");
    assert_eq!(found.len(), MAX_ENDINGS);
    let rest = found
        .iter()
        .find(|l| l.contains("response_code=\"unknown\""));
    let counted: u64 = rest.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(counted, 900 - (MAX_ENDINGS as u64 - 1));
    let held: Vec<_> = (0..MAX_PAIRS + 50)
        .map(|n| metrics.pair(key(&format!("web-{n}"))))
        .collect();
    drop(held.last().unwrap().tunnel(Flags::None));
    let page = registry.encode();
    let found = samples(&page, "istio_tcp_connections_opened_total");
    assert_eq!(found.len(), 1);
    let coarse = "source_principal=\"unknown\",source_app=\"unknown\",source_version=\"unknown\",source_cluster=\"west\"";
    assert!(found[0].contains(coarse), "{}", found[0]);
    assert_eq!(metrics.lock().len(), MAX_PAIRS + 1);
}

#[tokio::test]
async fn a_pair_that_nobody_holds_is_forgotten_in_time() {
    let (registry, clock, metrics) = world();
    let pair = metrics.pair(key("web"));
    drop(pair.tunnel(Flags::None));
    let shown = || {
        registry
            .encode()
            .contains("istio_tcp_connections_opened_total{")
    };
    clock.advance(FORGET_AFTER * 2);
    assert!(shown(), "held");
    drop(pair);
    assert!(shown(), "its last numbers are still to be scraped");
    clock.advance(FORGET_AFTER);
    assert!(!shown());
}
