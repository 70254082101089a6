//! The webhook's listener and its connections: TLS, then HTTP/1.1 or HTTP/2, one path.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tradewind_kubernetes::injection::{Answer, Kind, answer};
use tradewind_runtime::{drain, listen, rng::Rng, task::TaskSet};

use super::{Shared, certificates::Served, meters::Why};

/// Where the API server asks about pods.
const INJECT: &str = "/inject";
/// Connections open at once: an API server keeps a few, and there are some API servers.
const MAX_CONNECTIONS: usize = 256;
/// Requests whose body is held at once; with the longest body this bounds the memory that strangers can take.
const MAX_REQUESTS: usize = 32;
/// Longest review, in bytes: the API server takes no object of more than 3 MiB.
const MAX_BODY_BYTES: usize = 4 << 20;
/// A handshake's deadline.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a request may take, waiting for its turn included: less than the ten seconds that the API server waits.
const REQUEST_DEADLINE: Duration = Duration::from_secs(8);
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests open at once on one connection.
const MAX_STREAMS: u32 = 64;
/// Header bytes of one request, for both versions of HTTP.
const MAX_HEAD_BYTES: u32 = 16 << 10;
/// How often an idle connection by HTTP/2 is proven alive, and how long a proof may take.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Serves until the drain is over: new connections are refused once it begins, open ones end with the request they are at.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut drain: drain::Watch,
    rng: &mut Rng,
) {
    let acceptor = match tls(shared.certificates.resolver()) {
        Ok(config) => TlsAcceptor::from(config),
        Err(error) => {
            tracing::error!(%error, "the webhook cannot serve");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let turns = Arc::new(Semaphore::new(MAX_REQUESTS));
    let graceful = GracefulShutdown::new();
    let mut connections = TaskSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = drain.triggered() => break,
            accepted = listen::accept(&listener, rng) => accepted,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            shared.meters.dropped(Why::Limit);
            continue;
        };
        let (acceptor, watcher) = (acceptor.clone(), graceful.watcher());
        let (shared, turns) = (Arc::clone(&shared), Arc::clone(&turns));
        connections.spawn("webhook-connection", async move {
            if let Some(stream) = handshake(&acceptor, stream, peer, &shared).await {
                converse(stream, peer, shared, turns, watcher).await;
            }
            drop(place);
        });
    }
    drop(listener);
    if drain.until_forced(graceful.shutdown()).await.is_none() {
        tracing::debug!("connections of the webhook are cut");
    }
    connections.abort_all().await;
}

/// TLS 1.3 or 1.2, as API servers speak, with the certificate of the moment and no memory of sessions.
fn tls(resolver: Arc<Served>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    shared: &Shared,
) -> Option<TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            // An API server that believes another certificate ends here: the log must say so.
            tracing::warn!(%peer, %error, "a handshake with the webhook failed");
            shared.meters.dropped(Why::Handshake);
            None
        }
        Err(_) => {
            shared.meters.dropped(Why::Slow);
            None
        }
    }
}

async fn converse(
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    shared: Arc<Shared>,
    turns: Arc<Semaphore>,
    watcher: Watcher,
) {
    let meters = shared.meters.clone();
    let service = service_fn(move |request| {
        let (shared, turns) = (Arc::clone(&shared), Arc::clone(&turns));
        async move { Ok::<_, Infallible>(respond(request, &shared, &turns).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection.into_owned()).await {
        meters.dropped(Why::Garbage);
        tracing::debug!(%peer, %error, "a connection of the webhook ended early");
    }
}

async fn respond(
    request: Request<Incoming>,
    shared: &Shared,
    turns: &Semaphore,
) -> Response<Full<Bytes>> {
    let refused = |status, why: Why, text: &str| {
        shared.meters.dropped(why);
        plain(status, text)
    };
    if request.uri().path() != INJECT {
        return refused(
            StatusCode::NOT_FOUND,
            Why::Garbage,
            "there is only /inject\n",
        );
    }
    if request.method() != Method::POST {
        let mut response = refused(
            StatusCode::METHOD_NOT_ALLOWED,
            Why::Garbage,
            "only POST is allowed here\n",
        );
        let allowed = HeaderValue::from_static("POST");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    let work = async {
        // Closed only when the process ends.
        let _turn = turns.acquire().await.ok();
        let body = Limited::new(request.into_body(), MAX_BODY_BYTES);
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        let settings = shared.settings.load();
        answer(&body, &settings).map_err(|e| e.to_string())
    };
    match tokio::time::timeout(REQUEST_DEADLINE, work).await {
        Ok(Ok(answered)) => {
            shared.meters.answered(answered.kind);
            told(&answered);
            let mut response = Response::new(Full::new(answered.review.to_string().into()));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        Ok(Err(text)) => refused(StatusCode::BAD_REQUEST, Why::Garbage, &format!("{text}\n")),
        Err(_) => refused(
            StatusCode::SERVICE_UNAVAILABLE,
            Why::Slow,
            "the request came too slowly, or too many came\n",
        ),
    }
}

fn told(answered: &Answer) {
    let pod = &answered.pod;
    match answered.kind {
        Kind::Injected => tracing::info!(pod, "a pod gets a proxy"),
        Kind::Left(reason) => tracing::info!(pod, reason, "a pod gets no proxy"),
        Kind::Denied => tracing::warn!(pod, "a pod is refused for annotations that cannot be read"),
        Kind::Foreign => tracing::debug!("a review that is not about a new pod"),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}
