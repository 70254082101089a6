//! TCPRoute and TLSRoute: where streams go, of which nothing is read but the server name that a TLS client asks for.
//!
//! The more a name says the earlier its rule is asked, whichever route it stands in: whole names, then those with a star, the longer
//! before the shorter, then routes that name none. A TCPRoute names none, so it takes what no TLSRoute of its parent does.

use tradewind_api::route::{Kind, StreamMatch, StreamOtherwise, StreamRule};

use super::{Reader, name_of, spec, types::StreamRouteSpec};
use crate::{
    draft::{Rank, StreamDraft},
    finding::Code,
    object::{At, Object, Report},
    values::server_name,
    world::World,
};

/// Reads a TCPRoute; `index` is the object's place among all.
pub(crate) fn tcp_route(
    object: &Object,
    index: usize,
    world: &World,
    report: &mut Report<'_>,
) -> Vec<StreamDraft> {
    let Some(mut spec) = spec::<StreamRouteSpec>(object, report) else {
        return Vec::new();
    };
    // It has none, whatever somebody wrote.
    spec.hostnames.clear();
    Reader { object, world }.stream_route(&spec, index, Kind::TcpRoute, report)
}

/// Reads a TLSRoute likewise.
pub(crate) fn tls_route(
    object: &Object,
    index: usize,
    world: &World,
    report: &mut Report<'_>,
) -> Vec<StreamDraft> {
    let Some(spec) = spec::<StreamRouteSpec>(object, report) else {
        return Vec::new();
    };
    Reader { object, world }.stream_route(&spec, index, Kind::TlsRoute, report)
}

impl Reader<'_> {
    fn stream_route(
        &self,
        spec: &StreamRouteSpec,
        index: usize,
        kind: Kind,
        report: &mut Report<'_>,
    ) -> Vec<StreamDraft> {
        let names = by_rank(&spec.hostnames, report);
        let at = At::spec().field("rules");
        if spec.rules.is_empty() {
            let text = "at least one rule is expected";
            report.facts.unusable(format!("{at}: {text}"));
            report.say(Code::InvalidValue, &at, text);
        }
        let mut made = Vec::new();
        if names.is_empty() {
            let text = "none of its host names is one";
            report.facts.unusable(format!("spec.hostnames: {text}"));
        }
        for (i, rule) in spec.rules.iter().enumerate() {
            report.facts.rule();
            let to = self.stream_backends(&rule.backend_refs, &at.index(i), report);
            let origin = self.origin(kind, &name_of((rule.name.as_ref(), i)));
            for (rank, sni) in &names {
                let rule = StreamRule {
                    origin: origin.clone(),
                    when: StreamMatch {
                        sni: sni.clone(),
                        ..StreamMatch::default()
                    },
                    to: to.clone(),
                };
                made.push((*rank, rule));
            }
        }
        let for_port = |port| {
            let mut made = made.clone();
            made.iter_mut().for_each(|(_, r)| r.when.port = port);
            made
        };
        self.drafts(
            &spec.parent_refs,
            index,
            StreamOtherwise::Closed,
            report,
            for_port,
        )
    }
}

/// The names of a route, those together that are asked at the same time; one without names where it takes any stream. Of names that are
/// none nothing is left, so that nothing goes where it was not meant to.
fn by_rank(hostnames: &[String], report: &mut Report<'_>) -> Vec<(Rank, Vec<String>)> {
    if hostnames.is_empty() {
        return vec![(Rank::default(), Vec::new())];
    }
    let at = At::spec().field("hostnames");
    let mut whole = Vec::new();
    let mut all = Vec::new();
    for (i, name) in hostnames.iter().enumerate() {
        let Some(name) = server_name(name, &at.index(i), report) else {
            continue;
        };
        if name.starts_with('*') {
            let rank = Rank {
                path: 1,
                path_length: name.len(),
                ..Rank::default()
            };
            all.push((rank, vec![name]));
        } else {
            // Two whole names are never asked for at once, so their lengths say nothing.
            whole.push(name);
        }
    }
    if !whole.is_empty() {
        let rank = Rank {
            path: 2,
            ..Rank::default()
        };
        all.insert(0, (rank, whole));
    }
    all
}
