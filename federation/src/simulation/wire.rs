//! Calls between stores over the simulated network: one TCP connection a call, request and answer as length-prefixed
//! frames. Like the controller's transport it believes only members, and answers only for the node that was meant.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};
use tradewind_api::{ClusterName, NodeId};
use tradewind_runtime::TaskSet;
use turmoil::net::{TcpListener, TcpStream};

use super::{
    trust::{Introduced, Trust},
    world::{Seat, Shared},
};
use crate::{HandleError, PeerError, PeerTransport, Store, peer};

/// Where every simulated node listens; inside the simulation only.
const PORT: u16 = 15_012;
/// The longest frame read; simulated snapshots are small.
const MAX_FRAME: u32 = 8 * 1024 * 1024;
/// A connection that says nothing for this long is given up by the server.
const SERVE_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Call {
    Append,
    Vote,
    PreVote,
    Snapshot,
    Propose,
    Introduce,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    call: Call,
    from: NodeId,
    to: NodeId,
    caller: ClusterName,
    /// Behind this on the wire.
    #[serde(skip)]
    payload: Vec<u8>,
    /// Behind that.
    #[serde(skip)]
    file: Vec<u8>,
}

impl Request {
    fn encode(&self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let head = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        for part in [&head, &self.payload, &self.file] {
            let length = u32::try_from(part.len()).map_err(|e| e.to_string())?;
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(part);
        }
        Ok(out)
    }

    fn decode(mut frame: &[u8]) -> Result<Self, String> {
        let mut part = || -> Option<&[u8]> {
            let (length, rest) = frame.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (part, rest) = rest.split_at_checked(length)?;
            frame = rest;
            Some(part)
        };
        let cut = || "a request that is cut short".to_owned();
        let head = part().ok_or_else(cut)?;
        let payload = part().ok_or_else(cut)?.to_vec();
        let file = part().ok_or_else(cut)?.to_vec();
        let request: Self = serde_json::from_slice(head).map_err(|e| e.to_string())?;
        Ok(Self {
            payload,
            file,
            ..request
        })
    }
}

/// How long one introduction may take, as in the controller.
const INTRODUCE_DEADLINE: Duration = Duration::from_secs(3);
/// The longest silence on a connection. The simulated network never sends again what it lost, where TCP would, or break.
const SILENCE: Duration = Duration::from_secs(6);
/// How often a connection is tried.
const KEEPALIVE: Duration = Duration::from_secs(1);

type Response = Result<Vec<u8>, String>;

/// One node's way out.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) shared: Shared,
    pub(crate) own: ClusterName,
    pub(crate) me: NodeId,
    pub(crate) trust: Trust,
}

impl Wire {
    /// Says to a member that this node is there, and gives whom that member believes.
    pub(crate) async fn introduce(&self, cluster: &ClusterName) -> Option<Introduced> {
        let request = self.request(Call::Introduce, 0, self.own.clone(), Vec::new());
        let answer = self.ask(cluster, request, INTRODUCE_DEADLINE).await;
        serde_json::from_slice(&answer.ok()?).ok()
    }

    async fn ask(
        &self,
        cluster: &ClusterName,
        request: Request,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let (call, to, size) = (request.call, request.to, request.payload.len());
        let sum = crc32c::crc32c(&request.payload);
        self.shared.note(format_args!(
            "{} -> {cluster}: {call:?} to node {to}, {size} bytes, {sum:08x}",
            self.own
        ));
        let mut sent = false;
        let deadline = deadline.min(SILENCE);
        let done = timeout(deadline, self.exchange(cluster, &request, &mut sent)).await;
        let answer = match done {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(cause))) => Err(PeerError::Refused {
                cluster: cluster.clone(),
                cause,
            }),
            Ok(Err(cause)) => Err(self.broken(cluster, sent, cause)),
            Err(_elapsed) => Err(self.broken(cluster, sent, "no answer in time".to_owned())),
        };
        let told = match &answer {
            Ok(frame) => format!("{} bytes, {:08x}", frame.len(), crc32c::crc32c(frame)),
            Err(error) => error.to_string(),
        };
        self.shared
            .note(format_args!("{} <- {cluster}: {call:?}: {told}", self.own));
        answer
    }

    fn broken(&self, cluster: &ClusterName, sent: bool, cause: String) -> PeerError {
        let cluster = cluster.clone();
        if sent {
            PeerError::NoAnswer { cluster, cause }
        } else {
            PeerError::Unreachable { cluster, cause }
        }
    }

    async fn exchange(
        &self,
        cluster: &ClusterName,
        request: &Request,
        sent: &mut bool,
    ) -> Result<Response, String> {
        let own = self.shared.store(&self.own);
        if own.is_some_and(|s| !self.trust.believed(&s.catalog()).contains(cluster)) {
            return Err(format!("{cluster} is no member"));
        }
        let frame = request.encode()?;
        let connected = TcpStream::connect((cluster.as_str(), PORT)).await;
        let mut stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                if self.shared.lock().refusals_hang {
                    // The caller's deadline ends it.
                    std::future::pending::<()>().await;
                }
                return Err(error.to_string());
            }
        };
        *sent = true;
        send(&mut stream, &frame).await?;
        let answer = tokio::select! {
            biased;
            answer = receive(&mut stream) => answer?,
            () = self.restarted(cluster) => return Err("the other side started anew".to_owned()),
        };
        match answer.split_first() {
            Some((0, answer)) => Ok(Ok(answer.to_vec())),
            Some((_, cause)) => Ok(Err(String::from_utf8_lossy(cause).into_owned())),
            None => Err("an empty answer".to_owned()),
        }
    }

    /// Ends when the other side started anew: keepalive finds that out, which the simulated network does not have.
    async fn restarted(&self, cluster: &ClusterName) {
        let boots = || self.shared.place(cluster, |place| place.boots);
        let first = boots();
        while boots() == first {
            sleep(KEEPALIVE).await;
        }
    }

    const fn request(
        &self,
        call: Call,
        to: NodeId,
        caller: ClusterName,
        payload: Vec<u8>,
    ) -> Request {
        Request {
            call,
            from: self.me,
            to,
            caller,
            payload,
            file: Vec::new(),
        }
    }
}

async fn send(stream: &mut TcpStream, frame: &[u8]) -> Result<(), String> {
    let length = u32::try_from(frame.len()).map_err(|e| e.to_string())?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(frame);
    stream.write_all(&whole).await.map_err(|e| e.to_string())
}

async fn receive(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let length = stream.read_u32().await.map_err(|e| e.to_string())?;
    if length > MAX_FRAME {
        return Err(format!("a frame of {length} bytes"));
    }
    let mut frame = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = stream.read_exact(&mut frame).await;
    read.map_err(|e| e.to_string())?;
    Ok(frame)
}

#[async_trait]
impl PeerTransport for Wire {
    async fn call(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        call: peer::Call,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let call = match call {
            peer::Call::Append => Call::Append,
            peer::Call::Vote => Call::Vote,
            peer::Call::PreVote => Call::PreVote,
            peer::Call::Propose => Call::Propose,
        };
        let request = self.request(call, to, self.own.clone(), payload);
        self.ask(cluster, request, deadline).await
    }

    async fn install_snapshot(
        &self,
        to: NodeId,
        cluster: &ClusterName,
        header: Vec<u8>,
        file: &Path,
        deadline: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        let file = std::fs::read(file).map_err(|e| self.broken(cluster, false, e.to_string()))?;
        let request = self.request(Call::Snapshot, to, self.own.clone(), header);
        let request = Request { file, ..request };
        self.ask(cluster, request, deadline).await
    }
}

/// Answers calls until it is dropped.
pub(crate) async fn serve(shared: Shared, seat: Seat, store: Store, trust: Trust) {
    let listener = match TcpListener::bind(("0.0.0.0", PORT)).await {
        Ok(listener) => listener,
        Err(error) => return shared.fail(format!("a simulated node cannot listen: {error}")),
    };
    let mut calls = TaskSet::new();
    let mut number = 0_u64;
    while let Ok((stream, _)) = listener.accept().await {
        number += 1;
        let spool = seat.dir.join(format!("incoming-{number}"));
        let node = Node {
            id: seat.node_id,
            store: store.clone(),
            trust: trust.clone(),
        };
        let serving = answer(stream, node, spool);
        calls.spawn("sim-call", async move {
            drop(timeout(SERVE_DEADLINE, serving).await);
        });
    }
}

/// Who answers.
struct Node {
    id: NodeId,
    store: Store,
    trust: Trust,
}

impl Node {
    /// Why a request is not handled at all.
    fn refusal(&self, request: &Request) -> Option<String> {
        let catalog = self.store.catalog();
        let (to, from, caller) = (request.to, request.from, &request.caller);
        // An introduction is for whoever runs the cluster.
        if to != self.id && request.call != Call::Introduce {
            return Some(format!("this is node {}, not node {to}", self.id));
        }
        if !self.trust.believed(&catalog).contains(caller) {
            return Some(format!("{caller} is no member"));
        }
        // Who proposes is no node. One that this catalog does not know yet may be newer than the catalog.
        let owner = catalog.cluster_of(from).filter(|owner| *owner != caller);
        let owner = owner.filter(|_| request.call != Call::Propose);
        owner.map(|owner| format!("node {from} belongs to cluster {owner}, not to {caller}"))
    }
}

async fn answer(
    mut stream: TcpStream,
    node: Node,
    spool: std::path::PathBuf,
) -> Result<(), String> {
    let frame = receive(&mut stream).await?;
    let request = Request::decode(&frame)?;
    let response = match node.refusal(&request) {
        Some(refusal) => Err(refusal),
        None => handle(&node.store, request, &spool).await,
    };
    let (tag, body) = match response {
        Ok(answer) => (0, answer),
        Err(cause) => (1, cause.into_bytes()),
    };
    let mut frame = vec![tag];
    frame.extend_from_slice(&body);
    send(&mut stream, &frame).await?;
    // Kept open until the other side has read: what is unread when a socket closes is lost.
    let closing = async { drop(stream.read_u8().await) };
    drop(timeout(Duration::from_millis(500), closing).await);
    Ok(())
}

async fn introduce(store: &Store, request: &Request) -> Result<Vec<u8>, String> {
    let catalog = store.catalog();
    // It is told whom to believe also where the leader cannot be told of it.
    drop(store.introduce(request.from, &request.caller).await);
    let unknown = || "this node knows nothing itself yet".to_owned();
    let told = Introduced::by(&catalog).ok_or_else(unknown)?;
    serde_json::to_vec(&told).map_err(|e| e.to_string())
}

async fn handle(store: &Store, request: Request, spool: &Path) -> Result<Vec<u8>, String> {
    let handled = match request.call {
        Call::Append => store.handle_append(request.payload).await,
        Call::Vote => store.handle_vote(request.payload).await,
        Call::PreVote => store.handle_pre_vote(request.payload).await,
        Call::Propose => store.handle_propose(&request.caller, request.payload).await,
        Call::Snapshot => install(store, request, spool).await,
        Call::Introduce => return introduce(store, &request).await,
    };
    handled.map_err(|e| e.to_string())
}

async fn install(store: &Store, request: Request, spool: &Path) -> Result<Vec<u8>, HandleError> {
    std::fs::write(spool, &request.file)?;
    // As a disk would: the crash may come before it is installed.
    sleep(Duration::from_millis(1)).await;
    let installed = store.handle_install_snapshot(request.payload, spool.to_owned());
    let installed = installed.await;
    std::fs::remove_file(spool)?;
    installed
}
