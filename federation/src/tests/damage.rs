//! What lies on disk after a restart, and what is said when it is not what was written.

use std::{fs, path::Path, sync::Arc};

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{blank_ent, log_id};

use super::harness::{Hub, export, found, open, until};
use crate::{
    Store, StoreError, catalog::tests::name, engine::Layered, log_store::LogStore, meters::Meters,
    types::Entry, types::Vote,
};

async fn log(dir: &Path) -> Result<(LogStore, std::thread::JoinHandle<()>), StoreError> {
    fs::create_dir_all(dir).unwrap();
    LogStore::open(dir, Meters::default()).await
}

async fn close((log, thread): (LogStore, std::thread::JoinHandle<()>)) {
    log.close();
    drop(log);
    tokio::task::spawn_blocking(|| thread.join().unwrap())
        .await
        .unwrap();
}

fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|index| blank_ent(2, 1, index)).collect()
}

/// A log with entries 0 to 9, a vote and a commit.
async fn written(dir: &Path) {
    let mut opened = log(dir).await.unwrap();
    opened.0.save_vote(&Vote::new(2, 1)).await.unwrap();
    opened.0.blocking_append(entries(0..10)).await.unwrap();
    opened
        .0
        .save_committed(Some(log_id(2, 1, 7)))
        .await
        .unwrap();
    close(opened).await;
}

#[tokio::test]
async fn vote_log_and_commit_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let mut opened = log(dir.path()).await.unwrap();
    assert_eq!(opened.0.read_vote().await.unwrap(), Some(Vote::new(2, 1)));
    assert_eq!(
        opened.0.read_committed().await.unwrap(),
        Some(log_id(2, 1, 7))
    );
    assert_eq!(opened.0.last(), Some(log_id(2, 1, 9)));
    assert_eq!(
        opened.0.try_get_log_entries(0..20).await.unwrap(),
        entries(0..10)
    );
    opened.0.truncate(log_id(2, 1, 6)).await.unwrap();
    opened.0.purge(log_id(2, 1, 2)).await.unwrap();
    close(opened).await;
    let mut opened = log(dir.path()).await.unwrap();
    assert_eq!(opened.0.last(), Some(log_id(2, 1, 5)));
    assert_eq!(opened.0.purged(), Some(log_id(2, 1, 2)));
    assert_eq!(
        opened.0.try_get_log_entries(..).await.unwrap(),
        entries(3..6)
    );
}

#[tokio::test]
async fn large_entries_come_back_whole_and_stay_in_the_synced_file() {
    use tradewind_api::store::{Command, Stamped};
    let dir = tempfile::tempdir().unwrap();
    let mut opened = log(dir.path()).await.unwrap();
    opened.0.save_vote(&Vote::new(2, 1)).await.unwrap();
    let sized = |index: u64, commands: u64| {
        let command = |n| Stamped {
            proposer: name("west"),
            at_ms: n,
            command: Command::RevokeToken("x".repeat(200)),
            actor: None,
        };
        let mut entry: Entry = blank_ent(2, 1, index);
        entry.payload = openraft::EntryPayload::Normal(crate::Batch {
            commands: Arc::new((0..commands).map(command).collect()),
        });
        entry
    };
    // From a few hundred bytes to near a megabyte.
    let sizes = (0..60).map(|n| [1, 20, 200, 3_000][n % 4]);
    let written: Vec<Entry> = (0..).zip(sizes).map(|(i, n)| sized(i, n)).collect();
    for entry in &written {
        opened.0.blocking_append([entry.clone()]).await.unwrap();
    }
    close(opened).await;
    let mut opened = log(dir.path()).await.unwrap();
    let read = opened.0.try_get_log_entries(..).await.unwrap();
    assert!(read == written);
    let blobs = dir.path().join("log/blobs").read_dir().unwrap().count();
    assert_eq!(blobs, 0, "sled never fsyncs these");
    // One answer to a follower stays within a frame.
    let some = opened.0.limited_get_log_entries(0, 60).await.unwrap();
    assert!(!some.is_empty() && some.len() < 10, "{}", some.len());
}

#[tokio::test]
async fn a_log_that_lost_its_end_may_not_vote() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    settle(dir.path());
    // What sled without our fdatasync does in a power cut: the tail is gone, the mark is not.
    let db = sled::open(dir.path().join("log")).unwrap();
    for key in db
        .scan_prefix(b"e")
        .keys()
        .rev()
        .take(3)
        .map(Result::unwrap)
        .collect::<Vec<_>>()
    {
        db.remove(key).unwrap();
    }
    db.flush().unwrap();
    drop(db);
    let error = log(dir.path()).await.unwrap_err();
    let text = error.to_string();
    let fell = matches!(
        error,
        StoreError::FellBehind {
            last: Some(6),
            confirmed: 9,
            ..
        }
    );
    assert!(fell, "{text}");
    assert!(
        text.contains("must not vote") && text.contains("tradewind store rejoin"),
        "{text}"
    );
}

#[tokio::test]
async fn a_flipped_bit_in_an_entry_is_named() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    settle(dir.path());
    let db = sled::open(dir.path().join("log")).unwrap();
    let key = db.scan_prefix(b"e").keys().nth(4).unwrap().unwrap();
    let mut value = db.get(&key).unwrap().unwrap().to_vec();
    let middle = value.len() / 2;
    value[middle] ^= 1;
    db.insert(key, value).unwrap();
    db.flush().unwrap();
    drop(db);
    let text = log(dir.path()).await.unwrap_err().to_string();
    assert!(
        text.contains("log entry 4") && text.contains("checksum"),
        "{text}"
    );
}

/// Moves the log out of its journal.
fn settle(dir: &Path) {
    Layered::reopen(&dir.join("log")).unwrap().settle().unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn damage_anywhere_in_the_engines_files_is_an_error_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    written(&whole).await;
    damage(&whole, "log/journal/00000000000000000001.segment").await;
    settle(&whole);
    damage(&whole, "log/db").await;
}

async fn damage(whole: &Path, file: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for step in 0..24 {
        let copy = dir.path().join(format!("copy-{step}"));
        copy_tree(whole, &copy);
        let path = copy.join(file);
        let mut bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|b| *b != 0).unwrap();
        // The first round only copies: it shows that the rest of this test means something.
        if step > 0 {
            bytes[used * step / 24] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
        }
        match log(&copy).await {
            Ok(mut opened) => {
                let read = opened.0.try_get_log_entries(0..20).await.unwrap();
                assert_eq!(read, entries(0..10), "round {step}");
                harmless += 1;
                close(opened).await;
            }
            Err(error) => {
                assert!(step > 0, "{error}");
                let text = error.to_string();
                assert!(
                    text.contains("log") && text.contains("store rejoin"),
                    "{text}"
                );
                refused += 1;
            }
        }
    }
    println!("{file}: {refused} refused, {harmless} harmless");
    assert!(refused > 0);
}

#[tokio::test]
async fn a_hole_in_the_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    settle(dir.path());
    let db = sled::open(dir.path().join("log")).unwrap();
    let key = db.scan_prefix(b"e").keys().nth(4).unwrap().unwrap();
    db.remove(key).unwrap();
    db.flush().unwrap();
    drop(db);
    let text = log(dir.path()).await.unwrap_err().to_string();
    assert!(text.contains("log entry 4 is missing"), "{text}");
}

#[tokio::test]
async fn a_damaged_or_missing_vote_is_named() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let path = dir.path().join("vote");
    let whole = fs::read(&path).unwrap();
    for damaged in [&whole[..whole.len() - 3], &whole[..4], &[][..]] {
        fs::write(&path, damaged).unwrap();
        let text = log(dir.path()).await.unwrap_err().to_string();
        assert!(text.contains("vote") && text.contains("corrupt"), "{text}");
        // An older vote would let it vote twice.
        assert!(
            text.contains("rejoin") && !text.contains("backup"),
            "{text}"
        );
    }
    let mut newer = whole.clone();
    newer[5] = 9;
    fs::write(&path, &newer).unwrap();
    assert!(log(dir.path()).await.is_err());
    fs::remove_file(&path).unwrap();
    let text = log(dir.path()).await.unwrap_err().to_string();
    assert!(
        text.contains("missing although the log holds entries"),
        "{text}"
    );
    fs::write(&path, &whole).unwrap();
    fs::remove_file(dir.path().join("high-water")).unwrap();
    let text = log(dir.path()).await.unwrap_err().to_string();
    assert!(text.contains("high-water"), "{text}");
}

async fn single(hub: &Hub, dir: &Path) -> Result<Store, StoreError> {
    open(hub, dir.to_owned(), 1, &name("west")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_comes_back_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, path) = (Hub::default(), dir.path().join("store"));
    let store = single(&hub, &path).await.unwrap();
    store.found(found("west")).await.unwrap();
    for n in 0..10 {
        store
            .propose(&name("west"), export(&format!("s{n}"), 80))
            .await
            .unwrap();
    }
    let before = store.catalog();
    store.shutdown().await;
    drop(store);
    let store = single(&hub, &path).await.unwrap();
    until("it leads again", || store.status().can_write).await;
    let after = store.linearizable().await.unwrap();
    assert_eq!(
        (&after.exports, &after.clusterset_ips),
        (&before.exports, &before.clusterset_ips)
    );
    store.compact().await;
    store.shutdown().await;
    drop(store);
    let store = single(&hub, &path).await.unwrap();
    assert_eq!(
        store.catalog().exports.len(),
        10,
        "read from the snapshot alone"
    );
    store.shutdown().await;
    drop(store);

    let snapshots = path.join("snapshots");
    for file in fs::read_dir(&snapshots).unwrap() {
        let file = file.unwrap().path();
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
    }
    let text = single(&hub, &path).await.unwrap_err().to_string();
    assert!(
        text.contains("snapshot") && text.contains("corrupt"),
        "{text}"
    );
    fs::remove_dir_all(&snapshots).unwrap();
    let text = single(&hub, &path).await.unwrap_err().to_string();
    assert!(text.contains("no snapshot reaches log entry"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_directories_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::default();
    let missing = dir.path().join("no/such");
    let text = single(&hub, &missing).await.unwrap_err().to_string();
    assert!(text.contains("does not exist"), "{text}");
    let path = dir.path().join("store");
    let store = single(&hub, &path).await.unwrap();
    store.shutdown().await;
    drop(store);
    let other = open(&hub, path.clone(), 2, &name("east")).await;
    let text = other.unwrap_err().to_string();
    assert!(
        text.contains("node 1 of cluster west") && text.contains("node 2"),
        "{text}"
    );
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(single(&hub, &file).await.is_err());
}
