//! `tradewind export` and `unexport`: offer a service of this cluster to the federation, or take it back.

use serde_json::json;
use tradewind_api::{ServiceName, proto::v1};

use super::Context;
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Outcome},
    output::{Format, Output, document},
    table,
};

/// `tradewind export shop/payments`
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The service, as namespace/name
    #[arg(value_name = "NAMESPACE/NAME")]
    service: ServiceName,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// Offers it.
pub async fn export(context: Context, args: Export) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let request = v1::ExportRequest {
        service: args.service.to_string(),
    };
    let done = admin
        .call(request, async |mut c, r| c.export(r).await)
        .await?;
    let service = &args.service;
    let printer = context.printer;
    if show(context, &args, done, true) {
        return Ok(Exit::Good);
    }
    if done.changed {
        printer.done(format_args!(
            "{service} is exported (revision {})",
            table::count(done.revision)
        ));
    } else {
        printer.say(format_args!(
            "{service} was exported already; nothing changed"
        ));
    }
    printer.say(format_args!("see it: tradewind endpoints {service}"));
    printer.say(format_args!("reverse with: tradewind unexport {service}"));
    Ok(Exit::Good)
}

/// Takes it back.
pub async fn unexport(context: Context, args: Export) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let request = v1::ExportRequest {
        service: args.service.to_string(),
    };
    let done = admin
        .call(request, async |mut c, r| c.unexport(r).await)
        .await?;
    let service = &args.service;
    let printer = context.printer;
    if show(context, &args, done, false) {
        return Ok(Exit::Good);
    }
    if done.changed {
        printer.done(format_args!(
            "{service} is no longer exported (revision {})",
            table::count(done.revision)
        ));
    } else {
        printer.say(format_args!("{service} was not exported; nothing changed"));
    }
    printer.say(format_args!("reverse with: tradewind export {service}"));
    Ok(Exit::Good)
}

/// As data, where that was asked for.
fn show(context: Context, args: &Export, done: v1::ExportResponse, exported: bool) -> bool {
    match args.output.format {
        Format::Table => return false,
        Format::Name => context.printer.data(&args.service),
        Format::Json => context.printer.json(&document(
            "tradewind.export/v1",
            json!({
                "service": args.service.to_string(),
                "exported": exported,
                "changed": done.changed,
                "revision": done.revision,
            }),
        )),
    }
    true
}
