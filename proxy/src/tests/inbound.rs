//! Streams: what reaches the application, how, and what never does.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{
    Caller, Running, apps, full, header, pki::Pki, registry::Registry, request, soon, start, text,
    until,
};
use crate::fixture;

const EXPORTED: &str = "shop/payments:80";
const LOCAL: &str = "shop/secret:80";

/// A proxy before this application, as an exported service and as one that is not.
async fn before(pki: &Pki, app: impl std::fmt::Display, protocol: &str) -> (Running, Registry) {
    let registry = Registry::start().await;
    let serves = [
        format!("{EXPORTED}={app},protocol={protocol}"),
        format!("{LOCAL}={app},protocol={protocol}"),
    ];
    let s = fixture::snapshot(&[("shop/payments", true, 80), ("shop/secret", false, 80)]);
    let proxy = start(pki, s, &registry, &serves, |_| {}).await;
    (proxy, registry)
}

#[tokio::test]
async fn requests_reach_an_http1_application_as_it_expects_them() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "detect").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let response = caller.get(EXPORTED, "/where").await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "keep-alive"), "");
    assert_eq!(
        text(response).await,
        "HTTP/1.1 GET /where payments.shop host,x-request-id"
    );
    let body: Vec<u8> = (0..3_000_000u32).map(|i| i.to_le_bytes()[1]).collect();
    let post = request(EXPORTED, "/echo")
        .method("POST")
        .body(full(body.clone()))
        .unwrap();
    let response = caller.send(post).await.unwrap();
    let back = soon(response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    assert!(back == body);
    let asks = request(EXPORTED, "/trailers")
        .header("te", "trailers")
        .body(full(""))
        .unwrap();
    let response = caller.send(asks).await.unwrap();
    let all = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(all.trailers().unwrap()["grpc-status"], "0");
    // One after the other: one connection of the application's is enough, besides the health checks'.
    for _ in 0..20 {
        text(caller.get(EXPORTED, "/again").await.unwrap()).await;
    }
    p.metric(r#"tradewind_inbound_responses_total{service="shop/payments:80",class="2xx"} 23"#)
        .await;
    assert!(app.connections() < 12, "{}", app.connections());
}

#[tokio::test]
async fn an_application_that_answers_early_and_closes_is_heard() {
    let (pki, app) = (Pki::new(), apps::early().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    for _ in 0..50 {
        let post = request(EXPORTED, "/upload").method("POST");
        let upload = "u".repeat(8 << 20);
        let answered = caller.send(post.body(full(upload)).unwrap()).await.unwrap();
        assert_eq!(answered.status(), 413);
        assert_eq!(text(answered).await, "too large");
    }
}

#[tokio::test]
async fn a_request_for_another_endpoint_is_sent_back_untouched() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "detect").await;
    p.snapshot.send_modify(|s| {
        let (here, there) = (p.hbone.to_string(), "127.0.0.1:9");
        fixture::change(Arc::make_mut(s), "shop/payments", |s| {
            s.endpoints = vec![
                fixture::endpoint("here", "west", &here, &[(80, 8080)]),
                fixture::endpoint("there", "west", there, &[]),
            ];
        });
    });
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let mut ask = async |id: &str| {
        let get = request(EXPORTED, "/where").header("tradewind-endpoint", id);
        caller.send(get.body(full("")).unwrap()).await.unwrap()
    };
    let refused = ask("there").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&refused, "tradewind-unprocessed"), "other_endpoint");
    for ours in ["here", "unknown"] {
        let answered = ask(ours).await;
        assert_eq!(answered.status(), 200, "{ours}");
        assert_eq!(header(&answered, "tradewind-endpoint"), "here");
        assert_eq!(
            text(answered).await,
            "HTTP/1.1 GET /where payments.shop host,x-request-id",
            "the application hears nothing of it"
        );
    }
    p.metric(r#"tradewind_inbound_streams_refused_total{reason="other_endpoint"} 1"#)
        .await;
}

#[tokio::test]
async fn calls_are_told_under_istios_names_by_the_callers_certificate() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "detect").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let mut get = request(EXPORTED, "/where").body(full("")).unwrap();
    // What a caller says of itself is not believed.
    get.headers_mut().insert(
        "baggage",
        HeaderValue::from_static("k8s.cluster.name=north,service.name=other"),
    );
    text(caller.send(get).await.unwrap()).await;
    assert_eq!(
        caller.get(LOCAL, "/where").await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
    for (service, code) in [("payments", 200), ("secret", 403)] {
        p.metric(&format!(
            "istio_requests_total{{reporter=\"destination\",source_workload=\"payments\",source_canonical_service=\"payments\",\
            source_canonical_revision=\"unknown\",source_workload_namespace=\"shop\",\
            source_principal=\"spiffe://east.mesh.internal/ns/shop/sa/payments\",source_app=\"payments\",source_version=\"unknown\",\
            source_cluster=\"east\",destination_workload=\"payments\",destination_workload_namespace=\"shop\",\
            destination_principal=\"spiffe://west.mesh.internal/ns/shop/sa/payments\",destination_app=\"payments\",\
            destination_version=\"unknown\",destination_service=\"{service}.shop.svc.cluster.local\",\
            destination_canonical_service=\"payments\",destination_canonical_revision=\"unknown\",\
            destination_service_name=\"{service}\",destination_service_namespace=\"shop\",destination_cluster=\"west\",\
            request_protocol=\"http\",response_code=\"{code}\",grpc_response_status=\"unknown\",response_flags=\"-\",\
            connection_security_policy=\"mutual_tls\"}} 1\n"
        ))
        .await;
    }
}

#[tokio::test]
async fn what_the_page_shows_is_documented() {
    const DOCUMENT: &str = include_str!("../../../docs/metrics.md");
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "detect").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    text(caller.get(EXPORTED, "/where").await.unwrap()).await;
    caller.get(LOCAL, "/where").await.unwrap();
    p.metric("response_code=\"200\"").await;
    let page = p.metrics.encode();
    let ours = |name: &str| {
        ["istio_", "tradewind_inbound_", "tradewind_outbound_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    let mut checked = 0;
    for line in page.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        if !ours(name) {
            continue;
        }
        checked += 1;
        // Istio's stand there as the page has them, with what the format adds to counters.
        let written = match (name.starts_with("istio_"), kind) {
            (true, "counter") => format!("`{name}_total`"),
            _ => format!("`{name}`"),
        };
        assert!(
            DOCUMENT.contains(&written),
            "{written} is not in docs/metrics.md"
        );
        assert!(
            !page.contains(&format!("# UNIT {name}")) || name.starts_with("tradewind_"),
            "{name}"
        );
    }
    assert!(checked >= 12, "{page}");
    // And what is written of Istio's is there.
    for name in DOCUMENT
        .split('`')
        .filter(|w| w.starts_with("istio_") && !w.contains('*'))
    {
        let family = name.strip_suffix("_total").unwrap_or(name);
        assert!(page.contains(&format!("# TYPE {family} ")), "{name}");
    }
}

#[tokio::test]
async fn requests_reach_an_h2c_application_with_trailers_both_ways() {
    let (pki, app) = (Pki::new(), apps::http2().await);
    let (p, _r) = before(&pki, app.address, "http2").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let seen = text(caller.get(EXPORTED, "/where").await.unwrap()).await;
    assert_eq!(seen, "HTTP/2.0 GET /where payments.shop x-request-id");
    let response = caller.get(EXPORTED, "/trailers").await.unwrap();
    let all = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(all.trailers().unwrap()["grpc-status"], "0");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", HeaderValue::from_static("done"));
    let frames = [
        Ok(Frame::data(Bytes::from(vec![1u8; 70_000]))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(stream::iter(frames)).boxed();
    let post = request(EXPORTED, "/digest")
        .method("POST")
        .body(body)
        .unwrap();
    let told = text(caller.send(post).await.unwrap()).await;
    assert!(
        told.starts_with("70000 ") && told.ends_with(" done"),
        "{told}"
    );
}

#[tokio::test]
async fn the_callers_version_decides_where_nothing_else_does() {
    let (pki, app) = (Pki::new(), apps::http2().await);
    let (p, _r) = before(&pki, app.address, "detect").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let mut get = request(EXPORTED, "/where").body(full("")).unwrap();
    get.headers_mut()
        .insert("tradewind-version", HeaderValue::from_static("HTTP/2.0"));
    let seen = text(caller.send(get).await.unwrap()).await;
    assert!(seen.starts_with("HTTP/2.0 GET"), "{seen}");
}

#[tokio::test]
async fn tunnels_carry_bytes_and_each_end() {
    let (pki, app) = (Pki::new(), apps::echo().await);
    let (p, _r) = before(&pki, app.address, "tcp").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let by_app = app.address.to_string();
    for authority in ["payments.shop.svc.clusterset.local:80", by_app.as_str()] {
        let response = caller.connect(authority).await.unwrap();
        assert_eq!(response.status(), 200, "{authority}");
        let mut io = TokioIo::new(soon(hyper::upgrade::on(response)).await.unwrap());
        io.write_all(b"over the border").await.unwrap();
        let mut back = [0u8; 15];
        soon(io.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"over the border");
        io.shutdown().await.unwrap();
        // The application still answers after our end: half-close is carried.
        let mut rest = Vec::new();
        soon(io.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"bye", "{authority}");
    }
    p.metric(r#"tradewind_inbound_tunnel_bytes_received_total{service="shop/payments:80"} 30"#)
        .await;
    p.metric(r#"tradewind_inbound_tunnels_active{service="shop/payments:80"} 0"#)
        .await;
}

#[tokio::test]
async fn only_what_is_served_and_exported_is_reached() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let mut foreign = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let mut member = Caller::dial(&pki, "west", p.hbone).await.unwrap();
    assert_eq!(foreign.get(EXPORTED, "/").await.unwrap().status(), 200);
    assert_eq!(member.get(LOCAL, "/").await.unwrap().status(), 200);
    let refused = foreign.get(LOCAL, "/").await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let refused = foreign
        .connect("secret.shop.svc.clusterset.local:80")
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    p.metric(r#"tradewind_inbound_streams_refused_total{reason="not_exported"} 2"#)
        .await;
    for (service, status) in [
        ("shop/other:80", 404),
        ("shop/payments:81", 404),
        ("nonsense", 400),
    ] {
        assert_eq!(
            member.get(service, "/").await.unwrap().status(),
            status,
            "{service}"
        );
    }
    let bare = Request::get("http://payments.shop/")
        .body(full(""))
        .unwrap();
    assert_eq!(member.send(bare).await.unwrap().status(), 400);
    for authority in [
        "other.shop.svc.clusterset.local:80",
        "127.0.0.1:1",
        "payments.shop:80",
    ] {
        assert_eq!(
            member.connect(authority).await.unwrap().status(),
            404,
            "{authority}"
        );
    }
}

#[tokio::test]
async fn strangers_never_get_a_stream() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    // A certificate of another root, by a caller who trusts everybody here.
    let other = Pki::new();
    let mut both = pki.trust.clone();
    both.roots.extend(other.trust.roots.iter().cloned());
    let ours = pki.cell();
    let refused = async {
        let mut caller = Caller::dial_as(&other.svid("east"), &ours, p.hbone).await?;
        caller
            .get(EXPORTED, "/")
            .await
            .map_err(std::io::Error::other)
    };
    assert!(refused.await.is_err());
    // No certificate at all, and no TLS at all.
    let refused = async {
        let nobody = tradewind_transport::svid::SvidCell::empty();
        let mut caller = Caller::dial_as(&nobody, &ours, p.hbone).await?;
        caller
            .get(EXPORTED, "/")
            .await
            .map_err(std::io::Error::other)
    };
    assert!(refused.await.is_err());
    let mut plain = TcpStream::connect(p.hbone).await.unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut back = Vec::new();
    drop(soon(plain.read_to_end(&mut back)).await);
    let dropped = || {
        let text = p.metrics.encode();
        text.lines()
            .filter(|l| l.starts_with("tradewind_inbound_connections_dropped_total{"))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok())
            .sum::<u64>()
    };
    until("three dropped", || dropped() == 3).await;
    assert!(
        p.metrics
            .encode()
            .contains("tradewind_inbound_connections_total 0")
    );
}

#[tokio::test]
async fn an_absent_application_is_told_as_unprocessed_and_a_rude_one_is_not() {
    let pki = Pki::new();
    let gone = apps::nobody().await;
    for protocol in ["http1", "http2"] {
        let (p, _r) = before(&pki, gone, protocol).await;
        let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
        let post = request(EXPORTED, "/")
            .method("POST")
            .body(full("x"))
            .unwrap();
        let response = caller.send(post).await.unwrap();
        assert_eq!(response.status(), 503, "{protocol}");
        assert_eq!(
            header(&response, "tradewind-unprocessed"),
            "connect",
            "{protocol}"
        );
        let tunnel = caller
            .connect("payments.shop.svc.clusterset.local:80")
            .await
            .unwrap();
        assert_eq!(tunnel.status(), 503);
        assert_eq!(header(&tunnel, "tradewind-unprocessed"), "connect");
    }
    let app = apps::mute().await;
    let (p, _r) = before(&pki, app.address, "http1").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    for method in ["POST", "GET"] {
        let request = request(EXPORTED, "/")
            .method(method)
            .body(full(""))
            .unwrap();
        let response = caller.send(request).await.unwrap();
        assert_eq!(response.status(), 502, "{method}");
        assert_eq!(header(&response, "tradewind-unprocessed"), "", "{method}");
        assert_eq!(
            header(&response, "tradewind-error"),
            "app_failed",
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_closing_kept_connection_costs_an_idempotent_request_nothing() {
    let (pki, app) = (Pki::new(), apps::forgetful().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    for _ in 0..6 {
        let response = caller.get(EXPORTED, "/").await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(text(response).await, "ok");
    }
    // A request that may not be sent twice is not: it fails rather than be repeated.
    let mut failed = 0;
    for _ in 0..6 {
        let post = request(EXPORTED, "/")
            .method("POST")
            .body(full("x"))
            .unwrap();
        let response = caller.send(post).await.unwrap();
        if response.status() == 502 {
            failed += 1;
        } else {
            text(response).await;
        }
    }
    assert!(
        failed > 0,
        "the test's application did not close under a request"
    );
}

#[tokio::test]
async fn a_slow_reader_holds_its_own_stream_and_no_other() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let mut endless = caller.get(EXPORTED, "/endless").await.unwrap();
    assert!(soon(endless.body_mut().frame()).await.unwrap().is_ok());
    for _ in 0..10 {
        assert_eq!(caller.get(EXPORTED, "/").await.unwrap().status(), 200);
    }
    drop(endless);
    assert_eq!(caller.get(EXPORTED, "/").await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_removed_cluster_loses_its_live_connections_at_once() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let mut foreign = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let mut member = Caller::dial(&pki, "west", p.hbone).await.unwrap();
    let mut stream = foreign.get(EXPORTED, "/endless").await.unwrap();
    assert!(soon(stream.body_mut().frame()).await.unwrap().is_ok());
    assert_eq!(member.get(EXPORTED, "/").await.unwrap().status(), 200);
    p.trust.set(&pki.without("east")).unwrap();
    let ended = soon(async {
        loop {
            match stream.body_mut().frame().await {
                Some(Ok(_)) => {}
                end => return end.is_some_and(|f| f.is_err()),
            }
        }
    });
    assert!(ended.await, "cut, not ended in order");
    assert!(foreign.get(EXPORTED, "/").await.is_err());
    p.metric("tradewind_inbound_connections_revoked_total 1")
        .await;
    assert_eq!(member.get(EXPORTED, "/").await.unwrap().status(), 200);
    let again = async {
        let mut caller = Caller::dial(&pki, "east", p.hbone).await?;
        caller
            .get(EXPORTED, "/")
            .await
            .map_err(std::io::Error::other)
    };
    assert!(again.await.is_err());
}

#[tokio::test]
async fn a_withdrawn_export_ends_foreign_streams_and_leaves_our_own() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let bytes = apps::echo().await;
    let mut foreign = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let mut member = Caller::dial(&pki, "west", p.hbone).await.unwrap();
    let mut theirs = foreign.get(EXPORTED, "/endless").await.unwrap();
    let mut ours = member.get(EXPORTED, "/endless").await.unwrap();
    let tunnel = foreign
        .connect("payments.shop.svc.clusterset.local:80")
        .await
        .unwrap();
    let mut tunnel = TokioIo::new(soon(hyper::upgrade::on(tunnel)).await.unwrap());
    for stream in [&mut theirs, &mut ours] {
        assert!(soon(stream.body_mut().frame()).await.unwrap().is_ok());
    }
    drop(bytes);
    p.snapshot
        .send_replace(Arc::new(fixture::snapshot(&[("shop/payments", false, 80)])));
    let cut = soon(async {
        loop {
            match theirs.body_mut().frame().await {
                Some(Ok(_)) => {}
                end => return end.is_some_and(|f| f.is_err()),
            }
        }
    });
    assert!(cut.await);
    let mut rest = Vec::new();
    let ended = soon(tunnel.read_to_end(&mut rest)).await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(foreign.get(EXPORTED, "/").await.unwrap().status(), 403);
    for _ in 0..5 {
        assert!(soon(ours.body_mut().frame()).await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn a_thousand_tunnels_live_side_by_side() {
    let (pki, app) = (Pki::new(), apps::echo().await);
    let (p, _r) = before(&pki, app.address, "tcp").await;
    let mut callers = Vec::new();
    let mut tunnels = Vec::new();
    for _ in 0..4 {
        let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
        for _ in 0..250 {
            let response = caller
                .connect("payments.shop.svc.clusterset.local:80")
                .await
                .unwrap();
            assert_eq!(response.status(), 200);
            tunnels.push(TokioIo::new(
                soon(hyper::upgrade::on(response)).await.unwrap(),
            ));
        }
        callers.push(caller);
    }
    for (i, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel
            .write_all(&u32::try_from(i).unwrap().to_be_bytes())
            .await
            .unwrap();
    }
    for (i, tunnel) in tunnels.iter_mut().enumerate() {
        assert_eq!(soon(tunnel.read_u32()).await.unwrap() as usize, i);
    }
    p.metric(r#"tradewind_inbound_tunnels_active{service="shop/payments:80"} 1000"#)
        .await;
    drop((tunnels, callers));
    p.metric(r#"tradewind_inbound_tunnels_active{service="shop/payments:80"} 0"#)
        .await;
    p.metric("tradewind_inbound_connections_active 0").await;
}

#[tokio::test]
async fn an_applications_cut_is_never_taken_for_an_end() {
    let (pki, app) = (Pki::new(), apps::cut().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    // Half of a small response is none at all.
    let response = caller.get(EXPORTED, "/length").await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(header(&response, "tradewind-error"), "app_failed");
    // Half of a long one, half of one in chunks, half of a tunnel's bytes.
    for path in ["/long", "/chunked"] {
        let response = caller.get(EXPORTED, path).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let whole = soon(response.into_body().collect()).await;
        assert!(whole.is_err(), "{path}");
    }
    let response = caller
        .connect("payments.shop.svc.clusterset.local:80")
        .await
        .unwrap();
    let mut io = TokioIo::new(soon(hyper::upgrade::on(response)).await.unwrap());
    io.write_all(b"GET /reset HTTP/1.1\r\n\r\n").await.unwrap();
    let mut half = Vec::new();
    let ended = soon(io.read_to_end(&mut half)).await;
    assert!(ended.is_err(), "{ended:?}");
    p.metric(r#"tradewind_inbound_tunnels_active{service="shop/payments:80"} 0"#)
        .await;
}

#[tokio::test]
async fn a_caller_that_leaves_frees_the_application() {
    let (pki, app) = (Pki::new(), apps::silent().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    for way in ["stream", "connection"] {
        let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
        let asked = caller
            .sender
            .send_request(request(EXPORTED, "/").body(full("")).unwrap());
        let mut asked = Box::pin(asked);
        let held = app.held.clone();
        // Polled until the application has it, then dropped: the stream, or the whole connection.
        tokio::select! {
            answer = &mut asked => panic!("{answer:?}"),
            () = until("held", || held.borrow().open == 1) => {}
        }
        if way == "stream" {
            drop(asked);
            until("freed", || held.borrow().open == 0).await;
            drop(caller);
        } else {
            drop((asked, caller));
            until("freed", || held.borrow().open == 0).await;
        }
    }
}

#[tokio::test]
async fn bulk_flows_both_ways_at_once_and_nothing_piles_up() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let chunk = Bytes::from(vec![7u8; 64 << 10]);
    let chunks = stream::iter((0..1600).map(move |_| Ok(Frame::data(chunk.clone()))));
    let post = request(EXPORTED, "/echo")
        .method("POST")
        .body(StreamBody::new(chunks).boxed());
    let mut body = caller.send(post.unwrap()).await.unwrap().into_body();
    let mut bytes = 0;
    while let Some(frame) = soon(body.frame()).await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.iter().all(|b| *b == 7));
        bytes += data.len();
    }
    assert_eq!(bytes, 1600 << 16);
}

#[tokio::test]
async fn a_small_response_that_comes_slowly_is_not_held_back() {
    let (pki, app) = (Pki::new(), apps::slow().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let response = caller.get(EXPORTED, "/").await.unwrap();
    assert_eq!(header(&response, "content-length"), "12");
    app.go_on.notify_one();
    assert_eq!(text(response).await, "slow,but all");
}

#[tokio::test]
async fn a_connection_ends_with_its_callers_certificate() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let (p, _r) = before(&pki, app.address, "http1").await;
    let svid = pki.short_lived("east", 4);
    let mut caller = Caller::dial_as(&svid, &pki.cell(), p.hbone).await.unwrap();
    let mut stream = caller.get(EXPORTED, "/endless").await.unwrap();
    let cut = soon(async {
        loop {
            match stream.body_mut().frame().await {
                Some(Ok(_)) => {}
                end => return end.is_some_and(|f| f.is_err()),
            }
        }
    });
    assert!(cut.await);
    p.metric("tradewind_inbound_connections_expired_total 1")
        .await;
}
