//! What one request adds up to, from its head to the end of its response; counted when it is dropped, however it ended.
//!
//! It allocates nothing but a shared byte count for a request that has a body, and reads the clock twice.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tradewind_transport::grpc::MessageCounter;

use super::{
    pair::Pair,
    series::{Ending, Flags},
};
use crate::telemetry::{End, Notes};

const GRPC: &[u8] = b"application/grpc";
const GRPC_STATUS: &str = "grpc-status";
/// The statuses that gRPC has end here; any other number is made up.
const MAX_GRPC_STATUS: u8 = 16;

/// Whether a request is a gRPC call.
pub(crate) fn is_grpc(fields: &HeaderMap) -> bool {
    fields
        .get(CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(GRPC))
}

/// What has passed of a request's body.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    bytes: Cell<u64>,
    /// Only of gRPC calls.
    messages: Cell<Option<MessageCounter>>,
}

impl Passed {
    fn pass(&self, data: &[u8]) {
        let bytes = self.bytes.get().saturating_add(data.len() as u64);
        self.bytes.set(bytes);
        if let Some(mut messages) = self.messages.get() {
            messages.pass(data);
            self.messages.set(Some(messages));
        }
    }
}

/// A request's body that counts what is read of it.
#[derive(Debug)]
pub(crate) struct Counted<B> {
    body: B,
    /// None where there is no body.
    bytes: Option<Rc<Passed>>,
}

impl<B: Body> Counted<B> {
    pub(crate) fn new(body: B) -> Self {
        let bytes = (!body.is_end_stream()).then(Rc::default);
        Self { body, bytes }
    }

    /// The count, for the request's account.
    pub(crate) fn bytes(&self) -> Option<Rc<Passed>> {
        self.bytes.clone()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let (Some(bytes), Some(Ok(frame))) = (&this.bytes, &frame)
            && let Some(data) = frame.data_ref()
        {
            bytes.pass(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One request's account.
#[derive(Debug)]
pub(crate) struct Account {
    /// Between whom; none as long as that is not known, and nothing is counted then.
    pair: Option<Rc<Pair>>,
    started: Instant,
    grpc: bool,
    code: u16,
    grpc_status: Option<u8>,
    /// Set once it is known how it ends; until then the client left.
    flags: Option<Flags>,
    request_bytes: Option<Rc<Passed>>,
    response_bytes: u64,
    response_messages: MessageCounter,
    /// How many there will be, where that is known: a client's connection asks no further then.
    expected: Option<u64>,
    /// What is written down besides, where somebody asked for it.
    pub(crate) notes: Notes,
}

/// Why a response is the proxy's own, on the response itself, where no header tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal(pub(crate) &'static str);

impl Account {
    pub(crate) fn new(started: Instant, grpc: bool) -> Self {
        Self {
            pair: None,
            started,
            grpc,
            code: 0,
            grpc_status: None,
            flags: None,
            request_bytes: None,
            response_bytes: 0,
            response_messages: MessageCounter::default(),
            expected: None,
            notes: Notes::default(),
        }
    }

    /// Has it written down when it is counted.
    pub(crate) fn noting(self, notes: Notes) -> Self {
        let mut own = self;
        own.notes = notes;
        own
    }

    /// Who it is between from now on.
    pub(crate) fn between(&mut self, pair: &Rc<Pair>) {
        self.pair = Some(Rc::clone(pair));
    }

    /// What its body counts.
    pub(crate) fn request(&mut self, bytes: Option<Rc<Passed>>) {
        if self.grpc
            && let Some(passed) = &bytes
        {
            passed.messages.set(Some(MessageCounter::default()));
        }
        self.request_bytes = bytes;
    }

    /// The head of the response that goes to the client.
    pub(crate) fn answered<B: Body>(&mut self, response: &Response<B>) {
        self.code = response.status().as_u16();
        self.grpc_status(response.headers());
        let own = response.extensions().get::<Refusal>().map(|r| r.0);
        self.notes.answered(response.headers(), own);
        self.expected = response.body().size_hint().exact();
        if self.expected == Some(0) || response.body().is_end_stream() {
            self.complete();
        }
    }

    /// A response that the proxy itself makes, and why: it is not asked how that ends.
    pub(crate) fn refused<B: Body>(&mut self, response: &Response<B>, flags: Flags) {
        self.answered(response);
        self.notes.refused();
        self.response_bytes = self.expected.unwrap_or(0);
        self.flags = Some(flags);
    }

    fn grpc_status(&mut self, fields: &HeaderMap) {
        if self.grpc
            && let Some(status) = fields.get(GRPC_STATUS)
        {
            self.grpc_status = number(status);
        }
    }

    /// A piece of the response, or how it ended; `ended`: nothing comes behind this piece.
    pub(crate) fn polled<E>(
        &mut self,
        polled: &Poll<Option<Result<Frame<Bytes>, E>>>,
        ended: bool,
    ) {
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.frame(frame);
                if ended || frame.is_trailers() {
                    self.complete();
                }
            }
            Poll::Ready(Some(Err(_))) => self.broken(),
            Poll::Ready(None) => self.complete(),
            Poll::Pending => {}
        }
    }

    /// A piece of the response on its way to the client.
    pub(crate) fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.response_bytes = self.response_bytes.saturating_add(data.len() as u64);
            if self.grpc {
                self.response_messages.pass(data);
            }
            if self.expected == Some(self.response_bytes) {
                self.complete();
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.grpc_status(trailers);
        }
    }

    /// The response came to its end.
    pub(crate) fn complete(&mut self) {
        self.flags.get_or_insert(Flags::None);
    }

    /// The other side broke off.
    pub(crate) fn broken(&mut self) {
        self.cut(Flags::UpstreamCut);
    }

    /// It ended before its end, and this is why.
    pub(crate) fn cut(&mut self, flags: Flags) {
        self.flags = Some(flags);
    }
}

fn number(value: &HeaderValue) -> Option<u8> {
    let number: u8 = value.to_str().ok()?.parse().ok()?;
    (number <= MAX_GRPC_STATUS).then_some(number)
}

impl Drop for Account {
    fn drop(&mut self) {
        let flags = self.flags.unwrap_or(Flags::DownstreamCut);
        let passed = self.request_bytes.as_ref();
        let request_bytes = passed.map_or(0, |p| p.bytes.get());
        let request_messages = passed.and_then(|p| p.messages.get()).unwrap_or_default();
        if let Some(pair) = &self.pair {
            let took = pair.now().saturating_duration_since(self.started);
            let ending = Ending {
                grpc: self.grpc,
                code: Some(self.code),
                grpc_status: self.grpc_status,
                flags,
            };
            let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            pair.request(ending, |series| {
                series.count(took_us, request_bytes, self.response_bytes);
                series.messages(request_messages.whole(), self.response_messages.whole());
            });
        }
        if self.notes.is_on() {
            let parties = self.pair.as_ref().map(|p| Arc::clone(p.key()));
            self.notes.finish(parties, |took_us| End {
                took_us,
                code: self.code,
                grpc: self.grpc,
                grpc_status: self.grpc_status,
                flags,
                received: request_bytes,
                sent: self.response_bytes,
            });
        }
    }
}
