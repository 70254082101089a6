//! Certificates of a federation of `west` and `east`.

use std::collections::BTreeMap;

use tradewind_api::{ClusterName, Domain, SpiffeId, snapshot::Trust};
use tradewind_ca::{AuthorityKey, Issuer, Root};
use tradewind_runtime::clock;
use tradewind_transport::{
    keys::WorkloadKey,
    svid::{Svid, SvidCell},
    trust::TrustCell,
};

pub(crate) struct Pki {
    pub trust: Trust,
    issuers: BTreeMap<String, Issuer>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let (domain, now) = (Domain::default(), clock::system().unix_ms());
        let root = Root::generate(&domain, now).unwrap();
        let mut pki = Self {
            trust: Trust::default(),
            issuers: BTreeMap::new(),
        };
        pki.trust.roots.insert(root.cert_der().to_vec());
        for name in ["west", "east"] {
            let cluster = ClusterName::new(name).unwrap();
            let key = AuthorityKey::generate(&cluster, &domain).unwrap();
            let csr = key.csr_der().unwrap();
            let der = root.sign_authority(&csr, &cluster, &domain, now).unwrap();
            pki.trust
                .authorities
                .insert(domain.trust_domain(&cluster), [der.clone()].into());
            let issuer = Issuer::new(key, der, root.cert_der().to_vec()).unwrap();
            pki.issuers.insert(name.to_owned(), issuer);
        }
        pki
    }

    pub(crate) fn svid(&self, cluster: &str) -> SvidCell {
        self.short_lived(cluster, 3600)
    }

    /// A certificate for this many seconds.
    pub(crate) fn short_lived(&self, cluster: &str, lifetime_s: u64) -> SvidCell {
        let key = WorkloadKey::generate().unwrap();
        let id: SpiffeId = format!("spiffe://{cluster}.mesh.internal/ns/shop/sa/payments")
            .parse()
            .unwrap();
        let now = clock::system().unix_ms();
        let issued = self.issuers[cluster]
            .issue(&key.csr_der().unwrap(), &id, now, lifetime_s)
            .unwrap();
        let cell = SvidCell::empty();
        cell.set(Svid::new(&key, &issued.chain_der).unwrap());
        cell
    }

    pub(crate) fn cell(&self) -> TrustCell {
        TrustCell::new(&self.trust).unwrap()
    }

    /// The trust map after `cluster` was removed from the federation.
    pub(crate) fn without(&self, cluster: &str) -> Trust {
        let mut trust = self.trust.clone();
        let cluster = ClusterName::new(cluster).unwrap();
        trust
            .authorities
            .remove(&Domain::default().trust_domain(&cluster));
        trust
    }
}
