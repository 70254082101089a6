//! What the controller answers, as words and JSON. Pure.

use serde_json::{Value, json};
use tradewind_api::{convert, model::AppProtocol, proto::v1};

/// A cluster's standing, in the words of the lists.
pub fn cluster_state(cluster: &v1::Cluster) -> &'static str {
    match v1::ClusterState::try_from(cluster.state) {
        Ok(v1::ClusterState::Draining) => "draining",
        Ok(v1::ClusterState::Left) => "left",
        Ok(_) if cluster.lease_expired => "silent",
        Ok(v1::ClusterState::Active) => "active",
        Ok(v1::ClusterState::Unspecified) | Err(_) => "unknown",
    }
}

/// An endpoint's health, in the words of the lists.
pub fn health(endpoint: &v1::Endpoint) -> &'static str {
    convert::health(endpoint.health).as_str()
}

/// A protocol's name as flags write it.
pub fn protocol(port: &v1::ServicePort) -> &'static str {
    match convert::app_protocol(port.app_protocol) {
        AppProtocol::Detect => "detect",
        AppProtocol::Http1 => "http1",
        AppProtocol::Http2 => "http2",
        AppProtocol::Tcp => "tcp",
    }
}

/// `namespace/name`.
pub fn service_name(service: &v1::Service) -> String {
    format!("{}/{}", service.namespace, service.name)
}

/// Ports as `80/http1,443`.
pub fn ports(service: &v1::Service) -> String {
    let port = |p: &v1::ServicePort| match protocol(p) {
        "detect" => p.port.to_string(),
        protocol => format!("{}/{protocol}", p.port),
    };
    service.ports.iter().map(port).collect::<Vec<_>>().join(",")
}

/// How many endpoints are healthy.
pub fn healthy(service: &v1::Service) -> usize {
    service
        .endpoints
        .iter()
        .filter(|e| health(e) == "healthy")
        .count()
}

/// One cluster as JSON.
pub fn cluster_json(status: &v1::ClusterStatus) -> Value {
    let cluster = status.cluster.clone().unwrap_or_default();
    json!({
        "name": cluster.name,
        "region": cluster.region,
        "network": cluster.network,
        "state": cluster_state(&cluster),
        "local": cluster.local,
        "gateways": cluster.gateways,
        "exported_services": status.exported_services,
        "lease_age_ms": status.lease_age_ms,
        "lease_expired": cluster.lease_expired,
        "nodes": status.nodes,
        "version": status.version,
    })
}

/// One service as JSON, without its endpoints.
pub fn service_json(service: &v1::Service) -> Value {
    let port =
        |p: &v1::ServicePort| json!({ "name": p.name, "port": p.port, "protocol": protocol(p) });
    json!({
        "name": service_name(service),
        "kind": kind(service),
        "clusterset_ips": service.clusterset_ips,
        "ports": service.ports.iter().map(port).collect::<Vec<_>>(),
        "exported_by": service.exported_by,
        "endpoints": service.endpoints.len(),
        "healthy": healthy(service),
    })
}

/// One endpoint as JSON.
pub fn endpoint_json(endpoint: &v1::Endpoint) -> Value {
    json!({
        "id": endpoint.id,
        "cluster": endpoint.cluster,
        "region": endpoint.region,
        "zone": endpoint.zone,
        "health": health(endpoint),
        "weight": endpoint.weight,
        "identity": endpoint.identity,
        "address": endpoint.address,
        "hostname": endpoint.hostname,
        "ports": endpoint.ports,
    })
}

fn kind(service: &v1::Service) -> &'static str {
    match v1::ServiceKind::try_from(service.kind) {
        Ok(v1::ServiceKind::Headless) => "headless",
        Ok(v1::ServiceKind::ClusterSetIp) => "clusterset-ip",
        Ok(v1::ServiceKind::Unspecified) | Err(_) => "unknown",
    }
}
