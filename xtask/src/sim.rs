//! `cargo xtask sim`: builds the federation's simulation as it must be built, runs seeds on all processors, and says of a
//! seed that found something how to run it again. Each seed is a process of its own, so that none sees another's traces.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};

/// What a run without arguments tries: enough for every kind of fault, quick enough for every commit.
const SEEDS: u64 = 60;

/// Seeds beyond those that found something once. Every change of the store makes other lives of them; they are cheap.
const ONCE_FOUND: [u64; 6] = [153, 188, 413, 432, 1_488, 1_776];

/// Seeds tried before the planted bug must have been found.
const PLANTED_SEEDS: u64 = 40;

/// One seed in so many is run twice, and both traces must be the same.
const TWICE: u64 = 10;

/// Processes at once, at most: each takes one processor and little memory.
const MAX_JOBS: usize = 16;

/// Failing seeds that are shown before a run ends early.
const MAX_FINDINGS: usize = 3;

/// What the command line asks for.
#[derive(Debug, Default)]
struct Wish {
    from: Option<u64>,
    seeds: Option<u64>,
    seed: Option<u64>,
    trace: bool,
    planted: bool,
}

impl Wish {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut wish = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut number = || {
                let value = words.next().and_then(|value| value.parse().ok());
                value
                    .map(Some)
                    .ok_or_else(|| format!("{word} needs a number"))
            };
            match *word {
                "--from" => wish.from = number()?,
                "--seeds" => wish.seeds = number()?,
                "--seed" => wish.seed = number()?,
                "--trace" => wish.trace = true,
                "--planted-bug" => wish.planted = true,
                other => return Err(format!("unknown argument: {other}")),
            }
        }
        if wish.trace && wish.seed.is_none() {
            return Err("--trace shows one seed: give --seed".to_owned());
        }
        Ok(wish)
    }

    /// The list of every commit.
    const fn is_usual(&self) -> bool {
        self.from.is_none() && self.seeds.is_none() && !self.planted
    }

    /// The command that runs `seed` again.
    fn again(&self, seed: u64) -> String {
        let planted = if self.planted { " --planted-bug" } else { "" };
        format!("cargo xtask sim --seed {seed} --trace{planted}")
    }
}

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Build {
    Usual,
    /// Measures, and is optimised for it.
    Scale,
}

impl Build {
    /// The name of its binary.
    const fn name(self) -> &'static str {
        match self {
            Self::Usual => "simulate",
            Self::Scale => "simulate-scale",
        }
    }

    /// What it changes of the profile. A large catalog is not validated whole after every command on every node.
    const fn config(self) -> &'static [&'static str] {
        match self {
            Self::Usual => &[],
            Self::Scale => &[
                "--config=profile.simulation.package.tradewind-federation.debug-assertions=false",
                "--config=profile.simulation.package.tradewind-federation.opt-level=3",
            ],
        }
    }
}

/// Measures a large federation; `words` are the simulation's own.
fn scale(root: &Path, words: &[&str]) -> Result<(), String> {
    let binary = build(root, Build::Scale)?;
    let mut command = start(&binary);
    let status = command.arg("--scale").args(words).status();
    let status = status.map_err(|e| format!("{}: {e}", binary.display()))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the measurement failed ({status})"))
    }
}

/// Runs what `words` ask for.
pub(crate) fn run(root: &Path, words: &[&str]) -> ExitCode {
    if let ["--scale", words @ ..] = words {
        return match scale(root, words) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let wish = match Wish::parse(words) {
        Ok(wish) => wish,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match carry_out(root, &wish) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The list of every commit: no violation, and the planted bug is found.
pub(crate) fn quick(root: &Path) -> Result<(), String> {
    carry_out(root, &Wish::default())?;
    let planted = Wish {
        planted: true,
        ..Wish::default()
    };
    carry_out(root, &planted)
}

fn carry_out(root: &Path, wish: &Wish) -> Result<(), String> {
    let binary = build(root, Build::Usual)?;
    if let Some(seed) = wish.seed {
        let status = command(&binary, (seed, wish.planted), wish.trace).status();
        let status = status.map_err(|e| format!("{}: {e}", binary.display()))?;
        return match (status.success(), wish.planted) {
            (true, false) => Ok(()),
            (false, true) => Ok(()),
            (true, true) => Err(format!("seed {seed} does not find the planted bug")),
            (false, false) => Err(format!("seed {seed} found a violation")),
        };
    }
    let usual = if wish.planted { PLANTED_SEEDS } else { SEEDS };
    let from = wish.from.unwrap_or(1);
    let mut seeds: VecDeque<u64> = (from..).take(count(wish.seeds.unwrap_or(usual))).collect();
    let mut total = format!("{} seeds from {from}", seeds.len());
    if wish.is_usual() {
        seeds.extend(ONCE_FOUND);
        total = format!("{total} and {} more", ONCE_FOUND.len());
    }
    let enough = if wish.planted { 1 } else { MAX_FINDINGS };
    let findings = try_all(&binary, (seeds, wish.planted), enough);
    for finding in &findings {
        println!("{}\n  again: {}", finding.text, wish.again(finding.seed));
    }
    match (findings.is_empty(), wish.planted) {
        (true, false) => {
            println!("{total}: no violation; one in {TWICE} was run twice, to the same trace");
            Ok(())
        }
        (false, true) => {
            println!("the planted bug is found");
            Ok(())
        }
        (true, true) => Err(format!("{total} do not find the planted bug")),
        (false, false) => Err(format!("seeds from {from} found violations, see above")),
    }
}

fn count(seeds: u64) -> usize {
    usize::try_from(seeds).unwrap_or(usize::MAX)
}

/// A seed that did not end well.
#[derive(Debug)]
struct Finding {
    seed: u64,
    text: String,
}

fn try_all(binary: &Path, (seeds, planted): (VecDeque<u64>, bool), enough: usize) -> Vec<Finding> {
    let queue = Mutex::new(seeds);
    let findings = Mutex::new(Vec::new());
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_JOBS));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let full = findings
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .len();
                    let next = queue
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(seed) = next.filter(|_| full < enough) else {
                        return;
                    };
                    if let Some(text) = try_one(binary, (seed, planted)) {
                        let finding = Finding { seed, text };
                        findings
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(finding);
                    }
                }
            });
        }
    });
    findings
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

/// What is wrong with `seed`, if anything is.
fn try_one(binary: &Path, (seed, planted): (u64, bool)) -> Option<String> {
    let run = || match command(binary, (seed, planted), false).output() {
        Ok(output) => {
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            let err = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.success(), out, err)
        }
        Err(error) => (false, format!("seed {seed}: {error}"), String::new()),
    };
    let (good, out, err) = run();
    if !good {
        return Some(format!("{out}{err}"));
    }
    if seed.is_multiple_of(TWICE) {
        let (_, again, _) = run();
        if again != out {
            return Some(format!(
                "seed {seed} is not deterministic: two runs differ:\n{out}{again}"
            ));
        }
    }
    None
}

fn command(binary: &Path, (seed, planted): (u64, bool), trace: bool) -> Command {
    let mut command = start(binary);
    command.arg(seed.to_string());
    if trace {
        command.arg("--trace");
    }
    if planted {
        command.arg("--planted-bug");
    }
    command
}

fn start(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    // Snapshots are real files; in memory their fsyncs cost nothing.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        command.env("TMPDIR", memory);
    }
    command
}

/// Builds the simulation apart from everything else: tokio must be told to take its random numbers from a seed.
fn build(root: &Path, what: Build) -> Result<PathBuf, String> {
    let target = root.join("target").join("simulation");
    let mut flags = std::env::var_os("RUSTFLAGS")
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    flags.push_str(" --cfg tokio_unstable");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--locked", "--profile", "simulation"])
        .args(["-p", "tradewind-federation", "--bin", "simulate"])
        .args(["--features", "simulation", "--target-dir"])
        .arg(&target)
        .args(what.config())
        .env("RUSTFLAGS", flags.trim())
        .current_dir(root)
        .status()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if !status.success() {
        return Err("the simulation does not build".to_owned());
    }
    // Kept apart, so that the next build of the other one does not replace it while it runs.
    let built = target.join("simulation").join("simulate");
    let binary = target.join(what.name());
    std::fs::copy(&built, &binary).map_err(|e| format!("{}: {e}", built.display()))?;
    Ok(binary)
}
