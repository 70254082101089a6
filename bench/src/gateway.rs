//! Gateways side by side: the same TLS connections through Tradewind's gateway, Envoy, HAProxy and nginx, in the same run
//! and alternated round by round. Owns the temporary directory and the processes; it judges by ratios of processor time,
//! because the machine may be shared.

mod figures;
mod load;
mod mesh;
mod node;
mod proxies;

use std::{path::Path, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::{Instant, sleep};

use self::{
    load::{Caller, Kind},
    proxies::{Running, Told},
};
use crate::{
    compare::Table,
    comparison::Comparison,
    programs::{self, System, pin},
    usage,
};
pub(crate) use node::{BackendArguments, ProxyArguments, backend, proxy};

/// Descriptors of a proxy that hold no connection: HAProxy reserves its pipes.
const SPARE_FDS: u64 = 600;
/// How long memory may take to settle after connections were opened.
const SETTLE: Duration = Duration::from_secs(1);

/// What is compared.
const SYSTEMS: [System; 5] = [
    System::Tradewind,
    System::Envoy,
    System::Haproxy,
    System::HaproxySplice,
    System::Nginx,
];

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct GatewayArguments {
    #[command(flatten)]
    common: Comparison,
    /// Idle connections; cut to what the limit of descriptors allows
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
}

/// What may be asked for with `--only`.
const KINDS: [&str; 6] = [
    "bulk-down",
    "bulk-up",
    "connections",
    "messages",
    "paced",
    "memory",
];

/// Measures and gives what to print.
pub(crate) async fn run(arguments: GatewayArguments) -> Result<String, String> {
    arguments.common.check(&KINDS, &SYSTEMS)?;
    let common = arguments.common.clone();
    common.run(async move || measure(&arguments).await).await
}

async fn measure(arguments: &GatewayArguments) -> Result<Table, String> {
    let started = Instant::now();
    std::fs::create_dir_all(&arguments.common.dir)
        .map_err(|e| format!("{}: {e}", arguments.common.dir.display()))?;
    let mut programs = arguments.common.programs.clone();
    programs.find(&arguments.common.dir, &SYSTEMS)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    pin(arguments.common.load_core)?;
    let idle = arguments.idle.min(holdable()?);
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    let name = mesh::server_name()?;
    let certificate = node::certificate(scratch.path(), &name)?;
    let caller = Caller::new(&name, certificate)?;
    let backend = programs::free_address()?;
    let _server = start_backend(arguments, scratch.path(), backend)?;
    let told = Told {
        programs,
        dir: scratch.path().to_owned(),
        core: arguments.common.proxy_core,
        name,
        backend,
        connections: idle + 20,
    };
    let mut table = Table::new("gateway", &figures::GOALS);
    let mut systems = Vec::new();
    for system in SYSTEMS
        .into_iter()
        .filter(|s| arguments.common.compares(*s))
    {
        match told.programs.version(system) {
            Ok(version) => {
                table.setting.push(format!("{}: {version}", system.name()));
                systems.push(system);
            }
            Err(error) => {
                eprintln!("{} is skipped: {error}", system.name());
                table
                    .setting
                    .push(format!("{}: skipped, {error}", system.name()));
            }
        }
    }
    table.systems.clone_from(&systems);
    describe(arguments, (cores, idle), &mut table);
    let mut running = Vec::new();
    for system in &systems {
        running.push((*system, told.start(*system, &caller).await?));
    }
    loads(arguments, &caller, &running, &mut table).await?;
    drop(running);
    if arguments.common.wants("memory") {
        memory(arguments, &told, &caller, idle, &mut table).await?;
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    table.setting.push(format!(
        "took {:.0} s; load of the machine at the end {}",
        started.elapsed().as_secs_f64(),
        load.trim()
    ));
    Ok(table)
}

fn describe(arguments: &GatewayArguments, (cores, idle): (usize, usize), table: &mut Table) {
    table.setting.push(format!(
        "{cores} cores: each proxy one thread on core {}, clients and server on core {}; loopback; TLS 1.3 from end to end, \
         whole handshakes; rounds of {} s, alternated",
        arguments.common.proxy_core, arguments.common.load_core, arguments.common.seconds
    ));
    table.setting.push(format!(
        "bulk: {} connections; connections: {} at a time, each a handshake and one message; messages: {} bytes and as many \
         back on {} connections, at the fixed rate {} a second on {}; idle: {idle} connections",
        load::BULK_STREAMS,
        load::OPENERS,
        load::MESSAGE_BYTES,
        load::KEPT_STREAMS,
        arguments.common.rate,
        load::PACED_STREAMS,
    ));
}

fn start_backend(
    arguments: &GatewayArguments,
    dir: &Path,
    listen: std::net::SocketAddr,
) -> Result<tokio::process::Child, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let words = [
        "gateway-backend",
        "--listen",
        &listen.to_string(),
        "--dir",
        &dir.display().to_string(),
    ];
    let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
    let log = dir.join("backend.log");
    programs::spawn(arguments.common.load_core, &own, &words, &log).map(|(child, _)| child)
}

async fn loads(
    arguments: &GatewayArguments,
    caller: &Caller,
    running: &[(System, Running)],
    table: &mut Table,
) -> Result<(), String> {
    let time = Duration::from_secs_f64(arguments.common.seconds);
    for (what, kind) in [
        ("bulk-down", Kind::BulkDown),
        ("bulk-up", Kind::BulkUp),
        ("connections", Kind::Connections),
        ("messages", Kind::Messages),
        ("paced", Kind::Paced(arguments.common.rate)),
    ] {
        if !arguments.common.wants(what) {
            continue;
        }
        for round in 0..arguments.common.rounds {
            for (system, proxy) in running {
                let window = caller.load(kind, proxy.address, proxy.pid, time).await;
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

async fn memory(
    arguments: &GatewayArguments,
    told: &Told,
    caller: &Caller,
    idle: usize,
    table: &mut Table,
) -> Result<(), String> {
    for round in 0..arguments.common.memory_rounds {
        for system in table.systems.clone() {
            let proxy = told.start(system, caller).await?;
            sleep(SETTLE).await;
            let before = usage::rss(proxy.pid)?;
            let open = caller.idle(proxy.address, idle).await;
            let open = open.map_err(|e| format!("idle, {}: {e}", system.name()))?;
            sleep(SETTLE).await;
            let after = usage::rss(proxy.pid)?;
            let each = after.saturating_sub(before) as f64 / open.len().max(1) as f64;
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            eprintln!(
                "memory, round {}: {} {:.1} MiB, {:.0} bytes a connection",
                round + 1,
                system.name(),
                mib(before),
                each
            );
            table.put(figures::IDLE_RSS, system, mib(before));
            table.put(figures::BUSY_RSS, system, mib(after));
            table.put(figures::BYTES_PER_CONNECTION, system, each);
        }
    }
    Ok(())
}

/// Connections that a proxy can hold under the limit of descriptors, which this process's children inherit.
fn holdable() -> Result<usize, String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| e.to_string())?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|e| e.to_string())?;
    usize::try_from(hard.saturating_sub(SPARE_FDS) / 2).map_err(|e| e.to_string())
}
