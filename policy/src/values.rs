//! Values that several kinds have: texts to compare with, names of header fields, durations, numbers. A value that is none for its
//! field is reported, and its rule does not match or act on it.

use tradewind_api::{
    expression::Expression,
    route::{Millionths, Text, Timeouts},
};

use crate::{
    duration::milliseconds,
    finding::Code,
    object::{At, Report},
};

/// An expression that must be one.
pub(crate) fn expression(text: &str, at: &At, report: &mut Report<'_>) -> bool {
    match Expression::whole(text, false) {
        Ok(_) => true,
        Err(error) => {
            report.say(Code::BrokenExpression, at, format!("{text:?}: {error}"));
            false
        }
    }
}

/// A text compared by an expression; by nothing else where that says the same.
pub(crate) fn regex(text: &str, at: &At, report: &mut Report<'_>) -> Text {
    expression(text, at, report);
    if text == ".*" {
        return Text::Present;
    }
    Text::Regex(text.to_owned())
}

/// What may be a method or a header field's name (RFC 9110 section 5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !text.is_empty() && text.bytes().all(token)
}

/// Methods; those that are none are left out.
pub(crate) fn methods(list: &[String], at: &At, report: &mut Report<'_>) -> Vec<String> {
    let mut is_one = |(i, name): &(usize, &String)| {
        let is = is_token(name);
        if !is {
            report.invalid(&at.index(*i), name, "a method, or * for all");
        }
        is
    };
    let all = list.iter().enumerate().filter(|m| is_one(m));
    all.map(|(_, name)| name.clone()).collect()
}

/// Names of header fields; those that are none are left out.
pub(crate) fn header_names(list: &[String], at: &At, report: &mut Report<'_>) -> Vec<String> {
    let all = list.iter().enumerate();
    all.filter_map(|(i, name)| header_name(name, &at.index(i), report))
        .collect()
}

/// A header field's name, in lower case.
pub(crate) fn header_name(name: &str, at: &At, report: &mut Report<'_>) -> Option<String> {
    if !is_token(name) {
        report.invalid(at, name, "the name of a header field");
        return None;
    }
    let name = name.to_ascii_lowercase();
    if name.starts_with("tradewind-") {
        report.invalid(at, &name, "a header field that is not this mesh's own");
        return None;
    }
    Some(name)
}

/// Longest label of a DNS name, and longest name (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;

/// A server name that TLS clients ask for, in lower case: a whole one, or one with `*.` in front. An address is none (RFC 6066).
pub(crate) fn server_name(text: &str, at: &At, report: &mut Report<'_>) -> Option<String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        let inside = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_one = name.len() <= MAX_NAME
        && name.split('.').all(is_label)
        && name.parse::<std::net::Ipv4Addr>().is_err();
    if !is_one {
        report.invalid(at, text, "a host name, or one with *. in front");
        return None;
    }
    Some(text.to_ascii_lowercase())
}

/// A header field.
pub(crate) fn header(
    name: &str,
    value: &str,
    at: &At,
    report: &mut Report<'_>,
) -> Option<(String, String)> {
    let name = header_name(name, at, report)?;
    if value.bytes().any(|c| c < b' ' && c != b'\t' || c == 0x7f) {
        report.invalid(
            at,
            value,
            "a header field's value, without control characters",
        );
        return None;
    }
    Some((name, value.to_owned()))
}

/// A duration, ms.
pub(crate) fn duration(text: Option<&str>, at: &At, report: &mut Report<'_>) -> Option<u64> {
    let text = text?;
    let ms = milliseconds(text);
    if ms.is_none() {
        report.invalid(at, text, "a duration such as 10s, 500ms or 1m30s");
    }
    ms
}

/// A time limit, ms; 0 is none.
pub(crate) fn limit(text: Option<&str>, at: &At, report: &mut Report<'_>) -> Option<u64> {
    duration(text, at, report).filter(|ms| *ms > 0)
}

/// A duration that is not nothing, ms.
pub(crate) fn span(text: Option<&str>, at: &At, report: &mut Report<'_>) -> Option<u64> {
    let ms = duration(text, at, report)?;
    if ms == 0 {
        report.invalid(at, text.unwrap_or_default(), "a duration of at least 1ms");
    }
    Some(ms).filter(|ms| *ms > 0)
}

/// A number of things.
pub(crate) fn count(
    value: Option<i64>,
    most: u32,
    at: &At,
    report: &mut Report<'_>,
) -> Option<u32> {
    let value = value?;
    let count = u32::try_from(value).ok().filter(|n| *n <= most);
    if count.is_none() {
        let expected = format!("a whole number from 0 to {most}");
        report.invalid(at, &value.to_string(), &expected);
    }
    count
}

/// A number of percent, in millionths.
pub(crate) fn percent(value: Option<f64>, at: &At, report: &mut Report<'_>) -> Option<Millionths> {
    let value = value?;
    if !(0.0..=100.0).contains(&value) {
        report.invalid(at, &value.to_string(), "a number from 0 to 100");
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0..=MILLION"
    )]
    let share = (value * 10_000.0).round() as Millionths;
    Some(share)
}

/// A try that may take longer than all of them together is no limit of its own.
pub(crate) fn check_timeouts(timeouts: Timeouts, at: &At, report: &mut Report<'_>) {
    if let Timeouts {
        whole_ms: Some(whole),
        try_ms: Some(each),
    } = timeouts
        && each > whole
    {
        let text = format!("a try may take {each} ms, all of them together {whole} ms");
        report.say(Code::IdleRetry, at, text);
    }
}
