//! `tradewind status`: is the federation well, as this cluster sees it; with `--wait`, until it is.

mod matrix;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tradewind_api::proto::v1;

use super::{Context, list::clusters_table};
use crate::{
    admin::{Admin, Where},
    duration,
    exit::{Exit, Failure, Outcome},
    output::{Format, Output, document},
    printer::Printer,
    table::{self, Table},
    view,
};

/// `tradewind status`
#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    place: Where,
    /// Wait until there is no problem, at most this long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "60s", value_parser = duration::parse)]
    wait: Option<Duration>,
    #[command(flatten)]
    output: Output,
}

/// How often a waiting status asks again: often enough that nobody sees the difference.
const POLL: Duration = Duration::from_millis(200);

/// Shows it, or waits for it.
pub async fn run(context: Context, args: Status) -> Outcome {
    let status = match args.wait {
        None => Admin::connect(&args.place).await?.status().await?,
        Some(limit) => wait(context.printer, &args.place, limit).await?,
    };
    let well = status.problems.is_empty();
    match args.output.format {
        Format::Json => context.printer.json(&json(&status)),
        Format::Name => context.printer.data(&status.cluster),
        Format::Table => show(context.printer, &status),
    }
    Ok(if well { Exit::Good } else { Exit::Problems })
}

async fn wait(
    printer: Printer,
    place: &Where,
    limit: Duration,
) -> Result<v1::StatusResponse, Failure> {
    let start = Instant::now();
    let mut said = String::new();
    let mut connected = None;
    loop {
        let answer = ask(&mut connected, place).await;
        let unmet = match answer {
            Ok(status) if status.problems.is_empty() => return Ok(status),
            Ok(status) => status.problems.first().cloned().unwrap_or_default(),
            Err(failure) if matches!(failure.exit, Exit::Unreachable | Exit::TimedOut) => {
                failure.what
            }
            Err(failure) => return Err(failure),
        };
        if start.elapsed() >= limit {
            return Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "waited {} s; still unmet: {unmet}",
                    limit.as_secs_f32().ceil()
                ),
            )
            .hint("`tradewind status` shows every problem"));
        }
        if unmet != said {
            let spent = start.elapsed().as_secs();
            printer.say(format_args!(
                "waiting  {spent:>3} / {} s   {unmet}",
                limit.as_secs()
            ));
            said = unmet;
        }
        tokio::time::sleep(POLL.min(limit)).await;
    }
}

/// Over the connection that is there, as long as it answers: each new one costs an API server seven requests, where it leads through one.
async fn ask(connected: &mut Option<Admin>, place: &Where) -> Result<v1::StatusResponse, Failure> {
    let admin = match connected.take() {
        Some(admin) => admin,
        None => Admin::connect(place).await?,
    };
    let status = admin.status().await?;
    *connected = Some(admin);
    Ok(status)
}

fn show(printer: Printer, status: &v1::StatusResponse) {
    let leader = status.peers.iter().find(|p| p.leader);
    let voters = status.peers.iter().filter(|p| p.voter).count();
    let leader = leader.map_or("no leader".to_owned(), |l| {
        format!("leader {} ({})", l.node_id, l.cluster)
    });
    printer.data(format_args!(
        "cluster   {} in federation {}",
        status.cluster, status.domain
    ));
    printer.data(format_args!(
        "store     revision {}, {leader}, {voters} voters, term {}, heard {} ago",
        table::count(status.revision),
        status.term,
        table::age(status.store_age_ms)
    ));
    let own = status
        .clusters
        .iter()
        .find(|c| c.cluster.as_ref().is_some_and(|c| c.local));
    if own.is_some_and(|c| c.witness) {
        printer.data("here      a witness: it votes, and runs and exports nothing");
    } else {
        printer.data(format_args!(
            "here      {} proxies, {} gateways connected; {} services known",
            status.connected_proxies, status.connected_gateways, status.services
        ));
    }
    if let Some(names) = names(status) {
        printer.data(format_args!("names     {names}"));
    }
    printer.data("");
    printer.data(clusters_table(&status.clusters).render());
    printer.data("");
    let mut peers = Table::new(&["", ">NODE", "CLUSTER", "ROLE", ">TRAILS"]);
    for peer in &status.peers {
        let trails = match peer.trails {
            None => "unknown".to_owned(),
            Some(n) => table::count(n),
        };
        let here = if peer.this_node { "*" } else { "" };
        peers.row([
            here.to_owned(),
            peer.node_id.to_string(),
            peer.cluster.clone(),
            if peer.witness {
                format!("{}, witness", role(peer))
            } else {
                role(peer).to_owned()
            },
            trails,
        ]);
    }
    printer.data(peers.render());
    printer.data("");
    if status.controllers.len() > 1 {
        printer.data(controllers(&status.controllers).render());
        printer.data("");
    }
    let links = matrix::lines(&status.reach);
    for line in &links {
        printer.data(line);
    }
    if !links.is_empty() {
        printer.data("");
    }
    match status.problems.as_slice() {
        [] => printer.data("no problems"),
        problems => problems
            .iter()
            .for_each(|p| printer.data(format_args!("problem: {p}"))),
    }
}

/// The cluster's own controllers, where it has several.
fn controllers(all: &[v1::ControllerStatus]) -> Table {
    let mut table = Table::new(&[
        "",
        "CONTROLLER",
        "ADDRESS",
        "HEARD",
        "PUBLISHES",
        ">REVISION",
    ]);
    for one in all {
        let heard = match (one.this_node, one.up) {
            (true, _) => "-".to_owned(),
            (false, true) => "yes".to_owned(),
            (false, false) => format!("not for {}", table::age(one.age_ms)),
        };
        table.row([
            if one.this_node { "*" } else { "" }.to_owned(),
            one.node_id.to_string(),
            one.address.clone(),
            heard,
            if one.speaks { "yes" } else { "no" }.to_owned(),
            table::count(one.revision),
        ]);
    }
    table
}

/// How far the federation is on the way to sealed names at gateways; nothing where it has arrived, or was never asked.
fn names(status: &v1::StatusResponse) -> Option<String> {
    let left = status
        .names_left_ms
        .map(|ms| format!(" for another {}", table::age(ms)));
    let left = left.unwrap_or_default();
    match status.names.as_str() {
        "clear" => Some("in clear: not every member knows sealed names".to_owned()),
        "prepare" => Some(format!(
            "in clear{left}, in which every gateway can be upgraded; then sealed"
        )),
        "both" => Some(format!(
            "sealed; those in clear are taken{left}, in which every proxy can be upgraded"
        )),
        _ => None,
    }
}

fn role(peer: &v1::Peer) -> &'static str {
    match (peer.leader, peer.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
}

fn controller_json(one: &v1::ControllerStatus) -> Value {
    json!({
        "node_id": one.node_id,
        "address": one.address,
        "this_node": one.this_node,
        "speaks": one.speaks,
        "up": one.up,
        "age_ms": one.age_ms,
        "revision": one.revision,
        "error": one.error,
        "heard_age_ms": one.heard_age_ms,
        "leader": one.leader,
    })
}

fn json(status: &v1::StatusResponse) -> Value {
    let peer = |p: &v1::Peer| {
        json!({
            "node_id": p.node_id,
            "cluster": p.cluster,
            "role": role(p),
            "witness": p.witness,
            "this_node": p.this_node,
            "trails": p.trails,
        })
    };
    document(
        "tradewind.status/v1",
        json!({
            "ok": status.problems.is_empty(),
            "cluster": status.cluster,
            "domain": status.domain,
            "revision": status.revision,
            "store_age_ms": status.store_age_ms,
            "term": status.term,
            "peers": status.peers.iter().map(peer).collect::<Vec<_>>(),
            "clusters": status.clusters.iter().map(view::cluster_json).collect::<Vec<_>>(),
            "controllers": status.controllers.iter().map(controller_json).collect::<Vec<_>>(),
            "problems": status.problems,
            "refused_kinds": status.refused_kinds.iter().map(|r| json!({ "kind": r.kind, "why": r.why })).collect::<Vec<_>>(),
            "reach": matrix::json(&status.reach),
            "names": { "phase": status.names, "left_ms": status.names_left_ms },
            "connected_proxies": status.connected_proxies,
            "connected_gateways": status.connected_gateways,
            "services": status.services,
            "version": status.version,
        }),
    )
}
