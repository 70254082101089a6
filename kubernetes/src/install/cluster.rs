//! Puts manifests into a cluster by server-side apply, and takes everything of ours out again.
//!
//! Thin: what is applied was rendered before. What is taken out is found by its label, so that what an older version installed goes
//! with it.

mod joining;
mod kinds;

pub use joining::{Installation, JOIN_SECRET};

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::version::Info;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::Value;

use super::{Manifest, PART_OF};
use crate::{
    ClientError, Place,
    check::rights::Right,
    managed::{OWNED_LABEL, OWNER},
};
use kinds::{CRDS, DEPLOYMENTS, KINDS, Kind, NAMESPACES, PODS, STATEFUL_SETS, VOLUMES, WEBHOOKS};

/// Who owns the fields that are applied.
const FIELD_MANAGER: &str = "tradewind-install";
/// The label of the controllers' Pods.
const CONTROLLER_PODS: &str = "app.kubernetes.io/name=tradewind-controller";
/// How long an answer may be silent.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Why something could not be done in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No way leads there.
    #[error(transparent)]
    Place(#[from] ClientError),
    /// An object.
    #[error("{id} was not {what}: {source}")]
    Object {
        /// `Kind/name`, or the kind alone.
        id: String,
        /// `applied`, `listed`, `removed`.
        what: &'static str,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// A kind that is none of the chart's.
    #[error("{0} is of a kind that the chart does not have")]
    UnknownKind(String),
}

impl ClusterError {
    /// Whether nobody answered, as opposed to an answer that was no.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Object { source, .. } => !matches!(**source, kube::Error::Api(_)),
            Self::Place(_) | Self::UnknownKind(_) => false,
        }
    }
}

/// An API server, by a kubeconfig's context.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// Where it is, for people.
    pub url: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// The API server of a place. Does not connect yet.
    pub async fn of(place: &Place) -> Result<Self, ClusterError> {
        let client = crate::Client::within(place, ANSWER_DEADLINE).await?;
        Ok(Self {
            url: client.server().to_owned(),
            client: client.kube,
        })
    }

    /// Its version.
    pub async fn version(&self) -> Result<Info, ClusterError> {
        let found = self.client.apiserver_version().await;
        found.map_err(|source| failed("the version", "read", source))
    }

    /// Applies one object. With `dry_run` the API server checks it and changes nothing.
    pub async fn apply(&self, manifest: &Manifest, dry_run: bool) -> Result<(), ClusterError> {
        let id = manifest.id();
        let kind =
            Kind::of(&manifest.object).ok_or_else(|| ClusterError::UnknownKind(id.clone()))?;
        let text = |path: &str| manifest.object.pointer(path).and_then(Value::as_str);
        let api = kind.api(&self.client, text("/metadata/namespace"));
        let params = PatchParams {
            dry_run,
            ..PatchParams::apply(FIELD_MANAGER).force()
        };
        let name = text("/metadata/name").unwrap_or_default();
        let applied = api
            .patch(name, &params, &Patch::Apply(&manifest.object))
            .await;
        applied
            .map(|_| ())
            .map_err(|source| failed(&id, "applied", source))
    }

    /// Everything that was installed and that the controller keeps, in the order in which it is to be removed.
    pub async fn installed(&self, namespace: &str) -> Result<Vec<Installed>, ClusterError> {
        let mut all = Vec::new();
        // What was installed, and what the controller keeps: an exported label may be in the first one's place there.
        let installed = format!("{}={}", PART_OF.0, PART_OF.1);
        let kept = format!("{OWNED_LABEL}={OWNER},{}!={}", PART_OF.0, PART_OF.1);
        for (kind, label) in KINDS
            .into_iter()
            .flat_map(|k| [(k, &installed), (k, &kept)])
        {
            let params = ListParams::default().labels(label);
            let found = match kind.api(&self.client, None).list(&params).await {
                Ok(found) => found,
                // The kind is not there: its CRD was never installed, or is gone.
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(source) => return Err(failed(kind.kind, "listed", source)),
            };
            for object in found {
                let by = object.metadata.managed_fields.iter().flatten();
                let applied = by
                    .filter_map(|fields| fields.manager.as_deref())
                    .any(|manager| manager == FIELD_MANAGER);
                let Some(name) = object.metadata.name else {
                    continue;
                };
                let what = match kind {
                    VOLUMES => Sort::Volume,
                    CRDS => Sort::Crd,
                    NAMESPACES if name != namespace => continue,
                    _ => Sort::Plain,
                };
                all.push(Installed {
                    kind,
                    namespace: object.metadata.namespace,
                    name,
                    sort: what,
                    applied,
                });
            }
        }
        // The namespace goes last: it takes with it what is left inside.
        all.sort_by_key(|found| found.kind == NAMESPACES);
        Ok(all)
    }

    /// What was applied once and is none of `manifests`: an older version's, or what other values asked for. In the order in which it is to
    /// be removed. Never CRDs, volumes or the namespace, and nothing that somebody else made, whatever its labels.
    pub async fn left_over(
        &self,
        namespace: &str,
        manifests: &[Manifest],
    ) -> Result<Vec<Installed>, ClusterError> {
        let mut all = self.installed(namespace).await?;
        all.retain(|found| {
            let ours = found.applied && found.sort == Sort::Plain && !found.is_namespace();
            let here = found.namespace.as_deref().is_none_or(|n| n == namespace);
            ours && here && !manifests.iter().any(|m| found.is(&m.object))
        });
        Ok(all)
    }

    /// The controllers' Pods that are still there. As long as there is one it writes anew what it keeps.
    pub async fn controllers(&self, namespace: &str) -> Result<Vec<String>, ClusterError> {
        let params = ListParams::default().labels(CONTROLLER_PODS);
        let found = PODS.api(&self.client, Some(namespace)).list(&params).await;
        let found = found.map_err(|source| failed(PODS.kind, "listed", source))?;
        let names = found.into_iter().filter_map(|pod| pod.metadata.name);
        Ok(names.collect())
    }

    /// Removes one object. One that is gone already is as good.
    pub async fn remove(&self, object: &Installed, dry_run: bool) -> Result<(), ClusterError> {
        let params = DeleteParams {
            dry_run,
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let api = object.kind.api(&self.client, object.namespace.as_deref());
        match api.delete(&object.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(failed(&object.id(), "removed", source)),
        }
    }

    /// An object of the chart as it is there now.
    pub async fn find(&self, manifest: &Manifest) -> Result<Option<Value>, ClusterError> {
        let id = manifest.id();
        let kind =
            Kind::of(&manifest.object).ok_or_else(|| ClusterError::UnknownKind(id.clone()))?;
        let text = |path: &str| manifest.object.pointer(path).and_then(Value::as_str);
        let name = text("/metadata/name").unwrap_or_default();
        let found = kind
            .api(&self.client, text("/metadata/namespace"))
            .get_opt(name)
            .await;
        let found = match found {
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            other => other.map_err(|source| failed(&id, "read", source))?,
        };
        Ok(found.and_then(|object| serde_json::to_value(object).ok()))
    }

    /// All objects of a kind of the chart, or all pods, as they are; none where the kind is not served.
    pub async fn list(
        &self,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, ClusterError> {
        let known = KINDS
            .into_iter()
            .chain([PODS])
            .find(|known| known.kind == kind);
        let known = known.ok_or_else(|| ClusterError::UnknownKind(kind.to_owned()))?;
        let found = match known
            .api(&self.client, namespace)
            .list(&ListParams::default())
            .await
        {
            Ok(found) => found,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
            Err(source) => return Err(failed(kind, "listed", source)),
        };
        let values = found.into_iter().map(serde_json::to_value);
        Ok(values.filter_map(Result::ok).collect())
    }

    /// Namespaces with a ConfigMap of this name.
    pub async fn namespaces_with_root(&self, name: &str) -> Result<Vec<String>, ClusterError> {
        use k8s_openapi::api::core::v1::ConfigMap;
        let api: Api<ConfigMap> = Api::all(self.client.clone());
        let params = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = api.list_metadata(&params).await;
        let found = found.map_err(|source| failed("ConfigMap", "listed", source))?;
        Ok(found
            .into_iter()
            .filter_map(|one| one.metadata.namespace)
            .collect())
    }

    /// Whether the caller may do something, by its own word (SelfSubjectAccessReview).
    pub async fn may(&self, group: &str, resource: &str, verb: &str) -> Result<bool, ClusterError> {
        use k8s_openapi::api::authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&kube::api::PostParams::default(), &review).await;
        let answer = answer.map_err(|source| failed("the access review", "made", source))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Whether a service account may do something in every namespace, as the API server's authorisers say.
    pub async fn account_may(
        &self,
        user: &str,
        namespace: &str,
        right: &Right,
    ) -> Result<bool, ClusterError> {
        use k8s_openapi::api::authorization::v1::{
            ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
        };
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ];
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.to_owned()),
                groups: Some(groups.into()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(right.group.clone()),
                    resource: Some(right.resource.clone()),
                    subresource: right.subresource.clone(),
                    verb: Some(right.verb.clone()),
                    name: right.name.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&kube::api::PostParams::default(), &review).await;
        let answer = answer.map_err(|source| failed("the access review", "made", source))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// What uninstalling does with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// It goes.
    Plain,
    /// It goes only when told: others may use the kind.
    Crd,
    /// It goes only when told: it holds keys and the store.
    Volume,
}

/// An object of ours that is there.
#[derive(Clone, Debug)]
pub struct Installed {
    kind: Kind,
    namespace: Option<String>,
    name: String,
    /// What uninstalling does with it.
    pub sort: Sort,
    /// Whether it was applied here, as opposed to made by Helm, by a controller of ours or of Kubernetes.
    applied: bool,
}

impl Installed {
    /// `Kind/name`, with the namespace where there is one.
    pub fn id(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{} in {namespace}", self.kind.kind, self.name),
            None => format!("{}/{}", self.kind.kind, self.name),
        }
    }

    fn is(&self, object: &Value) -> bool {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        text("/kind") == Some(self.kind.kind)
            && text("/metadata/name") == Some(&self.name)
            && text("/metadata/namespace") == self.namespace.as_deref()
    }

    /// Whether it runs something, or has the API server wait for what runs: that goes before what the running ones keep.
    pub fn runs(&self) -> bool {
        [WEBHOOKS, DEPLOYMENTS, STATEFUL_SETS].contains(&self.kind)
    }

    /// Whether it is the namespace, which takes all that is in it with it.
    pub fn is_namespace(&self) -> bool {
        self.kind == NAMESPACES
    }
}

fn failed(id: &str, what: &'static str, source: kube::Error) -> ClusterError {
    ClusterError::Object {
        id: id.to_owned(),
        what,
        source: Box::new(source),
    }
}
