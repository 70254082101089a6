//! Clusterset addresses: which one a service gets, and for how long it keeps it. Deterministic: the place where the
//! search starts is a hash of the name, so that two federations tend to give the same service the same address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tradewind_api::{ServiceName, store::Refusal};

use super::{
    Catalog, MAX_SERVICES, Spare,
    limits::{self, MAX_SPARE_ADDRESSES},
};

/// Usable hosts of 240.240.0.0/16: without the network's and the broadcast address.
const HOSTS: u32 = 65_534;

fn addresses(host: u16) -> Vec<IpAddr> {
    let [high, low] = host.to_be_bytes();
    vec![
        IpAddr::V4(Ipv4Addr::new(240, 240, high, low)),
        // A unique local prefix of our own, with the same host number.
        IpAddr::V6(Ipv6Addr::new(0xfd74, 0x7769, 0x6e64, 0xf0f0, 0, 0, 0, host)),
    ]
}

fn host_of(ips: &[IpAddr]) -> Option<u16> {
    ips.iter().find_map(|ip| match ip {
        IpAddr::V4(v4) => {
            let [_, _, high, low] = v4.octets();
            Some(u16::from_be_bytes([high, low]))
        }
        IpAddr::V6(_) => None,
    })
}

fn start(service: &ServiceName) -> u32 {
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, service.to_string().as_bytes());
    let number = digest
        .as_ref()
        .iter()
        .take(4)
        .fold(0_u32, |n, b| n << 8 | u32::from(*b));
    number % HOSTS
}

impl Catalog {
    /// Gives `service` its address if it has none: its old one, else the first free one from its place on.
    pub(super) fn take_address(&mut self, service: &ServiceName) -> Result<(), Refusal> {
        if self.clusterset_ips.contains_key(service) {
            return Ok(());
        }
        limits::at_most(
            "exported services of the federation",
            self.clusterset_ips.len() + 1,
            MAX_SERVICES,
        )?;
        let ips = match self.spare_ips.get(service) {
            Some(spare) => spare.ips.clone(),
            None => addresses(self.free_host(service)?),
        };
        self.spare_ips.remove(service);
        self.clusterset_ips.insert(service.clone(), ips);
        Ok(())
    }

    /// Puts the address of a service that nobody exports any more aside, for its return.
    pub(super) fn release_address(&mut self, service: &ServiceName) {
        let Some(ips) = self.clusterset_ips.get(service).cloned() else {
            return;
        };
        self.clusterset_ips.remove(service);
        let since_ms = self.at_ms;
        let spares = &mut self.spare_ips;
        spares.insert(service.clone(), Spare { ips, since_ms });
        if spares.len() > MAX_SPARE_ADDRESSES {
            let oldest = spares
                .iter()
                .min_by(|a, b| (a.1.since_ms, a.0).cmp(&(b.1.since_ms, b.0)))
                .map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                spares.remove(&oldest);
            }
        }
    }

    fn free_host(&self, service: &ServiceName) -> Result<u16, Refusal> {
        let spare = self.spare_ips.values().map(|s| &s.ips);
        let all = self.clusterset_ips.values().chain(spare);
        let mut taken = vec![false; usize::from(u16::MAX) + 1];
        for host in all.filter_map(|ips| host_of(ips)) {
            if let Some(taken) = taken.get_mut(usize::from(host)) {
                *taken = true;
            }
        }
        let first = start(service);
        (0..HOSTS)
            .filter_map(|step| u16::try_from((first + step) % HOSTS + 1).ok())
            .find(|host| taken.get(usize::from(*host)) == Some(&false))
            .ok_or_else(|| Refusal::TooMuch {
                what: "clusterset addresses".to_owned(),
                limit: u64::from(HOSTS),
            })
    }
}
