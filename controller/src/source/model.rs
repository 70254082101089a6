//! What a source says of this cluster, whichever it is: services with their endpoints, wishes to export, rules, and what is wrong. Pure data.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use serde::Serialize;
use tradewind_api::{
    ServiceName, Zone,
    mcs::ExportSpec,
    model::{Health, ServiceKind, ServicePort, Targets},
    shared::SharedMap,
    traffic::Labels,
};

/// What a source says, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceModel {
    /// All of it was looked at, or there is nothing to look at. Until then nothing may be concluded from what is missing.
    pub read: bool,
    /// Services with their endpoints.
    pub services: SharedMap<ServiceName, Arc<SourceService>>,
    /// Services that a ServiceExport names.
    pub exports: BTreeMap<ServiceName, Asked>,
    /// Routes and what belongs to them, as they were written. Shared, since they are handed around with every change of a service.
    pub policy: Arc<Vec<Arc<tradewind_policy::Object>>>,
    /// What is broken or not supported anywhere.
    pub problems: Vec<Problem>,
    /// Kinds that the API server does not list, each of them a problem, too; none from files.
    pub refused: Vec<RefusedKind>,
}

/// A kind of objects that the API server does not list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedKind {
    /// As it is called: `Pod`, `HTTPRoute.gateway.networking.k8s.io`.
    pub kind: String,
    /// What the API server said, with the verb and whose right is missing where it is one; or that it says nothing.
    pub why: String,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceService {
    /// Its name.
    pub name: ServiceName,
    /// How it is addressed.
    pub kind: ServiceKind,
    /// Its ports, sorted by number.
    pub ports: Vec<ServicePort>,
    /// The identity its annotation names.
    pub identity: Option<String>,
    /// Its endpoints, in the order of the files, or of their Pods' names.
    pub endpoints: Vec<SourceEndpoint>,
    /// The addresses that this cluster gave it, where calls to them are the mesh's.
    pub cluster_ips: Vec<IpAddr>,
    /// What its export passes on for imports; none from files.
    pub spec: Option<Arc<ExportSpec>>,
    /// The wish to export it, where it came with the Service.
    pub asked: Option<Asked>,
}

impl SourceModel {
    /// Takes the allocation of all that is what it was before, so that whoever made something of it sees that at once.
    pub fn keep(&mut self, before: &Self) {
        if self.policy == before.policy {
            self.policy = Arc::clone(&before.policy);
        }
        self.services.keep(&before.services);
    }
}

/// A wish to export a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whose: `file:line`, or an object's kind and name.
    pub place: String,
    /// Since when, Unix ms, where it says so itself.
    pub created_at_ms: Option<u64>,
}

/// One endpoint of a service, ready for the local model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceEndpoint {
    /// `ip:15008`.
    pub address: String,
    /// What its conditions say.
    pub health: Health,
    /// Its name in a headless service.
    pub hostname: Option<String>,
    /// Its zone.
    pub zone: Option<Zone>,
    /// The identity its slice's annotation names.
    pub identity: Option<String>,
    /// Service ports it serves, sorted.
    pub ports: Vec<u16>,
    /// Its workload's labels; none from files.
    pub labels: Labels,
    /// Where its application listens, by service port, where its proxy is to learn that.
    pub targets: Targets,
}

/// Something in a source that is broken or not supported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// `file:line`, or an object's kind and name.
    pub place: String,
    /// What is wrong there.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}
