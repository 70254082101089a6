//! One application connection: find out what it speaks, then serve it as that until it ends or the drain does.
//!
//! Everything of a connection lives on this thread and ends with this future.

use std::{convert::Infallible, rc::Rc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, rt::Executor, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::Instant};
use tradewind_api::model::AppProtocol;
use tradewind_runtime::drain;
use tradewind_transport::{
    detect::{Detected, detect},
    prefixed::Prefixed,
};

use super::{
    Outbound,
    arriving::{self, Arriving},
    body::OutBody,
    convert, detach,
    metrics::{Dropped, Open, OutboundMetrics},
    opaque, upgrade,
};
use crate::{called::Called, telemetry::Ends};

/// A client that is silent for this long may wait for the server to speak first.
const DETECT_DEADLINE: Duration = Duration::from_millis(200);
/// Where HTTP was declared, a client may open connections ahead of need and stay silent; this ends dead ones.
const SILENT_HTTP_DEADLINE: Duration = Duration::from_secs(3600);
/// Largest request head taken from an application.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 1024;
/// As between proxies: a megabyte a stream, and never less than 8 MiB for the connection.
pub(super) const STREAM_WINDOW: u32 = 1 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;

/// What is known of a connection after its first bytes.
pub(super) type Client = Prefixed<TcpStream>;

impl Outbound {
    /// A client's addresses, where anybody writes them down.
    pub(super) fn ends(&self, client: &TcpStream) -> Option<Ends> {
        let wanted = self.standard.telemetry().is_on();
        wanted.then(|| Ends::of(client)).flatten()
    }
}

/// Runs hyper's own tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        detach("outbound_h2", async move {
            future.await;
        });
    }
}

/// Serves one connection.
pub(super) async fn serve(
    outbound: Rc<Outbound>,
    mut stream: TcpStream,
    target: Rc<Called>,
    drain: drain::Watch,
) {
    let _open = Open::new(&outbound.metrics.connections);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "client gone before it was served");
        return;
    }
    let protocol = outbound
        .balancer
        .route((&*target).into())
        .map_or(AppProtocol::Detect, |r| r.protocol);
    let deadline = match protocol {
        AppProtocol::Detect => DETECT_DEADLINE,
        AppProtocol::Http1 | AppProtocol::Http2 => SILENT_HTTP_DEADLINE,
        AppProtocol::Tcp => return opaque::declared(&outbound, stream, &target, drain).await,
    };
    let mut stopping = drain.clone();
    let found = tokio::select! {
        found = detect(&mut stream, Instant::now() + deadline) => found,
        // Nothing was asked yet, nothing is lost.
        () = stopping.triggered() => return,
    };
    drop(stopping);
    let (detected, first) = match found {
        Ok(found) => found,
        Err(error) => {
            outbound.metrics.dropped(Dropped::cut);
            tracing::debug!(%error, "client gone before it was served");
            return;
        }
    };
    match (detected, protocol) {
        (Detected::Http1, _) => http1(outbound, Prefixed::new(first, stream), target, drain).await,
        (Detected::Http2, _) => http2(outbound, Prefixed::new(first, stream), target, drain).await,
        (Detected::Opaque, AppProtocol::Detect) if first.is_empty() => {
            match opaque::silent::server_first(&outbound, stream, &target, true, drain.clone())
                .await
            {
                Some((Detected::Http1, client)) => http1(outbound, client, target, drain).await,
                Some((Detected::Http2, client)) => http2(outbound, client, target, drain).await,
                Some((Detected::Opaque, client)) => {
                    opaque::serve(&outbound, client, &target, drain).await;
                }
                None => {}
            }
        }
        (Detected::Opaque, AppProtocol::Detect | AppProtocol::Tcp) => {
            opaque::serve(&outbound, Prefixed::new(first, stream), &target, drain).await;
        }
        // Declared as HTTP and it is not: hyper says so in HTTP.
        (Detected::Opaque, AppProtocol::Http1 | AppProtocol::Http2) => {
            http1(outbound, Prefixed::new(first, stream), target, drain).await;
        }
    }
}

async fn answer(
    outbound: Rc<Outbound>,
    (target, client): (Rc<Called>, Option<Ends>),
    drain: drain::Watch,
    request: Request<Arriving>,
) -> Result<Response<OutBody>, Infallible> {
    let told = request.body().told();
    let mut response = match convert::upgrade_wanted(&request) {
        Some(protocol) => {
            upgrade::exchange(&outbound, (&target, client), request, protocol, drain).await
        }
        None => outbound.exchange(&target, client, request).await,
    };
    told.end(&mut response);
    Ok(response)
}

/// Whether the application broke the rules, or off.
fn why(error: &hyper::Error) -> Dropped {
    let source = std::error::Error::source(error);
    let h2 = source.and_then(|s| s.downcast_ref::<h2::Error>());
    if error.is_parse() || h2.is_some_and(h2::Error::is_library) {
        Dropped::malformed
    } else {
        Dropped::cut
    }
}

/// Serves a client that speaks HTTP/1.
pub(super) async fn http1(
    outbound: Rc<Outbound>,
    client: Client,
    target: Rc<Called>,
    mut drain: drain::Watch,
) {
    let (watch, metrics) = (drain.clone(), outbound.metrics.clone());
    let ends = outbound.ends(client.get_ref());
    let (discards, discarding) = arriving::discards();
    let service = service_fn(move |request| {
        answer(
            Rc::clone(&outbound),
            (Rc::clone(&target), ends),
            watch.clone(),
            Arriving::of(request, Some(discards.clone())),
        )
    });
    let connection = conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .timer(TokioTimer::new())
        // A silent keep-alive connection is the application's to close: closing it here would race with its next request.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut discarding = std::pin::pin!(discarding.run());
    let mut leaving = false;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            never = &mut discarding => match never {},
            () = drain.triggered(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        metrics.dropped(why(&error));
        tracing::debug!(%error, "HTTP/1 connection ended");
    }
}

async fn http2(outbound: Rc<Outbound>, client: Client, target: Rc<Called>, drain: drain::Watch) {
    let (watch, metrics) = (drain.clone(), outbound.metrics.clone());
    let ends = outbound.ends(client.get_ref());
    let each = move |request| {
        answer(
            Rc::clone(&outbound),
            (Rc::clone(&target), ends),
            watch.clone(),
            Arriving::of(request, None),
        )
    };
    http2_by(metrics, client, each, drain).await;
}

/// Serves a client that speaks HTTP/2, each request by `answer`.
pub(super) async fn http2_by<F, E>(
    metrics: OutboundMetrics,
    client: Client,
    answer: impl Fn(Request<Incoming>) -> F,
    mut drain: drain::Watch,
) where
    F: Future<Output = Result<Response<OutBody>, E>> + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let service = service_fn(answer);
    let connection = conn::http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .serve_connection(TokioIo::new(client), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = drain.triggered() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        metrics.dropped(why(&error));
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}
