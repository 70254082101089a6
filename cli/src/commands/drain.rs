//! `tradewind drain`, `undrain` and `leave`: take a cluster out of service, bring it back, end its membership.

use tradewind_api::{ClusterName, proto::v1};

use super::Context;
use crate::{
    admin::{Admin, Where},
    exit::{Exit, Failure, Outcome},
    table,
};

/// `tradewind drain east`
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// The cluster; any member may drain any other
    #[arg(value_name = "CLUSTER")]
    cluster: ClusterName,
    #[command(flatten)]
    place: Where,
}

/// `tradewind leave`
#[derive(Debug, clap::Args)]
pub struct Leave {
    #[command(flatten)]
    place: Where,
    /// Do it: the cluster's exports end and its certificates are refused everywhere
    #[arg(long)]
    yes: bool,
}

/// Drains, or undoes it.
pub async fn drain(context: Context, args: Drain, undo: bool) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let cluster = &args.cluster;
    let request = v1::DrainRequest {
        cluster: cluster.to_string(),
        undo,
    };
    let done = admin
        .call(request, async |mut c, r| c.drain(r).await)
        .await?;
    let printer = context.printer;
    let (now, reverse) = match undo {
        false => (
            "draining: others serve its calls wherever they can",
            "undrain",
        ),
        true => ("active again", "drain"),
    };
    if done.changed {
        printer.done(format_args!(
            "{cluster} is {now} (revision {})",
            table::count(done.revision)
        ));
    } else {
        printer.say(format_args!("{cluster} was {now} before; nothing changed"));
    }
    printer.say(format_args!("reverse with: tradewind {reverse} {cluster}"));
    Ok(Exit::Good)
}

/// Leaves the federation.
pub async fn leave(context: Context, args: Leave) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let status = admin.status().await?;
    let mine = status
        .clusters
        .iter()
        .find(|c| c.cluster.as_ref().is_some_and(|c| c.local));
    let exported = mine.map_or(0, |c| c.exported_services);
    let printer = context.printer;
    if !args.yes {
        printer.title(format_args!("plan for {}", status.cluster));
        printer.say(format_args!("  - leaves the federation {}", status.domain));
        printer.say(format_args!("  - {exported} exported services end"));
        printer.say("  - its certificates are refused by every other cluster within seconds");
        printer.say("nothing was changed");
        return Err(Failure::new(
            Exit::Refused,
            format!("{} stays: leaving needs --yes", status.cluster),
        )
        .hint("to take it out of service and be able to come back, use `tradewind drain`")
        .hint("to go on, repeat the command with --yes"));
    }
    let done = admin
        .call(v1::Empty {}, async |mut c, r| c.leave(r).await)
        .await?;
    printer.done(format_args!(
        "{} has left the federation {} (revision {})",
        status.cluster,
        status.domain,
        table::count(done.revision)
    ));
    printer.say("come back with a new data directory and a new token: tradewind join …");
    Ok(Exit::Good)
}
