//! The merge of all exports of one service, by the rules of the Multi-Cluster Services API. Pure and commutative: it does
//! not matter in which order the exports arrived.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use tradewind_api::{
    ClusterName, ServiceName,
    model::{ServiceKind, ServicePort},
    store::Export,
};

use super::{ByExporter, Catalog};

/// One disagreement between the exporters of a service. It is shown on every one of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// A younger export asks for another kind than the oldest.
    Kind {
        /// Whose export stands back.
        cluster: ClusterName,
    },
    /// The port is described differently by a younger export.
    Port {
        /// The port's number as the older export gives it.
        port: u16,
        /// Whose description stands back.
        cluster: ClusterName,
    },
    /// A younger export lacks the port or has one more: it takes no traffic for what it lacks.
    PortSet {
        /// Whose ports differ from the oldest export's.
        cluster: ClusterName,
    },
}

/// One service as all exporters together offer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// How it is addressed: as the oldest export says.
    pub kind: ServiceKind,
    /// United ports, sorted by number.
    pub ports: Vec<ServicePort>,
    /// Who exports it.
    pub exported_by: BTreeSet<ClusterName>,
    /// Its clusterset addresses; empty when headless.
    pub ips: Vec<IpAddr>,
    /// What the exporters disagree on, sorted.
    pub conflicts: Vec<Conflict>,
}

impl Catalog {
    /// The merge of all exports of `service`; `None` when nobody exports it.
    pub fn merged(&self, service: &ServiceName) -> Option<Merged> {
        let by = self.exports.get(service)?;
        let oldest_first = oldest_first(by);
        let (_, oldest) = oldest_first.first()?;
        let (ports, mut conflicts) = unite(&oldest_first);
        for (cluster, export) in &oldest_first {
            if export.kind != oldest.kind {
                conflicts.push(Conflict::Kind {
                    cluster: (*cluster).clone(),
                });
            }
        }
        conflicts.sort();
        Some(Merged {
            kind: oldest.kind,
            ports,
            exported_by: by.keys().cloned().collect(),
            ips: match oldest.kind {
                ServiceKind::ClusterSetIp => self
                    .clusterset_ips
                    .get(service)
                    .cloned()
                    .unwrap_or_default(),
                ServiceKind::Headless => Vec::new(),
            },
            conflicts,
        })
    }
}

fn oldest_first(by: &ByExporter) -> Vec<(&ClusterName, &Arc<Export>)> {
    let mut all: Vec<_> = by.iter().collect();
    all.sort_by(|a, b| (a.1.created_at_ms, a.0).cmp(&(b.1.created_at_ms, b.0)));
    all
}

/// Ports unite by name first, then by number; the older export's description stands.
fn unite(oldest_first: &[(&ClusterName, &Arc<Export>)]) -> (Vec<ServicePort>, Vec<Conflict>) {
    let mut ports: Vec<ServicePort> = Vec::new();
    let mut conflicts = Vec::new();
    for (cluster, export) in oldest_first {
        for port in &export.ports {
            let known = ports
                .iter()
                .find(|p| p.name == port.name)
                .or_else(|| ports.iter().find(|p| p.port == port.port));
            match known {
                None => ports.push(port.clone()),
                Some(known) if known == port => {}
                Some(known) => conflicts.push(Conflict::Port {
                    port: known.port,
                    cluster: (*cluster).clone(),
                }),
            }
        }
    }
    let numbers = |e: &Export| e.ports.iter().map(|p| p.port).collect::<BTreeSet<_>>();
    if let Some((_, oldest)) = oldest_first.first() {
        let expected = numbers(oldest);
        for (cluster, export) in oldest_first {
            if numbers(export) != expected {
                conflicts.push(Conflict::PortSet {
                    cluster: (*cluster).clone(),
                });
            }
        }
    }
    ports.sort_by_key(|p| p.port);
    (ports, conflicts)
}
