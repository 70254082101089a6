//! DestinationRule's bounds of how much at once, its detection of outliers and its budget of retries. Numbers are read as Istio reads
//! them: zero is what was not said, where the field cannot tell the difference.

use tradewind_api::traffic::{Outlier, Pool, RetryBudget};

use super::types;
use crate::{
    finding::Code,
    object::{At, Report},
    values::{count, percent, span},
};

/// A budget's share where none is said, in millionths: a fifth.
const USUAL_SHARE: u32 = 200_000;
/// Retries that a budget always allows, where it does not say how many.
const USUAL_RETRIES: u32 = 3;
/// Failures of the transport in a row that eject, where they are counted apart and it is not said how many.
const USUAL_LOCAL_FAILURES: u32 = 5;

/// Its words for how much at once.
pub(super) fn pool(doc: &types::ConnectionPool, at: &At, report: &mut Report<'_>) -> Pool {
    let (tcp, http) = (at.field("tcp"), at.field("http"));
    let timeout = doc.tcp.connect_timeout.as_deref();
    let connect_timeout_ms = span(timeout, &tcp.field("connectTimeout"), report);
    // There is no way to say none at all.
    let mut bound = |value: Option<i64>, at: &At, key: &str| {
        count(value, i32::MAX.unsigned_abs(), &at.field(key), report).filter(|n| *n > 0)
    };
    let per_connection = doc.http.max_requests_per_connection;
    Pool {
        connections: bound(doc.tcp.max_connections, &tcp, "maxConnections"),
        pending: bound(
            doc.http.http1_max_pending_requests,
            &http,
            "http1MaxPendingRequests",
        ),
        requests: bound(doc.http.http2_max_requests, &http, "http2MaxRequests"),
        retries: bound(doc.http.max_retries, &http, "maxRetries"),
        requests_per_connection: bound(per_connection, &http, "maxRequestsPerConnection"),
        connect_timeout_ms,
    }
}

/// Its words for who is left alone.
pub(super) fn outlier(doc: &types::OutlierDetection, at: &At, report: &mut Report<'_>) -> Outlier {
    let usual = Outlier::default();
    let in_gateway = at.field("consecutiveGatewayErrors");
    let mut number =
        |value: Option<i64>, most: u32, key: &str| count(value, most, &at.field(key), report);
    let of_old = number(
        doc.consecutive_errors,
        i32::MAX.unsigned_abs(),
        "consecutiveErrors",
    )
    .filter(|n| *n > 0);
    let errors = number(doc.consecutive_5xx_errors, u32::MAX, "consecutive5xxErrors");
    let gateway = number(
        doc.consecutive_gateway_errors,
        u32::MAX,
        "consecutiveGatewayErrors",
    );
    let local = number(
        doc.consecutive_local_origin_failures,
        u32::MAX,
        "consecutiveLocalOriginFailures",
    );
    let most = number(doc.max_ejection_percent, 100, "maxEjectionPercent").filter(|n| *n > 0);
    let least = number(doc.min_health_percent, 100, "minHealthPercent");
    let as_percent = |n: u32| u8::try_from(n).unwrap_or(100);
    let errors = match (errors, of_old) {
        (Some(errors), _) => Some(errors),
        // It counts gateways' errors, and no others.
        (None, Some(_)) => None,
        (None, None) => usual.errors,
    };
    let is_split = doc.split_external_local_origin_errors;
    let interval = doc.interval.as_deref();
    let ejection = doc.base_ejection_time.as_deref();
    let outlier = Outlier {
        errors: errors.filter(|n| *n > 0),
        gateway_errors: gateway.or(of_old).filter(|n| *n > 0),
        codes: codes(doc, at, report),
        local_failures: is_split.then(|| local.filter(|n| *n > 0).unwrap_or(USUAL_LOCAL_FAILURES)),
        interval_ms: span(interval, &at.field("interval"), report).unwrap_or(usual.interval_ms),
        base_ejection_ms: span(ejection, &at.field("baseEjectionTime"), report)
            .unwrap_or(usual.base_ejection_ms),
        max_ejection_percent: most.map_or(usual.max_ejection_percent, as_percent),
        min_health_percent: least.map_or(usual.min_health_percent, as_percent),
    };
    if local.is_some() && !is_split {
        let at = at.field("consecutiveLocalOriginFailures");
        let text = "it acts with splitExternalLocalOriginErrors alone";
        report.say(Code::IdleSetting, &at, text);
    }
    match (outlier.errors, outlier.gateway_errors) {
        (None, None) if !is_split => {
            let text = "no number of errors ejects anybody";
            report.say(Code::IdleSetting, at, text);
        }
        (Some(errors), Some(of_gateways)) if of_gateways >= errors && gateway.is_some() => {
            let text = format!("{errors} errors of any kind eject before these {of_gateways} do");
            report.say(Code::IdleSetting, &in_gateway, text);
        }
        _ => {}
    }
    outlier
}

/// In order, each once.
fn codes(doc: &types::OutlierDetection, at: &At, report: &mut Report<'_>) -> Vec<u16> {
    let at = at.field("outlierDetectionHttpErrorCodes");
    let mut codes = Vec::new();
    for (i, value) in doc.outlier_detection_http_error_codes.iter().enumerate() {
        match u16::try_from(*value) {
            Ok(code) if (100..600).contains(&code) => codes.push(code),
            _ => report.invalid(&at.index(i), &value.to_string(), "a status from 100 to 599"),
        }
    }
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Its words for how much may be tried again.
pub(super) fn retry_budget(
    doc: &types::RetryBudget,
    at: &At,
    report: &mut Report<'_>,
) -> RetryBudget {
    let at_least = &at.field("minRetryConcurrency");
    RetryBudget {
        share: percent(doc.percent, &at.field("percent"), report).unwrap_or(USUAL_SHARE),
        min_concurrency: count(doc.min_retry_concurrency, u32::MAX, at_least, report)
            .filter(|n| *n > 0)
            .unwrap_or(USUAL_RETRIES),
    }
}
