//! Objects as real API servers write them.

use super::*;
use serde_json::json;

fn read<K: Wire + serde::de::DeserializeOwned>(value: Value) -> Option<Object> {
    serde_json::from_value::<K>(value).unwrap().object()
}

#[test]
fn services_of_every_type() {
    let service = |spec: Value| {
        let value = json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": spec});
        match read::<WireService>(value) {
            Some(Object::Service(service)) => service,
            other => panic!("{other:?}"),
        }
    };
    let full = service(json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
        "ipFamilies": ["IPv4", "IPv6"], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
        "internalTrafficPolicy": "Cluster", "trafficDistribution": "PreferClose",
        "ports": [
            {"name": "tcp", "port": 42, "protocol": "TCP", "targetPort": "http", "appProtocol": "http"},
            {"name": "udp", "port": 42, "protocol": "UDP", "nodePort": 30000},
            {"name": "sctp", "port": 142, "protocol": "SCTP"},
        ],
    }));
    assert_eq!(full.kind, Type::ClusterIp);
    assert_eq!(full.cluster_ips.len(), 2);
    assert_eq!(full.ip_families, [IpFamily::V4, IpFamily::V6]);
    assert_eq!(full.client_ip_affinity_s, Some(10));
    assert_eq!(full.internal_traffic_policy.as_deref(), Some("Cluster"));
    assert_eq!(full.traffic_distribution.as_deref(), Some("PreferClose"));
    let protocols: Vec<_> = full.ports.iter().map(|p| p.protocol).collect();
    assert_eq!(protocols, [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    assert_eq!(full.ports[0].app_protocol.as_deref(), Some("http"));

    let headless =
        service(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}));
    assert_eq!(
        (headless.kind, headless.cluster_ips.len()),
        (Type::Headless, 0)
    );
    assert_eq!(headless.ports[0].name, "");
    let name = service(json!({"type": "ExternalName", "externalName": "example.com"}));
    assert_eq!(name.kind, Type::ExternalName);
    assert_eq!(
        service(json!({"sessionAffinity": "ClientIP"})).client_ip_affinity_s,
        Some(10_800)
    );
}

#[test]
fn slices_say_who_serves_what() {
    let slice = |value: Value| read::<WireSlice>(value);
    let whole = json!({
        "metadata": {"name": "a-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "a"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "any"}],
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false}, "zone": "a", "nodeName": "n",
             "targetRef": {"kind": "Pod", "name": "a-0", "namespace": "shop", "uid": "u"}, "hostname": "a-0"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Node", "name": "n"}},
            {"addresses": []},
        ],
    });
    let Some(Object::Slice(read)) = slice(whole.clone()) else {
        panic!("a slice");
    };
    assert_eq!(read.service, Key::new("shop", "a"));
    assert_eq!(
        read.ports,
        [SlicePort {
            name: "http".into(),
            port: 8080
        }],
        "TCP with a number"
    );
    assert_eq!(read.endpoints.len(), 3);
    let (first, second, third) = (&read.endpoints[0], &read.endpoints[1], &read.endpoints[2]);
    assert_eq!(
        (first.pod.as_deref(), first.zone.as_deref()),
        (Some("a-0"), Some("a"))
    );
    assert_eq!(first.hostname.as_deref(), Some("a-0"));
    assert_eq!(
        (second.ready, second.serving, second.terminating),
        (false, true, true)
    );
    assert_eq!(
        (third.ready, third.serving, &third.pod),
        (true, true, &None)
    );

    let mut other = whole.clone();
    other["addressType"] = json!("FQDN");
    assert_eq!(slice(other), None);
    let mut nobody = whole;
    nobody["metadata"]["labels"] = json!({});
    assert_eq!(slice(nobody), None);
}

#[test]
fn exports_say_when_they_were_made_and_what_they_pass_on() {
    let mut value = json!({
        "metadata": {"name": "a", "namespace": "shop", "uid": "u", "generation": 2, "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"exportedLabels": {"a": "b"}, "exportedAnnotations": {"c": "d"}},
        "status": {"conditions": [{"type": "Valid", "status": "True", "reason": "Valid", "message": "", "lastTransitionTime": "2026-01-02T03:04:06Z"}]},
    });
    let Some(Object::Export(export)) = read::<WireExport>(value.clone()) else {
        panic!("an export");
    };
    assert_eq!(export.created_at_ms, 1_767_323_045_000);
    assert_eq!((export.uid.as_str(), export.generation), ("u", 2));
    assert_eq!(export.labels["a"], "b");
    assert_eq!(export.annotations["c"], "d");
    assert_eq!(export.conditions[0].kind, "Valid");
    value["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:07Z");
    assert_eq!(read::<WireExport>(value), None, "on its way out");
}

#[test]
fn a_rule_is_what_somebody_wrote() {
    let made = rule(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "shop", "generation": 4, "resourceVersion": "7", "uid": "u", "managedFields": [{}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "x": "y"}},
        "spec": {"rules": []}, "status": {"parents": [{"controllerName": "a"}]},
    }));
    assert_eq!(made.parents, [json!({"controllerName": "a"})]);
    let text = made.object.to_string();
    for gone in [
        "managedFields",
        "resourceVersion",
        "last-applied",
        "status",
        "uid",
    ] {
        assert!(!text.contains(gone), "{gone} in {text}");
    }
    assert!(text.contains("\"generation\":4"));
    assert!(text.contains("\"x\":\"y\"") && text.contains("rules"));
}

#[test]
fn a_pod_is_its_account_and_its_labels() {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "shop", "labels": {"app": "a"}},
        "spec": {"serviceAccountName": "web", "containers": [{"name": "c"}]},
        "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "phase": "Running"},
    });
    let Some(Object::Pod(pod)) = read::<WirePod>(pod) else {
        panic!("a pod");
    };
    assert_eq!((pod.account.as_str(), pod.ips.len()), ("web", 2));
    assert_eq!(pod.labels["app"], "a");
    let bare = read::<WirePod>(json!({"metadata": {"name": "p", "namespace": "shop"}}));
    assert!(matches!(bare, Some(Object::Pod(p)) if p.account == "default"));
}
