//! Pods in golden files, and what must hold for all of them.
//!
//! Each `golden/injection/NAME.in.yaml` is a pod as an API server sends it, `NAME.out.yaml` the answer and the pod as the API server
//! makes it of the answer. After a change that is meant, write them anew and read the difference:
//! `cargo test -p tradewind-kubernetes -- --ignored write_the_golden_files`.

use std::{fs, path::PathBuf};

use data_encoding::BASE64;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn settings() -> Settings {
    let mut settings = Settings::new("registry.example/tradewind:0.1.0", "tradewind.west");
    settings.version = "0.1.0".to_owned();
    settings
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/injection")
}

fn cases() -> Vec<(String, Value)> {
    let mut cases: Vec<(String, Value)> = fs::read_dir(dir())
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path
                .file_name()?
                .to_str()?
                .strip_suffix(".in.yaml")?
                .to_owned();
            let text = fs::read_to_string(&path).unwrap();
            Some((name, serde_saphyr::from_str(&text).unwrap()))
        })
        .collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(cases.len() >= 14, "golden files are missing");
    cases
}

fn case(name: &str) -> Value {
    let found = cases().into_iter().find(|(known, _)| known == name);
    found.unwrap().1
}

fn review(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "operation": "CREATE",
            "namespace": "shop",
            "object": pod,
        },
    })
}

fn ask(review: &Value) -> Answer {
    answer(review.to_string().as_bytes(), &settings()).unwrap()
}

/// The answer without its envelope, and the pod as the API server makes it: by an implementation of JSON Patch that is not ours.
fn outcome(pod: &Value) -> (Value, Value) {
    let mut answer = ask(&review(pod)).review["response"].clone();
    let mut pod = pod.clone();
    if let Some(patch) = answer.as_object_mut().unwrap().remove("patch") {
        let bytes = BASE64.decode(patch.as_str().unwrap().as_bytes()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
        json_patch::patch(&mut pod, &patch).unwrap();
    }
    (answer, pod)
}

fn golden(pod: &Value) -> String {
    let (answer, pod) = outcome(pod);
    serde_saphyr::to_string(&json!({ "answer": answer, "pod": pod })).unwrap()
}

#[test]
fn pods_become_what_the_golden_files_say() {
    for (name, pod) in cases() {
        let path = dir().join(format!("{name}.out.yaml"));
        let expected =
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(golden(&pod), expected, "{name}");
        let read: Value = serde_saphyr::from_str(&expected).unwrap();
        let (answer, pod) = outcome(&pod);
        assert_eq!(read, json!({ "answer": answer, "pod": pod }), "{name}");
    }
}

#[test]
#[ignore = "writes the golden files"]
fn write_the_golden_files() {
    for (name, pod) in cases() {
        fs::write(dir().join(format!("{name}.out.yaml")), golden(&pod)).unwrap();
    }
}

#[test]
fn a_pod_that_has_its_proxy_is_left_alone() {
    let mut injected = 0;
    for (name, pod) in cases() {
        let (_, once) = outcome(&pod);
        let (answer, twice) = outcome(&once);
        assert_eq!(once, twice, "{name}");
        if once != pod {
            injected += 1;
            assert_eq!(ask(&review(&once)).kind, Kind::Left("already"), "{name}");
            assert_eq!(answer.get("warnings"), None, "{name}");
        }
    }
    assert!(injected >= 8);
}

/// Another webhook ran between two calls of ours (reinvocation): it put a container of its own first and more volumes last.
#[test]
fn another_webhook_between_two_calls_changes_nothing() {
    let (_, mut pod) = outcome(&case("plain"));
    let first = json!({ "name": "theirs", "image": "theirs" });
    pod["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .insert(0, first);
    pod["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "theirs", "emptyDir": {} }));
    assert_eq!(outcome(&pod).1, pod);
}

/// A pod template that was copied from a running pod has the annotation, and no proxy.
#[test]
fn the_status_alone_is_not_believed() {
    let mut pod = case("plain");
    pod["metadata"]["annotations"] = json!({ STATUS: "{}" });
    assert_eq!(ask(&review(&pod)).kind, Kind::Injected);
}

#[test]
fn nothing_of_the_pod_itself_is_changed() {
    for (name, pod) in cases() {
        let (_, mut made) = outcome(&pod);
        let ours = |v: &Value| {
            let name = v["name"].as_str().unwrap_or_default();
            [PROXY, CAPTURE, IDENTITY_VOLUME, STATE_VOLUME].contains(&name)
        };
        for list in ["initContainers", "volumes"] {
            if let Some(all) = made["spec"].get_mut(list).and_then(Value::as_array_mut)
                && name != "name-taken"
            {
                all.retain(|v| !ours(v));
            }
        }
        for list in ["initContainers", "volumes"] {
            let empty = made["spec"].get(list) == Some(&json!([]));
            if empty {
                match pod["spec"].get(list) {
                    Some(before) => made["spec"][list] = before.clone(),
                    None => drop(made["spec"].as_object_mut().unwrap().remove(list)),
                }
            }
        }
        for (map, key) in [("annotations", STATUS), ("labels", PROXY_LABEL)] {
            if let Some(all) = made["metadata"].get_mut(map).and_then(Value::as_object_mut) {
                all.remove(key);
            }
            if made["metadata"].get(map) == Some(&json!({})) {
                match pod["metadata"].get(map) {
                    Some(before) => made["metadata"][map] = before.clone(),
                    None => drop(made["metadata"].as_object_mut().unwrap().remove(map)),
                }
            }
        }
        assert_eq!(made, pod, "{name}");
    }
}

#[test]
fn a_proxy_is_told_what_its_pod_is_labelled_with() {
    let mut pod = case("plain");
    let mut labels = json!({ "app": "web", "example.com/tier": "" });
    for number in 0..100 {
        labels[format!("zz-{number:03}")] = json!("x");
    }
    labels["a b"] = json!("what no API server lets through");
    pod["metadata"]["labels"] = labels;
    let (_, made) = outcome(&pod);
    let text = made["spec"]["initContainers"][1]["args"].to_string();
    assert!(
        text.contains(r#""--label=app=web","--label=example.com/tier=","--label=zz-000=x""#),
        "{text}"
    );
    assert_eq!(text.matches("--label=").count(), 64);
}

#[test]
fn the_label_goes_before_the_annotation() {
    let mut pod = case("plain");
    pod["metadata"]["annotations"] = json!({ INJECT: "true" });
    pod["metadata"]["labels"] = json!({ INJECT: "false" });
    assert_eq!(ask(&review(&pod)).kind, Kind::Left("opted-out"));
    pod["metadata"]["labels"] = json!({ INJECT: "yes" });
    let answer = ask(&review(&pod));
    assert_eq!(answer.kind, Kind::Denied);
    let message = answer.review["response"]["status"]["message"]
        .as_str()
        .unwrap();
    assert!(
        message.contains("tradewind.io/inject is \"yes\""),
        "{message}"
    );
}

#[test]
fn iptables_needs_raw_sockets_and_nftables_does_not() {
    let capabilities = |tool| {
        let mut settings = settings();
        settings.capture_tool = tool;
        let body = review(&case("plain")).to_string();
        let answer = answer(body.as_bytes(), &settings).unwrap();
        let patch = answer.review["response"]["patch"]
            .as_str()
            .unwrap()
            .to_owned();
        let patch: Value =
            serde_json::from_slice(&BASE64.decode(patch.as_bytes()).unwrap()).unwrap();
        let lists = patch.as_array().unwrap();
        let list = lists
            .iter()
            .find(|op| op["path"] == "/spec/initContainers")
            .unwrap();
        list["value"][0]["securityContext"]["capabilities"]["add"].clone()
    };
    assert_eq!(capabilities(Tool::Nft), json!(["NET_ADMIN"]));
    assert_eq!(
        capabilities(Tool::Iptables),
        json!(["NET_ADMIN", "NET_RAW"])
    );
}

#[test]
fn what_is_not_a_new_pod_goes_through_unchanged() {
    let mut other = review(&case("plain"));
    other["request"]["operation"] = json!("UPDATE");
    let mut sub = review(&case("plain"));
    sub["request"]["subResource"] = json!("eviction");
    let mut kind = review(&case("plain"));
    kind["request"]["kind"] = json!({ "group": "apps", "version": "v1", "kind": "Deployment" });
    for review in [other, sub, kind] {
        let answer = ask(&review);
        assert_eq!(answer.kind, Kind::Foreign);
        assert_eq!(answer.review["response"]["allowed"], true);
        assert_eq!(answer.review["response"].get("patch"), None);
    }
}

#[test]
fn what_is_no_review_is_refused_by_name() {
    for (body, word) in [
        ("", "JSON"),
        ("[]", "it is"),
        (
            r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#,
            "v1beta1",
        ),
        (
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
            "no request",
        ),
        (
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#,
            "uid",
        ),
    ] {
        let error = answer(body.as_bytes(), &settings())
            .unwrap_err()
            .to_string();
        assert!(error.contains(word), "{body}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(answer(deep.as_bytes(), &settings()).is_err());
}

#[test]
fn settings_are_read_and_refused() {
    let yaml = "image: a:1\naudience: tradewind.west\nresources: {cpu: 1, memoryLimit: 1Gi}\n";
    let read: Result<Settings, _> = serde_saphyr::from_str(yaml);
    let read = read.unwrap();
    assert_eq!(read.resources.memory.as_deref(), Some("64Mi"));
    assert_eq!(read.problem(), None);
    assert!(
        serde_saphyr::from_str::<Settings>("image: a\naudience: b\nimagePullPolcy: Never\n")
            .is_err()
    );
    let mut bad = settings();
    bad.resources.cpu = Some("lots".to_owned());
    assert!(bad.problem().unwrap().contains("resources.cpu"));
    bad = settings();
    bad.audience.clear();
    assert!(bad.problem().unwrap().contains("audience"));
}

/// Any JSON, with the words that the injection looks at in places where they mean something.
fn anything() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "metadata",
        "spec",
        "annotations",
        "labels",
        "initContainers",
        "containers",
        "volumes",
        "name",
        "ports",
        "containerPort",
        "protocol",
        "livenessProbe",
        "httpGet",
        "port",
        "hostNetwork",
        "os",
        "securityContext",
        "runAsUser",
        "lifecycle",
        "preStop",
        "tradewind.io/inject",
        "tradewind.io/inbound",
        "tradewind.io/proxy-cpu",
        "tradewind.io/capture-exclude-outbound-ports",
        "tradewind.io/status",
        "tradewind-proxy",
        "strict",
        "true",
        "false",
        "1337",
        "80",
    ])
    .prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u16..9).prop_map(Value::from),
        words.clone().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(words.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever a pod looks like: an answer, the same one twice, a patch that can be applied, and nothing to do the second time.
    #[test]
    fn no_pod_is_too_odd(metadata in anything(), spec in anything(), whole in anything(), use_whole in any::<bool>()) {
        let pod = if use_whole { whole } else { json!({ "metadata": metadata, "spec": spec }) };
        let first = ask(&review(&pod));
        prop_assert_eq!(&first, &ask(&review(&pod)));
        if first.kind == Kind::Injected {
            let (_, made) = outcome(&pod);
            prop_assert_eq!(ask(&review(&made)).kind, Kind::Left("already"));
        }
    }

    /// Good pods with a value somewhere replaced by anything.
    #[test]
    fn no_change_of_a_good_pod_is_too_odd(which in 0_usize..64, at in 0_usize..80, with in anything()) {
        fn replace(value: &mut Value, at: usize, with: &Value, seen: &mut usize) {
            match value {
                Value::Object(map) => map.values_mut().for_each(|v| replace(v, at, with, seen)),
                Value::Array(list) => list.iter_mut().for_each(|v| replace(v, at, with, seen)),
                _ => {}
            }
            if *seen == at {
                *value = with.clone();
            }
            *seen += 1;
        }
        let cases = cases();
        let mut pod = cases[which % cases.len()].1.clone();
        replace(&mut pod, at, &with, &mut 0);
        if ask(&review(&pod)).kind == Kind::Injected {
            let (_, made) = outcome(&pod);
            prop_assert_eq!(ask(&review(&made)).kind, Kind::Left("already"));
        }
    }
}
