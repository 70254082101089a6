//! The local model: what this cluster itself runs, merged from what proxies registered and what YAML files say. Pure.
//!
//! A file says more about a service than a registration does (its kind, its port names), so its word stands where the
//! two differ. Endpoints of both are kept.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use tradewind_api::{
    ClusterName, Domain, EndpointId, Namespace, Network, Region, ServiceName, SpiffeId, Zone,
    mcs::ExportSpec,
    model::{AppProtocol, Health, ServiceKind, ServicePort, Targets},
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
    pub services: BTreeMap<ServiceName, Arc<LocalService>>,
    /// What callers everywhere are told to do with requests for a service, once it is exported.
    pub rules: BTreeMap<ServiceName, Arc<PublishedRules>>,
    /// What of the sources could not be taken over.
    pub problems: Vec<String>,
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
        self.made.retain(|name, _| yaml.services.contains_key(name));
        for (name, service) in &yaml.services {
            let known = self.made.get(name).filter(|m| Arc::ptr_eq(&m.of, service));
            if known.is_none() {
                self.made.insert(name.clone(), Made::of(service, own));
            }
            if let Some(made) = self.made.get(name) {
                model.problems.extend(made.problems.iter().cloned());
                let service = Arc::clone(&made.service);
                model.services.insert(name.clone(), service);
            }
        }
        for (id, endpoint) in &registered.workloads {
            let service = model.services.entry(endpoint.service.clone());
            let service = Arc::make_mut(service.or_default());
            let in_file = yaml.services.contains_key(&endpoint.service);
            add_port(service, endpoint, in_file);
            let endpoint = from_registration(endpoint);
            service.endpoints.insert(id.clone(), endpoint);
        }
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
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::yaml::{assemble, parse};

    pub(crate) fn own() -> Own {
        Own {
            cluster: ClusterName::new("west").unwrap(),
            region: Region::new("us-west").unwrap(),
            network: Network::new("west").unwrap(),
            domain: Domain::default(),
            witness: false,
        }
    }

    /// Merges both sources once.
    pub(crate) fn merge(registered: &Registered, yaml: &SourceModel, own: &Own) -> LocalModel {
        Merger::default().merge(registered, yaml, own)
    }

    pub(crate) fn registration(
        service: &str,
        port: u16,
        address: &str,
        health: Health,
    ) -> (EndpointId, RegisteredEndpoint) {
        let service: ServiceName = service.parse().unwrap();
        let id = EndpointId::derive(&own().cluster, &service, port, address);
        let endpoint = RegisteredEndpoint {
            service,
            port,
            app_protocol: AppProtocol::Detect,
            port_name: String::new(),
            address: address.into(),
            zone: None,
            weight: 100,
            health,
            hostname: None,
            labels: Labels::new(),
            identity: "spiffe://west.mesh.internal/ns/shop/sa/payments"
                .parse()
                .unwrap(),
            proxy: "p".into(),
            connected: true,
            last_seen_ms: 1,
        };
        (id, endpoint)
    }

    pub(crate) fn registered(
        all: impl IntoIterator<Item = (EndpointId, RegisteredEndpoint)>,
    ) -> Registered {
        Registered {
            workloads: all.into_iter().collect(),
            ..Registered::default()
        }
    }

    fn yaml(text: &str) -> SourceModel {
        assemble([&parse("a.yaml", text).unwrap()])
    }

    const FILE: &str = r"
apiVersion: v1
kind: Service
metadata: {name: payments, namespace: shop}
spec:
  clusterIP: None
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: payments-1, namespace: shop, labels: {kubernetes.io/service-name: payments}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.1]}
- {addresses: [10.0.0.2], conditions: {ready: false}, zone: a}
";

    #[test]
    fn both_sources_make_one_service() {
        let registered = registered([
            registration("shop/payments", 80, "127.0.0.1:15008", Health::Healthy),
            registration("shop/payments", 81, "127.0.0.1:15008", Health::Healthy),
            registration("shop/orders", 80, "127.0.0.1:15008", Health::Unknown),
        ]);
        let model = merge(&registered, &yaml(FILE), &own());
        assert_eq!(model.services.len(), 2);
        let payments = &model.services[&"shop/payments".parse().unwrap()];
        assert_eq!(payments.kind, ServiceKind::Headless);
        let ports: Vec<_> = payments
            .ports
            .iter()
            .map(|p| (p.port, p.name.as_str(), p.app_protocol))
            .collect();
        assert_eq!(
            ports,
            [
                (80, "http", AppProtocol::Http1),
                (81, "", AppProtocol::Detect)
            ]
        );
        assert_eq!(payments.endpoints.len(), 4);
        let pod = payments
            .endpoints
            .values()
            .find(|e| e.address == "10.0.0.2:15008")
            .unwrap();
        assert_eq!(
            (pod.health, pod.ports.as_slice()),
            (Health::Unhealthy, [80].as_slice())
        );
        assert_eq!(
            pod.identity.as_str(),
            "spiffe://west.mesh.internal/ns/shop/sa/default"
        );
        assert!(model.problems.is_empty(), "{:?}", model.problems);
    }

    #[test]
    fn a_service_is_made_anew_when_its_source_changed_and_not_before() {
        let payments: ServiceName = "shop/payments".parse().unwrap();
        let (mut merger, nobody) = (Merger::default(), Registered::default());
        let file = yaml(FILE);
        let first = merger.merge(&nobody, &file, &own());
        let made = Arc::clone(&first.services[&payments]);
        let id = registration("shop/payments", 81, "127.0.0.1:15008", Health::Healthy);
        let more = merger.merge(&registered([id]), &file, &own());
        assert_eq!(more.services[&payments].endpoints.len(), 3);
        let again = merger.merge(&nobody, &file, &own());
        assert!(Arc::ptr_eq(&again.services[&payments], &made));

        let elsewhere = "annotations: {tradewind.io/identity: /no}, name: payments-1";
        let wrong = yaml(&FILE.replace("name: payments-1", elsewhere));
        for _ in 0..2 {
            let told = merger.merge(&nobody, &wrong, &own());
            assert_eq!(told, merge(&nobody, &wrong, &own()));
            assert_eq!(told.problems.len(), 2, "{:?}", told.problems);
        }
        let gone = merger.merge(&nobody, &SourceModel::default(), &own());
        assert!(gone.services.is_empty());
    }

    #[test]
    fn identities_of_elsewhere_are_problems() {
        for (annotation, good) in [
            ("/ns/shop/sa/till", true),
            ("spiffe://west.mesh.internal/ns/shop/sa/till", true),
            ("spiffe://east.mesh.internal/ns/shop/sa/till", false),
            ("/tradewind/controller/x", false),
        ] {
            let annotated = format!(
                "annotations: {{tradewind.io/identity: \"{annotation}\"}}, name: payments-1"
            );
            let model = merge(
                &Registered::default(),
                &yaml(&FILE.replace("name: payments-1", &annotated)),
                &own(),
            );
            let payments = &model.services[&"shop/payments".parse().unwrap()];
            assert_eq!(
                payments.endpoints.len(),
                if good { 2 } else { 0 },
                "{annotation}"
            );
            assert_eq!(
                model.problems.is_empty(),
                good,
                "{annotation}: {:?}",
                model.problems
            );
        }
    }

    #[test]
    fn the_nearest_name_is_found() {
        let names: Vec<ServiceName> = ["shop/payments", "shop/orders", "bank/ledger"]
            .iter()
            .map(|n| n.parse().unwrap())
            .collect();
        for (wanted, expected) in [
            ("shop/payment", Some("shop/payments")),
            ("bank/orders", Some("shop/orders")),
            ("shop/ordres", Some("shop/orders")),
            ("x/y", None),
        ] {
            let found = nearest(&wanted.parse().unwrap(), &names).map(ToString::to_string);
            assert_eq!(found.as_deref(), expected, "{wanted}");
        }
    }

    proptest! {
        #[test]
        fn distance_is_a_metric(a in "[a-c]{0,8}", b in "[a-c]{0,8}", c in "[a-c]{0,8}") {
            prop_assert_eq!(distance(&a, &a), 0);
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
            prop_assert!(distance(&a, &b) >= a.len().abs_diff(b.len()));
        }
    }
}
