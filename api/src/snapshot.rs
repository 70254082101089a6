//! What a proxy, a gateway or a DNS server knows: one immutable value, replaced as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    id::{ClusterName, Domain, Revision, ServiceName, ServicePortRef, TrustDomain},
    limit::{Limits, LocalLimits},
    model::{Cluster, Service},
    route::Routes,
    seal::OpeningKey,
    shared::SharedMap,
};

/// What opens sealed names, by the cluster that calls.
pub type Openings = BTreeMap<ClusterName, Arc<Vec<OpeningKey>>>;

/// Roots and the authorities accepted below them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The federation's domain.
    pub domain: Domain,
    /// Root certificates, DER.
    #[serde(with = "der_set")]
    pub roots: BTreeSet<Vec<u8>>,
    /// Trust domain to its accepted authority certificates, DER. One that is missing here is revoked.
    #[serde(with = "der_map")]
    pub authorities: BTreeMap<TrustDomain, BTreeSet<Vec<u8>>>,
}

/// The last good state of everything a data-plane role needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The store's revision it was compiled from.
    pub revision: Revision,
    /// Services by name.
    pub services: SharedMap<ServiceName, Arc<Service>>,
    /// Clusters by name.
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    /// What callers' proxies do with requests, by the service that is called. Proxies alone have any.
    #[serde(default)]
    pub routes: SharedMap<ServiceName, Arc<Routes>>,
    /// How much workloads take, by the object that says it. Proxies alone have any.
    #[serde(default)]
    pub limits: Limits<Arc<LocalLimits>>,
    /// Whom to believe.
    pub trust: Arc<Trust>,
    /// What opens the names that others send. Gateways alone have any. Secret: it is no part of what is shown or written
    /// to disk.
    #[serde(skip)]
    pub openings: Openings,
}

impl Snapshot {
    /// The reader's own cluster, once it is known.
    pub fn local(&self) -> Option<&Arc<Cluster>> {
        self.clusters.values().find(|c| c.local)
    }

    /// The service, if the reader's own cluster exports that port of it: what other clusters may reach here. Gateways and
    /// proxies both decide by it, so it stands once.
    pub fn exported_here(&self, target: &ServicePortRef) -> Option<&Arc<Service>> {
        let local = self.local()?;
        self.services
            .get(&target.service)
            .filter(|s| s.exported_by.contains(&local.name) && s.port(target.port).is_some())
    }
}

/// DER certificates as base64 text.
mod der_set {
    use std::collections::BTreeSet;

    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(v: &BTreeSet<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        v.iter()
            .map(|d| BASE64.encode(d))
            .collect::<Vec<_>>()
            .serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<BTreeSet<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(d)?
            .iter()
            .map(|t| BASE64.decode(t.as_bytes()).map_err(D::Error::custom))
            .collect()
    }
}

/// Trust domains with their DER certificates as base64 text.
mod der_map {
    use std::collections::{BTreeMap, BTreeSet};

    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::id::TrustDomain;

    type Map = BTreeMap<TrustDomain, BTreeSet<Vec<u8>>>;

    pub(super) fn serialize<S: Serializer>(v: &Map, s: S) -> Result<S::Ok, S::Error> {
        v.iter()
            .map(|(k, v)| (k, v.iter().map(|d| BASE64.encode(d)).collect::<Vec<_>>()))
            .collect::<BTreeMap<_, _>>()
            .serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Map, D::Error> {
        BTreeMap::<TrustDomain, Vec<String>>::deserialize(d)?
            .into_iter()
            .map(|(k, v)| {
                let v: Result<_, _> = v.iter().map(|t| BASE64.decode(t.as_bytes())).collect();
                v.map(|v| (k, v)).map_err(D::Error::custom)
            })
            .collect()
    }
}
