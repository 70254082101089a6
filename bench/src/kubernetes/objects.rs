//! What is put into the API server: services, each with its share of the pods. The pods are as large as ones with an injected proxy are.

use serde_json::{Value, json};

/// Namespaces that services take in turn. Whoever makes a service's slices looks through all pods of its namespace: with all of them in one
/// that would be most of what the API server's controllers do.
const NAMESPACES: usize = 20;
/// Whether a stand-in kubelet says that a pod is ready: an annotation of its own.
pub(super) const READY: &str = "testenv/ready";
/// The port of each service.
const PORT: u16 = 80;
/// Nodes that stand-in kubelets are for.
const NODES: usize = 2;

/// All of them.
pub(super) fn namespaces() -> impl Iterator<Item = String> {
    (0..NAMESPACES).map(namespace_of)
}

/// Where the `n`th service is.
pub(super) fn namespace_of(service: usize) -> String {
    format!("bench-{}", service % NAMESPACES)
}

/// The service that the `n`th pod is of.
pub(super) fn service_of(pod: usize, services: usize) -> usize {
    pod % services.max(1)
}

pub(super) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub(super) fn service(n: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": format!("s{n}")},
        "spec": {
            "selector": {"app": format!("s{n}")},
            "ports": [{"name": "http", "port": PORT, "targetPort": 8080}],
        },
    })
}

/// The `n`th pod, of the services in turn, bound to a node already: schedulers are not measured.
pub(super) fn pod(n: usize, services: usize, cluster: &str) -> Value {
    let service = service_of(n, services);
    let resources = json!({
        "requests": {"cpu": "50m", "memory": "32Mi"},
        "limits": {"memory": "128Mi"},
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("s{service}-7d9c5b8f6-{n:05}"),
            "labels": {
                "app": format!("s{service}"),
                "version": "v1",
                "pod-template-hash": "7d9c5b8f6",
                "tradewind.io/proxy": "sidecar",
            },
            "annotations": {"tradewind.io/status": "{\"containers\":[\"tradewind-capture\",\"tradewind-proxy\"]}"},
        },
        "spec": {
            "nodeName": format!("{cluster}-node-{}", n % NODES + 1),
            "initContainers": [sidecar(&resources)],
            "containers": [{
                "name": "app",
                "image": "registry.example/shop/app:1.24.3",
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": (0..8).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value of setting {n}")})).collect::<Vec<_>>(),
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
                "resources": resources,
            }],
        },
    })
}

fn sidecar(resources: &Value) -> Value {
    json!({
        "name": "tradewind-proxy",
        "image": "registry.example/tradewind:1.0.0",
        "restartPolicy": "Always",
        "args": [
            "proxy", "--kubernetes", "--controller", "tradewind-controller.tradewind-system.svc:15012", "--roots",
            "/var/run/tradewind/roots", "--token-file", "/var/run/tradewind/token/token", "--capture", "redirect",
        ],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "SERVICE_ACCOUNT", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
        ],
        "ports": [{"name": "hbone", "containerPort": 15008}, {"name": "admin", "containerPort": 15020}],
        "startupProbe": {"httpGet": {"path": "/ready", "port": 15020}, "periodSeconds": 1, "failureThreshold": 60},
        "securityContext": {
            "runAsUser": 1337, "runAsNonRoot": true, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": resources,
    })
}

/// What makes a stand-in kubelet say that a pod is ready, or is not.
pub(super) fn readiness(ready: bool) -> Value {
    json!({"metadata": {"annotations": {READY: ready.to_string()}}})
}
