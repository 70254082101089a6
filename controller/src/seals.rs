//! Sealed names on the controller's side: which keys this cluster publishes, what names its callers are given, and what
//! opens the names that others send to its gateways.
//!
//! [`Ring`] is what follows from a catalog and this cluster's private keys; [`wanted`] says what has to be told to the
//! store. Both are pure. Private keys live in [`Held`] alone: made here, or opened from a box that another controller of
//! this cluster made. They never leave but in a box.

mod file;
mod task;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tradewind_api::{
    ClusterName, Domain, NodeId, ServiceName,
    model::ClusterState,
    seal::{self, OpeningKey, Phase, SealedPort},
    snapshot::Openings,
    store::{Blob, Command, SealKeyRecord, SealRecord},
};
use tradewind_federation::Catalog;
use tradewind_transport::seal::{
    BadKey, Content, Minter, Pair, ServiceId,
    keys::{BoxedFor, KEY_BYTES, SealKey},
};

pub use file::node_key;
pub(crate) use task::SealKeeper;

/// What compiling needs to know of sealed names. Shared, and replaced as a whole.
#[derive(Debug, Default)]
pub struct Ring {
    phase: Option<Phase>,
    /// This cluster's key that is in use is here.
    mints: bool,
    minters: BTreeMap<ClusterName, Minter>,
    openings: Openings,
}

impl Ring {
    /// How far the federation is on the way.
    pub fn phase(&self) -> Phase {
        self.phase.unwrap_or(Phase::Clear)
    }

    /// What opens the names of others.
    pub const fn openings(&self) -> &Openings {
        &self.openings
    }

    /// Whether this cluster has a key in use and this controller holds it.
    pub const fn mints(&self) -> bool {
        self.mints
    }

    /// The clusters that this one can make names for.
    pub fn targets(&self) -> impl Iterator<Item = &ClusterName> {
        self.minters.keys()
    }

    /// The names for the ports of one service in other clusters, taking over from `before` what is still good.
    pub fn seals<'a>(
        &self,
        service: &ServiceName,
        exported: impl Iterator<Item = (&'a ClusterName, u16)>,
        now_unix_s: u64,
        before: &[SealedPort],
    ) -> Vec<SealedPort> {
        if self.phase() < Phase::Both {
            return Vec::new();
        }
        let expires_unix_s = seal::expiry(now_unix_s, spread(service));
        let mut id = None;
        let mut seals: Vec<SealedPort> = exported
            .filter_map(|(cluster, port)| {
                let minter = self.minters.get(cluster)?;
                let known = before.iter().find(|s| {
                    s.port == port
                        && s.expires_unix_s == expires_unix_s
                        && s.key_id == minter.id().0
                        && s.cluster == *cluster
                });
                if let Some(known) = known {
                    return Some(known.clone());
                }
                let content = Content {
                    service: *id.get_or_insert_with(|| ServiceId::of(service)),
                    port,
                    expires_unix_s,
                };
                let made = minter.mint(&content).ok()?;
                Some(SealedPort {
                    cluster: cluster.clone(),
                    port,
                    key_id: minter.id().0,
                    expires_unix_s,
                    label: made.label(),
                })
            })
            .collect();
        seals.sort();
        seals
    }
}

/// When in its window a service's names change: by its name, so that a federation's names do not change all at once.
fn spread(service: &ServiceName) -> u64 {
    let bytes = service.namespace.as_str().bytes();
    let all = bytes.chain(*b"/").chain(service.name().bytes());
    all.fold(0, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    })
}

/// The private keys that this controller holds.
#[derive(Debug)]
pub struct Held {
    /// What boxes for this controller are sealed to.
    pub node_key: SealKey,
    /// The cluster's seal keys, by number.
    pub keys: BTreeMap<u64, SealKey>,
}

impl Held {
    /// One that holds no seal key yet.
    pub const fn new(node_key: SealKey) -> Self {
        Self {
            node_key,
            keys: BTreeMap::new(),
        }
    }

    /// Opens what there is to open, and forgets keys that stand in the store no more. True when anything changed.
    pub fn learn(&mut self, domain: &Domain, own: &ClusterName, record: &SealRecord) -> bool {
        let to = BoxedFor {
            domain,
            cluster: own,
        };
        let before = self.keys.len();
        self.keys.retain(|number, key| {
            record
                .keys
                .iter()
                .any(|k| k.number == *number && is(k, key))
        });
        let mut changed = self.keys.len() != before;
        for key in &record.keys {
            let Some(public) = public(&key.public) else {
                continue;
            };
            if self.keys.contains_key(&key.number) {
                continue;
            }
            let mut opened = key
                .boxes
                .values()
                .filter_map(|b| self.node_key.unboxed(&to, public, &b.0).ok());
            if let Some(opened) = opened.next() {
                self.keys.insert(key.number, opened);
                changed = true;
            }
        }
        changed
    }

    fn holds(&self, key: &SealKeyRecord) -> bool {
        self.keys.contains_key(&key.number)
    }
}

fn is(record: &SealKeyRecord, key: &SealKey) -> bool {
    record.public.0 == key.public()
}

fn public(bytes: &Blob) -> Option<&[u8; KEY_BYTES]> {
    bytes.0.as_slice().try_into().ok()
}

/// What has to be told to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// To which key boxes for this controller are sealed.
    NodeKey,
    /// This cluster's next seal key.
    NextKey {
        /// Its number.
        number: u64,
        /// Nobody can open the ones before.
        alone: bool,
    },
    /// Boxes for controllers that have none yet.
    Boxes {
        /// Of which key.
        number: u64,
    },
}

/// What has to be told now, one thing at a time. `abandoned` says that no other controller of this cluster made a box for
/// this one in all the time it may take.
pub fn wanted(
    catalog: &Catalog,
    own: &ClusterName,
    node: NodeId,
    held: &Held,
    abandoned: bool,
) -> Option<Wanted> {
    let member = catalog.member(own)?;
    if catalog.level < seal::SEALS_LEVEL || !member.nodes.contains(&node) {
        return None;
    }
    let none = SealRecord::default();
    let record = catalog.seals_of(own).map_or(&none, |r| r);
    if record.node_keys.get(&node).map(|k| k.0.as_slice()) != Some(held.node_key.public()) {
        return Some(Wanted::NodeKey);
    }
    let Some(newest) = record.keys.last() else {
        return Some(Wanted::NextKey {
            number: 1,
            alone: false,
        });
    };
    let number = newest.number.saturating_add(1);
    if !held.holds(newest) {
        let only = member.nodes.len() == 1;
        return (only || abandoned).then_some(Wanted::NextKey {
            number,
            alone: true,
        });
    }
    if seal::is_rotation_due(record, catalog.at_ms) {
        return Some(Wanted::NextKey {
            number,
            alone: false,
        });
    }
    let lacking = |k: &&SealKeyRecord| {
        held.holds(k)
            && record
                .node_keys
                .keys()
                .any(|n| member.nodes.contains(n) && !k.boxes.contains_key(n))
    };
    record
        .keys
        .iter()
        .find(lacking)
        .map(|k| Wanted::Boxes { number: k.number })
}

/// The private part of `key` in a box for every controller that said to which key.
fn boxes(
    catalog: &Catalog,
    own: &ClusterName,
    key: &SealKey,
) -> Result<BTreeMap<NodeId, Blob>, BadKey> {
    let to = BoxedFor {
        domain: &catalog.domain,
        cluster: own,
    };
    let nodes: BTreeSet<NodeId> = catalog
        .member(own)
        .map(|m| m.nodes.clone())
        .unwrap_or_default();
    let keys = catalog.seals_of(own).map(|r| r.node_keys.clone());
    keys.unwrap_or_default()
        .into_iter()
        .filter(|(node, _)| nodes.contains(node))
        .map(|(node, node_key)| {
            let node_key = public(&node_key).ok_or(BadKey)?;
            Ok((node, Blob(key.boxed(&to, node_key)?.to_vec())))
        })
        .collect()
}

/// The command that puts a key with its boxes.
fn put(
    catalog: &Catalog,
    own: &ClusterName,
    number: u64,
    key: &SealKey,
    alone: bool,
) -> Result<Command, BadKey> {
    Ok(Command::PutSealKey {
        number,
        public: Blob(key.public().to_vec()),
        boxes: boxes(catalog, own, key)?,
        alone,
    })
}

/// What was derived before, so that a new key of one cluster costs that cluster's derivations alone.
type Derived = BTreeMap<(ClusterName, u64, u64), ([u8; KEY_BYTES], OpeningKey)>;

/// Derives rings. Remembers what it derived.
#[derive(Debug, Default)]
pub struct Deriver {
    openings: Derived,
}

impl Deriver {
    /// What follows from the catalog and the private keys.
    /// `at_ms` is the leaders' time now.
    pub fn ring(&mut self, catalog: &Catalog, at_ms: u64, own: &ClusterName, held: &Held) -> Ring {
        let phase = seal::phase(catalog.level, catalog.level_since_ms, at_ms);
        let mut ring = Ring {
            phase: Some(phase),
            ..Ring::default()
        };
        let minting = catalog
            .seals_of(own)
            .and_then(|record| seal::in_use(record, at_ms))
            .and_then(|key| held.keys.get(&key.number));
        ring.mints = minting.is_some();
        let mut derived = Derived::new();
        for (cluster, record) in catalog.seals.iter().filter(|(c, _)| *c != own) {
            let left = catalog.clusters.get(cluster).map(|c| c.state) == Some(ClusterState::Left);
            if left {
                continue;
            }
            let pair = Pair {
                domain: &catalog.domain,
                caller: own,
                target: cluster,
            };
            let target = seal::in_use(record, at_ms).and_then(|k| public(&k.public));
            if let (Some(key), Some(target)) = (minting, target)
                && let Ok(minter) = key.minting(&pair, target).and_then(|k| k.minter(&pair))
            {
                ring.minters.insert(cluster.clone(), minter);
            }
            let keys = self.opening(&catalog.domain, own, held, (cluster, record), &mut derived);
            ring.openings.insert(cluster.clone(), Arc::new(keys));
        }
        self.openings = derived;
        ring
    }

    /// Every key of the caller's with every one of this cluster's.
    fn opening(
        &self,
        domain: &Domain,
        own: &ClusterName,
        held: &Held,
        (caller, record): (&ClusterName, &SealRecord),
        derived: &mut Derived,
    ) -> Vec<OpeningKey> {
        let pair = Pair {
            domain,
            caller,
            target: own,
        };
        let mut keys = Vec::new();
        for key in &record.keys {
            let Some(public) = public(&key.public) else {
                continue;
            };
            for (number, own_key) in &held.keys {
                let at = (caller.clone(), key.number, *number);
                let known = self.openings.get(&at).filter(|(p, _)| p == public);
                let opening = known.map(|(_, k)| k.clone()).or_else(|| {
                    let key = own_key.opening(&pair, public).ok()?;
                    Some(OpeningKey {
                        id: key.id().0,
                        secret: **key.secret(),
                    })
                });
                // A point that agrees with everybody opens nothing.
                if let Some(opening) = opening {
                    derived.insert(at, (*public, opening.clone()));
                    keys.push(opening);
                }
            }
        }
        keys.sort();
        keys
    }
}

#[cfg(test)]
mod tests;
