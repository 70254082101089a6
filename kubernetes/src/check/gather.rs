//! Asks an API server for what the checks look at.

use serde_json::Value;

use super::Facts;
use crate::install::cluster::{Cluster, ClusterError};

/// What installing needs, as (group, resource, verb).
const RIGHTS: [(&str, &str, &str); 10] = [
    ("", "namespaces", "create"),
    ("", "serviceaccounts", "create"),
    ("", "services", "create"),
    ("", "configmaps", "create"),
    ("apps", "statefulsets", "create"),
    ("apps", "deployments", "create"),
    (
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "create",
    ),
    ("rbac.authorization.k8s.io", "clusterroles", "create"),
    ("rbac.authorization.k8s.io", "roles", "create"),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        "create",
    ),
];

/// Gathers the facts. An API server that does not answer is a fact; one that answers and then does not is an error.
pub async fn facts(cluster: &Cluster, namespace: &str, pre: bool) -> Result<Facts, ClusterError> {
    let mut facts = Facts {
        namespace: namespace.to_owned(),
        ..Facts::default()
    };
    match cluster.version().await {
        Ok(version) => facts.version = Some(Ok((version.major, version.minor))),
        Err(error) => {
            facts.version = Some(Err(error.to_string()));
            return Ok(facts);
        }
    }
    facts.crds = cluster.list("CustomResourceDefinition", None).await?;
    if pre {
        let mut forbidden = Vec::new();
        for (group, resource, verb) in RIGHTS {
            if !cluster.may(group, resource, verb).await? {
                forbidden.push(format!("{verb} {resource}"));
            }
        }
        facts.forbidden = Some(Ok(forbidden));
        return Ok(facts);
    }
    facts.namespaces = cluster.list("Namespace", None).await?;
    for kind in ["StatefulSet", "Deployment"] {
        let all = cluster.list(kind, Some(namespace)).await?;
        let ours = |object: &Value| {
            object
                .pointer("/metadata/labels/app.kubernetes.io~1part-of")
                .and_then(Value::as_str)
                == Some("tradewind")
        };
        facts.workloads.extend(all.into_iter().filter(ours));
    }
    let webhooks = cluster.list("MutatingWebhookConfiguration", None).await?;
    let named = |object: &Value, name: &str| {
        object.pointer("/metadata/name").and_then(Value::as_str) == Some(name)
    };
    facts.webhook = webhooks
        .into_iter()
        .find(|object| named(object, "tradewind-injection"));
    facts.roots = cluster.namespaces_with_root(crate::managed::ROOTS).await?;
    facts.pods = cluster.list("Pod", None).await?;
    Ok(facts)
}
