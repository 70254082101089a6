//! Data directories: there, writable, and used by one process at a time, or an error that says which of these fails.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, access};
use thiserror::Error;

use crate::files::advice;

/// A directory that cannot be used.
#[derive(Debug, Error)]
pub enum DirError {
    /// The directory above it does not exist, so the path is probably mistyped.
    #[error("cannot create {path}: {parent} does not exist; create it first or correct the path", path = path.display(), parent = parent.display())]
    MissingParent {
        /// The directory asked for.
        path: PathBuf,
        /// The one above it.
        parent: PathBuf,
    },
    /// Something else stands there.
    #[error("{path} is not a directory", path = path.display())]
    NotADirectory {
        /// The path asked for.
        path: PathBuf,
    },
    /// The process may not write there.
    #[error("{path} is not writable for this user; change its owner or choose another directory", path = path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
    },
    /// Another process uses it.
    #[error("{path} is in use by another running process; stop that one or choose another directory", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Anything else the kernel says.
    #[error("cannot use {path}: {source}{}", advice(source), path = path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl DirError {
    fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotWritable { path },
            io::ErrorKind::NotADirectory => Self::NotADirectory { path },
            _ => Self::Io { path, source },
        }
    }
}

/// Makes sure that `path` is a writable directory. A missing one is created with the permission bits `mode`, but not
/// what is above it; an existing one keeps its bits.
pub fn ensure_dir(path: &Path, mode: u32) -> Result<(), DirError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(DirError::NotADirectory {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, mode)?,
        Err(error) => return Err(DirError::io(path, error)),
    }
    access(
        path,
        AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK,
    )
    .map_err(|errno| DirError::io(path, errno.into()))
}

fn create(path: &Path, mode: u32) -> Result<(), DirError> {
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        && !parent.exists()
    {
        return Err(DirError::MissingParent {
            path: path.to_owned(),
            parent: parent.to_owned(),
        });
    }
    match DirBuilder::new().mode(mode).create(path) {
        // The umask may have taken bits away.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| DirError::io(path, error))
}

/// Holds a directory for this process until it is dropped or the process ends, however it ends.
#[derive(Debug)]
#[must_use = "the directory is held only while this lives"]
pub struct DirLock {
    _lock: Flock<File>,
}

/// Takes `path` for this process alone, by a lock on the file `lock` in it.
pub fn lock(path: &Path) -> Result<DirLock, DirError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(|error| DirError::io(path, error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(DirLock { _lock: lock }),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(DirError::InUse {
            path: path.to_owned(),
        }),
        Err((_, errno)) => Err(DirError::io(path, errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_one_level_with_its_mode_and_accepts_what_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        ensure_dir(&path, 0o700).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o700
        );
        ensure_dir(&path, 0o755).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o700
        );
    }

    #[test]
    fn says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a").join("b");
        let error = ensure_dir(&deep, 0o700).unwrap_err();
        assert!(matches!(error, DirError::MissingParent { .. }), "{error}");
        assert!(!dir.path().join("a").exists(), "nothing is changed");

        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = ensure_dir(&file, 0o700).unwrap_err();
        assert!(matches!(error, DirError::NotADirectory { .. }), "{error}");
        let error = ensure_dir(&file.join("below"), 0o700).unwrap_err();
        assert!(matches!(error, DirError::NotADirectory { .. }), "{error}");
    }

    #[test]
    fn an_unwritable_directory_is_named() {
        // /proc refuses new entries to everybody, root included.
        let error = ensure_dir(Path::new("/proc/tradewind"), 0o700).unwrap_err();
        assert!(error.to_string().contains("/proc/tradewind"), "{error}");
    }

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let error = lock(dir.path()).unwrap_err();
        assert!(matches!(error, DirError::InUse { .. }), "{error}");
        drop(held);
        drop(lock(dir.path()).unwrap());
    }
}
