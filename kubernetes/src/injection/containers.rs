//! The containers and volumes that a pod gets, as JSON.

use serde_json::{Map, Value, json};

use super::{
    ADMIN_PORT, CAPTURE, HBONE_PORT, IDENTITY_VOLUME, PROXY, PROXY_USER, STATE_VOLUME,
    quantity::Quantity,
    settings::{Inbound, Settings, Tool},
    wishes::{Wishes, listed},
};

/// Where token and root are found.
const IDENTITY_DIR: &str = "/var/run/secrets/tradewind";
const TOKEN_FILE: &str = "token";
const ROOT_FILE: &str = "root/root.pem";
/// Where the last good snapshot is kept. The proxy makes a directory of its own in it.
const STATE_DIR: &str = "/var/lib/tradewind";
/// How long a token is good for, in seconds; the kubelet renews it before. Only the first certificate needs one.
const TOKEN_LIFETIME_S: u32 = 3600;
/// A snapshot of a large mesh has some MiB.
const STATE_SIZE: &str = "64Mi";
/// How long what is open may go on when the pod ends. The kubelet stops the proxy after the application: there is nobody left who
/// would answer or ask.
const DRAIN_DEADLINE: &str = "5s";
/// How often the kubelet asks whether the proxy is ready, in seconds: what comes next in the pod waits for it.
const STARTUP_PERIOD_S: u32 = 1;
/// How many times: ten minutes, since a proxy that is started anew while its controller is away is no readier.
const STARTUP_FAILURES: u32 = 600;

/// What sets the rules of the capture, and ends.
pub(super) fn capture(wishes: &Wishes, settings: &Settings) -> Value {
    let mut args = vec![
        "proxy".to_owned(),
        "capture".to_owned(),
        "--apply".to_owned(),
    ];
    args.extend(rules(wishes));
    args.push(format!("--capture-tool={}", settings.capture_tool.as_str()));
    let capabilities = match settings.capture_tool {
        Tool::Nft => json!(["NET_ADMIN"]),
        Tool::Iptables => json!(["NET_ADMIN", "NET_RAW"]),
    };
    json!({
        "name": CAPTURE,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": args,
        "resources": resources(wishes),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "add": capabilities, "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            // Capabilities that are added take effect for root alone, and the pod may have asked for another user for all.
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// The proxy, as a native sidecar: started before the pod's own containers, kept while they run, stopped after them.
pub(super) fn proxy(wishes: &Wishes, settings: &Settings) -> Value {
    json!({
        "name": PROXY,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": proxy_args(wishes, settings),
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
            field("POD_IP", "status.podIP"),
            // Kubernetes copies it from the node to the Pod, since 1.35; before, it is empty and no zone is near.
            field("TRADEWIND_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
        ],
        "ports": [
            { "name": "tw-hbone", "containerPort": HBONE_PORT, "protocol": "TCP" },
            { "name": "tw-admin", "containerPort": ADMIN_PORT, "protocol": "TCP" },
        ],
        "resources": resources(wishes),
        "restartPolicy": "Always",
        "startupProbe": {
            "httpGet": { "path": "/readyz", "port": ADMIN_PORT },
            "periodSeconds": STARTUP_PERIOD_S,
            "failureThreshold": STARTUP_FAILURES,
            "timeoutSeconds": 3,
        },
        "readinessProbe": {
            "httpGet": { "path": "/readyz", "port": ADMIN_PORT },
            "periodSeconds": 5,
            "failureThreshold": 3,
            "timeoutSeconds": 3,
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": PROXY_USER,
            "runAsNonRoot": true,
            "runAsUser": PROXY_USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": IDENTITY_VOLUME, "mountPath": IDENTITY_DIR, "readOnly": true },
            { "name": STATE_VOLUME, "mountPath": STATE_DIR },
        ],
    })
}

/// What both mount. The pod's fsGroup is left alone: the kubelet makes the token readable for every user of the pod, or for the
/// fsGroup where there is one, which all containers are in.
pub(super) fn volumes(settings: &Settings) -> Vec<Value> {
    vec![
        json!({
            "name": IDENTITY_VOLUME,
            "projected": {
                "sources": [
                    {
                        "serviceAccountToken": {
                            "audience": settings.audience,
                            "expirationSeconds": TOKEN_LIFETIME_S,
                            "path": TOKEN_FILE,
                        },
                    },
                    {
                        "configMap": {
                            "name": settings.root_config_map,
                            "items": [{ "key": "root.pem", "path": ROOT_FILE }],
                            "optional": false,
                        },
                    },
                ],
            },
        }),
        json!({ "name": STATE_VOLUME, "emptyDir": { "sizeLimit": STATE_SIZE } }),
    ]
}

fn proxy_args(wishes: &Wishes, settings: &Settings) -> Vec<String> {
    let mut args = vec![
        "proxy".to_owned(),
        "--kubernetes".to_owned(),
        "--name=$(POD_NAME)".to_owned(),
        "--identity=/ns/$(POD_NAMESPACE)/sa/$(POD_SERVICE_ACCOUNT)".to_owned(),
        format!("--controller={}", settings.controller),
        format!("--identity-token-file={IDENTITY_DIR}/{TOKEN_FILE}"),
        format!("--root-file={IDENTITY_DIR}/{ROOT_FILE}"),
        format!("--hbone-listen=0.0.0.0:{HBONE_PORT}"),
        format!("--advertise=$(POD_IP):{HBONE_PORT}"),
        // The kubelet asks from outside of the pod.
        format!("--admin-listen=0.0.0.0:{ADMIN_PORT}"),
        format!("--state-dir={STATE_DIR}/proxy"),
        format!("--drain-deadline={DRAIN_DEADLINE}"),
        format!("--log={}", settings.log),
        "--capture".to_owned(),
        "--capture-rules=external".to_owned(),
    ];
    args.extend(rules(wishes));
    args.extend(wishes.labels.iter().map(|l| format!("--label={l}")));
    if wishes.inbound != Inbound::Off {
        args.push(format!("--inbound={}", wishes.inbound.as_str()));
    }
    args
}

/// What capture and proxy must be told alike.
fn rules(wishes: &Wishes) -> Vec<String> {
    let caught = if wishes.inbound_ports.is_empty() {
        "none".to_owned()
    } else {
        listed(&wishes.inbound_ports)
    };
    let mut args = vec![
        format!("--capture-own=uid:{PROXY_USER}"),
        format!("--capture-inbound-ports={caught}"),
    ];
    if !wishes.exclude_ports.is_empty() {
        let ports = listed(&wishes.exclude_ports);
        args.push(format!("--capture-exclude-ports={ports}"));
    }
    if !wishes.exclude_cidrs.is_empty() {
        let cidrs = wishes.exclude_cidrs.join(",");
        args.push(format!("--capture-exclude-cidrs={cidrs}"));
    }
    args
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

fn resources(wishes: &Wishes) -> Value {
    let of = |cpu: &Option<Quantity>, memory: &Option<Quantity>| {
        let mut map = Map::new();
        for (key, amount) in [("cpu", cpu), ("memory", memory)] {
            if let Some(amount) = amount {
                map.insert(key.to_owned(), Value::String(amount.to_string()));
            }
        }
        map
    };
    let mut all = Map::new();
    for (key, map) in [
        ("requests", of(&wishes.cpu, &wishes.memory)),
        ("limits", of(&wishes.cpu_limit, &wishes.memory_limit)),
    ] {
        if !map.is_empty() {
            all.insert(key.to_owned(), Value::Object(map));
        }
    }
    Value::Object(all)
}
