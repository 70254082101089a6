//! The federation store against etcd: the same load generator, the same disk, the same run, alternated round by round.
//! It owns the temporary directory and removes it; it draws no conclusions, it prints ratios.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    client::System,
    failover,
    load::{self, Loaded, Until, VALUE_BYTES},
    report::{Report, Spread},
    trio::Trio,
    usage::{self, Usage},
};

/// Clients of the phase that only fills the stores: as many as the largest measured load.
const FILLERS: usize = 256;
/// What is left out at the start of every round.
const WARM_UP: Duration = Duration::from_millis(300);
/// The last thing written before a restart.
const LAST: &str = "last";

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArguments {
    /// Where the data lies while it runs: on the disk that is to be measured.
    #[arg(long)]
    dir: PathBuf,
    /// etcd's program.
    #[arg(long, default_value = "/usr/bin/etcd")]
    etcd: PathBuf,
    /// Concurrent clients of the throughput rounds.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
    clients: Vec<usize>,
    /// Rounds of each count of clients, and for each system.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How often the leader is killed.
    #[arg(long, default_value_t = 5)]
    failovers: usize,
    /// Writes before size and restart are measured.
    #[arg(long, default_value_t = 20_000)]
    writes: u64,
    /// Data instead of a table.
    #[arg(long)]
    json: bool,
}

/// Measures and gives what to print.
pub(crate) async fn run(arguments: StoreArguments) -> Result<String, String> {
    if !arguments.etcd.exists() {
        return Err(format!(
            "{} is missing; on Debian: apt-get install etcd-server (or name it by --etcd)",
            arguments.etcd.display()
        ));
    }
    let measuring = measure(&arguments);
    let report = tokio::select! {
        report = measuring => report?,
        signal = tradewind_runtime::signal::terminated() => return Err(format!("ended by {signal}")),
    };
    if arguments.json {
        return serde_json::to_string_pretty(&report).map_err(|e| e.to_string());
    }
    Ok(report.to_string())
}

async fn measure(arguments: &StoreArguments) -> Result<Report, String> {
    let started = Instant::now();
    let mut report = Report {
        schema: "tradewind.bench.store/v1",
        setting: setting(arguments)?,
        ..Report::default()
    };
    throughput(arguments, &mut report).await?;
    failovers(arguments, &mut report).await?;
    restarts(arguments, &mut report).await?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    report.setting.push(format!(
        "took {:.0} s; load of the machine at the end {}",
        started.elapsed().as_secs_f64(),
        load.trim()
    ));
    Ok(report)
}

fn setting(arguments: &StoreArguments) -> Result<Vec<String>, String> {
    let output = std::process::Command::new(&arguments.etcd)
        .arg("--version")
        .output()
        .map_err(|e| format!("{}: {e}", arguments.etcd.display()))?;
    let version = String::from_utf8_lossy(&output.stdout);
    let version = version.lines().next().unwrap_or_default();
    Ok(vec![
        format!(
            "three nodes each, processes on one machine, loopback, no TLS; {version}, default settings"
        ),
        format!(
            "values of {VALUE_BYTES} bytes: etcd Put of a value, tradewind PutExport whose one endpoint's account is it"
        ),
        "unary gRPC; every client goes round the three nodes, write by write; 16 clients share a connection to each node"
            .to_owned(),
    ])
}

/// Both systems, each in a directory of its own below a temporary one.
async fn start_both(dir: &Path, etcd: &Path) -> Result<Vec<Trio>, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut both = Vec::new();
    for system in System::BOTH {
        progress(&format!("starting three nodes of {}", system.name()));
        let program = match system {
            System::Tradewind => &own,
            System::Etcd => etcd,
        };
        both.push(Trio::start(system, program, dir).await?);
    }
    Ok(both)
}

/// A directory on the disk that was asked for; it goes away when dropped.
fn scratch(arguments: &StoreArguments) -> Result<tempfile::TempDir, String> {
    let dir = &arguments.dir;
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let kind = nix::sys::statfs::statfs(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    if kind.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
        return Err(format!(
            "{} lies in memory; name a directory on a disk by --dir",
            dir.display()
        ));
    }
    tempfile::Builder::new()
        .prefix("bench-store-")
        .tempdir_in(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))
}

/// The rounds of one system at one count of clients.
#[derive(Default)]
struct Rounds {
    rate: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    cpu_s: Vec<f64>,
    wire: Vec<f64>,
    disk: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, loaded: &Loaded, before: &[Usage], after: &[Usage], wire: u64) {
        let writes = loaded.writes.max(1) as f64;
        let ms = |share| loaded.quantile(share).as_secs_f64() * 1000.0;
        self.rate.push(loaded.rate());
        self.p50_ms.push(ms(0.5));
        self.p99_ms.push(ms(0.99));
        let cpu: f64 = before
            .iter()
            .zip(after)
            .map(|(b, a)| a.cpu_s - b.cpu_s)
            .sum();
        self.cpu_s.push(cpu / writes * 10_000.0);
        let disk: u64 = before
            .iter()
            .zip(after)
            .map(|(b, a)| a.disk_written.saturating_sub(b.disk_written))
            .sum();
        self.disk.push(disk as f64 / writes);
        self.wire.push(wire as f64 / writes);
    }
}

async fn throughput(arguments: &StoreArguments, report: &mut Report) -> Result<(), String> {
    let dir = scratch(arguments)?;
    let both = start_both(dir.path(), &arguments.etcd).await?;
    for clients in arguments.clients.iter().copied() {
        let mut rounds = [Rounds::default(), Rounds::default()];
        for round in 0..arguments.rounds {
            for (trio, rounds) in both.iter().zip(&mut rounds) {
                load::run(trio, clients, Until::Elapsed(WARM_UP)).await?;
                let time = Duration::from_secs_f64(arguments.seconds);
                let (before, wire) = (trio.usage()?, usage::loopback_bytes()?);
                let loaded = load::run(trio, clients, Until::Elapsed(time)).await?;
                let wire = usage::loopback_bytes()?.saturating_sub(wire);
                rounds.add(&loaded, &before, &trio.usage()?, wire);
                note_errors(report, trio.system, &loaded);
                progress(&format!(
                    "{clients} clients, round {}: {} {:.0} writes/s, p99 {:.1} ms",
                    round + 1,
                    trio.system.name(),
                    loaded.rate(),
                    loaded.quantile(0.99).as_secs_f64() * 1000.0
                ));
            }
        }
        let [ours, etcd] = rounds;
        let mut row = |what: &str, ours: Vec<f64>, etcd: Vec<f64>| {
            let what = format!("{clients} clients: {what}");
            report.row(what, Spread::of(ours), Spread::of(etcd));
        };
        row("writes/s", ours.rate, etcd.rate);
        row("p50, ms", ours.p50_ms, etcd.p50_ms);
        row("p99, ms", ours.p99_ms, etcd.p99_ms);
        row("CPU s of 3 nodes / 10,000 writes", ours.cpu_s, etcd.cpu_s);
        row("bytes on the wire / write", ours.wire, etcd.wire);
        row("bytes to the disk / write", ours.disk, etcd.disk);
    }
    peak(report, "after the rounds: peak RSS, MiB", &both)
}

fn peak(report: &mut Report, what: &str, both: &[Trio]) -> Result<(), String> {
    let mut peaks = Vec::new();
    for trio in both {
        let all = trio.usage()?;
        let mib = all.iter().map(|u| u.peak_rss as f64 / 1024.0 / 1024.0);
        peaks.push(Spread::of(mib.collect()));
    }
    if let [ours, etcd] = peaks.as_slice() {
        report.row(what, *ours, *etcd);
    }
    Ok(())
}

async fn failovers(arguments: &StoreArguments, report: &mut Report) -> Result<(), String> {
    if arguments.failovers == 0 {
        return Ok(());
    }
    let dir = scratch(arguments)?;
    let mut both = start_both(dir.path(), &arguments.etcd).await?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..arguments.failovers {
        for (trio, times) in both.iter_mut().zip(&mut times) {
            let took = failover::measure(trio).await?.as_secs_f64();
            progress(&format!(
                "leader killed, round {}: {} takes writes after {took:.2} s",
                round + 1,
                trio.system.name()
            ));
            times.push(took);
        }
    }
    let [ours, etcd] = times;
    report.row(
        "leader killed: s to the next write",
        Spread::of(ours),
        Spread::of(etcd),
    );
    Ok(())
}

/// What one system showed after the fill and at the restart.
#[derive(Default)]
struct Restart {
    fill_rate: f64,
    mib: Vec<f64>,
    data_s: Vec<f64>,
    write_s: f64,
}

async fn restarts(arguments: &StoreArguments, report: &mut Report) -> Result<(), String> {
    if arguments.writes == 0 {
        return Ok(());
    }
    let dir = scratch(arguments)?;
    let mut both = start_both(dir.path(), &arguments.etcd).await?;
    let mut found = Vec::new();
    for trio in &mut both {
        found.push(restart(trio, arguments.writes, report).await?);
    }
    peak(report, "after the restart: peak RSS, MiB", &both)?;
    if let [ours, etcd] = found.as_slice() {
        let writes = arguments.writes;
        let one = |n: f64| Spread::of(vec![n]);
        let mut row = |what: &str, ours: Spread, etcd: Spread| {
            report.row(format!("{writes} writes: {what}"), ours, etcd);
        };
        row("writes/s", one(ours.fill_rate), one(etcd.fill_rate));
        let spread = |all: &[f64]| Spread::of(all.to_vec());
        row("disk of a node, MiB", spread(&ours.mib), spread(&etcd.mib));
        row("s to the data", spread(&ours.data_s), spread(&etcd.data_s));
        row("s to a write", one(ours.write_s), one(etcd.write_s));
    }
    Ok(())
}

async fn restart(trio: &mut Trio, writes: u64, report: &mut Report) -> Result<Restart, String> {
    let name = trio.system.name();
    progress(&format!("{name}: {writes} writes"));
    let loaded = load::run(trio, FILLERS, Until::Writes(writes)).await?;
    note_errors(report, trio.system, &loaded);
    let value = format!("{writes}");
    for place in 0..trio.len() {
        if place == 0 {
            let mut client = trio.client(place, Duration::from_secs(10))?;
            client.put(LAST, &value).await.map_err(|e| e.to_string())?;
        }
        trio.wait(
            place,
            "holds the last write",
            async |client| matches!(client.get(LAST).await, Ok(Some(found)) if found == value),
        )
        .await?;
    }
    let mut found = Restart {
        fill_rate: loaded.rate(),
        ..Restart::default()
    };
    for bytes in trio.disk_use()? {
        found.mib.push(bytes as f64 / 1024.0 / 1024.0);
    }
    for place in 0..trio.len() {
        trio.kill(place).await?;
    }
    let started = Instant::now();
    for place in 0..trio.len() {
        trio.spawn(place)?;
    }
    for place in 0..trio.len() {
        trio.wait(
            place,
            "holds the last write again",
            async |client| matches!(client.get(LAST).await, Ok(Some(found)) if found == value),
        )
        .await?;
        found.data_s.push(started.elapsed().as_secs_f64());
    }
    trio.wait(0, "takes writes again", async |client| {
        client.put(LAST, "again").await.is_ok()
    })
    .await?;
    found.write_s = started.elapsed().as_secs_f64();
    progress(&format!(
        "{name}: all killed and started again, data after {:.2?} s, a write after {:.2} s",
        found.data_s, found.write_s
    ));
    Ok(found)
}

fn note_errors(report: &mut Report, system: System, loaded: &Loaded) {
    if loaded.errors > 0 {
        report.errors.push(format!(
            "{}: {} of {} writes failed, among them: {}",
            system.name(),
            loaded.errors,
            loaded.errors + loaded.writes,
            loaded.error.as_deref().unwrap_or_default()
        ));
    }
}

fn progress(what: &str) {
    eprintln!("{what}");
}
