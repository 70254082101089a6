//! The only place that writes to the terminal: data goes to stdout, talk to stderr.
//!
//! Colour is dropped by anstream where nobody would see it, and never carries meaning alone. A reader that went away
//! (a closed pipe) is no error.

use std::{fmt::Display, io::Write};

use crate::exit::Failure;

const BOLD: &str = "\u{1b}[1m";
const RED: &str = "\u{1b}[1;31m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const CYAN: &str = "\u{1b}[1;36m";
const PLAIN: &str = "\u{1b}[0m";

/// Writes for one command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Printer {
    /// Leaves the talk out; errors stay.
    pub quiet: bool,
}

impl Printer {
    /// A line of data.
    pub fn data(self, line: impl Display) {
        let mut out = anstream::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    /// A JSON document.
    pub fn json(self, value: &serde_json::Value) {
        self.data(format_args!("{value:#}"));
    }

    /// A line of talk.
    pub fn say(self, line: impl Display) {
        if !self.quiet {
            let _ = writeln!(anstream::stderr().lock(), "{line}");
        }
    }

    /// A step that was done.
    pub fn done(self, line: impl Display) {
        self.say(format_args!("{GREEN}  ok{PLAIN}    {line}"));
    }

    /// Something to look at that stops nothing.
    pub fn warn(self, line: impl Display) {
        let _ = writeln!(anstream::stderr().lock(), "{YELLOW}warning:{PLAIN} {line}");
    }

    /// A headline in the talk.
    pub fn title(self, line: impl Display) {
        self.say(format_args!("{BOLD}{line}{PLAIN}"));
    }

    /// Help: data when it was asked for, talk when the command line was wrong.
    pub fn help(self, help: &clap::Error) {
        let text = help.render().ansi().to_string();
        if help.exit_code() == 0 {
            self.data(text.trim_end());
        } else {
            let _ = writeln!(anstream::stderr().lock(), "{}", text.trim_end());
        }
    }

    /// A failure with its causes and hints.
    pub fn failure(self, failure: &Failure) {
        let mut err = anstream::stderr().lock();
        let _ = writeln!(err, "{RED}error:{PLAIN} {}", failure.what);
        for cause in &failure.causes {
            let _ = writeln!(err, "  caused by: {cause}");
        }
        for hint in &failure.hints {
            let _ = writeln!(err, "{CYAN}hint:{PLAIN} {hint}");
        }
    }
}
