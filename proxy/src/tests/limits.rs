//! Local rate limits before an application: by a clock that moves only when it is told to, so that what is in a bucket is known.

use std::{sync::Arc, time::Duration};

use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tradewind_runtime::{ManualClock, clock};

use super::{
    Caller, Running, apps, full, header, life::admin, pki::Pki, registry::Registry, request,
    start_at, text,
};
use crate::fixture;

const CART: &str = "shop/payments:80";
const OTHER: &str = "shop/secret:81";

/// A limit for all requests: two tokens, and two more each second.
fn two_a_second() -> Value {
    json!({
        "place": { "filter": { "port": null } },
        "bucket": { "max_tokens": 2, "tokens_per_fill": 2, "fill_interval_ms": 1_000 },
        "enabled": 1_000_000,
        "enforced": 1_000_000,
    })
}

/// The same with some of it changed.
fn but(change: Value) -> Value {
    let mut limit = two_a_second();
    let changed = change.as_object().unwrap().clone();
    limit.as_object_mut().unwrap().extend(changed);
    limit
}

struct World {
    pki: Pki,
    clock: ManualClock,
    app: apps::App,
    proxy: Running,
    _registry: Registry,
}

impl World {
    /// A proxy whose workload is `app=cart` of namespace `shop`, below these limits of one object for it.
    async fn new(limits: &[Value]) -> Self {
        let (pki, app, registry) = (Pki::new(), apps::http1().await, Registry::start().await);
        let clock = ManualClock::new(clock::system().unix_ms());
        let serves = [CART, OTHER].map(|s| format!("{s}={},protocol=http1", app.address));
        let snapshot = fixture::snapshot(&[("shop/payments", true, 80), ("shop/secret", true, 81)]);
        let change = |config: &mut crate::ProxyConfig| {
            config.labels = Arc::new([("app".to_owned(), "cart".to_owned())].into());
        };
        let started = start_at(clock.shared(), &pki, snapshot, &registry, &serves, change);
        let proxy = started.await;
        let world = Self {
            pki,
            clock,
            app,
            proxy,
            _registry: registry,
        };
        world.limit(limits).await;
        world
    }

    /// Has these limits hold instead.
    async fn limit(&self, limits: &[Value]) {
        let object = json!({ "namespace": "shop", "labels": { "app": "cart" }, "limits": limits });
        let object: Arc<_> = serde_json::from_value(object).map(Arc::new).unwrap();
        self.proxy.snapshot.send_modify(|snapshot| {
            let limits = &mut Arc::make_mut(snapshot).limits;
            limits.insert("shop/limit".parse().unwrap(), object);
        });
        self.seen().await;
    }

    /// Until the proxy has looked at the newest snapshot: by a limit in it that nothing comes near.
    async fn seen(&self) {
        let marker = format!("shop/marker-{}", self.proxy.snapshot.borrow().limits.len());
        let large =
            json!({ "max_tokens": 1_000_000, "tokens_per_fill": 1, "fill_interval_ms": 1_000 });
        let place = json!({ "filter": { "port": 80 } });
        let only = json!({ "limits": [but(json!({ "bucket": large, "place": place }))] });
        let only: Arc<_> = serde_json::from_value(only).map(Arc::new).unwrap();
        self.proxy.snapshot.send_modify(|snapshot| {
            let limits = &mut Arc::make_mut(snapshot).limits;
            limits.insert(marker.parse().unwrap(), only);
        });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !admin(self.proxy.admin, "/debug/state")
            .await
            .contains(&marker)
        {
            assert!(tokio::time::Instant::now() < deadline, "never: {marker}");
        }
    }

    async fn caller(&self) -> Caller {
        let to = self.proxy.hbone;
        Caller::dial(&self.pki, "east", to).await.unwrap()
    }

    fn moved(&self, by_ms: u64) {
        self.clock.advance(Duration::from_millis(by_ms));
    }
}

/// Statuses of so many requests, one after the other.
async fn statuses(caller: &mut Caller, service: &str, count: usize) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..count {
        let response = caller.get(service, "/where").await.unwrap();
        all.push(response.status().as_u16());
        drop(text(response).await);
    }
    all
}

async fn grpc(caller: &mut Caller) -> Response<Incoming> {
    let call = request(CART, "/where").method("POST");
    let call = call.header("content-type", "application/grpc");
    caller.send(call.body(full("")).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_bucket_empties_is_filled_and_its_refusals_are_told_and_counted() {
    let answer = json!({ "status": 429, "headers": [
        { "name": "x-local-rate-limit", "value": "true", "how": "set" },
        { "name": "content-type", "value": "text/html", "how": "if-absent" },
        { "name": "x-none", "value": "a", "how": "if-present" },
    ] });
    let world = World::new(&[but(json!({ "answer": answer }))]).await;
    let mut caller = world.caller().await;
    assert_eq!(statuses(&mut caller, CART, 2).await, [200, 200]);
    let asked = world.app.connections();
    let refused = caller.get(CART, "/where").await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let fields = [
        "x-envoy-ratelimited",
        "x-local-rate-limit",
        "content-type",
        "x-none",
    ];
    assert_eq!(
        fields.map(|f| header(&refused, f)),
        ["true", "true", "text/plain", ""]
    );
    // Neither an error of the mesh's nor something to send elsewhere.
    let ours = refused
        .headers()
        .keys()
        .filter(|k| k.as_str().starts_with("tradewind"));
    assert_eq!(ours.count(), 0);
    assert_eq!(text(refused).await, "local_rate_limited");
    assert_eq!(world.app.connections(), asked);
    // Whatever a caller is still sending.
    let large = request(CART, "/echo").method("POST");
    let large = large.body(full(vec![b'x'; 4 << 20])).unwrap();
    let refused = caller.send(large).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(text(refused).await, "local_rate_limited");
    world.moved(999);
    assert_eq!(statuses(&mut caller, CART, 1).await, [429]);
    world.moved(1);
    assert_eq!(statuses(&mut caller, CART, 3).await, [200, 200, 429]);
    // No more than it holds, however long it waits.
    world.moved(60_000);
    assert_eq!(statuses(&mut caller, CART, 3).await, [200, 200, 429]);
    let counted =
        r#"tradewind_inbound_rate_limited_total{service="shop/payments:80",outcome="refused"} 5"#;
    world.proxy.metric(counted).await;
    let flagged = r#"request_protocol="http",response_code="429",grpc_response_status="unknown",response_flags="RL",connection_security_policy="mutual_tls"} 5"#;
    world.proxy.metric(flagged).await;
    let answered = r#"tradewind_inbound_responses_total{service="shop/payments:80",class="4xx"} 0"#;
    world.proxy.metric(answered).await;
}

#[tokio::test]
async fn all_threads_share_a_bucket_and_tunnels_take_nothing_of_it() {
    let bucket = json!({ "max_tokens": 20, "tokens_per_fill": 1, "fill_interval_ms": 60_000 });
    let world = World::new(&[but(json!({ "bucket": bucket }))]).await;
    let mut passed = 0;
    // The kernel spreads them over both threads' listeners.
    let mut callers = Vec::new();
    for _ in 0..16 {
        callers.push(world.caller().await);
    }
    for caller in &mut callers {
        let all = statuses(caller, CART, 3).await;
        passed += all.iter().filter(|s| **s == 200).count();
    }
    assert_eq!(passed, 20);
    let tunnel = callers[0]
        .connect("payments.shop.svc.clusterset.local:80")
        .await;
    assert_eq!(tunnel.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_not_enforced_is_counted_and_passes_with_what_it_is_to_carry() {
    let passed = json!([{ "name": "x-over", "value": "yes", "how": "append" }]);
    let world = World::new(&[but(json!({ "enforced": 0, "passed_headers": passed }))]).await;
    let mut caller = world.caller().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(
            text(caller.get(CART, "/where").await.unwrap())
                .await
                .contains("x-over"),
        );
    }
    assert_eq!(seen, [false, false, true]);
    let counted = |outcome: &str, n: usize| {
        format!(
            "tradewind_inbound_rate_limited_total{{service=\"shop/payments:80\",outcome=\"{outcome}\"}} {n}\n"
        )
    };
    world.proxy.metric(&counted("passed", 1)).await;
    world.proxy.metric(&counted("refused", 0)).await;
    // A share of them alone: 60 that all are refused, or all pass, there are once in 10^18 runs.
    world.limit(&[but(json!({ "enforced": 500_000 }))]).await;
    let all = statuses(&mut caller, CART, 60).await;
    assert!(all.contains(&200) && all.contains(&429), "{all:?}");
}

#[tokio::test]
async fn limits_hold_for_a_port_and_a_routes_takes_the_place_of_the_filters() {
    let filter = |port: Value| but(json!({ "place": { "filter": { "port": port } } }));
    let world = World::new(&[filter(json!(81))]).await;
    let mut caller = world.caller().await;
    assert_eq!(statuses(&mut caller, CART, 5).await, [200; 5]);
    assert_eq!(statuses(&mut caller, OTHER, 3).await, [200, 200, 429]);
    // The port where the application listens is both services'.
    let application = world.app.address.port();
    world.limit(&[filter(json!(application))]).await;
    world.moved(1_000);
    assert_eq!(statuses(&mut caller, CART, 1).await, [200]);
    assert_eq!(statuses(&mut caller, OTHER, 2).await, [200, 429]);
    let one = json!({ "max_tokens": 1, "tokens_per_fill": 1, "fill_interval_ms": 1_000 });
    let of_route = but(json!({ "place": { "route": { "port": 81 } }, "bucket": one }));
    world.moved(1_000);
    world.limit(&[filter(Value::Null), of_route]).await;
    assert_eq!(statuses(&mut caller, OTHER, 2).await, [200, 429]);
    assert_eq!(statuses(&mut caller, CART, 3).await, [200, 200, 429]);
}

#[tokio::test]
async fn each_connection_may_have_a_bucket_for_itself() {
    let world = World::new(&[but(json!({ "per_connection": true }))]).await;
    let (mut one, mut other) = (world.caller().await, world.caller().await);
    assert_eq!(statuses(&mut one, CART, 3).await, [200, 200, 429]);
    assert_eq!(statuses(&mut other, CART, 3).await, [200, 200, 429]);
    world.moved(1_000);
    assert_eq!(statuses(&mut one, CART, 3).await, [200, 200, 429]);
}

#[tokio::test]
async fn what_is_in_a_bucket_outlives_whatever_leaves_the_bucket_as_it_is() {
    let world = World::new(&[two_a_second()]).await;
    let mut caller = world.caller().await;
    assert_eq!(statuses(&mut caller, CART, 3).await, [200, 200, 429]);
    // Another snapshot with the same limit, and then the same bucket with another answer.
    world.limit(&[two_a_second()]).await;
    assert_eq!(statuses(&mut caller, CART, 1).await, [429]);
    world
        .limit(&[but(json!({ "answer": { "status": 503 } }))])
        .await;
    assert_eq!(statuses(&mut caller, CART, 1).await, [503]);
    let larger = json!({ "max_tokens": 3, "tokens_per_fill": 2, "fill_interval_ms": 1_000 });
    world.limit(&[but(json!({ "bucket": larger }))]).await;
    assert_eq!(statuses(&mut caller, CART, 4).await, [200, 200, 200, 429]);
    world
        .proxy
        .snapshot
        .send_modify(|s| Arc::make_mut(s).limits.clear());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while statuses(&mut caller, CART, 1).await != [200] {
        assert!(tokio::time::Instant::now() < deadline, "the limit is over");
    }
}

#[tokio::test]
async fn grpc_calls_and_those_who_ask_are_told_in_their_own_words() {
    let exhausted = json!({ "resource_exhausted": true });
    let world = World::new(&[but(json!({ "tells": true }))]).await;
    let mut caller = world.caller().await;
    let left = |response: &Response<Incoming>| {
        ["limit", "remaining", "reset"]
            .map(|f| header(response, &format!("x-ratelimit-{f}")).to_owned())
    };
    world.moved(400);
    let first = caller.get(CART, "/where").await.unwrap();
    assert_eq!(left(&first), ["2", "1", "1"]);
    drop(text(first).await);
    assert_eq!(
        left(&caller.get(CART, "/where").await.unwrap()),
        ["2", "0", "1"]
    );
    let refused = grpc(&mut caller).await;
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(left(&refused), ["2", "0", "1"]);
    let told = [
        "content-type",
        "grpc-status",
        "grpc-message",
        "x-envoy-ratelimited",
    ];
    let of_grpc = |code| ["application/grpc", code, "local_rate_limited", "true"];
    assert_eq!(told.map(|f| header(&refused, f)), of_grpc("14"));
    assert_eq!(text(refused).await, "");
    world.limit(&[but(json!({ "answer": exhausted }))]).await;
    let refused = grpc(&mut caller).await;
    assert_eq!(told.map(|f| header(&refused, f)), of_grpc("8"));
    assert_eq!(left(&refused), ["", "", ""]);
}

#[tokio::test]
async fn other_workloads_limits_do_not_hold_and_those_that_do_are_shown() {
    let world = World::new(&[two_a_second()]).await;
    world.proxy.snapshot.send_modify(|snapshot| {
        let of = |limits: Value| Arc::new(serde_json::from_value(limits).unwrap());
        let limits = &mut Arc::make_mut(snapshot).limits;
        let empty = || {
            but(json!({ "enforced": 1_000_000, "bucket":
            { "max_tokens": 1, "tokens_per_fill": 1, "fill_interval_ms": 1_000 } }))
        };
        let others = [
            (
                "shop/web",
                json!({ "labels": { "app": "web" }, "limits": [empty()] }),
            ),
            (
                "front/cart",
                json!({ "namespace": "front", "limits": [empty()] }),
            ),
        ];
        for (name, object) in others {
            limits.insert(name.parse().unwrap(), of(object));
        }
    });
    world.seen().await;
    let mut caller = world.caller().await;
    assert_eq!(statuses(&mut caller, CART, 3).await, [200, 200, 429]);
    let page = admin(world.proxy.admin, "/debug/state").await;
    let state: Value = serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap();
    let rows = state["rate_limits"].as_array().unwrap();
    let row = rows.iter().find(|r| r["object"] == "shop/limit").unwrap();
    let expected = json!({
        "object": "shop/limit", "limit": 0, "application": world.app.address.to_string(),
        "max_tokens": 2, "tokens_per_fill": 2, "fill_interval_ms": 1_000,
        "per_connection": false, "enforced_percent": 100.0, "left": 0,
    });
    assert_eq!(*row, expected);
    assert!(
        rows.iter()
            .all(|r| r["object"] != "shop/web" && r["object"] != "front/cart")
    );
}
