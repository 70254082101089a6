//! Pairs of local proxies side by side: the same HTTP load through Tradewind, Envoy and HAProxy, in the same run and
//! alternated round by round. Owns the temporary directory and the processes; it judges by ratios, because the machine may
//! be shared.

mod app;
mod certificates;
mod figures;
mod load;
mod pairs;

use std::{path::PathBuf, time::Duration};

use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};

use self::{
    certificates::Certificates,
    load::Kind,
    pairs::{Running, Told},
};
use crate::{
    compare::Table,
    programs::{self, Programs, System, pin},
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
/// How long connections are busy before memory is read.
const BUSY: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct ProxyArguments {
    /// Where the plot and the data are written: `proxy.svg`, `proxy.json`.
    #[arg(long)]
    dir: PathBuf,
    #[command(flatten)]
    programs: Programs,
    /// The `tradewind` program [default: the one beside this one]
    #[arg(long)]
    tradewind: Option<PathBuf>,
    /// Rounds of each kind of load.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Rounds of memory, each with new processes.
    #[arg(long, default_value_t = 3)]
    memory_rounds: usize,
    /// Seconds of one round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Requests a second at the fixed rate.
    #[arg(long, default_value_t = 4000)]
    rate: u32,
    /// The core of the proxies, both of a pair.
    #[arg(long, default_value_t = 1)]
    proxy_core: usize,
    /// The core of clients, application and controller.
    #[arg(long, default_value_t = 0)]
    load_core: usize,
    /// Only these kinds of load: requests, paced, connections, bulk-down, bulk-up, memory.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these, besides Tradewind: envoy, haproxy, direct.
    #[arg(long, value_delimiter = ',')]
    against: Vec<String>,
    /// Data instead of a table.
    #[arg(long)]
    json: bool,
}

impl ProxyArguments {
    fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == what)
    }

    fn compares(&self, system: System) -> bool {
        system == System::Tradewind
            || self.against.is_empty()
            || self.against.iter().any(|a| a == system.name())
    }
}

/// Measures and gives what to print.
pub(crate) async fn run(arguments: ProxyArguments) -> Result<String, String> {
    let table = tokio::task::spawn_blocking(move || {
        // One thread makes all the load, on its own core.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        LocalSet::new().block_on(&runtime, async {
            tokio::select! {
                table = measure(&arguments) => {
                    let table = table?;
                    table.write(&arguments.dir)?;
                    if arguments.json {
                        return serde_json::to_string_pretty(&table).map_err(|e| e.to_string());
                    }
                    Ok(table.to_string())
                }
                signal = tradewind_runtime::signal::terminated() => Err(format!("ended by {signal}")),
            }
        })
    });
    table.await.map_err(|e| e.to_string())?
}

async fn measure(arguments: &ProxyArguments) -> Result<Table, String> {
    let started = Instant::now();
    let dir = &arguments.dir;
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut programs = arguments.programs.clone();
    programs.find(dir, &SYSTEMS)?;
    pin(arguments.load_core)?;
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let app = programs::free_address()?;
    let words = [
        "proxy-app".to_owned(),
        "--listen".to_owned(),
        app.to_string(),
    ];
    let log = scratch.path().join("app.log");
    let (_app, _) = programs::spawn(arguments.load_core, &own, &words, &log)?;
    let beside = own.with_file_name("tradewind");
    let told = Told {
        programs,
        tradewind: arguments.tradewind.clone().unwrap_or(beside),
        dir: scratch.path().to_owned(),
        certificates: Certificates::make(scratch.path())?,
        cores: (arguments.proxy_core, arguments.load_core),
        app,
    };
    let mut table = Table::new("proxy", &figures::GOALS);
    for system in SYSTEMS.into_iter().filter(|s| arguments.compares(*s)) {
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
    if arguments.wants("memory") {
        memory(arguments, &told, &mut table).await?;
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
        arguments.proxy_core, arguments.load_core, arguments.seconds
    ));
    table.setting.push(format!(
        "saturated: {} connections, answers of {} bytes; fixed rate: {} a second on {}; connections: {} at a time, one \
         request each; bulk: {} connections",
        load::KEPT_STREAMS,
        app::ANSWER_BYTES,
        arguments.rate,
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
    let time = Duration::from_secs_f64(arguments.seconds);
    for (what, kind) in [
        ("requests", Kind::Requests),
        ("paced", Kind::Paced(arguments.rate)),
        ("connections", Kind::Connections),
        ("bulk-down", Kind::BulkDown),
        ("bulk-up", Kind::BulkUp),
    ] {
        if !arguments.wants(what) {
            continue;
        }
        for round in 0..arguments.rounds {
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

async fn memory(arguments: &ProxyArguments, told: &Told, table: &mut Table) -> Result<(), String> {
    let proxies: Vec<_> = table.systems.clone();
    for round in 0..arguments.memory_rounds {
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
