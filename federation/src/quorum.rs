//! How many voters may be lost. Pure arithmetic, for people: consensus itself counts on its own.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tradewind_api::NodeId;

/// What a set of voters can bear.
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

/// What `voters` can bear, of whom `answering` are there.
pub fn quorum(voters: &BTreeSet<NodeId>, answering: &BTreeSet<NodeId>) -> Quorum {
    let majority = voters.len() / 2 + 1;
    let there = voters.intersection(answering).count();
    Quorum {
        voters: voters.len(),
        majority,
        answering: there,
        spare: there.checked_sub(majority),
    }
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
            let quorum = quorum(&set(voters), &set(there));
            assert_eq!(quorum.spare, spare, "{there} of {voters}");
        }
        let strangers = quorum(&set(3), &BTreeSet::from([1, 8, 9]));
        assert_eq!((strangers.answering, strangers.spare), (1, None));
    }
}
