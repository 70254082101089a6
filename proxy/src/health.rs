//! Is the application well? One task per served port asks it each second; what an answer means for its health is a pure
//! step. An application is never forgotten for failing its check: its health is told, and callers decide.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Version, header::HOST};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time,
};
use tradewind_api::model::{AppProtocol, Health};
use tradewind_runtime::rng::Rng;
use tradewind_transport::marked;

use crate::config::{HealthCheck, ServeSpec};

/// From one check to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Between two checks that failing requests asked for: a burst of failures is one hint.
const HINT_GAP: Duration = Duration::from_millis(50);
/// Failures in a row until an application that does answer connections counts as unhealthy: one may be chance.
const UNHEALTHY_AFTER: u32 = 2;

/// What one check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is well.
    Well,
    /// Nobody listens: certain at once.
    Refused,
    /// Too slow, cut off, or a wrong answer.
    Failed,
}

/// What is thought of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opinion {
    health: Health,
    failures: u32,
}

impl Opinion {
    /// Before the first check.
    pub(crate) const fn new(check: &HealthCheck) -> Self {
        let health = match check {
            HealthCheck::None => Health::Healthy,
            HealthCheck::Tcp | HealthCheck::Http(_) => Health::Unknown,
        };
        Self {
            health,
            failures: 0,
        }
    }

    pub(crate) const fn health(self) -> Health {
        self.health
    }

    /// The opinion after one more finding.
    pub(crate) fn step(self, found: Found) -> Self {
        match found {
            Found::Well => Self {
                health: Health::Healthy,
                failures: 0,
            },
            Found::Refused => Self {
                health: Health::Unhealthy,
                failures: UNHEALTHY_AFTER,
            },
            Found::Failed => {
                let failures = self.failures.saturating_add(1);
                let health = if failures >= UNHEALTHY_AFTER {
                    Health::Unhealthy
                } else {
                    self.health
                };
                Self { health, failures }
            }
        }
    }
}

/// Checks one application for ever and tells its health whenever it changes.
pub(crate) async fn watch_app(
    spec: ServeSpec,
    health: watch::Sender<Health>,
    check_now: Arc<Notify>,
    mark: Option<u32>,
    mut rng: Rng,
) {
    let mut opinion = Opinion::new(&spec.check);
    health.send_replace(opinion.health());
    if spec.check == HealthCheck::None {
        return;
    }
    loop {
        let found = check(&spec, mark).await;
        let next = opinion.step(found);
        if next.health() != opinion.health() {
            tracing::info!(service = %spec.target, app = %spec.app, health = next.health().as_str(), was = opinion.health().as_str(), "application health changed");
            health.send_replace(next.health());
        }
        opinion = next;
        // A tenth of jitter, so that many proxies of one host do not beat together.
        let wait = INTERVAL.mul_f64(0.95 + rng.unit() * 0.1);
        tokio::select! {
            () = time::sleep(wait) => {}
            () = async {
                time::sleep(HINT_GAP).await;
                check_now.notified().await;
            } => {}
        }
    }
}

async fn check(spec: &ServeSpec, mark: Option<u32>) -> Found {
    let look = async {
        let stream = match marked::connect(&spec.app, mark).await {
            Ok(stream) => stream,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => return Found::Refused,
            Err(_) => return Found::Failed,
        };
        match &spec.check {
            HealthCheck::None | HealthCheck::Tcp => Found::Well,
            HealthCheck::Http(path) => match ask(stream, spec, path).await {
                Some(true) => Found::Well,
                Some(false) | None => Found::Failed,
            },
        }
    };
    time::timeout(TIMEOUT, look).await.unwrap_or(Found::Failed)
}

/// `GET path`: whether the answer is 2xx, if there is one.
async fn ask(stream: TcpStream, spec: &ServeSpec, path: &str) -> Option<bool> {
    let io = TokioIo::new(stream);
    let request = Request::get(path).header("user-agent", "tradewind-health");
    if spec.protocol == AppProtocol::Http2 {
        let request = request
            .uri(format!("http://{}{path}", spec.app))
            .version(Version::HTTP_2)
            .body(Empty::<Bytes>::new())
            .ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .ok()?;
        return answer(connection, sender.send_request(request)).await;
    }
    let host = HeaderValue::from_str(&spec.app).ok()?;
    let request = request
        .header(HOST, host)
        .body(Empty::<Bytes>::new())
        .ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
    answer(connection, sender.send_request(request)).await
}

async fn answer<C, A, B>(connection: C, answer: A) -> Option<bool>
where
    C: Future<Output = hyper::Result<()>>,
    A: Future<Output = hyper::Result<http::Response<B>>>,
{
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answered = &mut answer => answered.ok().map(|r| r.status().is_success()),
        // The connection's end wakes the answer too; whichever comes first, the answer tells.
        _ = connection => answer.await.ok().map(|r| r.status().is_success()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tradewind_runtime::task::TaskSet;

    #[test]
    fn a_refusal_is_certain_and_a_failure_needs_a_second() {
        let new = Opinion::new(&HealthCheck::Tcp);
        assert_eq!(new.health(), Health::Unknown);
        let well = new.step(Found::Well);
        assert_eq!(well.health(), Health::Healthy);
        assert_eq!(well.step(Found::Failed).health(), Health::Healthy);
        assert_eq!(
            well.step(Found::Failed).step(Found::Failed).health(),
            Health::Unhealthy
        );
        let chance = well
            .step(Found::Failed)
            .step(Found::Well)
            .step(Found::Failed);
        assert_eq!(chance.health(), Health::Healthy);
        assert_eq!(well.step(Found::Refused).health(), Health::Unhealthy);
        assert_eq!(
            well.step(Found::Refused).step(Found::Well).health(),
            Health::Healthy
        );
        assert_eq!(Opinion::new(&HealthCheck::None).health(), Health::Healthy);
    }

    #[tokio::test]
    async fn http_checks_follow_the_answer_and_then_the_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        let spec: ServeSpec = format!("shop/payments:80={app},check=http:/healthz")
            .parse()
            .unwrap();
        let (status, now) = watch::channel("200 OK");
        let mut tasks = TaskSet::new();
        tasks.spawn("app", async move {
            loop {
                let (mut s, _) = listener.accept().await.unwrap();
                let mut head = [0u8; 1024];
                let n = s.read(&mut head).await.unwrap();
                assert!(head[..n].starts_with(b"GET /healthz HTTP/1.1\r\n"));
                let answer = format!("HTTP/1.1 {}\r\ncontent-length: 0\r\n\r\n", *now.borrow());
                drop(s.write_all(answer.as_bytes()).await);
            }
        });
        let (tx, mut health) = watch::channel(Health::Unknown);
        let check_now = Arc::new(Notify::new());
        let mut checks = TaskSet::new();
        checks.spawn(
            "check",
            watch_app(spec, tx, Arc::clone(&check_now), None, Rng::seeded(1)),
        );
        let mut until = async |wanted| {
            let hint = async {
                loop {
                    check_now.notify_one();
                    time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                reached = health.wait_for(|h| *h == wanted) => { reached.unwrap(); }
                () = hint => {}
                () = time::sleep(Duration::from_secs(10)) => panic!("never {wanted:?}"),
            }
        };
        until(Health::Healthy).await;
        status.send_replace("503 Busy");
        until(Health::Unhealthy).await;
        status.send_replace("204 Fine");
        until(Health::Healthy).await;
        tasks.abort_all().await;
        until(Health::Unhealthy).await;
    }
}
