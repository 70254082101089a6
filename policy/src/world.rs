//! What routes refer to: services with their ports, subsets and endpoints' labels, and who may refer into which namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tradewind_api::{
    Namespace, ServiceName,
    traffic::{Labels, TrafficPolicy},
};

use crate::{draft::Callers, object::Object};

/// A service's ports: name and number.
pub type Ports = Vec<(String, u16)>;

/// What is known beside the routes themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Services of this cluster and those that it imports.
    pub services: BTreeMap<ServiceName, Ports>,
    /// What labels their endpoints have, each set once; of services that are not here it is not known.
    pub labels: BTreeMap<ServiceName, BTreeSet<Labels>>,
    /// Where clusters are; none where that is not known.
    pub regions: Option<BTreeSet<String>>,
    /// ReferenceGrants.
    pub(crate) grants: Vec<Grant>,
    /// VirtualServices without hosts, whose rules others delegate to.
    pub(crate) delegates: BTreeMap<ServiceName, Object>,
    /// What DestinationRules make.
    pub(crate) traffic: BTreeMap<ServiceName, Vec<Arc<TrafficPolicy>>>,
}

impl World {
    /// Whether services, their labels and regions are the same.
    pub(crate) fn is_of_the_same(&self, other: &Self) -> bool {
        (&self.services, &self.labels, &self.regions)
            == (&other.services, &other.labels, &other.regions)
    }

    /// Services with unnamed ports, for tests and files alone.
    pub fn of<'a>(services: impl IntoIterator<Item = (&'a ServiceName, &'a [u16])>) -> Self {
        let ports = |p: &[u16]| p.iter().map(|p| (String::new(), *p)).collect();
        Self {
            services: services
                .into_iter()
                .map(|(name, p)| (name.clone(), ports(p)))
                .collect(),
            ..Self::default()
        }
    }

    /// Which of its ports a reference means: the one it names, or the only one; otherwise the one that is called. The error says
    /// what is missing.
    pub(crate) fn port_of(
        &self,
        service: &ServiceName,
        named: Option<u16>,
    ) -> Result<Option<u16>, String> {
        let Some(ports) = self.services.get(service) else {
            return Err(format!("there is no service {service}"));
        };
        match (named, ports.as_slice()) {
            (Some(port), all) if all.iter().any(|(_, p)| *p == port) => Ok(Some(port)),
            (Some(port), all) => {
                let has: Vec<_> = all.iter().map(|(_, p)| p.to_string()).collect();
                Err(format!(
                    "service {service} has no port {port}; it has {}",
                    has.join(", ")
                ))
            }
            (None, [(_, only)]) => Ok(Some(*only)),
            (None, _) => Ok(None),
        }
    }

    /// Whether a DestinationRule for some of these callers defines the subset.
    pub(crate) fn has_subset(
        &self,
        service: &ServiceName,
        subset: &str,
        callers: &Callers,
    ) -> bool {
        let for_some = |policy: &TrafficPolicy| match (&policy.namespace, callers) {
            (Some(namespace), Callers::Of(callers)) => callers.contains(namespace),
            (None, _) | (_, Callers::All) => true,
        };
        let all = self.traffic.get(service).into_iter().flatten();
        all.filter(|p| for_some(p))
            .any(|p| p.subsets.contains_key(subset))
    }

    /// Whether a route of that kind and namespace may refer to the service, which it calls a `to_kind`.
    pub(crate) fn grants(
        &self,
        (kind, from): (&str, &Namespace),
        (to_kind, service): (&str, &ServiceName),
    ) -> bool {
        let of = |g: &Grant| g.from.iter().any(|(k, n)| k == kind && n == from.as_str());
        let to = |g: &Grant| {
            g.to.iter().any(|(kind, name)| {
                *kind == to_kind && name.as_ref().is_none_or(|n| n == service.name())
            })
        };
        *from == service.namespace
            || self
                .grants
                .iter()
                .any(|g| g.inside == service.namespace && of(g) && to(g))
    }
}

/// What a reference to a service says that it is, where it is one.
pub(crate) fn service_kind(group: &str, kind: &str) -> Option<&'static str> {
    match (group, kind) {
        ("", "Service") => Some("Service"),
        ("multicluster.x-k8s.io", "ServiceImport") => Some("ServiceImport"),
        _ => None,
    }
}

/// A ReferenceGrant, as far as it is about routes to services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    inside: Namespace,
    /// Kinds of routes and their namespaces.
    from: Vec<(String, String)>,
    /// Kinds of services, and their names; none for all.
    to: Vec<(&'static str, Option<String>)>,
}

impl Grant {
    /// Of an object whose kind is ReferenceGrant. Entries about other groups and kinds are other people's.
    pub(crate) fn read(object: &Object) -> Self {
        let entries = |key: &str| {
            let list = object.value.pointer(&format!("/spec/{key}"));
            list.and_then(|l| l.as_array()).cloned().unwrap_or_default()
        };
        let text = |of: &serde_json::Value, key: &str| {
            of.get(key).and_then(|v| v.as_str()).map(str::to_owned)
        };
        let from = |of: &serde_json::Value| {
            text(of, "group").filter(|g| g == "gateway.networking.k8s.io")?;
            Some((text(of, "kind")?, text(of, "namespace")?))
        };
        let to = |of: &serde_json::Value| {
            let kind = service_kind(&text(of, "group")?, &text(of, "kind")?)?;
            Some((kind, text(of, "name")))
        };
        Self {
            inside: object.name.namespace.clone(),
            from: entries("from").iter().filter_map(from).collect(),
            to: entries("to").iter().filter_map(to).collect(),
        }
    }
}
