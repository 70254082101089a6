//! Rules against peers on real sockets: who is asked, with what, how often, and what is answered without asking anybody.

use std::sync::Arc;

use tradewind_api::{
    Namespace,
    id::ServiceName,
    model::Service,
    route::{
        Abort, Action, Backend, BackendRef, Cors, Direct, Edits, FieldMatch, HeaderEdits, Kind,
        MILLION, Match, Mirror, Origin, Otherwise, PathEdit, PathIs, PathMatch, Redirect,
        RedirectPort, Retry, RetryOn, Routes, Rule, Table, Text, To,
    },
};

use super::*;

fn backend(service: &str, weight: u32) -> Backend {
    Backend {
        to: BackendRef::Service {
            service: service.parse().unwrap(),
            port: Some(80),
            subset: None,
        },
        weight,
        edits: Edits::default(),
    }
}

pub(super) fn to(backends: &[(&str, u32)]) -> Action {
    let backends = backends.iter().map(|(s, w)| backend(s, *w)).collect();
    Action::new(To::Backends(backends))
}

pub(super) fn rule(when: Match, then: Action) -> Rule {
    Rule {
        origin: Origin {
            kind: Kind::HttpRoute,
            object: "shop/payments".parse().unwrap(),
            rule: "rules[0]".into(),
            cluster: None,
        },
        when,
        then: Arc::new(then),
    }
}

pub(super) fn segments(prefix: &str) -> Match {
    Match {
        path: Some(PathMatch {
            is: PathIs::Segments(prefix.into()),
            ignores_case: false,
        }),
        ..Match::default()
    }
}

impl World {
    /// Gives calls to the service these rules.
    pub(super) fn rules(&self, rules: Vec<Rule>) {
        let routes = Routes {
            of_all: Some(Arc::new(Table {
                rules,
                otherwise: Otherwise::NotFound,
            })),
            ..Routes::default()
        };
        self.routes(routes);
    }

    pub(super) fn routes(&self, routes: Routes) {
        self.change(|s| {
            s.routes
                .insert("shop/payments".parse().unwrap(), Arc::new(routes));
        });
    }

    /// A second service with one endpoint, which is the peer at that address.
    pub(super) fn canary(&self, address: SocketAddr) {
        self.endpoint("canary", "west", address);
        self.change(|s| {
            let stable: ServiceName = "shop/payments".parse().unwrap();
            let service = Arc::make_mut(s.services.get_mut(&stable).unwrap());
            let endpoint = service.endpoints.pop().unwrap();
            let canary = Service {
                name: "shop/canary".parse().unwrap(),
                endpoints: vec![endpoint],
                ..service.clone()
            };
            s.services.insert(canary.name.clone(), Arc::new(canary));
        });
    }
}

impl Client {
    async fn ask(&mut self, request: http::request::Builder) -> Response<Incoming> {
        let request = request.header("host", "cart.shop:8080");
        let request = request.body(Full::new(Bytes::new())).unwrap();
        self.0.ready().await.unwrap();
        self.0.send_request(request).await.unwrap()
    }
}

fn by(response: &Response<Incoming>) -> &str {
    let by = response.headers().get("x-peer");
    by.map_or("nobody", |v| v.to_str().unwrap())
}

/// A stable and a canary, with a client.
struct Two {
    world: World,
    stable: Peer,
    canary: Peer,
    client: Client,
    _proxy: world::Running,
}

impl Two {
    async fn new() -> Self {
        let world = World::new();
        let stable = Peer::start(&world, "stable", "west").await;
        let canary = Peer::start(&world, "canary", "west").await;
        world.endpoint("w", "west", stable.address);
        world.canary(canary.address);
        let proxy = world.proxy().await;
        let client = Client::connect(proxy.address).await;
        Self {
            world,
            stable,
            canary,
            client,
            _proxy: proxy,
        }
    }

    async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.client.ask(Request::get(path)).await
    }
}

#[tokio::test]
async fn requests_are_split_by_weight_and_steered_by_header_and_rules_change_under_load() {
    on_one_thread(async {
        let mut two = Two::new().await;
        assert_eq!(by(&two.get("/").await), "stable", "without rules");
        let canaries = Match {
            headers: vec![FieldMatch {
                name: "x-canary".into(),
                is: Text::Present,
                not: false,
            }],
            ..Match::default()
        };
        two.world.rules(vec![
            rule(canaries, to(&[("shop/canary", 1)])),
            rule(
                Match::default(),
                to(&[("shop/payments", 9), ("shop/canary", 1)]),
            ),
        ]);
        let mut canaries = 0;
        for _ in 0..500 {
            let response = two.get("/").await;
            assert_eq!(response.status(), StatusCode::OK);
            canaries += usize::from(by(&response) == "canary");
        }
        assert!((25..=80).contains(&canaries), "a tenth of 500: {canaries}");
        for _ in 0..5 {
            let response = two.client.ask(Request::get("/").header("x-canary", "1")).await;
            assert_eq!(by(&response), "canary");
        }
        let head = two.canary.heads.borrow().last().unwrap().headers().clone();
        assert_eq!(head["tradewind-service"], "shop/canary:80");
        two.world
            .rules(vec![rule(Match::default(), to(&[("shop/canary", 1)]))]);
        assert_eq!(by(&two.get("/").await), "canary", "moved over");
        two.world.change(|s| s.routes.clear());
        assert_eq!(by(&two.get("/").await), "stable", "and back");
        let counted = r#"tradewind_outbound_requests_total{service="shop/canary:80",cluster="west",outcome="ok"}"#;
        assert_eq!(two.world.count(counted), canaries as u64 + 6);
    })
    .await;
}

#[tokio::test]
async fn a_backend_sees_what_the_rule_makes_of_the_request_and_the_caller_of_the_response() {
    on_one_thread(async {
        let mut two = Two::new().await;
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        let edits = |set: &[(&str, &str)], remove: &[&str]| HeaderEdits {
            set: set.iter().map(|(n, v)| pair(n, v)).collect(),
            add: Vec::new(),
            remove: remove.iter().map(|r| (*r).to_owned()).collect(),
        };
        let mut action = to(&[("shop/canary", 1)]);
        action.edits = Edits {
            request: edits(&[("x-by", "rule"), ("x-rule", "1")], &["x-secret"]),
            response: edits(&[("x-out", "rule")], &[]),
        };
        if let To::Backends(backends) = &mut action.to {
            backends[0].edits = Edits {
                request: edits(&[("x-by", "backend")], &[]),
                response: edits(&[("x-out", "backend"), ("x-backend", "1")], &[]),
            };
        }
        action.rewrite.path = Some(PathEdit::Matched("/v2".into()));
        action.rewrite.authority = Some("inner.example".into());
        two.world.rules(vec![rule(segments("/api"), action)]);
        let asked = Request::get("/api/a?b=c").header("x-secret", "s");
        let response = two.client.ask(asked).await;
        assert_eq!(by(&response), "canary");
        assert_eq!(response.headers()["x-out"], "rule", "the rule speaks last");
        assert_eq!(response.headers()["x-backend"], "1");
        let heads = two.canary.heads.borrow();
        assert_eq!(heads[0].uri(), "http://inner.example/v2/a?b=c");
        let fields = heads[0].headers();
        assert_eq!(
            (&fields["x-by"], &fields["x-rule"]),
            (&"backend".parse().unwrap(), &"1".parse().unwrap())
        );
        assert!(fields.get("x-secret").is_none());
    })
    .await;
}

#[tokio::test]
async fn what_a_rule_answers_itself_reaches_nobody() {
    on_one_thread(async {
        let mut two = Two::new().await;
        let redirect = Redirect {
            code: 308,
            scheme: Some("https".into()),
            host: Some("other.example".into()),
            port: RedirectPort::OfScheme,
            path: Some(PathEdit::Matched("/new".into())),
        };
        let direct = Direct {
            status: 418,
            body: Some(b"closed".to_vec()),
        };
        let mut nobody = to(&[("shop/canary", 1)]);
        if let To::Backends(backends) = &mut nobody.to {
            backends[0].to = BackendRef::Broken("there is no service shop/gone".into());
        }
        let mut fault = to(&[("shop/canary", 1)]);
        fault.fault.abort = Some((Abort::Http(503), MILLION));
        let mut grpc = to(&[("shop/canary", 1)]);
        grpc.fault.abort = Some((Abort::Grpc(8), MILLION));
        two.world.rules(vec![
            rule(segments("/old"), Action::new(To::Redirect(redirect))),
            rule(segments("/direct"), Action::new(To::Direct(direct))),
            rule(segments("/gone"), nobody),
            rule(segments("/none"), to(&[("shop/canary", 0)])),
            rule(segments("/fault"), fault),
            rule(segments("/grpc"), grpc),
        ]);
        let moved = two.get("/old/a?b=c").await;
        assert_eq!(moved.status(), 308);
        assert_eq!(
            moved.headers()["location"],
            "https://other.example/new/a?b=c"
        );
        let direct = two.get("/direct").await;
        assert_eq!(direct.status(), 418);
        let body = direct.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "closed");
        for (path, status, reason, says) in [
            (
                "/elsewhere",
                404,
                "no-rule",
                "none of them is for this request",
            ),
            ("/gone", 500, "no-backend", "there is no service shop/gone"),
            ("/none", 500, "no-backend", "no backend with a weight"),
            ("/fault", 503, "fault", "on purpose"),
        ] {
            let response = two.get(path).await;
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.headers()["tradewind-error"], reason, "{path}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8(body.to_vec()).unwrap();
            assert!(text.contains(says), "{text}");
        }
        let grpc = two.get("/grpc").await;
        assert_eq!(
            (grpc.status().as_u16(), &grpc.headers()["grpc-status"]),
            (200, &8.into())
        );
        assert_eq!((two.stable.seen.get(), two.canary.seen.get()), (0, 0));
        assert_eq!(
            two.world
                .count("tradewind_outbound_requests_total{service=\"shop/canary:80\""),
            0
        );
    })
    .await;
}

#[tokio::test]
async fn copies_are_sent_by_their_share_and_their_answers_change_nothing() {
    on_one_thread(async {
        let mut two = Two::new().await;
        let mirror = |service: &str, share| Mirror {
            to: backend(service, 1).to,
            share,
        };
        let mut action = to(&[("shop/payments", 1)]);
        action.rewrite.path = Some(PathEdit::Matched("/v2".into()));
        action.mirrors = vec![
            mirror("shop/canary", MILLION / 4),
            // Nobody has ever heard of it.
            mirror("shop/gone", MILLION),
        ];
        two.world.rules(vec![rule(segments("/api"), action)]);
        // The copies' first answers are an error, none, and a broken stream.
        two.canary
            .then([Act::Status(500), Act::EchoLater, Act::Reset]);
        for i in 0..400 {
            let body = format!("call {i} {}", "x".repeat(i * 100));
            let request = Request::post("/api/a?b=c").header("host", "cart.shop:8080");
            let request = request.body(Full::new(Bytes::from(body.clone()))).unwrap();
            two.client.0.ready().await.unwrap();
            let response = two.client.0.send_request(request).await.unwrap();
            assert_eq!(
                (response.status(), by(&response)),
                (StatusCode::OK, "stable")
            );
            let echoed = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(echoed, body);
        }
        let of = |outcome: &str| {
            let labels = format!(r#"{{service="shop/canary:80",outcome="{outcome}"}}"#);
            two.world
                .count(&format!("tradewind_outbound_mirrors_total{labels}"))
        };
        let all_told = async {
            // One still waits for its answer.
            while of("answered") + of("failed") + 1 < two.canary.seen.get() as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(world::PATIENCE, all_told)
            .await
            .unwrap();
        let copies = two.canary.seen.get();
        assert!((60..=140).contains(&copies), "a quarter of 400: {copies}");
        assert_eq!(of("failed"), 1, "the one that was reset");
        for head in two.canary.heads.borrow().iter() {
            assert_eq!(head.uri(), "http://cart.shop-shadow:8080/v2/a?b=c");
            assert_eq!(head.headers()["tradewind-service"], "shop/canary:80");
        }
        assert_eq!(two.stable.seen.get(), 400, "no call was sent twice");
    })
    .await;
}

#[tokio::test]
async fn browsers_are_answered_for_the_backend_and_told_of_every_answer() {
    on_one_thread(async {
        let mut two = Two::new().await;
        let cors = Cors {
            origins: vec![Text::Exact("https://shop.example".into())],
            methods: vec!["PUT".into()],
            headers: Vec::new(),
            expose: Vec::new(),
            max_age_s: Some(60),
            credentials: false,
            forwards_unmatched: true,
        };
        let with = |mut action: Action| {
            action.cors = Some(cors.clone());
            action
        };
        let mut broken = to(&[("shop/canary", 1)]);
        // A preflight is answered before faults.
        broken.fault.abort = Some((Abort::Http(503), MILLION));
        two.world.rules(vec![
            rule(segments("/fault"), with(broken)),
            rule(segments("/none"), with(to(&[("shop/canary", 0)]))),
            rule(Match::default(), with(to(&[("shop/canary", 1)]))),
        ]);
        let permits = |r: &Response<Incoming>| {
            let origin = r.headers().get("access-control-allow-origin");
            origin.map(|v| v.to_str().unwrap().to_owned())
        };
        let shop = Some("https://shop.example".to_owned());
        let preflight = |path, origin| {
            Request::options(path)
                .header("origin", origin)
                .header("access-control-request-method", "PUT")
        };
        for path in ["/", "/fault"] {
            let response = two
                .client
                .ask(preflight(path, "https://shop.example"))
                .await;
            assert_eq!(
                (response.status(), permits(&response)),
                (StatusCode::OK, shop.clone())
            );
            assert_eq!(response.headers()["access-control-allow-methods"], "PUT");
            assert_eq!(response.headers()["access-control-max-age"], "60");
            assert_eq!(by(&response), "nobody");
        }
        assert_eq!(two.canary.seen.get(), 0, "no preflight reached it");
        let stranger = two.client.ask(preflight("/", "https://evil.example")).await;
        assert_eq!((by(&stranger), permits(&stranger)), ("canary", None));
        for (path, status) in [("/", 200), ("/fault", 503), ("/none", 500)] {
            let asked = Request::get(path).header("origin", "https://shop.example");
            let response = two.client.ask(asked).await;
            assert_eq!(
                (response.status().as_u16(), permits(&response)),
                (status, shop.clone()),
                "{path}"
            );
            assert_eq!(response.headers()["vary"], "origin");
        }
        let plain = two.get("/").await;
        assert_eq!((by(&plain), permits(&plain)), ("canary", None));
    })
    .await;
}

#[tokio::test]
async fn a_callers_namespace_has_rules_of_its_own() {
    on_one_thread(async {
        let mut two = Two::new().await;
        let table = |service| {
            Arc::new(Table {
                rules: vec![rule(Match::default(), to(&[(service, 1)]))],
                otherwise: Otherwise::NotFound,
            })
        };
        let namespace = |n| Namespace::new(n).unwrap();
        two.world.routes(Routes {
            of_callers: [(namespace("other"), table("shop/payments"))].into(),
            of_all: Some(table("shop/canary")),
            ..Routes::default()
        });
        assert_eq!(by(&two.get("/").await), "canary");
        two.world.routes(Routes {
            of_callers: [(namespace("shop"), table("shop/payments"))].into(),
            of_all: Some(table("shop/canary")),
            ..Routes::default()
        });
        assert_eq!(by(&two.get("/").await), "stable");
        two.world.routes(Routes {
            of_callers: [(namespace("other"), table("shop/canary"))].into(),
            ..Routes::default()
        });
        assert_eq!(
            by(&two.get("/").await),
            "stable",
            "no rules for this caller"
        );
    })
    .await;
}

#[tokio::test]
async fn rules_may_be_for_callers_with_a_label() {
    on_one_thread(async {
        let mut two = Two::new().await;
        let labelled = |value: &str| Match {
            caller_labels: [("app".to_owned(), value.to_owned())].into(),
            ..Match::default()
        };
        for (label, answers) in [("web", "canary"), ("batch", "stable")] {
            two.world.rules(vec![
                rule(labelled(label), to(&[("shop/canary", 1)])),
                rule(Match::default(), to(&[("shop/payments", 1)])),
            ]);
            assert_eq!(by(&two.get("/").await), answers, "it is labelled app=web");
        }
    })
    .await;
}

#[tokio::test]
async fn time_is_limited_for_a_try_and_for_all_of_them() {
    on_one_thread(async {
        let mut two = Two::new().await;
        let mut whole = to(&[("shop/canary", 1)]);
        whole.timeouts.whole_ms = Some(150);
        two.world.rules(vec![rule(Match::default(), whole)]);
        // It takes the request and never answers.
        two.canary.then([Act::EchoLater]);
        let began = tokio::time::Instant::now();
        let response = two.get("/").await;
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(response.headers()["tradewind-error"], "timeout");
        assert!(began.elapsed() >= Duration::from_millis(150));
        // The head comes in time and the end of the body does not.
        two.canary.then([Act::BreakOff]);
        let response = two.get("/").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.into_body().collect().await.is_err());

        // One that is slow costs a try, and another is asked.
        let other = Peer::start(&two.world, "other", "east").await;
        two.world.endpoint("o", "east", other.address);
        let mut tries = to(&[("shop/payments", 1)]);
        tries.timeouts.try_ms = Some(100);
        two.world.rules(vec![rule(Match::default(), tries)]);
        let mut client = Client::connect(two._proxy.address).await;
        two.stable.then([Act::EchoLater]);
        assert_eq!(by(&client.ask(Request::get("/")).await), "other");
        assert_eq!((two.stable.seen.get(), other.seen.get()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn statuses_are_tried_again_elsewhere_and_no_more_often_than_the_rule_says() {
    on_one_thread(async {
        let mut two = Two::new().await;
        let other = Peer::start(&two.world, "other", "east").await;
        two.world.endpoint("o", "east", other.address);
        let mut action = to(&[("shop/payments", 1)]);
        action.retry = Some(Retry {
            attempts: 1,
            on: [RetryOn::ServerError].into(),
            codes: [].into(),
            backoff_ms: Some(1),
            other_localities: None,
            other_endpoints: None,
        });
        two.world.rules(vec![rule(Match::default(), action)]);
        two.stable.then([Act::Status(503)]);
        let response = two.client.ask(Request::post("/")).await;
        assert_eq!(
            (response.status(), by(&response)),
            (StatusCode::OK, "other")
        );
        assert_eq!((two.stable.seen.get(), other.seen.get()), (1, 1));
        // Both say so: the second answer is the caller's.
        two.stable.then([Act::Status(503)]);
        other.then([Act::Status(500)]);
        let response = two.get("/").await;
        assert_eq!(
            (response.status(), by(&response)),
            (StatusCode::INTERNAL_SERVER_ERROR, "other")
        );
        assert_eq!((two.stable.seen.get(), other.seen.get()), (2, 2));
        // What the words do not name is an answer.
        two.stable.then([Act::Status(429)]);
        assert_eq!(two.get("/").await.status(), StatusCode::TOO_MANY_REQUESTS);
        // A call that may have been processed is repeated where the rule says so, whatever its method.
        two.stable.then([Act::Reset]);
        let response = two.client.ask(Request::post("/")).await;
        assert_eq!(
            (response.status(), by(&response)),
            (StatusCode::OK, "other")
        );
    })
    .await;
}
