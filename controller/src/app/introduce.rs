//! Saying that this node is there, until the leader has taken it up, and again whenever no leader is heard of.
//!
//! A controller that was away while others joined does not know whom a new leader's certificate is signed by, and would
//! refuse it for ever. So it asks any member it does know whom to believe now.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tradewind_api::{
    ClusterName, NodeId,
    proto::v1::{IntroduceRequest, IntroduceResponse},
    snapshot::Trust,
};
use tradewind_federation::Store;
use tradewind_runtime::{Backoff, Rng, drain};

use crate::{
    datadir::KnownCluster,
    raft_net::{Known, Peers, bounded},
};

/// How often a node that is heard looks whether it still is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Waits between introductions.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// One introduction: it may wait for the leader behind the member asked.
const DEADLINE: Duration = Duration::from_secs(3);
/// A leader not heard of for this long is not one.
const LEADER_LOST_MS: u64 = 3_000;

/// What a member told this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Introduced {
    /// The member's revision.
    pub(crate) revision: u64,
    /// Whom it believes.
    pub(crate) trust: Arc<Trust>,
    /// Where the others are.
    pub(crate) known: Known,
}

/// Whom to ask.
#[derive(Clone, Debug)]
enum Whom {
    /// Any controller of another cluster.
    Cluster(ClusterName),
    /// Another one of this cluster.
    Sibling(NodeId),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Introducer {
    pub(super) store: Store,
    pub(super) peers: Peers,
    pub(super) own: ClusterName,
    pub(super) node_id: NodeId,
    pub(super) rng: Rng,
    pub(super) told: watch::Sender<Option<Arc<Introduced>>>,
}

impl Introducer {
    fn is_heard(&self) -> bool {
        let status = self.store.status();
        let member =
            status.voters.contains(&self.node_id) || status.learners.contains(&self.node_id);
        member
            && status.leader.is_some()
            && status.leader_age_ms.is_some_and(|age| age < LEADER_LOST_MS)
    }

    /// Runs until the drain.
    pub(super) async fn run(mut self, mut drain: drain::Observer) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut turn = 0_usize;
        loop {
            let pause = if self.is_heard() {
                backoff.reset();
                LOOK_EVERY
            } else {
                let all = self.all();
                let next = all.get(turn % all.len().max(1));
                turn = turn.wrapping_add(1);
                if let Some(next) = next {
                    self.introduce(next).await;
                }
                backoff.next(&mut self.rng)
            };
            tokio::select! {
                biased;
                () = drain.triggered() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Who can be asked.
    fn all(&self) -> Vec<Whom> {
        let (known, siblings) = (self.peers.known(), self.peers.siblings());
        let siblings = siblings.keys().copied().map(Whom::Sibling);
        let clusters = known.keys().cloned().map(Whom::Cluster);
        siblings.chain(clusters).collect()
    }

    async fn introduce(&self, whom: &Whom) {
        let (cluster, client) = match whom {
            Whom::Cluster(cluster) => (cluster, self.peers.federation(cluster)),
            Whom::Sibling(node) => (&self.own, Ok(self.peers.sibling(*node))),
        };
        let answer = match client {
            Ok(mut client) => {
                let request = IntroduceRequest {
                    node_id: self.node_id,
                };
                bounded(cluster, DEADLINE, client.introduce(request)).await
            }
            Err(error) => Err(error),
        };
        match answer.map_err(|e| e.to_string()).and_then(read) {
            Ok(introduced) => {
                tracing::debug!(%cluster, revision = introduced.revision, "introduced");
                self.told.send_if_modified(|current| {
                    let newer = current
                        .as_ref()
                        .is_none_or(|c| c.revision < introduced.revision);
                    if newer {
                        *current = Some(Arc::new(introduced));
                    }
                    newer
                });
            }
            Err(error) => tracing::debug!(%cluster, error, "not introduced"),
        }
    }
}

/// Reads what a member answered.
pub(crate) fn read(response: IntroduceResponse) -> Result<Introduced, String> {
    let trust: Trust = response
        .trust
        .unwrap_or_default()
        .try_into()
        .map_err(|e| format!("bad trust: {e}"))?;
    if trust.roots.is_empty() {
        return Err("the member knows nothing itself yet".to_owned());
    }
    let mut known = Known::new();
    for cluster in response.clusters {
        let name = ClusterName::new(&cluster.name).map_err(|e| e.to_string())?;
        known.insert(
            name,
            KnownCluster {
                gateways: cluster.gateways,
                nodes: cluster.nodes.into_iter().collect(),
                by_node: cluster.by_node.into_iter().collect(),
            },
        );
    }
    Ok(Introduced {
        revision: response.revision,
        trust: Arc::new(trust),
        known,
    })
}
