//! The way of a caller without a certificate to a controller: a name, a connection, and whoever answers it proven by pinned roots.
//!
//! Each step fails in its own layer. Nothing is said before the other end is proven.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Status, transport::Channel};
use tradewind_api::{ClusterName, Domain, proto::v1::federation_client::FederationClient};
use tradewind_ca::token::JoinToken;
use tradewind_transport::{
    server_name::{self, Target},
    tls,
    trust::sha256,
};

use super::{JoinError, JoinLayer};
use crate::{
    answer,
    raft_net::{MAX_MESSAGE_BYTES, endpoint, within},
};

/// Names resolve in milliseconds, or the resolver is broken.
pub(super) const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// TCP to the gateway.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// TLS with the controller behind it.
const TLS_DEADLINE: Duration = Duration::from_secs(5);
/// One call: the member dials up to sixteen addresses back, 2 s each, and writes to the store.
const CALL_DEADLINE: Duration = Duration::from_secs(45);

pub(super) async fn resolve(address: &str) -> Result<Vec<SocketAddr>, JoinError> {
    let failed = |message: String| {
        JoinError::new(
            JoinLayer::Resolve,
            message,
            "give host:port of a member's gateway, as `tradewind init` or `token create` printed it",
        )
    };
    if !address
        .rsplit_once(':')
        .is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok_and(|p| p != 0))
    {
        return Err(failed(format!("{address:?} is not host:port")));
    }
    let found: Vec<_> = within(RESOLVE_DEADLINE, lookup_host(address))
        .await
        .map_err(|e| failed(format!("{address}: {e}")))?
        .collect();
    if found.is_empty() {
        return Err(failed(format!("{address} has no address")));
    }
    Ok(found)
}

pub(super) async fn connect(
    address: &str,
    resolved: &[SocketAddr],
) -> Result<TcpStream, JoinError> {
    let dialled = within(CONNECT_DEADLINE, TcpStream::connect(resolved)).await;
    let stream = dialled.and_then(|s| s.set_nodelay(true).map(|()| s));
    stream.map_err(|e| {
        JoinError::new(
            JoinLayer::Connect,
            format!("{address}: {e}"),
            "see that the member's gateway runs and that no firewall stands between",
        )
    })
}

/// Whom a caller without a certificate believes.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    /// Whose controller has to answer.
    pub(super) cluster: ClusterName,
    /// Below which roots.
    pub(super) roots: Roots,
}

/// Roots by their SHA-256.
#[derive(Clone, Debug)]
pub(super) enum Roots {
    /// A token names the federation's domain, too.
    Token {
        /// The one.
        sha256: [u8; 32],
        /// The federation's domain.
        domain: Domain,
    },
    /// Whole ones say nothing of the domain: it is the one that whoever answers proves.
    AnyOf(BTreeSet<[u8; 32]>),
}

impl Pin {
    pub(super) fn of(token: &JoinToken) -> Self {
        Self {
            cluster: token.cluster.clone(),
            roots: Roots::Token {
                sha256: token.root_sha256,
                domain: token.domain.clone(),
            },
        }
    }

    /// Whether that certificate is a root that is believed.
    pub(super) fn believes(&self, root_der: &[u8]) -> bool {
        match &self.roots {
            Roots::Token { sha256: root, .. } => sha256(root_der) == *root,
            Roots::AnyOf(all) => all.contains(&sha256(root_der)),
        }
    }

    /// The federation's domain, as whoever answered has proven it.
    pub(super) fn domain(&self, proven: &TlsStream<TcpStream>) -> Option<Domain> {
        match &self.roots {
            Roots::Token { domain, .. } => Some(domain.clone()),
            Roots::AnyOf(_) => {
                let certificates = proven.get_ref().1.peer_certificates()?;
                tls::proven_domain(certificates.first()?)
            }
        }
    }

    fn config(&self) -> std::io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
        match &self.roots {
            Roots::Token { sha256, domain } => {
                let target = Target::Controller {
                    cluster: self.cluster.clone(),
                };
                let name = server_name::server_name(&target, domain);
                let config = tls::pinned_client_config(*sha256, domain, &self.cluster);
                Ok((config, name.map_err(std::io::Error::other)?))
            }
            // A name says where gateways lead a connection. One without a domain is dialled where it ends.
            Roots::AnyOf(all) => {
                let name = ServerName::try_from(format!("controller.{}.invalid", self.cluster));
                let config = tls::rooted_client_config(all.clone(), &self.cluster);
                Ok((config, name.map_err(std::io::Error::other)?))
            }
        }
    }
}

/// Has whoever answers prove itself.
pub(super) async fn handshake(tcp: TcpStream, pin: &Pin) -> std::io::Result<TlsStream<TcpStream>> {
    let (config, name) = pin.config()?;
    within(TLS_DEADLINE, TlsConnector::from(config).connect(name, tcp)).await
}

/// A client on the connection that was just proven; should it break, it is made and proven again.
pub(super) fn client(
    first: TlsStream<TcpStream>,
    addresses: Vec<SocketAddr>,
    pin: Pin,
) -> FederationClient<Channel> {
    let first = Arc::new(Mutex::new(Some(first)));
    let again = Arc::new(pin);
    let channel = endpoint().connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (addresses, again) = (addresses.clone(), Arc::clone(&again));
        async move {
            let stream = match ready {
                Some(stream) => stream,
                None => {
                    let tcp =
                        within(CONNECT_DEADLINE, TcpStream::connect(addresses.as_slice())).await?;
                    handshake(tcp, &again).await?
                }
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    }));
    FederationClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

pub(super) async fn timed<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {} s",
            CALL_DEADLINE.as_secs()
        ))),
    }
}

pub(super) fn refused(layer: JoinLayer, status: &Status) -> JoinError {
    let (sentence, hint) = answer::split(status.message());
    JoinError::new(
        layer,
        sentence,
        hint.unwrap_or("see the member's controller log"),
    )
}
