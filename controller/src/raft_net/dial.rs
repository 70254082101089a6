//! From a list of gateways to a TLS stream with the controller behind them, and from that to a tonic channel.
//!
//! Each step has a deadline of its own, so that a gateway that swallows packets costs a second and no more.

use std::{error::Error as _, fmt, io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tradewind_api::{ClusterName, Domain};
use tradewind_transport::{
    server_name::{self, Target},
    svid::SvidCell,
    tls::{Expect, client_config},
    trust::TrustCell,
};

/// TCP to a gateway: three round trips of the longest path on earth.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// TLS with the controller behind it, which includes the gateway's own connect.
const TLS_DEADLINE: Duration = Duration::from_secs(3);
/// Connection window: also sizes h2's budget of small frames.
const CONNECTION_WINDOW: u32 = 8 << 20;
const STREAM_WINDOW: u32 = 1 << 20;
/// How soon a silent connection is asked, and how long it may take to answer: elections wait for nothing slower.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why no gateway led to the controller. The request was certainly not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nobody knows where it is.
    #[error("cluster {0} has announced no gateway")]
    NoGateway(ClusterName),
    /// The server name cannot be formed.
    #[error("cluster {cluster} cannot be named: {cause}")]
    Name {
        /// Whom.
        cluster: ClusterName,
        /// What is wrong.
        cause: String,
    },
    /// Another controller of this cluster, at its own address.
    #[error("controller {node} of this cluster at {address}: {cause}")]
    Sibling {
        /// Its node.
        node: String,
        /// Where it was dialled; empty where that is not known.
        address: String,
        /// What stopped us.
        cause: String,
    },
    /// Each gateway in turn, with what stopped us there.
    #[error("{}", joined(.0))]
    AllFailed(Vec<GatewayFailure>),
}

/// How far a dial came at one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialStep {
    /// TCP to the gateway.
    Connect,
    /// TLS with the controller behind it.
    Tls,
}

impl fmt::Display for DialStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
        })
    }
}

/// What stopped a dial at one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayFailure {
    /// `host:port`.
    pub gateway: String,
    /// In which step.
    pub step: DialStep,
    /// True when the gateway's host said at once that nobody listens.
    pub refused: bool,
    /// What the system said.
    pub cause: String,
}

impl fmt::Display for GatewayFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gateway {}: {}: {}", self.gateway, self.step, self.cause)
    }
}

fn joined(failures: &[GatewayFailure]) -> String {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// How to talk to the controller of `cluster`, and to nobody else.
pub(super) fn controller_config(
    svid: &SvidCell,
    trust: &TrustCell,
    cluster: &ClusterName,
    domain: &Domain,
) -> Arc<rustls::ClientConfig> {
    client_config(
        svid,
        trust,
        Expect::ControllerOf(domain.trust_domain(cluster)),
    )
}

/// Dials another controller of this cluster.
pub(super) async fn sibling(
    address: Option<String>,
    target: &Target,
    domain: &Domain,
    config: Arc<rustls::ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let name = name_of(target, domain)?;
    let failed = |address: &str, cause: String| DialError::Sibling {
        node: server_name::encode(target, domain),
        address: address.to_owned(),
        cause,
    };
    let address = address.ok_or_else(|| failed("", "it has not said where it is".to_owned()))?;
    let dialled = one_gateway(&address, &TlsConnector::from(config), name).await;
    dialled.map_err(|(step, error)| failed(&address, format!("{step}: {error}")))
}

fn name_of(
    target: &Target,
    domain: &Domain,
) -> Result<rustls::pki_types::ServerName<'static>, DialError> {
    server_name::server_name(target, domain).map_err(|e| DialError::Name {
        cluster: target.cluster().clone(),
        cause: e.to_string(),
    })
}

/// Tries the gateways in turn from `start` on. Returns the stream and the index that worked.
pub(super) async fn any_gateway(
    gateways: &[String],
    start: usize,
    target: &Target,
    domain: &Domain,
    config: Arc<rustls::ClientConfig>,
) -> Result<(TlsStream<TcpStream>, usize), DialError> {
    if gateways.is_empty() {
        return Err(DialError::NoGateway(target.cluster().clone()));
    }
    let name = name_of(target, domain)?;
    let connector = TlsConnector::from(config);
    let mut failures = Vec::new();
    for step in 0..gateways.len() {
        let index = (start % gateways.len() + step) % gateways.len();
        let Some(gateway) = gateways.get(index) else {
            continue;
        };
        match one_gateway(gateway, &connector, name.clone()).await {
            Ok(stream) => return Ok((stream, index)),
            Err((step, error)) => failures.push(GatewayFailure {
                gateway: gateway.clone(),
                step,
                refused: error.kind() == io::ErrorKind::ConnectionRefused,
                cause: error.to_string(),
            }),
        }
    }
    Err(DialError::AllFailed(failures))
}

async fn one_gateway(
    gateway: &str,
    connector: &TlsConnector,
    name: rustls::pki_types::ServerName<'static>,
) -> Result<TlsStream<TcpStream>, (DialStep, io::Error)> {
    let tcp = within(CONNECT_DEADLINE, TcpStream::connect(gateway))
        .await
        .map_err(|e| (DialStep::Connect, e))?;
    tcp.set_nodelay(true).map_err(|e| (DialStep::Connect, e))?;
    within(TLS_DEADLINE, connector.connect(name, tcp))
        .await
        .map_err(|e| (DialStep::Tls, e))
}

/// An I/O step with its deadline.
pub(crate) async fn within<T>(
    deadline: Duration,
    step: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::time::timeout(deadline, step)
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing within {} ms", deadline.as_millis()),
            ))
        })
}

/// The settings that every connection between controllers has.
pub(crate) fn endpoint() -> Endpoint {
    // The name is never resolved: the connector decides whom to dial.
    Endpoint::from_static("http://controller.tradewind")
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// A channel that dials by `dial` when it is first used, and again whenever the connection broke. Calls that wait for
/// one connection share it.
pub(super) fn lazy_channel<D, F, S>(dial: D) -> Channel
where
    D: Fn() -> F + Send + Clone + 'static,
    F: Future<Output = Result<S, DialError>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let dialled = dial();
        async move { dialled.await.map(TokioIo::new) }
    }))
}

/// Our own reason inside of a failed call, when it never left.
pub(super) fn dial_error(status: &Status) -> Option<DialError> {
    let mut cause = status.source();
    // Chains are short; the bound is against one that loops.
    for _ in 0..16 {
        let this = cause?;
        if let Some(dial) = this.downcast_ref::<DialError>() {
            return Some(dial.clone());
        }
        cause = this.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use tradewind_api::proto::v1::{PingRequest, federation_client::FederationClient};

    use super::*;

    #[tokio::test]
    async fn a_call_that_never_left_says_where_it_failed() {
        // A port that nobody listens on any more.
        let gone = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let cluster = ClusterName::new("east").unwrap();
        let (svid, trust) = (SvidCell::empty(), TrustCell::empty());
        for (gateways, expected) in [
            (vec![], "cluster east has announced no gateway".to_owned()),
            (
                vec![gone.to_string(), gone.to_string()],
                format!("gateway {gone}: connect: "),
            ),
        ] {
            let (svid, trust, cluster) = (svid.clone(), trust.clone(), cluster.clone());
            let channel = lazy_channel(move || {
                let domain = Domain::default();
                let config = controller_config(&svid, &trust, &cluster, &domain);
                let (gateways, cluster) = (gateways.clone(), cluster.clone());
                async move {
                    let target = Target::Controller { cluster };
                    any_gateway(&gateways, 7, &target, &domain, config)
                        .await
                        .map(|(s, _)| s)
                }
            });
            for _ in 0..2 {
                let status = FederationClient::new(channel.clone())
                    .ping(PingRequest { with_reach: false })
                    .await
                    .unwrap_err();
                let dial = dial_error(&status).expect("our own error is in the chain");
                assert!(dial.to_string().starts_with(&expected), "{dial}");
            }
        }
    }
}
