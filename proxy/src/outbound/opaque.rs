//! Connections whose bytes are not looked at: a tunnel to one endpoint, then bytes both ways.
//!
//! Until the tunnel stands nothing of the client's was sent, so every endpoint may be tried. Afterwards nothing can be
//! tried again: an abort on either side is an abort on the other. To whom the tunnel leads is for the rules to say, before it is opened.

pub(super) mod pinned;
pub(super) mod silent;

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use tokio::{net::TcpStream, time::Instant};
use tradewind_api::id::{EndpointId, ServicePortRef};
use tradewind_runtime::drain;
use tradewind_transport::{
    balance::detector::Failure,
    hbone::{Tunnel, TunnelError, headers},
    prefixed::Prefixed,
    relay::{End, Side, relay_io_counted},
};

use self::silent::server_first;
use super::{
    Outbound,
    affinity::{Affinity, Traits},
    attempts::{Attempts, Failed, Safe},
    breaker::{Permit, Takes},
    connection::Client,
    failure::Tries,
    metrics::{Dropped, Outcome},
    route::{Blame, Callee, InFlight, Route, Target},
    streams::{Heard, Nowhere, StreamRules, name_of},
    taker::Taker,
};
use crate::{
    called::Called,
    standard::{Flags, LiveTunnel, Pair, Reporter},
    telemetry::{Ends, Notes},
};

/// A client that began to speak has this long to say enough.
const DETECT_DEADLINE: Duration = Duration::from_millis(200);

/// Why no tunnel could be opened.
#[derive(Debug)]
pub(super) struct NoTunnel {
    pub(super) reason: &'static str,
    pub(super) what: String,
    pub(super) tries: Tries,
    /// Between whom it would have been.
    pub(super) pair: Rc<Pair>,
    pub(super) flags: Flags,
}

/// An open tunnel and where it leads.
pub(super) struct Opened {
    pub(super) tunnel: Tunnel,
    pub(super) target: Rc<Target>,
    pub(super) served_by: HeaderValue,
    pub(super) pair: Rc<Pair>,
    pub(super) in_flight: InFlight,
    /// Its part of what may be under way at once.
    pub(super) permit: Option<Permit>,
}

impl Outbound {
    /// What is written down of a client's connection.
    fn connection_notes(&self, service: &ServicePortRef, client: &TcpStream) -> Notes {
        let mut notes = self.standard.telemetry().connection(Reporter::Source);
        if notes.is_on() {
            notes.for_service(service, Ends::of(client));
        }
        notes
    }

    /// That the rules lead nowhere.
    fn no_way(&self, service: &ServicePortRef, nowhere: Nowhere) -> NoTunnel {
        NoTunnel {
            reason: nowhere.reason,
            what: nowhere.why,
            tries: Tries::default(),
            pair: self.pair_with_nobody(service),
            flags: Flags::NoRoute,
        }
    }

    /// The route to whom a tunnel is for, and leave to open one.
    async fn enter(
        &self,
        to: Callee<'_>,
        takes: Takes,
    ) -> Result<(Rc<Route>, Option<Permit>), NoTunnel> {
        let service = to.service;
        let route = self.route(to).await.map_err(|e| NoTunnel {
            reason: e.as_str(),
            what: e.to_string(),
            tries: Tries::default(),
            pair: self.pair_with_nobody(service),
            flags: e.flags(),
        })?;
        let admitted = self.admit(&route, takes, None).await;
        let permit = admitted.map_err(|overflow| NoTunnel {
            reason: "overflow",
            what: self.overflow(&route, overflow),
            tries: Tries::default(),
            pair: self.pair_with_nobody(service),
            flags: Flags::UpstreamOverflow,
        })?;
        Ok((route, permit))
    }

    /// Opens a tunnel to the best endpoint that takes one.
    pub(super) async fn tunnel(
        &self,
        to: Callee<'_>,
        call: Traits<'_>,
        notes: &mut Notes,
    ) -> Result<Opened, NoTunnel> {
        let service = to.service;
        let takes = match call.headers {
            Some(_) => Takes::OwnConnection,
            None => Takes::Stream,
        };
        let (mut route, mut permit) = self.enter(to, takes).await?;
        // A stream of bytes has no answer that a cookie could be given with, and neither has an upgrade.
        let affinity = Affinity::of(&route.settings.balance, call, || self.balancer.random());
        let mut attempts = Attempts::new(affinity.key, call.home.cloned());
        let mut last = None;
        while let Some(picked) = self.next_target(&mut route, &mut attempts).await {
            picked.note(notes);
            let target = picked.target;
            let in_flight = InFlight::new(&target.peer);
            // A persistent session is with one endpoint alone.
            let only = call.home.filter(|home| **home == target.endpoint.id);
            match self.connect(&route, (&target, only), notes).await {
                Ok((tunnel, taker)) => {
                    notes.connected();
                    let Taker { target, served_by } = taker;
                    let in_flight = in_flight.of(&target.peer);
                    let pair = self.pair(&route, &target);
                    return Ok(Opened {
                        tunnel,
                        target,
                        served_by,
                        pair,
                        in_flight,
                        permit: permit.take(),
                    });
                }
                Err(failed) => {
                    self.metrics.retry(service, target.cluster(), failed.cause);
                    self.note(&route, &target, &mut attempts, &failed);
                    notes.failed(failed.cause, &failed.why);
                    last = Some(target);
                }
            }
        }
        Err(NoTunnel {
            reason: "no-endpoint-answered",
            what: "no endpoint took the connection".into(),
            flags: attempts.flags(false),
            pair: match &last {
                Some(target) => self.pair(&route, target),
                None => self.pair_with_nobody(service),
            },
            tries: attempts.tries,
        })
    }

    /// A tunnel to an endpoint, or to whoever is connected in its place unless it is the only one that may be.
    async fn connect(
        &self,
        route: &Route,
        (target, only): (&Rc<Target>, Option<&EndpointId>),
        notes: &mut Notes,
    ) -> Result<(Tunnel, Taker), Failed> {
        let session = self.session(route, target).await?;
        notes.via(session.via());
        let sent = self.balancer.now();
        match session.connect(&route.service, only).await {
            Ok(tunnel) => {
                let taken_by = tunnel.taken_by();
                if only.is_some_and(|only| taken_by.is_some_and(|by| by != only)) {
                    return Err(self.misled(route, target, headers::OTHER_ENDPOINT.to_owned()));
                }
                let taker = self.taker(route, target, taken_by, notes);
                let latency = self.balancer.now().saturating_sub(sent);
                self.balancer.answered(&taker.target, latency);
                Ok((tunnel, taker))
            }
            Err(TunnelError::Send(error)) => {
                let failed = self.send_failed(route, target, &error);
                // No byte of the client's was sent: another endpoint may always be asked.
                let safe = if failed.safe == Safe::SameEndpoint {
                    failed.safe
                } else {
                    Safe::Always
                };
                Err(Failed { safe, ..failed })
            }
            Err(TunnelError::Answer {
                unprocessed: Some(why),
                ..
            }) if why == headers::OTHER_ENDPOINT => Err(self.misled(route, target, why)),
            Err(error @ TunnelError::Answer { .. }) => {
                let failure = Failure::Unprocessed;
                if let TunnelError::Answer {
                    unprocessed: Some(_),
                    ..
                } = &error
                {
                    self.balancer
                        .failed(&route.service, target, Blame::Endpoint(failure));
                }
                Err(Failed {
                    safe: Safe::Always,
                    cause: failure.as_str(),
                    why: error.to_string(),
                })
            }
        }
    }
}

/// Serves a client whose first bytes are known.
pub(super) async fn serve(
    outbound: &Rc<Outbound>,
    client: Client,
    service: &Called,
    drain: drain::Watch,
) {
    let rules = outbound.stream_rules(service);
    let (mut client, mut name) = (client, None);
    if rules.ask_for_name() {
        match name_of(client, Instant::now() + DETECT_DEADLINE).await {
            Ok((told, heard)) => (client, name) = (told, heard.name()),
            Err(error) => return gone(outbound, &error),
        }
    }
    serve_as(outbound, client, service, (&rules, name.as_deref()), drain).await;
}

/// Serves a client of a port that is declared to be no HTTP. Nobody waits for its first bytes, unless rules ask for a name in them.
pub(super) async fn declared(
    outbound: &Rc<Outbound>,
    stream: TcpStream,
    service: &Called,
    drain: drain::Watch,
) {
    let rules = outbound.stream_rules(service);
    let mut client = Prefixed::new(Bytes::new(), stream);
    let mut name = None;
    if rules.ask_for_name() {
        match name_of(client, Instant::now() + DETECT_DEADLINE).await {
            Ok((silent, Heard::Silence)) => {
                let (_, stream) = silent.into_parts();
                // It is no HTTP whatever the client says later, so nothing comes back.
                drop(server_first(outbound, stream, service, false, drain).await);
                return;
            }
            Ok((told, heard)) => (client, name) = (told, heard.name()),
            Err(error) => return gone(outbound, &error),
        }
    }
    serve_as(outbound, client, service, (&rules, name.as_deref()), drain).await;
}

/// Serves one as the rules say of the name that it asks for.
async fn serve_as(
    outbound: &Rc<Outbound>,
    client: Client,
    service: &Called,
    (rules, name): (&StreamRules, Option<&str>),
    drain: drain::Watch,
) {
    let mut notes = outbound.connection_notes(service, client.get_ref());
    let to = match rules.follow(rules.decide(name), outbound.balancer.random()) {
        Ok(to) => to,
        Err(nowhere) => {
            let error = outbound.no_way(service, nowhere);
            return give_up(outbound, client.get_ref(), service, (&error, notes));
        }
    };
    let opened = outbound
        .tunnel(to.callee(), from(client.get_ref()), &mut notes)
        .await;
    match opened {
        Ok(opened) => {
            let live = opened.pair.tunnel(Flags::None).noting(notes);
            join(outbound, client, (opened, live), &to.service, drain).await;
        }
        Err(error) => give_up(outbound, client.get_ref(), &to.service, (&error, notes)),
    }
}

fn gone(outbound: &Outbound, error: &std::io::Error) {
    outbound.metrics.dropped(Dropped::cut);
    tracing::debug!(%error, "client gone before it was served");
}

/// Nobody takes it: the client sees a reset, which no protocol mistakes for an answer.
fn give_up(
    outbound: &Outbound,
    client: &TcpStream,
    service: &ServicePortRef,
    (error, mut notes): (&NoTunnel, Notes),
) {
    tracing::info!(%service, reason = error.reason, what = error.what, tries = ?error.tries, "connection not taken by any endpoint");
    outbound.metrics.tunnel(service, None, Outcome::failed);
    notes.ended_by(error.reason);
    drop(error.pair.tunnel(error.flags).noting(notes));
    abort(client);
}

/// What is known of a stream of bytes.
fn from(client: &TcpStream) -> Traits<'static> {
    Traits {
        from: client.peer_addr().ok().map(|a| a.ip()),
        ..Traits::default()
    }
}

/// Makes the socket's close a reset.
fn abort(client: &TcpStream) {
    // A socket that is gone already needs no reset.
    drop(client.set_zero_linger());
}

/// Moves bytes until both sides have ended, or one aborts, or the drain is forced.
async fn join(
    outbound: &Outbound,
    mut client: Client,
    (opened, mut live): (Opened, LiveTunnel),
    service: &ServicePortRef,
    drain: drain::Watch,
) {
    let Opened {
        mut tunnel,
        target,
        in_flight,
        permit,
        ..
    } = opened;
    let moving = relay_io_counted(&mut client, &mut tunnel, |side, n| live.count(side, n));
    let relayed = drain.until_forced(moving).await;
    let outcome = told(&mut live, relayed.map(|r| r.end));
    drop(live);
    drop((in_flight, permit));
    if outcome == Outcome::broken {
        abort(client.get_ref());
    }
    outbound
        .metrics
        .tunnel(service, Some(target.cluster()), outcome);
}

/// Has it written down how a connection ended; none: it was cut by the end of a drain.
pub(super) fn told(live: &mut LiveTunnel, end: Option<End>) -> Outcome {
    match end {
        Some(End::Closed) => return Outcome::ok,
        Some(End::Failed(Side::A, _)) => live.ended(Flags::DownstreamCut, None),
        Some(End::Failed(Side::B, _)) => live.ended(Flags::UpstreamCut, None),
        None => live.ended(Flags::None, Some("drained")),
    }
    Outcome::broken
}
