//! The kinds of objects that an installation consists of, and their places in the API.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::Value;

/// Kinds that are installed, or made by the controller, in the order in which they are taken out: first what asks the controller or
/// routes to it, last what holds rights and places.
pub(super) const KINDS: [Kind; 18] = [
    WEBHOOKS,
    DEPLOYMENTS,
    STATEFUL_SETS,
    Kind::new(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        true,
    ),
    Kind::new(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        true,
    ),
    Kind::new("", "v1", "Service", "services", true),
    Kind::new(
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        true,
    ),
    Kind::new(
        "multicluster.x-k8s.io",
        "v1beta1",
        "ServiceImport",
        "serviceimports",
        true,
    ),
    Kind::new(
        "about.k8s.io",
        "v1beta1",
        "ClusterProperty",
        "clusterproperties",
        false,
    ),
    Kind::new("", "v1", "ConfigMap", "configmaps", true),
    Kind::new(
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        false,
    ),
    Kind::new(
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRole",
        "clusterroles",
        false,
    ),
    Kind::new("rbac.authorization.k8s.io", "v1", "Role", "roles", true),
    Kind::new("", "v1", "ServiceAccount", "serviceaccounts", true),
    VOLUMES,
    CRDS,
    NAMESPACES,
    Kind::new("coordination.k8s.io", "v1", "Lease", "leases", true),
];
pub(super) const WEBHOOKS: Kind = Kind::new(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    false,
);
pub(super) const DEPLOYMENTS: Kind = Kind::new("apps", "v1", "Deployment", "deployments", true);
pub(super) const STATEFUL_SETS: Kind = Kind::new("apps", "v1", "StatefulSet", "statefulsets", true);
pub(super) const VOLUMES: Kind = Kind::new(
    "",
    "v1",
    "PersistentVolumeClaim",
    "persistentvolumeclaims",
    true,
);
pub(super) const CRDS: Kind = Kind::new(
    "apiextensions.k8s.io",
    "v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    false,
);
/// Looked at by checks, never made or removed by us.
pub(super) const PODS: Kind = Kind::new("", "v1", "Pod", "pods", true);
pub(super) const NAMESPACES: Kind = Kind::new("", "v1", "Namespace", "namespaces", false);

/// A kind of objects and its place in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) namespaced: bool,
}

impl Kind {
    pub(super) const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        namespaced: bool,
    ) -> Self {
        Self {
            group,
            version,
            kind,
            plural,
            namespaced,
        }
    }

    pub(super) fn resource(self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }

    pub(super) fn of(object: &Value) -> Option<Self> {
        let kind = object.get("kind")?.as_str()?;
        KINDS.into_iter().find(|known| known.kind == kind)
    }

    pub(super) fn api(self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = self.resource();
        match namespace {
            Some(namespace) if self.namespaced => {
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
            _ => Api::all_with(client.clone(), &resource),
        }
    }
}
