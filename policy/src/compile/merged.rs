//! What drafts of all objects make for each service and its callers, remembered with what it was made of: it is made again only where that
//! is not the same any more. What it gives is what making all of it anew would give.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{Namespace, ServiceName};

use super::{Read, order};
use crate::{
    draft::{Callers, Draft},
    finding::Finding,
    object::Object,
};

/// Whose calls to what.
pub(super) type Key = (ServiceName, Option<Namespace>);

/// Which object, in the order of their age, and which of its drafts.
type Place<'a> = (usize, &'a Arc<Read>, usize);

/// See the module.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    by_key: BTreeMap<Key, Made<T>>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
        }
    }
}

/// A table, of which drafts it is, and what was found out.
#[derive(Debug)]
pub(super) struct Made<T> {
    of: Vec<(Arc<Read>, usize)>,
    table: Option<Arc<T>>,
    findings: Vec<Finding>,
}

impl<T> Made<T> {
    fn new(of: Vec<(Arc<Read>, usize)>, table: Option<T>, findings: Vec<Finding>) -> Self {
        Self {
            of,
            table: table.map(Arc::new),
            findings,
        }
    }

    /// A reading that is the same stands for an object that is the same. Their order is that of age, which is their own.
    fn is_of(&self, places: &[Place<'_>]) -> bool {
        let is = |((read, draft), (_, other, of)): (&(Arc<Read>, usize), &Place<'_>)| {
            Arc::ptr_eq(read, other) && draft == of
        };
        self.of.len() == places.len() && self.of.iter().zip(places).all(is)
    }
}

impl<T> Remembered<T> {
    /// The tables by key. `make` makes one of a service's drafts and may depend on them and on their objects alone.
    pub(super) fn tables<R: Clone, O: Copy>(
        &mut self,
        reads: &[(usize, Arc<Read>)],
        drafts: fn(&Read) -> &[Draft<R, O>],
        make: impl Fn(&ServiceName, Vec<Draft<R, O>>, &mut Vec<Finding>) -> Option<T>,
        findings: &mut Vec<Finding>,
    ) -> impl Iterator<Item = (&Key, &Arc<T>)> {
        let mut before = std::mem::take(&mut self.by_key);
        for (key, places) in by_key(reads, drafts) {
            let same = before.remove(&key).filter(|made| made.is_of(&places));
            let made = same.unwrap_or_else(|| {
                let draft = |(object, read, index): &Place<'_>| {
                    let draft = drafts(read).get(*index)?.clone();
                    Some(Draft {
                        object: *object,
                        ..draft
                    })
                };
                let of_key = places.iter().filter_map(draft).collect();
                let mut found = Vec::new();
                let table = make(&key.0, of_key, &mut found);
                let of = |(_, read, index): &Place<'_>| (Arc::clone(read), *index);
                Made::new(places.iter().map(of).collect(), table, found)
            });
            findings.extend(made.findings.iter().cloned());
            self.by_key.insert(key, made);
        }
        let tables = self.by_key.iter();
        tables.filter_map(|(key, made)| Some((key, made.table.as_ref()?)))
    }
}

/// What tables become, each by its key; none for one of which nothing is left.
pub(super) type Anew<T> = BTreeMap<Key, Option<Made<T>>>;

impl<T> Remembered<T> {
    /// What becomes of the tables that the reading `before` of an object has drafts for, or that `now` has, when this one takes its place.
    /// None where that cannot be said of these tables alone: where what is found out changes, or the objects' order goes by more than
    /// themselves. The objects are of the same kind, name and age.
    pub(super) fn anew<R: Clone, O: Copy>(
        &self,
        (before, now): (&Arc<Read>, &Arc<Read>),
        drafts: fn(&Read) -> &[Draft<R, O>],
        make: impl Fn(&[&Object], &ServiceName, Vec<Draft<R, O>>, &mut Vec<Finding>) -> Option<T>,
    ) -> Option<Anew<T>> {
        let of_one = |read: &Arc<Read>| [(0, Arc::clone(read))];
        let (old, new) = (of_one(before), of_one(now));
        let mut placed = by_key(&new, drafts);
        let mut anew = Anew::new();
        for key in by_key(&old, drafts).into_keys() {
            placed.entry(key).or_default();
        }
        for (key, places) in placed {
            let made = self.by_key.get(&key);
            let others = made.map_or(&[][..], |made| made.of.as_slice()).iter();
            let mut of: Vec<_> = others
                .filter(|(read, _)| !Arc::ptr_eq(read, before))
                .cloned()
                .collect();
            let at = of.partition_point(|(read, _)| order(&read.object, &now.object).is_lt());
            if of
                .get(at)
                .is_some_and(|(read, _)| order(&read.object, &now.object).is_eq())
            {
                return None;
            }
            let own = places
                .iter()
                .map(|(_, read, draft)| (Arc::clone(read), *draft));
            drop(of.splice(at..at, own));
            if of.is_empty() {
                if made.is_some_and(|made| !made.findings.is_empty()) {
                    return None;
                }
                anew.insert(key, None);
                continue;
            }
            // In the order of age, and each object once.
            let mut objects: Vec<&Object> = Vec::new();
            let mut of_key = Vec::new();
            for (n, (read, index)) in of.iter().enumerate() {
                let last = n.checked_sub(1).and_then(|n| of.get(n));
                if !last.is_some_and(|(last, _)| Arc::ptr_eq(last, read)) {
                    objects.push(&read.object);
                }
                let draft = drafts(read).get(*index)?.clone();
                of_key.push(Draft {
                    object: objects.len() - 1,
                    ..draft
                });
            }
            let mut found = Vec::new();
            let table = make(&objects, &key.0, of_key, &mut found);
            if found != made.map_or(&[][..], |made| made.findings.as_slice()) {
                return None;
            }
            let made = Made::new(of, table, found);
            anew.insert(key, Some(made));
        }
        Some(anew)
    }

    /// Takes what [`Self::anew`] gave.
    pub(super) fn take(&mut self, anew: Anew<T>) {
        for (key, made) in anew {
            match made {
                Some(made) => drop(self.by_key.insert(key, made)),
                None => drop(self.by_key.remove(&key)),
            }
        }
    }

    /// The tables of one service, by whose calls.
    pub(super) fn of(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (&Option<Namespace>, &Arc<T>)> {
        let from = self.by_key.range((service.clone(), None)..);
        let own = from.take_while(move |((name, _), _)| name == service);
        own.filter_map(|((_, callers), made)| Some((callers, made.table.as_ref()?)))
    }
}

/// Who has rules for whose calls to what.
fn by_key<'a, R: 'a, O: 'a>(
    reads: &'a [(usize, Arc<Read>)],
    drafts: fn(&Read) -> &[Draft<R, O>],
) -> BTreeMap<Key, Vec<Place<'a>>> {
    let mut by_key: BTreeMap<Key, Vec<Place<'a>>> = BTreeMap::new();
    for (object, read) in reads {
        for (index, draft) in drafts(read).iter().enumerate() {
            let mut add = |namespace: Option<Namespace>| {
                let key = (draft.service.clone(), namespace);
                by_key.entry(key).or_default().push((*object, read, index));
            };
            match &draft.callers {
                Callers::All => add(None),
                Callers::Of(namespaces) => namespaces.iter().cloned().map(Some).for_each(add),
            }
        }
    }
    by_key
}
