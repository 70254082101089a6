//! `cargo xtask bench`: builds the benchmarks as what is shipped is built and starts one of them, with its data on the disk of
//! the target directory. What they print on standard output is passed on untouched; everything else goes to standard error.

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::test::command::Cargo;

/// The binary that holds all benchmarks.
const BINARY: &str = "tradewind-bench";
/// How it is built.
const PROFILE: &str = "dist";
/// The product's own.
const PRODUCT: &str = "tradewind";
/// The benchmarks that need it.
const OF_PROCESSES: [&str; 3] = ["proxy", "policy", "kubernetes"];

/// Runs the benchmark `words` begin with; the other words are its own.
pub(crate) fn run(root: &Path, words: &[&str]) -> ExitCode {
    match start(root, words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(root: &Path, words: &[&str]) -> Result<(), String> {
    let cargo = Cargo::new(root);
    let program = cargo.build(PROFILE, BINARY, false)?;
    if words.first().is_some_and(|w| OF_PROCESSES.contains(w)) {
        // They measure whole processes of the product, found beside it.
        cargo.build(PROFILE, PRODUCT, false)?;
    }
    let target = program.ancestors().nth(2).unwrap_or(root);
    let mut command = Command::new(&program);
    command.args(words);
    let asks = words.iter().any(|w| ["--help", "-h", "--dir"].contains(w));
    if !asks {
        command.arg("--dir").arg(target.join("bench"));
    }
    let status = command
        .status()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{BINARY} failed ({status})"))
    }
}
