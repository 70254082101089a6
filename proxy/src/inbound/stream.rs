//! One stream from a verified caller: find what it is for, authorise it, hand it to the application. A stream that never
//! reached the application is answered so (`tradewind-unprocessed`), because the caller may then send it elsewhere.

use std::{future::poll_fn, rc::Rc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request,
};
use http_body::Body as _;
use hyper::body::Incoming;
use socket2::SockRef;
use tokio::net::TcpStream;
use tradewind_api::model::AppProtocol;
use tradewind_transport::{
    hbone::headers,
    permits::Permit,
    relay::{End, Side, relay_io_counted},
};

use super::{
    AppRequest, Served, Thread,
    authorise::{Denied, Standing, authorise, is_anothers},
    body::{BodyError, ResponseBody},
    caller::Caller,
    limits,
    pool::{self, Failed},
    rewrite,
    wire::{self, RequestBody, StreamIo},
};
use crate::{
    standard::{Account, Counted, Flags, Refusal},
    telemetry::Notes,
};

/// How often an untouched request is put on another connection before the caller is told to go elsewhere.
const MAX_SENDS: usize = 3;

/// What is to be done with a stream.
#[derive(Debug)]
enum Answer {
    Response(Response<ResponseBody>),
    Tunnel {
        app: TcpStream,
        served: Rc<Served>,
        permit: Option<Permit>,
        recv: RecvStream,
        notes: Notes,
        endpoint: Option<HeaderValue>,
    },
    /// The export ended while the application was asked.
    Withdrawn,
}

impl From<Response<ResponseBody>> for Answer {
    fn from(response: Response<ResponseBody>) -> Self {
        Self::Response(response)
    }
}

/// Serves one stream to its end.
pub(crate) async fn serve(
    thread: Rc<Thread>,
    caller: Rc<Caller>,
    request: Request<RecvStream>,
    mut to: SendResponse<Bytes>,
) {
    let answer = tokio::select! {
        biased;
        answer = answer(&thread, &caller, request) => answer,
        // The caller is gone or wants no answer any more; the application sees its request cut.
        _ = poll_fn(|cx| to.poll_reset(cx)) => return,
    };
    match answer {
        Answer::Withdrawn => to.send_reset(Reason::INTERNAL_ERROR),
        Answer::Response(response) => match wire::respond(to, response).await {
            Ok(()) | Err(wire::Unsent::Caller) => {}
            Err(wire::Unsent::Body(BodyError::Withdrawn(target))) => {
                thread.metrics.withdrawn(&target)
            }
            Err(wire::Unsent::Body(BodyError::App(error))) => {
                tracing::debug!(%error, caller = %caller.id, "the application cut its response");
            }
        },
        Answer::Tunnel {
            app,
            served,
            permit,
            recv,
            notes,
            endpoint,
        } => match to.send_response(naming(Response::new(()), endpoint), false) {
            Ok(send) => {
                tunnel(
                    &thread,
                    &caller,
                    &served,
                    (app, notes),
                    permit,
                    StreamIo::new(send, recv),
                )
                .await
            }
            Err(error) => tracing::debug!(%error, "the caller left before its tunnel was open"),
        },
    }
}

async fn answer(thread: &Thread, caller: &Caller, mut request: Request<RecvStream>) -> Answer {
    let mut account = caller.account(thread, &mut request);
    let refuse = |mut account: Account, response: Response<ResponseBody>| {
        account.notes.between(|| caller.key(thread, None));
        account.refused(&response, Flags::None);
        response.into()
    };
    if thread.draining.get() {
        thread.metrics.refused("draining");
        return refuse(account, unprocessed("draining"));
    }
    let table = thread.served.now();
    let found = match table.find(&request) {
        Ok(found) => found,
        Err((status, header, reason)) => {
            thread.metrics.refused(reason);
            return refuse(account, own(status, header, reason));
        }
    };
    // Registered with no wait since the decision, so that an export withdrawn from now on is not missed.
    let plain_request = *request.method() != Method::CONNECT;
    if let Some(served) = found.first() {
        account.notes.for_application(&served.target, &served.app);
        if plain_request {
            account.between(&caller.pair(thread, served));
        } else {
            let service = || Some(served.target.service.clone());
            account.notes.between(|| caller.key(thread, service()));
        }
    }
    let (served, permit) = match admit(thread, caller, found) {
        Ok(admitted) => admitted,
        Err(response) => {
            account.refused(&response, Flags::None);
            return (*response).into();
        }
    };
    if is_for_another(thread, &served, request.headers()) {
        thread.metrics.refused(headers::OTHER_ENDPOINT);
        let refusal = unprocessed(headers::OTHER_ENDPOINT);
        account.refused(&refusal, Flags::None);
        return refusal.into();
    }
    // What is no longer served is given up meanwhile.
    drop(table);
    // Who is of this cluster has dialled this very endpoint.
    let endpoint = permit.as_ref().and_then(|_| {
        let snapshot = thread.control.snapshot.borrow();
        served.endpoint(&snapshot, &thread.advertised)
    });
    let withdrawn = permit.as_ref().map(|p| p.withdrawn().clone());
    let answered = async {
        if plain_request {
            return limited((thread, caller), &served, permit, &mut account, request).await;
        }
        match pool::dial(&served.app, served.mark).await {
            Ok(app) => {
                let (served, recv) = (Rc::clone(&served), request.into_body());
                Answer::Tunnel {
                    app,
                    served,
                    permit,
                    recv,
                    notes: std::mem::take(&mut account.notes),
                    endpoint: endpoint.clone(),
                }
            }
            Err(error) => {
                let refusal = connect_failed(&served, &error);
                account.refused(&refusal, Flags::UpstreamConnect);
                refusal.into()
            }
        }
    };
    let answer = match withdrawn {
        None => answered.await,
        Some(token) => {
            let answered = token.run_until_cancelled(answered).await;
            answered.unwrap_or(Answer::Withdrawn)
        }
    };
    match answer {
        Answer::Response(response) => {
            naming(response.map(|body| body.counted(account)), endpoint).into()
        }
        Answer::Withdrawn => {
            thread.metrics.withdrawn(&served.target);
            account.notes.ended_by("withdrawn");
            Answer::Withdrawn
        }
        tunnel @ Answer::Tunnel { .. } => tunnel,
    }
}

/// With the endpoint that took it, where that is to be said.
fn naming<B>(mut response: Response<B>, endpoint: Option<HeaderValue>) -> Response<B> {
    if let Some(id) = endpoint {
        response.headers_mut().insert(headers::ENDPOINT, id);
    }
    response
}

/// Has the application answer a request, as far as its limits allow.
async fn limited(
    (thread, caller): (&Thread, &Caller),
    served: &Rc<Served>,
    permit: Option<Permit>,
    account: &mut Account,
    mut request: Request<RecvStream>,
) -> Answer {
    match limits::ask(thread, caller, served, &mut request) {
        Ok(told) => {
            let mut response = plain(served, permit, account, request).await;
            told.inspect(|told| told.put(response.headers_mut()));
            response.into()
        }
        Err(refusal) => {
            account.refused(&refusal, Flags::RateLimited);
            (*refusal).into()
        }
    }
}

type Admitted = (Rc<Served>, Option<Permit>);

/// The first of `found` that the caller may reach.
fn admit(
    thread: &Thread,
    caller: &Caller,
    found: &[Rc<Served>],
) -> Result<Admitted, Box<Response<ResponseBody>>> {
    let Some(ours) = thread.control.svid.current() else {
        // Cannot happen on a connection whose handshake our certificate made; refused rather than believed.
        return Err(Box::new(unprocessed("no_certificate")));
    };
    let ours = ours.id.trust_domain();
    let snapshot = thread.control.snapshot.borrow();
    let mut denied = Denied::NotExported;
    for served in found {
        match authorise(&snapshot, &ours, &caller.id, &served.target) {
            Ok(Standing::Member) => return Ok((Rc::clone(served), None)),
            Ok(Standing::Foreign) => {
                return Ok((
                    Rc::clone(served),
                    Some(thread.permits.take(served.target.clone())),
                ));
            }
            Err(reason) => denied = reason,
        }
    }
    thread.metrics.refused(denied.as_str());
    let service = found
        .first()
        .map(|s| s.target.to_string())
        .unwrap_or_default();
    tracing::info!(caller = %caller.id, service, reason = denied.as_str(), "stream refused");
    Err(Box::new(match denied {
        Denied::NotExported => own(StatusCode::FORBIDDEN, None, denied.as_str()),
        Denied::NotReady => unprocessed(denied.as_str()),
    }))
}

/// Whether the caller means another endpoint than this one: a gateway had it take that one's place.
fn is_for_another(thread: &Thread, served: &Served, request: &HeaderMap) -> bool {
    let named = request.get(headers::ENDPOINT);
    named.is_some_and(|id| {
        let snapshot = thread.control.snapshot.borrow();
        is_anothers(&snapshot, &served.target, id.as_bytes(), &thread.advertised)
    })
}

/// Carries bytes until both sides are done, or until the caller may not be here any more.
async fn tunnel(
    thread: &Thread,
    caller: &Caller,
    served: &Rc<Served>,
    (mut app, mut notes): (TcpStream, Notes),
    permit: Option<Permit>,
    mut io: StreamIo,
) {
    let _live = served.metrics.tunnel();
    notes.for_application(&served.target, &served.app);
    let mut counted = caller
        .pair(thread, served)
        .tunnel(Flags::None)
        .noting(notes);
    let withdrawn = async {
        match &permit {
            Some(permit) => permit.withdrawn().cancelled().await,
            None => std::future::pending().await,
        }
    };
    let cut = tokio::select! {
        biased;
        () = caller.revoked.cancelled() => Some((Flags::None, Some("revoked"))),
        () = withdrawn => {
            thread.metrics.withdrawn(&served.target);
            Some((Flags::None, Some("withdrawn")))
        }
        relayed = relay_io_counted(&mut io, &mut app, |side, n| counted.count(side, n)) => {
            served.metrics.tunnel_bytes(relayed.a_to_b, relayed.b_to_a);
            match relayed.end {
                End::Closed => None,
                End::Failed(Side::A, _) => Some((Flags::DownstreamCut, None)),
                End::Failed(Side::B, _) => Some((Flags::UpstreamCut, None)),
            }
        }
    };
    if let Some((flags, why)) = cut {
        counted.ended(flags, why);
        // Neither side may take this for an orderly end.
        io.cut();
        if let Err(error) = SockRef::from(&app).set_linger(Some(Duration::ZERO)) {
            tracing::trace!(%error, "the application is gone already");
        }
    }
}

async fn plain(
    served: &Rc<Served>,
    permit: Option<Permit>,
    account: &mut Account,
    request: Request<RecvStream>,
) -> Response<ResponseBody> {
    let (parts, body) = request.into_parts();
    let body = Counted::new(RequestBody::new(body));
    account.request(body.bytes());
    let (response, flags) = ask(served, permit, Request::from_parts(parts, body)).await;
    match flags {
        Some(flags) => account.refused(&response, flags),
        None => account.answered(&response),
    }
    response
}

/// The application's response, or ours and why it is ours.
async fn ask(
    served: &Rc<Served>,
    permit: Option<Permit>,
    request: Request<AppRequest>,
) -> (Response<ResponseBody>, Option<Flags>) {
    let (mut parts, body) = request.into_parts();
    let version = app_version(served.protocol, &parts);
    if rewrite::request(&mut parts, version).is_err() {
        let refusal = own(StatusCode::BAD_REQUEST, None, "no_host");
        return (refusal, Some(Flags::None));
    }
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
            let header = (headers::ERROR, "unasked_upgrade");
            let refusal = own(StatusCode::BAD_GATEWAY, Some(header), "unasked_upgrade");
            (refusal, Some(Flags::UpstreamCut))
        }
        Ok((response, lease)) => {
            let (mut parts, body) = response.into_parts();
            rewrite::response(&mut parts);
            match ResponseBody::app(body, lease, permit, &served.target)
                .settle()
                .await
            {
                Ok(body) => {
                    served.metrics.response(parts.status);
                    (Response::from_parts(parts, body), None)
                }
                Err(error) => (failed(served, &error), Some(Flags::UpstreamCut)),
            }
        }
        Err(Failed::Connect(error)) => {
            (connect_failed(served, &error), Some(Flags::UpstreamConnect))
        }
        Err(Failed::Unsent(_)) => {
            served.metrics.unsent.inc();
            served.check_now();
            (unprocessed("app_closed"), Some(Flags::UpstreamCut))
        }
        Err(Failed::Maybe { error, .. }) => (failed(served, &error), Some(Flags::UpstreamCut)),
    }
}

/// The application may have seen the request.
fn failed(served: &Served, error: &hyper::Error) -> Response<ResponseBody> {
    served.metrics.cut.inc();
    tracing::debug!(service = %served.target, %error, "the application did not answer in full");
    let header = (headers::ERROR, "app_failed");
    own(StatusCode::BAD_GATEWAY, Some(header), "app_failed")
}

type Sent = Result<(Response<Incoming>, pool::Lease), Failed<AppRequest>>;

async fn send_http1(served: &Served, mut request: Request<AppRequest>) -> Sent {
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

async fn send_http2(served: &Served, mut request: Request<AppRequest>) -> Sent {
    for _ in 1..MAX_SENDS {
        match served.pool.http2(request).await {
            Err(Failed::Unsent(Some(untouched))) => request = *untouched,
            answered => return answered,
        }
    }
    served.pool.http2(request).await
}

fn copy(request: &Request<AppRequest>) -> Request<AppRequest> {
    let mut copy = Request::new(Counted::new(RequestBody::Empty));
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
    served.check_now();
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

/// An answer of this proxy.
pub(super) fn own(
    status: StatusCode,
    header: Option<(HeaderName, &'static str)>,
    reason: &'static str,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::text(reason));
    *response.status_mut() = status;
    response.extensions_mut().insert(Refusal(reason));
    if let Some((name, value)) = header {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
