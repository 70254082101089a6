//! Bodies on a session's streams: the response's as it arrives, and the pump that sends the request's.
//!
//! Credit goes back to the peer when a chunk is handed on, so a slow reader holds back its own stream only.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::{BoxError, SendError, StreamGuard, send_chunk};

/// A response's body, from the peer's stream.
#[derive(Debug)]
pub struct RecvBody {
    stream: RecvStream,
    guard: StreamGuard,
    /// The request's body, if it is still being sent: without a reader of the response nobody needs it.
    pump: Option<JoinHandle<()>>,
    /// What is still to come, where the head told.
    left: Option<u64>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Done,
}

impl RecvBody {
    pub(super) fn new(
        stream: RecvStream,
        guard: StreamGuard,
        pump: Option<JoinHandle<()>>,
        left: Option<u64>,
    ) -> Self {
        let state = if stream.is_end_stream() {
            State::Done
        } else {
            State::Data
        };
        Self {
            stream,
            guard,
            pump,
            left,
            state,
        }
    }
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = SendError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        let this = &mut *self;
        if this.state == State::Data {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    let n = chunk.len();
                    if let Some(left) = &mut this.left {
                        *left = left.saturating_sub(n as u64);
                    }
                    if let Err(e) = this.stream.flow_control().release_capacity(n) {
                        this.state = State::Done;
                        return Poll::Ready(Some(Err(this.guard.explain(&e))));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                // The peer has answered in full and wants no more of the request.
                Some(Err(e))
                    if e.reason() == Some(Reason::NO_ERROR) && this.left.is_none_or(|l| l == 0) =>
                {
                    this.state = State::Done;
                    return Poll::Ready(None);
                }
                Some(Err(e)) => {
                    this.state = State::Done;
                    return Poll::Ready(Some(Err(this.guard.explain(&e))));
                }
                None => this.state = State::Trailers,
            }
        }
        if this.state == State::Trailers {
            let trailers = ready!(this.stream.poll_trailers(cx));
            this.state = State::Done;
            return Poll::Ready(match trailers {
                Ok(Some(t)) => Some(Ok(Frame::trailers(t))),
                Ok(None) => None,
                Err(e) if e.reason() == Some(Reason::NO_ERROR) => None,
                Err(e) => Some(Err(this.guard.explain(&e))),
            });
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Done || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for RecvBody {
    fn drop(&mut self) {
        if let Some(pump) = self.pump.take().filter(|_| !self.is_end_stream()) {
            pump.abort();
        }
    }
}

/// Why a request's body was not sent to its end.
#[derive(Debug)]
pub(super) enum PumpError {
    /// The body itself failed.
    Body(BoxError),
    /// The stream broke, or the peer wants no more; its response says why.
    Stream,
}

impl From<h2::Error> for PumpError {
    fn from(_: h2::Error) -> Self {
        Self::Stream
    }
}

/// Sends a body and its trailers. Dropped before the end, it cancels the stream.
pub(super) async fn pump<B>(mut body: B, mut stream: SendStream<Bytes>) -> Result<(), PumpError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
                return Poll::Ready(Ok(frame));
            }
            // Waiting for the application: also notice a peer that wants no more.
            stream.poll_reset(cx).map(|_| Err(PumpError::Stream))
        })
        .await?;
        match frame {
            None => {
                stream.send_data(Bytes::new(), true)?;
                return Ok(());
            }
            Some(Err(e)) => {
                stream.send_reset(Reason::CANCEL);
                return Err(PumpError::Body(e.into()));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    let end = body.is_end_stream();
                    send_chunk(&mut stream, chunk, end).await?;
                    if end {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        stream.send_trailers(trailers)?;
                        return Ok(());
                    }
                }
            },
        }
    }
}
