//! When a leader's entries may go out before its own disk has them, and how long its followers' answers wait for it.
//!
//! A leader may send entries while it still writes them, as long as it does not count itself among those who have them
//! (Ongaro's thesis, 10.2.1). openraft counts the leader as soon as its log says that it is done. So the log says so at
//! once where that alone commits nothing, because some other voter's answer is needed, too; and no such answer reaches
//! openraft before this node's disk has what the answer is about. An entry is committed when both are true, in whichever
//! order: two syncs that ran one after the other run at the same time.

use std::{collections::BTreeMap, time::Duration};

use openraft::{EntryPayload, Membership};
use tokio::{sync::watch, time::timeout};
use tradewind_api::NodeId;

use crate::types::{Entry, LogId, RaftNode, Vote};

/// Memberships remembered. At most one is not committed; older ones matter only until that is.
const MEMBERSHIPS: usize = 4;

/// Which memberships need more than one voter, by the index of their entry. The last one is in force.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    /// This node, once it takes part.
    pub(crate) me: Option<NodeId>,
    shared: BTreeMap<u64, bool>,
}

impl Sharing {
    /// Takes note of a membership that is in force from `index` on.
    pub(crate) fn note(&mut self, index: u64, membership: &Membership<NodeId, RaftNode>) {
        let shared = membership.get_joint_config().iter().any(|c| c.len() > 1);
        self.shared.insert(index, shared);
        while self.shared.len() > MEMBERSHIPS {
            self.shared.pop_first();
        }
    }

    /// Takes note of what `entries` say.
    pub(crate) fn read(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.note(entry.log_id.index, membership);
            }
        }
    }

    /// The index of the last membership.
    pub(crate) fn in_force(&self) -> Option<u64> {
        self.shared.last_key_value().map(|(index, _)| *index)
    }

    /// Forgets what is truncated.
    pub(crate) fn truncate_from(&mut self, index: u64) {
        self.shared.split_off(&index);
    }

    /// True when `entries`, about to be appended, may be called appended before they are durable: this node wrote them as
    /// the leader that `vote` makes it, and no commit comes about without another voter. Where it is not known, false.
    pub(crate) fn lets_go(&self, entries: &[Entry], vote: Option<&Vote>) -> bool {
        let Some(vote) = vote else {
            return false;
        };
        // A follower's vote names its leader, whose entries come with the same term: they are not its own.
        let leads = self.me.is_some() && vote.leader_id().voted_for() == self.me;
        let own = |e: &Entry| {
            let by = e.log_id.leader_id;
            by.term == vote.leader_id().term && Some(by.node_id) == self.me
        };
        // A new membership is in force at once, and may need nobody else.
        let ordinary = |e: &Entry| !matches!(e.payload, EntryPayload::Membership(_));
        let last = self.shared.last_key_value();
        let shared = last.is_some_and(|(_, shared)| *shared);
        leads && shared && entries.iter().all(|e| own(e) && ordinary(e))
    }
}

/// How far the disk is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) last: Option<LogId>,
    /// It will never get further.
    pub(crate) failed: bool,
}

/// Waits for the disk.
#[derive(Clone, Debug)]
pub(crate) struct Flushed(watch::Receiver<Reached>);

impl Flushed {
    pub(crate) const fn new(reached: watch::Receiver<Reached>) -> Self {
        Self(reached)
    }

    /// True once `entry`, or what replaced it, is durable; false when that takes longer than `limit` or will never be.
    pub(crate) async fn reaches(&self, entry: Option<LogId>, limit: Duration) -> bool {
        let mut reached = self.0.clone();
        let there = reached.wait_for(|r| r.failed || r.last >= entry);
        match timeout(limit, there).await {
            Ok(Ok(reached)) => reached.last >= entry,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openraft::testing::{blank_ent, log_id};

    use super::*;

    fn membership(configs: &[&[NodeId]]) -> Membership<NodeId, RaftNode> {
        let configs = configs.iter().map(|c| c.iter().copied().collect());
        let configs: Vec<BTreeSet<NodeId>> = configs.collect();
        let nodes: BTreeSet<NodeId> = configs.iter().flatten().copied().collect();
        Membership::new(configs, nodes)
    }

    #[test]
    fn only_a_leader_that_needs_another_lets_go() {
        let vote = Vote::new_committed(3, 1);
        let own = [blank_ent(3, 1, 7), blank_ent(3, 1, 8)];
        let of = |me| Sharing {
            me,
            ..Sharing::default()
        };
        let mut sharing = of(Some(1));
        assert!(!sharing.lets_go(&own, Some(&vote)), "nothing is known");
        sharing.note(1, &membership(&[&[1]]));
        assert!(
            !sharing.lets_go(&own, Some(&vote)),
            "alone it would commit at once"
        );
        sharing.note(2, &membership(&[&[1], &[1, 2]]));
        assert!(sharing.lets_go(&own, Some(&vote)));
        sharing.note(3, &membership(&[&[1, 2, 3]]));
        assert!(sharing.lets_go(&own, Some(&vote)));
        assert!(!sharing.lets_go(&own, None));
        for other in [of(Some(2)), of(None)] {
            let mut other = other;
            other.note(3, &membership(&[&[1, 2, 3]]));
            assert!(!other.lets_go(&own, Some(&vote)), "its leader's entries");
        }
        assert!(
            !sharing.lets_go(&own, Some(&Vote::new_committed(3, 2))),
            "it follows"
        );
        assert!(
            !sharing.lets_go(&own, Some(&Vote::new(4, 1))),
            "of an older term"
        );
        let mut change = blank_ent(3, 1, 9);
        change.payload = EntryPayload::Membership(membership(&[&[1, 2]]));
        assert!(!sharing.lets_go(&[change.clone()], Some(&vote)));
        change.payload = EntryPayload::Membership(membership(&[&[1]]));
        sharing.read(&[change]);
        assert!(!sharing.lets_go(&own, Some(&vote)));
        sharing.truncate_from(9);
        assert!(sharing.lets_go(&own, Some(&vote)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_failed_or_hangs_is_not_waited_for() {
        let (disk, reached) = watch::channel(Reached::default());
        let flushed = Flushed::new(reached);
        let limit = Duration::from_secs(1);
        assert!(flushed.reaches(None, limit).await);
        assert!(!flushed.reaches(Some(log_id(1, 1, 5)), limit).await);
        let last = Some(log_id(1, 1, 5));
        disk.send_replace(Reached {
            last,
            failed: false,
        });
        assert!(flushed.reaches(last, limit).await);
        disk.send_replace(Reached { last, failed: true });
        assert!(flushed.reaches(last, limit).await);
        assert!(!flushed.reaches(Some(log_id(2, 1, 6)), limit).await);
        drop(disk);
        assert!(!flushed.reaches(Some(log_id(2, 1, 6)), limit).await);
    }
}
