//! Traffic policies against peers on real sockets: which endpoint is asked, how much at once, and who is left alone for what he answers.

use std::{collections::BTreeMap, sync::Arc};

use tokio::task::JoinHandle;
use tradewind_api::{
    Namespace,
    route::{
        Action, Backend, BackendRef, Edits, Kind, MILLION, Match, Origin, Otherwise, Retry,
        RetryOn, Routes, Rule, Table, To,
    },
    traffic::{
        Balance, Cookie, Failover, Hash, HashKey, HashTable, Locality, Outlier, PerPort, Pool,
        RetryBudget, Settings, Subset, TrafficPolicy,
    },
};

use super::*;

fn origin(kind: Kind) -> Origin {
    Origin {
        kind,
        object: "shop/payments".parse().unwrap(),
        rule: String::new(),
        cluster: None,
    }
}

fn all(settings: Settings) -> PerPort {
    PerPort {
        all: Arc::new(settings),
        ports: BTreeMap::new(),
    }
}

fn policy(settings: Settings) -> TrafficPolicy {
    TrafficPolicy {
        origin: origin(Kind::DestinationRule),
        namespace: None,
        caller_labels: BTreeMap::new(),
        settings: all(settings),
        subsets: BTreeMap::new(),
    }
}

/// One rule for all requests.
fn rule(action: Action) -> Arc<Table> {
    Arc::new(Table {
        rules: vec![Rule {
            origin: origin(Kind::VirtualService),
            when: Match::default(),
            then: Arc::new(action),
        }],
        otherwise: Otherwise::NotFound,
    })
}

fn to_subset(subset: Option<&str>) -> Action {
    Action::new(To::Backends(vec![Backend {
        to: BackendRef::Service {
            service: "shop/payments".parse().unwrap(),
            port: None,
            subset: subset.map(str::to_owned),
        },
        weight: 1,
        edits: Edits::default(),
    }]))
}

impl World {
    fn policies(&self, policies: Vec<TrafficPolicy>, rules: Option<Arc<Table>>) {
        let routes = Routes {
            of_all: rules,
            traffic: policies.into_iter().map(Arc::new).collect(),
            ..Routes::default()
        };
        self.change(|s| {
            let name = "shop/payments".parse().unwrap();
            s.routes.insert(name, Arc::new(routes));
        });
    }

    fn called_by(&self, settings: Settings) {
        self.policies(vec![policy(settings)], None);
    }

    fn label(&self, id: &str, key: &str, value: &str) {
        self.change_service(|s| {
            let found = s.endpoints.iter_mut().find(|e| e.id.as_str() == id);
            let labels = &mut found.unwrap().labels;
            labels.insert(key.to_owned(), value.to_owned());
        });
    }
}

/// Three endpoints in the caller's own cluster, and a client.
struct Three {
    world: World,
    peers: [Peer; 3],
    proxy: world::Running,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Three {
    async fn new() -> Self {
        let world = World::new();
        let [a, b, c] = NAMES;
        let peers = [
            Peer::start(&world, a, "west").await,
            Peer::start(&world, b, "west").await,
            Peer::start(&world, c, "west").await,
        ];
        for (name, peer) in NAMES.iter().zip(&peers) {
            world.endpoint(name, "west", peer.address);
        }
        let proxy = world.proxy().await;
        Self {
            world,
            peers,
            proxy,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(self.proxy.address).await
    }

    fn seen(&self) -> [usize; 3] {
        let [a, b, c] = &self.peers;
        [a.seen.get(), b.seen.get(), c.seen.get()]
    }
}

async fn ask(client: &mut Client, request: http::request::Builder) -> (u16, String, Response<()>) {
    let request = request.header("host", "x").body(Full::new(Bytes::new()));
    client.0.ready().await.unwrap();
    let response = client.0.send_request(request.unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    body.collect().await.unwrap();
    let by = head.headers.get("x-peer");
    let by = by.map_or(String::new(), |v| v.to_str().unwrap().to_owned());
    (head.status.as_u16(), by, Response::from_parts(head, ()))
}

fn hash(by: HashKey) -> Settings {
    Settings {
        balance: Balance::Hash(Hash {
            by,
            table: HashTable::RING,
        }),
        ..Settings::default()
    }
}

#[tokio::test]
async fn calls_with_one_key_go_to_one_endpoint_and_move_only_when_it_is_gone() {
    on_one_thread(async {
        let three = Three::new().await;
        three
            .world
            .called_by(hash(HashKey::Header("x-user".into())));
        let mut client = three.client().await;
        let mut homes = BTreeMap::new();
        for user in 0..60 {
            let (_, by, _) = ask(&mut client, Request::get("/").header("x-user", user)).await;
            homes.insert(user, by);
        }
        let at = |name: &str| homes.values().filter(|h| *h == name).count();
        assert!(NAMES.iter().all(|n| at(n) > 8), "they spread: {homes:?}");
        // A new snapshot of other things, and a table made anew.
        three.world.change(|s| s.revision.0 += 1);
        for (user, home) in &homes {
            let (_, by, _) = ask(&mut client, Request::get("/").header("x-user", *user)).await;
            assert_eq!(by, *home, "{user}");
        }
        let Three {
            world,
            peers,
            proxy: _proxy,
        } = three;
        let [a, _b, _c] = peers;
        a.kill().await;
        for (user, home) in &homes {
            let (status, by, _) = ask(&mut client, Request::get("/").header("x-user", *user)).await;
            assert_eq!(status, 200);
            if home == "a" {
                assert_ne!(by, "a");
                let (_, again, _) =
                    ask(&mut client, Request::get("/").header("x-user", *user)).await;
                assert_eq!(again, by, "and stay where they went");
            } else {
                assert_eq!(by, *home, "who is not concerned stays");
            }
        }
        drop(world);
    })
    .await;
}

#[tokio::test]
async fn a_caller_without_a_cookie_is_given_one_that_holds_its_calls_together() {
    on_one_thread(async {
        let three = Three::new().await;
        three.world.called_by(hash(HashKey::Cookie(Cookie {
            name: "cart".into(),
            path: None,
            ttl_s: Some(0),
            attributes: Vec::new(),
        })));
        let mut client = three.client().await;
        let mut met = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let (_, by, head) = ask(&mut client, Request::get("/")).await;
            let set = head.headers()["set-cookie"].to_str().unwrap().to_owned();
            let cookie = set.split(';').next().unwrap();
            for _ in 0..3 {
                let request = Request::get("/").header("cookie", cookie);
                let (_, again, head) = ask(&mut client, request).await;
                assert_eq!(again, by);
                assert!(head.headers().get("set-cookie").is_none(), "it has one");
            }
            met.insert(by);
        }
        assert_eq!(met.len(), 3, "each browser has its own");
    })
    .await;
}

#[tokio::test]
async fn endpoints_take_turns_by_weight() {
    on_one_thread(async {
        let three = Three::new().await;
        three.world.called_by(Settings {
            balance: Balance::RoundRobin,
            ..Settings::default()
        });
        three.world.change_service(|s| s.endpoints[0].weight = 200);
        let mut client = three.client().await;
        for i in 0..40 {
            assert_eq!(client.get().await.0, StatusCode::OK);
            if i == 20 {
                // Whose turn it is outlives a snapshot.
                three.world.change(|s| s.revision.0 += 1);
            }
        }
        assert_eq!(three.seen(), [20, 10, 10]);
    })
    .await;
}

#[tokio::test]
async fn a_subset_is_called_alone_by_its_own_settings_and_one_that_nobody_defines_is_told() {
    on_one_thread(async {
        let three = Three::new().await;
        three.world.label("a", "version", "v1");
        three.world.label("b", "version", "v2");
        three.world.label("c", "version", "v2");
        let v2 = Subset {
            labels: [("version".to_owned(), "v2".to_owned())].into(),
            settings: all(Settings {
                balance: Balance::RoundRobin,
                ..Settings::default()
            }),
        };
        let empty = Subset {
            labels: [("version".to_owned(), "v3".to_owned())].into(),
            ..Subset::default()
        };
        let mut with = policy(Settings::default());
        with.subsets = [("v2".to_owned(), v2), ("v3".to_owned(), empty)].into();
        let set = |subset| {
            three
                .world
                .policies(vec![with.clone()], Some(rule(to_subset(subset))))
        };
        set(Some("v2"));
        let mut client = three.client().await;
        for _ in 0..20 {
            assert_eq!(client.get().await.0, StatusCode::OK);
        }
        assert_eq!(three.seen(), [0, 10, 10]);
        for (subset, reason) in [("v3", "no-endpoint"), ("v4", "unknown-subset")] {
            set(Some(subset));
            let (status, _, head) = ask(&mut client, Request::get("/")).await;
            assert_eq!(
                (status, &head.headers()["tradewind-error"]),
                (503, &reason.parse().unwrap())
            );
        }
        // Other callers' policies are none of ours.
        let mut others = with.clone();
        others.namespace = Some(Namespace::new("other").unwrap());
        three
            .world
            .policies(vec![others], Some(rule(to_subset(Some("v2")))));
        assert_eq!(ask(&mut client, Request::get("/")).await.0, 503);
        let mut ours = with.clone();
        ours.caller_labels = [("app".to_owned(), "web".to_owned())].into();
        three
            .world
            .policies(vec![ours], Some(rule(to_subset(Some("v2")))));
        assert_eq!(ask(&mut client, Request::get("/")).await.0, 200);
    })
    .await;
}

/// A call of a client of its own that is answered when the peer is told to.
fn held(address: SocketAddr) -> JoinHandle<(StatusCode, String)> {
    spawn_local(
        "held",
        async move { Client::connect(address).await.get().await },
    )
}

#[tokio::test]
async fn a_breaker_turns_away_what_is_too_much_at_once_and_closes_again() {
    on_one_thread(async {
        let world = World::new();
        let peer = Peer::start(&world, "a", "west").await;
        world.endpoint("a", "west", peer.address);
        let proxy = world.proxy().await;
        world.called_by(Settings {
            pool: Pool {
                connections: Some(1),
                pending: Some(1),
                ..Pool::default()
            },
            ..Settings::default()
        });
        peer.then([Act::EchoLater, Act::EchoLater]);
        let first = held(proxy.address);
        until("the first arrives", || peer.seen.get() == 1).await;
        let second = held(proxy.address);
        let outbound = std::rc::Rc::clone(&proxy.outbound);
        until("the second waits", move || {
            outbound.state_json()["services"][0]["in_use"]["pending"] == 1
        })
        .await;
        let mut third = Client::connect(proxy.address).await;
        let (status, _, head) = ask(&mut third, Request::get("/")).await;
        assert_eq!(status, 503);
        assert_eq!(head.headers()["tradewind-error"], "overflow");
        assert_eq!(
            peer.seen.get(),
            1,
            "neither the second nor the third was sent"
        );
        let counted =
            r#"tradewind_outbound_overflows_total{service="shop/payments:80",bound="pending"}"#;
        assert_eq!(world.count(counted), 1);
        peer.go.notify_one();
        assert_eq!(first.await.unwrap().0, StatusCode::OK);
        until("the second is sent", || peer.seen.get() == 2).await;
        peer.go.notify_one();
        assert_eq!(second.await.unwrap().0, StatusCode::OK);
        for _ in 0..5 {
            assert_eq!(third.get().await.0, StatusCode::OK, "closed again");
        }
        let in_use = proxy.outbound.state_json()["services"][0]["in_use"].clone();
        assert_eq!(
            (&in_use["connections"], &in_use["requests"]),
            (&0.into(), &0.into())
        );
    })
    .await;
}

#[tokio::test]
async fn whoever_waits_for_a_connection_longer_than_a_rule_allows_is_told_that_its_time_is_over() {
    on_one_thread(async {
        let world = World::new();
        let peer = Peer::start(&world, "a", "west").await;
        world.endpoint("a", "west", peer.address);
        let proxy = world.proxy().await;
        let one = policy(Settings {
            pool: Pool {
                connections: Some(1),
                ..Pool::default()
            },
            ..Settings::default()
        });
        world.policies(vec![one.clone()], None);
        peer.then([Act::EchoLater]);
        let first = held(proxy.address);
        until("the first arrives", || peer.seen.get() == 1).await;
        let mut hurried = to_subset(None);
        hurried.timeouts.whole_ms = Some(50);
        world.policies(vec![one], Some(rule(hurried)));
        let mut client = Client::connect(proxy.address).await;
        let (status, _, head) = ask(&mut client, Request::get("/")).await;
        assert_eq!(
            (status, &head.headers()["tradewind-error"]),
            (504, &"timeout".parse().unwrap())
        );
        assert_eq!(world.count("tradewind_outbound_overflows_total"), 0);
        peer.go.notify_one();
        assert_eq!(first.await.unwrap().0, StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_answers_with_errors_is_left_alone_for_its_time() {
    on_one_thread(async {
        let world = World::new();
        let peers = [
            Peer::start(&world, "a", "west").await,
            Peer::start(&world, "b", "west").await,
        ];
        world.endpoint("a", "west", peers[0].address);
        world.endpoint("b", "west", peers[1].address);
        let clock = ManualClock::new(now_ms());
        let proxy = world.proxy_at(clock.shared()).await;
        world.called_by(Settings {
            balance: Balance::RoundRobin,
            outlier: Some(Outlier {
                errors: Some(2),
                interval_ms: 1_000,
                base_ejection_ms: 5_000,
                max_ejection_percent: 50,
                ..Outlier::default()
            }),
            ..Settings::default()
        });
        peers[0].then([Act::Status(503), Act::Status(500)]);
        let mut client = Client::connect(proxy.address).await;
        let mut failed = 0;
        for _ in 0..4 {
            failed += usize::from(client.get().await.0 != StatusCode::OK);
        }
        assert_eq!(failed, 2);
        let before = peers[0].seen.get();
        for _ in 0..20 {
            assert_eq!(client.get().await, (StatusCode::OK, "b".into()));
        }
        assert_eq!(peers[0].seen.get(), before, "it is left alone");
        let counted = r#"tradewind_outbound_ejections_total{service="shop/payments:80",cluster="west",cause="errors"}"#;
        assert_eq!(world.count(counted), 1);
        // The other one fails too, and is called all the same: no more than half may be out.
        peers[1].then([Act::Status(500), Act::Status(500), Act::Status(500)]);
        for _ in 0..3 {
            assert_eq!(client.get().await.0, StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert_eq!(client.get().await, (StatusCode::OK, "b".into()));
        clock.advance(Duration::from_secs(6));
        until_calls(&mut client, "a").await;
    })
    .await;
}

/// Calls until an endpoint answers.
async fn until_calls(client: &mut Client, name: &str) {
    for _ in 0..200 {
        let (status, by) = client.get().await;
        assert_eq!(status, StatusCode::OK);
        if by == name {
            return;
        }
    }
    panic!("{name} was never asked again");
}

#[tokio::test]
async fn a_session_is_given_up_after_as_many_requests_as_a_policy_says() {
    on_one_thread(async {
        let world = World::new();
        let peer = Peer::start(&world, "a", "west").await;
        world.endpoint("a", "west", peer.address);
        let proxy = world.proxy().await;
        world.called_by(Settings {
            pool: Pool {
                requests_per_connection: Some(2),
                ..Pool::default()
            },
            ..Settings::default()
        });
        let mut client = Client::connect(proxy.address).await;
        for _ in 0..6 {
            assert_eq!(client.get().await.0, StatusCode::OK);
        }
        assert_eq!(peer.connections.get(), 3);
    })
    .await;
}

#[tokio::test]
async fn retries_are_as_many_at_once_as_a_policy_says() {
    on_one_thread(async {
        let three = Three::new().await;
        let mut again = to_subset(None);
        again.retry = Some(Retry {
            attempts: 2,
            on: [RetryOn::ServerError].into(),
            codes: [].into(),
            backoff_ms: None,
            other_localities: None,
            other_endpoints: None,
        });
        let with = |share, min_concurrency| {
            policy(Settings {
                retry_budget: Some(RetryBudget {
                    share,
                    min_concurrency,
                }),
                balance: Balance::RoundRobin,
                ..Settings::default()
            })
        };
        let fail = || {
            for peer in &three.peers {
                peer.then([Act::Status(503)]);
            }
        };
        let mut client = three.client().await;
        three
            .world
            .policies(vec![with(0, 0)], Some(rule(again.clone())));
        fail();
        assert_eq!(client.get().await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(three.seen().iter().sum::<usize>(), 1, "no retry at all");
        let counted =
            r#"tradewind_outbound_overflows_total{service="shop/payments:80",bound="retries"}"#;
        assert_eq!(three.world.count(counted), 1);
        three
            .world
            .policies(vec![with(MILLION, 0)], Some(rule(again)));
        // One failure is left at two of them.
        assert_eq!(client.get().await.0, StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn a_retry_goes_to_another_place_or_the_same_endpoint_where_a_rule_says_so() {
    on_one_thread(async {
        let three = Three::new().await;
        let away = Peer::start(&three.world, "away", "central").await;
        three.world.endpoint("away", "central", away.address);
        let with = |other_localities, other_endpoints| {
            let mut again = to_subset(None);
            again.retry = Some(Retry {
                attempts: 1,
                on: [RetryOn::ServerError].into(),
                codes: [].into(),
                backoff_ms: None,
                other_localities,
                other_endpoints,
            });
            let by_user = policy(hash(HashKey::Header("x-user".into())));
            three.world.policies(vec![by_user], Some(rule(again)));
        };
        let mut client = three.client().await;
        let request = || Request::get("/").header("x-user", "ann");
        with(None, None);
        let (_, home, _) = ask(&mut client, request()).await;
        let at = NAMES.iter().position(|n| *n == home).unwrap();
        let fails = || three.peers[at].then([Act::Status(503)]);
        fails();
        let (status, by, _) = ask(&mut client, request()).await;
        assert_eq!(status, 200);
        assert!(
            NAMES.contains(&by.as_str()) && by != home,
            "another one near: {by}"
        );
        with(Some(true), None);
        fails();
        let (status, by, _) = ask(&mut client, request()).await;
        assert_eq!((status, by.as_str()), (200, "away"));
        with(None, Some(false));
        fails();
        let (status, by, _) = ask(&mut client, request()).await;
        assert_eq!(
            (status, by),
            (200, home),
            "the key leads to it, and it may be asked again"
        );
    })
    .await;
}

#[tokio::test]
async fn what_a_region_cannot_serve_goes_where_a_policy_says() {
    on_one_thread(async {
        let world = World::new();
        let central = Peer::start(&world, "c", "central").await;
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("c", "central", central.address);
        world.endpoint("e", "east", east.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(
            client.get().await.1,
            "c",
            "us-central is nearer to us-west than eu-west"
        );
        world.called_by(Settings {
            locality: Locality::Failover(vec![Failover {
                from: "us-west".parse().unwrap(),
                to: "eu-west".parse().unwrap(),
            }]),
            ..Settings::default()
        });
        for _ in 0..10 {
            assert_eq!(client.get().await, (StatusCode::OK, "e".into()));
        }
        world.called_by(Settings {
            locality: Locality::Ignored,
            balance: Balance::RoundRobin,
            ..Settings::default()
        });
        let before = (central.seen.get(), east.seen.get());
        for _ in 0..10 {
            client.get().await;
        }
        assert_eq!(
            (central.seen.get() - before.0, east.seen.get() - before.1),
            (5, 5)
        );
    })
    .await;
}
