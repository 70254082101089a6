//! A node whose store is damaged, fell behind, was removed, or outlived a recovery comes back: under a new id, with an
//! empty store that the leader fills.
//!
//! The cluster is a member still and proves it by its own authority's key. It asks another member, changes nothing here
//! until it has an answer, and may be repeated whenever it was cut short.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tradewind_api::{ClusterName, NodeId, proto::v1::IntroduceRequest, snapshot::Trust};
use tradewind_ca::AuthorityKey;
use tradewind_federation::{
    disaster,
    rejoin::{NewNode, RejoinError},
};
use tradewind_runtime::{Rng, SharedClock};
use tradewind_transport::{svid::SvidCell, trust::TrustCell};

use super::{OfflineError, open};
use crate::{
    app::{Introduced, KeepCertificate, first_trust, read_introduction},
    datadir::DataDir,
    local::Own,
    raft_net::{Known, Peers, bounded},
};

/// How long the others are asked for a new node id: an election, and a round over all of them.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// How long one member is asked whom to believe now.
const INTRODUCE_DEADLINE: Duration = Duration::from_secs(3);

/// A node about to come back.
#[derive(Debug)]
pub struct Rejoin {
    data_dir: DataDir,
}

/// A node that comes back at its next start.
#[derive(Clone, Debug)]
pub struct Rejoined {
    /// Its new id.
    pub node_id: NodeId,
    /// Where its old store is.
    pub kept: Option<PathBuf>,
}

impl Rejoin {
    /// Takes the directory. Changes nothing.
    pub fn of(data_dir: &Path) -> Result<Self, OfflineError> {
        let data_dir = open(data_dir)?;
        if data_dir.node().known_clusters.is_empty() {
            return Err(RejoinError::Alone(data_dir.node().cluster.clone()).into());
        }
        Ok(Self { data_dir })
    }

    /// Whose node it is.
    pub fn cluster(&self) -> &ClusterName {
        &self.data_dir.node().cluster
    }

    /// The node id it had.
    pub fn old_node_id(&self) -> NodeId {
        self.data_dir.node().node_id
    }

    /// Whom it can ask, and where.
    pub fn known(&self) -> &Known {
        &self.data_dir.node().known_clusters
    }

    /// Asks for a new node id and puts an empty store of it in place.
    pub async fn act(
        mut self,
        actor: Option<String>,
        clock: SharedClock,
        rng: Rng,
    ) -> Result<Rejoined, OfflineError> {
        let (node_id, known) = self.ask(actor, clock, rng).await?;
        let room = self.data_dir.room()?;
        let cluster = self.data_dir.node().cluster.clone();
        disaster::write_empty(&room, node_id, &cluster)?;
        let kept = format!("store.before-rejoin-{}", self.data_dir.node().node_id);
        let kept = self.data_dir.replace_store(&kept, node_id)?;
        if let Some(Newest { known, trust }) = known {
            let siblings = self.data_dir.node().siblings.clone();
            self.data_dir.remember(known, siblings, true)?;
            self.data_dir.save_trust(&trust, 0)?;
        }
        Ok(Rejoined { node_id, kept })
    }

    async fn ask(
        &self,
        actor: Option<String>,
        clock: SharedClock,
        rng: Rng,
    ) -> Result<(NodeId, Option<Newest>), OfflineError> {
        let (path, node) = (self.data_dir.path(), self.data_dir.node());
        let own = Own::from(node);
        let issuer =
            AuthorityKey::load(path)?.ok_or_else(|| OfflineError::NoAuthority(path.to_owned()))?;
        let believed = first_trust(self.data_dir.trust()?, &own, &issuer);
        let trust = TrustCell::new(&believed.trust)?;
        let certificate =
            KeepCertificate::new(Arc::new(issuer), &own, node.node_id, clock, rng).issue()?;
        let svid = SvidCell::empty();
        svid.set(certificate);
        let peers = Peers::new(
            own.cluster.clone(),
            node.node_id,
            own.domain.clone(),
            svid,
            trust.clone(),
            node.known_clusters.clone(),
        );
        // Whoever leads now may have joined while this node was away: first whom to believe, and where they are.
        let newest = newest(&peers, node.node_id).await;
        let mut mine = BTreeSet::new();
        let newest = newest.map(|mut i| {
            let own = i.known.remove(&own.cluster);
            mine = own.map(|k| k.nodes).unwrap_or_default();
            Newest {
                known: i.known,
                trust: Trust::clone(&i.trust),
            }
        });
        if let Some(newest) = &newest {
            trust.set(&newest.trust)?;
            peers.know(newest.known.clone());
        }
        // An earlier attempt may have got an id and no further: that one is given up, not this node's of long ago.
        let replaces = match mine.last() {
            Some(last) if !mine.contains(&node.node_id) => *last,
            Some(_) | None => node.node_id,
        };
        let asked = NewNode {
            own: own.cluster,
            replaces,
            actor,
        };
        let known: BTreeMap<_, _> = peers
            .known()
            .iter()
            .map(|(cluster, known)| (cluster.clone(), known.nodes.clone()))
            .collect();
        let node_id = asked.ask(&peers, &known, ASK_LIMIT).await?;
        Ok((node_id, newest))
    }
}

/// What the others say of themselves.
struct Newest {
    known: Known,
    trust: Trust,
}

/// The newest answer of all members: who they are and whom they believe.
async fn newest(peers: &Peers, node_id: NodeId) -> Option<Introduced> {
    let known = peers.known();
    let asked = known.keys().map(|cluster| async move {
        let mut client = peers.federation(cluster).ok()?;
        let request = IntroduceRequest { node_id };
        let answer = bounded(cluster, INTRODUCE_DEADLINE, client.introduce(request)).await;
        answer.ok().and_then(|a| read_introduction(a).ok())
    });
    let answers = futures::future::join_all(asked).await;
    answers.into_iter().flatten().max_by_key(|i| i.revision)
}
