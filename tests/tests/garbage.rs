//! Garbage and cut connections on every port of a running cluster: dropped, counted, and all of it goes on.

#![expect(
    clippy::expect_used,
    clippy::too_many_lines,
    reason = "a test's helpers fail by panicking, and a table is read in one piece"
)]

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use hickory_proto::rr::RecordType;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Barrier,
};
use tradewind_tests::{
    Federation, apps,
    dns::{self, Over},
    federation::{ADMIN, CONTROLLER, DNS, GATEWAY, HBONE, TWO, host},
    http, metrics,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;

/// What strangers send. None of it is a request to any of our ports.
fn garbage() -> Vec<Vec<u8>> {
    let mut rng = fastrand::Rng::with_seed(7);
    let random =
        |rng: &mut fastrand::Rng, n: usize| (0..n).map(|_| rng.u8(..)).collect::<Vec<u8>>();
    // A TLS record header that promises a ClientHello, and a part of it.
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend(random(&mut rng, 40));
    let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    http2.extend(random(&mut rng, 200));
    vec![
        vec![0; 64],
        vec![0xff; 5000],
        random(&mut rng, 4096),
        hello,
        http2,
        b"\x16\x03\x01\xff\xff".to_vec(),
        b"EHLO stranger\r\n".to_vec(),
    ]
}

/// Sends and goes away: at once with a reset, or when the other side closes.
async fn throw(address: SocketAddr, bytes: &[u8], reset: bool) {
    let mut stream = TcpStream::connect(address).await.expect("an open port");
    // The other side may close while we write.
    let _gone: Result<(), _> = stream.write_all(bytes).await;
    if reset {
        stream.set_zero_linger().expect("a socket option");
    } else {
        let _gone: Result<(), _> = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(USUAL, stream.read_to_end(&mut answer));
        let _gone = ended.await.expect("the connection to be ended");
    }
}

#[tokio::test]
async fn garbage_on_any_port_is_dropped_and_counted() {
    let mut federation = Federation::start(&TWO).await;
    // Declared as HTTP, so that what comes to the caller's listener can be garbage at all.
    let app = federation.addr(EAST, 11, 8080);
    apps::http1(apps::bind(app).await, "payments", Arc::new(Barrier::new(1)));
    let spec = format!("shop/payments:80={app},protocol=http1");
    let workload = federation.serve(EAST, 1, &spec, &[]).await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (mut caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let (mut dns_process, server) = federation.start_dns(EAST, &["--no-forwarding"]).await;
    http::get(address, "/").await.unwrap().ok().unwrap();
    let at = |number, host, port| federation.addr(number, host, port);
    let ports = [
        (
            at(EAST, host::CONTROLLER, CONTROLLER),
            at(EAST, host::CONTROLLER, ADMIN),
            "tradewind_controller_connections_dropped",
        ),
        (
            at(EAST, host::CONTROLLER, ADMIN),
            at(EAST, host::CONTROLLER, ADMIN),
            "tradewind_admin_connections_dropped",
        ),
        (
            at(EAST, host::GATEWAY, GATEWAY),
            at(EAST, host::GATEWAY, ADMIN),
            "tradewind_gateway_connections_refused",
        ),
        (
            at(EAST, host::GATEWAY, ADMIN),
            at(EAST, host::GATEWAY, ADMIN),
            "tradewind_admin_connections_dropped",
        ),
        (
            at(EAST, 11, HBONE),
            at(EAST, 11, ADMIN),
            "tradewind_inbound_connections_dropped",
        ),
        (
            at(EAST, 11, ADMIN),
            at(EAST, 11, ADMIN),
            "tradewind_admin_connections_dropped",
        ),
        (
            at(EAST, host::DNS, DNS),
            at(EAST, host::DNS, ADMIN),
            "tradewind_dns_dropped",
        ),
        (
            at(EAST, host::DNS, ADMIN),
            at(EAST, host::DNS, ADMIN),
            "tradewind_admin_connections_dropped",
        ),
        (
            at(WEST, 100, ADMIN),
            at(WEST, 100, ADMIN),
            "tradewind_admin_connections_dropped",
        ),
        (
            address,
            at(WEST, 100, ADMIN),
            "tradewind_outbound_connections_dropped",
        ),
    ];
    let thrown = garbage();
    for (port, admin, counter) in ports {
        let before = metrics::total(admin, counter, &[]).await.unwrap();
        let mut counted = 0.0;
        for bytes in &thrown {
            for reset in [false, true] {
                throw(port, bytes, reset).await;
                counted += 1.0;
            }
        }
        // A reset may outrun the reading of what came before it: half of them at least were seen for what they were.
        metrics::reaches(admin, counter, &[], before + counted / 2.0).await;
    }
    // The same as datagrams: what is no question gets no answer, and is counted.
    let admin = at(EAST, host::DNS, ADMIN);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let before = metrics::total(admin, "tradewind_dns_dropped", &[])
        .await
        .unwrap();
    let failed = metrics::total(admin, "tradewind_dns_queries", &["malformed"])
        .await
        .unwrap();
    for bytes in &thrown {
        udp.send_to(&bytes[..bytes.len().min(1200)], server)
            .unwrap();
    }
    until("the datagrams to be counted", USUAL, || async {
        let dropped = metrics::total(admin, "tradewind_dns_dropped", &[]).await?;
        let malformed = metrics::total(admin, "tradewind_dns_queries", &["malformed"]).await?;
        let seen = dropped - before + malformed - failed;
        if seen >= thrown.len() as f64 {
            Ok(())
        } else {
            Err(seen.to_string())
        }
    })
    .await;

    // All of it goes on as before.
    assert_eq!(
        http::get(address, "/").await.unwrap().ok().unwrap().text(),
        "payments"
    );
    let name = "payments.shop.svc.clusterset.local.";
    for over in [Over::Udp, Over::Tcp] {
        let answer = dns::ask(server, over, name, RecordType::A).await.unwrap();
        assert_eq!(answer.answers.len(), 1, "{over:?}");
    }
    for cluster in [WEST, EAST] {
        federation.is_well(cluster).await;
    }
    let mut workload = workload;
    let east = &mut federation.clusters[EAST];
    let processes = [
        east.controller.as_mut().unwrap(),
        east.gateway.as_mut().unwrap(),
        workload.proxy.as_mut().unwrap(),
        &mut caller,
        &mut dns_process,
    ];
    for process in processes {
        assert_eq!(process.ended(), None, "{}", process.tail());
        let log = process.log();
        assert!(
            !log.contains("panicked") && !log.contains("bug in tradewind"),
            "{log}"
        );
    }
}
