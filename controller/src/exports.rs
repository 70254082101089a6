//! Which services this cluster wants to export: by command (`exports.json`) and by ServiceExport in the YAML files.
//!
//! Owns `exports.json`, and who asked last, as long as this process lives. The time of the first export is kept there, because the oldest export wins conflicts: a restart
//! must not make an export younger.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tradewind_api::ServiceName;
use tradewind_runtime::files::{FileError, atomic_write};

use crate::source::Asked;

const FILE: &str = "exports.json";
const VERSION: u32 = 1;
/// As many as the store takes of one cluster.
pub const MAX_INTENTS: usize = 10_000;

/// Characters kept of who asked: the store refuses a write that names somebody in more than 300 bytes.
const MAX_ASKER: usize = 75;

/// What is wanted, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// When it was first wanted, Unix ms.
    pub created_at_ms: u64,
    /// Wanted by command; false where a file asked for it (its time is remembered as long as it does).
    pub by_command: bool,
}

/// All that is wanted by command, and the times of what files want.
pub type Intents = BTreeMap<ServiceName, Intent>;

/// The last word of an operator on one service: the controllers of a cluster tell each other, and the newest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commanded {
    /// When it was said, Unix ms; later than every word on this service that the controller knew.
    pub at_ms: u64,
    /// Since when it is wanted; none where it is wanted no longer.
    pub created_at_ms: Option<u64>,
}

/// All such words.
pub type Commands = BTreeMap<ServiceName, Commanded>;

/// Words that are kept: of what is wanted, and of as much again that is wanted no longer.
const MAX_COMMANDS: usize = 2 * MAX_INTENTS;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    exports: Intents,
    #[serde(default)]
    commands: Commands,
}

/// The intents, as a watched value and as a file. Clones are the same intents.
#[derive(Clone, Debug)]
pub struct Exports(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    writing: Mutex<()>,
    current: watch::Sender<Arc<Intents>>,
    commands: Mutex<Arc<Commands>>,
    askers: Mutex<BTreeMap<ServiceName, String>>,
}

impl Exports {
    /// Reads `exports.json` in `dir`; absent is empty.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        let path = dir.join(FILE);
        let (intents, commands) = match std::fs::read(&path) {
            Ok(bytes) => {
                let stored: Stored = serde_json::from_slice(&bytes)
                    .map_err(|e| FileError::corrupt(&path, e.to_string()))?;
                if stored.version > VERSION {
                    let what = format!(
                        "it has version {}, this program reads up to {VERSION}",
                        stored.version
                    );
                    return Err(FileError::corrupt(&path, what));
                }
                (stored.exports, stored.commands)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (Intents::new(), Commands::new())
            }
            Err(error) => {
                return Err(FileError::Io {
                    path,
                    action: "read",
                    source: error,
                });
            }
        };
        let commands = with_words(&commands, &Intents::new(), &intents, 0);
        let current = watch::Sender::new(Arc::new(intents));
        Ok(Self(Arc::new(Inner {
            path,
            writing: Mutex::default(),
            current,
            commands: Mutex::new(Arc::new(commands)),
            askers: Mutex::default(),
        })))
    }

    /// Remembers who asks for a service's export or for its end, for the log of changes. Before it is asked for: the
    /// change may be published at once.
    pub fn asked(&self, service: &ServiceName, by: &str) {
        let by: String = by.chars().take(MAX_ASKER).collect();
        let mut askers = self.0.askers.lock().unwrap_or_else(PoisonError::into_inner);
        // A story that is not told is the lesser evil beside one that grows for ever.
        if askers.len() < MAX_INTENTS || askers.contains_key(service) {
            askers.insert(service.clone(), by);
        }
    }

    /// Who asked last.
    pub fn asker(&self, service: &ServiceName) -> Option<String> {
        let askers = self.0.askers.lock().unwrap_or_else(PoisonError::into_inner);
        askers.get(service).cloned()
    }

    /// What is wanted now, and every change of it.
    pub fn watch(&self) -> watch::Receiver<Arc<Intents>> {
        self.0.current.subscribe()
    }

    /// What is wanted now.
    pub fn current(&self) -> Arc<Intents> {
        Arc::clone(&self.0.current.borrow())
    }

    /// What operators said last.
    pub fn commands(&self) -> Arc<Commands> {
        let commands = self
            .0
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&commands)
    }

    /// Replaces what is wanted by `change` of it, on disk first. False when that is the same. Blocks on the disk.
    pub fn update(&self, change: impl FnOnce(&Intents) -> Intents) -> Result<bool, FileError> {
        self.replace(|intents, commands| (change(intents), commands.clone()))
    }

    /// The same for what an operator says now.
    pub fn command(
        &self,
        now_ms: u64,
        change: impl FnOnce(&Intents) -> Intents,
    ) -> Result<bool, FileError> {
        self.replace(|intents, commands| {
            let after = change(intents);
            let commands = with_words(commands, intents, &after, now_ms);
            (after, commands)
        })
    }

    /// Takes what another controller of this cluster heard, where that is newer. Blocks on the disk.
    pub fn hear(&self, heard: &Commands) -> Result<bool, FileError> {
        self.replace(|intents, commands| {
            let (mut intents, mut commands) = (intents.clone(), commands.clone());
            for (service, word) in heard.iter().take(MAX_COMMANDS) {
                let known = commands.get(service);
                if known.is_some_and(|known| known.at_ms >= word.at_ms) {
                    continue;
                }
                commands.insert(service.clone(), *word);
                match word.created_at_ms {
                    Some(created_at_ms) => {
                        let intent = Intent {
                            created_at_ms,
                            by_command: true,
                        };
                        intents.insert(service.clone(), intent);
                    }
                    None if intents.get(service).is_some_and(|i| i.by_command) => {
                        intents.remove(service);
                    }
                    None => {}
                }
            }
            (intents, bounded(commands))
        })
    }

    fn replace(
        &self,
        change: impl FnOnce(&Intents, &Commands) -> (Intents, Commands),
    ) -> Result<bool, FileError> {
        let _one_writer = self
            .0
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (before, commands_before) = (self.current(), self.commands());
        let (after, commands) = change(&before, &commands_before);
        let same = *before == after;
        if same && *commands_before == commands {
            return Ok(false);
        }
        let stored = Stored {
            version: VERSION,
            exports: after,
            commands,
        };
        let bytes = serde_json::to_vec_pretty(&stored)
            .map_err(|e| FileError::corrupt(&self.0.path, e.to_string()))?;
        atomic_write(&self.0.path, &bytes, 0o600)?;
        *self
            .0
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(stored.commands);
        self.0.current.send_replace(Arc::new(stored.exports));
        Ok(!same)
    }
}

/// `commands` with a word on each service whose standing by command is another `after` than `before`.
fn with_words(commands: &Commands, before: &Intents, after: &Intents, now_ms: u64) -> Commands {
    let wanted = |intents: &Intents, service: &ServiceName| {
        let intent = intents.get(service).filter(|i| i.by_command);
        intent.map(|i| i.created_at_ms)
    };
    let mut all = commands.clone();
    for service in before.keys().chain(after.keys()) {
        let now = wanted(after, service);
        // What an older version noted has no word yet.
        let noted = all.get(service).map(|c| c.created_at_ms);
        if now == wanted(before, service) || noted.is_some_and(|noted| noted == now) {
            continue;
        }
        let later = all.get(service).map_or(0, |c| c.at_ms.saturating_add(1));
        let word = Commanded {
            at_ms: now_ms.max(later).max(now.unwrap_or(0)),
            created_at_ms: now,
        };
        all.insert(service.clone(), word);
    }
    bounded(all)
}

/// The oldest words on what is wanted no longer go first.
fn bounded(mut commands: Commands) -> Commands {
    while commands.len() > MAX_COMMANDS {
        let oldest = commands
            .iter()
            .min_by_key(|(_, c)| (c.created_at_ms.is_some(), c.at_ms))
            .map(|(service, _)| service.clone());
        let Some(oldest) = oldest else { break };
        commands.remove(&oldest);
    }
    commands
}

/// With `service` wanted by command. Its age is kept where it was wanted before.
pub fn with(intents: &Intents, service: &ServiceName, now_ms: u64) -> Intents {
    let mut after = intents.clone();
    let created_at_ms = intents.get(service).map_or(now_ms, |i| i.created_at_ms);
    after.insert(
        service.clone(),
        Intent {
            created_at_ms,
            by_command: true,
        },
    );
    after
}

/// Without `service` wanted by command.
pub fn without(intents: &Intents, service: &ServiceName) -> Intents {
    let mut after = intents.clone();
    after.remove(service);
    after
}

/// Brings the times of what files want up to date: new ones are noted, those no longer wanted are forgotten. What is
/// `published` already is as old as it is there: another controller of this cluster saw it first.
pub fn with_files<'a>(
    intents: &Intents,
    files: impl IntoIterator<Item = (&'a ServiceName, &'a Asked)>,
    published: impl Fn(&ServiceName) -> Option<u64>,
    now_ms: u64,
) -> Intents {
    let mut after: Intents = intents
        .iter()
        .filter(|(_, i)| i.by_command)
        .map(|(n, i)| (n.clone(), *i))
        .collect();
    for (service, asked) in files {
        let known = intents.get(service).copied();
        let mut intent = known.unwrap_or(Intent {
            created_at_ms: published(service).unwrap_or(now_ms),
            by_command: false,
        });
        // Where a wish says itself how old it is, its word stands: one that is made anew is younger.
        if let Some(created_at_ms) = asked.created_at_ms.filter(|_| !intent.by_command) {
            intent.created_at_ms = created_at_ms;
        }
        after.insert(service.clone(), intent);
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: &str) -> ServiceName {
        n.parse().unwrap()
    }

    #[test]
    fn ages_survive_restarts_and_changes_of_source() {
        let dir = tempfile::tempdir().unwrap();
        let exports = Exports::open(dir.path()).unwrap();
        let (pay, order) = (name("shop/payments"), name("shop/orders"));
        assert!(exports.update(|i| with(i, &pay, 5)).unwrap());
        assert!(!exports.update(|i| with(i, &pay, 9)).unwrap());
        let mut asked = Asked {
            place: "a.yaml:1".into(),
            created_at_ms: None,
        };
        assert!(
            exports
                .update(|i| with_files(i, [(&order, &asked)], |_| Some(7), 9))
                .unwrap()
        );
        assert!(
            !exports
                .update(|i| with_files(i, [(&order, &asked)], |_| None, 8))
                .unwrap()
        );

        let again = Exports::open(dir.path()).unwrap();
        assert_eq!(again.current(), exports.current());
        assert_eq!(again.current()[&pay].created_at_ms, 5);
        assert_eq!(again.current()[&order].created_at_ms, 7);
        // A wish that says itself how old it is, and one that was made anew under its name.
        for created in [3, 20] {
            asked.created_at_ms = Some(created);
            again
                .update(|i| with_files(i, [(&order, &asked), (&pay, &asked)], |_| None, 9))
                .unwrap();
            assert_eq!(again.current()[&order].created_at_ms, created);
            assert_eq!(again.current()[&pay].created_at_ms, 5, "by command");
        }
        again.update(|i| with_files(i, [], |_| None, 9)).unwrap();
        assert_eq!(again.current().keys().collect::<Vec<_>>(), [&pay]);
        again.update(|i| without(i, &pay)).unwrap();
        assert!(again.current().is_empty());
    }

    #[test]
    fn the_newest_word_of_any_controller_stands() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |dir: &tempfile::TempDir| Exports::open(dir.path()).unwrap();
        let (first, second) = (open(&one), open(&two));
        let pay = name("shop/payments");
        assert!(first.command(100, |i| with(i, &pay, 100)).unwrap());
        assert!(second.hear(&first.commands()).unwrap());
        assert!(!second.hear(&first.commands()).unwrap());
        assert_eq!(second.current(), first.current());
        // A clock that is behind: the word comes after what it is about all the same.
        assert!(second.command(50, |i| without(i, &pay)).unwrap());
        assert!(!second.hear(&first.commands()).unwrap(), "older");
        assert!(first.hear(&second.commands()).unwrap());
        assert!(first.current().is_empty());
        let again = open(&one);
        assert_eq!(again.commands(), first.commands());
        assert!(again.command(60, |i| with(i, &pay, 60)).unwrap());
        assert!(second.hear(&again.commands()).unwrap());
        assert_eq!(second.current()[&pay].created_at_ms, 60);
    }

    #[test]
    fn a_corrupt_file_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, "{").unwrap();
        let error = Exports::open(dir.path()).unwrap_err();
        assert!(error.is_corrupt() && error.path() == path, "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{");
    }
}
