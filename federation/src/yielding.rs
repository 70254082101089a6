//! A leader that steps back on purpose: it takes no writes and sends no sign of life for about a lease, so that the voters
//! will hear another candidate, and then asks its successor to stand. If nobody took over it leads on.
//!
//! Owns until when this node is silent. openraft 0.9 knows no transfer; this is made of what it has.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tradewind_api::NodeId;

use crate::{
    codec,
    driver::Core,
    peer::Call,
    propose::{Ask, Forwarded, LocalError, Told},
};

/// Longer than the lease by what a tick and a message may take, and shorter than the first voter in line waits.
const MARGIN: Duration = Duration::from_millis(30);
/// How long the old leader stays silent for the new one to be elected: an election takes two round trips.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Between two looks whether somebody else leads.
const LOOK: Duration = Duration::from_millis(10);

/// Whether this node is silent on purpose. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Yielding(Arc<Mutex<Option<Instant>>>);

impl Yielding {
    /// True while this node sends no sign of life and takes no write.
    pub(crate) fn now(&self) -> bool {
        let until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Ends the silence however the transfer ends.
struct Silence<'a>(&'a Yielding);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// On the leader: lets `to`, or the voter that trails least, lead. Gives who leads then.
pub(crate) async fn transfer(core: &Core, to: Option<NodeId>) -> Result<NodeId, LocalError> {
    let standing = core.standing();
    if !standing.leads {
        return Err(LocalError::NotLeader(standing.leader));
    }
    if core.yielding.now() {
        return Err(LocalError::Refused(
            "a transfer is under way already".to_owned(),
        ));
    }
    if to == Some(core.me) {
        return Ok(core.me);
    }
    let successor = loop {
        let standing = core.standing();
        if !standing.leads {
            return Err(LocalError::NotLeader(standing.leader));
        }
        match standing.voters.as_slice() {
            [voters] => break successor(core, voters, to)?,
            // Half way to voting no more: whoever leads next goes the other half.
            [.., wanted] if !wanted.contains(&core.me) => break successor(core, wanted, to)?,
            // A membership that changes settles in a moment. The caller bounds the wait.
            _ => sleep(LOOK).await,
        }
    };
    let metrics = core.metrics();
    let home = metrics.membership_config.membership().get_node(&successor);
    let Some(home) = home.and_then(|n| n.cluster.clone()) else {
        return Err(LocalError::Refused(format!(
            "nobody knows whose node {successor} is"
        )));
    };
    tracing::info!(node = core.me, successor, "letting another node lead");
    core.yielding
        .set(Some(Instant::now() + core.timing.lease + MARGIN + PATIENCE));
    let silence = Silence(&core.yielding);
    sleep(core.timing.lease + MARGIN).await;
    let own = metrics.membership_config.membership().get_node(&core.me);
    let Some(proposer) = own.and_then(|n| n.cluster.clone()) else {
        return Err(LocalError::Refused(
            "this node belongs to no cluster".to_owned(),
        ));
    };
    let request = Forwarded {
        proposer,
        deadline_ms: u64::try_from(core.timing.rpc.as_millis()).unwrap_or(u64::MAX),
        ask: Ask::TakeOver,
        actor: None,
    };
    let frame = codec::encode(&request, "a request to lead");
    let frame = frame.map_err(|e| LocalError::Refused(e.to_string()))?;
    let deadline = core.timing.rpc;
    let asked = core
        .transport
        .call(successor, &home, Call::Propose, frame, deadline);
    let answer = match timeout(deadline, asked).await {
        Ok(Ok(frame)) => codec::decode::<Told>(&frame, "an answer to a request to lead")
            .map_err(|e| LocalError::Refused(e.to_string()))?,
        Ok(Err(error)) => return Err(LocalError::Refused(error.to_string())),
        Err(_elapsed) => {
            let why = format!("node {successor} did not answer");
            return Err(LocalError::Refused(why));
        }
    };
    if let Told::Failed(why) = answer {
        drop(silence);
        return Err(unseated(core).await.unwrap_or(LocalError::Refused(why)));
    }
    let led = async {
        loop {
            match core.metrics().current_leader {
                Some(leader) if leader != core.me => return leader,
                _ => sleep(LOOK).await,
            }
        }
    };
    timeout(PATIENCE, led)
        .await
        .map_err(|_elapsed| LocalError::Refused(format!("node {successor} was not elected")))
}

/// Whom to ask instead, where somebody else was elected in the silence.
async fn unseated(core: &Core) -> Option<LocalError> {
    let elsewhere = async {
        loop {
            let standing = core.standing();
            if !standing.leads {
                return LocalError::NotLeader(standing.leader);
            }
            sleep(LOOK).await;
        }
    };
    timeout(core.timing.lease, elsewhere).await.ok()
}

fn successor(
    core: &Core,
    voters: &BTreeSet<NodeId>,
    to: Option<NodeId>,
) -> Result<NodeId, LocalError> {
    let status = core.status();
    let lease_ms = u64::try_from(core.timing.lease.as_millis()).unwrap_or(u64::MAX);
    let answers = |n: &NodeId| status.answered_ms.get(n).is_some_and(|ms| *ms <= lease_ms);
    let trail = |n: &NodeId| status.trails.get(n).copied().flatten();
    if let Some(to) = to {
        let why = if !voters.contains(&to) {
            "it does not vote"
        } else if !answers(&to) {
            "it does not answer"
        } else {
            return Ok(to);
        };
        return Err(LocalError::Refused(format!("node {to} cannot lead: {why}")));
    }
    let others = voters.iter().filter(|n| **n != core.me && answers(n));
    others
        .min_by_key(|n| (trail(n).unwrap_or(u64::MAX), **n))
        .copied()
        .ok_or_else(|| LocalError::Refused("no other voter answers".to_owned()))
}
