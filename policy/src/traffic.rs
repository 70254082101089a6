//! What DestinationRules say together of how a service is called: which of them hold for which callers, in which order, and what one
//! of them says where it is put together of several. Nothing is inherited by who reads the result: rule, subset and port are
//! resolved here.
//!
//! A rule in the caller's own namespace goes before one in the service's, one that names the service before one that means it by a
//! `*`, one for some workloads before one for all. Those of one namespace, host and callers are one rule.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use tradewind_api::{
    Namespace, ServiceName,
    route::{Kind, Origin},
    traffic::{
        Balance, Labels, Locality, Outlier, PerPort, Pool, RetryBudget, Settings, Subset,
        TrafficPolicy, Warmup, has_labels,
    },
};

use crate::{
    draft::Callers,
    finding::{Code, Finding},
    object::{At, Object, Report},
};

/// How one of several endpoints is picked, as one section of a rule says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Balancer {
    pub(crate) balance: Balance,
    pub(crate) locality: Locality,
    pub(crate) warmup: Option<Warmup>,
}

/// The sections that rule, subset and port may each have. One that is there takes the place of another's as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sections {
    pub(crate) balancer: Option<Balancer>,
    pub(crate) pool: Option<Pool>,
    pub(crate) outlier: Option<Outlier>,
    pub(crate) retry_budget: Option<RetryBudget>,
}

impl Sections {
    /// These, and those of `base` that are not here.
    fn over(&self, base: &Self) -> Self {
        Self {
            balancer: self.balancer.as_ref().or(base.balancer.as_ref()).cloned(),
            pool: self.pool.or(base.pool),
            outlier: self.outlier.as_ref().or(base.outlier.as_ref()).cloned(),
            retry_budget: self.retry_budget.or(base.retry_budget),
        }
    }

    fn settings(&self) -> Arc<Settings> {
        let balancer = self.balancer.clone().unwrap_or_default();
        Arc::new(Settings {
            balance: balancer.balance,
            pool: self.pool.unwrap_or_default(),
            outlier: self.outlier.clone(),
            locality: balancer.locality,
            warmup: balancer.warmup,
            retry_budget: self.retry_budget,
        })
    }
}

/// A `trafficPolicy`, of a rule or of a subset.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PolicyDraft {
    pub(crate) all: Sections,
    pub(crate) ports: BTreeMap<u16, Sections>,
}

impl PolicyDraft {
    /// What holds for a port of the rule as a whole: its own, which inherits nothing, or that of all.
    fn of(&self, port: u16) -> &Sections {
        self.ports.get(&port).unwrap_or(&self.all)
    }

    fn resolved(&self) -> PerPort {
        let ports = self.ports.iter().map(|(p, s)| (*p, s.settings()));
        PerPort {
            all: self.all.settings(),
            ports: ports.collect(),
        }
    }

    /// Of a subset in a rule: its port's own alone, or its sections over those that the rule has for the port.
    fn resolved_over(&self, rule: &Self) -> PerPort {
        let mut ports = BTreeMap::new();
        for port in rule.ports.keys() {
            ports.insert(*port, self.all.over(rule.of(*port)).settings());
        }
        for (port, own) in &self.ports {
            ports.insert(*port, own.settings());
        }
        PerPort {
            all: self.all.over(&rule.all).settings(),
            ports,
        }
    }
}

/// A subset as one object has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SubsetDraft {
    /// Where it stands.
    pub(crate) at: At,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) policy: Option<PolicyDraft>,
}

/// What an object says of all services that its host means.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Document {
    pub(crate) policy: Option<PolicyDraft>,
    pub(crate) subsets: Vec<SubsetDraft>,
}

/// What one object says of one service.
#[derive(Clone, Debug)]
pub(crate) struct TrafficDraft {
    /// Index of the object among those that were read.
    pub(crate) object: usize,
    /// Its namespace.
    pub(crate) namespace: Namespace,
    pub(crate) service: ServiceName,
    /// The host, where it was one for several services.
    pub(crate) pattern: Option<String>,
    pub(crate) callers: Callers,
    /// Labels of the callers in its own namespace that it is for; none for any callers.
    pub(crate) selector: Option<Labels>,
    pub(crate) document: Arc<Document>,
}

impl TrafficDraft {
    /// Whether it is for callers of its own namespace alone: those of other namespaces look into their own and the service's.
    fn is_for_own_callers(&self) -> bool {
        self.selector.is_some() || self.namespace != self.service.namespace
    }

    /// The namespaces of those that it is for; none for everybody's.
    fn callers(&self) -> Vec<Option<Namespace>> {
        let own = &self.namespace;
        match &self.callers {
            Callers::All if self.is_for_own_callers() => vec![Some(own.clone())],
            Callers::All => vec![None],
            Callers::Of(of) if self.is_for_own_callers() => {
                of.get(own).cloned().map(Some).into_iter().collect()
            }
            Callers::Of(of) => of.iter().cloned().map(Some).collect(),
        }
    }
}

/// What drafts must have in common to be one rule. They are strong in the order of these, the least first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    is_of_service: bool,
    pattern: Option<(Reverse<usize>, String)>,
    is_for_any_workload: bool,
    is_for_everybody: bool,
}

type Key = (Place, Option<Namespace>, Option<Labels>);

/// What holds for each service, strongest first. What does not hold is told.
pub(crate) fn merge(
    objects: &[&Object],
    drafts: Vec<TrafficDraft>,
    findings: &mut Vec<Finding>,
) -> BTreeMap<ServiceName, Vec<Arc<TrafficPolicy>>> {
    let mut of_service: BTreeMap<ServiceName, BTreeMap<Key, Vec<TrafficDraft>>> = BTreeMap::new();
    for draft in drafts {
        let groups = of_service.entry(draft.service.clone()).or_default();
        for namespace in draft.callers() {
            let pattern = draft.pattern.as_ref();
            let place = Place {
                is_of_service: draft.namespace == draft.service.namespace,
                pattern: pattern.map(|p| (Reverse(p.len()), p.clone())),
                is_for_any_workload: draft.selector.is_none(),
                is_for_everybody: namespace.is_none(),
            };
            let key = (place, namespace, draft.selector.clone());
            groups.entry(key).or_default().push(draft.clone());
        }
    }
    let mut all = BTreeMap::new();
    for (service, groups) in of_service {
        let mut groups: Vec<_> = groups.into_iter().collect();
        for (_, drafts) in &mut groups {
            // Objects are in the order of their age, so the index is it.
            drafts.sort_by_key(|d| d.object);
        }
        let oldest = |drafts: &[TrafficDraft]| drafts.first().map(|d| d.object);
        groups.sort_by(|((a, _, _), of_a), ((b, _, _), of_b)| {
            a.cmp(b).then_with(|| oldest(of_a).cmp(&oldest(of_b)))
        });
        let policies = policies(objects, &service, &groups, findings);
        if !policies.is_empty() {
            all.insert(service, policies);
        }
    }
    all
}

/// Of groups in the order of their strength: those behind one that takes all of their callers are told.
fn policies(
    objects: &[&Object],
    service: &ServiceName,
    groups: &[(Key, Vec<TrafficDraft>)],
    findings: &mut Vec<Finding>,
) -> Vec<Arc<TrafficPolicy>> {
    let mut policies: Vec<(Arc<TrafficPolicy>, &Object)> = Vec::new();
    for ((_, namespace, selector), drafts) in groups {
        let caller_labels = selector.clone().unwrap_or_default();
        let before = policies.iter().find(|(policy, _)| {
            let takes = policy.namespace.is_none() || policy.namespace == *namespace;
            takes && has_labels(&caller_labels, &policy.caller_labels)
        });
        let at = |d: &TrafficDraft| objects.get(d.object).copied();
        if let Some((_, winner)) = before {
            let whose = match namespace {
                Some(namespace) => format!("calls from {namespace} to service {service}"),
                None => format!("service {service}"),
            };
            let text = format!(
                "has no effect on {whose}: {winner} ({}) goes before it",
                winner.place
            );
            for object in drafts.iter().filter_map(at) {
                let mut report = Report::new(object, findings);
                report.say(Code::Superseded, &At::default(), text.clone());
            }
            continue;
        }
        let Some(oldest) = drafts.first().and_then(at) else {
            continue;
        };
        let (settings, subsets) = together(objects, drafts, findings);
        let policy = TrafficPolicy {
            origin: Origin {
                kind: Kind::DestinationRule,
                object: oldest.name.clone(),
                rule: "trafficPolicy".to_owned(),
                cluster: None,
            },
            namespace: namespace.clone(),
            caller_labels,
            settings,
            subsets,
        };
        policies.push((Arc::new(policy), oldest));
    }
    policies.into_iter().map(|(policy, _)| policy).collect()
}

/// One rule of several, oldest first: the settings of the first that has some, and the subsets of all. What an older one says already
/// is told.
fn together(
    objects: &[&Object],
    drafts: &[TrafficDraft],
    findings: &mut Vec<Finding>,
) -> (PerPort, BTreeMap<String, Subset>) {
    let mut rule: Option<(&PolicyDraft, &Object)> = None;
    let mut subsets: BTreeMap<&str, (&SubsetDraft, &Object)> = BTreeMap::new();
    for draft in drafts {
        let Some(object) = objects.get(draft.object).copied() else {
            continue;
        };
        let mut report = Report::new(object, findings);
        match (&draft.document.policy, rule) {
            (Some(_), Some((_, older))) => {
                let text = format!(
                    "has no effect: that of {older} ({}) holds for the same host",
                    older.place
                );
                let at = At::spec().field("trafficPolicy");
                report.say(Code::Superseded, &at, text);
            }
            (Some(policy), None) => rule = Some((policy, object)),
            (None, _) => {}
        }
        for subset in &draft.document.subsets {
            if let Some((_, older)) = subsets.get(subset.name.as_str()) {
                let text = format!(
                    "has no effect: {older} ({}) has a subset {:?} before it",
                    older.place, subset.name
                );
                report.say(Code::Superseded, &subset.at, text);
                continue;
            }
            subsets.insert(&subset.name, (subset, object));
        }
    }
    let none = PolicyDraft::default();
    let rule = rule.map_or(&none, |(rule, _)| rule);
    let settings = rule.resolved();
    let resolved = |subset: &SubsetDraft| Subset {
        labels: subset.labels.clone(),
        settings: match &subset.policy {
            Some(policy) => policy.resolved_over(rule),
            None => settings.clone(),
        },
    };
    let subsets = subsets.into_iter();
    let subsets = subsets.map(|(name, (subset, _))| (name.to_owned(), resolved(subset)));
    let subsets = subsets.collect();
    (settings, subsets)
}
