//! VirtualService's rules for TLS that is passed on unread, and for other streams of bytes.

use serde::de::IgnoredAny;
use tradewind_api::{
    Namespace,
    route::{Backend, Edits, StreamBackend, StreamMatch},
};

use super::{
    http::Reader,
    types::{L4Match, RouteDestination, StreamRoute},
    virtual_service::MESH,
};
use crate::{
    draft::{in_lowest_terms, of_stream},
    finding::Code,
    object::{At, Report},
    values::server_name,
};

/// A rule's name, its match and its backends.
pub(super) type Made = (String, StreamMatch, Vec<StreamBackend>);

/// The name that means every name.
const ANY: &str = "*";

impl Reader<'_> {
    /// In order: those for TLS first, which ask for a name. Each of several matches is a rule.
    pub(super) fn streams(
        &self,
        tls: &[StreamRoute],
        tcp: &[StreamRoute],
        report: &mut Report<'_>,
    ) -> Vec<Made> {
        let mut made = Vec::new();
        for (i, route) in tls.iter().enumerate() {
            let at = At::spec().field("tls").index(i);
            if route.matches.is_empty() {
                let text = "at least one match with sniHosts is expected; no stream meets the rule";
                report.say(Code::InvalidValue, &at.field("match"), text);
            }
            let name = format!("tls[{i}]");
            made.extend(self.stream_rule(&name, route, &at, report, tls_match));
        }
        for (i, route) in tcp.iter().enumerate() {
            let at = At::spec().field("tcp").index(i);
            let name = format!("tcp[{i}]");
            let mut rules = self.stream_rule(&name, route, &at, report, l4_match);
            if route.matches.is_empty() {
                let to = self.stream_backends(&route.route, &at.field("route"), report);
                rules.push((name, StreamMatch::default(), to));
            }
            made.extend(rules);
        }
        made
    }

    /// A rule for each match that can be met here.
    fn stream_rule(
        &self,
        name: &str,
        route: &StreamRoute,
        at: &At,
        report: &mut Report<'_>,
        when: fn(&L4Match, &At, &mut Report<'_>) -> Option<StreamMatch>,
    ) -> Vec<Made> {
        if route.matches.is_empty() {
            return Vec::new();
        }
        let to = self.stream_backends(&route.route, &at.field("route"), report);
        let mut made = Vec::new();
        for (i, m) in route.matches.iter().enumerate() {
            if !m.gateways.is_empty() && !m.gateways.iter().any(|g| g == MESH) {
                continue;
            }
            if let Some(when) = when(m, &at.field("match").index(i), report) {
                made.push((name.to_owned(), when, to.clone()));
            }
        }
        made
    }

    fn stream_backends(
        &self,
        route: &[RouteDestination],
        at: &At,
        report: &mut Report<'_>,
    ) -> Vec<StreamBackend> {
        // One destination alone has all of the streams, whatever its weight says.
        let alone = route.len() == 1;
        let backend = |(i, to): (usize, &RouteDestination)| Backend {
            to: self.destination(&to.destination, &at.index(i).field("destination"), report),
            weight: if alone { 1 } else { to.weight.unwrap_or(0) },
            edits: Edits::default(),
        };
        let mut backends: Vec<_> = route.iter().enumerate().map(backend).collect();
        if backends.iter().all(|b| b.weight == 0) {
            let text = if backends.is_empty() {
                "there is no route"
            } else {
                "the weights sum to nothing"
            };
            report.say(Code::NoWeight, at, text);
        }
        in_lowest_terms(&mut backends);
        of_stream(backends)
    }
}

/// None where no stream meets it: a name must be asked for.
fn tls_match(m: &L4Match, at: &At, report: &mut Report<'_>) -> Option<StreamMatch> {
    let in_names = at.field("sniHosts");
    if m.sni_hosts.is_empty() {
        let text = "at least one name is expected; no stream meets the match";
        report.say(Code::InvalidValue, &in_names, text);
    }
    let names = m.sni_hosts.iter().enumerate();
    let sni: Vec<_> = names
        .filter_map(|(i, name)| match name.as_str() {
            ANY => Some(ANY.to_owned()),
            name => server_name(name, &in_names.index(i), report),
        })
        .collect();
    let when = l4_match(m, at, report)?;
    (!sni.is_empty()).then_some(StreamMatch { sni, ..when })
}

/// None where no stream meets it: what it says of addresses is not looked at, and must not be left out.
fn l4_match(m: &L4Match, at: &At, report: &mut Report<'_>) -> Option<StreamMatch> {
    let namespace = m.source_namespace.as_deref().filter(|n| !n.is_empty());
    let caller_namespace = namespace.map(|n| Namespace::new(n).ok());
    if caller_namespace == Some(None) {
        let text = namespace.unwrap_or_default();
        report.invalid(&at.field("sourceNamespace"), text, "a namespace");
        return None;
    }
    let by_address: [&Option<IgnoredAny>; 2] = [&m.destination_subnets, &m.source_subnet];
    if by_address.iter().any(|set| set.is_some()) {
        return None;
    }
    Some(StreamMatch {
        port: m.port,
        sni: Vec::new(),
        caller_namespace: caller_namespace.flatten(),
        caller_labels: m.source_labels.clone(),
    })
}
