//! `tradewind demo`: the flags of the demo, see `crate::demo`.

use std::{path::PathBuf, time::Duration};

use super::Context;
use crate::{
    demo::{self, Options},
    duration,
    exit::{Failure, Outcome},
};

/// `tradewind demo`
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Calls a second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// How long each phase lasts, at least
    #[arg(long, value_name = "SECONDS", default_value = "6", value_parser = duration::parse)]
    phase_seconds: Duration,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Leave everything running and print commands to try
    #[arg(long)]
    keep: bool,
    /// Where its state and logs go; must be absent or empty [default: a fresh temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Shortest phase: a detector needs a moment, and the last third must hold enough calls to judge by.
const SHORTEST_PHASE: Duration = Duration::from_secs(2);

/// Runs it.
pub async fn run(context: Context, args: Demo) -> Outcome {
    if args.phase_seconds < SHORTEST_PHASE {
        return Err(Failure::usage("--phase-seconds must be at least 2"));
    }
    let options = Options {
        rate: args.rate,
        phase: args.phase_seconds,
        json: args.json,
        keep: args.keep,
        dir: args.dir,
    };
    demo::run(context.printer, options).await
}
