//! What the controller answers, as words and JSON. Pure.

use serde_json::{Value, json};
use tradewind_api::{convert, model::AppProtocol, proto::v1};

use crate::table::{self, age};

/// Revisions behind that a table shows: what is on its way is fewer.
const TRAILS_SHOWN: u64 = 100;

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

/// The same for a member's row: a witness is one, unless there is more to say of it.
pub fn standing(status: &v1::ClusterStatus) -> &'static str {
    let cluster = status.cluster.clone().unwrap_or_default();
    match cluster_state(&cluster) {
        "active" if status.witness => "witness",
        state => state,
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
        "round_trip_us": cluster.round_trip_us,
        "exported_services": status.exported_services,
        "lease_age_ms": status.lease_age_ms,
        "lease_expired": cluster.lease_expired,
        "nodes": status.nodes,
        "version": status.version,
        "witness": status.witness,
        "facts": status.facts.as_ref().map(facts_json),
    })
}

/// `up 3 min`: the connection to the cluster's controller.
pub fn stream(facts: Option<&v1::ClusterFacts>) -> String {
    let Some(facts) = facts else {
        return "-".to_owned();
    };
    let word = if facts.stream_up { "up" } else { "down" };
    format!("{word} {}", age(facts.stream_age_ms))
}

/// `fresh 2 s`: how old what is known of the cluster is.
pub fn fresh(facts: Option<&v1::ClusterFacts>) -> String {
    let Some(facts) = facts else {
        return "-".to_owned();
    };
    let word = if facts.data_stale { "stale" } else { "fresh" };
    let behind = match facts.trails {
        Some(trails) if trails > TRAILS_SHOWN => format!(", {} behind", table::count(trails)),
        _ => String::new(),
    };
    format!("{word} {}{behind}", age(facts.data_age_ms))
}

/// `reachable 12 ms, 1 s ago`, or since when not, and why.
pub fn reach(facts: Option<&v1::ClusterFacts>) -> String {
    let Some(facts) = facts else {
        return "-".to_owned();
    };
    let since = age(facts.reach_age_ms);
    match facts.reachable {
        None if facts.error_short.is_empty() => "not asked yet".to_owned(),
        None => format!("no answer yet: {}", facts.error_short),
        Some(true) => match facts.round_trip_us {
            Some(us) => format!("reachable {}, {since} ago", round_trip(us)),
            None => format!("reachable, {since} ago"),
        },
        Some(false) => format!("unreachable {since}: {}", facts.error_short),
    }
}

/// `0.4 ms`, `12 ms`.
pub fn round_trip(us: u64) -> String {
    if us < 10_000 {
        let tenths = us.div_ceil(100);
        return format!("{}.{} ms", tenths / 10, tenths % 10);
    }
    age(us / 1_000)
}

fn facts_json(facts: &v1::ClusterFacts) -> Value {
    let error = |text: &String| (!text.is_empty()).then(|| text.clone());
    json!({
        "stream": {
            "up": facts.stream_up,
            "age_ms": facts.stream_age_ms,
            "gateway": error(&facts.gateway),
        },
        "data": {
            "fresh": !facts.data_stale,
            "age_ms": facts.data_age_ms,
            "trails_revisions": facts.trails,
        },
        "reach": {
            "reachable": facts.reachable,
            "age_ms": facts.reach_age_ms,
            "round_trip_us": facts.round_trip_us,
            "last_round_trip_us": facts.last_round_trip_us,
            "error_layer": error(&facts.error_layer),
            "error": error(&facts.error),
        },
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
        "mesh_ips": endpoint.mesh_ips,
        "ports": endpoint.ports,
        "labels": endpoint.labels,
    })
}

fn kind(service: &v1::Service) -> &'static str {
    match v1::ServiceKind::try_from(service.kind) {
        Ok(v1::ServiceKind::Headless) => "headless",
        Ok(v1::ServiceKind::ClusterSetIp) => "clusterset-ip",
        Ok(v1::ServiceKind::Unspecified) | Err(_) => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_facts_read_as_three_facts() {
        let well = v1::ClusterFacts {
            stream_up: true,
            stream_age_ms: 180_000,
            data_age_ms: 2_000,
            reachable: Some(true),
            reach_age_ms: 1_000,
            round_trip_us: Some(12_000),
            trails: Some(3),
            ..v1::ClusterFacts::default()
        };
        let shown = |f: &v1::ClusterFacts| (stream(Some(f)), fresh(Some(f)), reach(Some(f)));
        let all = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(
            shown(&well),
            all("up 3 min", "fresh 2 s", "reachable 12 ms, 1 s ago")
        );
        let ill = v1::ClusterFacts {
            stream_up: false,
            stream_age_ms: 41_000,
            data_stale: true,
            data_age_ms: 42_000,
            reachable: Some(false),
            reach_age_ms: 40_000,
            trails: Some(1_200),
            error_short: "gateway refused the connection".into(),
            ..well
        };
        assert_eq!(
            shown(&ill),
            all(
                "down 41 s",
                "stale 42 s, 1,200 behind",
                "unreachable 40 s: gateway refused the connection"
            )
        );
        let new = v1::ClusterFacts::default();
        assert_eq!(reach(Some(&new)), "not asked yet");
        assert_eq!(stream(None), "-");
        assert_eq!(
            (round_trip(420), round_trip(1_000)),
            ("0.5 ms".into(), "1.0 ms".into())
        );
    }
}
