//! Making a session's connection: TCP, directly or through one of the target cluster's gateways, TLS to the endpoint
//! itself, h2, and one ping.
//!
//! Every step has a deadline. Whatever fails here was never processed by anybody, and the error tells whether the way to
//! the cluster or the endpoint is to blame.

use std::{fmt, future::Future, io, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use h2::client::SendRequest;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_rustls::TlsConnector;
use tradewind_api::id::{EndpointId, SpiffeId};

use super::session::{Driver, prove};
use crate::{balance::detector::Failure, marked, tls, trust::Refused};

/// For all steps inside one network.
const DIRECT_DEADLINE: Duration = Duration::from_secs(1);
/// For all steps through one gateway: several round trips between regions.
const GATEWAY_DEADLINE: Duration = Duration::from_secs(2);
/// A gateway that has not finished by now gets company from the next one.
const RACE_AFTER: Duration = Duration::from_millis(300);
/// What a peer has not acknowledged by now never reaches it. Longer than its silence is borne, so that it decides about no live
/// session; but whoever was told that a request is lost must not see it processed minutes later, when the way is open again.
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(3);
/// More gateways than this are not tried for one session.
const MAX_GATEWAYS: usize = 4;

/// The way to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// Its own `host:port`.
    Direct(String),
    /// `host:port` of gateways that lead to it, best first: its cluster's, or the caller's own that pass on.
    Gateways(Vec<String>),
}

/// An endpoint to have a session with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its id: sessions are shared by it.
    pub endpoint: EndpointId,
    /// Whom it must prove to be.
    pub identity: SpiffeId,
    /// The way.
    pub path: Path,
    /// The name that gateways route by.
    pub server_name: ServerName<'static>,
}

/// What is to blame for a failed dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This process: it has no certificate that is valid now.
    Ourselves,
    /// No gateway of its cluster could be reached, by the way that leads there: no endpoint behind them can.
    Link,
    /// No gateway of its cluster takes the name that it was asked for under: no endpoint behind them can be named.
    Name,
    /// The endpoint, or the gateway's way to it.
    Endpoint,
    /// It is somebody else, or no longer trusted, or does not trust us.
    Identity,
}

/// One way that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    /// `host:port`.
    pub address: String,
    /// Whose fault.
    pub fault: Fault,
    /// What happened.
    pub why: String,
}

/// Why no session could be made.
#[derive(Clone, Debug)]
pub struct DialError {
    /// What is to blame, all ways considered.
    pub fault: Fault,
    /// Every way that was tried.
    pub tried: Vec<Tried>,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tried.is_empty() {
            return f.write_str("no gateway is announced that leads there");
        }
        for (i, t) in self.tried.iter().enumerate() {
            let comma = if i > 0 { "; " } else { "" };
            let colon = if t.address.is_empty() { "" } else { ": " };
            write!(f, "{comma}{}{colon}{}", t.address, t.why)?;
        }
        Ok(())
    }
}

impl std::error::Error for DialError {}

impl DialError {
    /// One that was decided without dialling an address.
    pub(super) fn undialled(fault: Fault, why: &str) -> Self {
        let tried = Tried {
            address: String::new(),
            fault,
            why: why.to_owned(),
        };
        Self {
            fault,
            tried: vec![tried],
        }
    }

    /// How the endpoint's detector should book it.
    pub const fn failure(&self) -> Failure {
        match self.fault {
            Fault::Identity => Failure::Identity,
            Fault::Link | Fault::Name | Fault::Endpoint | Fault::Ourselves => Failure::Connect,
        }
    }
}

/// A connection with its proof of life.
pub(super) struct Dialled {
    pub(super) send: SendRequest<Bytes>,
    pub(super) driver: Driver<tls::Stream<TcpStream>>,
    /// `host:port` that was dialled: the endpoint itself, or the gateway it is behind.
    pub(super) via: String,
    /// The peer's leaf certificate.
    pub(super) leaf: Vec<rustls::pki_types::CertificateDer<'static>>,
}

/// Dials `to`, from sockets with `mark` where there is one. Gateways are raced: the next one starts when one failed, or is
/// slow.
pub(super) async fn dial(
    to: &Destination,
    config: &Arc<ClientConfig>,
    mark: Option<u32>,
) -> Result<Dialled, DialError> {
    let (addresses, budget, fault) = match &to.path {
        Path::Direct(address) => (
            std::slice::from_ref(address),
            DIRECT_DEADLINE,
            Fault::Endpoint,
        ),
        Path::Gateways(all) => (
            all.get(..MAX_GATEWAYS).unwrap_or(all),
            GATEWAY_DEADLINE,
            Fault::Link,
        ),
    };
    race(addresses, |address| {
        let deadline = Instant::now() + budget;
        one((address, mark), deadline, fault, &to.server_name, config)
    })
    .await
}

/// Runs `attempt` on one address after the other until one succeeds, two or more at a time when they are slow.
async fn race<'a, T, F>(
    addresses: &'a [String],
    attempt: impl Fn(&'a str) -> F,
) -> Result<T, DialError>
where
    F: Future<Output = Result<T, Tried>>,
{
    let mut waiting = addresses.iter();
    let mut running = FuturesUnordered::new();
    let mut tried = Vec::new();
    let mut next_at = Instant::now();
    loop {
        if running.is_empty() {
            match waiting.next() {
                Some(address) => running.push(attempt(address)),
                None => return Err(blame(tried)),
            }
            next_at = Instant::now() + RACE_AFTER;
        }
        tokio::select! {
            Some(done) = running.next() => match done {
                Ok(t) => return Ok(t),
                Err(t) => {
                    tried.push(t);
                    next_at = Instant::now();
                }
            },
            () = sleep_until(next_at), if waiting.len() > 0 => {
                running.extend(waiting.next().map(|a| attempt(a)));
                next_at = Instant::now() + RACE_AFTER;
            }
        }
    }
}

/// The endpoint is to blame as soon as one gateway was reached; its identity as soon as one way led to somebody else.
fn blame(tried: Vec<Tried>) -> DialError {
    let any = |fault| tried.iter().any(|t| t.fault == fault);
    let fault = if any(Fault::Identity) {
        Fault::Identity
    } else if any(Fault::Endpoint) {
        Fault::Endpoint
    } else if any(Fault::Name) {
        Fault::Name
    } else {
        Fault::Link
    };
    DialError { fault, tried }
}

async fn one(
    (address, mark): (&str, Option<u32>),
    deadline: Instant,
    tcp_fault: Fault,
    name: &ServerName<'static>,
    config: &Arc<ClientConfig>,
) -> Result<Dialled, Tried> {
    let tried = |fault, why: String| Tried {
        address: address.to_owned(),
        fault,
        why,
    };
    let tcp = timeout_at(deadline, tcp(address, mark))
        .await
        .map_err(|_| tried(tcp_fault, "no answer to connect in time".into()))?
        .map_err(|e| tried(tcp_fault, format!("cannot connect: {e}")))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let tls = timeout_at(deadline, connector.connect(name.clone(), tcp))
        .await
        .map_err(|_| tried(Fault::Endpoint, "no TLS handshake in time".into()))?
        .map_err(|e| {
            use tls::GatewayRefusal;
            let refusal = tls::gateway_refusal_in(&e).filter(|_| tcp_fault == Fault::Link);
            let fault = match (tls::refused_in(&e), refusal) {
                // No endpoint behind this gateway can be named to it.
                (None, Some(GatewayRefusal::Name | GatewayRefusal::Expired)) => Fault::Name,
                // Nor is any of that cluster's reached behind it.
                (None, Some(GatewayRefusal::Unreached)) => Fault::Link,
                (Some(Refused::Expired | Refused::NotYetValid) | None, _) => Fault::Endpoint,
                (Some(_), _) => Fault::Identity,
            };
            let why = refusal.map_or_else(|| tls_cause(&e), |r| r.to_string());
            tried(fault, format!("TLS handshake failed: {why}"))
        })?;
    let leaf = tls
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .to_vec();
    let tls = tls::Stream::from(tls);
    let cork = tls.cork();
    let (send, driver) = timeout_at(deadline, prove(tls, Some(cork)))
        .await
        .map_err(|_| tried(Fault::Endpoint, "no HTTP/2 answer in time".into()))?
        .map_err(|e| tried(Fault::Endpoint, format!("HTTP/2 handshake failed: {e}")))?;
    Ok(Dialled {
        send,
        driver,
        via: address.to_owned(),
        leaf,
    })
}

/// An unexpected end during the handshake is what a gateway or peer does that will not serve us.
fn tls_cause(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        "the other side closed the connection".into()
    } else {
        error.to_string()
    }
}

async fn tcp(address: &str, mark: Option<u32>) -> io::Result<TcpStream> {
    let stream = marked::connect(address, mark).await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_FOR))?;
    Ok(stream)
}

/// Many callers, one outcome.
pub(super) type Shared<T> = Result<T, Rc<DialError>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(address: &str, fault: Fault) -> Tried {
        Tried {
            address: address.into(),
            fault,
            why: "x".into(),
        }
    }

    fn addresses(names: &[&str]) -> Vec<String> {
        names.iter().map(|s| (*s).to_owned()).collect()
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_ends_with_its_session() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tcp(&listener.local_addr().unwrap().to_string(), None)
            .await
            .unwrap();
        let limit = SockRef::from(&stream).tcp_user_timeout().unwrap();
        assert_eq!(limit, Some(UNACKNOWLEDGED_FOR));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_gateway_is_tried_at_once_after_a_failure() {
        let all = addresses(&["a", "b"]);
        let start = Instant::now();
        let won = race(&all, |a| async move {
            if a == "a" {
                Err(failing(a, Fault::Link))
            } else {
                Ok(a.to_owned())
            }
        })
        .await
        .unwrap();
        assert_eq!((won.as_str(), start.elapsed()), ("b", Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_gateway_gets_company() {
        let all = addresses(&["slow", "fast"]);
        let start = Instant::now();
        let won = race(&all, |a| async move {
            if a == "slow" {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Ok(a.to_owned())
        })
        .await
        .unwrap();
        assert_eq!(won, "fast");
        assert!(start.elapsed() <= RACE_AFTER + Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn blame_falls_on_the_endpoint_once_a_gateway_answered() {
        let all = addresses(&["a", "b"]);
        let lost = race(&all, |a| async move {
            let fault = if a == "a" {
                Fault::Link
            } else {
                Fault::Endpoint
            };
            Err::<(), _>(failing(a, fault))
        })
        .await
        .unwrap_err();
        assert_eq!((lost.fault, lost.tried.len()), (Fault::Endpoint, 2));
        let nobody = race(
            &[],
            |a| async move { Err::<(), _>(failing(a, Fault::Link)) },
        )
        .await
        .unwrap_err();
        assert_eq!(nobody.fault, Fault::Link);
    }
}
