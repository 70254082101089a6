//! An operator's way into a cluster from outside: by a port-forward through its API server to its controller, with a token of the
//! account `tradewind-operator`.
//!
//! Owns no connection. What each step needs at the API server is what the chart's Role `tradewind-operator` allows; a step that is
//! refused says which right is missing.

use std::{fmt, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{
    Api,
    api::{ListParams, PostParams},
    client::UpgradeConnectionError,
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Client, ClientError, Place, managed};

/// The account whose tokens make an operator.
pub const ACCOUNT: &str = "tradewind-operator";
/// Where the account says which cluster it belongs to.
pub const CLUSTER_ANNOTATION: &str = "tradewind.io/cluster";
/// What the audience of its tokens begins with; the cluster follows.
const AUDIENCE_PREFIX: &str = "tradewind.";
/// How long a token is good for: the shortest that API servers make.
const TOKEN_SECONDS: i64 = 600;
/// The label of the controllers' Pods.
const CONTROLLER_PODS: &str = "app.kubernetes.io/name=tradewind-controller";
/// The controller's port for everything but the API server's questions.
const PORT: u16 = 15_012;
/// The file of roots in its ConfigMap.
const ROOTS_FILE: &str = "root.pem";
/// How long one step may take: an API server that is well answers in milliseconds, a far one within this.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a forwarded connection may be silent; what runs over it asks for a sign of life much sooner.
const SILENCE: Duration = Duration::from_secs(60);

/// What was to be done at the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the account, which names the cluster.
    Account,
    /// Have a token of it made.
    Token,
    /// Read the federation's roots.
    Roots,
    /// Find the controller.
    Pods,
    /// Open a connection to it.
    Forward,
}

impl Step {
    /// As people read it.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Account => "read the service account tradewind-operator",
            Self::Token => "have a token of the service account tradewind-operator made",
            Self::Roots => "read the ConfigMap tradewind-root",
            Self::Pods => "list the controller's pods",
            Self::Forward => "forward a port of the controller's pod",
        }
    }

    /// The right that it takes.
    pub const fn right(self) -> &'static str {
        match self {
            Self::Account => "get serviceaccounts/tradewind-operator",
            Self::Token => "create serviceaccounts/tradewind-operator/token",
            Self::Roots => "get configmaps/tradewind-root",
            Self::Pods => "list pods",
            // A WebSocket is opened by a GET; API servers from 1.35 on ask for the other as well.
            Self::Forward => "get and create pods/portforward",
        }
    }
}

/// Why a step came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The API server does not allow it.
    #[error("the API server does not allow it")]
    Forbidden,
    /// The API server does not know who asks.
    #[error("the API server does not know you")]
    Unknown,
    /// What was asked for is not there.
    #[error("{0}")]
    Missing(String),
    /// It was refused otherwise.
    #[error("the API server refused: {0}")]
    Refused(String),
    /// Nobody answered.
    #[error("the API server did not answer: {0}")]
    Away(String),
}

/// Why there is no way to a controller.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Not even to the API server.
    #[error(transparent)]
    Place(#[from] ClientError),
    /// A step.
    #[error("could not {what} in {namespace} of {context}: {cause}", what = step.what())]
    Step {
        /// Which.
        step: Step,
        /// The kubeconfig's context, or what is said in its place.
        context: String,
        /// Where the controller is.
        namespace: String,
        /// Why not.
        cause: Cause,
    },
}

impl ForwardError {
    /// What to do next.
    pub fn hint(&self) -> String {
        let Self::Step {
            step,
            context,
            namespace,
            cause,
        } = self
        else {
            return "`kubectl config get-contexts` lists contexts; choose one with --context"
                .to_owned();
        };
        match cause {
            Cause::Forbidden => format!(
                "you lack the right to {} in {namespace}; the Role tradewind-operator has all that are needed: \
                 kubectl --context {context} create rolebinding tradewind-operator-ME -n {namespace} --role tradewind-operator --user ME",
                step.right()
            ),
            Cause::Unknown | Cause::Away(_) => {
                format!("`kubectl --context {context} version` must work")
            }
            Cause::Missing(_) => match step {
                Step::Account | Step::Token => format!(
                    "is Tradewind installed there, of this version? `tradewind check --context {context}`; name its namespace with --namespace"
                ),
                _ => format!(
                    "the controller has to run and to be a member of a federation: `tradewind check --context {context}`"
                ),
            },
            Cause::Refused(_) => {
                format!("`tradewind check --context {context}` says whether the controller is well")
            }
        }
    }
}

/// What an operator shows a controller, and whom to believe there.
pub struct Credentials {
    /// The cluster's name, as its installation says.
    pub cluster: String,
    /// A token for its controller. Ten minutes.
    pub token: String,
    /// The federation's roots, PEM.
    pub roots_pem: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// The way to one cluster's controller.
#[derive(Clone, Debug)]
pub struct Forward {
    client: Client,
    context: String,
    namespace: String,
}

impl Forward {
    /// To the controller in this namespace. Connects to nothing yet.
    pub async fn new(place: &Place, namespace: &str) -> Result<Self, ForwardError> {
        let current = || "the current context".to_owned();
        Ok(Self {
            client: Client::within(place, SILENCE).await?,
            context: place.context.clone().unwrap_or_else(current),
            namespace: namespace.to_owned(),
        })
    }

    /// Everything that the controller asks for and that has to be known of it.
    pub async fn credentials(&self) -> Result<Credentials, ForwardError> {
        let accounts: Api<ServiceAccount> = self.api();
        let account = self.step(Step::Account, accounts.get(ACCOUNT)).await?;
        let annotations = account.metadata.annotations.unwrap_or_default();
        let cluster = annotations.get(CLUSTER_ANNOTATION).ok_or_else(|| {
            let why = format!("it has no annotation {CLUSTER_ANNOTATION}");
            self.failed(Step::Account, Cause::Missing(why))
        })?;
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![format!("{AUDIENCE_PREFIX}{cluster}")],
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let post = PostParams::default();
        let made = accounts.create_token_request(ACCOUNT, &post, &request);
        let made = self.step(Step::Token, made).await?;
        let token = made.status.map(|status| status.token).unwrap_or_default();
        let maps: Api<ConfigMap> = self.api();
        let roots = self.step(Step::Roots, maps.get(managed::ROOTS)).await?;
        let roots_pem = roots.data.unwrap_or_default().remove(ROOTS_FILE);
        let roots_pem = roots_pem.ok_or_else(|| {
            let why = format!("it has no {ROOTS_FILE}");
            self.failed(Step::Roots, Cause::Missing(why))
        })?;
        Ok(Credentials {
            cluster: cluster.clone(),
            token,
            roots_pem,
        })
    }

    /// A connection to the controller's port. Which Pod that is is found anew each time: it may have been replaced.
    pub async fn open(
        &self,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, ForwardError> {
        let pods: Api<Pod> = self.api();
        let params = ListParams::default().labels(CONTROLLER_PODS);
        let found = self.step(Step::Pods, pods.list(&params)).await?;
        let name = choose(&found.items)
            .map_err(|why| self.failed(Step::Pods, Cause::Missing(why)))?
            .to_owned();
        let forward = pods.portforward(&name, &[PORT]);
        let mut forward = self.step(Step::Forward, forward).await?;
        forward.take_stream(PORT).ok_or_else(|| {
            let why = "it forwards no connection".to_owned();
            self.failed(Step::Forward, Cause::Refused(why))
        })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.kube.clone(), &self.namespace)
    }

    async fn step<T>(
        &self,
        step: Step,
        what: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ForwardError> {
        let late = |_| Cause::Away(format!("no answer within {} s", DEADLINE.as_secs()));
        let done = tokio::time::timeout(DEADLINE, what).await;
        done.map_err(late)
            .and_then(|answer| answer.map_err(|e| cause(&e)))
            .map_err(|cause| self.failed(step, cause))
    }

    fn failed(&self, step: Step, cause: Cause) -> ForwardError {
        ForwardError::Step {
            step,
            context: self.context.clone(),
            namespace: self.namespace.clone(),
            cause,
        }
    }
}

/// The Pod to go to: one that is ready, else one that runs at all.
fn choose(pods: &[Pod]) -> Result<&str, String> {
    let status = |pod: &Pod| pod.status.clone().unwrap_or_default();
    let runs = |pod: &&Pod| {
        pod.metadata.deletion_timestamp.is_none() && status(pod).phase.as_deref() == Some("Running")
    };
    let ready = |pod: &&Pod| {
        let conditions = status(pod).conditions.unwrap_or_default();
        conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let mut running: Vec<&Pod> = pods.iter().filter(runs).collect();
    running.sort_by_key(|pod| !ready(pod));
    if let Some(name) = running.first().and_then(|pod| pod.metadata.name.as_deref()) {
        return Ok(name);
    }
    let Some(first) = pods.first() else {
        return Err("there is none".to_owned());
    };
    let name = first.metadata.name.as_deref().unwrap_or_default();
    let phase = status(first).phase.unwrap_or_default();
    Err(format!("none runs: {name} is {phase}"))
}

/// Whose fault it is.
fn cause(error: &kube::Error) -> Cause {
    let of_code = |code: u16, said: &str| match code {
        401 => Cause::Unknown,
        403 => Cause::Forbidden,
        404 => Cause::Missing("there is none".to_owned()),
        _ => Cause::Refused(said.to_owned()),
    };
    match error {
        kube::Error::Api(status) => of_code(status.code, &status.message),
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => {
            of_code(status.as_u16(), &format!("it answers {status}"))
        }
        kube::Error::UpgradeConnection(other) => Cause::Refused(other.to_string()),
        other => Cause::Away(chain(other)),
    }
}

/// An error with its causes, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, phase: &str, ready: bool, ends: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        let mut pod = json!({
            "metadata": { "name": name },
            "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] },
        });
        if ends {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_ready_pod_is_taken_before_one_that_only_runs() {
        let pods = [
            pod("ends", "Running", true, true),
            pod("begins", "Running", false, false),
            pod("good", "Running", true, false),
        ];
        assert_eq!(choose(&pods), Ok("good"));
        assert_eq!(choose(&pods[..2]), Ok("begins"));
        assert_eq!(choose(&[]).unwrap_err(), "there is none");
        let why = choose(&[pod("c-0", "Pending", false, false)]).unwrap_err();
        assert_eq!(why, "none runs: c-0 is Pending");
    }

    fn failed(step: Step, cause: Cause) -> ForwardError {
        ForwardError::Step {
            step,
            context: "west".to_owned(),
            namespace: "tradewind-system".to_owned(),
            cause,
        }
    }

    #[test]
    fn whose_fault_it_is_and_what_to_do_is_said() {
        let api = |code: u16| {
            let status = kube::core::Status {
                code,
                message: "so it is".to_owned(),
                ..kube::core::Status::default()
            };
            cause(&kube::Error::Api(Box::new(status)))
        };
        let upgrade = |code: u16| {
            let status = http::StatusCode::from_u16(code).unwrap();
            let switch = UpgradeConnectionError::ProtocolSwitch(status);
            cause(&kube::Error::UpgradeConnection(switch))
        };
        for (step, cause, says, advises) in [
            (
                Step::Account,
                api(404),
                "there is none",
                "is Tradewind installed there",
            ),
            (
                Step::Token,
                api(403),
                "does not allow it",
                "create serviceaccounts/tradewind-operator/token",
            ),
            (
                Step::Roots,
                api(401),
                "does not know you",
                "kubectl --context west version",
            ),
            (
                Step::Forward,
                upgrade(403),
                "does not allow it",
                "get and create pods/portforward",
            ),
            (
                Step::Forward,
                upgrade(502),
                "502",
                "tradewind check --context west",
            ),
            (Step::Pods, api(500), "so it is", "tradewind check"),
        ] {
            let error = failed(step, cause);
            let text = error.to_string();
            assert!(text.contains(step.what()), "{text}");
            assert!(text.contains("tradewind-system of west"), "{text}");
            assert!(text.contains(says), "{text}");
            assert!(error.hint().contains(advises), "{}", error.hint());
        }
    }

    /// The Role of the chart allows each step, and nothing else.
    #[test]
    fn the_role_allows_every_step_and_no_more() {
        let mut values = crate::install::Values::default();
        values
            .merge("cluster: {name: '1', region: r, gateways: 'g:1'}")
            .unwrap();
        let all = crate::install::render(&values, "mesh").unwrap();
        let find = |id: &str| {
            let found = all.iter().find(|m| m.id() == id);
            found.map(|m| m.object.clone()).unwrap()
        };
        let account = find(&format!("ServiceAccount/{ACCOUNT}"));
        let cluster = &account["metadata"]["annotations"][CLUSTER_ANNOTATION];
        assert_eq!(cluster, &json!("1"));
        let mut allowed = Vec::new();
        let role = find(&format!("Role/{ACCOUNT}"));
        for rule in role["rules"].as_array().unwrap() {
            let words = |field: &str| {
                let words = rule[field].as_array().cloned().unwrap_or_default();
                let words = words.iter().map(|w| w.as_str().unwrap().to_owned());
                words.collect::<Vec<_>>()
            };
            let resource = words("resources").concat();
            let (kind, sub) = resource.split_once('/').unwrap_or((&resource, ""));
            let path = [kind.to_owned()]
                .into_iter()
                .chain(words("resourceNames"))
                .chain([sub.to_owned()]);
            let path: Vec<String> = path.filter(|part| !part.is_empty()).collect();
            allowed.push(format!(
                "{} {}",
                words("verbs").join(" and "),
                path.join("/")
            ));
        }
        let needed = [
            Step::Account,
            Step::Token,
            Step::Roots,
            Step::Pods,
            Step::Forward,
        ];
        assert_eq!(allowed, needed.map(Step::right));
    }
}
