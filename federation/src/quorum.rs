//! How many voters may be lost. Pure arithmetic, for people: consensus itself counts on its own.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tradewind_api::NodeId;

/// What the voters can bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// Voters.
    pub voters: usize,
    /// How many of them must be there to write.
    pub majority: usize,
    /// How many of them are there.
    pub answering: usize,
    /// How many more may be lost while writes go on; `None` when too many are lost already.
    pub spare: Option<usize>,
}

/// What the voters can bear, of whom `answering` are there. While they are changed there are two sets of them, and a
/// majority of each must be there: then the one that can bear less counts.
pub fn quorum(electorates: &[BTreeSet<NodeId>], answering: &BTreeSet<NodeId>) -> Quorum {
    let each = electorates.iter().map(|voters| {
        let majority = voters.len() / 2 + 1;
        let there = voters.intersection(answering).count();
        Quorum {
            voters: voters.len(),
            majority,
            answering: there,
            spare: there.checked_sub(majority),
        }
    });
    each.min_by_key(|q| q.spare).unwrap_or(Quorum {
        voters: 0,
        majority: 1,
        answering: 0,
        spare: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_lost() {
        let set = |n: u64| (1..=n).collect::<BTreeSet<_>>();
        for (voters, there, spare) in [
            (1, 1, Some(0)),
            (2, 2, Some(0)),
            (2, 1, None),
            (3, 3, Some(1)),
            (3, 2, Some(0)),
            (4, 4, Some(1)),
            (5, 5, Some(2)),
            (5, 2, None),
            (0, 0, None),
        ] {
            let quorum = quorum(&[set(voters)], &set(there));
            assert_eq!(quorum.spare, spare, "{there} of {voters}");
        }
        let strangers = quorum(&[set(3)], &BTreeSet::from([1, 8, 9]));
        assert_eq!((strangers.answering, strangers.spare), (1, None));
        assert_eq!(quorum(&[], &set(3)).spare, None);
    }

    #[test]
    fn while_a_third_is_half_in_none_of_the_two_may_be_lost() {
        let (two, three) = (BTreeSet::from([1, 2]), BTreeSet::from([1, 2, 3]));
        let half = quorum(&[two, three.clone()], &three);
        assert_eq!((half.voters, half.spare), (2, Some(0)));
    }
}
