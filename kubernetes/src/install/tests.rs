//! The chart, rendered. That Helm renders the same is held by `tests/tests/helm_chart.rs`.

use std::collections::BTreeMap;

use super::*;

/// Settings that take each branch of the chart one way or the other.
const CASES: [&str; 4] = [
    "cluster: {name: west, region: us-west, gateways: '127.1.0.1:15443'}\n",
    "cluster: {name: east, region: us-east, network: flat, gateways: 'a.example:15443,b.example:15443', found: false, domain: corp.example}\n\
     image: {repository: registry.example/tradewind, tag: '1.2', pullPolicy: Always}\n\
     controller: {storage: {className: fast, size: 9Gi}, log: debug}\n\
     gateway: {replicas: 5, service: {type: NodePort, nodePort: 31443, annotations: {a.example/b: 'c'}}}\n\
     dns: {clusterIP: 10.21.0.53}\n\
     injection: {istioLabel: true, failurePolicy: Ignore, inbound: strict, captureTool: iptables, resources: {cpuLimit: 200m}}\n\
     networkPolicy: {enabled: true}\n",
    "cluster: {name: north, region: eu, gateways: 'g:1'}\ninjection: {enabled: false}\ndns: {enabled: false}\n",
    "cluster: {name: north, region: eu, gateways: 'g:1'}\ndns: {enabled: false}\nnetworkPolicy: {enabled: true}\n\
     gateway: {resources: {requests: {cpu: '2'}}}\n",
];

fn values(yaml: &str) -> Values {
    let mut values = Values::default();
    values.merge(yaml).unwrap();
    values
}

fn by_id(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let text = |object: &Value, path: &str| {
        let found = object.pointer(path).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let mut all = BTreeMap::new();
    for object in objects {
        let id = format!(
            "{}/{}",
            text(&object, "/kind"),
            text(&object, "/metadata/name")
        );
        assert!(all.insert(id.clone(), object).is_none(), "{id} twice");
    }
    all
}

fn rendered(yaml: &str) -> BTreeMap<String, Value> {
    let all = render(&values(yaml), NAMESPACE).unwrap();
    by_id(all.into_iter().map(|manifest| manifest.object))
}

#[test]
fn what_has_no_default_is_asked_for() {
    let error = render(&Values::default(), NAMESPACE).unwrap_err();
    assert_eq!(error.to_string(), "set cluster.name");
    let error = render(&values("cluster: {name: w, region: r}"), NAMESPACE).unwrap_err();
    assert!(error.to_string().contains("cluster.gateways"), "{error}");
}

#[test]
fn values_that_nobody_knows_are_refused() {
    let mut values = Values::default();
    for (assignment, word) in [
        ("cluster.nam=west", "cluster.nam"),
        ("gateway.replicas=two", "whole number"),
        ("gateway.replicas=-1", "whole number"),
        ("controller.replicas=0", "1"),
        ("controller.replicas=4", "3"),
        ("dns.enabled=yes", "true or false"),
        ("cluster", "KEY=VALUE"),
        ("=x", "KEY=VALUE"),
        ("a..b=x", "KEY=VALUE"),
        ("gateway=1", "a map"),
    ] {
        let error = values.set(assignment).unwrap_err().to_string();
        assert!(error.contains(word), "{assignment}: {error}");
    }
    assert!(values.merge("[1]").is_err());
    assert!(values.merge("colour: red").is_err());
    assert_eq!(values, Values::default());
    values.set("image.tag=1").unwrap();
    assert_eq!(values.text("image.tag"), Some("1"));
    values.set("gateway.resources.limits.cpu=2").unwrap();
    values.merge("").unwrap();
    // What is a text by the schema stays one where there is no default, too.
    values.set("injection.resources.cpuLimit=2").unwrap();
    assert_eq!(values.text("injection.resources.cpuLimit"), Some("2"));
    values.set("gateway.service.annotations.a=true").unwrap();
    assert_eq!(values.text("gateway.service.annotations.a"), Some("true"));
}

#[test]
fn settings_that_the_controller_would_refuse_are_refused() {
    let base = CASES[0];
    for bad in [
        "inbound: loose",
        "captureTool: ebpf",
        "resources: {gpu: '1'}",
    ] {
        let all = Values::default().merge(&format!("{base}injection: {{{bad}}}\n"));
        let error = all.unwrap_err().to_string();
        assert!(error.contains("injection."), "{bad}: {error}");
    }
    let values = values(&format!("{base}injection: {{resources: {{cpu: lots}}}}\n"));
    let error = render(&values, NAMESPACE).unwrap_err();
    assert!(matches!(error, RenderError::Injection(_)), "{error}");
}

#[test]
fn everything_is_labelled_placed_and_hardened() {
    let cluster_wide = [
        "Namespace",
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "MutatingWebhookConfiguration",
    ];
    for (id, object) in CASES.iter().flat_map(|yaml| rendered(yaml)) {
        let label = object["metadata"]["labels"][PART_OF.0].as_str();
        assert_eq!(label, Some(PART_OF.1), "{id}");
        let kind = object["kind"].as_str().unwrap();
        let namespace = object["metadata"].get("namespace").and_then(Value::as_str);
        assert_eq!(namespace.is_none(), cluster_wide.contains(&kind), "{id}");
        let Some(pod) = object.pointer("/spec/template/spec") else {
            continue;
        };
        // What the Pod Security Standard `restricted` asks for.
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{id}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{id}"
        );
        let containers = pod["containers"]
            .as_array()
            .into_iter()
            .chain(pod["initContainers"].as_array());
        for container in containers.flatten() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{id}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{id}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{id}");
            assert!(
                container["resources"]["requests"]["cpu"].is_string(),
                "{id}"
            );
        }
    }
}

/// Least rights: no wildcard, nothing about secrets, and of what may be changed only what is the controller's.
#[test]
fn the_controller_may_do_what_it_needs_and_no_more() {
    let all = rendered(CASES[0]);
    let rules = all["ClusterRole/tradewind-controller"]["rules"]
        .as_array()
        .unwrap();
    for rule in rules {
        let text = rule.to_string();
        assert!(!text.contains('*') && !text.contains("secrets"), "{text}");
    }
    let text = TEMPLATES[0].1;
    let bare: Vec<&str> = text
        .lines()
        .zip(text.lines().skip(1))
        .filter(|(_, line)| line.trim_start().starts_with("- apiGroups"))
        .filter(|(before, _)| !before.trim_start().starts_with('#'))
        .map(|(_, line)| line)
        .collect();
    // Two rules share the reason of the rule before them: status beside object, and named beside unnamed.
    assert_eq!(bare.len(), 3, "{bare:?}");
    assert_eq!(
        rendered(CASES[2])
            .keys()
            .filter(|id| id.contains("dns") || id.contains("injection"))
            .count(),
        0
    );
}

#[test]
fn both_versions_of_the_mcs_api_are_served_and_one_is_stored() {
    let all = rendered(CASES[0]);
    for kind in ["serviceexports", "serviceimports"] {
        let crd = &all[&format!("CustomResourceDefinition/{kind}.multicluster.x-k8s.io")];
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let told: Vec<(&str, bool, bool)> = versions
            .iter()
            .map(|v| {
                (
                    v["name"].as_str().unwrap(),
                    v["served"] == true,
                    v["storage"] == true,
                )
            })
            .collect();
        assert_eq!(told, [("v1alpha1", true, false), ("v1beta1", true, true)]);
        assert_eq!(versions[0]["schema"], versions[1]["schema"]);
        assert_eq!(crd["spec"]["conversion"]["strategy"], "None");
    }
}

#[test]
fn the_printed_text_is_what_is_applied() {
    let all = render(&values(CASES[1]), NAMESPACE).unwrap();
    let again = documents("text", &to_text(&all)).unwrap();
    assert_eq!(again.len(), all.len());
    for (again, first) in again.iter().zip(&all) {
        assert_eq!(again.object, first.object);
    }
    assert!(
        to_text(&all).contains("# Whose a service-account token is"),
        "reasons are printed, too"
    );
}
