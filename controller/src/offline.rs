//! What an operator does with a stopped controller's store: recover from it, restore a snapshot into it, bring its node
//! back under a new id.
//!
//! Owns the data directory's lock while it works. Everything is decided and shown before anything changes; a change puts
//! a new store in place and keeps the old one beside.

mod rejoin;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tradewind_api::{ClusterName, NodeId};
use tradewind_ca::{AuthorityKey, StoredError};
use tradewind_federation::{
    Catalog,
    disaster::{self, Alone, DisasterError, Held, Summary, Why},
    rejoin::RejoinError,
};
use tradewind_runtime::SharedClock;
use tradewind_transport::{svid::SvidError, trust::TrustError};

use crate::{
    app::CertificateError,
    datadir::{DataDir, DataDirError},
};

pub use rejoin::{Rejoin, Rejoined};
pub use tradewind_federation::disaster::FileFacts;

/// Why nothing was done. Nothing was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store or the snapshot.
    #[error(transparent)]
    Disaster(#[from] DisasterError),
    /// The snapshot is another federation's.
    #[error("{path} is of another federation: {why}", path = path.display())]
    OtherFederation {
        /// The snapshot.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A key or certificate.
    #[error(transparent)]
    Keys(#[from] StoredError),
    /// There is no authority.
    #[error("data directory {path} has no authority.key: this cluster cannot prove who it is", path = .0.display())]
    NoAuthority(PathBuf),
    /// The own certificate.
    #[error("this controller's own certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The same, once it was made.
    #[error("this controller's own certificate: {0}")]
    Svid(#[from] SvidError),
    /// Whom it believed last makes no sense.
    #[error("trust.json: {0}")]
    Trust(#[from] TrustError),
    /// The others gave no new node id.
    #[error(transparent)]
    Rejoin(#[from] RejoinError),
}

impl OfflineError {
    /// What the operator can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::DataDir(DataDirError::Locked(_)) => {
                "stop this directory's `tradewind controller` first".into()
            }
            Self::DataDir(error) => error.hint(),
            Self::Disaster(DisasterError::NoStore(_) | DisasterError::Empty(_)) => {
                "take a node whose store is whole, or a snapshot file: tradewind store snapshot restore FILE".into()
            }
            Self::Disaster(DisasterError::NotMember { .. }) => {
                "take the store or the snapshot of a time when this cluster was a member; or join again with a new token".into()
            }
            Self::Disaster(DisasterError::Dir(_)) => {
                "stop this directory's `tradewind controller` first".into()
            }
            Self::Disaster(DisasterError::File(_)) => {
                "take another snapshot file; each controller keeps its two newest in <data-dir>/store/snapshots".into()
            }
            Self::Disaster(DisasterError::Store(_)) => {
                "take another node whose store is whole, or a snapshot file: tradewind store snapshot restore FILE".into()
            }
            Self::Disaster(DisasterError::NotMade { .. }) => {
                "see that the disk is healthy and not full; nothing was changed".into()
            }
            Self::OtherFederation { .. } => "take a snapshot of this cluster's own federation".into(),
            Self::Keys(_) | Self::NoAuthority(_) | Self::Trust(_) => {
                "restore the data directory from a backup; if there is none, join again under a new --data-dir".into()
            }
            Self::Certificate(_) | Self::Svid(_) => "see that this host's clock is right".into(),
            Self::Rejoin(RejoinError::Alone(_) | RejoinError::NoLeader) => {
                "where no majority is left, `tradewind store recover` on a node whose store is whole".into()
            }
            Self::Rejoin(RejoinError::Unreachable(_)) => {
                "see that another cluster's controller and gateway run, and that they are reached from here".into()
            }
            Self::Rejoin(RejoinError::Unknown) => "run it again: asking twice does no harm".into(),
            Self::Rejoin(RejoinError::Refused(_) | RejoinError::Rejected(_) | RejoinError::Codec(_)) => {
                "`tradewind clusters` and `tradewind store peers` in another cluster show what it knows of this one".into()
            }
        }
    }
}

/// A federation about to be made of one node: what it would hold, and what would be forgotten.
#[derive(Debug)]
pub struct Recovery {
    data_dir: DataDir,
    summary: Summary,
    members: Vec<ClusterName>,
    alone: Alone,
    action: &'static str,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The only voter's node id.
    pub node_id: NodeId,
    /// The revision it starts from.
    pub revision: u64,
    /// Where the old store is.
    pub kept: Option<PathBuf>,
}

/// Takes the directory, and finishes what an earlier command began there.
fn open(path: &Path) -> Result<DataDir, OfflineError> {
    let mut data_dir = DataDir::open(path)?;
    // A store that does not even say whose it is was not put there by us.
    let held = disaster::store_of(&data_dir.store()).unwrap_or_default();
    if data_dir.finish_replacement(held.as_ref())? {
        tracing::warn!(
            node_id = data_dir.node().node_id,
            "finished an interrupted change of this directory's store"
        );
    }
    Ok(data_dir)
}

impl Recovery {
    /// From the store in this data directory. Changes nothing.
    pub async fn of_store(
        data_dir: &Path,
        actor: Option<String>,
        clock: &SharedClock,
    ) -> Result<Self, OfflineError> {
        let data_dir = open(data_dir)?;
        let held = disaster::read_store(&data_dir.store()).await?;
        Self::of(data_dir, held, ("recover", 0), actor, clock)
    }

    /// From a snapshot file. Changes nothing.
    pub async fn of_snapshot(
        data_dir: &Path,
        file: &Path,
        actor: Option<String>,
        clock: &SharedClock,
    ) -> Result<Self, OfflineError> {
        let data_dir = open(data_dir)?;
        let held = disaster::read_snapshot(file)?;
        check_federation(&data_dir, file, held.catalog())?;
        // The store that is here now reaches further, as a rule; a damaged one tells nothing.
        let present = disaster::read_store(&data_dir.store()).await;
        let written = present.map_or(0, |p| p.summary().revision);
        Self::of(data_dir, held, ("restore", written), actor, clock)
    }

    fn of(
        data_dir: DataDir,
        held: Held,
        (action, written): (&'static str, u64),
        actor: Option<String>,
        clock: &SharedClock,
    ) -> Result<Self, OfflineError> {
        let why = Why {
            action,
            actor,
            used: data_dir.node().node_id,
            written,
            now_ms: clock.unix_ms(),
        };
        let (summary, cluster) = (held.summary(), data_dir.node().cluster.clone());
        let members = held.catalog().members().map(|c| c.name.clone()).collect();
        Ok(Self {
            alone: held.alone(&cluster, &why)?,
            data_dir,
            summary,
            members,
            action,
        })
    }

    /// The cluster whose node goes on.
    pub fn cluster(&self) -> &ClusterName {
        &self.data_dir.node().cluster
    }

    /// The node id it had.
    pub fn old_node_id(&self) -> NodeId {
        self.data_dir.node().node_id
    }

    /// The node id it would get.
    pub fn node_id(&self) -> NodeId {
        self.alone.node_id()
    }

    /// The revision it would start from.
    pub fn revision(&self) -> u64 {
        self.alone.revision()
    }

    /// What it would hold.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The members, this cluster among them.
    pub fn members(&self) -> &[ClusterName] {
        &self.members
    }

    /// The nodes that would be forgotten.
    pub fn forgotten(&self) -> BTreeMap<NodeId, Option<ClusterName>> {
        self.summary.nodes.clone()
    }

    /// Makes it so.
    pub async fn act(mut self) -> Result<Recovered, OfflineError> {
        let room = self.data_dir.room()?;
        self.alone.write(&room).await?;
        let kept = format!("store.before-{}-{}", self.action, self.summary.revision);
        let kept = self.data_dir.replace_store(&kept, self.alone.node_id())?;
        Ok(Recovered {
            node_id: self.alone.node_id(),
            revision: self.alone.revision(),
            kept,
        })
    }
}

/// The snapshot must know this cluster by the certificates that lie here, or nobody would believe it afterwards.
fn check_federation(
    data_dir: &DataDir,
    file: &Path,
    catalog: &Catalog,
) -> Result<(), OfflineError> {
    let path = data_dir.path();
    let issuer =
        AuthorityKey::load(path)?.ok_or_else(|| OfflineError::NoAuthority(path.to_owned()))?;
    let node = data_dir.node();
    let other = |why: String| OfflineError::OtherFederation {
        path: file.to_owned(),
        why,
    };
    if catalog.domain != node.domain {
        let why = format!("its domain is {}, not {}", catalog.domain, node.domain);
        return Err(other(why));
    }
    if !catalog.roots.iter().any(|r| r.0 == issuer.root_der()) {
        return Err(other("it has another root certificate".to_owned()));
    }
    let known = catalog
        .member(&node.cluster)
        .is_none_or(|c| c.authorities.iter().any(|a| a.0 == issuer.authority_der()));
    if known {
        return Ok(());
    }
    Err(other(format!(
        "it knows cluster {} by another authority",
        node.cluster
    )))
}

/// A snapshot file, read and found good.
#[derive(Debug)]
pub struct Inspected {
    held: Held,
    /// Version and length of the file.
    pub facts: FileFacts,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
}

impl Inspected {
    /// Reads and checks the whole of it.
    pub fn read(file: &Path) -> Result<Self, OfflineError> {
        let facts = disaster::snapshot_facts(file).map_err(DisasterError::from)?;
        let held = disaster::read_snapshot(file)?;
        let io = |source| tradewind_runtime::files::FileError::Io {
            path: file.to_owned(),
            action: "read",
            source,
        };
        let bytes = std::fs::read(file)
            .map_err(io)
            .map_err(DisasterError::from)?;
        Ok(Self {
            held,
            facts,
            sha256: tradewind_transport::trust::sha256(&bytes),
        })
    }

    /// What it is.
    pub fn summary(&self) -> Summary {
        self.held.summary()
    }

    /// What it holds.
    pub fn catalog(&self) -> &Catalog {
        self.held.catalog()
    }
}
