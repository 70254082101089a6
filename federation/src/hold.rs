//! What a leader keeps from a node for a moment: the entry that takes its vote away, until that is certain. Pure.
//!
//! A node follows the last membership in its log, certain or not. Were it to hold one that takes its vote while the leader
//! that wrote it is gone and none of the new voters has it, then the longest log would be with one that stands for no
//! election, and those who do stand could need its vote and not get it. So nobody hears that it votes no more before the
//! new voters have agreed; a leader does not take its own vote away at all, see `membership`.

use std::time::Duration;

use openraft::EntryPayload;
use tradewind_api::NodeId;

use crate::types::{Entry, LogId};

/// Between two looks whether it is certain by now. Commits take milliseconds; each look costs an empty message.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// How many of `entries` may go to node `to`; `None` when all may. `committed` is the last entry that is certain,
/// `in_force` the index of the last membership in the log: what comes before it was agreed on, or it would not be there.
pub(crate) fn ends_at(
    entries: &[Entry],
    to: NodeId,
    committed: Option<LogId>,
    in_force: Option<u64>,
) -> Option<usize> {
    entries.iter().position(|entry| {
        let EntryPayload::Membership(membership) = &entry.payload else {
            return false;
        };
        let votes = membership.voter_ids().any(|voter| voter == to);
        let last = in_force.is_none_or(|index| entry.log_id.index >= index);
        !votes && last && Some(entry.log_id) > committed
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openraft::{
        Membership,
        testing::{blank_ent, log_id},
    };

    use super::*;

    fn voters(index: u64, voters: &[NodeId]) -> Entry {
        let nodes: BTreeSet<NodeId> = [1, 2, 3].into();
        let voters = vec![voters.iter().copied().collect()];
        Entry {
            log_id: log_id(2, 1, index),
            payload: EntryPayload::Membership(Membership::new(voters, nodes)),
        }
    }

    #[test]
    fn nobody_hears_that_it_votes_no_more_before_that_is_certain() {
        let entries = [blank_ent(2, 1, 6), voters(7, &[1, 2]), blank_ent(2, 1, 8)];
        let at = |index| Some(log_id(2, 1, index));
        assert_eq!(ends_at(&entries, 3, at(6), Some(7)), Some(1));
        assert_eq!(ends_at(&entries[1..], 3, None, Some(7)), Some(0));
        assert_eq!(ends_at(&entries, 3, at(7), Some(7)), None, "certain");
        assert_eq!(ends_at(&entries, 2, at(6), Some(7)), None, "it votes on");
        assert_eq!(
            ends_at(&entries, 3, at(6), Some(9)),
            None,
            "another followed"
        );
        assert_eq!(ends_at(&entries[..1], 3, at(5), Some(7)), None);
    }
}
