//! What Envoy's LocalRateLimit says. What Envoy would refuse comes to nothing here too, and is told.

use serde_json::Value;
use tradewind_api::{
    limit::{
        Answer, HeaderEdit, HeaderEditHow, LocalLimit, MIN_FILL_INTERVAL_MS, Place, TokenBucket,
        USUAL_STATUS,
    },
    route::{MILLION, Millionths},
};

use super::types::{self, LocalRateLimit};
use crate::{
    finding::Code,
    object::{At, Report},
    values::{count, header, span},
};

/// Most header fields that a limit adds to a message, as Envoy has it.
const MAX_HEADERS: usize = 10;

/// One limit; none where it can never be one.
pub(super) fn limit(
    doc: &LocalRateLimit,
    place: Place,
    at: &At,
    report: &mut Report<'_>,
) -> Option<LocalLimit> {
    let in_bucket = at.field("token_bucket");
    let bucket = match &doc.token_bucket {
        Some(doc) => Some(bucket(doc, &in_bucket, report)?),
        None if matches!(place, Place::Route { .. }) => {
            let text = "is missing: what a filter does for a route needs one";
            report.say(Code::InvalidValue, &in_bucket, text);
            return None;
        }
        None => None,
    };
    let (on, enforcing) = (at.field("filter_enabled"), at.field("filter_enforced"));
    let enabled = share(doc.filter_enabled.as_ref(), &on, report);
    let enforced = share(doc.filter_enforced.as_ref(), &enforcing, report);
    if bucket.is_some() && enabled == 0 {
        let text = "no request is asked about: where nothing is said it is 0 %";
        report.say(Code::IdleSetting, &on, text);
    } else if bucket.is_some() && doc.filter_enforced.is_none() {
        let text = "is not said, which is 0 %: requests beyond the limit pass, and are counted";
        report.say(Code::IdleSetting, &enforcing, text);
    }
    if !doc.descriptors.is_empty() && doc.always_consume_default_token_bucket == Some(false) {
        // Whom the bucket is for would be known by the descriptors alone.
        return None;
    }
    let tells = match &doc.enable_x_ratelimit_headers {
        None => None,
        Some(Value::String(text)) if text == "OFF" => None,
        Some(Value::String(text)) if text == "DRAFT_VERSION_03" => Some(text),
        Some(other) => {
            let at = at.field("enable_x_ratelimit_headers");
            let expected = "\"OFF\", in quotes, or DRAFT_VERSION_03";
            report.invalid(&at, &other.to_string(), expected);
            None
        }
    };
    let passed = at.field("request_headers_to_add_when_not_enforced");
    let in_answer = at.field("response_headers_to_add");
    Some(LocalLimit {
        place,
        bucket,
        per_connection: doc.local_rate_limit_per_downstream_connection,
        enabled,
        enforced,
        answer: Answer {
            status: status(
                doc.status.as_ref(),
                &at.field("status").field("code"),
                report,
            ),
            headers: headers(&doc.response_headers_to_add, &in_answer, report),
            resource_exhausted: doc.rate_limited_as_resource_exhausted,
        },
        passed_headers: headers(
            &doc.request_headers_to_add_when_not_enforced,
            &passed,
            report,
        ),
        tells: tells.is_some(),
    })
}

fn bucket(doc: &types::TokenBucket, at: &At, report: &mut Report<'_>) -> Option<TokenBucket> {
    let [in_most, in_fill, in_interval] =
        ["max_tokens", "tokens_per_fill", "fill_interval"].map(|f| at.field(f));
    let mut tokens = |value: Option<i64>, at: &At| {
        let tokens = count(Some(value.unwrap_or(0)), u32::MAX, at, report);
        if tokens == Some(0) {
            report.invalid(at, "0", "at least one token; the limit is left out");
        }
        tokens.filter(|n| *n > 0)
    };
    let max_tokens = tokens(doc.max_tokens, &in_most);
    let tokens_per_fill = tokens(Some(doc.tokens_per_fill.unwrap_or(1)), &in_fill);
    let text = doc.fill_interval.as_deref();
    let interval = match text {
        None => {
            report.invalid(&in_interval, "", "a duration; the limit is left out");
            None
        }
        Some(_) => span(text, &in_interval, report),
    };
    if interval.is_some_and(|ms| ms < MIN_FILL_INTERVAL_MS) {
        let expected = format!("at least {MIN_FILL_INTERVAL_MS}ms; the limit is left out");
        report.invalid(&in_interval, text.unwrap_or_default(), &expected);
    }
    Some(TokenBucket {
        max_tokens: max_tokens?,
        tokens_per_fill: tokens_per_fill?,
        fill_interval_ms: interval.filter(|ms| *ms >= MIN_FILL_INTERVAL_MS)?,
    })
}

/// A share of requests; nothing where it is not said.
fn share(doc: Option<&types::Fraction>, at: &At, report: &mut Report<'_>) -> Millionths {
    let Some(doc) = doc else { return 0 };
    let at = at.field("default_value");
    let Some(percent) = &doc.default_value else {
        report.say(Code::InvalidValue, &at, "is missing, which is 0 %");
        return 0;
    };
    let each = match percent.denominator.as_deref() {
        None | Some("HUNDRED") => MILLION / 100,
        Some("TEN_THOUSAND") => MILLION / 10_000,
        Some("MILLION") => 1,
        Some(other) => {
            let expected = "HUNDRED, TEN_THOUSAND or MILLION";
            report.invalid(&at.field("denominator"), other, expected);
            return 0;
        }
    };
    let numerator = count(
        Some(percent.numerator),
        u32::MAX,
        &at.field("numerator"),
        report,
    );
    numerator.unwrap_or(0).saturating_mul(each).min(MILLION)
}

/// The status of an answer, by number or by Envoy's name for it.
fn status(doc: Option<&types::Status>, at: &At, report: &mut Report<'_>) -> u16 {
    let Some(code) = doc.map(|d| d.code.as_ref().unwrap_or(&Value::Null)) else {
        return USUAL_STATUS;
    };
    let is_meant = |(number, name): &&(u16, &str)| match code {
        Value::Number(n) => n.as_u64() == Some(u64::from(*number)),
        Value::String(text) => text == name,
        _ => false,
    };
    if let Some((number, _)) = STATUSES.iter().find(is_meant) {
        return *number;
    }
    if code.as_u64().is_some_and(|n| (100..400).contains(&n)) {
        let text = format!("below 400 it is {USUAL_STATUS}, which stands for too many requests");
        report.say(Code::IdleSetting, at, text);
    } else {
        report.invalid(
            at,
            &code.to_string(),
            "a status from 400 on, such as 429 or TooManyRequests",
        );
    }
    USUAL_STATUS
}

/// Envoy's names for statuses (envoy.type.v3.StatusCode) that an answer may have.
const STATUSES: [(u16, &str); 37] = [
    (400, "BadRequest"),
    (401, "Unauthorized"),
    (402, "PaymentRequired"),
    (403, "Forbidden"),
    (404, "NotFound"),
    (405, "MethodNotAllowed"),
    (406, "NotAcceptable"),
    (407, "ProxyAuthenticationRequired"),
    (408, "RequestTimeout"),
    (409, "Conflict"),
    (410, "Gone"),
    (411, "LengthRequired"),
    (412, "PreconditionFailed"),
    (413, "PayloadTooLarge"),
    (414, "URITooLong"),
    (415, "UnsupportedMediaType"),
    (416, "RangeNotSatisfiable"),
    (417, "ExpectationFailed"),
    (421, "MisdirectedRequest"),
    (422, "UnprocessableEntity"),
    (423, "Locked"),
    (424, "FailedDependency"),
    (426, "UpgradeRequired"),
    (428, "PreconditionRequired"),
    (429, "TooManyRequests"),
    (431, "RequestHeaderFieldsTooLarge"),
    (500, "InternalServerError"),
    (501, "NotImplemented"),
    (502, "BadGateway"),
    (503, "ServiceUnavailable"),
    (504, "GatewayTimeout"),
    (505, "HTTPVersionNotSupported"),
    (506, "VariantAlsoNegotiates"),
    (507, "InsufficientStorage"),
    (508, "LoopDetected"),
    (510, "NotExtended"),
    (511, "NetworkAuthenticationRequired"),
];

/// Header fields that are added. Those that are none are left out.
fn headers(docs: &[types::HeaderOption], at: &At, report: &mut Report<'_>) -> Vec<HeaderEdit> {
    let mut all = Vec::new();
    for (i, doc) in docs.iter().enumerate() {
        let at = at.index(i);
        if i == MAX_HEADERS {
            let text =
                format!("at most {MAX_HEADERS} header fields are added; the others are left out");
            report.say(Code::InvalidValue, &at, text);
            break;
        }
        all.extend(edit(doc, &at, report));
    }
    all
}

fn edit(doc: &types::HeaderOption, at: &At, report: &mut Report<'_>) -> Option<HeaderEdit> {
    let in_action = at.field("append_action");
    let action = doc.append_action.as_deref();
    let how = match (doc.append, action) {
        (Some(_), Some(other)) if other != "APPEND_IF_EXISTS_OR_ADD" => {
            let text = "the field is left out: it cannot have both append and append_action";
            report.say(Code::InvalidValue, &in_action, text);
            return None;
        }
        (Some(false), _) | (None, Some("OVERWRITE_IF_EXISTS_OR_ADD")) => HeaderEditHow::Set,
        (None, Some("ADD_IF_ABSENT")) => HeaderEditHow::IfAbsent,
        (None, Some("OVERWRITE_IF_EXISTS")) => HeaderEditHow::IfPresent,
        (Some(true), _) | (None, None | Some("APPEND_IF_EXISTS_OR_ADD")) => HeaderEditHow::Append,
        (None, Some(other)) => {
            let expected = "APPEND_IF_EXISTS_OR_ADD, ADD_IF_ABSENT, OVERWRITE_IF_EXISTS_OR_ADD or OVERWRITE_IF_EXISTS";
            report.invalid(&in_action, other, expected);
            return None;
        }
    };
    let in_header = at.field("header");
    let in_value = in_header.field("value");
    let parts: Vec<&str> = doc.header.value.split("%%").collect();
    if parts.iter().any(|part| part.contains('%')) {
        let text = "is not acted on: values are taken as they stand, without %commands% of Envoy's; %% stands for %";
        report.say(Code::UnsupportedField, &in_value, text);
        return None;
    }
    let value = parts.join("%");
    if value.is_empty() && !doc.keep_empty_value {
        report.say(
            Code::IdleSetting,
            &in_value,
            "an empty one is added with keep_empty_value alone",
        );
        return None;
    }
    let (name, value) = header(&doc.header.key, &value, &in_header, report)?;
    Some(HeaderEdit { name, value, how })
}
