//! Why a data directory cannot be used, whose fault that is, and what to do. Owns no state and touches no file.

use std::path::PathBuf;

use tradewind_api::ClusterName;
use tradewind_runtime::files::FileError;

use super::{NODE_FILE, VERSION};

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// There is no such directory.
    #[error("data directory {path} does not exist", path = .0.display())]
    Missing(PathBuf),
    /// Something else has that name.
    #[error("data directory {path} is not a directory", path = .0.display())]
    NotADirectory(PathBuf),
    /// It holds no cluster.
    #[error("data directory {path} holds no cluster: there is no {NODE_FILE} in it", path = .0.display())]
    Vacant(PathBuf),
    /// It holds a cluster already.
    #[error("data directory {path} already holds the cluster {cluster}", path = path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        cluster: ClusterName,
    },
    /// It holds other things, which are not ours to touch.
    #[error("data directory {path} is not empty: it holds {entry:?} but no {NODE_FILE}", path = path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One thing found in it.
        entry: String,
    },
    /// This process may not write there.
    #[error("data directory {path} is not writable: {why}", path = path.display())]
    Unwritable {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// Another process uses it.
    #[error("data directory {path} is in use by another process", path = .0.display())]
    Locked(PathBuf),
    /// The cluster left its federation.
    #[error("data directory {path} belongs to the cluster {cluster}, which left its federation", path = path.display())]
    Left {
        /// The directory.
        path: PathBuf,
        /// Whose it was.
        cluster: ClusterName,
    },
    /// A newer program wrote it.
    #[error("{path} has format version {found}, this program reads up to {VERSION}", path = path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A file in it makes no sense.
    #[error("{path} is corrupt: {why}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A file in it could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl DataDirError {
    /// What the operator can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Missing(_) | Self::Vacant(_) => {
                "run `tradewind init` to found a federation, or `tradewind join` to enter one, with this --data-dir".into()
            }
            Self::NotADirectory(_) => "name a directory with --data-dir".into(),
            Self::Occupied { .. } => {
                "start it with `tradewind controller`, or name another --data-dir for a new cluster".into()
            }
            Self::NotEmpty { .. } => {
                "name an empty or new --data-dir; if an interrupted init or join left this one, remove it first".into()
            }
            Self::Unwritable { path, .. } => format!(
                "make {} writable for the user that runs this, or name another --data-dir",
                path.display()
            ),
            Self::Locked(_) => "stop the other `tradewind controller` first, or name another --data-dir".into(),
            Self::Left { .. } => "to enter a federation again, join with a new --data-dir and a new token".into(),
            Self::TooNew { .. } => "run the newer tradewind that wrote it".into(),
            Self::Corrupt { .. } => {
                "restore the data directory from a backup; if there is none, join again under a new --data-dir".into()
            }
            Self::File(_) => "see that the disk is healthy and not full".into(),
        }
    }
}
