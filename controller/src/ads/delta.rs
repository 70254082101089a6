//! Delta ADS, server side, one stream: requests and encoded snapshots in, responses out. Pure.
//!
//! Owns what one client subscribed to, what it holds, in which names that differs from the last encoding it was compared with, and which response of each type it has not answered yet. At most
//! one response per type is outstanding. Trust and clusters go before services, and what was removed goes last, so
//! that a client never looks for something it has not been told of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tradewind_api::proto::{
    CLUSTER_TYPE, LIMITS_TYPE, OPENINGS_TYPE, ROUTES_TYPE, SERVICE_TYPE, TRUST_TYPE,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};

use super::encode::{Encoded, Entries, Mark};

/// Types one stream may speak of: ours are four, a standard client may ask for some that we do not have.
const MAX_TYPES: usize = 16;
/// Names one stream may subscribe to by type, beside the wildcard.
const MAX_NAMES: usize = 100_000;
/// A resource name's length: ours are at most 127.
const MAX_NAME_BYTES: usize = 512;
/// The name that stands for everything of a type.
const WILDCARD: &str = "*";
/// Bytes of resources in one response, give or take one resource. More is told in several, and all but the last of them have no
/// `system_version_info`: our clients act on what they were told once they have it all. Each stream, on both sides, keeps a buffer as large
/// as its largest message for as long as it lives, and a controller has a thousand streams.
const MAX_RESPONSE_BYTES: usize = 256 << 10;

/// A client went past a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a discovery stream may have at most {limit} {what}")]
pub struct Excess {
    /// Of what.
    pub what: &'static str,
    /// How many.
    pub limit: usize,
}

/// What a request was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A subscription or an acknowledgement.
    Noted,
    /// A rejection: the client keeps its last good state, and so do we.
    Nack {
        /// Of which type.
        type_url: String,
        /// The client's words.
        message: String,
    },
}

#[derive(Default)]
struct PerType {
    wildcard: bool,
    names: BTreeSet<String>,
    // What the client holds, by what we sent or it told: names and versions, shared with the encoding where they are its.
    held: BTreeMap<Arc<str>, Arc<str>>,
    // The encoding that it was last compared with; none where what it covers or holds changed since.
    compared: Option<Mark>,
    // Names in which what it holds differs from that one: those to send, and those to say are gone.
    differ: BTreeSet<Arc<str>>,
    // Names to answer for, whether the client is current or not.
    asked: BTreeSet<Arc<str>>,
    outstanding: Option<String>,
    answered: bool,
    // The last response said that more follows, so that another one is due even if nothing is left to tell.
    owes: bool,
}

impl PerType {
    fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn subscribes(&self) -> bool {
        self.wildcard || !self.names.is_empty()
    }

    // Compares what the client holds with an encoding: all of it the first time, after that only what changed.
    fn compare(&mut self, encoded: &Encoded, type_url: &str) {
        let last = self.compared.replace(encoded.mark().clone());
        let entries = encoded.entries(type_url);
        let changed = last.and_then(|mark| encoded.changed_since(&mark, type_url));
        let Some(changed) = changed else {
            self.share(entries);
            let all = entries.keys().filter(|name| self.differs(name, entries));
            let gone = self
                .held
                .keys()
                .filter(|name| !entries.contains_key(&***name));
            self.differ = all.chain(gone).cloned().collect();
            return;
        };
        for name in changed {
            if self.differs(name, entries) {
                self.differ.insert(Arc::clone(name));
            } else {
                self.differ.remove(name);
            }
        }
    }

    // What a client told of itself is the encoding's, most of it: no need to keep it twice.
    fn share(&mut self, entries: &Entries) {
        let told = std::mem::take(&mut self.held);
        let shared = told.into_iter().map(|(name, version)| {
            let known = entries.get_key_value(&name);
            match known.filter(|(_, entry)| entry.version == version) {
                Some((name, entry)) => (Arc::clone(name), Arc::clone(&entry.version)),
                None => (name, version),
            }
        });
        self.held = shared.collect();
    }

    fn differs(&self, name: &str, entries: &Entries) -> bool {
        let held = self.held.get(name).map(|version| &**version);
        match entries.get(name) {
            Some(entry) => self.covers(name) && held != Some(&*entry.version),
            None => held.is_some(),
        }
    }

    // True if something of this type is newer than what the client holds.
    fn pending(&self, entries: &Entries) -> bool {
        self.differ.iter().any(|name| entries.contains_key(name))
    }
}

/// One stream's state.
pub struct Stream {
    types: BTreeMap<String, PerType>,
    nonce: u64,
    /// Bytes of resources in one response.
    most: usize,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            types: BTreeMap::new(),
            nonce: 0,
            most: MAX_RESPONSE_BYTES,
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("types", &self.types.len())
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// A stream on which nothing was said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one request. Subscriptions count whatever nonce stands beside them.
    pub fn hear(&mut self, request: DeltaDiscoveryRequest) -> Result<Heard, Excess> {
        let first = !self.types.contains_key(&request.type_url);
        if first && self.types.len() >= MAX_TYPES {
            return Err(Excess {
                what: "types",
                limit: MAX_TYPES,
            });
        }
        if request.type_url.len() > MAX_NAME_BYTES {
            return Err(Excess {
                what: "bytes in a type's name",
                limit: MAX_NAME_BYTES,
            });
        }
        let state = self.types.entry(request.type_url.clone()).or_default();
        let says = &request.resource_names_subscribe;
        if first || !says.is_empty() || !request.resource_names_unsubscribe.is_empty() {
            state.compared = None;
        }
        if first {
            let told = request.initial_resource_versions.into_iter();
            state.held = told.map(|(n, v)| (n.into(), v.into())).collect();
            // The legacy form of the wildcard.
            state.wildcard = request.resource_names_subscribe.is_empty()
                && request.resource_names_unsubscribe.is_empty();
        }
        for name in request.resource_names_subscribe {
            if name == WILDCARD {
                state.wildcard = true;
                if !first {
                    // Asked for again: everything is sent again, and what is gone is said to be.
                    state.asked.extend(state.held.keys().cloned());
                    state.answered = false;
                }
                continue;
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(Excess {
                    what: "bytes in a resource's name",
                    limit: MAX_NAME_BYTES,
                });
            }
            // At the start of a stream the client's versions speak for it.
            if !(first && state.held.contains_key(name.as_str())) {
                state.asked.insert(name.as_str().into());
            }
            state.names.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            if name == WILDCARD {
                state.wildcard = false;
                let names = &state.names;
                state.held.retain(|held, _| names.contains(&**held));
            } else {
                state.names.remove(&name);
                state.asked.remove(name.as_str());
                if state.wildcard {
                    // Still covered, or gone: the client cannot know which.
                    state.asked.insert(name.into());
                } else {
                    state.held.remove(name.as_str());
                }
            }
        }
        if state.names.len() > MAX_NAMES
            || state.asked.len() > MAX_NAMES
            || state.held.len() > 2 * MAX_NAMES
        {
            return Err(Excess {
                what: "names",
                limit: MAX_NAMES,
            });
        }
        if !request.response_nonce.is_empty()
            && state.outstanding.as_ref() == Some(&request.response_nonce)
        {
            state.outstanding = None;
        }
        Ok(match request.error_detail {
            Some(detail) if !request.response_nonce.is_empty() => Heard::Nack {
                type_url: request.type_url,
                message: detail.message,
            },
            Some(_) | None => Heard::Noted,
        })
    }

    /// The next response that is due now, if any.
    pub fn next(&mut self, encoded: &Encoded) -> Option<DeltaDiscoveryResponse> {
        self.next_upserts(encoded)
            .or_else(|| self.next_removals(encoded))
    }

    fn next_upserts(&mut self, encoded: &Encoded) -> Option<DeltaDiscoveryResponse> {
        let most = self.most;
        for type_url in self.order() {
            let entries = encoded.entries(&type_url);
            let Some(state) = self.types.get_mut(&type_url) else {
                continue;
            };
            state.compare(encoded, &type_url);
            if state.outstanding.is_some() {
                // What hangs on this type waits until the client has it.
                if state.pending(entries) && ![ROUTES_TYPE, LIMITS_TYPE].contains(&&*type_url) {
                    return None;
                }
                continue;
            }
            let answer_due = state.owes || !state.answered && state.subscribes();
            if !answer_due && state.asked.is_empty() && !state.pending(entries) {
                continue;
            }
            let mut response = DeltaDiscoveryResponse {
                type_url: type_url.clone(),
                ..Default::default()
            };
            let mut size = answer_asked(state, (entries, most), &type_url, &mut response);
            let differ = std::mem::take(&mut state.differ);
            for name in differ {
                match entries.get(&name) {
                    Some(entry) if size < most => {
                        response.resources.push(entry.resource(&type_url, &name));
                        state.held.insert(name, Arc::clone(&entry.version));
                        size += entry.size();
                    }
                    // The next time, or where what is gone is told.
                    Some(_) | None => drop(state.differ.insert(name)),
                }
            }
            state.answered = true;
            state.owes = !state.asked.is_empty() || state.pending(entries);
            let more = state.owes;
            return Some(self.stamp(response, encoded, more));
        }
        None
    }

    // Only once nothing new is on its way in any type.
    fn next_removals(&mut self, encoded: &Encoded) -> Option<DeltaDiscoveryResponse> {
        if self.types.values().any(|state| state.outstanding.is_some()) {
            return None;
        }
        for type_url in self.order().into_iter().rev() {
            let entries = encoded.entries(&type_url);
            let Some(state) = self.types.get_mut(&type_url) else {
                continue;
            };
            state.compare(encoded, &type_url);
            let is_gone = |name: &&Arc<str>| !entries.contains_key(&***name);
            let gone = state.differ.iter().filter(is_gone);
            let gone: Vec<String> = gone.map(|name| name.as_ref().to_owned()).collect();
            if gone.is_empty() {
                continue;
            }
            for name in &gone {
                state.held.remove(name.as_str());
                state.differ.remove(name.as_str());
            }
            let response = DeltaDiscoveryResponse {
                type_url,
                removed_resources: gone,
                ..Default::default()
            };
            return Some(self.stamp(response, encoded, false));
        }
        None
    }

    fn stamp(
        &mut self,
        mut response: DeltaDiscoveryResponse,
        encoded: &Encoded,
        more: bool,
    ) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        response.nonce = self.nonce.to_string();
        if !more {
            response.system_version_info = encoded.revision().to_string();
        }
        if let Some(state) = self.types.get_mut(&response.type_url) {
            state.outstanding = Some(response.nonce.clone());
        }
        response
    }

    // Types in the order in which they are sent: whom to believe, where clusters are, what opens their names, who serves,
    // which requests go to whom, how many are taken, and the rest.
    fn order(&self) -> Vec<String> {
        let rank = |url: &str| match url {
            TRUST_TYPE => 0,
            CLUSTER_TYPE => 1,
            OPENINGS_TYPE => 2,
            SERVICE_TYPE => 3,
            ROUTES_TYPE => 4,
            LIMITS_TYPE => 5,
            _ => 6,
        };
        let mut urls: Vec<String> = self.types.keys().cloned().collect();
        urls.sort_by_key(|url| rank(url));
        urls
    }
}

// Answers for the names asked for; returns the bytes that took.
fn answer_asked(
    state: &mut PerType,
    (entries, most): (&Entries, usize),
    type_url: &str,
    response: &mut DeltaDiscoveryResponse,
) -> usize {
    let mut size = 0;
    while size < most
        && let Some(name) = state.asked.pop_first()
    {
        state.differ.remove(&name);
        if let Some((name, entry)) = entries.get_key_value(&name) {
            size += entry.size();
            response.resources.push(entry.resource(type_url, name));
            let version = Arc::clone(&entry.version);
            state.held.insert(Arc::clone(name), version);
        } else {
            state.held.remove(&name);
            response.removed_resources.push(name.as_ref().to_owned());
        }
    }
    size
}

#[cfg(test)]
mod tests;
