//! Backends: who they are, whether the route may refer to them, and their shares.

use tradewind_api::{
    ServiceName,
    route::{Backend, BackendRef as To, Edits, StreamBackend},
};

use super::{
    Reader,
    types::{BackendRef, ObjectRef, StreamBackendRef},
};
use crate::{
    draft::{in_lowest_terms, of_stream, service},
    finding::Code,
    object::{At, Report},
    status::Reason,
    world::service_kind,
};

/// Says so where nobody has a share.
fn weighed(mut backends: Vec<Backend>, at: &At, report: &mut Report<'_>) -> Vec<Backend> {
    if backends.iter().all(|b| b.weight == 0) {
        let text = if backends.is_empty() {
            "there is no backend"
        } else {
            "the weights sum to nothing"
        };
        report.say(Code::NoWeight, at, text);
    }
    in_lowest_terms(&mut backends);
    backends
}

impl Reader<'_> {
    /// A rule's backends. Those that cannot be called keep their share, which is answered with 500.
    pub(super) fn backends(
        &self,
        refs: &[BackendRef],
        at: &At,
        report: &mut Report<'_>,
    ) -> Vec<Backend> {
        let at = at.field("backendRefs");
        let all = refs.iter().enumerate();
        let backends = all.map(|(i, backend)| self.backend(backend, &at.index(i), report));
        weighed(backends.collect(), &at, report)
    }

    /// The same of a rule for streams, which nothing can be changed about.
    pub(super) fn stream_backends(
        &self,
        refs: &[StreamBackendRef],
        at: &At,
        report: &mut Report<'_>,
    ) -> Vec<StreamBackend> {
        let at = at.field("backendRefs");
        let all = refs.iter().enumerate();
        let backends = all.map(|(i, backend)| Backend {
            to: self.reference(&backend.to, &at.index(i), report),
            weight: backend.weight.unwrap_or(1),
            edits: Edits::default(),
        });
        of_stream(weighed(backends.collect(), &at, report))
    }

    fn backend(&self, backend: &BackendRef, at: &At, report: &mut Report<'_>) -> Backend {
        let mut to = self.reference(&backend.to, at, report);
        let mut edits = Edits::default();
        for (i, filter) in backend.filters.iter().enumerate() {
            let at = at.field("filters").index(i);
            match filter.kind.as_str() {
                "RequestHeaderModifier" => {
                    edits.request = self.headers(
                        filter.request_header_modifier.as_ref(),
                        &at.field("requestHeaderModifier"),
                        report,
                    );
                }
                "ResponseHeaderModifier" => {
                    edits.response = self.headers(
                        filter.response_header_modifier.as_ref(),
                        &at.field("responseHeaderModifier"),
                        report,
                    );
                }
                // Reported by its own field, which must be there.
                other => {
                    let text = format!("filter {other} does not work on a backend");
                    report.facts.bad_filter(&at, &text);
                    to = To::Broken(text);
                }
            }
        }
        Backend {
            to,
            weight: backend.weight.unwrap_or(1),
            edits,
        }
    }

    /// A service, or why it cannot be called.
    pub(super) fn reference(&self, to: &ObjectRef, at: &At, report: &mut Report<'_>) -> To {
        let mut broken = |code, reason, text: String| {
            report.unresolved((code, reason), at, &text);
            To::Broken(text)
        };
        let group = to.group.as_deref().unwrap_or("");
        let kind = to.kind.as_deref().unwrap_or("Service");
        // Both mean the same service here: a service is the same in every cluster, and calls prefer what is near.
        let Some(to_kind) = service_kind(group, kind) else {
            let text = format!(
                "a backend of kind {kind} cannot be called: only a Service, or a ServiceImport of multicluster.x-k8s.io, can"
            );
            return broken(Code::InvalidValue, Reason::InvalidKind, text);
        };
        let namespace = to.namespace.as_deref();
        let namespace = namespace.unwrap_or(self.namespace().as_str());
        let name = match ServiceName::new(namespace, &to.name) {
            Ok(name) => name,
            Err(error) => {
                let text = error.to_string();
                return broken(Code::InvalidValue, Reason::BackendNotFound, text);
            }
        };
        let from = (self.object.kind.as_str(), self.namespace());
        if !self.world.grants(from, (to_kind, &name)) {
            let text = format!("no ReferenceGrant in {namespace} lets it refer to service {name}");
            return broken(Code::NotGranted, Reason::RefNotPermitted, text);
        }
        match self.world.port_of(&name, to.port) {
            Ok(port) => service(name, port, None),
            Err(text) => broken(Code::BackendNotFound, Reason::BackendNotFound, text),
        }
    }
}
