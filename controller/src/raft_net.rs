//! Controllers among each other: the store's transport over tonic, through a gateway of the other cluster, or at its own
//! address for another controller of the same cluster.
//!
//! Owns one channel for each other cluster, one for each controller that is meant by its node, and what is known of where
//! they are. It knows addresses and certificates and nothing of Raft: payloads are the store's own frames.

mod dial;
mod nodes;
mod ping;
mod service;
mod stream;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::{io::AsyncReadExt as _, sync::watch};
use tonic::{Code, Request, Status, transport::Channel};
use tradewind_api::{
    ClusterName, Domain, NodeId,
    proto::v1::{
        ProposeRequest, RaftMessage, SnapshotChunk, federation_client::FederationClient,
        raft_client::RaftClient,
    },
};
use tradewind_federation::{Catalog, PeerError, PeerTransport, peer::Call};
use tradewind_transport::{server_name::Target, svid::SvidCell, trust::TrustCell};

use crate::datadir::KnownCluster;

pub use dial::{DialError, DialStep, GatewayFailure};
pub(crate) use dial::{endpoint, within};
pub use nodes::{Siblings, siblings_in};
pub use ping::{Answer, Layer, Unreached};
pub(crate) use ping::{read as read_vitals, vitals};
pub use service::RaftService;
pub(crate) use service::handle_status;
pub use stream::{PeerStream, Streams};

/// Bytes of a snapshot in one message: large enough to amortise a frame, small enough to share a connection with heartbeats.
const CHUNK_BYTES: usize = 256 << 10;
/// Largest snapshot sent or taken: a catalog at all its bounds stays below.
pub const MAX_SNAPSHOT_BYTES: u64 = 512 << 20;
/// Largest message: a store frame (just below 4 MiB) with its envelope.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Chunks read ahead of the wire.
const CHUNKS_AHEAD: usize = 4;

/// Where the other clusters are.
pub type Known = BTreeMap<ClusterName, KnownCluster>;

/// What the catalog says of where the other members are.
pub fn known_in(catalog: &Catalog, own: &ClusterName) -> Known {
    catalog
        .members()
        .filter(|c| &c.name != own)
        .map(|c| {
            let known = KnownCluster {
                gateways: c.gateways.clone(),
                nodes: c.nodes.clone(),
                by_node: told_apart(catalog, &c.name),
            };
            (c.name.clone(), known)
        })
        .collect()
}

/// The controllers of a cluster that has several and said where each is.
pub(crate) fn told_apart(catalog: &Catalog, cluster: &ClusterName) -> BTreeSet<NodeId> {
    let record = catalog.controllers_of(cluster);
    let nodes = record.map(|r| r.nodes.keys().copied().collect::<BTreeSet<_>>());
    nodes.filter(|n| n.len() > 1).unwrap_or_default()
}

/// The other clusters' controllers, as this one reaches them. Clones share the channels.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    own: ClusterName,
    node_id: NodeId,
    domain: Domain,
    svid: SvidCell,
    trust: TrustCell,
    known: ArcSwap<Known>,
    channels: Mutex<HashMap<ClusterName, Channel>>,
    siblings: ArcSwap<Siblings>,
    nodes: Mutex<HashMap<(ClusterName, NodeId), Channel>>,
    streams: watch::Sender<Arc<Streams>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers")
            .field("own", &self.0.own)
            .finish_non_exhaustive()
    }
}

impl Peers {
    /// For the controller `node_id` of `own`, which starts from what it knew last.
    pub fn new(
        own: ClusterName,
        node_id: NodeId,
        domain: Domain,
        svid: SvidCell,
        trust: TrustCell,
        known: Known,
    ) -> Self {
        let streams = known.keys().map(|c| (c.clone(), PeerStream::default()));
        let streams = watch::Sender::new(Arc::new(streams.collect()));
        Self(Arc::new(Inner {
            own,
            node_id,
            domain,
            svid,
            trust,
            known: ArcSwap::from_pointee(known),
            channels: Mutex::default(),
            siblings: ArcSwap::default(),
            nodes: Mutex::default(),
            streams,
        }))
    }

    /// Replaces what is known. Channels to clusters that are no longer members end.
    pub fn know(&self, known: Known) {
        let mut channels = self
            .0
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        channels.retain(|cluster, _| known.contains_key(cluster));
        self.forget_nodes(&known, &self.0.siblings.load());
        stream::keep(&self.0.streams, &known);
        self.0.known.store(Arc::new(known));
    }

    /// What is known.
    pub fn known(&self) -> Arc<Known> {
        self.0.known.load_full()
    }

    /// The connection to each known cluster's controller, as it comes up and falls.
    pub fn streams(&self) -> watch::Receiver<Arc<Streams>> {
        self.0.streams.subscribe()
    }

    /// The channel to a cluster's controller. It connects when it is used, and again whenever it broke.
    pub fn channel(&self, cluster: &ClusterName) -> Result<Channel, PeerError> {
        let unreachable = |cause: &str| PeerError::Unreachable {
            cluster: cluster.clone(),
            cause: cause.to_owned(),
        };
        if cluster == &self.0.own {
            return Err(unreachable("it is this controller's own cluster"));
        }
        if !self.0.known.load().contains_key(cluster) {
            return Err(unreachable("it is not known to be a member"));
        }
        let mut channels = self
            .0
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(cluster) {
            return Ok(channel.clone());
        }
        let (this, to) = (Arc::clone(&self.0), cluster.clone());
        let turn = Arc::new(AtomicUsize::new(0));
        let channel = dial::lazy_channel(move || {
            let (this, to, turn) = (Arc::clone(&this), to.clone(), Arc::clone(&turn));
            async move {
                let gateways = this
                    .known
                    .load()
                    .get(&to)
                    .map(|k| k.gateways.clone())
                    .unwrap_or_default();
                // Start with the gateway that worked last; whoever fails hands the turn on.
                let start = turn.load(Ordering::Relaxed);
                let config = dial::controller_config(&this.svid, &this.trust, &to, &this.domain);
                let target = Target::Controller {
                    cluster: to.clone(),
                };
                let (stream, used) =
                    dial::any_gateway(&gateways, start, &target, &this.domain, config).await?;
                turn.store(used, Ordering::Relaxed);
                let gateway = gateways.get(used).cloned().unwrap_or_default();
                Ok(stream::Watched::new(&this.streams, to, gateway, stream))
            }
        });
        channels.insert(cluster.clone(), channel.clone());
        Ok(channel)
    }

    /// The federation service of a cluster's controller.
    pub fn federation(
        &self,
        cluster: &ClusterName,
    ) -> Result<FederationClient<Channel>, PeerError> {
        Ok(federation_client(self.channel(cluster)?))
    }

    fn raft(&self, to: NodeId, cluster: &ClusterName) -> Result<RaftClient<Channel>, PeerError> {
        Ok(RaftClient::new(self.channel_of(to, cluster)?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    fn message(&self, to: NodeId, payload: Vec<u8>, deadline: Duration) -> Request<RaftMessage> {
        let mut request = Request::new(RaftMessage {
            from: self.0.node_id,
            to,
            payload,
        });
        request.set_timeout(deadline);
        request
    }
}

fn federation_client(channel: Channel) -> FederationClient<Channel> {
    FederationClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Runs a call within its deadline and sorts what can go wrong by whether the request may have arrived.
pub async fn bounded<T>(
    cluster: &ClusterName,
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, PeerError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(sort(cluster, &status)),
        Err(_) => Err(PeerError::NoAnswer {
            cluster: cluster.clone(),
            cause: format!("nothing within {} ms", deadline.as_millis()),
        }),
    }
}

fn sort(cluster: &ClusterName, status: &Status) -> PeerError {
    let cluster = cluster.clone();
    if let Some(dial) = dial::dial_error(status) {
        return PeerError::Unreachable {
            cluster,
            cause: dial.to_string(),
        };
    }
    let cause = status.message().to_owned();
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal => PeerError::NoAnswer { cluster, cause },
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => PeerError::Refused { cluster, cause },
    }
}

impl Peers {
    /// A proposal goes to the node that leads, or to whoever runs the cluster where that node is not known.
    async fn propose(
        &self,
        (to, cluster): (NodeId, &ClusterName),
        command: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let mut client = federation_client(self.channel_of(to, cluster)?);
        let mut request = Request::new(ProposeRequest { command });
        request.set_timeout(deadline);
        let answer = bounded(cluster, deadline, client.propose(request)).await?;
        Ok(answer.outcome)
    }
}

#[async_trait]
impl PeerTransport for Peers {
    async fn call(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        call: Call,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let mut client = self.raft(to, cluster)?;
        let message = |payload| self.message(to, payload, deadline);
        let answer = match call {
            Call::Append => {
                bounded(cluster, deadline, client.append_entries(message(payload))).await
            }
            Call::Vote => bounded(cluster, deadline, client.vote(message(payload))).await,
            Call::PreVote => bounded(cluster, deadline, client.pre_vote(message(payload))).await,
            Call::Propose => return self.propose((to, cluster), payload, deadline).await,
        };
        answer.map(|m| m.payload)
    }

    async fn install_snapshot(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        header: Vec<u8>,
        file: &Path,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let mut client = self.raft(to, cluster)?;
        let unread = |error: std::io::Error| PeerError::Unreachable {
            cluster: cluster.clone(),
            cause: format!("the snapshot {} cannot be read: {error}", file.display()),
        };
        let opened = tokio::fs::File::open(file).await.map_err(unread)?;
        let total_bytes = opened.metadata().await.map_err(unread)?.len();
        if total_bytes > MAX_SNAPSHOT_BYTES {
            let cause = format!(
                "the snapshot has {total_bytes} bytes, at most {MAX_SNAPSHOT_BYTES} are sent"
            );
            return Err(PeerError::Refused {
                cluster: cluster.clone(),
                cause,
            });
        }
        let first = SnapshotChunk {
            from: self.0.node_id,
            to,
            header,
            data: Vec::new(),
            total_bytes,
        };
        let (chunks, outgoing) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        // A read that fails ends the stream short of its announced length, which the receiver refuses.
        let read = async move {
            let mut opened = opened;
            let mut next = Some(first);
            while let Some(chunk) = next.take() {
                if chunks.send(chunk).await.is_err() {
                    return;
                }
                let mut data = vec![0; CHUNK_BYTES];
                let Ok(read @ 1..) = opened.read(&mut data).await else {
                    return;
                };
                data.truncate(read);
                next = Some(SnapshotChunk {
                    data,
                    ..SnapshotChunk::default()
                });
            }
        };
        let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(outgoing));
        request.set_timeout(deadline);
        let both = async { tokio::join!(read, client.install_snapshot(request)).1 };
        bounded(cluster, deadline, both).await.map(|m| m.payload)
    }
}

/// The transport of a store that has nobody to talk to: a federation being founded.
#[derive(Clone, Copy, Debug)]
pub struct NoPeers;

impl NoPeers {
    fn refuse(cluster: &ClusterName) -> Result<Vec<u8>, PeerError> {
        Err(PeerError::Unreachable {
            cluster: cluster.clone(),
            cause: "the federation is being founded".into(),
        })
    }
}

#[async_trait]
impl PeerTransport for NoPeers {
    async fn call(
        &self,
        _: NodeId,
        c: &ClusterName,
        _: Call,
        _: Vec<u8>,
        _: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        Self::refuse(c)
    }

    async fn install_snapshot(
        &self,
        _: NodeId,
        c: &ClusterName,
        _: Vec<u8>,
        _: &Path,
        _: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        Self::refuse(c)
    }
}
