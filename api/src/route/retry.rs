//! When a request is tried again, in Envoy's words.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How often at most; 0 is never.
    pub attempts: u32,
    /// After what.
    pub on: BTreeSet<RetryOn>,
    /// After these statuses.
    pub codes: BTreeSet<u16>,
    /// At least so long after the failure, ms; later ones wait longer.
    pub backoff_ms: Option<u64>,
    /// Whether endpoints of another cluster or zone than the last try's are asked first, where there are some; else they are asked as the
    /// balancer has it.
    pub other_localities: Option<bool>,
    /// False: an endpoint whose answer was not taken may be asked again at once. Else only when no other is left.
    pub other_endpoints: Option<bool>,
}

/// A reason to try again, in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// A status of 500 or more, or no answer.
    #[serde(rename = "5xx")]
    ServerError,
    /// 502, 503 or 504.
    GatewayError,
    /// No answer, after the request was sent.
    Reset,
    /// No answer, before it was.
    ResetBeforeRequest,
    /// No connection.
    ConnectFailure,
    /// The endpoint took the connection and not the request.
    RefusedStream,
    /// 409.
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 13.
    Internal,
    /// gRPC status 14.
    Unavailable,
}

impl RetryOn {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::ServerError, "5xx"),
        (Self::GatewayError, "gateway-error"),
        (Self::Reset, "reset"),
        (Self::ResetBeforeRequest, "reset-before-request"),
        (Self::ConnectFailure, "connect-failure"),
        (Self::RefusedStream, "refused-stream"),
        (Self::Retriable4xx, "retriable-4xx"),
        (Self::Cancelled, "cancelled"),
        (Self::DeadlineExceeded, "deadline-exceeded"),
        (Self::ResourceExhausted, "resource-exhausted"),
        (Self::Internal, "internal"),
        (Self::Unavailable, "unavailable"),
    ];

    /// By its word.
    pub fn by_word(word: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, w)| *w == word);
        found.map(|(on, _)| *on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_words_are_those_of_json() {
        for (on, word) in RetryOn::ALL {
            assert_eq!(serde_json::to_value(on).unwrap(), word);
            assert_eq!(RetryOn::by_word(word), Some(on));
        }
        assert_eq!(RetryOn::by_word("5XX"), None);
    }
}
