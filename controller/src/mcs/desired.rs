//! What this cluster's API server should hold of the federation: an import for each service in each namespace that is there, slices of its
//! endpoints, the cluster's properties, and the roots that Pods begin with. Pure.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tradewind_api::{
    ServiceName,
    mcs::{IpFamily, SpecPort},
    model::{Service, ServiceKind},
    shared::SharedMap,
    snapshot::Trust,
};
use tradewind_federation::Catalog;
use tradewind_kubernetes::{
    Key,
    managed::{Body, ROOTS, Resource},
    objects::Condition,
};

use super::{
    export_status::{self, Standing},
    merge::{self, Import},
    slices,
};
use crate::{local::Own, source::kubernetes::View};

/// Namespaces in which nobody's workloads run.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// The roots' key in their ConfigMap.
pub const ROOTS_KEY: &str = "root.pem";

/// What it is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// This cluster.
    pub own: &'a Own,
    /// What its API server says.
    pub view: &'a View,
    /// What the federation says.
    pub catalog: &'a Catalog,
    /// What was made of that for proxies and DNS servers, which must name the same addresses.
    pub services: &'a SharedMap<ServiceName, Arc<Service>>,
    /// Whom to believe.
    pub trust: &'a Trust,
    /// Why exports could not be published, as it is told to people.
    pub troubles: &'a [String],
    /// Now, as Kubernetes writes it.
    pub now: &'a str,
}

/// What there should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Objects of our own.
    pub bodies: Vec<Body>,
    /// Conditions of ServiceExports that should say something else than they do.
    pub conditions: BTreeMap<ServiceName, Vec<Condition>>,
}

/// See the module.
pub fn desired(input: &Input<'_>) -> Desired {
    let mut desired = Desired::default();
    let is_open = |namespace: &str| {
        let found = input.view.namespaces.get(namespace);
        found.is_some_and(|n| !n.terminating)
    };
    let mut imports = BTreeMap::new();
    for (name, by) in input.catalog.exports.iter() {
        if let Some(import) = merge::merge(by.iter().map(|(c, e)| (c, e.as_ref()))) {
            if is_open(name.namespace.as_str()) {
                desired.bodies.push(import_body(input, name, &import));
                let elsewhere = slices::elsewhere(input, name, &import, by);
                desired.bodies.extend(elsewhere);
            }
            imports.insert(name, import);
        }
    }
    for (name, exported) in &input.view.exported {
        let published = input.catalog.export(name, &input.own.cluster).is_some();
        let sign = format!("{name}");
        let standing = Standing {
            import: imports.get(name),
            published,
            trouble: input
                .troubles
                .iter()
                .find(|t| t.contains(&sign))
                .map(String::as_str),
            own: &input.own.cluster,
        };
        let conditions = export_status::conditions(exported, standing);
        if !export_status::same(&conditions, &exported.export.conditions) {
            let conditions =
                export_status::with_times(conditions, &exported.export.conditions, input.now);
            desired.conditions.insert(name.clone(), conditions);
        }
        if published && is_open(name.namespace.as_str()) {
            let own = slices::own(&input.own.cluster, name, exported);
            desired.bodies.extend(own);
        }
    }
    let open = input
        .view
        .namespaces
        .keys()
        .filter(|n| is_open(n) && !SYSTEM.contains(&n.as_str()));
    let roots = pem(input.trust);
    desired.bodies.extend(open.map(|namespace| Body {
        resource: Resource::ConfigMap,
        key: Key::new(namespace, ROOTS),
        object: json!({"data": {ROOTS_KEY: roots}}),
        status: None,
    }));
    // Membership is told exactly while it lasts.
    if input.catalog.member(&input.own.cluster).is_some() {
        let domain = input.own.domain.to_string();
        let cluster = input.own.cluster.to_string();
        for (name, value) in [
            ("cluster.clusterset.k8s.io", cluster),
            ("clusterset.k8s.io", domain),
        ] {
            desired.bodies.push(Body {
                resource: Resource::ClusterProperty,
                key: Key::new("", name),
                object: json!({"spec": {"value": value}}),
                status: None,
            });
        }
    }
    desired
}

fn import_body(input: &Input<'_>, name: &ServiceName, import: &Import) -> Body {
    let spec = &import.spec;
    let allocated = input.catalog.clusterset_ips.get(name);
    // An address for each family, in its order: whoever says two families has two addresses.
    let ip = |family: &IpFamily| {
        let of = allocated
            .into_iter()
            .flatten()
            .find(|ip| IpFamily::of(**ip) == *family);
        of.map(ToString::to_string)
    };
    let ips: Vec<String> = match import.kind {
        ServiceKind::ClusterSetIp => spec.ip_families.iter().filter_map(ip).collect(),
        ServiceKind::Headless => Vec::new(),
    };
    let mut imported = json!({
            "type": match import.kind {
                ServiceKind::ClusterSetIp => "ClusterSetIP",
                ServiceKind::Headless => "Headless",
            },
            "ports": spec.ports.iter().map(port).collect::<Vec<_>>(),
            "ipFamilies": spec.ip_families.iter().map(|f| f.as_str()).collect::<Vec<_>>(),
            "sessionAffinity": if spec.client_ip_affinity_s.is_some() { "ClientIP" } else { "None" },
    });
    if !ips.is_empty() {
        set(&mut imported, "ips", json!(ips));
    }
    if let Some(seconds) = spec.client_ip_affinity_s {
        set(
            &mut imported,
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": seconds}}),
        );
    }
    if let Some(policy) = &spec.internal_traffic_policy {
        set(&mut imported, "internalTrafficPolicy", json!(policy));
    }
    if let Some(distribution) = &spec.traffic_distribution {
        set(&mut imported, "trafficDistribution", json!(distribution));
    }
    let clusters: Vec<Value> = import
        .clusters
        .iter()
        .map(|c| json!({"cluster": c.as_str()}))
        .collect();
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "Ready",
        "message": "calls are carried by the mesh", "lastTransitionTime": input.now,
    });
    Body {
        resource: Resource::Import,
        key: Key::from(name),
        object: json!({
            "metadata": {"labels": spec.labels, "annotations": spec.annotations},
            "spec": imported,
        }),
        status: Some(json!({
            "clusters": clusters, "conditions": [ready], "endpointSliceObjects": "Present",
        })),
    }
}

/// Adds a field.
pub(super) fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}

fn port(port: &SpecPort) -> Value {
    let mut object = json!({"port": port.port, "protocol": port.protocol.as_str()});
    if !port.name.is_empty() {
        set(&mut object, "name", json!(port.name));
    }
    if let Some(protocol) = &port.app_protocol {
        set(&mut object, "appProtocol", json!(protocol));
    }
    object
}

/// All roots, as PEM.
fn pem(trust: &Trust) -> String {
    /// Characters of a line (RFC 7468).
    const LINE: usize = 64;
    let mut text = String::new();
    for root in &trust.roots {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = data_encoding::BASE64.encode(root);
        for line in encoded.as_bytes().chunks(LINE) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests;
