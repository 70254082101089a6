//! What a front end makes of one object: rules for a service and its callers, before it is known who else has some for them.

use std::{collections::BTreeSet, sync::Arc};

use tradewind_api::{
    Namespace, ServiceName,
    limit::LocalLimits,
    route::{Backend, BackendRef, Otherwise, Rule, StreamBackend, StreamOtherwise, StreamRule},
};

/// Whose rules win where several APIs have some for the same service and callers. Smaller is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Api {
    /// Gateway API: the standard.
    Gateway,
    /// What most people have.
    Istio,
    /// What some still have.
    Smi,
}

/// For whose calls rules hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Callers {
    /// Everybody's.
    All,
    /// Those of these namespaces.
    Of(BTreeSet<Namespace>),
}

/// How strong a rule of the Gateway API is among those of all routes for one parent; greater comes first.
/// Of a stream's rule the server name stands for the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Exact before prefix before expression; of a server name: whole before one with a star before none.
    pub(crate) path: u8,
    /// Characters of it.
    pub(crate) path_length: usize,
    pub(crate) method: bool,
    pub(crate) headers: usize,
    pub(crate) query: usize,
}

/// See the module. Of requests where nothing else is said.
#[derive(Clone, Debug)]
pub(crate) struct Draft<R = Rule, O = Otherwise> {
    pub(crate) api: Api,
    /// Index of the object among those that were read.
    pub(crate) object: usize,
    pub(crate) service: ServiceName,
    pub(crate) callers: Callers,
    /// Its host was a pattern, so that one that names the service is stronger.
    pub(crate) by_pattern: bool,
    pub(crate) otherwise: O,
    /// In the object's order.
    pub(crate) rules: Vec<(Rank, R)>,
}

/// The same of streams.
pub(crate) type StreamDraft = Draft<StreamRule, StreamOtherwise>;

/// What one object makes.
#[derive(Debug, Default)]
pub(crate) struct Drafts {
    pub(crate) requests: Vec<Draft>,
    pub(crate) streams: Vec<StreamDraft>,
    /// How much some workloads take.
    pub(crate) limits: Option<Arc<LocalLimits>>,
}

impl Drafts {
    pub(crate) fn of_requests(requests: Vec<Draft>) -> Self {
        Self {
            requests,
            ..Self::default()
        }
    }

    pub(crate) fn of_streams(streams: Vec<StreamDraft>) -> Self {
        Self {
            streams,
            ..Self::default()
        }
    }
}

/// Weights in lowest terms, so that 90 to 10 is 9 to 1 whoever says so.
pub(crate) fn in_lowest_terms(backends: &mut [Backend]) {
    let common = backends.iter().fold(0, |all, b| gcd(all, b.weight));
    if common > 1 {
        for backend in backends {
            backend.weight /= common;
        }
    }
}

/// What a stream's backend has of a request's.
pub(crate) fn of_stream(backends: Vec<Backend>) -> Vec<StreamBackend> {
    let of_one = |b: Backend| StreamBackend {
        to: b.to,
        weight: b.weight,
    };
    backends.into_iter().map(of_one).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A backend that is whole.
pub(crate) fn service(
    service: ServiceName,
    port: Option<u16>,
    subset: Option<String>,
) -> BackendRef {
    BackendRef::Service {
        service,
        port,
        subset,
    }
}
