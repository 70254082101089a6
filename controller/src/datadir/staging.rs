//! A data directory in the making: built beside, moved into place with `node.json` last.
//!
//! Owns the directory's lock until it is done. Dropped before, it leaves nothing behind.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::Flock;
use tradewind_api::snapshot::Trust;

use super::{
    DataDir, DataDirError, NODE_FILE, NodeFile, STORE_DIR, check_directory, check_writable,
    kept_trust::TRUST_FILE, lock, unwritable, write_json,
};

const STAGING: &str = ".staging";
/// Keys live inside: nobody else needs to look.
const DIR_MODE: u32 = 0o700;

/// A directory in the making. Dropped without [`Staging::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    staging: PathBuf,
    created: bool,
    committed: bool,
    _lock: Flock<File>,
}

impl Staging {
    /// Checks that a cluster can be put at `path` without touching it: absent below a writable parent, or empty and
    /// writable.
    pub fn check(path: &Path) -> Result<(), DataDirError> {
        match check_directory(path) {
            Ok(()) => {
                if let Some(node) = DataDir::read_node(path)? {
                    return Err(DataDirError::Occupied {
                        path: path.to_owned(),
                        cluster: node.cluster,
                    });
                }
                if let Some(entry) = foreign_entry(path)? {
                    return Err(DataDirError::NotEmpty {
                        path: path.to_owned(),
                        entry,
                    });
                }
                check_writable(path)
            }
            Err(DataDirError::Missing(_)) => {
                let parent = existing_parent(path);
                if !parent.is_dir() {
                    return Err(DataDirError::NotADirectory(parent));
                }
                check_writable(&parent)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the directory and makes room to build in.
    pub fn begin(path: &Path) -> Result<Self, DataDirError> {
        Self::check(path)?;
        let created = !path.exists();
        if created {
            make_dir(path)?;
        }
        let lock = lock(path)?;
        // Somebody may have finished between the check and the lock.
        Self::check(path)?;
        let staging = path.join(STAGING);
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(|error| unwritable(&staging, &error))?;
        }
        make_dir(&staging)?;
        Ok(Self {
            target: path.to_owned(),
            staging,
            created,
            committed: false,
            _lock: lock,
        })
    }

    /// Where to build.
    pub fn path(&self) -> &Path {
        &self.staging
    }

    /// Where the store is built.
    pub fn store(&self) -> PathBuf {
        self.staging.join(STORE_DIR)
    }

    /// Puts everything in place, `node.json` last: from then on the directory is a cluster's.
    pub fn commit(mut self, node: &NodeFile, trust: &Trust) -> Result<(), DataDirError> {
        write_json(&self.staging.join(TRUST_FILE), trust)?;
        let node_file = self.staging.join(NODE_FILE);
        write_json(&node_file, node)?;
        let mut moved = Vec::new();
        let done = self.move_out(&node_file, &mut moved);
        if let Err(error) = done {
            for path in moved {
                remove_any(&path);
            }
            return Err(unwritable(&self.target, &error));
        }
        self.committed = true;
        Ok(())
    }

    fn move_out(&self, node_file: &Path, moved: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(&self.staging)? {
            let from = entry?.path();
            if from == node_file {
                continue;
            }
            let Some(name) = from.file_name() else {
                continue;
            };
            let to = self.target.join(name);
            fs::rename(&from, &to)?;
            moved.push(to);
        }
        File::open(&self.target)?.sync_all()?;
        fs::rename(node_file, self.target.join(NODE_FILE))?;
        moved.push(self.target.join(NODE_FILE));
        fs::remove_dir(&self.staging)?;
        File::open(&self.target)?.sync_all()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        remove_any(&self.staging);
        if self.created
            && let Err(error) = fs::remove_dir(&self.target)
        {
            tracing::warn!(path = %self.target.display(), %error, "an unfinished data directory is left behind");
        }
    }
}

fn remove_any(path: &Path) {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "an unfinished file is left behind");
    }
}

/// Whatever lies in the directory that we would not put away ourselves.
fn foreign_entry(path: &Path) -> Result<Option<String>, DataDirError> {
    let failed = |error: io::Error| unwritable(path, &error);
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // What mkfs leaves in every fresh volume is nobody's data, and staging is what a crash of ours left.
        if name != STAGING && name != "lost+found" {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

pub(super) fn existing_parent(path: &Path) -> PathBuf {
    let mut parent = path;
    while let Some(above) = parent.parent() {
        parent = if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        };
        if parent.exists() {
            break;
        }
    }
    parent.to_owned()
}

fn make_dir(path: &Path) -> Result<(), DataDirError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
        .map_err(|error| unwritable(path, &error))
}
