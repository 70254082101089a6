//! The hand that writes: one step of [`crate::managed`] at a time, and conditions of ServiceExports, by server-side apply, so that several
//! controllers of one cluster write the same and nobody else's fields are touched.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::json;
use tradewind_api::ServiceName;

use crate::{
    client::Client,
    managed::{Resource, Step},
    objects::{Condition, Key},
};

/// By this name the API server knows whose fields these are.
pub(crate) const MANAGER: &str = "tradewind-controller";
/// How long one write may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server did not take it.
    #[error("{what} was not written: {cause}")]
    Refused {
        /// What was to be written.
        what: String,
        /// What it said.
        cause: String,
        /// It is of no use to try the same again soon.
        lasting: bool,
    },
    /// There was no answer in time: it may have been done.
    #[error("{what}: the API server gave no answer within {} s", DEADLINE.as_secs())]
    Late {
        /// What was to be written.
        what: String,
    },
}

/// A moment as Kubernetes writes it, in whole seconds.
pub fn moment(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(0);
    Timestamp::from_second(seconds).map_or_else(|_| String::new(), |t| t.to_string())
}

impl Client {
    fn api(&self, resource: Resource, namespace: &str) -> Api<DynamicObject> {
        let [group, version, kind, plural] = resource.names();
        let gvk = GroupVersionKind::gvk(group, version, kind);
        self.api_of(&ApiResource::from_gvk_with_plural(&gvk, plural), namespace)
    }

    pub(crate) fn api_of(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        if namespace.is_empty() {
            Api::all_with(self.kube.clone(), resource)
        } else {
            Api::namespaced_with(self.kube.clone(), namespace, resource)
        }
    }

    /// Does one step.
    pub async fn perform(&self, step: &Step) -> Result<(), WriteError> {
        let apply = PatchParams::apply(MANAGER).force();
        let (what, done) = match step {
            Step::Apply(resource, key, object) => {
                let api = self.api(*resource, &key.namespace);
                let patch = Patch::Apply(object);
                let done = api.patch(&key.name, &apply, &patch);
                (
                    label(*resource, key),
                    bounded(async { done.await.map(drop) }).await,
                )
            }
            Step::ApplyStatus(resource, key, object) => {
                let api = self.api(*resource, &key.namespace);
                // Not by applying: CustomResourceDefinitions of others may be older than a field, which then is left out and not refused.
                let merge = PatchParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                let patch = Patch::Merge(object);
                let done = api.patch_status(&key.name, &merge, &patch);
                let what = format!("the status of {}", label(*resource, key));
                (what, bounded(async { done.await.map(drop) }).await)
            }
            Step::Delete(resource, key) => {
                let api = self.api(*resource, &key.namespace);
                let deleting = DeleteParams::default();
                let done = api.delete(&key.name, &deleting);
                let gone = bounded(async {
                    match done.await {
                        // Somebody was faster.
                        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                        other => other.map(drop),
                    }
                });
                (
                    format!("the removal of {}", label(*resource, key)),
                    gone.await,
                )
            }
        };
        told(what, done)
    }

    /// Writes a ServiceExport's conditions.
    pub async fn set_conditions(
        &self,
        export: &ServiceName,
        conditions: &[Condition],
    ) -> Result<(), WriteError> {
        let gvk = GroupVersionKind::gvk("multicluster.x-k8s.io", "v1beta1", "ServiceExport");
        let resource = ApiResource::from_gvk_with_plural(&gvk, "serviceexports");
        let api = self.api_of(&resource, export.namespace.as_str());
        let object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": export.name(), "namespace": export.namespace.as_str()},
            "status": {"conditions": conditions},
        });
        let apply = PatchParams::apply(MANAGER).force();
        let (name, patch) = (export.name().to_owned(), Patch::Apply(object));
        let done = api.patch_status(&name, &apply, &patch);
        let done = bounded(async { done.await.map(drop) }).await;
        told(format!("the status of ServiceExport {export}"), done)
    }
}

fn label(resource: Resource, key: &Key) -> String {
    format!("{} {key}", resource.names()[2])
}

pub(crate) async fn bounded<T>(
    work: impl Future<Output = Result<T, kube::Error>>,
) -> Option<Result<T, kube::Error>> {
    tokio::time::timeout(DEADLINE, work).await.ok()
}

/// What came of it, with what it was.
pub(crate) fn told<T>(what: String, done: Option<Result<T, kube::Error>>) -> Result<T, WriteError> {
    match done {
        Some(Ok(done)) => Ok(done),
        None => Err(WriteError::Late { what }),
        Some(Err(error)) => {
            let lasting = matches!(&error, kube::Error::Api(s) if (400..500).contains(&s.code) && s.code != 409 && s.code != 429);
            Err(WriteError::Refused {
                what,
                cause: error.to_string(),
                lasting,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn moments_are_whole_seconds() {
        assert_eq!(super::moment(1_767_323_045_999), "2026-01-02T03:04:05Z");
    }
}
