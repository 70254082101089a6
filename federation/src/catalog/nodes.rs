//! The nodes of the store that members run: which may vote, which went, which came. Only the record of it; the leader
//! carries it out (`membership`). Also what level the federation stands at.

use std::sync::Arc;

use tradewind_api::{
    ClusterName, NodeId,
    model::ClusterState,
    store::{Refusal, Voting},
};

use super::{Catalog, apply::Did, limits};

impl Catalog {
    pub(super) fn set_voting(&mut self, node: NodeId, voting: Voting) -> Result<Did, Refusal> {
        if self.cluster_of(node).is_none() {
            return Err(Refusal::UnknownNode(node));
        }
        if self.voting_of(node) == voting {
            return Ok(Did::Nothing);
        }
        let all = Arc::make_mut(&mut self.voting);
        if voting == Voting::Auto {
            all.remove(&node);
        } else {
            all.insert(node, voting);
        }
        Ok(Did::Changed)
    }

    /// Who leads is not in the store; that somebody moved it is in the log of changes.
    pub(super) fn note_transfer(&self, to: NodeId) -> Result<Did, Refusal> {
        if self.cluster_of(to).is_none() {
            return Err(Refusal::UnknownNode(to));
        }
        Ok(Did::Changed)
    }

    pub(super) fn remove_node(&mut self, node: NodeId) -> Result<Did, Refusal> {
        let owner = self.cluster_of(node).cloned();
        let Some(owner) = owner else {
            return Err(Refusal::UnknownNode(node));
        };
        if self.members().map(|c| c.nodes.len()).sum::<usize>() == 1 {
            return Err(limits::invalid(
                "removing the store's last node",
                "another node to remain",
            ));
        }
        self.edit(&owner, |c| {
            c.nodes.remove(&node);
        })?;
        self.forget_voting(node);
        self.retire_controller(&owner, node);
        Ok(Did::Changed)
    }

    pub(super) fn add_node(
        &mut self,
        proposer: &ClusterName,
        replaces: Option<NodeId>,
    ) -> Result<Did, Refusal> {
        let nodes = self
            .member(proposer)
            .map(|c| c.nodes.clone())
            .unwrap_or_default();
        // One that is gone already may be named: an answer was lost, or an operator removed it.
        if let Some(old) = replaces
            && !nodes.contains(&old)
            && self.cluster_of(old).is_some()
        {
            return Err(Refusal::UnknownNode(old));
        }
        let remaining = nodes.iter().filter(|n| Some(**n) != replaces).count();
        limits::at_most(
            "nodes of one cluster",
            remaining + 1,
            limits::MAX_NODES_PER_CLUSTER,
        )?;
        let node_id = self.next_node_id;
        self.next_node_id = node_id.saturating_add(1);
        self.edit(proposer, |c| {
            if let Some(old) = replaces {
                c.nodes.remove(&old);
            }
            c.nodes.insert(node_id);
        })?;
        if let Some(old) = replaces {
            self.forget_voting(old);
            self.rename_controller(proposer, old, node_id);
        }
        Ok(Did::Joined(node_id))
    }

    /// What is wanted of a node's vote.
    pub fn voting_of(&self, node: NodeId) -> Voting {
        self.voting.get(&node).copied().unwrap_or_default()
    }

    pub(super) fn forget_voting(&mut self, node: NodeId) {
        if self.voting.contains_key(&node) {
            Arc::make_mut(&mut self.voting).remove(&node);
        }
    }

    /// Raises the federation's level to what all its members know. It never falls.
    pub(super) fn raise_level(&mut self) {
        let known = self
            .clusters
            .values()
            .filter(|c| c.state != ClusterState::Left)
            .map(|c| c.level.min(self.level_of_controllers(&c.name)))
            .min();
        // No higher than this build knows: what lies above was not written by it.
        let known = known.unwrap_or(0).min(tradewind_api::store::LEVEL);
        if known > self.level {
            (self.level, self.level_since_ms) = (known, self.at_ms);
        }
    }
}
