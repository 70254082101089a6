//! What a controller costs that follows an API server with many services: its memory and processor time for all of them and at rest, how long a
//! change of an EndpointSlice takes to proxies, and what an API server that comes back after a restart costs. The API server is a real one, with
//! stand-in kubelets (`tests/kubernetes/testenv`); how long that takes to be filled is told, and is not ours.

mod api;
mod objects;
mod progress;
mod running;
mod told;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;
use tokio::time::timeout;
use tradewind_tests::kubernetes;

use crate::report::Percentiles;
use running::{Returned, Used};

/// Longest that all of it may take.
const LIMIT: Duration = Duration::from_secs(3_600);

/// How much.
#[derive(Debug, clap::Args)]
pub(crate) struct KubernetesArguments {
    /// Where files are written.
    #[arg(long)]
    dir: PathBuf,
    /// Services in the API server.
    #[arg(long, default_value_t = 5_000)]
    services: usize,
    /// Pods of all of them, in turn.
    #[arg(long, default_value_t = 20_000)]
    endpoints: usize,
    /// Streams from the controller, as proxies have them.
    #[arg(long, default_value_t = 5)]
    proxies: usize,
    /// Changes of a pod's readiness.
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// Seconds at rest.
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Seconds for which the API server is away.
    #[arg(long, default_value_t = 10)]
    away: u64,
    /// Data instead of text.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    schema: &'static str,
    services: usize,
    endpoints: usize,
    proxies: usize,
    /// Until the API server had everything, s.
    fill_s: f64,
    /// Requests for that which were made again, since the API server was busy or a connection broke.
    made_again: u64,
    pod_bytes: usize,
    /// From the controller's start until every proxy had everything.
    first: Used,
    idle: Used,
    changes: usize,
    /// From the change of a pod to a watch of the API server: its own part.
    before_watch: Percentiles,
    /// From the change's being in a watch of the same API server to each proxy's state.
    each_proxy: Percentiles,
    last_proxy: Percentiles,
    /// To one proxy, of one change.
    responses_per_change: f64,
    bytes_per_change: f64,
    while_changing: Used,
    api_back: Returned,
}

/// Measures and gives what to print.
pub(crate) async fn run(arguments: KubernetesArguments) -> Result<String, String> {
    kubernetes::program()?;
    let found = timeout(LIMIT, Box::pin(measure(&arguments)))
        .await
        .map_err(|_| format!("not done after {LIMIT:?}: try fewer --endpoints"))??;
    if arguments.json {
        return serde_json::to_string_pretty(&found).map_err(|e| e.to_string());
    }
    Ok(text(&found))
}

async fn measure(arguments: &KubernetesArguments) -> Result<Found, String> {
    let filled = running::fill(arguments).await?;
    let (fill_s, pod_bytes) = (filled.fill.as_secs_f64(), filled.pod_bytes);
    let made_again = filled.again;
    let (mut following, first) = running::follow(filled, arguments).await?;
    eprintln!("all is known after {:.1} s", first.wall_s);
    let idle = following.idle(Duration::from_secs(arguments.idle)).await?;
    let (changes, while_changing) = Box::pin(following.changes(arguments.changes)).await?;
    eprintln!("{} changes measured", changes.last.len());
    let away = Duration::from_secs(arguments.away);
    let api_back = Box::pin(following.returns(away)).await?;
    following.end().await;
    let count = changes.last.len();
    let of = |all: u64| all as f64 / count.max(1) as f64;
    Ok(Found {
        schema: "tradewind.bench.kubernetes/v1",
        services: arguments.services,
        endpoints: arguments.endpoints,
        proxies: arguments.proxies,
        fill_s,
        made_again,
        pod_bytes,
        first,
        idle,
        changes: count,
        before_watch: Percentiles::of(changes.before)?,
        each_proxy: Percentiles::of(changes.each)?,
        last_proxy: Percentiles::of(changes.last)?,
        responses_per_change: of(changes.responses),
        bytes_per_change: of(changes.bytes),
        while_changing,
        api_back,
    })
}

fn text(found: &Found) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let per_change = |all: f64| all / found.changes.max(1) as f64;
    let back = &found.api_back;
    format!(
        "{} services, {} endpoints, {} proxies
the API server is full    {:.0} s, {} bytes a pod; {} requests made again
all is known              {:.1} s, {:.1} s of processor
memory then               {:.1} MiB, peak {:.1} MiB
at rest for {:.0} s          {:.2} s of processor, {:.1} MiB
one change, to a watch    {}
one change, each proxy    {}
one change, all proxies   {}
one change, to one proxy  {:.1} responses, {:.0} bytes
one change, controller    {:.1} ms of processor, {:.0} KiB to the disk
API server back           in sync after {:.1} s, {:.1} s behind another watch
then, proxies             {} endpoints taken away, {} others turned; {} services told in {} responses
then, controller          {:.1} s of processor in {:.0} s, {:.1} MiB, peak {:.1} MiB",
        found.services,
        found.endpoints,
        found.proxies,
        found.fill_s,
        found.pod_bytes,
        found.made_again,
        found.first.wall_s,
        found.first.cpu_s,
        mib(found.first.rss),
        mib(found.first.peak_rss),
        found.idle.wall_s,
        found.idle.cpu_s,
        mib(found.idle.rss),
        found.before_watch,
        found.each_proxy,
        found.last_proxy,
        found.responses_per_change,
        found.bytes_per_change,
        per_change(found.while_changing.cpu_s * 1e3),
        per_change(found.while_changing.disk_written as f64 / 1024.0),
        back.in_sync_s,
        back.behind_watch_s,
        back.taken_away,
        back.turned,
        back.services,
        back.responses,
        back.used.cpu_s,
        back.used.wall_s,
        mib(back.used.rss),
        mib(back.used.peak_rss),
    )
}
