//! A crowd of connections: each a TLS session of its own with a sealed name, held open and asked things, and moved from one
//! gateway to another as a caller moves. Owns the sessions.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{StreamExt as _, stream};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{sync::watch, task::JoinHandle};

use tradewind_transport::tls::{self, Expect};

use crate::{
    Federation,
    http::Error,
    peer::{self, Session},
    seals::Sealer,
};

/// Handshakes and requests under way at a time: enough to keep two cores busy, far below every bound on half-open ones.
const AT_ONCE: usize = 48;

/// How its members call.
#[derive(Clone, Debug)]
pub struct Calls {
    /// Their certificate and whom they believe.
    pub config: Arc<ClientConfig>,
    /// The sealed name.
    pub name: ServerName<'static>,
    /// What the name is for, as `namespace/name:port`.
    pub service: &'static str,
}

impl Calls {
    /// As a workload of one cluster's calls another's service, with a certificate and a seal of its own.
    pub async fn between(
        federation: &Federation,
        [from, to]: [usize; 2],
        service: &'static str,
    ) -> Self {
        let [own, other] = [from, to].map(|n| peer::authority(&federation.clusters[n].data_dir));
        let member = peer::certificate(&own, "/ns/shop/sa/web");
        let trust = peer::trust(&[&own, &other]);
        let sealer = Sealer::of(federation, from).await;
        Self {
            config: tls::client_config(&member, &trust, Expect::AnyMember),
            name: sealer.name(&federation.clusters[to].name, service),
            service,
        }
    }

    /// A session through a gateway, over which one request was answered.
    pub async fn open(&self, gateway: SocketAddr) -> Result<Session, Error> {
        let config = Arc::clone(&self.config);
        let session = peer::dial(gateway, config, self.name.clone()).await?;
        self.ask(&session).await?;
        Ok(session)
    }

    async fn ask(&self, session: &Session) -> Result<(), Error> {
        match session.get(self.service).await? {
            (200, _) => Ok(()),
            (status, text) => Err(format!("{status} {text}")),
        }
    }
}

type Members = Arc<Mutex<Vec<(SocketAddr, Session)>>>;

/// See the module.
#[derive(Debug)]
pub struct Crowd {
    calls: Calls,
    members: Members,
}

impl Crowd {
    /// So many connections, in turn to each of the gateways; every one has been answered through.
    pub async fn gather(calls: Calls, count: usize, gateways: &[SocketAddr]) -> Self {
        let opened = stream::iter(gateways.iter().copied().cycle().take(count))
            .map(async |gateway| (gateway, calls.open(gateway).await))
            .buffer_unordered(AT_ONCE);
        let members: Vec<_> = opened
            .map(|(gateway, opened)| (gateway, opened.expect("a connection")))
            .collect()
            .await;
        Self {
            calls,
            members: Arc::new(Mutex::new(members)),
        }
    }

    /// How many are held through a gateway.
    pub fn at(&self, gateway: SocketAddr) -> usize {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.iter().filter(|(g, _)| *g == gateway).count()
    }

    /// One request through every connection, all of them good.
    pub async fn ask_all(&self) {
        let count = self.members.lock().expect("no panic").len();
        let asked: Vec<_> = stream::iter(0..count)
            .map(|n| ask_one(&self.calls, &self.members, n))
            .buffer_unordered(AT_ONCE)
            .filter_map(async |asked| asked.err())
            .collect()
            .await;
        none_of(count, &asked);
    }

    /// Goes on asking one after the other, until it is told to end.
    pub fn keep_asking(&self) -> Asking {
        let (stop, stopped) = watch::channel(false);
        let (calls, members) = (self.calls.clone(), Arc::clone(&self.members));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let task = tradewind_runtime::task::spawn("crowd", async move {
            let mut failed = Vec::new();
            let mut at = 0_usize;
            while !*stopped.borrow() {
                let held = members.lock().expect("no panic").len();
                // In strides, so that every gateway's turn comes again and again.
                at = (at + 7) % held.max(1);
                failed.extend(ask_one(&calls, &members, at).await.err());
                count.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
        Asking { stop, asked, task }
    }

    /// Moves every connection of one gateway to the others, in turn, as a caller does that hears that the one is leaving: the
    /// new connection first, and the old one is let go when it has answered once more.
    pub async fn leave(&self, old: SocketAddr, others: &[SocketAddr]) {
        let places: Vec<_> = {
            let members = self.members.lock().expect("no panic");
            let of = |(n, (g, _)): (usize, &(SocketAddr, Session))| (*g == old).then_some(n);
            members.iter().enumerate().filter_map(of).collect()
        };
        let count = places.len();
        let plan = places.into_iter().zip(others.iter().copied().cycle());
        let moved = stream::iter(plan).map(async |(n, new)| {
            let session = self.calls.open(new).await?;
            ask_one(&self.calls, &self.members, n).await?;
            self.members.lock().expect("no panic")[n] = (new, session);
            Ok::<_, Error>(())
        });
        let failed: Vec<_> = moved
            .buffer_unordered(AT_ONCE)
            .filter_map(async |moved| moved.err())
            .collect()
            .await;
        none_of(count, &failed);
    }
}

/// Panics when anything failed, with the first few.
#[track_caller]
fn none_of(count: usize, failed: &[Error]) {
    let shown: Vec<_> = failed.iter().take(5).collect();
    assert!(
        failed.is_empty(),
        "{} of {count} failed: {shown:?}",
        failed.len()
    );
}

async fn ask_one(calls: &Calls, members: &Members, n: usize) -> Result<(), Error> {
    let (gateway, session) = members.lock().expect("no panic")[n].clone();
    let asked = calls.ask(&session).await;
    asked.map_err(|e| format!("connection {n} through {gateway}: {e}"))
}

/// Requests through a crowd, one after the other.
#[derive(Debug)]
pub struct Asking {
    stop: watch::Sender<bool>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<Vec<Error>>,
}

impl Asking {
    /// How many were made so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends them; panics when any failed. How many there were.
    pub async fn none_failed(self) -> usize {
        self.stop.send_replace(true);
        let failed = self.task.await.expect("the requests");
        let asked = self.asked.load(Ordering::Relaxed);
        none_of(asked, &failed);
        asked
    }
}
