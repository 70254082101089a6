//! What one controller lists, in a form that can be compared with another's. Reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use tradewind_api::proto::v1::{
    ClusterState, Empty, ListClustersResponse, ListRequest, ListTokensResponse, StatusResponse,
};

use super::{
    ask::{Failed, ask},
    lane::SERVICE,
};

/// What a controller lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Tokens: whom they are for, and their ids.
    pub tokens: BTreeMap<String, String>,
    /// Clusters that drain.
    pub draining: BTreeSet<String>,
    /// Clusters that export the service.
    pub exported: BTreeSet<String>,
}

impl Listing {
    /// Where it differs from another, in few words.
    pub fn differences(&self, other: &Self) -> String {
        let of = |a: &Self, b: &Self| {
            let missing = a.tokens.keys().filter(|t| !b.tokens.contains_key(*t));
            missing.take(5).cloned().collect::<Vec<_>>()
        };
        format!(
            "tokens of one alone {:?}, of the other {:?}; draining {:?} and {:?}; exported {:?} and {:?}",
            of(self, other),
            of(other, self),
            self.draining,
            other.draining,
            self.exported,
            other.exported
        )
    }
}

/// All tokens.
pub async fn tokens(socket: &Path) -> Result<ListTokensResponse, Failed> {
    ask(socket, ListRequest::default(), async |mut c, r| {
        c.list_tokens(r).await
    })
    .await
}

/// All clusters, with the revision that a controller has applied.
pub async fn clusters(socket: &Path) -> Result<ListClustersResponse, Failed> {
    ask(socket, ListRequest::default(), async |mut c, r| {
        c.list_clusters(r).await
    })
    .await
}

/// What a controller says of itself and the store.
pub async fn status(socket: &Path) -> Result<StatusResponse, Failed> {
    ask(socket, Empty {}, async |mut c, r| c.status(r).await).await
}

/// Everything, and a revision that it is at least as new as.
pub async fn whole(socket: &Path) -> Result<(u64, Listing), Failed> {
    let clusters = clusters(socket).await?;
    let tokens = tokens(socket).await?;
    let services = ask(socket, ListRequest::default(), async |mut c, r| {
        c.list_services(r).await
    })
    .await?;
    let draining = |c: &tradewind_api::proto::v1::Cluster| c.state() == ClusterState::Draining;
    let ledger = services
        .services
        .into_iter()
        .filter(|s| format!("{}/{}", s.namespace, s.name) == SERVICE);
    let listing = Listing {
        tokens: tokens
            .tokens
            .into_iter()
            .map(|t| (t.cluster, t.id))
            .collect(),
        draining: clusters
            .clusters
            .into_iter()
            .filter_map(|c| c.cluster)
            .filter(draining)
            .map(|c| c.name)
            .collect(),
        exported: ledger.flat_map(|s| s.exported_by).collect(),
    };
    Ok((clusters.revision, listing))
}
