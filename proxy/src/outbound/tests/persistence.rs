//! Persistent sessions against peers on real sockets: a client stays with the endpoint that answered it first, as long as it lives.

use std::sync::Arc;

use tradewind_api::{
    route::{
        Action, Backend, BackendRef, Carrier, Edits, Kind, Match, Origin, Otherwise, PathIs,
        PathMatch, Persistence, Retry, RetryOn, Routes, Rule, Table, To,
    },
    traffic::{Balance, Hash, HashKey, HashTable, PerPort, Settings, TrafficPolicy},
};

use super::*;

fn cookie() -> Persistence {
    Persistence {
        by: Carrier::Cookie {
            name: "cart".to_owned(),
            path: "/".to_owned(),
            permanent: false,
        },
        absolute_ms: None,
        idle_ms: None,
    }
}

/// A rule's share for each backend.
fn split(backends: &[(&str, u32)], persistence: Persistence) -> Action {
    let backend = |(service, weight): &(&str, u32)| Backend {
        to: BackendRef::Service {
            service: service.parse().unwrap(),
            port: Some(80),
            subset: None,
        },
        weight: *weight,
        edits: Edits::default(),
    };
    Action {
        persistence: Some(persistence),
        ..Action::new(To::Backends(backends.iter().map(backend).collect()))
    }
}

fn rule(name: &str, when: Match, then: Action) -> Rule {
    Rule {
        origin: Origin {
            kind: Kind::HttpRoute,
            object: "shop/payments".parse().unwrap(),
            rule: name.to_owned(),
            cluster: None,
        },
        when,
        then: Arc::new(then),
    }
}

fn table(rules: Vec<Rule>) -> Routes {
    Routes {
        of_all: Some(Arc::new(Table {
            rules,
            otherwise: Otherwise::NotFound,
        })),
        ..Routes::default()
    }
}

/// What one call got: who answered, and the token, if it was given one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    status: u16,
    by: String,
    token: Option<String>,
}

impl Got {
    fn of(fields: &http::HeaderMap, status: StatusCode) -> Self {
        let text = |name: &str| fields.get(name).map(|v| v.to_str().unwrap().to_owned());
        let cookie = text("set-cookie").map(|c| c.split(';').next().unwrap().to_owned());
        Self {
            status: status.as_u16(),
            by: text("x-peer").unwrap_or_default(),
            token: cookie.or_else(|| text("x-cart")),
        }
    }
}

/// Two endpoints of the service that is called, one of another service, and a client.
struct Shop {
    world: World,
    a: Peer,
    b: Peer,
    canary: Peer,
    clock: ManualClock,
    proxy: world::Running,
    client: Client,
}

impl Shop {
    async fn new() -> Self {
        let world = World::new();
        let a = Peer::start(&world, "a", "west").await;
        let b = Peer::start(&world, "b", "west").await;
        let canary = Peer::start(&world, "canary", "west").await;
        world.endpoint("a", "west", a.address);
        world.endpoint("b", "west", b.address);
        world.canary(canary.address);
        let clock = ManualClock::new(now_ms());
        let proxy = world.proxy_at(clock.shared()).await;
        let client = Client::connect(proxy.address).await;
        Self {
            world,
            a,
            b,
            canary,
            clock,
            proxy,
            client,
        }
    }

    fn rule(&self, then: Action) {
        let rules = vec![rule("rules[0]", Match::default(), then)];
        self.world.routes(table(rules));
    }

    fn weights(&self, payments: u32, canary: u32) {
        let backends = [("shop/payments", payments), ("shop/canary", canary)];
        self.rule(split(&backends, cookie()));
    }

    async fn call(&mut self, path: &str, field: Option<(&str, &str)>) -> Got {
        let mut request = Request::get(path).header("host", "x");
        if let Some((name, value)) = field {
            request = request.header(name, value);
        }
        self.client.0.ready().await.unwrap();
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let response = self.client.0.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        body.collect().await.unwrap();
        Got::of(&head.headers, head.status)
    }

    async fn get(&mut self, cookie: Option<&str>) -> Got {
        self.call("/", cookie.map(|c| ("cookie", c))).await
    }

    /// Calls without a token until that one answers, and its token.
    async fn begun_with(&mut self, name: &str) -> String {
        for _ in 0..200 {
            let got = self.get(None).await;
            let token = got.token.expect("whoever has none is given one");
            if got.by == name {
                return token;
            }
        }
        panic!("{name} never answered");
    }

    /// That calls with the token go there, and that nothing is to be told of it.
    async fn stays(&mut self, token: &str, name: &str) {
        for _ in 0..10 {
            let got = self.get(Some(token)).await;
            let wanted = Got {
                status: 200,
                by: name.to_owned(),
                token: None,
            };
            assert_eq!(got, wanted);
        }
    }

    /// That a call with the token goes to another endpoint, with a new token that holds.
    async fn moves(&mut self, token: &str, to: &str) {
        let got = self.get(Some(token)).await;
        assert_eq!((got.status, got.by.as_str()), (200, to));
        let new = got.token.expect("a new one");
        assert_ne!(new, token);
        self.stays(&new, to).await;
    }
}

#[tokio::test]
async fn a_session_stays_whatever_the_weights_and_whoever_else_comes() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        shop.weights(1, 0);
        let token = shop.begun_with("a").await;
        assert!(!token.contains("127.0.0.1"));
        shop.stays(&token, "a").await;
        shop.weights(0, 1);
        assert_eq!(shop.get(None).await.by, "canary");
        shop.stays(&token, "a").await;
        let mut more = Vec::new();
        for name in ["d", "e", "f"] {
            let peer = Peer::start(&shop.world, name, "west").await;
            shop.world.endpoint(name, "west", peer.address);
            more.push(peer);
        }
        shop.stays(&token, "a").await;
        // It drains, and others do not: it still answers.
        shop.world.set_health("a", Health::Draining);
        shop.stays(&token, "a").await;
        shop.world.set_health("a", Health::Unhealthy);
        shop.moves(&token, "canary").await;
    })
    .await;
}

#[tokio::test]
async fn a_session_with_another_clusters_endpoint_stays_when_nearer_ones_come() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        let east = Peer::start(&shop.world, "e", "east").await;
        let (gateway, _task) = gateway(east.address).await;
        shop.world.change_service(|s| s.endpoints.clear());
        shop.world.endpoint("e", "east", east.address);
        shop.world.behind("e", &[gateway]);
        shop.weights(1, 0);
        let token = shop.begun_with("e").await;
        shop.world.endpoint("a", "west", shop.a.address);
        shop.begun_with("a").await;
        shop.clock.advance(Duration::from_secs(60));
        for _ in 0..10 {
            assert_eq!(shop.get(None).await.by, "a", "it is nearer, and ramped up");
        }
        shop.stays(&token, "e").await;
        assert_eq!(shop.world.count("tradewind_outbound_ejections_total"), 0);
    })
    .await;
}

#[tokio::test]
async fn a_session_moves_when_its_endpoint_is_gone_and_no_call_fails() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        shop.weights(1, 0);
        let token = shop.begun_with("a").await;
        // Out of the snapshot.
        shop.world
            .change_service(|s| s.endpoints.retain(|e| e.id.as_str() != "a"));
        shop.moves(&token, "b").await;
        shop.world.endpoint("a", "west", shop.a.address);
        shop.stays(&token, "a").await;
        // Its connection broke.
        let killed = std::mem::replace(&mut shop.a, Peer::start(&shop.world, "x", "west").await);
        killed.kill().await;
        shop.moves(&token, "b").await;
    })
    .await;
}

#[tokio::test]
async fn a_call_whose_endpoint_is_lost_under_it_goes_where_the_weights_say() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        shop.weights(1, 0);
        let token = shop.begun_with("a").await;
        // Nobody else of its backend is there, and new sessions go elsewhere.
        shop.weights(0, 1);
        shop.world
            .change_service(|s| s.endpoints.retain(|e| e.id.as_str() == "a"));
        shop.stays(&token, "a").await;
        shop.a.then([Act::Vanish]);
        let seen = shop.a.seen.get();
        let got = shop.get(Some(&token)).await;
        assert_eq!((got.status, got.by.as_str()), (200, "canary"));
        assert_eq!(shop.a.seen.get(), seen + 1, "it was asked first");
        let new = got.token.expect("a new one");
        let head = shop.canary.heads.borrow().last().unwrap().headers().clone();
        assert_eq!(head["tradewind-service"], "shop/canary:80");
        let asked = shop.a.heads.borrow().last().unwrap().headers().clone();
        assert_eq!(head["x-request-id"], asked["x-request-id"], "one request");
        shop.stays(&new, "canary").await;
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_in_the_place_of_a_sessions_is_not_taken_for_it() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        shop.weights(1, 0);
        let token = shop.begun_with("a").await;
        let asked = shop.a.heads.borrow().last().unwrap().headers().clone();
        assert_eq!(asked["tradewind-endpoint"], "a", "whoever it is can tell");
        let connections = shop.a.connections.get();
        // Its gateway had another one answer.
        shop.a.then([Act::OtherEndpoint]);
        shop.moves(&token, "b").await;
        shop.clock.advance(Duration::from_secs(10));
        let token = shop.begun_with("a").await;
        shop.stays(&token, "a").await;
        assert_eq!(shop.a.connections.get(), connections + 1, "by a new way");
        shop.world.change(|s| s.routes.clear());
        shop.get(None).await;
        let heads = [&shop.a, &shop.b].map(|p| p.heads.borrow().last().unwrap().headers().clone());
        let named = heads
            .iter()
            .filter(|h| h.contains_key("tradewind-endpoint"));
        assert_eq!(named.count(), 1, "others may be answered by anybody");
    })
    .await;
}

#[tokio::test]
async fn a_backend_without_a_weight_takes_no_new_session_even_where_nobody_else_can_answer() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        shop.weights(1, 0);
        let token = shop.begun_with("a").await;
        let nobody = [("shop/payments", 0), ("shop/gone", 1)];
        shop.rule(split(&nobody, cookie()));
        shop.a.then([Act::Vanish]);
        let got = shop.get(Some(&token)).await;
        let wanted = Got {
            status: 200,
            by: "b".to_owned(),
            token: None,
        };
        assert_eq!(got, wanted);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_a_rule_does_not_take_moves_no_session() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        let mut action = split(&[("shop/payments", 1)], cookie());
        action.retry = Some(Retry {
            attempts: 1,
            on: [RetryOn::ServerError].into(),
            codes: [].into(),
            backoff_ms: None,
            other_localities: None,
            other_endpoints: None,
        });
        shop.rule(action);
        let token = shop.begun_with("a").await;
        shop.a.then([Act::Status(503)]);
        let got = shop.get(Some(&token)).await;
        assert_eq!((got.status, got.by.as_str(), got.token), (200, "b", None));
        shop.stays(&token, "a").await;
    })
    .await;
}

#[tokio::test]
async fn a_session_ends_when_it_is_over_or_was_idle_for_long() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        let rule = |shop: &Shop, absolute_ms, idle_ms| {
            let persistence = Persistence {
                absolute_ms,
                idle_ms,
                ..cookie()
            };
            shop.rule(split(&[("shop/payments", 1)], persistence));
        };
        let second = Duration::from_secs(1);
        rule(&shop, Some(60_000), None);
        let token = shop.begun_with("a").await;
        shop.clock.advance(59 * second);
        shop.stays(&token, "a").await;
        shop.clock.advance(second);
        let got = shop.get(Some(&token)).await;
        assert!(got.token.is_some_and(|new| new != token), "a new session");

        rule(&shop, Some(60_000), Some(20_000));
        let mut token = shop.begun_with("b").await;
        for _ in 0..3 {
            shop.clock.advance(19 * second);
            let got = shop.get(Some(&token)).await;
            assert_eq!((got.status, got.by.as_str()), (200, "b"));
            let renewed = got.token.expect("each answer tells it again");
            assert_ne!(renewed, token);
            token = renewed;
        }
        // 57 s of 60: the endpoint is not left for idleness, and the renewal did not begin another session.
        shop.clock.advance(3 * second);
        let mut met = std::collections::BTreeSet::new();
        for _ in 0..50 {
            met.insert(shop.get(Some(&token)).await.by);
        }
        assert_eq!(met.len(), 2, "it leads nowhere any more: {met:?}");

        let token = shop.begun_with("b").await;
        shop.clock.advance(20 * second);
        let mut met = std::collections::BTreeSet::new();
        for _ in 0..50 {
            met.insert(shop.get(Some(&token)).await.by);
        }
        assert_eq!(met.len(), 2, "nor does an idle one: {met:?}");
    })
    .await;
}

#[tokio::test]
async fn a_header_carries_a_session_too_and_what_is_no_token_is_none() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        let persistence = Persistence {
            by: Carrier::Header("x-cart".to_owned()),
            ..cookie()
        };
        shop.rule(split(&[("shop/payments", 1)], persistence));
        let first = shop.get(None).await;
        let token = first.token.expect("in a header");
        for _ in 0..10 {
            let got = shop.call("/", Some(("x-cart", &token))).await;
            assert_eq!((&got.by, got.token), (&first.by, None));
        }
        for wrong in ["a", "", token.get(1..).unwrap(), "AQ"] {
            let got = shop.call("/", Some(("x-cart", wrong))).await;
            assert_eq!(got.status, 200);
            assert!(got.token.is_some(), "{wrong:?} is no session");
        }
    })
    .await;
}

#[tokio::test]
async fn rules_share_no_sessions_and_a_token_leads_to_the_rules_own_backends_alone() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        let below = |prefix: &str| Match {
            path: Some(PathMatch {
                is: PathIs::Segments(prefix.to_owned()),
                ignores_case: false,
            }),
            ..Match::default()
        };
        let to = |backends: &[(&str, u32)]| split(backends, cookie());
        let both = [("shop/payments", 0), ("shop/canary", 1)];
        shop.world.routes(table(vec![
            rule("rules[0]", below("/a"), to(&[("shop/payments", 1)])),
            rule("rules[1]", below("/b"), to(&both)),
        ]));
        let token = shop.call("/a", None).await.token.expect("a session");
        let got = shop.call("/b", Some(("cookie", &token))).await;
        assert_eq!(got.by, "canary");
        assert!(got.token.is_some_and(|own| own != token));
        // The rule sends its calls elsewhere now.
        let moved = rule("rules[0]", below("/a"), to(&[("shop/canary", 1)]));
        shop.world.routes(table(vec![moved]));
        let got = shop.call("/a", Some(("cookie", &token))).await;
        assert_eq!(got.by, "canary");
        assert!(got.token.is_some());
    })
    .await;
}

#[tokio::test]
async fn a_session_comes_before_a_policys_key_and_the_key_finds_its_first_endpoint() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        let settings = Settings {
            balance: Balance::Hash(Hash {
                by: HashKey::Header("x-user".into()),
                table: HashTable::RING,
            }),
            ..Settings::default()
        };
        let policy = TrafficPolicy {
            origin: Origin {
                kind: Kind::DestinationRule,
                object: "shop/payments".parse().unwrap(),
                rule: String::new(),
                cluster: None,
            },
            namespace: None,
            caller_labels: Default::default(),
            settings: PerPort {
                all: Arc::new(settings),
                ports: Default::default(),
            },
            subsets: Default::default(),
        };
        let then = split(&[("shop/payments", 1)], cookie());
        let rules = table(vec![rule("rules[0]", Match::default(), then)]);
        let routes = Routes {
            traffic: vec![Arc::new(policy)],
            ..rules
        };
        shop.world.routes(routes);
        // Two users of different endpoints.
        let mut homes = std::collections::BTreeMap::new();
        for user in 0..50 {
            let user = user.to_string();
            let first = shop.call("/", Some(("x-user", &user))).await;
            let again = shop.call("/", Some(("x-user", &user))).await;
            assert_eq!(first.by, again.by, "the key finds it");
            homes
                .entry(first.by)
                .or_insert((user, first.token.unwrap()));
        }
        let (_, token) = &homes["a"];
        let (other, _) = &homes["b"];
        let request = Request::get("/")
            .header("host", "x")
            .header("x-user", other)
            .header("cookie", token);
        shop.client.0.ready().await.unwrap();
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let response = shop.client.0.send_request(request).await.unwrap();
        assert_eq!(response.headers()["x-peer"], "a");
    })
    .await;
}

#[tokio::test]
async fn grpc_calls_and_websockets_have_sessions_too() {
    on_one_thread(async {
        let mut shop = Shop::new().await;
        shop.weights(1, 0);
        let token = shop.begun_with("b").await;
        let io = TcpStream::connect(shop.proxy.address).await.unwrap();
        let (mut send, conn) = h2::client::handshake(io).await.unwrap();
        drop(spawn_local("grpc", async move {
            drop(conn.await);
        }));
        let mut call = async |cookie: Option<&str>| {
            let mut request = Request::post("http://x/shop.Payments/Pay")
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            if let Some(cookie) = cookie {
                request = request.header("cookie", cookie);
            }
            send = send.clone().ready().await.unwrap();
            let (answer, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
            let head = answer.await.unwrap();
            Got::of(head.headers(), head.status())
        };
        assert!(call(None).await.token.is_some());
        for _ in 0..10 {
            let got = call(Some(&token)).await;
            assert_eq!((got.status, got.by.as_str(), got.token), (200, "b", None));
        }

        let upgrade = async |address, cookie: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let text = format!("GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n{cookie}\r\n");
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            String::from_utf8(head).unwrap()
        };
        let seen = shop.b.seen.get();
        let with = format!("cookie: {token}\r\n");
        for n in 1..=5 {
            let head = upgrade(shop.proxy.address, &with).await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert!(!head.contains("set-cookie"), "{head}");
            assert_eq!(shop.b.seen.get(), seen + n);
        }
        let head = upgrade(shop.proxy.address, "").await;
        assert!(head.contains("set-cookie: cart="), "{head}");
        // Its endpoint is lost when it is asked, its backend has nobody else, and the weights lead elsewhere.
        shop.weights(0, 1);
        shop.world
            .change_service(|s| s.endpoints.retain(|e| e.id.as_str() == "b"));
        let killed = std::mem::replace(&mut shop.b, Peer::start(&shop.world, "x", "west").await);
        killed.kill().await;
        let head = upgrade(shop.proxy.address, &with).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("tradewind-served-by: west/canary"), "{head}");
        assert!(head.contains("set-cookie: cart="), "{head}");
    })
    .await;
}
