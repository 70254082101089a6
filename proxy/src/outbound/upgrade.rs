//! HTTP/1.1 upgrades, WebSocket foremost: HTTP/1.1 through a tunnel to the chosen endpoint, then bytes both ways.
//!
//! Until the tunnel stands every endpoint may be tried; the request itself is sent once.

use std::rc::Rc;

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use hyper::{client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tradewind_api::id::ServicePortRef;
use tradewind_runtime::drain;
use tradewind_transport::{
    hbone::{Tunnel, headers},
    prefixed::Prefixed,
    relay::relay_io_counted,
};

use super::{
    Outbound,
    affinity::Traits,
    arriving::Arriving,
    body::OutBody,
    convert, detach,
    failure::{Form, Tries},
    metrics::Outcome,
    opaque::{self, NoTunnel, Opened},
    route::Target,
    rules::{Backend, Ruled},
};
use crate::{
    called::Called,
    standard::{Account, Flags, LiveTunnel},
    telemetry::{Ends, Notes},
};

/// Serves one request that asks for another protocol.
pub(super) async fn exchange(
    outbound: &Rc<Outbound>,
    (called, from): (&Rc<Called>, Option<Ends>),
    request: Request<Arriving>,
    protocol: HeaderValue,
    drain: drain::Watch,
) -> Response<OutBody> {
    let (mut head, body) = request.into_parts();
    let form = Form::of(&head.headers);
    let mut account = outbound.account(&mut head, called, from);
    // Browsers ask nothing before they open a WebSocket, and read no permission in its answer.
    let (ruled, _) = outbound.ruled(called, &head).await;
    let backend = match ruled {
        Ruled::AsCalled => None,
        Ruled::To(backend) => Some(backend),
        Ruled::Own(own) => return outbound.answer(own, called, form, &mut account),
    };
    let mut request = Request::from_parts(head, body);
    let call = Traits::of(&request, from);
    let (backend, opened) = open(outbound, called, backend, (call, &mut account.notes)).await;
    let service = backend.as_ref().map_or(&called.to, |b| &b.service);
    let service = &Rc::new(service.clone());
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => return not_opened(outbound, service, error, (form, account)),
    };
    account.between(&opened.pair);
    let client = prepare(&mut request, protocol);
    if let Some(backend) = &backend {
        backend.prepare(&mut request);
    }
    outbound.balancer.name_request(request.headers_mut());
    let lost = |target: &Target, error: &hyper::Error, mut account: Account| {
        let mut tries = Tries::default();
        tries.add(target, error);
        let what = "the connection broke after the request was sent".to_owned();
        let refusal = outbound.refuse(service, StatusCode::BAD_GATEWAY, "lost", what, tries, form);
        account.refused(&refusal, Flags::UpstreamCut);
        refusal
    };
    let Opened {
        tunnel,
        target,
        served_by,
        pair,
        in_flight,
        permit,
    } = opened;
    let (mut send, connection) = match http1::handshake::<_, Arriving>(TokioIo::new(tunnel)).await {
        Ok(pair) => pair,
        Err(error) => return lost(&target, &error, account),
    };
    let (tx, rx) = oneshot::channel();
    detach("outbound_upgrade_head", async move {
        // Ends when the response asks for the stream, or when both sides are done with HTTP.
        if let Ok(parts) = connection.without_shutdown().await {
            drop(tx.send((parts.io.into_inner(), parts.read_buf)));
        }
    });
    let mut response = match send.send_request(request).await {
        Ok(response) => response,
        Err(error) => {
            outbound
                .metrics
                .tunnel(service, Some(target.cluster()), Outcome::broken);
            return lost(&target, &error, account);
        }
    };
    show(outbound, response.headers_mut(), backend.as_ref(), &target);
    response.headers_mut().insert(headers::SERVED_BY, served_by);
    account.answered(&response);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // The application said no, in HTTP: that is its answer.
        convert::strip_hop_by_hop(response.headers_mut());
        let account = Box::new(account);
        return response.map(|body| OutBody::Tunnelled {
            body,
            _in_flight: in_flight,
            _permit: permit,
            account,
        });
    }
    // The request ends with the switch; what follows is a connection.
    account.complete();
    let live = pair.tunnel(Flags::None).noting(account.notes.upgraded());
    drop(account);
    let (own, service) = (Rc::clone(outbound), Rc::clone(service));
    detach("outbound_upgraded", async move {
        let Ok((tunnel, first)) = rx.await else {
            return;
        };
        let outcome = splice(client, Prefixed::new(first, tunnel), live, drain).await;
        drop((in_flight, permit));
        own.metrics
            .tunnel(&service, Some(target.cluster()), outcome);
    });
    response.map(|_| OutBody::Own(None))
}

/// Opens a tunnel to whom the rules say, and says to whom in the end: where a persistent session led, and nobody there takes it, the
/// weights decide anew.
async fn open(
    outbound: &Outbound,
    called: &Called,
    backend: Option<Backend>,
    (call, notes): (Traits<'_>, &mut Notes),
) -> (Option<Backend>, Result<Opened, NoTunnel>) {
    let Some(backend) = backend else {
        return (None, outbound.tunnel(called.into(), call, notes).await);
    };
    let held = backend.held.as_ref();
    let led = Traits {
        home: held.map(|h| &h.endpoint),
        ..call
    };
    let opened = outbound.tunnel(backend.callee(), led, notes).await;
    if held.is_some()
        && opened.is_err()
        && let Ruled::To(other) = outbound.drawn(&backend.rule, called)
    {
        let opened = outbound.tunnel(other.callee(), call, notes).await;
        return (Some(other), opened);
    }
    (Some(backend), opened)
}

/// The answer where no endpoint took the connection.
fn not_opened(
    outbound: &Outbound,
    service: &ServicePortRef,
    error: NoTunnel,
    (form, mut account): (Form, Account),
) -> Response<OutBody> {
    outbound.metrics.tunnel(service, None, Outcome::failed);
    account.between(&error.pair);
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let NoTunnel {
        reason,
        what,
        tries,
        flags,
        ..
    } = error;
    let refusal = outbound.refuse(service, status, reason, what, tries, form);
    account.refused(&refusal, flags);
    refusal
}

/// Makes a response's fields what the application is to see.
fn show(outbound: &Outbound, fields: &mut HeaderMap, backend: Option<&Backend>, target: &Target) {
    for name in headers::INTERNAL {
        fields.remove(name);
    }
    if let Some(backend) = backend {
        backend.answered(fields);
        outbound.persist(backend, target, fields);
    }
}

/// Leaves the fields of the upgrade itself, and nothing else that belongs to one hop. Returns what the client's side becomes.
fn prepare(request: &mut Request<Arriving>, protocol: HeaderValue) -> OnUpgrade {
    let client = hyper::upgrade::on(&mut *request);
    let fields = request.headers_mut();
    convert::strip_hop_by_hop(fields);
    for name in headers::INTERNAL {
        fields.remove(name);
    }
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, protocol);
    client
}

async fn splice(
    client: OnUpgrade,
    mut tunnel: Prefixed<Tunnel>,
    mut live: LiveTunnel,
    drain: drain::Watch,
) -> Outcome {
    let Ok(client) = client.await else {
        live.ended(Flags::DownstreamCut, None);
        return Outcome::broken;
    };
    let mut client = TokioIo::new(client);
    let moving = relay_io_counted(&mut client, &mut tunnel, |side, n| live.count(side, n));
    let end = drain.until_forced(moving).await.map(|r| r.end);
    opaque::told(&mut live, end)
}
