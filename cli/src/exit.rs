//! How a command ends: its exit code, and the one error that it may print.
//!
//! Holds no state. A failure names what failed, why, and what to do next; it never carries a stack trace.

use std::{error::Error, fmt::Display, process::ExitCode};

use tonic::Code;

/// What the caller's shell sees. Documented in `--help` and docs/exit-codes.md; numbers never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Good = 0,
    /// Problems were found, or what was asked for does not exist.
    Problems = 1,
    /// The command line, the environment or a configuration file is wrong.
    Usage = 2,
    /// Something that had to answer did not.
    Unreachable = 3,
    /// Waited for as long as was allowed.
    TimedOut = 4,
    /// Refused: unsafe without `--yes`, or the other side said no.
    Refused = 5,
    /// A fault of this program.
    Bug = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What `--help` says of them.
pub const EXIT_CODES: &str = "Exit codes:
  0   good
  1   problems were found, or there is no such thing
  2   the command line, the environment or a file it names is wrong
  3   something that had to answer could not be reached
  4   waited as long as allowed
  5   refused: unsafe without --yes, or the other side said no
  70  a bug in tradewind";

/// Longest chain of causes that is printed: deeper ones repeat themselves.
const MAX_CAUSES: usize = 8;

/// How advice begins that stands at the end of an error's text instead of in a line of its own.
const ADVICE: [(&str, &str); 3] = [
    ("; choose ", "choose"),
    ("; restore ", "restore"),
    ("; create ", "create"),
];

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit code it ends with.
    pub exit: Exit,
    /// What failed, for which thing: a fragment that follows `error: `.
    pub what: String,
    /// Its causes, nearest first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
}

/// How a command ends.
pub type Outcome = Result<Exit, Failure>;

impl Failure {
    /// A failure. Lines of `text` that start with `hint:` become hints.
    pub fn new(exit: Exit, text: impl Display) -> Self {
        let mut failure = Self {
            exit,
            what: String::new(),
            causes: Vec::new(),
            hints: Vec::new(),
        };
        failure.what = failure.absorb(&text.to_string());
        failure
    }

    /// A failure of the machine or of a file: exit code 1.
    pub fn problem(text: impl Display) -> Self {
        Self::new(Exit::Problems, text)
    }

    /// A wrong command line: exit code 2.
    pub fn usage(text: impl Display) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// An error with its chain of causes.
    pub fn of(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        Self::new(exit, error).because(error.source())
    }

    /// Adds a chain of causes, leaving out what was said already.
    #[must_use]
    pub fn because(mut self, mut cause: Option<&(dyn Error + 'static)>) -> Self {
        while let Some(error) = cause {
            let text = self.absorb(&error.to_string());
            let said = self.what.contains(&text) || self.causes.iter().any(|c| c.contains(&text));
            if !said && !text.is_empty() && self.causes.len() < MAX_CAUSES {
                self.causes.push(text);
            }
            cause = error.source();
        }
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Display) -> Self {
        let hint = hint.to_string();
        if !self.hints.contains(&hint) {
            self.hints.push(hint);
        }
        self
    }

    /// Takes the hints out of a text and returns the rest.
    fn absorb(&mut self, text: &str) -> String {
        let mut rest: Vec<&str> = Vec::new();
        for line in text.lines() {
            let advice = ADVICE.iter().find_map(|(opening, word)| {
                let (said, advice) = line.split_once(opening)?;
                Some((said, format!("{word} {}", advice.trim())))
            });
            let (said, hint) = match (line.trim_start().strip_prefix("hint:"), advice) {
                (Some(hint), _) => (None, Some(hint.trim().to_owned())),
                (None, Some((said, advice))) => (Some(said), Some(advice)),
                (None, None) => (Some(line), None),
            };
            rest.extend(said.map(str::trim_end));
            if let Some(hint) = hint.filter(|hint| !self.hints.contains(hint)) {
                self.hints.push(hint);
            }
        }
        rest.join("\n").trim().to_owned()
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        // A status that has a cause was made on this side: the connection broke, or the other side is no controller.
        if status.source().is_some() && status.code() != Code::DeadlineExceeded {
            return Self::new(
                Exit::Unreachable,
                "the connection to the controller broke before it answered",
            )
            .because(status.source())
            .hint("`tradewind status --wait` waits until it is back");
        }
        let exit = match status.code() {
            Code::Ok | Code::NotFound | Code::Aborted | Code::OutOfRange | Code::DataLoss => {
                Exit::Problems
            }
            Code::InvalidArgument | Code::Unimplemented => Exit::Usage,
            Code::Unavailable | Code::Cancelled => Exit::Unreachable,
            Code::DeadlineExceeded => Exit::TimedOut,
            Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::ResourceExhausted => Exit::Refused,
            Code::Internal | Code::Unknown => Exit::Bug,
        };
        let text = match status.message() {
            "" => format!(
                "the controller answered {:?} without a reason",
                status.code()
            ),
            text => text.to_owned(),
        };
        Self::new(exit, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_taken_out_of_messages() {
        let status = tonic::Status::not_found("no service shop/x\nhint: did you mean shop/y?");
        let failure = Failure::from(status);
        assert_eq!(failure.exit, Exit::Problems);
        assert_eq!(failure.what, "no service shop/x");
        assert_eq!(failure.hints, ["did you mean shop/y?"]);
        let failure = Failure::problem("port 1 is in use; choose another port with --listen");
        assert_eq!(failure.what, "port 1 is in use");
        assert_eq!(failure.hints, ["choose another port with --listen"]);
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let io = std::io::Error::other("disk on fire");
        let outer = std::io::Error::other(io);
        let failure = Failure::of(Exit::Problems, &outer);
        assert_eq!(failure.what, "disk on fire");
        assert!(failure.causes.is_empty());
    }
}
