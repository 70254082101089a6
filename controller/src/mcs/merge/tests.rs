//! KEP-1645's constraints, one by one.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn name(n: &str) -> ClusterName {
    ClusterName::new(n).unwrap()
}

fn port(name: &str, protocol: Protocol, port: u16) -> SpecPort {
    SpecPort {
        name: name.into(),
        protocol,
        app_protocol: None,
        port,
    }
}

fn spec() -> ExportSpec {
    ExportSpec {
        ports: vec![
            port("tcp", Protocol::Tcp, 42),
            port("udp", Protocol::Udp, 42),
        ],
        client_ip_affinity_s: Some(10),
        internal_traffic_policy: Some("Cluster".into()),
        traffic_distribution: Some("PreferClose".into()),
        ip_families: vec![IpFamily::V4],
        labels: [("a".to_owned(), "b".to_owned())].into(),
        annotations: [("c".to_owned(), "d".to_owned())].into(),
    }
}

fn export(created_at_ms: u64, spec: ExportSpec) -> Export {
    Export {
        service: "shop/hello".parse().unwrap(),
        created_at_ms,
        kind: ServiceKind::ClusterSetIp,
        ports: vec![],
        endpoints: [].into(),
        rules: None,
        spec: Some(Arc::new(spec)),
    }
}

fn reasons(import: &Import) -> Vec<&'static str> {
    import.conflicts.iter().map(|c| c.reason.as_str()).collect()
}

#[test]
fn exporters_that_agree_have_no_conflict_and_nobody_is_no_import() {
    let (west, east) = (name("west"), name("east"));
    let (a, b) = (export(1, spec()), export(2, spec()));
    let import = merge([(&west, &a), (&east, &b)]).unwrap();
    assert_eq!(import.conflicts, []);
    assert_eq!(import.spec, spec());
    assert_eq!(import.clusters, [east, west], "sorted");
    assert_eq!(merge([]), None);
}

#[test]
fn each_disagreement_has_its_reason_and_the_oldest_word_holds() {
    type Change = fn(&mut Export, &mut ExportSpec);
    let cases: [(&str, Change); 9] = [
        ("PortConflict", |_, s| {
            s.ports[0].app_protocol = Some("http".into())
        }),
        ("TypeConflict", |e, _| e.kind = ServiceKind::Headless),
        ("SessionAffinityConflict", |_, s| {
            s.client_ip_affinity_s = None
        }),
        ("SessionAffinityConfigConflict", |_, s| {
            s.client_ip_affinity_s = Some(11)
        }),
        ("LabelsConflict", |_, s| s.labels.clear()),
        ("AnnotationsConflict", |_, s| s.annotations.clear()),
        ("InternalTrafficPolicyConflict", |_, s| {
            s.internal_traffic_policy = Some("Local".into())
        }),
        ("TrafficDistributionConflict", |_, s| {
            s.traffic_distribution = None
        }),
        ("IPFamilyConflict", |_, s| {
            s.ip_families = vec![IpFamily::V6]
        }),
    ];
    let (west, east) = (name("west"), name("east"));
    for (reason, change) in cases {
        let (mut younger, mut changed) = (export(2, spec()), spec());
        change(&mut younger, &mut changed);
        younger.spec = Some(Arc::new(changed));
        let older = export(1, spec());
        // The name that comes first is not the older one.
        let import = merge([(&east, &younger), (&west, &older)]).unwrap();
        assert_eq!(reasons(&import), [reason]);
        assert_eq!(
            (import.kind, &import.spec),
            (ServiceKind::ClusterSetIp, &spec()),
            "{reason}"
        );
        let text = import.conflicts[0].to_string();
        assert!(
            text.contains("of east differ from those of west, the oldest export"),
            "{text}"
        );
    }
}

#[test]
fn ports_are_united_by_name_and_then_by_number() {
    let (west, east) = (name("west"), name("east"));
    let united = |second: Vec<SpecPort>| {
        let other = ExportSpec {
            ports: second,
            ..spec()
        };
        let import = merge([(&west, &export(1, spec())), (&east, &export(2, other))]).unwrap();
        let ports: Vec<_> = import
            .spec
            .ports
            .iter()
            .map(|p| (p.name.clone(), p.protocol, p.port))
            .collect();
        (ports, reasons(&import))
    };
    let own = [
        ("tcp".to_owned(), Protocol::Tcp, 42),
        ("udp".to_owned(), Protocol::Udp, 42),
    ];
    let (ports, conflicts) = united(vec![
        port("tcp", Protocol::Tcp, 42),
        port("sctp", Protocol::Sctp, 142),
    ]);
    assert_eq!(ports[..2], own);
    assert_eq!(ports[2], ("sctp".to_owned(), Protocol::Sctp, 142));
    assert_eq!(conflicts, ["PortConflict"]);
    let (ports, _) = united(vec![port("tcp", Protocol::Tcp, 43)]);
    assert_eq!(ports, own, "the name stands for the oldest's number");
    let (ports, _) = united(vec![port("other", Protocol::Tcp, 42)]);
    assert_eq!(ports, own, "the number has the oldest's name");
    let (ports, _) = united(vec![port("other", Protocol::Sctp, 42)]);
    assert_eq!(ports.len(), 3, "another protocol is another port");
}

#[test]
fn hosts_that_export_the_same_ports_agree_with_kubernetes() {
    let mut hosts = export(2, ExportSpec::default());
    hosts.spec = None;
    hosts.ports = vec![tradewind_api::model::ServicePort {
        name: "http".into(),
        port: 80,
        app_protocol: AppProtocol::Http1,
    }];
    let plain = ExportSpec {
        ports: vec![SpecPort {
            app_protocol: Some("http".into()),
            ..port("http", Protocol::Tcp, 80)
        }],
        internal_traffic_policy: Some("Cluster".into()),
        ip_families: vec![IpFamily::V4],
        ..ExportSpec::default()
    };
    let import = merge([
        (&name("west"), &export(1, plain.clone())),
        (&name("east"), &hosts),
    ])
    .unwrap();
    assert_eq!((import.conflicts.len(), import.spec), (0, plain));
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(ages in prop::collection::vec((0_u64..3, 0_u16..3), 1..6)) {
        let exports: Vec<_> = ages.iter().enumerate().map(|(i, (age, number))| {
            let mut changed = spec();
            changed.ports[0].port += number;
            (name(&format!("c{i}")), export(*age, changed))
        }).collect();
        let forward = merge(exports.iter().map(|(c, e)| (c, e)));
        let backward = merge(exports.iter().rev().map(|(c, e)| (c, e)));
        prop_assert_eq!(forward, backward);
    }
}
