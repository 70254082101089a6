//! The lines between the stores of a measured federation: each message takes the stated time there, and its answer the same
//! back, over connections that are open already. Owns who is up and the count of what was sent. Nothing is lost or
//! overtaken here, and a line is never full.

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, de::IgnoredAny};
use tokio::time::{sleep, timeout};
use tradewind_api::{ClusterName, NodeId};

use crate::{HandleError, PeerError, PeerTransport, Store, codec, peer::Call, types::LogId};

/// Regions of the federation.
pub(super) const REGIONS: usize = 3;
/// One way between two regions: round trips of 2 ms inside, and of 30, 70 and 150 ms, as inside a continent, over one
/// ocean, and from Europe to East Asia.
const ONE_WAY_MS: [[u64; REGIONS]; REGIONS] = [[1, 15, 75], [15, 1, 35], [75, 35, 1]];

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Brings entries.
    Entries,
    /// Says only how far the log is committed, which is news.
    Commit,
    /// Says nothing new.
    Heartbeat,
    /// A write, or a question, to the leader.
    Proposal,
    /// Whatever belongs to elections and to those who trail far.
    Other,
}

/// Calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) calls: u64,
    /// Of requests and answers, as the store hands them over.
    pub(super) bytes: u64,
}

/// All that was sent.
pub(super) type Tally = BTreeMap<Kind, Count>;

/// What happened between two tallies.
pub(super) fn between(before: &Tally, after: &Tally) -> Tally {
    let less = |(kind, now): (&Kind, &Count)| {
        let then = before.get(kind).copied().unwrap_or_default();
        let count = Count {
            calls: now.calls - then.calls,
            bytes: now.bytes - then.bytes,
        };
        (*kind, count)
    };
    after.iter().map(less).collect()
}

/// As much of a message as tells its kind.
#[derive(Deserialize)]
struct Glance {
    entries: Vec<IgnoredAny>,
    leader_commit: Option<LogId>,
}

#[derive(Debug, Default)]
struct Inner {
    stores: BTreeMap<NodeId, Store>,
    tally: Tally,
    /// How far each node was told that the log is committed.
    told: BTreeMap<NodeId, Option<LogId>>,
}

/// What joins the stores.
#[derive(Debug)]
pub(super) struct Hub {
    regions: BTreeMap<ClusterName, usize>,
    inner: Mutex<Inner>,
}

impl Hub {
    pub(super) fn new(regions: BTreeMap<ClusterName, usize>) -> Self {
        Self {
            regions,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_up(&self, node: NodeId, store: Store) {
        self.lock().stores.insert(node, store);
    }

    pub(super) fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    /// Lets go of the stores, which hold this hub.
    pub(super) fn close(&self) {
        let stores = std::mem::take(&mut self.lock().stores);
        drop(stores);
    }

    fn one_way(&self, a: &ClusterName, b: &ClusterName) -> Duration {
        let region = |cluster| self.regions.get(cluster).copied().unwrap_or_default();
        let row = ONE_WAY_MS.get(region(a));
        let ms = row.and_then(|row| row.get(region(b)));
        Duration::from_millis(ms.copied().unwrap_or_default())
    }

    /// What the entries' message `payload` to node `to` is for.
    fn kind(&self, to: NodeId, payload: &[u8]) -> Kind {
        let Ok(glance) = codec::decode::<Glance>(payload, "entries") else {
            return Kind::Other;
        };
        let told = self.lock().told.insert(to, glance.leader_commit).flatten();
        if !glance.entries.is_empty() {
            Kind::Entries
        } else if glance.leader_commit > told {
            Kind::Commit
        } else {
            Kind::Heartbeat
        }
    }

    fn count(&self, kind: Kind, calls: u64, bytes: usize) {
        let mut inner = self.lock();
        let count = inner.tally.entry(kind).or_default();
        count.calls += calls;
        count.bytes += bytes as u64;
    }
}

/// One node's way out.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) hub: Arc<Hub>,
    pub(super) own: ClusterName,
}

/// A message on its way.
struct Parcel<'a> {
    kind: Kind,
    to: NodeId,
    cluster: &'a ClusterName,
    bytes: usize,
    deadline: Duration,
}

impl Line {
    async fn carry<F>(
        &self,
        parcel: Parcel<'_>,
        handle: impl FnOnce(Store) -> F + Send,
    ) -> Result<Vec<u8>, PeerError>
    where
        F: Future<Output = Result<Vec<u8>, HandleError>> + Send,
    {
        let cluster = parcel.cluster.clone();
        let store = self.hub.lock().stores.get(&parcel.to).cloned();
        let Some(store) = store else {
            let cause = "it is not up yet".to_owned();
            return Err(PeerError::Unreachable { cluster, cause });
        };
        self.hub.count(parcel.kind, 1, parcel.bytes);
        let way = self.hub.one_way(&self.own, &cluster);
        let there_and_back = async {
            sleep(way).await;
            let answer = handle(store).await;
            sleep(way).await;
            answer
        };
        match timeout(parcel.deadline, there_and_back).await {
            Ok(Ok(answer)) => {
                self.hub.count(parcel.kind, 0, answer.len());
                Ok(answer)
            }
            Ok(Err(error)) => Err(PeerError::Refused {
                cluster,
                cause: error.to_string(),
            }),
            Err(_elapsed) => Err(PeerError::NoAnswer {
                cluster,
                cause: "no answer in time".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl PeerTransport for Line {
    async fn call(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        call: Call,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let kind = match call {
            Call::Append => self.hub.kind(to, &payload),
            Call::Vote | Call::PreVote => Kind::Other,
            Call::Propose => Kind::Proposal,
        };
        let parcel = Parcel {
            kind,
            to,
            cluster,
            bytes: payload.len(),
            deadline,
        };
        let own = self.own.clone();
        let handle = |store: Store| async move { store.handle(call, &own, payload).await };
        self.carry(parcel, handle).await
    }

    async fn install_snapshot(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        header: Vec<u8>,
        file: &Path,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let size = std::fs::metadata(file).map_or(0, |meta| meta.len());
        let parcel = Parcel {
            kind: Kind::Other,
            to,
            cluster,
            bytes: header.len() + usize::try_from(size).unwrap_or(usize::MAX),
            deadline,
        };
        let file = file.to_owned();
        let handle =
            |store: Store| async move { store.handle_install_snapshot(header, file).await };
        self.carry(parcel, handle).await
    }
}
