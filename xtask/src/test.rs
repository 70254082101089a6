//! `cargo xtask test`: everything continuous integration runs, step after step, stopping at the first failure.
//!
//! Needs a Rust toolchain, a C compiler and Go, names what is missing, and works on a fresh clone. Its last line is the test
//! runner's closing line, summed over all test binaries.

pub(crate) mod command;
mod kubernetes;
mod summary;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use command::{Cargo, run_bounded, run_echoing};
use summary::Summary;

use crate::{sim, tidy};

/// A test run that takes longer hangs; it takes a few minutes on two cores.
const TESTS_DEADLINE: Duration = Duration::from_secs(45 * 60);

/// A demo that takes longer hangs; it takes under a minute by default.
const DEMO_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// The name under which tests find the release binary.
const BINARY_VARIABLE: &str = "TRADEWIND_BIN";

/// Steps of the run, for the headlines.
const STEPS: usize = 9;

/// Runs every step, those against Kubernetes only if `kubernetes`; the exit code says whether all were good.
pub(crate) fn run(root: &Path, kubernetes: bool) -> ExitCode {
    let clock = Stopwatch::start();
    match steps(root, kubernetes) {
        Ok(summary) => {
            println!("all {STEPS} steps good in {}", clock.elapsed_text());
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(Failure { why, summary }) => {
            eprintln!("error: {why}");
            if let Some(summary) = summary {
                println!("{summary}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Why the run ended early, and the tests' result where it got that far and a test failed.
#[derive(Debug)]
struct Failure {
    why: String,
    summary: Option<Summary>,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { why, summary: None }
    }
}

fn steps(root: &Path, kubernetes: bool) -> Result<Summary, Failure> {
    let cargo = Cargo::new(root);
    step(1, "tools: cc, rustfmt, clippy", || tools::check(&cargo))?;
    step(2, "format: cargo fmt --all --check", || {
        cargo.run(&["fmt", "--all", "--check"])
    })?;
    step(
        3,
        "lints: cargo clippy --workspace --all-targets -- -D warnings",
        || {
            cargo.run(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])
        },
    )?;
    step(4, "tidy: cargo xtask tidy", || tidy_step(root))?;
    let binary = step(5, "release build: cargo build --release", || {
        cargo.build("release", "tradewind", true)
    })?;
    let testenv = step(
        6,
        "Kubernetes: go build in tests/kubernetes/testenv",
        || testenv(root, &binary, kubernetes),
    )?;
    let summary = step(7, "tests: cargo test --workspace", || {
        tests(&cargo, &binary, testenv.as_deref())
    })?;
    step(8, "simulations: cargo xtask sim", || sim::quick(root))?;
    step(9, "demo: tradewind demo --json", || demo(root, &binary))?;
    Ok(summary)
}

/// Runs one step under a headline and says how long it took.
fn step<T, E: Into<Failure>>(
    number: usize,
    title: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, Failure> {
    println!("\n[{number}/{STEPS}] {title}");
    let clock = Stopwatch::start();
    match work() {
        Ok(value) => {
            println!("[{number}/{STEPS}] good in {}", clock.elapsed_text());
            Ok(value)
        }
        Err(error) => {
            println!("[{number}/{STEPS}] failed after {}", clock.elapsed_text());
            let Failure { why, summary } = error.into();
            Err(Failure {
                why: format!("step {number} ({title}): {why}"),
                summary,
            })
        }
    }
}

fn tidy_step(root: &Path) -> Result<(), String> {
    let report = tidy::run(root)?;
    println!("{report}");
    if report.is_clean() {
        Ok(())
    } else {
        Err("the tree breaks house rules".to_owned())
    }
}

fn testenv(root: &Path, binary: &Path, wanted: bool) -> Result<Option<PathBuf>, String> {
    if !wanted {
        println!("SKIPPED, as told: the tests against Kubernetes will say so too");
        return Ok(None);
    }
    // <target>/release/tradewind.
    let target = binary.ancestors().nth(2).unwrap_or(root);
    kubernetes::build(root, target).map(Some)
}

fn tests(cargo: &Cargo, binary: &Path, testenv: Option<&Path>) -> Result<Summary, Failure> {
    let mut command = cargo.command(&["test", "--workspace", "--no-fail-fast"]);
    command.env(BINARY_VARIABLE, binary);
    match testenv {
        Some(testenv) => command.env(kubernetes::VARIABLE, testenv),
        // An earlier one may lie about; empty says that none is wanted.
        None => command.env(kubernetes::VARIABLE, ""),
    };
    let mut summary = Summary::default();
    let status = run_echoing(command, TESTS_DEADLINE, |line| summary.read(line))?;
    if status.success() && summary.is_good() {
        return Ok(summary);
    }
    let why = if summary.binaries() == 0 {
        format!("no test ran ({status})")
    } else if summary.is_good() {
        format!("cargo test ended badly although no test failed ({status})")
    } else {
        format!("failing tests:\n  {}", summary.failing().join("\n  "))
    };
    // A line that says ok must not close a run that failed.
    let summary = (!summary.is_good() && summary.binaries() > 0).then_some(summary);
    Err(Failure { why, summary })
}

fn demo(root: &Path, binary: &Path) -> Result<(), String> {
    let mut command = std::process::Command::new(binary);
    command.args(["demo", "--json"]).current_dir(root);
    let status = run_bounded(command, DEMO_DEADLINE)?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the demo failed ({status})"))
    }
}

/// Measures how long a step takes.
struct Stopwatch {
    started: std::time::Instant,
}

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "a tool outside of the product measures itself"
    )]
    fn start() -> Self {
        Self {
            started: std::time::Instant::now(),
        }
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn elapsed_text(&self) -> String {
        format!("{:.1} s", self.elapsed().as_secs_f64())
    }
}
