//! A captured connection that speaks HTTP/2 in clear to an address that is no service's: each request is looked up by its own
//! authority, as HTTP/1 is by its host. What names nobody known goes on, over one connection to where the client was going.
//!
//! Owns that connection. A request is sent on twice only where hyper hands it back unsent.

use std::{cell::Cell, net::SocketAddr, rc::Rc};

use http::{Method, Request, Response, StatusCode, header::HOST};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{net::TcpStream, sync::Mutex};
use tradewind_runtime::drain;
use tradewind_transport::balance::{Micros, SECOND};

use super::{
    Captured, Fate, Open, Outbound,
    connection::{self, CONNECTION_WINDOW, Client, Local, MAX_HEAD, STREAM_WINDOW},
};
use crate::{
    called::Called,
    capture::Unknown,
    outbound::{
        arriving::Arriving,
        body::OutBody,
        detach,
        failure::{Failure, Form, Tries},
    },
    telemetry::Ends,
};

/// A destination that could not be reached is not dialled again sooner: all that waited for it hear the same.
const DIAL_AGAIN_AFTER: Micros = SECOND;
/// A connection that was closed while nobody used it is made anew once for a request.
const MAX_SENDS: usize = 2;
/// A frame's head (RFC 9113 section 4.1).
const FRAME_HEAD: usize = 9;

/// Whether the server has begun with HTTP/2's settings, which some send before they have heard anything.
pub(super) async fn greets(server: &TcpStream) -> bool {
    let mut head = [0; FRAME_HEAD];
    match server.peek(&mut head).await {
        Ok(FRAME_HEAD) => is_settings(head),
        _ => false,
    }
}

/// Settings of the whole connection, six bytes each, and no answer to any.
const fn is_settings([top, high, low, kind, flags, stream @ ..]: [u8; FRAME_HEAD]) -> bool {
    let length = (high as u16) << 8 | low as u16;
    top == 0
        && matches!(stream, [0, 0, 0, 0])
        && kind == 4
        && flags == 0
        && length.is_multiple_of(6)
}

/// The way on.
enum Onward {
    /// Nobody has used it yet.
    Dialled(TcpStream),
    /// Requests go over it.
    Speaks(http2::SendRequest<Incoming>),
    /// There was none at this time.
    Unreached(Micros),
}

/// Counts a way on that is in use.
struct Passing(Gauge);

impl Passing {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The proxy's own answer to a request that names nobody known.
struct No {
    status: StatusCode,
    reason: &'static str,
    what: &'static str,
}

const UNKNOWN: No = No {
    status: StatusCode::FORBIDDEN,
    reason: "unknown-destination",
    what: "the request names no service that this cluster knows with this port, and the proxy lets nobody else be called (--unknown refuse)",
};
const UNREACHED: No = No {
    status: StatusCode::BAD_GATEWAY,
    reason: "unreached-destination",
    what: "the request names no service that this cluster knows with this port, and nobody outside of the mesh takes a connection there",
};
const NO_TUNNEL: No = No {
    status: StatusCode::METHOD_NOT_ALLOWED,
    reason: "bad-request",
    what: "CONNECT over HTTP/2 in clear is not passed on; exclude the address from the capture to use a forward proxy there",
};

/// Why a request that names nobody known is not answered.
enum Unanswered {
    /// It was sent nowhere.
    Nowhere(Fate),
    /// It broke; a reset tells the client why.
    Broken(hyper::Error),
}

/// One such connection.
pub(super) struct Mixed {
    outbound: Rc<Outbound>,
    captured: Rc<Captured>,
    meant: SocketAddr,
    onward: Mutex<Onward>,
    /// Its first request says what it counts as.
    counted: Cell<bool>,
}

/// Serves it to its end.
pub(super) async fn serve(mixed: Rc<Mixed>, client: Client, drain: drain::Watch) {
    let metrics = mixed.outbound.metrics.clone();
    let _open = Open::new(&metrics.connections);
    let own = Rc::clone(&mixed);
    let ends = mixed.outbound.ends(client.get_ref());
    let each = move |request| {
        let own = Rc::clone(&own);
        async move { own.answer(request, ends).await }
    };
    connection::http2_by(metrics.clone(), client, each, drain).await;
    // Unless it has been counted.
    mixed.count(Fate::ended);
}

impl Mixed {
    pub(super) fn new(
        outbound: Rc<Outbound>,
        captured: Rc<Captured>,
        meant: SocketAddr,
        onward: Result<TcpStream, Fate>,
    ) -> Rc<Self> {
        let onward = match onward {
            Ok(stream) => Onward::Dialled(stream),
            Err(_) => Onward::Unreached(outbound.balancer.now()),
        };
        Rc::new(Self {
            outbound,
            captured,
            meant,
            onward: Mutex::new(onward),
            counted: Cell::new(false),
        })
    }

    fn count(&self, fate: Fate) {
        if !self.counted.replace(true) {
            self.captured.metrics.outbound(fate);
        }
    }

    /// The service that a request names.
    fn target(&self, request: &Request<Incoming>) -> Option<Called> {
        let host = match request.uri().authority() {
            Some(authority) => authority.as_str(),
            None => request.headers().get(HOST)?.to_str().ok()?,
        };
        self.captured.index.load().named(host, self.meant.port())
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        ends: Option<Ends>,
    ) -> Result<Response<OutBody>, hyper::Error> {
        if let Some(target) = self.target(&request) {
            self.count(Fate::host);
            let request = Arriving::of(request, None);
            return Ok(self.outbound.exchange(&target, ends, request).await);
        }
        let form = Form::of(request.headers());
        if request.method() == Method::CONNECT {
            self.count(Fate::refused);
            return Ok(self.say_no(&NO_TUNNEL, form));
        }
        match self.pass(request).await {
            Ok(response) => {
                self.count(Fate::passed);
                Ok(response.map(OutBody::Passed))
            }
            Err(Unanswered::Nowhere(fate)) => {
                self.count(fate);
                let refused = fate == Fate::refused;
                Ok(self.say_no(if refused { &UNKNOWN } else { &UNREACHED }, form))
            }
            Err(Unanswered::Broken(error)) => {
                self.count(Fate::passed);
                tracing::debug!(%error, meant = %self.meant, "a request outside of the mesh got no answer");
                Err(error)
            }
        }
    }

    fn say_no(&self, no: &No, form: Form) -> Response<OutBody> {
        tracing::debug!(meant = %self.meant, reason = no.reason, "a captured request goes nowhere");
        let failure = Failure {
            status: no.status,
            reason: no.reason,
            service: &self.meant,
            what: no.what.to_owned(),
            tries: Tries::default(),
        };
        failure.respond(form)
    }

    /// Sends a request on as it is.
    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>, Unanswered> {
        if self.captured.unknown == Unknown::Refuse {
            return Err(Unanswered::Nowhere(Fate::refused));
        }
        for _ in 0..MAX_SENDS {
            let mut sender = self.sender().await.map_err(Unanswered::Nowhere)?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Unanswered::Broken(error.into_error())),
                },
            }
        }
        Err(Unanswered::Nowhere(Fate::unreached))
    }

    /// The connection to where the client was going; made when it is needed, and made anew when it has ended.
    async fn sender(&self) -> Result<http2::SendRequest<Incoming>, Fate> {
        let mut onward = self.onward.lock().await;
        let now = self.outbound.balancer.now();
        let gone = Onward::Unreached(now);
        let dialled = match std::mem::replace(&mut *onward, gone) {
            Onward::Speaks(sender) if !sender.is_closed() => {
                *onward = Onward::Speaks(sender.clone());
                return Ok(sender);
            }
            Onward::Unreached(at) if now.saturating_sub(at) < DIAL_AGAIN_AFTER => {
                *onward = Onward::Unreached(at);
                return Err(Fate::unreached);
            }
            Onward::Dialled(stream) if is_open(&stream) => Ok(stream),
            Onward::Dialled(_) | Onward::Speaks(_) | Onward::Unreached(_) => {
                self.captured.dial(self.meant).await
            }
        };
        let made = match dialled {
            Ok(stream) => self.speak(stream).await,
            Err(fate) => Err(fate),
        };
        *onward = match &made {
            Ok(sender) => Onward::Speaks(sender.clone()),
            Err(_) => Onward::Unreached(self.outbound.balancer.now()),
        };
        made
    }

    async fn speak(&self, stream: TcpStream) -> Result<http2::SendRequest<Incoming>, Fate> {
        let made = http2::Builder::new(Local)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(|error| {
            tracing::debug!(%error, meant = %self.meant, "a destination outside of the mesh is not reached");
            Fate::unreached
        })?;
        let passing = Passing::new(&self.captured.metrics.passing);
        // Ends when its senders are gone, with the client's connection, or when the server ends it.
        detach("captured_http2", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a server outside of the mesh ended");
            }
            drop(passing);
        });
        Ok(sender)
    }
}

/// False for a connection that the other side has closed meanwhile.
fn is_open(stream: &TcpStream) -> bool {
    let mut none = [std::mem::MaybeUninit::uninit(); 1];
    match socket2::SockRef::from(stream).peek(&mut none) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_are_a_greeting() {
        let settings = [0, 0, 18, 4, 0, 0, 0, 0, 0];
        assert!(is_settings(settings));
        assert!(is_settings([0, 0, 0, 4, 0, 0, 0, 0, 0]), "none are some");
        for other in [
            *b"220 mail.",
            [0, 0, 18, 4, 1, 0, 0, 0, 0],
            [0, 0, 17, 4, 0, 0, 0, 0, 0],
            [0, 0, 18, 4, 0, 0, 0, 0, 1],
            [0, 0, 18, 6, 0, 0, 0, 0, 0],
        ] {
            assert!(!is_settings(other), "{other:?}");
        }
    }
}
