//! Leaving a closed network: nothing of west's but its gateway and its controller may go out, as a firewall would have it,
//! and calls find their way through that gateway.

#![expect(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tradewind_runtime::task::spawn;
use tradewind_tests::{
    Federation, Process,
    federation::{ADMIN, GATEWAY, TWO, host},
    http,
    load::{Load, none_failed},
    metrics,
    wait::{USUAL, until},
};

const WEST: usize = 0;
const EAST: usize = 1;
/// Last part of the address of the gateway behind the firewall.
const BEHIND: u8 = host::SECOND_GATEWAY;
const OPENED: &str = "tradewind_gateway_connections_opened";

/// What stands before east: it lets connections of some processes through and closes those of all others.
#[derive(Clone, Debug, Default)]
struct Firewall {
    /// Process ids.
    allowed: Arc<Mutex<Vec<u32>>>,
    passed: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl Firewall {
    fn allow(&self, processes: &[Option<&Process>]) {
        let ids = processes.iter().filter_map(|p| p.and_then(Process::id));
        *self.allowed.lock().unwrap_or_else(PoisonError::into_inner) = ids.collect();
    }

    fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    async fn run(self, listener: TcpListener, to: SocketAddr) {
        let listens = listener.local_addr().expect("an address");
        loop {
            let Ok((mut caller, from)) = listener.accept().await else {
                continue;
            };
            let allowed = self.allowed.lock().expect("no panic").clone();
            let inode = inode_of(from, listens);
            if !inode.is_some_and(|i| allowed.iter().any(|p| holds(*p, &i))) {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.passed.fetch_add(1, Ordering::Relaxed);
            drop(spawn("firewall", async move {
                if let Ok(mut inner) = TcpStream::connect(to).await {
                    drop(copy_bidirectional(&mut caller, &mut inner).await);
                }
            }));
        }
    }
}

/// As the kernel's table of TCP sockets writes an IPv4 address.
fn in_hex(address: SocketAddr) -> String {
    let ip: Ipv4Addr = address
        .ip()
        .to_string()
        .parse()
        .expect("loopback blocks are IPv4");
    let ip = u32::from_ne_bytes(ip.octets());
    format!("{ip:08X}:{:04X}", address.port())
}

/// The socket that connected from `local` to `remote`.
fn inode_of(local: SocketAddr, remote: SocketAddr) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let (local, remote) = (in_hex(local), in_hex(remote));
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, l, r, _, _, _, _, _, _, inode, ..] = fields.as_slice() else {
            return None;
        };
        (*l == local && *r == remote).then(|| (*inode).to_owned())
    })
}

/// Whether a process has that socket open.
fn holds(process: u32, inode: &str) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    let socket = format!("socket:[{inode}]");
    open.flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .any(|to| to.as_os_str() == socket.as_str())
}

/// A gateway with more flags than the usual ones.
async fn gateway(
    federation: &Federation,
    number: usize,
    at: u8,
    name: &str,
    more: &[&str],
) -> Process {
    let process = federation.start_gateway_at(number, at, name, "1s", more);
    federation.ready(federation.addr(number, at, ADMIN)).await;
    process
}

async fn stop_gateway(federation: &mut Federation, number: usize) {
    let cluster = federation.clusters.get_mut(number).expect("a cluster");
    cluster.gateway.as_mut().expect("a gateway").kill().await;
    cluster.gateway = None;
}

/// Waits until nobody listens on an address any more, and does.
async fn bind(address: SocketAddr) -> TcpListener {
    until(&format!("{address} to be free"), USUAL, || {
        TcpListener::bind(address)
    })
    .await
}

#[tokio::test]
async fn calls_leave_a_closed_network_through_its_gateway_and_by_no_other_way() {
    let mut federation = Federation::start(&TWO).await;
    let _payments = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;

    // The address that east announces becomes the firewall's; east's gateway moves behind it.
    stop_gateway(&mut federation, EAST).await;
    let announced = federation.gateway_addr(EAST);
    let inner = federation.addr(EAST, BEHIND, GATEWAY);
    let firewall = Firewall::default();
    let listener = bind(announced).await;
    drop(spawn("firewall", firewall.clone().run(listener, inner)));
    let advertise = ["--advertise", &announced.to_string()];
    let _east = gateway(&federation, EAST, BEHIND, "gateway", &advertise).await;
    stop_gateway(&mut federation, WEST).await;
    let west = gateway(&federation, WEST, host::GATEWAY, "gateway", &["--pass-on"]).await;
    let controllers = federation.clusters.iter().map(|c| c.controller.as_ref());
    let allowed: Vec<_> = controllers.chain([Some(&west)]).collect();
    firewall.allow(&allowed);
    for number in [WEST, EAST] {
        federation.is_well(number).await;
    }

    // Who goes straight out gets nowhere: the network is closed indeed.
    let before = firewall.refused();
    let (mut direct, address) = federation.caller(WEST, 0, "shop/payments:80").await;
    let answer = http::get(address, "/").await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(firewall.refused() > before, "the firewall saw nothing");
    direct.kill().await;

    // Who leaves through the gateway is served, and counted at both.
    let (west_admin, east_admin) = (
        federation.addr(WEST, host::GATEWAY, ADMIN),
        federation.addr(EAST, BEHIND, ADMIN),
    );
    let (out, into) = (
        ["to=\"gateway\"", "peer=\"east\""],
        ["to=\"shop/payments:80\"", "peer=\"west\""],
    );
    for (admin, labels) in [(west_admin, &out), (east_admin, &into)] {
        assert_eq!(metrics::total(admin, OPENED, labels).await.unwrap(), 0.0);
    }
    let (_leaving, address) = leaving_caller(&federation).await;
    let refused = firewall.refused();
    let answer = until("a call through the own gateway", USUAL, || async {
        http::get(address, "/").await?.ok()
    })
    .await;
    assert_eq!(answer.text(), "payments from east/1");
    metrics::reaches(west_admin, OPENED, &out, 1.0).await;
    metrics::reaches(east_admin, OPENED, &into, 1.0).await;

    // Its state says which way it went.
    let admin = federation.addr(WEST, 101, ADMIN);
    let own = federation.gateway_addr(WEST).to_string();
    let shown = until("the way to be shown", USUAL, || async {
        let page = http::get(admin, "/debug/state").await?.ok()?.text();
        if page.contains("own gateways") && page.contains(&own) {
            Ok(page)
        } else {
            Err(page)
        }
    })
    .await;
    assert!(!shown.contains(&announced.to_string()), "{shown}");
    assert_eq!(firewall.refused(), refused, "it tried the straight way too");
}

/// A caller's proxy that leaves through its own cluster's gateway.
async fn leaving_caller(federation: &Federation) -> (Process, SocketAddr) {
    let flags = ["--exit", "gateway"];
    federation
        .caller_with(WEST, 1, "shop/payments:80", &flags)
        .await
}

#[tokio::test]
async fn own_gateways_that_die_or_drain_cost_no_call() {
    let mut federation = Federation::start(&TWO).await;
    let _payments = federation.workload(EAST, 1, "shop/payments:80").await;
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 1).await;
    stop_gateway(&mut federation, WEST).await;
    let hosts = [host::GATEWAY, host::SECOND_GATEWAY];
    let start = async |at: u8| {
        let name = format!("gateway-{at}");
        gateway(&federation, WEST, at, &name, &["--pass-on"]).await
    };
    let mut gateways = [start(hosts[0]).await, start(hosts[1]).await];
    federation.announced(WEST, EAST, &hosts).await;
    let opened = async |n: usize| {
        let admin = federation.addr(WEST, hosts[n], ADMIN);
        let out = ["to=\"gateway\"", "peer=\"east\""];
        metrics::total(admin, OPENED, &out).await.unwrap()
    };

    let (_leaving, address) = leaving_caller(&federation).await;
    until("a call through an own gateway", USUAL, || async {
        http::get(address, "/").await?.ok()
    })
    .await;
    let mut load = Load::start(address, 50);
    load.settles("payments from east/1", 20, USUAL).await;
    let used = usize::from(opened(0).await < 1.0);
    assert!(opened(used).await >= 1.0, "one of them carries it");

    // SIGKILL to the one that carries it, then a drain of the one that took over.
    gateways[used].kill().await;
    until("the other gateway to carry it", USUAL, || async {
        match opened(1 - used).await {
            n if n >= 1.0 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    load.settles("payments from east/1", 20, USUAL).await;
    gateways[used] = start(hosts[used]).await;
    federation.announced(WEST, EAST, &hosts).await;
    assert_eq!(gateways[1 - used].stop(USUAL).await, 0);
    until("the first gateway to carry it again", USUAL, || async {
        match opened(used).await {
            n if n >= 1.0 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    load.settles("payments from east/1", 20, USUAL).await;
    none_failed(&load.finish().await);
}
