//! Runs simulations of the federation store, one seed or a range of them. `cargo xtask sim` builds it as it must be
//! built and starts it; started by hand without `tokio_unstable`, runs do not repeat.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks there"
)]

use std::process::ExitCode;

use tradewind_federation::simulation;

const USAGE: &str = "usage: simulate SEED [--trace]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (seed, trace) = match words.as_slice() {
        [seed] => (seed, false),
        [seed, "--trace"] => (seed, true),
        _ => return usage("expected one seed"),
    };
    let Ok(seed) = seed.parse() else {
        return usage("a seed is a number");
    };
    let root = match tempfile::tempdir() {
        Ok(root) => root,
        Err(error) => return usage(&format!("cannot make a directory for snapshots: {error}")),
    };
    let report = simulation::run(seed, root.path(), trace);
    if let Some(text) = &report.trace {
        print!("{text}");
    }
    println!(
        "seed {seed}: trace {:016x} of {} lines; {}",
        report.hash, report.lines, report.summary
    );
    match report.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("violation: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("error: {why}\n{USAGE}");
    ExitCode::from(2)
}
