//! Clusters that reach each other on TCP 15443 alone, each in a network namespace of its own behind a firewall that drops
//! everything else: all that a federation does goes that one way, whoever may not use it is refused and counted, and a
//! gateway that is drained or killed costs no request.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test's helpers fail by panicking, and say what they measured"
)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};
use tradewind_tests::{
    Federation, Process,
    crowd::{Asking, Calls, Crowd},
    federation::{ADMIN, CONTROLLER, GATEWAY, HBONE, THREE, TWO, host},
    http,
    load::{Load, Posts, none_failed},
    metrics,
    namespaces::{inside, skipped},
    peer, process,
    seals::{self, Sealer},
    wait::{USUAL, until},
};
use tradewind_transport::{
    relay::MAX_PIPES,
    seal::Seal,
    tls::{self, Expect},
};

const WEST: usize = 0;
/// The second of two clusters.
const EAST: usize = 1;
const SERVICE: &str = "shop/payments:80";
const WEB: &str = "/ns/shop/sa/web";
const OPENED: &str = "tradewind_gateway_connections_opened";
const ACTIVE: &str = "tradewind_gateway_connections_active";
const REFUSED: &str = "tradewind_gateway_connections_refused";
/// Answers in a row that count as settled.
const SETTLED: usize = 50;
/// Requests a second.
const RATE: u32 = 200;
/// Longest that one of these may take: several times what it does.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn two_clusters_need_one_port_between_them() {
    let name = "two_clusters_need_one_port_between_them";
    inside(name, LIMIT, false, one_port).await;
}

async fn one_port() {
    // Founded, joined by token, and well, already over this one port.
    let federation = Federation::closed(&TWO).await;
    let mut western = federation.workload(WEST, 1, SERVICE).await;
    let _eastern = federation.workload(EAST, 1, SERVICE).await;
    for number in [WEST, EAST] {
        federation.export(number, "shop/payments").await;
    }
    for number in [WEST, EAST] {
        federation.sees(number, "shop/payments", 2).await;
    }
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    let mut load = Load::start(address, RATE);
    load.settles("west", SETTLED, USUAL).await;
    western.kill().await;
    load.settles("east", SETTLED, USUAL).await;
    let _western = federation.workload(WEST, 1, SERVICE).await;
    load.settles("west", SETTLED, USUAL).await;
    none_failed(&load.finish().await);

    // Either controller writes, and each was reached through its gateway.
    for number in [WEST, EAST] {
        let args = ["token", "create"];
        federation.cli(number, &args).await.good();
        let gateway = federation.addr(number, host::GATEWAY, ADMIN);
        metrics::reaches(gateway, OPENED, &["to=\"controller\""], 1.0).await;
    }
    let gateway = federation.addr(EAST, host::GATEWAY, ADMIN);
    let labels = ["to=\"shop/payments:80\"", "peer=\"west\""];
    metrics::reaches(gateway, OPENED, &labels, 1.0).await;

    // Nobody has so much as tried another way.
    let router = federation.router();
    assert_eq!(router.dropped().await, 0, "packets to other ports");
    let doors = [
        (WEST, federation.addr(EAST, host::CONTROLLER, CONTROLLER)),
        (WEST, federation.addr(EAST, 11, HBONE)),
        (WEST, federation.addr(EAST, 11, 8080)),
        (EAST, federation.addr(WEST, host::CONTROLLER, CONTROLLER)),
        (EAST, federation.addr(WEST, host::GATEWAY, ADMIN)),
    ];
    for (from, door) in doors {
        assert!(!router.connects(from, door).await, "{door} is open");
    }
    let least = doors.len() as u64;
    assert!(router.dropped().await >= least, "the firewall counts");
    for (from, to) in [(WEST, EAST), (EAST, WEST)] {
        let gateway = federation.gateway_addr(to);
        assert!(router.connects(from, gateway).await, "{gateway} is shut");
    }
    // It was the firewall that kept the others shut.
    router.cut(&[].into()).await;
    for (from, door) in doors {
        assert!(router.connects(from, door).await, "{door} is shut");
    }
}

#[tokio::test]
async fn each_refusal_is_counted_by_its_reason_and_a_revoked_cluster_is_cut() {
    let name = "each_refusal_is_counted_by_its_reason_and_a_revoked_cluster_is_cut";
    inside(name, LIMIT, false, refusals).await;
}

/// A gateway under attack.
struct Door<'a> {
    federation: &'a Federation,
    gateway: SocketAddr,
    admin: SocketAddr,
}

impl Door<'_> {
    async fn refused(&self, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        let total = metrics::total(self.admin, REFUSED, &[&label]).await;
        total.expect("the gateway's metrics")
    }

    /// Makes an attempt that has to be refused for this reason, and for no other.
    async fn refuses(&self, reason: &str, attempt: impl Future<Output = Result<(), String>>) {
        let all = metrics::total(self.admin, REFUSED, &[]).await;
        let before = (self.refused(reason).await, all.expect("metrics"));
        let refused = attempt.await;
        refused.expect_err(reason);
        let label = format!("reason=\"{reason}\"");
        metrics::reaches(self.admin, REFUSED, &[&label], before.0 + 1.0).await;
        let all = metrics::total(self.admin, REFUSED, &[]).await;
        let after = (self.refused(reason).await, all.expect("metrics"));
        assert_eq!(after, (before.0 + 1.0, before.1 + 1.0), "{reason}");
    }
}

async fn refusals() {
    const CENTRAL: usize = 1;
    const EAST: usize = 2;
    let federation = Federation::closed(&THREE).await;
    let workload = federation.workload(EAST, 1, SERVICE).await;
    let _secret = federation.workload(EAST, 2, "shop/secret:80").await;
    federation.export(EAST, "shop/payments").await;
    for number in [WEST, CENTRAL] {
        federation.sees(number, "shop/payments", 1).await;
    }
    federation.sees(EAST, "shop/secret", 1).await;
    let door = Door {
        federation: &federation,
        gateway: federation.gateway_addr(EAST),
        admin: federation.addr(EAST, host::GATEWAY, ADMIN),
    };
    let authority = |n: usize| peer::authority(&federation.clusters[n].data_dir);
    let trust = peer::trust(&[&authority(WEST), &authority(CENTRAL), &authority(EAST)]);
    let [west, central] = [WEST, CENTRAL].map(|n| peer::certificate(&authority(n), WEB));
    let config = |certificate| tls::client_config(certificate, &trust, Expect::AnyMember);
    let sealers = (
        Sealer::of(&federation, WEST).await,
        Sealer::of(&federation, CENTRAL).await,
        Sealer::of(&federation, EAST).await,
    );
    let dial = |name| async {
        let session = peer::dial(door.gateway, config(&west), name).await;
        session.map(drop)
    };
    // Who may is served, by the same attempt.
    let live = peer::dial(door.gateway, config(&west), sealers.0.name("east", SERVICE)).await;
    let live = live.unwrap();
    assert_eq!(live.get(SERVICE).await.unwrap().0, 200);

    strangers(&door, config(&west), sealers.0.seal("east", SERVICE, 60)).await;
    second_hand(&dial, &door, &sealers.0, &sealers.2).await;
    // A member may call what is exported to it, and nothing else.
    let secret = dial(sealers.0.name("east", "shop/secret:80"));
    door.refuses("not_exported", secret).await;
    // Overheard by who has no certificate, a good name leads to the endpoint's own refusal.
    let anonymous = tls::anonymous_client_config(&trust, Expect::AnyMember);
    let name = sealers.0.name("east", SERVICE);
    let refused = peer::dial(door.gateway, anonymous, name).await;
    refused.expect_err("no certificate");
    let dropped = "tradewind_inbound_connections_dropped";
    metrics::reaches(workload.admin, dropped, &["reason=\"handshake\""], 1.0).await;

    let name = sealers.1.name("east", SERVICE);
    revoked(&door, CENTRAL, config(&central), name).await;
    // A name of somebody else's opens the gateway for it, and the endpoint does not.
    let name = sealers.0.name("east", SERVICE);
    let reason = ["reason=\"unknown_"];
    let before = metrics::total(workload.admin, dropped, &reason).await;
    let refused = peer::dial(door.gateway, config(&central), name).await;
    refused.expect_err("its authority is gone");
    let least = before.unwrap() + 1.0;
    metrics::reaches(workload.admin, dropped, &reason, least).await;
    assert_eq!(live.get(SERVICE).await.unwrap().0, 200, "undisturbed");
}

/// Names that are good elsewhere, were good, or nearly are.
async fn second_hand<D: Future<Output = Result<(), String>>>(
    dial: &impl Fn(ServerName<'static>) -> D,
    door: &Door<'_>,
    west: &Sealer,
    east: &Sealer,
) {
    let other_pair = seals::named("east", west.seal("central", SERVICE, 60), None);
    door.refuses("seal_unknown", dial(other_pair)).await;
    let other_way = seals::named("east", east.seal("west", SERVICE, 60), None);
    door.refuses("seal_unknown", dial(other_way)).await;
    let good = west.seal("east", SERVICE, 60).label();
    let mut bent = good.clone();
    bent.pop();
    bent.push(if good.ends_with('a') { 'i' } else { 'a' });
    let bent = Seal::parse(&bent).unwrap();
    let bent = seals::named("east", bent, None);
    door.refuses("seal_broken", dial(bent)).await;
    // One that was good, sent again after its time.
    let short = seals::named("east", west.seal("east", SERVICE, 5), None);
    dial(short.clone()).await.unwrap();
    let error = until("the name to end", USUAL, || async {
        match dial(short.clone()).await {
            Ok(()) => Err("carried"),
            Err(error) => Ok(error),
        }
    })
    .await;
    assert!(error.contains("CertificateExpired"), "{error}");
    door.refuses("seal_expired", dial(short)).await;
}

/// Who has no name that could ever be good.
async fn strangers(door: &Door<'_>, config: Arc<ClientConfig>, good: Seal) {
    let plain = async {
        let mut tcp = TcpStream::connect(door.gateway).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = [0; 1];
        match tokio::io::AsyncReadExt::read(&mut tcp, &mut answer).await {
            Ok(0) | Err(_) => Err("closed".to_owned()),
            Ok(_) => Ok(()),
        }
    };
    door.refuses("not_tls", plain).await;
    let dial = |config, name| async {
        let session = peer::dial(door.gateway, config, name).await;
        session.map(drop)
    };
    let mut unnamed = (*config).clone();
    unnamed.enable_sni = false;
    let name = peer::name("east", SERVICE);
    door.refuses("no_name", dial(Arc::new(unnamed), name)).await;
    let elsewhere = "payments.shop.example".try_into().unwrap();
    door.refuses("bad_name", dial(Arc::clone(&config), elsewhere))
        .await;
    let clear = peer::name("east", SERVICE);
    door.refuses("no_seal", dial(Arc::clone(&config), clear))
        .await;
    let guessed = Seal::parse(&"a".repeat(63)).unwrap();
    assert_ne!(guessed.key_id(), good.key_id());
    let guessed = seals::named("east", guessed, None);
    door.refuses("seal_unknown", dial(config, guessed)).await;
}

/// A cluster is a member, then leaves: its live connections end and new ones are refused, with the names and certificates
/// that were good.
async fn revoked(
    door: &Door<'_>,
    number: usize,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) {
    // Longest from its leaving to either: "within seconds".
    const SOON: Duration = Duration::from_secs(5);
    let dial = || peer::dial(door.gateway, Arc::clone(&config), name.clone());
    let live = dial().await.unwrap();
    let tunnel = live.open(SERVICE).await.unwrap();
    let (_caller, address) = door.federation.caller(number, 0, SERVICE).await;
    let answer = http::get(address, "/").await.unwrap().ok().unwrap();
    assert_eq!(answer.text(), "payments from east/1");

    door.federation
        .cli(number, &["leave", "--yes"])
        .await
        .good();
    let left = Instant::now();
    tunnel.ended(SOON).await.unwrap();
    live.ended(SOON).await.unwrap();
    let cut = left.elapsed();
    until("new connections to be refused", SOON, || async {
        match dial().await {
            Err(error) if error.contains("AccessDenied") => Ok(()),
            other => Err(other.map(drop)),
        }
    })
    .await;
    eprintln!(
        "after its leaving: cut in {cut:?}, refused in {:?}",
        left.elapsed()
    );
    assert!(door.refused("seal_unknown").await >= 4.0);
    // Its own proxy, which knows of nothing and keeps its names, gets no further.
    let answer = http::get(address, "/").await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
}

#[tokio::test]
async fn hundreds_of_connections_stay_while_a_gateway_is_drained() {
    let name = "hundreds_of_connections_stay_while_a_gateway_is_drained";
    inside(name, LIMIT, false, || drained(400, 2)).await;
}

#[tokio::test]
#[ignore = "takes two minutes of a debug build: run it by name, with --nocapture for its figures"]
async fn ten_thousand_connections_stay_while_a_gateway_is_drained() {
    let name = "ten_thousand_connections_stay_while_a_gateway_is_drained";
    inside(name, LIMIT * 10, true, async || {
        // A gateway needs two descriptors for each connection, and lets one member have four fifths of what it may hold itself.
        const WANTED: u64 = 10_000;
        // The proxy's own calls, and uneven hands.
        const SPARE: u64 = 100;
        // Its own, those of the pipes, of half-open handshakes, and of connections between controllers.
        let reserve = 128 + 2 * MAX_PIPES as u64 + 2_048 + 2 * 256;
        let fits = |left: u64| (WANTED.div_ceil(left) + SPARE) * 5 / 2 + reserve;
        let files = process::raise_files(fits(1));
        let all = host::GATEWAYS.len();
        let gateways = (2..all).find(|n| files >= fits(*n as u64 - 1));
        let gateways = gateways.unwrap_or(all);
        let most =
            (files.saturating_sub(reserve) * 2 / 5).saturating_sub(SPARE) * (gateways as u64 - 1);
        let count = WANTED.min(most);
        eprintln!(
            "{files} files may be open at a time: {gateways} gateways for {count} connections"
        );
        if count < WANTED {
            skipped(&format!("the other {} connections", WANTED - count));
        }
        drained(usize::try_from(count).unwrap(), gateways).await;
    })
    .await;
}

async fn drained(count: usize, gateways: usize) {
    let (mut federation, workloads) = Federation::closed_serving(SERVICE, 2).await;
    let mut door = doors(&mut federation, gateways).await;
    let hosts: Vec<_> = door.iter().map(|(host, _)| *host).collect();
    federation.announced(EAST, WEST, &hosts).await;

    // A proxy's own calls go on all the time, of the kind that is never repeated. A gateway that carries them leaves.
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    let posts = Posts::start(address);
    let active = async |host| {
        let admin = federation.addr(EAST, host, ADMIN);
        let total = metrics::total(admin, ACTIVE, &["peer=\"west\""]).await;
        total.expect("the gateway's metrics")
    };
    let leaves = until("a gateway to carry the proxy's calls", USUAL, || async {
        for host in &hosts {
            if active(*host).await > 0.0 {
                return Ok(*host);
            }
        }
        Err("none does")
    })
    .await;
    let place = hosts
        .iter()
        .position(|h| *h == leaves)
        .expect("one of them");
    let (_, mut leaver) = door.swap_remove(place);

    let gateway = |host| federation.addr(EAST, host, GATEWAY);
    let all: Vec<_> = hosts.iter().map(|h| gateway(*h)).collect();
    let began = Instant::now();
    let calls = Calls::between(&federation, [WEST, EAST], SERVICE).await;
    let crowd = Crowd::gather(calls, count, &all).await;
    let gathered = began.elapsed();
    let held = crowd.at(gateway(leaves));
    assert!(
        active(leaves).await > held as f64,
        "the proxy's and the crowd's"
    );
    let memory = leaver.memory();

    let asking = crowd.keep_asking();
    let drain = Instant::now();
    leaver.terminate();
    let stay: Vec<_> = door.iter().map(|(host, _)| *host).collect();
    federation.announced(EAST, WEST, &stay).await;
    still_serves(gateway(leaves), &asking).await;
    assert!(active(leaves).await >= held as f64, "somebody was cut");
    let others: Vec<_> = stay.iter().map(|h| gateway(*h)).collect();
    crowd.leave(gateway(leaves), &others).await;
    let code = leaver.stop(Duration::from_secs(30)).await;
    let took = drain.elapsed();
    assert_eq!(code, 0, "a gateway that was left in time ends well");
    let log = leaver.log();
    assert!(!log.contains("connections are cut"), "{log}");
    let asked = asking.none_failed().await;
    posts.none_failed().await;
    crowd.ask_all().await;
    let mut carried = 0.0;
    for host in &stay {
        carried += active(*host).await;
    }
    assert!(carried >= count as f64, "{carried} of {count} are held");
    eprintln!(
        "{count} connections, {held} of them through the gateway that leaves: gathered in {gathered:?}; drained and moved in \
         {took:?} with {asked} requests and none failed; memory of the gateway that left {} MiB, of one that stays {} MiB, of a \
         workload's proxy {} MiB",
        memory >> 20,
        door[0].1.memory() >> 20,
        workloads[0].proxy.as_ref().expect("a proxy").memory() >> 20,
    );
}

/// The east's gateways anew, and so many.
async fn doors(federation: &mut Federation, gateways: usize) -> Vec<(u8, Process)> {
    let usual = federation.clusters[EAST].gateway.take();
    usual.expect("a gateway").kill().await;
    let mut all = Vec::new();
    for (n, host) in host::GATEWAYS.into_iter().take(gateways).enumerate() {
        // The usual one comes back under its name: two of one address would both be announced for a while.
        let name = match n {
            0 => "gateway".to_owned(),
            n => format!("gateway-{}", n + 1),
        };
        // Only the crowd's leaving may end a drain: the deadline is far beyond what that takes.
        let process = federation.start_gateway_at(EAST, host, &name, "300s", &[]);
        federation.ready(federation.addr(EAST, host, ADMIN)).await;
        all.push((host, process));
    }
    all
}

/// A gateway that drains takes nobody new any more, and carries on for everybody that it has.
async fn still_serves(drains: SocketAddr, asking: &Asking) {
    until("the listener to close", USUAL, || async {
        let refused = TcpStream::connect(drains).await;
        refused.map_or_else(|_| Ok(()), |_| Err("open"))
    })
    .await;
    let before = asking.asked();
    until("requests while it drains", USUAL, || async {
        let asked = asking.asked();
        if asked >= before + 10 {
            Ok(())
        } else {
            Err(asked)
        }
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_is_killed_under_load_costs_no_request() {
    let name = "a_gateway_that_is_killed_under_load_costs_no_request";
    inside(name, LIMIT, false, killed).await;
}

async fn killed() {
    let (mut federation, _workloads) = Federation::closed_serving(SERVICE, 2).await;
    let mut second = Some(federation.second_gateway(EAST, "5s").await);
    let both = [host::GATEWAY, host::SECOND_GATEWAY];
    federation.announced(EAST, WEST, &both).await;
    let mut callers = Vec::new();
    let mut loads = Vec::new();
    for n in 0..2 {
        let (caller, address) = federation.caller(WEST, n, SERVICE).await;
        callers.push(caller);
        loads.push(Load::start(address, RATE));
    }
    for load in &mut loads {
        load.settles("east", SETTLED, USUAL).await;
    }
    // Whichever carries more of it dies, then the other one, when the first is back.
    let carries = |host: u8| {
        let admin = federation.addr(EAST, host, ADMIN);
        async move {
            metrics::total(admin, ACTIVE, &["peer=\"west\""])
                .await
                .unwrap()
        }
    };
    let usual_first = carries(host::GATEWAY).await >= carries(host::SECOND_GATEWAY).await;
    for usual in [usual_first, !usual_first] {
        let dies = if usual {
            host::GATEWAY
        } else {
            host::SECOND_GATEWAY
        };
        let admin = federation.addr(EAST, dies, ADMIN);
        metrics::reaches(admin, ACTIVE, &["peer=\"west\""], 1.0).await;
        if usual {
            let gateway = federation.clusters[EAST].gateway.as_mut();
            gateway.expect("a gateway").kill().await;
        } else {
            second.as_mut().expect("a gateway").kill().await;
        }
        for load in &mut loads {
            load.settles("east", SETTLED, USUAL).await;
        }
        if usual {
            federation.start_gateway(EAST);
            federation.ready(admin).await;
        } else {
            second = Some(federation.second_gateway(EAST, "5s").await);
        }
        federation.announced(EAST, WEST, &both).await;
    }
    for load in loads {
        none_failed(&load.finish().await);
    }
}
