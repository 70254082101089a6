//! Disks that refuse: full, read-only, or failing at a sync. Each case runs in a process of its own, in a mount namespace
//! with a small tmpfs, or under a shim (`faults.c`) that fails the calls named in a file. A node on such a disk stops
//! with words that help, and has everything it acknowledged once the disk is well.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::harness::{Hub, export, found, open, until};
use crate::{ProposeError, Store, StoreError, catalog::tests::name};

/// Where the child's file system is mounted.
const MOUNT: &str = "TRADEWIND_TEST_SICK_DISK";
/// Where the child under the shim works.
const ROOT: &str = "FAULTS_ROOT";
/// The file that tells the shim what to fail.
const WHEN: &str = "FAULTS_WHEN";
/// Nothing in these tests may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `child` of this module where a tmpfs of `size` is mounted on a directory of its own. False if this machine does
/// not let us.
fn in_namespace(child: &str, size: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let script =
        format!("mount -t tmpfs -o size={size} none \"${MOUNT}\" && echo mounted && exec \"$@\"");
    for how in ["-m", "-Urm"] {
        let mut command = Command::new("unshare");
        command
            .args([how, "sh", "-c", &script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("tests::sick_disk::{child}")])
            .args(["--ignored", "--nocapture"])
            .env(MOUNT, dir.path());
        let Ok(done) = command.output() else {
            continue;
        };
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout).into_owned(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        );
        if out.starts_with("mounted") {
            println!("{out}");
            assert!(done.status.success(), "{out}\n{err}");
            return true;
        }
    }
    let _written = writeln!(
        std::io::stderr(),
        "SKIPPED: {child}: this machine lets no process mount a tmpfs in a namespace of its own"
    );
    false
}

fn mounted() -> Option<PathBuf> {
    std::env::var_os(MOUNT).map(PathBuf::from)
}

/// Collects panics of any thread: a sick disk is no reason for one.
fn panics() -> Arc<Mutex<Vec<String>>> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&all);
    std::panic::set_hook(Box::new(move |info| {
        let text = info.to_string();
        let _written = writeln!(std::io::stderr(), "{text}");
        kept.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text);
    }));
    all
}

async fn single(dir: &Path) -> Result<Store, StoreError> {
    let (hub, west) = (Hub::default(), name("west"));
    let opening = open(&hub, dir.to_owned(), 1, &west);
    timeout(PATIENCE, opening).await.expect("opening hangs")
}

async fn close(store: Store) {
    timeout(PATIENCE, store.shutdown())
        .await
        .expect("closing hangs");
    drop(store);
}

/// A change of some 40 KB.
fn large(n: usize) -> tradewind_api::store::Command {
    use tradewind_api::store::Command;
    let mut put = export(&format!("s{n}"), 80);
    if let Command::PutExport(export) = &mut put {
        let port = export.ports[0].clone();
        export.ports = (0..60)
            .map(|p| {
                let mut port = port.clone();
                port.name = format!("p{p}-{}", "x".repeat(8));
                port.port = 1000 + p;
                port
            })
            .collect();
    }
    put
}

/// Proposes until it fails: how many went well, and why it ended.
async fn fill(store: &Store, from: usize) -> (usize, ProposeError) {
    let until = Instant::now() + PATIENCE;
    for n in from.. {
        assert!(Instant::now() < until, "the disk never fills");
        if let Err(error) = propose(store, n).await {
            return (n, error);
        }
    }
    unreachable!()
}

fn has_all(store: &Store, acked: usize) {
    let catalog = store.catalog();
    for n in 0..acked {
        let service = format!("shop/s{n}").parse().unwrap();
        assert!(catalog.exports.contains_key(&service), "s{n} of {acked}");
    }
}

/// Fills the file system up to `spare_kib`.
fn fill_up(ballast: &Path, spare_kib: usize) {
    let mut file = fs::File::create(ballast).unwrap();
    let page = [1_u8; 4096];
    let mut length = 0_u64;
    while file.write_all(&page).is_ok() {
        length += 4096;
    }
    file.set_len(length.saturating_sub(spare_kib as u64 * 1024))
        .unwrap();
}

/// A store that leads and has everything.
async fn well(dir: &Path, acked: usize) -> Store {
    let store = single(dir).await.unwrap();
    if acked == 0 {
        store.found(found("west")).await.unwrap();
    }
    until("it leads", || store.status().can_write).await;
    store.linearizable().await.unwrap();
    has_all(&store, acked);
    store
}

/// The store stopped with `error`, says why where one asks, and what it knows can still be read.
async fn stopped(store: &Store, error: &ProposeError, acked: usize, words: &[&str]) {
    let again = propose(store, acked + 1_000).await.unwrap_err();
    until("it says so", || store.status().stopped.is_some()).await;
    let status = store.status().stopped.unwrap();
    for text in [error.to_string(), again.to_string(), status] {
        for word in words {
            assert!(text.contains(word), "no {word:?} in: {text}");
        }
    }
    assert!(error.is_unknown(), "{error}");
    has_all(store, acked);
}

async fn propose(store: &Store, n: usize) -> Result<(), ProposeError> {
    let west = name("west");
    let proposed = timeout(PATIENCE, store.propose(&west, large(n))).await;
    proposed.expect("a write hangs").map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn child_fills_its_disk() {
    let Some(mount) = mounted() else {
        return;
    };
    let panics = panics();
    let (dir, ballast) = (mount.join("store"), mount.join("ballast"));
    let mut acked = 0;
    // Each round leaves a little less, so that the disk fills in the middle of different things.
    for spare_kib in [300, 8, 0] {
        let store = well(&dir, acked).await;
        fill_up(&ballast, spare_kib);
        let (more, error) = fill(&store, acked).await;
        println!(
            "{spare_kib} KiB spare: {} more, then: {error}",
            more - acked
        );
        acked = more;
        let log = dir.join("log").display().to_string();
        let words = [
            log.as_str(),
            "No space left on device",
            "free space on its disk",
        ];
        stopped(&store, &error, acked, &words).await;
        close(store).await;
        match single(&dir).await {
            Ok(store) => close(store).await,
            Err(error) => {
                let text = error.to_string();
                println!("   opening it again: {text}");
                assert!(text.contains(&dir.display().to_string()), "{text}");
                assert!(text.contains("free space on its disk"), "{text}");
                assert!(!text.contains("rejoin"), "nothing is lost: {text}");
            }
        }
        fs::remove_file(&ballast).unwrap();
    }
    let store = well(&dir, acked).await;
    propose(&store, acked).await.unwrap();
    // A snapshot that finds no room stops the node too; the log it was made from is still there.
    fill_up(&ballast, 0);
    let snapshot = store.snapshot_fails().await;
    println!("a snapshot: {snapshot}");
    assert!(snapshot.contains("No space left on device"), "{snapshot}");
    assert!(snapshot.contains("free space on its disk"), "{snapshot}");
    assert!(snapshot.contains("snapshots"), "{snapshot}");
    close(store).await;
    fs::remove_file(&ballast).unwrap();
    let store = well(&dir, acked + 1).await;
    store.compact().await;
    propose(&store, acked + 1).await.unwrap();
    close(store).await;
    let store = well(&dir, acked + 2).await;
    close(store).await;
    let panics = panics.lock().unwrap();
    assert!(panics.is_empty(), "{panics:?}");
}

#[test]
fn a_full_disk_stops_the_node_and_loses_nothing() {
    in_namespace("child_fills_its_disk", "24m");
}

fn remount(mount: &Path, how: &str) {
    let done = Command::new("mount")
        .args(["-o", &format!("remount,{how}")])
        .arg(mount)
        .status();
    assert!(done.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn child_opens_on_a_read_only_disk() {
    let Some(mount) = mounted() else {
        return;
    };
    let panics = panics();
    let dir = mount.join("store");
    let store = well(&dir, 0).await;
    propose(&store, 0).await.unwrap();
    close(store).await;
    remount(&mount, "ro");
    for dir in [&dir, &mount.join("new")] {
        let text = single(dir).await.unwrap_err().to_string();
        println!("{text}");
        assert!(text.contains(&dir.display().to_string()), "{text}");
        assert!(text.contains("mount it writable again"), "{text}");
    }
    remount(&mount, "rw");
    close(well(&dir, 1).await).await;
    let panics = panics.lock().unwrap();
    assert!(panics.is_empty(), "{panics:?}");
}

#[test]
fn a_read_only_disk_is_named_when_a_store_is_opened_on_it() {
    in_namespace("child_opens_on_a_read_only_disk", "24m");
}

/// What goes wrong under a running store: error number and calls for `faults.c`, and words that must be said.
const FAULTS: [(&str, &str); 6] = [
    // As the kernel answers once it has found the file system broken and made it read-only.
    ("30 wos /", "mount it writable again"),
    ("30 wos /", "mount it writable again"),
    // A failed sync must never be tried again: the kernel may have dropped the pages, and says yes the second time.
    ("5 s- /high-water", "Input/output error"),
    ("5 s /log/journal", "Input/output error"),
    ("5 w- /log/journal", "Input/output error"),
    ("28 w- /log/journal", "free space on its disk"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn child_meets_faults() {
    let (Some(root), Some(when)) = (std::env::var_os(ROOT), std::env::var_os(WHEN)) else {
        return;
    };
    let (root, when) = (PathBuf::from(root), PathBuf::from(when));
    let panics = panics();
    let dir = root.join("store");
    let mut acked = 0;
    for (round, (fault, word)) in FAULTS.into_iter().enumerate() {
        let store = well(&dir, acked).await;
        for _ in 0..3 {
            propose(&store, acked).await.unwrap();
            acked += 1;
        }
        if round == 1 {
            store.compact().await;
        }
        fs::write(&when, fault).unwrap();
        let (more, error) = fill(&store, acked).await;
        println!("{fault}: {} more, then: {error}", more - acked);
        acked = more;
        stopped(&store, &error, acked, &[&dir.display().to_string(), word]).await;
        close(store).await;
        if when.exists() {
            match single(&dir).await {
                Ok(store) => close(store).await,
                Err(error) => {
                    let text = error.to_string();
                    println!("   opening it again: {text}");
                    assert!(text.contains(word), "{text}");
                }
            }
            fs::remove_file(&when).unwrap();
        }
    }
    // Calls that never return: the last, for they cannot be taken back.
    let store = well(&dir, acked).await;
    fs::write(&when, "0 s /log/journal").unwrap();
    let error = propose(&store, acked).await.unwrap_err();
    assert!(matches!(error, ProposeError::Timeout { .. }), "{error}");
    let busy = store.status().disk_busy_ms;
    assert!(busy.is_some_and(|ms| ms > 1_000), "{busy:?}");
    println!("hanging: {error}");
    close(store).await;
    // The engine panics where its last sync fails; no other thread may.
    let panics = panics.lock().unwrap();
    let known = |p: &String| p.contains("sled") && p.contains("logger.rs");
    assert!(panics.iter().all(known), "{panics:?}");
}

#[test]
fn a_disk_that_turns_read_only_or_fails_stops_the_node_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (source, shim) = (dir.path().join("faults.c"), dir.path().join("faults.so"));
    fs::write(&source, include_str!("faults.c")).unwrap();
    let built = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&shim, &source])
        .arg("-ldl")
        .output()
        .expect("a C compiler named cc is needed");
    assert!(built.status.success(), "{built:?}");
    let root = dir.path().canonicalize().unwrap().join("root");
    fs::create_dir(&root).unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::sick_disk::child_meets_faults"])
        .args(["--ignored", "--nocapture"])
        .env("LD_PRELOAD", &shim)
        .env(ROOT, root)
        .env(WHEN, dir.path().join("when"))
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&done.stdout);
    println!("{out}");
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{out}\n{err}");
}
