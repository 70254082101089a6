//! The project's own commands: `cargo xtask test` is the whole continuous integration, `cargo xtask tidy` the house
//! rules that no compiler knows, `cargo xtask sim` simulations of the store, `cargo xtask bench` the benchmarks. No product
//! code lives here, and no product crate imports it.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks there"
)]

mod bench;
mod faults;
mod lab;
mod sim;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
The project's own commands.

usage: cargo xtask <command>

commands:
  test    everything continuous integration runs, stopping at the first failure:
          tools, format, clippy, tidy, release build, Kubernetes' servers (by Go), all tests,
          simulations, the demo; --no-kubernetes leaves out what needs those servers
  tidy    the house rules: imports between crates, purity, headers, sizes, links
  faults  [--faults N] [--seed S]: the store of five clusters of real processes
          under N faults (100), with its figures
  lab     [--debug] [--clusters 2|3]: a federation in network namespaces with a wide area network
          between them, to play in; `help` there lists what may be typed
  failures  what a caller notices of each fault of pods, clusters, gateways and the network,
          under constant load in a lab; --help lists the flags
  soak    [--minutes N]: two clusters at load for half an hour, and what each process holds
  bench store    the federation store against etcd: same load, same disk, same run
  bench scale    what a large federation costs: memory, snapshot, one change
  bench gateway  the gateway against Envoy, HAProxy and nginx: same traffic, same run
  bench proxy    pairs of local proxies against Envoy's and HAProxy's: same load, same run
          all take --json, and --help for the rest
  sim     simulations of the federation store, each from one seed: a fixed list, or
          [--from SEED] [--seeds N], or one with --seed S [--trace];
          --planted-bug gives it disks that lie, which must be found;
          --scale measures how long a change takes until 100 clusters hold it
          [--clusters N] [--exports N] [--endpoints N] [--changes N] [--seed S]
  help    this text

exit codes: 0 good, 1 found problems, 2 bad usage";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test"] => test::run(&root(), true),
        ["test", "--no-kubernetes"] => test::run(&root(), false),
        ["tidy"] => tidy_command(&root()),
        [
            "bench",
            what @ ("store" | "scale" | "gateway" | "proxy"),
            rest @ ..,
        ] => {
            let words: Vec<&str> = std::iter::once(*what).chain(rest.iter().copied()).collect();
            bench::run(&root(), &words)
        }
        ["sim", words @ ..] if !words.iter().any(|w| matches!(*w, "help" | "--help" | "-h")) => {
            sim::run(&root(), words)
        }
        ["help" | "--help" | "-h"]
        | ["test" | "tidy" | "faults" | "sim", "help" | "--help" | "-h"] => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        ["faults", flags @ ..] => faults::run(&root(), flags),
        ["lab", flags @ ..] => lab::run(&root(), &[&["open"], flags].concat()),
        ["failures" | "soak", ..] => lab::run(&root(), words.as_slice()),
        [] => {
            eprintln!("{HELP}");
            ExitCode::from(2)
        }
        _ => {
            eprintln!("error: unknown command: {}\n\n{HELP}", words.join(" "));
            ExitCode::from(2)
        }
    }
}

/// The workspace's directory, whatever the current one is. Cargo says at run time where we are; what it said when this
/// was compiled may be about another clone that shares the target directory.
fn root() -> PathBuf {
    let compiled_in = env!("CARGO_MANIFEST_DIR");
    let here =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| compiled_in.into(), PathBuf::from);
    here.parent().map_or_else(|| here.clone(), Path::to_owned)
}

fn tidy_command(root: &Path) -> ExitCode {
    let report = match tidy::run(root) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{report}");
    if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
