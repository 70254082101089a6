use std::collections::BTreeSet;

use tradewind_api::{ClusterName, Network, Region, model::ClusterState, store::ClusterRecord};

pub(crate) fn name(s: &str) -> ClusterName {
    ClusterName::new(s).unwrap()
}

pub(crate) fn record(s: &str) -> ClusterRecord {
    ClusterRecord {
        name: name(s),
        region: Region::new("r1").unwrap(),
        network: Network::new(s).unwrap(),
        gateways: vec![format!("{s}.example:15443")],
        state: ClusterState::Active,
        nodes: BTreeSet::new(),
        authorities: BTreeSet::new(),
        version: "0.1.0".to_owned(),
        joined_at_ms: 0,
        lease_at_ms: 0,
    }
}
