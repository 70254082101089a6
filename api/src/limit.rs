//! Local rate limits: how many requests a workload takes, by a bucket of tokens that its own proxy keeps. Istio writes them as
//! EnvoyFilters with Envoy's `envoy.filters.http.local_ratelimit`, and those are compiled into this.
//!
//! They travel as JSON, one resource for each object, and are refused whole by whoever meets a field that he does not know.
//! Evaluation is pure: time is an argument, numbers are whole, and nothing is ever added up twice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Namespace, ServiceName},
    route::Millionths,
    traffic::{Labels, has_labels},
};

/// Shortest interval at which a bucket is filled, ms: Envoy's, which refuses anything below it.
pub const MIN_FILL_INTERVAL_MS: u64 = 50;
/// Most limits of one object: each that holds is asked by every request, and people write one or two.
pub const MAX_LIMITS: usize = 64;
/// The status where none is said: Too Many Requests (RFC 6585 section 4).
pub const USUAL_STATUS: u16 = 429;

/// Limits by the object that says them.
pub type Limits<L> = BTreeMap<ServiceName, L>;

/// What one object says, and for which workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalLimits {
    /// Of workloads in this namespace; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Of workloads that have these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// In the object's order, at most [`MAX_LIMITS`].
    pub limits: Vec<LocalLimit>,
}

impl LocalLimits {
    /// Whether it is for this workload.
    pub fn is_for(&self, namespace: &Namespace, labels: &Labels) -> bool {
        self.namespace.as_ref().is_none_or(|n| n == namespace) && has_labels(labels, &self.labels)
    }
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalLimit {
    /// Where it stands.
    pub place: Place,
    /// None for one that lets everything pass: it makes room for those of [`Place::Route`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<TokenBucket>,
    /// Each caller's connection has a bucket for itself, instead of one for all.
    #[serde(default)]
    pub per_connection: bool,
    /// The share of requests that it is asked about.
    pub enabled: Millionths,
    /// Of those that it has no token for, the share that is refused. The others pass, and are counted.
    pub enforced: Millionths,
    /// What those that are refused are told.
    #[serde(default)]
    pub answer: Answer,
    /// Header fields that a request gets which passes without a token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_headers: Vec<HeaderEdit>,
    /// Every response to a request that it was asked about says what is left, by `x-ratelimit-` fields.
    #[serde(default)]
    pub tells: bool,
}

/// Where a limit stands, as Envoy has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Place {
    /// Before every request to a port; none for all ports.
    Filter {
        /// The service's, or the one where the application listens.
        port: Option<u16>,
    },
    /// Instead of those of [`Place::Filter`], where there is any, for requests to a port of a service; none for all ports.
    Route {
        /// The service's.
        port: Option<u16>,
    },
}

/// What a request is told that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answer {
    /// From 400 on.
    pub status: u16,
    /// Further header fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderEdit>,
    /// gRPC calls are told RESOURCE_EXHAUSTED, instead of what the status stands for.
    pub resource_exhausted: bool,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            status: USUAL_STATUS,
            headers: Vec::new(),
            resource_exhausted: false,
        }
    }
}

/// A header field that is put into a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdit {
    /// Its name, in lower case.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What becomes of a field that has that name already.
    pub how: HeaderEditHow,
}

/// What becomes of a field of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeaderEditHow {
    /// Both stand.
    #[default]
    Append,
    /// It stands, and this one does not.
    IfAbsent,
    /// This one stands alone.
    Set,
    /// The same, but only where there is one.
    IfPresent,
}

/// What holds at one port of a workload: every limit that a request there has to pass, each with its object and its place in it.
///
/// `port` is the service's, `application` the one where the application listens. Where a [`Place::Route`] is for the port and any
/// [`Place::Filter`] stands before it, it takes the place of them all; of several the last one's, as a later merge replaces an
/// earlier one's settings.
pub fn in_force<'a, L: AsRef<LocalLimits>>(
    limits: &'a Limits<L>,
    (namespace, labels): (&Namespace, &Labels),
    (port, application): (u16, Option<u16>),
) -> Vec<(&'a ServiceName, usize, &'a LocalLimit)> {
    let is_for = |of: &LocalLimits| of.is_for(namespace, labels);
    let of_workload = limits.iter().filter(|(_, of)| is_for((*of).as_ref()));
    let all = of_workload.flat_map(|(name, of)| {
        let each = of.as_ref().limits.iter().enumerate();
        each.map(move |(i, limit)| (name, i, limit))
    });
    let is = |wanted: Option<u16>, port: u16| wanted.is_none_or(|w| w == port);
    let (mut filters, mut instead) = (Vec::new(), None);
    for found @ (_, _, limit) in all {
        match limit.place {
            Place::Filter { port: wanted } => {
                if is(wanted, port) || application.is_some_and(|a| is(wanted, a)) {
                    filters.push(found);
                }
            }
            Place::Route { port: wanted } if is(wanted, port) => instead = Some(found),
            Place::Route { .. } => {}
        }
    }
    if let (Some(instead), false) = (instead, filters.is_empty()) {
        filters = vec![instead];
    }
    filters.retain(|(_, _, limit)| limit.bucket.is_some() && limit.enabled > 0);
    filters
}

/// A bucket of tokens: full at first; each request takes one, and each interval that ends adds some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// As many as it holds, at least 1.
    pub max_tokens: u32,
    /// As many as an interval adds, at least 1.
    pub tokens_per_fill: u32,
    /// How long an interval is, ms, at least [`MIN_FILL_INTERVAL_MS`].
    pub fill_interval_ms: u64,
}

/// What is in a bucket, and how many intervals have been added to it. As bits it is what threads share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Modulo 2^32: of 50 ms each that is 6.8 years, and half of it without a request is what can be told apart.
    fills: u32,
    /// What is left.
    pub tokens: u32,
}

impl Level {
    /// As one number.
    pub const fn bits(self) -> u64 {
        (self.fills as u64) << 32 | self.tokens as u64
    }

    /// Of such a number.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper half, and the lower"
    )]
    pub const fn of_bits(bits: u64) -> Self {
        Self {
            fills: (bits >> 32) as u32,
            tokens: bits as u32,
        }
    }
}

impl TokenBucket {
    /// As it is at first.
    pub const fn full(&self) -> Level {
        Level {
            fills: 0,
            tokens: self.max_tokens,
        }
    }

    /// What is in it `elapsed_ms` after it was full at first. Whoever's time is behind that of another thread changes nothing.
    #[must_use]
    pub fn at(&self, level: Level, elapsed_ms: u64) -> Level {
        let ended = elapsed_ms / self.fill_interval_ms.max(1);
        let fills = Level::of_bits(ended).tokens;
        let more = fills.wrapping_sub(level.fills);
        if more == 0 || more > u32::MAX / 2 {
            return level;
        }
        let added = u64::from(more) * u64::from(self.tokens_per_fill);
        let tokens = added.saturating_add(level.tokens.into());
        Level {
            fills,
            tokens: u32::try_from(tokens).map_or(self.max_tokens, |t| t.min(self.max_tokens)),
        }
    }

    /// What is in it after a token was taken; none where there is none to take.
    pub fn take(&self, level: Level, elapsed_ms: u64) -> Option<Level> {
        let now = self.at(level, elapsed_ms);
        let tokens = now.tokens.checked_sub(1)?;
        Some(Level { tokens, ..now })
    }

    /// Until the next interval ends, ms: more than none.
    pub fn until_fill_ms(&self, elapsed_ms: u64) -> u64 {
        let interval = self.fill_interval_ms.max(1);
        interval - elapsed_ms % interval
    }
}

mod words;

#[cfg(test)]
mod tests;
