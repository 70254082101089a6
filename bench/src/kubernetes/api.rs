//! An administrator's client of one API server, over one HTTP/2 connection: as many writes at a time as the server lets through, and watches
//! whose lines are read as they come. Owns the connection. It shares nothing with what is measured.

use std::{sync::Arc, time::Duration};

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
use tokio::{net::TcpStream, time::sleep};
use tokio_rustls::TlsConnector;
use tradewind_tests::kubernetes::Clusters;

/// Writes under way at once.
const WRITERS: usize = 32;
/// How often an object is written that the API server had no time for; it gives up a request after a minute.
const ATTEMPTS: u32 = 10;
/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// Whom to call, and by what right.
#[derive(Clone)]
pub(super) struct Place {
    authority: String,
    host: String,
    tls: Arc<ClientConfig>,
}

/// Why a request did not succeed.
struct Failed {
    /// What was answered, if anything.
    status: Option<StatusCode>,
    text: String,
}

impl Failed {
    fn is(&self, status: StatusCode) -> bool {
        self.status == Some(status)
    }

    fn is_of_a_busy_server(&self) -> bool {
        self.is(StatusCode::TOO_MANY_REQUESTS) || self.status.is_some_and(|s| s.is_server_error())
    }
}

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Self { status: None, text }
    }
}

impl From<Failed> for String {
    fn from(failed: Failed) -> Self {
        failed.text
    }
}

#[derive(Clone)]
pub(super) struct Api {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
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
        let failed = |e: std::io::Error| format!("the API server at {}: {e}", self.authority);
        let stream = TcpStream::connect(&self.authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.map_err(failed)?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| e.to_string())?;
        drop(tradewind_runtime::task::spawn(
            "API connection",
            async move {
                // Its end shows in the requests on it.
                drop(connection.await);
            },
        ));
        Ok(Api {
            authority: self.authority.clone(),
            sender,
        })
    }
}

impl Api {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Response<Incoming>, Failed> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("https://{}{path}", self.authority))
            .header("accept", "application/json");
        let mut bytes = Bytes::new();
        if let Some((kind, value)) = body {
            request = request.header("content-type", kind);
            bytes = Bytes::from(value.to_string());
        }
        let request = request
            .body(Full::new(bytes))
            .map_err(|e| Failed::from(e.to_string()))?;
        let mut sender = self.sender.clone();
        let failed = |e: hyper::Error| Failed::from(format!("{method} {path}: {e}"));
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

    pub(super) async fn get(&self, path: &str) -> Result<Bytes, String> {
        let response = self.ask(Method::GET, path, None).await?;
        let body = response.into_body().collect().await;
        Ok(body.map_err(|e| format!("{path}: {e}"))?.to_bytes())
    }

    pub(super) async fn create(&self, path: &str, object: &Value) -> Result<(), String> {
        let mut attempt = 1;
        loop {
            let body = Some(("application/json", object));
            let failed = match self.ask(Method::POST, path, body).await {
                Ok(response) => {
                    let end = response.into_body().collect().await;
                    return end.map(drop).map_err(|e| format!("{path}: {e}"));
                }
                // An attempt that was given up made it all the same.
                Err(failed) if attempt > 1 && failed.is(StatusCode::CONFLICT) => return Ok(()),
                Err(failed) => failed,
            };
            if attempt == ATTEMPTS || !failed.is_of_a_busy_server() {
                return Err(failed.text);
            }
            attempt += 1;
            sleep(AGAIN).await;
        }
    }

    /// Many of them, each with its path, by several writers.
    pub(super) async fn create_all(
        &self,
        objects: impl Iterator<Item = (String, Value)>,
    ) -> Result<(), String> {
        stream::iter(objects)
            .map(|(path, object)| async move { self.create(&path, &object).await })
            .buffer_unordered(WRITERS)
            .try_for_each(async |()| Ok(()))
            .await
    }

    pub(super) async fn patch(&self, path: &str, patch: &Value) -> Result<(), String> {
        let body = Some(("application/merge-patch+json", patch));
        let response = self.ask(Method::PATCH, path, body).await?;
        let end = response.into_body().collect().await;
        end.map(drop).map_err(|e| format!("{path}: {e}"))
    }

    /// Hands on each event of a watch until it ends.
    pub(super) async fn watch(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        let mut body = self.ask(Method::GET, path, None).await?.into_body();
        let mut begun = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| format!("{path}: {e}"))?;
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
