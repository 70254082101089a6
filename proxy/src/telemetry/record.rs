//! What is written down of one request or connection where somebody asked for it: made at its head, filled on its way, and
//! handed over when the standard metrics count it. Metrics, spans and the access log tell the same thing so.
//!
//! Where nobody asked, [`Notes`] is empty, allocates nothing and does nothing. Every text of a peer's is cut to a bound.

use std::{net::SocketAddr, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::{HOST, USER_AGENT},
};
use tokio::{net::TcpStream, time::Instant};
use tradewind_api::id::{ClusterName, EndpointId, ServicePortRef};
use tradewind_transport::{
    balance::tiers::Distance,
    hbone::headers,
    trace_context::{Followed, TRACESTATE},
};

use super::Telemetry;
use crate::standard::{Flags, PairKey, Reporter};

/// Longest path that is kept, in bytes: what tells one call from another is in front.
const MAX_PATH: usize = 1024;
/// Longest other text of a peer's, in bytes.
const MAX_TEXT: usize = 256;
/// Longest tracestate that is kept, in bytes: what the standard asks to be passed on at least.
const MAX_STATE: usize = 512;
/// Attempts that are kept of a connection: more than a request makes, and what comes after so many repeats.
const MAX_ATTEMPTS: usize = 16;

/// The response is the application's: Envoy's word for it.
pub(super) const VIA_UPSTREAM: &str = "via_upstream";

/// `text`, cut to `most` bytes and marked where it was.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut kept = String::with_capacity(most + 3);
    for c in text.chars() {
        if kept.len() + c.len_utf8() > most {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

fn field(fields: &HeaderMap, name: impl http::header::AsHeaderName, most: usize) -> Option<String> {
    fields.get(name).map(|v| text(v, most))
}

fn text(value: &HeaderValue, most: usize) -> String {
    let bytes = value.as_bytes();
    let bytes = bytes.get(..most.saturating_add(4)).unwrap_or(bytes);
    cut(&String::from_utf8_lossy(bytes), most)
}

/// A short text of a peer's.
pub(super) fn short(value: &HeaderValue) -> String {
    text(value, MAX_TEXT)
}

/// Both addresses of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
}

impl Ends {
    /// Those of a socket; none when it is gone already.
    pub(crate) fn of(stream: &TcpStream) -> Option<Self> {
        Some(Self {
            remote: stream.peer_addr().ok()?,
            local: stream.local_addr().ok()?,
        })
    }
}

/// Which tier an endpoint was drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tier {
    /// As `explain` numbers them.
    pub(crate) number: usize,
    pub(crate) distance: Distance,
}

/// One endpoint that was asked.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) endpoint: EndpointId,
    pub(crate) cluster: ClusterName,
    pub(crate) tier: Option<Tier>,
    /// Its way leads through gateways.
    pub(crate) through_gateway: bool,
    /// `host:port` that was dialled, once there is a session.
    pub(crate) via: Option<String>,
    /// Since the record's start.
    pub(crate) began_us: u64,
    pub(crate) took_us: Option<u64>,
    /// One word and a sentence.
    pub(crate) failed: Option<(&'static str, String)>,
}

impl Attempt {
    /// The gateway that it went through.
    pub(crate) fn gateway(&self) -> Option<&str> {
        self.via.as_deref().filter(|_| self.through_gateway)
    }
}

/// The head of a request.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    /// What the application spoke.
    pub(crate) version: Version,
    pub(crate) authority: Option<String>,
    pub(crate) user_agent: Option<String>,
    pub(crate) x_forwarded_for: Option<String>,
}

impl Head {
    /// `said`: what the caller's proxy says that the application spoke.
    pub(crate) fn of(
        (method, uri, version): (&Method, &Uri, Version),
        said: Option<Version>,
        fields: &HeaderMap,
    ) -> Self {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let authority = match uri.authority() {
            Some(authority) => Some(cut(authority.as_str(), MAX_TEXT)),
            None => field(fields, HOST, MAX_TEXT),
        };
        Self {
            method: method.clone(),
            path: cut(path, MAX_PATH),
            version: said.unwrap_or(version),
            authority,
            user_agent: field(fields, USER_AGENT, MAX_TEXT),
            x_forwarded_for: field(fields, "x-forwarded-for", MAX_TEXT),
        }
    }
}

/// A trace that the request belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    pub(crate) followed: Followed,
    pub(crate) state: Option<String>,
}

impl Traced {
    pub(crate) fn new(followed: Followed, fields: &HeaderMap) -> Self {
        Self {
            followed,
            state: field(fields, TRACESTATE, MAX_STATE),
        }
    }
}

/// All that is known of one request or connection.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) reporter: Reporter,
    pub(crate) service: Option<ServicePortRef>,
    /// None of a connection.
    pub(crate) head: Option<Head>,
    pub(crate) request_id: Option<String>,
    pub(crate) traced: Option<Traced>,
    pub(crate) started: Instant,
    pub(crate) started_unix_us: u64,
    pub(crate) client: Option<Ends>,
    /// The name in the client's TLS handshake.
    pub(crate) server_name: Option<Arc<str>>,
    /// The application's address, at the callee.
    pub(crate) application: Option<String>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) parties: Option<Arc<PairKey>>,
    /// When the head of the response came.
    pub(crate) answered_us: Option<u64>,
    /// Whose response it is, or why it is ours.
    pub(crate) details: Option<String>,
    /// Why a connection did not end by itself.
    pub(crate) termination: Option<&'static str>,
}

impl Record {
    fn since(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// The attempt that was made last.
    pub(crate) fn last(&self) -> Option<&Attempt> {
        self.attempts.last()
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) took_us: u64,
    /// 0 where the client left before there was one, and of a connection.
    pub(crate) code: u16,
    pub(crate) grpc: bool,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) flags: Flags,
    /// From the client.
    pub(crate) received: u64,
    /// To the client.
    pub(crate) sent: u64,
}

/// A record with its end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) record: Record,
    pub(crate) end: End,
}

impl Ended {
    /// Whether all went as it should, at the first attempt.
    pub(crate) fn is_plain(&self) -> bool {
        let ended_well = self.end.flags == Flags::None && self.record.termination.is_none();
        let code = if self.record.head.is_some() {
            (1..500).contains(&self.end.code)
        } else {
            self.end.code == 0
        };
        let grpc = self.end.grpc_status.is_none_or(|s| s == 0);
        let details = self.record.details.as_deref();
        // What a proxy refuses by itself is no plain thing, whatever its status.
        let theirs = details.is_none_or(|d| d == VIA_UPSTREAM);
        ended_well
            && code
            && grpc
            && theirs
            && self.record.attempts.iter().all(|a| a.failed.is_none())
    }
}

#[derive(Debug)]
struct Open {
    telemetry: Telemetry,
    record: Record,
}

/// What is being written down of one request or connection, if anything is.
#[derive(Debug, Default)]
pub(crate) struct Notes(Option<Box<Open>>);

impl Notes {
    pub(super) fn begin(telemetry: &Telemetry, record: Record) -> Self {
        Self(Some(Box::new(Open {
            telemetry: telemetry.clone(),
            record,
        })))
    }

    /// Whether anything is written down.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn with(&mut self, note: impl FnOnce(&mut Record, u64)) {
        if let Some(open) = &mut self.0 {
            let now = open.record.since(open.telemetry.now());
            note(&mut open.record, now);
        }
    }

    /// An endpoint is asked.
    pub(crate) fn attempt(
        &mut self,
        (endpoint, cluster): (&EndpointId, &ClusterName),
        tier: Option<Tier>,
        through_gateway: bool,
    ) {
        self.with(|record, now| {
            if record.attempts.len() < MAX_ATTEMPTS {
                record.attempts.push(Attempt {
                    endpoint: endpoint.clone(),
                    cluster: cluster.clone(),
                    tier,
                    through_gateway,
                    via: None,
                    began_us: now,
                    took_us: None,
                    failed: None,
                });
            }
        });
    }

    /// Another endpoint than the one that was asked took it.
    pub(crate) fn taken_by(&mut self, endpoint: &EndpointId) {
        self.with(|record, _| {
            if let Some(attempt) = record.attempts.last_mut() {
                attempt.endpoint = endpoint.clone();
            }
        });
    }

    /// There is a session with it, dialled at this address.
    pub(crate) fn via(&mut self, address: &str) {
        self.with(|record, _| {
            if let Some(attempt) = record.attempts.last_mut() {
                attempt.via = Some(cut(address, MAX_TEXT));
            }
        });
    }

    /// It took a connection.
    pub(crate) fn connected(&mut self) {
        self.with(|record, now| {
            if let Some(attempt) = record.attempts.last_mut() {
                attempt.took_us = Some(now.saturating_sub(attempt.began_us));
            }
        });
    }

    /// It was asked in vain.
    pub(crate) fn failed(&mut self, cause: &'static str, why: &str) {
        self.with(|record, now| {
            if let Some(attempt) = record.attempts.last_mut() {
                attempt.took_us = Some(now.saturating_sub(attempt.began_us));
                attempt.failed = Some((cause, cut(why, MAX_TEXT)));
            }
        });
    }

    /// Between whom it is, where the metrics do not count it.
    pub(crate) fn between(&mut self, parties: impl FnOnce() -> PairKey) {
        self.with(|record, _| record.parties = Some(Arc::new(parties())));
    }

    /// The head of a response; `own`: the proxy itself makes it.
    pub(crate) fn answered(&mut self, fields: &HeaderMap, own: Option<&'static str>) {
        self.with(|record, now| {
            let ours = fields
                .get(headers::ERROR)
                .or_else(|| fields.get(headers::UNPROCESSED));
            record.details = match (own, ours) {
                (Some(reason), _) => Some(reason.to_owned()),
                (None, Some(reason)) => Some(text(reason, MAX_TEXT)),
                (None, None) => Some(VIA_UPSTREAM.to_owned()),
            };
            record.answered_us = Some(now);
            if let Some(attempt) = record.attempts.last_mut()
                && attempt.failed.is_none()
            {
                attempt.took_us = Some(now.saturating_sub(attempt.began_us));
            }
        });
    }

    /// Nobody but the proxy answers.
    pub(crate) fn refused(&mut self) {
        self.with(|record, _| record.answered_us = None);
    }

    /// Why a connection is not taken or was ended.
    pub(crate) fn ended_by(&mut self, why: &'static str) {
        self.with(|record, _| record.termination = Some(why));
    }

    /// What to write down of the connection that a request turns into.
    pub(crate) fn upgraded(&self) -> Self {
        let Some(open) = self.0.as_deref().filter(|o| o.telemetry.logs()) else {
            return Self::default();
        };
        let now = open.telemetry.now();
        let record = Record {
            head: None,
            traced: open.record.traced.clone(),
            started: now,
            started_unix_us: open.telemetry.unix_us(),
            details: None,
            answered_us: None,
            ..open.record.clone()
        };
        Self::begin(&open.telemetry, record)
    }

    /// Hands it over; nothing is written down any more. `end` gets what is now.
    pub(crate) fn finish(&mut self, parties: Option<Arc<PairKey>>, end: impl FnOnce(u64) -> End) {
        let Some(open) = self.0.take() else {
            return;
        };
        let Open {
            telemetry,
            mut record,
        } = *open;
        let end = end(record.since(telemetry.now()));
        record.parties = parties.or(record.parties);
        let cut = match (end.flags, record.answered_us) {
            _ if record.termination.is_some() => record.termination,
            (Flags::DownstreamCut, _) => Some("downstream_remote_disconnect"),
            (Flags::UpstreamCut, Some(_)) => Some("upstream_reset_after_response_started"),
            _ => None,
        };
        if let Some(cut) = cut {
            record.details = Some(cut.to_owned());
        }
        telemetry.tell(Ended { record, end });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_a_peer_says_is_kept_within_its_bound(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else {
                return Ok(());
            };
            let kept = text(&value, MAX_TEXT);
            prop_assert!(kept.len() <= MAX_TEXT + '…'.len_utf8());
            if let Ok(whole) = std::str::from_utf8(&bytes)
                && whole.len() <= MAX_TEXT
            {
                prop_assert_eq!(kept, whole);
            }
        }

        #[test]
        fn text_is_cut_between_characters(whole in "\\PC{0,400}") {
            let kept = cut(&whole, MAX_TEXT);
            let front = kept.strip_suffix('…').unwrap_or(&kept);
            prop_assert!(whole.starts_with(front));
        }
    }
}
