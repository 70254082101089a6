//! The catalog's invariants, once in words and once in code. Run after every apply in debug builds and in all tests.

use std::collections::{BTreeMap, BTreeSet};

use tradewind_api::{ClusterName, model::ClusterState};

use super::{Catalog, limits};

/// An invariant that does not hold: a defect of ours, never of a proposer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the catalog at revision {revision} breaks an invariant: {what}")]
pub struct Violation {
    /// Where it was seen.
    pub revision: u64,
    /// Which invariant.
    pub what: &'static str,
}

impl Catalog {
    /// Checks every invariant.
    pub fn validate(&self) -> Result<(), Violation> {
        let hold = |holds: bool, what| {
            if holds {
                return Ok(());
            }
            Err(Violation {
                revision: self.revision,
                what,
            })
        };
        self.validate_members(hold)?;
        self.validate_exports(hold)?;
        self.validate_seals(hold)?;
        self.validate_controllers(hold)?;
        hold(
            self.tokens.len() <= limits::MAX_TOKENS,
            "tokens <= MAX_TOKENS",
        )?;
        hold(
            self.tokens.iter().all(|(id, t)| *id == t.id),
            "a token stands under its id",
        )
    }

    fn validate_members(
        &self,
        hold: impl Fn(bool, &'static str) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let mut seen = BTreeSet::new();
        for (name, c) in self.clusters.iter() {
            hold(*name == c.name, "a cluster stands under its name")?;
            for node in &c.nodes {
                hold(*node < self.next_node_id, "node id < next_node_id")?;
                hold(seen.insert(*node), "a node id belongs to one cluster")?;
            }
            if c.state == ClusterState::Left {
                hold(
                    c.nodes.is_empty() && c.authorities.is_empty(),
                    "a cluster that left holds nothing",
                )?;
                hold(
                    !self.export_counts.contains_key(name),
                    "a cluster that left exports nothing",
                )?;
            }
        }
        let members = self.members().count();
        hold(members <= limits::MAX_CLUSTERS, "members <= MAX_CLUSTERS")?;
        hold(
            self.clusters.len() - members <= limits::MAX_LEFT_CLUSTERS,
            "left clusters <= MAX_LEFT_CLUSTERS",
        )?;
        hold(
            self.voting.keys().all(|node| seen.contains(node)),
            "a wish for a vote belongs to a node",
        )?;
        hold(
            self.members()
                .all(|c| c.level.min(self.level_of_controllers(&c.name)) >= self.level),
            "level <= what every member and each of its controllers knows",
        )?;
        hold(
            self.audit.len() <= super::MAX_AUDIT,
            "audit entries <= MAX_AUDIT",
        )?;
        let founded = self.founder.is_some();
        hold(
            founded || (self.clusters.is_empty() && self.exports.is_empty()),
            "nothing before the founding",
        )?;
        hold(founded != self.roots.is_empty(), "founded means a root")
    }

    fn validate_seals(
        &self,
        hold: impl Fn(bool, &'static str) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        for (cluster, record) in self.seals.iter() {
            hold(
                self.member(cluster).is_some(),
                "only present members have seal keys",
            )?;
            hold(
                record.keys.len() <= tradewind_api::seal::MAX_KEYS,
                "seal keys <= MAX_KEYS",
            )?;
            hold(
                record.keys.is_sorted_by(|a, b| a.number < b.number),
                "seal keys stand by number, each once",
            )?;
            let boxes = record.keys.iter().map(|k| k.boxes.len());
            let most = boxes.chain([record.node_keys.len()]).max();
            hold(
                most.unwrap_or(0) <= limits::MAX_NODES_PER_CLUSTER,
                "keys of nodes <= MAX_NODES_PER_CLUSTER",
            )?;
        }
        Ok(())
    }

    fn validate_controllers(
        &self,
        hold: impl Fn(bool, &'static str) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        for (cluster, record) in self.controllers.iter() {
            let Some(member) = self.member(cluster) else {
                return hold(false, "only present members have controllers");
            };
            hold(
                record.nodes.keys().all(|n| member.nodes.contains(n)),
                "a controller is one of its cluster's nodes",
            )?;
            let mut authorities = record.nodes.values().filter_map(|c| c.authority.as_ref());
            hold(
                authorities.all(|a| member.authorities.contains(a))
                    && record
                        .retiring
                        .keys()
                        .all(|a| member.authorities.contains(a)),
                "a controller's authority is its cluster's, until it is retired",
            )?;
        }
        Ok(())
    }

    fn validate_exports(
        &self,
        hold: impl Fn(bool, &'static str) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let mut counts: BTreeMap<ClusterName, u32> = BTreeMap::new();
        for (service, by) in self.exports.iter() {
            hold(!by.is_empty(), "no service without an exporter")?;
            hold(
                self.clusterset_ips.contains_key(service),
                "an exported service has an address",
            )?;
            for (cluster, export) in by.iter() {
                hold(
                    self.member(cluster).is_some(),
                    "only present members export",
                )?;
                hold(
                    export.service == *service,
                    "an export stands under its name",
                )?;
                hold(
                    limits::check_export(export).is_ok(),
                    "an export is within its bounds",
                )?;
                *counts.entry(cluster.clone()).or_default() += 1;
            }
        }
        hold(counts == *self.export_counts, "export counts are true")?;
        hold(
            self.clusterset_ips.len() == self.exports.len(),
            "an address belongs to an exported service",
        )?;
        let mut taken = BTreeSet::new();
        let spare = self.spare_ips.values().map(|s| &s.ips);
        let all = self.clusterset_ips.values().chain(spare).flatten();
        for ip in all {
            hold(taken.insert(*ip), "an address belongs to one service")?;
        }
        Ok(())
    }
}
