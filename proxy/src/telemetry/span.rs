//! A record as a span of OTLP, by OpenTelemetry's conventions for HTTP and RPC, with what only a mesh knows beside them. Pure.

use http::Method;
use tradewind_api::proto::otlp::{
    common::{AnyValue, KeyValue, any_value::Value},
    trace::{
        Span, Status,
        span::{Event, SpanKind},
        status::StatusCode,
    },
};

use super::{
    line,
    record::{Attempt, Ended, Head, VIA_UPSTREAM},
};
use crate::standard::{Flags, Reporter, UNKNOWN};

/// Set where it is said whether the parent is another process's, and set where it is.
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;

/// The methods that the convention knows; others are `_OTHER`, so that callers do not make up names.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

/// Attributes as they are gathered.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
        });
    }

    pub(super) fn text(&mut self, key: &str, value: impl Into<String>) {
        self.add(key, Value::StringValue(value.into()));
    }

    pub(super) fn maybe(&mut self, key: &str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn number(&mut self, key: &str, value: impl TryInto<i64>) {
        self.add(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)));
    }

    pub(super) fn done(self) -> Vec<KeyValue> {
        self.0
    }
}

/// The span of a recorded request; `None` of anything else.
pub(super) fn of(ended: &Ended) -> Option<Span> {
    let (record, end) = (&ended.record, &ended.end);
    let (head, traced) = (record.head.as_ref()?, record.traced.as_ref()?);
    let followed = traced.followed;
    if !followed.recorded {
        return None;
    }
    let start = record.started_unix_us.saturating_mul(1000);
    let remote = followed.above.map_or(0, |_| PARENT_REMOTE);
    Some(Span {
        trace_id: followed.context.trace.bytes().to_vec(),
        span_id: followed.context.parent.bytes().to_vec(),
        trace_state: traced.state.clone().unwrap_or_default(),
        parent_span_id: followed
            .above
            .map(|s| s.bytes().to_vec())
            .unwrap_or_default(),
        flags: u32::from(followed.context.flags()) | PARENT_KNOWN | remote,
        name: name(head, end.grpc),
        kind: match record.reporter {
            Reporter::Source => SpanKind::Client,
            Reporter::Destination => SpanKind::Server,
        }
        .into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(end.took_us.saturating_mul(1000)),
        attributes: attributes(ended, head),
        events: events(ended, start),
        status: status(ended),
    })
}

fn is_known(method: &Method) -> bool {
    METHODS.contains(method)
}

/// The service and method of a gRPC call.
fn rpc(head: &Head) -> Option<(&str, &str)> {
    let path = head.path.strip_prefix('/')?;
    path.split_once('/')
}

/// What happens again and again has one name: a path would be another one for each caller's whim.
fn name(head: &Head, grpc: bool) -> String {
    match rpc(head).filter(|_| grpc) {
        Some((service, method)) => format!("{service}/{method}"),
        None if is_known(&head.method) => head.method.as_str().to_owned(),
        None => "HTTP".to_owned(),
    }
}

fn attributes(ended: &Ended, head: &Head) -> Vec<KeyValue> {
    let mut all = Attributes::default();
    http(&mut all, ended, head);
    if ended.end.grpc {
        all.text("rpc.system", "grpc");
        if let Some((service, method)) = rpc(head) {
            all.text("rpc.service", service);
            all.text("rpc.method", method);
        }
        if let Some(status) = ended.end.grpc_status {
            all.number("rpc.grpc.status_code", status);
        }
    }
    mesh(&mut all, ended);
    all.done()
}

fn http(all: &mut Attributes, ended: &Ended, head: &Head) {
    let (record, end) = (&ended.record, &ended.end);
    if is_known(&head.method) {
        all.text("http.request.method", head.method.as_str());
    } else {
        all.text("http.request.method", "_OTHER");
        all.text("http.request.method_original", head.method.as_str());
    }
    let (path, query) = match head.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (head.path.as_str(), None),
    };
    all.text("url.scheme", "http");
    all.text("url.path", path);
    all.maybe("url.query", query);
    if let Some(authority) = &head.authority {
        let (host, port) = host_and_port(authority);
        all.text("server.address", host);
        if let Some(port) = port {
            all.number("server.port", port);
        }
        if record.reporter == Reporter::Source {
            all.text("url.full", format!("http://{authority}{}", head.path));
        }
    }
    all.text("network.protocol.name", "http");
    let version = line::protocol(head.version);
    all.text(
        "network.protocol.version",
        version.trim_start_matches("HTTP/"),
    );
    all.maybe("user_agent.original", head.user_agent.as_deref());
    if let Some(client) = record.client {
        all.text("client.address", client.remote.ip().to_string());
        all.number("client.port", client.remote.port());
    }
    let peer = match record.reporter {
        Reporter::Source => record.last().and_then(|a| a.via.clone()),
        Reporter::Destination => record.client.map(|c| c.remote.to_string()),
    };
    if let Some((host, port)) = peer.as_deref().map(host_and_port) {
        all.text("network.peer.address", host);
        if let Some(port) = port {
            all.number("network.peer.port", port);
        }
    }
    if end.code != 0 {
        all.number("http.response.status_code", end.code);
    }
    all.number("http.request.body.size", end.received);
    all.number("http.response.body.size", end.sent);
    if record.reporter == Reporter::Source && record.attempts.len() > 1 {
        all.number("http.request.resend_count", record.attempts.len() - 1);
    }
    all.maybe("error.type", error(ended));
}

/// `host:port` or a host alone, with a v6 address without its brackets.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok())
        }
        _ => (authority, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

fn mesh(all: &mut Attributes, ended: &Ended) {
    let (record, end) = (&ended.record, &ended.end);
    let service = record.service.as_ref();
    all.maybe("tradewind.service", service.map(ToString::to_string));
    if let Some(parties) = record.parties.as_deref() {
        for (side, party) in [
            ("source", &parties.source),
            ("destination", &parties.destination),
        ] {
            for (what, value) in [
                ("cluster", party.cluster()),
                ("principal", party.principal()),
            ] {
                if value != UNKNOWN {
                    all.text(&format!("tradewind.{side}.{what}"), value);
                }
            }
        }
    }
    if let Some(last) = record.last() {
        place(all, last);
    }
    if record.reporter == Reporter::Source {
        all.number("tradewind.attempts", record.attempts.len());
    }
    all.maybe("tradewind.application", record.application.as_deref());
    all.maybe("tradewind.request_id", record.request_id.as_deref());
    all.maybe("tradewind.response_details", record.details.as_deref());
    if end.flags != Flags::None {
        all.text("tradewind.response_flags", end.flags.as_str());
    }
}

/// Which endpoint, and how far.
fn place(all: &mut Attributes, attempt: &Attempt) {
    all.text("tradewind.endpoint", attempt.endpoint.as_str());
    if let Some(tier) = attempt.tier {
        all.number("tradewind.tier", tier.number);
        all.text("tradewind.tier_name", tier.distance.to_string());
    }
    all.maybe("tradewind.gateway", attempt.gateway());
}

/// One event an attempt, at its start.
fn events(ended: &Ended, start: u64) -> Vec<Event> {
    let of = |(n, attempt): (usize, &Attempt)| {
        let mut all = Attributes::default();
        all.number("tradewind.attempt.number", n + 1);
        all.text("tradewind.attempt.cluster", attempt.cluster.as_str());
        place(&mut all, attempt);
        match &attempt.failed {
            Some((cause, why)) => {
                all.text("tradewind.attempt.failure", *cause);
                all.text("tradewind.attempt.reason", why);
            }
            None if attempt.took_us.is_some() => all.text("tradewind.attempt.outcome", "answered"),
            None => all.text("tradewind.attempt.outcome", "unanswered"),
        }
        if let Some(took) = attempt.took_us {
            all.number("tradewind.attempt.duration_us", took);
        }
        Event {
            time_unix_nano: start.saturating_add(attempt.began_us.saturating_mul(1000)),
            name: "tradewind.attempt".to_owned(),
            attributes: all.done(),
        }
    };
    ended.record.attempts.iter().enumerate().map(of).collect()
}

/// What went wrong, as one word; `None` where nothing did. By the conventions a status of 400 to 499 is an error of the client
/// alone, and so are gRPC's statuses that a caller brings about.
fn error(ended: &Ended) -> Option<String> {
    const OF_SERVERS: [u8; 6] = [2, 4, 12, 13, 14, 15];
    let end = &ended.end;
    let client = ended.record.reporter == Reporter::Source;
    if end.flags != Flags::None {
        return Some(end.flags.as_str().to_owned());
    }
    if let Some(status) = end.grpc_status
        && status != 0
        && (client || OF_SERVERS.contains(&status))
    {
        return Some(status.to_string());
    }
    let least = if client { 400 } else { 500 };
    (end.code >= least).then(|| end.code.to_string())
}

fn status(ended: &Ended) -> Option<Status> {
    error(ended).map(|_| Status {
        message: ended
            .record
            .details
            .clone()
            .filter(|d| d != VIA_UPSTREAM)
            .unwrap_or_default(),
        code: StatusCode::Error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_taken_apart() {
        for (authority, host, port) in [
            ("a.b:80", "a.b", Some(80)),
            ("a.b", "a.b", None),
            ("[::1]:8080", "::1", Some(8080)),
            ("[::1]", "::1", None),
            ("::1", "::1", None),
            ("a:b", "a", None),
        ] {
            assert_eq!(host_and_port(authority), (host, port), "{authority}");
        }
    }
}
