//! What is captured in both families of addresses, under rules that either tool has set: calls of services by address and by the
//! host of a request, passed connections, questions to name servers over UDP and TCP, and callers at the application's port.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::{
    RData, RecordType,
    rdata::{A, AAAA},
};
use tradewind_tests::{
    Process, apps,
    dns::{self, Over},
    http, metrics,
    namespaces::{inside, skipped},
    tradewind,
    wait::{USUAL, until},
};

use super::{CALLERS, EAST, HOST, LIMIT, OWN_V6, POD, ROUTER, ROUTER_V6, WEST, outside, pod::Pod};

const H2_HOST: &str = "Host: h2.shop.svc.clusterset.local";

/// One family: where the test and the application are, what the service's address is.
struct Family {
    router: IpAddr,
    app: SocketAddr,
    service: IpAddr,
}

#[tokio::test]
async fn both_families_are_captured_by_either_tool() {
    let name = "families::both_families_are_captured_by_either_tool";
    inside(name, LIMIT, false, both).await;
}

async fn both() {
    let Some(pod) = Pod::new().await else { return };
    let IpAddr::V4(router) = pod.router else {
        panic!("blocks are IPv4")
    };
    let mail = SocketAddr::new(pod.federation.block.ip(1, ROUTER), 2525);
    apps::server_first(apps::bind(mail).await, "220 mail\n");
    // And one that speaks HTTP/2, as its callers do.
    let h2 = SocketAddr::new(pod.federation.block.ip(1, ROUTER), 2526);
    apps::http2(apps::bind(h2).await, "h2 from east");
    let spec = format!("shop/mail:25={mail}");
    let more = ["--serve", &format!("shop/h2:80={h2}")];
    let _both = pod.federation.serve(EAST, 2, &spec, &more).await;
    for service in ["shop/mail", "shop/h2"] {
        pod.federation.export(EAST, service).await;
        pod.federation.sees(WEST, service, 1).await;
    }
    let services = pod.addresses("shop/payments").await;
    let [v4, v6] = [0, 1].map(|i| services[i].parse().unwrap());
    let families = [
        Family {
            router: pod.router,
            app: SocketAddr::new(pod.own, 8080),
            service: v4,
        },
        Family {
            router: ROUTER_V6.parse().unwrap(),
            app: SocketAddr::new(OWN_V6.parse().unwrap(), 8080),
            service: v6,
        },
    ];
    let mut apps = Vec::new();
    for family in &families {
        outside((family.router, 8080).into(), "outside").await;
        apps::http2(apps::bind((family.router, 8082).into()).await, "outside");
        let first = apps::bind((family.router, 3306).into()).await;
        apps::server_first(first, "outside speaks first\n");
        let listen = family.app.to_string();
        let args = ["demo-app", "--listen", &listen, "--name", "web"];
        let command = pod.federation.router().command(POD, &tradewind());
        let app = Process::start_behind("web", pod.federation.dir(), command, &args, &[]);
        apps.push(app);
        until("the application to listen", USUAL, || {
            http::get(family.app, "/healthz")
        })
        .await;
    }
    // Asked by a server of each family.
    let upstream = dns::upstream((pod.router, 53).into(), RData::A(A(router))).await;
    let _dns = [
        pod.dns("127.0.0.1:15053", upstream, 15021).await,
        pod.dns("[::1]:15053", upstream, 15022).await,
    ];
    by_tool(&pod, &families, "nft").await;
    let installed = pod
        .sh("command -v iptables-restore ip6tables-restore")
        .await;
    if installed.code == 0 {
        by_tool(&pod, &families, "iptables").await;
    } else {
        skipped("capture by iptables: it is not installed (Debian's iptables)");
    }
}

async fn by_tool(pod: &Pod, families: &[Family], tool: &str) {
    let serve = format!("shop/web:80={},check=http:/healthz", families[0].app);
    let always = [
        "--capture-tool",
        tool,
        "--capture-dns",
        "127.0.0.1:15053,[::1]:15053",
        "--serve",
        &serve,
    ];
    let mut proxy = pod.proxy(&always).await;
    for family in families {
        calls(pod, family).await;
        questions(pod, family, families).await;
        // Who has no proxy is counted and let through.
        let before = callers(pod, family, "passed").await;
        let answer = http::get(family.app, "/").await.unwrap();
        assert_eq!(answer.ok().unwrap().text(), "web");
        assert_eq!(callers(pod, family, "passed").await, before + 1.0);
    }
    assert_eq!(proxy.stop(USUAL).await, 0);

    let strict = ["--inbound", "strict", "--unknown", "refuse"];
    let mut proxy = pod.proxy(&[&always, strict.as_slice()].concat()).await;
    for family in families {
        http::get(family.app, "/")
            .await
            .expect_err("it has no proxy");
        assert_eq!(callers(pod, family, "refused").await, 1.0);
        // Its own host calls it as before.
        assert_eq!(pod.get(&format!("http://{}/", family.app)).await, "web");
        let there = SocketAddr::new(family.router, 8080);
        pod.fails(&[&format!("http://{there}/")]).await;
        let service = SocketAddr::new(family.service, 80);
        let said = pod.get(&format!("http://{service}/")).await;
        assert_eq!(said, "payments from east/1");
    }
    assert_eq!(proxy.stop(USUAL).await, 0);
    for family in families {
        let there = format!("http://{}/", SocketAddr::new(family.router, 8080));
        assert_eq!(pod.get(&there).await, "outside", "nothing is left");
    }
}

/// How many callers of this family the proxy has counted.
async fn callers(pod: &Pod, family: &Family, result: &str) -> f64 {
    let source = format!("source=\"{}\"", family.router);
    let labels = ["port=\"8080\"", &source, &format!("result=\"{result}\"")];
    let total = metrics::total(pod.admin, CALLERS, &labels).await;
    total.expect("the proxy's metrics")
}

async fn calls(pod: &Pod, family: &Family) {
    let payments = "payments from east/1";
    let at = |ip, port| format!("http://{}/", SocketAddr::new(ip, port));
    assert_eq!(pod.get(&at(family.service, 80)).await, payments);
    let (foreign, h2c) = (at(family.router, 80), "--http2-prior-knowledge");
    // By the name in the request, at an address of somebody else, whatever is spoken.
    for (how, expected) in [
        (["-f", "-H", HOST].as_slice(), payments),
        (&["-f", h2c, "-H", H2_HOST], "h2 from east"),
    ] {
        let said = pod.curl(&[how, &[&foreign]].concat()).await.good();
        assert_eq!(said.stdout.trim(), expected);
    }
    let outside = at(family.router, 8080);
    assert!(
        pod.passes(async { assert_eq!(pod.get(&outside).await, "outside") })
            .await
    );
    let outside = at(family.router, 8082);
    let by_http2 = async {
        let said = pod.curl(&["-f", h2c, &outside]).await.good();
        assert_eq!(said.stdout.trim(), "outside");
    };
    assert!(pod.passes(by_http2).await);
    let mail = pod.addresses("shop/mail").await;
    let mail: IpAddr = mail[usize::from(family.app.is_ipv6())].parse().unwrap();
    for (address, greeting) in [
        (SocketAddr::new(mail, 25), "220 mail"),
        (SocketAddr::new(family.router, 3306), "outside speaks first"),
    ] {
        let mut talk = pod.talk(address);
        talk.hears(greeting).await;
        talk.says("hello").await;
        talk.hears("hello").await;
    }
}

/// Whatever server is asked, and however: the mesh's answers.
async fn questions(pod: &Pod, family: &Family, families: &[Family]) {
    let [IpAddr::V4(v4), IpAddr::V6(v6)] = [0, 1].map(|i: usize| families[i].service) else {
        panic!("one address a family")
    };
    let name = "payments.shop.svc.clusterset.local.";
    for over in [Over::Udp, Over::Tcp] {
        for (kind, expected) in [
            (RecordType::A, RData::A(A(v4))),
            (RecordType::AAAA, RData::AAAA(AAAA(v6))),
        ] {
            let answered = pod.ask(family.router, over, name, kind).await;
            assert_eq!(answered, [expected], "{} over {over:?}", family.router);
        }
        // What is not the mesh's is asked of the upstream, by a socket that is not captured.
        let IpAddr::V4(router) = families[0].router else {
            panic!("blocks are IPv4")
        };
        let elsewhere = "elsewhere.example.";
        let answered = pod.ask(family.router, over, elsewhere, RecordType::A).await;
        assert_eq!(answered, [RData::A(A(router))], "{over:?}");
    }
}
