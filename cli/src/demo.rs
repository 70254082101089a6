//! The demo: three clusters as real processes of this binary on loopback addresses, a caller at a constant rate, and five
//! things that go wrong. It judges itself: any failed call, or a call served by the wrong cluster, is a failure.
//!
//! Owns every process it starts and ends them all, whatever happens.

mod check;
mod federation;
mod load;
mod phase;
mod plan;
mod process;
mod report;
mod screen;
mod story;
mod tally;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tradewind_runtime::{Rng, dirs, signal::Signals};

use crate::{
    exit::{Exit, Failure, Outcome},
    printer::Printer,
};
use process::Processes;

/// What the demo is told.
#[derive(Debug)]
pub struct Options {
    /// Calls a second.
    pub rate: u32,
    /// Length of a phase.
    pub phase: Duration,
    /// Results as JSON.
    pub json: bool,
    /// Leave everything running.
    pub keep: bool,
    /// Where state and logs go.
    pub dir: Option<PathBuf>,
}

/// Runs it from first process to last.
pub async fn run(printer: Printer, options: Options) -> Outcome {
    let mut signals = Signals::install().map_err(|e| Failure::of(Exit::Problems, &e))?;
    plan::check_ports()?;
    let (dir, temporary) = directory(options.dir.as_deref())?;
    let mut processes = Processes::new(dir.clone(), options.keep)?;
    let told = tokio::select! {
        biased;
        signal = signals.next() => Err(Failure::problem(format!("the demo was ended by {signal}"))),
        told = story::tell(printer, &options, &mut processes) => told,
    };
    let good = matches!(&told, Ok(result) if result.ok());
    match told {
        Ok(result) if options.keep => {
            processes.leave()?;
            report::show(printer, &result, options.json);
            report::things_to_try(printer, &dir);
            Ok(exit_of(good))
        }
        Ok(result) => {
            processes.kill_all().await;
            report::show(printer, &result, options.json);
            if good && temporary {
                // What cannot be removed is in the temporary directory, where it disturbs nobody.
                let _ = std::fs::remove_dir_all(&dir);
            } else {
                printer.say(format_args!("state and logs are in {}", dir.display()));
            }
            Ok(exit_of(good))
        }
        Err(failure) => {
            processes.kill_all().await;
            Err(failure.hint(format!(
                "logs of every process are in {}",
                processes.logs().display()
            )))
        }
    }
}

const fn exit_of(good: bool) -> Exit {
    if good { Exit::Good } else { Exit::Problems }
}

/// The directory told, or a fresh one; and whether it is temporary.
fn directory(told: Option<&Path>) -> Result<(PathBuf, bool), Failure> {
    let dir = match told {
        Some(dir) => dir.to_owned(),
        None => std::env::temp_dir().join(format!(
            "tradewind-demo-{:012x}",
            Rng::from_entropy().next_u64() >> 16
        )),
    };
    dirs::ensure_dir(&dir, 0o700).map_err(|e| Failure::of(Exit::Problems, &e))?;
    let mut entries = std::fs::read_dir(&dir).map_err(|e| {
        Failure::problem(format!(
            "failed to read the directory {}: {e}",
            dir.display()
        ))
    })?;
    if entries.next().is_some() {
        return Err(
            Failure::problem(format!("the directory {} is not empty", dir.display()))
                .hint("name an absent or empty one with --dir"),
        );
    }
    let dir = dir.canonicalize().map_err(|e| {
        Failure::problem(format!(
            "failed to resolve the directory {}: {e}",
            dir.display()
        ))
    })?;
    Ok((dir, told.is_none()))
}
