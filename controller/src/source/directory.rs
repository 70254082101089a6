//! The watched directory: every file's last good content, and the task that looks for changes.
//!
//! Owns what was read. The kernel says when to look, and at which files; besides it looks at all of them twice a second, by size and time,
//! which works on every file system. A file that breaks keeps what it said before; only a file that is removed takes it away.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    ops::Bound,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tradewind_runtime::{drain, task};

use super::{
    model::{Problem, SourceModel},
    yaml::{Parsed, Serving, assemble, parse, serving, with_rules},
};

/// How often the directory is looked at when the kernel says nothing: half a second is below what a person notices.
const POLL: Duration = Duration::from_millis(500);
/// Least time between two looks: whoever writes many files at once is read a few times, not once for each. As long is waited for a file that
/// is being written to be whole.
const SPACING: Duration = Duration::from_millis(10);
/// Paths that the kernel named since the last look; with more of them everything is looked at.
const MAX_NAMED: usize = 100;
/// Files read; whoever has more keeps them in Kubernetes.
const MAX_FILES: usize = 2_000;
/// Largest file read: a mebibyte of YAML is tens of thousands of lines.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Directories below directories; deeper is a loop or a mistake.
const MAX_DEPTH: usize = 6;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    size: u64,
    mtime_ns: i128,
    inode: u64,
}

#[derive(Debug, Default)]
struct FileState {
    fingerprint: Option<Fingerprint>,
    good: Parsed,
    broken: Option<Problem>,
}

/// What files and directories say together, read once. What cannot be read is an error, not a problem: somebody named it.
pub fn read(paths: &[PathBuf]) -> io::Result<SourceModel> {
    let mut found = BTreeMap::new();
    for path in paths {
        let metadata = fs::metadata(path).map_err(|e| named(path, &e))?;
        if metadata.is_dir() {
            list(path, 0, &mut found).map_err(|e| named(path, &e))?;
        } else {
            found.insert(path.clone(), fingerprint(&metadata));
        }
    }
    let mut files = Vec::new();
    let mut broken = Vec::new();
    for (path, fingerprint) in found {
        if fingerprint.size > MAX_FILE_BYTES {
            let text = format!("larger than {MAX_FILE_BYTES} bytes");
            return Err(named(&path, &io::Error::other(text)));
        }
        let text = fs::read_to_string(&path).map_err(|e| named(&path, &e))?;
        match parse(&path.display().to_string(), &text) {
            Ok(parsed) => files.push(parsed),
            Err(problem) => broken.push(problem),
        }
    }
    let mut model = assemble(&files);
    model.problems.extend(broken);
    model.problems.sort();
    Ok(model)
}

/// An error that says which file it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The directory's content as last read.
#[derive(Debug)]
pub struct Manifests {
    root: PathBuf,
    files: BTreeMap<PathBuf, FileState>,
    /// What they say of services, and whether that is what they say now: with many services it is most of what they say, and rules change
    /// without it.
    serving: Serving,
    serving_is_known: bool,
    trouble: Option<Problem>,
    listed: bool,
}

impl Manifests {
    /// Of the directory at `root`; nothing is read yet.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            files: BTreeMap::new(),
            serving: Serving::default(),
            serving_is_known: false,
            trouble: None,
            listed: false,
        }
    }

    /// Looks at the directory once; true when what it says has changed. Blocks on the file system.
    pub fn poll(&mut self) -> bool {
        let mut seen = BTreeMap::new();
        let listed = list(&self.root, 0, &mut seen);
        let trouble = listed.err().map(|error| Problem {
            place: self.root.display().to_string(),
            text: format!("cannot be read ({error}); what was read before stays in force"),
        });
        let mut changed = trouble != self.trouble;
        let complete = trouble.is_none();
        self.trouble = trouble;
        if complete {
            self.listed = true;
            // Only a complete listing proves that a file is gone.
            let gone = self
                .files
                .extract_if(.., |path, _| !seen.contains_key(path));
            for (_, file) in gone {
                changed = true;
                self.serving_is_known &= !file.good.serves();
            }
        }
        for (path, fingerprint) in seen {
            changed |= self.look_at(path, fingerprint);
        }
        changed
    }

    /// Looks once at what was named, where that are files that are known and still there, or nothing that is ever read; else at everything.
    /// True when what is said has changed.
    pub fn poll_named(&mut self, named: &BTreeSet<PathBuf>) -> bool {
        let mut seen = BTreeMap::new();
        for path in named {
            let metadata = fs::metadata(path).ok();
            let is_file = metadata.as_ref().is_some_and(fs::Metadata::is_file);
            if let Some(metadata) = metadata.filter(|_| is_file && self.files.contains_key(path)) {
                seen.insert(path.clone(), fingerprint(&metadata));
            } else if self.may_hold_files(path) {
                return self.poll();
            }
        }
        if !self.listed || self.trouble.is_some() {
            return self.poll();
        }
        let looks = seen.into_iter();
        looks.fold(false, |changed, (path, fingerprint)| {
            self.look_at(path, fingerprint) || changed
        })
    }

    /// Whether files come or go with it: it could be one, it is a directory, or it was one.
    fn may_hold_files(&self, path: &Path) -> bool {
        let from = (Bound::Included(path), Bound::Unbounded);
        let held = self.files.range::<Path, _>(from).next();
        is_yaml(path) || path.is_dir() || held.is_some_and(|(file, _)| file.starts_with(path))
    }

    /// Reads a file if it looks changed; true when what it says has.
    fn look_at(&mut self, path: PathBuf, fingerprint: Fingerprint) -> bool {
        let name = path.strip_prefix(&self.root).unwrap_or(&path);
        let name = name.display().to_string();
        let state = self.files.entry(path.clone()).or_default();
        if state.fingerprint == Some(fingerprint) {
            return false;
        }
        let served = state.good.serves();
        let changed = refresh(state, &name, &path, fingerprint);
        if changed {
            self.serving_is_known &= !served && !state.good.serves();
        }
        changed
    }

    /// What all files say together.
    pub fn model(&mut self) -> SourceModel {
        let files = self.files.values().map(|f| &f.good);
        if !self.serving_is_known {
            self.serving = serving(files.clone()).keeping(&self.serving);
            self.serving_is_known = true;
        }
        let mut model = with_rules(files, self.serving.clone());
        model
            .problems
            .extend(self.files.values().filter_map(|f| f.broken.clone()));
        model.problems.extend(self.trouble.clone());
        model.problems.sort();
        model.read = self.listed;
        model
    }

    /// Looks again and again until the drain, and tells `out` of every change.
    pub async fn run(mut self, out: watch::Sender<Arc<SourceModel>>, mut drain: drain::Observer) {
        let mut first = true;
        let changes = Arc::new(Changes::default());
        let mut watcher = None;
        let mut named = None;
        let mut all_at = Instant::now();
        loop {
            if watcher.is_none() {
                watcher = kernel_watch(&self.root, Arc::clone(&changes));
            }
            let looked_at = Instant::now();
            if named.is_none() {
                all_at = looked_at;
            }
            let looked = task::spawn_blocking(move || {
                let changed = match &named {
                    Some(named) => self.poll_named(named),
                    None => self.poll(),
                };
                (self, changed)
            })
            .await;
            let Ok((this, changed)) = looked else {
                tracing::error!(
                    "the manifest reader ended unexpectedly; its last model stays in force"
                );
                return;
            };
            self = this;
            if changed || first {
                first = false;
                let mut model = self.model();
                model.keep(&out.borrow());
                self.serving.take(&model);
                for problem in &model.problems {
                    tracing::warn!(
                        place = problem.place,
                        problem = problem.text,
                        "manifest problem"
                    );
                }
                out.send_if_modified(|current| {
                    let new = **current != model;
                    if new {
                        *current = Arc::new(model);
                    }
                    new
                });
            }
            let told = tokio::select! {
                biased;
                () = drain.triggered() => return,
                () = changes.wait() => true,
                () = tokio::time::sleep_until(all_at + POLL) => false,
            };
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                () = tokio::time::sleep_until(looked_at + SPACING) => {}
            }
            // Before the look: what comes during it is for the next one.
            named = changes.take().filter(|_| told);
            if !self.listed || self.trouble.is_some() {
                // What is watched may be another directory than the one that is there now.
                watcher = None;
            }
        }
    }
}

/// What the kernel told since somebody waited last.
#[derive(Debug, Default)]
struct Changes {
    begun: Notify,
    whole: Notify,
    named: Mutex<Named>,
}

/// Which paths were spoken of; none where it may be any.
type Named = Option<BTreeSet<PathBuf>>;

impl Changes {
    fn name(&self, event: Option<&notify::Event>) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let event = event.filter(|event| !event.need_rescan() && !event.paths.is_empty());
        if let (Some(known), Some(event)) = (&mut *named, event) {
            known.extend(event.paths.iter().cloned());
        } else {
            *named = None;
        }
        if named.as_ref().is_some_and(|named| named.len() > MAX_NAMED) {
            *named = None;
        }
    }

    /// What was named since the last call.
    fn take(&self) -> Named {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.replace(BTreeSet::new())
    }

    fn tell(&self, event: &notify::Event) {
        if heard(event).is_some() {
            self.name(Some(event));
        }
        match heard(event) {
            Some(Heard::Begun) => self.begun.notify_one(),
            Some(Heard::Whole) => self.whole.notify_one(),
            None => {}
        }
    }

    /// Returns when there is something to look at: at once where it is whole, else when it is or had time to become so.
    async fn wait(&self) {
        tokio::select! {
            biased;
            () = self.whole.notified() => return,
            () = self.begun.notified() => {}
        }
        tokio::select! {
            biased;
            () = self.whole.notified() => {}
            () = tokio::time::sleep(SPACING) => {}
        }
    }
}

/// What an event means to who reads files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Something may be written still.
    Begun,
    /// A file was put into its place, or its writer has closed it.
    Whole,
}

fn heard(event: &notify::Event) -> Option<Heard> {
    let is_read = |path: &PathBuf| is_yaml(path);
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))
            if event.paths.iter().any(is_read) =>
        {
            Some(Heard::Whole)
        }
        EventKind::Access(_) => None,
        _ => Some(Heard::Begun),
    }
}

fn is_yaml(path: &Path) -> bool {
    let extension = path.extension();
    extension.is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

/// Has the kernel tell of changes. Without, the directory is looked at all the same.
fn kernel_watch(root: &Path, changes: Arc<Changes>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| match event {
        Ok(event) => changes.tell(&event),
        // What was missed may be anything.
        Err(_) => {
            changes.name(None);
            changes.begun.notify_one();
        }
    };
    let watched = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    match watched {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::debug!(directory = %root.display(), %error, "the kernel does not tell of changes here; they are looked for twice a second");
            None
        }
    }
}

/// Reads a file that looks changed; true when what it says, or what is wrong with it, has changed.
fn refresh(state: &mut FileState, name: &str, path: &Path, fingerprint: Fingerprint) -> bool {
    let before = state.broken.take();
    let trouble = |text: String| {
        Some(Problem {
            place: name.to_owned(),
            text,
        })
    };
    if fingerprint.size > MAX_FILE_BYTES {
        state.fingerprint = Some(fingerprint);
        state.broken = trouble(format!(
            "larger than {MAX_FILE_BYTES} bytes; what was read before stays in force"
        ));
        return state.broken != before;
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            // Not remembered as seen: it is tried again at the next look.
            state.broken = trouble(format!(
                "cannot be read ({error}); what was read before stays in force"
            ));
            return state.broken != before;
        }
    };
    state.fingerprint = Some(fingerprint);
    if text.trim().is_empty() && !state.good.objects.is_empty() {
        // Editors truncate before they write. An empty file takes nothing away; a removed one does.
        state.broken =
            trouble("empty; what it said before stays in force until it is removed".into());
        return state.broken != before;
    }
    match parse(name, &text) {
        Ok(mut parsed) => {
            parsed.keep(&state.good);
            let changed = state.good != parsed;
            state.good = parsed;
            changed || before.is_some()
        }
        Err(mut problem) => {
            problem
                .text
                .push_str("; what the file said before stays in force");
            state.broken = Some(problem);
            state.broken != before
        }
    }
}

fn list(
    directory: &Path,
    depth: usize,
    found: &mut BTreeMap<PathBuf, Fingerprint>,
) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with('.'));
        // A file may vanish between the listing and the look: then it is gone.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if hidden {
            continue;
        }
        if metadata.is_dir() {
            if depth < MAX_DEPTH {
                list(&path, depth + 1, found)?;
            }
            continue;
        }
        if !metadata.is_file() || !is_yaml(&path) {
            continue;
        }
        if found.len() >= MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
        found.insert(path, fingerprint(&metadata));
    }
    Ok(())
}

fn fingerprint(metadata: &fs::Metadata) -> Fingerprint {
    Fingerprint {
        size: metadata.size(),
        mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        inode: metadata.ino(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: payments, namespace: shop}\nspec:\n  ports:\n  - {name: http, port: 80}\n";

    #[test]
    fn broken_and_empty_files_keep_what_was_good_and_removed_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        let mut manifests = Manifests::new(dir.path().to_owned());
        assert!(!manifests.poll());
        fs::write(&file, SERVICE).unwrap();
        assert!(manifests.poll());
        assert_eq!(manifests.model().services.len(), 1);
        assert!(!manifests.poll(), "nothing changed");

        for bad in [
            "a: [",
            "",
            "a: {",
            "  \n",
            "kind: Service\napiVersion: v1\nspec: 3\n",
        ] {
            fs::write(&file, bad).unwrap();
            assert!(manifests.poll(), "{bad:?} is a change");
            let model = manifests.model();
            assert_eq!(model.services.len(), 1, "{bad:?}");
            assert_eq!(model.problems.len(), 1, "{bad:?}");
            assert!(
                model.problems[0].to_string().contains("stays in force"),
                "{}",
                model.problems[0]
            );
            assert!(model.problems[0].place.starts_with("a.yaml"));
        }
        fs::write(&file, SERVICE).unwrap();
        assert!(manifests.poll());
        assert!(manifests.model().problems.is_empty());
        fs::remove_file(&file).unwrap();
        assert!(manifests.poll());
        assert!(manifests.model().services.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_whole_is_looked_at_at_once_and_what_is_being_written_a_little_later() {
        let event = |kind, name: &str| notify::Event::new(kind).add_path(name.into());
        let put = EventKind::Modify(ModifyKind::Name(RenameMode::Both));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let written = EventKind::Modify(ModifyKind::Any);
        let after = async |told: &[notify::Event]| {
            let changes = Changes::default();
            told.iter().for_each(|event| changes.tell(event));
            let started = Instant::now();
            let waited = tokio::time::timeout(POLL, changes.wait()).await;
            waited.ok().map(|()| started.elapsed())
        };
        let now = Some(Duration::ZERO);
        assert_eq!(
            after(&[event(put, "a.new").add_path("a.yaml".into())]).await,
            now
        );
        assert_eq!(
            after(&[event(written, "a.yaml"), event(closed, "a.yaml")]).await,
            now
        );
        assert_eq!(after(&[event(written, "a.yaml")]).await, Some(SPACING));
        // A directory's name says nothing.
        assert_eq!(after(&[event(put, "deeper")]).await, Some(SPACING));
        let read = EventKind::Access(AccessKind::Open(AccessMode::Read));
        assert_eq!(
            after(&[event(read, "a.yaml"), event(closed, "a.new")]).await,
            None
        );
    }

    #[test]
    fn the_kernel_names_files_until_somebody_takes_them_or_they_are_too_many() {
        let event = |name: &str| {
            notify::Event::new(EventKind::Modify(ModifyKind::Any)).add_path(name.into())
        };
        let changes = Changes::default();
        changes.tell(&event("a.yaml"));
        assert_eq!(changes.take(), None, "nothing was looked at yet");
        assert_eq!(changes.take(), Some(BTreeSet::new()));
        changes.tell(&event("a.yaml"));
        changes.tell(&event("b.yaml").add_path("c".into()));
        let named = ["a.yaml", "b.yaml", "c"].map(PathBuf::from);
        assert_eq!(changes.take(), Some(BTreeSet::from(named)));
        changes.tell(&event("a.yaml"));
        // The kernel has lost some.
        changes.tell(&notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan));
        changes.tell(&event("b.yaml"));
        assert_eq!(changes.take(), None);
        for n in 0..=MAX_NAMED {
            changes.tell(&event(&format!("{n}.yaml")));
        }
        assert_eq!(changes.take(), None);
    }

    #[test]
    fn what_is_named_is_looked_at_alone_where_that_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, service: &str| {
            let text = SERVICE.replace("payments", service);
            fs::write(dir.path().join(name), text).unwrap();
        };
        let mut manifests = Manifests::new(dir.path().to_owned());
        let mut look = |names: &[&str]| {
            let named = names.iter().map(|name| dir.path().join(name)).collect();
            let changed = manifests.poll_named(&named);
            let model = manifests.model();
            let names = model.services.keys().map(|name| name.name().to_owned());
            (changed, names.collect::<Vec<_>>().join(" "))
        };
        put("a.yaml", "one");
        assert_eq!(look(&[]), (true, "one".into()), "all of it, at first");
        put("b.yaml", "second");
        fs::create_dir(dir.path().join("deeper")).unwrap();
        put("deeper/c.yaml", "third");
        assert_eq!(look(&["a.yaml"]), (false, "one".into()));
        assert_eq!(
            look(&["b.new", "a.yaml"]),
            (false, "one".into()),
            "never read"
        );
        assert_eq!(
            look(&["b.yaml"]),
            (true, "one second third".into()),
            "not known yet"
        );
        put("a.yaml", "first");
        put("deeper/c.yaml", "thirteenth");
        assert_eq!(
            look(&["deeper/c.yaml"]),
            (true, "one second thirteenth".into())
        );
        assert_eq!(
            look(&["a.new", "a.yaml"]),
            (true, "first second thirteenth".into())
        );
        assert_eq!(look(&["a.yaml"]), (false, "first second thirteenth".into()));
        put("a.yaml", "eleventh");
        assert_eq!(
            look(&["deeper"]),
            (true, "eleventh second thirteenth".into()),
            "a directory"
        );
        fs::remove_dir_all(dir.path().join("deeper")).unwrap();
        assert_eq!(
            look(&["deeper"]),
            (true, "eleventh second".into()),
            "it was one"
        );
        put("b.yaml", "sixth");
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        assert_eq!(
            look(&["a.yaml"]),
            (true, "sixth".into()),
            "a file that is gone"
        );
    }

    #[test]
    fn rules_change_without_services_and_what_did_not_change_is_the_same_allocation() {
        const ROUTE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: vs, namespace: shop}\n";
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("a.yaml", SERVICE);
        put("b.yaml", ROUTE);
        let mut manifests = Manifests::new(dir.path().to_owned());
        let mut look = || {
            assert!(manifests.poll());
            manifests.model()
        };
        let first = look();
        put(
            "b.yaml",
            &format!("{ROUTE}---\n{ROUTE}spec: {{hosts: [payments]}}\n"),
        );
        let rules = look();
        assert!(rules.services.is(&first.services));
        assert_eq!(rules.policy.len(), 2);
        assert!(Arc::ptr_eq(&rules.policy[0], &first.policy[0]));
        // The file says the same of its service, and of another one.
        let other = SERVICE.replace("payments", "cart");
        put("a.yaml", &format!("{SERVICE}---\n{other}"));
        let both = look();
        assert_eq!(both.services.differing(&first.services).len(), 1);
        put("b.yaml", &other.replace("cart", "orders"));
        assert_eq!(look().services.len(), 3);
        fs::remove_file(dir.path().join("b.yaml")).unwrap();
        let last = look();
        assert_eq!(last.services, both.services);
        assert!(last.policy.is_empty());
    }

    #[test]
    fn files_are_read_once_for_who_asks() {
        const ROUTE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: vs, namespace: shop}\n";
        let dir = tempfile::tempdir().unwrap();
        let (route, service) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
        fs::write(&route, ROUTE).unwrap();
        fs::write(&service, SERVICE).unwrap();
        let mut manifests = Manifests::new(dir.path().to_owned());
        assert!(manifests.poll());
        let watched = manifests.model();
        assert!(watched.problems.is_empty(), "{:?}", watched.problems);
        assert_eq!(watched.policy[0].place, "a.yaml:1");

        let asked = read(&[dir.path().to_owned()]).unwrap();
        assert_eq!((asked.policy.len(), asked.services.len()), (1, 1));
        assert!(asked.problems.is_empty(), "{:?}", asked.problems);
        let one = read(&[route]).unwrap();
        assert_eq!((one.policy.len(), one.services.len()), (1, 0));
        fs::write(&service, "a: [").unwrap();
        assert_eq!(read(&[service]).unwrap().problems.len(), 1);
        let missing = read(&[dir.path().join("missing")]).unwrap_err();
        assert!(missing.to_string().contains("missing"), "{missing}");
    }

    #[test]
    fn a_directory_that_vanishes_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("manifests");
        fs::create_dir_all(root.join("deeper")).unwrap();
        fs::write(root.join("deeper/a.yml"), SERVICE).unwrap();
        fs::write(root.join("deeper/.hidden.yml"), "a: [").unwrap();
        fs::write(root.join("notes.txt"), "a: [").unwrap();
        let mut manifests = Manifests::new(root.clone());
        assert!(manifests.poll());
        fs::remove_dir_all(&root).unwrap();
        assert!(manifests.poll());
        let model = manifests.model();
        assert_eq!(model.services.len(), 1);
        assert_eq!(model.problems.len(), 1);
    }
}
