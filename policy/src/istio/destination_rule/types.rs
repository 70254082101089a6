//! DestinationRule as it is written, as far as it is acted on. What is not here is reported by the table of fields. Every field
//! may be missing: protobuf has no required ones. Numbers are wider than they may be, so that one that is too large is told by its path.

use std::collections::BTreeMap;

use serde::Deserialize;
use tradewind_api::traffic::Labels;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) host: String,
    pub(super) traffic_policy: Option<TrafficPolicy>,
    pub(super) subsets: Vec<Subset>,
    pub(super) export_to: Vec<String>,
    pub(super) workload_selector: Option<Selector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Selector {
    pub(super) match_labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subset {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) traffic_policy: Option<TrafficPolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TrafficPolicy {
    pub(super) load_balancer: Option<LoadBalancer>,
    pub(super) connection_pool: Option<ConnectionPool>,
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) port_level_settings: Vec<PortPolicy>,
    pub(super) retry_budget: Option<RetryBudget>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PortPolicy {
    pub(super) port: PortSelector,
    pub(super) load_balancer: Option<LoadBalancer>,
    pub(super) connection_pool: Option<ConnectionPool>,
    pub(super) outlier_detection: Option<OutlierDetection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PortSelector {
    pub(super) number: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LoadBalancer {
    pub(super) simple: Option<String>,
    pub(super) consistent_hash: Option<ConsistentHash>,
    pub(super) locality_lb_setting: Option<LocalitySetting>,
    pub(super) warmup_duration_secs: Option<String>,
    pub(super) warmup: Option<Warmup>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConsistentHash {
    pub(super) http_header_name: Option<String>,
    pub(super) http_cookie: Option<HttpCookie>,
    pub(super) use_source_ip: bool,
    pub(super) http_query_parameter_name: Option<String>,
    pub(super) ring_hash: Option<RingHash>,
    pub(super) maglev: Option<Maglev>,
    pub(super) minimum_ring_size: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HttpCookie {
    pub(super) name: String,
    pub(super) path: Option<String>,
    pub(super) ttl: Option<String>,
    pub(super) attributes: Vec<Attribute>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Attribute {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RingHash {
    pub(super) minimum_ring_size: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Maglev {
    pub(super) table_size: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Warmup {
    pub(super) duration: Option<String>,
    pub(super) minimum_percent: Option<f64>,
    pub(super) aggression: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LocalitySetting {
    pub(super) distribute: Vec<Distribute>,
    pub(super) failover: Vec<Failover>,
    pub(super) failover_priority: Vec<String>,
    pub(super) enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Distribute {
    pub(super) from: String,
    pub(super) to: BTreeMap<String, i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Failover {
    pub(super) from: String,
    pub(super) to: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConnectionPool {
    pub(super) tcp: Tcp,
    pub(super) http: Http,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Tcp {
    pub(super) max_connections: Option<i64>,
    pub(super) connect_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Http {
    pub(super) http1_max_pending_requests: Option<i64>,
    pub(super) http2_max_requests: Option<i64>,
    pub(super) max_requests_per_connection: Option<i64>,
    pub(super) max_retries: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct OutlierDetection {
    pub(super) consecutive_errors: Option<i64>,
    pub(super) split_external_local_origin_errors: bool,
    pub(super) consecutive_local_origin_failures: Option<i64>,
    pub(super) consecutive_gateway_errors: Option<i64>,
    #[serde(rename = "consecutive5xxErrors")]
    pub(super) consecutive_5xx_errors: Option<i64>,
    pub(super) interval: Option<String>,
    pub(super) base_ejection_time: Option<String>,
    pub(super) max_ejection_percent: Option<i64>,
    pub(super) min_health_percent: Option<i64>,
    pub(super) outlier_detection_http_error_codes: Vec<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RetryBudget {
    pub(super) percent: Option<f64>,
    pub(super) min_retry_concurrency: Option<i64>,
}
