//! `tradewind audit`: who changed what, when.

use std::time::Duration;

use serde_json::json;
use tradewind_api::{ClusterName, proto::v1};
use tradewind_runtime::clock;

use super::{Context, list::Freshness};
use crate::{
    admin::{Admin, Where},
    duration,
    exit::{Exit, Outcome},
    output::{Listing, Output},
    table::{Table, age, count, or_dash},
};

/// `tradewind audit`
#[derive(Debug, clap::Args)]
pub struct Audit {
    /// At most so many, the newest
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Only what was asked in this cluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Only what is younger than this, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    since: Option<Duration>,
    #[command(flatten)]
    fresh: Freshness,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    output: Output,
}

/// Shows it, newest first.
pub async fn run(context: Context, args: Audit) -> Outcome {
    let admin = Admin::connect(&args.place).await?;
    let since = args.since.map_or(0, |s| s.as_millis());
    let request = v1::AuditRequest {
        limit: args.limit,
        cluster: args.cluster.map(|c| c.to_string()).unwrap_or_default(),
        since_ms: u64::try_from(since).unwrap_or(u64::MAX),
        consistent: args.fresh.consistent,
    };
    let found = admin
        .store(request, async |mut c, r| c.audit(r).await)
        .await?;
    let mut table = Table::new(&[">AGO", ">REVISION", "CLUSTER", "WHO", "ACTION", "SUBJECT"]);
    let now_ms = clock::system().unix_ms();
    for entry in &found.entries {
        table.row([
            age(now_ms.saturating_sub(entry.at_unix_ms)),
            count(entry.revision),
            entry.cluster.clone(),
            or_dash(entry.actor.clone()),
            entry.action.clone(),
            entry.subject.clone(),
        ]);
    }
    let json = |e: &v1::AuditEntry| {
        json!({
            "revision": e.revision,
            "at_unix_ms": e.at_unix_ms,
            "cluster": e.cluster,
            "actor": (!e.actor.is_empty()).then_some(&e.actor),
            "action": e.action,
            "subject": e.subject,
        })
    };
    Listing {
        schema: "tradewind.audit/v1",
        json: json!({
            "revision": found.revision,
            "age_ms": found.age_ms,
            "entries": found.entries.iter().map(json).collect::<Vec<_>>(),
        }),
        table,
        names: found
            .entries
            .iter()
            .map(|e| e.revision.to_string())
            .collect(),
        empty: "nobody changed anything in that time",
    }
    .show(context.printer, args.output);
    args.fresh.tell(context.printer, found.age_ms);
    Ok(Exit::Good)
}
