//! What an application is told when nobody answered: which service, what was tried, and why each attempt failed.

use std::fmt::{Display, Write};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use tradewind_transport::hbone::headers;

use super::{body::OutBody, route::Target};

/// What gRPC calls an answer of ours: a method that no rule is for is one that nobody has (the protocol's own mapping of 404), what took too
/// long passed its deadline, and all else may be better later (its mapping of 503).
const fn grpc_status(status: StatusCode) -> HeaderValue {
    HeaderValue::from_static(match status {
        StatusCode::NOT_FOUND => "12",
        StatusCode::GATEWAY_TIMEOUT => "4",
        _ => "14",
    })
}
const GRPC: &str = "application/grpc";
/// A header cannot carry more of an explanation than fits a line.
const MAX_GRPC_MESSAGE: usize = 1024;

/// Attempts that failed, in order, for the error's text.
#[derive(Debug, Default)]
pub(super) struct Tries(Vec<String>);

impl Tries {
    /// Notes a failed attempt.
    pub(super) fn add(&mut self, target: &Target, why: &impl Display) {
        self.0.push(format!(
            "{}/{}: {why}",
            target.cluster(),
            target.endpoint.id
        ));
    }

    /// How many there were.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}

/// How the application reads errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As a status and text.
    Http,
    /// As gRPC's fields.
    Grpc,
}

impl Form {
    /// By a request's head.
    pub(super) fn of(request: &HeaderMap) -> Self {
        let grpc = request
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.starts_with(GRPC));
        if grpc { Self::Grpc } else { Self::Http }
    }
}

/// An answer of the proxy itself.
pub(super) struct Failure<'a> {
    /// For HTTP.
    pub(super) status: StatusCode,
    /// One word for the error header.
    pub(super) reason: &'static str,
    /// The service asked for, or whatever was.
    pub(super) service: &'a dyn Display,
    /// What is wrong, as a sentence's end.
    pub(super) what: String,
    /// What was tried.
    pub(super) tries: Tries,
}

impl Failure<'_> {
    fn text(&self) -> String {
        let mut text = format!("tradewind: cannot reach {}: {}\n", self.service, self.what);
        for (i, tried) in self.tries.0.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  attempt {}: {tried}", i + 1);
        }
        text
    }

    /// The response; for a gRPC call in the form that gRPC clients understand.
    pub(super) fn respond(&self, form: Form) -> Response<OutBody> {
        let text = self.text();
        let mut response = Response::new(OutBody::Own(None));
        let fields = response.headers_mut();
        fields.insert(headers::ERROR, HeaderValue::from_static(self.reason));
        if form == Form::Grpc {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
            fields.insert("grpc-status", grpc_status(self.status));
            fields.insert("grpc-message", grpc_message(&text));
        } else {
            fields.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            *response.status_mut() = self.status;
            *response.body_mut() = OutBody::Own(Some(Bytes::from(text)));
        }
        response
    }
}

/// Percent-encodes as gRPC does for its message field.
fn grpc_message(text: &str) -> HeaderValue {
    let mut out = String::new();
    for b in text.trim_end().bytes().take(MAX_GRPC_MESSAGE) {
        match b {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(b)),
            _ => {
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
    HeaderValue::try_from(out).unwrap_or(HeaderValue::from_static("unavailable"))
}

/// A peer's header value, made printable and cut.
pub(super) fn printable(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes())
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}
