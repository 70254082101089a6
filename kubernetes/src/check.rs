//! Whether a Kubernetes cluster can take Tradewind, or is well with it, and whether the controllers of any cluster are: what is looked
//! at, and what is concluded. Pure; [`gather`] asks the API server, and whoever calls it a controller.
//!
//! Each check is declared once, with its category, what it means when it fails, and a hint: text, JSON and docs/checks.md come from
//! that. Ids never change; messages may.

pub mod controllers;
pub mod gather;
pub mod rights;

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::{
    injection::{CAPTURE, INJECT, PROXY},
    install::ACCOUNT,
};

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it must be.
    Ok,
    /// Something to look at that stops nothing.
    Warning,
    /// It is not as it must be.
    Failed,
    /// Not looked at: something before it failed.
    Skipped,
}

impl Outcome {
    /// As JSON says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "error",
            Self::Skipped => "skipped",
        }
    }
}

/// What a failure of a check means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing after it can be looked at.
    Fatal,
    /// It has to be mended.
    Error,
    /// It should be looked at.
    Warning,
}

/// When it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before it is installed, and after.
    Always,
    /// Before.
    Pre,
    /// After.
    Installed,
    /// After, and on hosts: it is the controller who is asked.
    Controller,
}

impl When {
    /// In the words of docs/checks.md.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "looked at before and after it is installed",
            Self::Pre => "looked at before it is installed (`--pre`)",
            Self::Installed => "looked at once it is installed",
            Self::Controller => "looked at once it is installed, and on hosts",
        }
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A Kubernetes cluster before it is installed there.
    Pre,
    /// One in which it is installed.
    Installed,
    /// A controller on a host.
    Host,
}

/// One check, as it is declared.
#[derive(Debug)]
pub struct Check {
    /// Permanent, and an anchor in docs/checks.md.
    pub id: &'static str,
    /// What it belongs to.
    pub category: &'static str,
    /// What is to be so.
    pub about: &'static str,
    /// What it means if it is not.
    pub severity: Severity,
    /// When it is looked at.
    pub when: When,
    /// What to do then.
    pub hint: &'static str,
    judge: fn(&Facts) -> Verdict,
}

/// Why something is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// As bad as the check is.
    Bad(String),
    /// A warning, whatever the check is.
    Warning(String),
    /// It could not be looked at, which is told elsewhere.
    Unknown(String),
}

/// Nothing is wrong, with a word; or this is.
type Verdict = Result<String, Fault>;

fn bad(what: impl Into<String>) -> Verdict {
    Err(Fault::Bad(what.into()))
}

fn warning(what: impl Into<String>) -> Verdict {
    Err(Fault::Warning(what.into()))
}

fn unknown(why: impl Into<String>) -> Verdict {
    Err(Fault::Unknown(why.into()))
}

/// What is known of a cluster. What could not be asked is an error with its reason.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its version, `major` and `minor` as it says them.
    pub version: Option<Result<(String, String), String>>,
    /// What whoever asks may not do, as `verb resource`.
    pub forbidden: Option<Result<Vec<String>, String>>,
    /// CRDs, by name.
    pub crds: Vec<Value>,
    /// The namespaces.
    pub namespaces: Vec<Value>,
    /// Where it is installed.
    pub namespace: String,
    /// `StatefulSet` and `Deployment`s of ours.
    pub workloads: Vec<Value>,
    /// The webhook's configuration.
    pub webhook: Option<Value>,
    /// Namespaces that have the root.
    pub roots: Vec<String>,
    /// All pods.
    pub pods: Vec<Value>,
    /// What the controllers' account may not do.
    pub account: Option<Result<rights::Account, String>>,
    /// What a controller says; none where none is ready.
    pub controller: Option<controllers::Asked>,
}

impl Facts {
    /// Whether a controller is ready to be asked, as its `StatefulSet` says.
    pub fn controller_is_ready(&self) -> bool {
        let ready = |one: &Value| one.pointer("/status/readyReplicas").and_then(Value::as_u64);
        let mut ours = self.workloads.iter().filter(|one| name(one) == ACCOUNT);
        ours.any(|one| ready(one).is_some_and(|ready| ready > 0))
    }
}

/// The result of one check.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which.
    pub check: &'static Check,
    /// What was found.
    pub outcome: Outcome,
    /// In words.
    pub message: String,
}

/// Oldest minor version of Kubernetes 1 with native sidecars switched on.
const OLDEST_MINOR: u32 = 29;
/// How many names a message lists.
const LISTED: usize = 5;
/// The CRDs of the chart.
const CRDS: [&str; 3] = [
    "serviceexports.multicluster.x-k8s.io",
    "serviceimports.multicluster.x-k8s.io",
    "clusterproperties.about.k8s.io",
];

/// Every check, in the order in which they are looked at.
pub const CHECKS: [Check; 16] = [
    Check {
        id: "api-answers",
        category: "kubernetes",
        about: "the API server answers",
        severity: Severity::Fatal,
        when: When::Always,
        hint: "`kubectl --context CONTEXT version` must work; choose another cluster with --context",
        judge: api_answers,
    },
    Check {
        id: "version",
        category: "kubernetes",
        about: "Kubernetes has native sidecars",
        severity: Severity::Error,
        when: When::Always,
        hint: "injected pods need Kubernetes 1.29 or later; without them set injection.enabled=false",
        judge: version,
    },
    Check {
        id: "may-install",
        category: "rights",
        about: "you may install it",
        severity: Severity::Error,
        when: When::Pre,
        hint: "ask whoever looks after the cluster for these rights, or have them apply what `tradewind install` prints",
        judge: may_install,
    },
    Check {
        id: "crds-of-others",
        category: "rights",
        about: "nobody else's MCS API is in the way",
        severity: Severity::Warning,
        when: When::Pre,
        hint: "two implementations of the MCS API write the same objects; remove the other one first",
        judge: crds_of_others,
    },
    Check {
        id: "account-rights",
        category: "rights",
        about: "the controller may do what it must",
        severity: Severity::Error,
        when: When::Installed,
        hint: "`tradewind install … --apply`, or `helm upgrade`, brings back the ClusterRole tradewind-controller and its binding; `kubectl auth can-i RIGHT -A --as=ACCOUNT` asks about one right",
        judge: rights::judge,
    },
    Check {
        id: "crds",
        category: "installation",
        about: "the MCS API is served",
        severity: Severity::Error,
        when: When::Installed,
        hint: "`tradewind install … --apply` brings the CRDs",
        judge: crds,
    },
    Check {
        id: "workloads",
        category: "installation",
        about: "controller, gateways and DNS servers are ready",
        severity: Severity::Error,
        when: When::Installed,
        hint: "`kubectl -n NAMESPACE describe pods -l app.kubernetes.io/part-of=tradewind` says what they wait for",
        judge: workloads,
    },
    Check {
        id: "webhook-certificate",
        category: "injection",
        about: "the API server believes the webhook",
        severity: Severity::Error,
        when: When::Installed,
        hint: "the controller writes the caBundle; its log says why it could not",
        judge: webhook_certificate,
    },
    Check {
        id: "root-published",
        category: "injection",
        about: "namespaces with proxies have the root",
        severity: Severity::Error,
        when: When::Installed,
        hint: "the controller writes the ConfigMap tradewind-root; pods wait for it. Its log says why it could not",
        judge: root_published,
    },
    Check {
        id: "pod-security",
        category: "injection",
        about: "namespaces with proxies let the init step set its rules",
        severity: Severity::Warning,
        when: When::Installed,
        hint: "NET_ADMIN is refused by the Pod Security Standards baseline and restricted; enforce privileged there, and warn of the others",
        judge: pod_security,
    },
    Check {
        id: "pods-without-proxy",
        category: "data plane",
        about: "pods of these namespaces have their proxy",
        severity: Severity::Warning,
        when: When::Installed,
        hint: "pods that ran before the namespace was labelled get one when they are made anew: `kubectl -n NAMESPACE rollout restart deployment`",
        judge: pods_without_proxy,
    },
    Check {
        id: "controller-answers",
        category: "controllers",
        about: "a controller answers",
        severity: Severity::Error,
        when: When::Controller,
        hint: "`tradewind status` asks the same; its log says more: `kubectl -n NAMESPACE logs -l app.kubernetes.io/name=tradewind-controller`",
        judge: controllers::answers,
    },
    Check {
        id: "controllers-heard",
        category: "controllers",
        about: "the cluster's controllers hear each other",
        severity: Severity::Error,
        when: When::Controller,
        hint: "see that it runs and is reached at its address; the others serve everything meanwhile; one that is gone for good is taken out with `tradewind store remove NODE --yes`",
        judge: controllers::hear_each_other,
    },
    Check {
        id: "controllers-follow",
        category: "controllers",
        about: "they follow the store",
        severity: Severity::Warning,
        when: When::Controller,
        hint: "`tradewind store peers --stale` says who leads and how far each trails; a node whose own copy is broken fetches it anew with `tradewind store rejoin`",
        judge: controllers::follow_the_store,
    },
    Check {
        id: "controllers-speaker",
        category: "controllers",
        about: "one of them publishes",
        severity: Severity::Error,
        when: When::Controller,
        hint: "the store decides who publishes, and has to take writes for it: `tradewind store peers --stale` says who leads and who answers",
        judge: controllers::one_publishes,
    },
    Check {
        id: "kinds-listed",
        category: "controllers",
        about: "the API server lists what the controller reads",
        severity: Severity::Error,
        when: When::Controller,
        hint: "a right that is missing comes back with `tradewind install … --apply` or `helm upgrade`, and account-rights names it; anything else is for whoever serves that kind",
        judge: controllers::kinds_are_listed,
    },
];

/// Looks at everything that is due. After a fatal failure the rest is skipped.
pub fn judge(facts: &Facts, look: Look) -> Vec<Finding> {
    let due = CHECKS.iter().filter(|check| match check.when {
        When::Always => look != Look::Host,
        When::Pre => look == Look::Pre,
        When::Installed => look == Look::Installed,
        When::Controller => look != Look::Pre,
    });
    let mut fatal: Option<&'static str> = None;
    due.map(|check| {
        if let Some(before) = fatal {
            return Finding {
                check,
                outcome: Outcome::Skipped,
                message: format!("{before} must pass first"),
            };
        }
        let (outcome, message) = match (check.judge)(facts) {
            Ok(message) => (Outcome::Ok, message),
            Err(Fault::Unknown(message)) => (Outcome::Skipped, message),
            Err(Fault::Warning(message)) => (Outcome::Warning, message),
            Err(Fault::Bad(message)) if check.severity == Severity::Warning => {
                (Outcome::Warning, message)
            }
            Err(Fault::Bad(message)) => (Outcome::Failed, message),
        };
        if outcome == Outcome::Failed && check.severity == Severity::Fatal {
            fatal = Some(check.id);
        }
        Finding {
            check,
            outcome,
            message,
        }
    })
    .collect()
}

fn api_answers(facts: &Facts) -> Verdict {
    match &facts.version {
        Some(Ok((major, minor))) => Ok(format!("version {major}.{minor}")),
        Some(Err(why)) => bad(why),
        None => bad("it was not asked"),
    }
}

fn version(facts: &Facts) -> Verdict {
    let Some(Ok((major, minor))) = &facts.version else {
        return bad("its version is not known");
    };
    // Some say `29+`.
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    let enough = match (major.as_str(), digits.parse::<u32>()) {
        ("1", Ok(minor)) => minor >= OLDEST_MINOR,
        (major, _) => major.parse::<u32>().is_ok_and(|major| major > 1),
    };
    if enough {
        Ok(format!("since 1.{OLDEST_MINOR}"))
    } else {
        bad(format!("{major}.{minor} is older than 1.{OLDEST_MINOR}"))
    }
}

fn may_install(facts: &Facts) -> Verdict {
    match &facts.forbidden {
        Some(Ok(forbidden)) if forbidden.is_empty() => Ok("all that the chart has".to_owned()),
        Some(Ok(forbidden)) => bad(format!("you may not {}", listed(forbidden))),
        Some(Err(why)) => bad(why),
        None => bad("it was not asked"),
    }
}

fn crds_of_others(facts: &Facts) -> Verdict {
    let label =
        |crd: &&Value| text(crd, "/metadata/labels/app.kubernetes.io~1part-of") != "tradewind";
    let theirs = facts.crds.iter().filter(|crd| CRDS.contains(&name(crd)));
    let theirs: Vec<&str> = theirs.filter(label).map(name).collect();
    if theirs.is_empty() {
        Ok("none is there".to_owned())
    } else {
        bad(format!(
            "{} was installed by somebody else",
            listed(&theirs)
        ))
    }
}

fn crds(facts: &Facts) -> Verdict {
    let is_served = |wanted: &str| {
        let found = facts.crds.iter().find(|crd| name(crd) == wanted);
        found.is_some_and(|crd| condition(crd, "Established") == Some("True"))
    };
    let missing: Vec<&str> = CRDS.into_iter().filter(|crd| !is_served(crd)).collect();
    if missing.is_empty() {
        Ok(format!("{} kinds", CRDS.len()))
    } else {
        bad(format!("{} is not served", listed(&missing)))
    }
}

fn workloads(facts: &Facts) -> Verdict {
    let mut told = Vec::new();
    let mut wanting = Vec::new();
    for workload in &facts.workloads {
        let count = |path: &str| workload.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let (ready, wanted) = (count("/status/readyReplicas"), count("/spec/replicas"));
        let line = format!("{} {ready}/{wanted}", name(workload));
        if ready < wanted.max(1) {
            wanting.push(line);
        } else {
            told.push(line);
        }
    }
    for needed in ["tradewind-controller", "tradewind-gateway"] {
        if !facts
            .workloads
            .iter()
            .any(|workload| name(workload) == needed)
        {
            wanting.push(format!("{needed} is not there"));
        }
    }
    if wanting.is_empty() {
        Ok(listed(&told))
    } else {
        bad(listed(&wanting))
    }
}

fn webhook_certificate(facts: &Facts) -> Verdict {
    let Some(webhook) = &facts.webhook else {
        return Ok("injection is off".to_owned());
    };
    let all = webhook.get("webhooks").and_then(Value::as_array);
    let without: Vec<&str> = all
        .into_iter()
        .flatten()
        .filter(|one| text(one, "/clientConfig/caBundle").is_empty())
        .map(|one| text(one, "/name"))
        .collect();
    if without.is_empty() {
        Ok("the caBundle is there".to_owned())
    } else {
        bad(format!("{} has no caBundle", listed(&without)))
    }
}

/// Namespaces whose new pods get a proxy.
fn injected(facts: &Facts) -> Vec<&Value> {
    let istio = facts.webhook.as_ref().is_some_and(|webhook| {
        let all = webhook.get("webhooks").and_then(Value::as_array);
        all.into_iter()
            .flatten()
            .any(|one| text(one, "/name").starts_with("istio-label."))
    });
    let is_injected = |namespace: &&Value| {
        let own = text(namespace, "/metadata/labels/tradewind.io~1injection");
        let theirs = text(namespace, "/metadata/labels/istio-injection");
        own == "enabled" || (istio && own.is_empty() && theirs == "enabled")
    };
    facts.namespaces.iter().filter(is_injected).collect()
}

fn root_published(facts: &Facts) -> Verdict {
    let all = injected(facts);
    let without = all.iter().map(|namespace| name(namespace));
    let without: Vec<&str> = without
        .filter(|name| !facts.roots.iter().any(|root| root == name))
        .collect();
    if without.is_empty() {
        Ok(format!("{} namespaces", all.len()))
    } else {
        bad(format!(
            "{} has no ConfigMap tradewind-root",
            listed(&without)
        ))
    }
}

fn pod_security(facts: &Facts) -> Verdict {
    let strict = |namespace: &&&Value| {
        let level = text(
            namespace,
            "/metadata/labels/pod-security.kubernetes.io~1enforce",
        );
        ["baseline", "restricted"].contains(&level)
    };
    let all = injected(facts);
    let refusing: Vec<&str> = all
        .iter()
        .filter(strict)
        .map(|namespace| name(namespace))
        .collect();
    if refusing.is_empty() {
        Ok(format!("{} namespaces", all.len()))
    } else {
        bad(format!(
            "{} enforces baseline or restricted",
            listed(&refusing)
        ))
    }
}

fn pods_without_proxy(facts: &Facts) -> Verdict {
    let names: Vec<&str> = injected(facts).into_iter().map(name).collect();
    let mut with = 0_usize;
    let mut without = Vec::new();
    for pod in &facts.pods {
        let namespace = text(pod, "/metadata/namespace");
        if !names.contains(&namespace) || !wants_proxy(pod) {
            continue;
        }
        if has_proxy(pod) {
            with += 1;
        } else {
            without.push(format!("{namespace}/{}", name(pod)));
        }
    }
    if without.is_empty() {
        Ok(format!("{with} pods"))
    } else {
        bad(format!(
            "{} of {} have none: {}",
            without.len(),
            without.len() + with,
            listed(&without)
        ))
    }
}

/// Running, and not one that has none by its own wish or nature.
fn wants_proxy(pod: &Value) -> bool {
    let key = INJECT.replace('/', "~1");
    let by = |map: &str| text(pod, &format!("/metadata/{map}/{key}")) != "false";
    let over = ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
    let on_the_node = pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true);
    by("labels") && by("annotations") && !over && !on_the_node
}

fn has_proxy(pod: &Value) -> bool {
    let all = pod
        .pointer("/spec/initContainers")
        .and_then(Value::as_array);
    let names: Vec<&str> = all
        .into_iter()
        .flatten()
        .map(|c| text(c, "/name"))
        .collect();
    names.contains(&PROXY) && names.contains(&CAPTURE)
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    let found = object.pointer(path).and_then(Value::as_str);
    found.unwrap_or_default()
}

fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let all = object.pointer("/status/conditions")?.as_array()?;
    let found = all.iter().find(|one| text(one, "/type") == kind)?;
    Some(text(found, "/status"))
}

fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let first: Vec<&str> = names.iter().take(LISTED).map(AsRef::as_ref).collect();
    let first = first.join(", ");
    match names.len().checked_sub(LISTED) {
        Some(more) if more > 0 => format!("{first} and {more} more"),
        _ => first,
    }
}
