//! Outbound against peers on real sockets that refuse, reset, vanish and come back.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tradewind_api::model::{ClusterState, Health};
use tradewind_runtime::{clock::ManualClock, task::spawn_local};

use super::connection::Local;

mod captured;
mod distance;
mod early;
mod exit;
mod peer;
mod persistence;
mod protocols;
mod rules;
mod silence;
mod streams;
mod taker;
mod telemetry;
mod traffic;
mod world;

use peer::{Act, GREETING, Peer, gateway, nowhere, raw};
use world::{World, cluster, now_ms, on_one_thread, until};

/// A client with one HTTP/1.1 connection to the proxy.
struct Client(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

impl Client {
    async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let io = TokioIo::new(stream);
        let (send, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
        drop(spawn_local("client", async move {
            drop(conn.await);
        }));
        Self(send)
    }

    async fn send(&mut self, method: &str, body: Bytes) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "x")
            .body(Full::new(body))
            .unwrap();
        self.0.ready().await.unwrap();
        self.0.send_request(request).await.unwrap()
    }

    async fn get(&mut self) -> (StatusCode, String) {
        let r = self.send("GET", Bytes::new()).await;
        let by = r
            .headers()
            .get("x-peer")
            .map(|v| v.to_str().unwrap().to_owned())
            .unwrap_or_default();
        let status = r.status();
        r.into_body().collect().await.unwrap();
        (status, by)
    }
}

#[tokio::test]
async fn a_request_reaches_the_local_endpoint_and_comes_back_whole() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        let r = client.send("POST", Bytes::from_static(b"hello")).await;
        assert_eq!(r.headers()["tradewind-served-by"], "west/w");
        assert!(r.headers().get("tradewind-service").is_none());
        assert_eq!(r.into_body().collect().await.unwrap().to_bytes(), "hello");
        let head = &west.heads.borrow()[0];
        assert_eq!(head.headers()["tradewind-service"], "shop/payments:80");
        assert_eq!(head.headers()["tradewind-version"], "HTTP/1.1");
        assert_eq!(head.headers()["x-request-id"].len(), 36);
        assert_eq!(head.uri().to_string(), "http://x/");
        assert_eq!(east.seen.get(), 0);
        assert_eq!(world.count("tradewind_outbound_requests_total{service=\"shop/payments:80\",cluster=\"west\",outcome=\"ok\"}"), 1);
    })
    .await;
}

#[tokio::test]
async fn a_killed_endpoint_costs_no_request_and_comes_back_ramped() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await, (StatusCode::OK, "w".into()));
        let address = west.kill().await;
        for _ in 0..20 {
            assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        }
        assert!(world.count("tradewind_outbound_ejections_total") >= 1);
        tokio::time::sleep(Duration::from_millis(600)).await;
        let back = Peer::start_as(&world, "w", "west", "payments", Some(address)).await;
        // Its cluster says that it is back.
        world.set_health("w", Health::Unhealthy);
        client.get().await;
        world.set_health("w", Health::Healthy);
        let mut calls = 0;
        while back.seen.get() == 0 {
            assert_eq!(client.get().await.0, StatusCode::OK);
            calls += 1;
        }
        assert!(calls > 1, "not all calls come home at once");
        let mut home = 0;
        while home < 50 {
            let (status, by) = client.get().await;
            assert_eq!(status, StatusCode::OK);
            home = if by == "w" { home + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_thread_without_calls_finds_out_who_is_back() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await.1, "w");
        let address = west.kill().await;
        assert_eq!(client.get().await.1, "e");
        let back = Peer::start_as(&world, "w", "west", "payments", Some(address)).await;
        // Nobody calls: the thread has to look by itself.
        until("a session without a call", || back.connections.get() > 0).await;
        assert_eq!(back.seen.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn what_was_not_processed_goes_elsewhere_whatever_its_method() {
    on_one_thread(async {
        for act in [Act::Unprocessed, Act::Refuse] {
            let world = World::new();
            let west = Peer::start(&world, "w", "west").await;
            let east = Peer::start(&world, "e", "east").await;
            world.endpoint("w", "west", west.address);
            world.endpoint("e", "east", east.address);
            let proxy = world.proxy().await;
            west.then([act]);
            let mut client = Client::connect(proxy.address).await;
            let r = client.send("POST", Bytes::from_static(b"order")).await;
            assert_eq!(
                (r.status(), r.headers()["x-peer"].to_str().unwrap()),
                (StatusCode::OK, "e")
            );
            assert_eq!(r.into_body().collect().await.unwrap().to_bytes(), "order");
            assert_eq!((west.seen.get(), east.seen.get()), (1, 1));
        }
    })
    .await;
}

#[tokio::test]
async fn what_may_have_been_processed_is_repeated_only_if_idempotent() {
    on_one_thread(async {
        for act in [Act::Reset, Act::AppFailed, Act::Vanish] {
            let world = World::new();
            let west = Peer::start(&world, "w", "west").await;
            let east = Peer::start(&world, "e", "east").await;
            world.endpoint("w", "west", west.address);
            world.endpoint("e", "east", east.address);
            let proxy = world.proxy().await;
            let mut client = Client::connect(proxy.address).await;
            west.then([act.clone()]);
            let r = client.send("POST", Bytes::from_static(b"order")).await;
            assert_eq!(r.status(), StatusCode::BAD_GATEWAY, "{act:?}");
            assert_eq!(r.headers()["tradewind-error"], "lost");
            let text =
                String::from_utf8(r.into_body().collect().await.unwrap().to_bytes().to_vec())
                    .unwrap();
            assert!(
                text.contains("shop/payments:80") && text.contains("west/w"),
                "{text}"
            );
            assert_eq!(east.seen.get(), 0, "an order is not placed twice");
            until("the endpoint is back", || {
                !proxy.outbound.state_json().to_string().contains("prob")
            })
            .await;
            west.then([act]);
            let r = client.send("PUT", Bytes::from_static(b"state")).await;
            assert_eq!(r.status(), StatusCode::OK);
            assert_eq!(r.into_body().collect().await.unwrap().to_bytes(), "state");
            assert_eq!((west.seen.get(), east.seen.get()), (2, 1));
        }
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_cannot_be_replayed_is_not() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        west.then([Act::Vanish]);
        let mut client = Client::connect(proxy.address).await;
        let r = client.send("PUT", Bytes::from(vec![7; 1 << 20])).await;
        assert_eq!(r.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(east.seen.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_mistaken_for_a_whole_one() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        west.then([Act::BreakOff]);
        let mut client = Client::connect(proxy.address).await;
        let r = client.send("GET", Bytes::new()).await;
        assert_eq!(r.status(), StatusCode::OK);
        west.go.notify_one();
        assert!(r.into_body().collect().await.is_err());
        assert_eq!(world.count("tradewind_outbound_requests_total{service=\"shop/payments:80\",cluster=\"west\",outcome=\"broken\"}"), 1);
    })
    .await;
}

#[tokio::test]
async fn an_impostor_is_refused_and_the_true_one_serves() {
    on_one_thread(async {
        let world = World::new();
        // A true member of the mesh, but another service's workload.
        let impostor = Peer::start_as(&world, "i", "west", "invoices", None).await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", impostor.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        assert_eq!(impostor.seen.get(), 0);
        assert_eq!(world.count("tradewind_outbound_ejections_total{service=\"shop/payments:80\",cluster=\"west\",cause=\"identity\"}"), 1);
    })
    .await;
}

#[tokio::test]
async fn a_revoked_cluster_is_left_at_once_live_streams_included() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        east.then([Act::EchoLater]);
        let waiting = client.send("POST", Bytes::from_static(b"x"));
        let revoke = async {
            until("the stream is open", || east.seen.get() == 1).await;
            world.endpoint("w", "west", west.address);
            let mut trust = world.trust_map.clone();
            trust
                .authorities
                .remove(&world.domain.trust_domain(&cluster("east")));
            world.trust.set(&trust).unwrap();
        };
        let (r, ()) = tokio::join!(waiting, revoke);
        assert_eq!(r.status(), StatusCode::BAD_GATEWAY);
        let text =
            String::from_utf8(r.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert!(text.contains("no longer trusted"), "{text}");
        assert_eq!(client.get().await, (StatusCode::OK, "w".into()));
        assert_eq!(east.seen.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_dead_gateway_is_passed_by_and_a_dead_cluster_left() {
    on_one_thread(async {
        let world = World::new();
        let central = Peer::start(&world, "c", "central").await;
        let east = Peer::start(&world, "e", "east").await;
        let (east_gateway, _e) = gateway(east.address).await;
        let (central_gateway, central_task) = gateway(central.address).await;
        world.endpoint("c", "central", central.address);
        world.endpoint("e", "east", east.address);
        let dead = nowhere().await;
        world.behind("c", &[dead, central_gateway]);
        world.behind("e", &[east_gateway]);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(
            client.get().await,
            (StatusCode::OK, "c".into()),
            "related region first"
        );
        central_task.abort();
        central.kill().await;
        for _ in 0..20 {
            assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        }
    })
    .await;
}

#[tokio::test]
async fn a_draining_cluster_serves_nothing_while_others_can() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await.1, "w");
        world.change(|s| {
            let west = s.clusters.get_mut(&cluster("west")).unwrap();
            std::sync::Arc::make_mut(west).state = ClusterState::Draining;
        });
        for _ in 0..10 {
            assert_eq!(client.get().await.1, "e");
        }
        east.kill().await;
        assert_eq!(
            client.get().await,
            (StatusCode::OK, "w".into()),
            "better than nobody"
        );
    })
    .await;
}

#[tokio::test]
async fn many_waiting_callers_share_one_dial() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let calls = (0..50).map(|_| async { Client::connect(proxy.address).await.get().await });
        for (status, _) in futures::future::join_all(calls).await {
            assert_eq!(status, StatusCode::OK);
        }
        assert_eq!((west.seen.get(), west.connections.get()), (50, 1));
    })
    .await;
}

#[tokio::test]
async fn errors_name_the_service_what_was_tried_and_why() {
    on_one_thread(async {
        let world = World::new();
        let dead = nowhere().await;
        world.endpoint("w", "west", dead);
        let proxy = world.proxy().await;
        let text = raw(
            proxy.address,
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        assert!(
            text.contains("tradewind-error: no-endpoint-answered"),
            "{text}"
        );
        assert!(
            text.contains("west/w") && text.contains(&dead.to_string()),
            "{text}"
        );
        assert!(text.contains("refused"), "{text}");
        world.change(|s| s.services.clear());
        let text = raw(
            proxy.address,
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(text.contains("tradewind-error: unknown-service"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_says_goodbye_costs_no_request() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let mut slow = Client::connect(proxy.address).await;
        let mut client = Client::connect(proxy.address).await;
        west.then([Act::EchoLater]);
        let under_way = async {
            let r = slow.send("POST", Bytes::from_static(b"long")).await;
            r.into_body().collect().await.unwrap().to_bytes()
        };
        let others = async {
            until("the long request is there", || west.seen.get() == 1).await;
            for round in 1..=20 {
                west.goodbye.notify_waiters();
                for _ in 0..10 {
                    let r = client.send("POST", Bytes::from_static(b"short")).await;
                    assert_eq!(r.status(), StatusCode::OK, "round {round}");
                    r.into_body().collect().await.unwrap();
                }
            }
            west.go.notify_one();
        };
        let (long, ()) = tokio::join!(under_way, others);
        assert_eq!(long, "long");
        assert!(west.connections.get() > 1);
        assert_eq!(world.count("tradewind_outbound_ejections_total"), 0);
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_restarts_is_waited_for() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await.0, StatusCode::OK);
        let address = west.kill().await;
        let restart = async {
            until("somebody noticed", || {
                world.count("tradewind_outbound_retries_total") > 0
            })
            .await;
            Peer::start_as(&world, "w", "west", "payments", Some(address)).await
        };
        let (got, back) = tokio::join!(client.get(), restart);
        assert_eq!(got, (StatusCode::OK, "w".into()));
        assert_eq!(back.seen.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_appears_in_time_is_waited_for() {
    on_one_thread(async {
        let world = World::new();
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        let west = Peer::start(&world, "w", "west").await;
        let come = async {
            // The request is sent in the first poll of the other future; nobody can answer it yet.
            tokio::time::sleep(Duration::from_millis(20)).await;
            world.endpoint("w", "west", west.address);
        };
        let (got, ()) = tokio::join!(client.get(), come);
        assert_eq!(got, (StatusCode::OK, "w".into()));
    })
    .await;
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_takes_nothing_new() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let mut proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        west.then([Act::EchoLater]);
        let trigger = proxy.trigger.take().unwrap();
        let drain = async {
            until("the request is under way", || west.seen.get() == 1).await;
            let drained = spawn_local("drain", trigger.drain(Duration::from_secs(10)));
            while TcpStream::connect(proxy.address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            west.go.notify_one();
            drained.await.unwrap()
        };
        let request = async {
            let r = client.send("POST", Bytes::from_static(b"last")).await;
            r.into_body().collect().await.unwrap().to_bytes()
        };
        let (body, in_order) = tokio::join!(request, drain);
        assert_eq!(body, "last");
        assert!(in_order, "nothing had to be forced");
        proxy.served.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_forced_drain_ends_what_does_not_finish() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let mut proxy = world.proxy().await;
        let mut s = TcpStream::connect(proxy.address).await.unwrap();
        s.write_all(b"\x00opaque").await.unwrap();
        s.read_u8().await.unwrap();
        assert!(
            !proxy
                .trigger
                .take()
                .unwrap()
                .drain(Duration::from_millis(50))
                .await
        );
        proxy.served.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_next_tier_has_a_session_before_it_is_needed_and_others_have_none() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let central = Peer::start(&world, "c", "central").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("c", "central", central.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await, (StatusCode::OK, "w".into()));
        until("a session with the next tier", || {
            central.connections.get() == 1
        })
        .await;
        assert_eq!(client.get().await, (StatusCode::OK, "w".into()));
        assert_eq!((central.seen.get(), east.connections.get()), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_gap() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await.0, StatusCode::OK);
        world.control.svid.set(world.svid("west", "caller"));
        while west.connections.get() < 2 {
            assert_eq!(client.get().await.0, StatusCode::OK);
        }
        for _ in 0..10 {
            assert_eq!(client.get().await.0, StatusCode::OK);
        }
        assert_eq!(
            west.connections.get(),
            2,
            "one successor, not one per request"
        );
    })
    .await;
}

#[tokio::test]
async fn without_an_own_certificate_nobody_else_is_blamed() {
    on_one_thread(async {
        let mut world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let svid = world.svid("west", "caller");
        world.control.svid = tradewind_transport::svid::SvidCell::empty();
        let proxy = world.proxy().await;
        let text = raw(
            proxy.address,
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(text.contains("this proxy has no certificate yet"), "{text}");
        world.control.svid.set(svid);
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await.0, StatusCode::OK);
        assert_eq!(world.count("tradewind_outbound_ejections_total"), 0);
    })
    .await;
}

#[tokio::test]
async fn a_full_session_gets_company() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        west.then(vec![Act::EchoLater; 600]);
        let calls = (0..600).map(|_| async { Client::connect(proxy.address).await.get().await });
        let all = futures::future::join_all(calls);
        let release = async {
            until("all requests arrived", || west.seen.get() == 600).await;
            loop {
                // A stream may count as seen before it waits.
                west.go.notify_waiters();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let all = tokio::select! {
            all = all => all,
            () = release => unreachable!(),
        };
        assert!(all.iter().all(|(status, _)| *status == StatusCode::OK));
        assert_eq!(west.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn weights_hold_over_the_healthy() {
    on_one_thread(async {
        let world = World::new();
        let heavy = Peer::start(&world, "h", "west").await;
        let light = Peer::start(&world, "l", "west").await;
        world.endpoint("h", "west", heavy.address);
        world.endpoint("l", "west", light.address);
        world.endpoint("dead", "west", nowhere().await);
        world.change_service(|s| s.endpoints[0].weight = 300);
        let still = ManualClock::new(now_ms());
        let proxy = world.proxy_at(still.shared()).await;
        let mut client = Client::connect(proxy.address).await;
        for _ in 0..600 {
            assert_eq!(client.get().await.0, StatusCode::OK);
        }
        let share = heavy.seen.get() as f64 / 600.0;
        assert!((0.70..0.80).contains(&share), "{share}");
    })
    .await;
}

#[tokio::test]
async fn the_state_says_who_serves_and_why_not_the_others() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        Client::connect(proxy.address).await.get().await;
        let state = proxy.outbound.state_json();
        let service = &state["services"][0];
        assert_eq!(service["service"], "shop/payments:80");
        assert_eq!(service["endpoints"][0]["verdict"], "serves in tier 0");
        assert_eq!(service["tiers"][0]["distance"], "same cluster");
        let standby = service["endpoints"][1]["verdict"].as_str().unwrap();
        assert!(standby.starts_with("stands by"), "{standby}");
        until("other threads can read it", || {
            proxy.outbound.state_cell().load()["services"][0]["service"] == "shop/payments:80"
        })
        .await;
    })
    .await;
}
