//! Sudden death: a process that appends is killed, and nothing it acknowledged may be missing.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use openraft::{
    storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt},
    testing::blank_ent,
};

use crate::{
    log_store::LogStore,
    meters::Meters,
    types::{Entry, Vote},
};

const DIR: &str = "TRADEWIND_TEST_CRASH_DIR";
/// How many acknowledged entries the parent lets pass before it kills; different each round.
const KILL_AFTER: [usize; 4] = [1, 17, 60, 150];

/// Not a test of its own: the child of the one below.
#[tokio::test]
#[ignore = "started by the test below"]
async fn child_appends_until_killed() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let (mut log, _disk) = LogStore::open(&dir, Meters::default()).await.unwrap();
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    let mut next = log.last().map_or(0, |l| l.index + 1);
    let mut out = std::io::stdout();
    loop {
        let entries: Vec<Entry> = (next..next + 3).map(|i| blank_ent(2, 1, i)).collect();
        log.blocking_append(entries).await.unwrap();
        next += 3;
        writeln!(out, "acked {}", next - 1).unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    for kill_after in KILL_AFTER {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::crash::child_appends_until_killed"])
            .args(["--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acked = None;
        let mut seen = 0;
        let mut killed = false;
        // To the end of the pipe: what was acknowledged before the signal arrived counts too.
        for line in lines.map_while(Result::ok) {
            // The test runner's own words share the first line.
            if let Some((_, number)) = line.split_once("acked ") {
                acked = Some(number.trim().parse::<u64>().unwrap());
                seen += 1;
            }
            if seen >= kill_after && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        let acked = acked.expect("the child acknowledged something");
        let (mut log, disk) = LogStore::open(dir.path(), Meters::default()).await.unwrap();
        let last = log.last().unwrap().index;
        assert!(
            last >= acked,
            "acknowledged up to {acked}, found up to {last}"
        );
        let entries = log.try_get_log_entries(..).await.unwrap();
        assert_eq!(entries.len() as u64, last + 1);
        log.close();
        drop(log);
        tokio::task::spawn_blocking(|| disk.join().unwrap())
            .await
            .unwrap();
    }
}
