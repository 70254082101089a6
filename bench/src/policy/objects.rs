//! The services and the objects with rules that are measured with, as objects and as files. Pure but for writing them.

use std::{fmt::Write as _, path::Path};

use serde_json::{Value, json};
use tradewind_api::ServiceName;
use tradewind_policy::Object;

/// Services, or objects, of one file: well below the size that a controller reads.
const PER_FILE: usize = 100;
/// The service whose rule changes.
pub(super) const CHANGING: &str = "bench/changing";

/// The `n`th service.
pub(super) fn service(n: usize) -> Result<ServiceName, String> {
    format!("bench/s{n}").parse().map_err(|e| format!("{e}"))
}

/// The `n`th object, for the `n`th service: an HTTPRoute, a VirtualService and a DestinationRule in turn.
fn value(n: usize, services: usize) -> Value {
    let (own, other) = (n % services.max(1), (n + 1) % services.max(1));
    let metadata = json!({"name": format!("r{n}"), "namespace": "bench"});
    match n % 3 {
        0 => json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": metadata,
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": format!("s{own}")}],
                "rules": [
                    {
                        "matches": [
                            {"path": {"type": "PathPrefix", "value": "/api/v2"}},
                            {"headers": [{"name": "x-canary", "value": "yes"}]},
                        ],
                        "backendRefs": [
                            {"name": format!("s{own}"), "port": 80, "weight": 90},
                            {"name": format!("s{other}"), "port": 80, "weight": 10},
                        ],
                        "timeouts": {"request": "5s"},
                    },
                    {"backendRefs": [{"name": format!("s{own}"), "port": 80}]},
                ],
            },
        }),
        1 => json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": metadata,
            "spec": {
                "hosts": [format!("s{own}")],
                "http": [
                    {
                        "match": [{"uri": {"prefix": "/api/v2"}}, {"headers": {"x-canary": {"exact": "yes"}}}],
                        "route": [
                            {"destination": {"host": format!("s{own}")}, "weight": 90},
                            {"destination": {"host": format!("s{other}")}, "weight": 10},
                        ],
                        "timeout": "5s",
                        "retries": {"attempts": 2, "perTryTimeout": "1s", "retryOn": "gateway-error"},
                    },
                    {"route": [{"destination": {"host": format!("s{own}")}}]},
                ],
            },
        }),
        _ => json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": metadata,
            "spec": {
                "host": format!("s{own}"),
                "trafficPolicy": {
                    "connectionPool": {"http": {"http2MaxRequests": 1000}},
                    "outlierDetection": {"consecutive5xxErrors": 5},
                },
                "subsets": [
                    {"name": "v1", "labels": {"version": "v1"}},
                    {"name": "v2", "labels": {"version": "v2"}},
                ],
            },
        }),
    }
}

/// The same, read.
pub(super) fn policy(n: usize, services: usize) -> Result<Object, String> {
    Object::new(&format!("r{n}.yaml:1"), value(n, services))
}

/// Services without endpoints: nobody calls them. One changing service beside them.
pub(super) fn write_services(dir: &Path, services: usize) -> Result<(), String> {
    write(dir, "services", services, |n| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: bench}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
        )
    })?;
    let changing = "apiVersion: v1\nkind: Service\nmetadata: {name: changing, namespace: bench}\nspec: {ports: [{name: http, port: 80}]}\n";
    put(&dir.join("changing-service.yaml"), changing)
}

/// The objects with rules.
pub(super) fn write_policies(dir: &Path, routes: usize, services: usize) -> Result<(), String> {
    write(dir, "rules", routes, |n| {
        format!("{}\n", value(n, services))
    })
}

/// The rule that changes: every request is answered with its version.
pub(super) fn write_changing(dir: &Path, version: usize) -> Result<(), String> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: changing, namespace: bench}}\nspec:\n  hosts: [changing]\n  http: [{{directResponse: {{status: 200, body: {{string: 'version {version}.'}}}}}}]\n"
    );
    put(&dir.join("changing.yaml"), &text)
}

fn write(
    dir: &Path,
    name: &str,
    count: usize,
    one: impl Fn(usize) -> String,
) -> Result<(), String> {
    for (file, first) in (0..count).step_by(PER_FILE).enumerate() {
        let mut text = String::new();
        for n in first..count.min(first + PER_FILE) {
            // Writing to a string cannot fail.
            let _ = write!(text, "---\n{}", one(n));
        }
        put(&dir.join(format!("{name}-{file:04}.yaml")), &text)?;
    }
    Ok(())
}

/// As editors and tools do: whole or not at all.
fn put(path: &Path, text: &str) -> Result<(), String> {
    let new = path.with_extension("new");
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    std::fs::write(&new, text).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use tradewind_policy::{World, compile};

    use super::*;

    #[test]
    fn all_objects_have_rules_and_nothing_is_wrong_with_them() {
        let names: Vec<_> = (0..30).map(|n| service(n).unwrap()).collect();
        let ports: &[u16] = &[80];
        let world = World::of(names.iter().map(|n| (n, ports)));
        let objects: Vec<_> = (0..30).map(|n| policy(n, 30).unwrap()).collect();
        let policy = compile(&objects, &world);
        assert!(policy.findings.is_empty(), "{:?}", policy.findings);
        assert_eq!(policy.routes.len(), 30);
    }
}
