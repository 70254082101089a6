//! A cluster's controller as far as sealed names go: the test opens the cluster's seal key with the key in its data
//! directory, and mints any name with it, those that no honest controller would mint among them.

use std::collections::BTreeMap;

use rustls::pki_types::ServerName;
use tradewind_api::{ClusterName, Domain, EndpointId, ServicePortRef, seal::in_use};
use tradewind_federation::{Catalog, disaster};
use tradewind_runtime::{clock, files};
use tradewind_transport::{
    seal::{
        Content, Pair, Seal, ServiceId,
        keys::{BoxedFor, SealKey},
    },
    server_name::{self, Target},
};

use crate::{
    Federation,
    wait::{USUAL, until},
};

/// See the module.
#[derive(Debug)]
pub struct Sealer {
    domain: Domain,
    own: ClusterName,
    key: SealKey,
    /// The public keys that the other clusters are called with.
    others: BTreeMap<ClusterName, [u8; 32]>,
}

impl Sealer {
    /// Waits until every cluster's key is in use, and opens that of one.
    pub async fn of(federation: &Federation, number: usize) -> Self {
        let dir = &federation.clusters[number].data_dir;
        let own: ClusterName = federation.clusters[number].name.parse().expect("a name");
        let catalog = until("every cluster's seal key to be in use", USUAL, || async {
            let catalog = saved(federation, number).await;
            let used = |c: &ClusterName| {
                let record = catalog.seals_of(c)?;
                in_use(record, catalog.at_ms)
            };
            let all = catalog.members().all(|m| used(&m.name).is_some());
            if all {
                Ok(catalog.clone())
            } else {
                Err(catalog.revision)
            }
        })
        .await;
        let framed = files::read_framed(&dir.join("seal.key"), *b"TWSK", 1);
        let (_, bytes) = framed.expect("a good file").expect("a key");
        let private: [u8; 32] = bytes.as_slice().try_into().expect("32 bytes");
        let node_key = SealKey::from_private(private.into()).expect("a key");
        let public = |c: &ClusterName| -> [u8; 32] {
            let record = catalog.seals_of(c).expect("published");
            let key = in_use(record, catalog.at_ms).expect("in use");
            key.public.0.as_slice().try_into().expect("32 bytes")
        };
        let to = BoxedFor {
            domain: &catalog.domain,
            cluster: &own,
        };
        let record = catalog.seals_of(&own).expect("published");
        let used = in_use(record, catalog.at_ms).expect("in use");
        let opened = used
            .boxes
            .values()
            .find_map(|b| node_key.unboxed(&to, &public(&own), &b.0).ok());
        let names = catalog.members().map(|m| m.name.clone());
        Self {
            domain: catalog.domain.clone(),
            key: opened.expect("a box for this controller"),
            others: names.map(|c| (c.clone(), public(&c))).collect(),
            own,
        }
    }

    /// A seal for `target`'s gateways, good for so many seconds from now.
    pub fn seal(&self, target: &str, service: &str, valid_s: i64) -> Seal {
        let service: ServicePortRef = service.parse().expect("namespace/name:port");
        let target: ClusterName = target.parse().expect("a cluster's name");
        let pair = Pair {
            domain: &self.domain,
            caller: &self.own,
            target: &target,
        };
        let key = self
            .key
            .minting(&pair, &self.others[&target])
            .expect("keys that agree");
        let now_unix_s = clock::system().unix_ms() / 1000;
        let content = Content {
            service: ServiceId::of(&service.service),
            port: service.port,
            expires_unix_s: now_unix_s.saturating_add_signed(valid_s),
        };
        let minter = key.minter(&pair).expect("a good key");
        minter.mint(&content).expect("a seal")
    }

    /// The name under which a proxy of this cluster calls any endpoint of a service there.
    pub fn name(&self, target: &str, service: &str) -> ServerName<'static> {
        named(target, self.seal(target, service, 3600), None)
    }
}

/// A seal as a name at a cluster's gateways.
pub fn named(cluster: &str, seal: Seal, endpoint: Option<EndpointId>) -> ServerName<'static> {
    let target = Target::Sealed {
        cluster: cluster.parse().expect("a cluster's name"),
        endpoint,
        seal,
    };
    server_name::server_name(&target, &Domain::default()).expect("a short name")
}

/// The store as a cluster's controller has it.
async fn saved(federation: &Federation, number: usize) -> Catalog {
    let file = federation.dir().join("seals.snapshot");
    let name = file.to_str().expect("a plain path");
    drop(std::fs::remove_file(&file));
    federation
        .cli(number, &["store", "snapshot", "save", name])
        .await
        .good();
    let held = disaster::read_snapshot(&file).expect("a good snapshot");
    held.catalog().clone()
}
