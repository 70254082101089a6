//! Controllers that are meant by their node: each of a cluster that has several, through that cluster's gateways, and the
//! others of this controller's own cluster, at their own addresses.

use std::{collections::BTreeMap, sync::Arc};

use tonic::transport::Channel;
use tradewind_api::{
    ClusterName, NodeId,
    id::TrustDomain,
    proto::v1::{federation_client::FederationClient, siblings_client::SiblingsClient},
};
use tradewind_federation::{Catalog, PeerError};
use tradewind_transport::server_name::Target;

use super::{Known, MAX_MESSAGE_BYTES, Peers, PoisonError, dial, federation_client};

/// Where the other controllers of this cluster are dialled, `host:port` by node.
pub type Siblings = BTreeMap<NodeId, String>;

/// What the catalog says of the other controllers of the cluster `own`, whose node `me` is this one's.
pub fn siblings_in(catalog: &Catalog, own: &ClusterName, me: NodeId) -> Siblings {
    let record = catalog.controllers_of(own);
    let nodes = record.into_iter().flat_map(|r| &r.nodes);
    nodes
        .filter(|(node, _)| **node != me)
        .map(|(node, c)| (*node, c.address.clone()))
        .collect()
}

impl Peers {
    /// Replaces what is known of the other controllers of this cluster.
    pub fn know_siblings(&self, siblings: Siblings) {
        if **self.0.siblings.load() == siblings {
            return;
        }
        self.0.siblings.store(Arc::new(siblings));
        self.forget_nodes(&self.0.known.load(), &self.0.siblings.load());
    }

    /// The other controllers of this cluster.
    pub fn siblings(&self) -> Arc<Siblings> {
        self.0.siblings.load_full()
    }

    /// This cluster's trust domain.
    pub(crate) fn own_trust_domain(&self) -> TrustDomain {
        self.0.domain.trust_domain(&self.0.own)
    }

    /// Channels to nodes that are no longer known end.
    pub(super) fn forget_nodes(&self, known: &Known, siblings: &Siblings) {
        let mut nodes = self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|(cluster, node), _| {
            let elsewhere = known.get(cluster);
            elsewhere.is_some_and(|k| k.nodes.contains(node))
                || *cluster == self.0.own && siblings.contains_key(node)
        });
    }

    /// What another controller of this cluster tells of itself.
    pub fn follow(&self, node: NodeId) -> SiblingsClient<Channel> {
        SiblingsClient::new(self.node_channel(&self.0.own, node))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The federation service of another controller of this cluster.
    pub fn sibling(&self, node: NodeId) -> FederationClient<Channel> {
        federation_client(self.node_channel(&self.0.own, node))
    }

    /// The channel to a node. A cluster's only one is reached by the cluster's name, as ever.
    pub(super) fn channel_of(
        &self,
        to: NodeId,
        cluster: &ClusterName,
    ) -> Result<Channel, PeerError> {
        if *cluster == self.0.own && to != self.0.node_id {
            return Ok(self.node_channel(cluster, to));
        }
        let known = self.0.known.load();
        let several = known.get(cluster).is_some_and(|k| k.by_node.contains(&to));
        if several {
            Ok(self.node_channel(cluster, to))
        } else {
            self.channel(cluster)
        }
    }

    fn node_channel(&self, cluster: &ClusterName, node: NodeId) -> Channel {
        let mut nodes = self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = nodes.get(&(cluster.clone(), node)) {
            return channel.clone();
        }
        let (this, to) = (Arc::clone(&self.0), cluster.clone());
        let channel = dial::lazy_channel(move || {
            let (this, to) = (Arc::clone(&this), to.clone());
            async move {
                let config = dial::controller_config(&this.svid, &this.trust, &to, &this.domain);
                let target = Target::ControllerNode {
                    cluster: to.clone(),
                    node,
                };
                if to == this.own {
                    let address = this.siblings.load().get(&node).cloned();
                    return dial::sibling(address, &target, &this.domain, config).await;
                }
                let known = this.known.load();
                let gateways = known.get(&to).map(|k| k.gateways.clone());
                drop(known);
                let gateways = gateways.unwrap_or_default();
                let found = dial::any_gateway(&gateways, 0, &target, &this.domain, config).await;
                found.map(|(stream, _)| stream)
            }
        });
        nodes.insert((cluster.clone(), node), channel.clone());
        channel
    }
}
