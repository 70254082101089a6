//! How a service's endpoints are called: which of them, how one is picked, how much at once, and when one is left alone. The
//! route model says where a request goes, this says how. Istio's DestinationRule is compiled into it.
//!
//! It travels with the rules of the service, as JSON, and is refused whole by whoever meets a field that he does not know.
//! What a setting leaves out is what proxies do by themselves.

mod valid;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Namespace, Region},
    route::{Millionths, Origin},
};

/// Labels of a workload.
pub type Labels = BTreeMap<String, String>;

/// Most labels of one endpoint: what people give a workload is a handful, and every caller's proxy keeps them.
pub const MAX_LABELS: usize = 64;
/// Longest key of a label: a prefix of 253 characters, a slash and a name of 63 (Kubernetes' rule).
const MAX_KEY: usize = 253 + 1 + 63;
/// Longest value of a label (Kubernetes' rule).
const MAX_VALUE: usize = 63;

/// Whether this is a label as Kubernetes has them: letters, digits, `-`, `_` and `.`, and a slash in the key.
pub fn is_label(key: &str, value: &str) -> bool {
    let common = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_key =
        !key.is_empty() && key.len() <= MAX_KEY && key.chars().all(|c| common(c) || c == '/');
    is_key && value.len() <= MAX_VALUE && value.chars().all(common)
}

/// Whether an endpoint may have these.
pub fn are_labels(labels: &Labels) -> bool {
    labels.len() <= MAX_LABELS && labels.iter().all(|(k, v)| is_label(k, v))
}

/// Whether everything that is wanted is there.
pub fn has_labels(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// What holds for the calls of some callers to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficPolicy {
    /// Where it stands.
    pub origin: Origin,
    /// The callers' namespace; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Labels that callers must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub caller_labels: Labels,
    /// For all endpoints.
    #[serde(default)]
    pub settings: PerPort,
    /// Named parts of the endpoints.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subsets: BTreeMap<String, Subset>,
}

impl TrafficPolicy {
    /// Whether it is for this caller.
    pub fn is_for(&self, namespace: &Namespace, labels: &Labels) -> bool {
        self.namespace.as_ref().is_none_or(|n| n == namespace)
            && has_labels(labels, &self.caller_labels)
    }
}

/// Some of a service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// The labels that its endpoints have.
    pub labels: Labels,
    /// How they are called: complete, nothing is inherited any more.
    #[serde(default)]
    pub settings: PerPort,
}

/// Settings of all ports, and of those that have their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerPort {
    /// Of a port that has none of its own.
    pub all: Arc<Settings>,
    /// By the service's port. They take the place of the others, nothing is inherited.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, Arc<Settings>>,
}

impl PerPort {
    /// What holds for a port.
    pub fn of(&self, port: u16) -> &Arc<Settings> {
        self.ports.get(&port).unwrap_or(&self.all)
    }
}

/// How endpoints are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How one is picked among those that are equally near.
    pub balance: Balance,
    /// How much at once.
    pub pool: Pool,
    /// When an endpoint is left alone for what it answers, beside what the transport sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier: Option<Outlier>,
    /// Which endpoints are near.
    pub locality: Locality,
    /// How one that is new or comes back gets its part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// How much may be tried again, instead of a fifth of recent calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
}

/// How an endpoint is picked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// The cheaper one of two, by latency and outstanding requests.
    #[default]
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
    /// By weight alone.
    Random,
    /// Always the same one for the same key.
    Hash(Hash),
}

/// Consistent hashing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    /// Of what. A call that has none of it is balanced as if nothing were said.
    pub by: HashKey,
    /// By which table.
    pub table: HashTable,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashKey {
    /// This header field, its name in lower case.
    Header(String),
    /// This cookie.
    Cookie(Cookie),
    /// The address that the caller connects from.
    SourceAddress,
    /// This parameter of the query.
    Query(String),
}

/// A cookie that calls are held together by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// The path that it is set for.
    pub path: Option<String>,
    /// For how long a caller that has none is given one, s; zero for the browser's session, none for never.
    pub ttl_s: Option<u64>,
    /// Further attributes that it is set with.
    pub attributes: Vec<(String, Option<String>)>,
}

/// How a hash leads to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashTable {
    /// A ring of at least so many points.
    Ring(u32),
    /// Maglev's table of so many places, a prime number.
    Maglev(u32),
}

impl HashTable {
    /// Istio's and Envoy's, where nothing is said.
    pub const RING: Self = Self::Ring(1024);
    /// Most points or places, as Envoy has it.
    pub const MAX: u32 = 8 << 20;
    /// Istio's and Envoy's, where no size is said.
    pub const MAGLEV: Self = Self::Maglev(65_537);
    /// Most places of Maglev's table, as Envoy has it.
    pub const MAX_MAGLEV: u32 = 5_000_011;
}

/// How much at once a proxy asks of a service, or of a subset. None is no bound of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Connections of which each carries one call: streams of bytes, and requests that came as HTTP/1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Requests that wait for one of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<u32>,
    /// Requests that are not answered yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// Requests that are tried again at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Requests after which a session with an endpoint is given up for a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_connection: Option<u32>,
    /// How long making a session may take, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
}

/// When an endpoint is ejected for its answers, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outlier {
    /// Errors in a row that eject; none for never.
    pub errors: Option<u32>,
    /// Of those, 502, 503 and 504 in a row that eject; none for never.
    pub gateway_errors: Option<u32>,
    /// Which answers are errors; empty for 500 to 599.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// Failures of the transport in a row that eject, where they are counted apart from answers; none for what the transport's own
    /// detector says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_failures: Option<u32>,
    /// Ejections end at multiples of this, ms.
    pub interval_ms: u64,
    /// The first lasts this, the second twice that, and so on, ms.
    pub base_ejection_ms: u64,
    /// At most so many of the endpoints are ejected for their answers at once, but always one.
    pub max_ejection_percent: u8,
    /// Nobody is ejected for answers while fewer than so many are fit.
    pub min_health_percent: u8,
}

impl Default for Outlier {
    /// Envoy's, as Istio documents them.
    fn default() -> Self {
        Self {
            errors: Some(5),
            gateway_errors: None,
            codes: Vec::new(),
            local_failures: None,
            interval_ms: 10_000,
            base_ejection_ms: 30_000,
            max_ejection_percent: 10,
            min_health_percent: 0,
        }
    }
}

/// Which endpoints are near.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locality {
    /// By zone, cluster, region and round trip.
    #[default]
    Nearest,
    /// All alike.
    Ignored,
    /// The same, but callers of a region go to this other one first when their own cannot serve.
    Failover(Vec<Failover>),
    /// Callers of a locality spread over localities by weight. The first that the caller is in holds; a caller that is in none goes to the
    /// nearest.
    Distribute(Vec<Distribute>),
    /// By how many of these labels in a row an endpoint shares with the caller, or has.
    Labels(Vec<PriorityLabel>),
}

/// Where a region's callers go next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// The callers' region.
    pub from: Region,
    /// The endpoints'.
    pub to: Region,
}

/// Where a locality's callers go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribute {
    /// The callers'.
    pub from: LocalityPattern,
    /// The endpoints', with their weights. An endpoint belongs to the most exact one that it fits.
    pub to: Vec<(LocalityPattern, u32)>,
}

/// A region, or a zone of it, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalityPattern {
    /// None for all.
    pub region: Option<String>,
    /// None for all.
    pub zone: Option<String>,
}

impl LocalityPattern {
    /// Whether something that is there is meant. What has no zone is in no particular one.
    pub fn matches(&self, region: &str, zone: Option<&str>) -> bool {
        self.region.as_deref().is_none_or(|r| r == region)
            && self.zone.as_deref().is_none_or(|z| Some(z) == zone)
    }

    /// How much it says: of several that match, the greatest is meant.
    pub fn exactness(&self) -> u8 {
        u8::from(self.region.is_some()) + u8::from(self.zone.is_some())
    }
}

/// One label of a priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorityLabel {
    /// Its key. Those of topology (region, zone, cluster, network) mean what is known of the endpoint, whatever its labels say.
    pub key: String,
    /// What the endpoint's must be; none for the caller's.
    pub value: Option<String>,
}

impl PriorityLabel {
    /// The region.
    pub const REGION: &str = "topology.kubernetes.io/region";
    /// The zone.
    pub const ZONE: &str = "topology.kubernetes.io/zone";
    /// The cluster.
    pub const CLUSTER: &str = "topology.istio.io/cluster";
    /// The network.
    pub const NETWORK: &str = "topology.istio.io/network";
}

/// How an endpoint that is new, or comes back, gets its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// After this it has all of it, ms.
    pub duration_ms: u64,
    /// It begins with this much of it.
    pub minimum: Millionths,
    /// The part is the time that is over to the power of one by this, in thousandths: 1000 grows evenly, more grows faster at first.
    pub aggression_milli: u32,
}

/// How much may be tried again at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// A share of the requests that are not answered yet.
    pub share: Millionths,
    /// But so many always.
    pub min_concurrency: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ports_own_settings_take_the_place_of_the_others() {
        let own = Arc::new(Settings {
            balance: Balance::Random,
            ..Settings::default()
        });
        let per_port = PerPort {
            all: Arc::default(),
            ports: [(80, Arc::clone(&own))].into(),
        };
        assert_eq!(per_port.of(80), &own);
        assert_eq!(per_port.of(81).balance, Balance::LeastRequest);
    }

    #[test]
    fn a_locality_without_a_zone_is_in_no_particular_one() {
        let pattern = |region: Option<&str>, zone: Option<&str>| LocalityPattern {
            region: region.map(str::to_owned),
            zone: zone.map(str::to_owned),
        };
        assert!(pattern(None, None).matches("eu", None));
        assert!(pattern(Some("eu"), None).matches("eu", Some("a")));
        assert!(!pattern(Some("eu"), Some("a")).matches("eu", None));
        assert!(!pattern(Some("us"), None).matches("eu", Some("a")));
        assert!(pattern(Some("eu"), Some("a")).exactness() > pattern(Some("eu"), None).exactness());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let json = r#"{"balance":"random","some":"thing"}"#;
        assert!(serde_json::from_str::<Settings>(json).is_err());
        let json = r#"{"balance":"random"}"#;
        let settings: Settings = serde_json::from_str(json).unwrap();
        assert_eq!(settings.balance, Balance::Random);
    }
}
