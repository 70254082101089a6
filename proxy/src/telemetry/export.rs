//! From records to a collector: one task that takes them from a bounded queue, makes spans of them, and hands them over in
//! batches by gRPC. No call ever waits for it; what the collector does not take in time is dropped and counted.

use std::{sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tradewind_api::proto::otlp::{
    collector::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::InstrumentationScope,
    resource::Resource,
    trace::{ResourceSpans, ScopeSpans, Span},
};
use tradewind_runtime::{backoff::Backoff, rng::Rng, task::TaskSet};
use tradewind_transport::marked;

use super::{
    OtlpEndpoint, Teller,
    metrics::{Lost, TelemetryMetrics},
    record::Ended,
    span::{self, Attributes},
};

/// Records that wait: a second of four thousand sampled requests. At worst, each with its longest texts and eight failed attempts, some 32 MiB.
pub(super) const QUEUE: usize = 4096;
/// Spans of one batch, as OpenTelemetry's own exporters have it.
const MAX_BATCH: usize = 512;
/// Bytes of one batch: a quarter of what gRPC servers take by default.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// How long a batch gathers: whoever looks for a trace that just happened waits for it.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take to accept a connection.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// While a batch is under way, so that a collector that vanished is dialled anew.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two tries of one batch.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// A batch is tried for this long, and then given up for newer ones: who looks at traces looks at the last minutes.
const TRY_FOR: Duration = Duration::from_secs(60);
/// Characters of a collector's words that are logged.
const MAX_REASON: usize = 500;
/// Version of the conventions that the attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.34.0";

/// The queue's end for data threads.
#[derive(Clone, Debug)]
pub(super) struct Spans {
    queue: mpsc::Sender<Arc<Ended>>,
    lost: Counter,
}

impl Spans {
    /// Hands one over, or drops it.
    pub(super) fn push(&self, ended: Arc<Ended>) {
        if self.queue.try_send(ended).is_err() {
            self.lost.inc();
        }
    }
}

/// The task.
#[derive(Debug)]
pub(crate) struct Exporter {
    closing: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Exporter {
    /// Has told what is in the queue, each batch once.
    pub(super) async fn close(self) {
        self.closing.cancel();
        // An error is a task that has ended.
        drop(self.ended.await);
    }
}

/// Starts the task.
pub(super) fn start(
    endpoint: &OtlpEndpoint,
    teller: Teller,
    rng: Rng,
    metrics: TelemetryMetrics,
    tasks: &mut TaskSet,
) -> (Spans, Exporter) {
    let (queue, records) = mpsc::channel(QUEUE);
    let closing = CancellationToken::new();
    let (ending, ended) = oneshot::channel();
    let spans = Spans {
        queue,
        lost: metrics.spans_counter(Lost::queue_full),
    };
    let task = Task {
        client: TraceServiceClient::new(channel(endpoint, teller.mark)),
        endpoint: endpoint.clone(),
        teller,
        rng,
        metrics,
        takes: None,
        closing: closing.clone(),
    };
    tasks.spawn("trace exporter", async move {
        task.run(records).await;
        drop(ending);
    });
    (spans, Exporter { closing, ended })
}

fn channel(endpoint: &OtlpEndpoint, mark: Option<u32>) -> Channel {
    let address = endpoint.address().to_owned();
    Endpoint::from(endpoint.uri().clone())
        .connect_timeout(DIAL_DEADLINE)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let address = address.clone();
            async move {
                let stream = marked::connect(&address, mark).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        }))
}

struct Task {
    client: TraceServiceClient<Channel>,
    endpoint: OtlpEndpoint,
    teller: Teller,
    rng: Rng,
    metrics: TelemetryMetrics,
    /// Whether the collector took the last batch; none before the first.
    takes: Option<bool>,
    closing: CancellationToken,
}

impl Task {
    async fn run(mut self, mut records: mpsc::Receiver<Arc<Ended>>) {
        let mut batch = Batch::default();
        loop {
            tokio::select! {
                biased;
                more = batch.fill(&mut records) => if !more {
                    return;
                },
                () = self.closing.cancelled() => break,
            }
            self.hand_over(batch.take()).await;
        }
        records.close();
        while batch.fill(&mut records).await {
            self.hand_over(batch.take()).await;
        }
    }

    /// Tries until it is taken, refused or given up; once this ends with the process, it is tried only once.
    async fn hand_over(&mut self, batch: Vec<Span>) {
        let count = batch.len() as u64;
        let request = self.request(batch);
        let give_up = Instant::now() + TRY_FOR;
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let call = self.client.export(request.clone());
            let answer = match timeout(CALL_DEADLINE, call).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded("no answer in time")),
            };
            match answer {
                Ok(answer) => {
                    let partial = answer.into_inner().partial_success.unwrap_or_default();
                    let refused = u64::try_from(partial.rejected_spans)
                        .unwrap_or(0)
                        .min(count);
                    if refused > 0 {
                        tracing::debug!(
                            refused,
                            why = partial.error_message,
                            "the collector refused spans"
                        );
                        self.metrics.spans_lost(Lost::refused, refused);
                    }
                    self.metrics.exported.inc_by(count - refused);
                    return self.took();
                }
                Err(status) if !may_try_again(&status) => {
                    self.metrics.spans_lost(Lost::refused, count);
                    return self.did_not_take(&status);
                }
                Err(status) => self.did_not_take(&status),
            }
            let wait = backoff.next(&mut self.rng);
            let waited = async {
                let in_time = Instant::now() + wait < give_up;
                let sleep = tokio::time::sleep(wait);
                in_time && self.closing.run_until_cancelled(sleep).await.is_some()
            };
            if !waited.await {
                return self.metrics.spans_lost(Lost::unreachable, count);
            }
        }
    }

    fn took(&mut self) {
        self.metrics.collector.set(1);
        if self.takes.replace(true) != Some(true) {
            tracing::info!(endpoint = %self.endpoint, "the trace collector takes spans");
        }
    }

    fn did_not_take(&mut self, status: &Status) {
        self.metrics.collector.set(0);
        if self.takes.replace(false) != Some(false) {
            tracing::warn!(endpoint = %self.endpoint, why = %reason(status), "the trace collector takes no spans; calls go on, and what it does not take in time is dropped and counted");
        } else {
            tracing::debug!(endpoint = %self.endpoint, why = %reason(status), "the trace collector still takes no spans");
        }
    }

    fn request(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: "tradewind-proxy".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: self.resource(),
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans,
                    schema_url: SCHEMA.to_owned(),
                }],
                schema_url: SCHEMA.to_owned(),
            }],
        }
    }

    /// Who tells: the workload by its certificate, and by the proxy's name where there is none yet.
    fn resource(&self) -> Vec<tradewind_api::proto::otlp::common::KeyValue> {
        let own = self.teller.svid.current();
        let account = own.as_ref().and_then(|own| own.id.account());
        let mut all = Attributes::default();
        all.text(
            "service.name",
            account.map_or(self.teller.name.as_str(), |(_, name)| name),
        );
        all.maybe("service.namespace", account.map(|(namespace, _)| namespace));
        all.text("service.instance.id", self.teller.name.as_str());
        if let Some(own) = &own {
            let domain = own.id.trust_domain();
            let cluster = domain.as_str().split('.').next().unwrap_or_default();
            all.text("k8s.cluster.name", cluster);
            all.text("tradewind.principal", own.id.as_str());
        }
        all.maybe("cloud.availability_zone", self.teller.zone.as_deref());
        all.done()
    }
}

/// The cause is what an operator can act on; tonic's own text says only that the transport failed.
fn reason(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.chars().take(MAX_REASON).collect()
}

/// By OTLP's list of what a client should try again. A collector that is exhausted says in its details when it will not be any
/// more; one that does not say so will take the same batch never.
fn may_try_again(status: &Status) -> bool {
    const SAYS_WHEN: &[u8] = b"google.rpc.RetryInfo";
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => status
            .details()
            .windows(SAYS_WHEN.len())
            .any(|part| part == SAYS_WHEN),
        _ => false,
    }
}

/// What is handed over next: full, or as much as came within [`GATHER`] of its first.
#[derive(Debug, Default)]
struct Batch {
    spans: Vec<Span>,
    bytes: usize,
    /// What did not fit.
    held: Option<Span>,
    until: Option<Instant>,
}

impl Batch {
    /// Gathers; false when there is nothing and no more will come. Cancelled at any point, it has lost nothing.
    async fn fill(&mut self, records: &mut mpsc::Receiver<Arc<Ended>>) -> bool {
        if let Some(held) = self.held.take() {
            self.add(held);
        }
        while self.held.is_none() && self.spans.len() < MAX_BATCH {
            let next = match self.until {
                None => records.recv().await,
                Some(until) => match timeout_at(until, records.recv()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            let Some(ended) = next else {
                return !self.spans.is_empty();
            };
            if let Some(span) = span::of(&ended) {
                self.add(span);
            }
        }
        true
    }

    fn add(&mut self, span: Span) {
        let length = span.encoded_len();
        if !self.spans.is_empty() && self.bytes + length > MAX_BATCH_BYTES {
            self.held = Some(span);
            return;
        }
        self.bytes += length;
        self.spans.push(span);
        self.until.get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn take(&mut self) -> Vec<Span> {
        let held = self.held.take();
        std::mem::replace(
            self,
            Self {
                held,
                ..Self::default()
            },
        )
        .spans
    }
}

/// A queue with room for one, that nobody reads from.
#[cfg(test)]
pub(super) fn unread(metrics: &TelemetryMetrics) -> (Spans, impl Sized + use<>) {
    let (queue, records) = mpsc::channel(1);
    let lost = metrics.spans_counter(Lost::queue_full);
    (Spans { queue, lost }, records)
}

/// How many spans and bytes the batches have that so many records of a kind make.
#[cfg(test)]
pub(super) async fn batches(record: &super::Record, count: usize) -> Vec<(usize, usize)> {
    let (queue, mut records) = mpsc::channel(count);
    for _ in 0..count {
        let (record, end) = (record.clone(), super::End::default());
        drop(queue.try_send(Arc::new(Ended { record, end })));
    }
    drop(queue);
    let (mut batch, mut sizes) = (Batch::default(), Vec::new());
    while batch.fill(&mut records).await {
        let spans = batch.take();
        let bytes = spans.iter().map(prost::Message::encoded_len).sum();
        sizes.push((spans.len(), bytes));
    }
    sizes
}
