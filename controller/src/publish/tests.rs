//! Plans against a catalog that applies them: they always lead to what was desired, and then to nothing more.

use std::sync::Arc;

use proptest::prelude::*;
use tradewind_api::{
    ClusterName, Network,
    model::{ClusterState, Health, ServicePort},
    store::{Blob, ClusterRecord, Outcome, PublishedRules, Stamped},
};

use super::*;
use crate::{
    exports::Intent,
    local::tests::{merge, own, registered, registration},
    registry::RegisteredGateway,
    source::SourceModel,
};

pub(crate) fn record(name: &str, network: &str) -> ClusterRecord {
    ClusterRecord {
        name: ClusterName::new(name).unwrap(),
        region: own().region,
        network: Network::new(network).unwrap(),
        gateways: vec![],
        state: ClusterState::Active,
        nodes: [1].into(),
        authorities: [Blob(vec![1])].into(),
        version: "0.1.0".into(),
        joined_at_ms: 0,
        lease_at_ms: 0,
        level: tradewind_api::store::LEVEL,
        witness: false,
    }
}

pub(super) fn founded() -> Catalog {
    let mut catalog = Catalog::default();
    let command = Command::Found {
        domain: own().domain,
        root: Blob(vec![1]),
        cluster: record("west", "west"),
    };
    apply(&mut catalog, vec![command]);
    catalog
}

fn apply(catalog: &mut Catalog, commands: Vec<Command>) {
    for command in commands {
        let stamped = Stamped {
            proposer: own().cluster,
            at_ms: 1,
            command,
            actor: None,
        };
        let outcome = catalog.apply(catalog.revision + 1, &stamped);
        assert!(
            matches!(outcome, Outcome::Done { .. }),
            "{stamped:?}: {outcome:?}"
        );
    }
}

pub(super) fn model(all: &[(&str, u16, Health)]) -> LocalModel {
    let all = all
        .iter()
        .enumerate()
        .map(|(i, (s, p, h))| registration(s, *p, &format!("127.0.0.1:{}", 20_000 + i), *h));
    merge(&registered(all), &SourceModel::default(), &own())
}

pub(super) fn intents(names: &[(&str, bool)]) -> Intents {
    names
        .iter()
        .map(|(n, by_command)| {
            (
                n.parse().unwrap(),
                Intent {
                    created_at_ms: 7,
                    by_command: *by_command,
                },
            )
        })
        .collect()
}

fn step(catalog: &mut Catalog, intents: &Intents, local: &LocalModel) -> Vec<Command> {
    let before = published(catalog, &own());
    let wanted = desired(intents, local, &before, &own(), Tell::default());
    let commands = plan(&before, &wanted);
    apply(catalog, commands.clone());
    assert_eq!(published(catalog, &own()), wanted);
    commands
}

#[test]
fn whole_first_then_patches_then_withdrawn() {
    let mut catalog = founded();
    let wants = intents(&[("shop/payments", true)]);
    let one = [
        ("shop/payments", 80, Health::Healthy),
        ("shop/orders", 80, Health::Healthy),
    ];
    let first = step(&mut catalog, &wants, &model(&one));
    assert!(
        matches!(first.as_slice(), [Command::PutExport(e)] if e.endpoints.len() == 1),
        "{first:?}"
    );
    assert!(step(&mut catalog, &wants, &model(&one)).is_empty());

    let sick = [("shop/payments", 80, Health::Unhealthy)];
    let patch = step(&mut catalog, &wants, &model(&sick));
    assert!(
        matches!(patch.as_slice(), [Command::PatchExport { upsert, remove, .. }] if upsert.len() == 1 && remove.is_empty())
    );
    let wider = [
        ("shop/payments", 80, Health::Unhealthy),
        ("shop/payments", 81, Health::Healthy),
    ];
    assert!(matches!(
        step(&mut catalog, &wants, &model(&wider)).as_slice(),
        [Command::PutExport(_)]
    ));

    // All workloads left: by command it stays exported, empty.
    let empty = step(&mut catalog, &wants, &LocalModel::default());
    assert!(
        matches!(empty.as_slice(), [Command::PatchExport { remove, .. }] if remove.len() == 2),
        "{empty:?}"
    );
    let by_file = intents(&[("shop/payments", false)]);
    assert!(matches!(
        step(&mut catalog, &by_file, &LocalModel::default()).as_slice(),
        [Command::RemoveExport(_)]
    ));
}

#[test]
fn everything_again_is_whole_and_takes_strays_away() {
    let wants = intents(&[("shop/payments", true)]);
    let local = model(&[("shop/payments", 80, Health::Healthy)]);
    let wanted = desired(&wants, &local, &Desired::new(), &own(), Tell::default());
    let stray = Export {
        service: "shop/ledger".parse().unwrap(),
        ..wanted.values().next().unwrap().clone()
    };
    let shown = Desired::from([(stray.service.clone(), stray.clone())]);
    let commands = whole(&shown, &wanted);
    assert!(
        matches!(commands.as_slice(), [Command::RemoveExport(gone), Command::PutExport(_)] if *gone == stray.service),
        "{commands:?}"
    );
}

#[test]
fn addresses_are_published_on_a_shared_network_only() {
    let local = model(&[("shop/payments", 80, Health::Healthy)]);
    for shared in [false, true] {
        let wanted = desired(
            &intents(&[("shop/payments", true)]),
            &local,
            &Desired::new(),
            &own(),
            Tell {
                addresses: shared,
                ..Tell::default()
            },
        );
        let export = wanted.values().next().unwrap();
        assert_eq!(
            export.endpoints.values().next().unwrap().address.is_some(),
            shared
        );
        assert_eq!(
            export.endpoints.values().next().unwrap().account,
            "/ns/shop/sa/payments"
        );
    }
    let mut catalog = founded();
    assert!(!shares_network(&catalog, &own()));
    let east = record("east", "west");
    Arc::make_mut(&mut catalog.clusters).insert(east.name.clone(), east);
    assert!(shares_network(&catalog, &own()));
}

#[test]
fn labels_and_rules_are_published_once_all_members_know_them() {
    let mut local = model(&[("shop/payments", 80, Health::Healthy)]);
    let labels: Labels = [("version".to_owned(), "v2".to_owned())].into();
    let service = Arc::make_mut(local.services.values_mut().next().unwrap());
    let endpoint = service.endpoints.values_mut().next().unwrap();
    endpoint.labels.clone_from(&labels);
    let rules = PublishedRules {
        format: 1,
        json: "{}".to_owned(),
    };
    let name = local.services.keys().next().unwrap().clone();
    local.rules.insert(name, Arc::new(rules));
    let intents = intents(&[("shop/payments", true)]);
    let mut catalog = founded();
    for (level, expected) in [(LABELS - 1, Labels::new()), (LABELS, labels)] {
        catalog.level = level;
        let told = tell(&catalog, &own());
        let wanted = desired(&intents, &local, &Desired::new(), &own(), told);
        let export = wanted.values().next().unwrap();
        let endpoint = export.endpoints.values().next().unwrap();
        assert_eq!(endpoint.labels, expected);
        assert_eq!(export.rules.is_some(), level >= RULES);
        let command = Command::PutExport(export.clone());
        assert!(command.level() <= level, "the log takes it");
    }
}

#[test]
fn gateways_are_those_that_serve_and_never_none() {
    let gateway = |address: &str, draining, connected| RegisteredGateway {
        address: address.into(),
        draining,
        connected,
        last_seen_ms: 0,
    };
    let strings = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    for (registered, configured, announced, expected) in [
        (vec![], vec![], vec!["a:1"], vec!["a:1"]),
        (vec![], vec!["c:1"], vec!["a:1"], vec!["c:1"]),
        (
            vec![gateway("a:1", false, true), gateway("b:1", false, false)],
            vec![],
            vec![],
            vec!["a:1", "b:1"],
        ),
        (
            vec![gateway("a:1", true, true), gateway("b:1", false, true)],
            vec!["a:1"],
            vec!["a:1"],
            vec!["b:1"],
        ),
        // A killed one's successor has its address and drains.
        (
            vec![
                gateway("a:1", false, false),
                gateway("a:1", true, true),
                gateway("b:1", false, true),
            ],
            vec![],
            vec!["a:1", "b:1"],
            vec!["b:1"],
        ),
        (
            vec![gateway("a:1", true, true)],
            vec!["a:1"],
            vec!["a:1"],
            vec!["a:1"],
        ),
    ] {
        let registered = Registered {
            gateways: registered
                .into_iter()
                .enumerate()
                .map(|(i, g)| (i.to_string(), g))
                .collect(),
            ..Registered::default()
        };
        assert_eq!(
            gateways(&registered, &strings(&configured), &strings(&announced)),
            strings(&expected)
        );
    }
}

proptest! {
    #[test]
    fn any_history_is_followed(rounds in prop::collection::vec(
        (prop::collection::vec((0..3usize, 80..82u16, any::<bool>()), 0..6), prop::collection::vec((0..3usize, any::<bool>()), 0..3)),
        1..6,
    )) {
        const NAMES: [&str; 3] = ["shop/a", "shop/b", "bank/c"];
        let mut catalog = founded();
        for (workloads, wants) in rounds {
            let workloads: Vec<_> = workloads.into_iter().map(|(n, p, up)| (NAMES[n], p, if up { Health::Healthy } else { Health::Unknown })).collect();
            let wants: Vec<_> = wants.into_iter().map(|(n, c)| (NAMES[n], c)).collect();
            let (local, wants) = (model(&workloads), intents(&wants));
            step(&mut catalog, &wants, &local);
            prop_assert!(step(&mut catalog, &wants, &local).is_empty());
        }
    }

    #[test]
    fn ports_of_a_plan_are_sorted(ports in prop::collection::btree_set(1u16.., 0..10)) {
        let all: Vec<_> = ports.iter().map(|p| ("shop/a", *p, Health::Healthy)).collect();
        let local = model(&all);
        let wanted = desired(&intents(&[("shop/a", true)]), &local, &Desired::new(), &own(), Tell::default());
        for export in wanted.values() {
            let numbers: Vec<u16> = export.ports.iter().map(|p: &ServicePort| p.port).collect();
            prop_assert_eq!(numbers, ports.iter().copied().collect::<Vec<_>>());
        }
    }
}
