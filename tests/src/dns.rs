//! DNS questions over UDP and TCP, and a small server to forward to. Owns the server's task, which ends with the test's
//! runtime.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};
use tradewind_runtime::task;

use crate::http::Error;

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest message by UDP.
const MAX_UDP: usize = 4096;

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// One datagram.
    Udp,
    /// A connection of its own.
    Tcp,
}

/// Asks one question.
pub async fn ask(
    server: SocketAddr,
    over: Over,
    name: &str,
    kind: RecordType,
) -> Result<Message, Error> {
    let asking = task::spawn_blocking(move || Asking::to(server, over));
    let asking = asking.await.map_err(|e| e.to_string())?;
    let asking = asking.map_err(|e| format!("{server}: {e}"))?;
    ask_by(asking, name, kind).await
}

/// A way to a server. It is where it was made: in another network namespace, if that is where its thread was.
#[derive(Debug)]
pub enum Asking {
    /// By datagrams.
    Udp(std::net::UdpSocket),
    /// By a connection.
    Tcp(std::net::TcpStream),
}

impl Asking {
    /// Makes it; blocks while it connects.
    pub fn to(server: SocketAddr, over: Over) -> std::io::Result<Self> {
        match over {
            Over::Udp => {
                let any: IpAddr = match server {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = std::net::UdpSocket::bind((any, 0))?;
                socket.connect(server)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket))
            }
            Over::Tcp => {
                let stream = std::net::TcpStream::connect_timeout(&server, LIMIT)?;
                stream.set_nonblocking(true)?;
                Ok(Self::Tcp(stream))
            }
        }
    }
}

/// Asks one question over a way that is there.
pub async fn ask_by(asking: Asking, name: &str, kind: RecordType) -> Result<Message, Error> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    let parsed = Name::from_ascii(name).map_err(|e| e.to_string())?;
    question.add_query(Query::query(parsed, kind));
    let bytes = question.to_vec().map_err(|e| e.to_string())?;
    let exchange = async {
        match asking {
            Asking::Udp(socket) => by_udp(UdpSocket::from_std(socket)?, &bytes).await,
            Asking::Tcp(stream) => by_tcp(TcpStream::from_std(stream)?, &bytes).await,
        }
    };
    let answered = tokio::time::timeout(LIMIT, exchange).await;
    let answered = answered.map_err(|_| format!("no answer to {name} in {LIMIT:?}"))?;
    let answer = Message::from_vec(&answered.map_err(|e| format!("{name}: {e}"))?);
    let answer = answer.map_err(|e| format!("{name}: {e}"))?;
    if answer.metadata.id != question.metadata.id {
        return Err(format!("{name}: an answer to another question"));
    }
    Ok(answer)
}

async fn by_udp(socket: UdpSocket, question: &[u8]) -> std::io::Result<Vec<u8>> {
    socket.send(question).await?;
    let mut answer = vec![0; MAX_UDP];
    let n = socket.recv(&mut answer).await?;
    answer.truncate(n);
    Ok(answer)
}

async fn by_tcp(mut stream: TcpStream, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u16::try_from(question.len()).expect("a short question");
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(question).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The data of an answer's records.
pub fn data(message: &Message) -> Vec<RData> {
    message.answers.iter().map(|r| r.data.clone()).collect()
}

/// A server that answers every question with this data, by UDP.
pub async fn upstream(address: SocketAddr, data: RData) -> SocketAddr {
    let socket = UdpSocket::bind(address).await.expect("a free port");
    let address = socket.local_addr().expect("a bound address");
    let socket = Arc::new(socket);
    task::spawn("test upstream", async move {
        let mut buffer = vec![0; MAX_UDP];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            let Some(question) = buffer.get(..n).and_then(|b| Message::from_vec(b).ok()) else {
                continue;
            };
            let mut answer =
                Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
            answer.metadata.recursion_available = true;
            for query in &question.queries {
                answer.add_query(query.clone());
                answer.add_answer(Record::from_rdata(query.name().clone(), 60, data.clone()));
            }
            if let Ok(bytes) = answer.to_vec() {
                drop(socket.send_to(&bytes, from).await);
            }
        }
    });
    address
}
