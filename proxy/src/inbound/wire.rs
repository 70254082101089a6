//! HTTP/2 streams as the inbound side uses them: a request's body, a response being sent, and a tunnel's bytes.
//! Credit goes back to the caller only when bytes are taken, and nothing is queued beyond what the caller granted, so a
//! slow side holds back its own stream alone. A cut is always a reset: it must never look like an orderly end.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes one write hands to h2, so that the streams of a connection take turns.
const MAX_WRITE: usize = 64 << 10;

/// A request's body on its way to the application.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// As it arrives.
    Streamed(RecvStream, Part),
    /// None.
    Empty,
}

/// How far a request's body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Data,
    Trailers,
    Done,
}

impl RequestBody {
    pub(crate) fn new(stream: RecvStream) -> Self {
        if stream.is_end_stream() {
            Self::Empty
        } else {
            Self::Streamed(stream, Part::Data)
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Self::Streamed(stream, part) = self.get_mut() else {
            return Poll::Ready(None);
        };
        if *part == Part::Data {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    stream.flow_control().release_capacity(chunk.len())?;
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                Some(Err(error)) => {
                    *part = Part::Done;
                    return Poll::Ready(Some(Err(error)));
                }
                None => *part = Part::Trailers,
            }
        }
        if *part == Part::Trailers {
            let trailers = ready!(stream.poll_trailers(cx));
            *part = Part::Done;
            return Poll::Ready(trailers.transpose().map(|t| t.map(Frame::trailers)));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(stream, part) => *part == Part::Done || stream.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(..) => SizeHint::default(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// Why a response was not sent to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent<E> {
    /// The caller is gone or wants no more.
    #[error("the caller is gone")]
    Caller,
    /// The body failed; the caller was told by a reset.
    #[error(transparent)]
    Body(E),
}

impl<E> From<h2::Error> for Unsent<E> {
    fn from(_: h2::Error) -> Self {
        Self::Caller
    }
}

/// Sends a response to its end.
pub(crate) async fn respond<B>(
    mut to: SendResponse<Bytes>,
    response: Response<B>,
) -> Result<(), Unsent<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (parts, mut body) = response.into_parts();
    let end = body.is_end_stream();
    let mut stream = to.send_response(Response::from_parts(parts, ()), end)?;
    if end {
        return Ok(());
    }
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
                return Poll::Ready(Ok(frame));
            }
            // Waiting for the application: also notice a caller that wants no more.
            stream.poll_reset(cx).map(|_| Err(Unsent::Caller))
        })
        .await?;
        match frame {
            None => {
                stream.send_data(Bytes::new(), true)?;
                return Ok(());
            }
            Some(Err(error)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Err(Unsent::Body(error));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    let end = body.is_end_stream();
                    send(&mut stream, chunk, end).await?;
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

/// Sends one chunk as the caller grants room for it.
async fn send(
    stream: &mut SendStream<Bytes>,
    mut chunk: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    while !chunk.is_empty() {
        let room = poll_fn(|cx| poll_room(stream, chunk.len(), cx)).await?;
        let part = chunk.split_to(room.min(chunk.len()));
        let last = end && chunk.is_empty();
        stream.send_data(part, last)?;
    }
    Ok(())
}

/// How many of `wanted` bytes may be sent now; at least one.
fn poll_room(
    stream: &mut SendStream<Bytes>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, h2::Error>> {
    stream.reserve_capacity(wanted);
    loop {
        let room = stream.capacity();
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(error)),
            // The stream is closed: a reset says why, if there was one.
            None => {
                let reason = match stream.poll_reset(cx) {
                    Poll::Ready(Ok(reason)) => reason,
                    _ => Reason::STREAM_CLOSED,
                };
                return Poll::Ready(Err(reason.into()));
            }
        }
    }
}

/// A tunnel's bytes.
#[derive(Debug)]
pub(crate) struct StreamIo {
    send: SendStream<Bytes>,
    recv: RecvStream,
    unread: Bytes,
}

impl StreamIo {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self {
            send,
            recv,
            unread: Bytes::new(),
        }
    }

    /// Ends the tunnel so that the caller cannot take it for an orderly end.
    pub(crate) fn cut(mut self) {
        self.send.send_reset(Reason::CONNECT_ERROR);
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for StreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(this.recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                // Some peers end a tunnel that they have no more to say on with this (HBONE).
                Some(Err(e)) if e.reason() == Some(Reason::NO_ERROR) => return Poll::Ready(Ok(())),
                Some(Err(e)) => return Poll::Ready(Err(broken(e))),
                Some(Ok(chunk)) => this.unread = chunk,
            }
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(this.unread.get(..n).unwrap_or_default());
        this.unread.advance(n);
        Poll::Ready(this.recv.flow_control().release_capacity(n).map_err(broken))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        let wanted = buf.len().min(MAX_WRITE);
        let room = ready!(poll_room(&mut this.send, wanted, cx))
            .map_err(broken)?
            .min(wanted);
        let chunk = Bytes::copy_from_slice(buf.get(..room).unwrap_or_default());
        Poll::Ready(
            this.send
                .send_data(chunk, false)
                .map(|()| room)
                .map_err(broken),
        )
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes whenever the socket takes bytes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An error means that it was shut down before or the caller is gone: nothing more is sent in either case.
        let ended = self.get_mut().send.send_data(Bytes::new(), true);
        Poll::Ready(ended.or(Ok(())))
    }
}
