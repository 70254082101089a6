//! What one command touches, as keys with the value they have afterwards: what watchers are told. Pure.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tradewind_api::{
    ClusterName, NodeId, ServiceName,
    store::{ClusterRecord, Command, ControllersRecord, Export, SealRecord, TokenRecord, Voting},
};

use super::Catalog;

/// One thing in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// A cluster's record.
    Cluster(ClusterName),
    /// One cluster's export of one service.
    Export {
        /// The service.
        service: ServiceName,
        /// The exporter.
        cluster: ClusterName,
    },
    /// A join token, by id.
    Token(String),
    /// A wish for a node's vote.
    Voting(NodeId),
    /// What a cluster published for sealed names.
    Seals(ClusterName),
    /// What a cluster said of its controllers.
    Controllers(ClusterName),
}

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// Of a cluster.
    Cluster(Box<ClusterRecord>),
    /// Of an export; shared with the catalog.
    Export(Arc<Export>),
    /// Of a token.
    Token(Box<TokenRecord>),
    /// Of a vote.
    Voting(Voting),
    /// Of sealed names; shared with the catalog.
    Seals(Arc<SealRecord>),
    /// Of a cluster's controllers; shared with the catalog.
    Controllers(Arc<ControllersRecord>),
}

/// A key that changed, and what it holds since then: `None` when it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What changed.
    pub key: Key,
    /// What it is now.
    pub value: Option<Value>,
}

impl Catalog {
    /// The keys that `command` may change when it is applied to this catalog.
    pub(crate) fn touched(&self, proposer: &ClusterName, command: &Command) -> Vec<Key> {
        let own = || Key::Cluster(proposer.clone());
        let export = |service: &ServiceName| Key::Export {
            service: service.clone(),
            cluster: proposer.clone(),
        };
        match command {
            Command::Found { cluster, .. } => vec![Key::Cluster(cluster.name.clone())],
            Command::Join { token_id, cluster } => vec![
                Key::Cluster(cluster.name.clone()),
                Key::Token(token_id.clone()),
            ],
            // What a controller left behind may end with either.
            Command::Announce { .. }
            | Command::RenewLease
            | Command::Speak { .. }
            | Command::AddController { .. }
            | Command::PutController { .. } => vec![own(), Key::Controllers(proposer.clone())],
            Command::AddNode { replaces } => replaces
                .map(Key::Voting)
                .into_iter()
                .chain([own(), Key::Controllers(proposer.clone())])
                .collect(),
            Command::SetDraining { cluster, .. } => vec![Key::Cluster(cluster.clone())],
            Command::Leave => {
                let nodes = self.member(proposer).map(|c| c.nodes.clone());
                let votes = nodes.unwrap_or_default().into_iter().map(Key::Voting);
                let exports = self.exports_of(proposer).map(|e| export(&e.service));
                let seals = Key::Seals(proposer.clone());
                let controllers = Key::Controllers(proposer.clone());
                let rest = [own(), seals, controllers];
                exports.chain(votes).chain(rest).collect()
            }
            Command::PutExport(e) => vec![export(&e.service)],
            Command::PatchExport { service, .. } | Command::RemoveExport(service) => {
                vec![export(service)]
            }
            Command::PutToken(token) => {
                // Expired ones make room.
                let all = self.tokens.keys().map(|id| Key::Token(id.clone()));
                all.chain([Key::Token(token.id.clone())]).collect()
            }
            Command::RevokeToken(id) => vec![Key::Token(id.clone())],
            Command::SetVoting { node, .. } => vec![Key::Voting(*node)],
            Command::RemoveNode { node } => {
                let owner = self.cluster_of(*node).cloned();
                let controllers = owner.clone().map(Key::Controllers);
                let owner = owner.map(Key::Cluster).into_iter().chain(controllers);
                owner.chain([Key::Voting(*node)]).collect()
            }
            Command::AttestExports { .. } | Command::NoteTransfer { .. } => Vec::new(),
            Command::PutNodeKey { .. } | Command::PutSealKey { .. } => {
                vec![Key::Seals(proposer.clone())]
            }
        }
    }

    /// What stands under `key`.
    pub fn value(&self, key: &Key) -> Option<Value> {
        match key {
            Key::Cluster(name) => {
                let record = self.clusters.get(name)?;
                Some(Value::Cluster(Box::new(record.clone())))
            }
            Key::Export { service, cluster } => {
                let export = self.export(service, cluster)?;
                Some(Value::Export(Arc::clone(export)))
            }
            Key::Token(id) => {
                let token = self.tokens.get(id)?;
                Some(Value::Token(Box::new(token.clone())))
            }
            Key::Voting(node) => self.voting.get(node).copied().map(Value::Voting),
            Key::Seals(cluster) => self.seals_of(cluster).cloned().map(Value::Seals),
            Key::Controllers(cluster) => {
                let record = self.controllers.get(cluster)?;
                Some(Value::Controllers(Arc::clone(record)))
            }
        }
    }

    /// What differs now from what stood under these keys before.
    pub(crate) fn differences(&self, before: BTreeMap<Key, Option<Value>>) -> Vec<Event> {
        before
            .into_iter()
            .filter_map(|(key, old)| {
                let value = self.value(&key);
                (old != value).then_some(Event { key, value })
            })
            .collect()
    }
}
