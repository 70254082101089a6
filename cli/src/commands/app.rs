//! The demo's application: a small HTTP server that says who it is. It knows nothing of the mesh.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tradewind_runtime::{Rng, TaskSet, listen, signal};

use crate::exit::{Exit, Failure, Outcome};

/// `tradewind demo-app`
#[derive(Debug, clap::Args)]
pub struct App {
    /// Where it listens
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// What it answers, such as "payments from west/1"
    #[arg(long, value_name = "TEXT")]
    name: String,
}

/// How long a client may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Serves until a signal.
pub async fn run(args: App) -> Outcome {
    let listener =
        listen::bind_tcp(args.listen, false).map_err(|e| Failure::of(Exit::Problems, &e))?;
    let body = Bytes::from(format!("{}\n", args.name));
    let mut rng = Rng::from_entropy();
    let mut connections = TaskSet::new();
    let mut stop = Box::pin(signal::terminated());
    loop {
        let (stream, _) = tokio::select! {
            biased;
            _ = &mut stop => return Ok(Exit::Good),
            accepted = listen::accept(&listener, &mut rng) => accepted,
        };
        let body = body.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let response = answer(&request, &body);
            async move { Ok::<_, Infallible>(response) }
        });
        connections.spawn("demo app connection", async move {
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            // A client that goes away is its own affair.
            drop(served);
        });
    }
}

fn answer(request: &Request<Incoming>, body: &Bytes) -> Response<Full<Bytes>> {
    let (status, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        _ => (StatusCode::OK, body.clone()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
