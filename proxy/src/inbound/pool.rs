//! Connections to the applications, per thread: HTTP/1.1 ones that are kept for the next request, HTTP/2 ones that are
//! shared. It says of every failure whether the application can have seen the request; it never sends one twice itself.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{self, Instant},
};
use tradewind_runtime::{clock::SharedClock, task};
use tradewind_transport::marked;

use super::{exec::LocalExec, hearing::Hearing};

/// How long the application may take to accept a connection: it is on this host or beside it.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections kept per application and thread.
const MAX_IDLE: usize = 64;
/// How long one is kept: shorter than the shortest keep-alive that servers commonly have (2 s), because a request that
/// meets a closing connection may be lost.
const MAX_IDLE_AGE: Duration = Duration::from_secs(1);
/// Streams on one HTTP/2 connection before another is opened: servers commonly allow 100.
const STREAMS_PER_CONNECTION: usize = 90;
/// HTTP/2 connections per application and thread; beyond it streams wait inside the last one.
const MAX_HTTP2: usize = 16;
/// HTTP/2 windows: a stream's bulk at loopback speed, and room for many streams (and for many tiny frames, see h2 0.4.19).
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Most that waits in one HTTP/2 stream to be sent.
const SEND_BUFFER: usize = 1 << 20;
/// Largest response head: what servers accept of requests is at most this, and responses are smaller.
const MAX_HEAD: usize = 128 << 10;

/// Why the application did not answer.
#[derive(Debug)]
pub(crate) enum Failed<B> {
    /// It did not take a connection; the request is untouched.
    Connect(std::io::Error),
    /// The request was certainly not processed, and is handed back if it is whole.
    Unsent(Option<Box<Request<B>>>),
    /// It may have been processed.
    Maybe {
        error: hyper::Error,
        /// The connection had served a request before: it may have been closing all along.
        reused: bool,
    },
}

#[derive(Debug)]
struct Idle<B> {
    sender: http1::SendRequest<B>,
    since: Instant,
}

#[derive(Debug)]
struct Shared<B> {
    sender: http2::SendRequest<B>,
    streams: Rc<Cell<usize>>,
}

/// One application's connections on one thread.
#[derive(Debug)]
pub(crate) struct AppPool<B> {
    address: String,
    mark: Option<u32>,
    clock: SharedClock,
    idle: RefCell<Vec<Idle<B>>>,
    shared: RefCell<Vec<Shared<B>>>,
}

/// What a response holds until its body ended.
pub(crate) struct Lease(Held);

enum Held {
    Http1(Box<dyn FnOnce()>),
    Http2(StreamCount),
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Held::Http1(_) => "Lease(http1)",
            Held::Http2(_) => "Lease(http2)",
        })
    }
}

impl Lease {
    /// The body ended in order. Dropping a lease instead closes an HTTP/1.1 connection.
    pub(crate) fn give_back(self) {
        match self.0 {
            Held::Http1(give_back) => give_back(),
            Held::Http2(count) => drop(count),
        }
    }
}

struct StreamCount(Rc<Cell<usize>>);

impl StreamCount {
    fn new(streams: &Rc<Cell<usize>>) -> Self {
        streams.set(streams.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Dials the application, from a socket with `mark` where there is one: it may be on another host, and must not be captured.
pub(crate) async fn dial(address: &str, mark: Option<u32>) -> std::io::Result<TcpStream> {
    let stream = time::timeout(DIAL_TIMEOUT, marked::connect(address, mark))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl<B> AppPool<B>
where
    B: hyper::body::Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// For the application at `address` (`host:port`).
    pub(crate) fn new(address: String, mark: Option<u32>, clock: SharedClock) -> Rc<Self> {
        Rc::new(Self {
            address,
            mark,
            clock,
            idle: RefCell::default(),
            shared: RefCell::default(),
        })
    }

    /// Sends over HTTP/1.1: on a kept connection if there is one, unless `fresh`.
    pub(crate) async fn http1(
        self: &Rc<Self>,
        request: Request<B>,
        fresh: bool,
    ) -> Result<(Response<Incoming>, Lease), Failed<B>> {
        let kept = if fresh { None } else { self.kept().await };
        let reused = kept.is_some();
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.dial_http1().await?,
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                let pool = Rc::clone(self);
                let lease = Held::Http1(Box::new(move || pool.keep(sender)));
                Ok((response, Lease(lease)))
            }
            Err(mut error) => match error.take_message() {
                Some(request) => Err(Failed::Unsent(Some(Box::new(request)))),
                None => Err(Failed::Maybe {
                    error: error.into_error(),
                    reused,
                }),
            },
        }
    }

    /// Sends over HTTP/2 with prior knowledge.
    pub(crate) async fn http2(
        self: &Rc<Self>,
        request: Request<B>,
    ) -> Result<(Response<Incoming>, Lease), Failed<B>> {
        let (mut sender, count) = match self.sharing() {
            Some(shared) => shared,
            None => self.dial_http2().await?,
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, Lease(Held::Http2(count)))),
            Err(mut error) => match error.take_message() {
                Some(request) => Err(Failed::Unsent(Some(Box::new(request)))),
                None => {
                    let error = error.into_error();
                    if refused(&error) {
                        return Err(Failed::Unsent(None));
                    }
                    Err(Failed::Maybe {
                        error,
                        reused: false,
                    })
                }
            },
        }
    }

    /// A kept connection that is ready now.
    async fn kept(&self) -> Option<http1::SendRequest<B>> {
        let now = self.clock.now();
        loop {
            let idle = self.idle.borrow_mut().pop()?;
            if now.duration_since(idle.since) > MAX_IDLE_AGE {
                // The newest is too old, so all are.
                self.idle.borrow_mut().clear();
                return None;
            }
            if idle.sender.is_closed() {
                continue;
            }
            // Given back at the end of its body: the connection's task may need a turn to notice. One that is still
            // not ready has an upload under way, and ends with it once its sender is dropped here.
            if !idle.sender.is_ready() {
                tokio::task::yield_now().await;
            }
            if idle.sender.is_ready() {
                return Some(idle.sender);
            }
        }
    }

    /// True when [`AppPool::http1`] may take a kept connection.
    pub(crate) fn has_kept(&self) -> bool {
        !self.idle.borrow().is_empty()
    }

    fn keep(&self, sender: http1::SendRequest<B>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push(Idle {
                sender,
                since: self.clock.now(),
            });
        }
    }

    /// Closes what has been idle too long. Called now and then, for pools that nobody asks any more.
    pub(crate) fn sweep(&self) {
        let now = self.clock.now();
        self.idle
            .borrow_mut()
            .retain(|i| !i.sender.is_closed() && now.duration_since(i.since) <= MAX_IDLE_AGE);
        self.shared.borrow_mut().retain(|s| !s.sender.is_closed());
    }

    async fn dial_http1(&self) -> Result<http1::SendRequest<B>, Failed<B>> {
        let stream = dial(&self.address, self.mark)
            .await
            .map_err(Failed::Connect)?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(Hearing::new(stream)))
            .await
            .map_err(|e| Failed::Connect(std::io::Error::other(e)))?;
        drive("app connection", connection);
        Ok(sender)
    }

    fn sharing(&self) -> Option<(http2::SendRequest<B>, StreamCount)> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|s| !s.sender.is_closed());
        let full = shared.len() >= MAX_HTTP2;
        let least = shared.iter().min_by_key(|s| s.streams.get())?;
        (full || least.streams.get() < STREAMS_PER_CONNECTION)
            .then(|| (least.sender.clone(), StreamCount::new(&least.streams)))
    }

    async fn dial_http2(&self) -> Result<(http2::SendRequest<B>, StreamCount), Failed<B>> {
        let stream = dial(&self.address, self.mark)
            .await
            .map_err(Failed::Connect)?;
        let (sender, connection) = http2::Builder::new(LocalExec)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| Failed::Connect(std::io::Error::other(e)))?;
        drive("app connection", connection);
        let streams = Rc::new(Cell::new(0));
        let count = StreamCount::new(&streams);
        self.shared.borrow_mut().push(Shared {
            sender: sender.clone(),
            streams,
        });
        Ok((sender, count))
    }
}

fn drive(name: &'static str, connection: impl Future<Output = Result<(), hyper::Error>> + 'static) {
    // Detached: it ends when its senders are gone or the application closes.
    drop(task::spawn_local(name, async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the application ended");
        }
    }));
}

/// True when the application's HTTP/2 says that it did not process the stream.
fn refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            let reason = h2.reason();
            return h2.is_remote()
                && (reason == Some(h2::Reason::REFUSED_STREAM)
                    || (h2.is_go_away() && reason == Some(h2::Reason::NO_ERROR)));
        }
        source = cause.source();
    }
    false
}
