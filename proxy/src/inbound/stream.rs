//! One stream from a verified caller: find what it is for, authorise it, hand it to the application. A stream that never
//! reached the application is answered so (`tradewind-unprocessed`), because the caller may then send it elsewhere.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tradewind_api::{ServicePortRef, SpiffeId, model::AppProtocol};
use tradewind_runtime::task;
use tradewind_transport::{
    hbone::headers,
    relay::{End, relay_io},
};

use super::{
    Served, Thread,
    authorise::{Standing, authorise},
    body::ResponseBody,
    permits::Permit,
    pool::{self, Failed},
    rewrite,
};

/// How often an untouched request is put on another connection before the caller is told to go elsewhere.
const MAX_SENDS: usize = 3;

/// The caller behind a connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub id: SpiffeId,
    pub revoked: CancellationToken,
}

/// The stream was cut: its permission ended.
#[derive(Debug, thiserror::Error)]
#[error("the service is no longer exported")]
pub(crate) struct Withdrawn;

/// A request's body on its way to the application.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Streamed(Incoming),
    Empty,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Streamed(body) => Pin::new(body).poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// Answers one stream.
pub(crate) async fn handle(
    thread: Rc<Thread>,
    caller: Rc<Caller>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Withdrawn> {
    if thread.draining.get() {
        thread.metrics.refused("draining");
        return Ok(unprocessed("draining"));
    }
    let served = match find(&thread, &request) {
        Ok(served) => served,
        Err(refused) => {
            thread.metrics.refused(refused.1);
            return Ok(own(refused.0, None, refused.1));
        }
    };
    // Registered with no wait since the decision, so that an export withdrawn from now on is not missed.
    let permit = match admit(&thread, &caller, &served.target) {
        Ok(permit) => permit,
        Err(response) => return Ok(*response),
    };
    let withdrawn = permit.as_ref().map(|p| p.token().clone());
    let answered = async {
        if *request.method() == Method::CONNECT {
            return tunnel(&thread, &served, &caller, permit, request).await;
        }
        plain(&served, permit, request).await
    };
    let Some(token) = withdrawn else {
        return Ok(answered.await);
    };
    token.run_until_cancelled(answered).await.ok_or_else(|| {
        thread.metrics.withdrawn(&served.target);
        Withdrawn
    })
}

/// What the request is for.
fn find<B>(
    thread: &Thread,
    request: &Request<B>,
) -> Result<Rc<Served>, (StatusCode, &'static str)> {
    if *request.method() == Method::CONNECT {
        let authority = request
            .uri()
            .authority()
            .ok_or((StatusCode::BAD_REQUEST, "no_authority"))?;
        let found = match headers::parse_connect_authority(authority.as_str()) {
            Some(target) => thread.services.get(&target),
            None => thread.by_app.get(authority.as_str()),
        };
        return found.cloned().ok_or((StatusCode::NOT_FOUND, "not_served"));
    }
    let target = request
        .headers()
        .get(headers::SERVICE)
        .and_then(headers::parse_service)
        .ok_or((StatusCode::BAD_REQUEST, "no_service"))?;
    thread
        .services
        .get(&target)
        .cloned()
        .ok_or((StatusCode::NOT_FOUND, "not_served"))
}

fn admit(
    thread: &Thread,
    caller: &Caller,
    target: &ServicePortRef,
) -> Result<Option<Permit>, Box<Response<ResponseBody>>> {
    let Some(ours) = thread.control.svid.current() else {
        // Cannot happen on a connection whose handshake our certificate made; refused rather than believed.
        return Err(Box::new(unprocessed("no_certificate")));
    };
    let snapshot = thread.control.snapshot.borrow();
    let ours_str = ours.id.trust_domain();
    match authorise(&snapshot, &ours_str, &caller.id, target) {
        Ok(Standing::Member) => Ok(None),
        Ok(Standing::Foreign) => Ok(Some(thread.permits.take(target))),
        Err(denied) => {
            thread.metrics.refused(denied.as_str());
            tracing::info!(caller = %caller.id, service = %target, reason = denied.as_str(), "stream refused");
            Err(Box::new(match denied {
                super::authorise::Denied::NotExported => {
                    own(StatusCode::FORBIDDEN, None, denied.as_str())
                }
                super::authorise::Denied::NotReady => unprocessed(denied.as_str()),
            }))
        }
    }
}

async fn tunnel(
    thread: &Rc<Thread>,
    served: &Rc<Served>,
    caller: &Rc<Caller>,
    permit: Option<Permit>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let mut app = match pool::dial(&served.app).await {
        Ok(app) => app,
        Err(error) => return connect_failed(served, &error),
    };
    let upgrade = hyper::upgrade::on(request);
    let (thread, served, caller) = (Rc::clone(thread), Rc::clone(served), Rc::clone(caller));
    let live = served.metrics.tunnel();
    // Detached: it lives by the caller's connection, which holds the drain.
    drop(task::spawn_local("tunnel", async move {
        let _live = live;
        let mut io = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                tracing::debug!(%error, service = %served.target, "the caller left before its tunnel was open");
                return;
            }
        };
        let withdrawn = async {
            match &permit {
                Some(permit) => permit.token().cancelled().await,
                None => std::future::pending().await,
            }
        };
        let cut = tokio::select! {
            biased;
            () = caller.revoked.cancelled() => true,
            () = withdrawn => {
                thread.metrics.withdrawn(&served.target);
                true
            }
            relayed = relay_io(&mut io, &mut app) => {
                served.metrics.tunnel_bytes(relayed.a_to_b, relayed.b_to_a);
                matches!(relayed.end, End::Failed(..))
            }
        };
        if cut
            && let Err(error) =
                socket2::SockRef::from(&app).set_linger(Some(std::time::Duration::ZERO))
        {
            // The application must not take a cut for an end; it is gone itself if this fails.
            tracing::trace!(%error, "linger was not taken");
        }
    }));
    Response::new(ResponseBody::empty())
}

async fn plain(
    served: &Rc<Served>,
    permit: Option<Permit>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let (mut parts, body) = request.into_parts();
    let version = app_version(served.protocol, &parts);
    if rewrite::request(&mut parts, version).is_err() {
        return own(StatusCode::BAD_REQUEST, None, "no_host");
    }
    let body = if body.is_end_stream() {
        RequestBody::Empty
    } else {
        RequestBody::Streamed(body)
    };
    let request = Request::from_parts(parts, body);
    let sent = if version == Version::HTTP_2 {
        send_http2(served, request).await
    } else {
        send_http1(served, request).await
    };
    match sent {
        Ok((response, lease)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            // An upgrade travels as CONNECT; an application that switches unasked cannot be followed.
            drop(lease);
            served.metrics.cut.inc();
            own(
                StatusCode::BAD_GATEWAY,
                Some((headers::ERROR, "unasked_upgrade")),
                "unasked_upgrade",
            )
        }
        Ok((response, lease)) => {
            let (mut parts, body) = response.into_parts();
            rewrite::response(&mut parts);
            served.metrics.response(parts.status);
            Response::from_parts(parts, ResponseBody::app(body, lease, permit))
        }
        Err(Failed::Connect(error)) => connect_failed(served, &error),
        Err(Failed::Unsent(_)) => {
            served.metrics.unsent.inc();
            served.check_now.notify_one();
            unprocessed("app_closed")
        }
        Err(Failed::Maybe { error, .. }) => {
            served.metrics.cut.inc();
            tracing::debug!(service = %served.target, %error, "the application did not answer");
            own(
                StatusCode::BAD_GATEWAY,
                Some((headers::ERROR, "app_failed")),
                "app_failed",
            )
        }
    }
}

type Sent = Result<(Response<Incoming>, pool::Lease), Failed<RequestBody>>;

async fn send_http1(served: &Served, mut request: Request<RequestBody>) -> Sent {
    let mut fresh = false;
    for _ in 1..MAX_SENDS {
        // A kept connection may be closing while we write: an idempotent request without a body is then sent once more.
        let may_repeat = !fresh
            && request.body().is_end_stream()
            && rewrite::idempotent(request.method())
            && served.pool.has_kept();
        let spare = may_repeat.then(|| copy(&request));
        match (served.pool.http1(request, fresh).await, spare) {
            (Err(Failed::Unsent(Some(untouched))), _) => request = *untouched,
            (Err(Failed::Maybe { reused: true, .. }), Some(copy)) => request = copy,
            (answered, _) => return answered,
        }
        fresh = true;
    }
    served.pool.http1(request, true).await
}

async fn send_http2(served: &Served, mut request: Request<RequestBody>) -> Sent {
    for _ in 1..MAX_SENDS {
        match served.pool.http2(request).await {
            Err(Failed::Unsent(Some(untouched))) => request = *untouched,
            answered => return answered,
        }
    }
    served.pool.http2(request).await
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// What to speak to the application: what it was said to speak, else what the calling application spoke.
fn app_version(protocol: AppProtocol, parts: &request::Parts) -> Version {
    match protocol {
        AppProtocol::Http1 => Version::HTTP_11,
        AppProtocol::Http2 => Version::HTTP_2,
        AppProtocol::Detect | AppProtocol::Tcp => {
            match parts
                .headers
                .get(headers::VERSION)
                .and_then(headers::parse_version)
            {
                Some(Version::HTTP_2) => Version::HTTP_2,
                _ => Version::HTTP_11,
            }
        }
    }
}

fn connect_failed(served: &Served, error: &std::io::Error) -> Response<ResponseBody> {
    served.metrics.connect.inc();
    served.check_now.notify_one();
    tracing::debug!(service = %served.target, app = %served.app, %error, "the application cannot be reached");
    unprocessed("connect")
}

fn unprocessed(reason: &'static str) -> Response<ResponseBody> {
    own(
        StatusCode::SERVICE_UNAVAILABLE,
        Some((headers::UNPROCESSED, reason)),
        reason,
    )
}

fn own(
    status: StatusCode,
    header: Option<(HeaderName, &'static str)>,
    reason: &'static str,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::text(reason));
    *response.status_mut() = status;
    if let Some((name, value)) = header {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
