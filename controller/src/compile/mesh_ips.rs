//! Which addresses stand for endpoints of headless services in other networks. Pure.
//!
//! Callers of a headless service want each endpoint by itself, by an address that DNS tells them, and what the endpoint has in its own
//! network means nothing here. So each gets one that is nobody's, which proxies lead to that endpoint. It comes from the endpoint's id and
//! from nothing that was before: all controllers of a cluster, started whenever, name the same one to DNS servers and to proxies. Of two
//! endpoints whose places collide (one pair in 16 million) the one with the smaller id has its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tradewind_api::{EndpointId, model::ServiceKind};
use tradewind_federation::Catalog;
use tradewind_transport::trust::sha256;

use crate::local::Own;

/// Usable hosts of 241.0.0.0/8: without the network's and the broadcast address. Class E is routed by nobody, so nothing is hidden by it;
/// 240.240.0.0/16 beside it is the clusterset IPs'.
const HOSTS: u32 = (1 << 24) - 2;

/// The endpoints that have such addresses, with their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshIps {
    hosts: BTreeMap<EndpointId, u32>,
}

impl MeshIps {
    /// Takes a look at the catalog, as seen from `own`. Where the same endpoints are there as before nothing is done.
    pub fn observe(&mut self, catalog: &Catalog, own: &Own) {
        let apart: BTreeSet<_> = catalog
            .members()
            .filter(|c| c.name != own.cluster && c.network != own.network)
            .map(|c| &c.name)
            .collect();
        let exports = catalog.exports.values().flat_map(|by| by.iter());
        let wanted: BTreeSet<&EndpointId> = exports
            .filter(|(cluster, export)| {
                export.kind == ServiceKind::Headless && apart.contains(cluster)
            })
            .flat_map(|(_, export)| export.endpoints.keys())
            .collect();
        if self.hosts.keys().eq(wanted.iter().copied()) {
            return;
        }
        let mut taken = BTreeSet::new();
        let place = |id: &EndpointId| {
            let first = start(id);
            // One is free: what a federation may export is far less than there are.
            let free = (0..HOSTS)
                .map(|step| (first + step) % HOSTS + 1)
                .find(|host| taken.insert(*host));
            free.map(|host| (id.clone(), host))
        };
        self.hosts = wanted.into_iter().filter_map(place).collect();
    }

    /// An endpoint's, IPv4 first; none for one that needs none.
    pub fn of(&self, id: &EndpointId) -> Vec<IpAddr> {
        self.hosts
            .get(id)
            .map_or_else(Vec::new, |host| addresses(*host))
    }
}

fn addresses(host: u32) -> Vec<IpAddr> {
    let [_, a, b, c] = host.to_be_bytes();
    vec![
        IpAddr::V4(Ipv4Addr::new(241, a, b, c)),
        // Beside the clusterset IPs' prefix, with the same host number.
        IpAddr::V6(Ipv6Addr::new(
            0xfd74,
            0x7769,
            0x6e64,
            0xf0f1,
            0,
            0,
            u16::from(a),
            u16::from_be_bytes([b, c]),
        )),
    ]
}

/// Where the search for an endpoint's place begins, below [`HOSTS`].
fn start(id: &EndpointId) -> u32 {
    let [a, b, c, d, ..] = sha256(id.as_str().as_bytes());
    u32::from_be_bytes([a, b, c, d]) % HOSTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> EndpointId {
        EndpointId::new(text).unwrap()
    }

    #[test]
    fn a_place_is_an_address_of_each_family() {
        let ips = |host| {
            addresses(host)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(ips(1), ["241.0.0.1", "fd74:7769:6e64:f0f1::1"]);
        assert_eq!(
            ips(HOSTS),
            ["241.255.255.254", "fd74:7769:6e64:f0f1::ff:fffe"]
        );
        // Pinned: all versions of a cluster's controllers must agree.
        assert_eq!(start(&id("db-0")), 3_035_554);
    }
}
