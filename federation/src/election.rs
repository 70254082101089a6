//! When to ask for an election, and when to say yes to one who asks. Pure: no clock, no call, no randomness of its own.
//!
//! openraft 0.9 elects without asking first, so a node that was cut off would come back with a higher term and unseat a
//! healthy leader. Here a candidate first asks all voters whether they miss the leader too, and starts an election only
//! once a majority (in each half of a joint membership) said yes.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use tradewind_api::NodeId;

use crate::types::LogId;

/// What one node knows when it decides.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) me: NodeId,
    pub(crate) leads: bool,
    pub(crate) term: u64,
    pub(crate) last_log: Option<LogId>,
    /// Since when nothing was heard of a leader; on the leader itself, since when no majority confirmed it.
    pub(crate) leader_age: Duration,
    /// The last leader known, dead or alive.
    pub(crate) leader: Option<NodeId>,
    /// One set, or two while the membership changes.
    pub(crate) voters: Vec<BTreeSet<NodeId>>,
}

/// A candidate's question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PreVote {
    pub(crate) candidate: NodeId,
    /// The term it would campaign in.
    pub(crate) term: u64,
    pub(crate) last_log: Option<LogId>,
}

/// A voter's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PreVoteAnswer {
    pub(crate) granted: bool,
    /// Why not, for the candidate's log.
    pub(crate) reason: String,
}

/// What a voter answers.
pub(crate) fn answer(standing: &Standing, asked: &PreVote, lease: Duration) -> PreVoteAnswer {
    let no = |reason: String| PreVoteAnswer {
        granted: false,
        reason,
    };
    if standing.leader_age <= lease {
        let age_ms = standing.leader_age.as_millis();
        return no(match standing.leader {
            _ if standing.leads => format!("I lead, confirmed by a majority {age_ms} ms ago"),
            Some(leader) => format!("I heard the leader, node {leader}, {age_ms} ms ago"),
            None => format!("I started or heard a leader {age_ms} ms ago"),
        });
    }
    // Its term is no reason: one behind learns ours from the vote itself, and asks again above it. Refused here, the one
    // with the longest log would never learn, and nobody else could win.
    if asked.last_log < standing.last_log {
        return no("the candidate's log is behind mine".to_owned());
    }
    PreVoteAnswer {
        granted: true,
        reason: String::new(),
    }
}

/// The question this node would ask. It is above every term the node knows.
pub(crate) fn question(standing: &Standing) -> PreVote {
    PreVote {
        candidate: standing.me,
        term: standing.term + 1,
        last_log: standing.last_log,
    }
}

/// True when `yes` holds a majority of every set of voters.
pub(crate) fn is_majority(voters: &[BTreeSet<NodeId>], yes: &BTreeSet<NodeId>) -> bool {
    let won = |set: &BTreeSet<NodeId>| set.intersection(yes).count() * 2 > set.len();
    !voters.is_empty() && voters.iter().all(won)
}

/// How long this node waits for a sign of the leader before it asks: its place in the line of voters decides the band,
/// `unit` (0 to 1) the point in the lower half of it, so that no two bands overlap.
pub(crate) fn patience(
    standing: &Standing,
    election: Duration,
    step: Duration,
    unit: f64,
) -> Duration {
    let all: BTreeSet<NodeId> = standing.voters.iter().flatten().copied().collect();
    let place = all
        .iter()
        // The leader that is missed does not stand in line, unless it is this very node.
        .filter(|id| Some(**id) != standing.leader || **id == standing.me)
        .take_while(|id| **id != standing.me)
        .count();
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    election + step.saturating_mul(place) + step.mul_f64(unit.clamp(0.0, 1.0) / 2.0)
}

/// What a node does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Wait,
    /// Ask the other voters.
    Ask,
    /// Nobody else votes: elect at once.
    Alone,
}

/// What to do, having waited `patience` since the leader's last sign and `since_last` since the last attempt.
pub(crate) fn step(
    standing: &Standing,
    patience: Duration,
    since_last: Option<Duration>,
    pause: Duration,
) -> Step {
    let votes = standing.voters.iter().any(|set| set.contains(&standing.me));
    if standing.leads || !votes {
        return Step::Wait;
    }
    if since_last.is_some_and(|since| since < pause) {
        return Step::Wait;
    }
    let mut all = standing.voters.iter().flatten();
    if all.all(|voter| *voter == standing.me) {
        return Step::Alone;
    }
    if standing.leader_age < patience {
        return Step::Wait;
    }
    Step::Ask
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    const LEASE: Duration = Duration::from_millis(800);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn log(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(term, 1), index))
    }

    fn standing(me: NodeId) -> Standing {
        Standing {
            me,
            leads: false,
            term: 4,
            last_log: log(4, 10),
            leader_age: ms(1_000),
            leader: Some(1),
            voters: vec![BTreeSet::from([1, 2, 3])],
        }
    }

    #[test]
    fn only_who_misses_the_leader_says_yes() {
        let asked = question(&standing(2));
        assert!(answer(&standing(3), &asked, LEASE).granted);
        let hears = Standing {
            leader_age: ms(300),
            ..standing(3)
        };
        assert!(!answer(&hears, &asked, LEASE).granted);
        let leads = Standing {
            leads: true,
            ..hears
        };
        assert!(answer(&leads, &asked, LEASE).reason.contains("I lead"));
        let longer = Standing {
            last_log: log(4, 11),
            ..standing(3)
        };
        assert!(answer(&longer, &asked, LEASE).reason.contains("log"));
        let later_term = Standing {
            last_log: log(5, 1),
            ..standing(3)
        };
        assert!(!answer(&later_term, &asked, LEASE).granted);
        let ahead = Standing {
            term: 9,
            ..standing(3)
        };
        assert!(
            answer(&ahead, &asked, LEASE).granted,
            "it must learn of term 9 by asking for a vote"
        );
        assert!(answer(&standing(2), &asked, LEASE).granted, "oneself");
    }

    #[test]
    fn a_majority_of_both_halves_is_needed() {
        let joint = [BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
        assert!(is_majority(&joint[..1], &BTreeSet::from([2, 3])));
        assert!(!is_majority(&joint, &BTreeSet::from([2, 3])));
        assert!(is_majority(&joint, &BTreeSet::from([2, 3, 4])));
        assert!(!is_majority(
            &[BTreeSet::from([1, 2])],
            &BTreeSet::from([2])
        ));
        assert!(!is_majority(&[], &BTreeSet::from([2])));
    }

    #[test]
    fn the_bands_of_two_voters_never_overlap() {
        let five = |me| Standing {
            voters: vec![(1..=5).collect()],
            ..standing(me)
        };
        let mut last = Duration::ZERO;
        for me in 2..=5 {
            let from = patience(&five(me), ms(900), ms(250), 0.0);
            let to = patience(&five(me), ms(900), ms(250), 1.0);
            assert!(last < from && from < to, "{me}: {from:?}..{to:?}");
            last = to;
        }
        assert_eq!(patience(&five(2), ms(900), ms(250), 0.0), ms(900));
        assert!(last < ms(2_000));
    }

    #[test]
    fn nobody_asks_before_its_time() {
        let all = |s: &Standing, since| step(s, ms(900), since, ms(500));
        assert_eq!(all(&standing(2), None), Step::Ask);
        assert_eq!(all(&standing(2), Some(ms(100))), Step::Wait);
        assert_eq!(all(&standing(9), None), Step::Wait, "a learner never asks");
        let hears = Standing {
            leader_age: ms(899),
            ..standing(2)
        };
        assert_eq!(all(&hears, None), Step::Wait);
        let alone = Standing {
            voters: vec![BTreeSet::from([2])],
            leader_age: ms(0),
            ..standing(2)
        };
        assert_eq!(all(&alone, None), Step::Alone);
        let leads = Standing {
            leads: true,
            ..alone
        };
        assert_eq!(all(&leads, None), Step::Wait);
    }
}
