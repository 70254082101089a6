//! An OpenTelemetry collector that keeps what it is told: OTLP over gRPC, and nothing but spans. Owns its server's task, which
//! ends with the test's runtime.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tradewind_api::proto::otlp::{
    collector::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::{KeyValue, any_value::Value},
    trace::span::SpanKind,
};
use tradewind_runtime::task;

use crate::apps;

/// Attributes as text.
pub type Attributes = BTreeMap<String, String>;

/// One span with who told it.
#[derive(Clone, Debug)]
pub struct Told {
    /// Who told it.
    pub resource: Attributes,
    /// What for.
    pub name: String,
    /// `client` or `server`.
    pub kind: &'static str,
    /// In hexadecimal, as are the others.
    pub trace: String,
    /// Its own.
    pub span: String,
    /// Empty where there is none.
    pub parent: String,
    /// As it came.
    pub state: String,
    /// W3C's, and OTLP's above them.
    pub flags: u32,
    /// From start to end, nanoseconds of Unix time.
    pub time: (u64, u64),
    /// What it says.
    pub attributes: Attributes,
    /// What its events say, in order.
    pub events: Vec<Attributes>,
    /// Its status is an error.
    pub error: bool,
}

/// What was told so far; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Collector(Arc<Mutex<Vec<Told>>>);

impl Collector {
    /// Listens from now on.
    pub async fn start(address: SocketAddr) -> Self {
        let own = Self::default();
        let service = TraceServiceServer::new(own.clone());
        let connections = TcpListenerStream::new(apps::bind(address).await);
        task::spawn("test collector", async move {
            let served = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(connections);
            drop(served.await);
        });
        own
    }

    /// All spans so far.
    pub fn all(&self) -> Vec<Told> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Those of a trace.
    pub fn of(&self, trace: &str) -> Vec<Told> {
        let mut all = self.all();
        all.retain(|s| s.trace == trace);
        all
    }
}

fn attributes(all: &[KeyValue]) -> Attributes {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
    };
    all.iter()
        .filter_map(|kv| Some((kv.key.clone(), text(kv.value.as_ref()?.value.as_ref()?))))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_resource in request.into_inner().resource_spans {
            let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
            let spans = of_resource.scope_spans.into_iter().flat_map(|s| s.spans);
            told.extend(spans.map(|span| {
                Told {
                    resource: resource.clone(),
                    kind: match span.kind() {
                        SpanKind::Client => "client",
                        SpanKind::Server => "server",
                        SpanKind::Internal | SpanKind::Unspecified => "none",
                    },
                    trace: hex(&span.trace_id),
                    span: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    flags: span.flags,
                    time: (span.start_time_unix_nano, span.end_time_unix_nano),
                    attributes: attributes(&span.attributes),
                    events: span
                        .events
                        .iter()
                        .map(|e| attributes(&e.attributes))
                        .collect(),
                    error: span.status.as_ref().is_some_and(|s| s.code == 2),
                    name: span.name,
                    state: span.trace_state,
                }
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
