//! One session: an mTLS HTTP/2 connection to one endpoint, with what is needed to use it and to know when it is gone.
//!
//! Owns the sending half of the connection and the task that drives it: keepalive, revocation and idleness end it there.
//! Every error says whether the peer can have seen the request; nothing is retried here.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::{Either, select};
use h2::{
    Reason, SendStream,
    client::{Connection, SendRequest},
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::{io::AsyncRead, io::AsyncWrite, sync::watch, time::Instant};
use tradewind_api::id::{EndpointId, ServicePortRef};
use tradewind_runtime::task;

use super::{
    headers,
    tunnel::{Tunnel, TunnelError},
};
use crate::{
    balance::detector::Failure,
    svid::Svid,
    trust::{PeerIdentity, TrustMap},
};

mod body;
mod drive;

pub use body::RecvBody;
use drive::Calls;
pub(super) use drive::{Active, Driver, prove};

/// Any error of a request body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A stream's window: enough for a gigabit at 8 ms without one stream starving the rest.
const STREAM_WINDOW: u32 = 1 << 20;
/// The connection's window. Also bounds what small frames may cost before h2 calls them abuse, so never below 8 MiB.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest frame taken: fewer headers and calls for bulk, still short enough to let other streams in between.
const MAX_FRAME: u32 = 64 << 10;
/// Largest header list taken from a peer.
const MAX_HEADER_LIST: u32 = 64 << 10;
/// Bytes that one stream may have waiting in this process before its writer is held back.
const MAX_SEND_BUFFER: usize = 256 << 10;
/// Streams opened before the peer has told its own limit.
const INITIAL_STREAMS: usize = 100;
/// A session is full at this many streams even if the peer allows more: a second connection then shares the work.
const MAX_STREAMS: usize = 512;

/// How an h2 client on our sessions is set up.
pub(super) fn h2_builder() -> h2::client::Builder {
    let mut b = h2::client::Builder::new();
    b.initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .initial_max_send_streams(INITIAL_STREAMS)
        .enable_push(false);
    b
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// In order: the peer said goodbye, or nobody needs it any more.
    #[error("session ended")]
    Ended,
    /// The connection broke.
    #[error("session broke: {0}")]
    Lost(String),
    /// The peer did not answer a ping in time.
    #[error("no answer to a keepalive ping")]
    Keepalive,
    /// The peer's authority is no longer accepted, or its certificate has ended.
    #[error("the peer is no longer trusted")]
    Revoked,
}

impl Closed {
    /// How the endpoint's detector should book it; `None` for an orderly end.
    pub const fn failure(&self) -> Option<Failure> {
        match self {
            Self::Ended => None,
            Self::Lost(_) => Some(Failure::Lost),
            Self::Keepalive => Some(Failure::Keepalive),
            Self::Revoked => Some(Failure::Identity),
        }
    }
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It never left: the session takes no more requests.
    #[error("the session takes no more requests")]
    Unsent,
    /// The peer said that it did not process it.
    #[error("the peer refused the stream")]
    Refused,
    /// The peer reset the stream; it may have processed the request.
    #[error("the peer reset the stream: {0}")]
    Reset(Reason),
    /// The session ended under it; the peer may have processed the request.
    #[error(transparent)]
    Lost(#[from] Closed),
    /// The request's own body failed: the caller went away.
    #[error("the request's body failed: {0}")]
    Body(BoxError),
    /// The response does not obey HTTP.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
}

impl SendError {
    /// True when the peer cannot have processed the request, whatever its method.
    pub const fn unprocessed(&self) -> bool {
        matches!(self, Self::Unsent | Self::Refused)
    }

    /// How the endpoint's detector should book it; `None` when it is not the endpoint's fault.
    pub const fn failure(&self) -> Option<Failure> {
        match self {
            Self::Unsent | Self::Body(_) => None,
            Self::Refused => Some(Failure::Refused),
            Self::Reset(_) | Self::Protocol(_) => Some(Failure::Reset),
            Self::Lost(closed) => closed.failure(),
        }
    }
}

/// A session. Cheap to clone; it lives while anybody holds it or a stream on it is open.
#[derive(Clone, Debug)]
pub struct Session(Rc<Inner>);

pub(super) struct Inner {
    /// Taken out when the session is retired: the connection then ends in order after its last stream.
    send: RefCell<Option<SendRequest<Bytes>>>,
    peer: PeerIdentity,
    /// The certificate it was dialled with.
    svid: Option<Arc<Svid>>,
    /// `host:port` it was dialled at.
    via: String,
    streams: Cell<usize>,
    /// Requests that were given a place on it in all its life, where somebody bounds them.
    placed: Cell<u32>,
    calls: Calls,
    used_at: Cell<Instant>,
    rtt: Cell<Duration>,
    closed: watch::Sender<Option<Closed>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer.id)
            .field("streams", &self.streams)
            .field("closed", &*self.closed.borrow())
            .finish_non_exhaustive()
    }
}

/// Counts one open stream.
#[derive(Debug)]
pub(super) struct StreamGuard(Rc<Inner>);

impl StreamGuard {
    fn new(inner: &Rc<Inner>) -> Self {
        inner.streams.set(inner.streams.get() + 1);
        inner.calls.made();
        Self(Rc::clone(inner))
    }

    /// What `error` means, now that the session's own state is known.
    pub(super) fn explain(&self, error: &h2::Error) -> SendError {
        self.0.explain(error)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.used_at.set(Instant::now());
    }
}

impl Inner {
    fn explain(&self, error: &h2::Error) -> SendError {
        if error.is_go_away() && error.is_remote() {
            // Streams above the farewell's last id only: the peer never looked at them.
            return SendError::Refused;
        }
        match error.reason() {
            Some(Reason::REFUSED_STREAM) if error.is_remote() => SendError::Refused,
            Some(reason) if error.is_reset() => SendError::Reset(reason),
            _ => SendError::Lost(
                self.closed
                    .borrow()
                    .clone()
                    .unwrap_or_else(|| Closed::Lost(error.to_string())),
            ),
        }
    }
}

impl Session {
    /// `host:port` it was dialled at: the endpoint itself, or the gateway it goes through.
    pub fn via(&self) -> &str {
        &self.0.via
    }

    /// Wraps an established connection and starts the task that drives it.
    pub(super) fn start<T>(
        send: SendRequest<Bytes>,
        driver: Driver<T>,
        peer: PeerIdentity,
        svid: Option<Arc<Svid>>,
        via: String,
        trust: watch::Receiver<Arc<TrustMap>>,
        on_closed: impl FnOnce(Closed) + 'static,
    ) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let inner = Rc::new(Inner {
            send: RefCell::new(Some(send)),
            peer,
            svid,
            via,
            streams: Cell::new(0),
            placed: Cell::new(0),
            calls: Calls::default(),
            used_at: Cell::new(Instant::now()),
            rtt: Cell::new(driver.rtt),
            closed: watch::Sender::new(None),
        });
        let own = Rc::clone(&inner);
        drop(task::spawn_local("hbone_session", async move {
            let closed = driver.run(&own, trust).await;
            tracing::debug!(peer = %own.peer.id, reason = %closed, "session closed");
            on_closed(closed);
        }));
        Self(inner)
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerIdentity {
        &self.0.peer
    }

    /// The certificate it was dialled with.
    pub fn svid(&self) -> Option<&Arc<Svid>> {
        self.0.svid.as_ref()
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        self.0.streams.get()
    }

    /// The last measured round trip.
    pub fn rtt(&self) -> Duration {
        self.0.rtt.get()
    }

    /// Why it ended, once it has.
    pub fn closed(&self) -> Option<Closed> {
        self.0.closed.borrow().clone()
    }

    /// True while new requests may be put on it.
    pub fn is_usable(&self) -> bool {
        self.0.send.borrow().is_some() && self.0.closed.borrow().is_none()
    }

    /// True when another stream should go on another session if possible.
    pub fn is_full(&self) -> bool {
        let limit = self
            .0
            .send
            .borrow()
            .as_ref()
            .map_or(0, |s| s.current_max_send_streams().min(MAX_STREAMS));
        self.0.streams.get() >= limit
    }

    /// Takes no more requests and ends after the last stream.
    pub fn retire(&self) {
        self.0.send.borrow_mut().take();
    }

    /// Gives a request one of the `most` places that there are on this session in all its life. False when there is none left: the
    /// session is retired then, and ends after those who have one.
    pub fn place(&self, most: u32) -> bool {
        let placed = self.0.placed.get();
        if placed >= most {
            self.retire();
            return false;
        }
        self.0.placed.set(placed + 1);
        true
    }

    async fn open(
        &self,
        head: Request<()>,
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>, StreamGuard), SendError> {
        let Some(mut send) = self.0.send.borrow().clone() else {
            return Err(SendError::Unsent);
        };
        let guard = StreamGuard::new(&self.0);
        let opened = match poll_fn(|cx| send.poll_ready(cx)).await {
            Ok(()) => send.send_request(head, end),
            Err(e) => Err(e),
        };
        match opened {
            Ok((response, stream)) => Ok((response, stream, guard)),
            Err(error) => {
                // A farewell or the end came first: nothing was sent, and nothing more will be.
                tracing::trace!(%error, "cannot open a stream");
                self.retire();
                Err(SendError::Unsent)
            }
        }
    }

    /// Sends a request and returns the response's head; its body, trailers and the rest of the request's body flow on
    /// by themselves. Dropping the future, or the response's body before its end, cancels the stream.
    pub async fn request<B>(
        &self,
        head: Request<()>,
        body: B,
    ) -> Result<Response<RecvBody>, SendError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let is_head = head.method() == Method::HEAD;
        let end = body.is_end_stream();
        let (response, stream, guard) = self.open(head, end).await?;
        let (response, pump) = if end {
            (response.await, None)
        } else {
            let pump = Box::pin(body::pump(body, stream));
            match select(response, pump).await {
                Either::Left((response, pump)) => (response, Some(pump)),
                Either::Right((Err(body::PumpError::Body(e)), _)) => {
                    return Err(SendError::Body(e));
                }
                // The stream broke or ended: the response tells how.
                Either::Right((_, response)) => (response.await, None),
            }
        };
        match response {
            Ok(response) => {
                let rest = pump.map(|pump| {
                    task::spawn_local("request_body", async move {
                        drop(pump.await);
                    })
                });
                let (parts, recv) = response.into_parts();
                let body = RecvBody::new(recv, guard, rest, content_length(&parts, is_head));
                Ok(Response::from_parts(parts, body))
            }
            Err(error) => Err(guard.explain(&error)),
        }
    }

    /// Opens a tunnel to `target` at the peer; where only one endpoint is meant, a peer that knows to be another one takes none.
    pub async fn connect(
        &self,
        target: &ServicePortRef,
        only: Option<&EndpointId>,
    ) -> Result<Tunnel, TunnelError> {
        let mut head = Request::new(());
        *head.method_mut() = Method::CONNECT;
        let authority = headers::connect_authority(target);
        *head.uri_mut() = authority
            .parse()
            .map_err(|_| SendError::Protocol("the service's name is no authority"))?;
        head.headers_mut()
            .insert(headers::SERVICE, headers::service_value(target));
        if let Some(id) = only {
            let id = headers::endpoint_value(id);
            head.headers_mut().insert(headers::ENDPOINT, id);
        }
        let (response, stream, guard) = self.open(head, false).await?;
        let response = response.await.map_err(|e| guard.explain(&e))?;
        if response.status() == StatusCode::OK {
            let taken_by = response.headers().get(headers::ENDPOINT);
            let taken_by = taken_by.and_then(headers::parse_endpoint);
            let recv = response.into_body();
            return Ok(Tunnel::new(stream, recv, guard, taken_by));
        }
        let unprocessed = response
            .headers()
            .get(headers::UNPROCESSED)
            .map(header_text);
        Err(TunnelError::Answer {
            status: response.status(),
            unprocessed,
        })
    }
}

/// A peer's header value, cut and made printable.
pub(super) fn header_text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes())
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

/// The length that the body must have, where the head tells it.
fn content_length(parts: &http::response::Parts, is_head: bool) -> Option<u64> {
    if is_head || parts.status == StatusCode::NOT_MODIFIED {
        return None;
    }
    parts
        .headers
        .get(http::header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Sends `chunk` as the peer's window allows, never more than was granted: h2 would buffer without bound.
async fn send_chunk(
    stream: &mut SendStream<Bytes>,
    mut chunk: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    while !chunk.is_empty() {
        let granted = poll_fn(|cx| poll_room(stream, chunk.len(), cx)).await?;
        let part = chunk.split_to(granted.min(chunk.len()));
        stream.send_data(part, end && chunk.is_empty())?;
    }
    Ok(())
}

/// How much of `want` may be sent now. While nothing may it also notices a peer that wants no more.
pub(super) fn poll_room(
    stream: &mut SendStream<Bytes>,
    want: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, h2::Error>> {
    stream.reserve_capacity(want);
    loop {
        // What was granted before and not used is not announced again, so it is asked for first.
        match stream.capacity() {
            0 => {}
            room => return Poll::Ready(Ok(room.min(want))),
        }
        match stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(e)),
            Poll::Ready(None) => return Poll::Ready(Err(Reason::CANCEL.into())),
            Poll::Pending => {
                return stream
                    .poll_reset(cx)
                    .map(|r| Err(r.map_or_else(|e| e, h2::Error::from)));
            }
        }
    }
}

/// The connection of a client session.
pub(super) type Conn<T> = Connection<Active<T>, Bytes>;
