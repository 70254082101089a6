//! Who should vote and who should listen. Pure: from the catalog, the membership and who answers, one change at a time.
//!
//! Every member's nodes become learners; one of each cluster becomes a voter once it has caught up, up to five. Nodes of
//! clusters that left go. No change is planned after which the voters that answer would be no majority, and no voter is
//! replaced for being away: silence alone removes nobody.

use std::collections::{BTreeMap, BTreeSet};

use tradewind_api::{ClusterName, NodeId};

use crate::{catalog::Catalog, types::RaftNode};

/// More voters make every write slower and protect little more.
pub(crate) const MAX_VOTERS: usize = 5;
/// A learner within this many entries of the leader has caught up; the last ones are always on their way.
pub(crate) const CAUGHT_UP: u64 = 100;

/// What the leader sees.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) me: NodeId,
    /// One set, or two while a change is under way.
    pub(crate) voters: Vec<BTreeSet<NodeId>>,
    pub(crate) nodes: BTreeSet<NodeId>,
    /// Entries each node trails; `None` for one that confirmed nothing.
    pub(crate) trails: BTreeMap<NodeId, Option<u64>>,
    /// Who answered lately. The leader itself always does.
    pub(crate) answering: BTreeSet<NodeId>,
    /// Members that are about to leave: their nodes must not vote any more when they do.
    pub(crate) leaving: BTreeSet<ClusterName>,
}

/// One change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A former leader's change stopped half way.
    Finish(BTreeSet<NodeId>),
    /// A node starts to listen.
    AddLearner(NodeId, RaftNode),
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter listens from now on.
    Demote(NodeId),
    /// A voter goes, for good.
    RemoveVoter(NodeId),
    /// Learners go, for good.
    RemoveLearners(BTreeSet<NodeId>),
}

/// The next change, if any is due and safe.
pub(crate) fn plan(catalog: &Catalog, view: &View) -> Option<Change> {
    if !catalog.is_founded() {
        return None;
    }
    if let [_, .., wanted] = view.voters.as_slice() {
        return Some(Change::Finish(wanted.clone()));
    }
    let voters = view.voters.first()?;
    let homes: BTreeMap<NodeId, &ClusterName> = catalog
        .members()
        .flat_map(|c| c.nodes.iter().map(|node| (*node, &c.name)))
        .collect();

    if let Some((node, home)) = homes.iter().find(|(n, _)| !view.nodes.contains(n)) {
        return Some(Change::AddLearner(*node, RaftNode::new((*home).clone())));
    }
    promotion(view, voters, &homes)
        .or_else(|| removal(view, voters, &homes))
        .or_else(|| {
            let gone = |n: &&NodeId| !homes.contains_key(n) && !voters.contains(n);
            let gone: BTreeSet<_> = view.nodes.iter().filter(gone).copied().collect();
            (!gone.is_empty()).then_some(Change::RemoveLearners(gone))
        })
}

fn promotion(
    view: &View,
    voters: &BTreeSet<NodeId>,
    homes: &BTreeMap<NodeId, &ClusterName>,
) -> Option<Change> {
    if voters.len() >= MAX_VOTERS {
        return None;
    }
    let voting: BTreeSet<_> = voters.iter().filter_map(|v| homes.get(v)).collect();
    let ready = |node: &NodeId| {
        let trail = view.trails.get(node).copied().flatten();
        let follows = trail.is_some_and(|t| t <= CAUGHT_UP) && view.answering.contains(node);
        // A leader that was to leave, and did not, votes again.
        *node == view.me || follows
    };
    let candidate = homes
        .iter()
        .filter(|(_, home)| !view.leaving.contains(**home))
        .find(|(node, home)| !voters.contains(node) && !voting.contains(home) && ready(node));
    let (node, _) = candidate?;
    let mut after = voters.clone();
    after.insert(*node);
    is_safe(view, &after).then_some(Change::Promote(*node))
}

fn removal(
    view: &View,
    voters: &BTreeSet<NodeId>,
    homes: &BTreeMap<NodeId, &ClusterName>,
) -> Option<Change> {
    let stays = |v: &NodeId| {
        homes
            .get(v)
            .is_some_and(|home| !view.leaving.contains(*home))
    };
    let gone = voters.iter().filter(|v| !stays(v));
    // Others first: a leader that removes itself can no longer finish the rest.
    let node = *gone.min_by_key(|v| (**v == view.me, **v))?;
    let mut after = voters.clone();
    after.remove(&node);
    let change = if homes.contains_key(&node) {
        Change::Demote(node)
    } else {
        Change::RemoveVoter(node)
    };
    is_safe(view, &after).then_some(change)
}

fn is_safe(view: &View, after: &BTreeSet<NodeId>) -> bool {
    let answers = |n: &&NodeId| **n == view.me || view.answering.contains(n);
    let answering = after.iter().filter(answers).count();
    answering * 2 > after.len()
}

#[cfg(test)]
mod tests {
    use tradewind_api::{
        Domain,
        store::{Blob, Command, Stamped, TokenRecord},
    };

    use super::*;
    use crate::catalog::tests::{name, record};

    fn catalog(clusters: &[&str]) -> Catalog {
        let mut catalog = Catalog::default();
        let mut revision = 0;
        let mut apply = |command| {
            revision += 1;
            let at_ms = 1_000 + revision;
            let proposer = name(clusters[0]);
            let outcome = catalog.apply(
                revision,
                &Stamped {
                    proposer,
                    at_ms,
                    command,
                },
            );
            assert!(
                !matches!(outcome, tradewind_api::store::Outcome::Refused(_)),
                "{outcome:?}"
            );
        };
        let mut founder = record(clusters[0]);
        founder.nodes.insert(1);
        apply(Command::Found {
            domain: Domain::default(),
            root: Blob(vec![1]),
            cluster: founder,
        });
        for cluster in &clusters[1..] {
            apply(Command::PutToken(TokenRecord {
                id: (*cluster).to_owned(),
                secret_sha256: Blob(vec![0; 32]),
                cluster: None,
                expires_at_ms: 1_000_000,
                used: None,
            }));
            apply(Command::Join {
                token_id: (*cluster).to_owned(),
                cluster: record(cluster),
            });
        }
        catalog
    }

    fn view(voters: &[NodeId], nodes: &[NodeId]) -> View {
        View {
            me: 1,
            voters: vec![voters.iter().copied().collect()],
            nodes: nodes.iter().copied().collect(),
            trails: nodes.iter().map(|n| (*n, Some(3))).collect(),
            answering: nodes.iter().copied().collect(),
            leaving: BTreeSet::new(),
        }
    }

    #[test]
    fn a_new_member_listens_then_votes() {
        let catalog = catalog(&["west", "central", "east"]);
        let change = plan(&catalog, &view(&[1], &[1]));
        assert_eq!(
            change,
            Some(Change::AddLearner(2, RaftNode::new(name("central"))))
        );
        let listening = view(&[1], &[1, 2, 3]);
        assert_eq!(plan(&catalog, &listening), Some(Change::Promote(2)));
        let mut behind = listening.clone();
        behind.trails.insert(2, Some(CAUGHT_UP + 1));
        assert_eq!(plan(&catalog, &behind), Some(Change::Promote(3)));
        behind.trails.insert(3, None);
        assert_eq!(plan(&catalog, &behind), None);
        let mut silent = listening;
        silent.answering = BTreeSet::from([1]);
        assert_eq!(
            plan(&catalog, &silent),
            None,
            "a silent node would halve the votes"
        );
        assert_eq!(plan(&catalog, &view(&[1, 2, 3], &[1, 2, 3])), None);
    }

    #[test]
    fn at_most_five_vote() {
        let clusters = ["a", "b", "c", "d", "e", "f"];
        let catalog = catalog(&clusters);
        let five = view(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(plan(&catalog, &five), None);
    }

    #[test]
    fn who_left_goes_when_a_majority_remains() {
        let mut catalog = catalog(&["west", "central", "east"]);
        catalog.apply(
            50,
            &Stamped {
                proposer: name("east"),
                at_ms: 5_000,
                command: Command::Leave,
            },
        );
        let all = view(&[1, 2, 3], &[1, 2, 3]);
        assert_eq!(plan(&catalog, &all), Some(Change::RemoveVoter(3)));
        let mut central_silent = all;
        central_silent.answering.remove(&2);
        assert_eq!(
            plan(&catalog, &central_silent),
            None,
            "one of two is no majority"
        );
        let listening = view(&[1, 2], &[1, 2, 3]);
        let change = plan(&catalog, &listening);
        assert_eq!(change, Some(Change::RemoveLearners(BTreeSet::from([3]))));
    }

    #[test]
    fn who_is_about_to_leave_stops_voting_first() {
        let catalog = catalog(&["west", "east"]);
        let mut two = view(&[1, 2], &[1, 2]);
        two.leaving.insert(name("east"));
        assert_eq!(plan(&catalog, &two), Some(Change::Demote(2)));
        let mut listening = view(&[1], &[1, 2]);
        listening.leaving.insert(name("east"));
        assert_eq!(plan(&catalog, &listening), None, "nor does it vote again");
        listening.leaving.clear();
        assert_eq!(plan(&catalog, &listening), Some(Change::Promote(2)));
        // The leader itself, as long as somebody remains.
        two.leaving = BTreeSet::from([name("west")]);
        assert_eq!(plan(&catalog, &two), Some(Change::Demote(1)));
        let mut alone = view(&[1], &[1]);
        alone.nodes.insert(2);
        alone.leaving.insert(name("west"));
        assert_eq!(plan(&catalog, &alone), None, "nobody would be left to vote");
    }

    #[test]
    fn a_half_done_change_is_finished_first() {
        let catalog = catalog(&["west", "central"]);
        let mut joint = view(&[1], &[1, 2]);
        joint.voters.push(BTreeSet::from([1, 2]));
        assert_eq!(
            plan(&catalog, &joint),
            Some(Change::Finish(BTreeSet::from([1, 2])))
        );
        assert_eq!(plan(&Catalog::default(), &joint), None);
    }
}
