//! The HTTP server on every process's admin port: liveness, readiness with what is pending, metrics, configuration,
//! state, the log level and the role's own settings that change while it runs.
//!
//! It reads the process's state through what it is given and owns only its connections. It serves to the very end of a
//! drain (as not ready) without holding the drain up. Whatever a client sends is bounded in size, time and number.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::drain::{Observer, Watch};
use crate::listen::{self, BindError};
use crate::metrics::{self, MetricsRegistry};
use crate::ready::Readiness;
use crate::rng::Rng;
use crate::setting::Setting;
use crate::task::TaskSet;
use crate::telemetry::LogHandle;

/// Connections at a time: a few scrapers, probes and people; more is a mistake or an attack.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send a request's head, and an idle connection may wait for the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection lives in all, so that none holds its place for ever.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(120);

/// Longest request head, in bytes: hyper's minimum; probes and scrapers need far less.
const MAX_HEAD_BYTES: usize = 8192;

/// Longest request body, in bytes: a log filter. Other settings are shorter.
const MAX_BODY_BYTES: usize = 1024;

/// Computes a JSON document when asked for; must not block for long.
pub type Document = Arc<dyn Fn() -> Value + Send + Sync>;

/// What the admin server shows.
#[derive(Clone)]
pub struct AdminState {
    /// Behind `/readyz`.
    pub readiness: Readiness,
    /// Behind `/metrics`.
    pub metrics: MetricsRegistry,
    /// Behind `/debug/loglevel`; absent where logs were not set up.
    pub log: Option<LogHandle>,
    /// Each behind its own path.
    pub settings: Vec<Setting>,
    /// Behind `/debug/config`: the configuration in force, without secrets.
    pub config: Document,
    /// Behind `/debug/state`: what the process believes, without secrets.
    pub state: Document,
}

impl AdminState {
    /// Readiness and metrics alone, with empty documents.
    #[must_use]
    pub fn new(readiness: Readiness, metrics: MetricsRegistry) -> Self {
        let empty: Document = Arc::new(|| json!({}));
        Self {
            readiness,
            metrics,
            log: None,
            settings: Vec::new(),
            config: Arc::clone(&empty),
            state: empty,
        }
    }
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState")
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

/// The admin server before it is bound.
#[derive(Debug)]
pub struct AdminServer;

impl AdminServer {
    /// Takes the port; nothing is served before [`AdminBound::run`].
    pub fn bind(address: SocketAddr) -> Result<AdminBound, BindError> {
        let listener = listen::bind_tcp_std(address, false)?;
        let address = listener.local_addr().map_err(|source| BindError {
            address,
            protocol: "tcp",
            flag: None,
            source,
        })?;
        Ok(AdminBound { listener, address })
    }
}

/// A bound admin server.
#[derive(Debug)]
pub struct AdminBound {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl AdminBound {
    /// Where it listens, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the drain is over. The watch is turned into an observer at once, so this never delays a drain.
    pub async fn run(self, state: AdminState, drain: Watch) {
        let mut observer = drain.observer();
        drop(drain);
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, address = %self.address, "the admin server cannot start");
                return;
            }
        };
        let shared = Arc::new(Shared {
            dropped: Dropped::new(&state.metrics),
            state,
            drain: observer.clone(),
        });
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut rng = Rng::from_entropy();
        let mut connections = TaskSet::new();
        loop {
            let (stream, peer) = tokio::select! {
                biased;
                () = observer.forced() => break,
                accepted = listen::accept(&listener, &mut rng) => accepted,
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                shared.dropped.count(Reason::TooMany);
                tracing::debug!(%peer, "admin connection refused, too many are open");
                continue;
            };
            let shared = Arc::clone(&shared);
            connections.spawn("admin connection", async move {
                serve(stream, peer, shared).await;
                drop(place);
            });
        }
    }
}

struct Shared {
    state: AdminState,
    drain: Observer,
    dropped: Dropped,
}

/// Why an admin connection was dropped.
#[derive(Debug, Clone, Copy)]
enum Reason {
    /// Not HTTP, or beyond the size bounds.
    Malformed,
    /// Too slow.
    Timeout,
    /// Cut in the middle of a request.
    Cut,
    /// More than [`MAX_CONNECTIONS`].
    TooMany,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Timeout => "timeout",
            Self::Cut => "cut",
            Self::TooMany => "too_many",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug)]
struct Dropped {
    connections: Family<ReasonLabel, Counter>,
}

impl Dropped {
    fn new(metrics: &MetricsRegistry) -> Self {
        let connections = Family::default();
        metrics.register(|registry| {
            registry.register(
                "tradewind_admin_connections_dropped",
                "Admin connections dropped for what the client did",
                Family::clone(&connections),
            );
        });
        Self { connections }
    }

    fn count(&self, reason: Reason) {
        self.connections
            .get_or_create(&ReasonLabel {
                reason: reason.as_str(),
            })
            .inc();
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let service_shared = Arc::clone(&shared);
    let served = Arc::new(AtomicBool::new(false));
    let answered = Arc::clone(&served);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&service_shared);
        answered.store(true, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let error = match tokio::time::timeout(CONNECTION_LIFETIME, connection).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_elapsed) => {
            tracing::debug!(%peer, "admin connection ended at its greatest age");
            return;
        }
    };
    if error.is_timeout() && served.load(Ordering::Relaxed) {
        // A client that was answered and then sat idle did nothing wrong.
        return;
    }
    let reason = if error.is_timeout() {
        Reason::Timeout
    } else if error.is_parse() {
        Reason::Malformed
    } else {
        Reason::Cut
    };
    shared.dropped.count(reason);
    tracing::debug!(%peer, %error, "admin connection dropped");
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let settable =
        path == "/debug/loglevel" || shared.state.settings.iter().any(|s| s.path() == path);
    let body = if head.method == Method::PUT && settable {
        let read = tokio::time::timeout(HEAD_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect());
        match read.await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot read a setting");
                let text = format!("cannot read the body: at most {MAX_BODY_BYTES} bytes\n");
                return text_response(StatusCode::PAYLOAD_TOO_LARGE, text);
            }
            Err(_elapsed) => {
                return text_response(StatusCode::REQUEST_TIMEOUT, "the body came too slowly\n");
            }
        }
    } else {
        Bytes::new()
    };
    route(
        &head.method,
        head.uri.path(),
        &body,
        &shared.state,
        shared.drain.is_draining(),
    )
}

/// Which answer a request gets. `draining` makes the process not ready.
fn route(
    method: &Method,
    path: &str,
    body: &[u8],
    state: &AdminState,
    draining: bool,
) -> Response<Full<Bytes>> {
    let reads = method == Method::GET || method == Method::HEAD;
    if let Some(setting) = state.settings.iter().find(|s| s.path() == path) {
        return match *method {
            Method::GET | Method::HEAD => current(setting),
            Method::PUT => set(setting, body),
            _ => not_allowed("GET, PUT"),
        };
    }
    match path {
        "/debug/loglevel" if reads => match &state.log {
            Some(log) => text_response(StatusCode::OK, format!("{}\n", log.current())),
            None => text_response(
                StatusCode::NOT_FOUND,
                "logs are not set up in this process\n",
            ),
        },
        "/debug/loglevel" if method == Method::PUT => set_level(body, state),
        "/debug/loglevel" => not_allowed("GET, PUT"),
        "/livez" | "/readyz" | "/metrics" | "/debug/config" | "/debug/state" if !reads => {
            not_allowed("GET")
        }
        "/livez" => text_response(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let mut pending = state.readiness.pending();
            if draining {
                pending.push("draining".to_owned());
            }
            let ready = pending.is_empty();
            let status = if ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            json_response(status, &json!({ "ready": ready, "pending": pending }))
        }
        "/metrics" => respond(
            StatusCode::OK,
            metrics::CONTENT_TYPE,
            state.metrics.encode().into(),
        ),
        "/debug/config" => json_response(StatusCode::OK, &(state.config)()),
        "/debug/state" => json_response(StatusCode::OK, &(state.state)()),
        _ => text_response(StatusCode::NOT_FOUND, no_such_page(&state.settings)),
    }
}

fn no_such_page(settings: &[Setting]) -> String {
    let mut text =
        "no such page; there are /livez /readyz /metrics /debug/config /debug/state /debug/loglevel"
            .to_owned();
    for setting in settings {
        text.push(' ');
        text.push_str(setting.path());
    }
    text.push('\n');
    text
}

fn current(setting: &Setting) -> Response<Full<Bytes>> {
    text_response(StatusCode::OK, format!("{}\n", setting.current()))
}

fn set(setting: &Setting, body: &[u8]) -> Response<Full<Bytes>> {
    match setting.set(&String::from_utf8_lossy(body)) {
        Ok(()) => {
            tracing::info!(setting = setting.path(), value = %setting.current(), "setting changed");
            current(setting)
        }
        Err(error) => text_response(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn set_level(body: &[u8], state: &AdminState) -> Response<Full<Bytes>> {
    let Some(log) = &state.log else {
        return text_response(
            StatusCode::NOT_FOUND,
            "logs are not set up in this process\n",
        );
    };
    let filter = String::from_utf8_lossy(body);
    match log.set(filter.trim()) {
        Ok(()) => {
            tracing::info!(filter = filter.trim(), "log filter changed");
            text_response(StatusCode::OK, format!("{}\n", log.current()))
        }
        Err(error) => text_response(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text_response(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("only {allowed} is allowed here\n"),
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn text_response(status: StatusCode, text: impl Into<String>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text.into().into())
}

fn json_response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", format!("{value:#}\n").into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::{drain, task};

    struct Running {
        address: SocketAddr,
        readiness: Readiness,
        metrics: MetricsRegistry,
        trigger: drain::Trigger,
        server: tokio::task::JoinHandle<()>,
    }

    fn start() -> Running {
        let bound = AdminServer::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = bound.local_addr();
        let (readiness, metrics) = (Readiness::new(), MetricsRegistry::new());
        let mut state = AdminState::new(readiness.clone(), metrics.clone());
        state.config = Arc::new(|| json!({ "name": "gw-1" }));
        let (trigger, watch) = drain::channel();
        let server = task::spawn("admin", bound.run(state, watch));
        Running {
            address,
            readiness,
            metrics,
            trigger,
            server,
        }
    }

    /// Sends raw bytes and returns everything the server says until it closes.
    async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset after garbage is as good as a close.
        let _closed = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        exchange(address, request.as_bytes()).await
    }

    #[tokio::test]
    async fn readiness_lists_what_is_pending() {
        let running = start();
        let blocker = running.readiness.blocker("first snapshot");
        let answer = get(running.address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains("\"first snapshot\"") && answer.contains("\"ready\": false"),
            "{answer}"
        );
        drop(blocker);
        let answer = get(running.address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("\"pending\": []"), "{answer}");
    }

    #[tokio::test]
    async fn pages_and_methods() {
        let running = start();
        assert!(
            get(running.address, "/livez")
                .await
                .ends_with("\r\n\r\nok\n")
        );
        assert!(get(running.address, "/metrics").await.ends_with("# EOF\n"));
        assert!(get(running.address, "/debug/config").await.contains("gw-1"));
        assert!(get(running.address, "/debug/state").await.contains("{}"));
        assert!(
            get(running.address, "/nothing")
                .await
                .starts_with("HTTP/1.1 404")
        );
        assert!(
            get(running.address, "/debug/loglevel")
                .await
                .starts_with("HTTP/1.1 404")
        );
        let post =
            b"POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let answer = exchange(running.address, post).await;
        assert!(
            answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET"),
            "{answer}"
        );
        let long = format!(
            "PUT /debug/loglevel HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\nconnection: close\r\n\r\n{}",
            "x".repeat(5000)
        );
        assert!(
            exchange(running.address, long.as_bytes())
                .await
                .starts_with("HTTP/1.1 413")
        );
    }

    #[tokio::test]
    async fn garbage_is_dropped_and_counted_and_the_next_client_served() {
        let running = start();
        let answer = exchange(running.address, b"\x16\x03\x01\x02\x00\x01garbage\r\n\r\n").await;
        assert!(!answer.contains("200"), "{answer}");
        let huge = format!(
            "GET / HTTP/1.1\r\nx: {}\r\n\r\n",
            "y".repeat(4 * MAX_HEAD_BYTES)
        );
        assert!(
            !exchange(running.address, huge.as_bytes())
                .await
                .contains("200")
        );
        assert!(
            get(running.address, "/livez")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let text = running.metrics.encode();
        assert!(
            text.contains("tradewind_admin_connections_dropped_total{reason=\"malformed\"} 2"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_dropped_and_counted_but_an_idle_one_is_only_closed() {
        let running = start();
        let idle = exchange(running.address, b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
        assert!(!running.metrics.encode().contains("reason=\"timeout\""));
        let slow = exchange(running.address, b"GET /livez HTTP/1.1\r\nhost:").await;
        assert!(!slow.contains("200"), "{slow}");
        let text = running.metrics.encode();
        assert!(text.contains("{reason=\"timeout\"} 1"), "{text}");
    }

    #[tokio::test]
    async fn too_many_connections_are_refused() {
        let running = start();
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            // An answer shows that the connection has its place.
            stream
                .write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .unwrap();
            assert!(stream.read(&mut [0; 256]).await.unwrap() > 0);
            held.push(stream);
        }
        assert_eq!(get(running.address, "/livez").await, "");
        assert!(running.metrics.encode().contains("{reason=\"too_many\"} 1"));
        drop(held);
        while !get(running.address, "/livez").await.contains("200") {}
    }

    #[tokio::test]
    async fn it_serves_during_the_drain_as_not_ready_and_does_not_hold_it_up() {
        let running = start();
        let (trigger, work) = drain::channel();
        drop(running.trigger);
        running.server.await.unwrap();

        let bound = AdminServer::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = bound.local_addr();
        let state = AdminState::new(Readiness::new(), MetricsRegistry::new());
        let server = task::spawn("admin", bound.run(state, work.clone()));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let draining = task::spawn("drain", trigger.drain(Duration::from_secs(30)));
        let mut seen = work.clone();
        seen.triggered().await;
        let answer = get(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("draining"),
            "{answer}"
        );
        drop((work, seen));
        assert!(draining.await.unwrap());
        server.await.unwrap();
    }

    #[test]
    fn a_setting_is_read_changed_and_kept_when_the_new_value_is_refused() {
        let held = Arc::new(std::sync::Mutex::new("1".to_owned()));
        let (read, write) = (Arc::clone(&held), held);
        let mut state = AdminState::new(Readiness::new(), MetricsRegistry::new());
        state.settings.push(Setting::new(
            "/debug/size",
            move || read.lock().unwrap().clone(),
            move |value| match value.parse::<u8>() {
                Ok(_) => {
                    value.clone_into(&mut write.lock().unwrap());
                    Ok(())
                }
                Err(error) => Err(format!("size {value:?} is not valid: {error}")),
            },
        ));
        let ask = |method: Method, path: &str, body: &[u8]| {
            let response = route(&method, path, body, &state, false);
            let status = response.status().as_u16();
            let body = response.into_body().collect().now_or_never().unwrap();
            let body = body.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        assert_eq!(ask(Method::GET, "/debug/size", b""), (200, "1\n".into()));
        assert_eq!(
            ask(Method::PUT, "/debug/size", b" 7\n"),
            (200, "7\n".into())
        );
        let (status, why) = ask(Method::PUT, "/debug/size", b"many");
        assert!(
            status == 400 && why.contains("\"many\" is not valid"),
            "{why}"
        );
        assert_eq!(ask(Method::GET, "/debug/size", b""), (200, "7\n".into()));
        assert_eq!(ask(Method::DELETE, "/debug/size", b"").0, 405);
        let (status, pages) = ask(Method::GET, "/nowhere", b"");
        assert!(status == 404 && pages.contains(" /debug/size\n"), "{pages}");
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let held = AdminServer::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        assert!(AdminServer::bind(held.local_addr()).unwrap_err().in_use());
    }
}
