//! Response bodies of the inbound side: the application's, streamed as it comes, or a short text of our own.
//! The application's keeps its connection until it ends, so that the connection goes back to the pool only when it is
//! whole again, and carries a foreign caller's permission, so that it ends when that does.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::time;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tradewind_api::ServicePortRef;
use tradewind_transport::permits::Permit;

use super::pool::Lease;
use crate::standard::Account;

/// A response of at most this many bytes is taken whole before its head goes out: an application that dies between the
/// two is then an answer that may be asked for elsewhere, instead of half of one. In bytes.
const SMALL: u64 = 16 << 10;
/// How long that may take; an application that takes longer wants its head to go first.
const SETTLE: Duration = Duration::from_millis(100);

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The application cut its response.
    #[error("the application cut its response: {0}")]
    App(#[from] hyper::Error),
    /// The caller's permission was withdrawn.
    #[error("{0} is no longer exported")]
    Withdrawn(ServicePortRef),
}

/// A response body.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// Our own words, or none.
    Own(Full<Bytes>),
    /// The application's.
    App(Box<AppBody>),
}

/// The application's response, as it comes.
#[derive(Debug)]
pub(crate) struct AppBody {
    body: Incoming,
    /// What was taken of it ahead, in order.
    ahead: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    lease: Option<Lease>,
    permit: Option<Held>,
    /// What the request adds up to.
    account: Option<Account>,
}

/// A foreign caller's permission while the body flows.
#[derive(Debug)]
struct Held {
    withdrawn: Pin<Box<WaitForCancellationFutureOwned>>,
    target: ServicePortRef,
    _permit: Permit,
}

impl ResponseBody {
    /// A short text.
    pub(crate) fn text(text: &'static str) -> Self {
        Self::Own(Full::new(Bytes::from_static(text.as_bytes())))
    }

    /// The application's.
    pub(crate) fn app(
        body: Incoming,
        lease: Lease,
        permit: Option<Permit>,
        target: &ServicePortRef,
    ) -> Self {
        let mut lease = Some(lease);
        if body.is_end_stream() {
            give_back(&mut lease);
        }
        let permit = permit.map(|permit| Held {
            withdrawn: Box::pin(permit.withdrawn().clone().cancelled_owned()),
            target: target.clone(),
            _permit: permit,
        });
        Self::App(Box::new(AppBody {
            body,
            ahead: VecDeque::new(),
            trailers: None,
            lease,
            permit,
            account: None,
        }))
    }

    /// With what its request adds up to, so that it is counted when this ends.
    pub(crate) fn counted(mut self, account: Account) -> Self {
        if let Self::App(app) = &mut self {
            app.account = Some(account);
        }
        self
    }

    /// Takes a small response whole, if it comes soon. Fails when the application cut it.
    pub(crate) async fn settle(self) -> Result<Self, hyper::Error> {
        let Self::App(mut app) = self else {
            return Ok(self);
        };
        if app.body.size_hint().exact().is_some_and(|n| n <= SMALL) && !app.body.is_end_stream() {
            match time::timeout(SETTLE, app.take_ahead()).await {
                Ok(taken) => taken?,
                Err(_) => tracing::trace!("the response's body is slow; its head goes first"),
            }
        }
        Ok(Self::App(app))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never: Infallible| match never {}),
            Self::App(body) => {
                let polled = body.poll(cx);
                body.book(&polled);
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::App(app) => app.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            // What was taken ahead is no more in the body's own.
            Self::App(app) if !app.ahead.is_empty() => SizeHint::default(),
            Self::App(app) => app.body.size_hint(),
        }
    }
}

fn give_back(lease: &mut Option<Lease>) {
    if let Some(lease) = lease.take() {
        lease.give_back();
    }
}

impl AppBody {
    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.trailers.is_none() && self.body.is_end_stream()
    }

    /// Books a piece of the response, or its end.
    fn book(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        let ended = self.is_end_stream();
        let Some(account) = &mut self.account else {
            return;
        };
        account.polled(polled, ended);
    }

    /// Cancelled at any point, it has lost nothing.
    async fn take_ahead(&mut self) -> Result<(), hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            match frame?.into_data() {
                Ok(data) => self.ahead.push_back(data),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
        give_back(&mut self.lease);
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(held) = &mut self.permit
            && held.withdrawn.as_mut().poll(cx).is_ready()
        {
            // Without a lease the connection is closed: the application sees that nobody reads on.
            self.lease = None;
            return Poll::Ready(Some(Err(BodyError::Withdrawn(held.target.clone()))));
        }
        if let Some(data) = self.ahead.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => give_back(&mut self.lease),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => {
                give_back(&mut self.lease);
            }
            Poll::Ready(Some(Err(_))) => self.lease = None,
            _ => {}
        }
        polled.map_err(BodyError::App)
    }
}
