//! Captured connections that speak HTTP/2 in clear to an address that is no service's.

use std::{cell::Cell, rc::Rc, sync::Arc};

use arc_swap::ArcSwap;
use hyper::{client::conn::http2, service::service_fn};
use tokio::net::TcpListener;
use tradewind_runtime::drain;

use super::{peer::GREETING, world::Running, *};
use crate::{
    capture::{Unknown, index::Index, metrics::CaptureMetrics},
    outbound::captured::{Captured, serve_to},
};

const FATES: &str = "tradewind_capture_outbound_total";
const SERVICE_HOST: &str = "payments.shop.svc.clusterset.local";

/// A server outside of the mesh that speaks HTTP/2 in clear: the body comes back, with trailers; says nothing before it is asked
/// unless it is one that `greets`.
struct Outside {
    address: SocketAddr,
    connections: Rc<Cell<usize>>,
    ended: Rc<Cell<usize>>,
    /// Every connection ends.
    end: Rc<tokio::sync::Notify>,
}

impl Outside {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outside = Self {
            address: listener.local_addr().unwrap(),
            connections: Rc::default(),
            ended: Rc::default(),
            end: Rc::default(),
        };
        let (connections, end) = (Rc::clone(&outside.connections), Rc::clone(&outside.end));
        let all_ended = Rc::clone(&outside.ended);
        drop(spawn_local("outside", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.set(connections.get() + 1);
                let (end, ended) = (Rc::clone(&end), Rc::clone(&all_ended));
                drop(spawn_local("outside_connection", async move {
                    // Its settings leave before anything was heard.
                    let served = hyper::server::conn::http2::Builder::new(Local)
                        .serve_connection(TokioIo::new(stream), service_fn(outside_answer));
                    tokio::select! {
                        served = served => drop(served),
                        () = end.notified() => {}
                    }
                    // The connection was dropped with what served it.
                    ended.set(ended.get() + 1);
                }));
            }
        }));
        outside
    }
}

async fn outside_answer(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = hyper::Error>>, h2::Error> {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == "/reset" {
        return Err(h2::Reason::ENHANCE_YOUR_CALM.into());
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-end", "outside".parse().unwrap());
    let authority = parts.uri.authority().unwrap().as_str();
    let kept = parts.headers.get("tradewind-service");
    Ok(Response::builder()
        .header("x-authority", authority)
        .header("x-path", parts.uri.path())
        .header("x-kept", kept.cloned().unwrap_or("no".parse().unwrap()))
        .body(body.with_trailers(async move { Some(Ok(trailers)) }))
        .unwrap())
}

/// Captures what comes to its address as if it had been meant for another.
pub(super) struct Capturing {
    pub(super) address: SocketAddr,
    _proxy: Running,
}

impl Capturing {
    pub(super) async fn start(world: &World, unknown: Unknown, meant: SocketAddr) -> Self {
        let proxy = world.proxy().await;
        let snapshot = Arc::clone(&world.control.snapshot.borrow());
        let captured = Rc::new(Captured {
            index: Arc::new(ArcSwap::from_pointee(Index::new(snapshot))),
            unknown,
            mark: None,
            metrics: CaptureMetrics::register(&world.metrics),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let outbound = Rc::clone(&proxy.outbound);
        drop(spawn_local("capturing", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (outbound, captured) = (Rc::clone(&outbound), Rc::clone(&captured));
                let (trigger, watch) = drain::channel();
                drop(spawn_local("captured", async move {
                    serve_to(outbound, captured, stream, meant, watch).await;
                    drop(trigger);
                }));
            }
        }));
        Self {
            address,
            _proxy: proxy,
        }
    }
}

/// One connection that speaks HTTP/2 with prior knowledge.
struct Http2(http2::SendRequest<Full<Bytes>>);

struct Said {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
    trailers: Option<http::HeaderMap>,
}

impl Http2 {
    async fn connect(to: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(to).await.unwrap());
        let (send, conn) = http2::handshake(Local, io).await.unwrap();
        drop(spawn_local("client", async move {
            drop(conn.await);
        }));
        Self(send)
    }

    async fn ask(&self, authority: &str, path: &str) -> Result<Said, hyper::Error> {
        let request = Request::post(format!("http://{authority}{path}"))
            .header("tradewind-service", "kept")
            .body(Full::new(Bytes::from_static(b"body")))
            .unwrap();
        let (parts, body) = self.0.clone().send_request(request).await?.into_parts();
        let whole = body.collect().await?;
        Ok(Said {
            status: parts.status,
            headers: parts.headers,
            trailers: whole.trailers().cloned(),
            body: whole.to_bytes(),
        })
    }
}

fn count(world: &World, fate: &str) -> u64 {
    world.count(&format!("{FATES}{{result=\"{fate}\"}}"))
}

/// A world whose service has the port that the outside server has: the same connection may ask for both.
async fn world_with(port: u16) -> (World, Peer) {
    let world = World::new();
    let west = Peer::start(&world, "w", "west").await;
    world.endpoint("w", "west", west.address);
    world.change_service(|s| {
        s.ports[0].port = port;
        s.endpoints[0].ports = vec![port];
    });
    (world, west)
}

#[tokio::test]
async fn each_request_goes_where_its_authority_says() {
    on_one_thread(async {
        let outside = Outside::start().await;
        let (world, west) = world_with(outside.address.port()).await;
        let capturing = Capturing::start(&world, Unknown::Pass, outside.address).await;
        let client = Http2::connect(capturing.address).await;
        for _ in 0..2 {
            let said = client.ask(SERVICE_HOST, "/in").await.unwrap();
            assert_eq!(said.headers["x-peer"], "w");
            assert_eq!(said.headers["tradewind-served-by"], "west/w");
            assert_eq!(said.body, "body");
            let said = client.ask("outside.example:1", "/out?x").await.unwrap();
            assert_eq!(said.headers["x-authority"], "outside.example:1");
            assert_eq!(said.headers["x-path"], "/out");
            assert_eq!(said.headers["x-kept"], "kept", "it is not ours to change");
            assert_eq!(said.body, "body");
            assert_eq!(said.trailers.unwrap()["x-end"], "outside");
        }
        assert_eq!(
            west.heads.borrow()[0].headers()["tradewind-service"],
            format!("shop/payments:{}", outside.address.port()).as_str(),
        );
        assert_eq!(outside.connections.get(), 1, "one serves them all");
        assert_eq!(west.seen.get(), 2);
        // By its first request, once.
        assert_eq!((count(&world, "host"), count(&world, "passed")), (1, 0));
        assert_eq!(world.count("tradewind_capture_passing"), 1);

        let other = Http2::connect(capturing.address).await;
        let error = other.ask("outside.example", "/reset").await.err().unwrap();
        let reason = std::error::Error::source(&error)
            .and_then(|e| e.downcast_ref::<h2::Error>())
            .and_then(h2::Error::reason);
        assert_eq!(reason, Some(h2::Reason::ENHANCE_YOUR_CALM), "as it was");
        assert_eq!(count(&world, "passed"), 1);
        drop((client, other));
        until("the ways on end with their clients", || {
            world.count("tradewind_capture_passing") == 0
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_way_on_that_ended_is_made_anew() {
    on_one_thread(async {
        let outside = Outside::start().await;
        let (world, _west) = world_with(outside.address.port()).await;
        let capturing = Capturing::start(&world, Unknown::Pass, outside.address).await;
        let client = Http2::connect(capturing.address).await;
        client.ask(SERVICE_HOST, "/").await.unwrap();
        assert_eq!(outside.connections.get(), 1, "dialled, and not used yet");
        for connections in 2..4 {
            until("the way on has ended", || {
                outside.end.notify_waiters();
                outside.ended.get() == connections - 1
            })
            .await;
            until("and it is known", || {
                world.count("tradewind_capture_passing") == 0
            })
            .await;
            let said = client.ask("outside.example", "/").await.unwrap();
            assert_eq!(said.status, StatusCode::OK);
            assert_eq!(outside.connections.get(), connections);
        }
    })
    .await;
}

#[tokio::test]
async fn what_names_nobody_is_refused_where_it_is_to_be() {
    on_one_thread(async {
        let outside = Outside::start().await;
        let (world, west) = world_with(outside.address.port()).await;
        let capturing = Capturing::start(&world, Unknown::Refuse, outside.address).await;
        let client = Http2::connect(capturing.address).await;
        let said = client.ask("outside.example", "/").await.unwrap();
        assert_eq!(said.status, StatusCode::FORBIDDEN);
        assert_eq!(said.headers["tradewind-error"], "unknown-destination");
        let text = String::from_utf8(said.body.to_vec()).unwrap();
        let address = outside.address.to_string();
        assert!(
            text.contains(&address) && text.contains("--unknown refuse"),
            "{text}"
        );
        let said = client.ask(SERVICE_HOST, "/").await.unwrap();
        assert_eq!(said.headers["x-peer"], "w", "the mesh still may be called");
        assert_eq!(count(&world, "refused"), 1);
        assert_eq!((outside.connections.get(), west.seen.get()), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn where_nobody_listens_the_mesh_may_still_be_called() {
    on_one_thread(async {
        let gone = nowhere().await;
        let (world, _west) = world_with(gone.port()).await;
        let capturing = Capturing::start(&world, Unknown::Pass, gone).await;
        let client = Http2::connect(capturing.address).await;
        let said = client.ask("outside.example", "/").await.unwrap();
        assert_eq!(said.status, StatusCode::BAD_GATEWAY);
        assert_eq!(said.headers["tradewind-error"], "unreached-destination");
        let said = client.ask(SERVICE_HOST, "/").await.unwrap();
        assert_eq!(said.headers["x-peer"], "w");
        assert_eq!(count(&world, "unreached"), 1);
        // A client that says no more than that it speaks HTTP/2 was nobody's.
        let silent = Http2::connect(capturing.address).await;
        drop(silent);
        until("it is counted", || count(&world, "ended") == 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_cluster_ip_leads_into_the_mesh_and_fails_over() {
    on_one_thread(async {
        let world = World::new();
        let east = Peer::start(&world, "e", "east").await;
        world.change_service(|s| {
            s.cluster_ips = vec!["10.96.0.7".parse().unwrap()];
            s.exported_by.clear();
        });
        let meant = "10.96.0.7:80".parse().unwrap();
        // Nobody with a proxy has it: whoever served it before may, and here nobody unknown is let through.
        let capturing = Capturing::start(&world, Unknown::Refuse, meant).await;
        let mut client = TcpStream::connect(capturing.address).await.unwrap();
        let mut answer = Vec::new();
        assert!(
            client.read_to_end(&mut answer).await.is_err(),
            "it is reset"
        );
        assert_eq!((count(&world, "refused"), count(&world, "service")), (1, 0));

        // One of its own cluster that is gone, and one elsewhere.
        world.endpoint("w", "west", nowhere().await);
        world.endpoint("e", "east", east.address);
        let capturing = Capturing::start(&world, Unknown::Refuse, meant).await;
        let mut client = Client::connect(capturing.address).await;
        for _ in 0..3 {
            let response = client.send("GET", Bytes::new()).await;
            assert_eq!(response.headers()["tradewind-served-by"], "east/e");
        }
        assert_eq!(count(&world, "service"), 1);
    })
    .await;
}

/// A cluster without an export has another service of that name.
#[tokio::test]
async fn the_clustersets_address_means_exporters_alone() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("w", "west", west.address);
        world.endpoint("e", "east", east.address);
        world.change_service(|s| {
            s.clusterset_ips = vec!["240.240.0.1".parse().unwrap()];
            s.cluster_ips = vec!["10.96.0.7".parse().unwrap()];
            s.exported_by = [cluster("east")].into();
        });
        let start = async |meant: &str| {
            let capturing = Capturing::start(&world, Unknown::Refuse, meant.parse().unwrap());
            let capturing = capturing.await;
            (Client::connect(capturing.address).await, capturing)
        };
        let (mut by_cluster_ip, _captures) = start("10.96.0.7:80").await;
        let (mut in_clusterset, capturing) = start("240.240.0.1:80").await;
        for _ in 0..3 {
            assert_eq!(in_clusterset.get().await, (StatusCode::OK, "e".into()));
            assert_eq!(by_cluster_ip.get().await, (StatusCode::OK, "w".into()));
        }
        // And streams of bytes.
        east.then([Act::Echo]);
        let mut stream = TcpStream::connect(capturing.address).await.unwrap();
        stream.write_all(b"\x16\x03 no request").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"\x16\x03 no request");
        assert_eq!((west.seen.get(), east.seen.get()), (3, 4));

        // With an export of its own it is the same service, for open connections too.
        world.change_service(|s| s.exported_by.extend([cluster("west")]));
        // While nobody has dialled it here, one that has a session may answer.
        while in_clusterset.get().await != (StatusCode::OK, "w".into()) {
            assert!(east.seen.get() < 50, "the own cluster's is not asked");
        }
        // And without: nobody else is asked where exporters are gone.
        world.change_service(|s| {
            s.exported_by = [cluster("east")].into();
            s.endpoints.retain(|e| e.cluster == cluster("west"));
        });
        let (status, _) = in_clusterset.get().await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(west.seen.get(), 4);
    })
    .await;
}

/// West's endpoints `a` and `b`, whose applications listen at ports 1 and 2 of one host.
async fn two_at_their_own_ports() -> (World, Peer, Peer) {
    let world = World::new();
    let a = Peer::start(&world, "a", "west").await;
    let b = Peer::start(&world, "b", "west").await;
    for (id, peer, target) in [("a", &a, 1), ("b", &b, 2)] {
        world.endpoint(id, "west", peer.address);
        world.change_service(|s| s.endpoints.last_mut().unwrap().targets = [(80, target)].into());
    }
    (world, a, b)
}

#[tokio::test]
async fn who_dials_an_endpoint_gets_that_one_and_no_other() {
    on_one_thread(async {
        let (world, a, b) = two_at_their_own_ports().await;
        // Not well by its cluster's word, and dialled all the same.
        world.set_health("b", Health::Unhealthy);
        b.then([Act::Greet, Act::Echo, Act::Echo]);
        let meant = "127.0.0.1:2".parse().unwrap();
        let capturing = Capturing::start(&world, Unknown::Refuse, meant).await;
        let mut first = TcpStream::connect(capturing.address).await.unwrap();
        let mut heard = vec![0; GREETING.len()];
        first.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, GREETING.as_bytes(), "the server spoke first");
        for words in ["GET is no request here", "\x16\x03 nor is this TLS"] {
            let mut client = TcpStream::connect(capturing.address).await.unwrap();
            client.write_all(words.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            let mut back = String::new();
            client.read_to_string(&mut back).await.unwrap();
            assert_eq!(back, words);
        }
        assert_eq!((a.seen.get(), b.seen.get()), (0, 3));
        let connect = |head: &Request<()>| head.method() == http::Method::CONNECT;
        assert!(b.heads.borrow().iter().all(connect));
        assert_eq!(count(&world, "endpoint"), 3);

        // Gone it is gone, whoever else there is.
        drop(first);
        b.kill().await;
        let mut client = TcpStream::connect(capturing.address).await.unwrap();
        let mut back = Vec::new();
        assert!(client.read_to_end(&mut back).await.is_err(), "it is reset");
        assert_eq!(a.seen.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_session_that_ended_is_made_anew_for_who_dials_its_endpoint() {
    on_one_thread(async {
        let (world, _a, b) = two_at_their_own_ports().await;
        let meant = "127.0.0.1:2".parse().unwrap();
        let capturing = Capturing::start(&world, Unknown::Refuse, meant).await;
        while b.connections.get() < 4 {
            let mut client = TcpStream::connect(capturing.address).await.unwrap();
            client.write_all(b"words").await.unwrap();
            let mut back = [0; 5];
            client.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"words");
            b.goodbye.notify_waiters();
        }
    })
    .await;
}
