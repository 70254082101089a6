//! Every container that starts this program, in the chart and in injected pods, by the real command line: a manifest that is ahead of the
//! program makes pods that end as soon as they begin.

use std::{collections::BTreeSet, path::Path};

use clap::{
    CommandFactory as _,
    error::{ContextKind, ContextValue, ErrorKind},
};
use serde_json::Value;
use tradewind_kubernetes::install::{NAMESPACE, Values, render};

use crate::args::Cli;

/// Settings that take each branch of the chart's arguments one way or the other.
const CASES: [&str; 3] = [
    "cluster: {name: west, region: us-west, gateways: '127.1.0.1:15443'}",
    "cluster: {name: east, region: us-east, gateways: 'a.example:15443,b.example:15443', found: false, domain: corp.example}",
    "cluster: {name: north, region: eu, gateways: 'g:1'}\ninjection: {enabled: false}",
];

#[test]
fn no_manifest_says_what_the_program_does_not_know() {
    let mut found = Found::default();
    for values in CASES {
        let mut all = Values::default();
        all.merge(values).unwrap();
        for manifest in render(&all, NAMESPACE).unwrap() {
            found.look_at(manifest.source, manifest.object.pointer("/spec/template"));
        }
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kubernetes/golden/injection");
    for entry in std::fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".out.yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let review: Value = serde_saphyr::from_str(&text).unwrap();
            found.look_at(name, review.get("pod"));
        }
    }
    let roles = [
        "init",
        "join",
        "add-controller",
        "controller",
        "gateway",
        "dns",
        "proxy",
    ];
    let roles = roles.map(ToOwned::to_owned);
    assert_eq!(found.roles, roles.into());
    assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
}

#[derive(Default)]
struct Found {
    /// First words of all command lines.
    roles: BTreeSet<String>,
    /// What is not understood, once.
    wrong: BTreeSet<String>,
}

impl Found {
    fn look_at(&mut self, place: &str, pod: Option<&Value>) {
        for list in ["initContainers", "containers"] {
            let containers = pod.and_then(|pod| pod["spec"][list].as_array());
            for container in containers.into_iter().flatten() {
                let image = container["image"].as_str().unwrap_or_default();
                if image.contains("tradewind") {
                    self.parse(place, container);
                }
            }
        }
    }

    fn parse(&mut self, place: &str, container: &Value) {
        let args = container["args"].as_array().unwrap();
        let mut words: Vec<String> = args
            .iter()
            .map(|word| expanded(word.as_str().unwrap()))
            .collect();
        let role = words.first().cloned().unwrap_or_default();
        self.roles.insert(role.clone());
        words.insert(0, "tradewind".to_owned());
        // One flag that is not known hides the next: each is taken away when it was told.
        while let Err(error) = Cli::command().try_get_matches_from(&words) {
            let unknown = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(flag)) if error.kind() == ErrorKind::UnknownArgument => {
                    flag.clone()
                }
                _ => {
                    self.wrong.insert(format!("{place}: {role}: {error}"));
                    return;
                }
            };
            let before = words.len();
            words.retain(|word| word.split('=').next() != Some(unknown.as_str()));
            assert!(words.len() < before, "{unknown} is not in {words:?}");
            self.wrong
                .insert(format!("{place}: {role} has no {unknown}"));
        }
    }
}

/// As the kubelet puts the pod's own facts in.
fn expanded(word: &str) -> String {
    [
        ("$(POD_NAME)", "cart-0"),
        ("$(POD_NAMESPACE)", "shop"),
        ("$(POD_SERVICE_ACCOUNT)", "default"),
        ("$(POD_IP)", "10.1.0.7"),
    ]
    .iter()
    .fold(word.to_owned(), |word, (from, to)| word.replace(from, to))
}
