//! Running it: health pages, log levels, graceful ends, waiting with a limit, listings for programs, tokens for workloads
//! that have no socket, leaving for good, and where settings come from.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test's helpers fail by panicking"
)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use tokio::sync::Barrier;
use tradewind_runtime::{clock, task};
use tradewind_tests::{
    Federation, Process, apps,
    federation::{CONTROLLER, HBONE, ONE, TWO, host},
    http::{self as web, Client},
    metrics, peer, process,
    wait::{USUAL, until},
};
use tradewind_transport::tls::{self, Expect};

const WEST: usize = 0;
const EAST: usize = 1;
/// Longest graceful end: its deadline of 5 s, and what stands around it.
const STOP: Duration = Duration::from_secs(25);

async fn pending(admin: SocketAddr) -> Result<(u16, Vec<String>), String> {
    let answer = web::get(admin, "/readyz").await?;
    let json: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
    let names = json["pending"]
        .as_array()
        .ok_or("no list of what is pending")?;
    let names = names
        .iter()
        .map(|n| n.as_str().unwrap_or_default().to_owned());
    assert_eq!(json["ready"], answer.status == 200, "{json}");
    Ok((answer.status, names.collect()))
}

async fn put_level(admin: SocketAddr, level: &str) -> web::Answer {
    let body = Full::new(Bytes::from(level.to_owned()));
    let request = Request::put("/debug/loglevel").header("host", "admin");
    let mut client = Client::open(admin).await.expect("a connection");
    client
        .ask(request.body(body).expect("a valid request"))
        .await
        .expect("an answer")
}

#[tokio::test]
async fn every_role_tells_its_health_and_takes_a_log_level() {
    let mut federation = Federation::start(&ONE).await;
    // Roles that wait for a controller are alive, not ready, and say what for.
    federation.kill_cluster(WEST).await;
    let (_caller, _) = federation.start_caller(WEST, 0, "shop/payments:80");
    let caller = federation.addr(WEST, 100, 15020);
    federation.start_gateway(WEST);
    let gateway = federation.addr(WEST, host::GATEWAY, 15020);
    let (status, names) = until("the caller's admin page", USUAL, || pending(caller)).await;
    assert_eq!(status, 503);
    assert!(
        !names.is_empty() && names.iter().all(|n| !n.is_empty()),
        "{names:?}"
    );
    assert_eq!(web::get(caller, "/livez").await.unwrap().status, 200);

    federation.start_controller(WEST);
    let controller = federation.addr(WEST, host::CONTROLLER, 15020);
    let (_dns, _) = federation.start_dns(WEST, &["--no-forwarding"]).await;
    let dns = federation.addr(WEST, host::DNS, 15020);
    for (role, admin) in [
        ("controller", controller),
        ("gateway", gateway),
        ("proxy", caller),
        ("dns", dns),
    ] {
        federation.ready(admin).await;
        assert_eq!(pending(admin).await.unwrap(), (200, Vec::new()), "{role}");
        assert_eq!(
            web::get(admin, "/livez").await.unwrap().status,
            200,
            "{role}"
        );
        let page = web::get(admin, "/metrics")
            .await
            .unwrap()
            .ok()
            .unwrap()
            .text();
        assert!(page.contains("# HELP tradewind_"), "{role}: {page}");
        assert!(page.ends_with("# EOF"), "{role}: the page is whole");
        for document in ["/debug/config", "/debug/state"] {
            let answer = web::get(admin, document).await.unwrap().ok().unwrap();
            let json: Value = serde_json::from_slice(&answer.body).unwrap();
            assert!(
                json.as_object().is_some_and(|o| !o.is_empty()),
                "{role} {document}"
            );
            let text = answer.text();
            assert!(
                !text.contains("PRIVATE KEY") && !text.contains("tww1."),
                "{role}"
            );
        }
        assert_eq!(
            web::get(admin, "/nothing").await.unwrap().status,
            404,
            "{role}"
        );

        let level = web::get(admin, "/debug/loglevel")
            .await
            .unwrap()
            .ok()
            .unwrap();
        assert!(level.text().contains("info"), "{role}: {}", level.text());
        let refused = put_level(admin, "shout!=very").await;
        assert_eq!(refused.status, 400, "{role}: {}", refused.text());
        let level = web::get(admin, "/debug/loglevel").await.unwrap().text();
        assert!(level.contains("info"), "{role}: nothing changed: {level}");
        assert_eq!(put_level(admin, "debug").await.status, 200, "{role}");
        let level = web::get(admin, "/debug/loglevel").await.unwrap().text();
        assert!(level.contains("debug"), "{role}: {level}");
    }
    // It has an effect: what only the debug level tells is told.
    drop(web::get(federation.gateway_addr(WEST), "/").await);
    let running = federation.clusters[WEST].gateway.as_ref().unwrap();
    until("a line of the debug level", USUAL, || async {
        let log = running.log();
        if log.contains("DEBUG") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
}

#[tokio::test]
async fn stopping_roles_finish_what_is_under_way() {
    let mut federation = Federation::start(&TWO).await;
    let app = federation.addr(EAST, 11, 8080);
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(8);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    apps::held(apps::bind(app).await, arrived, Arc::clone(&gate));
    let spec = format!("shop/payments:80={app},protocol=http1");
    let mut workload = federation.serve(EAST, 1, &spec, &[]).await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (mut caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let caller_admin = federation.addr(WEST, 100, 15020);
    let gateway_admin = federation.addr(EAST, host::GATEWAY, 15020);

    // The callee's gateway, the callee's proxy, the caller's proxy: each is told to stop with a request under way.
    for (role, admin) in [
        ("gateway", gateway_admin),
        ("callee", workload.admin),
        ("caller", caller_admin),
    ] {
        let request = task::spawn("a request under way", async move {
            let mut client = Client::open(address).await?;
            client.ask(web::get_request("/held")).await?.ok()
        });
        let came = tokio::time::timeout(USUAL, arrivals.recv()).await;
        came.unwrap_or_else(|_| panic!("{role}: the request did not arrive"));
        let process = match role {
            "gateway" => federation.clusters[EAST].gateway.as_mut().unwrap(),
            "callee" => workload.proxy.as_mut().unwrap(),
            _ => &mut caller,
        };
        process.terminate();
        until("the role to say that it stops", USUAL, || async {
            match web::get(admin, "/readyz").await?.status {
                503 => Ok(()),
                status => Err(status.to_string()),
            }
        })
        .await;
        gate.add_permits(1);
        let answer = tokio::time::timeout(USUAL, request).await;
        let answer = answer.expect("an end").expect("a task");
        assert_eq!(
            answer.unwrap_or_else(|e| panic!("{role}: {e}")).text(),
            "held"
        );
        let process = match role {
            "gateway" => federation.clusters[EAST].gateway.as_mut().unwrap(),
            "callee" => workload.proxy.as_mut().unwrap(),
            _ => &mut caller,
        };
        assert_eq!(process.stop(STOP).await, 0, "{role}: {}", process.tail());
        // All of them again for the next one.
        match role {
            "gateway" => {
                federation.start_gateway(EAST);
                federation.ready(gateway_admin).await;
            }
            "callee" => workload = federation.serve(EAST, 1, &spec, &[]).await,
            _ => {}
        }
        if role != "caller" {
            // No answer is waited for: it is held again, and let go at once.
            gate.add_permits(1);
            until("calls to go on", USUAL, || async {
                web::get(address, "/held").await?.ok()
            })
            .await;
            tokio::time::timeout(USUAL, arrivals.recv()).await.unwrap();
        }
    }
    // The others end as well, at once: nothing is under way.
    let controller = federation.clusters[EAST].controller.as_mut().unwrap();
    assert_eq!(controller.stop(STOP).await, 0, "{}", controller.tail());
    let (mut dns, _) = federation.start_dns(WEST, &["--no-forwarding"]).await;
    assert_eq!(dns.stop(STOP).await, 0, "{}", dns.tail());
}

#[tokio::test]
async fn waiting_has_a_limit_and_listings_have_schemas() {
    let mut federation = Federation::start(&TWO).await;
    let _workload = federation.workload(WEST, 1, "shop/payments:80").await;
    federation.export(WEST, "shop/payments").await;
    federation.sees(EAST, "shop/payments", 1).await;
    federation.token(&["--cluster", "central"]).await;

    for (args, schema, list) in [
        (vec!["clusters"], "clusters", "clusters"),
        (vec!["services"], "services", "services"),
        (vec!["endpoints", "shop/payments"], "endpoints", "endpoints"),
        (vec!["token", "list"], "tokens", "tokens"),
        (vec!["status"], "status", "peers"),
        (vec!["token", "create"], "token", ""),
        (vec!["version"], "version", ""),
    ] {
        let json = federation.json(WEST, &args).await;
        assert_eq!(json["schema"], format!("tradewind.{schema}/v1"), "{args:?}");
        if !list.is_empty() {
            let rows = json[list].as_array().map(Vec::len).unwrap_or_default();
            assert!(rows > 0, "{args:?}: {json}");
            let args = [args.as_slice(), &["-o", "name"]].concat();
            let names = federation.cli(WEST, &args).await.good().stdout;
            assert!(
                !names.trim().is_empty() && !names.contains('{'),
                "{args:?}: {names}"
            );
        }
    }
    // A listing that is empty is still a document.
    let json = federation.json(EAST, &["token", "list"]).await;
    assert_eq!(json["schema"], "tradewind.tokens/v1");
    // Fifteen minutes, unless told otherwise; and the command that takes it back works.
    let made = federation.json(WEST, &["token", "create"]).await;
    let expires = made["expires_at_unix_ms"].as_u64().expect("an end");
    let left = expires.saturating_sub(clock::system().unix_ms());
    assert!((880_000..=900_000).contains(&left), "{left} ms are left");
    // A token's secret is printed once, and never listed.
    let token = federation.token(&[]).await;
    let listed = federation
        .cli(WEST, &["token", "list", "-o", "json"])
        .await
        .good();
    assert!(!listed.stdout.contains(&token));

    // A controller that is dead is waited for as long as was said, then named.
    federation.kill_cluster(EAST).await;
    let waited = federation.cli(EAST, &["status", "--wait", "1s"]).await;
    waited.fails(4, &["waited", "controller.sock"]);
    let asked = federation.cli(EAST, &["status"]).await;
    asked.fails(3, &["controller.sock"]);
}

fn with_token(federation: &Federation, n: u8, token: &str) -> (Process, SocketAddr) {
    let controller = federation
        .addr(WEST, host::CONTROLLER, CONTROLLER)
        .to_string();
    let admin = federation.addr(WEST, 10 + n, 15020);
    let hbone = federation.addr(WEST, 10 + n, HBONE).to_string();
    let app = federation.addr(WEST, 10 + n, 8080);
    let args = [
        "proxy",
        "--name",
        &format!("token-{n}"),
        "--controller",
        &controller,
        "--token",
        token,
        "--identity",
        "shop/payments",
        "--serve",
        &format!("shop/payments:80={app},protocol=http1"),
        "--hbone-listen",
        &hbone,
        "--admin-listen",
        &admin.to_string(),
        "--threads",
        "1",
    ];
    (
        federation.process(WEST, &format!("token-{n}"), &args),
        admin,
    )
}

#[tokio::test]
async fn a_workload_without_a_socket_has_its_identity_by_a_token_once() {
    let federation = Federation::start(&ONE).await;
    for n in [1, 2] {
        let app = apps::bind(federation.addr(WEST, 10 + n, 8080)).await;
        apps::http1(app, "payments", Arc::new(Barrier::new(1)));
    }
    let token = federation
        .token(&["--workload", "/ns/shop/sa/payments"])
        .await;
    let (_first, admin) = with_token(&federation, 1, &token);
    federation.ready(admin).await;
    federation.sees(WEST, "shop/payments", 1).await;
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let answer = http_get_ok(address).await;
    assert_eq!(answer, "payments");
    let id = &federation.json(WEST, &["endpoints", "shop/payments"]).await["endpoints"][0];
    assert_eq!(
        id["identity"],
        "spiffe://west.mesh.internal/ns/shop/sa/payments"
    );

    // The token is used up: another process has nothing of it.
    let (second, admin) = with_token(&federation, 2, &token);
    until("the refusal in the log", USUAL, || async {
        let log = second.log();
        match log.contains("used") {
            true => Ok(()),
            false => Err(log),
        }
    })
    .await;
    let (status, names) = pending(admin).await.unwrap();
    assert_eq!(status, 503, "{names:?}");
    assert!(!second.log().contains(&token), "a token is no log line");
    federation.sees(WEST, "shop/payments", 1).await;

    // Neither is a token good for another identity.
    let token = federation.token(&["--workload", "/ns/shop/sa/web"]).await;
    let (third, admin) = with_token(&federation, 3, &token);
    until("the refusal in the log", USUAL, || async {
        let log = third.log();
        match log.contains("/ns/shop/sa/web") {
            true => Ok(()),
            false => Err(log),
        }
    })
    .await;
    assert_eq!(pending(admin).await.unwrap().0, 503);
}

async fn http_get_ok(address: SocketAddr) -> String {
    let answer = until("an answer", USUAL, || async {
        web::get(address, "/").await?.ok()
    });
    answer.await.text()
}

#[tokio::test]
async fn a_cluster_that_leaves_is_served_and_believed_no_more() {
    let federation = Federation::start(&TWO).await;
    let _eastern = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    let western = federation.workload(WEST, 1, "shop/orders:80").await;
    federation.export(WEST, "shop/orders").await;
    federation.sees(WEST, "shop/payments", 1).await;
    federation.sees(EAST, "shop/orders", 1).await;
    let (_caller, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    assert_eq!(http_get_ok(address).await, "payments from east/1");
    // A workload of the east at a western door, by its own right.
    let west = peer::authority(&federation.clusters[WEST].data_dir);
    let east = peer::authority(&federation.clusters[EAST].data_dir);
    let trust = peer::trust(&[&west, &east]);
    let stranger = peer::certificate(&east, "/ns/shop/sa/web");
    let config = || tls::client_config(&stranger, &trust, Expect::AnyMember);
    let name = || peer::name("west", "shop/orders:80");
    let live = peer::dial(western.hbone, config(), name()).await.unwrap();
    assert_eq!(live.get("shop/orders:80").await.unwrap().0, 200);

    // Not without being sure, and not the founder before the others.
    let refused = federation.cli(EAST, &["leave"]).await;
    refused.fails(5, &["east", "--yes"]);
    let refused = federation.cli(WEST, &["leave", "--yes"]).await;
    refused.fails(5, &["west", "root"]);
    assert_eq!(http_get_ok(address).await, "payments from east/1");

    federation.cli(EAST, &["leave", "--yes"]).await.good();
    // Live connections included.
    live.ended(Duration::from_secs(10)).await.unwrap();
    let refused = peer::dial(western.hbone, config(), name()).await;
    refused.expect_err("its authority is gone");
    let dropped = "tradewind_inbound_connections_dropped";
    metrics::reaches(western.admin, dropped, &["reason=\"unknown_"], 1.0).await;
    until("its service to be gone", USUAL, || async {
        match web::get(address, "/").await?.status {
            503 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    let clusters = federation.json(WEST, &["clusters"]).await;
    let east = clusters["clusters"].as_array().unwrap().iter();
    let state = east
        .clone()
        .find(|c| c["name"] == "east")
        .map(|c| &c["state"]);
    assert!(state.is_none_or(|s| s == "left"), "{clusters}");
    federation.is_well(WEST).await;
    // Its data directory is history.
    let dir = federation.data_dir(EAST);
    let again = until("the controller to say so", USUAL, || async {
        let again = process::run(&["controller", "--data-dir", &dir]).await;
        match again.stderr.contains("left its federation") {
            true => Ok(again),
            false => Err(again.stderr),
        }
    })
    .await;
    again.fails(1, &["east", &dir]);
}

#[tokio::test]
async fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let federation = Federation::empty();
    let address = |n: u8| federation.addr(0, n, 15020);
    let file = federation.dir().join("dns.yaml");
    let text = format!(
        "name: dns\ncontroller: unix:{}/none.sock\nlisten: {}\nadmin-listen: {}\nno-forwarding: true\n",
        federation.dir().display(),
        federation.addr(0, 1, 15053),
        address(1),
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let (two, three) = (address(2).to_string(), address(3).to_string());
    let environment = [("TRADEWIND_ADMIN_LISTEN", two.as_str())];
    let flags = ["dns", "--config", file, "--admin-listen", &three];
    let by_environment = [
        ("TRADEWIND_ADMIN_LISTEN", two.as_str()),
        ("TRADEWIND_CONFIG", file),
    ];
    type Settings<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], u8);
    let cases: [Settings; 4] = [
        (&flags[..3], &[], 1),
        (&flags[..3], &environment, 2),
        (&["dns"], &by_environment, 2),
        (&flags, &environment, 3),
    ];
    for (args, env, expected) in cases {
        let mut process = Process::start_with("settings", federation.dir(), args, env);
        until(
            &format!("{args:?} {env:?} at {expected}"),
            USUAL,
            || async { web::get(address(expected), "/livez").await?.ok() },
        )
        .await;
        let config = web::get(address(expected), "/debug/config").await.unwrap();
        assert!(config.text().contains("none.sock"), "{}", config.text());
        process.kill().await;
    }
}

/// Sockets that listen on an IPv4 address and port of this machine.
fn listeners(address: SocketAddr) -> usize {
    let SocketAddr::V4(v4) = address else {
        return 0;
    };
    // The kernel prints the address as it lies in memory.
    let shown = format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(v4.ip().octets()),
        v4.port()
    );
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let rows = table
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>());
    rows.filter(|r| r.get(1) == Some(&shown.as_str()) && r.get(3) == Some(&"0A"))
        .count()
}

#[tokio::test]
async fn data_threads_listen_each_for_itself_and_logs_are_for_machines_on_demand() {
    const THREADS: usize = 3;
    let federation = Federation::empty();
    // No controller has ever run there: what is looked at here is before it.
    let data_dir = federation.dir().join("none");
    std::fs::create_dir(&data_dir).unwrap();
    let (admin, own) = (federation.addr(0, 2, 15020), federation.addr(0, 2, 15443));
    let outbound = federation.addr(0, 2, 9090);
    let (admin_text, own_text) = (admin.to_string(), own.to_string());
    let calls = format!("{outbound}=shop/payments:80");
    let serves = format!("shop/payments:80={}", federation.addr(0, 2, 8080));
    let common = [
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--admin-listen",
        &admin_text,
        "--threads",
        "3",
        "--log-format",
        "json",
    ];
    let gateway = ["gateway", "--listen", &own_text];
    let proxy = [
        "proxy",
        "--identity",
        "shop/payments",
        "--hbone-listen",
        &own_text,
        "--listen",
        &calls,
        "--serve",
        &serves,
    ];
    for (args, addresses) in [(&gateway[..], vec![own]), (&proxy[..], vec![own, outbound])] {
        let args = [args, &common].concat();
        let name = format!("threads-{}", args[0]);
        let mut process = Process::start(&name, federation.dir(), &args);
        until("the admin page", USUAL, || web::get(admin, "/livez")).await;
        for address in addresses {
            assert_eq!(listeners(address), THREADS, "{args:?} at {address}");
        }
        assert_eq!(
            listeners(admin),
            1,
            "what is no traffic has a thread of its own"
        );
        let log = process.log();
        assert!(!log.is_empty());
        for line in log.lines() {
            let json: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert!(
                json["timestamp"].is_string() && json["level"].is_string(),
                "{line}"
            );
        }
        process.kill().await;
    }
}
