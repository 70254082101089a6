//! What a test run needs beside cargo: a C compiler (for the crypto library), rustfmt and clippy. The latter two are
//! installed where rustup is there; the rest is named with a way to get it.

use std::process::{Command, Stdio};

use super::command::Cargo;

pub(crate) fn check(cargo: &Cargo) -> Result<(), String> {
    let mut missing = Vec::new();
    if !["cc", "gcc", "clang"]
        .iter()
        .any(|name| works(Command::new(name).arg("--version")))
    {
        missing.push("a C compiler: install gcc or clang from your distribution".to_owned());
    }
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let there = || works(&mut cargo.command(&[subcommand, "--version"]));
        if there() {
            continue;
        }
        println!("installing {component}");
        let added = Command::new("rustup")
            .args(["component", "add", component])
            .status();
        if !added.is_ok_and(|status| status.success()) || !there() {
            missing.push(format!(
                "cargo {subcommand}: run `rustup component add {component}`"
            ));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("missing tools\n  {}", missing.join("\n  ")))
}

fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
