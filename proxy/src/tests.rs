//! A whole proxy's inbound side through real sockets: real certificates, real applications, a controller's registry of
//! a few lines, and a caller that speaks plain HTTP/2 over mutual TLS.

mod apps;
mod inbound;
mod kubernetes;
mod life;
mod limits;
mod pki;
mod registry;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, sync::watch, time};
use tokio_rustls::TlsConnector;
use tradewind_api::snapshot::Snapshot;
use tradewind_runtime::{
    SharedClock, clock, drain, metrics::MetricsRegistry, ready::Readiness, rng::Rng, task,
    task::TaskSet,
};
use tradewind_transport::{
    control::{Control, ControlStatus},
    hbone::headers,
    svid::SvidCell,
    tls::{self, Expect},
    trust::TrustCell,
};

use crate::{Proxy, ProxyConfig, ProxyError};
use pki::Pki;
use registry::Registry;

/// A running proxy.
pub(crate) struct Running {
    pub hbone: SocketAddr,
    pub admin: SocketAddr,
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    pub trust: TrustCell,
    pub metrics: MetricsRegistry,
    pub readiness: Readiness,
    pub trigger: drain::Trigger,
    pub ended: tokio::task::JoinHandle<Result<(), ProxyError>>,
}

/// A proxy of cluster `west` that serves what `serves` says.
pub(crate) async fn start(
    pki: &Pki,
    snapshot: Snapshot,
    registry: &Registry,
    serves: &[String],
    change: impl FnOnce(&mut ProxyConfig),
) -> Running {
    start_at(clock::system(), pki, snapshot, registry, serves, change).await
}

/// The same by another clock.
pub(crate) async fn start_at(
    clock: SharedClock,
    pki: &Pki,
    snapshot: Snapshot,
    registry: &Registry,
    serves: &[String],
    change: impl FnOnce(&mut ProxyConfig),
) -> Running {
    let mut config = ProxyConfig::new("p-1", "unix:/nowhere".parse().unwrap());
    config.hbone_listen = "127.0.0.1:0".parse().unwrap();
    config.admin_listen = "127.0.0.1:0".parse().unwrap();
    config.threads = 2;
    config.leave_grace = Duration::from_millis(50);
    config.serves = serves.iter().map(|s| s.parse().unwrap()).collect();
    change(&mut config);
    let bound = Proxy::build(config, clock, Rng::seeded(1), None).unwrap();
    let (hbone, admin) = (bound.hbone_addr().unwrap(), bound.admin_addr());
    let (metrics, readiness) = (bound.metrics(), bound.readiness());
    let (snapshot, rx) = watch::channel(Arc::new(snapshot));
    let trust = pki.cell();
    let control = Control::from_parts(
        pki.svid("west"),
        trust.clone(),
        rx,
        ControlStatus::default(),
    );
    let (trigger, watch) = drain::channel();
    let channel = registry.channel();
    let ended = task::spawn(
        "proxy",
        bound.run_with(control, channel, TaskSet::new(), watch),
    );
    Running {
        hbone,
        admin,
        snapshot,
        trust,
        metrics,
        readiness,
        trigger,
        ended,
    }
}

impl Running {
    pub(crate) async fn metric(&self, line: &str) {
        until(line, || self.metrics.encode().contains(line)).await;
    }
}

/// Polls until `done`, for at most ten seconds.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = time::Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(time::Instant::now() < deadline, "never: {what}");
        time::sleep(Duration::from_millis(5)).await;
    }
}

/// No test waits longer for anything.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    time::timeout(Duration::from_secs(20), what)
        .await
        .expect("in time")
}

pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).boxed()
}

/// A caller's connection.
pub(crate) struct Caller {
    pub sender: http2::SendRequest<Body>,
    _tasks: TaskSet,
}

impl Caller {
    pub(crate) async fn dial(pki: &Pki, cluster: &str, to: SocketAddr) -> std::io::Result<Self> {
        Self::dial_as(&pki.svid(cluster), &pki.cell(), to).await
    }

    pub(crate) async fn dial_as(
        svid: &SvidCell,
        trust: &TrustCell,
        to: SocketAddr,
    ) -> std::io::Result<Self> {
        let config = tls::client_config(svid, trust, Expect::AnyMember);
        let name = ServerName::try_from("any.80.payments.shop.west.gw.mesh.internal").unwrap();
        let stream = TcpStream::connect(to).await?;
        let tls = TlsConnector::from(config).connect(name, stream).await?;
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(std::io::Error::other)?;
        let mut tasks = TaskSet::new();
        tasks.spawn("caller connection", async move { drop(connection.await) });
        // In TLS 1.3 a client is refused after its own handshake: the first answer tells.
        sender.ready().await.map_err(std::io::Error::other)?;
        Ok(Self {
            sender,
            _tasks: tasks,
        })
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        soon(self.sender.send_request(request)).await
    }

    pub(crate) async fn get(
        &mut self,
        service: &str,
        path: &str,
    ) -> hyper::Result<Response<Incoming>> {
        self.send(request(service, path).body(full("")).unwrap())
            .await
    }

    pub(crate) async fn connect(&mut self, authority: &str) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::new(full(""));
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = authority.parse().unwrap();
        self.send(request).await
    }
}

pub(crate) fn request(service: &str, path: &str) -> http::request::Builder {
    Request::get(format!("http://payments.shop{path}"))
        .header(headers::SERVICE, service)
        .header(headers::VERSION, "HTTP/1.1")
}

/// A response's body as text.
pub(crate) async fn text(response: Response<Incoming>) -> String {
    let body = soon(response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// A response's header.
pub(crate) fn header<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |v| v.to_str().unwrap())
}
