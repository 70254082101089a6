//! What a snapshot holds of local, remote, drained, silent and unknown clusters, and that unchanged parts are shared.

use proptest::prelude::*;
use tradewind_api::{
    Domain, Network, Region,
    model::{ClusterState, Health, ServiceKind},
    store::{Blob, Command, Export, Outcome, Stamped, TokenRecord},
};

use super::*;
use crate::{
    local::{
        LocalEndpoint, LocalService,
        tests::{merge, own, registered, registration},
    },
    source::SourceModel,
};

fn name(n: &str) -> ClusterName {
    ClusterName::new(n).unwrap()
}

fn record(cluster: &str, network: &str) -> ClusterRecord {
    ClusterRecord {
        name: name(cluster),
        region: Region::new("eu-west").unwrap(),
        network: Network::new(network).unwrap(),
        gateways: vec![format!("{cluster}.example:15443")],
        state: ClusterState::Active,
        nodes: [1].into(),
        authorities: [Blob(cluster.as_bytes().to_vec())].into(),
        version: "0.1.0".into(),
        joined_at_ms: 0,
        lease_at_ms: 0,
        level: tradewind_api::store::LEVEL,
        witness: false,
    }
}

fn apply(catalog: &mut Catalog, proposer: &str, at_ms: u64, command: Command) {
    let stamped = Stamped {
        proposer: name(proposer),
        at_ms,
        command,
        actor: None,
    };
    let outcome = catalog.apply(catalog.revision + 1, &stamped);
    assert!(
        !matches!(outcome, Outcome::Refused(_)),
        "{stamped:?}: {outcome:?}"
    );
}

/// West founded, east joined; east shares west's network if asked.
fn two(east_network: &str) -> Catalog {
    let mut catalog = Catalog::default();
    let found = Command::Found {
        domain: Domain::default(),
        root: Blob(vec![1]),
        cluster: record("west", "west"),
    };
    apply(&mut catalog, "west", 1, found);
    let token = TokenRecord {
        id: "t".into(),
        secret_sha256: Blob(vec![0; 32]),
        cluster: None,
        expires_at_ms: 99,
        used: None,
    };
    apply(&mut catalog, "west", 1, Command::PutToken(token));
    let join = Command::Join {
        token_id: "t".into(),
        cluster: record("east", east_network),
    };
    apply(&mut catalog, "west", 1, join);
    catalog
}

fn export(health: Health) -> Export {
    let summary = EndpointSummary {
        zone: None,
        weight: 100,
        health,
        account: "/ns/shop/sa/payments".into(),
        hostname: None,
        labels: tradewind_api::traffic::Labels::new(),
        address: Some("10.9.9.9:15008".into()),
        ports: vec![80],
    };
    Export {
        service: "shop/payments".parse().unwrap(),
        created_at_ms: 1,
        kind: ServiceKind::ClusterSetIp,
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            app_protocol: tradewind_api::model::AppProtocol::Http1,
        }],
        endpoints: [(EndpointId::new("remote").unwrap(), summary)].into(),
        rules: None,
        spec: None,
    }
}

struct World {
    catalog: Catalog,
    local: LocalModel,
    leases: Leases,
    distances: Distances,
    own: Own,
    trust: Arc<Trust>,
    now_ms: u64,
}

impl World {
    fn new(catalog: Catalog) -> Self {
        let trust = Arc::new(catalog.trust());
        Self {
            catalog,
            local: LocalModel::default(),
            leases: Leases::default(),
            distances: Distances::default(),
            own: own(),
            trust,
            now_ms: 1_000,
        }
    }

    fn compile(&self, previous: &Snapshot) -> Snapshot {
        self.compile_since(previous, None)
    }

    /// Where it is known what the last one was made of.
    fn compile_since(&self, previous: &Snapshot, before: Option<&Self>) -> Snapshot {
        let mut mesh_ips = MeshIps::default();
        mesh_ips.observe(&self.catalog, &self.own);
        let input = Input {
            mesh_ips: &mesh_ips,
            catalog: &self.catalog,
            local: &self.local,
            own: &self.own,
            leases: &self.leases,
            distances: &self.distances,
            trust: &self.trust,
            seals: &Ring::default(),
            now_ms: self.now_ms,
        };
        compile(&input, previous, before.map(|b| (&b.local, &b.catalog)))
    }

    fn payments(&self) -> Arc<Service> {
        Arc::clone(&self.compile(&Snapshot::default()).services[&"shop/payments".parse().unwrap()])
    }
}

#[test]
fn remote_endpoints_have_no_address_unless_the_network_is_shared() {
    for (network, address) in [("east", None), ("west", Some("10.9.9.9:15008".to_owned()))] {
        let mut catalog = two(network);
        apply(
            &mut catalog,
            "east",
            2,
            Command::PutExport(export(Health::Healthy)),
        );
        let payments = World::new(catalog).payments();
        assert_eq!(payments.endpoints.len(), 1);
        let endpoint = &payments.endpoints[0];
        assert_eq!(endpoint.address, address);
        assert_eq!(
            endpoint.identity.as_str(),
            "spiffe://east.mesh.internal/ns/shop/sa/payments"
        );
        assert_eq!(endpoint.region.as_str(), "eu-west");
        assert_eq!(payments.exported_by, [name("east")].into());
        assert!(!payments.clusterset_ips.is_empty());
    }
}

#[test]
fn a_headless_services_endpoints_elsewhere_have_addresses_of_their_own() {
    let put = |network: &str, kind, ids: &[&str]| {
        let mut catalog = two(network);
        let mut export = export(Health::Healthy);
        let summary = export.endpoints.pop_first().unwrap().1;
        let one = |id: &&str| (EndpointId::new(id).unwrap(), summary.clone());
        export.endpoints = ids.iter().map(one).collect();
        export.kind = kind;
        apply(&mut catalog, "east", 2, Command::PutExport(export));
        World::new(catalog)
    };
    let of = |world: &World| -> Vec<Vec<String>> {
        let payments = world.payments();
        let ips = |e: &Endpoint| e.mesh_ips.iter().map(ToString::to_string).collect();
        payments.endpoints.iter().map(ips).collect()
    };
    let none: Vec<String> = Vec::new();
    // The search for both begins at one place.
    let colliding = ["e1588", "e7617"];
    let apart = |ids: &[&str]| of(&put("east", ServiceKind::Headless, ids));
    let [first, second] = [
        ["241.247.33.2", "fd74:7769:6e64:f0f1::f7:2102"],
        ["241.247.33.3", "fd74:7769:6e64:f0f1::f7:2103"],
    ];
    assert_eq!(apart(&colliding), [first, second]);
    assert_eq!(apart(&colliding[1..]), [first], "nobody is before it");
    let world = put("west", ServiceKind::Headless, &colliding);
    assert_eq!(
        of(&world),
        [none.clone(), none.clone()],
        "it has its own address here"
    );
    let world = put("east", ServiceKind::ClusterSetIp, &colliding);
    assert_eq!(of(&world), [none.clone(), none], "the service has one");

    // What was there before makes no difference.
    let [all, one] = [&colliding[..], &colliding[1..]]
        .map(|ids| put("east", ServiceKind::Headless, ids).catalog);
    let mut seen = MeshIps::default();
    for catalog in [&one, &all, &one, &all] {
        seen.observe(catalog, &own());
        let mut fresh = MeshIps::default();
        fresh.observe(catalog, &own());
        assert_eq!(seen, fresh);
    }
}

#[test]
fn local_services_are_there_exported_or_not_and_fresher_than_the_store() {
    let mut catalog = two("east");
    apply(
        &mut catalog,
        "east",
        2,
        Command::PutExport(export(Health::Healthy)),
    );
    // West's own export in the store is older than its registry: another endpoint, still healthy.
    apply(
        &mut catalog,
        "west",
        2,
        Command::PutExport(export(Health::Healthy)),
    );
    let mut world = World::new(catalog);
    world.local = merge(
        &registered([
            registration("shop/payments", 80, "127.0.0.1:15008", Health::Unhealthy),
            registration("shop/private", 9000, "127.0.0.1:15008", Health::Healthy),
        ]),
        &SourceModel::default(),
        &own(),
    );
    let payments = world.payments();
    assert_eq!(payments.endpoints.len(), 2, "{payments:?}");
    let here: Vec<_> = payments
        .endpoints
        .iter()
        .filter(|e| e.cluster == own().cluster)
        .collect();
    assert_eq!(here.len(), 1);
    assert_eq!(
        (here[0].health, here[0].address.as_deref()),
        (Health::Unhealthy, Some("127.0.0.1:15008"))
    );
    let snapshot = world.compile(&Snapshot::default());
    let private = &snapshot.services[&"shop/private".parse().unwrap()];
    assert!(private.exported_by.is_empty() && private.clusterset_ips.is_empty());
    assert_eq!(private.ports[0].port, 9000);
}

#[test]
fn drained_and_left_clusters_say_so() {
    let mut catalog = two("east");
    apply(
        &mut catalog,
        "east",
        2,
        Command::PutExport(export(Health::Healthy)),
    );
    apply(
        &mut catalog,
        "west",
        3,
        Command::SetDraining {
            cluster: name("east"),
            draining: true,
        },
    );
    let mut world = World::new(catalog);
    let snapshot = world.compile(&Snapshot::default());
    assert_eq!(
        snapshot.clusters[&name("east")].state,
        ClusterState::Draining
    );
    assert!(snapshot.clusters[&name("west")].local && !snapshot.clusters[&name("east")].local);
    apply(&mut world.catalog, "east", 4, Command::Leave);
    let snapshot = world.compile(&snapshot);
    assert_eq!(snapshot.clusters[&name("east")].state, ClusterState::Left);
    assert!(
        !snapshot
            .services
            .contains_key(&"shop/payments".parse().unwrap())
    );
}

#[test]
fn a_lease_expires_only_where_its_renewals_could_have_been_seen() {
    let mut world = World::new(two("east"));
    let expired =
        |world: &World| world.compile(&Snapshot::default()).clusters[&name("east")].lease_expired;
    world.leases.observe(&world.catalog, 1_000, true);
    world.now_ms = 1_000 + LEASE_EXPIRES_MS;
    world.leases.observe(&world.catalog, world.now_ms, true);
    assert!(!expired(&world));
    world.now_ms += 1;
    world.leases.observe(&world.catalog, world.now_ms, true);
    assert!(expired(&world));
    assert!(
        !world.compile(&Snapshot::default()).clusters[&name("west")].lease_expired,
        "own lease"
    );
    // No leader: nothing can be known, and nothing counts against it afterwards.
    world.leases.observe(&world.catalog, world.now_ms, false);
    assert!(!expired(&world));
    world.now_ms += LEASE_EXPIRES_MS;
    world.leases.observe(&world.catalog, world.now_ms, true);
    assert!(!expired(&world));
    world.now_ms += 1;
    world.leases.observe(&world.catalog, world.now_ms, true);
    assert!(expired(&world));
    // A renewal stamped by a clock of another century counts all the same.
    apply(
        &mut world.catalog,
        "east",
        5_000_000_000_000,
        Command::RenewLease,
    );
    world.leases.observe(&world.catalog, world.now_ms, true);
    assert!(!expired(&world));
}

#[test]
fn others_are_as_far_as_they_are_known_to_be_and_this_cluster_is_no_distance() {
    use crate::{reach, registry::Reports};
    let mut world = World::new(two("east"));
    let before = world.compile(&Snapshot::default());
    assert_eq!(before.clusters[&name("east")].round_trip_us, None);
    let pinged = reach::ClusterReach {
        reachable: Some(true),
        round_trip: Some(std::time::Duration::from_millis(80)),
        ..reach::ClusterReach::default()
    };
    let both = ["west", "east"].map(|c| (name(c), Arc::new(pinged.clone())));
    let seen = reach::Reach {
        clusters: both.into(),
    };
    world
        .distances
        .look(&seen, &Reports::default(), 1_800_000_000_000);
    let after = world.compile(&before);
    assert_eq!(after.clusters[&name("east")].round_trip_us, Some(80_000));
    assert!(Arc::ptr_eq(
        &after.clusters[&name("west")],
        &before.clusters[&name("west")]
    ));
}

#[test]
fn an_empty_catalog_still_shows_this_cluster_and_its_services() {
    let mut world = World::new(Catalog::default());
    world.trust = Arc::new(two("east").trust());
    world.local = merge(
        &registered([registration(
            "shop/payments",
            80,
            "127.0.0.1:15008",
            Health::Healthy,
        )]),
        &SourceModel::default(),
        &own(),
    );
    let snapshot = world.compile(&Snapshot::default());
    assert_eq!(snapshot.local().unwrap().name, own().cluster);
    assert_eq!(snapshot.services.len(), 1);
    assert_eq!(snapshot.trust.authorities.len(), 2);
}

/// One thing of one service changed, or nothing: what is made of what was is what is made of nothing.
#[test]
fn each_change_of_a_service_that_nobody_exports_is_seen() {
    let mut world = World::new(two("east"));
    let mut all = registration("shop/payments", 80, "h:1", Health::Healthy);
    all.1.labels = [("app".to_owned(), "web".to_owned())].into();
    world.local = merge(&registered([all]), &SourceModel::default(), &own());
    let before = world.compile(&Snapshot::default());
    let payments: ServiceName = "shop/payments".parse().unwrap();
    let again = world.compile(&before);
    let of = |s: &Snapshot| Arc::clone(&s.services[&payments]);
    assert!(Arc::ptr_eq(&of(&before), &of(&again)));

    let local = world.local.clone();
    type Change = fn(&mut LocalService);
    fn endpoint(of: &mut LocalService) -> &mut LocalEndpoint {
        of.endpoints.values_mut().next().unwrap()
    }
    let changes: [Change; 15] = [
        |s| s.cluster_ips = vec!["10.96.0.7".parse().unwrap()],
        |s| endpoint(s).targets = [(80, 8080)].into(),
        |s| s.kind = ServiceKind::Headless,
        |s| s.ports[0].port = 81,
        |s| s.ports[0].name = "other".into(),
        |s| s.ports.clear(),
        |s| s.endpoints.clear(),
        |s| endpoint(s).zone = Some("a".parse().unwrap()),
        |s| endpoint(s).weight = 7,
        |s| endpoint(s).health = Health::Unhealthy,
        |s| endpoint(s).address = "h:2".into(),
        |s| endpoint(s).hostname = Some("db-0".into()),
        |s| endpoint(s).ports = vec![80, 81],
        |s| endpoint(s).labels.clear(),
        |s| {
            let domain = own().domain.trust_domain(&own().cluster);
            endpoint(s).identity = SpiffeId::from_path(&domain, "/ns/a/sa/b").unwrap();
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        world.local = local.clone();
        change(Arc::make_mut(
            world.local.services.get_mut(&payments).unwrap(),
        ));
        let after = world.compile(&before);
        assert_ne!(of(&before), of(&after), "{n}");
        assert_eq!(after, world.compile(&Snapshot::default()), "{n}");
    }
    world.local = local;
    let mut moved = Snapshot::clone(&before);
    let service = Service::clone(&before.services[&payments]);
    let exported = Service {
        exported_by: [name("west")].into(),
        ..service
    };
    moved.services.insert(payments.clone(), Arc::new(exported));
    assert_eq!(of(&world.compile(&moved)), of(&before), "it was exported");
}

proptest! {
    #[test]
    fn what_did_not_change_is_shared(
        first in prop::collection::vec((0..4usize, any::<bool>()), 0..6),
        second in prop::collection::vec((0..4usize, any::<bool>()), 0..6),
        [exported, exported_still] in any::<[bool; 2]>(),
    ) {
        const NAMES: [&str; 4] = ["shop/a", "shop/b", "shop/payments", "bank/c"];
        let local = |all: &[(usize, bool)]| {
            let all = all.iter().enumerate().map(|(i, (n, up))| {
                registration(NAMES[*n], 80, &format!("h:{}", 1 + i), if *up { Health::Healthy } else { Health::Unknown })
            });
            merge(&registered(all), &SourceModel::default(), &own())
        };
        let mut catalog = two("east");
        let put = || Command::PutExport(export(Health::Healthy));
        if exported {
            apply(&mut catalog, "east", 2, put());
        }
        let mut last = World::new(catalog.clone());
        last.local = local(&first);
        let before = last.compile(&Snapshot::default());
        match (exported, exported_still) {
            (true, false) => apply(&mut catalog, "east", 3, Command::RemoveExport("shop/payments".parse().unwrap())),
            (false, true) => apply(&mut catalog, "east", 3, put()),
            _ => catalog.revision += 1,
        }
        let mut world = World::new(catalog);
        world.local = local(&second);
        world.trust = Arc::clone(&last.trust);
        let after = world.compile(&before);
        prop_assert_eq!(&after, &world.compile_since(&before, Some(&last)));
        // Sharing changes nothing of the value.
        prop_assert_eq!(&after, &world.compile(&Snapshot::default()));
        for (name, service) in &after.services {
            if let Some(old) = before.services.get(name) {
                prop_assert_eq!(old == service, Arc::ptr_eq(old, service));
            }
            prop_assert!(service.endpoints.is_sorted_by(|a, b| a.id < b.id));
        }
        prop_assert!(Arc::ptr_eq(&before.trust, &after.trust));
        prop_assert!(after.clusters.iter().all(|(n, c)| Arc::ptr_eq(c, &before.clusters[n])));
    }
}
