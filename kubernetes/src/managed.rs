//! Objects that the mesh itself keeps in an API server: what there should be against what is there gives the steps between. Pure.
//!
//! Owned objects carry a label, by which they are watched and found again, and a mark of what was applied last, so that a field which is
//! no longer wanted goes, too. Nothing without the label is ever changed or removed, but for an import, which the API gives to its controller alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{objects::Key, watch::Served};

/// The label of all objects that are kept here.
pub const OWNED_LABEL: &str = "tradewind.io/owned-by";
/// Its value.
pub const OWNER: &str = "controller";
/// The ConfigMap with the federation's roots, in each namespace that Pods may run in.
pub const ROOTS: &str = "tradewind-root";
/// The annotation that says what was applied last.
const MARK: &str = "tradewind.io/applied";

/// A kind that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// What a service of the clusterset is in this cluster.
    Import,
    /// Endpoints of an import.
    Slice,
    /// The roots, for Pods to begin with.
    ConfigMap,
    /// What this cluster is called, and where it belongs.
    ClusterProperty,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Import,
        Self::Slice,
        Self::ConfigMap,
        Self::ClusterProperty,
    ];

    /// API group, version, kind and name in paths.
    pub const fn names(self) -> [&'static str; 4] {
        match self {
            Self::Import => [
                "multicluster.x-k8s.io",
                "v1beta1",
                "ServiceImport",
                "serviceimports",
            ],
            Self::Slice => ["discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"],
            Self::ConfigMap => ["", "v1", "ConfigMap", "configmaps"],
            Self::ClusterProperty => [
                "about.k8s.io",
                "v1beta1",
                "ClusterProperty",
                "clusterproperties",
            ],
        }
    }

    pub(crate) const fn served(self) -> Served {
        let [group, _, kind, plural] = self.names();
        Served {
            group,
            versions: match self {
                Self::Slice | Self::ConfigMap => &["v1"],
                Self::Import | Self::ClusterProperty => &["v1beta1"],
            },
            kind,
            plural,
        }
    }

    /// The one name that all of them have, where they do: rights can be given for a name, and are, so nothing else may be asked for.
    pub(crate) const fn only_name(self) -> Option<&'static str> {
        match self {
            Self::ConfigMap => Some(ROOTS),
            Self::Import | Self::Slice | Self::ClusterProperty => None,
        }
    }

    /// As its objects say it.
    pub fn api_version(self) -> String {
        let [group, version, ..] = self.names();
        if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        }
    }
}

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// Of which kind.
    pub resource: Resource,
    /// Its name.
    pub key: Key,
    /// Everything but its name and kind: `metadata`'s labels and annotations, `spec`, `data` and so on.
    pub object: Value,
    /// Its status, where it has one. What stands in `lastTransitionTime` is kept while the condition's status is the same.
    pub status: Option<Value>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make it so.
    Apply(Resource, Key, Value),
    /// Make its status so.
    ApplyStatus(Resource, Key, Value),
    /// Take it away.
    Delete(Resource, Key),
}

/// What is there, by kind and name.
pub type Observed = BTreeMap<(Resource, Key), Arc<Value>>;

/// The steps from what is there to what should be. Kinds that the API server does not serve are left out.
pub fn plan(desired: &[Body], observed: &Observed, absent: &BTreeSet<Resource>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut wanted = BTreeSet::new();
    for body in desired.iter().filter(|b| !absent.contains(&b.resource)) {
        let slot = (body.resource, body.key.clone());
        let there = observed.get(&slot);
        let object = whole(body);
        if there.is_none_or(|there| mark_of(there) != mark_of(&object) || !covers(there, &object)) {
            steps.push(Step::Apply(body.resource, body.key.clone(), object));
        }
        if let Some(status) = &body.status {
            let now = there.and_then(|t| t.get("status"));
            if now.is_none_or(|now| !covers_status(now, status)) {
                let status = with_moments(status.clone(), now);
                let object = named(body, json!({}), Some(status));
                steps.push(Step::ApplyStatus(body.resource, body.key.clone(), object));
            }
        }
        wanted.insert(slot);
    }
    let gone = observed.keys().filter(|slot| !wanted.contains(*slot));
    steps.extend(gone.map(|(resource, key)| Step::Delete(*resource, key.clone())));
    steps
}

#[expect(
    clippy::indexing_slicing,
    reason = "fields of an object that is made here are set"
)]
fn named(body: &Body, mut object: Value, status: Option<Value>) -> Value {
    let mut meta = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    meta["name"] = json!(body.key.name);
    if !body.key.namespace.is_empty() {
        meta["namespace"] = json!(body.key.namespace);
    }
    object["apiVersion"] = json!(body.resource.api_version());
    object["kind"] = json!(body.resource.names()[2]);
    object["metadata"] = meta;
    if let Some(status) = status {
        object["status"] = status;
    }
    object
}

/// With its name, its label and its mark.
#[expect(
    clippy::indexing_slicing,
    reason = "fields of an object that is made here are set"
)]
fn whole(body: &Body) -> Value {
    let mut object = named(body, body.object.clone(), None);
    object["metadata"]["labels"][OWNED_LABEL] = json!(OWNER);
    let mark = format!("{:016x}", fnv(object.to_string().as_bytes()));
    object["metadata"]["annotations"][MARK] = json!(mark);
    object
}

fn mark_of(object: &Value) -> Option<&str> {
    object.pointer("/metadata/annotations")?.get(MARK)?.as_str()
}

/// FNV-1a: tells one body from another that was meant before; nobody gains by a collision.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether everything that is desired is there: objects may have more, lists may not.
pub fn covers(there: &Value, desired: &Value) -> bool {
    match (there, desired) {
        (Value::Object(there), Value::Object(desired)) => desired
            .iter()
            .all(|(key, value)| there.get(key).is_some_and(|t| covers(t, value))),
        (Value::Array(there), Value::Array(desired)) => {
            there.len() == desired.len() && there.iter().zip(desired).all(|(t, d)| covers(t, d))
        }
        (there, desired) => there == desired,
    }
}

/// What a ServiceImport's status says of its slices, since v0.5.2 of the API.
const SLICE_OBJECTS: &str = "endpointSliceObjects";

/// Like [`covers`], but for when conditions began, and in whatever order lists of things with names stand.
fn covers_status(there: &Value, desired: &Value) -> bool {
    let plain = |status: &Value| {
        let mut status = status.clone();
        for list in status
            .as_object_mut()
            .into_iter()
            .flat_map(|o| o.values_mut())
        {
            if let Value::Array(items) = list {
                items
                    .iter_mut()
                    .filter_map(Value::as_object_mut)
                    .for_each(|item| {
                        item.remove("lastTransitionTime");
                    });
                items.sort_by_key(ToString::to_string);
            }
        }
        status
    };
    let mut desired = plain(desired);
    if let Some(fields) = desired.as_object_mut() {
        // An older CustomResourceDefinition of somebody else's may not have this field and drops it, however often it is written.
        let known = there.get(SLICE_OBJECTS).is_some();
        fields.retain(|name, _| known || name != SLICE_OBJECTS);
    }
    covers(&plain(there), &desired)
}

/// Conditions keep the moment since which they have their status.
fn with_moments(mut status: Value, before: Option<&Value>) -> Value {
    let old = before
        .and_then(|b| b.get("conditions"))
        .and_then(Value::as_array);
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let same = old.into_iter().flatten().find(|b| {
            ["type", "status"]
                .iter()
                .all(|key| b.get(*key) == condition.get(*key))
        });
        let moment = same.and_then(|b| b.get("lastTransitionTime")).cloned();
        if let (Some(moment), Some(fields)) = (moment, condition.as_object_mut()) {
            fields.insert("lastTransitionTime".to_owned(), moment);
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(labels: Value, ports: &[u16]) -> Body {
        Body {
            resource: Resource::Import,
            key: Key::new("shop", "cart"),
            object: json!({"metadata": {"labels": labels}, "spec": {"ports": ports.iter().map(|p| json!({"port": p})).collect::<Vec<_>>()}}),
            status: Some(
                json!({"clusters": [{"cluster": "west"}], "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "new"}]}),
            ),
        }
    }

    /// What an API server makes of the steps.
    fn perform(observed: &mut Observed, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Apply(resource, key, object) => {
                    let mut object = object.clone();
                    object["metadata"]["uid"] = json!("u");
                    let slot = (*resource, key.clone());
                    if let Some(status) = observed.get(&slot).and_then(|o| o.get("status")) {
                        object["status"] = status.clone();
                    }
                    observed.insert(slot, Arc::new(object));
                }
                Step::ApplyStatus(resource, key, object) => {
                    let there = observed.get_mut(&(*resource, key.clone())).unwrap();
                    Arc::make_mut(there)["status"] = object["status"].clone();
                }
                Step::Delete(resource, key) => {
                    observed.remove(&(*resource, key.clone()));
                }
            }
        }
    }

    #[test]
    fn steps_lead_to_what_is_desired_and_then_there_are_none() {
        let mut observed = Observed::new();
        let none = BTreeSet::new();
        let key = (Resource::Import, Key::new("shop", "cart"));
        for (desired, expected) in [
            (vec![body(json!({"a": "b"}), &[80])], 2),
            (vec![body(json!({"a": "b"}), &[80, 81])], 1),
            // A label that is wanted no more is found by the mark alone.
            (vec![body(json!({}), &[80, 81])], 1),
            (vec![], 1),
        ] {
            let steps = plan(&desired, &observed, &none);
            assert_eq!(steps.len(), expected, "{steps:?}");
            perform(&mut observed, &steps);
            assert_eq!(plan(&desired, &observed, &none), []);
            let labels = observed.get(&key).map(|o| o["metadata"]["labels"].clone());
            assert!(labels.is_none_or(|l| l[OWNED_LABEL] == OWNER));
        }
        assert!(observed.is_empty());
    }

    #[test]
    fn what_others_change_is_put_right_and_what_the_server_adds_is_left() {
        let (mut observed, none) = (Observed::new(), BTreeSet::new());
        let desired = [body(json!({"a": "b"}), &[80])];
        let steps = plan(&desired, &observed, &none);
        perform(&mut observed, &steps);
        let slot = (Resource::Import, Key::new("shop", "cart"));
        let there = Arc::make_mut(observed.get_mut(&slot).unwrap());
        there["spec"]["ports"][0]["protocol"] = json!("TCP");
        there["metadata"]["resourceVersion"] = json!("7");
        there["status"]["conditions"][0]["lastTransitionTime"] = json!("old");
        assert_eq!(plan(&desired, &observed, &none), []);
        Arc::make_mut(observed.get_mut(&slot).unwrap())["spec"]["ports"][0]["port"] = json!(1);
        assert!(matches!(
            plan(&desired, &observed, &none)[..],
            [Step::Apply(..)]
        ));
    }

    #[test]
    fn a_condition_keeps_its_moment_while_its_status_is_the_same() {
        let (mut observed, none) = (Observed::new(), BTreeSet::new());
        let mut desired = [body(json!({}), &[80])];
        let steps = plan(&desired, &observed, &none);
        perform(&mut observed, &steps);
        let clusters = json!([{"cluster": "west"}, {"cluster": "east"}]);
        desired[0].status.as_mut().unwrap()["clusters"] = clusters;
        desired[0].status.as_mut().unwrap()["conditions"][0]["lastTransitionTime"] = json!("newer");
        let steps = plan(&desired, &observed, &none);
        let [Step::ApplyStatus(_, _, object)] = &steps[..] else {
            panic!("{steps:?}");
        };
        assert_eq!(
            object["status"]["conditions"][0]["lastTransitionTime"],
            "new"
        );
        desired[0].status.as_mut().unwrap()["conditions"][0]["status"] = json!("False");
        let steps = plan(&desired, &observed, &none);
        let [Step::ApplyStatus(_, _, object)] = &steps[..] else {
            panic!("{steps:?}");
        };
        assert_eq!(
            object["status"]["conditions"][0]["lastTransitionTime"],
            "newer"
        );
    }

    #[test]
    fn kinds_that_are_not_served_are_not_written() {
        let absent = [Resource::Import].into();
        assert_eq!(
            plan(&[body(json!({}), &[80])], &Observed::new(), &absent),
            []
        );
    }
}
