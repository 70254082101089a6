//! Rules for streams against peers on real sockets: who takes a connection whose bytes are no HTTP, and when that is waited for.

use std::{io::ErrorKind, rc::Rc, sync::Arc};

use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
use tokio::{net::TcpListener, time::Instant};
use tradewind_api::{
    model::{AppProtocol, ServicePort},
    route::{
        BackendRef, Kind, Origin, Routes, StreamBackend, StreamMatch, StreamOtherwise, StreamRule,
        StreamTable, Streams,
    },
    traffic::{PerPort, Subset, TrafficPolicy},
};
use tradewind_runtime::drain;

use super::{captured::Capturing, peer::GREETING, *};
use crate::capture::Unknown;

const STABLE: &str = "shop/payments";
const CANARY: &str = "shop/canary";
/// No HTTP at its first byte.
const BINARY: &[u8] = b"\x00\x01binary";

fn origin(kind: Kind) -> Origin {
    Origin {
        kind,
        object: STABLE.parse().unwrap(),
        rule: "rules[0]".into(),
        cluster: None,
    }
}

fn service(name: &str, subset: Option<&str>) -> BackendRef {
    BackendRef::Service {
        service: name.parse().unwrap(),
        port: Some(80),
        subset: subset.map(str::to_owned),
    }
}

fn rule(when: StreamMatch, to: &[(BackendRef, u32)]) -> StreamRule {
    let backend = |(to, weight): &(BackendRef, u32)| StreamBackend {
        to: to.clone(),
        weight: *weight,
    };
    StreamRule {
        origin: origin(Kind::TlsRoute),
        when,
        to: to.iter().map(backend).collect(),
    }
}

fn named(sni: &str, to: &str) -> StreamRule {
    let when = StreamMatch {
        sni: vec![sni.into()],
        ..StreamMatch::default()
    };
    rule(when, &[(service(to, None), 1)])
}

fn any(to: &str) -> StreamRule {
    rule(StreamMatch::default(), &[(service(to, None), 1)])
}

fn streams(rules: Vec<StreamRule>, otherwise: StreamOtherwise) -> Routes {
    Routes {
        streams: Streams {
            of_all: Some(Arc::new(StreamTable { rules, otherwise })),
            ..Streams::default()
        },
        ..Routes::default()
    }
}

/// What a TLS client says first when it asks for a name.
fn hello_for(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut sent = Vec::new();
    client.write_tls(&mut sent).unwrap();
    sent
}

/// A stable and a canary.
struct Two {
    world: World,
    stable: Peer,
    canary: Peer,
    proxy: world::Running,
}

impl Two {
    async fn new() -> Self {
        let world = World::new();
        let stable = Peer::start(&world, "stable", "west").await;
        let canary = Peer::start(&world, "canary", "west").await;
        world.endpoint("w", "west", stable.address);
        world.canary(canary.address);
        let proxy = world.proxy().await;
        Self {
            world,
            stable,
            canary,
            proxy,
        }
    }

    /// The same with rules.
    async fn with(rules: Vec<StreamRule>, otherwise: StreamOtherwise) -> Self {
        let two = Self::new().await;
        two.world.routes(streams(rules, otherwise));
        two
    }

    fn declare(&self, protocol: AppProtocol) {
        self.world
            .change_service(|s| s.ports[0].app_protocol = protocol);
    }

    fn seen(&self) -> (usize, usize) {
        (self.stable.seen.get(), self.canary.seen.get())
    }

    async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection through which these bytes came back.
    async fn echoed(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        assert_eq!(read(&mut stream, bytes.len()).await, bytes);
        stream
    }

    /// Whether these bytes are answered with a reset.
    async fn is_reset(&self, bytes: &[u8]) -> bool {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        was_reset(&mut stream).await
    }

    fn failed(&self) -> u64 {
        let counted = r#"tradewind_outbound_tunnels_total{service="shop/payments:80",cluster="none",outcome="failed"}"#;
        self.world.count(counted)
    }
}

async fn read(stream: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut got = vec![0; n];
    stream.read_exact(&mut got).await.unwrap();
    got
}

async fn was_reset(stream: &mut TcpStream) -> bool {
    let read = stream.read(&mut [0; 8]).await;
    read.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn streams_are_split_by_weight_and_open_ones_keep_what_they_have() {
    on_one_thread(async {
        let two = Two::new().await;
        let mut old = two.echoed(BINARY).await;
        assert_eq!(two.seen(), (1, 0), "without rules");
        let shares = [(service(STABLE, None), 3), (service(CANARY, None), 1)];
        let split = rule(StreamMatch::default(), &shares);
        let table = |rule| streams(vec![rule], StreamOtherwise::Closed);
        two.world.routes(table(split));
        for _ in 0..200 {
            two.echoed(BINARY).await;
        }
        let (stable, canary) = two.seen();
        assert_eq!(stable + canary, 201);
        assert!((30..=72).contains(&canary), "a quarter of 200: {canary}");
        let mut newer = two.echoed(BINARY).await;
        two.world.routes(table(any(CANARY)));
        let (before, _) = two.seen();
        two.echoed(BINARY).await;
        assert_eq!(two.seen().0, before, "moved over");
        for open in [&mut old, &mut newer] {
            open.write_all(b"still").await.unwrap();
            assert_eq!(read(open, 5).await, b"still");
        }
        let head = two.canary.heads.borrow().last().unwrap().headers().clone();
        assert_eq!(head["tradewind-service"], "shop/canary:80");
        let ok = r#"tradewind_outbound_tunnels_total{service="shop/canary:80",cluster="west",outcome="ok"}"#;
        until("ends are counted by who took them", || {
            two.world.count(ok) >= canary as u64
        })
        .await;
        // Requests are none of their business.
        let mut client = Client::connect(two.proxy.address).await;
        assert_eq!(client.get().await, (StatusCode::OK, "stable".into()));
    })
    .await;
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_steers_it_however_its_bytes_are_cut() {
    on_one_thread(async {
        let rules = vec![
            named("a.example.com", STABLE),
            named("*.example.com", CANARY),
        ];
        let two = Two::with(rules, StreamOtherwise::Closed).await;
        for protocol in [AppProtocol::Detect, AppProtocol::Tcp] {
            two.declare(protocol);
            let (stable, canary) = two.seen();
            two.echoed(&hello_for("a.example.com")).await;
            assert_eq!(two.seen(), (stable + 1, canary), "{protocol:?}");
            two.echoed(&hello_for("x.y.EXAMPLE.com")).await;
            assert_eq!(two.seen(), (stable + 1, canary + 1), "{protocol:?}");

            let hello = hello_for("b.example.com");
            let mut stream = two.connect().await;
            for part in [&hello[..1], &hello[1..40], &hello[40..]] {
                stream.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(read(&mut stream, hello.len()).await, hello);
            assert_eq!(two.seen(), (stable + 1, canary + 2), "{protocol:?}");

            let failed = two.failed();
            for bytes in [
                &hello_for("example.org")[..],
                &hello_for("127.0.0.1"),
                BINARY,
            ] {
                assert!(two.is_reset(bytes).await, "{protocol:?}");
            }
            // Nor does one that breaks off in the middle of it.
            let mut stream = two.connect().await;
            stream.write_all(&hello[..40]).await.unwrap();
            stream.shutdown().await.unwrap();
            assert!(was_reset(&mut stream).await);
            assert_eq!(two.seen(), (stable + 1, canary + 2), "{protocol:?}");
            assert_eq!(two.failed(), failed + 4);
        }
    })
    .await;
}

#[tokio::test]
async fn what_meets_no_rule_goes_on_where_rules_do_not_say_all() {
    on_one_thread(async {
        let rules = vec![named("a.example.com", CANARY)];
        let two = Two::with(rules, StreamOtherwise::Service).await;
        two.echoed(&hello_for("a.example.com")).await;
        assert_eq!(two.seen(), (0, 1));
        two.echoed(&hello_for("b.example.com")).await;
        two.echoed(BINARY).await;
        assert_eq!(two.seen(), (2, 1));
    })
    .await;
}

#[tokio::test]
async fn the_port_that_was_called_steers_too() {
    on_one_thread(async {
        let mut on_81 = any(CANARY);
        on_81.when.port = Some(81);
        let two = Two::with(vec![on_81], StreamOtherwise::Closed).await;
        two.world.change_service(|s| {
            s.ports.push(ServicePort {
                name: "other".into(),
                port: 81,
                app_protocol: AppProtocol::Detect,
            });
        });
        two.echoed(BINARY).await;
        assert_eq!(two.seen(), (1, 0), "no rule is for this port");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, watch) = drain::channel();
        let target = "shop/payments:81".parse().unwrap();
        let outbound = Rc::clone(&two.proxy.outbound);
        drop(spawn_local(
            "serve",
            outbound.serve(listener, target, watch),
        ));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(BINARY).await.unwrap();
        assert_eq!(read(&mut stream, BINARY.len()).await, BINARY);
        assert_eq!(two.seen(), (1, 1));
        drop(trigger);
    })
    .await;
}

#[tokio::test]
async fn a_captured_stream_is_steered_as_any_other() {
    on_one_thread(async {
        let rules = vec![named("a.example.com", CANARY)];
        let two = Two::with(rules, StreamOtherwise::Closed).await;
        let meant = SocketAddr::from(([10, 77, 0, 1], 80));
        two.world
            .change_service(|s| s.clusterset_ips = vec![meant.ip()]);
        let capturing = Capturing::start(&two.world, Unknown::Refuse, meant).await;
        let hello = hello_for("a.example.com");
        let mut stream = TcpStream::connect(capturing.address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        assert_eq!(read(&mut stream, hello.len()).await, hello);
        assert_eq!(two.seen(), (0, 1));
        let mut stream = TcpStream::connect(capturing.address).await.unwrap();
        stream.write_all(BINARY).await.unwrap();
        assert!(was_reset(&mut stream).await);
        assert_eq!(two.seen(), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn a_stream_goes_to_the_subset_that_a_rule_names() {
    on_one_thread(async {
        let two = Two::new().await;
        let other = Peer::start(&two.world, "other", "west").await;
        two.world.endpoint("o", "west", other.address);
        two.world.change_service(|s| {
            for endpoint in &mut s.endpoints {
                let version = endpoint.id.as_str().to_owned();
                endpoint.labels = [("version".to_owned(), version)].into();
            }
        });
        let subset = Subset {
            labels: [("version".to_owned(), "o".to_owned())].into(),
            ..Subset::default()
        };
        let policy = TrafficPolicy {
            origin: origin(Kind::DestinationRule),
            namespace: None,
            caller_labels: Default::default(),
            settings: PerPort::default(),
            subsets: [("new".to_owned(), subset)].into(),
        };
        let to = |subset| {
            let rule = rule(
                StreamMatch::default(),
                &[(service(STABLE, Some(subset)), 1)],
            );
            Routes {
                traffic: vec![Arc::new(policy.clone())],
                ..streams(vec![rule], StreamOtherwise::Service)
            }
        };
        two.world.routes(to("new"));
        for _ in 0..8 {
            two.echoed(BINARY).await;
        }
        assert_eq!((two.seen(), other.seen.get()), ((0, 0), 8));
        two.world.routes(to("old"));
        assert!(two.is_reset(BINARY).await, "nobody defines it");
    })
    .await;
}

#[tokio::test]
async fn a_rule_that_leads_nowhere_resets_its_share_and_counts_it() {
    on_one_thread(async {
        let broken = BackendRef::Broken("there is no service shop/gone".into());
        for to in [vec![(broken, 1)], vec![(service(CANARY, None), 0)], vec![]] {
            let nowhere = vec![rule(StreamMatch::default(), &to)];
            let two = Two::with(nowhere, StreamOtherwise::Service).await;
            for protocol in [AppProtocol::Detect, AppProtocol::Tcp] {
                two.declare(protocol);
                let failed = two.failed();
                assert!(two.is_reset(BINARY).await, "{to:?}");
                assert_eq!(two.failed(), failed + 1);
            }
            // A client that waits for the server's words learns it as well.
            assert!(was_reset(&mut two.connect().await).await);
            assert_eq!(two.seen(), (0, 0));
            // Requests go where they go, also after a silence.
            two.declare(AppProtocol::Detect);
            let mut stream = two.connect().await;
            let silence = tokio::time::timeout(Duration::from_millis(300), stream.readable());
            assert!(silence.await.is_err(), "it may be HTTP yet");
            let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            assert!(response.contains("x-peer: stable"), "{response}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_waited_for_only_where_a_name_is_asked_for() {
    on_one_thread(async {
        let two = Two::with(vec![any(CANARY)], StreamOtherwise::Closed).await;
        two.canary.then(vec![Act::Greet; 6]);
        let greeted = async || {
            let began = Instant::now();
            let mut stream = two.connect().await;
            assert_eq!(read(&mut stream, GREETING.len()).await, GREETING.as_bytes());
            stream.write_all(b"QUIT").await.unwrap();
            assert_eq!(read(&mut stream, 4).await, b"QUIT");
            began.elapsed()
        };
        greeted().await;
        two.declare(AppProtocol::Tcp);
        // The session stands; whoever is slow by chance is not so every time.
        let at_once = greeted().await.min(greeted().await).min(greeted().await);
        let rules = vec![named("a.example.com", STABLE), any(CANARY)];
        two.world.routes(streams(rules, StreamOtherwise::Closed));
        let waited = greeted().await;
        two.declare(AppProtocol::Detect);
        greeted().await;
        let deadline = Duration::from_millis(200);
        assert!(
            at_once < deadline && waited >= deadline,
            "{at_once:?} {waited:?}"
        );
        assert_eq!(two.seen(), (0, 6));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_asks_for_a_name_after_a_silence_is_steered_by_it() {
    on_one_thread(async {
        let rules = vec![named("a.example.com", STABLE), any(CANARY)];
        let two = Two::with(rules, StreamOtherwise::Closed).await;
        let hello = hello_for("a.example.com");
        for (protocol, n) in [(AppProtocol::Detect, 1), (AppProtocol::Tcp, 2)] {
            two.declare(protocol);
            let mut stream = two.connect().await;
            until("it is taken for one without a name", || {
                two.canary.seen.get() == n
            })
            .await;
            stream.write_all(&hello).await.unwrap();
            assert_eq!(read(&mut stream, hello.len()).await, hello);
            assert_eq!(two.seen(), (n, n), "{protocol:?}");
        }
        // One that asks for no name keeps the tunnel that stands.
        let mut stream = two.connect().await;
        until("it has one", || two.canary.seen.get() == 3).await;
        stream.write_all(BINARY).await.unwrap();
        assert_eq!(read(&mut stream, BINARY.len()).await, BINARY);
        assert_eq!(two.seen(), (2, 3));

        // Where only a name leads anywhere, nobody is asked before there is one.
        let rules = vec![named("a.example.com", STABLE)];
        two.world.routes(streams(rules, StreamOtherwise::Closed));
        for protocol in [AppProtocol::Detect, AppProtocol::Tcp] {
            two.declare(protocol);
            let mut stream = two.connect().await;
            let silence = tokio::time::timeout(Duration::from_millis(300), stream.readable());
            assert!(silence.await.is_err(), "it is still waited for");
            stream.write_all(&hello).await.unwrap();
            assert_eq!(read(&mut stream, hello.len()).await, hello);
        }
        assert_eq!(two.seen(), (4, 3));
    })
    .await;
}
