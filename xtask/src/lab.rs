//! `cargo xtask lab` and `cargo xtask failures`: build the product and the lab's program alike, and start that one. It speaks to the
//! user itself; what it prints on standard output is data.

use std::path::Path;
use std::process::ExitCode;

use crate::test::command::Cargo;

/// The product, whose processes fill the lab.
const PRODUCT: &str = "tradewind";
/// The package that holds the lab's program, and its name there.
const PACKAGE: &str = "tradewind-tests";
const PROGRAM: &str = "tradewind-lab";
/// Builds both without optimisation: to play in, and to try the matrix out. It measures nothing then.
const DEBUG: &str = "--debug";

/// Starts the lab's program with `words`, of which the first is its command.
pub(crate) fn run(root: &Path, words: &[&str]) -> ExitCode {
    let (profile, words) = profile(words);
    let cargo = Cargo::new(root);
    let build = ["build", "--profile", profile, "--package", PRODUCT];
    if let Err(error) = cargo.run(&build) {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let start = ["run", "--quiet", "--profile", profile, "--package", PACKAGE];
    let mut command = cargo.command(&start);
    // The product is found beside the program: whatever else was named is not what was just built.
    command
        .args(["--bin", PROGRAM, "--"])
        .args(words)
        .env_remove("TRADEWIND_BIN");
    match command.status() {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            code.map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            eprintln!("error: cannot run cargo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How to build, and the words that remain.
fn profile<'a>(words: &[&'a str]) -> (&'static str, Vec<&'a str>) {
    let rest: Vec<&str> = words.iter().copied().filter(|w| *w != DEBUG).collect();
    let profile = if rest.len() < words.len() {
        "dev"
    } else {
        "release"
    };
    (profile, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_build_is_the_programs_own() {
        let (release, words) = profile(&["failures", "--seed", "7"]);
        assert_eq!(
            (release, words),
            ("release", vec!["failures", "--seed", "7"])
        );
        let (dev, words) = profile(&["open", "--debug"]);
        assert_eq!((dev, words), ("dev", vec!["open"]));
    }
}
