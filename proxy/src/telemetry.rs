//! Traces and the access log: who asks for them, and where records of ended requests go.
//!
//! One for the whole process. Data threads hand records over without waiting: a queue that is full drops, and counts. What a
//! record says is in [`record`], how it is written in [`line`] and [`span`]; both are pure.

mod access_log;
mod config;
mod export;
mod line;
mod metrics;
mod record;
mod span;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Method, Uri, Version};
use tokio::time::Instant;
use tradewind_api::id::ServicePortRef;
use tradewind_runtime::{
    clock::SharedClock, metrics::MetricsRegistry, rng::Rng, setting::Setting, task::TaskSet,
};
use tradewind_transport::{
    hbone::headers,
    request_id::X_REQUEST_ID,
    svid::SvidCell,
    trace_context::{self, Ratio, Rule},
};

pub use config::{AccessLogFilter, AccessLogTarget, OtlpEndpoint, TelemetryConfig};
pub(crate) use record::{End, Ends, Notes, Tier};

use crate::standard::Reporter;
use access_log::{AccessLog, Lines};
use export::{Exporter, Spans};
use metrics::TelemetryMetrics;
use record::{Ended, Head, Record, Traced};

pub(crate) use access_log::OpenError;

/// How long a stopping proxy waits until what it still has to tell is told.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// What the spans' resource says besides the certificate.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    /// The proxy's name.
    pub(crate) name: String,
    /// Where it stands.
    pub(crate) zone: Option<String>,
    /// Who it is.
    pub(crate) svid: SvidCell,
    /// What its own sockets carry.
    pub(crate) mark: Option<u32>,
}

/// The ratio in force; clones are the same one.
#[derive(Clone, Debug)]
struct Sampling(Arc<AtomicU64>);

impl Sampling {
    fn new(ratio: Ratio) -> Self {
        Self(Arc::new(AtomicU64::new(ratio.get().to_bits())))
    }

    fn load(&self) -> Ratio {
        Ratio::new(f64::from_bits(self.0.load(Ordering::Relaxed))).unwrap_or_default()
    }

    fn store(&self, ratio: Ratio) {
        self.0.store(ratio.get().to_bits(), Ordering::Relaxed);
    }
}

/// What data threads hold; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: SharedClock,
    sampling: Option<Sampling>,
    spans: Option<Spans>,
    lines: Option<Lines>,
}

/// What ends with the process.
#[derive(Debug, Default)]
pub(crate) struct Running {
    exporter: Option<Exporter>,
    log: Option<AccessLog>,
}

impl Running {
    /// Has told what there was to tell, or was given up after [`CLOSE_DEADLINE`].
    pub(crate) async fn close(self) {
        let whole = async {
            if let Some(exporter) = self.exporter {
                exporter.close().await;
            }
            if let Some(log) = self.log {
                log.close().await;
            }
        };
        if tokio::time::timeout(CLOSE_DEADLINE, whole).await.is_err() {
            tracing::warn!("not all spans and access-log lines could be told before the end");
        }
    }
}

/// An access log that was opened before the process starts to serve.
#[derive(Debug)]
pub(crate) struct Opened(access_log::Sink);

/// Opens the access log, if one is asked for.
pub(crate) fn open(config: &TelemetryConfig) -> Result<Option<Opened>, (PathBuf, OpenError)> {
    let Some(target) = &config.access_log else {
        return Ok(None);
    };
    access_log::Sink::open(target).map(|sink| Some(Opened(sink)))
}

impl Telemetry {
    /// Tells nothing, and leaves traces alone.
    pub(crate) fn off(clock: SharedClock) -> Self {
        Self(Arc::new(Inner {
            clock,
            sampling: None,
            spans: None,
            lines: None,
        }))
    }

    /// Starts what the configuration asks for.
    pub(crate) fn start(
        config: &TelemetryConfig,
        (clock, rng): (SharedClock, Rng),
        registry: &MetricsRegistry,
        opened: Option<Opened>,
        teller: Teller,
        tasks: &mut TaskSet,
    ) -> std::io::Result<(Self, Running)> {
        let mut running = Running::default();
        let (mut spans, mut lines) = (None, None);
        let metrics = TelemetryMetrics::register(registry, config);
        if let Some(endpoint) = &config.otlp {
            let (queue, exporter) = export::start(endpoint, teller, rng, metrics.clone(), tasks);
            spans = Some(queue);
            running.exporter = Some(exporter);
        }
        if let Some(Opened(sink)) = opened {
            let (queue, log) = access_log::start(sink, config.access_log_filter, metrics)?;
            lines = Some(queue);
            running.log = Some(log);
        }
        let telemetry = Self(Arc::new(Inner {
            clock,
            sampling: config.begin().map(Sampling::new),
            spans,
            lines,
        }));
        Ok((telemetry, running))
    }

    fn now(&self) -> Instant {
        self.0.clock.now()
    }

    fn unix_us(&self) -> u64 {
        self.0.clock.unix_us()
    }

    /// Whether there is an access log.
    fn logs(&self) -> bool {
        self.0.lines.is_some()
    }

    /// Whether anything may be written down, so that it is worth asking a socket for its addresses.
    pub(crate) fn is_on(&self) -> bool {
        self.0.lines.is_some() || self.0.spans.is_some()
    }

    fn rule(&self) -> Rule {
        Rule {
            begin: self.0.sampling.as_ref().map(Sampling::load),
            records: self.0.spans.is_some(),
        }
    }

    /// A request's head has come: follows its trace, and begins to write down what is asked for. The headers change where the
    /// trace says so.
    pub(crate) fn request(
        &self,
        reporter: Reporter,
        line: (&Method, &Uri, Version),
        fields: &mut HeaderMap,
        random: impl FnMut() -> u64,
    ) -> Notes {
        let rule = self.rule();
        if rule == Rule::OFF && !self.logs() {
            return Notes::default();
        }
        let followed = trace_context::follow(fields, rule, random);
        let recorded = followed.is_some_and(|f| f.recorded);
        if !recorded && !self.logs() {
            return Notes::default();
        }
        let id = fields.get(X_REQUEST_ID);
        let mut record = self.record(reporter);
        let said = match reporter {
            // Whatever the application writes there is removed, and is no proxy's word.
            Reporter::Source => None,
            Reporter::Destination => fields
                .get(headers::VERSION)
                .and_then(headers::parse_version),
        };
        record.head = Some(Head::of(line, said, fields));
        record.request_id = id.map(record::short);
        record.traced = followed.map(|f| Traced::new(f, fields));
        Notes::begin(self, record)
    }

    /// A connection has come whose bytes are not looked at.
    pub(crate) fn connection(&self, reporter: Reporter) -> Notes {
        if !self.logs() {
            return Notes::default();
        }
        Notes::begin(self, self.record(reporter))
    }

    fn record(&self, reporter: Reporter) -> Record {
        Record {
            reporter,
            service: None,
            head: None,
            request_id: None,
            traced: None,
            started: self.now(),
            started_unix_us: self.unix_us(),
            client: None,
            server_name: None,
            application: None,
            attempts: Vec::new(),
            parties: None,
            answered_us: None,
            details: None,
            termination: None,
        }
    }

    /// Hands a record over. Never waits.
    fn tell(&self, ended: Ended) {
        let recorded = ended.record.head.is_some()
            && ended
                .record
                .traced
                .as_ref()
                .is_some_and(|t| t.followed.recorded);
        let spans = self.0.spans.as_ref().filter(|_| recorded);
        let lines = self.0.lines.as_ref().filter(|l| l.wants(&ended));
        match (spans, lines) {
            (None, None) => {}
            (Some(spans), None) => spans.push(Arc::new(ended)),
            (None, Some(lines)) => lines.push(Arc::new(ended)),
            (Some(spans), Some(lines)) => {
                let ended = Arc::new(ended);
                spans.push(Arc::clone(&ended));
                lines.push(ended);
            }
        }
    }

    /// The sampling ratio as a setting of the admin port.
    pub(crate) fn setting(&self) -> Setting {
        const OFF: &str = "this proxy begins no traces: start it with --otlp-endpoint";
        let (read, write) = (self.0.sampling.clone(), self.0.sampling.clone());
        Setting::new(
            "/debug/tracesampling",
            move || match &read {
                Some(sampling) => sampling.load().to_string(),
                None => "off".to_owned(),
            },
            move |value| {
                let sampling = write.as_ref().ok_or(OFF)?;
                sampling.store(value.parse::<Ratio>().map_err(|e| e.to_string())?);
                Ok(())
            },
        )
    }
}

impl Notes {
    /// Which service it is for, and whose connection it came by.
    pub(crate) fn for_service(&mut self, service: &ServicePortRef, client: Option<Ends>) {
        self.with(|record, _| {
            record.service = Some(service.clone());
            record.client = client;
        });
    }

    /// Which service it is for, and the application behind it.
    pub(crate) fn for_application(&mut self, service: &ServicePortRef, application: &str) {
        self.with(|record, _| {
            record.service = Some(service.clone());
            application.clone_into(record.application.get_or_insert_default());
        });
    }

    /// Whose connection it came by, and the name in its handshake.
    pub(crate) fn by_peer(&mut self, client: Option<Ends>, server_name: Option<&Arc<str>>) {
        self.with(|record, _| {
            record.client = client;
            record.server_name = server_name.map(Arc::clone);
        });
    }
}
