//! Channels to a controller: over its unix socket, or by mTLS over TCP, or over whatever else leads there.
//!
//! Owns no state but what a channel owns. A channel dials when it is first used and again after each loss; which TLS
//! configuration a dial takes is decided at that dial, so a renewed certificate needs no new channel.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tonic::transport::{Channel, Endpoint, Uri};
use tradewind_api::id::{ClusterName, Domain, TrustDomain};

use crate::{
    control::{BootstrapToken, ControllerAddr},
    marked,
    server_name::{self, Target},
    svid::SvidCell,
    tls::{self, Expect},
    trust::TrustCell,
};

/// A dial, TCP and TLS together: a local controller answers in milliseconds, one behind a lossy path within this.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// How often an idle link is proven alive: a vanished controller is noticed within twice this.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long a proof may take: longer than a controller's worst pause, shorter than anybody's patience.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connection window. Also sizes h2's budget of small frames, which a smaller one would exhaust on a healthy link.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Stream window: a snapshot of thousands of services streams without waiting for each round trip.
const STREAM_WINDOW: u32 = 1 << 20;

fn endpoint() -> Endpoint {
    Endpoint::from(Uri::from_static("http://controller.tradewind"))
        .connect_timeout(DIAL_DEADLINE)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
}

fn late<T>(_: T) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s")
}

/// A channel over a controller's unix socket.
pub(super) fn unix(path: PathBuf) -> Channel {
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            let dial = UnixStream::connect(path);
            let stream = tokio::time::timeout(DIAL_DEADLINE, dial)
                .await
                .map_err(late)??;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    }))
}

/// A way to a controller's port, which is gone for each connection.
pub(super) type Dialled<S> = BoxFuture<'static, io::Result<S>>;

/// By TCP.
pub(super) fn tcp(
    address: String,
    mark: Option<u32>,
) -> impl Fn() -> Dialled<TcpStream> + Clone + Send + Sync + 'static {
    move || {
        let address = address.clone();
        Box::pin(async move {
            let stream = marked::connect(&address, mark).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}

/// A channel by mTLS: the certificate in `svid` proves us, and the far end must prove to be a controller of that
/// certificate's own cluster. Dials fail until there is a certificate.
pub(super) fn mutual<D, S>(dial: D, svid: SvidCell, trust: TrustCell) -> Channel
where
    D: Fn() -> Dialled<S> + Clone + Send + Sync + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tls_channel(dial, move || mutual_config(&svid, &trust))
}

/// Whose turn it is among several controllers. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<AtomicUsize>);

impl Turns {
    /// The next of `count`, and from now on the one after it.
    pub(super) fn next(&self, count: usize) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) % count.max(1)
    }

    fn at(&self, count: usize) -> usize {
        self.0.load(Ordering::Relaxed) % count.max(1)
    }

    fn set(&self, turn: usize) {
        self.0.store(turn, Ordering::Relaxed);
    }
}

/// What leads to one of several controllers.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A channel to one of several controllers of a cluster: to the one that was reached last, and when that is gone to the
/// next that answers. Each gets its share of a dial's time, and its turn even where the dial is given up meanwhile.
pub(super) fn one_of(
    (all, turns): (Vec<ControllerAddr>, Turns),
    mark: Option<u32>,
    svid: SvidCell,
    trust: TrustCell,
) -> Channel {
    let all: Arc<[ControllerAddr]> = all.into();
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (all, turns) = (Arc::clone(&all), turns.clone());
        let (svid, trust) = (svid.clone(), trust.clone());
        async move {
            let count = all.len().max(1);
            let each = DIAL_DEADLINE / u32::try_from(count).unwrap_or(1);
            let start = turns.at(count);
            let mut why = Vec::new();
            for index in (start..start + count).map(|n| n % count) {
                let Some(place) = all.get(index) else {
                    continue;
                };
                turns.set(index + 1);
                let dialled = tokio::time::timeout(each, dial(place, mark, &svid, &trust)).await;
                match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(stream) => {
                        turns.set(index);
                        return Ok(TokioIo::new(stream));
                    }
                    Err(error) => why.push(format!("{place}: {error}")),
                }
            }
            Err::<TokioIo<Box<dyn Stream>>, _>(io::Error::new(
                io::ErrorKind::NotConnected,
                why.join("; "),
            ))
        }
    }))
}

/// To one place, with a certificate where it is needed.
async fn dial(
    place: &ControllerAddr,
    mark: Option<u32>,
    svid: &SvidCell,
    trust: &TrustCell,
) -> io::Result<Box<dyn Stream>> {
    let address = match place {
        ControllerAddr::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        ControllerAddr::Tcp(address) => address.clone(),
        ControllerAddr::OneOf(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let (config, name) = mutual_config(svid, trust)?;
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let tcp = tcp(address, mark)().await?;
    let connector = tokio_rustls::TlsConnector::from(config);
    Ok(Box::new(connector.connect(name, tcp).await?))
}

/// How to prove who we are to a controller of our own cluster, and its name.
fn mutual_config(svid: &SvidCell, trust: &TrustCell) -> io::Result<(Arc<ClientConfig>, String)> {
    let current = svid.current().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotConnected, "there is no certificate yet")
    })?;
    let domain = current.id.trust_domain();
    let config = tls::client_config(svid, trust, Expect::ControllerOf(domain.clone()));
    Ok((config, name_in(&domain)))
}

/// A channel whose far end must stand below the token's root, in the token's cluster. It shows no certificate.
pub(super) fn pinned<D, S>(dial: D, token: &BootstrapToken) -> Channel
where
    D: Fn() -> Dialled<S> + Clone + Send + Sync + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = tls::pinned_client_config(token.root_sha256, &token.domain, &token.cluster);
    let name = name_of(&token.cluster, &token.domain);
    tls_channel(dial, move || Ok((Arc::clone(&config), name.clone())))
}

/// A channel whose far end must stand below one of the roots, in that cluster. It shows no certificate.
pub(super) fn rooted<D, S>(
    dial: D,
    roots_sha256: BTreeSet<[u8; 32]>,
    cluster: &ClusterName,
) -> Channel
where
    D: Fn() -> Dialled<S> + Clone + Send + Sync + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = tls::rooted_client_config(roots_sha256, cluster);
    // The name says where a connection goes that a gateway passes on; this one is dialled where it ends.
    let name = format!("controller.{cluster}.invalid");
    tls_channel(dial, move || Ok((Arc::clone(&config), name.clone())))
}

fn tls_channel<D, S, F>(dial: D, choose: F) -> Channel
where
    D: Fn() -> Dialled<S> + Clone + Send + Sync + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn() -> io::Result<(Arc<ClientConfig>, String)> + Clone + Send + Sync + 'static,
{
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (dial, choose) = (dial.clone(), choose.clone());
        async move {
            let (config, name) = choose()?;
            let name = ServerName::try_from(name).map_err(io::Error::other)?;
            let dial = async {
                let stream = dial().await?;
                tokio_rustls::TlsConnector::from(config)
                    .connect(name, stream)
                    .await
            };
            let stream = tokio::time::timeout(DIAL_DEADLINE, dial)
                .await
                .map_err(late)??;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    }))
}

fn name_of(cluster: &ClusterName, domain: &Domain) -> String {
    server_name::encode(
        &Target::Controller {
            cluster: cluster.clone(),
        },
        domain,
    )
}

// A member's trust domain is its cluster's label below the federation's domain.
fn name_in(trust_domain: &TrustDomain) -> String {
    trust_domain
        .as_str()
        .split_once('.')
        .and_then(|(cluster, domain)| {
            Some(name_of(
                &ClusterName::new(cluster).ok()?,
                &Domain::new(domain).ok()?,
            ))
        })
        .unwrap_or_else(|| "controller.invalid".to_owned())
}

/// A channel on which every call fails.
pub(super) fn nowhere() -> Channel {
    endpoint().connect_with_connector_lazy(tower::service_fn(|_: Uri| async {
        Err::<TokioIo<UnixStream>, _>(io::Error::new(
            io::ErrorKind::NotConnected,
            "this process has no controller",
        ))
    }))
}
