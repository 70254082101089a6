//! `tradewind version`.

use serde_json::json;

use super::Context;
use crate::{
    exit::{Exit, Outcome},
    output::{Format, Output, document},
};

/// `tradewind version`
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Version {
    #[command(flatten)]
    output: Output,
}

/// Prints it.
#[expect(clippy::unnecessary_wraps, reason = "every command returns an outcome")]
pub fn run(context: Context, args: Version) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    match args.output.format {
        Format::Table => context.printer.data(format_args!("tradewind {version}")),
        Format::Name => context.printer.data(version),
        Format::Json => context.printer.json(&document(
            "tradewind.version/v1",
            json!({ "version": version }),
        )),
    }
    Ok(Exit::Good)
}
