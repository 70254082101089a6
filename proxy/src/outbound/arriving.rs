//! A request's body as it comes from an application. Of one that nobody wants any more, because the answer came before its end, the rest
//! is read and dropped for a while where the application speaks HTTP/1: a connection that is closed while bytes of it are unread is reset
//! by the kernel, and whoever is still sending then sees the reset in place of the answer. HTTP/2 has a word for it, which hyper says.
//!
//! Owns the body from the request's head to its end, or to the bounds below.

use std::{
    cell::Cell,
    convert::Infallible,
    future::pending,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, Version,
    header::{CONNECTION, EXPECT},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// How long the rest of a body is read, as nginx reads it (`lingering_time`): within it a client hears the answer that looks for one at
/// all while it sends.
const DISCARD_FOR: Duration = Duration::from_secs(30);
/// How long a client may be silent meanwhile, as with nginx (`lingering_timeout`): two retransmissions of a lost packet fit in.
const DISCARD_IDLE: Duration = Duration::from_secs(5);
/// Most bytes that are read so. nginx has no such bound, and Go's server reads 256 KiB, which uploads exceed. This is many times what
/// servers take by themselves in one request (nginx: 1 MiB, `client_max_body_size`); who sends more without looking up is not listening,
/// and would have a data thread read for nothing as fast as it can.
pub(super) const MAX_DISCARDED: usize = 64 << 20;

/// A request's body on its way from the application.
#[derive(Debug)]
pub(super) struct Arriving {
    /// Taken out by its end alone.
    body: Option<Incoming>,
    /// Who reads the rest of it.
    rest: Option<Discards>,
    /// Where its application waits to be told to send it.
    told: Told,
}

/// Where a connection's bodies go that nobody wants any more. There is one at a time: the next request comes behind it.
#[derive(Clone, Debug)]
pub(super) struct Discards(mpsc::Sender<Incoming>);

/// The other end of it.
#[derive(Debug)]
pub(super) struct Discarding(mpsc::Receiver<Incoming>);

/// Whether an application was told to send its body, where it waits for that (RFC 9110 section 10.1.1). hyper says so when the body is
/// first read.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(Option<Rc<Cell<bool>>>);

/// Both ends, for one connection.
pub(super) fn discards() -> (Discards, Discarding) {
    let (tx, rx) = mpsc::channel(1);
    (Discards(tx), Discarding(rx))
}

impl Arriving {
    /// Takes over a request's body. Without somebody to read the rest of it, it is left where it is, as it is with HTTP/2.
    pub(super) fn of(request: Request<Incoming>, rest: Option<Discards>) -> Request<Self> {
        let waits = rest.is_some() && awaits(request.version(), request.headers());
        request.map(|body| Self {
            told: Told((waits && !body.is_end_stream()).then(Rc::default)),
            body: Some(body),
            rest,
        })
    }

    /// Whether its application was told to send it, as it will be known when the answer is there.
    pub(super) fn told(&self) -> Told {
        self.told.clone()
    }
}

impl Told {
    fn tell(&self) {
        if let Some(told) = &self.0 {
            told.set(true);
        }
    }

    fn is_waiting(&self) -> bool {
        self.0.as_ref().is_some_and(|told| !told.get())
    }

    /// Says in the answer that the connection ends with it where a body was never asked for: what comes next may be that body all the
    /// same, or another request, and only the client knows.
    pub(super) fn end<B>(&self, response: &mut Response<B>) {
        if self.is_waiting() && !response.status().is_informational() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
    }
}

/// Whether a client sends its body only when it is told to. HTTP/1.0 knows nothing of that.
fn awaits(version: Version, fields: &HeaderMap) -> bool {
    let expected = fields.get(EXPECT).map(HeaderValue::as_bytes);
    version == Version::HTTP_11 && expected.is_some_and(|e| e.eq_ignore_ascii_case(b"100-continue"))
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        this.told.tell();
        let polled = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(polled, Some(Ok(_))) {
            this.body = None;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let known = self.body.as_ref().map(Body::size_hint);
        known.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.is_end_stream() || self.told.is_waiting() {
            return;
        }
        if let (Some(body), Some(rest)) = (self.body.take(), &self.rest) {
            // Without its connection nothing more comes.
            drop(rest.0.try_send(body));
        }
    }
}

impl Discarding {
    /// Reads what nobody wants, as long as the connection lives that it is of. Never ends by itself.
    pub(super) async fn run(mut self) -> Infallible {
        while let Some(body) = self.0.recv().await {
            discard(body).await;
        }
        pending().await
    }
}

/// Reads a body to its end or to a bound, where it is dropped: its connection is closed then.
async fn discard(body: impl Body<Data = Bytes>) {
    let mut body = pin!(body);
    let until = Instant::now() + DISCARD_FOR;
    let mut left = MAX_DISCARDED;
    loop {
        let silent = Instant::now() + DISCARD_IDLE;
        match timeout_at(silent.min(until), body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let Some(rest) = left.checked_sub(bytes) else {
                    break;
                };
                left = rest;
            }
            // Its end, or its connection's.
            Ok(Some(Err(_)) | None) => return,
            Err(_) => break,
        }
    }
    tracing::debug!(
        read = MAX_DISCARDED - left,
        "a client that was answered sends on or hangs; it is cut off"
    );
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream::{self, StreamExt as _};
    use http_body_util::StreamBody;
    use tokio::time::sleep;

    use super::*;

    /// A client that sends a piece of so many bytes after each pause, so often.
    fn client(pause: Duration, bytes: usize, pieces: usize) -> impl Body<Data = Bytes> {
        let piece = Bytes::from(vec![0; bytes]);
        let pieces = stream::repeat(piece)
            .take(pieces)
            .then(move |piece| async move {
                sleep(pause).await;
                Ok::<_, Infallible>(Frame::data(piece))
            });
        StreamBody::new(pieces)
    }

    async fn seconds(body: impl Body<Data = Bytes>) -> u64 {
        let started = Instant::now();
        discard(body).await;
        started.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_to_its_end_or_to_a_bound() {
        let second = Duration::from_secs(1);
        assert_eq!(seconds(client(second, 1 << 20, 8)).await, 8, "to its end");
        let silent = client(6 * second, 1, 1);
        assert_eq!(seconds(silent).await, 5, "a silent client");
        let slow = client(4 * second, 1, 100);
        assert_eq!(seconds(slow).await, 30, "one that goes on slowly");
        let endless = client(second, 8 << 20, 100);
        assert_eq!(seconds(endless).await, 9, "one that goes on fast");
    }
}
