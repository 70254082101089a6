//! The data directory: what a cluster's controller keeps on disk, and the lock that lets one process at a time use it.
//!
//! Owns `node.json` (who this controller is, and where it last knew the other clusters) and `trust.json` (whom to
//! believe before the store has caught up). It must never change a directory it refuses, and never leave half a cluster
//! behind: a new one is staged beside and counts only once `node.json` is in place.

mod error;
mod kept_trust;
mod replace;
mod staging;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::{AccessFlags, access},
};
use serde::{Deserialize, Serialize};
use tradewind_api::{ClusterName, Domain, Network, NodeId, Region};
use tradewind_runtime::files::{FileError, atomic_write};

pub use error::DataDirError;
pub use kept_trust::KeptTrust;
pub use staging::Staging;
use staging::existing_parent;

/// The format of `node.json` that this program writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// The file whose presence makes a directory a cluster's.
pub const NODE_FILE: &str = "node.json";
/// The store's directory.
pub const STORE_DIR: &str = "store";
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
    /// Those that its gateways tell apart, where it has several.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub by_node: BTreeSet<NodeId>,
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
    /// True for a voter without a cluster.
    #[serde(default)]
    pub witness: bool,
    /// `host:port` at which this very controller is dialled within its cluster, where it was told so when it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where the other controllers of its cluster were last known to be.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub siblings: BTreeMap<NodeId, String>,
}

/// A cluster's directory, locked for this process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    node: NodeFile,
    // None once released.
    lock: Option<Flock<File>>,
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
            lock: Some(lock),
        })
    }

    /// Gives the directory to the next process. Whoever still holds this value, a page that shows it for instance, does
    /// not keep it locked; nothing may be written afterwards.
    pub fn release(&mut self) {
        self.lock = None;
    }

    /// True until [`DataDir::release`].
    pub fn is_held(&self) -> bool {
        self.lock.is_some()
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
        siblings: BTreeMap<NodeId, String>,
        replicated: bool,
    ) -> Result<(), DataDirError> {
        let before = &self.node;
        if before.known_clusters == known
            && before.siblings == siblings
            && before.replicated == replicated
        {
            return Ok(());
        }
        let mut node = self.node.clone();
        node.known_clusters = known;
        node.siblings = siblings;
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
pub(crate) mod tests {
    use tradewind_api::snapshot::Trust;

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
            witness: false,
            address: None,
            siblings: BTreeMap::new(),
        }
    }

    pub(super) fn made(path: &Path) {
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
        assert_eq!(dir.trust().unwrap(), Some(KeptTrust::default()));
        let second = DataDir::open(&path).unwrap_err();
        assert!(matches!(second, DataDirError::Locked(_)), "{second}");

        let known = BTreeMap::from([(ClusterName::new("east").unwrap(), KnownCluster::default())]);
        dir.remember(known.clone(), BTreeMap::new(), true).unwrap();
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
