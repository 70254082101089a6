//! Each check, once as it must be and once not.

use serde_json::json;

use super::{
    controllers::{Asked, Controller, Told},
    rights::{Account, Right},
    *,
};

fn well() -> Facts {
    let crd = |name: &str| {
        json!({
            "metadata": { "name": name, "labels": { "app.kubernetes.io/part-of": "tradewind" } },
            "status": { "conditions": [{ "type": "Established", "status": "True" }] },
        })
    };
    let workload = |name: &str| json!({ "metadata": { "name": name }, "spec": { "replicas": 1 }, "status": { "readyReplicas": 1 } });
    let pod = |name: &str| {
        json!({
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "initContainers": [{ "name": CAPTURE }, { "name": PROXY }] },
            "status": { "phase": "Running" },
        })
    };
    Facts {
        version: Some(Ok(("1".to_owned(), "33".to_owned()))),
        forbidden: Some(Ok(Vec::new())),
        crds: CRDS.iter().map(|name| crd(name)).collect(),
        namespaces: vec![
            json!({ "metadata": { "name": "shop", "labels": { "tradewind.io/injection": "enabled" } } }),
            json!({ "metadata": { "name": "kube-system" } }),
        ],
        namespace: "tradewind-system".to_owned(),
        workloads: vec![
            workload("tradewind-controller"),
            workload("tradewind-gateway"),
        ],
        webhook: Some(
            json!({ "webhooks": [{ "name": "a", "clientConfig": { "caBundle": "AAAA" } }] }),
        ),
        roots: vec!["shop".to_owned()],
        pods: vec![pod("cart")],
        account: Some(Ok(Account {
            asked: 100,
            missing: Vec::new(),
        })),
        controller: Some(Asked::Told(Told {
            cluster: "west".to_owned(),
            revision: 7,
            controllers: vec![controller(1), controller(4)],
            refused: Vec::new(),
        })),
    }
}

fn controller(node: u64) -> Controller {
    Controller {
        node,
        asked: node == 1,
        up: true,
        revision: 7,
        leader: Some(1),
        speaks: node == 4,
        ..Controller::default()
    }
}

/// Changes the controller that was not asked.
fn other(facts: &mut Facts, change: fn(&mut Controller)) {
    if let Some(Asked::Told(told)) = &mut facts.controller {
        told.controllers
            .iter_mut()
            .filter(|c| !c.asked)
            .for_each(change);
    }
}

fn result(facts: &Facts, look: Look, id: &str) -> (Outcome, String) {
    let all = judge(facts, look);
    let found = all
        .into_iter()
        .find(|finding| finding.check.id == id)
        .unwrap();
    (found.outcome, found.message)
}

#[test]
fn a_cluster_that_is_well_passes_everything() {
    for look in [Look::Pre, Look::Installed, Look::Host] {
        for finding in judge(&well(), look) {
            assert_eq!(
                finding.outcome,
                Outcome::Ok,
                "{}: {}",
                finding.check.id,
                finding.message
            );
        }
    }
}

type Break = fn(&mut Facts);
type Case = (&'static str, Look, Outcome, &'static str, Break);

fn of_controllers() -> [Case; 6] {
    [
        (
            "account-rights",
            Look::Installed,
            Outcome::Failed,
            "system:serviceaccount:tradewind-system:tradewind-controller may not list httproutes.gateway.networking.k8s.io",
            |f| {
                let missing = Right {
                    verb: "list".to_owned(),
                    group: "gateway.networking.k8s.io".to_owned(),
                    resource: "httproutes".to_owned(),
                    ..Right::default()
                };
                f.account = Some(Ok(Account {
                    asked: 100,
                    missing: vec![missing],
                }));
            },
        ),
        (
            "controller-answers",
            Look::Host,
            Outcome::Failed,
            "refused",
            |f| f.controller = Some(Asked::Silent("connection refused".to_owned())),
        ),
        (
            "controllers-heard",
            Look::Installed,
            Outcome::Failed,
            "node 4 is away for 35.0 s, never heard: gone",
            |f| {
                other(f, |one| {
                    (one.up, one.since_ms, one.error) = (false, 35_000, "gone".to_owned())
                })
            },
        ),
        (
            "controllers-follow",
            Look::Host,
            Outcome::Warning,
            "node 4 hears no leader",
            |f| other(f, |one| one.leader = None),
        ),
        (
            "controllers-speaker",
            Look::Host,
            Outcome::Failed,
            "none does",
            |f| other(f, |one| one.speaks = false),
        ),
        (
            "kinds-listed",
            Look::Host,
            Outcome::Failed,
            "Pod: no",
            |f| {
                if let Some(Asked::Told(told)) = &mut f.controller {
                    told.refused.push(("Pod".to_owned(), "no".to_owned()));
                }
            },
        ),
    ]
}

fn of_kubernetes() -> [Case; 12] {
    [
        (
            "api-answers",
            Look::Installed,
            Outcome::Failed,
            "refused",
            |f| f.version = Some(Err("refused".to_owned())),
        ),
        ("version", Look::Installed, Outcome::Failed, "1.28+", |f| {
            f.version = Some(Ok(("1".to_owned(), "28+".to_owned())))
        }),
        (
            "may-install",
            Look::Pre,
            Outcome::Failed,
            "create clusterroles",
            |f| f.forbidden = Some(Ok(vec!["create clusterroles".to_owned()])),
        ),
        (
            "crds-of-others",
            Look::Pre,
            Outcome::Warning,
            "serviceexports",
            |f| f.crds[0]["metadata"]["labels"] = json!({}),
        ),
        (
            "crds",
            Look::Installed,
            Outcome::Failed,
            "clusterproperties",
            |f| drop(f.crds.pop()),
        ),
        (
            "crds",
            Look::Installed,
            Outcome::Failed,
            "serviceexports",
            |f| f.crds[0]["status"] = json!({}),
        ),
        (
            "workloads",
            Look::Installed,
            Outcome::Failed,
            "tradewind-gateway 0/1",
            |f| f.workloads[1]["status"] = json!({}),
        ),
        (
            "workloads",
            Look::Installed,
            Outcome::Failed,
            "tradewind-controller is not there",
            |f| drop(f.workloads.remove(0)),
        ),
        (
            "webhook-certificate",
            Look::Installed,
            Outcome::Failed,
            "a has no caBundle",
            |f| f.webhook = Some(json!({ "webhooks": [{ "name": "a" }] })),
        ),
        (
            "root-published",
            Look::Installed,
            Outcome::Failed,
            "shop",
            |f| f.roots.clear(),
        ),
        (
            "pod-security",
            Look::Installed,
            Outcome::Warning,
            "shop",
            |f| {
                f.namespaces[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] =
                    json!("baseline");
            },
        ),
        (
            "pods-without-proxy",
            Look::Installed,
            Outcome::Warning,
            "1 of 1 have none: shop/cart",
            |f| f.pods[0]["spec"] = json!({}),
        ),
    ]
}

#[test]
fn each_check_finds_what_it_is_for() {
    let cases = of_kubernetes().into_iter().chain(of_controllers());
    let cases: Vec<Case> = cases.collect();
    for (id, look, outcome, word, break_it) in cases.iter().copied() {
        let mut facts = well();
        break_it(&mut facts);
        let (found, message) = result(&facts, look, id);
        assert_eq!(found, outcome, "{id}: {message}");
        assert!(message.contains(word), "{id}: {message}");
    }
    let tried: Vec<&str> = cases.iter().map(|case| case.0).collect();
    assert!(CHECKS.iter().all(|check| tried.contains(&check.id)));
}

#[test]
fn pods_that_want_none_are_not_missed() {
    for (path, value) in [
        ("labels", json!({ INJECT: "false" })),
        ("annotations", json!({ INJECT: "false" })),
    ] {
        let mut facts = well();
        facts.pods[0]["spec"] = json!({});
        facts.pods[0]["metadata"][path] = value;
        assert_eq!(
            result(&facts, Look::Installed, "pods-without-proxy").0,
            Outcome::Ok
        );
    }
    let mut facts = well();
    facts.pods[0]["spec"] = json!({ "hostNetwork": true });
    assert_eq!(
        result(&facts, Look::Installed, "pods-without-proxy").0,
        Outcome::Ok
    );
}

#[test]
fn nothing_is_concluded_from_an_api_server_that_is_away() {
    let facts = Facts {
        version: Some(Err("connection refused".to_owned())),
        ..Facts::default()
    };
    for finding in judge(&facts, Look::Installed).into_iter().skip(1) {
        assert_eq!(finding.outcome, Outcome::Skipped, "{}", finding.check.id);
    }
}

#[test]
fn every_check_is_documented() {
    const DOCUMENT: &str = include_str!("../../../docs/checks.md");
    for check in &CHECKS {
        assert!(
            DOCUMENT.contains(&format!("## {}\n", check.id)),
            "{} is not in docs/checks.md",
            check.id
        );
        let category = format!("Category {}; {}", check.category, check.when.as_str());
        assert!(DOCUMENT.contains(&category), "{}: {category}", check.id);
        assert!(
            DOCUMENT.contains(check.hint),
            "the hint of {} is not in docs/checks.md",
            check.id
        );
    }
    let documented = DOCUMENT
        .lines()
        .filter(|line| line.starts_with("## "))
        .count();
    assert_eq!(
        documented,
        CHECKS.len(),
        "docs/checks.md has a check that is none"
    );
}
