//! Does every other cluster's gateway answer, and how far is it? A task on the control thread probes each address that the
//! other members announce, as their callers would dial it, and what came of it is published for the controller, for
//! metrics and for the admin page.
//!
//! Owns the probes under way and nothing else: what they mean is decided in [`facts`], which is pure. A gateway that does
//! not answer must never touch this process's readiness, nor anybody's connection.

pub(crate) mod facts;
pub(crate) mod meters;
pub(crate) mod report;
mod schedule;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tradewind_api::{ClusterName, Domain, snapshot::Snapshot};
use tradewind_runtime::{clock::SharedClock, rng::Rng};
use tradewind_transport::{
    server_name::{self, Target},
    tls::{self, Expect},
    trust::TrustCell,
};

use facts::{Facts, Peers, Why, judge, wanted};
use schedule::{Place, Schedule};

/// How long a probe may take: several of the longest round trips on earth.
const DEADLINE: Duration = Duration::from_millis(1_500);
/// IP addresses of one host name that are tried: one each of both families, and a spare.
const MAX_IPS: usize = 3;
/// Bytes of a TLS alert record, which is all that a gateway says to a probe.
const ALERT_BYTES: usize = 7;
/// Least time between two publications: with many clusters, answers come every few ms.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Prober {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    clock: SharedClock,
    rng: Rng,
    /// Shows no certificate and believes none: the answer comes before any.
    tls: Arc<ClientConfig>,
    published: watch::Sender<Arc<Peers>>,
}

/// What one probe gave.
struct Asked {
    place: Place,
    sent: Instant,
    found: Result<Duration, Why>,
}

impl Prober {
    /// Over the members that `snapshots` names. The receiver has what is known of each.
    pub(crate) fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        clock: SharedClock,
        rng: Rng,
    ) -> (Self, watch::Receiver<Arc<Peers>>) {
        let published = watch::Sender::new(Arc::default());
        let seen = published.subscribe();
        let prober = Self {
            snapshots,
            clock,
            rng,
            tls: tls::anonymous_client_config(&TrustCell::empty(), Expect::AnyMember),
            published,
        };
        (prober, seen)
    }

    /// Runs until nobody sends snapshots any more.
    pub(crate) async fn run(mut self) {
        let (mut facts, mut schedule) = (Facts::default(), Schedule::default());
        let mut domain = Domain::default();
        let mut under_way = FuturesUnordered::new();
        let (mut moved, mut changed, mut published_at) = (true, false, None::<Instant>);
        loop {
            let now = self.clock.now();
            if moved {
                let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
                domain.clone_from(&snapshot.trust.domain);
                let wanted = wanted(&snapshot);
                schedule.follow(&wanted, now, &mut self.rng);
                facts.follow(&wanted, self.clock.unix_ms());
                (moved, changed) = (false, true);
            }
            for place in schedule.take_due(now) {
                under_way.push(self.probe(&domain, place));
            }
            let publish_at = published_at.map_or(now, |at| at + PUBLISH_EVERY);
            if changed && now >= publish_at {
                self.published.send_replace(Arc::new(facts.peers().clone()));
                (changed, published_at) = (false, Some(now));
            }
            let next = schedule.next();
            tokio::select! {
                biased;
                more = self.snapshots.changed() => {
                    if more.is_err() {
                        return;
                    }
                    moved = true;
                }
                Some(asked) = under_way.next(), if !under_way.is_empty() => {
                    let Asked { place, sent, found } = asked;
                    let (cluster, address) = (&place.0, place.1.as_str());
                    if let Err(why) = found {
                        tracing::debug!(%cluster, address, why = why.as_str(), "a gateway gave no answer");
                    }
                    facts.observe((cluster, address), found, self.clock.unix_ms());
                    let misses = facts.misses(cluster, address);
                    schedule.asked(&place, sent, misses, &mut self.rng);
                    changed = true;
                }
                () = sleep_until(next.unwrap_or(publish_at)), if next.is_some() => {}
                () = sleep_until(publish_at), if changed => {}
            }
        }
    }

    fn probe(&self, domain: &Domain, place: Place) -> impl Future<Output = Asked> + use<> {
        let hello = self.hello(domain, &place.0);
        let clock = Arc::clone(&self.clock);
        async move {
            let sent = clock.now();
            let found = match hello {
                Some(hello) => ask(&place.1, &hello, &clock).await,
                None => Err(Why::Unasked),
            };
            Asked { place, sent, found }
        }
    }

    /// None for a name that would be none: a cluster and a domain too long for DNS together.
    fn hello(&self, domain: &Domain, cluster: &ClusterName) -> Option<Vec<u8>> {
        let cluster = cluster.clone();
        let name = server_name::server_name(&Target::Gateway { cluster }, domain).ok()?;
        tls::hello(&self.tls, name).ok()
    }
}

/// Connects, which is one round trip, asks, and listens.
async fn ask(address: &str, hello: &[u8], clock: &SharedClock) -> Result<Duration, Why> {
    let by = clock.now() + DEADLINE;
    let found = timeout_at(by, connect(address, clock)).await;
    let (mut stream, round_trip) = found.unwrap_or(Err(Why::NoConnection))?;
    let mut answer = Vec::with_capacity(ALERT_BYTES);
    let exchange = async {
        stream.write_all(hello).await?;
        let mut bounded = (&mut stream).take(ALERT_BYTES as u64);
        bounded.read_to_end(&mut answer).await
    };
    match timeout_at(by, exchange).await {
        Err(_elapsed) => Err(Why::Silent),
        // A reset after some bytes leaves those to be judged.
        Ok(_ended) => judge(&answer).map(|()| round_trip),
    }
}

async fn connect(address: &str, clock: &SharedClock) -> Result<(TcpStream, Duration), Why> {
    let ips = lookup_host(address).await.map_err(|_| Why::Name)?;
    let ips: Vec<SocketAddr> = ips.take(MAX_IPS).collect();
    let mut why = Why::Name;
    for ip in ips {
        let begun = clock.now();
        match TcpStream::connect(ip).await {
            Ok(stream) => {
                let round_trip = clock.now().saturating_duration_since(begun);
                return Ok((stream, round_trip));
            }
            Err(error) => why = unconnected(&error),
        }
    }
    Err(why)
}

fn unconnected(error: &io::Error) -> Why {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Why::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Why::Closed,
        io::ErrorKind::TimedOut => Why::NoConnection,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Why::NoRoute,
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory => Why::Unasked,
        _ if is_own(error) => Why::Unasked,
        _ => Why::NoRoute,
    }
}

/// Out of descriptors or buffers, here.
fn is_own(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}
