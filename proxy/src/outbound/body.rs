//! The body of what an application gets back: a peer's stream, a tunnelled HTTP/1.1 response, or the proxy's own words.
//!
//! Holds the endpoint's request count until the last byte, and books a stream that breaks on the endpoint that broke it.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;
use tradewind_transport::hbone::RecvBody;

use super::{
    balancer::Balancer,
    breaker::Permit,
    patience::OUT_OF_TIME,
    route::{Blame, InFlight, Route, Target},
};
use crate::standard::{Account, Flags};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body on its way to the application.
#[derive(Debug)]
pub(super) enum OutBody {
    /// The proxy's own words.
    Own(Option<Bytes>),
    /// From an endpoint.
    Peer(Box<PeerBody>),
    /// From a server outside of the mesh.
    Passed(Incoming),
    /// From an endpoint through a tunnel: an upgrade that was answered with something else.
    Tunnelled {
        /// What the application says.
        body: Incoming,
        /// Counts it.
        _in_flight: InFlight,
        /// Its part of what may be under way at once.
        _permit: Option<Permit>,
        /// What it adds up to.
        account: Box<Account>,
    },
}

/// A body from an endpoint, with who is to blame if it breaks.
#[derive(Debug)]
pub(super) struct PeerBody {
    pub(super) body: RecvBody,
    pub(super) route: Rc<Route>,
    pub(super) target: Rc<Target>,
    pub(super) balancer: Rc<Balancer>,
    pub(super) account: Account,
    /// When a rule's time for the whole of it is over.
    pub(super) until: Option<Pin<Box<Sleep>>>,
    pub(super) _in_flight: InFlight,
    /// Its part of what may be under way at once.
    pub(super) _permit: Option<Permit>,
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Own(words) => Poll::Ready(words.take().map(|w| Ok(Frame::data(w)))),
            Self::Passed(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|f| f.map(|r| r.map_err(Into::into))),
            Self::Tunnelled { body, account, .. } => {
                let polled = Pin::new(&mut *body).poll_frame(cx);
                account.polled(&polled, body.is_end_stream());
                polled.map(|f| f.map(|r| r.map_err(Into::into)))
            }
            Self::Peer(peer) => {
                if let Some(until) = &mut peer.until
                    && until.as_mut().poll(cx).is_ready()
                {
                    peer.until = None;
                    peer.account.cut(Flags::Timeout);
                    return Poll::Ready(Some(Err(OUT_OF_TIME.into())));
                }
                let polled = Pin::new(&mut peer.body).poll_frame(cx);
                let ended = peer.body.is_end_stream();
                peer.account.polled(&polled, ended);
                if let Poll::Ready(Some(Err(e))) = &polled {
                    peer.target.served.broken.inc();
                    if let Some(failure) = e.failure() {
                        let service = &peer.route.service;
                        peer.balancer
                            .failed(service, &peer.target, Blame::Endpoint(failure));
                    }
                    tracing::debug!(endpoint = %peer.target.endpoint.id, error = %e, "response broke off");
                }
                polled.map(|f| f.map(|r| r.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(words) => words.is_none(),
            Self::Peer(peer) => peer.body.is_end_stream(),
            Self::Passed(body) | Self::Tunnelled { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(words) => SizeHint::with_exact(words.as_ref().map_or(0, |w| w.len() as u64)),
            Self::Peer(peer) => peer.body.size_hint(),
            Self::Passed(body) | Self::Tunnelled { body, .. } => body.size_hint(),
        }
    }
}
