//! Each check, once as it must be and once not.

use serde_json::json;

use super::*;

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
    }
}

fn result(facts: &Facts, pre: bool, id: &str) -> (Outcome, String) {
    let all = judge(facts, pre);
    let found = all
        .into_iter()
        .find(|finding| finding.check.id == id)
        .unwrap();
    (found.outcome, found.message)
}

#[test]
fn a_cluster_that_is_well_passes_everything() {
    for pre in [true, false] {
        for finding in judge(&well(), pre) {
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

#[test]
fn each_check_finds_what_it_is_for() {
    let cases: [(&str, bool, Outcome, &str, Break); 12] = [
        ("api-answers", false, Outcome::Failed, "refused", |f| {
            f.version = Some(Err("refused".to_owned()))
        }),
        ("version", false, Outcome::Failed, "1.28+", |f| {
            f.version = Some(Ok(("1".to_owned(), "28+".to_owned())))
        }),
        (
            "may-install",
            true,
            Outcome::Failed,
            "create clusterroles",
            |f| f.forbidden = Some(Ok(vec!["create clusterroles".to_owned()])),
        ),
        (
            "crds-of-others",
            true,
            Outcome::Warning,
            "serviceexports",
            |f| f.crds[0]["metadata"]["labels"] = json!({}),
        ),
        ("crds", false, Outcome::Failed, "clusterproperties", |f| {
            drop(f.crds.pop())
        }),
        ("crds", false, Outcome::Failed, "serviceexports", |f| {
            f.crds[0]["status"] = json!({})
        }),
        (
            "workloads",
            false,
            Outcome::Failed,
            "tradewind-gateway 0/1",
            |f| f.workloads[1]["status"] = json!({}),
        ),
        (
            "workloads",
            false,
            Outcome::Failed,
            "tradewind-controller is not there",
            |f| drop(f.workloads.remove(0)),
        ),
        (
            "webhook-certificate",
            false,
            Outcome::Failed,
            "a has no caBundle",
            |f| f.webhook = Some(json!({ "webhooks": [{ "name": "a" }] })),
        ),
        ("root-published", false, Outcome::Failed, "shop", |f| {
            f.roots.clear()
        }),
        ("pod-security", false, Outcome::Warning, "shop", |f| {
            f.namespaces[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] =
                json!("baseline");
        }),
        (
            "pods-without-proxy",
            false,
            Outcome::Warning,
            "1 of 1 have none: shop/cart",
            |f| f.pods[0]["spec"] = json!({}),
        ),
    ];
    for (id, pre, outcome, word, break_it) in cases {
        let mut facts = well();
        break_it(&mut facts);
        let (found, message) = result(&facts, pre, id);
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
        assert_eq!(result(&facts, false, "pods-without-proxy").0, Outcome::Ok);
    }
    let mut facts = well();
    facts.pods[0]["spec"] = json!({ "hostNetwork": true });
    assert_eq!(result(&facts, false, "pods-without-proxy").0, Outcome::Ok);
}

#[test]
fn nothing_is_concluded_from_an_api_server_that_is_away() {
    let facts = Facts {
        version: Some(Err("connection refused".to_owned())),
        ..Facts::default()
    };
    for finding in judge(&facts, false).into_iter().skip(1) {
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
