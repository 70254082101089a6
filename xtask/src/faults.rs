//! `cargo xtask faults`: the store under faults, the long version. Builds the release binary, runs the ignored test of
//! `tests/tests/store_faults.rs` with it, and prints its figures.
//!
//! Progress goes to stderr, the table alone to stdout. A run is repeated by its seed.

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use crate::test::command::{Cargo, run_bounded};

/// Faults, unless told otherwise.
const FAULTS: u64 = 100;
/// Longest that one fault may take; building the test is bounded by the same.
const FAULT_DEADLINE: Duration = Duration::from_secs(60);
/// Longest that everything around the faults may take.
const BUILD_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    faults: u64,
    seed: Option<u64>,
}

/// Runs it; `words` follow the command's name.
pub(crate) fn run(root: &Path, words: &[&str]) -> ExitCode {
    let asked = match parse(words) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("error: {error}\nusage: cargo xtask faults [--faults N] [--seed S]");
            return ExitCode::from(2);
        }
    };
    match faults(root, &asked) {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[&str]) -> Result<Asked, String> {
    let mut asked = Asked {
        faults: FAULTS,
        seed: None,
    };
    for pair in words.chunks(2) {
        let [flag, value] = pair else {
            return Err(format!("{} needs a number", pair.join(" ")));
        };
        let number = value
            .parse()
            .map_err(|_| format!("{flag} needs a number, not {value}"))?;
        match *flag {
            "--faults" if (1..=10_000).contains(&number) => asked.faults = number,
            "--faults" => return Err("--faults goes from 1 to 10000".to_owned()),
            "--seed" => asked.seed = Some(number),
            other => return Err(format!("unknown flag: {other}")),
        }
    }
    Ok(asked)
}

fn faults(root: &Path, asked: &Asked) -> Result<String, String> {
    let cargo = Cargo::new(root);
    let binary = cargo.build("release", "tradewind", false)?;
    let report = binary.with_file_name(format!("faults-{}.txt", std::process::id()));
    let mut command = cargo.command(&["test", "--package", "tradewind-tests"]);
    command
        .args(["--test", "store_faults", "--", "--ignored", "--exact"])
        .args(["many_faults_lose_no_write", "--nocapture"])
        .env("TRADEWIND_BIN", &binary)
        .env("TRADEWIND_FAULTS", asked.faults.to_string())
        .env("TRADEWIND_FAULTS_REPORT", &report)
        .stdout(Stdio::from(std::io::stderr()));
    if let Some(seed) = asked.seed {
        command.env("TRADEWIND_FAULTS_SEED", seed.to_string());
    }
    let count = u32::try_from(asked.faults).unwrap_or(u32::MAX);
    let deadline = BUILD_DEADLINE.saturating_add(FAULT_DEADLINE.saturating_mul(count));
    let status = run_bounded(command, deadline)?;
    if !status.success() {
        return Err(format!("the faults found something ({status})"));
    }
    let text = std::fs::read_to_string(&report);
    // Read or not, it has served.
    drop(std::fs::remove_file(&report));
    text.map_err(|error| format!("{}: {error}", report.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_numbers_within_bounds() {
        let asked = |faults, seed| Ok(Asked { faults, seed });
        assert_eq!(parse(&[]), asked(FAULTS, None));
        assert_eq!(
            parse(&["--seed", "7", "--faults", "12"]),
            asked(12, Some(7))
        );
        for bad in [
            &["--seed"][..],
            &["--seed", "x"],
            &["--faults", "0"],
            &["-f", "1"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
