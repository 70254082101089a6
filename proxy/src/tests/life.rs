//! A proxy's life: it registers, tells its applications' health, leaves before it stops, and finishes what it began.

use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tradewind_api::proto::v1::{AppProtocol, Health};
use tradewind_runtime::{clock, rng::Rng, task};

use super::{Caller, apps, header, pki::Pki, registry::Registry, soon, start, until};
use crate::{Proxy, ProxyConfig, fixture};

fn snapshot() -> tradewind_api::snapshot::Snapshot {
    fixture::snapshot(&[("shop/payments", true, 80)])
}

#[tokio::test]
async fn it_registers_what_it_fronts_and_how_that_is() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let mut registry = Registry::start().await;
    let serves = [
        format!(
            "shop/payments:80={},check=http:/healthz,protocol=http1,weight=50",
            app.address
        ),
        format!("shop/payments:81={},protocol=http2", apps::nobody().await),
    ];
    let p = start(&pki, snapshot(), &registry, &serves, |c| {
        c.zone = Some("a".parse().unwrap())
    })
    .await;
    registry
        .until("both health findings", |m| {
            m.registrations[0].health == i32::from(Health::Healthy)
                && m.registrations[1].health == i32::from(Health::Unhealthy)
        })
        .await;
    let last = registry.heard.borrow().last().unwrap().clone();
    assert_eq!(last.proxy, "p-1");
    assert_eq!(
        last.identity,
        "spiffe://west.mesh.internal/ns/shop/sa/payments"
    );
    assert!(!last.leaving);
    let first = &last.registrations[0];
    assert_eq!(
        (first.service.as_str(), first.port, first.weight),
        ("shop/payments", 80, 50)
    );
    assert_eq!(
        (first.zone.as_str(), first.port_name.as_str()),
        ("a", "http")
    );
    assert_eq!(first.hbone_address, p.hbone.to_string());
    assert_eq!(first.app_protocol, i32::from(AppProtocol::Http1));
    until("ready", || p.readiness.is_ready()).await;
    let state = admin(p.admin, "/debug/state").await;
    assert!(
        state.contains("id-80") && state.contains("unhealthy"),
        "{state}"
    );

    // The application dies: the controller hears of it.
    drop(app);
    registry
        .until("unhealthy", |m| {
            m.registrations[0].health == i32::from(Health::Unhealthy)
        })
        .await;
}

#[tokio::test]
async fn a_failing_request_makes_the_check_look_at_once() {
    let pki = Pki::new();
    let app = apps::http1().await;
    let mut registry = Registry::start().await;
    let serves = [format!("shop/payments:80={},protocol=http1", app.address)];
    let p = start(&pki, snapshot(), &registry, &serves, |_| {}).await;
    registry
        .until("healthy", |m| {
            m.registrations[0].health == i32::from(Health::Healthy)
        })
        .await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    drop(app);
    until("refused", || {
        std::net::TcpStream::connect(serves[0].split(['=', ',']).nth(1).unwrap()).is_err()
    })
    .await;
    let response = caller.get("shop/payments:80", "/").await.unwrap();
    assert_eq!(header(&response, "tradewind-unprocessed"), "connect");
    registry
        .until("unhealthy", |m| {
            m.registrations[0].health == i32::from(Health::Unhealthy)
        })
        .await;
}

#[tokio::test]
async fn readiness_names_what_is_pending_and_a_lost_controller_changes_nothing() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let mut registry = Registry::start().await;
    registry.stop().await;
    let serves = [format!("shop/payments:80={},protocol=http1", app.address)];
    let p = start(&pki, snapshot(), &registry, &serves, |_| {}).await;
    until("registration alone", || {
        p.readiness.pending() == ["registration"]
    })
    .await;
    // It serves all the same.
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    assert_eq!(
        caller.get("shop/payments:80", "/").await.unwrap().status(),
        200
    );
    registry.restart().await;
    until("ready", || p.readiness.is_ready()).await;
    registry
        .until("healthy", |m| {
            m.registrations[0].health == i32::from(Health::Healthy)
        })
        .await;
    // Lost again: it comes back by itself, and stays ready meanwhile.
    registry.stop().await;
    assert_eq!(
        caller.get("shop/payments:80", "/").await.unwrap().status(),
        200
    );
    assert!(p.readiness.is_ready());
    registry.restart().await;
    registry
        .until("healthy again", |m| {
            m.registrations[0].health == i32::from(Health::Healthy)
        })
        .await;
}

#[tokio::test]
async fn it_leaves_before_it_stops_and_finishes_what_it_began() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let mut registry = Registry::start().await;
    let serves = [format!("shop/payments:80={},protocol=http1", app.address)];
    let p = start(&pki, snapshot(), &registry, &serves, |c| {
        c.leave_grace = Duration::from_millis(700);
    })
    .await;
    until("ready", || p.readiness.is_ready()).await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let mut endless = caller.get("shop/payments:80", "/endless").await.unwrap();
    assert!(soon(endless.body_mut().frame()).await.unwrap().is_ok());
    let drained = task::spawn("drain", p.trigger.drain(Duration::from_secs(30)));
    registry.until("leaving", |m| m.leaving).await;
    // It was told before anything stops: new connections and streams are still taken.
    let mut late = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    assert_eq!(
        late.get("shop/payments:80", "/").await.unwrap().status(),
        200
    );
    soon(async {
        while TcpStream::connect(p.hbone).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // What is under way goes on; what is new is told to go elsewhere, or not taken at all.
    assert!(soon(endless.body_mut().frame()).await.unwrap().is_ok());
    if let Ok(response) = caller.get("shop/payments:80", "/").await {
        assert_eq!(response.status(), 503);
        assert_eq!(header(&response, "tradewind-unprocessed"), "draining");
    }
    assert!(!drained.is_finished());
    drop((endless, caller, late));
    assert!(soon(drained).await.unwrap());
    soon(p.ended).await.unwrap().unwrap();
    assert!(
        registry.heard.borrow().last().unwrap().leaving,
        "nothing was said after that"
    );
}

#[tokio::test]
async fn the_drain_deadline_cuts_what_is_left() {
    let (pki, app) = (Pki::new(), apps::http1().await);
    let registry = Registry::start().await;
    let serves = [format!("shop/payments:80={},protocol=http1", app.address)];
    let p = start(&pki, snapshot(), &registry, &serves, |c| {
        c.drain_deadline = Duration::from_millis(200);
    })
    .await;
    let mut caller = Caller::dial(&pki, "east", p.hbone).await.unwrap();
    let mut endless = caller.get("shop/payments:80", "/endless").await.unwrap();
    assert!(soon(endless.body_mut().frame()).await.unwrap().is_ok());
    assert!(soon(p.trigger.drain(Duration::from_secs(30))).await);
    soon(p.ended).await.unwrap().unwrap();
    let cut = soon(async {
        loop {
            match endless.body_mut().frame().await {
                Some(Ok(_)) => {}
                end => return end.is_some_and(|f| f.is_err()),
            }
        }
    });
    assert!(cut.await);
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let build = |change: &dyn Fn(&mut ProxyConfig)| {
        let mut config = ProxyConfig::new("p-1", "unix:/nowhere".parse().unwrap());
        config.admin_listen = "127.0.0.1:0".parse().unwrap();
        config.hbone_listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        Proxy::build(config, clock::system(), Rng::seeded(1), None)
            .unwrap_err()
            .to_string()
    };
    assert!(build(&|_| {}).contains("nothing to do"));
    let serve =
        |c: &mut ProxyConfig| c.serves = vec!["shop/payments:80=127.0.0.1:1".parse().unwrap()];
    let unspecified = build(&|c| {
        serve(c);
        c.hbone_listen = "0.0.0.0:0".parse().unwrap();
    });
    assert!(unspecified.contains("advertise"), "{unspecified}");
    let twice = build(&|c| {
        serve(c);
        c.serves.push(c.serves[0].clone());
    });
    assert!(twice.contains("given twice"), "{twice}");
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let in_use = build(&|c| {
        serve(c);
        c.hbone_listen = held.local_addr().unwrap();
    });
    assert!(
        in_use.contains("in use") && in_use.contains("--hbone-listen"),
        "{in_use}"
    );
    let name = build(&|c| c.name = "No Name".into());
    assert!(name.contains("name"), "{name}");
}

pub(super) async fn admin(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut page = String::new();
    soon(stream.read_to_string(&mut page)).await.unwrap();
    page
}
