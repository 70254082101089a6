//! Rules for many services: what compiling them takes, what a controller and its proxies hold in memory, and how long a change takes from
//! the file to every proxy. The compiling is measured in this process; the rest is whole processes of the product on loopback.
//! Owns the temporary directory and the processes.

mod objects;
mod running;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;
use tokio::time::Instant;
use tradewind_policy::{World, compile};

use crate::{
    report::{Percentiles, Spread},
    usage,
};

/// How often a compilation is made, for its median.
const REPEATS: u32 = 15;
/// Longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a change is to take from the file to every proxy inside a cluster, for 99 of 100 changes.
const GOAL_MS: f64 = 100.0;

/// How much.
#[derive(Debug, clap::Args)]
pub(crate) struct PolicyArguments {
    /// Where files are written
    #[arg(long)]
    dir: PathBuf,
    /// Services that the cluster knows.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Objects with rules: HTTPRoutes, VirtualServices and DestinationRules in turn.
    #[arg(long, default_value_t = 5_000)]
    routes: usize,
    /// Proxies of the cluster.
    #[arg(long, default_value_t = 20)]
    proxies: usize,
    /// Changes of one rule.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// The `tradewind` program [default: the one beside this one]
    #[arg(long)]
    tradewind: Option<PathBuf>,
    /// Data instead of text.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    schema: &'static str,
    services: usize,
    routes: usize,
    proxies: usize,
    /// Of everything, in one process, ms.
    compile_ms: Spread,
    /// What the compiled rules hold in memory, bytes.
    compiled_bytes: u64,
    /// From the start of a controller to proxies that act on the rules, s.
    start_s: f64,
    controller_rss: u64,
    /// The median proxy's.
    proxy_rss: u64,
    /// What the same proxy held before there were any rules.
    proxy_rss_before: u64,
    changes: usize,
    /// From the file's change to the last proxy's acting on it, ms.
    last_proxy: Percentiles,
    /// To each proxy's.
    each_proxy: Percentiles,
    goal_ms: f64,
    goal_met: bool,
}

/// Measures and gives what to print.
pub(crate) async fn run(arguments: PolicyArguments) -> Result<String, String> {
    let (compile_ms, compiled_bytes) = compiling(arguments.services, arguments.routes)?;
    eprintln!(
        "compiled: {:.1} ms, {} MiB",
        compile_ms.median,
        compiled_bytes >> 20
    );
    let measured = running::measure(&arguments).await?;
    let last: Vec<_> = measured
        .changes
        .iter()
        .filter_map(|c| c.iter().max().copied())
        .collect();
    let each = measured.changes.concat();
    let last_proxy = Percentiles::of(last)?;
    let found = Found {
        schema: "tradewind.bench.policy/v1",
        services: arguments.services,
        routes: arguments.routes,
        proxies: arguments.proxies,
        compile_ms,
        compiled_bytes,
        start_s: measured.start.as_secs_f64(),
        controller_rss: measured.controller_rss,
        proxy_rss: measured.proxy_rss,
        proxy_rss_before: measured.proxy_rss_before,
        changes: measured.changes.len(),
        last_proxy,
        each_proxy: Percentiles::of(each)?,
        goal_ms: GOAL_MS,
        goal_met: last_proxy.p99_ms < GOAL_MS,
    };
    if arguments.json {
        return serde_json::to_string_pretty(&found).map_err(|e| e.to_string());
    }
    Ok(text(&found))
}

fn text(found: &Found) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let met = if found.goal_met { "met" } else { "missed" };
    format!(
        "{} services, {} objects with rules, {} proxies
compile all              {:.1} ms ({:.1} to {:.1})
compiled rules           {:.1} MiB
controller               {:.1} MiB
a proxy                  {:.1} MiB, {:.1} MiB before the rules
start to acting          {:.1} s
one change, each proxy   {}
one change, all proxies  {}: goal p99 under {:.0} ms {met}",
        found.services,
        found.routes,
        found.proxies,
        found.compile_ms.median,
        found.compile_ms.min,
        found.compile_ms.max,
        mib(found.compiled_bytes),
        mib(found.controller_rss),
        mib(found.proxy_rss),
        mib(found.proxy_rss_before),
        found.start_s,
        found.each_proxy,
        found.last_proxy,
        found.goal_ms,
    )
}

/// What compiling takes, and what the result holds.
fn compiling(services: usize, routes: usize) -> Result<(Spread, u64), String> {
    let names: Vec<_> = (0..services)
        .map(objects::service)
        .collect::<Result<_, _>>()?;
    let ports: &[u16] = &[80];
    let world = World::of(names.iter().map(|name| (name, ports)));
    let objects: Vec<_> = (0..routes)
        .map(|n| objects::policy(n, services))
        .collect::<Result<_, _>>()?;
    let before = usage::resident()?;
    let first = compile(&objects, &world);
    let held = usage::resident()?.saturating_sub(before);
    if let Some(wrong) = first.findings.first() {
        return Err(format!("the objects are not as they should be: {wrong}"));
    }
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let started = Instant::now();
        let again = compile(&objects, &world);
        times.push(started.elapsed().as_secs_f64() * 1e3);
        if again.routes.len() != first.routes.len() {
            return Err("the same objects made something else".to_owned());
        }
    }
    Ok((Spread::of(times), held))
}
