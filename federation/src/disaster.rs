//! After a disaster: from one node's store, or from one snapshot file, to a new store that this one node votes in alone.
//!
//! Works on directories that no process uses; owns nothing. It never changes what it reads: a new store is made beside, and
//! the caller puts it in its place. The new voter has a node id that was never given away, so that nobody of the old
//! membership can speak to it, nor it to them: what they decide among themselves stays with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use openraft::{
    CommittedLeaderId, Membership,
    storage::{RaftLogReader, RaftLogStorage, RaftStateMachine},
};
use serde::Serialize;
use tradewind_api::{
    ClusterName, NodeId,
    store::{AuditEntry, LEVEL},
};
use tradewind_runtime::{
    dirs::{self, DirError},
    files::{self, FileError},
    task,
};

use crate::{
    catalog::{Catalog, MAX_AUDIT},
    error::StoreError,
    history::History,
    log_store::LogStore,
    machine::Machine,
    meters::Meters,
    snapshot::{self, SnapshotDir, State},
    store::identity,
    types::{LogId, RaftNode, StoredMembership, Vote},
};

/// Node ids left out: the old majority may have given some away that this node never heard of.
const ID_GAP: u64 = 1_000;
/// Revisions left out: nothing that the old majority wrote without this node may share one with what is written from now
/// on, or a reader that knows the old one would take the new for seen.
const REVISION_GAP: u64 = 1_000_000;
/// Entries applied at a time.
const CHUNK: u64 = 256;

/// Why nothing was made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DisasterError {
    /// There is no store to start from.
    #[error("{path} holds no store", path = .0.display())]
    NoStore(PathBuf),
    /// The store holds nothing yet.
    #[error("{path} holds no federation: it never heard of one", path = .0.display())]
    Empty(PathBuf),
    /// The cluster is not in it.
    #[error("cluster {cluster} is not a member of the federation that {path} holds, as of revision {revision}", path = path.display())]
    NotMember {
        /// What was read.
        path: PathBuf,
        /// Which cluster.
        cluster: ClusterName,
        /// What it reaches to.
        revision: u64,
    },
    /// Another process uses it, or it cannot be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// A file in it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The new store could not be made.
    #[error("{path}: the new store was not made: {why}", path = path.display())]
    NotMade {
        /// Where it should be.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
}

/// A whole state of the store, read from a directory or from a snapshot file.
#[derive(Clone, Debug)]
pub struct Held {
    path: PathBuf,
    state: State,
    term: u64,
    committed: Option<u64>,
    node_id: Option<NodeId>,
}

/// What it is, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The last revision it holds.
    pub revision: u64,
    /// The term of the last entry.
    pub term: u64,
    /// The newest leader's time in it, Unix ms.
    pub at_ms: u64,
    /// Up to which revision it knows that a majority holds it; unknown for a snapshot file, which holds nothing else.
    pub committed: Option<u64>,
    /// Entries beyond that: a majority may hold them, or none but this node.
    pub beyond_commit: u64,
    /// Who votes, by what it holds.
    pub voters: BTreeSet<NodeId>,
    /// Every node, with its cluster.
    pub nodes: BTreeMap<NodeId, Option<ClusterName>>,
}

/// Whose store a directory is; `None` where there is none.
pub fn store_of(dir: &Path) -> Result<Option<(NodeId, ClusterName)>, FileError> {
    identity::read(dir)
}

/// Reads the store in `dir`: the snapshot, and every log entry after it, committed or not.
pub async fn read_store(dir: &Path) -> Result<Held, DisasterError> {
    let Some((node_id, _)) = identity::read(dir)? else {
        return Err(DisasterError::NoStore(dir.to_owned()));
    };
    let _lock = dirs::lock(dir)?;
    let (mut log, disk) = LogStore::open(dir, Meters::default()).await?;
    let read = replay(dir, &mut log).await;
    let (vote, last) = (log.vote(), log.last());
    log.close();
    drop(log);
    join(disk).await;
    let (state, committed) = read?;
    if !state.catalog.is_founded() {
        return Err(DisasterError::Empty(dir.to_owned()));
    }
    let voted = vote.map_or(0, |v| v.leader_id().term);
    let wrote = last.map_or(0, |l| l.leader_id.term);
    Ok(Held {
        path: dir.to_owned(),
        state,
        term: voted.max(wrote),
        committed: committed.map(|c| c.index),
        node_id: Some(node_id),
    })
}

async fn replay(dir: &Path, log: &mut LogStore) -> Result<(State, Option<LogId>), DisasterError> {
    let failed = |why: String| StoreError::Corrupt {
        path: dir.to_owned(),
        what: why,
    };
    let (snapshots, state) = SnapshotDir::open(&dir.join("snapshots"), log.purged())?;
    let (mut machine, catalog) = Machine::new(
        state,
        snapshots,
        History::default(),
        Meters::default(),
        LEVEL,
    );
    let committed = log.read_committed().await;
    let committed = committed.map_err(|e| failed(e.to_string()))?;
    let (applied, _) = machine
        .applied_state()
        .await
        .map_err(|e| failed(e.to_string()))?;
    let end = log.last().map_or(0, |l| l.index + 1);
    let mut next = applied.map_or(0, |a| a.index + 1);
    while next < end {
        let upto = next.saturating_add(CHUNK).min(end);
        let entries = log.try_get_log_entries(next..upto).await;
        let entries = entries.map_err(|e| failed(e.to_string()))?;
        let Some(last) = entries.last().map(|e| e.log_id.index) else {
            return Err(failed(format!("log entry {next} is missing")).into());
        };
        machine
            .apply(entries)
            .await
            .map_err(|e| failed(e.to_string()))?;
        next = last + 1;
    }
    let (applied, membership) = machine
        .applied_state()
        .await
        .map_err(|e| failed(e.to_string()))?;
    let state = State {
        applied,
        membership,
        catalog: Catalog::clone(&catalog.borrow()),
    };
    Ok((state, committed))
}

/// Reads a snapshot file and checks it: its checksum, its version, and every invariant of what it holds.
pub fn read_snapshot(path: &Path) -> Result<Held, DisasterError> {
    let state = snapshot::read(path)?;
    if !state.catalog.is_founded() {
        return Err(DisasterError::Empty(path.to_owned()));
    }
    Ok(Held {
        path: path.to_owned(),
        term: state.applied.map_or(0, |a| a.leader_id.term),
        committed: state.applied.map(|a| a.index),
        node_id: None,
        state,
    })
}

impl Held {
    /// What it holds of the federation.
    pub fn catalog(&self) -> &Catalog {
        &self.state.catalog
    }

    /// What it is.
    pub fn summary(&self) -> Summary {
        let last = self.state.applied.map_or(0, |a| a.index);
        let membership = self.state.membership.membership();
        Summary {
            revision: last,
            term: self.state.applied.map_or(0, |a| a.leader_id.term),
            at_ms: self.state.catalog.at_ms,
            committed: self.committed,
            beyond_commit: last.saturating_sub(self.committed.unwrap_or(0).min(last)),
            voters: membership.voter_ids().collect(),
            nodes: membership
                .nodes()
                .map(|(id, node)| (*id, node.cluster.clone()))
                .collect(),
        }
    }

    /// The same federation with one voter, a new node of `cluster`.
    pub fn alone(self, cluster: &ClusterName, why: &Why) -> Result<Alone, DisasterError> {
        let mut state = self.state;
        let revision = state.applied.map_or(0, |a| a.index);
        if state.catalog.member(cluster).is_none() {
            return Err(DisasterError::NotMember {
                path: self.path,
                cluster: cluster.clone(),
                revision,
            });
        }
        let used = why.used.max(self.node_id.unwrap_or(0));
        let node_id = state
            .catalog
            .next_node_id
            .max(used.saturating_add(1))
            .saturating_add(ID_GAP);
        let term = self.term.saturating_add(1);
        let last = LogId::new(
            CommittedLeaderId::new(term, node_id),
            revision.max(why.written).saturating_add(REVISION_GAP),
        );
        let catalog = &mut state.catalog;
        catalog.revision = last.index;
        catalog.at_ms = catalog.at_ms.max(why.now_ms);
        catalog.next_node_id = node_id.saturating_add(1);
        for record in Arc::make_mut(&mut catalog.clusters).values_mut() {
            record.nodes.clear();
            if record.name == *cluster {
                record.nodes.insert(node_id);
            }
        }
        catalog.voting = Arc::default();
        let audit = Arc::make_mut(&mut catalog.audit);
        audit.push_back(Arc::new(AuditEntry {
            revision: last.index,
            at_ms: catalog.at_ms,
            proposer: cluster.clone(),
            actor: why.actor.clone(),
            action: why.action.to_owned(),
            subject: format!("node {node_id}, from revision {revision}"),
        }));
        while audit.len() > MAX_AUDIT {
            audit.pop_front();
        }
        let nodes = BTreeMap::from([(node_id, RaftNode::new(cluster.clone()))]);
        let voters = vec![BTreeSet::from([node_id])];
        state.applied = Some(last);
        state.membership = StoredMembership::new(Some(last), Membership::new(voters, nodes));
        Ok(Alone {
            node_id,
            cluster: cluster.clone(),
            last,
            state,
        })
    }
}

/// Who makes a federation of one voter, and of what: for the log of changes.
#[derive(Clone, Debug)]
pub struct Why {
    /// `recover` or `restore`.
    pub action: &'static str,
    /// Who asked.
    pub actor: Option<String>,
    /// The highest node id that the caller knows was given away.
    pub used: NodeId,
    /// The highest revision that the caller knows was written.
    pub written: u64,
    /// Now, Unix ms.
    pub now_ms: u64,
}

/// A federation of one voter, not yet written.
#[derive(Clone, Debug)]
pub struct Alone {
    node_id: NodeId,
    cluster: ClusterName,
    last: LogId,
    state: State,
}

impl Alone {
    /// The voter's node id: a new one.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The revision it starts from.
    pub fn revision(&self) -> u64 {
        self.last.index
    }

    /// Makes the store in `dir`, which must be absent, and reads it back. It is on the disk when this returns.
    pub async fn write(&self, dir: &Path) -> Result<(), DisasterError> {
        make_dir(dir, self.node_id, &self.cluster)?;
        let failed = |why: String| DisasterError::NotMade {
            path: dir.to_owned(),
            why,
        };
        let (snapshots, _) = SnapshotDir::open(&dir.join("snapshots"), None)?;
        snapshots.write(&self.state)?;
        let (mut log, disk) = LogStore::open(dir, Meters::default()).await?;
        // Of this node and not committed: it elects itself in the next term.
        let vote = Vote::new(self.last.leader_id.term, self.node_id);
        let wrote = async {
            log.save_vote(&vote).await?;
            log.purge(self.last).await
        };
        let wrote = wrote.await;
        log.close();
        drop(log);
        join(disk).await;
        wrote.map_err(|e| failed(e.to_string()))?;
        sync_all(dir).map_err(|e| failed(e.to_string()))?;
        let back = read_store(dir).await?;
        if back.state != self.state {
            return Err(failed("it does not read back as it was written".to_owned()));
        }
        Ok(())
    }
}

/// Makes an empty store of `node_id` in `dir`, which must be absent: it waits to be spoken to by a leader.
pub fn write_empty(
    dir: &Path,
    node_id: NodeId,
    cluster: &ClusterName,
) -> Result<(), DisasterError> {
    make_dir(dir, node_id, cluster)?;
    sync_all(dir).map_err(|e| DisasterError::NotMade {
        path: dir.to_owned(),
        why: e.to_string(),
    })
}

fn make_dir(dir: &Path, node_id: NodeId, cluster: &ClusterName) -> Result<(), DisasterError> {
    if dir.exists() {
        return Err(DisasterError::NotMade {
            path: dir.to_owned(),
            why: "it is there already".to_owned(),
        });
    }
    dirs::ensure_dir(dir, 0o700)?;
    Ok(identity::write(dir, node_id, cluster)?)
}

/// Everything below `dir` and its own name, on the disk.
fn sync_all(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()?;
    match dir.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

async fn join(disk: std::thread::JoinHandle<()>) {
    let joined = task::spawn_blocking(move || disk.join().is_ok()).await;
    if !matches!(joined, Ok(true)) {
        tracing::warn!("the store's disk thread did not end cleanly");
    }
}

/// What a snapshot file is, beside what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileFacts {
    /// Version of its format.
    pub format: u16,
    /// Its length.
    pub bytes: u64,
}

/// Version and length of a snapshot file.
pub fn snapshot_facts(path: &Path) -> Result<FileFacts, FileError> {
    let (format, payload) = files::read_framed(path, snapshot::MAGIC, snapshot::VERSION)?
        .ok_or_else(|| FileError::Missing {
            path: path.to_owned(),
        })?;
    let io = |source| FileError::Io {
        path: path.to_owned(),
        action: "read",
        source,
    };
    let bytes = fs::metadata(path).map_err(io)?.len();
    drop(payload);
    Ok(FileFacts { format, bytes })
}
