//! `tradewind export` and `unexport`: offer a service of this cluster to the federation, or take it back.

use tradewind_api::{ServiceName, proto::v1};

use super::Context;
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Outcome},
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
