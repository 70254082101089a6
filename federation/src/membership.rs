//! Who should vote and who should listen. Pure: from the catalog, the membership and who answers, one change at a time.
//!
//! Every member's nodes become learners; one of each cluster becomes a voter once it has caught up, up to five and an odd
//! number of them, since a fourth voter makes writes slower and protects nothing more. Where there are fewer than three
//! clusters, further controllers of theirs make up the number, if it becomes an odd one. A voter that stays away is
//! replaced by a learner that is there. Voters spread over regions. Nodes of clusters that left go. No change is planned
//! unless those who answer are a majority before it and after it. A leader that does not vote takes no vote away, and no
//! leader takes its own: it lets a voter lead. Were it gone half way, it could be alone with the longest log, standing
//! for no election, and those who do stand would need its vote and not get it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tradewind_api::{ClusterName, NodeId, Region, store::Voting};

use crate::{catalog::Catalog, types::RaftNode};

/// More voters make every write slower and protect little more.
pub(crate) const MAX_VOTERS: usize = 5;
/// A learner within this many entries of the leader has caught up; the last ones are always on their way.
pub(crate) const CAUGHT_UP: u64 = 100;

/// From which level of the federation on a node can be asked to lead.
const STEP_BACK_LEVEL: u16 = 2;
/// From so many clusters on each has one vote at most: the loss of one must not take two.
const ENOUGH_CLUSTERS: usize = 3;
/// As many voters as survive the loss of one.
const SURVIVING: usize = 3;

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
    /// For how long each node has not answered this leader.
    pub(crate) away: BTreeMap<NodeId, Duration>,
    /// After which time away a voter is replaced.
    pub(crate) replace_after: Duration,
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
    /// A voter listens from now on, and a learner votes in its place.
    Replace {
        /// Who votes no more.
        old: NodeId,
        /// Who votes instead.
        new: NodeId,
        /// All voters afterwards.
        voters: BTreeSet<NodeId>,
    },
    /// A voter listens from now on.
    Demote(NodeId),
    /// A voter goes, for good.
    RemoveVoter(NodeId),
    /// Learners go, for good.
    RemoveLearners(BTreeSet<NodeId>),
    /// No change: the leader does not vote, or is to vote no more, and lets a voter lead.
    StepBack,
}

/// The next change, if any is due and safe.
pub(crate) fn plan(catalog: &Catalog, view: &View) -> Option<Change> {
    // Whoever removed itself leaves the rest to the next leader.
    if !catalog.is_founded() || !view.nodes.contains(&view.me) {
        return None;
    }
    let voters = view.voters.last()?;
    let homes: BTreeMap<NodeId, &ClusterName> = catalog
        .members()
        .flat_map(|c| c.nodes.iter().map(|node| (*node, &c.name)))
        .collect();

    let place = Place {
        catalog,
        view,
        voters,
        homes,
    };
    if view.voters.len() > 1 {
        return place.keeping_its_vote(Change::Finish(voters.clone()));
    }
    if let Some(missing) = place.missing() {
        return Some(missing);
    }
    if !voters.contains(&view.me) {
        return place.without_vote();
    }
    place
        .promotion()
        .or_else(|| place.replacement())
        .or_else(|| place.removal())
        .or_else(|| place.second_of_a_home())
        .or_else(|| place.spread())
        .or_else(|| place.forgotten())
        .and_then(|change| place.keeping_its_vote(change))
}

/// What a change is judged by.
struct Place<'a> {
    catalog: &'a Catalog,
    view: &'a View,
    voters: &'a BTreeSet<NodeId>,
    homes: BTreeMap<NodeId, &'a ClusterName>,
}

impl Place<'_> {
    fn missing(&self) -> Option<Change> {
        let missing = |(node, _): &(&NodeId, _)| !self.view.nodes.contains(*node);
        let (node, home) = self.homes.iter().find(missing)?;
        Some(Change::AddLearner(*node, RaftNode::new((*home).clone())))
    }

    /// The same change, or what must come before it if it would take this leader's own vote.
    fn keeping_its_vote(&self, change: Change) -> Option<Change> {
        let me = self.view.me;
        let mut after = self.voters.clone();
        match &change {
            Change::Finish(voters) | Change::Replace { voters, .. } => after.clone_from(voters),
            Change::Demote(node) | Change::RemoveVoter(node) => _ = after.remove(node),
            Change::AddLearner(..)
            | Change::Promote(_)
            | Change::RemoveLearners(_)
            | Change::StepBack => return Some(change),
        }
        // Nobody can be asked whose cluster left, or who does not know the question.
        let asks = self.homes.contains_key(&me) && self.catalog.level >= STEP_BACK_LEVEL;
        if after.contains(&me) || !asks {
            return Some(change);
        }
        let takes_over = |n: &NodeId| self.voters.contains(n) && self.view.answering.contains(n);
        match change {
            _ if after.iter().any(takes_over) => Some(Change::StepBack),
            // The only voter: the new one votes first, and takes the old one's vote away.
            Change::Replace { new, .. } => Some(Change::Promote(new)),
            _ => None,
        }
    }

    /// Those who could vote and do not, the best first.
    fn candidates(&self) -> Vec<NodeId> {
        let ready = |node: &NodeId| {
            let trail = self.view.trails.get(node).copied().flatten();
            let follows =
                trail.is_some_and(|t| t <= CAUGHT_UP) && self.view.answering.contains(node);
            // A leader that was to leave, and did not, votes again.
            *node == self.view.me || follows
        };
        let mut all: Vec<NodeId> = self
            .homes
            .iter()
            .filter(|(node, home)| {
                !self.voters.contains(node)
                    && !self.view.leaving.contains(**home)
                    && self.catalog.voting_of(**node) != Voting::Never
                    && ready(node)
            })
            .map(|(node, _)| *node)
            .collect();
        all.sort_by_key(|node| {
            let preferred = self.catalog.voting_of(*node) == Voting::Preferred;
            // A region that is lost takes all its voters with it.
            (Reverse(preferred), self.voters_in_region_of(*node), *node)
        });
        all
    }

    fn region_of(&self, node: NodeId) -> Option<&Region> {
        let home = self.homes.get(&node)?;
        self.catalog.member(home).map(|c| &c.region)
    }

    fn voters_in_region_of(&self, node: NodeId) -> usize {
        let own = self.region_of(node);
        let voters = self.voters.iter();
        voters.filter(|v| self.region_of(**v) == own).count()
    }

    /// Whether the clusters alone are too few to survive the loss of a voter.
    fn is_few(&self) -> bool {
        self.catalog.members().count() < ENOUGH_CLUSTERS
    }

    fn home_votes(&self, node: NodeId) -> bool {
        let home = self.homes.get(&node);
        self.voters.iter().any(|v| self.homes.get(v) == home)
    }

    /// What a leader may do that does not vote. Were it to take a vote away and be gone half way, the one that lost its vote
    /// could be alone with the longest log: it stands for no election, and who does needs its vote and cannot get it.
    fn without_vote(&self) -> Option<Change> {
        let me = self.view.me;
        let own = self.promotion();
        if let Some(Change::Promote(node)) = own
            && node == me
        {
            return own;
        }
        // One whose cluster leaves writes that first, and is gone then.
        let home = self.homes.get(&me)?;
        let steps_back =
            !self.view.leaving.contains(*home) && self.catalog.level >= STEP_BACK_LEVEL;
        steps_back.then_some(Change::StepBack)
    }

    fn promotion(&self) -> Option<Change> {
        let candidates = self.candidates();
        let fresh: Vec<NodeId> = candidates
            .iter()
            .copied()
            .filter(|n| !self.home_votes(*n))
            .collect();
        let preferred = |n: &NodeId| self.catalog.voting_of(*n) == Voting::Preferred;
        let mut possible = (self.voters.len() + distinct(&fresh, &self.homes)).min(MAX_VOTERS);
        let all = (self.voters.len() + candidates.len()).min(MAX_VOTERS);
        if self.is_few() && all >= SURVIVING {
            possible = all;
        }
        let wanted = if possible > 2 && possible.is_multiple_of(2) {
            possible - 1
        } else {
            possible
        };
        if self.voters.len() < wanted {
            let node = *fresh.first().or_else(|| candidates.first())?;
            let mut after = self.voters.clone();
            after.insert(node);
            return self.is_safe(&after).then_some(Change::Promote(node));
        }
        // Somebody was asked for by name: it takes the place of one who was not.
        let new = candidates.into_iter().find(preferred)?;
        let home = self.homes.get(&new);
        let own = self.voters.iter().find(|v| self.homes.get(v) == home);
        let others = self.voters.iter().rev();
        let mut others = others.filter(|v| **v != self.view.me && !preferred(v));
        let old = match own {
            Some(own) if preferred(own) => return None,
            Some(own) => *own,
            None => *others.next()?,
        };
        self.replace(old, new)
    }

    /// One that was away for too long, or must not vote, gives its place to one who is there.
    fn replacement(&self) -> Option<Change> {
        let away = |v: &&NodeId| {
            let away = self.view.away.get(v).copied().unwrap_or_default();
            **v != self.view.me && away >= self.view.replace_after
        };
        let unwanted = |v: &&NodeId| {
            self.homes.contains_key(v) && self.catalog.voting_of(**v) == Voting::Never
        };
        let candidates = self.candidates();
        let fits = |old: NodeId| {
            let same_home = |n: NodeId| self.homes.get(&n) == self.homes.get(&old);
            candidates
                .iter()
                .copied()
                .find(|n| same_home(*n) || !self.home_votes(*n) || self.is_few())
        };
        // An unwanted one goes also where nobody takes its place, the leader last.
        let unwanted = self.voters.iter().filter(unwanted);
        if let Some(old) = unwanted.copied().min_by_key(|v| (*v == self.view.me, *v)) {
            if let Some(change) = fits(old).and_then(|new| self.replace(old, new)) {
                return Some(change);
            }
            return self.demotion(old);
        }
        let old = *self.voters.iter().find(away)?;
        self.replace(old, fits(old)?)
    }

    fn replace(&self, old: NodeId, new: NodeId) -> Option<Change> {
        let mut voters = self.voters.clone();
        voters.remove(&old);
        voters.insert(new);
        // Both halves of the change must be able to agree on it.
        let safe = self.is_safe(self.voters) && self.is_safe(&voters);
        safe.then_some(Change::Replace { old, new, voters })
    }

    fn demotion(&self, node: NodeId) -> Option<Change> {
        let mut after = self.voters.clone();
        after.remove(&node);
        let safe = self.is_safe(self.voters) && self.is_safe(&after);
        safe.then_some(Change::Demote(node))
    }

    fn removal(&self) -> Option<Change> {
        let stays = |v: &NodeId| {
            self.homes
                .get(v)
                .is_some_and(|home| !self.view.leaving.contains(*home))
        };
        let gone = self.voters.iter().filter(|v| !stays(v));
        // Others first: a leader that removes itself can no longer finish the rest.
        let node = *gone.min_by_key(|v| (**v == self.view.me, **v))?;
        let mut after = self.voters.clone();
        after.remove(&node);
        let change = if self.homes.contains_key(&node) {
            Change::Demote(node)
        } else {
            Change::RemoveVoter(node)
        };
        self.is_safe(&after).then_some(change)
    }

    /// Two of one cluster vote only while one takes the other's place.
    fn second_of_a_home(&self) -> Option<Change> {
        if self.is_few() && self.voters.len() >= SURVIVING {
            return None;
        }
        let home = |v: NodeId| self.homes.get(&v);
        let shares = |v: &&NodeId| {
            let mut others = self.voters.iter().filter(|o| *o != *v);
            home(**v).is_some() && others.any(|o| home(*o) == home(**v))
        };
        let preferred = |v: NodeId| self.catalog.voting_of(v) == Voting::Preferred;
        let second = self.voters.iter().copied();
        let second = second
            .filter(|v| shares(&v))
            .min_by_key(|v| (preferred(*v), *v == self.view.me, Reverse(*v)))?;
        self.demotion(second)
    }

    /// Clusters of one region may have joined first. One of its voters gives its place to a region that has at least two
    /// voters less; that ends, since each such change makes the regions more alike.
    fn spread(&self) -> Option<Change> {
        let movable =
            |v: &&NodeId| **v != self.view.me && self.catalog.voting_of(**v) != Voting::Preferred;
        let old = self.voters.iter().filter(movable).copied();
        let old = old.max_by_key(|v| (self.voters_in_region_of(*v), *v))?;
        let candidates = self.candidates().into_iter();
        let new = candidates
            .filter(|n| !self.home_votes(*n))
            .min_by_key(|n| (self.voters_in_region_of(*n), *n))?;
        let fewer = self.voters_in_region_of(new) + 2 <= self.voters_in_region_of(old);
        fewer.then(|| self.replace(old, new))?
    }

    fn forgotten(&self) -> Option<Change> {
        let gone = |n: &&NodeId| !self.homes.contains_key(n) && !self.voters.contains(n);
        let gone: BTreeSet<_> = self.view.nodes.iter().filter(gone).copied().collect();
        (!gone.is_empty()).then_some(Change::RemoveLearners(gone))
    }

    fn is_safe(&self, after: &BTreeSet<NodeId>) -> bool {
        let view = self.view;
        let answers = |n: &&NodeId| **n == view.me || view.answering.contains(n);
        let answering = after.iter().filter(answers).count();
        answering * 2 > after.len()
    }
}

/// How many clusters `nodes` are of.
fn distinct(nodes: &[NodeId], homes: &BTreeMap<NodeId, &ClusterName>) -> usize {
    let homes: BTreeSet<_> = nodes.iter().filter_map(|n| homes.get(n)).collect();
    homes.len()
}

#[cfg(test)]
mod tests;
