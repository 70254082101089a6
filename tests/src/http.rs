//! A small HTTP/1.1 client: one connection, one request at a time. Owns the connection.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest wait for an answer.
pub const LIMIT: Duration = Duration::from_secs(10);

/// An error as text: tests print it and compare nothing but its being there.
pub type Error = String;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// The answer if it is a 200.
    pub fn ok(self) -> Result<Self, Error> {
        match self.status {
            200 => Ok(self),
            status => Err(format!("status {status}: {}", self.text())),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client<B> {
    sender: SendRequest<B>,
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|e| format!("{address}: {e}"))?;
        Self::over(stream).await
    }

    /// Over a connection that is there.
    pub async fn over(stream: TcpStream) -> Result<Self, Error> {
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        tradewind_runtime::task::spawn("test http connection", async move {
            drop(connection.with_upgrades().await);
        });
        Ok(Self { sender })
    }

    /// Whether the other side has not closed it, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends and returns the head; the body streams.
    pub async fn send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<hyper::body::Incoming>, Error> {
        self.sender.ready().await.map_err(|e| e.to_string())?;
        self.sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())
    }

    /// Sends and reads the whole answer.
    pub async fn ask(&mut self, request: Request<B>) -> Result<Answer, Error> {
        let (head, body) = self.send(request).await?.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

/// One request on a connection of its own, with these fields and this body.
pub async fn ask(
    to: SocketAddr,
    (method, path): (&str, &str),
    fields: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::from(body.to_owned()));
    let request = request.body(body).expect("a request");
    let mut client = Client::open(to).await.expect("a connection");
    client.ask(request).await.expect("an answer")
}

/// A GET request for a path.
pub fn get_request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path)
        .header("host", "payments.shop")
        .body(Empty::new())
        .expect("a valid request")
}

/// A host's name as a field's value.
pub fn host(name: &str) -> Result<http::HeaderValue, Error> {
    name.parse()
        .map_err(|e: http::header::InvalidHeaderValue| e.to_string())
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer, Error> {
    let whole = async { Client::open(address).await?.ask(get_request(path)).await };
    tokio::time::timeout(LIMIT, whole)
        .await
        .unwrap_or_else(|_| Err(format!("{address}{path}: no answer in {LIMIT:?}")))
}
