//! The one route model: what callers' proxies do with a request or a stream to a service, whoever wrote it down and in whose words.
//! Gateway API routes, Istio's VirtualService and SMI's TrafficSplit are compiled into it.
//!
//! A rule has one match: what people write as several matches of one rule are several rules that share an action. Rules
//! stand in the order in which they are asked, and the first that matches decides.
//!
//! Rules travel as the JSON of these types, which is also how people see them. Whoever meets a field that he does not know refuses
//! the rules of that service and keeps the last ones: a condition that is not understood must not be left out.

mod persistence;
mod retry;
mod stream;
mod words;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    id::{ClusterName, Namespace, ServiceName},
    traffic::{Labels, TrafficPolicy},
};
pub use persistence::{Carrier, Persistence};
pub use retry::{Retry, RetryOn};
pub use stream::{StreamBackend, StreamMatch, StreamOtherwise, StreamRule, StreamTable, Streams};

/// The version of this model. It is raised with every field that older readers would refuse.
pub const FORMAT: u16 = 1;

/// A share of requests, in millionths: `0..=MILLION`.
pub type Millionths = u32;

/// All of them.
pub const MILLION: Millionths = 1_000_000;

/// What somebody wrote a rule in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Gateway API.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// Gateway API.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// Gateway API.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    /// Gateway API.
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    /// Istio.
    VirtualService,
    /// SMI.
    TrafficSplit,
    /// Istio.
    DestinationRule,
}

impl Kind {
    /// As objects spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::VirtualService => "VirtualService",
            Self::TrafficSplit => "TrafficSplit",
            Self::DestinationRule => "DestinationRule",
        }
    }
}

/// Where a rule stands, for whoever asks why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The object's kind.
    pub kind: Kind,
    /// The object's name; its namespace decides for whom it holds.
    pub object: ServiceName,
    /// The rule's own name, or its place, such as `rules[2]`.
    pub rule: String,
    /// The cluster that published it; none for one of the reader's own cluster.
    pub cluster: Option<ClusterName>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind.as_str(), self.object, self.rule)?;
        match &self.cluster {
            Some(cluster) => write!(f, " of {cluster}"),
            None => Ok(()),
        }
    }
}

/// All that holds for the calls to one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    /// For callers of these namespaces, before what holds for everybody.
    pub of_callers: BTreeMap<Namespace, Arc<Table>>,
    /// For all others.
    pub of_all: Option<Arc<Table>>,
    /// How its endpoints are called, strongest first: the first that is for a caller holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<Arc<TrafficPolicy>>,
    /// Where connections go whose bytes are no HTTP.
    #[serde(default, skip_serializing_if = "Streams::is_empty")]
    pub streams: Streams,
}

impl Routes {
    /// What holds for a caller in this namespace; none where a call goes to the service itself.
    pub fn for_caller(&self, namespace: &Namespace) -> Option<&Arc<Table>> {
        self.of_callers.get(namespace).or(self.of_all.as_ref())
    }

    /// How this caller calls its endpoints; none for what proxies do by themselves.
    pub fn traffic_for(
        &self,
        namespace: &Namespace,
        labels: &Labels,
    ) -> Option<&Arc<TrafficPolicy>> {
        self.traffic.iter().find(|t| t.is_for(namespace, labels))
    }
}

/// Rules in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The first that matches decides.
    pub rules: Vec<Rule>,
    /// Where none does.
    pub otherwise: Otherwise,
}

/// What becomes of a request that no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Otherwise {
    /// 404 (Gateway API and Istio: once there are rules, they say all).
    NotFound,
    /// On to the service as if there were no rules (SMI).
    Service,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Where it stands.
    pub origin: Origin,
    /// For which requests.
    pub when: Match,
    /// What becomes of them.
    pub then: Arc<Action>,
}

/// What a request must be like; everything that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// The service's port that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its path, without query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Its method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Text>,
    /// Its scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Text>,
    /// Its authority: host and port as they were sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<Text>,
    /// Its header fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch>,
    /// Its query parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<FieldMatch>,
    /// The caller's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_namespace: Option<Namespace>,
    /// Labels that the caller must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub caller_labels: BTreeMap<String, String>,
}

/// How a text is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Text {
    /// It is this.
    Exact(String),
    /// It begins with this.
    Prefix(String),
    /// This regular expression (RE2's syntax) matches all of it.
    Regex(String),
    /// It is there, whatever it is.
    Present,
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathMatch {
    /// With what.
    pub is: PathIs,
    /// Upper and lower case are the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignores_case: bool,
}

/// See [`PathMatch`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathIs {
    /// It is this.
    Exact(String),
    /// Its first segments are these (Gateway API): `/a` is no prefix of `/ab`. Without a slash at the end.
    Segments(String),
    /// Its first characters are these (Istio): `/a` is a prefix of `/ab`.
    Prefix(String),
    /// This regular expression matches all of it.
    Regex(String),
}

/// How a header field or a query parameter is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldMatch {
    /// Its name; of a header field in lower case.
    pub name: String,
    /// What its value is.
    pub is: Text,
    /// Matches where that is not so, and where it is not there at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// Who answers it.
    pub to: To,
    /// Changes of header fields, before and after.
    #[serde(default)]
    pub edits: Edits,
    /// What it looks like to the backend.
    #[serde(default)]
    pub rewrite: Rewrite,
    /// Copies of it, whose answers nobody hears.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    /// What is broken about it on purpose.
    #[serde(default)]
    pub fault: Fault,
    /// What browsers are told of it.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// How long it may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// When it is tried again, beside what is always safe; none leaves it at that.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// How its client's requests are kept with one endpoint; none picks one for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
}

impl Action {
    /// Nothing but who answers.
    pub fn new(to: To) -> Self {
        Self {
            to,
            edits: Edits::default(),
            rewrite: Rewrite::default(),
            mirrors: Vec::new(),
            fault: Fault::default(),
            cors: None,
            timeouts: Timeouts::default(),
            retry: None,
            persistence: None,
        }
    }
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum To {
    /// One of these, by weight. Where the weights sum to nothing: 500, as Gateway API has it.
    Backends(Vec<Backend>),
    /// The caller's proxy, with another place to ask.
    Redirect(Redirect),
    /// The caller's proxy, with this.
    Direct(Direct),
}

/// Where a share of requests goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// To whom.
    pub to: BackendRef,
    /// In relation to the others.
    pub weight: u32,
    /// Changes of header fields for this backend alone, after the rule's.
    #[serde(default)]
    pub edits: Edits,
}

/// A backend, as far as it can be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendRef {
    /// A service, or some of its endpoints.
    Service {
        /// Which.
        service: ServiceName,
        /// Its port; none for the one that was called.
        port: Option<u16>,
        /// The subset of its endpoints, by the name that its DestinationRule gives it.
        subset: Option<String>,
    },
    /// Nobody: its share is answered with 500, and this says why.
    Broken(String),
}

/// Changes of header fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edits {
    /// Of the request.
    pub request: HeaderEdits,
    /// Of the response.
    pub response: HeaderEdits,
}

/// Changes of one message's header fields, in this order. Names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderEdits {
    /// Take the place of all fields of their name.
    pub set: Vec<(String, String)>,
    /// Are added.
    pub add: Vec<(String, String)>,
    /// Are taken out.
    pub remove: Vec<String>,
}

/// What a request looks like to the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rewrite {
    /// Its authority.
    pub authority: Option<String>,
    /// Its path.
    pub path: Option<PathEdit>,
}

/// A change of a path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathEdit {
    /// This instead of the whole.
    Whole(String),
    /// This instead of the prefix that matched; of the whole, where it was no prefix.
    Matched(String),
    /// This instead of what the expression finds; `\1` is its first group.
    Regex {
        /// The expression.
        find: String,
        /// What takes its place.
        with: String,
    },
}

/// An answer with another place to ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
    /// Its scheme; none for the request's.
    pub scheme: Option<String>,
    /// Its host; none for the request's.
    pub host: Option<String>,
    /// Its port.
    pub port: RedirectPort,
    /// Its path; none for the request's.
    pub path: Option<PathEdit>,
}

/// See [`Redirect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RedirectPort {
    /// None is said: it follows from the scheme.
    OfScheme,
    /// The request's.
    OfRequest,
    /// This.
    Number(u16),
}

/// An answer of the caller's own proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Direct {
    /// 200 to 599.
    pub status: u16,
    /// Its body; none is empty.
    pub body: Option<Vec<u8>>,
}

/// A copy that goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// To whom.
    pub to: BackendRef,
    /// How many of the requests.
    pub share: Millionths,
}

/// What is broken on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// So many wait that long first, ms.
    pub delay: Option<(u64, Millionths)>,
    /// So many are answered with that, and go nowhere.
    pub abort: Option<(Abort, Millionths)>,
}

/// An answer that is a fault on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Abort {
    /// With this HTTP status.
    Http(u16),
    /// With HTTP 200 and this gRPC status.
    Grpc(u16),
}

/// How long a request may take, ms; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// With all its tries, until its response has ended.
    pub whole_ms: Option<u64>,
    /// Each of them, until its response has begun.
    pub try_ms: Option<u64>,
}

/// What browsers are told of requests from other origins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Whose pages may ask.
    pub origins: Vec<Text>,
    /// With which methods.
    pub methods: Vec<String>,
    /// With which header fields.
    pub headers: Vec<String>,
    /// What of the answer their scripts may read.
    pub expose: Vec<String>,
    /// How long they may remember it, s.
    pub max_age_s: Option<u64>,
    /// Whether they may send cookies and other credentials.
    pub credentials: bool,
    /// Whether a preflight of another origin goes to the backend; else it is answered here, without a permission.
    pub forwards_unmatched: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_own_rules_come_before_those_of_all() {
        let table = |otherwise| {
            Arc::new(Table {
                rules: Vec::new(),
                otherwise,
            })
        };
        let (shop, front) = (
            Namespace::new("shop").unwrap(),
            Namespace::new("front").unwrap(),
        );
        let mut routes = Routes::default();
        assert!(routes.for_caller(&shop).is_none());
        routes.of_all = Some(table(Otherwise::NotFound));
        routes
            .of_callers
            .insert(front.clone(), table(Otherwise::Service));
        assert_eq!(
            routes.for_caller(&shop).unwrap().otherwise,
            Otherwise::NotFound
        );
        assert_eq!(
            routes.for_caller(&front).unwrap().otherwise,
            Otherwise::Service
        );
    }
}
