//! What the demo shows while it runs, on stderr: one line that is redrawn on a terminal, plain lines elsewhere.
//!
//! Owns the line. It only looks; it decides nothing.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tradewind_runtime::TaskSet;

use super::{
    load::Record,
    tally::{self, Span},
};
use crate::{printer::Printer, table};

/// How often the line is redrawn.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a plain line is written where nothing can be redrawn.
const PLAIN: Duration = Duration::from_secs(2);
/// The stretch of time that the line speaks of.
const WINDOW_US: u64 = 1_000_000;
/// Takes the cursor to the line's start and empties the line.
const CLEAR: &str = "\r\u{1b}[2K";

/// A narrow terminal cuts the line instead of going on below, where it could not be redrawn.
const NO_WRAP: &str = "\u{1b}[?7l";
const WRAP: &str = "\u{1b}[?7h";

/// The display.
#[derive(Debug)]
pub struct Screen {
    printer: Printer,
    line: Arc<Line>,
    tasks: TaskSet,
}

#[derive(Debug)]
struct Line {
    quiet: bool,
    redrawn: bool,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    phase: String,
    since: Instant,
    drawn: bool,
}

impl Line {
    fn with<T>(&self, change: impl FnOnce(&mut Now) -> T) -> T {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Empties the redrawn line, so that a whole one can be written.
    fn clear(&self) {
        let drawn = self.with(|now| std::mem::take(&mut now.drawn));
        if drawn {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "{CLEAR}").and_then(|()| err.flush());
        }
    }

    fn draw(&self, text: &str) {
        if self.quiet {
            return;
        }
        // Not through anstream: without colour it would take out what moves the cursor, too.
        let mut err = std::io::stderr().lock();
        if self.redrawn {
            self.with(|now| now.drawn = true);
            let _ = write!(err, "{CLEAR}{NO_WRAP}{text}{WRAP}").and_then(|()| err.flush());
        } else {
            let _ = writeln!(err, "{text}");
        }
    }
}

impl Screen {
    /// An empty one.
    pub fn new(printer: Printer) -> Self {
        let now = Now {
            phase: String::new(),
            since: Instant::now(),
            drawn: false,
        };
        let line = Line {
            quiet: printer.quiet,
            redrawn: std::io::stderr().is_terminal(),
            now: Mutex::new(now),
        };
        Self {
            printer,
            line: Arc::new(line),
            tasks: TaskSet::new(),
        }
    }

    /// Something was done.
    pub fn step(&self, text: &str) {
        self.line.clear();
        self.printer.done(text);
    }

    /// A phase begins.
    pub fn phase(&self, text: &str) {
        self.line.clear();
        self.printer.title(text);
        self.line.with(|now| {
            text.clone_into(&mut now.phase);
            now.since = Instant::now();
        });
    }

    /// Shows the load from now on.
    pub fn follow(&mut self, record: Arc<Record>) {
        let line = Arc::clone(&self.line);
        let every = if line.redrawn { REDRAW } else { PLAIN };
        self.tasks.spawn("demo display", async move {
            loop {
                tokio::time::sleep(every).await;
                line.draw(&text(&line, &record));
            }
        });
    }

    /// Ends the display.
    pub fn finish(self) {
        drop(self.tasks);
        self.line.clear();
    }
}

fn text(line: &Line, record: &Record) -> String {
    let now_us = record.now_us();
    let span = Span {
        from_us: now_us.saturating_sub(WINDOW_US),
        to_us: now_us,
    };
    let (last, requests, failed) = record.look(|samples| {
        let failed = samples
            .iter()
            .filter(|s| s.served == tally::Served::Failed)
            .count();
        // Newest calls are at the end; ten windows back is more than enough for late answers.
        let recent = samples.len().saturating_sub(100_000);
        let last = tally::count(samples.get(recent..).unwrap_or_default(), span);
        (last, samples.len(), failed)
    });
    let since = line.with(|now| now.since.elapsed());
    format!(
        "  {:>4.1} s  {:<32} {:>7} calls, {failed} failed  p50 {}, p99 {}",
        since.as_secs_f32(),
        last.served_by(),
        table::count(u64::try_from(requests).unwrap_or(u64::MAX)),
        millis(last.p50_us),
        millis(last.p99_us),
    )
}

/// Microseconds as milliseconds for people.
pub fn millis(us: u64) -> String {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a latency, far below 2^52 microseconds"
    )]
    let ms = us as f64 / 1_000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}
