//! A process that works on a log until it dies, telling on its standard output what it begins and what was acknowledged;
//! and the state that must be found afterwards. The child follows Raft's rules (nothing committed is truncated, nothing
//! is purged that no snapshot holds), since only what Raft may do has to survive.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use openraft::{
    EntryPayload,
    storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt},
    testing::{blank_ent, log_id},
};
use serde::{Deserialize, Serialize};
use tradewind_api::store::{Command as Change, Stamped};
use tradewind_runtime::Rng;

use crate::{
    Batch, StoreError,
    catalog::tests::name,
    log_store::LogStore,
    meters::Meters,
    snapshot::{SnapshotDir, State},
    types::{Entry, LogId, Vote},
};

const DIR: &str = "TRADEWIND_TEST_WORKER_DIR";
const SEED: &str = "TRADEWIND_TEST_WORKER_SEED";
/// After as many a child ends by itself, should nobody kill it.
const OPERATIONS: usize = 3_000;
/// Body sizes, bytes: small, one part, several parts.
const SIZES: [usize; 6] = [0, 0, 40, 200, 3_000, 20_000];

/// A directory in memory where the system has one that knows when files were born: what these tests make durable is
/// decided by them, and hundreds of true syncs would only take their time.
pub(super) fn scratch() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    match memory.map(|dir| (dir.path().metadata().and_then(|m| m.created()), dir)) {
        Ok((Ok(_born), dir)) => dir,
        _ => tempfile::tempdir().unwrap(),
    }
}

/// What the child does to the log; log ids as (term, index), all of node 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Op {
    Append {
        term: u64,
        first: u64,
        sizes: Vec<usize>,
    },
    Truncate(u64, u64),
    Vote(u64),
    Committed(u64, u64),
    Snapshot(u64, u64),
    Purge(u64, u64),
}

pub(super) fn entry(term: u64, index: u64, size: usize) -> Entry {
    let mut entry: Entry = blank_ent(term, 1, index);
    if size > 0 {
        let command = Change::RevokeToken("x".repeat(size));
        let (proposer, at_ms) = (name("west"), index);
        let stamped = Stamped {
            proposer,
            at_ms,
            command,
            actor: None,
        };
        entry.payload = EntryPayload::Normal(Batch {
            commands: Arc::new(vec![stamped]),
        });
    }
    entry
}

/// What lies in a store's directory, or should.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    /// By index; purged ones stay, for they may still be there.
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) snapshot: Option<LogId>,
}

impl Model {
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Append { term, first, sizes } => {
                for (index, size) in (*first..).zip(sizes) {
                    let entry = entry(*term, index, *size);
                    self.last = Some(entry.log_id);
                    self.entries.insert(index, entry);
                }
            }
            Op::Truncate(_, from) => {
                self.entries.split_off(from);
                let before = self.entries.last_key_value().map(|(_, e)| e.log_id);
                self.last = before.max(self.purged);
            }
            Op::Vote(term) => self.vote = Some(Vote::new(*term, 1)),
            Op::Committed(term, index) => self.committed = Some(log_id(*term, 1, *index)),
            Op::Snapshot(term, index) => self.snapshot = Some(log_id(*term, 1, *index)),
            Op::Purge(term, index) => {
                self.purged = Some(log_id(*term, 1, *index));
                self.last = self.last.max(self.purged);
            }
        }
    }

    /// Reads what is in `dir`, as a restart would.
    pub(super) async fn read(dir: &Path) -> Result<Self, StoreError> {
        let (mut log, disk) = LogStore::open(dir, Meters::default()).await?;
        let entries = log.try_get_log_entries(..).await.unwrap();
        let committed = log.read_committed().await.unwrap();
        let snapshots = SnapshotDir::open(&dir.join("snapshots"), log.purged());
        let found = snapshots.map(|(_, state)| Self {
            entries: entries.into_iter().map(|e| (e.log_id.index, e)).collect(),
            last: log.last(),
            purged: log.purged(),
            vote: log.vote(),
            committed,
            snapshot: state.and_then(|s| s.applied),
        });
        log.close();
        drop(log);
        tokio::task::spawn_blocking(|| disk.join().unwrap())
            .await
            .unwrap();
        found
    }

    /// Says what `found` lacks of this state, if it lacks anything. Purges and commits may be forgotten, nothing else.
    pub(super) fn lacking(&self, found: &Self) -> Result<(), String> {
        let floor = self.purged.map(|p| p.index);
        let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        check(found.vote == self.vote, "vote")?;
        check(found.snapshot == self.snapshot, "snapshot")?;
        check(found.purged <= self.purged, "purged further than asked")?;
        check(found.committed <= self.committed, "commit from nowhere")?;
        check(found.committed <= found.last, "commit beyond the log")?;
        // A purge beyond the end, after a snapshot from elsewhere, may be forgotten as any other.
        let beyond = self.last == self.purged && found.last <= self.last;
        check(found.last == self.last || beyond, "last")?;
        for (index, entry) in &found.entries {
            check(self.entries.get(index) == Some(entry), "another entry")?;
        }
        let mut wanted = self.entries.keys().filter(|i| Some(**i) > floor);
        check(
            wanted.all(|i| found.entries.contains_key(i)),
            "an entry is missing",
        )
    }
}

/// Chooses what to do next as a node might: `vote` is its term.
fn choose(state: &Model, rng: &mut Rng) -> Op {
    let mut below = |n: u64| rng.below(n);
    let term = state.vote.map_or(0, |v| v.leader_id().term);
    let last = state.last.map_or(0, |l| l.index);
    let committed = state.committed.map_or(0, |c| c.index);
    let term_at = |index: u64| {
        let entry = state.entries.get(&index).map(|e| e.log_id);
        entry.or(state.snapshot).map_or(0, |l| l.leader_id.term)
    };
    let append = |below: &mut dyn FnMut(u64) -> u64| Op::Append {
        term,
        first: state.last.map_or(0, |l| l.index + 1),
        sizes: (0..=below(4))
            .map(|_| SIZES[usize::try_from(below(6)).unwrap()])
            .collect(),
    };
    match below(100) {
        _ if term == 0 => Op::Vote(1),
        0..8 => Op::Vote(term + 1),
        8..18 if last > committed + 1 => {
            let from = committed + 1 + below(last - committed);
            Op::Truncate(term_at(from), from)
        }
        18..30 if last > committed => {
            let to = committed + 1 + below(last - committed);
            Op::Committed(term_at(to), to)
        }
        30..38 if Some(committed) > state.snapshot.map(|s| s.index) => {
            Op::Snapshot(term_at(committed), committed)
        }
        38..46 if state.snapshot.is_some_and(|s| s.index < last) => {
            let snapshot = state.snapshot.unwrap();
            match state.purged {
                Some(purged) if purged.index + 1 >= snapshot.index => append(&mut below),
                purged => {
                    let floor = purged.map_or(0, |p| p.index + 1);
                    let to = floor + below(snapshot.index + 1 - floor);
                    Op::Purge(term_at(to), to)
                }
            }
        }
        // From a leader that is far ahead.
        46..48 => Op::Snapshot(term, last + 50),
        _ => append(&mut below),
    }
}

pub(super) async fn carry_out(log: &mut LogStore, snapshots: &SnapshotDir, op: &Op) {
    match op {
        Op::Append { term, first, sizes } => {
            let entries: Vec<Entry> = (*first..)
                .zip(sizes)
                .map(|(index, size)| entry(*term, index, *size))
                .collect();
            log.blocking_append(entries).await.unwrap();
        }
        Op::Truncate(term, from) => log.truncate(log_id(*term, 1, *from)).await.unwrap(),
        Op::Vote(term) => log.save_vote(&Vote::new(*term, 1)).await.unwrap(),
        Op::Committed(term, index) => {
            let mark = log_id(*term, 1, *index);
            log.save_committed(Some(mark)).await.unwrap();
        }
        Op::Snapshot(term, index) => {
            let state = State {
                applied: Some(log_id(*term, 1, *index)),
                ..State::default()
            };
            snapshots.write(&state).unwrap();
        }
        Op::Purge(term, index) => log.purge(log_id(*term, 1, *index)).await.unwrap(),
    }
}

/// Not a test of its own: the child that `run` starts.
#[tokio::test]
#[ignore = "started by other tests"]
async fn child_works_until_killed() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let seed = std::env::var_os(SEED).unwrap().into_string().unwrap();
    let mut rng = Rng::seeded(seed.parse().unwrap());
    let mut state = Model::read(&dir).await.unwrap();
    let (mut log, _disk) = LogStore::open(&dir, Meters::default()).await.unwrap();
    let (snapshots, _) = SnapshotDir::open(&dir.join("snapshots"), log.purged()).unwrap();
    let mut out = std::io::stdout();
    let mut say = |what: &str, op: &Op| {
        writeln!(out, "\n{what} {}", serde_json::to_string(op).unwrap()).unwrap();
        out.flush().unwrap();
    };
    for _ in 0..OPERATIONS {
        // As openraft does when a snapshot goes beyond the log, also when it starts.
        let op = match state.snapshot {
            Some(s) if Some(s) > state.last => Op::Purge(s.leader_id.term, s.index),
            Some(s) if Some(s) > state.committed => Op::Committed(s.leader_id.term, s.index),
            _ => choose(&state, &mut rng),
        };
        say("try", &op);
        carry_out(&mut log, &snapshots, &op).await;
        say("acked", &op);
        state.apply(&op);
        // A leader of a later term writes where something was cut off.
        if let Op::Truncate(..) = op {
            let term = state.vote.unwrap().leader_id().term + 1;
            say("try", &Op::Vote(term));
            carry_out(&mut log, &snapshots, &Op::Vote(term)).await;
            say("acked", &Op::Vote(term));
            state.apply(&Op::Vote(term));
        }
    }
}

/// When the child dies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Death {
    /// The parent kills it once it read as many lines.
    Lines(usize),
    /// It kills itself, at a point of `powerloss.c` if `env` loads that.
    Itself,
}

/// What a child told before it died.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) acked: Vec<Op>,
    pub(super) under_way: Option<Op>,
}

/// Starts `test` of this program on `dir`, and gives every line it said until it died by the signal.
pub(super) fn run_child(
    test: &str,
    dir: &Path,
    env: &[(&str, &std::ffi::OsStr)],
    death: Death,
) -> Vec<String> {
    let errors = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(DIR, dir)
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .stderr(errors.reopen().unwrap())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // To the end of the pipe: what was acknowledged before the signal arrived counts too.
    for line in lines.map_while(Result::ok) {
        said.push(line);
        if matches!(death, Death::Lines(n) if n == said.len()) {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    let errors = std::fs::read_to_string(errors.path()).unwrap();
    assert_eq!(status.signal(), Some(9), "{said:?} {errors}");
    said
}

pub(super) fn dir_of_child() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// Lets a child work on `dir` until `death`.
pub(super) fn run(dir: &Path, seed: u64, env: &[(&str, &std::ffi::OsStr)], death: Death) -> Told {
    let seed = seed.to_string();
    let mut all = vec![(SEED, seed.as_ref())];
    all.extend_from_slice(env);
    let mut told = Told::default();
    for line in run_child("tests::worker::child_works_until_killed", dir, &all, death) {
        if let Some(op) = line.strip_prefix("try ") {
            told.under_way = serde_json::from_str(op).ok();
        } else if let Some(op) = line.strip_prefix("acked ") {
            told.under_way = None;
            told.acked.extend(serde_json::from_str::<Op>(op).ok());
        }
    }
    told
}

/// The state in `dir` after a child's death, checked against what it was told; `before` is what it began with.
pub(super) async fn check(dir: &Path, before: &Model, told: &Told) -> Result<Model, String> {
    let found = Model::read(dir).await.map_err(|e| e.to_string())?;
    let mut wanted = before.clone();
    for op in &told.acked {
        wanted.apply(op);
    }
    let Err(lack) = wanted.lacking(&found) else {
        return Ok(found);
    };
    // What was under way may be there, whole.
    if let Some(op) = &told.under_way {
        wanted.apply(op);
        if wanted.lacking(&found).is_ok() {
            return Ok(found);
        }
    }
    let (last, purged) = (found.last, found.purged);
    Err(format!(
        "{lack}: found last {last:?}, purged {purged:?}, {:?}, snapshot {:?}; wanted {:?} {:?} {:?} {:?}; under way {:?}",
        found.vote,
        found.snapshot,
        wanted.last,
        wanted.purged,
        wanted.vote,
        wanted.snapshot,
        told.under_way
    ))
}
