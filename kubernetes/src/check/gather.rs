//! Asks an API server for what the checks look at.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use super::{
    Facts,
    rights::{self, Account, Right},
};
use crate::install::{
    self,
    cluster::{Cluster, ClusterError},
};

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

/// Rights asked about at a time: there are a hundred, and an API server answers each from memory.
const AT_A_TIME: usize = 8;

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
    facts.account = Some(account(cluster, namespace, facts.webhook.is_some()).await?);
    Ok(facts)
}

/// What the controllers' account may not do of what the chart lets it; or why that cannot be asked.
async fn account(
    cluster: &Cluster,
    namespace: &str,
    injection: bool,
) -> Result<Result<Account, String>, ClusterError> {
    let (user, own) = (
        rights::account(namespace),
        Right {
            verb: "create".to_owned(),
            group: "authorization.k8s.io".to_owned(),
            resource: "subjectaccessreviews".to_owned(),
            ..Right::default()
        },
    );
    if !cluster.may(&own.group, &own.resource, &own.verb).await? {
        return Ok(Err(format!("you may not {own}")));
    }
    let rules = match install::account_rules(injection, namespace) {
        Ok(rules) => rules,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let wanted = rights::of_rules(&rules);
    let asked = wanted.len();
    let questions = wanted.into_iter().map(|right| async {
        let may = cluster.account_may(&user, namespace, &right).await?;
        Ok::<_, ClusterError>((!may).then_some(right))
    });
    let missing: Vec<_> = stream::iter(questions)
        .buffered(AT_A_TIME)
        .try_collect()
        .await?;
    let missing = missing.into_iter().flatten().collect();
    Ok(Ok(Account { asked, missing }))
}
