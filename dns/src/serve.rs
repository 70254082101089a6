//! The sockets: UDP and TCP. What the snapshot answers is answered on the spot; only forwarded questions take a task,
//! and their number is bounded. A peer can cost a connection's place for a few seconds and no more.

use std::{sync::Arc, time::Duration};

use hickory_proto::op::{Message, ResponseCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time,
};
use tradewind_api::snapshot::Snapshot;
use tradewind_runtime::{drain, listen, rng::Rng, task::TaskSet};

use crate::{
    forward::Forwarder,
    metrics::{DnsMetrics, Dropped, Over},
    respond::{Outcome, Triage, encode, triage, udp_limit},
};

/// Forwarded questions under way at once: about 4 KiB each, and upstreams answer in milliseconds or not at all.
const MAX_FORWARDS: usize = 1024;
/// TCP connections at once: most questions come by UDP.
const MAX_CONNECTIONS: usize = 256;
/// How long a TCP connection may stay silent, or take to send one question or take its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest UDP question read; a question has one name, so more is no question.
const MAX_QUESTION: usize = 4096;

/// What all sockets share.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub forwarder: Forwarder,
    pub metrics: DnsMetrics,
    pub forwards: Arc<Semaphore>,
}

impl Serving {
    pub(crate) fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        forwarder: Forwarder,
        metrics: DnsMetrics,
    ) -> Self {
        Self {
            snapshot,
            forwarder,
            metrics,
            forwards: Arc::new(Semaphore::new(MAX_FORWARDS)),
        }
    }

    fn triage(&self, bytes: &[u8]) -> Triage {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        triage(bytes, &snapshot)
    }
}

fn too_many(mut response: Message) -> Message {
    response.metadata.response_code = ResponseCode::ServFail;
    response
}

/// Answers on a UDP socket until the drain begins; questions under way are answered.
pub(crate) async fn udp(socket: UdpSocket, serving: Serving, mut drain: drain::Watch) {
    let socket = Arc::new(socket);
    let mut tasks = TaskSet::new();
    let mut buffer = vec![0u8; MAX_QUESTION];
    loop {
        let received = tokio::select! {
            biased;
            () = drain.triggered() => break,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, peer) = match received {
            Ok(received) => received,
            Err(error) => {
                // An earlier answer bounced; the socket itself is well.
                tracing::trace!(%error, "receiving a DNS question failed");
                continue;
            }
        };
        // Port 0 cannot be answered, and the well-known echo ports would make a loop.
        if matches!(peer.port(), 0 | 7 | 19) {
            serving.metrics.dropped(Dropped::NoQuestion);
            continue;
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        let limit = udp_limit(bytes);
        let (response, outcome) = match serving.triage(bytes) {
            Triage::Drop => {
                serving.metrics.dropped(Dropped::NoQuestion);
                continue;
            }
            Triage::Reply(response, outcome) => (*response, outcome),
            Triage::Forward(query, mut response) => {
                if let Ok(place) = Arc::clone(&serving.forwards).try_acquire_owned() {
                    let (serving, socket) = (serving.clone(), Arc::clone(&socket));
                    tasks.spawn("forward", async move {
                        let outcome = serving.forwarder.complete(&query, &mut response).await;
                        serving.metrics.query(Over::Udp, outcome);
                        send(&socket, peer, &response, limit, &serving.metrics).await;
                        drop(place);
                    });
                    continue;
                }
                (too_many(*response), Outcome::TooMany)
            }
        };
        serving.metrics.query(Over::Udp, outcome);
        send(&socket, peer, &response, limit, &serving.metrics).await;
    }
    if drain.until_forced(tasks.join_all()).await.is_none() {
        tasks.abort_all().await;
    }
}

async fn send(
    socket: &UdpSocket,
    peer: std::net::SocketAddr,
    response: &Message,
    limit: u16,
    metrics: &DnsMetrics,
) {
    let sent = match encode(response, limit) {
        Some(bytes) => socket.send_to(&bytes, peer).await.is_ok(),
        None => false,
    };
    if !sent {
        metrics.dropped(Dropped::NotSent);
    }
}

/// Answers on a TCP listener until the drain begins; connections under way finish the question they are at.
pub(crate) async fn tcp(
    listener: TcpListener,
    serving: Serving,
    mut rng: Rng,
    mut drain: drain::Watch,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = TaskSet::new();
    loop {
        let (stream, _peer) = tokio::select! {
            biased;
            () = drain.triggered() => break,
            accepted = listen::accept(&listener, &mut rng) => accepted,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            serving.metrics.dropped(Dropped::TooMany);
            continue;
        };
        let (serving, drain) = (serving.clone(), drain.observer());
        tasks.spawn("dns connection", async move {
            if connection(stream, &serving, drain).await.is_err() {
                serving.metrics.dropped(Dropped::BadConnection);
            }
            drop(place);
        });
    }
    drop(listener);
    if drain.until_forced(tasks.join_all()).await.is_none() {
        tasks.abort_all().await;
    }
}

/// One question after the other, each with a length of two bytes before it.
async fn connection(
    mut stream: TcpStream,
    serving: &Serving,
    mut drain: drain::Observer,
) -> std::io::Result<()> {
    loop {
        let bytes = tokio::select! {
            biased;
            () = drain.triggered() => return Ok(()),
            read = time::timeout(CONNECTION_TIMEOUT, question(&mut stream)) => match read {
                // A client may keep a connection open as long as it has something to ask.
                Err(_) | Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(bytes))) => bytes,
                Ok(Err(error)) => return Err(error),
            },
        };
        let (response, outcome) = match serving.triage(&bytes) {
            Triage::Drop => return Err(std::io::ErrorKind::InvalidData.into()),
            Triage::Reply(response, outcome) => (*response, outcome),
            Triage::Forward(query, mut response) => match serving.forwards.try_acquire() {
                Ok(_place) => {
                    let outcome = serving.forwarder.complete(&query, &mut response).await;
                    (*response, outcome)
                }
                Err(_) => (too_many(*response), Outcome::TooMany),
            },
        };
        serving.metrics.query(Over::Tcp, outcome);
        let Some(bytes) = encode(&response, u16::MAX) else {
            return Err(std::io::ErrorKind::InvalidData.into());
        };
        let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
        let write = async {
            let mut framed = Vec::with_capacity(bytes.len() + 2);
            framed.extend_from_slice(&length.to_be_bytes());
            framed.extend_from_slice(&bytes);
            stream.write_all(&framed).await
        };
        time::timeout(CONNECTION_TIMEOUT, write).await??;
    }
}

/// The next question; none when the client closed between two.
async fn question(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0u8; 2];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let mut bytes = vec![0u8; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}
