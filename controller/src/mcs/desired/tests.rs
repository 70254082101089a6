//! A catalog and a view in, objects out.

use std::sync::Arc;

use tradewind_api::{
    ClusterName, EndpointId, Region, Zone,
    mcs::{ExportSpec, Protocol},
    model::{self, AppProtocol, Endpoint, Health, ServicePort, Targets},
    store::{Blob, Command, Export, Stamped},
};
use tradewind_kubernetes::objects::{self, Namespace, Service, Slice, SliceEndpoint, SlicePort};

use super::*;
use crate::{local::tests::own, publish::tests::record, source::kubernetes::Exported};

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
    run_with(catalog, view, &SharedMap::default())
}

fn run_with(
    catalog: &Catalog,
    view: &View,
    services: &SharedMap<ServiceName, Arc<model::Service>>,
) -> Desired {
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
        services,
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

/// What a catalog with an export of east's alone comes to, whose endpoints are so.
fn from_east(kind: ServiceKind, endpoints: Vec<Endpoint>) -> Desired {
    let mut catalog = catalog(spec(), kind);
    let west = catalog.export(&name(), &own().cluster).unwrap();
    let mut export = Export::clone(west);
    export.ports = vec![ServicePort {
        name: "tcp".into(),
        port: 42,
        app_protocol: AppProtocol::Tcp,
    }];
    let east = ClusterName::new("east").unwrap();
    catalog.exports.remove(&name());
    catalog
        .exports
        .insert(name(), Arc::new([(east, Arc::new(export))].into()));
    let service = model::Service {
        name: name(),
        kind,
        clusterset_ips: match kind {
            ServiceKind::Headless => vec![],
            ServiceKind::ClusterSetIp => ["240.240.0.1", "fd00::1"]
                .map(|ip| ip.parse().unwrap())
                .into(),
        },
        cluster_ips: vec![],
        ports: vec![],
        exported_by: [].into(),
        endpoints,
        seals: vec![],
    };
    let services = [(name(), Arc::new(service))].into_iter().collect();
    run_with(&catalog, &view(&[("shop", false)]), &services)
}

fn of_east(id: &str, health: Health) -> Endpoint {
    Endpoint {
        id: EndpointId::new(id).unwrap(),
        cluster: ClusterName::new("east").unwrap(),
        region: Region::new("r").unwrap(),
        zone: Some(Zone::new("a").unwrap()),
        weight: 100,
        health,
        identity: "spiffe://east.mesh.internal/ns/shop/sa/hello"
            .parse()
            .unwrap(),
        address: None,
        hostname: Some(id.to_owned()),
        ports: vec![42],
        labels: [].into(),
        targets: Targets::new(),
        mesh_ips: vec!["241.0.0.1".parse().unwrap(), "fd00::2".parse().unwrap()],
    }
}

#[test]
fn other_clusters_endpoints_are_slices_by_what_leads_to_them_here() {
    let mut near = of_east("db-1", Health::Draining);
    near.address = Some("10.1.0.1:15008".into());
    let endpoints = vec![of_east("db-0", Health::Healthy), near];
    let desired = from_east(ServiceKind::Headless, endpoints);
    let slices = of(&desired, Resource::Slice);
    // The import's families, in its order.
    let [v6, v4] = slices[..] else {
        panic!("{desired:?}");
    };
    assert_eq!(v6.object["addressType"], "IPv6");
    assert_eq!(v6.object["endpoints"][0]["addresses"], json!(["fd00::2"]));
    assert_eq!(v6.object["endpoints"].as_array().unwrap().len(), 1);
    let labels = &v4.object["metadata"]["labels"];
    assert_eq!(labels["multicluster.kubernetes.io/source-cluster"], "east");
    assert_eq!(labels["multicluster.kubernetes.io/service-name"], "hello");
    let ready = json!({"ready": true, "serving": true, "terminating": false});
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(
        v4.object["endpoints"],
        json!([
            {"addresses": ["241.0.0.1"], "conditions": ready, "hostname": "db-0", "zone": "a"},
            {"addresses": ["10.1.0.1"], "conditions": ending, "hostname": "db-1", "zone": "a"},
        ])
    );
    assert_eq!(
        v4.object["ports"],
        json!([{"name": "tcp", "port": 42, "protocol": "TCP"}])
    );
}

#[test]
fn another_cluster_of_a_service_with_an_address_is_one_endpoint_which_is_that() {
    let addresses = |healths: &[Health]| -> Vec<Value> {
        let endpoints = healths.iter().map(|h| of_east("e", *h)).collect();
        let desired = from_east(ServiceKind::ClusterSetIp, endpoints);
        let slices = of(&desired, Resource::Slice);
        let one = |s: &&Body| {
            assert_eq!(s.object["endpoints"].as_array().unwrap().len(), 1);
            let e = &s.object["endpoints"][0];
            json!([e["addresses"][0], e["conditions"]["ready"]])
        };
        slices.iter().map(one).collect()
    };
    let all = |ready: bool| [json!(["fd00::1", ready]), json!(["240.240.0.1", ready])];
    assert_eq!(addresses(&[Health::Unhealthy, Health::Healthy]), all(true));
    assert_eq!(addresses(&[Health::Unknown, Health::Draining]), all(true));
    assert_eq!(
        addresses(&[Health::Unhealthy, Health::Draining]),
        all(false)
    );
    assert_eq!(addresses(&[]), Vec::<Value>::new());
}

#[test]
fn many_endpoints_are_several_slices_and_each_keeps_its_own() {
    let of = |count: usize| {
        let endpoints: Vec<_> = (0..count)
            .map(|n| of_east(&format!("e{n}"), Health::Healthy))
            .collect();
        let desired = from_east(ServiceKind::Headless, endpoints);
        let mut places = BTreeMap::new();
        for slice in of(&desired, Resource::Slice) {
            let endpoints = slice.object["endpoints"].as_array().unwrap().clone();
            assert!(endpoints.len() <= 1000, "the API server refuses more");
            for e in endpoints {
                let key = (
                    e["hostname"].to_string(),
                    slice.object["addressType"].to_string(),
                );
                assert!(places.insert(key, slice.key.name.clone()).is_none());
            }
        }
        assert_eq!(places.len(), 2 * count);
        places
    };
    let (many, one_more) = (of(5_000), of(5_001));
    assert!(many.iter().all(|(e, slice)| one_more[e] == *slice));
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
