//! The local model: what this cluster itself runs, merged from what proxies registered and what YAML files say. Pure.
//!
//! A file says more about a service than a registration does (its kind, its port names), so its word stands where the
//! two differ. Endpoints of both are kept.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use tradewind_api::{
    ClusterName, Domain, EndpointId, Namespace, Network, Region, ServiceName, SpiffeId, Zone,
    mcs::ExportSpec,
    model::{AppProtocol, Health, ServiceKind, ServicePort, Targets},
    shared::SharedMap,
    store::PublishedRules,
    traffic::Labels,
};

use crate::{
    datadir::NodeFile,
    registry::{Registered, RegisteredEndpoint},
    source::{SourceEndpoint, SourceModel, SourceService},
};

/// What an endpoint weighs that was not told otherwise.
pub const DEFAULT_WEIGHT: u32 = 100;

/// This cluster, as far as compiling and publishing need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its name.
    pub cluster: ClusterName,
    /// Its region.
    pub region: Region,
    /// Its network.
    pub network: Network,
    /// The federation's domain.
    pub domain: Domain,
    /// True for a voter without a cluster.
    pub witness: bool,
}

impl From<&NodeFile> for Own {
    fn from(node: &NodeFile) -> Self {
        Self {
            cluster: node.cluster.clone(),
            region: node.region.clone(),
            network: node.network.clone(),
            domain: node.domain.clone(),
            witness: node.witness,
        }
    }
}

/// One endpoint in this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Its zone.
    pub zone: Option<Zone>,
    /// Relative capacity.
    pub weight: u32,
    /// How it is.
    pub health: Health,
    /// What it proves.
    pub identity: SpiffeId,
    /// `host:port` of its HBONE listener.
    pub address: String,
    /// Its name in a headless service.
    pub hostname: Option<String>,
    /// Service ports it serves, sorted.
    pub ports: Vec<u16>,
    /// Its workload's labels.
    pub labels: Labels,
    /// Where its application listens, by service port, where its proxy is to learn that.
    pub targets: Targets,
}

/// One service in this cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalService {
    /// How it is addressed.
    pub kind: ServiceKind,
    /// Its ports, sorted by number.
    pub ports: Vec<ServicePort>,
    /// Its endpoints.
    pub endpoints: BTreeMap<EndpointId, LocalEndpoint>,
    /// The addresses that this cluster gave it.
    pub cluster_ips: Vec<IpAddr>,
    /// What its export passes on for imports.
    pub spec: Option<Arc<ExportSpec>>,
}

/// What this cluster runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalModel {
    /// Both sources were read. Until then nothing may be concluded from what is missing.
    pub read: bool,
    /// By name.
    pub services: SharedMap<ServiceName, Arc<LocalService>>,
    /// What callers everywhere are told to do with requests for a service, once it is exported.
    pub rules: SharedMap<ServiceName, Arc<PublishedRules>>,
    /// What of the sources could not be taken over.
    pub problems: Vec<String>,
    /// What is wrong with rules.
    pub rule_problems: Arc<Vec<String>>,
}

/// What was made of each service of the source. What did not change there is not made again: with many services that would cost more than
/// everything else that a change of one does.
#[derive(Debug, Default)]
pub struct Merger {
    made: BTreeMap<ServiceName, Made>,
}

#[derive(Debug)]
struct Made {
    of: Arc<SourceService>,
    service: Arc<LocalService>,
    problems: Vec<String>,
}

impl Merger {
    /// Merges both sources of always the same cluster.
    pub fn merge(&mut self, registered: &Registered, yaml: &SourceModel, own: &Own) -> LocalModel {
        let mut model = LocalModel {
            read: yaml.read,
            ..LocalModel::default()
        };
        let mut services = BTreeMap::new();
        self.made.retain(|name, _| yaml.services.contains_key(name));
        for (name, service) in &yaml.services {
            let known = self.made.get(name).filter(|m| Arc::ptr_eq(&m.of, service));
            if known.is_none() {
                self.made.insert(name.clone(), Made::of(service, own));
            }
            if let Some(made) = self.made.get(name) {
                model.problems.extend(made.problems.iter().cloned());
                let service = Arc::clone(&made.service);
                services.insert(name.clone(), service);
            }
        }
        for (id, endpoint) in &registered.workloads {
            let service = services.entry(endpoint.service.clone());
            let service = Arc::make_mut(service.or_default());
            let in_file = yaml.services.contains_key(&endpoint.service);
            add_port(service, endpoint, in_file);
            let endpoint = from_registration(endpoint);
            service.endpoints.insert(id.clone(), endpoint);
        }
        model.services = services.into();
        model
    }
}

impl Made {
    fn of(service: &Arc<SourceService>, own: &Own) -> Self {
        let mut problems = Vec::new();
        let made = from_yaml(service, own, &mut problems);
        Self {
            of: Arc::clone(service),
            service: Arc::new(made),
            problems,
        }
    }
}

fn from_registration(endpoint: &RegisteredEndpoint) -> LocalEndpoint {
    LocalEndpoint {
        zone: endpoint.zone.clone(),
        weight: endpoint.weight,
        health: endpoint.health,
        identity: endpoint.identity.clone(),
        address: endpoint.address.clone(),
        hostname: endpoint.hostname.clone(),
        labels: endpoint.labels.clone(),
        ports: vec![endpoint.port],
        targets: Targets::new(),
    }
}

/// Adds the registered port. Registrations come in the order of their ids, so that the first one's word stands whatever
/// order they arrived in; a protocol that is known beats one that has to be found out.
fn add_port(service: &mut LocalService, endpoint: &RegisteredEndpoint, in_file: bool) {
    if let Some(port) = service.ports.iter_mut().find(|p| p.port == endpoint.port) {
        if !in_file && port.app_protocol == AppProtocol::Detect {
            port.app_protocol = endpoint.app_protocol;
        }
        return;
    }
    // Names tell ports apart: a second port of the same name goes by its number.
    let taken = service.ports.iter().any(|p| p.name == endpoint.port_name);
    let name = if taken {
        format!("port-{}", endpoint.port)
    } else {
        endpoint.port_name.clone()
    };
    service.ports.push(ServicePort {
        name,
        port: endpoint.port,
        app_protocol: endpoint.app_protocol,
    });
    service.ports.sort_by_key(|p| p.port);
}

fn from_yaml(service: &SourceService, own: &Own, problems: &mut Vec<String>) -> LocalService {
    let mut endpoints = BTreeMap::new();
    for endpoint in &service.endpoints {
        let Some(first) = endpoint.ports.first() else {
            problems.push(format!(
                "{}: the endpoint {} serves none of the service's ports",
                service.name, endpoint.address
            ));
            continue;
        };
        match yaml_identity(service, endpoint, own) {
            Ok(identity) => {
                let id = EndpointId::derive(&own.cluster, &service.name, *first, &endpoint.address);
                let local = LocalEndpoint {
                    zone: endpoint.zone.clone(),
                    weight: DEFAULT_WEIGHT,
                    health: endpoint.health,
                    identity,
                    address: endpoint.address.clone(),
                    hostname: endpoint.hostname.clone(),
                    labels: endpoint.labels.clone(),
                    ports: endpoint.ports.clone(),
                    targets: endpoint.targets.clone(),
                };
                endpoints.insert(id, local);
            }
            Err(problem) => problems.push(format!(
                "{}: the endpoint {}: {problem}",
                service.name, endpoint.address
            )),
        }
    }
    LocalService {
        kind: service.kind,
        ports: service.ports.clone(),
        endpoints,
        cluster_ips: service.cluster_ips.clone(),
        spec: service.spec.clone(),
    }
}

/// The slice's word, else the service's, else the namespace's default account. An identity outside of this cluster
/// cannot be proven here.
fn yaml_identity(
    service: &SourceService,
    endpoint: &SourceEndpoint,
    own: &Own,
) -> Result<SpiffeId, String> {
    let domain = own.domain.trust_domain(&own.cluster);
    let Some(text) = endpoint.identity.as_ref().or(service.identity.as_ref()) else {
        let account = Namespace::new("default").map_err(|e| e.to_string())?;
        return Ok(SpiffeId::workload(
            &domain,
            &service.name.namespace,
            &account,
        ));
    };
    let id: SpiffeId = if text.starts_with('/') {
        SpiffeId::from_path(&domain, text).map_err(|e| e.to_string())?
    } else {
        text.parse()
            .map_err(|e: tradewind_api::InvalidName| e.to_string())?
    };
    if id.trust_domain() != domain {
        return Err(format!(
            "its identity {id} is not of this cluster, {domain}"
        ));
    }
    if id.account().is_none() {
        return Err(format!(
            "its identity {id} is not a workload's: expected /ns/<namespace>/sa/<account>"
        ));
    }
    Ok(id)
}

/// The name most like `wanted`, for a hint.
pub fn nearest<'a>(
    wanted: &ServiceName,
    names: impl IntoIterator<Item = &'a ServiceName>,
) -> Option<&'a ServiceName> {
    let wanted_text = wanted.to_string();
    // Beyond a third of its letters it is another word.
    let bound = (wanted_text.len() / 3).max(2);
    names
        .into_iter()
        .map(|name| {
            let distance = if name.name() == wanted.name() {
                1
            } else {
                distance(&wanted_text, &name.to_string())
            };
            (distance, name)
        })
        .filter(|(distance, _)| *distance <= bound)
        .min()
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace) between two names; each has 127 characters at most.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.bytes().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(x != y);
            left = replaced.min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;
