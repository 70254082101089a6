//! The application behind the pairs: HTTP/1.1 by hyper on one thread. It answers small requests, sends without end, and
//! takes without end. Serves until it is killed; measures nothing.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::{CONTENT_LENGTH, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tradewind_runtime::{listen, task};

/// Where it sends without end.
pub(super) const DOWN: &str = "/down";
/// Where it takes without end.
pub(super) const UP: &str = "/up";
/// What an endless body says of its length: a terabyte, which no window moves.
pub(super) const ENDLESS: u64 = 1 << 40;
/// Bytes of the answer to a small request.
pub(super) const ANSWER_BYTES: usize = 256;
/// Bytes handed over at a time in bulk.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// The application.
#[derive(Debug, clap::Args)]
pub(crate) struct AppArguments {
    #[arg(long)]
    listen: SocketAddr,
}

/// Chunks of the same bytes for ever.
pub(super) fn endless() -> StreamBody<impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>>>
{
    let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
    StreamBody::new(stream::repeat_with(move || Ok(Frame::data(chunk.clone()))))
}

/// Serves HTTP.
pub(crate) async fn app(arguments: AppArguments) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", arguments.listen);
    let listener = listen::bind_tcp(arguments.listen, false).map_err(|e| e.to_string())?;
    loop {
        let (stream, _) = listener.accept().await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        // Detached: they end with this process. A peer that goes away is no news here.
        drop(task::spawn("connection", async move {
            drop(connection.await);
        }));
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<
    Response<
        Either<
            Full<Bytes>,
            StreamBody<impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>>>,
        >,
    >,
    hyper::Error,
> {
    if request.uri().path() == DOWN {
        let mut response = Response::new(Either::Right(endless()));
        let length = HeaderValue::from(ENDLESS);
        response.headers_mut().insert(CONTENT_LENGTH, length);
        return Ok(response);
    }
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let small = Bytes::from_static(&[b'a'; ANSWER_BYTES]);
    Ok(Response::new(Either::Left(Full::new(small))))
}
