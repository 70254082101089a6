//! What a gateway reads sealed names with: the openers of every caller's keys, and which service an id means. Made from a
//! snapshot when the first connection needs it, and shared by all threads.
//!
//! Owns the keys as they are ready for use. Opening decides who calls and for what, and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use tradewind_api::{
    ClusterName, ServiceName, ServicePortRef, model::ClusterState, seal::OpeningKey,
    snapshot::Snapshot,
};
use tradewind_transport::seal::{KeyId, Opener, Pair, Seal, ServiceId, Unopened};

use crate::{
    exits::Exits,
    refusal::{Refusal, Refused},
};

/// A name that opened: who calls, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The member whose controller made the name.
    pub caller: ClusterName,
    /// What it names.
    pub service: ServicePortRef,
}

/// One caller's keys, ready.
#[derive(Debug)]
struct Caller {
    keys: Arc<Vec<OpeningKey>>,
    openers: Vec<Arc<Opener>>,
}

/// The keys by their ids. Ids are short, so two keys may share one; then both are tried.
type Openers = HashMap<KeyId, Vec<(ClusterName, Arc<Opener>)>>;

/// Everything that names are read with, for one snapshot.
#[derive(Debug, Default)]
pub struct Names {
    callers: BTreeMap<ClusterName, Caller>,
    openers: Arc<Openers>,
    exported: BTreeMap<ServiceName, ServiceId>,
    services: Arc<HashMap<ServiceId, ServiceName>>,
    /// What may be passed on to other clusters; none where nothing is.
    exits: Option<Exits>,
}

impl Names {
    /// For a snapshot, taking over from `self` what is the same.
    fn next(&self, snapshot: &Snapshot) -> Self {
        let Some(local) = snapshot.local() else {
            return Self {
                exits: self.exits.clone(),
                ..Self::default()
            };
        };
        let mut same = true;
        let callers: BTreeMap<_, _> = snapshot
            .openings
            .iter()
            .map(|(caller, keys)| {
                let known = self.callers.get(caller).filter(|k| k.keys == *keys);
                same &= known.is_some();
                let openers = known.map(|k| k.openers.clone());
                let ready = Caller {
                    keys: Arc::clone(keys),
                    openers: openers
                        .unwrap_or_else(|| openers_of(snapshot, caller, &local.name, keys)),
                };
                (caller.clone(), ready)
            })
            .collect();
        let openers = if same && callers.len() == self.callers.len() {
            Arc::clone(&self.openers)
        } else {
            Arc::new(by_id(&callers))
        };
        let mut changed = false;
        let exported: BTreeMap<_, _> = snapshot
            .services
            .values()
            .filter(|s| s.exported_by.contains(&local.name))
            .map(|s| {
                let known = self.exported.get(&s.name).copied();
                changed |= known.is_none();
                let id = known.unwrap_or_else(|| ServiceId::of(&s.name));
                (s.name.clone(), id)
            })
            .collect();
        let services = if changed || exported.len() != self.exported.len() {
            Arc::new(exported.iter().map(|(s, id)| (*id, s.clone())).collect())
        } else {
            Arc::clone(&self.services)
        };
        Self {
            callers,
            openers,
            exported,
            services,
            exits: self.exits.as_ref().map(|e| e.next(snapshot)),
        }
    }

    /// Whether a connection for another cluster may be passed on under this name: this cluster's own controller made it.
    pub fn exit(&self, cluster: &ClusterName, seal: &Seal, now_unix_s: u64) -> Result<(), Refusal> {
        let exits = self.exits.as_ref().ok_or(Refusal::OtherCluster)?;
        exits.check(cluster, seal, now_unix_s)
    }

    /// Reads a sealed name. Dials nobody and allocates nothing for one that is refused.
    pub fn open(
        &self,
        snapshot: &Snapshot,
        seal: &Seal,
        now_unix_s: u64,
    ) -> Result<Opened, Refused> {
        let keys = self
            .openers
            .get(&seal.key_id())
            .ok_or(Refusal::SealUnknown)?;
        let mut refused = Refused::from(Refusal::SealBroken);
        for (caller, opener) in keys {
            let content = match opener.open(seal, now_unix_s) {
                Ok(content) => content,
                Err(Unopened::Expired { .. }) => {
                    refused = Refusal::SealExpired.of(Some(caller.clone()));
                    continue;
                }
                Err(Unopened::Broken) => continue,
            };
            let member = snapshot.clusters.get(caller);
            if member.is_none_or(|c| c.state == ClusterState::Left) {
                return Err(Refusal::SealUnknown.into());
            }
            let Some(service) = self.services.get(&content.service) else {
                return Err(Refusal::NotExported.of(Some(caller.clone())));
            };
            return Ok(Opened {
                caller: caller.clone(),
                service: ServicePortRef {
                    service: service.clone(),
                    port: content.port,
                },
            });
        }
        Err(refused)
    }
}

fn openers_of(
    snapshot: &Snapshot,
    caller: &ClusterName,
    target: &ClusterName,
    keys: &[OpeningKey],
) -> Vec<Arc<Opener>> {
    let pair = Pair {
        domain: &snapshot.trust.domain,
        caller,
        target,
    };
    let opener = |k: &OpeningKey| Opener::new(&pair, KeyId(k.id), &k.secret).ok();
    keys.iter().filter_map(opener).map(Arc::new).collect()
}

fn by_id(callers: &BTreeMap<ClusterName, Caller>) -> Openers {
    let mut all = Openers::new();
    for (caller, ready) in callers {
        for opener in &ready.openers {
            let same_id = all.entry(opener.id()).or_default();
            same_id.push((caller.clone(), Arc::clone(opener)));
        }
    }
    all
}

/// The names of the newest snapshot that anybody asked for. Whoever comes first with a newer one makes them.
#[derive(Debug, Default)]
pub(crate) struct NameTable(Mutex<(Arc<Snapshot>, Arc<Names>)>);

impl NameTable {
    /// For a gateway that passes on, or one that does not.
    pub(crate) fn new(pass_on: bool) -> Self {
        let none = Names {
            exits: pass_on.then(Exits::default),
            ..Names::default()
        };
        Self(Mutex::new((Arc::default(), Arc::new(none))))
    }

    /// The names of this very snapshot.
    pub(crate) fn of(&self, snapshot: &Arc<Snapshot>) -> Arc<Names> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&made.0, snapshot) {
            *made = (Arc::clone(snapshot), Arc::new(made.1.next(snapshot)));
        }
        Arc::clone(&made.1)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tradewind_api::Domain;
    use tradewind_transport::seal::{Content, Minter};

    use super::*;
    use crate::fixture::{cluster, snapshot};

    /// The secret of the tests' keys; each caller's and each direction's seals differ by what they are bound to.
    const SECRET: [u8; 32] = [5; 32];

    /// What callers in `caller` make names for `target` with, under a key of this id.
    pub(crate) fn minter(caller: &str, target: &str, id: u32) -> Minter {
        let (caller, target) = (
            ClusterName::new(caller).unwrap(),
            ClusterName::new(target).unwrap(),
        );
        let domain = Domain::default();
        let pair = Pair {
            domain: &domain,
            caller: &caller,
            target: &target,
        };
        Minter::new(&pair, KeyId(id), &SECRET, &[6; 32]).unwrap()
    }

    /// Gives a gateway the keys of a caller.
    pub(crate) fn opens(s: &mut Snapshot, caller: &str, ids: &[u32]) {
        let key = |id: &u32| OpeningKey {
            id: *id,
            secret: SECRET,
        };
        let keys = ids.iter().map(key).collect();
        s.openings
            .insert(ClusterName::new(caller).unwrap(), Arc::new(keys));
    }

    /// A seal of `minter` for a service's port 80.
    pub(crate) fn sealed(minter: &Minter, service: &str, expires_unix_s: u64) -> Seal {
        let content = Content {
            service: ServiceId::of(&service.parse().unwrap()),
            port: 80,
            expires_unix_s,
        };
        minter.mint(&content).unwrap()
    }

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_name_says_who_calls_what_and_is_refused_for_what_it_is() {
        let mut s = snapshot(&[("shop/payments", true, 80), ("shop/secret", false, 80)]);
        opens(&mut s, "east", &[1, 2]);
        let table = NameTable::default();
        let names = table.of(&Arc::new(s.clone()));
        let east = minter("east", "west", 2);
        let open = |seal: &Seal| names.open(&s, seal, NOW);
        let refused = |seal: &Seal| {
            let Refused { reason, peer, .. } = open(seal).unwrap_err();
            (reason, peer.map(String::from))
        };
        let east_calls = Some("east".to_owned());
        let opened = open(&sealed(&east, "shop/payments", NOW + 1)).unwrap();
        assert_eq!(
            (opened.caller.as_str(), opened.service.to_string()),
            ("east", "shop/payments:80".into())
        );
        for (seal, reason, peer) in [
            (
                sealed(&east, "shop/payments", NOW),
                Refusal::SealExpired,
                east_calls.clone(),
            ),
            (
                sealed(&east, "shop/secret", NOW + 1),
                Refusal::NotExported,
                east_calls,
            ),
            (
                sealed(&minter("east", "west", 3), "shop/payments", NOW + 1),
                Refusal::SealUnknown,
                None,
            ),
            (
                sealed(&minter("west", "east", 2), "shop/payments", NOW + 1),
                Refusal::SealBroken,
                None,
            ),
            (
                sealed(&minter("south", "west", 2), "shop/payments", NOW + 1),
                Refusal::SealBroken,
                None,
            ),
        ] {
            assert_eq!(refused(&seal), (reason, peer));
        }
        // Whoever left is a stranger, whatever keys are still here.
        cluster(&mut s, "east").state = ClusterState::Left;
        assert_eq!(
            names.open(&s, &sealed(&east, "shop/payments", NOW + 1), NOW),
            Err(Refusal::SealUnknown.into())
        );
    }

    #[test]
    fn keys_that_share_an_id_are_all_tried() {
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        let mut south = s.clusters.values().next().unwrap().as_ref().clone();
        south.name = ClusterName::new("south").unwrap();
        s.clusters.insert(south.name.clone(), Arc::new(south));
        opens(&mut s, "east", &[7]);
        opens(&mut s, "south", &[7]);
        let s = Arc::new(s);
        let names = NameTable::default().of(&s);
        for caller in ["east", "south"] {
            let seal = sealed(&minter(caller, "west", 7), "shop/payments", NOW + 1);
            assert_eq!(names.open(&s, &seal, NOW).unwrap().caller.as_str(), caller);
        }
    }

    #[test]
    fn names_follow_the_snapshot_and_keep_what_did_not_change() {
        let table = NameTable::default();
        let mut s = snapshot(&[("shop/payments", true, 80)]);
        opens(&mut s, "east", &[1]);
        let first = table.of(&Arc::new(s.clone()));
        let again = table.of(&Arc::new(s.clone()));
        assert!(Arc::ptr_eq(&first.openers, &again.openers));
        assert!(Arc::ptr_eq(&first.services, &again.services));
        let seal = |id| sealed(&minter("east", "west", id), "shop/payments", NOW + 1);
        assert!(again.open(&s, &seal(1), NOW).is_ok());
        opens(&mut s, "east", &[2]);
        let s = Arc::new(s);
        let rotated = table.of(&s);
        assert!(rotated.open(&s, &seal(2), NOW).is_ok());
        assert_eq!(
            rotated.open(&s, &seal(1), NOW),
            Err(Refusal::SealUnknown.into())
        );
        let none = Arc::new(snapshot(&[("shop/payments", true, 80)]));
        assert_eq!(
            table.of(&none).open(&none, &seal(2), NOW),
            Err(Refusal::SealUnknown.into())
        );
    }
}
