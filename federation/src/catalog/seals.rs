//! The keys behind sealed names, as the store holds them: public parts, and private parts that only the owner's controllers
//! can open. Pure. Which key is used when is `api::seal`'s; here is only what a cluster may put.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{
    ClusterName, NodeId, seal,
    store::{Blob, Refusal, SealKeyRecord, SealRecord},
};

use super::{
    Catalog,
    apply::Did,
    limits::{self, BOX_BYTES, KEY_BYTES},
};

/// What a command says of a seal key.
pub(super) struct Put<'a> {
    pub(super) number: u64,
    pub(super) public: &'a Blob,
    pub(super) boxes: &'a BTreeMap<NodeId, Blob>,
    pub(super) alone: bool,
}

impl Catalog {
    /// What a cluster published for sealed names.
    pub fn seals_of(&self, cluster: &ClusterName) -> Option<&Arc<SealRecord>> {
        self.seals.get(cluster)
    }

    pub(super) fn put_node_key(
        &mut self,
        proposer: &ClusterName,
        node: NodeId,
        public: &Blob,
    ) -> Result<Did, Refusal> {
        exactly("a node's key", public, KEY_BYTES)?;
        self.own_node(proposer, node)?;
        let mut record = self.seal_record(proposer);
        record.node_keys.insert(node, public.clone());
        self.set_seals(proposer, record)
    }

    pub(super) fn put_seal_key(
        &mut self,
        proposer: &ClusterName,
        put: &Put<'_>,
    ) -> Result<Did, Refusal> {
        exactly("a seal key", put.public, KEY_BYTES)?;
        for (node, boxed) in put.boxes {
            exactly("a box", boxed, BOX_BYTES)?;
            self.own_node(proposer, *node)?;
        }
        let mut record = self.seal_record(proposer);
        let last = record.keys.last().map_or(0, |k| k.number);
        if let Some(known) = record.keys.iter_mut().find(|k| k.number == put.number) {
            if known.public != *put.public {
                return Err(limits::invalid(
                    "a seal key's number",
                    "one that no other key has",
                ));
            }
            known.boxes.extend(put.boxes.clone());
            return self.set_seals(proposer, record);
        }
        if last.checked_add(1) != Some(put.number) {
            return Err(limits::invalid("a seal key's number", "the next one"));
        }
        record.keys.push(SealKeyRecord {
            number: put.number,
            public: put.public.clone(),
            published_at_ms: self.at_ms,
            boxes: put.boxes.clone(),
        });
        let all = record.keys.clone();
        let now_ms = self.at_ms;
        record.keys.retain(|k| {
            let lost = put.alone && k.number < put.number;
            !lost && !seal::is_spent(k, &all, now_ms)
        });
        // One that makes keys faster than they are used up cuts its own names short, and nobody else's.
        let excess = record.keys.len().saturating_sub(seal::MAX_KEYS);
        record.keys.drain(..excess);
        self.set_seals(proposer, record)
    }

    pub(super) fn forget_seals(&mut self, cluster: &ClusterName) {
        if self.seals.contains_key(cluster) {
            Arc::make_mut(&mut self.seals).remove(cluster);
        }
    }

    pub(super) fn own_node(&self, proposer: &ClusterName, node: NodeId) -> Result<(), Refusal> {
        let own = self
            .member(proposer)
            .is_some_and(|c| c.nodes.contains(&node));
        if own {
            Ok(())
        } else {
            Err(Refusal::UnknownNode(node))
        }
    }

    /// What stands of a cluster now, without what belongs to nodes that are gone.
    fn seal_record(&self, cluster: &ClusterName) -> SealRecord {
        let mut record = self
            .seals
            .get(cluster)
            .map(|r| (**r).clone())
            .unwrap_or_default();
        if let Some(member) = self.member(cluster) {
            record
                .node_keys
                .retain(|node, _| member.nodes.contains(node));
            for key in &mut record.keys {
                key.boxes.retain(|node, _| member.nodes.contains(node));
            }
        }
        record
    }

    fn set_seals(&mut self, cluster: &ClusterName, record: SealRecord) -> Result<Did, Refusal> {
        if self.seals.get(cluster).is_some_and(|r| **r == record) {
            return Ok(Did::Nothing);
        }
        Arc::make_mut(&mut self.seals).insert(cluster.clone(), Arc::new(record));
        Ok(Did::Changed)
    }
}

fn exactly(what: &str, bytes: &Blob, length: usize) -> Result<(), Refusal> {
    if bytes.0.len() == length {
        return Ok(());
    }
    Err(limits::invalid(what, &format!("{length} bytes")))
}
