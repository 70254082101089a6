//! Peers that the test itself is: certificates signed by the authority in any cluster's data directory, dialled and served
//! as proxies dial and serve. Owns its connections' tasks, which end with the test's runtime.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, RecvStream, SendStream, client::SendRequest};
use http::{Method, Request, Response};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tradewind_api::{Domain, EndpointId, ServicePortRef, SpiffeId, snapshot::Trust};
use tradewind_ca::Issuer;
use tradewind_runtime::{TaskSet, clock, task};
use tradewind_transport::{
    hbone::headers,
    keys::WorkloadKey,
    server_name::{self, Target},
    svid::{Svid, SvidCell},
    trust::TrustCell,
};

use crate::http::Error;

/// Longest that a dial or an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Certificates of the test live this long, seconds.
const LIFETIME_S: u64 = 3600;

/// The authority of a cluster, read from its data directory: with it the test can be anyone of that cluster.
pub fn authority(data_dir: &Path) -> Issuer {
    Issuer::load(data_dir)
        .expect("a readable authority")
        .unwrap_or_else(|| panic!("{} holds no authority", data_dir.display()))
}

/// A certificate of `authority` for a path such as `/ns/shop/sa/web`.
pub fn certificate(authority: &Issuer, path: &str) -> SvidCell {
    let key = WorkloadKey::generate().expect("a key");
    let id = SpiffeId::from_path(authority.trust_domain(), path).expect("an identity");
    let now = clock::system().unix_ms();
    let request = key.csr_der().expect("a signing request");
    let issued = authority
        .issue(&request, &id, now, LIFETIME_S)
        .expect("a certificate");
    let cell = SvidCell::empty();
    cell.set(Svid::new(&key, &issued.chain_der).expect("a matching chain"));
    cell
}

/// A trust map that believes these authorities.
pub fn trust(authorities: &[&Issuer]) -> TrustCell {
    let mut roots = BTreeSet::new();
    let mut accepted: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for authority in authorities {
        roots.insert(authority.root_der().to_vec());
        let of = accepted
            .entry(authority.trust_domain().clone())
            .or_default();
        of.insert(authority.authority_der().to_vec());
    }
    let trust = Trust {
        domain: Domain::default(),
        roots,
        authorities: accepted,
    };
    TrustCell::new(&trust).expect("a trust map")
}

/// The name that gateways route by, for any endpoint of a service such as `shop/payments:80`.
pub fn name(cluster: &str, service: &str) -> ServerName<'static> {
    named(cluster, service, None)
}

/// The same for one endpoint.
pub fn named(cluster: &str, service: &str, endpoint: Option<EndpointId>) -> ServerName<'static> {
    let service: ServicePortRef = service.parse().expect("namespace/name:port");
    let target = Target::Endpoint {
        cluster: cluster.parse().expect("a cluster's name"),
        service: service.service,
        port: service.port,
        endpoint,
    };
    server_name::server_name(&target, &Domain::default()).expect("a short name")
}

/// An HTTP/2 connection over TLS.
#[derive(Clone, Debug)]
pub struct Session {
    send: SendRequest<Bytes>,
    gone: Arc<tokio::sync::Notify>,
}

/// Dials, and proves by a ping that the other side took us: in TLS 1.3 it refuses a client after that one is done.
pub async fn dial(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Session, Error> {
    // Boxed: handshakes are large, and tests dial from everywhere.
    let whole = Box::pin(async {
        let text = |e: &dyn std::fmt::Display| format!("{address}: {e}");
        let tcp = TcpStream::connect(address).await.map_err(|e| text(&e))?;
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        let tls = tls.map_err(|e| text(&e))?;
        let (send, mut connection) = h2::client::handshake(tls).await.map_err(|e| text(&e))?;
        let mut ping = connection.ping_pong().expect("the first taker");
        let gone = Arc::new(tokio::sync::Notify::new());
        let ended = Arc::clone(&gone);
        let driver = task::spawn("test peer", async move {
            let result = connection.await;
            ended.notify_one();
            result
        });
        match ping.ping(Ping::opaque()).await {
            Ok(_) => Ok(Session { send, gone }),
            // The connection knows better than the ping why it ended.
            Err(e) => match driver.await {
                Ok(Err(why)) => Err(text(&why)),
                _ => Err(text(&e)),
            },
        }
    });
    let taken = tokio::time::timeout(LIMIT, whole).await;
    taken.unwrap_or_else(|_| Err(format!("{address}: no session in {LIMIT:?}")))
}

impl Session {
    /// A request for a service, as a proxy sends it: status and body.
    pub async fn get(&self, service: &str) -> Result<(u16, String), Error> {
        let request = Request::get("https://payments.shop/")
            .header(headers::SERVICE, service)
            .header(headers::VERSION, "HTTP/1.1")
            .body(())
            .expect("a valid request");
        let (status, mut body, _) = self.ask(request, true).await?;
        let read = async {
            let mut text = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.map_err(|e| e.to_string())?;
                drop(body.flow_control().release_capacity(data.len()));
                text.extend_from_slice(&data);
            }
            Ok((status, String::from_utf8_lossy(&text).trim().to_owned()))
        };
        let read = tokio::time::timeout(LIMIT, read).await;
        read.unwrap_or_else(|_| Err(format!("no whole answer in {LIMIT:?}")))
    }

    /// The status that a `CONNECT` to a service is answered with.
    pub async fn connect(&self, service: &str) -> Result<u16, Error> {
        Ok(self.open(service).await?.status)
    }

    /// A tunnel that stays open.
    pub async fn open(&self, service: &str) -> Result<Tunnel, Error> {
        let service: ServicePortRef = service.parse().expect("namespace/name:port");
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(headers::connect_authority(&service))
            .body(())
            .expect("a valid request");
        let (status, body, send) = self.ask(request, false).await?;
        Ok(Tunnel {
            status,
            body,
            _send: send,
        })
    }

    async fn ask(
        &self,
        request: Request<()>,
        whole: bool,
    ) -> Result<(u16, RecvStream, SendStream<Bytes>), Error> {
        let asked = async {
            let mut send = self.send.clone().ready().await.map_err(|e| e.to_string())?;
            let (response, body) = send
                .send_request(request, whole)
                .map_err(|e| e.to_string())?;
            let (head, answer) = response.await.map_err(|e| e.to_string())?.into_parts();
            Ok((head.status.as_u16(), answer, body))
        };
        let asked = tokio::time::timeout(LIMIT, asked).await;
        asked.unwrap_or_else(|_| Err(format!("no answer in {LIMIT:?}")))
    }

    /// Waits until the other side ended the connection.
    pub async fn ended(&self, limit: Duration) -> Result<(), Error> {
        let ended = tokio::time::timeout(limit, self.gone.notified()).await;
        ended.map_err(|_| format!("the connection still lives after {limit:?}"))
    }
}

/// An open tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// What it was answered with.
    pub status: u16,
    body: RecvStream,
    _send: SendStream<Bytes>,
}

impl Tunnel {
    /// Waits until the other side ended it.
    pub async fn ended(mut self, limit: Duration) -> Result<(), Error> {
        let ended = async { while let Some(Ok(_)) = self.body.data().await {} };
        let ended = tokio::time::timeout(limit, ended).await;
        ended.map_err(|_| format!("the tunnel still lives after {limit:?}"))
    }
}

/// What an impostor saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Seen {
    /// Connections taken, whatever became of them.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Requests that reached it.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Answers every HTTP/2 request over TLS with `text`, until the tasks are dropped.
pub fn answer(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    text: &'static str,
) -> (Seen, TaskSet) {
    let seen = Seen::default();
    let count = seen.clone();
    let acceptor = TlsAcceptor::from(config);
    let mut server = TaskSet::new();
    server.spawn("test peer server", async move {
        let mut connections = TaskSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.connections.fetch_add(1, Ordering::Relaxed);
            let (acceptor, count) = (acceptor.clone(), count.clone());
            connections.spawn("test peer connection", async move {
                let Ok(tls) = acceptor.accept(stream).await else {
                    return;
                };
                let Ok(mut connection) = h2::server::handshake(tls).await else {
                    return;
                };
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    count.requests.fetch_add(1, Ordering::Relaxed);
                    if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                        drop(body.send_data(Bytes::from_static(text.as_bytes()), true));
                    }
                }
            });
        }
    });
    (seen, server)
}
