//! Running programs: cargo in the workspace, with the output passed on as it comes, and a bound on how long it takes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::Stopwatch;

/// How long a program that was asked to end may take to clean up.
const GRACE: Duration = Duration::from_secs(15);

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Lines in flight between the reading thread and the printing one.
const LINES_IN_FLIGHT: usize = 1024;

/// The cargo that started us, working in the workspace.
#[derive(Debug)]
pub(crate) struct Cargo {
    program: PathBuf,
    root: PathBuf,
}

impl Cargo {
    pub(crate) fn new(root: &Path) -> Self {
        let program =
            std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        Self {
            program,
            root: root.to_owned(),
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// Runs to the end with inherited output.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let name = arguments.first().copied().unwrap_or_default();
        let status = self
            .command(arguments)
            .status()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("cargo {name} failed ({status})"))
        }
    }

    /// Builds the binary `name` of the package of that name in `profile`, and says where it is if it is to `tell`.
    pub(crate) fn build(&self, profile: &str, name: &str, tell: bool) -> Result<PathBuf, String> {
        let arguments = [
            "build",
            "--profile",
            profile,
            "--package",
            name,
            "--message-format=json-render-diagnostics",
        ];
        let output = self
            .command(&arguments)
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        if !output.status.success() {
            return Err(format!("cargo build failed ({})", output.status));
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let path = messages
            .lines()
            .find_map(|line| executable(line, name))
            .ok_or_else(|| format!("cargo built no binary called {name}"))?;
        if tell {
            println!("{}", path.display());
        }
        Ok(path)
    }
}

/// The path of the binary `name` in one of cargo's build messages.
fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let ours = message.get("target")?.get("name")?.as_str()? == name;
    let path = message.get("executable")?.as_str()?;
    ours.then(|| PathBuf::from(path))
}

/// Runs with inherited output, at most until `deadline`.
pub(crate) fn run_bounded(mut command: Command, deadline: Duration) -> Result<ExitStatus, String> {
    let mut child = command
        .spawn()
        .map_err(|error| cannot_start(&command, &error))?;
    wait_bounded(&mut child, deadline)
}

/// Runs with standard output passed on and shown to `see` line by line, at most until `deadline`.
pub(crate) fn run_echoing(
    mut command: Command,
    deadline: Duration,
    mut see: impl FnMut(&str),
) -> Result<ExitStatus, String> {
    let clock = Stopwatch::start();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(&command, &error))?;
    let output = child.stdout.take().ok_or("a child without its output")?;
    let (sender, lines) = mpsc::sync_channel(LINES_IN_FLIGHT);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let in_time = loop {
        let left = deadline.saturating_sub(clock.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                see(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => break false,
        }
    };
    drop(lines);
    let status = wait_bounded(&mut child, if in_time { GRACE } else { Duration::ZERO })?;
    // A grandchild may hold the pipe open; then the reader is left to the end of the process.
    if in_time && reader.join().is_err() {
        return Err("the reading thread panicked".to_owned());
    }
    Ok(status)
}

/// Waits up to `deadline`, then asks the program to end, then ends it. Being ended is an error.
fn wait_bounded(child: &mut Child, deadline: Duration) -> Result<ExitStatus, String> {
    if let Some(status) = wait_until(child, deadline)? {
        return Ok(status);
    }
    let pid = child.id().to_string();
    let asked = Command::new("kill").args(["-TERM", &pid]).status();
    if asked.is_ok_and(|status| status.success()) && wait_until(child, GRACE)?.is_some() {
        return Err(format!(
            "still running after {} s and ended",
            deadline.as_secs()
        ));
    }
    child
        .kill()
        .map_err(|error| format!("cannot end process {pid}: {error}"))?;
    child
        .wait()
        .map_err(|error| format!("cannot wait for process {pid}: {error}"))?;
    Err(format!(
        "still running after {} s and killed",
        deadline.as_secs()
    ))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a tool without a runtime waits by sleeping"
)]
fn wait_until(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>, String> {
    let clock = Stopwatch::start();
    loop {
        let status = child
            .try_wait()
            .map_err(|error| format!("cannot wait: {error}"))?;
        if status.is_some() || clock.elapsed() >= deadline {
            // What was printed so far comes before what we say about it.
            return std::io::stdout()
                .flush()
                .map(|()| status)
                .map_err(|error| error.to_string());
        }
        std::thread::sleep(POLL);
    }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!("cannot run {}: {error}", command.get_program().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn finds_the_binary_among_the_messages() {
        let ours = r#"{"reason":"compiler-artifact","target":{"name":"tradewind"},"executable":"/t/release/tradewind"}"#;
        assert_eq!(
            executable(ours, "tradewind"),
            Some(PathBuf::from("/t/release/tradewind"))
        );
        assert_eq!(executable(ours, "other"), None);
        let library =
            r#"{"reason":"compiler-artifact","target":{"name":"tradewind"},"executable":null}"#;
        assert_eq!(executable(library, "tradewind"), None);
        assert_eq!(executable("   Compiling", "tradewind"), None);
    }

    #[test]
    fn sees_every_line_and_the_status() {
        let mut seen = Vec::new();
        let status = run_echoing(
            shell("echo a; echo b; exit 3"),
            Duration::from_secs(60),
            |line| {
                seen.push(line.to_owned());
            },
        );
        assert_eq!(status.unwrap().code(), Some(3));
        assert_eq!(seen, ["a", "b"]);
    }

    #[test]
    fn what_hangs_is_ended_and_an_error() {
        let error = run_bounded(shell("exec sleep 600"), Duration::ZERO).unwrap_err();
        assert!(error.contains("still running"), "{error}");
        let error = run_echoing(
            shell("echo a; exec sleep 600"),
            Duration::from_millis(200),
            |_| (),
        )
        .unwrap_err();
        assert!(error.contains("still running"), "{error}");
        assert!(run_bounded(Command::new("/nonexistent"), Duration::ZERO).is_err());
    }
}
