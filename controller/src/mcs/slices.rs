//! EndpointSlices of imports, one cluster's endpoints in each, for whoever reads them beside the mesh: an ingress, or people. Pure.
//!
//! Of this cluster's own endpoints they are what the Service's are. Another cluster's endpoint has an address here where both share a
//! network; where they do not, a headless service's has one that stands for it and that proxies know, the same that DNS tells. Of a service
//! with clusterset IPs nobody is called one by one from elsewhere: there the cluster has one endpoint, which is the service's own address, so
//! that whoever picks it is balanced and failed over as every caller is, and an API server hears of another cluster's Pods only when the
//! last of them is gone or the first one comes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde_json::{Value, json};
use tradewind_api::{
    ClusterName, ServiceName,
    mcs::IpFamily,
    model::{Endpoint, Health, Service, ServiceKind},
    store::Export,
};
use tradewind_federation::catalog::ByExporter;
use tradewind_kubernetes::{
    Key,
    managed::{Body, Resource},
    objects::{Slice, SliceEndpoint},
};
use tradewind_transport::trust::sha256;

use super::{
    desired::{Input, set},
    merge::Import,
};
use crate::source::kubernetes::Exported;

/// Longest name of an object.
const MAX_NAME: usize = 253;
/// Endpoints of a slice that are aimed at, as Kubernetes does it; it refuses more than a thousand.
const PER_SLICE: usize = 100;

/// Of the own endpoints, a slice for each of the Service's.
pub(super) fn own<'a>(
    cluster: &'a ClusterName,
    service: &'a ServiceName,
    exported: &'a Exported,
) -> impl Iterator<Item = Body> + 'a {
    exported
        .slices
        .iter()
        .filter_map(|(key, slice)| own_slice(cluster, service, key, slice))
}

fn own_slice(
    cluster: &ClusterName,
    service: &ServiceName,
    key: &Key,
    slice: &Slice,
) -> Option<Body> {
    let family = IpFamily::of(slice.endpoints.first()?.ip);
    let ports = slice.ports.iter().map(|p| port(&p.name, p.port)).collect();
    let endpoint = |e: &SliceEndpoint| {
        let conditions =
            json!({"ready": e.ready, "serving": e.serving, "terminating": e.terminating});
        let zone = e.zone.as_deref();
        endpoint(e.ip, &conditions, e.hostname.as_deref(), zone)
    };
    let endpoints = slice.endpoints.iter().map(endpoint).collect();
    let name = own_name(&key.name, cluster.as_str());
    Some(body((cluster, service), name, family, (endpoints, ports)))
}

/// Of the other exporters' endpoints.
pub(super) fn elsewhere(
    input: &Input<'_>,
    name: &ServiceName,
    import: &Import,
    by: &ByExporter,
) -> Vec<Body> {
    let Some(service) = input.services.get(name) else {
        return Vec::new();
    };
    let mut bodies = Vec::new();
    for (cluster, export) in by.iter().filter(|(c, _)| **c != input.own.cluster) {
        for family in &import.spec.ip_families {
            bodies.extend(of_cluster(service, import.kind, (cluster, export), *family));
        }
    }
    bodies
}

fn of_cluster(
    service: &Service,
    kind: ServiceKind,
    (cluster, export): (&ClusterName, &Arc<Export>),
    family: IpFamily,
) -> Vec<Body> {
    let name = &service.name;
    let of_family = |ip: &IpAddr| IpFamily::of(*ip) == family;
    let there = || service.endpoints.iter().filter(|e| e.cluster == *cluster);
    let mut slices: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
    match kind {
        ServiceKind::ClusterSetIp => {
            let best = there().map(|e| e.health).min_by_key(|h| rank(*h));
            let ip = service.clusterset_ips.iter().copied().find(of_family);
            if let (Some(health), Some(ip)) = (best, ip) {
                let one = endpoint(ip, &conditions(health), None, None);
                slices.insert(0, vec![one]);
            }
        }
        ServiceKind::Headless => {
            // Each keeps its slice when others come and go, except where their number doubles.
            let count = there().count().div_ceil(PER_SLICE).next_power_of_two();
            for e in there() {
                let Some(ip) = e.ips().into_iter().find(of_family) else {
                    continue;
                };
                let zone = e.zone.as_ref().map(|z| z.as_str());
                let one = endpoint(ip, &conditions(e.health), e.hostname.as_deref(), zone);
                slices.entry(place(e, count)).or_default().push(one);
            }
        }
    }
    let ports: Vec<Value> = export.ports.iter().map(|p| port(&p.name, p.port)).collect();
    slices
        .into_iter()
        .map(|(number, endpoints)| {
            let object = elsewhere_name(name, cluster, family, number);
            body((cluster, name), object, family, (endpoints, ports.clone()))
        })
        .collect()
}

/// In which of so many slices an endpoint is.
fn place(endpoint: &Endpoint, count: usize) -> usize {
    let [a, b, ..] = sha256(endpoint.id.as_str().as_bytes());
    usize::from(u16::from_be_bytes([a, b])) % count
}

/// The better the lower.
const fn rank(health: Health) -> u8 {
    match health {
        Health::Healthy => 0,
        Health::Unknown => 1,
        Health::Draining => 2,
        Health::Unhealthy => 3,
    }
}

fn conditions(health: Health) -> Value {
    let (ready, serving, terminating) = match health {
        // Unknown is not dead.
        Health::Healthy | Health::Unknown => (true, true, false),
        Health::Unhealthy => (false, false, false),
        Health::Draining => (false, true, true),
    };
    json!({"ready": ready, "serving": serving, "terminating": terminating})
}

fn endpoint(ip: IpAddr, conditions: &Value, hostname: Option<&str>, zone: Option<&str>) -> Value {
    let mut object = json!({"addresses": [ip.to_string()], "conditions": conditions});
    if let Some(hostname) = hostname {
        set(&mut object, "hostname", json!(hostname));
    }
    if let Some(zone) = zone {
        set(&mut object, "zone", json!(zone));
    }
    object
}

fn port(name: &str, port: u16) -> Value {
    json!({"name": name, "port": port, "protocol": "TCP"})
}

fn body(
    (cluster, service): (&ClusterName, &ServiceName),
    name: String,
    family: IpFamily,
    (endpoints, ports): (Vec<Value>, Vec<Value>),
) -> Body {
    Body {
        resource: Resource::Slice,
        key: Key::new(service.namespace.as_str(), name),
        object: json!({
            "metadata": {"labels": {
                "multicluster.kubernetes.io/service-name": service.name(),
                "multicluster.kubernetes.io/source-cluster": cluster.as_str(),
                "endpointslice.kubernetes.io/managed-by": "controller.tradewind.io",
            }},
            "addressType": family.as_str(),
            "endpoints": endpoints,
            "ports": ports,
        }),
        status: None,
    }
}

/// The Service's own slice's name and the cluster's: unique, since the first is.
fn own_name(slice: &str, cluster: &str) -> String {
    let room = MAX_NAME.saturating_sub(cluster.len() + 1);
    // From the end: that is where generated names differ.
    let skipped = slice.chars().count().saturating_sub(room);
    let kept: String = slice.chars().skip(skipped).collect();
    format!("{cluster}-{}", kept.trim_start_matches(['-', '.']))
}

/// Names that people recognise, with an end that no other slice's has.
fn elsewhere_name(
    service: &ServiceName,
    cluster: &ClusterName,
    family: IpFamily,
    number: usize,
) -> String {
    /// Bytes of the digest that are shown: ten characters of base32.
    const SHOWN: usize = 6;
    let what = format!("{service} {cluster} {} {number}", family.as_str());
    let digest = sha256(what.as_bytes());
    let shown = digest.get(..SHOWN).unwrap_or(&digest);
    let end = data_encoding::BASE32_DNSSEC.encode(shown);
    format!("{cluster}-{}-{end}", service.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_slices_are_unique_and_not_too_long() {
        assert_eq!(own_name("hello-abc12", "west"), "west-hello-abc12");
        let long = own_name(&"x".repeat(253), "west");
        assert_eq!(long.len(), 253);
        let of = |cluster: &str, family, number| {
            let cluster = ClusterName::new(cluster).unwrap();
            elsewhere_name(&"shop/hello".parse().unwrap(), &cluster, family, number)
        };
        let one = of("east", IpFamily::V4, 0);
        assert!(one.starts_with("east-hello-") && one.len() == 21, "{one}");
        for other in [
            of("east", IpFamily::V6, 0),
            of("east", IpFamily::V4, 1),
            of("west", IpFamily::V4, 0),
        ] {
            assert_ne!(one, other);
        }
    }
}
