//! What is planned is what the choice makes of the same endpoints when a cluster is not there.

use std::sync::Arc;

use proptest::prelude::*;
use tradewind_api::model::{Health, ServiceKind, ServicePort};

use super::*;

fn cluster(name: &str, region: &str, local: bool) -> Arc<Cluster> {
    Arc::new(Cluster {
        name: ClusterName::new(name).unwrap(),
        region: region.parse().unwrap(),
        network: name.parse().unwrap(),
        state: ClusterState::Active,
        gateways: vec![format!("{name}.example:15443")],
        lease_expired: false,
        local,
        sealed_only: true,
        controllers: BTreeMap::new(),
        round_trip_us: None,
    })
}

fn endpoint(n: usize, cluster: &str, weight: u32, health: Health) -> Endpoint {
    let digit = char::from(b'a' + u8::try_from(n).unwrap());
    let id: String = std::iter::repeat_n(digit, 13).collect();
    Endpoint {
        id: id.parse().unwrap(),
        cluster: ClusterName::new(cluster).unwrap(),
        region: "r".parse().unwrap(),
        zone: None,
        weight,
        health,
        identity: format!("spiffe://{cluster}.mesh.internal/ns/shop/sa/payments")
            .parse()
            .unwrap(),
        address: None,
        mesh_ips: vec![],
        hostname: None,
        labels: tradewind_api::traffic::Labels::new(),
        ports: vec![80, 81],
        targets: Default::default(),
    }
}

/// West is here, central in its region, east elsewhere; all export the service.
fn snapshot(endpoints: Vec<Endpoint>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, region, local) in [
        ("west", "eu-west", true),
        ("central", "eu-west", false),
        ("east", "us-east", false),
    ] {
        let cluster = cluster(name, region, local);
        snapshot.clusters.insert(cluster.name.clone(), cluster);
    }
    let port = |port: u16| ServicePort {
        name: port.to_string(),
        port,
        app_protocol: tradewind_api::model::AppProtocol::Http1,
    };
    let mut endpoints = endpoints;
    for e in &mut endpoints {
        e.region = snapshot.clusters[&e.cluster].region.clone();
    }
    let service = Service {
        name: "shop/payments".parse().unwrap(),
        kind: ServiceKind::ClusterSetIp,
        clusterset_ips: Vec::new(),
        cluster_ips: Vec::new(),
        ports: vec![port(80), port(81)],
        exported_by: snapshot.clusters.keys().cloned().collect(),
        endpoints,
        seals: Vec::new(),
    };
    let name = service.name.clone();
    snapshot.services.insert(name, Arc::new(service));
    snapshot
}

fn without(names: &[&str]) -> BTreeSet<ClusterName> {
    names.iter().map(|n| ClusterName::new(n).unwrap()).collect()
}

fn planned(endpoints: Vec<Endpoint>, lost: &[&str]) -> Vec<PlannedCalls> {
    calls(&snapshot(endpoints), &without(lost), |_, _| None)
}

fn of<'a>(calls: &'a [PlannedCalls], from: &str) -> &'a PlannedCalls {
    calls.iter().find(|c| c.from_cluster == from).unwrap()
}

fn clusters(shares: &[PlannedShare]) -> Vec<&str> {
    shares.iter().map(|s| s.cluster.as_str()).collect()
}

#[test]
fn calls_move_stay_and_fail_and_the_load_is_what_the_weights_say() {
    let good = Health::Healthy;
    let everywhere = || {
        vec![
            endpoint(0, "central", 100, good),
            endpoint(1, "east", 100, good),
            endpoint(2, "west", 300, good),
        ]
    };
    let calls = planned(everywhere(), &["central"]);
    assert_eq!(
        calls.len(),
        2,
        "nobody calls from a lost cluster, and both ports are one"
    );
    let west = of(&calls, "west");
    assert_eq!(
        (west.effect.as_str(), &west.ports[..]),
        ("stays", &[80, 81][..])
    );
    assert_eq!(west.load, Some(1.25));
    assert_eq!(of(&calls, "east").effect, "stays");

    let calls = planned(everywhere(), &["west"]);
    let central = of(&calls, "central");
    assert_eq!(clusters(&central.then), ["central"]);
    assert_eq!(
        (central.load, central.effect.as_str()),
        (Some(2.5), "overload")
    );

    let mut two = everywhere();
    two.remove(0);
    let calls = planned(two.clone(), &["east"]);
    let central = of(&calls, "central");
    assert_eq!(
        (central.effect.as_str(), clusters(&central.now)),
        ("stays", vec!["west"])
    );
    let calls = planned(two, &["east", "west"]);
    let central = of(&calls, "central");
    assert_eq!((central.effect.as_str(), central.load), ("fails", None));
    assert!(central.then.is_empty());

    let calls = planned(
        vec![
            endpoint(0, "central", 300, good),
            endpoint(1, "east", 100, good),
            endpoint(2, "west", 100, good),
        ],
        &["west"],
    );
    assert_eq!(of(&calls, "central").effect, "stays");
    assert_eq!(of(&calls, "east").effect, "stays");
}

#[test]
fn calls_that_move_without_overload_move_and_only_the_unfit_left_is_said() {
    let good = Health::Healthy;
    let calls = planned(
        vec![
            endpoint(0, "central", 100, good),
            endpoint(1, "east", 400, good),
        ],
        &["central"],
    );
    let west = of(&calls, "west");
    assert_eq!(west.effect, "moves");
    assert_eq!(
        (clusters(&west.now), clusters(&west.then)),
        (vec!["central"], vec!["east"])
    );
    for health in [Health::Unhealthy, Health::Unknown, Health::Draining] {
        let calls = planned(
            vec![
                endpoint(0, "central", 100, good),
                endpoint(1, "east", 400, health),
            ],
            &["central"],
        );
        assert_eq!(of(&calls, "west").effect, "unfit", "{health:?}");
    }
}

#[test]
fn what_nobody_exports_is_planned_for_its_own_callers_alone() {
    let mut snapshot = snapshot(vec![endpoint(0, "west", 100, Health::Healthy)]);
    let name = "shop/payments".parse().unwrap();
    let service = Arc::make_mut(snapshot.services.get_mut(&name).unwrap());
    service.exported_by.clear();
    let calls = calls(&snapshot, &without(&["east"]), |_, _| None);
    assert_eq!(calls.len(), 1);
    assert_eq!(
        (calls[0].from_cluster.as_str(), calls[0].effect.as_str()),
        ("west", "stays")
    );
}

proptest! {
    /// Shares are whole, nobody lost answers, and what is lost makes the load no smaller among those who are as good.
    #[test]
    fn a_plan_is_whole(
        all in prop::collection::vec((0usize..3, 1u32..500, 0usize..4), 0..12),
        lost in prop::collection::btree_set(0usize..3, 0..3),
    ) {
        let names = ["central", "east", "west"];
        let healths = [Health::Healthy, Health::Unknown, Health::Draining, Health::Unhealthy];
        let endpoints = all.iter().enumerate().map(|(n, (c, w, h))| endpoint(n, names[*c], *w, healths[*h])).collect();
        let lost: Vec<_> = lost.iter().map(|i| names[*i]).collect();
        for call in planned(endpoints, &lost) {
            prop_assert!(!lost.contains(&call.from_cluster.as_str()));
            for shares in [&call.now, &call.then] {
                let sum: f64 = shares.iter().map(|s| s.share).sum();
                prop_assert!(shares.is_empty() || (sum - 1.0).abs() < 1e-9);
            }
            prop_assert!(call.then.iter().all(|s| !lost.contains(&s.cluster.as_str())));
            prop_assert_eq!(call.then.is_empty(), call.load.is_none());
            if call.effect != "unfit" {
                prop_assert!(call.load.is_none_or(|l| l >= 1.0 - 1e-9));
            }
            if lost.is_empty() {
                prop_assert_eq!(call.effect.as_str(), "stays");
            }
        }
    }
}
