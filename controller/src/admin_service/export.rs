//! `export` and `unexport`. Where the cluster has an API server its services are offered by a ServiceExport there, as everybody else would;
//! `exports.json` is for what proxies of hosts registered.

use tonic::{Code, Status};
use tradewind_api::{
    ServiceName,
    proto::v1::{ExportRequest, ExportResponse},
};
use tradewind_kubernetes::{Client, export::Ended, write::WriteError};

use super::{AdminService, service_name};
use crate::{
    answer::refuse,
    exports::{self, MAX_INTENTS},
    local::nearest,
};

impl AdminService {
    /// Offers a service.
    pub(super) async fn begin_export(
        &self,
        actor: Option<String>,
        asked: ExportRequest,
    ) -> Result<ExportResponse, Status> {
        let name = service_name(&asked.service)?;
        self.not_for_witnesses()?;
        self.is_here(&name)?;
        let by_object = self.0.yaml.borrow().services.contains_key(&name);
        let changed = match &self.0.kubernetes {
            Some(client) if by_object => {
                self.asked(&name, actor.clone());
                let by = actor.unwrap_or_else(|| "an operator".to_owned());
                client
                    .export(&name, &by)
                    .await
                    .map_err(|e| not_written(&e))?
            }
            _ => self.note_export(&name, actor).await?,
        };
        Ok(ExportResponse {
            revision: self.published(&name, true).await,
            changed,
        })
    }

    /// Whether there is such a service, or was when it was exported.
    fn is_here(&self, name: &ServiceName) -> Result<(), Status> {
        let local = self.0.local.borrow().clone();
        if local.services.contains_key(name) || self.0.exports.current().contains_key(name) {
            return Ok(());
        }
        let hint = match nearest(name, local.services.keys()) {
            Some(near) => format!("did you mean {near}?"),
            None if self.0.kubernetes.is_some() => {
                "make the Service first; one of type ExternalName cannot be exported".to_owned()
            }
            None => format!(
                "start a proxy with --serve {name}:<port>=<host:port>, or define it in the manifests"
            ),
        };
        let sentence = format!(
            "there is no service {name} in cluster {}",
            self.0.own.cluster
        );
        Err(refuse(Code::NotFound, sentence, hint))
    }

    async fn note_export(&self, name: &ServiceName, actor: Option<String>) -> Result<bool, Status> {
        let intents = self.0.exports.current();
        if intents.len() >= MAX_INTENTS && !intents.contains_key(name) {
            let sentence = format!(
                "cluster {} exports {MAX_INTENTS} services already",
                self.0.own.cluster
            );
            let hint = "unexport what is no longer needed";
            return Err(refuse(Code::ResourceExhausted, sentence, hint));
        }
        if !intents.get(name).is_some_and(|i| i.by_command) {
            self.asked(name, actor);
        }
        let (wanted, now_ms) = (name.clone(), self.0.clock.unix_ms());
        self.intend(move |i| exports::with(i, &wanted, now_ms))
            .await
    }

    /// Takes an offer back.
    pub(super) async fn end_export(
        &self,
        actor: Option<String>,
        asked: ExportRequest,
    ) -> Result<ExportResponse, Status> {
        let name = service_name(&asked.service)?;
        let wish = self.0.yaml.borrow().exports.get(&name).cloned();
        let intents = self.0.exports.current();
        let mut changed = false;
        match (wish, &self.0.kubernetes) {
            (Some(_), Some(client)) => {
                self.asked(&name, actor);
                changed |= end_object(client, &name).await?;
            }
            (Some(by), None) => {
                let sentence = format!(
                    "the export of {name} is asked for by a ServiceExport at {}",
                    by.place
                );
                let hint = "remove the ServiceExport there";
                return Err(refuse(Code::FailedPrecondition, sentence, hint));
            }
            (None, _) => {
                let catalog = self.0.store.catalog();
                let is_exported = catalog.export(&name, &self.0.own.cluster).is_some();
                if !intents.contains_key(&name) && !is_exported {
                    let hint = match nearest(&name, intents.keys()) {
                        Some(near) => format!("did you mean {near}?"),
                        None => "`tradewind services` shows who exports what".into(),
                    };
                    let sentence = format!("cluster {} does not export {name}", self.0.own.cluster);
                    return Err(refuse(Code::NotFound, sentence, hint));
                }
                self.asked(&name, actor);
            }
        }
        // By command and by object, before and after the cluster had an API server: both end.
        let unwanted = name.clone();
        changed |= self.intend(move |i| exports::without(i, &unwanted)).await?;
        Ok(ExportResponse {
            revision: self.published(&name, false).await,
            changed,
        })
    }
}

async fn end_object(client: &Client, name: &ServiceName) -> Result<bool, Status> {
    match client.unexport(name).await.map_err(|e| not_written(&e))? {
        Ended::Gone => Ok(true),
        Ended::Absent => Ok(false),
        Ended::Others(who) => Err(refuse(
            Code::FailedPrecondition,
            format!("ServiceExport {name} was made by {who}, not by `tradewind export`"),
            format!(
                "remove it there, or with `kubectl delete serviceexport -n {} {}`",
                name.namespace,
                name.name()
            ),
        )),
    }
}

fn not_written(error: &WriteError) -> Status {
    let (code, hint) = match error {
        WriteError::Refused { lasting: true, .. } => (
            Code::FailedPrecondition,
            "see what the API server says: the CRDs and the controller's rights come with the chart, `tradewind check` looks at both",
        ),
        WriteError::Refused { .. } | WriteError::Late { .. } => (
            Code::Unavailable,
            "see that the API server runs, then try again",
        ),
    };
    refuse(code, error.to_string(), hint)
}
