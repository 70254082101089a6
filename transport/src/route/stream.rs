//! Which rule a stream of bytes meets, and whether that depends on the server name that its client asks for. Proxies decide by
//! it, and whoever explains asks the same functions. Pure: of (rules, stream).

use tradewind_api::route::{StreamBackend, StreamMatch, StreamOtherwise, StreamRule, StreamTable};

use super::{Caller, Mismatch, Part, pick_by};

/// A stream, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct StreamCall<'a> {
    /// The service's port that was called.
    pub port: u16,
    /// The server name that its client asks for, as it was sent; none where it is no TLS, or asks for none.
    pub sni: Option<&'a str>,
    /// The caller.
    pub caller: Caller<'a>,
}

/// What a table says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamVerdict<'a> {
    /// This rule, the first that matches.
    Rule(&'a StreamRule),
    /// No rule: on to the service.
    Service,
    /// No rule, and there are some for its port: it is closed.
    Closed,
}

/// What one rule says of a stream, for whoever asks why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamAnswer<'a> {
    /// The rule.
    pub rule: &'a StreamRule,
    /// Why it did not match; none where it did.
    pub mismatch: Option<Mismatch>,
}

/// The rule that decides.
pub fn decide<'a>(table: &'a StreamTable, call: &StreamCall<'_>) -> StreamVerdict<'a> {
    if let Some(rule) = table
        .rules
        .iter()
        .find(|r| mismatch(&r.when, call).is_none())
    {
        return StreamVerdict::Rule(rule);
    }
    let for_port = |r: &StreamRule| r.when.port.is_none_or(|p| p == call.port);
    match table.otherwise {
        StreamOtherwise::Closed if table.rules.iter().any(for_port) => StreamVerdict::Closed,
        StreamOtherwise::Closed | StreamOtherwise::Service => StreamVerdict::Service,
    }
}

/// What every rule says, in order. The first that matched is the one of [`decide`]; those behind it were not asked.
pub fn explain<'a>(table: &'a StreamTable, call: &StreamCall<'_>) -> Vec<StreamAnswer<'a>> {
    let answer = |rule: &'a StreamRule| StreamAnswer {
        rule,
        mismatch: mismatch(&rule.when, call),
    };
    table.rules.iter().map(answer).collect()
}

/// Whether the server name makes a difference for a stream to this port. Where it makes none nobody waits for the client's first bytes.
pub fn asks_for_name(table: &StreamTable, port: u16, caller: Caller<'_>) -> bool {
    let call = StreamCall {
        port,
        sni: None,
        caller,
    };
    let may_match = |r: &&StreamRule| mismatch_but_name(&r.when, &call).is_none();
    // One that takes every name is the last that may be asked.
    let first = table.rules.iter().find(may_match);
    first.is_some_and(|rule| !rule.when.sni.is_empty())
}

/// The index of the backend that a number drawn uniformly over u64 falls on; none where the weights sum to nothing.
pub fn pick(backends: &[StreamBackend], drawn: u64) -> Option<usize> {
    pick_by(backends.iter().map(|b| b.weight), drawn)
}

/// The first condition that does not hold.
fn mismatch(when: &StreamMatch, call: &StreamCall<'_>) -> Option<Mismatch> {
    mismatch_but_name(when, call).or_else(|| {
        let asked = |pattern: &String| call.sni.is_some_and(|sni| is_named(pattern, sni));
        let holds = when.sni.is_empty() || when.sni.iter().any(asked);
        (!holds).then_some(Mismatch::Is(Part::ServerName))
    })
}

fn mismatch_but_name(when: &StreamMatch, call: &StreamCall<'_>) -> Option<Mismatch> {
    let no = |part| Some(Mismatch::Is(part));
    if when.port.is_some_and(|p| p != call.port) {
        return no(Part::Port);
    }
    let namespace = &when.caller_namespace;
    if namespace
        .as_ref()
        .is_some_and(|n| n != call.caller.namespace)
    {
        return no(Part::CallerNamespace);
    }
    let differs =
        |(name, value): &(&String, &String)| call.caller.labels.get(*name) != Some(*value);
    let label = when.caller_labels.iter().find(differs);
    label.map(|(name, _)| Mismatch::Is(Part::CallerLabel(name.clone())))
}

/// Whether a name is what a pattern says; upper and lower case are the same (RFC 6066). A dot at the end of a name says nothing.
fn is_named(pattern: &str, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let Some(end) = pattern.strip_prefix('*') else {
        return name.eq_ignore_ascii_case(pattern);
    };
    // With the dot before it, and something before that.
    let at = name.len().checked_sub(end.len()).filter(|at| *at > 0);
    at.and_then(|at| name.get(at..))
        .is_some_and(|is| is.eq_ignore_ascii_case(end))
}

#[cfg(test)]
mod tests;
