//! The data directory: what a cluster's controller keeps on disk, and the lock that lets one process at a time use it.
//!
//! Owns `node.json` (who this controller is, and where it last knew the other clusters) and `trust.json` (whom to
//! believe before the store has caught up). It must never change a directory it refuses, and never leave half a cluster
//! behind: a new one is staged beside and counts only once `node.json` is in place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::{AccessFlags, access},
};
use serde::{Deserialize, Serialize};
use tradewind_api::{ClusterName, Domain, Network, NodeId, Region, snapshot::Trust};
use tradewind_runtime::files::{FileError, atomic_write};

/// The format of `node.json` that this program writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// The file whose presence makes a directory a cluster's.
pub const NODE_FILE: &str = "node.json";
/// The store's directory.
pub const STORE_DIR: &str = "store";
const TRUST_FILE: &str = "trust.json";
const STAGING: &str = ".staging";
/// Keys live inside: nobody else needs to look.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// A node file lists clusters and their gateways; a mebibyte is thousands of them. More is some other file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where another cluster was last known to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownCluster {
    /// `host:port` of its gateways.
    pub gateways: Vec<String>,
    /// Its controllers' node ids.
    pub nodes: BTreeSet<NodeId>,
}

/// Who this controller is: the content of `node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// Format, [`VERSION`].
    pub version: u32,
    /// Its cluster.
    pub cluster: ClusterName,
    /// That cluster's region.
    pub region: Region,
    /// That cluster's network; its own name unless it shares one.
    pub network: Network,
    /// The federation's domain.
    pub domain: Domain,
    /// Its Raft node id.
    pub node_id: NodeId,
    /// The cluster that holds the root's key.
    pub founder: ClusterName,
    /// `host:port` under which the others dial its gateways, as the operator said.
    pub gateways: Vec<String>,
    /// Where the other clusters were last known to be.
    #[serde(default)]
    pub known_clusters: BTreeMap<ClusterName, KnownCluster>,
    /// True once the store here held the federation. If it is empty later, something was lost and has to come back
    /// from the others: nothing may be concluded from what is missing.
    #[serde(default)]
    pub replicated: bool,
    /// True once this cluster left: the directory is history.
    #[serde(default)]
    pub left: bool,
}

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

/// A cluster's directory, locked for this process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    node: NodeFile,
    _lock: Flock<File>,
}

impl DataDir {
    /// Opens and locks what `init` or `join` made.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        check_directory(path)?;
        let node = Self::read_node(path)?.ok_or_else(|| DataDirError::Vacant(path.to_owned()))?;
        if node.left {
            return Err(DataDirError::Left {
                path: path.to_owned(),
                cluster: node.cluster,
            });
        }
        check_writable(path)?;
        let lock = lock(path)?;
        Ok(Self {
            path: path.to_owned(),
            node,
            _lock: lock,
        })
    }

    /// Reads `node.json` without a lock; `None` where there is none.
    pub fn read_node(path: &Path) -> Result<Option<NodeFile>, DataDirError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let file = path.join(NODE_FILE);
        let Some(bytes) = read_bounded(&file)? else {
            return Ok(None);
        };
        let corrupt = |why: serde_json::Error| DataDirError::Corrupt {
            path: file.clone(),
            why: why.to_string(),
        };
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if version > u64::from(VERSION) {
            return Err(DataDirError::TooNew {
                path: file,
                found: version,
            });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this controller is.
    pub fn node(&self) -> &NodeFile {
        &self.node
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.path.join(STORE_DIR)
    }

    /// Writes where the other clusters are now, and whether the store holds the federation, if that changed.
    pub fn remember(
        &mut self,
        known: BTreeMap<ClusterName, KnownCluster>,
        replicated: bool,
    ) -> Result<(), DataDirError> {
        if self.node.known_clusters == known && self.node.replicated == replicated {
            return Ok(());
        }
        let mut node = self.node.clone();
        node.known_clusters = known;
        node.replicated = replicated;
        self.replace(node)
    }

    /// Marks the directory as history, after the cluster left.
    pub fn mark_left(&mut self) -> Result<(), DataDirError> {
        let mut node = self.node.clone();
        node.left = true;
        self.replace(node)
    }

    fn replace(&mut self, node: NodeFile) -> Result<(), DataDirError> {
        write_json(&self.path.join(NODE_FILE), &node)?;
        self.node = node;
        Ok(())
    }

    /// Whom to believe while the store is empty.
    pub fn trust(&self) -> Result<Option<Trust>, DataDirError> {
        let file = self.path.join(TRUST_FILE);
        let Some(bytes) = read_bounded(&file)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|why| DataDirError::Corrupt {
                path: file,
                why: why.to_string(),
            })
    }

    /// Writes whom to believe after the next start.
    pub fn save_trust(&self, trust: &Trust) -> Result<(), DataDirError> {
        write_json(&self.path.join(TRUST_FILE), trust)
    }
}

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

fn existing_parent(path: &Path) -> PathBuf {
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

fn unwritable(path: &Path, error: &io::Error) -> DataDirError {
    DataDirError::Unwritable {
        path: path.to_owned(),
        why: error.to_string(),
    }
}

fn check_directory(path: &Path) -> Result<(), DataDirError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(DataDirError::NotADirectory(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DataDirError::Missing(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(DataDirError::NotADirectory(existing_parent(path)))
        }
        Err(error) => Err(unwritable(path, &error)),
    }
}

fn check_writable(path: &Path) -> Result<(), DataDirError> {
    access(
        path,
        AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK,
    )
    .map_err(|errno| unwritable(path, &errno.into()))
}

/// The kernel lets go of it when the process ends, however it ends.
fn lock(path: &Path) -> Result<Flock<File>, DataDirError> {
    let directory = File::open(path).map_err(|error| unwritable(path, &error))?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => DataDirError::Locked(path.to_owned()),
        other => unwritable(path, &other.into()),
    })
}

fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    use std::io::Read as _;
    let failed = |error: io::Error, action| match error.kind() {
        io::ErrorKind::PermissionDenied => FileError::Permission {
            path: path.to_owned(),
            action,
        },
        _ => FileError::Io {
            path: path.to_owned(),
            action,
            source: error,
        },
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error, "read").into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error, "read"))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(DataDirError::Corrupt {
            path: path.to_owned(),
            why: format!("it is larger than {MAX_FILE_BYTES} bytes"),
        });
    }
    Ok(Some(bytes))
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), DataDirError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|why| DataDirError::Corrupt {
        path: path.to_owned(),
        why: why.to_string(),
    })?;
    Ok(atomic_write(path, &bytes, FILE_MODE)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn node() -> NodeFile {
        NodeFile {
            version: VERSION,
            cluster: ClusterName::new("west").unwrap(),
            region: Region::new("us-west").unwrap(),
            network: Network::new("west").unwrap(),
            domain: Domain::default(),
            node_id: 1,
            founder: ClusterName::new("west").unwrap(),
            gateways: vec!["127.1.0.1:15443".into()],
            known_clusters: BTreeMap::new(),
            replicated: false,
            left: false,
        }
    }

    fn made(path: &Path) {
        let staging = Staging::begin(path).unwrap();
        fs::write(staging.path().join("authority.pem"), "x").unwrap();
        staging.commit(&node(), &Trust::default()).unwrap();
    }

    fn listing(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_staged_is_opened_once() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("deep/data");
        made(&path);
        assert_eq!(listing(&path), ["authority.pem", "node.json", "trust.json"]);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let mut dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.node(), &node());
        assert_eq!(dir.trust().unwrap(), Some(Trust::default()));
        let second = DataDir::open(&path).unwrap_err();
        assert!(matches!(second, DataDirError::Locked(_)), "{second}");

        let known = BTreeMap::from([(ClusterName::new("east").unwrap(), KnownCluster::default())]);
        dir.remember(known.clone(), true).unwrap();
        drop(dir);
        let mut dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.node().known_clusters, known);
        dir.mark_left().unwrap();
        drop(dir);
        let left = DataDir::open(&path).unwrap_err();
        assert!(matches!(left, DataDirError::Left { .. }), "{left}");
    }

    #[test]
    fn an_abandoned_staging_leaves_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data");
        let staging = Staging::begin(&path).unwrap();
        fs::write(staging.path().join("root.key"), "x").unwrap();
        drop(staging);
        assert!(!path.exists());

        fs::create_dir(&path).unwrap();
        drop(Staging::begin(&path).unwrap());
        assert!(listing(&path).is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_named_and_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let missing = tmp.path().join("missing");
        assert!(matches!(
            DataDir::open(&missing),
            Err(DataDirError::Missing(_))
        ));
        assert!(!missing.exists());
        assert!(matches!(
            DataDir::open(tmp.path()),
            Err(DataDirError::Vacant(_))
        ));

        let file = tmp.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(
            DataDir::open(&file),
            Err(DataDirError::NotADirectory(_))
        ));
        assert!(matches!(
            Staging::begin(&file),
            Err(DataDirError::NotADirectory(_))
        ));
        let below = file.join("data");
        assert!(matches!(
            Staging::begin(&below),
            Err(DataDirError::NotADirectory(_))
        ));

        let error = Staging::begin(tmp.path()).unwrap_err();
        assert!(
            matches!(&error, DataDirError::NotEmpty { entry, .. } if entry == "file"),
            "{error}"
        );
        assert_eq!(listing(tmp.path()), ["file"]);

        let path = tmp.path().join("data");
        made(&path);
        assert!(matches!(
            Staging::begin(&path),
            Err(DataDirError::Occupied { .. })
        ));

        for (text, newer) in [
            ("{\"version\": 9, \"future\": true}", true),
            ("{\"version\": 1}", false),
            ("{\"ver", false),
            ("", false),
        ] {
            fs::write(path.join(NODE_FILE), text).unwrap();
            let error = DataDir::open(&path).unwrap_err();
            assert_eq!(
                matches!(error, DataDirError::TooNew { found: 9, .. }),
                newer,
                "{text}: {error}"
            );
            assert_eq!(
                matches!(error, DataDirError::Corrupt { .. }),
                !newer,
                "{text}: {error}"
            );
            assert_eq!(fs::read_to_string(path.join(NODE_FILE)).unwrap(), text);
            assert!(!error.hint().is_empty());
        }
    }

    #[test]
    fn a_read_only_directory_is_refused_by_name() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
        if access(&path, AccessFlags::W_OK).is_ok() {
            return; // root writes everywhere; the kernel's answer cannot be provoked here
        }
        let error = Staging::begin(&path).unwrap_err();
        assert!(matches!(error, DataDirError::Unwritable { .. }), "{error}");
    }
}
