//! A lab to play in: shows what is there, takes words from standard input, and does what they say. Owns the lab for as long as it
//! is played in; nothing of it outlives that.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead as _, Write as _},
    net::IpAddr,
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command as Program, time::Instant};
use tradewind_runtime::task;

use super::{
    ELSEWHERE, EVERYWHERE, Lab, app,
    command::{self, Change, Command, Deed},
};
use crate::{
    federation::{CONTROLLER, GATEWAY, host},
    http,
    namespaces::Harm,
    process::tradewind,
    wan::line::Shape,
};

/// What to type first.
const TRY: &str = "\
try:
  call 5                              west's own pods answer
  run west tradewind status           who is there, and who reaches whom
  run west tradewind explain --to shop/payments:80
  silence west/1                      then call 20: nobody waits for it for long
  cut central west                    then call ledger 5: central's answers are lost, east answers
  delay west east 200ms both
  heal
help lists all words, quit ends everything.
";

/// Plays until the input or somebody's patience ends.
pub async fn play(mut lab: Lab) {
    let mut game = Game {
        harms: BTreeMap::new(),
        shapes: shapes(&lab),
    };
    say(&format!("{}\n{TRY}", picture(&lab)));
    while let Some(line) = next_line().await {
        match command::parse(&line) {
            Ok(None) => {}
            Ok(Some(Command::Quit)) => break,
            Ok(Some(asked)) => {
                if let Err(why) = game.carry_out(&mut lab, asked).await {
                    say(&format!("error: {why}\n"));
                }
            }
            Err(why) => say(&format!("error: {why}\n")),
        }
    }
    say("the lab ends\n");
}

struct Game {
    harms: BTreeMap<IpAddr, Harm>,
    /// The lines as they were at the beginning.
    shapes: BTreeMap<(usize, usize), Shape>,
}

/// A line of input; none at its end, or when the user interrupts.
async fn next_line() -> Option<String> {
    say("lab> ");
    let read = task::spawn_blocking(|| {
        let mut line = String::new();
        let length = std::io::stdin().lock().read_line(&mut line).ok()?;
        (length > 0).then_some(line)
    });
    tokio::select! {
        line = read => line.ok().flatten(),
        // Whoever cannot be interrupted ends with the input.
        Ok(()) = tokio::signal::ctrl_c() => None,
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    // Where nobody listens any more, the input ends soon, too.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

impl Game {
    async fn carry_out(&mut self, lab: &mut Lab, asked: Command) -> Result<(), String> {
        match asked {
            Command::Help => say(&command::help()),
            Command::Show => say(&picture(lab)),
            Command::Call { elsewhere, count } => call(lab, elsewhere, count).await,
            Command::Run { cluster, words } => run(lab, number(lab, &cluster)?, &words).await?,
            Command::Line {
                from,
                to,
                both,
                change,
            } => shape(lab, (number(lab, &from)?, number(lab, &to)?), both, change)?,
            Command::Pod { name, deed } => self.pod(lab, &name, deed).await?,
            Command::Start => lab.start_missing().await,
            Command::Heal => self.heal(lab).await,
            Command::Quit => {}
        }
        Ok(())
    }

    async fn pod(&mut self, lab: &mut Lab, name: &str, deed: Deed) -> Result<(), String> {
        let pod = lab.pods.iter().find(|p| p.name == name);
        let pod = pod.ok_or_else(|| {
            let all: Vec<_> = lab.pods.iter().map(|p| p.name.as_str()).collect();
            format!("no such pod: {name}; there are {}", all.join(", "))
        })?;
        let ip = lab
            .federation
            .addr(pod.cluster, host::WORKLOADS + pod.n, 0)
            .ip();
        match deed {
            Deed::Kill => lab.kill_pods(|p| p.name == name).await,
            Deed::Slow(time) => {
                let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                lab.tell(pod, app::DELAY, ms).await?;
            }
            Deed::Silence => drop(self.harms.insert(ip, Harm::Silent)),
            Deed::Reset => drop(self.harms.insert(ip, Harm::Reset)),
        }
        lab.federation.router().harm(&self.harms).await;
        Ok(())
    }

    async fn heal(&mut self, lab: &mut Lab) {
        for (direction, before) in &self.shapes {
            lab.wan().change(*direction, |line| *line = *before);
        }
        self.harms.clear();
        lab.federation.router().harm(&self.harms).await;
        lab.start_missing().await;
        for pod in &lab.pods {
            if let Err(why) = lab.tell(pod, app::DELAY, 0).await {
                say(&format!("{}: {why}\n", pod.name));
            }
        }
    }
}

fn shapes(lab: &Lab) -> BTreeMap<(usize, usize), Shape> {
    let all = directions(lab).into_iter();
    all.map(|d| (d, lab.wan().shape(d))).collect()
}

fn directions(lab: &Lab) -> Vec<(usize, usize)> {
    let count = lab.federation.clusters.len();
    let all = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    all.filter(|(a, b)| a != b).collect()
}

fn number(lab: &Lab, name: &str) -> Result<usize, String> {
    let mut clusters = lab.federation.clusters.iter();
    let all = || lab.federation.clusters.iter().map(|c| c.name.as_str());
    clusters.position(|c| c.name == name).ok_or_else(|| {
        let all: Vec<_> = all().collect();
        format!("no such cluster: {name}; there are {}", all.join(", "))
    })
}

fn shape(lab: &Lab, (from, to): (usize, usize), both: bool, change: Change) -> Result<(), String> {
    if from == to {
        return Err("a cluster has no line to itself".to_owned());
    }
    lab.wan().change((from, to), |line| change.apply(line));
    if both {
        lab.wan().change((to, from), |line| change.apply(line));
    }
    Ok(())
}

async fn call(lab: &Lab, elsewhere: bool, count: u32) {
    let door = lab.doors[usize::from(elsewhere)];
    for _ in 0..count {
        let asked = Instant::now();
        let answer = http::get(door, "/").await.and_then(http::Answer::ok);
        let took = asked.elapsed().as_secs_f64() * 1e3;
        let who = answer.map_or_else(|why| format!("failed: {why}"), |a| a.text());
        say(&format!("{took:9.1} ms  {who}\n"));
    }
}

/// The program speaks to the user itself.
async fn run(lab: &Lab, cluster: usize, words: &[String]) -> Result<(), String> {
    let shell = ["sh".to_owned()];
    let (program, args) = words
        .split_first()
        .or_else(|| shell.split_first())
        .ok_or("nothing to run")?;
    let mut command: Program = lab.federation.router().command(cluster, program.as_ref());
    let binary = tradewind();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = binary.parent().map(std::path::Path::to_owned);
    let path = std::env::join_paths(beside.into_iter().chain(std::env::split_paths(&path)));
    let status = command
        .args(args)
        .env("PATH", path.map_err(|e| e.to_string())?)
        .env("TRADEWIND_DATA_DIR", lab.federation.data_dir(cluster))
        .stdin(Stdio::inherit())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|e| format!("nsenter does not run: {e}"))?;
    if !status.success() {
        say(&format!("({status})\n"));
    }
    Ok(())
}

/// What is there, with addresses.
fn picture(lab: &Lab) -> String {
    let mut text = String::new();
    for cluster in 0..lab.federation.clusters.len() {
        show_cluster(lab, cluster, &mut text);
    }
    for (n, service) in [EVERYWHERE, ELSEWHERE].into_iter().enumerate() {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "west's caller   http://{} is {service}", lab.doors[n]);
    }
    let _ = writeln!(text, "\nlines");
    for direction in directions(lab) {
        show_line(lab, direction, &mut text);
    }
    text
}

fn show_cluster(lab: &Lab, cluster: usize, text: &mut String) {
    let federation = &lab.federation;
    let at = |host, port| federation.addr(cluster, host, port);
    let name = &federation.clusters[cluster].name;
    let two = lab.two_gateways() == Some(cluster);
    let second = if two {
        format!(", {}", at(host::SECOND_GATEWAY, GATEWAY))
    } else {
        String::new()
    };
    let controller = at(host::CONTROLLER, CONTROLLER);
    let _ = writeln!(
        text,
        "{name}\n  controller  {controller}\n  gateway     {}{second}",
        at(host::GATEWAY, GATEWAY)
    );
    for pod in lab.pods.iter().filter(|p| p.cluster == cluster) {
        let ip = at(host::WORKLOADS + pod.n, 0).ip();
        let killed = if pod.workload.is_some() {
            ""
        } else {
            "  killed"
        };
        let _ = writeln!(text, "  {:11} {ip}{killed}", pod.name);
    }
}

fn show_line(lab: &Lab, direction: (usize, usize), text: &mut String) {
    let name = |n: usize| lab.federation.clusters[n].name.as_str();
    let Shape {
        delay,
        jitter,
        loss,
        rate_bit_s,
        cut,
    } = lab.wan().shape(direction);
    let (from, to) = direction;
    let _ = write!(
        text,
        "  {:8} ──► {:8} {:>6} ms",
        name(from),
        name(to),
        delay.as_secs_f64() * 1e3
    );
    if jitter > Duration::ZERO {
        let _ = write!(text, " + up to {} ms", jitter.as_secs_f64() * 1e3);
    }
    if loss > 0.0 {
        let _ = write!(text, ", {:.1} % lost", loss * 100.0);
    }
    if let Some(rate) = rate_bit_s {
        let _ = write!(text, ", {} Mbit/s", rate as f64 / 1e6);
    }
    let carried = lab.wan().counts(direction).carried;
    let _ = writeln!(
        text,
        "{}  ({carried} packets)",
        if cut { ", CUT" } else { "" }
    );
}
