//! A snapshot as resources on the wire: encoded and versioned once, whatever the number of streams. Pure.
//!
//! A version is the hash of a resource's bytes, so it survives a restart of the controller, and a client that
//! reconnects is sent only what changed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use data_encoding::HEXLOWER;
use prost::Message;
use prost_types::Any;
use tradewind_api::{
    convert,
    id::{ClusterName, ServiceName},
    limit::LocalLimits,
    model::{Cluster, Service},
    proto::{
        CLUSTER_TYPE, LIMITS_TYPE, OPENINGS_TYPE, ROUTES_TYPE, SERVICE_TYPE, TRUST_NAME,
        TRUST_TYPE, discovery::Resource, v1,
    },
    route::Routes,
    seal::OpeningKey,
    shared::SharedMap,
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
pub type Entries = SharedMap<Arc<str>, Arc<Entry>>;

/// Encodings back from which it is still known what changed since: a stream that is further behind compares everything, once.
const MAX_REMEMBERED: usize = 32;

/// Tells one encoding from every other one, whoever made it, as long as somebody holds it.
#[derive(Clone, Debug, Default)]
pub struct Mark(Arc<()>);

impl PartialEq for Mark {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Mark {}

/// Names by type of what is new, another, or gone.
type Changes = BTreeMap<&'static str, Vec<Arc<str>>>;

/// One snapshot, encoded.
#[derive(Debug, Default)]
pub struct Encoded {
    of: Arc<Snapshot>,
    trust: Entries,
    clusters: Entries,
    services: Entries,
    openings: Entries,
    routes: Entries,
    limits: Entries,
    nothing: Entries,
    mark: Mark,
    /// Those before this one, oldest first, each with what changed after it.
    before: VecDeque<(Mark, Arc<Changes>)>,
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

    /// What tells it from others.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The resources of a type; none for a type that is not known here.
    pub fn entries(&self, type_url: &str) -> &Entries {
        match type_url {
            TRUST_TYPE => &self.trust,
            CLUSTER_TYPE => &self.clusters,
            SERVICE_TYPE => &self.services,
            OPENINGS_TYPE => &self.openings,
            ROUTES_TYPE => &self.routes,
            LIMITS_TYPE => &self.limits,
            _ => &self.nothing,
        }
    }

    /// Names of this type whose resources may be others than in the encoding of that mark; all others are the same. None where that is not
    /// known.
    pub fn changed_since(&self, mark: &Mark, type_url: &str) -> Option<Vec<&Arc<str>>> {
        if *mark == self.mark {
            return Some(Vec::new());
        }
        let from = self.before.iter().position(|(m, _)| m == mark)?;
        let since = self.before.iter().skip(from);
        let of_type = since.filter_map(|(_, changes)| changes.get(type_url));
        Some(of_type.flatten().collect())
    }

    /// The encoding of `snapshot`, taking over what it shares with this one.
    #[must_use]
    pub fn next(&self, snapshot: &Arc<Snapshot>) -> Self {
        let mut changes = Changes::new();
        let mut trust = self.trust.clone();
        if trust.is_empty() || !Arc::ptr_eq(&self.of.trust, &snapshot.trust) {
            let name: Arc<str> = TRUST_NAME.into();
            changes.insert(TRUST_TYPE, vec![Arc::clone(&name)]);
            trust = [(name, Entry::of_trust(&snapshot.trust))].into();
        }
        let clusters = fold(
            changes_of(&snapshot.clusters, &self.of.clusters),
            &self.clusters,
            changes.entry(CLUSTER_TYPE).or_default(),
            |name: &ClusterName| name.as_str().into(),
            |_, c: &Cluster| v1::Cluster::from(c),
        );
        let services = fold(
            snapshot.services.changes(&self.of.services),
            &self.services,
            changes.entry(SERVICE_TYPE).or_default(),
            |name: &ServiceName| name.to_string().into(),
            |_, s: &Service| v1::Service::from(s),
        );
        let openings = fold(
            changes_of(&snapshot.openings, &self.of.openings),
            &self.openings,
            changes.entry(OPENINGS_TYPE).or_default(),
            |name: &ClusterName| name.as_str().into(),
            |name, keys: &Vec<OpeningKey>| convert::openings(name, keys),
        );
        let routes = fold(
            snapshot.routes.changes(&self.of.routes),
            &self.routes,
            changes.entry(ROUTES_TYPE).or_default(),
            |name: &ServiceName| name.to_string().into(),
            |name, routes: &Routes| convert::routes(name, routes),
        );
        let limits = fold(
            changes_of(&snapshot.limits, &self.of.limits),
            &self.limits,
            changes.entry(LIMITS_TYPE).or_default(),
            |name: &ServiceName| name.to_string().into(),
            |name, limits: &LocalLimits| convert::limits(name, limits),
        );
        let mut before = self.before.clone();
        before.push_back((self.mark.clone(), Arc::new(changes)));
        if before.len() > MAX_REMEMBERED {
            before.pop_front();
        }
        Self {
            of: Arc::clone(snapshot),
            trust,
            clusters,
            services,
            openings,
            routes,
            limits,
            nothing: Entries::default(),
            mark: Mark::default(),
            before,
        }
    }
}

/// What in `new` is not the same allocation as in `old`, or is in one of them alone. Both are plain maps, and small.
fn changes_of<'a, K: Ord, V>(
    new: &'a BTreeMap<K, Arc<V>>,
    old: &'a BTreeMap<K, Arc<V>>,
) -> impl Iterator<Item = (&'a K, Option<&'a Arc<V>>)> {
    let is_other = |(key, now): &(&K, &Arc<V>)| !old.get(*key).is_some_and(|o| Arc::ptr_eq(o, now));
    let others = new.iter().filter(is_other);
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let others = others.map(|(key, now)| (key, Some(now)));
    others.chain(gone.map(|key| (key, None)))
}

/// The entries after `changes` to what `before` are of; the names of what changed go to `changed`.
fn fold<'a, K: 'a, V: 'a, M: Message>(
    changes: impl Iterator<Item = (&'a K, Option<&'a Arc<V>>)>,
    before: &Entries,
    changed: &mut Vec<Arc<str>>,
    name: impl Fn(&K) -> Arc<str>,
    encode: impl Fn(&K, &V) -> M,
) -> Entries {
    let mut entries = before.clone();
    for (key, now) in changes {
        let name = name(key);
        match now {
            Some(now) => {
                let entry = Entry::new(&encode(key, now));
                drop(entries.insert(Arc::clone(&name), entry));
            }
            None => drop(entries.remove(&name)),
        }
        changed.push(name);
    }
    entries
}
