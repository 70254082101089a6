//! Pairs of local proxies side by side: the same HTTP load through Tradewind, Envoy and HAProxy, in the same run and
//! alternated round by round. Owns the temporary directory and the processes; it judges by ratios, because the machine may
//! be shared.

mod app;
mod certificates;
mod figures;
mod known;
mod load;
mod pairs;

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep};

use self::{
    certificates::Certificates,
    load::Kind,
    pairs::{Running, Told},
};
use crate::{
    compare::Table,
    comparison::Comparison,
    programs::{self, System, pin},
    usage,
};
pub(crate) use app::{AppArguments, app};

/// What is compared.
const SYSTEMS: [System; 4] = [
    System::Tradewind,
    System::Envoy,
    System::Haproxy,
    System::Direct,
];
/// How long memory may take to settle.
const SETTLE: Duration = Duration::from_secs(1);
/// So many times that, at most, until a proxy holds all the services that it is to know.
const KNOWS_WITHIN: u32 = 30;
/// How long connections are busy before memory is read.
const BUSY: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyArguments {
    #[command(flatten)]
    common: Comparison,
    /// The `tradewind` program [default: the one beside this one]
    #[arg(long)]
    tradewind: Option<PathBuf>,
}

/// What may be asked for with `--only`.
const KINDS: [&str; 7] = [
    "requests",
    "paced",
    "connections",
    "bulk-down",
    "bulk-up",
    "memory",
    "known",
];

/// Measures and gives what to print.
pub(crate) async fn run(arguments: ProxyArguments) -> Result<String, String> {
    arguments.common.check(&KINDS, &SYSTEMS)?;
    let common = arguments.common.clone();
    common.run(async move || measure(&arguments).await).await
}

async fn measure(arguments: &ProxyArguments) -> Result<Table, String> {
    let started = Instant::now();
    let dir = &arguments.common.dir;
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut programs = arguments.common.programs.clone();
    programs.find(dir, &SYSTEMS)?;
    pin(arguments.common.load_core)?;
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let app = programs::free_address()?;
    let words = [
        "proxy-app".to_owned(),
        "--listen".to_owned(),
        app.to_string(),
    ];
    let log = scratch.path().join("app.log");
    let (_app, _) = programs::spawn(arguments.common.load_core, &own, &words, &log)?;
    let beside = own.with_file_name("tradewind");
    let told = Told {
        programs,
        tradewind: arguments.tradewind.clone().unwrap_or(beside),
        dir: scratch.path().to_owned(),
        certificates: Certificates::make(scratch.path())?,
        cores: (arguments.common.proxy_core, arguments.common.load_core),
        app,
    };
    let mut table = Table::new("proxy", &figures::GOALS);
    for system in SYSTEMS
        .into_iter()
        .filter(|s| arguments.common.compares(*s))
    {
        match told.programs.version(system) {
            Ok(version) => {
                table.setting.push(format!("{}: {version}", system.name()));
                table.systems.push(system);
            }
            Err(error) => {
                eprintln!("{} is skipped: {error}", system.name());
                let skipped = format!("{}: skipped, {error}", system.name());
                table.setting.push(skipped);
            }
        }
    }
    describe(arguments, &mut table);
    let mut running = Vec::new();
    for system in table.systems.clone() {
        running.push((system, told.start(system).await?));
    }
    loads(arguments, &running, &mut table).await?;
    drop(running);
    if arguments.common.wants("memory") {
        memory(arguments, &told, &mut table).await?;
    }
    if arguments.common.wants("known") {
        known_services(arguments, &told, &mut table).await?;
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    table.setting.push(format!(
        "took {:.0} s; load of the machine at the end {}",
        started.elapsed().as_secs_f64(),
        load.trim()
    ));
    Ok(table)
}

fn describe(arguments: &ProxyArguments, table: &mut Table) {
    table.setting.push(format!(
        "both proxies of a pair, one thread each, on core {}; clients, application and controller on core {}; loopback; \
         HTTP/1.1 from the client and to the application, mutual TLS 1.3 with HTTP/2 between; rounds of {} s, alternated",
        arguments.common.proxy_core, arguments.common.load_core, arguments.common.seconds
    ));
    table.setting.push(format!(
        "saturated: {} connections, answers of {} bytes; fixed rate: {} a second on {}; connections: {} at a time, one \
         request each; bulk: {} connections",
        load::KEPT_STREAMS,
        app::ANSWER_BYTES,
        arguments.common.rate,
        load::PACED_STREAMS,
        load::OPENERS,
        load::BULK_STREAMS,
    ));
}

async fn loads(
    arguments: &ProxyArguments,
    running: &[(System, Running)],
    table: &mut Table,
) -> Result<(), String> {
    let time = Duration::from_secs_f64(arguments.common.seconds);
    for (what, kind) in [
        ("requests", Kind::Requests),
        ("paced", Kind::Paced(arguments.common.rate)),
        ("connections", Kind::Connections),
        ("bulk-down", Kind::BulkDown),
        ("bulk-up", Kind::BulkUp),
    ] {
        if !arguments.common.wants(what) {
            continue;
        }
        for round in 0..arguments.common.rounds {
            for (system, pair) in running {
                let window = load::load(kind, pair.address, &pair.pids, time).await;
                let window = window.map_err(|e| format!("{what}, {}: {e}", system.name()))?;
                eprintln!(
                    "{what}, round {}: {} {:.0}/s, {:.4} CPU us each",
                    round + 1,
                    system.name(),
                    window.rate(),
                    window.cpu_us_per_unit()
                );
                figures::add(table, *system, kind, &window);
            }
        }
    }
    Ok(())
}

/// Of the caller's proxy and the application's the larger one.
fn resident_mb(pair: &Running) -> Result<f64, String> {
    let mut most = 0;
    for pid in &pair.pids {
        most = most.max(usage::rss(*pid)?);
    }
    Ok(most as f64 / 1e6)
}

/// What the caller's proxy takes more, for each service that it knows and does not call.
async fn known_services(
    arguments: &ProxyArguments,
    told: &Told,
    table: &mut Table,
) -> Result<(), String> {
    let proxies: Vec<_> = table.systems.clone();
    for round in 0..arguments.common.memory_rounds {
        for system in proxies.iter().filter(|s| **s != System::Direct) {
            let without = callers_kb(&told.start(*system).await?).await?;
            for (known, figure) in figures::KNOWN {
                let with = callers_kb(&told.start_knowing(*system, known).await?).await?;
                let each = (with - without) / f64::from(known);
                table.put(figure, *system, each);
                eprintln!(
                    "known services, round {}: {} {known} take {:.1} MB, {each:.2} KB each",
                    round + 1,
                    system.name(),
                    (with - without) / 1e3
                );
            }
        }
    }
    Ok(())
}

/// Of the caller's proxy, once it takes no more: what it knows comes in pieces, and is written to disk.
async fn callers_kb(pair: &Running) -> Result<f64, String> {
    let caller = *pair.pids.first().ok_or("there is no proxy")?;
    let mut before = 0;
    for _ in 0..KNOWS_WITHIN {
        sleep(SETTLE).await;
        let now = usage::rss(caller)?;
        if now.abs_diff(before) < now / 100 {
            return Ok(now as f64 / 1e3);
        }
        before = now;
    }
    Err("the caller's proxy takes more and more memory".to_owned())
}

async fn memory(arguments: &ProxyArguments, told: &Told, table: &mut Table) -> Result<(), String> {
    let proxies: Vec<_> = table.systems.clone();
    for round in 0..arguments.common.memory_rounds {
        for system in proxies.iter().filter(|s| **s != System::Direct) {
            let pair = told.start(*system).await?;
            sleep(SETTLE).await;
            let mut seen = vec![resident_mb(&pair)?];
            for (count, figure) in [(100, figures::HUNDRED), (1000, figures::THOUSAND)] {
                let mut clients = load::hold(pair.address, count).await?;
                let until = Instant::now() + BUSY;
                while Instant::now() < until {
                    for client in &mut clients {
                        client.exchange().await?;
                    }
                }
                let busy = resident_mb(&pair)?;
                table.put(figure, *system, busy);
                seen.push(busy);
            }
            if let Some(idle) = seen.first() {
                table.put(figures::IDLE, *system, *idle);
            }
            eprintln!(
                "memory, round {}: {} {seen:.1?} MB",
                round + 1,
                system.name()
            );
        }
    }
    Ok(())
}
