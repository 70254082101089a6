//! What this cluster's own callers may leave through: the names that its own controller has made for other clusters. A
//! gateway that passes on takes these and no others, so that nobody else can use it to get anywhere.
//!
//! Owns the names until they expire: a caller that has not heard of the newest ones yet goes on with those before. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tradewind_api::{
    ClusterName, ServiceName,
    seal::{LIFE_S, SealedPort},
    snapshot::Snapshot,
};
use tradewind_transport::seal::Seal;

use crate::refusal::Refusal;

/// For whose gateways a name was made, and until when it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Made {
    cluster: ClusterName,
    expires_unix_s: u64,
}

/// See the module. For one snapshot and what came before it.
#[derive(Clone, Debug, Default)]
pub struct Exits {
    of: BTreeMap<ServiceName, Vec<SealedPort>>,
    made: Arc<HashMap<Seal, Made>>,
}

impl Exits {
    /// For a snapshot, with what is still good of `self`.
    pub(crate) fn next(&self, snapshot: &Snapshot) -> Self {
        let mut new: Vec<&SealedPort> = Vec::new();
        let mut of = BTreeMap::new();
        for service in snapshot.services.values().filter(|s| !s.seals.is_empty()) {
            if self.of.get(&service.name) != Some(&service.seals) {
                new.extend(&service.seals);
            }
            of.insert(service.name.clone(), service.seals.clone());
        }
        if new.is_empty() {
            return Self {
                of,
                made: Arc::clone(&self.made),
            };
        }
        // A name is made for this long from now, so what ends before then has ended; no clock is asked.
        let newest = new.iter().map(|s| s.expires_unix_s).max().unwrap_or(0);
        let over = newest.saturating_sub(LIFE_S);
        let kept = self.made.iter().filter(|(_, m)| m.expires_unix_s > over);
        let mut made: HashMap<Seal, Made> = kept.map(|(s, m)| (*s, m.clone())).collect();
        made.extend(new.into_iter().filter_map(|port| {
            let is = Made {
                cluster: port.cluster.clone(),
                expires_unix_s: port.expires_unix_s,
            };
            Some((Seal::parse(&port.label)?, is))
        }));
        Self {
            of,
            made: Arc::new(made),
        }
    }

    /// Whether a name was made here, for that cluster, and is still good.
    pub fn check(
        &self,
        cluster: &ClusterName,
        seal: &Seal,
        now_unix_s: u64,
    ) -> Result<(), Refusal> {
        let made = self.made.get(seal).filter(|m| m.cluster == *cluster);
        match made {
            None => Err(Refusal::SealUnknown),
            Some(made) if made.expires_unix_s <= now_unix_s => Err(Refusal::SealExpired),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        fixture::snapshot,
        names::tests::{minter, sealed},
    };

    const NOW: u64 = 1_800_000_000;

    /// Has this cluster's controller make a name for east's `shop/payments`.
    pub(crate) fn made(s: &mut Snapshot, key: u32, expires_unix_s: u64) -> Seal {
        let seal = sealed(
            &minter("west", "east", key),
            "shop/payments",
            expires_unix_s,
        );
        let name = "shop/payments".parse().unwrap();
        let service = Arc::make_mut(s.services.get_mut(&name).unwrap());
        service.seals = vec![SealedPort {
            cluster: ClusterName::new("east").unwrap(),
            port: 80,
            key_id: key,
            expires_unix_s,
            label: seal.label(),
        }];
        seal
    }

    #[test]
    fn names_made_here_pass_to_whom_they_are_for_until_they_expire() {
        let (east, west) = (
            ClusterName::new("east").unwrap(),
            ClusterName::new("west").unwrap(),
        );
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        let first = made(&mut s, 1, NOW + 100);
        let exits = Exits::default().next(&s);
        assert_eq!(exits.check(&east, &first, NOW), Ok(()));
        assert_eq!(
            exits.check(&east, &first, NOW + 100),
            Err(Refusal::SealExpired)
        );
        assert_eq!(exits.check(&west, &first, NOW), Err(Refusal::SealUnknown));
        // Under the same key, but not by the controller.
        let other = sealed(&minter("west", "east", 1), "shop/payments", NOW + 101);
        assert_eq!(exits.check(&east, &other, NOW), Err(Refusal::SealUnknown));

        // A newer name: the older one is good until it ends, and is then forgotten.
        let second = made(&mut s, 2, NOW + 5000);
        let exits = exits.next(&s);
        for seal in [&first, &second] {
            assert_eq!(exits.check(&east, seal, NOW), Ok(()));
        }
        let unchanged = exits.next(&s);
        assert!(Arc::ptr_eq(&unchanged.made, &exits.made));
        made(&mut s, 3, NOW + 100 + LIFE_S);
        let exits = unchanged.next(&s);
        assert_eq!(exits.made.len(), 2);
        assert_eq!(exits.check(&east, &first, NOW), Err(Refusal::SealUnknown));
        // Withdrawn: until it ends the target's gateways say so themselves.
        let name: ServiceName = "shop/payments".parse().unwrap();
        s.services.remove(&name);
        assert_eq!(exits.next(&s).check(&east, &second, NOW), Ok(()));
    }
}
