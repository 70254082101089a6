//! Applications that know nothing of the mesh, in a network namespace of their own, whose connections a proxy captures: what they
//! reach, what passes by, what is refused, and what is left of the rules when the proxy ends.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test's helpers fail by panicking, and say what they measured"
)]

mod families;
mod pod;
mod services;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::rr::{RData, rdata::A};
use tokio::{sync::Barrier, time::Instant};
use tradewind_tests::{
    Process, apps, dns, http, metrics,
    namespaces::{inside, skipped},
    tradewind,
    wait::{USUAL, until},
};

use pod::Pod;

/// The namespaces of the clusters, and the one of the applications whose connections are captured.
const WEST: usize = 0;
const EAST: usize = 1;
const POD: usize = 2;
const SERVICE: &str = "shop/payments:80";
const HOST: &str = "Host: payments.shop.svc.clusterset.local";
/// Longest that one of these may take: several times what it does.
const LIMIT: Duration = Duration::from_secs(180);
/// Last parts of addresses in the applications' namespace: theirs, the router's (which the test itself is).
const OWN: u8 = 11;
const ROUTER: u8 = 254;
/// The same by IPv6.
const OWN_V6: &str = "fd00:99::b";
const ROUTER_V6: &str = "fd00:99::fe";
/// A user that is excluded. Nobody's on any machine.
const USER: &str = "64042";
const OUTBOUND: &str = "tradewind_capture_outbound";
const CALLERS: &str = "tradewind_plaintext_callers";

/// An HTTP server outside of the mesh.
async fn outside(address: SocketAddr, name: &'static str) {
    apps::http1(apps::bind(address).await, name, Arc::new(Barrier::new(1)));
}

#[tokio::test]
async fn applications_need_not_know_of_the_mesh() {
    inside(
        "applications_need_not_know_of_the_mesh",
        LIMIT,
        false,
        outbound,
    )
    .await;
}

async fn outbound() {
    let Some(pod) = Pod::new().await else { return };
    let there = SocketAddr::new(pod.router, 8080);
    outside(there, "outside").await;
    let v6 = SocketAddr::new(ROUTER_V6.parse().unwrap(), 8080);
    outside(v6, "outside by IPv6").await;
    apps::server_first(
        apps::bind((pod.router, 3306).into()).await,
        "outside speaks first\n",
    );
    // An application of east's that is no HTTP server, and speaks first.
    let mail = SocketAddr::new(pod.federation.block.ip(1, ROUTER), 2525);
    apps::server_first(apps::bind(mail).await, "220 mail\n");
    let spec = format!("shop/mail:25={mail}");
    let _mail = pod.federation.serve(EAST, 2, &spec, &[]).await;
    pod.federation.export(EAST, "shop/mail").await;
    pod.federation.sees(WEST, "shop/mail", 1).await;

    let ips = pod.addresses("shop/payments").await;
    let [v4_service, v6_service] = ips.as_slice() else {
        panic!("one address a family: {ips:?}")
    };
    pod.fails(&["--connect-timeout", "1", &format!("http://{v4_service}/")])
        .await;

    let mut proxy = pod.proxy(&[]).await;
    // By the address that the name stands for, in both families.
    assert_eq!(
        pod.get(&format!("http://{v4_service}/")).await,
        "payments from east/1"
    );
    assert_eq!(
        pod.get(&format!("http://[{v6_service}]/")).await,
        "payments from east/1"
    );
    assert!(pod.count("service").await >= 2.0);
    // A port that the service has not: the mesh says so.
    let said = pod
        .curl(&[&format!("http://{v4_service}:81/")])
        .await
        .good();
    assert!(said.stdout.contains("no such port"), "{}", said.stdout);
    // By the name in the request, at an address of somebody else; and a name that is nobody's goes on.
    let url = format!("http://{}/", SocketAddr::new(pod.router, 80));
    assert_eq!(
        pod.curl(&["-f", "-H", HOST, &url])
            .await
            .good()
            .stdout
            .trim(),
        "payments from east/1"
    );
    assert!(pod.count("host").await >= 1.0);
    let nobody = "Host: nobody.shop.svc.clusterset.local";
    let url = format!("http://{there}/");
    assert_eq!(
        pod.curl(&["-f", "-H", nobody, &url])
            .await
            .good()
            .stdout
            .trim(),
        "outside"
    );
    // Everything else passes, in both families.
    assert!(
        pod.passes(async { assert_eq!(pod.get(&url).await, "outside") })
            .await
    );
    let url6 = format!("http://{v6}/");
    assert!(
        pod.passes(async { assert_eq!(pod.get(&url6).await, "outside by IPv6") })
            .await
    );
    // Who is not there is not there for long.
    let closed = format!("http://{}/", SocketAddr::new(pod.router, 9));
    pod.fails(&[&closed]).await;
    assert!(pod.count("unreached").await >= 1.0);

    server_first(&pod, "shop/mail").await;
    loops(&pod).await;
    assert_eq!(proxy.stop(USUAL).await, 0);
    excluded(&pod, there).await;
    refused(&pod, there, v4_service).await;
}

/// Protocols in which the client waits for the server's greeting, in the mesh and outside of it.
async fn server_first(pod: &Pod, service: &str) {
    let ip: IpAddr = pod.addresses(service).await[0].parse().unwrap();
    for (address, greeting) in [
        (SocketAddr::new(ip, 25), "220 mail"),
        (SocketAddr::new(pod.router, 3306), "outside speaks first"),
    ] {
        let began = Instant::now();
        let mut talk = pod.talk(address);
        talk.hears(greeting).await;
        eprintln!("{greeting:?} is heard after {:?}", began.elapsed());
        talk.says("hello").await;
        talk.hears("hello").await;
    }
}

/// What is dialled at the listeners themselves goes nowhere.
async fn loops(pod: &Pod) {
    let before = pod.count("direct").await;
    for door in ["127.0.0.1:15001", "[::1]:15001"] {
        pod.fails(&[&format!("http://{door}/")]).await;
    }
    assert!(pod.count("direct").await >= before + 2.0);
    pod.fails(&[&format!("http://{}:15001/", pod.own)]).await;
}

/// Ports, blocks of addresses and users that are told pass by.
async fn excluded(pod: &Pod, there: SocketAddr) {
    let elsewhere = SocketAddr::new(there.ip(), 8081);
    outside(elsewhere, "elsewhere").await;
    let (url, other) = (format!("http://{there}/"), format!("http://{elsewhere}/"));
    let mut proxy = pod.proxy(&["--capture-exclude-ports", "22,8081"]).await;
    assert!(
        pod.passes(async { assert_eq!(pod.get(&url).await, "outside") })
            .await
    );
    assert!(
        !pod.passes(async { assert_eq!(pod.get(&other).await, "elsewhere") })
            .await
    );
    assert_eq!(proxy.stop(USUAL).await, 0);

    let block = format!("{}/24,{ROUTER_V6}/64", there.ip());
    let mut proxy = pod.proxy(&["--capture-exclude-cidrs", &block]).await;
    assert!(
        !pod.passes(async { assert_eq!(pod.get(&url).await, "outside") })
            .await
    );
    let url6 = format!("http://[{ROUTER_V6}]:{}/", there.port());
    assert!(
        !pod.passes(async { assert_eq!(pod.get(&url6).await, "outside by IPv6") })
            .await
    );
    let far = format!(
        "http://{}/",
        SocketAddr::new(pod.federation.block.ip(0, 1), 9)
    );
    pod.fails(&[&far]).await;
    assert!(
        pod.count("unreached").await >= 1.0,
        "other blocks are captured"
    );
    assert_eq!(proxy.stop(USUAL).await, 0);

    let as_user = ["--reuid", USER, "--clear-groups", "curl", "-sS", "-f", &url];
    if pod.run("setpriv", &as_user).await.code != 0 {
        return skipped("excluded users: no other user can be taken here");
    }
    let mut proxy = pod.proxy(&["--capture-exclude-uids", USER]).await;
    let call = async {
        let said = pod.run("setpriv", &as_user).await.good();
        assert_eq!(said.stdout.trim(), "outside");
    };
    assert!(!pod.passes(call).await);
    assert!(
        pod.passes(async { assert_eq!(pod.get(&url).await, "outside") })
            .await
    );
    assert_eq!(proxy.stop(USUAL).await, 0);
}

/// Where nobody unknown may be called, the mesh still may.
async fn refused(pod: &Pod, there: SocketAddr, service: &str) {
    let mut proxy = pod.proxy(&["--unknown", "refuse"]).await;
    pod.fails(&[&format!("http://{there}/")]).await;
    assert!(pod.count("refused").await >= 1.0);
    assert_eq!(pod.count("passed").await, 0.0);
    assert_eq!(
        pod.get(&format!("http://{service}/")).await,
        "payments from east/1"
    );
    let by_name = [
        "-f",
        "-H",
        HOST,
        &format!("http://{}/", SocketAddr::new(there.ip(), 80)),
    ];
    assert_eq!(
        pod.curl(&by_name).await.good().stdout.trim(),
        "payments from east/1"
    );
    assert_eq!(proxy.stop(USUAL).await, 0);
}

#[tokio::test]
async fn callers_without_a_proxy_are_counted_or_refused() {
    let name = "callers_without_a_proxy_are_counted_or_refused";
    inside(name, LIMIT, false, inbound).await;
}

async fn inbound() {
    let Some(pod) = Pod::new().await else { return };
    let app = SocketAddr::new(pod.own, 8080);
    let listen = app.to_string();
    let command = pod.federation.router().command(POD, &tradewind());
    let args = ["demo-app", "--listen", &listen, "--name", "web"];
    let _app = Process::start_behind("web", pod.federation.dir(), command, &args, &[]);
    until("the application to listen", USUAL, || {
        http::get(app, "/healthz")
    })
    .await;
    let serve = ["--serve", &format!("shop/web:80={app},check=http:/healthz")];
    let source = format!("source=\"{}\"", pod.router);
    let counted = async |result: &str| {
        let labels = ["port=\"8080\"", &source, &format!("result=\"{result}\"")];
        let total = metrics::total(pod.admin, CALLERS, &labels).await;
        total.expect("the proxy's metrics")
    };
    let meshed = async |address| {
        until("a caller with a proxy", USUAL, || async {
            let answer = http::get(address, "/").await?.ok()?;
            if answer.text() == "web" {
                Ok(())
            } else {
                Err(answer.text())
            }
        })
        .await;
    };

    let mut proxy = pod.proxy(&serve).await;
    let (_caller, address) = pod.federation.caller(WEST, 0, "shop/web:80").await;
    assert_eq!(
        http::get(app, "/").await.unwrap().ok().unwrap().text(),
        "web"
    );
    assert_eq!(counted("passed").await, 1.0);
    meshed(address).await;
    assert_eq!(
        counted("passed").await,
        1.0,
        "who comes through a proxy is none of them"
    );
    // What is not the application's is none of the proxy's business; nor is its own door a way in.
    assert!(http::get(pod.admin, "/livez").await.unwrap().ok().is_ok());
    let door = SocketAddr::new(pod.own, 15006);
    http::get(door, "/")
        .await
        .expect_err("nobody captured that");
    metrics::reaches(pod.admin, "tradewind_capture_inbound_direct", &[], 1.0).await;
    assert_eq!(proxy.stop(USUAL).await, 0);
    assert_eq!(
        http::get(app, "/").await.unwrap().ok().unwrap().text(),
        "web",
        "no proxy, no guard"
    );

    let strict = [serve.as_slice(), &["--inbound", "strict"]].concat();
    let mut proxy = pod.proxy(&strict).await;
    http::get(app, "/").await.expect_err("it has no proxy");
    assert_eq!(counted("refused").await, 1.0);
    assert_eq!(counted("passed").await, 0.0);
    meshed(address).await;
    // Its own host calls it as before.
    assert_eq!(pod.get(&format!("http://{app}/")).await, "web");
    // While it drains the door stays shut: what was refused is not let in.
    apps::server_first(apps::bind((pod.router, 3306).into()).await, "hello\n");
    let mut open = pod.talk(SocketAddr::new(pod.router, 3306));
    open.hears("hello").await;
    proxy.terminate();
    until("the guard alone", USUAL, || async {
        let rules = pod.rules().await;
        if rules.contains("redirect to :15001") {
            Err(rules)
        } else {
            Ok(())
        }
    })
    .await;
    assert!(
        pod.rules().await.contains("redirect to :15006"),
        "still guarded"
    );
    http::get(app, "/").await.expect_err("it has no proxy");
    drop(open);
    assert_eq!(proxy.stop(USUAL).await, 0);
}

#[tokio::test]
async fn rules_end_with_the_proxy_and_open_connections_do_not() {
    let name = "rules_end_with_the_proxy_and_open_connections_do_not";
    inside(name, LIMIT, false, life).await;
}

async fn life() {
    let Some(pod) = Pod::new().await else { return };
    let there = SocketAddr::new(pod.router, 8080);
    outside(there, "outside").await;
    let url = format!("http://{there}/");
    let talker = SocketAddr::new(pod.router, 3306);
    apps::server_first(apps::bind(talker).await, "hello\n");
    // Rules that are not ours stay what they are.
    let others = "nft 'add table inet others; add chain inet others c { type filter hook output priority 0; }'";
    pod.sh(others).await.good();
    let before = pod.rules().await;

    // An end in order: what is open goes on until it is done, what is new goes its own way.
    let mut proxy = pod.proxy(&[]).await;
    assert!(
        pod.passes(async { assert_eq!(pod.get(&url).await, "outside") })
            .await
    );
    let mut open = pod.talk(talker);
    open.hears("hello").await;
    proxy.terminate();
    until("new connections to go their own way", USUAL, || async {
        let rules = pod.rules().await;
        if rules.contains("redirect") {
            Err(rules)
        } else {
            Ok(())
        }
    })
    .await;
    assert_eq!(pod.get(&url).await, "outside");
    for line in ["still", "here"] {
        open.says(line).await;
        open.hears(line).await;
    }
    drop(open);
    assert_eq!(proxy.stop(USUAL).await, 0);
    assert_eq!(pod.rules().await, before, "nothing is left");
    assert_eq!(pod.get(&url).await, "outside");

    // Killed, it leaves them: applications reach nobody, and the next one replaces them.
    let mut proxy = pod.proxy(&[]).await;
    let set = pod.rules().await;
    proxy.kill().await;
    assert_eq!(pod.rules().await, set);
    pod.fails(&[&url]).await;
    let mut proxy = pod.proxy(&[]).await;
    assert_eq!(pod.rules().await, set, "once, not twice");
    assert_eq!(pod.get(&url).await, "outside");
    proxy.kill().await;
    pod.tradewind(&["proxy", "capture", "--remove"])
        .await
        .good();
    assert_eq!(pod.rules().await, before);
    assert_eq!(pod.get(&url).await, "outside");

    // Forced by a second signal it still removes them.
    let mut proxy = pod.proxy(&[]).await;
    let mut open = pod.talk(talker);
    open.hears("hello").await;
    proxy.terminate();
    until("the drain", USUAL, || async {
        let rules = pod.rules().await;
        if rules.contains("redirect") {
            Err(rules)
        } else {
            Ok(())
        }
    })
    .await;
    let id = proxy.id().expect("it drains").to_string();
    pod.run("kill", &["-TERM", &id]).await.good();
    assert_eq!(proxy.stop(USUAL).await, 1);
    until("the rules to go", USUAL, || async {
        let rules = pod.rules().await;
        if rules == before { Ok(()) } else { Err(rules) }
    })
    .await;
    init(&pod, &url, &before).await;
    by_iptables(&pod, &url, &before).await;
}

/// Rules that an init step sets, and a proxy that leaves them alone.
async fn init(pod: &Pod, url: &str, before: &str) {
    let own = ["--capture-own", "uid:0"];
    let apply = ["proxy", "capture", "--apply"];
    for _ in 0..2 {
        let args = [&apply, own.as_slice()].concat();
        pod.tradewind(&args).await.good();
    }
    let set = pod.rules().await;
    assert_eq!(set.matches("redirect to :15001").count(), 1, "{set}");
    let print = ["proxy", "capture", "--print"];
    let shown = pod.tradewind(&[&print, own.as_slice()].concat()).await;
    assert!(shown.good().stdout.contains("meta skuid 0 return"));

    // As another user than told it would capture itself without end.
    let external = ["--capture-rules", "external", "--capture-own"];
    let other = format!("uid:{USER}");
    let wrong = [&["proxy", "--capture"], external.as_slice(), &[&other]].concat();
    let said = pod.tradewind(&wrong).await;
    said.fails(2, &["capture-own", "runs as user"]);
    let mut proxy = pod.proxy(&[&external, ["uid:0"].as_slice()].concat()).await;
    let as_user = ["--reuid", USER, "--clear-groups", "curl", "-sS", "-f", url];
    let call = async {
        let said = pod.run("setpriv", &as_user).await.good();
        assert_eq!(said.stdout.trim(), "outside");
    };
    if nix::unistd::geteuid().is_root() {
        assert!(pod.passes(call).await, "other users are captured");
    }
    assert!(
        !pod.passes(async { assert_eq!(pod.get(url).await, "outside") })
            .await
    );
    assert_eq!(proxy.stop(USUAL).await, 0);
    assert_eq!(pod.rules().await, set, "they are not its own");
    pod.tradewind(&["proxy", "capture", "--remove"])
        .await
        .good();
    assert_eq!(pod.rules().await, before);
}

/// Where nftables is not installed iptables does it, and where neither is an error says so.
async fn by_iptables(pod: &Pod, url: &str, before: &str) {
    // Nobody may execute what covers it.
    let binary = tradewind();
    let hide = |tools: &str, command: &str| {
        format!(
            "for t in {tools}; do p=$(command -v $t) && mount --bind /dev/null $(readlink -f $p); done; exec {} {command}",
            binary.display()
        )
    };
    let without = async |tools: &str, command: &str| {
        let script = format!("PATH=$PATH:/usr/sbin:/sbin; {}", hide(tools, command));
        pod.run("unshare", &["--mount", "--", "sh", "-c", &script])
            .await
    };
    let all = "nft iptables iptables-restore ip6tables ip6tables-restore";
    let apply = "proxy capture --apply";
    let none = without(all, apply).await;
    none.fails(
        1,
        &[
            "nft or iptables-restore, which is not installed",
            "nftables",
        ],
    );
    without(all, "proxy capture --remove")
        .await
        .fails(1, &["is not installed"]);
    if pod
        .sh("command -v iptables-restore ip6tables-restore")
        .await
        .code
        != 0
    {
        return skipped("the fallback to iptables: it is not installed (Debian's iptables)");
    }
    without("nft", apply).await.good();
    without("nft", apply).await.good();
    for tool in ["iptables", "ip6tables"] {
        let saved = pod.sh(&format!("{tool}-save -t nat")).await.good().stdout;
        assert_eq!(saved.matches("-j TRADEWIND_OUTPUT").count(), 1, "{saved}");
        assert_eq!(saved.matches("--to-ports 15001").count(), 1, "{saved}");
    }
    assert!(!pod.rules().await.contains("inet tradewind"));
    pod.fails(&[url]).await;
    let mut proxy = pod.proxy(&["--capture-tool", "iptables"]).await;
    assert!(
        pod.passes(async { assert_eq!(pod.get(url).await, "outside") })
            .await
    );
    let ips = pod.addresses("shop/payments").await;
    assert_eq!(
        pod.get(&format!("http://{}/", ips[0])).await,
        "payments from east/1"
    );
    assert_eq!(
        pod.get(&format!("http://[{}]/", ips[1])).await,
        "payments from east/1"
    );
    assert_eq!(proxy.stop(USUAL).await, 0);
    for tool in ["iptables", "ip6tables"] {
        let saved = pod.sh(&format!("{tool}-save")).await.good().stdout;
        assert!(!saved.contains("TRADEWIND"), "{saved}");
    }
    assert!(
        pod.rules().await.starts_with(before.trim_end()),
        "others' rules stay"
    );
}

#[tokio::test]
async fn names_are_answered_where_applications_always_asked() {
    let name = "names_are_answered_where_applications_always_asked";
    inside(name, LIMIT, false, names).await;
}

async fn names() {
    let Some(pod) = Pod::new().await else { return };
    let IpAddr::V4(router) = pod.router else {
        panic!("blocks are IPv4")
    };
    outside((pod.router, 8080).into(), "outside").await;
    let upstream = dns::upstream((pod.router, 53).into(), RData::A(A(router))).await;
    let listen = "127.0.0.1:15053";
    let _dns = pod.dns(listen, upstream, 15021).await;
    let mut proxy = pod.proxy(&["--capture-dns", listen]).await;

    // Whatever server this machine's resolver asks: the question is answered here.
    let url = "http://payments.shop.svc.clusterset.local/";
    assert_eq!(pod.get(url).await, "payments from east/1");
    // What is not the mesh's is asked of the upstream, by a socket that is not captured.
    assert_eq!(pod.get("http://elsewhere.example:8080/").await, "outside");
    assert_eq!(proxy.stop(USUAL).await, 0);
    let gone = pod.curl(&["--connect-timeout", "2", url]).await;
    assert_ne!(gone.code, 0, "nobody answers for it any more");
}
