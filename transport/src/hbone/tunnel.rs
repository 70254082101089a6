//! A `CONNECT` tunnel: a byte stream on one h2 stream of a session.
//!
//! Reading returns credit as bytes are taken, writing never exceeds what the peer granted, so a tunnel holds at most one
//! stream window in memory. Dropping it without a shutdown resets the stream: the other side sees an abort.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tradewind_api::id::EndpointId;

use super::session::{SendError, StreamGuard, poll_room};

/// Most bytes that one write hands to h2: a large write is cut so that other streams get their turn.
const MAX_WRITE: usize = 64 << 10;

/// Why a tunnel was not opened.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// No answer.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The peer's proxy said no.
    #[error("the peer answered {status} to CONNECT{}", .unprocessed.as_ref().map(|u| format!(": {u}")).unwrap_or_default())]
    Answer {
        /// With what.
        status: StatusCode,
        /// Set when the application never saw anything of it.
        unprocessed: Option<String>,
    },
}

/// A byte stream to the peer's application.
#[derive(Debug)]
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    unread: Bytes,
    /// Counts the stream, and knows why the session ended when it does.
    guard: StreamGuard,
    taken_by: Option<EndpointId>,
}

impl Tunnel {
    pub(super) const fn new(
        send: SendStream<Bytes>,
        recv: RecvStream,
        guard: StreamGuard,
        taken_by: Option<EndpointId>,
    ) -> Self {
        Self {
            send,
            recv,
            unread: Bytes::new(),
            guard,
            taken_by,
        }
    }

    /// Whose application it leads to, where the peer said so.
    pub const fn taken_by(&self) -> Option<&EndpointId> {
        self.taken_by.as_ref()
    }

    fn broken(&self, error: &h2::Error) -> io::Error {
        let cause = self.guard.explain(error);
        let kind = match cause {
            SendError::Reset(Reason::NO_ERROR) => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, cause)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(chunk)) => this.unread = chunk,
                Some(Err(e)) => return Poll::Ready(Err(this.broken(&e))),
            }
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(this.unread.get(..n).unwrap_or_default());
        this.unread.advance(n);
        match this.recv.flow_control().release_capacity(n) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(this.broken(&e))),
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = &mut *self;
        let granted = match ready!(poll_room(&mut this.send, buf.len().min(MAX_WRITE), cx)) {
            Ok(granted) => granted,
            Err(e) => return Poll::Ready(Err(this.broken(&e))),
        };
        let chunk = Bytes::copy_from_slice(buf.get(..granted).unwrap_or_default());
        match this.send.send_data(chunk, false) {
            Ok(()) => Poll::Ready(Ok(granted)),
            Err(e) => Poll::Ready(Err(this.broken(&e))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The session's task writes whenever the socket takes bytes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.send.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            // Shut down before, or the peer is gone: either way nothing more is sent.
            Err(_) => Poll::Ready(Ok(())),
        }
    }
}
