//! A catalog and a view in, objects out.

use std::sync::Arc;

use tradewind_api::{
    mcs::{ExportSpec, Protocol},
    store::{Blob, Command, Export, Stamped},
};
use tradewind_kubernetes::objects::{self, Namespace, Service, SliceEndpoint, SlicePort};

use super::*;
use crate::{local::tests::own, publish::tests::record};

fn name() -> ServiceName {
    "shop/hello".parse().unwrap()
}

fn catalog(spec: ExportSpec, kind: ServiceKind) -> Catalog {
    let mut catalog = Catalog::default();
    let export = Export {
        service: name(),
        created_at_ms: 1,
        kind,
        ports: vec![],
        endpoints: [].into(),
        rules: None,
        spec: Some(Arc::new(spec)),
    };
    let found = Command::Found {
        domain: own().domain,
        root: Blob(vec![1]),
        cluster: record("west", "west"),
    };
    for command in [found, Command::PutExport(export)] {
        let stamped = Stamped {
            proposer: own().cluster,
            at_ms: 1,
            command,
            actor: None,
        };
        catalog.apply(catalog.revision + 1, &stamped);
    }
    assert_eq!(catalog.exports.len(), 1);
    catalog
}

fn spec() -> ExportSpec {
    ExportSpec {
        ports: vec![SpecPort {
            name: "udp".into(),
            protocol: Protocol::Udp,
            app_protocol: None,
            port: 42,
        }],
        client_ip_affinity_s: Some(10),
        internal_traffic_policy: Some("Cluster".into()),
        traffic_distribution: Some("PreferClose".into()),
        ip_families: vec![IpFamily::V6, IpFamily::V4],
        labels: [("dummy-label".to_owned(), "true".to_owned())].into(),
        annotations: [("dummy-annotation".to_owned(), "true".to_owned())].into(),
    }
}

fn view(namespaces: &[(&str, bool)]) -> View {
    let slice = Slice {
        service: Key::new("shop", "hello"),
        ports: vec![SlicePort {
            name: "tcp".into(),
            port: 8080,
        }],
        endpoints: vec![SliceEndpoint {
            ip: "10.0.0.1".parse().unwrap(),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            zone: Some("a".into()),
            pod: None,
        }],
    };
    let exported = Exported {
        export: Arc::new(objects::Export::default()),
        service: Some(Arc::new(Service::default())),
        slices: [(Key::new("shop", "hello-x"), Arc::new(slice))].into(),
    };
    View {
        read: true,
        exported: [(name(), exported)].into(),
        namespaces: namespaces
            .iter()
            .map(|(name, terminating)| {
                let namespace = Namespace {
                    terminating: *terminating,
                    ..Namespace::default()
                };
                ((*name).to_owned(), Arc::new(namespace))
            })
            .collect(),
        ..View::default()
    }
}

fn run(catalog: &Catalog, view: &View) -> Desired {
    let own = own();
    let trust = Trust {
        domain: own.domain.clone(),
        roots: [vec![7; 100]].into(),
        authorities: [].into(),
    };
    desired(&Input {
        own: &own,
        view,
        catalog,
        trust: &trust,
        troubles: &[],
        now: "now",
    })
}

fn of(desired: &Desired, resource: Resource) -> Vec<&Body> {
    desired
        .bodies
        .iter()
        .filter(|b| b.resource == resource)
        .collect()
}

#[test]
fn an_import_says_all_that_the_export_passes_on() {
    let catalog = catalog(spec(), ServiceKind::ClusterSetIp);
    let desired = run(&catalog, &view(&[("shop", false)]));
    let [import] = of(&desired, Resource::Import)[..] else {
        panic!("{desired:?}");
    };
    assert_eq!(import.key, Key::new("shop", "hello"));
    let spec = &import.object["spec"];
    assert_eq!(spec["type"], "ClusterSetIP");
    assert_eq!(
        spec["ports"],
        json!([{"name": "udp", "port": 42, "protocol": "UDP"}])
    );
    assert_eq!(spec["sessionAffinity"], "ClientIP");
    assert_eq!(
        spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        10
    );
    assert_eq!(spec["internalTrafficPolicy"], "Cluster");
    assert_eq!(spec["trafficDistribution"], "PreferClose");
    assert_eq!(spec["ipFamilies"], json!(["IPv6", "IPv4"]));
    let ips = spec["ips"].as_array().unwrap();
    assert_eq!(ips.len(), 2, "as many as families: {ips:?}");
    assert!(ips[0].as_str().unwrap().contains(':') && ips[1].as_str().unwrap().contains('.'));
    assert_eq!(import.object["metadata"]["labels"]["dummy-label"], "true");
    assert_eq!(
        import.object["metadata"]["annotations"]["dummy-annotation"],
        "true"
    );
    let status = import.status.as_ref().unwrap();
    assert_eq!(status["clusters"], json!([{"cluster": "west"}]));
    assert_eq!(status["conditions"][0]["status"], "True");
}

#[test]
fn a_headless_import_has_no_address() {
    let catalog = catalog(spec(), ServiceKind::Headless);
    let desired = run(&catalog, &view(&[("shop", false)]));
    let import = of(&desired, Resource::Import)[0];
    assert_eq!(import.object["spec"]["type"], "Headless");
    assert_eq!(import.object["spec"].get("ips"), None);
}

#[test]
fn imports_go_where_their_namespace_is_and_roots_where_pods_may_be() {
    let catalog = catalog(spec(), ServiceKind::ClusterSetIp);
    let without = run(&catalog, &view(&[("other", false), ("kube-system", false)]));
    assert_eq!(of(&without, Resource::Import).len(), 0);
    let roots = of(&without, Resource::ConfigMap);
    assert_eq!(roots.len(), 1);
    assert_eq!(roots[0].key, Key::new("other", ROOTS));
    let pem = roots[0].object["data"][ROOTS_KEY].as_str().unwrap();
    assert!(
        pem.starts_with("-----BEGIN CERTIFICATE-----\nBwcH") && pem.lines().all(|l| l.len() <= 64)
    );
    let ending = run(&catalog, &view(&[("shop", true)]));
    assert_eq!(
        of(&ending, Resource::Import).len(),
        0,
        "nothing may be put into it"
    );
}

#[test]
fn own_endpoints_are_slices_of_the_import_by_the_labels_of_the_api() {
    let catalog = catalog(spec(), ServiceKind::ClusterSetIp);
    let desired = run(&catalog, &view(&[("shop", false)]));
    let [slice] = of(&desired, Resource::Slice)[..] else {
        panic!("{desired:?}");
    };
    assert_eq!(slice.key, Key::new("shop", "west-hello-x"));
    let labels = &slice.object["metadata"]["labels"];
    assert_eq!(labels["multicluster.kubernetes.io/service-name"], "hello");
    assert_eq!(labels["multicluster.kubernetes.io/source-cluster"], "west");
    assert_ne!(
        labels["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(slice.object["addressType"], "IPv4");
    assert_eq!(
        slice.object["endpoints"][0]["addresses"],
        json!(["10.0.0.1"])
    );
    assert_eq!(desired.conditions[&name()].len(), 3);
}

#[test]
fn properties_stand_while_the_cluster_is_a_member() {
    let mut catalog = catalog(spec(), ServiceKind::ClusterSetIp);
    let values = |d: &Desired| {
        let of = of(d, Resource::ClusterProperty);
        of.iter()
            .map(|b| b.object["spec"]["value"].clone())
            .collect::<Vec<_>>()
    };
    let view = view(&[("shop", false)]);
    assert_eq!(values(&run(&catalog, &view)), ["west", "mesh.internal"]);
    catalog.clusters = Catalog::default().clusters;
    assert_eq!(values(&run(&catalog, &view)), Vec::<Value>::new());
}

#[test]
fn names_of_slices_are_unique_and_not_too_long() {
    assert_eq!(slice_name("hello-abc12", "west"), "west-hello-abc12");
    let long = slice_name(&"x".repeat(253), "west");
    assert_eq!(long.len(), 253);
}
