//! How a proxy is told of its traces and its access log.

use tradewind_proxy::{AccessLogFilter, AccessLogTarget, OtlpEndpoint, TelemetryConfig};
use tradewind_transport::trace_context::Ratio;

/// Traces and access log.
#[derive(Debug, clap::Args)]
pub struct TelemetryArgs {
    /// OpenTelemetry collector that takes spans over gRPC, such as http://127.0.0.1:4317; without one none are recorded
    #[arg(long, env = "TRADEWIND_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<OtlpEndpoint>,
    /// Part of the traces that begin at this proxy and are sampled, 0 to 1; changes live on the admin port's /debug/tracesampling [default: 0.01 with --otlp-endpoint, else no trace begins here]
    #[arg(long, env = "TRADEWIND_TRACE_SAMPLING", value_name = "RATIO")]
    trace_sampling: Option<Ratio>,
    /// Where a line of JSON goes for each request and connection: a file, or - for standard output [default: nowhere]
    #[arg(long, env = "TRADEWIND_ACCESS_LOG", value_name = "-|PATH")]
    access_log: Option<AccessLogTarget>,
    /// Which of them get one: all, or errors for those that failed or were tried again
    #[arg(
        long,
        env = "TRADEWIND_ACCESS_LOG_FILTER",
        value_name = "all|errors",
        default_value = "all"
    )]
    access_log_filter: AccessLogFilter,
}

impl TelemetryArgs {
    /// What they say.
    pub fn config(self) -> TelemetryConfig {
        TelemetryConfig {
            otlp: self.otlp_endpoint,
            sampling: self.trace_sampling,
            access_log: self.access_log,
            access_log_filter: self.access_log_filter,
        }
    }
}
