//! VirtualService's `fault`: what is delayed or answered on purpose, and for which share of the requests.

use tradewind_api::route::{Abort, Fault, MILLION, Millionths};

use super::types::{self, Percent};
use crate::{
    object::{At, Report},
    values::limit,
};

/// None is all of them.
pub(super) fn share(percent: Option<Percent>) -> Millionths {
    let Some(Percent { value }) = percent else {
        return MILLION;
    };
    // A cast of what is no number is 0, and one of too much the largest.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=MILLION"
    )]
    let share = (value * 10_000.0).round().clamp(0.0, f64::from(MILLION)) as Millionths;
    share
}

pub(super) fn fault(doc: &types::Fault, at: &At, report: &mut Report<'_>) -> Fault {
    let delay = doc.delay.as_ref().and_then(|d| {
        let at = at.field("delay").field("fixedDelay");
        let ms = limit(d.fixed_delay.as_deref(), &at, report)?;
        let percent = d
            .percentage
            .or(d.percent.map(|p| Percent { value: p.into() }));
        Some((ms, share(percent)))
    });
    let abort = doc.abort.as_ref().and_then(|a| {
        let at = at.field("abort");
        let with = match (&a.http_status, &a.grpc_status) {
            (Some(status), _) if (200..600).contains(status) => Abort::Http(*status),
            (Some(status), _) => {
                let at = at.field("httpStatus");
                report.invalid(&at, &status.to_string(), "a status from 200 to 599");
                return None;
            }
            (None, Some(name)) => match grpc_status(name) {
                Some(code) => Abort::Grpc(code),
                None => {
                    report.invalid(
                        &at.field("grpcStatus"),
                        name,
                        "a gRPC status such as UNAVAILABLE, or its number",
                    );
                    return None;
                }
            },
            (None, None) => return None,
        };
        Some((with, share(a.percentage)))
    });
    Fault { delay, abort }
}

/// By name or number.
fn grpc_status(name: &str) -> Option<u16> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let by_name = NAMES.iter().position(|n| *n == name.to_ascii_uppercase());
    let number = by_name.or_else(|| name.parse().ok())?;
    u16::try_from(number).ok().filter(|n| *n < 17)
}
