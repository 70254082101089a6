//! What is put into a Kubernetes cluster: the chart of `deploy/`, rendered without Helm.
//!
//! The chart's own files are the one source: they are part of the program, and what renders them ([`template`]) knows just as much
//! of Helm's language as they use. So `tradewind install` and `helm install` cannot drift apart, the reasons beside each rule are in
//! both, and a test compares what comes out with what Helm's own engine makes. Pure but for [`cluster`], which speaks with an API server.

pub mod cluster;
mod schema;
pub mod template;
pub mod values;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub use template::TemplateError;
pub use values::{Values, ValuesError};

/// Where everything goes unless told otherwise.
pub const NAMESPACE: &str = "tradewind-system";
/// The controllers' service account, and the ClusterRole with its rights.
pub const ACCOUNT: &str = "tradewind-controller";
/// The label of all that is installed, and of what the controller makes.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "tradewind");
/// The chart's default values, with a word for each.
pub const DEFAULT_VALUES: &str = include_str!("../../deploy/chart/tradewind/values.yaml");

const CHART: &str = include_str!("../../deploy/chart/tradewind/Chart.yaml");

/// What values may be, for Helm and for [`Values`].
const VALUES_SCHEMA: &str = include_str!("../../deploy/chart/tradewind/values.schema.json");

/// A chart's file, by its name in the chart.
type File = (&'static str, &'static str);

const CRDS: [File; 3] = [
    (
        "crds/clusterproperties.yaml",
        include_str!("../../deploy/chart/tradewind/crds/clusterproperties.yaml"),
    ),
    (
        "crds/serviceexports.yaml",
        include_str!("../../deploy/chart/tradewind/crds/serviceexports.yaml"),
    ),
    (
        "crds/serviceimports.yaml",
        include_str!("../../deploy/chart/tradewind/crds/serviceimports.yaml"),
    ),
];

/// Who may what.
const RIGHTS: File = (
    "templates/rbac.yaml",
    include_str!("../../deploy/chart/tradewind/templates/rbac.yaml"),
);

// In the order in which they are applied: who may what, before who does it; the webhook last, since pods wait for it.
const TEMPLATES: [File; 7] = [
    RIGHTS,
    (
        "templates/operator.yaml",
        include_str!("../../deploy/chart/tradewind/templates/operator.yaml"),
    ),
    (
        "templates/network-policy.yaml",
        include_str!("../../deploy/chart/tradewind/templates/network-policy.yaml"),
    ),
    (
        "templates/controller.yaml",
        include_str!("../../deploy/chart/tradewind/templates/controller.yaml"),
    ),
    (
        "templates/gateway.yaml",
        include_str!("../../deploy/chart/tradewind/templates/gateway.yaml"),
    ),
    (
        "templates/dns.yaml",
        include_str!("../../deploy/chart/tradewind/templates/dns.yaml"),
    ),
    (
        "templates/injection.yaml",
        include_str!("../../deploy/chart/tradewind/templates/injection.yaml"),
    ),
];

/// One object that is installed.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The chart's file.
    pub source: &'static str,
    /// As YAML, with the words beside it.
    pub text: String,
    /// The object.
    pub object: Value,
}

impl Manifest {
    /// `Kind/name`.
    pub fn id(&self) -> String {
        let text = |path: &str| self.object.pointer(path).and_then(Value::as_str);
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        format!("{}/{}", kind.unwrap_or("?"), name.unwrap_or("?"))
    }
}

/// Why nothing can be installed.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// What was set is not enough, or wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// What comes out is no YAML: a value breaks it.
    #[error("{source_file} becomes no valid YAML with these values: {why}")]
    Yaml {
        /// The chart's file.
        source_file: &'static str,
        /// What is wrong.
        why: String,
    },
    /// What pods would be given cannot be used.
    #[error("the values of injection are not valid: {0}")]
    Injection(String),
}

/// All objects, in the order in which they are to be applied: the namespace, the CRDs, everything else.
pub fn render(values: &Values, namespace: &str) -> Result<Vec<Manifest>, RenderError> {
    let world = world(values, namespace);
    let mut all = vec![the_namespace(namespace)];
    for (source, text) in CRDS {
        all.extend(documents(source, text)?);
    }
    for (source, text) in TEMPLATES {
        all.extend(documents(source, &template::render(source, text, &world)?)?);
    }
    check_injection(&all)?;
    Ok(all)
}

/// The rules of the controllers' account, as the chart has them with or without injection.
pub fn account_rules(injection: bool, namespace: &str) -> Result<Vec<Value>, RenderError> {
    let mut values = Values::default();
    // It is a value of the chart, so that nothing can be wrong with it.
    let _ = values.set(&format!("injection.enabled={injection}"));
    let world = world(&values, namespace);
    let (source, text) = RIGHTS;
    let all = documents(source, &template::render(source, text, &world)?)?;
    let role = all
        .into_iter()
        .find(|manifest| manifest.id() == format!("ClusterRole/{ACCOUNT}"));
    let rules = role.and_then(|role| role.object.get("rules")?.as_array().cloned());
    Ok(rules.unwrap_or_default())
}

/// What templates are rendered with.
fn world(values: &Values, namespace: &str) -> Value {
    let chart: Value = serde_saphyr::from_str(CHART).unwrap_or_default();
    let text = |key: &str| chart.get(key).and_then(Value::as_str).unwrap_or_default();
    json!({
        "Values": values.as_json(),
        "Release": { "Namespace": namespace },
        "Chart": { "AppVersion": text("appVersion"), "Version": text("version") },
    })
}

/// Everything as one text, ready for `kubectl apply -f -`.
pub fn to_text(manifests: &[Manifest]) -> String {
    let all = manifests.iter().map(|manifest| {
        let (source, text) = (manifest.source, manifest.text.trim());
        format!("---\n# Source: {source}\n{text}\n")
    });
    all.collect()
}

/// Helm makes it with `--create-namespace`, so that it is no part of the chart. Nothing of ours needs a privilege.
fn the_namespace(name: &str) -> Manifest {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": { PART_OF.0: PART_OF.1, "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted" },
        },
    });
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: \"{name}\"\n  labels: {{{}: {}, pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}}\n",
        PART_OF.0, PART_OF.1
    );
    Manifest {
        source: "namespace",
        text,
        object,
    }
}

/// The objects of a file. What is only words goes with the object after it.
fn documents(source: &'static str, text: &str) -> Result<Vec<Manifest>, RenderError> {
    let mut all = Vec::new();
    for part in split(text) {
        let object: Value = serde_saphyr::from_str(&part).map_err(|e| RenderError::Yaml {
            source_file: source,
            why: e.to_string(),
        })?;
        if object.is_object() {
            all.push(Manifest {
                source,
                text: part,
                object,
            });
        }
    }
    Ok(all)
}

fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        if line == "---" {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let is_empty = |part: &str| {
        part.lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    };
    parts.retain(|part| !is_empty(part));
    parts
}

/// The controller would refuse these settings when it starts; they are refused here.
fn check_injection(all: &[Manifest]) -> Result<(), RenderError> {
    let text = all
        .iter()
        .find_map(|m| m.object.pointer("/data/injection.yaml")?.as_str());
    let Some(text) = text else {
        return Ok(());
    };
    let settings: crate::injection::Settings =
        serde_saphyr::from_str(text).map_err(|e| RenderError::Injection(e.to_string()))?;
    match settings.problem() {
        Some(problem) => Err(RenderError::Injection(problem)),
        None => Ok(()),
    }
}
