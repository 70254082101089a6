//! What a cluster that waits to join is given: the Secret that its controller starts by, and a new start.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{CONTROLLER_PODS, Cluster, ClusterError, FIELD_MANAGER, failed};

/// The controllers.
const CONTROLLER: &str = "tradewind-controller";
/// What the controller's first step reads: where a member is, and a token.
pub const JOIN_SECRET: &str = "tradewind-join";

/// A controller as it was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Its cluster's name.
    pub cluster: String,
    /// It founds a federation where there is no data, instead of joining one.
    pub founds: bool,
}

impl Cluster {
    /// How the controller was installed, if it was.
    pub async fn installation(
        &self,
        namespace: &str,
    ) -> Result<Option<Installation>, ClusterError> {
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_opt(CONTROLLER).await;
        let found = found.map_err(|e| failed("StatefulSet/tradewind-controller", "read", e))?;
        Ok(found.as_ref().and_then(read))
    }

    /// Says where a member is and what lets this cluster in there.
    pub async fn offer(
        &self,
        namespace: &str,
        address: &str,
        token: &str,
    ) -> Result<(), ClusterError> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": JOIN_SECRET, "namespace": namespace },
            "stringData": { "address": address, "token": token },
        });
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api
            .patch(JOIN_SECRET, &params, &Patch::Apply(&secret))
            .await;
        applied
            .map(|_| ())
            .map_err(|e| failed("Secret/tradewind-join", "applied", e))
    }

    /// Takes that back. What is gone already is as good.
    pub async fn withdraw_offer(&self, namespace: &str) -> Result<(), ClusterError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        match api.delete(JOIN_SECRET, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(e) => Err(failed("Secret/tradewind-join", "removed", e)),
        }
    }

    /// Has controllers that wait for their first step started at once: they are tried again after minutes only. Says which.
    pub async fn start_waiting(&self, namespace: &str) -> Result<Vec<String>, ClusterError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().labels(CONTROLLER_PODS);
        let found = api.list(&params).await;
        let found = found.map_err(|e| failed("Pod", "listed", e))?;
        let mut started = Vec::new();
        for name in found.items.iter().filter_map(waits) {
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => started.push(name.to_owned()),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(e) => return Err(failed(&format!("Pod/{name}"), "removed", e)),
            }
        }
        Ok(started)
    }
}

/// One of the chart's first steps is `init …` or `join …`, with `--cluster=NAME`.
fn read(set: &StatefulSet) -> Option<Installation> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    let mut steps = pod.init_containers.iter().flatten();
    steps.find_map(|step| {
        let args = step.args.as_ref()?;
        let verb = args
            .first()
            .filter(|verb| *verb == "init" || *verb == "join")?;
        let cluster = args.iter().find_map(|arg| arg.strip_prefix("--cluster="))?;
        Some(Installation {
            cluster: cluster.to_owned(),
            founds: verb == "init",
        })
    })
}

/// Its name, if nothing of it runs but its first step.
fn waits(pod: &Pod) -> Option<&str> {
    let phase = pod.status.as_ref()?.phase.as_deref();
    let ends = pod.metadata.deletion_timestamp.is_some();
    (phase == Some("Pending") && !ends)
        .then_some(pod.metadata.name.as_deref())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::{Values, render};

    #[test]
    fn how_the_chart_installs_a_controller_is_read() {
        for founds in [true, false] {
            let mut values = Values::default();
            let text =
                format!("cluster: {{name: east, region: r, gateways: 'g:1', found: {founds}}}");
            values.merge(&text).unwrap();
            let all = render(&values, "mesh").unwrap();
            let set = all
                .iter()
                .find(|m| m.id() == "StatefulSet/tradewind-controller");
            let set: StatefulSet = serde_json::from_value(set.unwrap().object.clone()).unwrap();
            let cluster = "east".to_owned();
            assert_eq!(read(&set), Some(Installation { cluster, founds }));
        }
        assert_eq!(read(&StatefulSet::default()), None);
    }

    #[test]
    fn what_runs_is_not_started_again() {
        let pod = |phase: &str| -> Pod {
            let pod = json!({ "metadata": { "name": "c-0" }, "status": { "phase": phase } });
            serde_json::from_value(pod).unwrap()
        };
        assert_eq!(waits(&pod("Pending")), Some("c-0"));
        assert_eq!(waits(&pod("Running")), None);
        let mut ends = pod("Pending");
        ends.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(waits(&ends), None);
    }
}
