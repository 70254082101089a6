//! Every kind of traffic that the proxies carry, across a cluster border: from a caller in the west to an application in
//! the east, whole and unchanged. Real processes; the test is caller and application.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Empty;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Barrier, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tradewind_api::proto::discovery::{
    DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tradewind_tests::{
    apps,
    border::{Before, Border, EAST, WEST},
    grpc,
    http::{Client, get_request},
    process,
    wait::USUAL,
};

/// Connections at once.
const CROWD: usize = 1000;
/// Bytes of the large request.
const UPLOAD: usize = 100_000_000;
/// Bytes of the large response.
const DOWNLOAD: usize = 20_000_000;
/// For what moves many bytes through a debug build on a busy machine.
const LONG: Duration = Duration::from_secs(90);

/// `app` starts the application on a listener; `more` goes behind the address in `--serve`.
async fn border(more: &str, app: impl FnOnce(tokio::net::TcpListener)) -> Border {
    let before = Before::start().await;
    app(apps::bind(before.app).await);
    before.open(more).await
}

fn http_app(listener: tokio::net::TcpListener) {
    apps::http1(listener, "payments", Arc::new(Barrier::new(CROWD)));
}

/// `left` bytes in pieces, made as they are sent: nobody has to hold all of it.
struct Upload {
    sent: usize,
    digest: aws_lc_rs::digest::Context,
    result: std::sync::mpsc::Sender<String>,
}

/// Bytes of one piece: no divisor of any window or frame size.
const PIECE: usize = 99_991;

impl Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let left = UPLOAD - self.sent;
        if left == 0 {
            return Poll::Ready(None);
        }
        let seed = self.sent;
        let piece: Bytes = (0..left.min(PIECE))
            .map(|i| ((seed + i) * 31 % 251) as u8)
            .collect();
        self.digest.update(&piece);
        self.sent += piece.len();
        // Whoever knows the length asks no further than the last piece.
        if self.sent == UPLOAD {
            let digest = self.digest.clone().finish();
            let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
            self.result.send(hex).expect("the test listens");
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((UPLOAD - self.sent) as u64)
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let border = border(",protocol=http1", http_app).await;

    let (result, expected) = std::sync::mpsc::channel();
    let body = Upload {
        sent: 0,
        digest: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256),
        result,
    };
    let request = Request::post("/digest").header("host", "payments.shop");
    let mut client = Client::open(border.address).await.unwrap();
    let answer = timeout(LONG, client.ask(request.body(body).unwrap())).await;
    let answer = answer.expect("100 MB in time").unwrap().ok().unwrap();
    let expected = expected.recv().expect("the whole body was sent");
    assert_eq!(answer.text(), format!("{UPLOAD} {expected}"));

    let mut client = Client::open(border.address).await.unwrap();
    let asked = client.ask(get_request(&format!("/large?{DOWNLOAD}")));
    let answer = timeout(LONG, asked).await.expect("20 MB in time");
    let body = answer.unwrap().ok().unwrap().body;
    assert!(
        body == apps::pattern(DOWNLOAD),
        "{} of {DOWNLOAD} bytes came, or others",
        body.len()
    );

    // The host that the caller asked for, not one that the mesh made up.
    for host in ["payments.shop", "payments.example:8080"] {
        let request = Request::get("/host").header("host", host);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let mut client = Client::open(border.address).await.unwrap();
        assert_eq!(
            client.ask(request).await.unwrap().ok().unwrap().text(),
            host
        );
    }
}

/// A masked text frame (RFC 6455 section 5.2).
fn frame(text: &str) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let length = u8::try_from(text.len()).expect("a short text");
    let mut frame = vec![0x81, 0x80 | length];
    frame.extend(mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}

async fn websocket(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The key and its answer are RFC 6455's example.
    let request = "GET /chat HTTP/1.1\r\nHost: payments.shop\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream
        .write_all(request.as_bytes())
        .await
        .expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a response's head"));
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    for text in ["hello", "", "across the border", "and again"] {
        stream.write_all(&frame(text)).await.expect("a frame sent");
        let mut echoed = vec![0; 2 + text.len()];
        stream.read_exact(&mut echoed).await.expect("a frame back");
        assert_eq!(echoed[0], 0x81, "a whole text frame");
        assert_eq!(&echoed[2..], text.as_bytes());
    }
}

#[tokio::test]
async fn a_thousand_connections_and_a_websocket_at_once() {
    // The roles start as from a shell; the test itself, caller and application in one, needs more.
    process::usual_files();
    let border = border(",protocol=http1", http_app).await;
    process::many_files();
    timeout(USUAL, websocket(border.address))
        .await
        .expect("an echo in time");

    // Nobody is answered before all of them are there.
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        let address = border.address;
        crowd.spawn(async move {
            let mut client = Client::open(address).await?;
            client.ask(get_request("/barrier")).await?.ok()
        });
    }
    let answers = timeout(LONG, crowd.join_all()).await;
    let answers = answers.expect("all of them there in time");
    let failed: Vec<_> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert!(answers.iter().flatten().all(|a| a.text() == "all here"));
    timeout(USUAL, websocket(border.address))
        .await
        .expect("an echo after the crowd");
}

#[tokio::test]
async fn grpc_streams_both_ways_with_trailers() {
    let border = border(",protocol=http2", grpc::serve).await;
    let url = format!("http://{}", border.address);
    let mut client = AggregatedDiscoveryServiceClient::connect(url)
        .await
        .unwrap();
    let message = |kind: &str, n: usize| DeltaDiscoveryRequest {
        type_url: kind.to_owned(),
        response_nonce: n.to_string(),
        // Larger than a frame, so that messages are cut and joined on the way.
        resource_names_unsubscribe: vec!["x".repeat(20_000)],
        ..Default::default()
    };

    // Each message is sent only after the one before it came back: both directions flow at once.
    let (send, requests) = mpsc::channel(1);
    let opened = client.delta_aggregated_resources(ReceiverStream::new(requests));
    let mut stream = timeout(USUAL, opened).await.unwrap().unwrap().into_inner();
    for n in 0..20 {
        send.send(message("echo", n)).await.unwrap();
        let echoed = timeout(USUAL, stream.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(
            (echoed.type_url.as_str(), echoed.nonce),
            ("echo", n.to_string())
        );
        assert_eq!(echoed.removed_resources[0].len(), 20_000);
    }
    drop(send);
    let end = timeout(USUAL, stream.next()).await.unwrap();
    assert!(end.is_none(), "the status in the trailers is OK: {end:?}");
    assert!(stream.trailers().await.unwrap().is_some(), "trailers came");

    // An error after a message comes in trailers, with its text and what goes with it.
    let (send, requests) = mpsc::channel(2);
    send.send(message("echo", 1)).await.unwrap();
    send.send(message(grpc::FAIL, 2)).await.unwrap();
    let opened = client.delta_aggregated_resources(ReceiverStream::new(requests));
    let mut stream = timeout(USUAL, opened).await.unwrap().unwrap().into_inner();
    let echoed = timeout(USUAL, stream.next()).await.unwrap();
    assert_eq!(echoed.unwrap().unwrap().nonce, "1");
    let error = timeout(USUAL, stream.next()).await.unwrap();
    let error = error.unwrap().expect_err("an error");
    assert_eq!((error.code(), error.message()), (grpc::CODE, grpc::MESSAGE));
    let why = error.metadata().get(grpc::TRAILER.0).expect("the trailer");
    assert_eq!(why.to_str().unwrap(), grpc::TRAILER.1);

    // A client whose service nobody serves is told so in gRPC's own words.
    let (_other, nobody) = border.federation.caller(WEST, 1, "shop/nobody:80").await;
    let url = format!("http://{nobody}");
    let mut client = AggregatedDiscoveryServiceClient::connect(url)
        .await
        .unwrap();
    let requests = futures::stream::iter([message("echo", 1)]);
    let refused = timeout(USUAL, client.delta_aggregated_resources(requests)).await;
    let refused = refused.unwrap().expect_err("nobody is there");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
}

/// The server speaks first; then both; then the client's half ends and the server still speaks.
async fn conversation(address: SocketAddr, greeting: &str) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let mut heard = vec![0; greeting.len()];
    stream.read_exact(&mut heard).await.expect("a greeting");
    assert_eq!(heard, greeting.as_bytes());
    let sent = apps::pattern(300_000);
    let (mut read, mut write) = stream.split();
    let writing = async {
        write.write_all(&sent).await.expect("bytes sent");
        write.shutdown().await.expect("our half closed");
    };
    let mut echoed = Vec::new();
    let (_, reading) = tokio::join!(writing, read.read_to_end(&mut echoed));
    reading.expect("an orderly end");
    assert_eq!(echoed.len(), sent.len() + 3);
    assert!(echoed.starts_with(&sent), "other bytes came back");
    assert!(
        echoed.ends_with(b"bye"),
        "the end came before the last word"
    );
}

#[tokio::test]
async fn opaque_connections_keep_order_and_half_close() {
    const GREETING: &str = "220 payments ready\r\n";
    let border = border(",protocol=tcp", |l| apps::server_first(l, GREETING)).await;
    timeout(USUAL, conversation(border.address, GREETING))
        .await
        .expect("a conversation in time");

    // The same where nobody said what the service speaks.
    let federation = &border.federation;
    let listen = federation.addr(EAST, 12, 8080);
    apps::server_first(apps::bind(listen).await, GREETING);
    let spec = format!("shop/mail:25={listen}");
    let _mail = federation.serve(EAST, 2, &spec, &[]).await;
    federation.export(EAST, "shop/mail").await;
    federation.sees(WEST, "shop/mail", 1).await;
    let (_caller, address) = federation.caller(WEST, 1, "shop/mail:25").await;
    timeout(USUAL, conversation(address, GREETING))
        .await
        .expect("a conversation in time");

    // A service that nobody serves is a reset, which no protocol takes for an answer; never a silent end.
    let (_other, nobody) = federation.caller(WEST, 2, "shop/nobody:25").await;
    let mut stream = TcpStream::connect(nobody).await.unwrap();
    let ended = timeout(USUAL, stream.read_u8()).await.expect("an end");
    let error = ended.expect_err("nobody speaks");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test]
async fn http2_callers_reach_http1_applications() {
    let border = border(",protocol=http1", http_app).await;
    let stream = TcpStream::connect(border.address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tradewind_runtime::task::spawn("test h2 client", async move {
        drop(connection.await);
    });
    let request = Request::get("http://payments.example/host")
        .body(())
        .unwrap();
    let mut send = send.ready().await.unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let (head, mut body) = timeout(USUAL, response)
        .await
        .unwrap()
        .unwrap()
        .into_parts();
    assert_eq!(head.status, StatusCode::OK);
    let data = body.data().await.unwrap().unwrap();
    assert_eq!(data, "payments.example");
}
