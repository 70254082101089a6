//! All exporters' word on one service into one import, and where they disagree: the constraints and conflict rules of KEP-1645. Pure,
//! and commutative: it does not matter in which order exports arrived.

use std::collections::BTreeSet;

use tradewind_api::{
    ClusterName,
    mcs::{ExportSpec, IpFamily, Protocol, SpecPort},
    model::{AppProtocol, ServiceKind},
    store::Export,
};

/// A reason of the condition `Conflict`, as the API names them, in the order in which several are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Ports differ.
    Port,
    /// One is headless.
    Type,
    /// One keeps clients with their endpoint.
    SessionAffinity,
    /// They do for different times.
    SessionAffinityConfig,
    /// `exportedLabels` differ.
    Labels,
    /// `exportedAnnotations` differ.
    Annotations,
    /// They differ.
    InternalTrafficPolicy,
    /// They differ.
    TrafficDistribution,
    /// They differ.
    IpFamily,
}

impl Reason {
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Port => "PortConflict",
            Self::Type => "TypeConflict",
            Self::SessionAffinity => "SessionAffinityConflict",
            Self::SessionAffinityConfig => "SessionAffinityConfigConflict",
            Self::Labels => "LabelsConflict",
            Self::Annotations => "AnnotationsConflict",
            Self::InternalTrafficPolicy => "InternalTrafficPolicyConflict",
            Self::TrafficDistribution => "TrafficDistributionConflict",
            Self::IpFamily => "IPFamilyConflict",
        }
    }

    const fn subject(self) -> &'static str {
        match self {
            Self::Port => "ports",
            Self::Type => "the type",
            Self::SessionAffinity => "sessionAffinity",
            Self::SessionAffinityConfig => "sessionAffinityConfig",
            Self::Labels => "exportedLabels",
            Self::Annotations => "exportedAnnotations",
            Self::InternalTrafficPolicy => "internalTrafficPolicy",
            Self::TrafficDistribution => "trafficDistribution",
            Self::IpFamily => "ipFamilies",
        }
    }
}

/// One disagreement. It stands on every exporter's ServiceExport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// About what.
    pub reason: Reason,
    /// Whose word holds: the oldest export's.
    pub holds: ClusterName,
    /// Whose is another.
    pub differ: BTreeSet<ClusterName>,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let differ: Vec<_> = self.differ.iter().map(ClusterName::as_str).collect();
        let what = match self.reason {
            Reason::Port => "all ports are united, and where two are in each other's way its stand",
            _ => "its word holds",
        };
        write!(
            f,
            "{} of {} differ from those of {}, the oldest export: {what}",
            self.reason.subject(),
            differ.join(", "),
            self.holds,
        )
    }
}

/// One service as all exporters together offer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// How it is addressed.
    pub kind: ServiceKind,
    /// What it passes on.
    pub spec: ExportSpec,
    /// Who exports it, sorted.
    pub clusters: Vec<ClusterName>,
    /// What they disagree on, in the order of reasons.
    pub conflicts: Vec<Conflict>,
}

/// Merges all exports of one service; none where there are none.
pub fn merge<'a>(
    exports: impl IntoIterator<Item = (&'a ClusterName, &'a Export)>,
) -> Option<Import> {
    let mut all: Vec<Offer<'a>> = exports.into_iter().map(|(c, e)| Offer::new(c, e)).collect();
    // Ages are told in whole seconds by Kubernetes: names break the tie everywhere in the same way.
    all.sort_by(|a, b| (a.created_at_ms, a.cluster).cmp(&(b.created_at_ms, b.cluster)));
    let oldest = all.first()?;
    let mut spec = oldest.spec.clone();
    spec.ports = unite(&all);
    if spec.ip_families.is_empty() {
        spec.ip_families.push(IpFamily::V4);
    }
    let conflicts = REASONS.iter().filter_map(|(reason, differs)| {
        let differ = all.iter().filter(|o| differs(oldest, o));
        let differ: BTreeSet<_> = differ.map(|o| o.cluster.clone()).collect();
        (!differ.is_empty()).then(|| Conflict {
            reason: *reason,
            holds: oldest.cluster.clone(),
            differ,
        })
    });
    let conflicts = conflicts.collect();
    let mut clusters: Vec<_> = all.iter().map(|o| o.cluster.clone()).collect();
    clusters.sort();
    Some(Import {
        kind: oldest.kind,
        spec,
        clusters,
        conflicts,
    })
}

struct Offer<'a> {
    cluster: &'a ClusterName,
    created_at_ms: u64,
    kind: ServiceKind,
    spec: ExportSpec,
}

impl<'a> Offer<'a> {
    fn new(cluster: &'a ClusterName, export: &'a Export) -> Self {
        Self {
            cluster,
            created_at_ms: export.created_at_ms,
            kind: export.kind,
            spec: match &export.spec {
                Some(spec) => ExportSpec::clone(spec),
                None => of_hosts(export),
            },
        }
    }
}

/// What a cluster that is not Kubernetes says of a service: its ports, and of everything else what Kubernetes takes where nothing is said.
fn of_hosts(export: &Export) -> ExportSpec {
    let port = |p: &tradewind_api::model::ServicePort| SpecPort {
        name: p.name.clone(),
        protocol: Protocol::Tcp,
        app_protocol: match p.app_protocol {
            AppProtocol::Http1 => Some("http".to_owned()),
            AppProtocol::Http2 => Some("kubernetes.io/h2c".to_owned()),
            AppProtocol::Tcp | AppProtocol::Detect => None,
        },
        port: p.port,
    };
    ExportSpec {
        ports: export.ports.iter().map(port).collect(),
        internal_traffic_policy: Some("Cluster".to_owned()),
        ip_families: vec![IpFamily::V4],
        ..ExportSpec::default()
    }
}

type Differs = fn(&Offer<'_>, &Offer<'_>) -> bool;

const REASONS: [(Reason, Differs); 9] = [
    (Reason::Port, |a, b| ports(a) != ports(b)),
    (Reason::Type, |a, b| a.kind != b.kind),
    (Reason::SessionAffinity, |a, b| {
        a.spec.client_ip_affinity_s.is_some() != b.spec.client_ip_affinity_s.is_some()
    }),
    (Reason::SessionAffinityConfig, |a, b| {
        let times = (a.spec.client_ip_affinity_s, b.spec.client_ip_affinity_s);
        matches!(times, (Some(a), Some(b)) if a != b)
    }),
    (Reason::Labels, |a, b| a.spec.labels != b.spec.labels),
    (Reason::Annotations, |a, b| {
        a.spec.annotations != b.spec.annotations
    }),
    (Reason::InternalTrafficPolicy, |a, b| {
        a.spec.internal_traffic_policy != b.spec.internal_traffic_policy
    }),
    (Reason::TrafficDistribution, |a, b| {
        a.spec.traffic_distribution != b.spec.traffic_distribution
    }),
    (Reason::IpFamily, |a, b| {
        a.spec.ip_families != b.spec.ip_families
    }),
];

fn ports<'a>(offer: &'a Offer<'_>) -> BTreeSet<&'a SpecPort> {
    offer.spec.ports.iter().collect()
}

/// All ports, the oldest export's first: one that has the name of another before it, or its protocol and number, stands back.
fn unite(oldest_first: &[Offer<'_>]) -> Vec<SpecPort> {
    let mut by_name = BTreeSet::new();
    let mut by_number = BTreeSet::new();
    let mut united = Vec::new();
    for port in oldest_first.iter().flat_map(|o| &o.spec.ports) {
        let number = (port.protocol, port.port);
        if by_name.contains(&port.name) || by_number.contains(&number) {
            continue;
        }
        by_name.insert(&port.name);
        by_number.insert(number);
        united.push(port.clone());
    }
    united
}

#[cfg(test)]
mod tests;
