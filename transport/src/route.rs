//! Which rule a request or a stream meets, and what that makes of it: the route model (`tradewind_api::route`), ready to be asked. Proxies
//! decide by it, and `explain` asks the same functions. Pure: of (rules, request), with dice as an argument.
//!
//! Owns the compiled expressions of one table. A rule that cannot be compiled matches nothing; whoever made the table reports it.

mod cookie;
mod cors;
mod edit;
mod matcher;
pub mod persistence;
pub mod stream;

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::{HeaderMap, Method};
use tradewind_api::{
    Namespace,
    route::{Action, Backend, MILLION, Match, Millionths, Origin, Otherwise, Rule, Table, To},
};

pub use cookie::cookies;
pub use cors::{CompiledCors, CorsAnswer, Permit};
pub use edit::{CompiledEdits, CompiledHeaderEdits, Location, PathEditor, location};
use matcher::Matcher;
pub use matcher::{Mismatch, Part, parameter};
use persistence::CompiledPersistence;

/// A request, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The service's port that was called.
    pub port: u16,
    /// Its method.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and port as they were sent; empty where they were not.
    pub authority: &'a str,
    /// Its path, without query; `/` at least.
    pub path: &'a str,
    /// What stands behind the `?`.
    pub query: Option<&'a str>,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// The caller.
    pub caller: Caller<'a>,
}

/// Who calls, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Its namespace.
    pub namespace: &'a Namespace,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// A table, ready to be asked.
#[derive(Clone, Debug)]
pub struct Compiled {
    rules: Vec<Arc<CompiledRule>>,
    otherwise: Otherwise,
}

/// One of its rules.
#[derive(Clone, Debug)]
pub struct CompiledRule {
    /// Where it stands.
    pub origin: Origin,
    /// For which requests, as it was told.
    pub when: Match,
    /// What becomes of them.
    pub then: Arc<Action>,
    /// Its changes of header fields.
    pub edits: CompiledEdits,
    /// Those of each of its backends, in their order.
    pub of_backends: Vec<CompiledEdits>,
    /// Its change of the path: before the backend, or of a redirect.
    pub path: Option<PathEditor>,
    /// What it tells browsers.
    pub cors: Option<CompiledCors>,
    /// How it keeps clients with endpoints.
    pub persistence: Option<CompiledPersistence>,
    matcher: Option<Matcher>,
}

/// What a table says of a request.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// This rule, the first that matches.
    Rule(&'a Arc<CompiledRule>),
    /// No rule: on to the service.
    Service,
    /// No rule, and there is nothing else: 404.
    NotFound,
}

/// What one rule says of a request, for whoever asks why.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// The rule.
    pub rule: &'a CompiledRule,
    /// Why it did not match; none where it did.
    pub mismatch: Option<Mismatch>,
}

impl Compiled {
    /// Compiles every expression once.
    pub fn new(table: &Table) -> Self {
        Self {
            rules: table
                .rules
                .iter()
                .map(|rule| Arc::new(CompiledRule::new(rule)))
                .collect(),
            otherwise: table.otherwise,
        }
    }

    /// The rule that decides.
    pub fn decide(&self, call: &Call<'_>) -> Verdict<'_> {
        match self.rules.iter().find(|r| r.mismatch(call).is_none()) {
            Some(rule) => Verdict::Rule(rule),
            None => match self.otherwise {
                Otherwise::NotFound => Verdict::NotFound,
                Otherwise::Service => Verdict::Service,
            },
        }
    }

    /// What every rule says, in order. The first that matched is the one of [`Self::decide`]; those behind it were not asked.
    pub fn explain(&self, call: &Call<'_>) -> Vec<Answer<'_>> {
        let answer = |rule| Answer {
            rule,
            mismatch: CompiledRule::mismatch(rule, call),
        };
        self.rules
            .iter()
            .map(|rule| answer(rule.as_ref()))
            .collect()
    }
}

impl CompiledRule {
    fn new(rule: &Rule) -> Self {
        let path = match &rule.then.to {
            To::Redirect(redirect) => redirect.path.as_ref(),
            To::Backends(_) | To::Direct(_) => rule.then.rewrite.path.as_ref(),
        };
        let of_backends = match &rule.then.to {
            To::Backends(backends) => backends
                .iter()
                .map(|b| CompiledEdits::new(&b.edits))
                .collect(),
            To::Redirect(_) | To::Direct(_) => Vec::new(),
        };
        Self {
            of_backends,
            path: path.map(|edit| PathEditor::new(edit, rule.when.path.as_ref())),
            origin: rule.origin.clone(),
            when: rule.when.clone(),
            then: Arc::clone(&rule.then),
            edits: CompiledEdits::new(&rule.then.edits),
            cors: rule.then.cors.as_ref().map(CompiledCors::new),
            persistence: rule
                .then
                .persistence
                .as_ref()
                .and_then(|p| CompiledPersistence::new(p, &rule.origin)),
            matcher: Matcher::new(&rule.when),
        }
    }

    /// Who answers by it; nobody, where the caller's proxy does.
    pub fn backends(&self) -> &[Backend] {
        match &self.then.to {
            To::Backends(backends) => backends,
            To::Redirect(_) | To::Direct(_) => &[],
        }
    }

    fn mismatch(&self, call: &Call<'_>) -> Option<Mismatch> {
        match &self.matcher {
            Some(matcher) => matcher.mismatch(call),
            None => Some(Mismatch::Broken),
        }
    }
}

impl fmt::Display for CompiledRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

/// The index of the backend that a number drawn uniformly over u64 falls on, each with its weight's share; none where the weights sum to nothing.
pub fn pick(backends: &[Backend], drawn: u64) -> Option<usize> {
    pick_by(backends.iter().map(|b| b.weight), drawn)
}

/// The same of weights alone.
fn pick_by(weights: impl Iterator<Item = u32> + Clone, drawn: u64) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    // The top of a product with a uniform number is uniform over 0..total, without a division and without its bias.
    let mut left = u64::try_from((u128::from(drawn) * u128::from(total)) >> 64).unwrap_or(u64::MAX);
    for (index, weight) in weights.enumerate() {
        match left.checked_sub(u64::from(weight)) {
            None => return Some(index),
            Some(rest) => left = rest,
        }
    }
    None
}

/// Whether a number drawn uniformly over u64 is among so many millionths.
pub fn falls(share: Millionths, drawn: u64) -> bool {
    (u128::from(drawn) * u128::from(MILLION)) >> 64 < u128::from(share)
}

#[cfg(test)]
mod tests;
