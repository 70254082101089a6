//! What drafts of all objects make for each service and its callers, remembered with what it was made of: it is made again only where that
//! is not the same any more. What it gives is what making all of it anew would give.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{Namespace, ServiceName};

use super::Read;
use crate::{
    draft::{Callers, Draft},
    finding::Finding,
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
struct Made<T> {
    of: Vec<(Arc<Read>, usize)>,
    table: Option<Arc<T>>,
    findings: Vec<Finding>,
}

impl<T> Made<T> {
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
                Made {
                    of: places.iter().map(of).collect(),
                    table: table.map(Arc::new),
                    findings: found,
                }
            });
            findings.extend(made.findings.iter().cloned());
            self.by_key.insert(key, made);
        }
        let tables = self.by_key.iter();
        tables.filter_map(|(key, made)| Some((key, made.table.as_ref()?)))
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
