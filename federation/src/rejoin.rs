//! How a controller without a usable store gets a new node id: it asks the leader, over any member it knows, as a store
//! forwards its own writes. Owns nothing and opens no store; every wait has an end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tradewind_api::{
    ClusterName, NodeId,
    store::{Command, Outcome, Refusal},
};

use crate::{
    codec::{self, CodecError},
    peer::{Call, PeerError, PeerTransport},
    propose::{Ask, Forwarded, Told},
};

/// The longest one member is waited for.
const ONE_CALL: Duration = Duration::from_secs(5);
/// Between two rounds over all members: an election takes about a second.
const PAUSE: Duration = Duration::from_millis(250);

/// Why there is no new node id.
#[derive(Debug, thiserror::Error)]
pub enum RejoinError {
    /// There is nobody to ask.
    #[error("cluster {0} knows of no other cluster: nobody can give its controller a new node id")]
    Alone(ClusterName),
    /// No member answered. Nothing was changed.
    #[error("no other cluster could be reached: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// Members answered, and none of them knew a leader. Nothing was changed.
    #[error("the store has no leader: a majority of its voters must be reachable")]
    NoLeader,
    /// Nobody knows whether it was done. It may be asked again.
    #[error("the answer was lost; it may be asked again")]
    Unknown,
    /// The store refused. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The leader refused the request itself. Nothing was changed.
    #[error("the store's leader did not take the request: {0}")]
    Rejected(String),
    /// Somebody spoke gibberish.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Asks for a new node id for a controller of `own`.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// The cluster.
    pub own: ClusterName,
    /// The id that is gone from then on.
    pub replaces: NodeId,
    /// Who asked for it, for the log of changes.
    pub actor: Option<String>,
}

impl NewNode {
    /// Asks every cluster in `known` in turn, following whoever knows the leader, until there is an answer or `limit` is
    /// over. `known` says which nodes each has.
    pub async fn ask(
        &self,
        transport: &dyn PeerTransport,
        known: &BTreeMap<ClusterName, BTreeSet<NodeId>>,
        limit: Duration,
    ) -> Result<NodeId, RejoinError> {
        let until = Instant::now() + limit;
        let mut hint: Option<(ClusterName, NodeId)> = None;
        if known.keys().all(|c| *c == self.own) {
            return Err(RejoinError::Alone(self.own.clone()));
        }
        loop {
            let mut failures = Vec::new();
            let mut answered = false;
            let others = known.keys().filter(|c| **c != self.own).cloned();
            // Whoever runs the cluster, where nobody said which node leads.
            let others = others.map(|cluster| (cluster, NodeId::default()));
            for (cluster, node) in hint.take().into_iter().chain(others) {
                match self.ask_one(transport, (node, &cluster), until).await {
                    Ok(Told::Outcome(Outcome::Joined { node_id, .. })) => return Ok(node_id),
                    Ok(Told::Outcome(Outcome::Refused(refusal))) => return Err(refusal.into()),
                    Ok(Told::NotLeader(leader)) => {
                        answered = true;
                        hint = leader.and_then(|l| Some((home(known, l, &self.own)?, l)));
                        if hint.as_ref().is_some_and(|(_, leader)| *leader != node) {
                            break;
                        }
                    }
                    Ok(Told::Busy | Told::OverBudget { .. }) => answered = true,
                    Ok(Told::Unknown) => return Err(RejoinError::Unknown),
                    Ok(Told::Failed(why)) => return Err(RejoinError::Rejected(why)),
                    Ok(other) => return Err(RejoinError::Rejected(format!("{other:?}"))),
                    Err(Failed::Codec(error)) => return Err(error.into()),
                    Err(Failed::Peer(error @ PeerError::Unreachable { .. })) => {
                        failures.push(error.to_string());
                    }
                    Err(Failed::Peer(PeerError::NoAnswer { .. })) => {
                        return Err(RejoinError::Unknown);
                    }
                    Err(Failed::Peer(PeerError::Refused { cause, .. })) => failures.push(cause),
                }
            }
            if Instant::now() + PAUSE >= until {
                return Err(if answered {
                    RejoinError::NoLeader
                } else {
                    RejoinError::Unreachable(failures)
                });
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask_one(
        &self,
        transport: &dyn PeerTransport,
        (node, cluster): (NodeId, &ClusterName),
        until: Instant,
    ) -> Result<Told, Failed> {
        let deadline = until
            .saturating_duration_since(Instant::now())
            .min(ONE_CALL);
        let command = Command::AddNode {
            replaces: Some(self.replaces),
        };
        let forwarded = Forwarded {
            proposer: self.own.clone(),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            ask: Ask::Write(Box::new(command)),
            actor: self.actor.clone(),
        };
        let frame = codec::encode(&forwarded, "a proposal")?;
        // A proposal goes to whoever runs the cluster, also where its node has another id by now.
        let answer = transport
            .call(node, cluster, Call::Propose, frame, deadline)
            .await?;
        Ok(codec::decode(&answer, "an answer to a proposal")?)
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

fn home(
    known: &BTreeMap<ClusterName, BTreeSet<NodeId>>,
    node: NodeId,
    own: &ClusterName,
) -> Option<ClusterName> {
    let found = known
        .iter()
        .find(|(cluster, nodes)| *cluster != own && nodes.contains(&node));
    found.map(|(cluster, _)| cluster.clone())
}
