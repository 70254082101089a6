//! What passes besides plain requests: gRPC, large bodies, WebSockets, raw bytes.

use super::*;

#[tokio::test]
async fn grpc_streams_both_ways_with_trailers() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
        let (mut send, conn) = hyper::client::conn::http2::handshake(Local, io)
            .await
            .unwrap();
        drop(spawn_local("client", async move {
            drop(conn.await);
        }));
        let (tx, rx) = tokio::sync::mpsc::channel::<Result<_, std::convert::Infallible>>(1);
        let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(rx));
        let request = Request::post("http://shop/x")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let response = send.send_request(request);
        let frame = |s: &'static str| Ok(http_body::Frame::data(Bytes::from_static(s.as_bytes())));
        tx.send(frame("one")).await.unwrap();
        let mut response = response.await.unwrap();
        let first = response
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap();
        assert_eq!(first, "one", "an answer comes before the request ends");
        tx.send(frame("two")).await.unwrap();
        assert_eq!(
            response
                .frame()
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap(),
            "two"
        );
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-client", "done".parse().unwrap());
        tx.send(Ok(http_body::Frame::trailers(trailers)))
            .await
            .unwrap();
        drop(tx);
        let last = response
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(last["x-client"], "done");
        assert_eq!(west.heads.borrow()[0].headers()["te"], "trailers");
        assert_eq!(
            west.heads.borrow()[0].headers()["tradewind-version"],
            "HTTP/2.0"
        );
    })
    .await;
}

#[tokio::test]
async fn grpc_errors_are_grpc_errors() {
    on_one_thread(async {
        let world = World::new();
        world.endpoint("w", "west", nowhere().await);
        let proxy = world.proxy().await;
        let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
        let (mut send, conn) = hyper::client::conn::http2::handshake(Local, io)
            .await
            .unwrap();
        drop(spawn_local("client", async move {
            drop(conn.await);
        }));
        let request = Request::post("http://shop/x")
            .header("content-type", "application/grpc+proto")
            .body(Full::new(Bytes::new()))
            .unwrap();
        let r = send.send_request(request).await.unwrap();
        assert_eq!(
            (r.status(), &r.headers()["grpc-status"]),
            (StatusCode::OK, &"14".parse().unwrap())
        );
        assert!(
            r.headers()["grpc-message"]
                .to_str()
                .unwrap()
                .contains("shop/payments:80")
        );
    })
    .await;
}

#[tokio::test]
async fn a_large_body_passes_intact_both_ways() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        let body: Bytes = (0..32u32 << 20)
            .map(|i| (i >> 10) as u8)
            .collect::<Vec<_>>()
            .into();
        let r = client.send("POST", body.clone()).await;
        assert!(r.into_body().collect().await.unwrap().to_bytes() == body);
    })
    .await;
}

#[tokio::test]
async fn a_websocket_is_tunnelled_and_a_refused_one_answered() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let mut s = TcpStream::connect(proxy.address).await.unwrap();
        let ask = |path| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n");
        s.write_all(ask("/chat").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(s.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 ") && head.to_lowercase().contains("upgrade: websocket"), "{head}");
        assert!(head.contains("tradewind-served-by: west/w"), "{head}");
        for word in ["ping", "pong"] {
            s.write_all(word.as_bytes()).await.unwrap();
            let mut got = [0; 4];
            s.read_exact(&mut got).await.unwrap();
            assert_eq!(got, word.as_bytes());
        }
        assert_eq!(west.heads.borrow()[0].uri().authority().unwrap(), "payments.shop.svc.clusterset.local:80");
        let mut s = TcpStream::connect(proxy.address).await.unwrap();
        s.write_all(ask("/no").as_bytes()).await.unwrap();
        let mut got = vec![0; 512];
        let n = s.read(&mut got).await.unwrap();
        assert!(String::from_utf8_lossy(&got[..n]).starts_with("HTTP/1.1 403 "));
    })
    .await;
}

#[tokio::test]
async fn many_bytes_pass_a_tunnel_in_uneven_pieces() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let (mut read, mut write) = TcpStream::connect(proxy.address)
            .await
            .unwrap()
            .into_split();
        let sent: Vec<u8> = (0..20u32 << 20)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let copy = sent.clone();
        let send = async {
            write.write_all(b"\0").await.unwrap();
            let mut dice = fastrand::Rng::with_seed(3);
            let mut rest = &copy[..];
            while !rest.is_empty() {
                let n = dice.usize(1..100_000).min(rest.len());
                write.write_all(&rest[..n]).await.unwrap();
                rest = &rest[n..];
            }
            write.shutdown().await.unwrap();
        };
        let receive = async {
            let mut out = Vec::new();
            read.read_to_end(&mut out).await.unwrap();
            out
        };
        let (got, ()) = tokio::join!(receive, send);
        assert_eq!(got.len(), sent.len() + 1);
        assert!(got[1..] == sent);
    })
    .await;
}

#[tokio::test]
async fn any_bytes_pass_and_half_close_is_kept() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("dead", "west", nowhere().await);
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        for _ in 0..8 {
            let mut s = TcpStream::connect(proxy.address).await.unwrap();
            s.write_all(b"\x00\x01binary").await.unwrap();
            s.shutdown().await.unwrap();
            let mut out = Vec::new();
            s.read_to_end(&mut out).await.unwrap();
            assert_eq!(out, b"\x00\x01binary");
        }
        assert_eq!(west.seen.get(), 8);
    })
    .await;
}

#[tokio::test]
async fn a_silent_client_may_still_turn_out_to_speak_http() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let mut s = TcpStream::connect(proxy.address).await.unwrap();
        until("the proxy takes it for opaque", || west.seen.get() == 1).await;
        s.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut out = String::new();
        s.read_to_string(&mut out).await.unwrap();
        assert!(
            out.starts_with("HTTP/1.1 200 ") && out.contains("tradewind-served-by"),
            "{out}"
        );
    })
    .await;
}

/// An application that opens connections ahead of need: those that nobody used yet are not its endpoint's to break.
#[tokio::test]
async fn a_silent_client_outlives_the_endpoint_that_it_was_led_to() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut http = TcpStream::connect(proxy.address).await.unwrap();
        let mut greeted = TcpStream::connect(proxy.address).await.unwrap();
        until("both are led to west", || west.seen.get() == 2).await;
        east.then([Act::Greet, Act::Greet]);
        west.kill().await;
        let mut words = [0; GREETING.len()];
        greeted.read_exact(&mut words).await.unwrap();
        assert_eq!(words, GREETING.as_bytes());
        let mut heard = [0; GREETING.len()];
        http.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, GREETING.as_bytes());
        let broken = "tradewind_outbound_tunnels_total{service=\"shop/payments:80\",cluster=\"west\",outcome=\"broken\"}";
        assert_eq!(world.count(broken), 2);
    })
    .await;
}

/// The call and the end of the endpoint cross: the call is answered.
#[tokio::test]
async fn the_first_call_of_a_silent_client_survives_its_endpoint() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(TcpStream::connect(proxy.address).await.unwrap());
        }
        until("all are led to west", || west.seen.get() == 8).await;
        west.kill().await;
        for mut client in clients {
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut out = String::new();
            client.read_to_string(&mut out).await.unwrap();
            assert!(out.starts_with("HTTP/1.1 200 "), "{out}");
        }
    })
    .await;
}

/// Where one endpoint after the other breaks at once, the client is told.
#[tokio::test]
async fn a_silent_client_is_not_led_on_for_ever() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        west.then(std::iter::repeat_n(Act::HangUp, 20));
        let proxy = world.proxy().await;
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        // Some are seen to break while they open, and are tried again as any other.
        assert!((4..20).contains(&west.seen.get()), "{}", west.seen.get());
    })
    .await;
}
