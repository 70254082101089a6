//! Istio's standard metrics across a cluster border: what the caller's proxy and the callee's proxy say of the same calls,
//! label by label. Real processes; the test is caller and application.

#![expect(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::Barrier};
use tradewind_tests::{
    Federation, apps,
    federation::{ADMIN, TWO},
    http,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
const CALLS: usize = 3;
const GREETING: &str = "220 ready\r\n";

type Labels = BTreeMap<String, String>;

/// Every sample of `name` at a proxy, with its labels.
async fn samples(admin: SocketAddr, name: &str) -> Vec<(Labels, f64)> {
    let page = http::get(admin, "/metrics").await.expect("the page");
    let page = page.ok().expect("200").text();
    let mut found = Vec::new();
    for line in page.lines().filter(|l| l.split('{').next() == Some(name)) {
        let (labels, value) = line.rsplit_once(' ').expect("a value");
        let labels = labels
            .trim_start_matches(name)
            .trim_matches(['{', '}'])
            .split(',')
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned()))
            .collect();
        found.push((labels, value.parse().expect("a number")));
    }
    found
}

/// All labels that a call of the west's `web` to `service` in the east must have, on whichever side.
fn expected(reporter: &str, service: &str, ending: &[(&str, &str)]) -> Labels {
    let host = format!("{service}.shop.svc.cluster.local");
    let there = format!("spiffe://east.mesh.internal/ns/shop/sa/{service}");
    let all = [
        ("reporter", reporter),
        ("source_workload", "web"),
        ("source_workload_namespace", "shop"),
        ("source_canonical_service", "web"),
        ("source_canonical_revision", "unknown"),
        (
            "source_principal",
            "spiffe://west.mesh.internal/ns/shop/sa/web",
        ),
        ("source_app", "web"),
        ("source_version", "unknown"),
        ("source_cluster", "west"),
        ("destination_workload", service),
        ("destination_workload_namespace", "shop"),
        ("destination_canonical_service", service),
        ("destination_canonical_revision", "unknown"),
        ("destination_principal", &there),
        ("destination_app", service),
        ("destination_version", "unknown"),
        ("destination_cluster", "east"),
        ("destination_service", &host),
        ("destination_service_name", service),
        ("destination_service_namespace", "shop"),
        ("connection_security_policy", "mutual_tls"),
    ];
    all.iter()
        .chain(ending)
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// Waits until `name` at `admin` has exactly this line.
async fn shows(admin: SocketAddr, name: &str, labels: &Labels, value: f64) {
    until(&format!("{name} at {admin}"), USUAL, || async {
        let seen = samples(admin, name).await;
        if seen.iter().any(|(l, v)| l == labels && *v >= value) {
            Ok(())
        } else {
            Err(format!("{seen:?} instead of {labels:?} {value}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_call_across_the_border_say_the_same() {
    let federation = Federation::start(&TWO).await;
    let web = federation.addr(EAST, 11, 8080);
    apps::http1(apps::bind(web).await, "payments", Arc::new(Barrier::new(1)));
    let mail = federation.addr(EAST, 12, 2525);
    apps::server_first(apps::bind(mail).await, GREETING);
    let payments = format!("shop/payments:80={web},protocol=http1");
    let payments = federation.serve(EAST, 1, &payments, &[]).await;
    let smtp = format!("shop/mail:25={mail},protocol=tcp");
    let smtp = federation.serve(EAST, 2, &smtp, &[]).await;
    federation.export(EAST, "shop/payments").await;
    federation.export(EAST, "shop/mail").await;
    federation.sees(WEST, "shop/payments", 1).await;
    federation.sees(WEST, "shop/mail", 1).await;
    let (_a, to_payments) = federation.caller(WEST, 0, "shop/payments:80").await;
    let (_b, to_mail) = federation.caller(WEST, 1, "shop/mail:25").await;

    for _ in 0..CALLS {
        let answer = http::get(to_payments, "/where").await.expect("an answer");
        answer.ok().expect("200");
    }
    let http_ending = [
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("grpc_response_status", "unknown"),
        ("response_flags", "-"),
    ];
    let caller = federation.addr(WEST, 100, ADMIN);
    for (admin, reporter) in [(caller, "source"), (payments.admin, "destination")] {
        let labels = expected(reporter, "payments", &http_ending);
        for name in [
            "istio_requests_total",
            "istio_request_duration_milliseconds_count",
            "istio_request_bytes_count",
            "istio_response_bytes_count",
        ] {
            shows(admin, name, &labels, CALLS as f64).await;
        }
    }

    // The greeting is counted while the connection lives.
    let mut connection = TcpStream::connect(to_mail).await.expect("a connection");
    let mut greeting = vec![0; GREETING.len()];
    connection
        .read_exact(&mut greeting)
        .await
        .expect("a greeting");
    let tcp_ending = [("request_protocol", "tcp"), ("response_flags", "-")];
    let caller = federation.addr(WEST, 101, ADMIN);
    let sides = [(caller, "source"), (smtp.admin, "destination")];
    for (admin, reporter) in sides {
        let labels = expected(reporter, "mail", &tcp_ending);
        let bytes = GREETING.len() as f64;
        shows(admin, "istio_tcp_sent_bytes_total", &labels, bytes).await;
        shows(admin, "istio_tcp_connections_opened_total", &labels, 1.0).await;
    }
    drop(connection);
    for (admin, reporter) in sides {
        let labels = expected(reporter, "mail", &tcp_ending);
        shows(admin, "istio_tcp_connections_closed_total", &labels, 1.0).await;
    }
}
