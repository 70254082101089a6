//! Structured logs on stderr, as text for people or JSON for machines, with a filter that can change while the process
//! runs. Set up once per process, by `main`; libraries only emit events.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::str::FromStr;

use thiserror::Error;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer, Registry, reload};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(TelemetryError::Format {
                found: other.to_owned(),
            }),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logs could not be set up or changed.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// Not a log format.
    #[error("log format {found:?} is unknown: expected text or json")]
    Format {
        /// What was given.
        found: String,
    },
    /// Not a filter.
    #[error(
        "log filter {found:?} is invalid ({why}): expected a level (error, warn, info, debug, trace, off) or \
         target=level pairs separated by commas, such as info,tradewind_proxy=debug"
    )]
    Filter {
        /// What was given.
        found: String,
        /// What is wrong with it.
        why: String,
    },
    /// Logs were set up before in this process.
    #[error("logs are already set up in this process")]
    AlreadySet,
    /// The subscriber that the handle belongs to is gone.
    #[error("the log subscriber is gone")]
    Gone,
}

/// Changes the filter of a running process. Clones change the same one.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// Puts another filter in force; when it is invalid the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        let parsed = parse(filter)?;
        self.filter.reload(parsed).map_err(|error| {
            tracing::debug!(%error, "cannot change the log filter");
            TelemetryError::Gone
        })
    }

    /// The filter in force.
    #[must_use]
    pub fn current(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }
}

/// Sets up this process's logs, and logs panics too.
pub fn init(format: LogFormat, filter: &str) -> Result<LogHandle, TelemetryError> {
    let colours = io::stderr().is_terminal();
    let (subscriber, handle) = build(format, filter, colours, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_set| TelemetryError::AlreadySet)?;
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let thread = std::thread::current()
            .name()
            .unwrap_or("unnamed")
            .to_owned();
        tracing::error!(%location, thread, "bug: panicked: {message}");
    }));
    Ok(handle)
}

fn build<W>(
    format: LogFormat,
    filter: &str,
    colours: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + use<W>, LogHandle), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // The filter is the innermost layer, so that its handle does not depend on the format.
    let subscriber = Registry::default().with(filter).with(lines);
    Ok((subscriber, LogHandle { filter: handle }))
}

fn parse(text: &str) -> Result<EnvFilter, TelemetryError> {
    let invalid = |why: String| TelemetryError::Filter {
        found: text.to_owned(),
        why,
    };
    // A longer filter is a mistake or an attack on the parser.
    const MAX_FILTER_BYTES: usize = 1024;
    if text.len() > MAX_FILTER_BYTES {
        return Err(invalid(format!("longer than {MAX_FILTER_BYTES} bytes")));
    }
    if text.trim().is_empty() {
        return Err(invalid("empty".to_owned()));
    }
    // A bare word would be taken for a target and silence everything else: a mistyped level must not do that.
    for word in text.split(',').map(str::trim) {
        let structured = word.contains(['=', '[', '{', '"', '}', ']', ':']);
        if !structured && LevelFilter::from_str(word).is_err() {
            return Err(invalid(format!("{word:?} is no level")));
        }
    }
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn capture(
        format: LogFormat,
        filter: &str,
    ) -> (impl Subscriber + Send + Sync, LogHandle, Lines) {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, handle) = build(format, filter, false, move || writer.clone()).unwrap();
        (subscriber, handle, lines)
    }

    #[test]
    fn the_filter_changes_while_running_and_a_bad_one_changes_nothing() {
        let (subscriber, handle, lines) = capture(LogFormat::Text, "info");
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("hidden");
            tracing::info!("shown");
            let before = lines.take();
            assert!(
                before.contains("shown") && !before.contains("hidden"),
                "{before}"
            );

            handle.set("info,tradewind_runtime=debug").unwrap();
            tracing::debug!("now shown");
            assert!(lines.take().contains("now shown"));

            let error = handle.set("inof").unwrap_err().to_string();
            assert!(error.contains("\"inof\" is no level"), "{error}");
            assert!(handle.set("").is_err());
            assert!(handle.set("a=b=c").is_err());
            assert!(handle.set(&"x".repeat(5000)).is_err());
            assert!(
                handle.current().contains("tradewind_runtime=debug"),
                "{}",
                handle.current()
            );
        });
    }

    #[test]
    fn json_lines_parse() {
        let (subscriber, _handle, lines) = capture(LogFormat::Json, "info");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(cluster = "west", "joined")
        });
        let line: serde_json::Value = serde_json::from_str(&lines.take()).unwrap();
        assert_eq!(line["message"], "joined");
        assert_eq!(line["cluster"], "west");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn formats_are_named() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert_eq!(LogFormat::Text.to_string(), "text");
        let error = "xml".parse::<LogFormat>().unwrap_err().to_string();
        assert!(error.contains("expected text or json"), "{error}");
    }
}
