//! A record as one line of the access log: a JSON object under the keys of Istio's default format, and below them what says
//! why the call went where it went. Pure.

use std::fmt::Write as _;

use http::Version;
use serde::Serialize;

use super::record::{Attempt, Ended, Tier};
use crate::standard::Reporter;

/// Every key is in every line; what is not known is null.
#[derive(Debug, Serialize)]
struct Line<'a> {
    start_time: String,
    route_name: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    protocol: Option<&'static str>,
    response_code: u16,
    response_flags: &'static str,
    response_code_details: Option<&'a str>,
    connection_termination_details: Option<&'static str>,
    bytes_received: u64,
    bytes_sent: u64,
    /// Milliseconds.
    duration: u64,
    /// Milliseconds.
    upstream_service_time: Option<u64>,
    x_forwarded_for: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    authority: Option<&'a str>,
    upstream_host: Option<&'a str>,
    upstream_cluster: Option<String>,
    upstream_local_address: Option<&'a str>,
    downstream_local_address: Option<String>,
    downstream_remote_address: Option<String>,
    requested_server_name: Option<&'a str>,
    upstream_transport_failure_reason: Option<&'a str>,
    // What Istio's has not.
    reporter: &'static str,
    service: Option<String>,
    source_cluster: Option<&'a str>,
    source_principal: Option<&'a str>,
    destination_cluster: Option<&'a str>,
    destination_principal: Option<&'a str>,
    endpoint: Option<&'a str>,
    tier: Option<usize>,
    tier_name: Option<String>,
    gateway: Option<&'a str>,
    attempts: Vec<Tried<'a>>,
    grpc_status: Option<u8>,
    trace_id: Option<String>,
    span_id: Option<String>,
    trace_sampled: Option<bool>,
}

/// One endpoint that was asked.
#[derive(Debug, Serialize)]
struct Tried<'a> {
    endpoint: &'a str,
    cluster: &'a str,
    tier: Option<usize>,
    tier_name: Option<String>,
    gateway: Option<&'a str>,
    /// Milliseconds since the start.
    began: u64,
    /// Milliseconds until it answered or failed.
    took: Option<u64>,
    /// One word; null where it answered.
    failure: Option<&'static str>,
    reason: Option<&'a str>,
}

impl<'a> Tried<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        let (tier, tier_name) = told(attempt.tier);
        Self {
            endpoint: attempt.endpoint.as_str(),
            cluster: attempt.cluster.as_str(),
            tier,
            tier_name,
            gateway: attempt.gateway(),
            began: attempt.began_us / 1000,
            took: attempt.took_us.map(|us| us / 1000),
            failure: attempt.failed.as_ref().map(|(cause, _)| *cause),
            reason: attempt.failed.as_ref().map(|(_, why)| why.as_str()),
        }
    }
}

fn told(tier: Option<Tier>) -> (Option<usize>, Option<String>) {
    (tier.map(|t| t.number), tier.map(|t| t.distance.to_string()))
}

/// What the metrics call unknown is null here.
fn known(text: &str) -> Option<&str> {
    (text != crate::standard::UNKNOWN).then_some(text)
}

/// Writes the line, with its end, behind what is in `out`.
pub(super) fn write(ended: &Ended, out: &mut Vec<u8>) {
    let length = out.len();
    if serde_json::to_writer(&mut *out, &line(ended)).is_err() {
        // A structure without maps and a writer into memory: it cannot fail, and half a line is none.
        out.truncate(length);
        return;
    }
    out.push(b'\n');
}

fn line(ended: &Ended) -> Line<'_> {
    let (record, end) = (&ended.record, &ended.end);
    let (head, parties) = (record.head.as_ref(), record.parties.as_deref());
    let last = record.last();
    let (tier, tier_name) = told(last.and_then(|a| a.tier));
    let service_time = record
        .answered_us
        .map(|us| us.saturating_sub(last.map_or(0, |a| a.began_us)) / 1000);
    let failed = last.and_then(|a| a.failed.as_ref());
    Line {
        start_time: time(record.started_unix_us),
        route_name: None,
        method: head.map(|h| h.method.as_str()),
        path: head.map(|h| h.path.as_str()),
        protocol: head.map(|h| protocol(h.version)),
        response_code: end.code,
        response_flags: end.flags.as_str(),
        response_code_details: record.details.as_deref(),
        connection_termination_details: record.termination,
        bytes_received: end.received,
        bytes_sent: end.sent,
        duration: end.took_us / 1000,
        upstream_service_time: service_time,
        x_forwarded_for: head.and_then(|h| h.x_forwarded_for.as_deref()),
        user_agent: head.and_then(|h| h.user_agent.as_deref()),
        request_id: record.request_id.as_deref(),
        authority: head.and_then(|h| h.authority.as_deref()),
        upstream_host: record
            .application
            .as_deref()
            .or_else(|| last.and_then(|a| a.via.as_deref())),
        upstream_cluster: upstream_cluster(ended),
        upstream_local_address: None,
        downstream_local_address: record.client.map(|c| c.local.to_string()),
        downstream_remote_address: record.client.map(|c| c.remote.to_string()),
        requested_server_name: record.server_name.as_deref(),
        upstream_transport_failure_reason: failed.map(|(_, why)| why.as_str()),
        reporter: record.reporter.as_str(),
        service: record.service.as_ref().map(ToString::to_string),
        source_cluster: parties.and_then(|p| known(p.source.cluster())),
        source_principal: parties.and_then(|p| known(p.source.principal())),
        destination_cluster: parties.and_then(|p| known(p.destination.cluster())),
        destination_principal: parties.and_then(|p| known(p.destination.principal())),
        endpoint: last.map(|a| a.endpoint.as_str()),
        tier,
        tier_name,
        gateway: last.and_then(Attempt::gateway),
        attempts: record.attempts.iter().map(Tried::of).collect(),
        grpc_status: end.grpc_status,
        trace_id: trace(ended, |t| t.context.trace.to_string()),
        span_id: trace(ended, |t| t.context.parent.to_string()),
        trace_sampled: trace(ended, |t| t.context.is_sampled()),
    }
}

fn trace<T>(
    ended: &Ended,
    what: impl FnOnce(&tradewind_transport::trace_context::Followed) -> T,
) -> Option<T> {
    ended.record.traced.as_ref().map(|t| what(&t.followed))
}

/// As Envoy names versions.
pub(super) const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// As Istio names what a proxy sends to.
fn upstream_cluster(ended: &Ended) -> Option<String> {
    match ended.record.reporter {
        Reporter::Source => ended.record.service.as_ref().map(|s| {
            let (name, namespace) = (s.service.name(), &s.service.namespace);
            format!("outbound|{}||{name}.{namespace}.svc.cluster.local", s.port)
        }),
        Reporter::Destination => {
            let (_, port) = ended.record.application.as_ref()?.rsplit_once(':')?;
            Some(format!("inbound|{port}||"))
        }
    }
}

/// A time as RFC 3339 has it, in UTC and to the millisecond.
fn time(unix_us: u64) -> String {
    let (days, of_day) = (unix_us / 86_400_000_000, unix_us % 86_400_000_000);
    let (year, month, day) = date(days);
    let (ms, s) = (of_day / 1000 % 1000, of_day / 1_000_000);
    let mut text = String::with_capacity(24);
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        s / 3600,
        s / 60 % 60,
        s % 60,
    );
    text
}

/// Year, month and day of a day since 1970: counted from the March of a leap cycle's first year, so that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let since_march_0 = days + 719_468;
    let (era, of_era) = (since_march_0 / 146_097, since_march_0 % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(time(unix_s * 1_000_000), text);
        }
        assert_eq!(time(1_606_339_578_409_999), "2020-11-25T21:26:18.409Z");
    }
}
