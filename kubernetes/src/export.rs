//! The wish of a command as a ServiceExport, and its end. One that somebody else made is left to him: what he keeps in files would come back.

use kube::{
    Api,
    api::{
        ApiResource, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, Preconditions,
    },
    core::GroupVersionKind,
};
use serde_json::json;
use tradewind_api::ServiceName;

use crate::{
    client::Client,
    write::{MANAGER, WriteError, bounded, told},
};

/// The annotation that says which operator's command made it.
const EXPORTED_BY: &str = "tradewind.io/exported-by";

/// How a ServiceExport ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is gone.
    Gone,
    /// There was none.
    Absent,
    /// No command made it: whose it is, as the API server knows them.
    Others(String),
}

impl Client {
    fn exports(&self, service: &ServiceName) -> (ApiResource, Api<DynamicObject>) {
        let gvk = GroupVersionKind::gvk("multicluster.x-k8s.io", "v1beta1", "ServiceExport");
        let resource = ApiResource::from_gvk_with_plural(&gvk, "serviceexports");
        let api = self.api_of(&resource, service.namespace.as_str());
        (resource, api)
    }

    /// Sees to it that there is one. False when there was.
    pub async fn export(&self, service: &ServiceName, by: &str) -> Result<bool, WriteError> {
        let (resource, api) = self.exports(service);
        let object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": service.name(),
                "namespace": service.namespace.as_str(),
                "annotations": { EXPORTED_BY: by },
            },
        });
        let done = bounded(async {
            if api.get_opt(service.name()).await?.is_some() {
                return Ok(false);
            }
            let (apply, object) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&object));
            let made = api.patch(service.name(), &apply, &object);
            made.await.map(|_| true)
        });
        told(format!("ServiceExport {service}"), done.await)
    }

    /// Takes it away, if a command made it.
    pub async fn unexport(&self, service: &ServiceName) -> Result<Ended, WriteError> {
        let (_, api) = self.exports(service);
        let done = bounded(async {
            let Some(found) = api.get_opt(service.name()).await? else {
                return Ok(Ended::Absent);
            };
            if let Some(others) = others(&found.metadata) {
                return Ok(Ended::Others(others));
            }
            let this_one = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: found.metadata.uid,
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(service.name(), &this_one).await {
                Ok(_) => Ok(Ended::Gone),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Ended::Absent),
                Err(error) => Err(error),
            }
        });
        told(
            format!("the removal of ServiceExport {service}"),
            done.await,
        )
    }
}

/// Whose it is, if no command made it. Whoever writes a status owns nothing of the wish.
fn others(meta: &ObjectMeta) -> Option<String> {
    let notes = meta.annotations.as_ref();
    if notes.is_some_and(|notes| notes.contains_key(EXPORTED_BY)) {
        return None;
    }
    let fields = meta.managed_fields.iter().flatten();
    let mut names: Vec<_> = fields
        .filter(|entry| entry.subresource.as_deref() != Some("status"))
        .filter_map(|entry| entry.manager.clone())
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        names.push("somebody".to_owned());
    }
    Some(names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(annotations: serde_json::Value) -> ObjectMeta {
        let managed = json!([
            {"manager": "kubectl", "operation": "Apply"},
            {"manager": "kubectl", "operation": "Update"},
            {"manager": "tradewind-controller", "operation": "Apply", "subresource": "status"},
        ]);
        serde_json::from_value(json!({"annotations": annotations, "managedFields": managed}))
            .unwrap()
    }

    #[test]
    fn what_no_command_made_is_left_to_who_did() {
        assert_eq!(others(&meta(json!({}))).unwrap(), "kubectl");
        assert_eq!(others(&ObjectMeta::default()).unwrap(), "somebody");
        assert_eq!(others(&meta(json!({EXPORTED_BY: "uid 0"}))), None);
    }
}
