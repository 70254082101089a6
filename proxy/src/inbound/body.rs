//! Response bodies of the inbound side: the application's, streamed as it comes, or a short text of our own.
//! The application's keeps its connection until it ends, so that the connection goes back to the pool only when it is
//! whole again, and carries a foreign caller's permission, so that it ends when that does.

use std::{
    convert::Infallible,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tradewind_api::ServicePortRef;

use super::{permits::Permit, pool::Lease};

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
    lease: Option<Lease>,
    permit: Option<Held>,
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
            withdrawn: Box::pin(permit.token().clone().cancelled_owned()),
            target: target.clone(),
            _permit: permit,
        });
        Self::App(Box::new(AppBody {
            body,
            lease,
            permit,
        }))
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
            Self::App(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::App(app) => app.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
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
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(held) = &mut self.permit
            && held.withdrawn.as_mut().poll(cx).is_ready()
        {
            // Without a lease the connection is closed: the application sees that nobody reads on.
            self.lease = None;
            return Poll::Ready(Some(Err(BodyError::Withdrawn(held.target.clone()))));
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
