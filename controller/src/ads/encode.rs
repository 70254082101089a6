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
    trust: Arc<Entries>,
    clusters: Arc<Entries>,
    services: Arc<Entries>,
    openings: Arc<Entries>,
    routes: Arc<Entries>,
    limits: Arc<Entries>,
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
        let mut trust = Arc::clone(&self.trust);
        if trust.is_empty() || !Arc::ptr_eq(&self.of.trust, &snapshot.trust) {
            let name: Arc<str> = TRUST_NAME.into();
            changes.insert(TRUST_TYPE, vec![Arc::clone(&name)]);
            trust = Arc::new([(name, Entry::of_trust(&snapshot.trust))].into());
        }
        let clusters = fold(
            [&snapshot.clusters, &self.of.clusters],
            &self.clusters,
            changes.entry(CLUSTER_TYPE).or_default(),
            |name: &ClusterName| name.as_str().into(),
            |_, c: &Cluster| v1::Cluster::from(c),
        );
        let services = fold(
            [&*snapshot.services, &*self.of.services],
            &self.services,
            changes.entry(SERVICE_TYPE).or_default(),
            |name: &ServiceName| name.to_string().into(),
            |_, s: &Service| v1::Service::from(s),
        );
        let openings = fold(
            [&snapshot.openings, &self.of.openings],
            &self.openings,
            changes.entry(OPENINGS_TYPE).or_default(),
            |name: &ClusterName| name.as_str().into(),
            |name, keys: &Vec<OpeningKey>| convert::openings(name, keys),
        );
        let routes = fold(
            [&*snapshot.routes, &*self.of.routes],
            &self.routes,
            changes.entry(ROUTES_TYPE).or_default(),
            |name: &ServiceName| name.to_string().into(),
            |name, routes: &Routes| convert::routes(name, routes),
        );
        let limits = fold(
            [&snapshot.limits, &self.of.limits],
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
            nothing: Entries::new(),
            mark: Mark::default(),
            before,
        }
    }
}

/// The entries of `new`, from those of `old`; the names of what is not the same go to `changed`.
fn fold<K: Ord, V, M: Message>(
    [new, old]: [&BTreeMap<K, Arc<V>>; 2],
    old_entries: &Arc<Entries>,
    changed: &mut Vec<Arc<str>>,
    name: impl Fn(&K) -> Arc<str>,
    encode: impl Fn(&K, &V) -> M,
) -> Arc<Entries> {
    if std::ptr::eq(new, old) {
        return Arc::clone(old_entries);
    }
    let mut entries: Option<Entries> = None;
    let mut set = |key: &K, entry: Option<Arc<Entry>>| {
        let name = name(key);
        let entries = entries.get_or_insert_with(|| Entries::clone(old_entries));
        match entry {
            Some(entry) => drop(entries.insert(Arc::clone(&name), entry)),
            None => drop(entries.remove(&name)),
        }
        changed.push(name);
    };
    // Both are in the same order.
    let mut before = old.iter().peekable();
    for (key, value) in new {
        while let Some((gone, _)) = before.next_if(|(k, _)| *k < key) {
            set(gone, None);
        }
        let known = before.next_if(|(k, _)| *k == key);
        if !known.is_some_and(|(_, old)| Arc::ptr_eq(old, value)) {
            set(key, Some(Entry::new(&encode(key, value))));
        }
    }
    for (gone, _) in before {
        set(gone, None);
    }
    entries.map_or_else(|| Arc::clone(old_entries), Arc::new)
}
