//! Two workloads and the service that one calls the other by: what the labels say of them, and one thread's handles.
//!
//! A name is the service account of a verified certificate, on both sides alike, so that what the caller's proxy says and what
//! the callee's says are the same node of a graph.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use tokio::time::Instant;
use tradewind_api::{Domain, SpiffeId, id::ServiceName};
use tradewind_runtime::clock::SharedClock;

use super::series::{Ending, Flags, HttpSeries, LiveTunnel, Series, TcpSeries};

/// What Istio says where it does not know.
pub(crate) const UNKNOWN: &str = "unknown";

/// Whose proxy tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reporter {
    /// The caller's.
    Source,
    /// The callee's.
    Destination,
}

impl Reporter {
    /// As the label says it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// How the two are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Security {
    /// By mutual TLS.
    MutualTls,
    /// Not at all: nobody was reached.
    Unknown,
}

/// One side.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Party {
    name: String,
    namespace: String,
    principal: String,
    cluster: String,
}

impl Party {
    /// Nobody known.
    pub(crate) fn unknown() -> Self {
        Self {
            name: UNKNOWN.into(),
            namespace: UNKNOWN.into(),
            principal: UNKNOWN.into(),
            cluster: UNKNOWN.into(),
        }
    }

    /// Who a certificate says it is, in a federation of this domain.
    pub(crate) fn of(id: &SpiffeId, domain: &Domain) -> Self {
        let (namespace, name) = id.account().unwrap_or((UNKNOWN, UNKNOWN));
        let cluster = id.trust_domain().cluster(domain);
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            principal: id.as_str().to_owned(),
            cluster: cluster.map_or_else(|| UNKNOWN.to_owned(), |c| c.to_string()),
        }
    }

    /// Its cluster.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its SPIFFE id.
    pub(crate) fn principal(&self) -> &str {
        &self.principal
    }

    fn coarse(self) -> Self {
        Self {
            cluster: self.cluster,
            ..Self::unknown()
        }
    }
}

/// What names a pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PairKey {
    pub(crate) reporter: Reporter,
    pub(crate) source: Party,
    pub(crate) destination: Party,
    /// None where the request named none that is known.
    pub(crate) service: Option<ServiceName>,
    pub(crate) security: Security,
}

/// Labels as the page has them.
pub(super) type Labels<'a> = Vec<(&'static str, std::borrow::Cow<'a, str>)>;

impl PairKey {
    /// The same with the two sides known by their clusters alone, and no service.
    pub(super) fn coarse(self) -> Self {
        Self {
            source: self.source.coarse(),
            destination: self.destination.coarse(),
            service: None,
            ..self
        }
    }

    /// Every label, in the order that Istio has them.
    pub(super) fn labels<'a>(&'a self, ending: &'a Labels<'a>) -> Labels<'a> {
        let (s, d) = (&self.source, &self.destination);
        let security = match self.security {
            Security::MutualTls => "mutual_tls",
            Security::Unknown => UNKNOWN,
        };
        let (host, name, namespace) = match &self.service {
            Some(service) => (
                format!("{}.{}.svc.cluster.local", service.name(), service.namespace),
                service.name(),
                service.namespace.as_str(),
            ),
            None => (UNKNOWN.to_owned(), UNKNOWN, UNKNOWN),
        };
        let mut labels: Labels<'a> = vec![
            ("reporter", self.reporter.as_str().into()),
            ("source_workload", s.name.as_str().into()),
            ("source_canonical_service", s.name.as_str().into()),
            ("source_canonical_revision", UNKNOWN.into()),
            ("source_workload_namespace", s.namespace.as_str().into()),
            ("source_principal", s.principal.as_str().into()),
            ("source_app", s.name.as_str().into()),
            ("source_version", UNKNOWN.into()),
            ("source_cluster", s.cluster.as_str().into()),
            ("destination_workload", d.name.as_str().into()),
            (
                "destination_workload_namespace",
                d.namespace.as_str().into(),
            ),
            ("destination_principal", d.principal.as_str().into()),
            ("destination_app", d.name.as_str().into()),
            ("destination_version", UNKNOWN.into()),
            ("destination_service", host.into()),
            ("destination_canonical_service", d.name.as_str().into()),
            ("destination_canonical_revision", UNKNOWN.into()),
            ("destination_service_name", name.into()),
            ("destination_service_namespace", namespace.into()),
            ("destination_cluster", d.cluster.as_str().into()),
        ];
        labels.extend(ending.iter().cloned());
        labels.push(("connection_security_policy", security.into()));
        labels
    }
}

/// One thread's handles of a pair.
#[derive(Debug)]
pub(crate) struct Pair {
    series: Arc<Series>,
    key: Arc<PairKey>,
    clock: SharedClock,
    http: RefCell<Vec<(Ending, Arc<HttpSeries>)>>,
    tcp: RefCell<Vec<(Flags, Arc<TcpSeries>)>>,
}

impl Pair {
    pub(super) fn new(series: Arc<Series>, key: Arc<PairKey>, clock: SharedClock) -> Rc<Self> {
        Rc::new(Self {
            series,
            key,
            clock,
            http: RefCell::default(),
            tcp: RefCell::default(),
        })
    }

    /// Who they are, also where they are counted by their clusters alone.
    pub(super) const fn key(&self) -> &Arc<PairKey> {
        &self.key
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Runs `count` on the series of requests that end so. Allocates at the first of a kind only.
    pub(super) fn request(&self, ending: Ending, count: impl FnOnce(&HttpSeries)) {
        let mut known = self.http.borrow_mut();
        if let Some((_, series)) = known.iter().find(|(e, _)| *e == ending) {
            return count(series);
        }
        // What exceeds the bound there is kept here under the series that took it, as long as that is bounded too.
        let series = self.series.request(ending);
        count(&series);
        if known.len() < super::series::MAX_ENDINGS {
            known.push((ending, series));
        }
    }

    /// Counts a connection from now until the guard is dropped.
    pub(crate) fn tunnel(&self, flags: Flags) -> LiveTunnel {
        let mut known = self.tcp.borrow_mut();
        if let Some((_, series)) = known.iter().find(|(f, _)| *f == flags) {
            return LiveTunnel::open(Arc::clone(series), flags, &self.key);
        }
        let series = self.series.connection(flags);
        known.push((flags, Arc::clone(&series)));
        LiveTunnel::open(series, flags, &self.key)
    }
}
