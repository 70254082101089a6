//! `tradewind store recover`, `rejoin` and `snapshot restore`: what is done to the store of a stopped controller.
//!
//! Each shows what it would do and what would be lost before it does anything, and does it with `--yes` only.

use std::path::{Path, PathBuf};

use serde_json::json;
use tradewind_api::{ClusterName, NodeId};
use tradewind_controller::{
    actor,
    offline::{OfflineError, Recovered, Recovery, Rejoin},
};
use tradewind_federation::{disaster::DisasterError, rejoin::RejoinError};
use tradewind_runtime::{Rng, clock};

use super::super::Context;
use crate::{
    admin::DEFAULT_DATA_DIR,
    exit::{Exit, Failure, Outcome},
    output::{Format, Output, document},
    printer::Printer,
    table::{age, count},
};

/// Which directory, and whether to do it.
#[derive(Debug, clap::Args)]
pub struct Offline {
    /// The stopped controller's data directory
    #[arg(long, env = "TRADEWIND_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    #[arg(long, hide = true, value_parser = not_from_outside)]
    context: Option<String>,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Show what would be done, and do nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

fn not_from_outside(_: &str) -> Result<String, &'static str> {
    Err(
        "this works on the files of a stopped controller: run it where they are, in Kubernetes in a pod with its volume",
    )
}

/// `tradewind store snapshot restore FILE`
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The snapshot file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    offline: Offline,
}

/// Ends a command that was not told `--yes`; `Ok(true)` means go on.
fn go_on(printer: Printer, args: &Offline, what: &str) -> Result<bool, Failure> {
    if args.yes {
        return Ok(true);
    }
    if args.dry_run {
        printer.say("nothing was changed (--dry-run)");
        return Ok(false);
    }
    printer.say("nothing was changed");
    Err(Failure::new(Exit::Refused, format!("{what} needs --yes"))
        .hint("to go on, repeat the command with --yes"))
}

/// One survivor becomes a federation.
pub async fn recover(context: Context, args: Offline) -> Outcome {
    let recovery = Recovery::of_store(&args.data_dir, Some(actor::here()), &clock::system())
        .await
        .map_err(|e| failure(&e))?;
    let printer = context.printer;
    show_plan(printer, &args.data_dir, &recovery);
    printer.say("  limits");
    printer.say("    - what a majority acknowledged without this node is lost");
    printer.say("    - the other nodes' old stores must never run again: stop their controllers first, and bring");
    printer.say(
        "      each back with `tradewind store rejoin`. Until then there may be two federations",
    );
    if !go_on(printer, &args, "recovering")? {
        return Ok(Exit::Good);
    }
    act(printer, &args, recovery).await
}

/// A snapshot file becomes a federation.
pub async fn restore(context: Context, args: Restore) -> Outcome {
    let (file, args) = (args.file, args.offline);
    let here = Some(actor::here());
    let recovery = Recovery::of_snapshot(&args.data_dir, &file, here, &clock::system())
        .await
        .map_err(|e| failure(&e))?;
    let printer = context.printer;
    show_plan(printer, &args.data_dir, &recovery);
    printer.say("  limits");
    printer.say("    - all that was written after the snapshot is lost; clusters that joined later must join again");
    printer.say("    - no node's old store may run again: stop all controllers first, and bring the others back with");
    printer.say("      `tradewind store rejoin`. Until then there may be two federations");
    if !go_on(printer, &args, "restoring")? {
        return Ok(Exit::Good);
    }
    act(printer, &args, recovery).await
}

fn show_plan(printer: Printer, data_dir: &Path, recovery: &Recovery) {
    let summary = recovery.summary();
    let now_ms = clock::system().unix_ms();
    printer.title(format_args!(
        "plan for {} in {}",
        recovery.cluster(),
        data_dir.display()
    ));
    printer.say(format_args!(
        "  last entry    revision {}, term {}, written {} ago",
        count(summary.revision),
        summary.term,
        age(now_ms.saturating_sub(summary.at_ms))
    ));
    match (summary.committed, summary.beyond_commit) {
        (_, 0) => {}
        (Some(committed), beyond) => printer.say(format_args!(
            "  commit        known up to revision {}; the {} entries after it are kept, whether a majority had them or not",
            count(committed),
            count(beyond)
        )),
        (None, beyond) => printer.say(format_args!(
            "  commit        unknown; all {} entries are kept, whether a majority had them or not",
            count(beyond)
        )),
    }
    printer.say(format_args!(
        "  + node {}   votes alone, in place of node {}; goes on at revision {}",
        recovery.node_id(),
        recovery.old_node_id(),
        count(recovery.revision())
    ));
    let name = |(id, cluster): (&NodeId, &Option<ClusterName>)| match cluster {
        Some(cluster) => format!("{id} ({cluster})"),
        None => id.to_string(),
    };
    let forgotten: Vec<String> = recovery.forgotten().iter().map(name).collect();
    printer.say(format_args!(
        "  - nodes {}   forgotten for good",
        forgotten.join(", ")
    ));
    let members: Vec<&str> = recovery.members().iter().map(ClusterName::as_str).collect();
    printer.say(format_args!(
        "    clusters {} stay members, with their exports and authorities",
        members.join(", ")
    ));
}

async fn act(printer: Printer, args: &Offline, recovery: Recovery) -> Outcome {
    let cluster = recovery.cluster().clone();
    let Recovered {
        node_id,
        revision,
        kept,
    } = recovery.act().await.map_err(|e| failure(&e))?;
    printer.done(format_args!(
        "{cluster} holds the federation alone, as node {node_id}, from revision {}",
        count(revision)
    ));
    if let Some(kept) = &kept {
        printer.say(format_args!("the old store is in {}", kept.display()));
    }
    let dir = args.data_dir.display();
    printer.say(format_args!(
        "start it: tradewind controller --data-dir {dir}"
    ));
    printer.say("then, in every other cluster, with its controller stopped: tradewind store rejoin --data-dir <dir> --yes");
    let fields = json!({
        "cluster": cluster,
        "node_id": node_id,
        "revision": revision,
        "kept": kept,
    });
    show(
        printer,
        args.output,
        "tradewind.store-recovered/v1",
        fields,
        node_id,
    );
    Ok(Exit::Good)
}

fn show(printer: Printer, output: Output, schema: &str, fields: serde_json::Value, node: NodeId) {
    match output.format {
        Format::Json => printer.json(&document(schema, fields)),
        Format::Name => printer.data(node),
        Format::Table => {}
    }
}

/// A node comes back under a new id.
pub async fn rejoin(context: Context, args: Offline) -> Outcome {
    let rejoin = Rejoin::of(&args.data_dir).map_err(|e| failure(&e))?;
    let (cluster, old) = (rejoin.cluster().clone(), rejoin.old_node_id());
    let printer = context.printer;
    printer.title(format_args!(
        "plan for {cluster} in {}",
        args.data_dir.display()
    ));
    let known: Vec<&str> = rejoin.known().keys().map(ClusterName::as_str).collect();
    printer.say(format_args!(
        "  ~ node {old}   gets a new id from the store's leader, asked through {}",
        known.join(", ")
    ));
    printer
        .say("  - its store   is put aside; a new one is filled by the leader at the next start");
    printer.say("    what only this node holds is lost, unless `tradewind store recover` is run here instead");
    if !go_on(printer, &args, "rejoining")? {
        return Ok(Exit::Good);
    }
    let done = rejoin
        .act(Some(actor::here()), clock::system(), Rng::from_entropy())
        .await
        .map_err(|e| failure(&e))?;
    printer.done(format_args!(
        "{cluster} comes back as node {}; node {old} is gone for good",
        done.node_id
    ));
    if let Some(kept) = &done.kept {
        printer.say(format_args!("the old store is in {}", kept.display()));
    }
    printer.say(format_args!(
        "start it: tradewind controller --data-dir {}",
        args.data_dir.display()
    ));
    let fields =
        json!({ "cluster": cluster, "node_id": done.node_id, "replaces": old, "kept": done.kept });
    show(
        printer,
        args.output,
        "tradewind.store-rejoined/v1",
        fields,
        done.node_id,
    );
    Ok(Exit::Good)
}

/// The exit code that fits, with the advice.
pub fn failure(error: &OfflineError) -> Failure {
    let exit = match error {
        OfflineError::Rejoin(RejoinError::Refused(_) | RejoinError::Rejected(_))
        | OfflineError::OtherFederation { .. }
        | OfflineError::Disaster(DisasterError::NotMember { .. }) => Exit::Refused,
        OfflineError::Rejoin(
            RejoinError::Alone(_)
            | RejoinError::Unreachable(_)
            | RejoinError::NoLeader
            | RejoinError::Unknown,
        ) => Exit::Unreachable,
        _ => Exit::Problems,
    };
    Failure::of(exit, error).hint(error.hint())
}
