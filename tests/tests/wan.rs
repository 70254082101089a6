//! The lab's network is what it says: delay, loss, bandwidth, and a black hole in one direction alone, measured between programs
//! in two clusters' namespaces; and inside a cluster it is not in the way.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test's helpers fail by panicking, and say what they measured"
)]

use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};
use tradewind_runtime::task;
use tradewind_tests::{
    Block,
    namespaces::{Namespaces, inside_with_wan},
    wait::{USUAL, until},
    wan::Wan,
};

/// Longest that one of these may take: several times what it does.
const LIMIT: Duration = Duration::from_secs(120);
const WEST: usize = 0;
const EAST: usize = 1;
/// The last parts of addresses: a cluster's own, and a pod's.
const OWN: u8 = 1;
const POD: u8 = 11;
const THERE: (usize, usize) = (WEST, EAST);
const BACK: (usize, usize) = (EAST, WEST);
/// So many packets wait at once: fewer than the device's queue and a socket's buffer hold while nobody reads.
const TOGETHER: u64 = 40;
/// Longer than any answer takes on a busy machine.
const SILENCE: Duration = Duration::from_millis(500);

/// Two clusters, the first with a pod.
struct Two {
    block: Block,
    namespaces: Namespaces,
}

impl Two {
    async fn new() -> Self {
        let block = Block::routable();
        let mut namespaces = Namespaces::default();
        namespaces.set_wan(Wan::open(&block, 7).await.expect("a network"));
        namespaces.add(&block, &[OWN]).await;
        namespaces.add(&block, &[OWN]).await;
        namespaces.add_pod(&block, WEST, POD).await;
        Self { block, namespaces }
    }

    fn wan(&self) -> &Wan {
        self.namespaces.wan()
    }

    fn ip(&self, cluster: usize, host: u8) -> SocketAddr {
        self.block
            .addr(u8::try_from(cluster).expect("few clusters"), host, 0)
    }

    fn udp(&self, cluster: usize, host: u8) -> tokio::net::UdpSocket {
        let address = self.ip(cluster, host);
        let socket = self.namespaces.in_its(cluster, host, move || {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(socket)
        });
        tokio::net::UdpSocket::from_std(socket.expect("a socket")).expect("a runtime")
    }

    /// Answers everything with itself.
    fn echo(&self, cluster: usize, host: u8) -> SocketAddr {
        let socket = self.udp(cluster, host);
        let address = socket.local_addr().expect("an address");
        task::spawn("test echo", async move {
            let mut buffer = [0; 2_048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                drop(socket.send_to(&buffer[..length], from).await);
            }
        });
        address
    }
}

async fn ping(from: &tokio::net::UdpSocket, to: SocketAddr) -> Option<Duration> {
    let asked = Instant::now();
    from.send_to(b"ping", to).await.expect("a way out");
    let mut buffer = [0; 16];
    let answer = timeout(SILENCE, from.recv_from(&mut buffer)).await.ok()?;
    answer.expect("an answer");
    Some(asked.elapsed())
}

/// The shortest and the median of several round trips, all of which must come about.
async fn pings(from: &tokio::net::UdpSocket, to: SocketAddr) -> (Duration, Duration) {
    let mut took = Vec::new();
    for _ in 0..40 {
        took.push(ping(from, to).await.expect("an answer"));
    }
    took.sort();
    (took[0], took[took.len() / 2])
}

#[tokio::test]
async fn the_network_is_what_it_says() {
    inside_with_wan("the_network_is_what_it_says", LIMIT, measured).await;
}

async fn measured() {
    let two = Two::new().await;
    delay(&two).await;
    loss(&two).await;
    black_hole(&two).await;
    bandwidth(&two).await;
}

async fn delay(two: &Two) {
    let (west, pod) = (two.udp(WEST, OWN), two.udp(WEST, POD));
    let (east, neighbour) = (two.echo(EAST, OWN), two.echo(WEST, OWN));
    let (bare, _) = pings(&west, east).await;
    two.wan()
        .change(THERE, |line| line.delay = Duration::from_millis(20));
    two.wan()
        .change(BACK, |line| line.delay = Duration::from_millis(10));
    let set = Duration::from_millis(30);
    for from in [&west, &pod] {
        let (least, median) = pings(from, east).await;
        eprintln!("bare {bare:?}; with 30 ms of delay {least:?}, median {median:?}");
        assert!(least >= set, "too early: {least:?}");
        // The least of many: a busy machine does not delay them all.
        assert!(
            least < set + Duration::from_millis(5),
            "too late: {least:?}"
        );
    }
    let (near, _) = pings(&pod, neighbour).await;
    assert!(
        near < Duration::from_millis(10),
        "inside of a cluster: {near:?}"
    );
    two.wan()
        .change_both(WEST, EAST, |line| *line = Default::default());
}

async fn loss(two: &Two) {
    let (west, east) = (two.udp(WEST, OWN), two.udp(EAST, OWN));
    let to = east.local_addr().expect("an address");
    two.wan().change(THERE, |line| line.loss = 0.2);
    let before = two.wan().counts(THERE);
    let decided = || {
        let now = two.wan().counts(THERE);
        now.carried + now.lost - before.carried - before.lost
    };
    let mut heard = 0_u64;
    let mut buffer = [0; 16];
    let sent = 4_000_u64;
    for batch in 0..sent / TOGETHER {
        for n in 0..TOGETHER {
            let packet = (batch * TOGETHER + n).to_be_bytes();
            west.send_to(&packet, to).await.expect("a way out");
        }
        until("a verdict on each", USUAL, || async {
            let wanted = (batch + 1) * TOGETHER;
            (decided() == wanted).then_some(()).ok_or(decided())
        })
        .await;
        while heard < two.wan().counts(THERE).carried - before.carried {
            let one = timeout(USUAL, east.recv_from(&mut buffer)).await;
            one.expect("what is carried arrives").expect("a packet");
            heard += 1;
        }
    }
    let more = timeout(SILENCE, east.recv_from(&mut buffer)).await;
    assert!(more.is_err(), "nothing arrives twice");
    let after = two.wan().counts(THERE);
    let (carried, lost) = (after.carried - before.carried, after.lost - before.lost);
    eprintln!("of {sent} packets {lost} lost, {carried} carried, {heard} heard");
    assert_eq!(carried + lost, sent);
    assert_eq!(heard, carried, "what is carried arrives, and no more");
    let share = lost as f64 / sent as f64;
    assert!((0.17..0.23).contains(&share), "{share}");
    two.wan().change(THERE, |line| line.loss = 0.0);
}

async fn black_hole(two: &Two) {
    let (west, east) = (two.udp(WEST, OWN), two.udp(EAST, OWN));
    let (to, from) = (
        east.local_addr().expect("one"),
        west.local_addr().expect("one"),
    );
    let (mut buffer, echo) = ([0; 16], two.echo(EAST, OWN));
    two.wan().change(BACK, |line| line.cut = true);
    west.send_to(b"there", to).await.expect("a way out");
    let heard = timeout(USUAL, east.recv_from(&mut buffer)).await;
    assert_eq!(
        heard.expect("the open direction").expect("a packet").1,
        from
    );
    assert_eq!(ping(&west, echo).await, None, "the answer meets the hole");
    assert!(two.wan().counts(BACK).cut > 0);
    two.wan().change(BACK, |line| line.cut = false);
    until("an answer again", USUAL, || async {
        ping(&west, echo).await.ok_or("none")
    })
    .await;
}

async fn bandwidth(two: &Two) {
    let free = transfer(two, 16 << 20).await;
    two.wan()
        .change(THERE, |line| line.rate_bit_s = Some(10_000_000));
    let slow = transfer(two, 2 << 20).await;
    eprintln!("bandwidth: without a limit {free:.0} Mbit/s, with one of 10: {slow:.2}");
    assert!(slow < 10.5, "over its limit: {slow} Mbit/s");
    assert!(slow > 2.0 && free > slow * 2.0, "{slow} and {free} Mbit/s");
    two.wan().change(THERE, |line| line.rate_bit_s = None);
}

/// So many bytes by TCP from west to east: Mbit/s.
async fn transfer(two: &Two, bytes: usize) -> f64 {
    let address = two.ip(EAST, OWN);
    let listener = two.namespaces.in_its(EAST, OWN, move || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    });
    let listener = tokio::net::TcpListener::from_std(listener.expect("a listener")).expect("one");
    let to = listener.local_addr().expect("an address");
    let stream = two.namespaces.in_its(WEST, OWN, move || {
        let stream = TcpStream::connect(to)?;
        stream.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(stream)
    });
    let mut stream = tokio::net::TcpStream::from_std(stream.expect("a stream")).expect("one");
    let (mut received, _) = listener.accept().await.expect("a connection");
    let began = Instant::now();
    let sender = task::spawn("test sender", async move {
        let chunk = vec![7; 64 << 10];
        for _ in 0..bytes / chunk.len() {
            stream.write_all(&chunk).await.expect("a way out");
        }
        stream.shutdown().await.expect("an end");
        stream
    });
    let mut buffer = vec![0; 64 << 10];
    let mut all = 0;
    loop {
        match received.read(&mut buffer).await.expect("bytes") {
            0 => break,
            n => all += n,
        }
    }
    assert_eq!(all, bytes);
    drop(sender.await.expect("it sent all"));
    bytes as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64()
}
