//! What files may say, what they may not, and that nothing they say can end the process.

use proptest::prelude::*;

use super::*;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: payments, namespace: shop}\nspec:\n  ports:\n  - {name: http, port: 80}\n";
const EXPORT: &str = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: payments, namespace: shop}\n";

fn good(text: &str) -> Parsed {
    parse("f.yaml", text).unwrap()
}

#[test]
fn documents_know_their_lines() {
    let text = "# first\n---\na: 1\n--- # two\nb: 2\n\n---\n\n";
    let lines: Vec<_> = documents(text)
        .into_iter()
        .map(|(line, d)| (line, d.trim()))
        .collect();
    assert_eq!(lines, [(1, "# first"), (3, "a: 1"), (5, "b: 2")]);
}

#[test]
fn the_three_kinds_are_understood() {
    let parsed = good(&format!(
        "{SERVICE}---\n{EXPORT}---\napiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: Service, metadata: {{name: x}}, spec: {{ports: [{{port: 1}}]}}}}\n"
    ));
    assert_eq!(parsed.objects.len(), 3);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    let model = assemble([&parsed]);
    assert_eq!(model.services.len(), 2);
    assert_eq!(model.exports.len(), 1);
    let payments = &model.services[&"shop/payments".parse().unwrap()];
    assert_eq!(payments.ports[0].app_protocol, AppProtocol::Http1);
    assert!(model.services.contains_key(&"default/x".parse().unwrap()));
}

/// Where the findings of a text are.
fn places(text: &str) -> Vec<String> {
    let model = assemble([&good(text)]);
    let found = tradewind_policy::compile(&model.policy, &tradewind_policy::World::default());
    found.findings.into_iter().map(|f| f.place).collect()
}

#[test]
fn findings_are_on_the_lines_of_their_fields_in_whichever_document() {
    const SPLIT: &str = "# a split\napiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata: {name: a, namespace: shop}\nspec:\n  service: cart\n  backends:\n  - {service: cart, weight: 1}\n  - service: pay\n    wait: 3\n    weight: 1\n";
    // `spec.service`, both backends, and a field that there is not.
    let alone = places(SPLIT);
    assert_eq!(alone, ["f.yaml:6", "f.yaml:10"]);
    let second = places(&format!("{SERVICE}---\n{SPLIT}"));
    assert_eq!(second, ["f.yaml:13", "f.yaml:17"]);
    let crlf = format!("{SERVICE}---\n{SPLIT}").replace('\n', "\r\n");
    assert_eq!(places(&crlf), second);
    let indented = SPLIT.replace('\n', "\n  ");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n-\n  {indented}");
    assert_eq!(places(&list), ["f.yaml:10", "f.yaml:14"]);
    assert_eq!(assemble([&good(&list)]).policy[0].place, "f.yaml:6");
}

#[test]
fn what_is_not_supported_is_named_by_path() {
    for (text, expected) in [
        (
            format!("{SERVICE}  sessionAffinity: ClientIP\n"),
            vec!["spec.sessionAffinity (\"ClientIP\")"],
        ),
        (
            format!("{SERVICE}  sessionAffinity: None\n  selector: {{app: x}}\n"),
            vec![],
        ),
        (
            SERVICE.replace("port: 80", "port: 80, protocol: UDP"),
            vec!["spec.ports[0].protocol (\"UDP\")"],
        ),
        (
            SERVICE.replace("port: 80", "port: 80, fast: true"),
            vec!["spec.ports[0].fast (true)"],
        ),
        (
            SERVICE.replace("port: 80", "port: 80, appProtocol: carrier-pigeon"),
            vec!["spec.ports[0].appProtocol"],
        ),
        (
            SERVICE.replace(
                "metadata: {",
                "metadata: {annotations: {tradewind.io/new: x, other/y: z}, ",
            ),
            vec!["metadata.annotations[tradewind.io/new]"],
        ),
        (
            format!("{EXPORT}spec: {{exportedLabels: {{a: b}}}}\n"),
            vec!["spec.exportedLabels"],
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\n".into(),
            vec!["kind Deployment of apps/v1"],
        ),
        (
            format!("{SERVICE}  type: ExternalName\n  externalName: a.b\n"),
            vec!["spec.externalName", "spec.type"],
        ),
    ] {
        let parsed = good(&text);
        assert_eq!(
            parsed.problems.len(),
            expected.len(),
            "{text}: {:?}",
            parsed.problems
        );
        for (problem, expected) in parsed.problems.iter().zip(expected) {
            assert_eq!(problem.place, "f.yaml:1");
            assert!(problem.text.contains(expected), "{problem} / {expected}");
            assert!(problem.text.contains("not supported"), "{problem}");
        }
    }
}

#[test]
fn broken_files_say_where() {
    for (text, place, expected) in [
        (format!("{SERVICE}---\na: [\n"), "f.yaml:", "broken YAML"),
        (
            format!("{SERVICE}---\nkind: x\n"),
            "f.yaml:8",
            "apiVersion and kind are expected",
        ),
        ("- 1\n".into(), "f.yaml:1", "not a Kubernetes object"),
        (
            SERVICE.replace("port: 80", "port: 0"),
            "f.yaml:1",
            "spec.ports[0].port",
        ),
        (
            SERVICE.replace("port: 80", "port: 99999"),
            "f.yaml:1",
            "Service",
        ),
        (
            SERVICE.replace("name: payments", "name: Pay_ments"),
            "f.yaml:1",
            "Pay_ments",
        ),
        (
            SERVICE.replace("metadata: {name: payments, namespace: shop}\n", ""),
            "f.yaml:1",
            "metadata",
        ),
    ] {
        let problem = parse("f.yaml", &text).unwrap_err();
        assert!(problem.place.starts_with(place), "{problem}");
        assert!(problem.text.contains(expected), "{problem} / {expected}");
        assert!(!problem.text.contains('\n'), "{problem}");
    }
}

#[test]
fn slices_join_their_service_by_port_name() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: payments}}\naddressType: IPv4\nports: [{name: PORT, port: 8080}]\nendpoints: [{addresses: [10.0.0.1], hostname: pay-0, conditions: {terminating: true}}]\n";
    for (port, ports) in [("http", vec![80]), ("grpc", vec![])] {
        let model = assemble([&good(&format!("{SERVICE}{}", slice.replace("PORT", port)))]);
        let endpoint = &model.services.values().next().unwrap().endpoints[0];
        assert_eq!(endpoint.ports, ports);
        let targets: Vec<_> = ports.iter().map(|p| (*p, 8080)).collect();
        assert_eq!(endpoint.targets, targets.into_iter().collect());
        assert_eq!(
            (endpoint.address.as_str(), endpoint.health),
            ("10.0.0.1:15008", Health::Draining)
        );
        assert_eq!(endpoint.hostname.as_deref(), Some("pay-0"));
    }
    let orphan = assemble([&good(slice.trim_start_matches("---\n"))]);
    assert!(orphan.problems[0].text.contains("which no file defines"));
    let twice = assemble([&good(SERVICE), &good(SERVICE)]);
    assert!(
        twice.problems[0].text.contains("defined already"),
        "{:?}",
        twice.problems
    );
}

#[test]
fn a_service_has_the_addresses_that_its_cluster_gave_it() {
    for (spec, expected) in [
        ("clusterIP: None, clusterIPs: [None]", [].as_slice()),
        ("clusterIP: ''", &[]),
        ("clusterIP: 10.96.0.7", &["10.96.0.7"]),
        (
            "clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7, 'fd00::7']",
            &["10.96.0.7", "fd00::7"],
        ),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: shop}}\nspec: {{{spec}, ports: [{{port: 80}}]}}\n"
        );
        let model = assemble([&good(&text)]);
        let service = model.services.values().next().unwrap();
        let ips: Vec<_> = service
            .cluster_ips
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(ips, expected, "{spec}");
    }
    let wrong = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {clusterIP: web, ports: [{port: 80}]}\n";
    let problem = parse("f", wrong).unwrap_err();
    assert!(problem.text.contains("clusterIPs: \"web\""), "{problem:?}");
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text in "(apiVersion: v1\nkind: (Service|List|ServiceExport)\n)?[ -~\n]{0,200}") {
        if let Ok(parsed) = parse("f", &text) {
            assemble([&parsed]);
        }
    }

    #[test]
    fn any_value_in_any_field_is_taken_or_refused(value in "[\\[\\]{}:,a-z0-9\"'&*!|>-]{0,12}") {
        for field in ["spec", "metadata", "items", "addressType", "endpoints", "ports"] {
            let text = format!("{SERVICE}---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n{field}: {value}\n");
            if let Ok(parsed) = parse("f", &text) {
                assemble([&parsed]);
            }
        }
    }
}
