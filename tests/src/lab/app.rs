//! The lab's application: a small HTTP server that says who it is, notes which requests it took, and misbehaves on demand. It
//! knows nothing of the mesh.

use std::{
    fs::File,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use nix::unistd::getppid;
use tokio::net::TcpListener;
use tradewind_runtime::task;

use crate::load::open::ID;

/// `PUT` here, with a number, makes it wait so many milliseconds before each answer.
pub const DELAY: &str = "/lab/delay-ms";
/// `PUT` here, with 1, makes it break off after it has read a request; with 0, no more. Its check goes on to be good.
pub const BREAK: &str = "/lab/break";
/// Its check.
pub const CHECK: &str = "/healthz";

/// How often it looks whether whoever started it is still there.
const LOOK: Duration = Duration::from_secs(1);

struct App {
    name: Bytes,
    journal: File,
    delay_ms: AtomicU64,
    breaks: AtomicU64,
}

/// Serves until whoever started it is gone. The ids of what is no GET go into the journal, one a line, before they are answered.
pub async fn run(listen: SocketAddr, name: &str, journal: &Path) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let app = Arc::new(App {
        name: Bytes::from(format!("{name}\n")),
        journal: File::options().create(true).append(true).open(journal)?,
        delay_ms: AtomicU64::new(0),
        breaks: AtomicU64::new(0),
    });
    tokio::select! {
        served = serve(listener, app) => served,
        () = alone() => Ok(()),
    }
}

/// Returns when another process has taken the place of the one that started this.
async fn alone() {
    let parent = getppid();
    while getppid() == parent {
        tokio::time::sleep(LOOK).await;
    }
}

async fn serve(listener: TcpListener, app: Arc<App>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // Whoever is broken off sees a reset, and nobody waits for the last word.
        stream.set_zero_linger()?;
        let app = Arc::clone(&app);
        task::spawn("lab app connection", async move {
            let answer = service_fn(move |request| answer(Arc::clone(&app), request));
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            // A client that goes away is its own affair.
            drop(served);
        });
    }
}

async fn answer(app: Arc<App>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let path = request.uri().path();
    if path == CHECK {
        return Ok(Response::new(Full::from("ok\n")));
    }
    if *request.method() == Method::PUT {
        return Ok(set(&app, &request));
    }
    let (head, body) = request.into_parts();
    // What is not read would end the connection.
    body.collect().await.map_err(io::Error::other)?;
    if head.method != Method::GET
        && let Some(id) = head.headers.get(ID)
    {
        // One write a line: what is there when the process is killed is whole.
        let mut line = id.as_bytes().to_vec();
        line.push(b'\n');
        (&app.journal).write_all(&line)?;
    }
    let delay = Duration::from_millis(app.delay_ms.load(Ordering::Relaxed));
    if !delay.is_zero() {
        // Being slow is what was asked of it.
        tokio::time::sleep(delay).await;
    }
    if app.breaks.load(Ordering::Relaxed) > 0 {
        return Err(io::Error::other("broken off, as asked"));
    }
    Ok(Response::new(Full::new(app.name.clone())))
}

/// The number is the query: `PUT /lab/delay-ms?1000`.
fn set(app: &App, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let number = request.uri().query().and_then(|q| q.parse().ok());
    let place = match request.uri().path() {
        DELAY => Some(&app.delay_ms),
        BREAK => Some(&app.breaks),
        _ => None,
    };
    let done = match (place, number) {
        (Some(place), Some(number)) => {
            place.store(number, Ordering::Relaxed);
            StatusCode::OK
        }
        _ => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = done;
    response
}
