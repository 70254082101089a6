//! A snapshot as resources on the wire: encoded and versioned once, whatever the number of streams. Pure.
//!
//! A version is the hash of a resource's bytes, so it survives a restart of the controller, and a client that
//! reconnects is sent only what changed.

use std::{collections::BTreeMap, sync::Arc};

use data_encoding::HEXLOWER;
use prost::Message;
use prost_types::Any;
use tradewind_api::{
    convert,
    id::{ClusterName, ServiceName},
    model::{Cluster, Service},
    proto::{
        CLUSTER_TYPE, OPENINGS_TYPE, ROUTES_TYPE, SERVICE_TYPE, TRUST_NAME, TRUST_TYPE,
        discovery::Resource, v1,
    },
    route::Routes,
    seal::OpeningKey,
    snapshot::{Snapshot, Trust},
};

/// Bytes of a version's hash: 64 bits tell any two states of one resource apart.
const VERSION_BYTES: usize = 8;

/// One resource, ready to be sent.
#[derive(Debug)]
pub struct Entry {
    /// Its version.
    pub version: Arc<str>,
    body: Vec<u8>,
}

impl Entry {
    // One whose bytes are the same whenever the resource is.
    fn new(message: &impl Message) -> Arc<Self> {
        let body = message.encode_to_vec();
        Arc::new(Self {
            version: version(&body),
            body,
        })
    }

    // A protobuf map is written in any order, so the version comes from a form that has one.
    fn of_trust(trust: &Trust) -> Arc<Self> {
        let body = v1::Trust::from(trust).encode_to_vec();
        let version = match serde_json::to_vec(trust) {
            Ok(ordered) => version(&ordered),
            // At worst it is sent once more than needed.
            Err(_) => version(&body),
        };
        Arc::new(Self { version, body })
    }

    /// Its bytes.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// As the wire's resource.
    pub fn resource(&self, type_url: &str, name: &str) -> Resource {
        Resource {
            name: name.to_owned(),
            aliases: Vec::new(),
            version: self.version.as_ref().to_owned(),
            resource: Some(Any {
                type_url: type_url.to_owned(),
                value: self.body.clone(),
            }),
        }
    }
}

fn version(bytes: &[u8]) -> Arc<str> {
    let digest = tradewind_transport::trust::sha256(bytes);
    HEXLOWER
        .encode(digest.get(..VERSION_BYTES).unwrap_or_default())
        .into()
}

/// Resources of one type by name.
pub type Entries = BTreeMap<Arc<str>, Arc<Entry>>;

/// One snapshot, encoded.
#[derive(Debug, Default)]
pub struct Encoded {
    of: Arc<Snapshot>,
    trust: Entries,
    clusters: Entries,
    services: Entries,
    openings: Entries,
    routes: Entries,
    nothing: Entries,
}

impl Encoded {
    /// True if this is the encoding of that very snapshot.
    pub fn is_of(&self, snapshot: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.of, snapshot)
    }

    /// The snapshot's revision.
    pub fn revision(&self) -> u64 {
        self.of.revision.0
    }

    /// The resources of a type; none for a type that is not known here.
    pub fn entries(&self, type_url: &str) -> &Entries {
        match type_url {
            TRUST_TYPE => &self.trust,
            CLUSTER_TYPE => &self.clusters,
            SERVICE_TYPE => &self.services,
            OPENINGS_TYPE => &self.openings,
            ROUTES_TYPE => &self.routes,
            _ => &self.nothing,
        }
    }

    /// The encoding of `snapshot`, taking over what it shares with this one.
    #[must_use]
    pub fn next(&self, snapshot: &Arc<Snapshot>) -> Self {
        let trust_entry = if Arc::ptr_eq(&self.of.trust, &snapshot.trust) {
            self.trust.get(TRUST_NAME).map(Arc::clone)
        } else {
            None
        };
        let trust = trust_entry.unwrap_or_else(|| Entry::of_trust(&snapshot.trust));
        Self {
            trust: [(TRUST_NAME.into(), trust)].into(),
            clusters: fold(
                &snapshot.clusters,
                &self.of.clusters,
                &self.clusters,
                |name: &ClusterName, c: &Cluster| (name.as_str().into(), v1::Cluster::from(c)),
            ),
            services: fold(
                &snapshot.services,
                &self.of.services,
                &self.services,
                |name: &ServiceName, s: &Service| (name.to_string().into(), v1::Service::from(s)),
            ),
            openings: fold(
                &snapshot.openings,
                &self.of.openings,
                &self.openings,
                |name: &ClusterName, keys: &Vec<OpeningKey>| {
                    (name.as_str().into(), convert::openings(name, keys))
                },
            ),
            routes: fold(
                &snapshot.routes,
                &self.of.routes,
                &self.routes,
                |name: &ServiceName, routes: &Routes| {
                    (name.to_string().into(), convert::routes(name, routes))
                },
            ),
            nothing: Entries::new(),
            of: Arc::clone(snapshot),
        }
    }
}

fn fold<K: Ord + ToString, V, M: Message>(
    new: &BTreeMap<K, Arc<V>>,
    old: &BTreeMap<K, Arc<V>>,
    old_entries: &Entries,
    encode: impl Fn(&K, &V) -> (Arc<str>, M),
) -> Entries {
    new.iter()
        .map(|(key, value)| {
            let shared = old.get(key).is_some_and(|o| Arc::ptr_eq(o, value));
            let known = shared
                .then(|| old_entries.get_key_value(key.to_string().as_str()))
                .flatten()
                .map(|(name, entry)| (Arc::clone(name), Arc::clone(entry)));
            known.unwrap_or_else(|| {
                let (name, message) = encode(key, value);
                (name, Entry::new(&message))
            })
        })
        .collect()
}
