//! How long a rule lets a request take, and after what it wants it tried again. Decides from what it is told; it reads no clock and asks
//! nobody.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use tradewind_api::route::{Action, Retry, RetryOn};

use super::attempts::{Failed, Safe};

/// A later try waits twice as long as the one before it, and no longer than this many times the first.
const MAX_BACKOFF_TIMES: u32 = 10;

/// What is said where a rule's time was not enough.
pub(super) const OUT_OF_TIME: &str = "the time that a rule gives it is over";

/// What is left of one request's.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// When all of it is over.
    pub(super) until: Option<Instant>,
    each: Option<Duration>,
    retry: Option<Retry>,
    retries: u32,
}

impl Patience {
    /// Of a rule's action; without one there is no limit of this kind, and no retry but what is safe.
    pub(super) fn new(action: Option<&Action>, now: Instant) -> Self {
        let timeouts = action.map(|a| a.timeouts).unwrap_or_default();
        Self {
            until: timeouts.whole_ms.map(|ms| now + Duration::from_millis(ms)),
            each: timeouts.try_ms.map(Duration::from_millis),
            retry: action.and_then(|a| a.retry.clone()),
            retries: 0,
        }
    }

    /// When a try that begins now is given up.
    pub(super) fn try_until(&self, now: Instant) -> Option<Instant> {
        let each = self.each.map(|each| now + each);
        match (each, self.until) {
            (Some(each), Some(until)) => Some(each.min(until)),
            (each, until) => each.or(until),
        }
    }

    /// Whether all the time is used up.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// Whether the rule wants a request tried again that was answered so; the word for it.
    pub(super) fn wants_after(
        &self,
        status: StatusCode,
        fields: &HeaderMap,
    ) -> Option<&'static str> {
        let retry = self.left()?;
        let has = |on| retry.on.contains(&on);
        let code = status.as_u16();
        let grpc = fields
            .get("grpc-status")
            .and_then(|v| v.to_str().ok()?.parse::<u16>().ok());
        let by_grpc = |number, on| grpc == Some(number) && has(on);
        let wanted = retry.codes.contains(&code)
            || (status.is_server_error() && has(RetryOn::ServerError))
            || (matches!(code, 502..=504) && has(RetryOn::GatewayError))
            || (code == 409 && has(RetryOn::Retriable4xx))
            || by_grpc(1, RetryOn::Cancelled)
            || by_grpc(4, RetryOn::DeadlineExceeded)
            || by_grpc(8, RetryOn::ResourceExhausted)
            || by_grpc(13, RetryOn::Internal)
            || by_grpc(14, RetryOn::Unavailable);
        wanted.then_some("status")
    }

    /// Whether the rule wants one tried again that got no answer. What was certainly not processed needs no rule.
    pub(super) fn wants_after_failure(&self, failed: &Failed) -> bool {
        let Some(retry) = self.left() else {
            return false;
        };
        let has = |on| retry.on.contains(&on);
        match failed.safe {
            Safe::Never => false,
            Safe::Always | Safe::SameEndpoint => true,
            Safe::IfIdempotent | Safe::IfIdempotentAndGone | Safe::IfIdempotentAndSilent => {
                has(RetryOn::ServerError) || has(RetryOn::Reset) || has(RetryOn::GatewayError)
            }
        }
    }

    /// Whether a retry goes to another endpoint as long as there is one.
    pub(super) fn leaves_endpoints(&self) -> bool {
        self.retry.as_ref().and_then(|r| r.other_endpoints) != Some(false)
    }

    /// Whether a retry goes to another place, if there is one.
    pub(super) fn leaves_places(&self) -> bool {
        self.retry.as_ref().and_then(|r| r.other_localities) == Some(true)
    }

    fn left(&self) -> Option<&Retry> {
        self.retry.as_ref().filter(|r| self.retries < r.attempts)
    }

    /// Notes a retry by the rule; how long to wait before it. `unit` is uniform in `0.0..1.0`: up to half of it is added,
    /// so that callers which failed together do not come back together.
    pub(super) fn retries(&mut self, unit: f64) -> Duration {
        let first = self.retry.as_ref().and_then(|r| r.backoff_ms).unwrap_or(0);
        let first = Duration::from_millis(first);
        let times = 1_u32.checked_shl(self.retries).unwrap_or(MAX_BACKOFF_TIMES);
        self.retries += 1;
        (first * times.min(MAX_BACKOFF_TIMES)).mul_f64(1.0 + unit.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradewind_api::route::{Timeouts, To};

    fn action(retry: Option<Retry>, whole_ms: Option<u64>, try_ms: Option<u64>) -> Action {
        let mut action = Action::new(To::Backends(Vec::new()));
        action.retry = retry;
        action.timeouts = Timeouts { whole_ms, try_ms };
        action
    }

    fn retry(attempts: u32, on: &[RetryOn], codes: &[u16]) -> Retry {
        Retry {
            attempts,
            on: on.iter().copied().collect(),
            codes: codes.iter().copied().collect(),
            backoff_ms: Some(100),
            other_localities: None,
            other_endpoints: None,
        }
    }

    fn failed(safe: Safe) -> Failed {
        Failed {
            safe,
            cause: "reset",
            why: String::new(),
        }
    }

    #[test]
    fn a_try_ends_with_the_earlier_of_both_limits() {
        let now = Instant::now();
        let at = |ms| Some(now + Duration::from_millis(ms));
        let of = |whole, each| Patience::new(Some(&action(None, whole, each)), now);
        assert_eq!(of(None, None).try_until(now), None);
        assert_eq!(of(Some(50), None).try_until(now), at(50));
        assert_eq!(of(Some(50), Some(20)).try_until(now), at(20));
        let late = now + Duration::from_millis(40);
        assert_eq!(of(Some(50), Some(20)).try_until(late), at(50));
        assert!(!of(Some(50), None).is_over(late));
        assert!(of(Some(50), None).is_over(now + Duration::from_millis(50)));
        assert!(!Patience::new(None, now).is_over(now + Duration::from_secs(1_000_000)));
    }

    #[test]
    fn statuses_are_tried_again_as_the_words_say_and_as_often_as_allowed() {
        let status = |code| StatusCode::from_u16(code).unwrap();
        let of = |on: &[RetryOn], codes: &[u16]| {
            Patience::new(
                Some(&action(Some(retry(2, on, codes)), None, None)),
                Instant::now(),
            )
        };
        let none = HeaderMap::new();
        for (on, codes, again, not) in [
            (
                &[RetryOn::ServerError][..],
                &[][..],
                &[500, 503][..],
                &[429, 200][..],
            ),
            (&[RetryOn::GatewayError], &[], &[502, 503, 504], &[500, 501]),
            (&[RetryOn::Retriable4xx], &[], &[409], &[404, 500]),
            (&[], &[429], &[429], &[428, 500]),
            (&[RetryOn::Reset, RetryOn::ConnectFailure], &[], &[], &[503]),
        ] {
            let patience = of(on, codes);
            for code in again {
                assert!(
                    patience.wants_after(status(*code), &none).is_some(),
                    "{on:?} {code}"
                );
            }
            for code in not {
                assert!(
                    patience.wants_after(status(*code), &none).is_none(),
                    "{on:?} {code}"
                );
            }
        }
        let mut unavailable = HeaderMap::new();
        unavailable.insert("grpc-status", 14.into());
        assert!(
            of(&[RetryOn::Unavailable], &[])
                .wants_after(StatusCode::OK, &unavailable)
                .is_some()
        );
        assert!(
            of(&[RetryOn::Internal], &[])
                .wants_after(StatusCode::OK, &unavailable)
                .is_none()
        );

        let mut twice = of(&[RetryOn::ServerError], &[]);
        let waits: Vec<_> = (0..2).map(|_| twice.retries(0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200]);
        assert!(
            twice.wants_after(status(503), &none).is_none(),
            "both are used up"
        );
        assert!(!twice.wants_after_failure(&failed(Safe::IfIdempotent)));
        assert_eq!(of(&[], &[]).retries(1.0).as_millis(), 150);
    }

    #[test]
    fn what_may_have_been_processed_is_tried_again_only_where_the_rule_says_so() {
        let of = |on: &[RetryOn]| {
            Patience::new(
                Some(&action(Some(retry(1, on, &[])), None, None)),
                Instant::now(),
            )
        };
        assert!(of(&[RetryOn::Reset]).wants_after_failure(&failed(Safe::IfIdempotent)));
        assert!(!of(&[RetryOn::ConnectFailure]).wants_after_failure(&failed(Safe::IfIdempotent)));
        assert!(!of(&[RetryOn::Reset]).wants_after_failure(&failed(Safe::Never)));
        assert!(of(&[]).wants_after_failure(&failed(Safe::Always)));
        let without = Patience::new(None, Instant::now());
        assert!(!without.wants_after_failure(&failed(Safe::Always)));
    }
}
