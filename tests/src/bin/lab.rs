//! `tradewind-lab`: the lab as a program. `open` is one to play in, `failures` measures the failure matrix, `app` is the application
//! in each pod: these make a network namespace for themselves, and own everything in it. `soak` waits for leaks, on loopback.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks there"
)]

use std::{path::Path, process::ExitCode, time::Duration};

use tradewind_tests::{
    failures::{self, Options},
    federation::{THREE, TWO},
    lab::{Lab, Plan, app, play},
    load::open::Rates,
    namespaces, soak,
    wan::Wan,
};

/// From one cluster to another, in a lab to play in.
const DELAY: Duration = Duration::from_millis(30);

const HELP: &str = "\
usage: tradewind-lab open [--clusters 2|3]
  a lab to play in: takes words from standard input
usage: tradewind-lab soak [--minutes N]
  two clusters at load for half an hour, or N minutes; exits 1 where a process took more at the end than in the middle
usage: tradewind-lab failures [--json] [--only FAULT,...] [--seconds N] [--seed S] [--gets N] [--posts N]
  measures what a caller notices of each fault, and exits 1 where a goal is missed
  --json       data instead of a table
  --only       these faults alone
  --seconds    how long each fault lasts (8)
  --seed       of the network's dice (1)
  --gets, --posts  requests a second (200, 50)";

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(command());
    // Whoever was interrupted may still have a thread that reads standard input.
    runtime.shutdown_background();
    code
}

async fn command() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["app", listen, name, journal] => application(listen, name, journal).await,
        ["open" | "failures" | "soak", ..]
            if words.iter().any(|w| matches!(*w, "--help" | "-h")) =>
        {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        ["open", rest @ ..] => match clusters(rest) {
            Ok(count) => open(&words, count).await,
            Err(error) => return usage(&error),
        },
        ["soak", rest @ ..] => match minutes(rest) {
            Ok(long) => Ok(soaked(long).await),
            Err(error) => return usage(&error),
        },
        ["failures", rest @ ..] => match parse(rest) {
            Ok((options, json)) => matrix(&words, &options, json).await,
            Err(error) => return usage(&error),
        },
        ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        _ => return usage("no such command"),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn usage(error: &str) -> ExitCode {
    eprintln!("error: {error}\n{HELP}");
    ExitCode::from(2)
}

async fn application(listen: &str, name: &str, journal: &str) -> Result<ExitCode, String> {
    let listen = listen.parse().map_err(|e| format!("{listen}: {e}"))?;
    let served = app::run(listen, name, Path::new(journal)).await;
    served
        .map(|()| ExitCode::SUCCESS)
        .map_err(|e| e.to_string())
}

fn clusters(words: &[&str]) -> Result<usize, String> {
    match words {
        [] | ["--clusters", "3"] => Ok(3),
        ["--clusters", "2"] => Ok(2),
        _ => Err("a lab has 2 or 3 clusters".to_owned()),
    }
}

fn minutes(words: &[&str]) -> Result<Duration, String> {
    let minutes = match words {
        [] => Some(30),
        ["--minutes", number] => number.parse().ok().filter(|n| (1..=24 * 60).contains(n)),
        _ => None,
    };
    let minutes = minutes.ok_or("a soak takes --minutes 1 to 1440")?;
    Ok(Duration::from_secs(60 * minutes))
}

async fn soaked(long: Duration) -> ExitCode {
    let report = Box::pin(soak::run(long, true)).await;
    print!("{}", report.text);
    if report.grew.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "error: more at the end than in the middle: {}",
        report.grew.join(", ")
    );
    ExitCode::FAILURE
}

async fn open(words: &[&str], count: usize) -> Result<ExitCode, String> {
    if !namespaces::is_inside() {
        return again(words).await;
    }
    let clusters = if count == 2 {
        TWO.to_vec()
    } else {
        THREE.to_vec()
    };
    let plan = Plan {
        pods: vec![2; count],
        two_gateways: (count > 2).then_some(1),
        clusters,
        delay: DELAY,
        seed: 1,
        program: std::env::current_exe().map_err(|e| e.to_string())?,
    };
    eprintln!("founding a federation of {count} clusters ...");
    Box::pin(play::play(Lab::start(plan).await)).await;
    Ok(ExitCode::SUCCESS)
}

/// Options and whether data is wanted.
fn parse(words: &[&str]) -> Result<(Options, bool), String> {
    let (mut options, mut json) = (Options::default(), false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if *word == "--json" {
            json = true;
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        let number = |most: u64| match value.parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(format!("{word} goes from 1 to {most}, not {value}")),
        };
        let Rates { gets, posts } = options.rates;
        match *word {
            "--only" => {
                let faults: Result<_, _> = value.split(',').map(str::parse).collect();
                options.faults = faults?;
            }
            "--seconds" => options.hold = Duration::from_secs(number(600)?),
            "--seed" => options.seed = number(u64::MAX)?,
            "--gets" => {
                options.rates = Rates {
                    gets: number(2_000)? as u32,
                    posts,
                }
            }
            "--posts" => {
                options.rates = Rates {
                    gets,
                    posts: number(2_000)? as u32,
                }
            }
            _ => return Err(format!("unknown flag: {word}")),
        }
    }
    Ok((options, json))
}

async fn matrix(words: &[&str], options: &Options, json: bool) -> Result<ExitCode, String> {
    if !namespaces::is_inside() {
        return again(words).await;
    }
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let report = Box::pin(failures::run(&program, options)).await;
    if json {
        println!("{:#}", report.json());
    } else {
        print!("{report}");
    }
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// This command in a namespace of its own.
async fn again(words: &[&str]) -> Result<ExitCode, String> {
    Wan::is_possible()?;
    let mut command = namespaces::again(words).await?;
    let status = command
        .status()
        .await
        .map_err(|e| format!("unshare does not run: {e}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_words_with_values_within_bounds() {
        let (options, json) = parse(&[
            "--json",
            "--only",
            "reset,silent",
            "--seconds",
            "3",
            "--posts",
            "7",
        ])
        .unwrap();
        assert!(json);
        assert_eq!(options.faults.len(), 2);
        assert_eq!(options.hold, Duration::from_secs(3));
        assert_eq!((options.rates.gets, options.rates.posts), (200, 7));
        for bad in [
            &["--only"][..],
            &["--only", "x"],
            &["--seconds", "0"],
            &["--gets", "x"],
            &["-x", "1"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
