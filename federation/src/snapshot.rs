//! Snapshots as files: `<index>-<term>-<node>.snapshot`, framed with magic, version and checksum, written by temp file,
//! fsync, rename, fsync of the directory. The two newest are kept. A snapshot that does not read is never used.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tradewind_runtime::{
    dirs,
    files::{self, FileError},
};

use crate::{
    catalog::Catalog,
    error::StoreError,
    medium::Hands,
    types::{LogId, SnapshotMeta, StoredMembership},
};

pub(crate) const MAGIC: [u8; 4] = *b"TWSN";
pub(crate) const VERSION: u16 = 1;
const SUFFIX: &str = ".snapshot";
/// The newest, and the one before it in case the newest is damaged.
const KEEP: usize = 2;

/// Everything that applying the log has made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) catalog: Catalog,
}

impl State {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: self.applied.map_or_else(
                || "00000000000000000000-0-0".to_owned(),
                |id| {
                    format!(
                        "{:020}-{}-{}",
                        id.index, id.leader_id.term, id.leader_id.node_id
                    )
                },
            ),
        }
    }
}

/// What openraft hands from hand to hand. It never looks inside.
#[derive(Debug)]
pub struct Content(Inside);

#[derive(Debug)]
enum Inside {
    /// One of our own, where it lies.
    File(PathBuf),
    /// One that came from the leader, read and found good.
    State(Box<State>),
}

impl Content {
    pub(crate) const fn file(path: PathBuf) -> Self {
        Self(Inside::File(path))
    }

    pub(crate) fn received(state: State) -> Self {
        Self(Inside::State(Box::new(state)))
    }

    /// Where it lies, if it is one of our own.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.0 {
            Inside::File(path) => Some(path),
            Inside::State(_) => None,
        }
    }

    /// The state inside, which must end at `expected`. Reads the file if there is one.
    pub(crate) fn state(self, expected: Option<LogId>) -> Result<State, FileError> {
        match self.0 {
            Inside::File(path) => read_expected(&path, expected),
            Inside::State(state) if state.applied == expected => Ok(*state),
            Inside::State(_) => Err(FileError::corrupt(
                Path::new("the received snapshot"),
                "it belongs to another snapshot",
            )),
        }
    }
}

/// The directory of one node's snapshots. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotDir {
    path: PathBuf,
    hands: Hands,
    current: Arc<Mutex<Option<SnapshotMeta>>>,
}

impl SnapshotDir {
    /// Opens the directory and loads the newest snapshot that is whole and that the log goes on from. `purged` is how
    /// far the log was purged.
    pub(crate) fn open(
        path: &Path,
        purged: Option<LogId>,
    ) -> Result<(Self, Option<State>), StoreError> {
        dirs::ensure_dir(path, 0o700)?;
        let this = Self {
            path: path.to_owned(),
            hands: Hands::default(),
            current: Arc::default(),
        };
        let floor = purged.map(|p| p.index);
        let mut damage = None;
        for file in this.newest_first()? {
            match read(&file) {
                Ok(state) if state.applied.map(|a| a.index) >= floor => {
                    this.set_current(&state);
                    return Ok((this, Some(state)));
                }
                Ok(_) => break,
                Err(error @ FileError::TooNew { .. }) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(%error, "a snapshot does not read, trying the one before it");
                    damage.get_or_insert(error);
                }
            }
        }
        match (damage, purged) {
            (Some(error), Some(_)) => Err(error.into()),
            (None, Some(purged)) => Err(StoreError::Corrupt {
                path: path.to_owned(),
                what: format!(
                    "no snapshot reaches log entry {}, up to which the log was purged",
                    purged.index
                ),
            }),
            // The log is whole from its start: it alone rebuilds everything.
            (_, None) => Ok((this, None)),
        }
    }

    /// The same, its files read and written by `hands`.
    pub(crate) fn with_hands(self, hands: Hands) -> Self {
        Self { hands, ..self }
    }

    pub(crate) fn hands(&self) -> Hands {
        self.hands.clone()
    }

    /// The newest snapshot's meta data and file.
    pub(crate) fn current(&self) -> Option<(SnapshotMeta, PathBuf)> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = current.clone()?;
        let path = self.file(&meta);
        Some((meta, path))
    }

    /// Where the snapshot with this meta data lies.
    pub(crate) fn file(&self, meta: &SnapshotMeta) -> PathBuf {
        self.path.join(format!("{}{SUFFIX}", meta.snapshot_id))
    }

    /// A file to receive into; openraft asks for one only where it moves snapshots itself.
    pub(crate) fn receiving(&self) -> PathBuf {
        self.path.join("receiving")
    }

    /// Writes `state` durably and makes it the newest.
    pub(crate) fn write(&self, state: &State) -> Result<(SnapshotMeta, PathBuf), FileError> {
        let kept = self.keep(state)?;
        self.set_current(state);
        self.prune();
        Ok(kept)
    }

    /// Writes `state` durably, for the next start to find it.
    pub(crate) fn keep(&self, state: &State) -> Result<(SnapshotMeta, PathBuf), FileError> {
        let meta = state.meta();
        let path = self.file(&meta);
        let payload = serde_json::to_vec(state)
            .map_err(|e| FileError::corrupt(&path, format!("it cannot be written down: {e}")))?;
        files::write_framed(&path, MAGIC, VERSION, &payload, 0o600)?;
        Ok((meta, path))
    }

    fn set_current(&self, state: &State) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(state.meta());
    }

    fn prune(&self) {
        let old = self.newest_first().unwrap_or_default();
        for path in old.iter().skip(KEEP) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, path = %path.display(), "cannot remove an old snapshot");
            }
        }
    }

    fn newest_first(&self) -> Result<Vec<PathBuf>, StoreError> {
        let failed = |source| FileError::Io {
            path: self.path.clone(),
            action: "read",
            source,
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = name.to_str().filter(|n| n.ends_with(SUFFIX)) {
                names.push(self.path.join(name));
            }
        }
        // The index leads the name, with its zeros.
        names.sort();
        names.reverse();
        Ok(names)
    }
}

/// Reads one and checks what it holds.
pub(crate) fn read(path: &Path) -> Result<State, FileError> {
    let Some((_, payload)) = files::read_framed(path, MAGIC, VERSION)? else {
        return Err(FileError::Missing {
            path: path.to_owned(),
        });
    };
    let state: State = serde_json::from_slice(&payload)
        .map_err(|e| FileError::corrupt(path, format!("it does not hold a snapshot: {e}")))?;
    state
        .catalog
        .validate()
        .map_err(|e| FileError::corrupt(path, e.to_string()))?;
    Ok(state)
}

/// Reads the snapshot in `path`, which must end at `expected`.
pub(crate) fn read_expected(path: &Path, expected: Option<LogId>) -> Result<State, FileError> {
    let state = read(path)?;
    if state.applied != expected {
        return Err(FileError::corrupt(path, "it belongs to another snapshot"));
    }
    Ok(state)
}
