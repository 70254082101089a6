//! The store under faults: real controllers and gateways, each cluster in a network namespace of its own, killed, paused and
//! cut off from each other while clients write at all of them. No acknowledged write is lost, nothing refused comes true,
//! all controllers end up alike, and writes go on after each fault.
//!
//! `cargo xtask faults` runs the long version.

#![expect(clippy::panic, reason = "a test's helpers fail by panicking")]

use std::time::Duration;

use tradewind_tests::{
    faults::{self, Plan},
    namespaces::{Entered, enter, inside},
};

/// How many faults the long version has.
const FAULTS: &str = "TRADEWIND_FAULTS";
/// The dice of either version.
const SEED: &str = "TRADEWIND_FAULTS_SEED";
/// Where the long version writes its figures.
const REPORT: &str = "TRADEWIND_FAULTS_REPORT";
/// Longest that the short version may take, its start included.
const SHORT_LIMIT: Duration = Duration::from_secs(180);
/// Longest that one fault of the long version may take.
const LONG_LIMIT: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var_os(variable)?;
    let number = text.to_str().and_then(|t| t.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{variable} is no number: {}", text.display())))
}

#[tokio::test]
async fn a_dozen_faults_lose_no_write() {
    let plan = Plan {
        clusters: 3,
        faults: 12,
        seed: number(SEED).unwrap_or(3),
        brief: true,
        rest_every: 6,
        progress: false,
    };
    let run = async || drop(faults::run(plan).await);
    inside("a_dozen_faults_lose_no_write", SHORT_LIMIT, false, run).await;
}

#[tokio::test]
#[ignore = "takes a quarter of an hour: cargo xtask faults"]
async fn many_faults_lose_no_write() {
    let faults = number(FAULTS).unwrap_or(100);
    let plan = Plan {
        clusters: 5,
        faults: usize::try_from(faults).expect("a small number"),
        seed: number(SEED).unwrap_or_else(|| fastrand::u64(0..1_000_000)),
        brief: false,
        rest_every: 10,
        progress: true,
    };
    let limit = LONG_LIMIT * u32::try_from(faults).expect("a small number") + SHORT_LIMIT;
    match enter("many_faults_lose_no_write", limit, true).await {
        Entered::Inside => {
            let report = faults::run(plan).await;
            match std::env::var_os(REPORT) {
                Some(path) => std::fs::write(path, report).unwrap(),
                None => eprintln!("{report}"),
            }
        }
        Entered::Ran => {}
        Entered::Missing(why) => panic!("no faults without namespaces: {why}"),
    }
}
