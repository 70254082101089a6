//! What Gateway API's routes are told of themselves, in their `status.parents`. Others write there, too: what they say is left as it is.
//!
//! [`parents`] decides, purely. The list is one value to the API server, so it is written only over the version that it was made from.

use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::{
    client::Client,
    objects::Key,
    write::{MANAGER, WriteError, bounded, told},
};

/// Most parents in a status: the API's bound.
const MAX_PARENTS: usize = 32;
/// Whose parents are read of kinds that others define.
pub const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// A route and what it is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// `group/version`.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub key: Key,
    /// Entries of `status.parents` by this controller, without the conditions' times.
    pub parents: Vec<Value>,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the status of {} {}", self.kind, self.key)
    }
}

/// `status.parents` as it should be, or none where it is: the others' entries as they are, then ours. The moment of a condition is `now` only
/// where its status is another than before.
pub fn parents(there: &[Value], ours: &[Value], controller: &str, now: &str) -> Option<Vec<Value>> {
    let is_ours = |entry: &&Value| text(entry, "controllerName") == Some(controller);
    let before: Vec<&Value> = there.iter().filter(is_ours).collect();
    let others = there.iter().filter(|entry| !is_ours(entry));
    let mut all: Vec<Value> = others.cloned().collect();
    let room = MAX_PARENTS.saturating_sub(all.len());
    let ours = ours.get(..room).unwrap_or(ours);
    let same = before.len() == ours.len()
        && before
            .iter()
            .zip(ours)
            .all(|(before, entry)| without_times(before) == without_times(entry));
    if same {
        return None;
    }
    all.extend(ours.iter().map(|entry| with_times(entry, &before, now)));
    Some(all)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

fn conditions(entry: &Value) -> impl Iterator<Item = &Value> {
    let list = entry.get("conditions").and_then(Value::as_array);
    list.into_iter().flatten()
}

fn without_times(entry: &Value) -> Value {
    let mut entry = entry.clone();
    let list = entry.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in list.into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastTransitionTime");
        }
    }
    entry
}

fn with_times(entry: &Value, before: &[&Value], now: &str) -> Value {
    let last = before
        .iter()
        .find(|old| old.get("parentRef") == entry.get("parentRef"));
    let mut entry = entry.clone();
    let list = entry.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in list.into_iter().flatten() {
        let same = |old: &&Value| {
            ["type", "status"]
                .iter()
                .all(|key| old.get(*key) == condition.get(*key))
        };
        let since = last
            .and_then(|last| conditions(last).find(same))
            .and_then(|old| text(old, "lastTransitionTime"))
            .unwrap_or(now)
            .to_owned();
        if let Some(condition) = condition.as_object_mut() {
            condition.insert("lastTransitionTime".to_owned(), json!(since));
        }
    }
    entry
}

impl Client {
    /// Tells a route what it is to be told, if it does not say so already. One that is gone is told nothing.
    pub async fn tell_route(
        &self,
        told_of: &Told,
        controller: &str,
        now: &str,
    ) -> Result<(), WriteError> {
        let (group, version) = told_of
            .api_version
            .split_once('/')
            .unwrap_or(("", &told_of.api_version));
        let gvk = GroupVersionKind::gvk(group, version, &told_of.kind);
        let resource = ApiResource::from_gvk(&gvk);
        let api = self.api_of(&resource, &told_of.key.namespace);
        let done = bounded(write_parents(&api, &resource, told_of, controller, now)).await;
        told(told_of.to_string(), done)
    }
}

async fn write_parents(
    api: &Api<DynamicObject>,
    resource: &ApiResource,
    told_of: &Told,
    controller: &str,
    now: &str,
) -> Result<(), kube::Error> {
    let name = &told_of.key.name;
    let Some(found) = api.get_opt(name).await? else {
        return Ok(());
    };
    let there = found.data.pointer("/status/parents");
    let there = there.and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(parents) = parents(&there, &told_of.parents, controller, now) else {
        return Ok(());
    };
    let object = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": name,
            "namespace": told_of.key.namespace,
            "uid": found.metadata.uid,
            "resourceVersion": found.metadata.resource_version,
        },
        "status": { "parents": parents },
    });
    let apply = PatchParams::apply(MANAGER).force();
    api.patch_status(name, &apply, &Patch::Apply(&object))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";
    const US: &str = "tradewind.io/us";

    fn entry(controller: &str, name: &str, status: &str, since: Option<&str>) -> Value {
        let mut condition = json!({"type": "Accepted", "status": status, "reason": "r"});
        if let Some(since) = since {
            condition["lastTransitionTime"] = json!(since);
        }
        json!({"parentRef": {"name": name}, "controllerName": controller, "conditions": [condition]})
    }

    #[test]
    fn ours_stand_behind_the_others_and_equals_are_not_written() {
        let theirs = entry("example.com/gw", "g", "True", Some("before"));
        let ours = [entry(US, "cart", "True", None)];
        let written = parents(std::slice::from_ref(&theirs), &ours, US, NOW).unwrap();
        assert_eq!(written, [theirs, entry(US, "cart", "True", Some(NOW))]);
        assert_eq!(parents(&written, &ours, US, "later"), None);
        let none = parents(&written, &[], US, "later").unwrap();
        assert_eq!(none, written[..1]);
        assert_eq!(parents(&none, &[], US, NOW), None);
        assert_eq!(parents(&[], &[], US, NOW), None);
    }

    #[test]
    fn a_moment_changes_only_with_its_status() {
        let before = [entry(US, "cart", "True", Some("before"))];
        let mut other = entry(US, "cart", "True", None);
        other["conditions"][0]["reason"] = json!("another");
        let written = parents(&before, &[other], US, NOW).unwrap();
        assert_eq!(written[0]["conditions"][0]["lastTransitionTime"], "before");
        let now_false = [entry(US, "cart", "False", None)];
        let written = parents(&before, &now_false, US, NOW).unwrap();
        assert_eq!(written[0]["conditions"][0]["lastTransitionTime"], NOW);
        // Another parent of the same name's first condition is nobody's second.
        let another = [entry(US, "other", "True", None)];
        let written = parents(&before, &another, US, NOW).unwrap();
        assert_eq!(written[0]["conditions"][0]["lastTransitionTime"], NOW);
    }

    #[test]
    fn there_are_never_more_than_the_api_takes() {
        let others: Vec<Value> = (0..31)
            .map(|n| entry("example.com/gw", &n.to_string(), "True", Some(NOW)))
            .collect();
        let ours = [entry(US, "a", "True", None), entry(US, "b", "True", None)];
        let written = parents(&others, &ours, US, NOW).unwrap();
        assert_eq!(written.len(), MAX_PARENTS);
        assert_eq!(parents(&written, &ours, US, NOW), None);
        let full = parents(&written[..31], &[], US, NOW);
        assert_eq!(full, None);
    }
}
