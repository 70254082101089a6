//! An administrator's client of one API server, over one HTTP/2 connection at a time: as many writes at a time as the server lets through, and
//! watches whose lines are read as they come. Owns the connection, and opens another one when that breaks. It shares nothing with what is measured.

use std::{
    error::Error,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, client::conn::http2::SendRequest,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tradewind_tests::kubernetes::Clusters;

/// Writes under way at once.
const WRITERS: usize = 32;
/// How often a request is made that the API server had no time for, or whose connection or stream broke.
const ATTEMPTS: u32 = 10;
/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest for one attempt. The API server gives up a request after a minute.
const ATTEMPT: Duration = Duration::from_secs(90);
/// Longest until a connection is open.
const CONNECT: Duration = Duration::from_secs(10);

/// Whom to call, and by what right.
#[derive(Clone)]
pub(super) struct Place {
    authority: String,
    host: String,
    tls: Arc<ClientConfig>,
}

/// Why a request did not succeed.
struct Failed {
    /// What was answered; none where the connection or the stream broke.
    status: Option<StatusCode>,
    text: String,
}

impl Failed {
    fn is(&self, status: StatusCode) -> bool {
        self.status == Some(status)
    }

    /// The same request may do better a little later.
    fn passes(&self) -> bool {
        self.status.is_none_or(|status| {
            status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
        })
    }
}

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Self { status: None, text }
    }
}

/// An error with its causes: by itself hyper's says no more than "http2 error".
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string does not fail.
        let _ok = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

impl From<Failed> for String {
    fn from(failed: Failed) -> Self {
        failed.text
    }
}

/// See the module.
pub(super) struct Api {
    place: Place,
    /// The connection, and how many there were.
    connection: Mutex<(u64, SendRequest<Full<Bytes>>)>,
    /// Requests that were made again.
    again: AtomicU64,
}

impl Place {
    /// Of a cluster, with the certificate of its kubeconfig.
    pub(super) async fn of(clusters: &Clusters, name: &str) -> Result<Self, String> {
        let view = ["config", "view", "--raw", "--minify", "-o", "json"];
        let config = clusters.kubectl(name, &view).await.good().json();
        let pem = |pointer: &str| {
            let text = config.pointer(pointer).and_then(Value::as_str);
            let text = text.ok_or_else(|| format!("the kubeconfig has no {pointer}"))?;
            data_encoding::BASE64
                .decode(text.as_bytes())
                .map_err(|e| format!("{pointer}: {e}"))
        };
        let ca = pem("/clusters/0/cluster/certificate-authority-data")?;
        let certificate = pem("/users/0/user/client-certificate-data")?;
        let key = pem("/users/0/user/client-key-data")?;
        let bad = |e: rustls::pki_types::pem::Error| e.to_string();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&ca).map_err(bad)?)
            .map_err(|e| e.to_string())?;
        let certificate = CertificateDer::from_pem_slice(&certificate).map_err(bad)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(bad)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .map_err(|e| e.to_string())?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server = &clusters.cluster(name).server;
        let authority = server.strip_prefix("https://").unwrap_or(server).to_owned();
        let host = authority
            .rsplit_once(':')
            .map_or(authority.as_str(), |(host, _)| host);
        Ok(Self {
            host: host.to_owned(),
            authority,
            tls: Arc::new(tls),
        })
    }

    pub(super) async fn connect(&self) -> Result<Api, String> {
        Ok(Api {
            place: self.clone(),
            connection: Mutex::new((0, self.open().await?)),
            again: AtomicU64::new(0),
        })
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let late = |_| format!("{} opened no connection in {CONNECT:?}", self.authority);
        timeout(CONNECT, self.handshakes()).await.map_err(late)?
    }

    async fn handshakes(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let failed = |e: std::io::Error| format!("the API server at {}: {e}", self.authority);
        let stream = TcpStream::connect(&self.authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.map_err(failed)?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| whole(&e))?;
        drop(tradewind_runtime::task::spawn(
            "API connection",
            async move {
                // Its end shows in the requests on it.
                drop(connection.await);
            },
        ));
        Ok(sender)
    }
}

impl Api {
    /// The connection and its number; another one in place of one that is closed.
    async fn sender(&self) -> Result<(u64, SendRequest<Full<Bytes>>), String> {
        let mut connection = self.connection.lock().await;
        if connection.1.is_closed() {
            let opened = self.place.open().await?;
            *connection = (connection.0 + 1, opened);
        }
        Ok(connection.clone())
    }

    /// One attempt.
    async fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<Response<Incoming>, Failed> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.place.authority))
            .header("accept", "application/json");
        let mut bytes = Bytes::new();
        if let Some((kind, value)) = body {
            request = request.header("content-type", kind);
            bytes = value;
        }
        let request = request
            .body(Full::new(bytes))
            .map_err(|e| Failed::from(e.to_string()))?;
        let (number, mut sender) = self.sender().await?;
        let failed = |e: hyper::Error| {
            Failed::from(format!(
                "{method} {path} on connection {number}: {}",
                whole(&e)
            ))
        };
        sender.ready().await.map_err(failed)?;
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let said = response.into_body().collect().await.map_err(failed)?;
        let said = String::from_utf8_lossy(&said.to_bytes()).into_owned();
        Err(Failed {
            status: Some(status),
            text: format!("{method} {path}: {status}: {said}"),
        })
    }

    /// One attempt, with the whole answer.
    async fn answered(
        &self,
        method: &Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<Bytes, Failed> {
        let answer = async {
            let response = self.ask(method, path, body).await?;
            let body = response.into_body().collect().await;
            let body = body.map_err(|e| Failed::from(format!("{method} {path}: {}", whole(&e))))?;
            Ok(body.to_bytes())
        };
        let late = |_| Failed::from(format!("{method} {path}: no answer in {ATTEMPT:?}"));
        timeout(ATTEMPT, answer).await.map_err(late)?
    }

    /// As many attempts as it may need. What is made was made, too, by an attempt that was given up.
    async fn until_answered(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Bytes, String> {
        let body = body.map(|(kind, value)| (kind, Bytes::from(value.to_string())));
        let mut attempt = 1;
        loop {
            let failed = match self.answered(&method, path, body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(failed)
                    if attempt > 1 && method == Method::POST && failed.is(StatusCode::CONFLICT) =>
                {
                    return Ok(Bytes::new());
                }
                Err(failed) => failed,
            };
            if attempt == ATTEMPTS || !failed.passes() {
                return Err(format!("{}, at attempt {attempt}", failed.text));
            }
            if self.again.fetch_add(1, Ordering::Relaxed) == 0 {
                eprintln!("  made again, and perhaps others after it: {}", failed.text);
            }
            attempt += 1;
            sleep(AGAIN).await;
        }
    }

    /// How many attempts were made again.
    pub(super) fn again(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    /// One attempt: for what may not be there yet.
    pub(super) async fn has(&self, path: &str) -> bool {
        self.answered(&Method::GET, path, None).await.is_ok()
    }

    pub(super) async fn get(&self, path: &str) -> Result<Bytes, String> {
        self.until_answered(Method::GET, path, None).await
    }

    pub(super) async fn create(&self, path: &str, object: &Value) -> Result<(), String> {
        let body = Some(("application/json", object));
        let made = self.until_answered(Method::POST, path, body).await;
        made.map(drop)
    }

    /// Many of them, each with its path, by several writers; `made` counts them.
    pub(super) async fn create_all(
        &self,
        objects: impl Iterator<Item = (String, Value)>,
        made: &AtomicUsize,
    ) -> Result<(), String> {
        stream::iter(objects)
            .map(|(path, object)| async move {
                self.create(&path, &object).await?;
                made.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .buffer_unordered(WRITERS)
            .try_for_each(async |()| Ok(()))
            .await
    }

    pub(super) async fn patch(&self, path: &str, patch: &Value) -> Result<(), String> {
        let body = Some(("application/merge-patch+json", patch));
        let patched = self.until_answered(Method::PATCH, path, body).await;
        patched.map(drop)
    }

    /// Hands on each event of a watch until it ends.
    pub(super) async fn watch(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        let mut body = self.ask(&Method::GET, path, None).await?.into_body();
        let mut begun = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| format!("{path}: {}", whole(&e)))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let known = begun.len();
            begun.extend_from_slice(&data);
            let mut from = known;
            while let Some(at) = begun.iter().skip(from).position(|b| *b == b'\n') {
                take(&begun.split_to(from + at + 1));
                from = 0;
            }
        }
        Ok(())
    }
}
