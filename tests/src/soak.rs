//! A long time at load: two clusters, workloads on both sides of the border, calls of every kind, and one workload after the other that
//! dies and comes back. What each process holds of memory, descriptors and threads is written down all along. Owns the federation.
//!
//! Judges by the end against the middle: what a process takes at first is its own affair, what it goes on taking is a leak.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, interval, timeout},
};
use tradewind_runtime::task;

use crate::{
    Federation, Process, Workload,
    federation::TWO,
    http::{self, Client, get_request},
    load::{Load, none_failed},
};

const WEST: usize = 0;
const EAST: usize = 1;
const SERVICE: &str = "shop/payments";
const PORT: &str = "shop/payments:80";
/// How often everything is written down, of how long it all takes.
const SAMPLES: u32 = 120;
/// GETs a second that stay on their connections.
const STEADY: u32 = 200;
/// How often a caller comes that connects, asks once, and goes.
const PASSING: Duration = Duration::from_millis(50);
/// Workloads that die, in turn; the others carry the load meanwhile.
const DEATHS: u32 = 12;
/// Growth from the middle to the end that is no leak: caches and the allocator's slack.
const SLACK_KIB: u64 = 2 * 1024;
/// The same for descriptors: connections that come and go between two samples.
const SLACK_FILES: u64 = 8;

/// What one process held at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    rss_kib: u64,
    files: u64,
    threads: u64,
}

impl Sample {
    fn of(process: &Process) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()?)).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        };
        Some(Self {
            rss_kib: number("VmRSS:")?,
            files: process.files().try_into().ok()?,
            threads: number("Threads:")?,
        })
    }
}

/// Of one process, by when.
type Samples = BTreeMap<String, Vec<Sample>>;

/// What a soak found.
#[derive(Debug)]
pub struct Report {
    /// A table, a line for each process.
    pub text: String,
    /// Processes that held more at the end than in the middle.
    pub grew: Vec<String>,
}

/// Runs for `long`; panics when any call failed.
pub async fn run(long: Duration, progress: bool) -> Report {
    let federation = Federation::start(&TWO).await;
    let mut workloads = Vec::new();
    for number in [WEST, EAST] {
        for n in [1, 2] {
            workloads.push((number, federation.workload(number, n, PORT).await));
        }
        federation.export(number, SERVICE).await;
    }
    federation.sees(WEST, SERVICE, 4).await;
    let (caller, address) = federation.caller(WEST, 0, PORT).await;
    let load = Load::start(address, STEADY);
    let passing = Passing::start(address);

    let mut samples = Samples::new();
    let start = Instant::now();
    let mut tick = interval(long / SAMPLES);
    let mut died = 0;
    while start.elapsed() < long {
        tick.tick().await;
        sample(&federation, &caller, &workloads, &mut samples);
        let at = start.elapsed().as_secs_f64() / long.as_secs_f64();
        // All of it in the first two thirds: at the end nothing that happened a moment ago is judged.
        if at < 2.0 / 3.0 && at > f64::from(died) / f64::from(DEATHS) * (2.0 / 3.0) {
            let which = died as usize % workloads.len();
            die_and_return(&federation, &mut workloads, which).await;
            died += 1;
            if progress {
                eprintln!(
                    "{:.0} s: {died} workloads died and came back",
                    start.elapsed().as_secs_f64()
                );
            }
        }
    }
    let asked = passing.finish().await;
    let shots = load.finish().await;
    none_failed(&shots);
    let mut report = judge(&samples);
    let head = format!(
        "{:.0} s, {} calls on lasting connections and {asked} on their own, {died} deaths of workloads: none failed\n\n",
        long.as_secs_f64(),
        shots.len()
    );
    report.text.insert_str(0, &head);
    report
}

/// The application of one workload is killed, and is back after its proxy has said so.
async fn die_and_return(
    federation: &Federation,
    workloads: &mut [(usize, Workload)],
    which: usize,
) {
    let (number, workload) = &mut workloads[which];
    let app = workload.app.as_mut().expect("an application");
    app.kill().await;
    federation.sees(WEST, SERVICE, 3).await;
    let again = federation.workload_again(*number, workload, PORT).await;
    *workload = again;
    federation.sees(WEST, SERVICE, 4).await;
}

fn sample(
    federation: &Federation,
    caller: &Process,
    workloads: &[(usize, Workload)],
    all: &mut Samples,
) {
    let mut note = |name: String, process: Option<&Process>| {
        if let Some(sample) = process.and_then(Sample::of) {
            all.entry(name).or_default().push(sample);
        }
    };
    for cluster in &federation.clusters {
        note(
            format!("{} controller", cluster.name),
            cluster.controller.as_ref(),
        );
        note(
            format!("{} gateway", cluster.name),
            cluster.gateway.as_ref(),
        );
    }
    note("west caller's proxy".to_owned(), Some(caller));
    for (n, (number, workload)) in workloads.iter().enumerate() {
        let name = format!(
            "{} workload {}'s proxy",
            federation.clusters[*number].name,
            n + 1
        );
        note(name, workload.proxy.as_ref());
    }
}

/// The most that a part of the samples shows.
fn most(of: &[Sample], what: impl Fn(&Sample) -> u64) -> u64 {
    of.iter().map(what).max().unwrap_or(0)
}

fn judge(samples: &Samples) -> Report {
    let mut text = format!(
        "{:<28} {:>26} {:>20} {:>8}\n",
        "process", "MiB middle -> end", "files", "threads"
    );
    let mut grew = Vec::new();
    for (name, all) in samples {
        let third = all.len() / 3;
        let (middle, end) = (&all[third..2 * third.max(1)], &all[2 * third..]);
        let (rss, files) = (|s: &Sample| s.rss_kib, |s: &Sample| s.files);
        let (rss_before, rss_after) = (most(middle, rss), most(end, rss));
        let (files_before, files_after) = (most(middle, files), most(end, files));
        let threads = (most(middle, |s| s.threads), most(end, |s| s.threads));
        let more = rss_after > rss_before + SLACK_KIB || files_after > files_before + SLACK_FILES;
        if more || threads.1 > threads.0 {
            grew.push(name.clone());
        }
        let mib = |kib: u64| kib as f64 / 1024.0;
        let memory = format!("{:.1} -> {:.1}", mib(rss_before), mib(rss_after));
        let open = format!("{files_before} -> {files_after}");
        let line = writeln!(text, "{name:<28} {memory:>26} {open:>20} {:>8}", threads.1);
        line.expect("a string takes a line");
    }
    Report { text, grew }
}

/// Callers that come for one thing and go: a request, a large answer, or bytes that nobody looks at.
struct Passing {
    task: JoinHandle<Result<u64, String>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Passing {
    fn start(address: SocketAddr) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let task = task::spawn("passing callers", async move {
            let mut tick = interval(PASSING);
            let mut asked = 0;
            while !*stopped.borrow() {
                tick.tick().await;
                let come = timeout(http::LIMIT, pass_by(address, asked % 3)).await;
                come.map_err(|_| "no answer".to_owned())?
                    .map_err(|e| format!("caller {asked}: {e}"))?;
                asked += 1;
            }
            Ok(asked)
        });
        Self { task, stop }
    }

    async fn finish(self) -> u64 {
        self.stop.send_replace(true);
        let asked = self.task.await.expect("the passing callers");
        asked.unwrap_or_else(|why| panic!("a passing caller failed: {why}"))
    }
}

async fn pass_by(address: SocketAddr, kind: u64) -> Result<(), http::Error> {
    match kind {
        0 => drop(http::get(address, "/").await?.ok()?),
        1 => {
            let mut client = Client::open(address).await?;
            for _ in 0..3 {
                client.ask(get_request("/healthz")).await?.ok()?;
            }
        }
        // One that leaves in the middle of what it says.
        _ => {
            let mut stream = TcpStream::connect(address)
                .await
                .map_err(|e| e.to_string())?;
            let half = b"POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 1000\r\n\r\nhalf";
            stream.write_all(half).await.map_err(|e| e.to_string())?;
            let mut byte = [0];
            // A moment for it to get across; nothing can come back.
            drop(timeout(Duration::from_millis(20), stream.read(&mut byte)).await);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rss_kib: impl Fn(u64) -> u64, files: impl Fn(u64) -> u64) -> Samples {
        let all = (0..90).map(|n| Sample {
            rss_kib: rss_kib(n),
            files: files(n),
            threads: 4,
        });
        Samples::from([("proxy".to_owned(), all.collect())])
    }

    #[test]
    fn what_goes_on_growing_is_named_and_what_grew_at_first_is_not() {
        let settles = samples(|n| 20_000 + 1_000 * n.min(20), |n| 10 + n.min(5));
        assert!(judge(&settles).grew.is_empty());
        let leaks = samples(|n| 20_000 + 100 * n, |_| 10);
        assert_eq!(judge(&leaks).grew, ["proxy"]);
        let forgets = samples(|_| 20_000, |n| 10 + n);
        assert_eq!(judge(&forgets).grew, ["proxy"]);
    }
}
