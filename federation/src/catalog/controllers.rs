//! The controllers of a cluster that has several: where they are, what each knows, whose authorities they sign with, and
//! which one of them speaks for the cluster. Pure. That at most one speaks at a time is decided here, by the leaders' clocks.

use std::sync::Arc;

use tradewind_api::{
    ClusterName, NodeId,
    store::{Blob, ControllerRecord, ControllersRecord, Refusal, SPEAKER_MS, Speaker},
};

use super::{Catalog, apply::Did, limits};

/// For how long the authority of a controller that is gone is accepted, ms: the day that the last certificate below it may
/// live, and an hour for clocks that differ.
const RETIRE_MS: u64 = 25 * 3_600_000;

impl Catalog {
    /// What a cluster said of its controllers.
    pub fn controllers_of(&self, cluster: &ClusterName) -> Option<&Arc<ControllersRecord>> {
        self.controllers.get(cluster)
    }

    /// Which of a cluster's nodes publishes for it: its only one, or the one that said so.
    pub fn speaker_of(&self, cluster: &ClusterName) -> Option<NodeId> {
        let nodes = &self.member(cluster)?.nodes;
        let said = self.controllers_of(cluster).and_then(|c| c.speaker);
        match said {
            Some(speaker) if nodes.contains(&speaker.node) => Some(speaker.node),
            // Before anybody else came there was nobody to be told apart from.
            Some(_) | None => nodes.first().copied(),
        }
    }

    /// The level that the least of a cluster's controllers knows.
    pub(super) fn level_of_controllers(&self, cluster: &ClusterName) -> u16 {
        let record = self.controllers.get(cluster);
        let levels = record
            .into_iter()
            .flat_map(|r| r.nodes.values().map(|c| c.level));
        levels.min().unwrap_or(u16::MAX)
    }

    pub(super) fn add_controller(
        &mut self,
        proposer: &ClusterName,
        controller: &ControllerRecord,
    ) -> Result<Did, Refusal> {
        limits::check_controller(controller)?;
        self.check_level(proposer, controller.level)?;
        let member = self
            .member(proposer)
            .ok_or_else(|| Refusal::NotMember(proposer.clone()))?;
        if member.witness {
            return Err(Refusal::IsWitness(proposer.clone()));
        }
        limits::at_most(
            "nodes of one cluster",
            member.nodes.len() + 1,
            limits::MAX_NODES_PER_CLUSTER,
        )?;
        limits::at_most(
            "authorities of one cluster",
            member.authorities.len() + 1,
            limits::MAX_AUTHORITIES_PER_CLUSTER,
        )?;
        let speaker = self.speaker_of(proposer);
        let node_id = self.next_node_id;
        self.next_node_id = node_id.saturating_add(1);
        self.edit(proposer, |c| {
            c.nodes.insert(node_id);
            c.authorities.extend(controller.authority.clone());
        })?;
        let mut record = self.controllers_record(proposer);
        record.nodes.insert(node_id, controller.clone());
        // Whoever was there goes on speaking.
        let at_ms = self.at_ms;
        record.speaker = record
            .speaker
            .or_else(|| speaker.map(|node| Speaker { node, at_ms }));
        self.set_controllers(proposer, record);
        Ok(Did::Joined(node_id))
    }

    pub(super) fn put_controller(
        &mut self,
        proposer: &ClusterName,
        node: NodeId,
        address: &str,
        level: u16,
    ) -> Result<Did, Refusal> {
        self.own_node(proposer, node)?;
        self.check_level(proposer, level)?;
        let mut record = self.controllers_record(proposer);
        let authority = record.nodes.get(&node).and_then(|c| c.authority.clone());
        let controller = ControllerRecord {
            address: address.to_owned(),
            level,
            authority,
        };
        limits::check_controller(&controller)?;
        record.nodes.insert(node, controller);
        Ok(self.set_controllers(proposer, record))
    }

    /// A sign of life, and the floor to who asks for it where nobody else has it.
    pub(super) fn speak(&mut self, proposer: &ClusterName, node: NodeId) -> Result<Did, Refusal> {
        self.own_node(proposer, node)?;
        let mut record = self.controllers_record(proposer);
        let nodes = self.member(proposer).map(|c| &c.nodes);
        let another = record.speaker.is_some_and(|s| {
            s.node != node
                && nodes.is_some_and(|n| n.contains(&s.node))
                && self.at_ms < s.at_ms.saturating_add(SPEAKER_MS)
        });
        if !another {
            let at_ms = self.at_ms;
            record.speaker = Some(Speaker { node, at_ms });
            self.set_controllers(proposer, record);
        }
        self.renew_lease(proposer)
    }

    /// A node is gone: nobody dials it any more, and its authority is accepted for as long as what it signed may live.
    pub(super) fn retire_controller(&mut self, cluster: &ClusterName, node: NodeId) {
        let mut record = self.controllers_record(cluster);
        let Some(gone) = record.nodes.remove(&node) else {
            return;
        };
        let at_ms = self.at_ms;
        record.retiring.extend(gone.authority.map(|a| (a, at_ms)));
        self.set_controllers(cluster, record);
    }

    /// A controller came back without its store, under a new node.
    pub(super) fn rename_controller(&mut self, cluster: &ClusterName, old: NodeId, new: NodeId) {
        let mut record = self.controllers_record(cluster);
        let Some(known) = record.nodes.remove(&old) else {
            return;
        };
        record.nodes.insert(new, known);
        if let Some(speaker) = &mut record.speaker
            && speaker.node == old
        {
            speaker.node = new;
        }
        self.set_controllers(cluster, record);
    }

    /// Drops the authorities of controllers that are gone for long enough.
    pub(super) fn end_retired(&mut self, cluster: &ClusterName) {
        let Some(known) = self.controllers.get(cluster) else {
            return;
        };
        let over = |at_ms: u64| self.at_ms >= at_ms.saturating_add(RETIRE_MS);
        let ended: Vec<Blob> = known
            .retiring
            .iter()
            .filter(|(_, at_ms)| over(**at_ms))
            .map(|(authority, _)| authority.clone())
            .collect();
        if ended.is_empty() {
            return;
        }
        let mut record = self.controllers_record(cluster);
        record.retiring.retain(|a, _| !ended.contains(a));
        self.set_controllers(cluster, record);
        let edited = self.edit(cluster, |c| c.authorities.retain(|a| !ended.contains(a)));
        debug_assert!(edited.is_ok(), "only members are looked at");
    }

    pub(super) fn forget_controllers(&mut self, cluster: &ClusterName) {
        if self.controllers.contains_key(cluster) {
            Arc::make_mut(&mut self.controllers).remove(cluster);
        }
    }

    fn check_level(&self, cluster: &ClusterName, level: u16) -> Result<(), Refusal> {
        if level >= self.level {
            return Ok(());
        }
        Err(Refusal::TooOld {
            cluster: cluster.clone(),
            has: level,
            needs: self.level,
        })
    }

    fn controllers_record(&self, cluster: &ClusterName) -> ControllersRecord {
        let known = self.controllers.get(cluster);
        known.map(|r| (**r).clone()).unwrap_or_default()
    }

    fn set_controllers(&mut self, cluster: &ClusterName, record: ControllersRecord) -> Did {
        if self.controllers.get(cluster).is_some_and(|r| **r == record) {
            return Did::Nothing;
        }
        Arc::make_mut(&mut self.controllers).insert(cluster.clone(), Arc::new(record));
        Did::Changed
    }
}
