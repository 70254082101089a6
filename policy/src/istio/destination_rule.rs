//! DestinationRule: which services, subsets and callers it is for. How they are called stands in the folder of this name.

mod balance;
pub(crate) mod fields;
mod locality;
mod settings;
mod types;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use tradewind_api::{
    ServiceName,
    traffic::{Labels, has_labels, is_label},
};

use self::types::{PortPolicy, Spec};
use super::scope;
use crate::{
    draft::Callers,
    finding::Code,
    object::{At, Object, Report},
    traffic::{Document, PolicyDraft, Sections, SubsetDraft, TrafficDraft},
    world::World,
};

/// Reads one; `index` is the object's place among all.
pub(crate) fn destination_rule(
    object: &Object,
    index: usize,
    world: &World,
    report: &mut Report<'_>,
) -> Vec<TrafficDraft> {
    let Some(spec) = object.spec::<Spec>(report) else {
        return Vec::new();
    };
    let at = At::spec();
    let services = scope::services(&spec.host, object, world, &at.field("host"), report);
    let callers = scope::callers(&spec.export_to, object, report);
    unreached(&spec, &callers, object, &services, report);
    let selector = spec.workload_selector.map(|s| s.match_labels);
    if let Some(labels) = &selector {
        let at = at.field("workloadSelector").field("matchLabels");
        if !are_labels(labels, &at, report) {
            // A condition that is not understood must not be left out.
            return Vec::new();
        }
    }
    let reader = Reader {
        world,
        services: &services,
    };
    let in_policy = at.field("trafficPolicy");
    let document = Arc::new(Document {
        policy: spec
            .traffic_policy
            .as_ref()
            .map(|p| reader.policy(p, &in_policy, report)),
        subsets: reader.subsets(&spec.subsets, &at.field("subsets"), report),
    });
    let draft = |service: &ServiceName| TrafficDraft {
        object: index,
        namespace: object.name.namespace.clone(),
        service: service.clone(),
        pattern: Some(spec.host.clone()).filter(|h| scope::is_pattern(h)),
        callers: callers.clone(),
        selector: selector.clone(),
        document: Arc::clone(&document),
    };
    services.iter().map(draft).collect()
}

/// Tells of namespaces that it is exported to and does not reach: their callers look into their own and the service's.
fn unreached(
    spec: &Spec,
    callers: &Callers,
    object: &Object,
    services: &[ServiceName],
    report: &mut Report<'_>,
) {
    let own = &object.name.namespace;
    let at = At::spec().field("exportTo");
    let Callers::Of(of) = callers else { return };
    let selects = spec.workload_selector.is_some();
    if services.is_empty() || !selects && services.iter().any(|s| s.namespace == *own) {
        return;
    }
    let why = if selects {
        "with a workloadSelector"
    } else {
        "in another namespace than its service's"
    };
    for namespace in of.iter().filter(|n| *n != own) {
        let text =
            format!("callers of {namespace} do not get it: a rule {why} is for those of its own");
        report.say(Code::IdleSetting, &at, text);
    }
}

/// Whether all of these are labels; which are not is told.
pub(super) fn are_labels(labels: &Labels, at: &At, report: &mut Report<'_>) -> bool {
    let mut all = true;
    for (key, value) in labels.iter().filter(|(k, v)| !is_label(k, v)) {
        report.invalid(&at.field(key), value, "a label, as workloads may have it");
        all = false;
    }
    all
}

/// Reads what an object says, for the services that its host means.
struct Reader<'a> {
    world: &'a World,
    services: &'a [ServiceName],
}

impl Reader<'_> {
    fn subsets(
        &self,
        docs: &[types::Subset],
        at: &At,
        report: &mut Report<'_>,
    ) -> Vec<SubsetDraft> {
        let mut subsets = Vec::new();
        for (i, doc) in docs.iter().enumerate() {
            let at = at.index(i);
            let in_labels = at.field("labels");
            // Labels that are none stay: no endpoint has them, and all of them would be too many.
            if are_labels(&doc.labels, &in_labels, report) {
                self.look_for(&doc.labels, &in_labels, report);
            }
            let in_policy = at.field("trafficPolicy");
            let policy = doc.traffic_policy.as_ref();
            let policy = policy.map(|p| self.policy(p, &in_policy, report));
            if doc.name.is_empty() {
                report.invalid(&at.field("name"), "", "a name that routes refer to it by");
                continue;
            }
            subsets.push(SubsetDraft {
                at,
                name: doc.name.clone(),
                labels: doc.labels.clone(),
                policy,
            });
        }
        subsets
    }

    /// Tells of labels that no endpoint has, where all of them are known.
    fn look_for(&self, labels: &Labels, at: &At, report: &mut Report<'_>) {
        let sets: Option<Vec<&BTreeSet<Labels>>> = self
            .services
            .iter()
            .map(|s| self.world.labels.get(s))
            .collect();
        let Some(sets) = sets.filter(|sets| !sets.is_empty()) else {
            return;
        };
        if sets.into_iter().flatten().any(|l| has_labels(l, labels)) {
            return;
        }
        let wanted: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let wanted = if wanted.is_empty() {
            String::new()
        } else {
            format!(" with {}", wanted.join(", "))
        };
        let text = format!("there is no endpoint{wanted}");
        report.say(Code::EmptySubset, at, text);
    }

    fn policy(&self, doc: &types::TrafficPolicy, at: &At, report: &mut Report<'_>) -> PolicyDraft {
        let budget = doc.retry_budget.as_ref();
        let in_budget = at.field("retryBudget");
        let all = Sections {
            retry_budget: budget.map(|b| settings::retry_budget(b, &in_budget, report)),
            ..self.sections(
                doc.load_balancer.as_ref(),
                doc.connection_pool.as_ref(),
                doc.outlier_detection.as_ref(),
                at,
                report,
            )
        };
        let at = at.field("portLevelSettings");
        let mut ports = BTreeMap::new();
        for (i, doc) in doc.port_level_settings.iter().enumerate() {
            let at = at.index(i);
            let sections = self.sections(
                doc.load_balancer.as_ref(),
                doc.connection_pool.as_ref(),
                doc.outlier_detection.as_ref(),
                &at,
                report,
            );
            let at = at.field("port").field("number");
            let Some(port) = self.port(doc, &at, report) else {
                continue;
            };
            match ports.entry(port) {
                Entry::Vacant(entry) => drop(entry.insert(sections)),
                Entry::Occupied(_) => {
                    let text = format!("port {port} has settings already, and those hold");
                    report.say(Code::InvalidValue, &at, text);
                }
            }
        }
        PolicyDraft { all, ports }
    }

    fn sections(
        &self,
        load_balancer: Option<&types::LoadBalancer>,
        connection_pool: Option<&types::ConnectionPool>,
        outlier_detection: Option<&types::OutlierDetection>,
        at: &At,
        report: &mut Report<'_>,
    ) -> Sections {
        let [in_balancer, in_pool, in_outlier] =
            ["loadBalancer", "connectionPool", "outlierDetection"].map(|f| at.field(f));
        let regions = self.world.regions.as_ref();
        Sections {
            balancer: load_balancer.map(|b| balance::balancer(b, regions, &in_balancer, report)),
            pool: connection_pool.map(|p| settings::pool(p, &in_pool, report)),
            outlier: outlier_detection.map(|o| settings::outlier(o, &in_outlier, report)),
            retry_budget: None,
        }
    }

    /// A port that settings are for. That no service has it is told.
    fn port(&self, doc: &PortPolicy, at: &At, report: &mut Report<'_>) -> Option<u16> {
        let number = doc.port.number;
        let Some(port) = number
            .and_then(|n| u16::try_from(n).ok())
            .filter(|p| *p > 0)
        else {
            let shown = number.map(|n| n.to_string()).unwrap_or_default();
            report.invalid(at, &shown, "the number of a port of the service");
            return None;
        };
        let mut known = self
            .services
            .iter()
            .filter_map(|s| self.world.services.get(s));
        let has = |ports: &crate::world::Ports| ports.iter().any(|(_, p)| *p == port);
        if !self.services.is_empty() && !known.any(has) {
            let text = format!("no service of this host has a port {port}");
            report.say(Code::IdleSetting, at, text);
        }
        Some(port)
    }
}
