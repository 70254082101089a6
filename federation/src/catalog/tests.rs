//! What the catalog must hold to: ownership, tokens, bounds, merge, determinism.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use tradewind_api::{
    ClusterName, Domain, EndpointId, Network, Region, ServiceName,
    model::{AppProtocol, ClusterState, Health, ServiceKind, ServicePort},
    store::{
        Blob, ClusterRecord, Command, EndpointSummary, Export, Outcome, PublishedRules, Refusal,
        Stamped, TokenRecord, Voting,
    },
};

use super::{
    Catalog, Conflict, MAX_AUDIT, MAX_ENDPOINTS_PER_EXPORT, MAX_GATEWAYS_PER_CLUSTER, MAX_TEXT,
    MAX_TOKENS, limits,
};

mod controllers;
mod members;
mod seals;

pub(crate) fn name(s: &str) -> ClusterName {
    ClusterName::new(s).unwrap()
}

pub(crate) fn record(s: &str) -> ClusterRecord {
    ClusterRecord {
        name: name(s),
        region: Region::new("r1").unwrap(),
        network: Network::new(s).unwrap(),
        gateways: vec![format!("{s}.example:15443")],
        state: ClusterState::Active,
        nodes: BTreeSet::new(),
        authorities: BTreeSet::from([Blob(s.as_bytes().to_vec())]),
        version: "0.1.0".to_owned(),
        joined_at_ms: 0,
        lease_at_ms: 0,
        level: tradewind_api::store::LEVEL,
        witness: false,
    }
}

fn service(s: &str) -> ServiceName {
    format!("shop/{s}").parse().unwrap()
}

pub(crate) fn endpoint(weight: u32) -> EndpointSummary {
    EndpointSummary {
        zone: None,
        weight,
        health: Health::Healthy,
        account: "/ns/shop/sa/payments".to_owned(),
        hostname: None,
        labels: tradewind_api::traffic::Labels::new(),
        address: None,
        ports: vec![80],
    }
}

pub(crate) fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        port,
        app_protocol: AppProtocol::Detect,
    }
}

pub(crate) fn export(s: &str, created_at_ms: u64, ports: Vec<ServicePort>) -> Export {
    Export {
        service: service(s),
        created_at_ms,
        kind: ServiceKind::ClusterSetIp,
        ports,
        endpoints: BTreeMap::new(),
        rules: None,
        spec: None,
    }
}

fn token(id: &str, expires_at_ms: u64, cluster: Option<&str>) -> TokenRecord {
    TokenRecord {
        id: id.to_owned(),
        secret_sha256: Blob(vec![7; 32]),
        cluster: cluster.map(name),
        expires_at_ms,
        used: None,
    }
}

/// A catalog that counts its own revisions.
struct Log {
    catalog: Catalog,
    at_ms: u64,
}

impl Log {
    /// Founded by west; every other name joined.
    fn with(names: &[&str]) -> Self {
        let mut this = Self {
            catalog: Catalog::default(),
            at_ms: 1_000,
        };
        let mut founder = record("west");
        founder.nodes.insert(1);
        let found = Command::Found {
            domain: Domain::default(),
            root: Blob(vec![1, 2]),
            cluster: founder,
        };
        this.done("west", found);
        for joiner in names {
            this.done("west", Command::PutToken(token(joiner, u64::MAX, None)));
            let outcome = this.put("west", join(joiner, joiner));
            assert!(matches!(outcome, Outcome::Joined { .. }), "{outcome:?}");
        }
        this
    }

    fn put(&mut self, proposer: &str, command: Command) -> Outcome {
        let stamped = Stamped {
            proposer: name(proposer),
            at_ms: self.at_ms,
            command,
            actor: None,
        };
        let revision = self.catalog.revision + 1;
        let outcome = self.catalog.apply(revision, &stamped);
        assert_eq!(self.catalog.validate(), Ok(()));
        assert_eq!(self.catalog.revision, revision);
        outcome
    }

    /// Applies what must be done, and says whether it changed anything.
    fn done(&mut self, proposer: &str, command: Command) -> bool {
        match self.put(proposer, command.clone()) {
            Outcome::Done { changed, .. } => changed,
            other => panic!("{command:?}: {other:?}"),
        }
    }

    /// Applies what must be refused, and checks that it changed nothing.
    fn refused(&mut self, proposer: &str, command: Command) -> Refusal {
        let before = Catalog {
            revision: 0,
            at_ms: 0,
            ..self.catalog.clone()
        };
        let outcome = self.put(proposer, command);
        let after = Catalog {
            revision: 0,
            at_ms: 0,
            ..self.catalog.clone()
        };
        assert_eq!(before, after, "a refused command changes nothing");
        match outcome {
            Outcome::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

fn join(token_id: &str, cluster: &str) -> Command {
    Command::Join {
        token_id: token_id.to_owned(),
        cluster: record(cluster),
    }
}

#[test]
fn a_federation_is_founded_once() {
    let mut empty = Log {
        catalog: Catalog::default(),
        at_ms: 1,
    };
    assert_eq!(
        empty.refused("west", Command::RenewLease),
        Refusal::NotFounded
    );
    let mut log = Log::with(&[]);
    let again = Command::Found {
        domain: Domain::default(),
        root: Blob(vec![9]),
        cluster: record("east"),
    };
    assert!(matches!(
        log.refused("east", again),
        Refusal::AlreadyFounded(_)
    ));
    assert_eq!(log.catalog.founder, Some(name("west")));
    assert_eq!(log.catalog.next_node_id, 2);
    assert_eq!(log.catalog.trust().authorities.len(), 1);
}

#[test]
fn tokens_are_spent_once_expire_and_are_bound() {
    let mut log = Log::with(&[]);
    log.done("west", Command::PutToken(token("a", 2_000, None)));
    log.done("west", Command::PutToken(token("b", 2_000, Some("south"))));
    log.done("west", Command::PutToken(token("c", 2_000, None)));
    assert_eq!(
        log.refused("west", join("zz", "east")),
        Refusal::UnknownToken
    );
    assert_eq!(
        log.refused("west", join("b", "east")),
        Refusal::TokenForOther(name("south"))
    );
    assert_eq!(
        log.refused("west", join("a", "west")),
        Refusal::NameTaken(name("west"))
    );
    let joined = log.put("west", join("a", "east"));
    assert!(
        matches!(joined, Outcome::Joined { node_id: 2, .. }),
        "{joined:?}"
    );
    assert_eq!(
        log.refused("west", join("a", "north")),
        Refusal::TokenUsed(name("east"))
    );
    log.done("west", Command::RevokeToken("c".to_owned()));
    assert_eq!(
        log.refused("west", join("c", "north")),
        Refusal::UnknownToken
    );
    log.at_ms = 5_000;
    assert_eq!(
        log.refused("west", join("b", "south")),
        Refusal::TokenExpired(3)
    );
    assert_eq!(
        log.refused("nobody", join("b", "south")),
        Refusal::NotMember(name("nobody"))
    );
}

#[test]
fn the_leaders_clock_may_go_back_and_nothing_becomes_younger() {
    let mut log = Log::with(&[]);
    log.at_ms = 10_000;
    log.done("west", Command::PutToken(token("a", 10_000, None)));
    log.at_ms = 500;
    assert_eq!(
        log.refused("west", join("a", "east")),
        Refusal::TokenExpired(0)
    );
    assert_eq!(log.catalog.at_ms, 10_000);
}

#[test]
fn tokens_are_bounded_and_expired_ones_make_room() {
    let mut log = Log::with(&[]);
    for n in 0..MAX_TOKENS {
        log.done(
            "west",
            Command::PutToken(token(&format!("t{n}"), 5_000, None)),
        );
    }
    let one_more = || Command::PutToken(token("more", 90_000, None));
    assert!(matches!(
        log.refused("west", one_more()),
        Refusal::TooMuch { .. }
    ));
    log.at_ms = 5_000;
    assert!(log.done("west", one_more()));
    assert_eq!(log.catalog.tokens.len(), 1);
}

#[test]
fn a_cluster_writes_only_its_own() {
    let mut log = Log::with(&["east"]);
    log.done(
        "west",
        Command::PutExport(export("a", 1, vec![port("", 80)])),
    );
    let not_exported = Refusal::NotExported {
        cluster: name("east"),
        service: service("a"),
    };
    assert_eq!(
        log.refused("east", Command::RemoveExport(service("a"))),
        not_exported
    );
    let patch = Command::PatchExport {
        service: service("a"),
        upsert: BTreeMap::new(),
        remove: BTreeSet::new(),
    };
    assert_eq!(log.refused("east", patch), not_exported);
    let stranger = log.refused("north", Command::PutExport(export("a", 1, vec![])));
    assert_eq!(stranger, Refusal::NotMember(name("north")));
}

#[test]
fn the_same_again_changes_nothing() {
    let mut log = Log::with(&["east"]);
    let put = || Command::PutExport(export("a", 1, vec![port("", 80)]));
    assert!(log.done("west", put()));
    assert!(!log.done("west", put()));
    let announce = |gateways: &[&str]| Command::Announce {
        gateways: gateways.iter().map(|g| (*g).to_owned()).collect(),
        version: "0.1.0".to_owned(),
        level: tradewind_api::store::LEVEL,
    };
    assert!(log.done("west", announce(&["b:1", "a:1", "b:1"])));
    assert!(!log.done("west", announce(&["a:1", "b:1"])));
    let drain = |draining| Command::SetDraining {
        cluster: name("east"),
        draining,
    };
    assert!(!log.done("west", drain(false)));
    assert!(log.done("west", drain(true)));
    assert!(!log.done("east", drain(true)));
}

#[test]
fn endpoints_are_patched_and_bounded() {
    let mut log = Log::with(&[]);
    log.done(
        "west",
        Command::PutExport(export("a", 1, vec![port("", 80)])),
    );
    let patch = |from: usize, to: usize, remove: &[usize]| Command::PatchExport {
        service: service("a"),
        upsert: (from..to).map(|n| (id(n), endpoint(100))).collect(),
        remove: remove.iter().map(|n| id(*n)).collect(),
    };
    assert!(log.done("west", patch(0, 3, &[])));
    assert!(!log.done("west", patch(0, 3, &[])));
    assert!(log.done("west", patch(0, 0, &[1])));
    let held = log.catalog.export(&service("a"), &name("west")).unwrap();
    assert_eq!(held.endpoints.len(), 2);
    let too_many = patch(3, MAX_ENDPOINTS_PER_EXPORT + 2, &[]);
    assert!(matches!(
        log.refused("west", too_many),
        Refusal::TooMuch { limit: 5_000, .. }
    ));
    let heavy = Command::PatchExport {
        service: service("a"),
        upsert: BTreeMap::from([(id(0), endpoint(70_000))]),
        remove: BTreeSet::new(),
    };
    assert!(matches!(
        log.refused("west", heavy),
        Refusal::Invalid { .. }
    ));
}

#[test]
fn labels_and_rules_are_bounded() {
    let mut log = Log::with(&[]);
    let with_rules = |n: usize, bytes: usize| {
        let mut export = export(&format!("s{n}"), 1, vec![port("http", 80)]);
        export.rules = Some(Arc::new(PublishedRules {
            format: 1,
            json: "x".repeat(bytes),
        }));
        Command::PutExport(export)
    };
    let full = limits::MAX_RULES_BYTES;
    let too_long = log.refused("west", with_rules(0, full + 1));
    assert!(matches!(too_long, Refusal::TooMuch { limit: 65_536, .. }));
    let most = limits::MAX_RULES_BYTES_PER_CLUSTER / full;
    for n in 0..most {
        assert!(log.done("west", with_rules(n, full)));
    }
    let too_many = log.refused("west", with_rules(most, 1));
    assert!(matches!(
        too_many,
        Refusal::TooMuch {
            limit: 16_777_216,
            ..
        }
    ));
    assert!(
        log.done("west", with_rules(0, full - 1)),
        "its own make room"
    );
    assert!(log.done("west", with_rules(most, 1)));

    let labelled = |key: &str, n: usize| {
        let mut export = export("labelled", 1, vec![port("http", 80)]);
        let mut one = endpoint(100);
        one.labels = (0..n)
            .map(|n| (format!("{key}{n}"), "v".to_owned()))
            .collect();
        export.endpoints.insert(id(1), one);
        Command::PutExport(export)
    };
    assert!(log.done("west", labelled("app", 64)));
    for bad in [labelled("app", 65), labelled("a b", 1), labelled("a\n", 1)] {
        let refused = log.refused("west", bad);
        assert!(matches!(refused, Refusal::Invalid { .. }), "{refused}");
    }
}

fn id(n: usize) -> EndpointId {
    EndpointId::new(&format!("e{n}")).unwrap()
}

#[test]
fn what_a_proposer_writes_is_bounded() {
    let mut log = Log::with(&[]);
    let long = "x".repeat(MAX_TEXT + 1);
    let bad_facts = [
        (vec!["a:1".to_owned(); MAX_GATEWAYS_PER_CLUSTER + 1], "1"),
        (vec![long.clone()], "1"),
        (vec![], long.as_str()),
        (vec!["a\n:1".to_owned()], "1"),
    ];
    for (gateways, version) in bad_facts {
        let version = version.to_owned();
        log.refused(
            "west",
            Command::Announce {
                gateways,
                version,
                level: 2,
            },
        );
    }
    let bad_ports = [
        vec![port("", 90), port("", 80)],
        vec![port("a", 80), port("b", 80)],
        vec![port("", 0)],
        vec![port(&long, 80)],
        (1..=300).map(|n| port("", n)).collect(),
    ];
    for ports in bad_ports {
        log.refused("west", Command::PutExport(export("a", 1, ports)));
    }
    let mut used = token("u", 9_000, None);
    used.used = Some((name("west"), 1));
    log.refused("west", Command::PutToken(used));
    let mut short = token("u", 9_000, None);
    short.secret_sha256 = Blob(vec![1]);
    log.refused("west", Command::PutToken(short));
}

#[test]
fn an_address_stays_with_its_service() {
    let mut log = Log::with(&["east"]);
    let put = |s: &str| Command::PutExport(export(s, 1, vec![]));
    log.done("west", put("a"));
    let first = log
        .catalog
        .clusterset_ips
        .get(&service("a"))
        .unwrap()
        .clone();
    assert_eq!(first.len(), 2);
    let std::net::IpAddr::V4(v4) = first[0] else {
        panic!("{first:?}");
    };
    assert_eq!(v4.octets()[..2], [240, 240]);
    log.done("east", put("a"));
    log.done("west", Command::RemoveExport(service("a")));
    assert_eq!(
        log.catalog
            .clusterset_ips
            .get(&service("a"))
            .cloned()
            .unwrap(),
        first,
        "east still exports it"
    );
    log.done("east", Command::RemoveExport(service("a")));
    assert!(log.catalog.clusterset_ips.is_empty());
    log.done("west", put("b"));
    log.done("east", put("a"));
    assert_eq!(
        log.catalog
            .clusterset_ips
            .get(&service("a"))
            .cloned()
            .unwrap(),
        first,
        "kept for its return"
    );
    assert!(log.catalog.spare_ips.is_empty());
}

#[test]
fn many_services_get_different_addresses() {
    let mut catalog = Log::with(&[]).catalog;
    for n in 0..2_000 {
        catalog.take_address(&service(&format!("s{n}"))).unwrap();
    }
    let all: BTreeSet<_> = catalog.clusterset_ips.values().flatten().collect();
    assert_eq!(all.len(), 4_000);
}

#[test]
fn the_oldest_export_wins_and_ports_unite() {
    let mut log = Log::with(&["east", "central"]);
    let old = export("a", 10, vec![port("http", 80), port("admin", 9_000)]);
    let mut young = export("a", 20, vec![port("http", 8_080), port("metrics", 9_100)]);
    young.kind = ServiceKind::Headless;
    // The younger arrives first: the order of arrival does not matter.
    log.done("central", Command::PutExport(young));
    log.done("east", Command::PutExport(old.clone()));
    log.done("west", Command::PutExport(old));
    let merged = log.catalog.merged(&service("a")).unwrap();
    assert_eq!(merged.kind, ServiceKind::ClusterSetIp);
    let ports: Vec<_> = merged
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.port))
        .collect();
    assert_eq!(ports, [("http", 80), ("admin", 9_000), ("metrics", 9_100)]);
    assert_eq!(merged.exported_by.len(), 3);
    assert_eq!(merged.ips.len(), 2);
    let central = name("central");
    let expected = [
        Conflict::Kind {
            cluster: central.clone(),
        },
        Conflict::Port {
            port: 80,
            cluster: central.clone(),
        },
        Conflict::PortSet { cluster: central },
    ];
    assert_eq!(merged.conflicts, expected);
    // At the same age the name decides: east before west.
    log.done("east", Command::RemoveExport(service("a")));
    log.done("west", Command::RemoveExport(service("a")));
    let alone = log.catalog.merged(&service("a")).unwrap();
    assert_eq!((alone.kind, alone.ips.len()), (ServiceKind::Headless, 0));
    assert!(alone.conflicts.is_empty());
    assert_eq!(log.catalog.merged(&service("none")), None);
}

#[test]
fn the_last_active_cluster_is_not_drained() {
    let mut log = Log::with(&["east"]);
    let drain = |cluster: &str| Command::SetDraining {
        cluster: name(cluster),
        draining: true,
    };
    log.done("west", drain("east"));
    assert_eq!(
        log.refused("east", drain("west")),
        Refusal::LastActive(name("west"))
    );
    assert_eq!(
        log.refused("east", drain("none")),
        Refusal::NotMember(name("none"))
    );
}

#[test]
fn who_leaves_takes_everything_along_and_may_return() {
    let mut log = Log::with(&["east"]);
    log.done("east", Command::PutExport(export("a", 1, vec![])));
    assert_eq!(
        log.refused("west", Command::Leave),
        Refusal::HoldsRoot(name("west"))
    );
    log.done("east", Command::Leave);
    assert!(log.catalog.exports.is_empty());
    let east = log.catalog.domain.trust_domain(&name("east"));
    assert!(
        !log.catalog.trust().authorities.contains_key(&east),
        "revoked"
    );
    assert_eq!(
        log.catalog.clusters[&name("east")].state,
        ClusterState::Left
    );
    assert_eq!(
        log.refused("east", Command::RenewLease),
        Refusal::NotMember(name("east"))
    );
    log.done("west", Command::PutToken(token("again", u64::MAX, None)));
    let joined = log.put("west", join("again", "east"));
    assert!(
        matches!(joined, Outcome::Joined { node_id: 3, .. }),
        "{joined:?}"
    );
    log.done("east", Command::Leave);
    assert!(
        log.done("west", Command::Leave),
        "alone, even the founder may go"
    );
}

/// Any command, mostly sensible ones, over few names so that they meet.
fn any_command() -> impl Strategy<Value = (usize, u64, Command)> {
    let services = prop::sample::select(vec!["a", "b", "c"]);
    let clusters = prop::sample::select(vec!["west", "east", "south"]);
    let tokens = prop::sample::select(vec!["t1", "t2"]);
    let ports = prop::collection::btree_set(1_u16..5, 0..3);
    let put =
        (services.clone(), 0_u64..5, ports, any::<bool>()).prop_map(|(s, at, ports, kind)| {
            let mut export = export(s, at, ports.into_iter().map(|n| port("", n)).collect());
            if kind {
                export.kind = ServiceKind::Headless;
            }
            Command::PutExport(export)
        });
    let patch = (
        services.clone(),
        prop::collection::vec(0_usize..6, 0..4),
        0_usize..6,
    )
        .prop_map(|(s, add, gone)| Command::PatchExport {
            service: service(s),
            upsert: add.into_iter().map(|n| (id(n), endpoint(100))).collect(),
            remove: BTreeSet::from([id(gone)]),
        });
    let command = prop_oneof![
        4 => put,
        4 => patch,
        3 => services.prop_map(|s| Command::RemoveExport(service(s))),
        2 => (tokens.clone(), 0_u64..3_000).prop_map(|(t, at)| Command::PutToken(token(t, at, None))),
        1 => tokens.clone().prop_map(|t| Command::RevokeToken(t.to_owned())),
        3 => (tokens, clusters.clone()).prop_map(|(t, c)| join(t, c)),
        2 => (clusters, any::<bool>()).prop_map(|(c, draining)| Command::SetDraining {
            cluster: name(c),
            draining,
        }),
        1 => Just(Command::Leave),
        1 => Just(Command::RenewLease),
        1 => (0_u8..3).prop_map(|n| Command::Announce {
            gateways: vec![format!("g{n}:1")],
            version: "1".to_owned(),
            level: tradewind_api::store::LEVEL,
        }),
        1 => (1_u64..6, any::<bool>()).prop_map(|(node, never)| Command::SetVoting {
            node,
            voting: if never { Voting::Never } else { Voting::Auto },
        }),
        1 => (1_u64..6).prop_map(|node| Command::RemoveNode { node }),
        1 => proptest::option::of(1_u64..6).prop_map(|replaces| Command::AddNode { replaces }),
        1 => (1_u64..6).prop_map(|to| Command::NoteTransfer { to }),
        1 => (0_u8..4).prop_map(|n| Command::AddController { controller: controllers::record(n) }),
        1 => (1_u64..8, 0_u8..3).prop_map(|(node, n)| Command::PutController {
            node,
            address: format!("c{n}:15012"),
            level: tradewind_api::store::LEVEL,
        }),
        1 => (1_u64..8).prop_map(|node| Command::Speak { node }),
        1 => (1_u64..6).prop_map(|node| Command::PutNodeKey {
            node,
            public: Blob(vec![1; 32]),
        }),
        2 => (1_u64..6, 1_u64..6, any::<bool>()).prop_map(|(number, node, alone)| {
            Command::PutSealKey {
                number,
                public: Blob(vec![number.to_le_bytes()[0]; 32]),
                boxes: [(node, Blob(vec![2; 80]))].into(),
                alone,
            }
        }),
    ];
    (0_usize..3, 0_u64..3_000, command)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Invariant 4: the same log gives the same bytes, also through a snapshot taken anywhere on the way; and a cluster
    /// never changes what another exports (invariant 6).
    #[test]
    fn the_same_log_gives_the_same_bytes(
        commands in prop::collection::vec(any_command(), 0..60),
        snapshot_at in 0_usize..60,
    ) {
        let mut one = Log::with(&["east"]).catalog;
        let mut other = one.clone();
        let proposers = ["west", "east", "south"];
        for (step, (proposer, at_ms, command)) in commands.into_iter().enumerate() {
            let proposer = name(proposers[proposer]);
            let stamped = Stamped { proposer: proposer.clone(), at_ms, command, actor: None };
            let revision = one.revision + 1;
            let before = one.clone();
            let outcome = one.apply(revision, &stamped);
            prop_assert_eq!(one.validate(), Ok(()));
            if step == snapshot_at {
                let bytes = serde_json::to_vec(&other).unwrap();
                other = serde_json::from_slice(&bytes).unwrap();
            }
            // Through the log's own encoding, as a follower gets it.
            let frame = crate::codec::encode(&stamped, "a command").unwrap();
            let received: Stamped = crate::codec::decode(&frame, "a command").unwrap();
            prop_assert_eq!(other.apply(revision, &received), outcome);
            for cluster in proposers.map(name).iter().filter(|c| **c != proposer) {
                let own = |c: &Catalog| c.exports_of(cluster).cloned().collect::<Vec<_>>();
                prop_assert_eq!(own(&before), own(&one));
            }
            prop_assert!(before.next_node_id <= one.next_node_id);
        }
        prop_assert_eq!(serde_json::to_vec(&one).unwrap(), serde_json::to_vec(&other).unwrap());
    }
}
