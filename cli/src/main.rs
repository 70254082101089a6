//! The `tradewind` binary: every role's main and every command. Reads the command line, runs one command, and turns its
//! outcome into an exit code. Nothing else in it ends the process.

#![forbid(unsafe_code)]

mod admin;
mod args;
mod commands;
mod config_file;
mod demo;
mod duration;
mod exit;
mod http;
mod output;
mod printer;
mod suggest;
mod table;
mod view;

use std::{ffi::OsString, panic, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _};
use tokio::runtime::Builder;
use tradewind_runtime::workers;

use crate::{
    args::{Cli, Command},
    commands::Context,
    exit::{Exit, Failure, Outcome},
    printer::Printer,
};

fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let why = info.payload_as_str().unwrap_or("no reason given");
        let bug = Failure::new(
            Exit::Bug,
            format!("this is a bug in tradewind, at {place}: {why}"),
        );
        Printer::default().failure(&bug.hint("please report it with the command and its output"));
    }));
    tradewind_runtime::memory::tune();
    let args: Vec<OsString> = std::env::args_os().collect();
    let parsed = config_file::parse(Cli::command(), &args)
        .and_then(|matches| Cli::from_arg_matches(&matches).map_err(Into::into));
    let cli = match parsed.map_err(config_file::explain) {
        Ok(cli) => cli,
        Err(Ok(help)) => {
            Printer::default().help(&help);
            // Help that nobody asked for is an answer to a wrong command line.
            return if help.exit_code() == 0 {
                Exit::Good
            } else {
                Exit::Usage
            }
            .into();
        }
        Err(Err(failure)) => return end(Printer::default(), Err(failure)),
    };
    let printer = Printer { quiet: cli.quiet };
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| start(cli, Context { printer })));
    // A panic has been printed by the hook.
    end(printer, outcome.unwrap_or(Ok(Exit::Bug)))
}

fn end(printer: Printer, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            printer.failure(&failure);
            failure.exit.into()
        }
    }
}

fn start(cli: Cli, context: Context) -> Outcome {
    if let Some(parent) = cli.parent_pid {
        die_with(parent)?;
    }
    // An error says that another part has set the provider already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut builder = match &cli.command {
        // These build threads of their own for their traffic; this one is their control thread.
        Command::Gateway(_) | Command::Proxy(_) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if let Command::Controller(_) | Command::Witness(_) = &cli.command {
        // The store has a thread of its own.
        builder.worker_threads(workers::beside_a_lane());
    }
    let runtime = builder.enable_all().build().map_err(|e| {
        Failure::problem(format!("failed to start the runtime: {e}"))
            .hint("is the limit of threads reached? see `ulimit -u`")
    })?;
    let outcome = runtime.block_on(commands::run(cli.command, context));
    // Whatever is still blocked must not hold the process up: all that matters was awaited.
    runtime.shutdown_background();
    outcome
}

/// Asks the kernel to end this process when its parent ends.
fn die_with(parent: i32) -> Result<(), Failure> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|e| Failure::problem(format!("failed to tie this process to its parent: {e}")))?;
    if nix::unistd::getppid().as_raw() != parent {
        return Err(Failure::problem(format!(
            "the parent process {parent} is gone"
        )));
    }
    Ok(())
}
