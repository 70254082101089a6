//! The chart by Helm's own engine (`testenv helm-template`) and by ourselves: the same objects, the same refusals. What is YAML is read as
//! kubectl and Helm read it (`testenv read-manifests`), so that a word which only they take for a number or for true is found, too.
//!
//! Says that it is skipped where `testenv` was not built.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};
use tradewind_kubernetes::install::{NAMESPACE, Values, ValuesError, render, to_text};
use tradewind_tests::{
    kubernetes,
    namespaces::skipped,
    process::{self, Output},
};

/// What has no default.
const CLUSTER: &str = "cluster: {name: west, region: us-west, gateways: '127.1.0.1:15443'}\n";

/// Namespaces with values that together take each branch of the chart both ways; a test says so. Some are words that YAML takes for more
/// than words.
const CASES: [(&str, &str); 6] = [
    (NAMESPACE, CLUSTER),
    (
        "mesh",
        "cluster: {name: east, region: us-east, network: flat, gateways: 'a.example:15443,b.example:15443', found: false, domain: corp.example}\n\
         image: {repository: registry.example/tradewind, tag: '1.10', pullPolicy: Always}\n\
         controller: {replicas: 3, storage: {className: fast, size: 9Gi}, log: 'warn,tradewind=debug'}\n\
         gateway: {replicas: 5, service: {type: NodePort, nodePort: 31443, annotations: {a.example/b: 'c'}}}\n\
         dns: {clusterIP: 10.21.0.53}\n\
         injection: {istioLabel: true, failurePolicy: Ignore, inbound: strict, captureTool: iptables, resources: {cpuLimit: 200m}}\n\
         networkPolicy: {enabled: true}\n",
    ),
    (
        "on",
        "cluster: {name: 'on', region: eu, gateways: 'g:1'}\ninjection: {enabled: false}\ndns: {enabled: false}\n",
    ),
    (
        "1e3",
        "cluster: {name: '1e3', region: '7', gateways: 'g:1'}\ndns: {enabled: false}\nnetworkPolicy: {enabled: true}\n\
         controller: {hostWorkloads: true, storage: {className: 'yes'}}\n\
         image: {tag: '1'}\n",
    ),
    (
        "null",
        "cluster: {name: 'null', region: no-where, gateways: '[2001:db8::1]:15443'}\n\
         controller: {resources: {requests: {cpu: null, ephemeral-storage: 1Gi}, limits: null}}\n\
         gateway: {replicas: 1000000, resources: {requests: {cpu: 2, memory: 268435456}, limits: {cpu: 1.5}}, \
         service: {type: ClusterIP, annotations: {a.example/quoted: 'x: \"y\" <z> & # é', a.example/number: '8'}}}\n\
         dns: {replicas: 0}\n",
    ),
    (
        "7",
        "cluster: {name: s, region: r, gateways: 'g:1'}\ninjection: {inbound: permissive, resources: {cpu: '1', memoryLimit: '1e9'}}\n",
    ),
];

/// Words that Kubernetes would refuse, or that nobody would know.
const WRONG: [(&str, &str); 14] = [
    ("controller: {replicas: 0}", "/controller/replicas"),
    ("controller: {replicas: 4}", "/controller/replicas"),
    ("gateway: {replicas: -1}", "/gateway/replicas"),
    ("gateway: {replicas: '2'}", "/gateway/replicas"),
    (
        "gateway: {service: {nodePort: 65536}}",
        "/gateway/service/nodePort",
    ),
    (
        "gateway: {service: {type: ExternalName}}",
        "/gateway/service/type",
    ),
    (
        "gateway: {service: {annotations: {a: 1}}}",
        "/gateway/service/annotations/a",
    ),
    (
        "gateway: {resources: {limits: {cpu: true}}}",
        "/gateway/resources/limits/cpu",
    ),
    (
        "gateway: {resources: {limits: {cpu: -1}}}",
        "/gateway/resources/limits/cpu",
    ),
    ("image: {pullPolicy: Sometimes}", "/image/pullPolicy"),
    ("image: {tag: 1.2}", "/image/tag"),
    ("injection: {inbound: loose}", "/injection/inbound"),
    ("injection: {inbound: off}", "/injection/inbound"),
    ("injection: {captureTool: ebpf}", "/injection/captureTool"),
];

struct Helm {
    program: PathBuf,
    chart: PathBuf,
    dir: TempDir,
}

impl Helm {
    fn found(test: &str) -> Option<Self> {
        match kubernetes::program() {
            Ok(program) => Some(Self {
                program,
                chart: Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/tradewind"),
                dir: tempfile::tempdir().unwrap(),
            }),
            Err(why) => {
                skipped(&format!("{test}: {why}"));
                None
            }
        }
    }

    /// As `helm template --include-crds` with more words.
    async fn template(&self, namespace: &str, words: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command
            .args(["helm-template", "--name", "tradewind", "--include-crds"])
            .args(["--namespace", namespace])
            .args(words)
            .arg(&self.chart);
        process::finish(command).await
    }

    /// The same with a file of values.
    async fn with(&self, namespace: &str, values: &str, words: &[&str]) -> Output {
        let file = self.dir.path().join("values.yaml");
        std::fs::write(&file, values).unwrap();
        let file = file.to_string_lossy().into_owned();
        self.template(namespace, &[&["--values", &file], words].concat())
            .await
    }

    /// What kubectl reads there.
    async fn read(&self, manifests: &str) -> Vec<Value> {
        let mut child = Command::new(&self.program)
            .arg("read-manifests")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(manifests.as_bytes()).await.unwrap();
        drop(stdin);
        let out = child.wait_with_output().await.unwrap();
        assert!(out.status.success());
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn ours(yaml: &str) -> Result<Values, ValuesError> {
    let mut values = Values::default();
    values.merge(yaml)?;
    Ok(values)
}

fn id(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap();
    format!("{}/{}", text("/kind"), text("/metadata/name"))
}

fn by_id(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for object in objects {
        let id = id(&object);
        assert!(all.insert(id.clone(), object).is_none(), "{id} twice");
    }
    all
}

fn assert_same(place: &str, left: &BTreeMap<String, Value>, right: &BTreeMap<String, Value>) {
    let ids = |all: &BTreeMap<String, Value>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(ids(left), ids(right), "{place}");
    for (id, object) in left {
        assert_eq!(object, &right[id], "{place}: {id}");
    }
}

/// CRDs before all else, each account before who runs as it, and the webhook last: pods wait for it.
fn assert_order(objects: &[Value]) {
    let ids: Vec<String> = objects.iter().map(id).collect();
    let crds =
        |id: &String| id.starts_with("CustomResourceDefinition/") || id.starts_with("Namespace/");
    let first = ids.iter().take_while(|id| crds(id)).count();
    assert_eq!(first, ids.iter().filter(|id| crds(id)).count(), "{ids:?}");
    let hook = ids.iter().position(|id| id.starts_with("MutatingWebhook"));
    assert!(hook.is_none_or(|at| at + 1 == ids.len()), "{ids:?}");
    for (at, object) in objects.iter().enumerate() {
        let account = object.pointer("/spec/template/spec/serviceAccountName");
        if let Some(account) = account.and_then(Value::as_str) {
            let account = format!("ServiceAccount/{account}");
            let there = ids.iter().position(|id| *id == account);
            assert!(there.is_some_and(|there| there < at), "{account}: {ids:?}");
        }
    }
}

#[tokio::test]
async fn helm_and_we_render_the_same() {
    let Some(helm) = Helm::found("the chart by Helm") else {
        return;
    };
    for (namespace, yaml) in CASES {
        let manifests = render(&ours(yaml).unwrap(), namespace).unwrap();
        let printed = helm.read(&to_text(&manifests)).await;
        assert_order(&printed);
        let mut ours = by_id(manifests.into_iter().map(|manifest| manifest.object));
        assert_same(&format!("{namespace}, printed"), &ours, &by_id(printed));

        // Helm makes the namespace itself, with --create-namespace.
        assert!(ours.remove(&format!("Namespace/{namespace}")).is_some());
        let text = helm.with(namespace, yaml, &[]).await.good().stdout;
        let theirs = helm.read(&text).await;
        assert_order(&theirs);
        // Whatever else YAML could take it for.
        let places = theirs.iter().filter_map(|o| o["metadata"].get("namespace"));
        assert!(places.into_iter().all(|place| place == namespace));
        assert_same(namespace, &ours, &by_id(theirs));
    }
}

/// What the chart's README says to type, to both.
#[tokio::test]
async fn set_one_by_one_they_are_the_same() {
    let Some(helm) = Helm::found("values set for Helm") else {
        return;
    };
    let set = [
        "cluster.name=west",
        "cluster.region=us-west",
        "image.tag=v2",
        "dns.enabled=false",
        "gateway.service.nodePort=31443",
        "gateway.resources.limits.cpu=2",
    ];
    let mut values = Values::default();
    let mut words = Vec::new();
    for assignment in set {
        values.set(assignment).unwrap();
        words.extend(["--set", assignment]);
    }
    // Helm takes a comma for the beginning of the next one.
    values.set("cluster.gateways=a:1,b:2").unwrap();
    words.extend(["--set", r"cluster.gateways=a:1\,b:2"]);
    let text = helm.template(NAMESPACE, &words).await.good().stdout;
    let theirs = by_id(helm.read(&text).await);
    let ours = render(&values, NAMESPACE).unwrap().into_iter().skip(1);
    assert_same("--set", &by_id(ours.map(|m| m.object)), &theirs);
}

#[test]
fn the_cases_take_each_branch_both_ways() {
    let mut seen: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    let templates =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/tradewind/templates");
    for entry in std::fs::read_dir(templates).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for action in text.split("{{- if ").skip(1) {
            let condition = action.split_once(" }}").unwrap().0;
            let path = condition.trim_start_matches("not ").strip_prefix(".Values");
            let pointer = path.unwrap().replace('.', "/");
            for (_, yaml) in CASES {
                let values = ours(yaml).unwrap();
                let value = values.as_json().pointer(&pointer).unwrap();
                let no = [json!(false), json!(0), json!("")].contains(value);
                seen.entry(pointer.clone()).or_default().insert(!no);
            }
        }
    }
    assert!(seen.len() > 5, "{seen:?}");
    for (pointer, ways) in seen {
        assert_eq!(ways.len(), 2, "{pointer} is always the same");
    }
}

#[tokio::test]
async fn the_notes_say_what_is_to_be_done() {
    let Some(helm) = Helm::found("the chart's notes") else {
        return;
    };
    for (namespace, yaml) in CASES {
        let notes = helm.with(namespace, yaml, &["--notes"]).await.good().stdout;
        let values = ours(yaml).unwrap();
        let yes = |path: &str| values.as_json().pointer(path) == Some(&json!(true));
        let head = format!("Cluster {} of", values.text("cluster.name").unwrap());
        assert!(notes.starts_with(&head), "{notes}");
        assert!(
            notes.contains(&format!("installed in {namespace}.")),
            "{notes}"
        );
        assert_eq!(notes.contains("tradewind-join"), !yes("/cluster/found"));
        assert_eq!(notes.contains("tradewind-dns"), yes("/dns/enabled"));
        assert_eq!(
            notes.contains("injection=enabled"),
            yes("/injection/enabled")
        );
    }
}

#[tokio::test]
async fn what_has_no_default_is_asked_for_by_both() {
    let Some(helm) = Helm::found("required values by Helm") else {
        return;
    };
    for missing in ["name", "region", "gateways"] {
        for found in [true, false] {
            let yaml = format!("{CLUSTER}---\ncluster: {{{missing}: '', found: {found}}}\n");
            let theirs = helm.with(NAMESPACE, &yaml, &[]).await;
            let mut values = ours(CLUSTER).unwrap();
            values.set(&format!("cluster.{missing}=")).unwrap();
            values.set(&format!("cluster.found={found}")).unwrap();
            let error = render(&values, NAMESPACE).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("set cluster.{missing}")),
                "{error}"
            );
            assert_eq!(theirs.code, 1, "{}", theirs.stdout);
            assert!(theirs.stderr.contains(&error), "{}", theirs.stderr);
        }
    }
}

#[tokio::test]
async fn a_kubernetes_that_is_too_old_is_refused() {
    let Some(helm) = Helm::found("versions of Kubernetes by Helm") else {
        return;
    };
    for (version, works) in [
        ("1.28.15", false),
        ("1.29.0", true),
        ("v1.33.4-gke.1245000", true),
    ] {
        let words = ["--kube-version", version];
        let out = helm.with(NAMESPACE, CLUSTER, &words).await;
        assert_eq!(out.code == 0, works, "{version}: {}", out.stderr);
        assert_eq!(out.stderr.contains(">=1.29"), !works, "{version}");
    }
}

/// What Helm's schema complains of: where, and the members that it names.
fn complaints(out: &Output) -> BTreeSet<String> {
    assert_eq!(out.code, 1, "{}", out.stdout);
    let mut all = BTreeSet::new();
    for line in out.stderr.lines() {
        let Some((pointer, what)) = line
            .trim()
            .strip_prefix("- at '")
            .and_then(|l| l.split_once("': "))
        else {
            continue;
        };
        // A heading over several complaints below it.
        if what == "validation failed" {
            continue;
        }
        // Of a member that is not there, or not known, the map complains.
        let named = what.starts_with("missing prop") || what.starts_with("additional prop");
        let names = what.split('\'').skip(1).step_by(2);
        match named {
            true => all.extend(names.map(|name| format!("{pointer}/{name}"))),
            false => drop(all.insert(pointer.to_owned())),
        }
    }
    assert!(!all.is_empty(), "{}", out.stderr);
    all
}

/// Every value of the defaults that is no map, or every map: where, and which.
fn defaults(maps: bool) -> Vec<(String, Value)> {
    fn walk(at: &str, value: &Value, maps: bool, found: &mut Vec<(String, Value)>) {
        if value.is_object() == maps && !at.is_empty() {
            found.push((at.to_owned(), value.clone()));
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            walk(&format!("{at}/{key}"), value, maps, found);
        }
    }
    let mut found = Vec::new();
    walk("", Values::default().as_json(), maps, &mut found);
    assert!(found.len() > 10, "{found:?}");
    found
}

/// Puts `value` where `pointer` says, with maps around it.
fn put(document: &mut Value, pointer: &str, value: Value) {
    let (map, key) = pointer.rsplit_once('/').unwrap();
    if document.pointer(map).is_none() {
        put(document, map, json!({}));
    }
    document.pointer_mut(map).unwrap()[key] = value;
}

/// Sets each of these to something wrong: for Helm all at once, for us one by one. Both must refuse the same; told is what both accept.
async fn both_refuse(helm: &Helm, wrong: Vec<(String, Value)>) -> BTreeSet<String> {
    let mut all = serde_json::Map::new().into();
    let (mut refused, mut accepted) = (BTreeSet::new(), BTreeSet::new());
    for (pointer, value) in wrong {
        let mut alone = serde_json::Map::new().into();
        put(&mut alone, &pointer, value.clone());
        put(&mut all, &pointer, value);
        match ours(&alone.to_string()) {
            Ok(_) => drop(accepted.insert(pointer)),
            Err(error) => {
                let path = pointer.trim_start_matches('/').replace('/', ".");
                let error = error.to_string();
                assert!(error.contains(&path), "{path}: {error}");
                refused.insert(pointer);
            }
        }
    }
    let theirs = helm.with(NAMESPACE, &all.to_string(), &[]).await;
    assert_eq!(complaints(&theirs), refused, "{}", theirs.stderr);
    accepted
}

#[tokio::test]
async fn what_is_of_another_kind_is_refused_by_both() {
    let Some(helm) = Helm::found("wrong values by Helm") else {
        return;
    };
    let wrong = |(pointer, value): (String, Value)| {
        let wrong = match value {
            Value::String(_) => json!(true),
            Value::Bool(_) => json!("yes"),
            _ => json!("two"),
        };
        (pointer, wrong)
    };
    let others = defaults(false).into_iter().map(wrong).collect();
    assert_eq!(both_refuse(&helm, others).await, BTreeSet::new());
    // A map hides what stands in it: each depth by itself.
    for depth in 1..=3 {
        let deep = |(pointer, _): &(String, Value)| pointer.matches('/').count() == depth;
        let maps = defaults(true).into_iter().filter(deep).map(wrong).collect();
        assert_eq!(both_refuse(&helm, maps).await, BTreeSet::new());
    }
}

#[tokio::test]
async fn what_nobody_knows_is_refused_by_both() {
    let Some(helm) = Helm::found("unknown values by Helm") else {
        return;
    };
    let mut unknown = vec![("/nobody".to_owned(), json!("1"))];
    for (pointer, _) in defaults(true) {
        unknown.push((format!("{pointer}/nobody"), json!("1")));
    }
    let open = both_refuse(&helm, unknown).await;
    let known = [
        "/controller/resources/limits/nobody",
        "/controller/resources/requests/nobody",
        "/dns/resources/limits/nobody",
        "/dns/resources/requests/nobody",
        "/gateway/resources/limits/nobody",
        "/gateway/resources/requests/nobody",
        "/gateway/service/annotations/nobody",
    ];
    assert_eq!(open, known.map(ToOwned::to_owned).into());
    // A chart around this one may have values for all.
    let part = format!("{CLUSTER}global: {{anything: 1}}\n");
    helm.with(NAMESPACE, &part, &[]).await.good();
    assert!(ours(&part).is_err());
}

/// With Helm null takes a default away, and a template would go on without it.
#[tokio::test]
async fn what_is_taken_away_is_refused_by_both() {
    let Some(helm) = Helm::found("values taken away by Helm") else {
        return;
    };
    let null = |(pointer, _)| (pointer, Value::Null);
    let others = defaults(false).into_iter().map(null).collect();
    for pointer in both_refuse(&helm, others).await {
        let quantities = ["/resources/limits/", "/resources/requests/"];
        assert!(quantities.iter().any(|q| pointer.contains(q)), "{pointer}");
    }
    for (depth, may) in [(1, 0), (2, 0), (3, 6)] {
        let deep = |(pointer, _): &(String, Value)| pointer.matches('/').count() == depth;
        let maps = defaults(true).into_iter().filter(deep).map(null).collect();
        let accepted = both_refuse(&helm, maps).await;
        assert_eq!(accepted.len(), may, "{accepted:?}");
    }
}

#[tokio::test]
async fn what_kubernetes_would_refuse_is_refused_by_both() {
    let Some(helm) = Helm::found("bounds of values by Helm") else {
        return;
    };
    for (yaml, pointer) in WRONG {
        let theirs = helm.with(NAMESPACE, yaml, &[]).await;
        assert_eq!(complaints(&theirs), [pointer.to_owned()].into(), "{yaml}");
        let error = ours(yaml).unwrap_err().to_string();
        let path = pointer.trim_start_matches('/').replace('/', ".");
        assert!(error.starts_with(&path), "{yaml}: {error}");
    }
    // Amounts are read when they are rendered.
    for (amount, works) in [
        ("lots", false),
        ("1e19", false),
        ("1.5.1", false),
        ("-1", false),
        ("", false),
        ("1e18", true),
        (".5", true),
        ("2Gi", true),
    ] {
        let yaml = format!("{CLUSTER}injection: {{resources: {{cpu: '{amount}'}}}}\n");
        let theirs = helm.with(NAMESPACE, &yaml, &[]).await;
        assert_eq!(theirs.code == 0, works, "{amount}: {}", theirs.stderr);
        let ours = render(&ours(&yaml).unwrap(), NAMESPACE);
        assert_eq!(ours.is_ok(), works, "{amount}");
    }
}
