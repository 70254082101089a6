//! A request body that can be sent again, as long as all that was read of it is still at hand.
//!
//! Owns the application's body and the first bytes of it. Reading past the bound gives up replay for good and frees what
//! was kept: a large upload costs no memory.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// Most bytes kept for a second sending: request bodies beyond this are uploads, not calls.
pub const MAX_KEPT: usize = 64 << 10;

struct Shared<B> {
    source: B,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Everything read so far is in `kept`.
    whole: bool,
    failed: bool,
    /// Only the newest attempt may read the source.
    attempt: u64,
}

/// The body, between attempts.
pub struct Replay<B>(Rc<RefCell<Shared<B>>>);

impl<B> std::fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = self.0.borrow();
        f.debug_struct("Replay")
            .field("kept", &s.kept_bytes)
            .field("whole", &s.whole)
            .finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    /// Takes over the application's body.
    pub fn new(source: B) -> Self {
        Self(Rc::new(RefCell::new(Shared {
            ended: source.is_end_stream(),
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            whole: true,
            failed: false,
            attempt: 0,
        })))
    }

    /// True while another attempt would send the same body from its first byte.
    pub fn is_replayable(&self) -> bool {
        let s = self.0.borrow();
        s.whole && !s.failed
    }

    /// The body for one attempt. The attempts before it end.
    pub fn attempt(&self) -> Attempt<B> {
        let mut s = self.0.borrow_mut();
        s.attempt += 1;
        Attempt {
            number: s.attempt,
            shared: Rc::clone(&self.0),
            next: 0,
            trailers_sent: false,
        }
    }
}

/// The body of one attempt: what is kept, then the rest of the source.
pub struct Attempt<B> {
    shared: Rc<RefCell<Shared<B>>>,
    number: u64,
    next: usize,
    trailers_sent: bool,
}

impl<B> std::fmt::Debug for Attempt<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Why an attempt's body failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The application's body failed.
    #[error("the caller's body failed: {0}")]
    Source(#[source] super::session::BoxError),
    /// A newer attempt reads the source now.
    #[error("a newer attempt took the body over")]
    Superseded,
}

impl<B> Body for Attempt<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<super::session::BoxError>,
{
    type Data = Bytes;
    type Error = ReplayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayError>>> {
        let this = &mut *self;
        let mut s = this.shared.borrow_mut();
        let s = &mut *s;
        if s.attempt != this.number {
            return Poll::Ready(Some(Err(ReplayError::Superseded)));
        }
        if let Some(chunk) = s.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if let Some(trailers) = s.trailers.as_ref().filter(|_| !this.trailers_sent) {
            this.trailers_sent = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        if s.ended {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut s.source).poll_frame(cx)) {
            None => {
                s.ended = true;
                Poll::Ready(None)
            }
            Some(Err(e)) => {
                s.failed = true;
                s.ended = true;
                Poll::Ready(Some(Err(ReplayError::Source(e.into()))))
            }
            Some(Ok(frame)) => {
                s.ended = s.source.is_end_stream();
                match frame.into_data() {
                    Ok(chunk) => {
                        s.keep(&chunk);
                        this.next = s.kept.len();
                        Poll::Ready(Some(Ok(Frame::data(chunk))))
                    }
                    Err(frame) => {
                        if let Some(trailers) = frame.trailers_ref() {
                            s.trailers = Some(trailers.clone());
                            this.trailers_sent = true;
                        }
                        Poll::Ready(Some(Ok(frame)))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let s = self.shared.borrow();
        s.attempt == self.number
            && s.ended
            && !s.failed
            && self.next >= s.kept.len()
            && (s.trailers.is_none() || self.trailers_sent)
    }

    fn size_hint(&self) -> SizeHint {
        let s = self.shared.borrow();
        if self.next == 0 && s.kept.is_empty() {
            s.source.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

impl<B> Shared<B> {
    fn keep(&mut self, chunk: &Bytes) {
        if !self.whole {
            return;
        }
        self.kept_bytes += chunk.len();
        if self.kept_bytes <= MAX_KEPT {
            self.kept.push(chunk.clone());
        } else {
            self.whole = false;
            self.kept = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, executor::block_on, stream};
    use http_body_util::{BodyExt, StreamBody};

    type Item = Result<Frame<Bytes>, std::io::Error>;

    fn body(frames: Vec<Item>) -> Replay<StreamBody<impl futures::Stream<Item = Item> + Unpin>> {
        Replay::new(StreamBody::new(stream::iter(frames).fuse()))
    }

    fn data(n: usize) -> Item {
        Ok(Frame::data(Bytes::from(vec![b'x'; n])))
    }

    #[test]
    fn it_comes_twice_with_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let r = body(vec![
            data(5),
            data(7),
            Ok(Frame::trailers(trailers.clone())),
        ]);
        for _ in 0..3 {
            let got = block_on(r.attempt().collect()).unwrap();
            assert_eq!(got.trailers(), Some(&trailers));
            assert_eq!(got.to_bytes().len(), 12);
        }
    }

    #[test]
    fn a_half_read_body_goes_on_where_it_was() {
        let r = body(vec![data(5), data(7)]);
        let mut first = r.attempt();
        block_on(first.frame()).unwrap().unwrap();
        assert_eq!(
            block_on(r.attempt().collect()).unwrap().to_bytes().len(),
            12
        );
        assert!(
            block_on(first.frame()).unwrap().is_err(),
            "the older attempt is over"
        );
    }

    #[test]
    fn past_the_bound_it_is_given_up() {
        let r = body(vec![data(MAX_KEPT), data(1), data(1)]);
        let mut a = r.attempt();
        block_on(a.frame()).unwrap().unwrap();
        assert!(r.is_replayable());
        block_on(a.frame()).unwrap().unwrap();
        assert!(!r.is_replayable());
        assert_eq!(r.0.borrow().kept.len(), 0, "nothing is held any more");
        block_on(a.frame()).unwrap().unwrap();
        assert!(block_on(a.frame()).is_none());
    }

    #[test]
    fn a_failed_source_is_not_replayed() {
        let r = body(vec![data(1), Err(std::io::Error::other("gone"))]);
        assert!(block_on(r.attempt().collect()).is_err());
        assert!(!r.is_replayable());
    }

    #[test]
    fn an_empty_body_is_at_its_end_at_once() {
        let r = Replay::new(http_body_util::Empty::<Bytes>::new());
        assert!(r.attempt().is_end_stream() && r.is_replayable());
    }
}
