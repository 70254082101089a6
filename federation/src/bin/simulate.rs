//! Runs simulations of the federation store, one seed or a range of them. `cargo xtask sim` builds it as it must be
//! built and starts it; started by hand without `tokio_unstable`, runs do not repeat.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks there"
)]

use std::process::ExitCode;

use tradewind_federation::simulation::{self, Options, scale};

const USAGE: &str = "\
usage: simulate SEED [--trace] [--planted-bug]
       simulate --scale [--clusters N] [--exports N] [--endpoints N] [--changes N] [--seed S]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (seed, flags) = match words.as_slice() {
        ["--scale", rest @ ..] => return scale(rest),
        [seed, flags @ ..] => (seed, flags),
        [] => return usage("expected one seed"),
    };
    let mut options = Options::default();
    for flag in flags {
        match *flag {
            "--trace" => options.trace = true,
            "--planted-bug" => options.planted = true,
            other => return usage(&format!("unknown argument: {other}")),
        }
    }
    let Ok(seed) = seed.parse() else {
        return usage("a seed is a number");
    };
    let root = match tempfile::tempdir() {
        Ok(root) => root,
        Err(error) => return usage(&format!("cannot make a directory for snapshots: {error}")),
    };
    let report = simulation::run(seed, root.path(), options);
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

/// Measures a large federation.
fn scale(words: &[&str]) -> ExitCode {
    let wish = match parse(words) {
        Ok(wish) => wish,
        Err(error) => return usage(&error),
    };
    let root = match tempfile::tempdir() {
        Ok(root) => root,
        Err(error) => return usage(&format!("cannot make a directory for the nodes: {error}")),
    };
    match scale::run(&wish, root.path()) {
        Ok(found) => {
            println!("{found}");
            eprintln!("{}", found.cpu());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[&str]) -> Result<scale::Wish, String> {
    let mut wish = scale::Wish::default();
    for pair in words.chunks(2) {
        let [flag, value] = pair else {
            return Err(format!("{} needs a number", pair.concat()));
        };
        let number: usize = value
            .parse()
            .map_err(|e| format!("{flag}: {value} is no number: {e}"))?;
        match *flag {
            "--clusters" => wish.clusters = number,
            "--exports" => wish.exports = number,
            "--endpoints" => wish.endpoints = number,
            "--changes" => wish.changes = number,
            "--seed" => wish.seed = number as u64,
            other => return Err(format!("unknown argument: {other}")),
        }
    }
    let least = wish.clusters.min(wish.exports).min(wish.endpoints);
    if least.min(wish.changes) == 0 {
        return Err("nothing may be 0 but the seed".to_owned());
    }
    Ok(wish)
}

fn usage(why: &str) -> ExitCode {
    eprintln!("error: {why}\n{USAGE}");
    ExitCode::from(2)
}
