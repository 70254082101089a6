//! Every file of a store's directory, damaged in every way: cut off, flipped, zeroed, emptied, removed, replaced by an older
//! one. Each case is harmless, what was acknowledged being read back, or an error that names the file and says what to
//! do; never a panic, never silently less. `damage.rs` has the single cases with their exact words.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use openraft::{
    storage::{RaftLogStorage, RaftLogStorageExt},
    testing::log_id,
};

use super::{
    harness::{Hub, open},
    reopen::carry_out_all,
    worker::{Model, Op, entry, scratch},
};
use crate::{catalog::tests::name, log_store::LogStore, meters::Meters};

/// Of a large file as many places are flipped; more for longer runs.
const STEPS: &str = "TRADEWIND_TEST_ROT_STEPS";
/// What a file system loses at once.
const PAGE: usize = 4096;

fn steps() -> usize {
    let asked = std::env::var_os(STEPS).and_then(|n| n.into_string().ok());
    asked.map_or(12, |n| n.parse().expect("a number of steps"))
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

/// All files below `dir`, relative to it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = PathBuf::from(entry.file_name());
        if entry.path().is_dir() {
            all.extend(files(&entry.path()).into_iter().map(|f| name.join(f)));
        } else {
            all.push(name);
        }
    }
    all.sort();
    all
}

/// A store, the same one earlier in its life, and what must be found in it now.
struct Specimen {
    dir: tempfile::TempDir,
    wanted: Model,
}

impl Specimen {
    async fn new() -> Self {
        let dir = scratch();
        let now = dir.path().join("now");
        fs::create_dir(&now).unwrap();
        let append = |term, first, sizes: &[usize]| Op::Append {
            term,
            first,
            sizes: sizes.to_vec(),
        };
        let early = [
            Op::Vote(1),
            append(1, 0, &[200; 20]),
            Op::Committed(1, 10),
            Op::Snapshot(1, 8),
            Op::Purge(1, 5),
        ];
        let late = [
            Op::Truncate(1, 18),
            Op::Vote(2),
            // No more than the early log had: only the mark's term tells them apart.
            append(2, 18, &[40, 6_000]),
            Op::Committed(2, 19),
            Op::Snapshot(2, 18),
        ];
        let mut wanted = Model::default();
        carry_out_all(&now, &early).await;
        copy_tree(&now, &dir.path().join("older"));
        carry_out_all(&now, &late).await;
        early.iter().chain(&late).for_each(|op| wanted.apply(op));
        Self { dir, wanted }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("now")
    }

    /// The state found has everything, whichever of the two snapshots it began with.
    fn lacking(&self, mut found: Model, wanted: &Model) -> Result<(), String> {
        if found.snapshot >= wanted.purged {
            found.snapshot = wanted.snapshot;
        }
        wanted.lacking(&found)
    }

    /// What becomes of a copy in which `file` was replaced by `bytes`, or removed. True when it was refused.
    async fn suffers(&self, file: &Path, how: &str, bytes: Option<&[u8]>) -> bool {
        let case = format!("{} {how}", file.display());
        println!("{case}");
        let copy = self.dir.path().join("copy");
        drop(fs::remove_dir_all(&copy));
        copy_tree(&self.path(), &copy);
        match bytes {
            Some(bytes) => fs::write(copy.join(file), bytes).unwrap(),
            None => fs::remove_file(copy.join(file)).unwrap(),
        }
        let first = self.start(&copy, file, &case, &self.wanted).await;
        if first.is_err() {
            // The same at the next start: a supervisor tries again.
            let second = self.start(&copy, file, &case, &self.wanted).await;
            assert!(second.is_err(), "{case}: refused at first, then not");
            return true;
        }
        // What looked harmless must not come out later.
        let next = entry(2, 20, 300);
        let mut wanted = self.wanted.clone();
        wanted.last = Some(next.log_id);
        wanted.entries.insert(20, next.clone());
        let (mut log, disk) = LogStore::open(&copy, Meters::default()).await.unwrap();
        let appended = log.blocking_append([next]).await;
        log.close();
        drop(log);
        tokio::task::spawn_blocking(|| disk.join().unwrap())
            .await
            .unwrap();
        let Err(error) = appended else {
            return self.start(&copy, file, &case, &wanted).await.is_err();
        };
        assert!(error.to_string().contains("log"), "{case}: {error}");
        true
    }

    /// Opens the copy: everything is there, or an error says where and what to do.
    async fn start(
        &self,
        copy: &Path,
        file: &Path,
        case: &str,
        wanted: &Model,
    ) -> Result<(), String> {
        let read = tokio::time::timeout(Duration::from_secs(30), Model::read(copy));
        match read.await.unwrap_or_else(|_| panic!("{case}: hangs")) {
            Ok(found) => {
                let lack = self.lacking(found, wanted);
                lack.unwrap_or_else(|lack| panic!("{case}: silently lost: {lack}"));
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                // The engine's files are one thing to whoever reads this; a loss is the whole directory's.
                let top = file.components().next().unwrap();
                let named = text.contains(&copy.join(top).display().to_string());
                let lost = text.contains("the disk lost acknowledged writes");
                assert!(named || lost, "{case}: {text}");
                let helps = ["tradewind store rejoin", "backup", "use a newer one"];
                assert!(helps.iter().any(|h| text.contains(h)), "{case}: {text}");
                Err(text)
            }
        }
    }
}

/// Where a file of `length` bytes is flipped: everywhere in a small one.
fn places(length: usize) -> Vec<usize> {
    if length <= 128 {
        return (0..length).collect();
    }
    let mut all: Vec<usize> = (0..steps()).map(|n| length * n / steps()).collect();
    // The headers of frames, slots and segments.
    all.extend((0..40).step_by(3).filter(|n| *n < length));
    all.extend((length.saturating_sub(16)..length).step_by(3));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damaged_file_is_named_or_harmless() {
    let specimen = Specimen::new().await;
    let whole = specimen.path();
    let wanted = Model::read(&whole).await.unwrap();
    specimen.lacking(wanted, &specimen.wanted).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for file in files(&whole) {
        let bytes = fs::read(whole.join(&file)).unwrap();
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
        let mut cases = vec![("removed".to_owned(), None)];
        let lengths = [
            0,
            1,
            4,
            12,
            20,
            100,
            512,
            513,
            PAGE,
            used / 4,
            used / 2,
            used * 3 / 4,
        ];
        for length in lengths.into_iter().chain([used.saturating_sub(1)]) {
            if length < bytes.len() {
                let cut = bytes[..length].to_vec();
                cases.push((format!("cut to {length}"), Some(cut)));
            }
        }
        for (number, place) in places(used).into_iter().enumerate() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (number % 8);
            cases.push((format!("flipped at {place}"), Some(flipped)));
        }
        let pages = used.div_ceil(PAGE);
        for page in (0..pages).step_by(pages.div_ceil(steps()).max(1)) {
            let mut zeroed = bytes.clone();
            let end = (page * PAGE + PAGE).min(bytes.len());
            zeroed[page * PAGE..end].fill(0);
            cases.push((format!("page {page} zeroed"), Some(zeroed)));
        }
        if let Ok(older) = fs::read(specimen.dir.path().join("older").join(&file)) {
            cases.push(("older".to_owned(), Some(older)));
        }
        let (all, before) = (cases.len(), refused);
        for (how, bytes) in cases {
            if specimen.suffers(&file, &how, bytes.as_deref()).await {
                refused += 1;
            } else {
                harmless += 1;
            }
        }
        println!(
            "== {}: {} of {all} refused",
            file.display(),
            refused - before
        );
    }
    println!("{refused} refused, {harmless} harmless");
    assert!(refused > 50 && harmless > 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_old_copy_brings_back_is_refused_where_it_can_be_told() {
    let specimen = Specimen::new().await;
    let older = specimen.dir.path().join("older");
    // Two votes in one term would be possible.
    let vote = fs::read(older.join("vote")).unwrap();
    let file = Path::new("vote");
    assert!(specimen.suffers(file, "older", Some(&vote)).await);
    // The old log is as long as the new one, and its last entries are of another term.
    let copy = specimen.dir.path().join("rolled-back");
    copy_tree(&specimen.path(), &copy);
    fs::remove_dir_all(copy.join("log")).unwrap();
    copy_tree(&older.join("log"), &copy.join("log"));
    let text = Model::read(&copy).await.unwrap_err().to_string();
    assert!(text.contains("the disk lost acknowledged writes"), "{text}");
    // An older mark points to an entry that is of another term now.
    let mark = fs::read(older.join("high-water")).unwrap();
    let file = Path::new("high-water");
    assert!(specimen.suffers(file, "older", Some(&mark)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_identity_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (hub, west) = (Hub::default(), name("west"));
    let store = open(&hub, path.clone(), 1, &west).await.unwrap();
    store.shutdown().await;
    drop(store);
    let file = path.join("identity");
    let whole = fs::read(&file).unwrap();
    let cut = (0..whole.len()).map(|n| whole[..n].to_vec());
    let flipped = (0..whole.len()).map(|n| {
        let mut flipped = whole.clone();
        flipped[n] ^= 1 << (n % 8);
        flipped
    });
    for bytes in cut.chain(flipped) {
        fs::write(&file, bytes).unwrap();
        let text = open(&hub, path.clone(), 1, &west)
            .await
            .unwrap_err()
            .to_string();
        assert!(text.contains(&file.display().to_string()), "{text}");
        assert!(
            text.contains("corrupt") && text.contains("backup"),
            "{text}"
        );
    }
    // Where only it is gone, nobody takes the store for a new one.
    fs::write(path.join("vote"), b"something").unwrap();
    fs::remove_file(&file).unwrap();
    let text = open(&hub, path.clone(), 1, &west)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("identity") && text.contains("missing"),
        "{text}"
    );
}

/// The file rots under a store that runs: the engine may fail, but neither hang nor take anybody down, and the next start
/// has everything or says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_under_a_running_store_ends_in_words() {
    let specimen = Specimen::new().await;
    for part in 0..6 {
        let copy = specimen.dir.path().join(format!("running-{part}"));
        copy_tree(&specimen.path(), &copy);
        let (mut log, disk) = LogStore::open(&copy, Meters::default()).await.unwrap();
        let path = copy.join("log/db");
        let length = fs::metadata(&path).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let noise = vec![0x5a_u8; usize::try_from(length / 6).unwrap()];
        std::os::unix::fs::FileExt::write_all_at(&file, &noise, part * length / 6).unwrap();
        let mut wanted = specimen.wanted.clone();
        for index in 20..60 {
            let next = entry(2, index, 3_000);
            if log.blocking_append([next.clone()]).await.is_err() {
                break;
            }
            wanted.last = Some(next.log_id);
            wanted.entries.insert(index, next);
            if index == 30 {
                let purged = log.purge(log_id(2, 1, 18)).await;
                wanted.purged = wanted.purged.max(purged.is_ok().then(|| log_id(2, 1, 18)));
            }
        }
        log.close();
        drop(log);
        let closed = tokio::task::spawn_blocking(|| disk.join());
        let closed = tokio::time::timeout(Duration::from_secs(30), closed).await;
        closed.expect("closing hangs").unwrap().unwrap();
        let case = format!("rot in part {part}");
        let file = Path::new("log/db");
        let again = specimen.start(&copy, file, &case, &wanted).await;
        println!("{case}: {again:?}");
    }
}
