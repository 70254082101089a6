//! All objects of one API server, as changes leave them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tradewind_api::ServiceName;

use crate::managed::Observed;

use super::{Export, Key, Kind, Namespace, Object, Pod, Rule, Service, Slice};

/// What a watcher tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// All objects of a kind, listed anew: what is missing here is gone.
    All(Kind, Vec<(Key, Object)>),
    /// One was made or changed.
    Set(Key, Object),
    /// One is gone.
    Gone(Kind, Key),
    /// The API server does not serve the kind: there are none, and none can be made.
    Absent(Kind),
    /// The API server has refused for a while to list the kind, and why: what is known of it may be old.
    Refused(Kind, String),
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// By name.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// By their own names.
    pub slices: BTreeMap<Key, Arc<Slice>>,
    /// Names of slices, by service.
    pub slices_of: BTreeMap<Key, BTreeSet<Key>>,
    /// Those with a proxy.
    pub pods: BTreeMap<Key, Arc<Pod>>,
    /// Those without. What a slice names and neither of the two knows has just begun, or just ended: watches are not in step.
    pub bare: BTreeSet<Key>,
    /// By name.
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    /// By the service.
    pub exports: BTreeMap<ServiceName, Arc<Export>>,
    /// By kind and name.
    pub rules: BTreeMap<(Kind, Key), Arc<Rule>>,
    /// What is kept here itself, as it stands.
    pub owned: Observed,
    /// Kinds that the API server does not serve.
    pub absent: BTreeSet<Kind>,
    /// Kinds that it does not list, and why. What is known of them stands.
    pub refused: BTreeMap<Kind, String>,
    slices_with: BTreeMap<Key, BTreeSet<Key>>,
    listed: BTreeSet<Kind>,
}

/// What a change touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services whose own object, endpoints or Pods changed.
    pub services: BTreeSet<ServiceName>,
    /// A Namespace, an export or a rule changed, or what may be known of a kind.
    pub others: bool,
}

impl Touched {
    /// Nothing.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.others
    }
}

impl Objects {
    /// Whether a kind was listed whole since this process started.
    pub fn has_listed(&self, kind: &Kind) -> bool {
        self.listed.contains(kind)
    }

    /// Takes a change; what it touched, nothing where it says what was known.
    pub fn take(&mut self, change: Change) -> Touched {
        let mut touched = Touched::default();
        match change {
            Change::Set(key, object) => self.set(key, object, &mut touched),
            Change::Gone(kind, key) => self.remove(&kind, &key, &mut touched),
            Change::Refused(kind, why) => {
                touched.others |= self.refused.insert(kind, why.clone()) != Some(why);
            }
            Change::Absent(kind) => {
                touched.others |= self.absent.insert(kind.clone());
                let none = self.take(Change::All(kind.clone(), Vec::new()));
                self.absent.insert(kind);
                touched.services.extend(none.services);
                touched.others |= none.others;
            }
            Change::All(kind, all) => {
                touched.others |= self.absent.remove(&kind);
                touched.others |= self.refused.remove(&kind).is_some();
                let there: BTreeSet<Key> = all.iter().map(|(key, _)| key.clone()).collect();
                for key in self.names(&kind) {
                    if !there.contains(&key) {
                        self.remove(&kind, &key, &mut touched);
                    }
                }
                for (key, object) in all {
                    self.set(key, object, &mut touched);
                }
                touched.others |= self.listed.insert(kind);
            }
        }
        touched
    }

    fn names(&self, kind: &Kind) -> Vec<Key> {
        match kind {
            Kind::Service => self.services.keys().map(Key::from).collect(),
            Kind::Slice => self.slices.keys().cloned().collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Bare => self.bare.iter().cloned().collect(),
            Kind::Namespace => self.namespaces.keys().map(|n| Key::new("", n)).collect(),
            Kind::Export => self.exports.keys().map(Key::from).collect(),
            Kind::Owned(resource) => {
                let of = self.owned.keys().filter(|(r, _)| r == resource);
                of.map(|(_, key)| key.clone()).collect()
            }
            Kind::Rule(_) => {
                let of = self.rules.keys().filter(|(k, _)| k == kind);
                of.map(|(_, key)| key.clone()).collect()
            }
        }
    }

    fn set(&mut self, key: Key, object: Object, touched: &mut Touched) {
        match object {
            Object::Service(service) => {
                let Some(name) = key.service() else { return };
                if put(&mut self.services, name.clone(), service) {
                    touched.services.insert(name);
                }
            }
            Object::Slice(slice) => {
                if self
                    .slices
                    .get(&key)
                    .is_some_and(|before| **before == slice)
                {
                    return;
                }
                if let Some(before) = self.slices.remove(&key) {
                    self.unlink(&before, &key, touched);
                }
                self.link(slice, key, touched);
            }
            Object::Pod(pod) => {
                if put(&mut self.pods, key.clone(), pod) {
                    self.touch_services_of(&key, touched);
                }
            }
            Object::Bare => {
                if self.bare.insert(key.clone()) {
                    self.touch_services_of(&key, touched);
                }
            }
            Object::Namespace(namespace) => {
                touched.others |= put(&mut self.namespaces, key.name, namespace);
            }
            Object::Export(export) => {
                let Some(name) = key.service() else { return };
                if put(&mut self.exports, name.clone(), export) {
                    touched.others = true;
                    touched.services.insert(name);
                }
            }
            Object::Owned(resource, value) => {
                let slot = (resource, key);
                if self.owned.get(&slot) != Some(&value) {
                    self.owned.insert(slot, value);
                    touched.others = true;
                }
            }
            Object::Rule(rule) => {
                let kind = Kind::Rule(kind_of(&rule.object));
                let slot = (kind, key);
                if self.rules.get(&slot) != Some(&rule) {
                    self.rules.insert(slot, rule);
                    touched.others = true;
                }
            }
        }
    }

    fn remove(&mut self, kind: &Kind, key: &Key, touched: &mut Touched) {
        match kind {
            Kind::Service => {
                let Some(name) = key.service() else { return };
                if self.services.remove(&name).is_some() {
                    touched.services.insert(name);
                }
            }
            Kind::Slice => {
                if let Some(slice) = self.slices.remove(key) {
                    self.unlink(&slice, key, touched);
                }
            }
            Kind::Pod => {
                if self.pods.remove(key).is_some() {
                    self.touch_services_of(key, touched);
                }
            }
            Kind::Bare => {
                if self.bare.remove(key) {
                    self.touch_services_of(key, touched);
                }
            }
            Kind::Namespace => touched.others |= self.namespaces.remove(&key.name).is_some(),
            Kind::Export => {
                let Some(name) = key.service() else { return };
                if self.exports.remove(&name).is_some() {
                    touched.others = true;
                    touched.services.insert(name);
                }
            }
            Kind::Owned(resource) => {
                touched.others |= self.owned.remove(&(*resource, key.clone())).is_some();
            }
            Kind::Rule(_) => {
                let slot = (kind.clone(), key.clone());
                touched.others |= self.rules.remove(&slot).is_some();
            }
        }
    }

    fn link(&mut self, slice: Slice, key: Key, touched: &mut Touched) {
        for pod in pods_of(&slice, &key) {
            self.slices_with.entry(pod).or_default().insert(key.clone());
        }
        touched.services.extend(slice.service.service());
        let of = self.slices_of.entry(slice.service.clone()).or_default();
        of.insert(key.clone());
        self.slices.insert(key, Arc::new(slice));
    }

    fn unlink(&mut self, slice: &Slice, key: &Key, touched: &mut Touched) {
        for pod in pods_of(slice, key) {
            forget(&mut self.slices_with, &pod, key);
        }
        forget(&mut self.slices_of, &slice.service, key);
        touched.services.extend(slice.service.service());
    }

    fn touch_services_of(&self, pod: &Key, touched: &mut Touched) {
        let slices = self.slices_with.get(pod).into_iter().flatten();
        let services = slices.filter_map(|s| self.slices.get(s)?.service.service());
        touched.services.extend(services);
    }
}

fn pods_of<'a>(slice: &'a Slice, key: &'a Key) -> impl Iterator<Item = Key> + 'a {
    let names = slice.endpoints.iter().filter_map(|e| e.pod.as_ref());
    names.map(|name| Key::new(&key.namespace, name))
}

fn forget(index: &mut BTreeMap<Key, BTreeSet<Key>>, of: &Key, key: &Key) {
    if let Some(all) = index.get_mut(of) {
        all.remove(key);
        if all.is_empty() {
            index.remove(of);
        }
    }
}

/// `Kind.group`, as a rule's kind is told.
pub(crate) fn kind_of(object: &serde_json::Value) -> String {
    let word = |key: &str| {
        object
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    };
    let group = word("apiVersion")
        .split_once('/')
        .map_or("", |(group, _)| group);
    format!("{}.{group}", word("kind"))
}

fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, Arc<V>>, key: K, value: V) -> bool {
    if map.get(&key).is_some_and(|before| **before == value) {
        return false;
    }
    map.insert(key, Arc::new(value));
    true
}

#[cfg(test)]
mod tests;
