//! What the controllers' account must be allowed to do, right by right, from the chart's own rules. Pure.

use serde_json::Value;

use super::{Facts, Verdict, bad, listed, unknown};
use crate::install::ACCOUNT;

/// One thing that somebody may do at an API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Right {
    /// `list`, `patch`, and so on.
    pub verb: String,
    /// The API group; empty for the core one.
    pub group: String,
    /// In paths.
    pub resource: String,
    /// `status`, where only that is meant.
    pub subresource: Option<String>,
    /// Of the objects of this name alone.
    pub name: Option<String>,
}

/// As `kubectl auth can-i` takes it.
impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, "/{name}")?;
        }
        match &self.subresource {
            Some(subresource) => write!(f, " --subresource={subresource}"),
            None => Ok(()),
        }
    }
}

/// What the API server's authoriser says of the controllers' account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// How many rights were asked about.
    pub asked: usize,
    /// Those that it has not.
    pub missing: Vec<Right>,
}

/// The controllers' account, as an API server calls it.
pub fn account(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:{ACCOUNT}")
}

/// Each right that these rules of a role give.
pub fn of_rules(rules: &[Value]) -> Vec<Right> {
    let mut all = Vec::new();
    for rule in rules {
        let names = texts(rule, "resourceNames");
        let names: Vec<Option<&str>> = match names.as_slice() {
            [] => vec![None],
            names => names.iter().copied().map(Some).collect(),
        };
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                let (resource, subresource) = match resource.split_once('/') {
                    Some((resource, subresource)) => (resource, Some(subresource)),
                    None => (resource, None),
                };
                for verb in texts(rule, "verbs") {
                    all.extend(names.iter().map(|name| Right {
                        verb: verb.to_owned(),
                        group: group.to_owned(),
                        resource: resource.to_owned(),
                        subresource: subresource.map(ToOwned::to_owned),
                        name: name.map(ToOwned::to_owned),
                    }));
                }
            }
        }
    }
    all
}

fn texts<'a>(rule: &'a Value, field: &str) -> Vec<&'a str> {
    let all = rule.get(field).and_then(Value::as_array);
    all.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

pub(super) fn judge(facts: &Facts) -> Verdict {
    let who = account(&facts.namespace);
    match &facts.account {
        Some(Ok(found)) if found.missing.is_empty() => Ok(format!("all {} of {who}", found.asked)),
        Some(Ok(found)) => {
            let missing: Vec<String> = found.missing.iter().map(Right::to_string).collect();
            bad(format!("{who} may not {}", listed(&missing)))
        }
        Some(Err(why)) => unknown(why),
        None => unknown("it was not asked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::account_rules;

    #[test]
    fn the_charts_rules_become_one_question_a_right() {
        let told = |injection: bool| {
            let rules = account_rules(injection, "mesh").unwrap();
            let all = of_rules(&rules);
            let told: Vec<String> = all.iter().map(Right::to_string).collect();
            told
        };
        let (with, without) = (told(true), told(false));
        for wanted in [
            "list httproutes.gateway.networking.k8s.io",
            "watch pods",
            "patch serviceexports.multicluster.x-k8s.io --subresource=status",
            "update clusterproperties.about.k8s.io/clusterset.k8s.io",
            "create tokenreviews.authentication.k8s.io",
            "list configmaps/tradewind-root",
        ] {
            assert!(without.iter().any(|right| right == wanted), "{without:?}");
        }
        let only_with: Vec<&String> = with.iter().filter(|r| !without.contains(r)).collect();
        assert_eq!(
            only_with,
            [
                "get mutatingwebhookconfigurations.admissionregistration.k8s.io/tradewind-injection",
                "patch mutatingwebhookconfigurations.admissionregistration.k8s.io/tradewind-injection",
            ]
        );
        let mut once = with.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), with.len(), "the chart gives a right twice");
    }
}
