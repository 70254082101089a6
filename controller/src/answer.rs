//! What a person reads when a call is refused: one sentence that names the thing, and a hint in the second line.
//!
//! No state. Every gRPC answer of this crate that a person may see is made here.

use tonic::{Code, Status};
use tradewind_api::store::Refusal;
use tradewind_federation::ProposeError;

/// A refusal with its hint.
pub(crate) fn refuse(code: Code, sentence: impl AsRef<str>, hint: impl AsRef<str>) -> Status {
    Status::new(
        code,
        format!("{}\nhint: {}", sentence.as_ref(), hint.as_ref()),
    )
}

/// Sentence and hint of an answer.
pub(crate) fn split(message: &str) -> (&str, Option<&str>) {
    match message.split_once("\nhint: ") {
        Some((sentence, hint)) => (sentence, Some(hint)),
        None => (message, None),
    }
}

/// The store's refusal, for people.
pub(crate) fn refusal(refusal: &Refusal) -> Status {
    let (code, hint) = match refusal {
        Refusal::UnknownToken | Refusal::TokenUsed(_) | Refusal::TokenExpired(_) => (
            Code::PermissionDenied,
            "make a new one with `tradewind token create` in a member cluster",
        ),
        Refusal::TokenForOther(_) => (
            Code::PermissionDenied,
            "join under that name, or make a token for yours with `tradewind token create`",
        ),
        Refusal::NameTaken(_) => (
            Code::AlreadyExists,
            "choose another --cluster; `tradewind clusters` lists those taken",
        ),
        Refusal::NotMember(_) => (Code::NotFound, "`tradewind clusters` lists the members"),
        Refusal::NotExported { .. } => (
            Code::NotFound,
            "`tradewind services` lists what is exported",
        ),
        Refusal::LastActive(_) => (
            Code::FailedPrecondition,
            "undrain another cluster first, with `tradewind undrain <cluster>`",
        ),
        Refusal::HoldsRoot(_) => (
            Code::FailedPrecondition,
            "let the other clusters leave first",
        ),
        Refusal::TooMuch { .. } => (Code::ResourceExhausted, "remove what is no longer needed"),
        Refusal::NotFounded => (
            Code::Unavailable,
            "wait until this controller has caught up; `tradewind status` shows it",
        ),
        Refusal::TooOld { .. } => (
            Code::FailedPrecondition,
            "upgrade tradewind there, then try again",
        ),
        Refusal::NotYet { .. } => (
            Code::FailedPrecondition,
            "`tradewind clusters` shows who runs which version",
        ),
        Refusal::UnknownNode(_) => (Code::NotFound, "`tradewind store peers` lists the nodes"),
        Refusal::DigestMismatch { .. } => (
            Code::DataLoss,
            "the controller publishes its exports again by itself",
        ),
        Refusal::IsWitness(_) => (
            Code::FailedPrecondition,
            "export it from a cluster that serves it",
        ),
        Refusal::AlreadyFounded(_) => (Code::FailedPrecondition, "nothing has to be done"),
        _ => (Code::InvalidArgument, "correct it and try again"),
    };
    refuse(code, refusal.to_string(), hint)
}

/// A write that was not carried out, for people.
pub(crate) fn propose(error: &ProposeError) -> Status {
    let (code, hint) = match error {
        ProposeError::NoLeader { .. } => (
            Code::Unavailable,
            "`tradewind status` shows which controllers are away; traffic goes on without them",
        ),
        ProposeError::Timeout { .. } => (
            Code::DeadlineExceeded,
            "look whether it happened before you try again",
        ),
        ProposeError::Busy { .. } => (Code::ResourceExhausted, "try again in a moment"),
        ProposeError::OverBudget { .. } => (
            Code::ResourceExhausted,
            "try again later; what changes so often in this cluster stands in `tradewind store watch`",
        ),
        ProposeError::TooNew { .. } => (
            Code::FailedPrecondition,
            "`tradewind clusters` shows who runs which version",
        ),
        ProposeError::TooLarge { .. } => (Code::InvalidArgument, "split it into smaller parts"),
        ProposeError::NotOwn { .. } => {
            (Code::PermissionDenied, "ask that cluster's own controller")
        }
        ProposeError::Stopped(_) => (
            Code::Unavailable,
            "see the controller's log, and start it again",
        ),
        _ => (Code::Internal, "see the controller's log"),
    };
    refuse(code, error.to_string(), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_and_hint_come_apart_again() {
        let status = refuse(Code::NotFound, "no such thing", "look elsewhere");
        assert_eq!(
            split(status.message()),
            ("no such thing", Some("look elsewhere"))
        );
        assert_eq!(split("plain"), ("plain", None));
    }
}
