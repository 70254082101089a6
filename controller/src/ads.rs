//! Delta ADS: pushes the compiled snapshot to the proxies, gateways and DNS servers of this cluster.
//!
//! Owns the encoded form of the newest snapshot, made once for all streams. What a stream is sent is decided by
//! [`delta`], which is pure. A slow client costs nothing but its own delay: it has one response per type outstanding
//! and then gets the newest state only.

pub mod delta;
pub mod encode;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
};

use futures::Stream;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};
use tradewind_api::{
    proto::OPENINGS_TYPE,
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
    snapshot::Snapshot,
};
use tradewind_runtime::metrics::MetricsRegistry;

use crate::server::{Access, Caller, caller};
use delta::{Heard, Stream as Delta};
use encode::Encoded;

/// Largest request: a reconnecting client names every resource it holds with its version.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// As what a proxy names itself.
const PROXY: &str = "proxy";

/// How many proxies are connected: each has one discovery stream, whether it registers endpoints, as on hosts, or an API server knows
/// them.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Arc<AtomicU32>);

impl Proxies {
    /// Connected now.
    pub fn connected(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn count(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }
}

/// One of them, while it lives.
#[derive(Debug)]
struct Counted(Proxies);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug, Default)]
struct Meters {
    streams: Gauge<i64, AtomicI64>,
    responses: Counter,
    resources: Counter,
    nacks: Counter,
}

impl Meters {
    fn register(registry: &MetricsRegistry) -> Self {
        let m = Self::default();
        registry.register(|r| {
            r.register(
                "tradewind_ads_streams",
                "open discovery streams",
                m.streams.clone(),
            );
            r.register(
                "tradewind_ads_responses",
                "discovery responses sent",
                m.responses.clone(),
            );
            r.register(
                "tradewind_ads_resources",
                "discovery resources sent",
                m.resources.clone(),
            );
            r.register(
                "tradewind_ads_nacks",
                "discovery responses rejected by clients",
                m.nacks.clone(),
            );
        });
        m
    }
}

struct Shared {
    access: Access,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    // The newest snapshot's encoding. Whoever needs it first makes it; the others wait that long.
    encoded: Mutex<Arc<Encoded>>,
    proxies: Proxies,
    meters: Meters,
}

impl Shared {
    fn encode(&self, snapshot: &Arc<Snapshot>) -> Arc<Encoded> {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if !encoded.is_of(snapshot) {
            *encoded = Arc::new(encoded.next(snapshot));
        }
        Arc::clone(&encoded)
    }
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct AdsService(Arc<Shared>);

impl std::fmt::Debug for AdsService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdsService")
            .field("streams", &self.streams())
            .finish_non_exhaustive()
    }
}

impl AdsService {
    /// Serves what `snapshots` holds, as soon as it holds a trust map, and counts `proxies`.
    pub fn new(
        access: Access,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        proxies: Proxies,
        metrics: &MetricsRegistry,
    ) -> Self {
        Self(Arc::new(Shared {
            access,
            snapshots,
            encoded: Mutex::default(),
            proxies,
            meters: Meters::register(metrics),
        }))
    }

    /// As a tonic service, with its limits.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        usize::try_from(self.0.meters.streams.inner().load(Ordering::Relaxed)).unwrap_or(0)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsService {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = caller(&request);
        self.0.access.require_own_cluster(&caller)?;
        self.0.meters.streams.inc();
        let session = Session {
            shared: Arc::clone(&self.0),
            caller,
            requests: request.into_inner(),
            snapshots: self.0.snapshots.clone(),
            delta: Delta::new(),
            encoded: None,
            id: String::new(),
            node: String::new(),
            counted: None,
        };
        let responses = futures::stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            match session.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(session))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

// One stream. It is driven by the client's reading: one that does not read is not read either.
struct Session {
    shared: Arc<Shared>,
    caller: Caller,
    requests: Streaming<DeltaDiscoveryRequest>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    delta: Delta,
    encoded: Option<Arc<Encoded>>,
    // As the client named itself; it proves it where that matters.
    id: String,
    node: String,
    counted: Option<Counted>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.meters.streams.dec();
    }
}

impl Session {
    async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        loop {
            let newest = Arc::clone(&self.snapshots.borrow_and_update());
            // A controller that has compiled nothing yet knows nothing, which is not the same as there being nothing.
            if !newest.trust.roots.is_empty()
                && !self.encoded.as_ref().is_some_and(|e| e.is_of(&newest))
            {
                self.encoded = Some(self.shared.encode(&newest));
            }
            if let Some(encoded) = &self.encoded
                && let Some(response) = self.delta.next(encoded)
            {
                self.shared.access.require_own_cluster(&self.caller)?;
                self.shared.meters.responses.inc();
                self.shared
                    .meters
                    .resources
                    .inc_by(u64::try_from(response.resources.len()).unwrap_or(0));
                return Ok(Some(response));
            }
            tokio::select! {
                biased;
                request = self.requests.message() => match request? {
                    Some(request) => self.hear(request)?,
                    None => return Ok(None),
                },
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the controller is shutting down"));
                    }
                }
            }
        }
    }

    fn hear(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = &request.node
            && self.node.is_empty()
        {
            self.node = format!("{}/{}", node.user_agent_name, node.id)
                .chars()
                .take(200)
                .collect();
            self.id.clone_from(&node.id);
            if node.user_agent_name == PROXY {
                self.counted = Some(self.shared.proxies.count());
            }
            tracing::debug!(node = %self.node, caller = ?self.caller, "discovery stream opened");
        }
        if request.type_url == OPENINGS_TYPE {
            self.shared.access.require_gateway(&self.caller, &self.id)?;
        }
        let heard = self
            .delta
            .hear(request)
            .map_err(|excess| Status::resource_exhausted(excess.to_string()))?;
        if let Heard::Nack { type_url, message } = heard {
            self.shared.meters.nacks.inc();
            tracing::warn!(node = %self.node, type_url, message, "a client rejected resources");
        }
        Ok(())
    }
}
