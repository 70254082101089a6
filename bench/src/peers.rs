//! The store's calls between nodes over plain gRPC on loopback, as the controllers carry them but without gateways and
//! TLS: etcd is measured without TLS, too. Owns one channel for each other node; knows nothing of Raft.

use std::{
    collections::BTreeMap, error::Error as _, io, path::Path, sync::OnceLock, time::Duration,
};

use async_trait::async_trait;
use tokio::io::AsyncReadExt as _;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tradewind_api::{ClusterName, NodeId};
use tradewind_federation::{PeerError, PeerTransport, peer::Call};

use crate::proto::tradewind::bench::v1::{Frame, node_client::NodeClient};

/// Largest message: a store frame (just below 4 MiB) with its envelope.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Bytes of a snapshot in one message, as the controllers send it.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the wire.
const CHUNKS_AHEAD: usize = 4;

/// The other nodes, as this one reaches them.
#[derive(Debug)]
pub(crate) struct Peers {
    own: ClusterName,
    nodes: BTreeMap<NodeId, Node>,
}

#[derive(Debug)]
struct Node {
    endpoint: Endpoint,
    /// Made by the first call, so that the connection lives where the store's tasks do.
    client: OnceLock<NodeClient<Channel>>,
}

impl Node {
    fn client(&self) -> NodeClient<Channel> {
        let made = self.client.get_or_init(|| {
            NodeClient::new(self.endpoint.connect_lazy())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        });
        made.clone()
    }
}

impl Peers {
    /// Channels that connect when they are used.
    pub(crate) fn new(
        own: ClusterName,
        addresses: &BTreeMap<NodeId, String>,
    ) -> Result<Self, String> {
        let mut nodes = BTreeMap::new();
        for (id, address) in addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .map_err(|e| format!("{address} is no address: {e}"))?;
            let client = OnceLock::new();
            nodes.insert(*id, Node { endpoint, client });
        }
        Ok(Self { own, nodes })
    }

    fn client(&self, to: NodeId, cluster: &ClusterName) -> Result<NodeClient<Channel>, PeerError> {
        self.nodes
            .get(&to)
            .map(Node::client)
            .ok_or_else(|| PeerError::Unreachable {
                cluster: cluster.clone(),
                cause: format!("node {to} has no address"),
            })
    }

    fn frame(&self, payload: Vec<u8>) -> Request<Frame> {
        Request::new(Frame {
            cluster: self.own.to_string(),
            payload,
        })
    }
}

async fn bounded(
    cluster: &ClusterName,
    deadline: Duration,
    call: impl Future<Output = Result<Response<Frame>, Status>>,
) -> Result<Vec<u8>, PeerError> {
    let cluster = cluster.clone();
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner().payload),
        Ok(Err(status)) => {
            let cause = status.to_string();
            Err(if was_refused(&status) {
                PeerError::Unreachable { cluster, cause }
            } else {
                PeerError::NoAnswer { cluster, cause }
            })
        }
        Err(_elapsed) => Err(PeerError::NoAnswer {
            cluster,
            cause: "nothing in time".to_owned(),
        }),
    }
}

/// Whether nobody listened there, so that the request was certainly not delivered.
fn was_refused(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
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
        let mut client = self.client(to, cluster)?;
        let frame = self.frame(payload);
        match call {
            Call::Append => bounded(cluster, deadline, client.append(frame)).await,
            Call::Vote => bounded(cluster, deadline, client.vote(frame)).await,
            Call::PreVote => bounded(cluster, deadline, client.pre_vote(frame)).await,
            Call::Propose => bounded(cluster, deadline, client.propose(frame)).await,
        }
    }

    async fn install_snapshot(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        header: Vec<u8>,
        file: &Path,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let mut client = self.client(to, cluster)?;
        let opened = tokio::fs::File::open(file).await;
        let mut opened = opened.map_err(|e| PeerError::Unreachable {
            cluster: cluster.clone(),
            cause: format!("the snapshot {} cannot be read: {e}", file.display()),
        })?;
        let own = self.own.to_string();
        let (chunks, outgoing) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let read = async move {
            let mut payload = header;
            loop {
                let frame = Frame {
                    cluster: own.clone(),
                    payload,
                };
                if chunks.send(frame).await.is_err() {
                    return;
                }
                payload = vec![0; CHUNK_BYTES];
                let Ok(got @ 1..) = opened.read(&mut payload).await else {
                    return;
                };
                payload.truncate(got);
            }
        };
        let stream = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let both = async { tokio::join!(read, client.snapshot(stream)).1 };
        bounded(cluster, deadline, both).await
    }
}
