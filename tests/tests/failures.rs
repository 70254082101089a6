//! The failure matrix in short: two faults of it, each for moments, in a lab with three regions. No request that may be sent twice
//! fails, none is processed twice, what was never processed is answered elsewhere, and calls come home.
//!
//! `cargo xtask failures` measures all of it.

use std::{path::Path, time::Duration};

use tradewind_tests::{
    failures::{self, Fault, Options},
    load::open::Rates,
    namespaces::{inside_with_wan, skipped},
};

/// Longest that it may take, the lab's start included.
const LIMIT: Duration = Duration::from_secs(240);
/// No goal, which a busy machine may miss, but far below what a caller would wait who is left alone.
const LONGEST_GAP: Duration = Duration::from_secs(5);

/// Where the machine itself stands still for so long, proxies that wait a second for each other lose those that are well.
const STOOD_STILL: Duration = Duration::from_millis(500);

#[tokio::test]
async fn faults_lose_no_request_that_may_be_sent_twice() {
    let name = "faults_lose_no_request_that_may_be_sent_twice";
    inside_with_wan(name, LIMIT, matrix).await;
}

async fn matrix() {
    let options = Options {
        faults: vec![Fault::Silent, Fault::ClusterGone],
        rates: Rates {
            gets: 100,
            posts: 20,
        },
        warm: Duration::from_secs(1),
        hold: Duration::from_millis(2_500),
        ..Options::default()
    };
    let program = Path::new(env!("CARGO_BIN_EXE_tradewind-lab"));
    let report = Box::pin(failures::run(program, &options)).await;
    for row in &report.rows {
        let measured = &row.measured;
        assert!(measured.gets > 200, "{measured:?}");
        if measured.late > STOOD_STILL {
            skipped(&format!(
                "{}: this machine stood still for {:?}",
                row.fault, measured.late
            ));
            continue;
        }
        assert_eq!(measured.gets_failed, 0, "{}: {measured:?}", row.fault);
        let wrong = measured.posts_twice + measured.posts_denied + measured.posts_unsent;
        assert_eq!(wrong, 0, "{}: {measured:?}", row.fault);
        assert!(measured.gap < LONGEST_GAP, "{}: {measured:?}", row.fault);
        assert!(measured.whole.is_some(), "{}: {measured:?}", row.fault);
    }
}
