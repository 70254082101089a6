//! Builds `testenv`, the real Kubernetes control planes that tests run against, from Go modules into the target directory.
//!
//! Go keeps what it compiled in its own cache, so only the first build on a machine takes its minutes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::command::run_bounded;

/// The name under which tests find the program.
pub(super) const VARIABLE: &str = "TRADEWIND_TESTENV";

/// A build that takes longer hangs; the first takes minutes on two cores.
const DEADLINE: Duration = Duration::from_secs(40 * 60);

/// Without inlining the first build takes a good third less, without debug information a tenth less again: nobody debugs or
/// measures these servers.
const COMPILE_FLAGS: &str = "all=-dwarf=false -l";

/// Where Go's own installation puts itself, for shells that were not told.
const USUAL_PLACE: &str = "/usr/local/go/bin/go";

/// Builds the program into `target`; a hint says what to do where there is no Go.
pub(super) fn build(root: &Path, target: &Path) -> Result<PathBuf, String> {
    let go = ["go", USUAL_PLACE].into_iter().find(|go| works(go)).ok_or(
        "tests against Kubernetes need Go 1.26 or newer, and there is none: install it, or leave them out with --no-kubernetes",
    )?;
    let program = target.join("testenv").join("testenv");
    let mut command = Command::new(go);
    command
        .args(["build", "-ldflags", "-s -w", "-gcflags", COMPILE_FLAGS])
        .arg("-o")
        .arg(&program)
        .arg(".")
        .current_dir(root.join("tests").join("kubernetes").join("testenv"));
    let status = run_bounded(command, DEADLINE)?;
    if !status.success() {
        return Err(format!("go build failed ({status})"));
    }
    println!("{}", program.display());
    Ok(program)
}

fn works(go: &str) -> bool {
    Command::new(go)
        .arg("version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
