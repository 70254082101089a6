//! `tradewind add-controller`: one controller more for a cluster, so that it goes on when one is lost.

use std::path::PathBuf;

use serde_json::json;
use tradewind_controller::{EnlistOptions, JoinStep, enlist};

use super::{Context, join};
use crate::{
    admin::DEFAULT_DATA_DIR,
    exit::{Exit, Outcome},
    output::{Format, Output, document},
};

/// `tradewind add-controller`
#[derive(Debug, clap::Args)]
pub struct AddController {
    /// host:port of the controller that is there, as its own --advertise says
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// The token that it made with `tradewind token create --controller`
    #[arg(
        long,
        env = "TRADEWIND_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: String,
    /// host:port at which the cluster's gateways, proxies and other controllers will dial the new one
    #[arg(long, env = "TRADEWIND_ADVERTISE", value_name = "HOST:PORT")]
    advertise: String,
    /// Where its state goes; must be absent or empty
    #[arg(long, env = "TRADEWIND_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Adds this host.
pub async fn run(context: Context, args: AddController) -> Outcome {
    let printer = context.printer;
    printer.title(format_args!(
        "a further controller, through {}",
        args.address
    ));
    let options = EnlistOptions {
        address: args.address,
        token: args.token,
        advertise: args.advertise.clone(),
        data_dir: args.data_dir,
    };
    let progress = |step: &JoinStep| {
        printer.done(format_args!("{:<10} {}", step.layer.as_str(), step.detail));
    };
    let added = enlist(options, progress)
        .await
        .map_err(|e| join::failure(&e))?;
    let dir = added.data_dir.display();
    printer.say(format_args!(
        "node {} is a controller of {} now; start it:",
        added.node_id, added.cluster
    ));
    let port = args.advertise.rsplit_once(':').map_or("15012", |(_, p)| p);
    printer.say(format_args!(
        "  tradewind controller --data-dir {dir} --listen 0.0.0.0:{port}"
    ));
    printer.say("and tell proxies and gateways of both: --controller <first>,<second>");
    match args.output.format {
        Format::Json => printer.json(&document(
            "tradewind.add-controller/v1",
            json!({
                "cluster": added.cluster,
                "node_id": added.node_id,
                "address": args.advertise,
                "data_dir": added.data_dir,
            }),
        )),
        Format::Name | Format::Table => printer.data(added.node_id),
    }
    Ok(Exit::Good)
}
