//! One HTTP/1.1 connection to one address: for admin pages, and for the callers of the demo.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};
use tradewind_runtime::task;

/// Longest body that is read: a proxy that calls ten thousand services says a few MB of them.
const MAX_BODY: usize = 16 << 20;

/// An open connection; closed when dropped.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

/// Why there was no answer.
#[derive(Debug)]
pub struct NoAnswer {
    /// What went wrong.
    pub why: String,
    /// The request never left this process: the connection had been closed while it was idle.
    pub unsent: bool,
}

impl NoAnswer {
    fn new(what: &str, e: &dyn std::error::Error) -> Self {
        Self {
            why: format!("{what}: {e}"),
            unsent: false,
        }
    }
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self, NoAnswer> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|e| NoAnswer::new("connect", &e))?;
        stream
            .set_nodelay(true)
            .map_err(|e| NoAnswer::new("connect", &e))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| NoAnswer::new("connect", &e))?;
        let driver = task::spawn("demo http connection", async move {
            // Its end shows in the next send.
            drop(connection.await);
        });
        Ok(Self { sender, driver })
    }

    /// Whether another request can be sent.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// One GET.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer, NoAnswer> {
        let request = Request::get(path)
            .header(header::HOST, host)
            .body(Empty::new())
            .map_err(|e| NoAnswer::new("request", &e))?;
        self.sender.ready().await.map_err(|e| NoAnswer {
            unsent: true,
            ..NoAnswer::new("send", &e)
        })?;
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(|e| NoAnswer {
                unsent: e.is_canceled(),
                ..NoAnswer::new("send", &e)
            })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(|e| NoAnswer {
                why: format!("body: {e}"),
                unsent: false,
            })?
            .to_bytes();
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).trim().to_owned(),
        })
    }
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer, NoAnswer> {
    Connection::open(address)
        .await?
        .get(&address.to_string(), path)
        .await
}
