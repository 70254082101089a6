//! The numbers of one pair, by how requests and connections ended. Atomics alone once a series is found; how many there may
//! be is bounded, because statuses come from the wire.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tradewind_runtime::histogram::AtomicHistogram;
use tradewind_transport::relay::Side;

use super::pair::{Labels, PairKey, UNKNOWN};
use crate::telemetry::{End, Notes};

/// Endings that one pair tells apart: more different statuses than any service means to send. The rest counts as a request
/// whose status is not known.
pub(super) const MAX_ENDINGS: usize = 48;

/// The bounds that Envoy has, and so Istio's dashboards: milliseconds and bytes alike.
const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Microseconds to the millisecond.
const MICROS: u32 = 1000;

/// Why it ended as it did, in Envoy's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flags {
    /// Nothing to tell.
    #[default]
    None,
    /// The other side could not be connected to.
    UpstreamConnect,
    /// There is nobody healthy.
    NoHealthyUpstream,
    /// The other side broke off.
    UpstreamCut,
    /// The client left.
    DownstreamCut,
    /// As many attempts as are made failed.
    RetryLimit,
    /// Nobody knows where it should go.
    NoRoute,
    /// It took longer than it may.
    Timeout,
    /// It fails on purpose.
    Fault,
    /// As much is under way as may be.
    UpstreamOverflow,
    /// As many came as are taken.
    RateLimited,
}

impl Flags {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::UpstreamConnect => "UF",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamCut => "UC",
            Self::DownstreamCut => "DC",
            Self::RetryLimit => "URX",
            Self::NoRoute => "NR",
            Self::Timeout => "UT",
            Self::Fault => "FI",
            Self::UpstreamOverflow => "UO",
            Self::RateLimited => "RL",
        }
    }

    /// Labels of a connection that ended so.
    pub(super) fn tcp_labels(self) -> Labels<'static> {
        vec![
            ("request_protocol", "tcp".into()),
            ("response_flags", self.as_str().into()),
        ]
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) grpc: bool,
    /// 0 where the client left before there was one.
    pub(super) code: Option<u16>,
    pub(super) grpc_status: Option<u8>,
    pub(super) flags: Flags,
}

impl Ending {
    /// The labels of it.
    pub(super) fn labels(&self) -> Labels<'static> {
        let number = |n: Option<u16>| n.map_or_else(|| UNKNOWN.into(), |n| n.to_string().into());
        vec![
            (
                "request_protocol",
                if self.grpc { "grpc" } else { "http" }.into(),
            ),
            ("response_code", number(self.code)),
            (
                "grpc_response_status",
                number(self.grpc_status.map(u16::from)),
            ),
            ("response_flags", self.flags.as_str().into()),
        ]
    }
}

/// Requests of a pair that ended alike.
#[derive(Debug)]
pub(super) struct HttpSeries {
    requests: AtomicU64,
    request_messages: AtomicU64,
    response_messages: AtomicU64,
    pub(super) duration: AtomicHistogram,
    pub(super) request_bytes: AtomicHistogram,
    pub(super) response_bytes: AtomicHistogram,
}

impl HttpSeries {
    fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            request_messages: AtomicU64::new(0),
            response_messages: AtomicU64::new(0),
            duration: AtomicHistogram::new(&BOUNDS, MICROS),
            request_bytes: AtomicHistogram::new(&BOUNDS, 1),
            response_bytes: AtomicHistogram::new(&BOUNDS, 1),
        }
    }

    /// One more.
    pub(super) fn count(&self, took_us: u64, request_bytes: u64, response_bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.duration.observe(took_us);
        self.request_bytes.observe(request_bytes);
        self.response_bytes.observe(response_bytes);
    }

    /// What passed of a gRPC call's two streams.
    pub(super) fn messages(&self, of_request: u64, of_response: u64) {
        self.request_messages
            .fetch_add(of_request, Ordering::Relaxed);
        self.response_messages
            .fetch_add(of_response, Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn request_messages(&self) -> u64 {
        self.request_messages.load(Ordering::Relaxed)
    }

    pub(super) fn response_messages(&self) -> u64 {
        self.response_messages.load(Ordering::Relaxed)
    }
}

/// Connections of a pair that ended alike.
#[derive(Debug, Default)]
pub(super) struct TcpSeries {
    received: AtomicU64,
    sent: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
}

impl TcpSeries {
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }
}

/// One connection; counted as closed on drop.
#[derive(Debug)]
pub(crate) struct LiveTunnel {
    series: Arc<TcpSeries>,
    flags: Flags,
    /// From the client and to it, for what is written down.
    bytes: [Cell<u64>; 2],
    notes: Notes,
    key: Arc<PairKey>,
}

impl LiveTunnel {
    pub(super) fn open(series: Arc<TcpSeries>, flags: Flags, key: &Arc<PairKey>) -> Self {
        series.opened.fetch_add(1, Ordering::Relaxed);
        Self {
            series,
            flags,
            bytes: Default::default(),
            notes: Notes::default(),
            key: Arc::clone(key),
        }
    }

    /// Has it written down when it ends.
    pub(crate) fn noting(self, notes: Notes) -> Self {
        let mut own = self;
        own.notes = notes;
        own
    }

    /// Why it ends, unless in order. What it is counted under stays.
    pub(crate) fn ended(&mut self, flags: Flags, why: Option<&'static str>) {
        self.flags = flags;
        if let Some(why) = why {
            self.notes.ended_by(why);
        }
    }

    /// Bytes that were passed on; `A` is the client's side.
    pub(crate) fn count(&self, from: Side, bytes: u64) {
        let [received, sent] = &self.bytes;
        let (all, own) = match from {
            Side::A => (&self.series.received, received),
            Side::B => (&self.series.sent, sent),
        };
        all.fetch_add(bytes, Ordering::Relaxed);
        own.set(own.get().saturating_add(bytes));
    }
}

impl Drop for LiveTunnel {
    fn drop(&mut self) {
        self.series.closed.fetch_add(1, Ordering::Relaxed);
        let [received, sent] = &self.bytes;
        let (flags, received, sent) = (self.flags, received.get(), sent.get());
        let parties = Arc::clone(&self.key);
        self.notes.finish(Some(parties), |took_us| End {
            took_us,
            flags,
            received,
            sent,
            ..End::default()
        });
    }
}

/// All of a pair.
#[derive(Debug, Default)]
pub(super) struct Series {
    http: Mutex<Vec<(Ending, Arc<HttpSeries>)>>,
    tcp: Mutex<Vec<(Flags, Arc<TcpSeries>)>>,
}

impl Series {
    /// The series of requests that end so.
    pub(super) fn request(&self, ending: Ending) -> Arc<HttpSeries> {
        let mut all = lock(&self.http);
        // One place is kept for all that exceeds the bound.
        let ending = if all.len() + 1 < MAX_ENDINGS || all.iter().any(|(e, _)| *e == ending) {
            ending
        } else {
            Ending {
                grpc: false,
                code: None,
                grpc_status: None,
                flags: Flags::None,
            }
        };
        if let Some((_, series)) = all.iter().find(|(e, _)| *e == ending) {
            return Arc::clone(series);
        }
        let series = Arc::new(HttpSeries::new());
        all.push((ending, Arc::clone(&series)));
        series
    }

    /// The series of connections that end so.
    pub(super) fn connection(&self, flags: Flags) -> Arc<TcpSeries> {
        let mut all = lock(&self.tcp);
        if let Some((_, series)) = all.iter().find(|(f, _)| *f == flags) {
            return Arc::clone(series);
        }
        let series = Arc::<TcpSeries>::default();
        all.push((flags, Arc::clone(&series)));
        series
    }

    pub(super) fn http(&self) -> Vec<(Ending, Arc<HttpSeries>)> {
        lock(&self.http).clone()
    }

    pub(super) fn tcp(&self) -> Vec<(Flags, Arc<TcpSeries>)> {
        lock(&self.tcp).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
