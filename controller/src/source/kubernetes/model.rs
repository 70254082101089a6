//! Objects of an API server into the local model's terms, service by service, so that a change costs what it touches. Pure.
//!
//! Owns what was made of each service. An endpoint takes part when its Pod has a proxy; where some of a service's have none that is a
//! problem which is told, and where all have none the service's own addresses are left alone: whoever calls them gets what he got before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tradewind_api::{
    ServiceName, Zone,
    id::is_label as is_name,
    mcs::{ExportSpec, Protocol},
    model::{Health, ServiceKind, ServicePort},
    shared::SharedMap,
    traffic::{Labels, MAX_LABELS, is_label},
};
use tradewind_kubernetes::{
    Key, Kind, Objects,
    managed::{Observed, Resource},
    objects::{Export, Namespace, Pod, Rule, Service, Slice, SliceEndpoint, Touched, Type},
    status::GATEWAY_API,
};
use tradewind_policy::Object;

use crate::source::{
    Asked, Problem, RefusedKind, SourceEndpoint, SourceModel, SourceService,
    yaml::{HBONE_PORT, app_protocol},
};

/// See the module.
#[derive(Debug, Default)]
pub struct Model {
    services: SharedMap<ServiceName, Arc<SourceService>>,
    exports: BTreeMap<ServiceName, Asked>,
    problems: BTreeMap<ServiceName, Problem>,
    policy: Arc<Vec<Arc<Object>>>,
    unread: Vec<Problem>,
    refused: Vec<RefusedKind>,
}

#[derive(Debug)]
struct Made {
    service: Arc<SourceService>,
    problem: Option<Problem>,
}

/// A service that somebody wants exported, as its own cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The wish.
    pub export: Arc<Export>,
    /// The Service, if there is one.
    pub service: Option<Arc<Service>>,
    /// Its own endpoints.
    pub slices: BTreeMap<Key, Arc<Slice>>,
}

/// What imports and conditions are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Everything was listed. Until then nothing may be concluded from what is missing.
    pub read: bool,
    /// By the service.
    pub exported: BTreeMap<ServiceName, Exported>,
    /// By name.
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Routes of Gateway API, by kind and name.
    pub routes: BTreeMap<(String, Key), Arc<Rule>>,
    /// What is kept in the API server, as it stands.
    pub owned: Observed,
    /// Kinds of it that the API server does not serve.
    pub absent: BTreeSet<Resource>,
}

impl Model {
    /// Makes anew what a change touched.
    pub fn update(&mut self, objects: &Objects, touched: &Touched) {
        for name in &touched.services {
            self.put(name, made(name, objects));
        }
        if touched.others {
            self.read_rules(objects);
            let refused = objects.refused.iter().map(|(kind, why)| RefusedKind {
                kind: kind.to_string(),
                why: why.clone(),
            });
            self.refused = refused.collect();
        }
    }

    /// What is the same keeps its allocation.
    fn put(&mut self, name: &ServiceName, made: Option<Made>) {
        let (service, problem) = made.map_or((None, None), |m| (Some(m.service), m.problem));
        match service.as_ref().and_then(|s| s.asked.clone()) {
            Some(asked) => drop(self.exports.insert(name.clone(), asked)),
            None => drop(self.exports.remove(name)),
        }
        match problem {
            Some(problem) => drop(self.problems.insert(name.clone(), problem)),
            None => drop(self.problems.remove(name)),
        }
        match (service, self.services.get(name)) {
            (Some(service), Some(known)) if *known == service => {}
            (Some(service), _) => drop(self.services.insert(name.clone(), service)),
            (None, Some(_)) => drop(self.services.remove(name)),
            (None, None) => {}
        }
    }

    fn read_rules(&mut self, objects: &Objects) {
        let objects_before = self.policy.iter();
        let before: BTreeMap<_, _> = objects_before.map(|o| (o.place.as_str(), o)).collect();
        let mut policy = Vec::with_capacity(objects.rules.len());
        self.unread.clear();
        for ((kind, key), rule) in &objects.rules {
            let place = format!("{} {key}", short(&kind.to_string()));
            // Most rules do not change when one does.
            if let Some(same) = before
                .get(place.as_str())
                .filter(|o| *o.value == rule.object)
            {
                policy.push(Arc::clone(same));
                continue;
            }
            match Object::new(&place, rule.object.clone()) {
                Ok(object) => policy.push(Arc::new(object)),
                Err(text) => self.unread.push(Problem { place, text }),
            }
        }
        self.policy = Arc::new(policy);
    }

    /// Kinds that cannot be listed.
    pub fn refused(&self) -> &[RefusedKind] {
        &self.refused
    }

    /// All of it, as the files' model is told.
    pub fn told(&self) -> SourceModel {
        let problems = self.unread.iter().chain(self.problems.values());
        let refused = self.refused.iter().map(Problem::from);
        let mut problems: Vec<_> = problems.cloned().chain(refused).collect();
        problems.sort();
        SourceModel {
            read: true,
            services: self.services.clone(),
            exports: self.exports.clone(),
            policy: self.policy.clone(),
            problems,
            refused: self.refused.clone(),
        }
    }

    /// What imports and conditions are made from.
    pub fn view(&self, objects: &Objects) -> View {
        let exported = objects.exports.iter().map(|(name, export)| {
            let slices = objects
                .slices_of
                .get(&Key::from(name))
                .into_iter()
                .flatten();
            let slices =
                slices.filter_map(|k| Some((k.clone(), Arc::clone(objects.slices.get(k)?))));
            let exported = Exported {
                export: Arc::clone(export),
                service: objects.services.get(name).cloned(),
                slices: slices.collect(),
            };
            (name.clone(), exported)
        });
        View {
            read: true,
            exported: exported.collect(),
            namespaces: objects.namespaces.clone(),
            routes: routes(objects),
            owned: objects.owned.clone(),
            absent: Resource::ALL
                .into_iter()
                .filter(|r| objects.absent.contains(&Kind::Owned(*r)))
                .collect(),
        }
    }
}

impl From<&RefusedKind> for Problem {
    fn from(RefusedKind { kind, why }: &RefusedKind) -> Self {
        Self {
            place: format!("kind {kind}"),
            text: format!(
                "the API server does not list it: {why}; what was known of these objects stands, and changes of them are not seen"
            ),
        }
    }
}

fn routes(objects: &Objects) -> BTreeMap<(String, Key), Arc<Rule>> {
    let all = objects.rules.iter().filter_map(|((kind, key), rule)| {
        let kind = kind.to_string();
        let (kind, group) = kind.split_once('.')?;
        (group == GATEWAY_API).then(|| ((kind.to_owned(), key.clone()), Arc::clone(rule)))
    });
    all.collect()
}

fn short(kind: &str) -> &str {
    kind.split('.').next().unwrap_or(kind)
}

fn made(name: &ServiceName, objects: &Objects) -> Option<Made> {
    let service = objects.services.get(name)?;
    if service.kind == Type::ExternalName {
        return None;
    }
    let mut ports: Vec<ServicePort> = service
        .ports
        .iter()
        .filter(|p| p.protocol == Protocol::Tcp)
        .map(|p| ServicePort {
            name: p.name.clone(),
            port: p.port,
            app_protocol: app_protocol(p.app_protocol.as_deref(), &p.name).unwrap_or_default(),
        })
        .collect();
    ports.sort_by_key(|p| p.port);
    ports.dedup_by_key(|p| p.port);
    let found = endpoints(name, &ports, objects);
    let export = objects.exports.get(name);
    let captured = !found.with_proxy.is_empty() || found.without_proxy.is_empty();
    let of_interest = export.is_some() || !found.with_proxy.is_empty();
    let problem = (of_interest && !found.without_proxy.is_empty()).then(|| Problem {
        place: format!("Service {name}"),
        text: format!(
            "{} of {} endpoints have no proxy, {} first: callers in the mesh do not reach them; label the namespace tradewind.io/injection=enabled and restart their Pods",
            found.without_proxy.len(),
            found.without_proxy.len() + found.with_proxy.len(),
            found.without_proxy.first().map_or("", String::as_str),
        ),
    });
    let asked = export.map(|export| Asked {
        place: format!("ServiceExport {name}"),
        created_at_ms: Some(export.created_at_ms),
    });
    let spec = export.map(|export| Arc::new(spec(service, export)));
    Some(Made {
        service: Arc::new(SourceService {
            name: name.clone(),
            kind: match service.kind {
                Type::Headless => ServiceKind::Headless,
                Type::ClusterIp | Type::ExternalName => ServiceKind::ClusterSetIp,
            },
            ports,
            identity: None,
            endpoints: found.with_proxy.into_values().collect(),
            cluster_ips: if captured {
                service.cluster_ips.clone()
            } else {
                Vec::new()
            },
            spec,
            asked,
        }),
        problem,
    })
}

/// What an export passes on for imports.
pub fn spec(service: &Service, export: &Export) -> ExportSpec {
    ExportSpec {
        ports: service.ports.clone(),
        client_ip_affinity_s: service.client_ip_affinity_s,
        internal_traffic_policy: service.internal_traffic_policy.clone(),
        traffic_distribution: service.traffic_distribution.clone(),
        ip_families: service.ip_families.clone(),
        labels: export.labels.clone(),
        annotations: export.annotations.clone(),
    }
}

#[derive(Default)]
struct Found {
    /// By the Pod: a Pod of two address families stands in two slices and is one endpoint.
    with_proxy: BTreeMap<String, SourceEndpoint>,
    /// Their names or addresses.
    without_proxy: BTreeSet<String>,
}

fn endpoints(name: &ServiceName, ports: &[ServicePort], objects: &Objects) -> Found {
    let mut found = Found::default();
    let slices = objects
        .slices_of
        .get(&Key::from(name))
        .into_iter()
        .flatten();
    for slice in slices.filter_map(|key| objects.slices.get(key)) {
        let targets: BTreeMap<u16, u16> = ports
            .iter()
            .filter_map(|p| {
                let port = slice.ports.iter().find(|s| s.name == p.name)?;
                Some((p.port, port.port))
            })
            .collect();
        for endpoint in &slice.endpoints {
            let pod = endpoint.pod.as_ref();
            let key = pod.map(|pod| Key::new(name.namespace.as_str(), pod));
            let known = key.as_ref().and_then(|key| objects.pods.get(key));
            let (Some(pod), Some(object)) = (pod, known) else {
                // A Pod that is known in neither way has just begun or ended, since watches are not in step. Were it taken for one without
                // a proxy, the end of a service's last Pod would send callers past the mesh, where nobody is left to answer.
                if key.is_none_or(|key| objects.bare.contains(&key)) {
                    let shown = pod.cloned().unwrap_or_else(|| endpoint.ip.to_string());
                    found.without_proxy.insert(shown);
                }
                continue;
            };
            let entry = found
                .with_proxy
                .entry(pod.clone())
                .or_insert_with(|| one(name, object, endpoint));
            entry.targets.extend(&targets);
            entry.ports = entry.targets.keys().copied().collect();
        }
    }
    found
}

fn one(name: &ServiceName, pod: &Pod, endpoint: &SliceEndpoint) -> SourceEndpoint {
    // A Pod's first address is the one that it is known by, whichever slice comes first.
    let ip = pod.ips.first().copied().unwrap_or(endpoint.ip);
    let (ready, serving) = (Some(endpoint.ready), Some(endpoint.serving));
    let health = Health::of_conditions(ready, serving, Some(endpoint.terminating));
    let labels: Labels = pod
        .labels
        .iter()
        .filter(|(key, value)| is_label(key, value))
        .take(MAX_LABELS)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    SourceEndpoint {
        address: std::net::SocketAddr::new(ip, HBONE_PORT).to_string(),
        health,
        hostname: endpoint.hostname.clone().filter(|h| is_name(h)),
        zone: endpoint.zone.as_deref().and_then(|z| Zone::new(z).ok()),
        identity: Some(format!("/ns/{}/sa/{}", name.namespace, pod.account)),
        ports: Vec::new(),
        labels,
        targets: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests;
