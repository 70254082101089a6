//! A proxy in a pod: it serves what its snapshot says of its own address, as that changes, and registers nothing.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::BodyExt as _;
use tokio::net::TcpStream;
use tradewind_api::{
    model::{AppProtocol, ServicePort},
    snapshot::Snapshot,
};
use tradewind_runtime::{clock, rng::Rng, task};

use super::{
    Caller, Running, apps, header, life::admin, pki::Pki, registry::Registry, soon, start, text,
    until,
};
use crate::{
    Proxy, ProxyConfig,
    capture::CaptureConfig,
    fixture::{self, change},
};

const SERVICE: &str = "shop/payments:80";
const OTHER: &str = "shop/admin:9000";

/// Services that select no pod yet.
fn snapshot() -> Snapshot {
    fixture::snapshot(&[("shop/payments", true, 80), ("shop/admin", false, 9000)])
}

/// A proxy in a pod before this snapshot.
async fn pod(pki: &Pki, registry: &Registry, snapshot: Snapshot) -> Running {
    start(pki, snapshot, registry, &[], |c| c.kubernetes = true).await
}

impl Running {
    fn select(&self, service: &str, targets: &[(u16, SocketAddr)]) {
        let at = self.hbone.to_string();
        let targets: Vec<_> = targets.iter().map(|(p, app)| (*p, app.port())).collect();
        self.snapshot.send_modify(|s| {
            change(Arc::make_mut(s), service, |s| {
                s.endpoints.retain(|e| e.address.as_deref() != Some(&at));
                if !targets.is_empty() {
                    s.endpoints
                        .push(fixture::endpoint("a", "west", &at, &targets));
                }
                for (port, _) in &targets {
                    if s.port(*port).is_none() {
                        s.ports.push(ServicePort {
                            name: port.to_string(),
                            port: *port,
                            app_protocol: AppProtocol::Detect,
                        });
                    }
                }
            });
        });
    }

    async fn serves(&self, expected: &[&str]) {
        soon(async {
            loop {
                let page = admin(self.admin, "/debug/config").await;
                let body = page.split_once("\r\n\r\n").unwrap().1;
                let config: serde_json::Value = serde_json::from_str(body).unwrap();
                assert_eq!(config["kubernetes"], true);
                let serves = config["serves"].as_array().unwrap();
                let targets: Vec<_> = serves
                    .iter()
                    .map(|s| s.as_str().unwrap().split('=').next().unwrap())
                    .collect();
                if targets == expected {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn it_serves_what_selects_it_while_that_changes() {
    let (pki, registry) = (Pki::new(), Registry::start().await);
    let (app, http2) = (apps::http1().await, apps::http2().await);
    let p = pod(&pki, &registry, snapshot()).await;
    until("ready", || p.readiness.is_ready()).await;
    let mut caller = Caller::dial(&pki, "west", p.hbone).await.unwrap();
    let early = caller.get(SERVICE, "/").await.unwrap();
    assert_eq!(early.status(), 404);
    // Whoever knew it before this proxy did asks elsewhere, or again.
    assert_eq!(header(&early, "tradewind-unprocessed"), "not_served");
    p.metric(r#"tradewind_inbound_streams_refused_total{reason="not_served"} 1"#)
        .await;

    p.select("shop/payments", &[(80, app.address)]);
    p.serves(&[SERVICE]).await;
    assert_eq!(caller.get(SERVICE, "/").await.unwrap().status(), 200);
    assert_eq!(caller.get(OTHER, "/").await.unwrap().status(), 404);
    let state = admin(p.admin, "/debug/state").await;
    assert!(state.contains(&app.address.to_string()), "{state}");

    // One more Service, and one more port of the first.
    p.select("shop/admin", &[(9000, app.address)]);
    p.select("shop/payments", &[(80, app.address), (81, http2.address)]);
    p.serves(&[OTHER, SERVICE, "shop/payments:81"]).await;
    assert_eq!(caller.get(OTHER, "/").await.unwrap().status(), 200);
    // What is not exported is for its own cluster alone, as ever.
    let mut foreign = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    assert_eq!(foreign.get(OTHER, "/").await.unwrap().status(), 403);

    // Gone is gone, for new streams.
    p.select("shop/payments", &[]);
    p.serves(&[OTHER]).await;
    assert_eq!(caller.get(SERVICE, "/").await.unwrap().status(), 404);
    let by_address = caller.connect(&app.address.to_string()).await.unwrap();
    assert_eq!(by_address.status(), 200, "it is still somebody's");
    p.select("shop/admin", &[]);
    p.serves(&[]).await;
    let by_address = caller.connect(&app.address.to_string()).await.unwrap();
    assert_eq!(by_address.status(), 404);
    assert!(registry.heard.borrow().is_empty(), "nothing to register");
}

#[tokio::test]
async fn streams_and_connections_of_what_stays_are_left_alone() {
    let (pki, registry, app) = (Pki::new(), Registry::start().await, apps::http2().await);
    let mut s = snapshot();
    change(&mut s, "shop/payments", |s| {
        s.ports[0].app_protocol = AppProtocol::Http2;
    });
    let p = pod(&pki, &registry, s).await;
    p.select("shop/payments", &[(80, app.address)]);
    p.serves(&[SERVICE]).await;
    let mut caller = Caller::dial(&pki, "west", p.hbone).await.unwrap();
    text(caller.get(SERVICE, "/").await.unwrap()).await;
    let mut endless = caller.get(SERVICE, "/endless").await.unwrap();
    assert!(soon(endless.body_mut().frame()).await.unwrap().is_ok());
    for port in 9000..9005 {
        p.select("shop/admin", &[(port, app.address)]);
        let admin = format!("shop/admin:{port}");
        p.serves(&[&admin, SERVICE]).await;
        text(caller.get(SERVICE, "/").await.unwrap()).await;
    }
    assert_eq!(app.connections(), 1, "one for all, as nothing changed");
    // What is under way goes on even when its Service is gone.
    p.select("shop/payments", &[]);
    p.serves(&["shop/admin:9004"]).await;
    for _ in 0..3 {
        assert!(soon(endless.body_mut().frame()).await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn an_application_that_moves_is_found_and_one_that_is_not_there_is_told() {
    let (pki, registry) = (Pki::new(), Registry::start().await);
    let (app, gone) = (apps::http1().await, apps::nobody().await);
    let p = pod(&pki, &registry, snapshot()).await;
    p.select("shop/payments", &[(80, gone)]);
    p.serves(&[SERVICE]).await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let response = caller.get(SERVICE, "/").await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(header(&response, "tradewind-unprocessed"), "connect");
    p.select("shop/payments", &[(80, app.address)]);
    let answered = async {
        while caller.get(SERVICE, "/").await.unwrap().status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(answered).await;
}

#[tokio::test]
async fn it_is_ready_without_a_registry_and_gives_callers_time_to_leave() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let mut registry = Registry::start().await;
    registry.stop().await;
    let p = start(&pki, snapshot(), &registry, &[], |c| {
        c.kubernetes = true;
        c.leave_grace = Duration::from_millis(700);
    })
    .await;
    until("ready", || p.readiness.is_ready()).await;
    p.select("shop/payments", &[(80, app.address)]);
    p.serves(&[SERVICE]).await;
    let mut caller = Caller::dial(&pki, "west", p.hbone).await.unwrap();
    let drained = task::spawn("drain", p.trigger.drain(Duration::from_secs(30)));
    until("draining", || !p.readiness.is_ready()).await;
    // New connections and streams are still taken: callers hear of it later than the kubelet.
    let mut late = Caller::dial(&pki, "west", p.hbone).await.unwrap();
    for caller in [&mut caller, &mut late] {
        assert_eq!(caller.get(SERVICE, "/").await.unwrap().status(), 200);
    }
    soon(async {
        while TcpStream::connect(p.hbone).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop((caller, late));
    assert!(soon(drained).await.unwrap());
    soon(p.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_go_with_kubernetes_is_named() {
    let build = |change: &dyn Fn(&mut ProxyConfig)| {
        let mut config = ProxyConfig::new("web-0.pod", "unix:/nowhere".parse().unwrap());
        config.admin_listen = "127.0.0.1:0".parse().unwrap();
        config.hbone_listen = "127.0.0.1:0".parse().unwrap();
        config.kubernetes = true;
        change(&mut config);
        Proxy::build(config, clock::system(), Rng::seeded(1), None).map_err(|e| e.to_string())
    };
    let refused = |change: &dyn Fn(&mut ProxyConfig)| build(change).unwrap_err();
    let both = refused(&|c| c.serves = vec!["shop/payments:80=127.0.0.1:1".parse().unwrap()]);
    assert!(both.contains("--kubernetes"), "{both}");
    let host = refused(&|c| c.advertise = Some("pod.example:15008".into()));
    assert!(host.contains("ip:port"), "{host}");
    let nowhere = refused(&|c| c.hbone_listen = "0.0.0.0:0".parse().unwrap());
    assert!(nowhere.contains("advertise"), "{nowhere}");
    let served = refused(&|c| c.capture = Some(CaptureConfig::default()));
    assert!(served.contains("all, none or the ports"), "{served}");
    let name = refused(&|c| c.name = "a..b".into());
    assert!(name.contains("name"), "{name}");
    // Open before anything is served, and reached by a pod's IPv6 address alone.
    let everywhere = |c: &mut ProxyConfig| {
        c.hbone_listen = "0.0.0.0:0".parse().unwrap();
        c.advertise = Some("fd00::1:15008".into());
    };
    match build(&everywhere) {
        Ok(bound) => {
            assert!(bound.hbone_addr().unwrap().is_ipv6());
            assert_eq!(bound.advertised(), "[fd00::1]:15008");
        }
        Err(e) => assert!(e.contains("[::]:0"), "without IPv6: {e}"),
    }
}

#[tokio::test]
async fn its_limits_are_those_for_the_labels_that_its_pod_has_in_the_cluster() {
    let (pki, registry, app) = (Pki::new(), Registry::start().await, apps::http1().await);
    let p = pod(&pki, &registry, snapshot()).await;
    let limits = serde_json::json!({ "labels": { "app": "cart" }, "limits": [{
        "place": { "filter": { "port": null } },
        "bucket": { "max_tokens": 1, "tokens_per_fill": 1, "fill_interval_ms": 3_600_000 },
        "enabled": 1_000_000, "enforced": 1_000_000,
    }] });
    let limits = Arc::new(serde_json::from_value(limits).unwrap());
    p.snapshot.send_modify(|s| {
        let all = &mut Arc::make_mut(s).limits;
        all.insert("istio-system/limit".parse().unwrap(), limits);
    });
    p.select("shop/payments", &[(80, app.address)]);
    p.serves(&[SERVICE]).await;
    let mut caller = Caller::dial(&pki, "west", p.hbone).await.unwrap();
    for _ in 0..3 {
        assert_eq!(caller.get(SERVICE, "/").await.unwrap().status(), 200);
    }
    p.snapshot.send_modify(|s| {
        change(Arc::make_mut(s), "shop/payments", |s| {
            s.endpoints[0].labels.insert("app".into(), "cart".into());
        });
    });
    let limited = async { while caller.get(SERVICE, "/").await.unwrap().status() != 429 {} };
    soon(limited).await;
    // Another pod's labels are none of its own.
    p.snapshot.send_modify(|s| {
        change(Arc::make_mut(s), "shop/payments", |s| {
            s.endpoints[0].labels.clear();
            let mut other = fixture::endpoint("b", "west", "10.9.9.9:15008", &[(80, 80)]);
            other.labels.insert("app".into(), "cart".into());
            s.endpoints.push(other);
        });
    });
    let free = async { while caller.get(SERVICE, "/").await.unwrap().status() != 200 {} };
    soon(free).await;
}
