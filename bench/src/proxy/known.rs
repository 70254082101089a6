//! Services that the caller's proxy knows and does not call, with three endpoints each: in the words of each system. Pure but
//! for the files that a controller reads.

use std::{fmt::Write as _, net::Ipv4Addr, path::Path};

use serde_json::{Value, json};

/// Endpoints of each.
pub(super) const ENDPOINTS: u32 = 3;
/// Services of one file: well below the size that a controller reads.
const PER_FILE: u32 = 500;
/// Where workloads take HBONE, and in the others' words where the service's endpoints listen.
const PORT: u16 = 15008;

/// An address that nobody is at: nobody is called.
fn address(service: u32, endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::from((10 << 24) | (service * ENDPOINTS + endpoint + 1))
}

/// Kubernetes objects of so many, a file for every few hundred.
pub(super) fn manifests(dir: &Path, known: u32) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for (file, first) in (0..known).step_by(PER_FILE as usize).enumerate() {
        let mut text = String::new();
        for service in first..known.min(first + PER_FILE) {
            objects(&mut text, service);
        }
        let path = dir.join(format!("{file:03}.yaml"));
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn objects(text: &mut String, service: u32) {
    let endpoints: Vec<_> = (0..ENDPOINTS)
        .map(|e| format!("{{addresses: [{}]}}", address(service, e)))
        .collect();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "---
apiVersion: v1
kind: Service
metadata: {{name: known-{service}, namespace: bench}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: known-{service}, namespace: bench, labels: {{kubernetes.io/service-name: known-{service}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{}]
",
        endpoints.join(", ")
    );
}

/// Envoy's clusters like `like`, which is one.
#[expect(
    clippy::indexing_slicing,
    reason = "fields are set in the object that is given"
)]
pub(super) fn envoy(like: &Value, known: u32) -> Vec<Value> {
    let one = |service| {
        let endpoint = |e| {
            let at = json!({"address": address(service, e).to_string(), "port_value": PORT});
            json!({"endpoint": {"address": {"socket_address": at}}})
        };
        let mut cluster = like.clone();
        let name = format!("known-{service}");
        let endpoints: Vec<_> = (0..ENDPOINTS).map(endpoint).collect();
        cluster["load_assignment"] =
            json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]});
        cluster["name"] = json!(name);
        cluster
    };
    (0..known).map(one).collect()
}

/// HAProxy's backends, each server reached by `tls`.
pub(super) fn haproxy(tls: &str, known: u32) -> String {
    let mut text = String::new();
    for service in 0..known {
        let _ = writeln!(text, "backend known-{service}");
        for e in 0..ENDPOINTS {
            let at = address(service, e);
            let _ = writeln!(text, "    server s{e} {at}:{PORT} {tls}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_are_asked_for_in_each_systems_words() {
        let dir = tempfile::tempdir().unwrap();
        manifests(dir.path(), 1_001).unwrap();
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(files.len(), 3);
        let count = |text: &str, what: &str| text.matches(what).count();
        let first = std::fs::read_to_string(dir.path().join("000.yaml")).unwrap();
        assert_eq!(count(&first, "kind: Service\n"), 500);
        let envoy = envoy(&json!({"name": "to", "type": "STATIC"}), 7);
        assert_eq!(
            (envoy.len(), &envoy[6]["name"], &envoy[6]["type"]),
            (7, &json!("known-6"), &json!("STATIC"))
        );
        assert_eq!(count(&haproxy("ssl", 7), "server "), 21);
        let last = address(9_999, 2);
        assert!(last.is_private(), "{last}");
    }
}
