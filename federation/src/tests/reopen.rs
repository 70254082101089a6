//! After each kind of operation the directory is closed and read again, and must hold exactly what was acknowledged:
//! what openraft's suite, which never reopens a store, leaves out. `powerloss.rs` does the same with sudden death.

use std::path::Path;

use openraft::{
    EntryPayload, Membership, RaftSnapshotBuilder,
    storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine, Snapshot},
    testing::log_id,
};

use super::worker::{Model, Op, carry_out, entry};
use crate::{
    history::History,
    log_store::LogStore,
    machine::Machine,
    meters::Meters,
    snapshot::SnapshotDir,
    types::{Entry, TypeConfig, Vote},
};

fn append(term: u64, first: u64, sizes: &[usize]) -> Op {
    let sizes = sizes.to_vec();
    Op::Append { term, first, sizes }
}

/// A node's life in short, every kind of operation in it, and most of them twice.
fn script() -> Vec<Op> {
    vec![
        Op::Vote(1),
        append(1, 0, &[0, 40, 3_000]),
        append(1, 3, &[20_000, 0]),
        Op::Committed(1, 2),
        // Overwritten by a leader of a later term.
        Op::Truncate(1, 3),
        Op::Vote(2),
        append(2, 3, &[40; 8]),
        Op::Committed(2, 9),
        Op::Snapshot(2, 9),
        Op::Purge(1, 2),
        Op::Purge(2, 7),
        Op::Truncate(2, 10),
        Op::Vote(5),
        append(5, 10, &[0, 200]),
        // A snapshot from a leader that is far ahead: the log is dropped and goes on behind it.
        Op::Vote(6),
        Op::Snapshot(6, 40),
        Op::Purge(6, 40),
        Op::Committed(6, 40),
        append(6, 41, &[40, 0]),
        // Everything behind the snapshot is dropped again.
        Op::Truncate(6, 41),
        Op::Vote(7),
        append(7, 41, &[3_000]),
        Op::Snapshot(7, 41),
        Op::Purge(7, 41),
        Op::Vote(8),
        append(8, 42, &[0]),
    ]
}

/// Does `ops` in `dir`, opened once.
pub(super) async fn carry_out_all(dir: &Path, ops: &[Op]) {
    let (mut log, disk) = LogStore::open(dir, Meters::default()).await.unwrap();
    let (snapshots, _) = SnapshotDir::open(&dir.join("snapshots"), log.purged()).unwrap();
    for op in ops {
        carry_out(&mut log, &snapshots, op).await;
    }
    log.close();
    drop(log);
    tokio::task::spawn_blocking(|| disk.join().unwrap())
        .await
        .unwrap();
}

/// As it must be read when nothing was killed: purges are kept, too.
fn exactly(mut state: Model) -> Model {
    let floor = state.purged.map_or(0, |p| p.index + 1);
    state.entries = state.entries.split_off(&floor);
    state
}

#[tokio::test]
async fn every_operation_is_there_when_the_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = Model::default();
    for op in script() {
        carry_out_all(dir.path(), std::slice::from_ref(&op)).await;
        state.apply(&op);
        let found = Model::read(dir.path()).await.unwrap();
        assert_eq!(found, exactly(state.clone()), "after {op:?}");
    }
}

#[tokio::test]
async fn a_hundred_entries_purged_and_written_again_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = Model::default();
    let mut ops = vec![Op::Vote(1)];
    for round in 0..4 {
        let first = round * 100;
        ops.push(append(1, first, &[200; 100]));
        ops.push(Op::Committed(1, first + 99));
        ops.push(Op::Snapshot(1, first + 99));
        ops.push(Op::Purge(1, first + 89));
        carry_out_all(dir.path(), &ops).await;
        ops.drain(..).for_each(|op| state.apply(&op));
        let found = Model::read(dir.path()).await.unwrap();
        assert_eq!(found, exactly(state.clone()), "round {round}");
    }
}

#[tokio::test]
async fn a_membership_that_another_followed_is_known_to_be_committed() {
    let dir = tempfile::tempdir().unwrap();
    let voters = |all: &[u64]| {
        let all = all.iter().copied().collect();
        EntryPayload::Membership(Membership::new(vec![all], ()))
    };
    let meets = [
        (0, &[1][..], None),
        (2, &[1, 2], Some(0)),
        (5, &[2], Some(2)),
    ];
    for (index, all, committed) in meets {
        let (mut log, disk) = LogStore::open(dir.path(), Meters::default()).await.unwrap();
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        let first = log.last().map_or(0, |l| l.index + 1);
        let mut entries: Vec<Entry> = (first..index + 2).map(|i| entry(1, i, 0)).collect();
        let named = entries.iter_mut().find(|e| e.log_id.index == index);
        named.unwrap().payload = voters(all);
        log.blocking_append(entries).await.unwrap();
        log.close();
        drop(log);
        tokio::task::spawn_blocking(|| disk.join().unwrap())
            .await
            .unwrap();
        // Nothing was noted of any commit.
        let found = Model::read(dir.path()).await.unwrap();
        let committed = committed.map(|index| log_id(1, 1, index));
        assert_eq!(found.committed, committed, "with {all:?} at {index}");
    }
}

async fn machine(dir: &Path) -> Machine {
    let (snapshots, state) = SnapshotDir::open(&dir.join("snapshots"), None).unwrap();
    Machine::new(state, snapshots, History::default(), Meters::default(), 2).0
}

async fn built(machine: &mut Machine) -> Snapshot<TypeConfig> {
    let mut builder = machine.get_snapshot_builder().await;
    builder.build_snapshot().await.unwrap()
}

#[tokio::test]
async fn snapshots_built_and_installed_are_the_state_of_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    std::fs::create_dir(&here).unwrap();
    std::fs::create_dir(&there).unwrap();
    let mut first = machine(&here).await;
    let mut second = machine(&there).await;
    for step in 0..4 {
        let entries = (step * 5..step * 5 + 5).map(|index| entry(1, index, 40));
        first.apply(entries).await.unwrap();
        let last = log_id(1, 1, step * 5 + 4);
        let snapshot = built(&mut first).await;
        assert_eq!(snapshot.meta.last_log_id, Some(last));
        drop(first);
        first = machine(&here).await;
        assert_eq!(first.applied_state().await.unwrap().0, Some(last));

        let meta = snapshot.meta.clone();
        second
            .install_snapshot(&meta, snapshot.snapshot)
            .await
            .unwrap();
        drop(second);
        second = machine(&there).await;
        assert_eq!(second.applied_state().await.unwrap().0, Some(last));
        // What a start finds is what it hands on.
        let current = second.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(current.meta, meta);
    }
    // A snapshot that is not what it claims to be changes nothing.
    let snapshot = built(&mut first).await;
    let mut meta = snapshot.meta.clone();
    meta.last_log_id = Some(log_id(3, 1, 99));
    let refused = second.install_snapshot(&meta, snapshot.snapshot).await;
    assert!(refused.is_err());
    let (applied, _) = second.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 1, 19)));
    drop(second);
    let (applied, _) = machine(&there).await.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 1, 19)));
}
