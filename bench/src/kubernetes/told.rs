//! What the API server and the controller tell, each as it comes, with the moment: of each pod's address whether it serves. Owns a watch
//! of EndpointSlices, and delta streams as proxies have them, each with the state that a proxy keeps.

use std::{collections::BTreeMap, io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use prost::Message as _;
use serde::Deserialize;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tradewind_api::{
    ServiceName,
    model::Health,
    proto::{
        SERVICE_TYPE,
        discovery::{
            DeltaDiscoveryResponse, Node,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    snapshot::Snapshot,
};
use tradewind_transport::discovery;

use super::api::Place;

/// Between two attempts to reach somebody who is away.
const AGAIN: Duration = Duration::from_millis(50);
/// What a proxy takes at once.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// Answers that may wait to be sent.
const REPLIES: usize = 64;

/// One address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) serves: bool,
    /// Since when it is told so.
    pub(super) at: Instant,
}

/// A pod's namespace and name.
pub(super) type Pod = (String, String);

/// All that one of them told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) addresses: BTreeMap<IpAddr, Seen>,
    /// Namespace and name, by address.
    pub(super) pods: BTreeMap<IpAddr, Pod>,
    /// Whom each service has.
    services: BTreeMap<ServiceName, Vec<IpAddr>>,
    serving: usize,
    pub(super) counts: Counts,
}

/// How much one of them told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) responses: u64,
    pub(super) bytes: u64,
    /// Services, each as often as it was told.
    pub(super) services: u64,
    /// Addresses that were known and went.
    pub(super) taken_away: u64,
    /// Addresses that were known and became ready, or unready.
    pub(super) turned: u64,
}

impl Counts {
    /// What came after `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            responses: self.responses - before.responses,
            bytes: self.bytes - before.bytes,
            services: self.services - before.services,
            taken_away: self.taken_away - before.taken_away,
            turned: self.turned - before.turned,
        }
    }
}

impl Told {
    pub(super) fn services(&self) -> usize {
        self.services.len()
    }

    pub(super) fn serving(&self) -> usize {
        self.serving
    }

    fn set(&mut self, ip: IpAddr, serves: bool, at: Instant) {
        let before = self.addresses.get(&ip).map(|s| s.serves);
        if before == Some(serves) {
            return;
        }
        self.counts.turned += u64::from(before.is_some());
        self.addresses.insert(ip, Seen { serves, at });
        self.serving += usize::from(serves);
        self.serving -= usize::from(before == Some(true));
    }

    fn remove(&mut self, ip: IpAddr) {
        if let Some(seen) = self.addresses.remove(&ip) {
            self.serving -= usize::from(seen.serves);
            self.counts.taken_away += 1;
        }
    }

    fn service(&mut self, name: ServiceName, snapshot: &Snapshot, at: Instant) {
        self.counts.services += 1;
        let service = snapshot.services.get(&name);
        let endpoints = service.map_or(&[] as &[_], |s| s.endpoints.as_slice());
        let mut now = Vec::new();
        for endpoint in endpoints {
            let host = endpoint.address.as_deref().and_then(|a| a.rsplit_once(':'));
            let Some(ip) = host.and_then(|(ip, _)| ip.parse().ok()) else {
                continue;
            };
            now.push(ip);
            self.set(ip, endpoint.health == Health::Healthy, at);
        }
        let before = self.services.insert(name, now.clone());
        for gone in before.into_iter().flatten().filter(|ip| !now.contains(ip)) {
            self.remove(gone);
        }
    }
}

/// Whether that is what was told last.
pub(super) fn is(told: &Told, ip: IpAddr, serves: bool) -> bool {
    told.addresses.get(&ip).is_some_and(|s| s.serves == serves)
}

/// The moment when that was first told; waits for it.
pub(super) async fn until(
    told: &mut watch::Receiver<Told>,
    ip: IpAddr,
    serves: bool,
) -> Result<Instant, String> {
    let is = |told: &Told| {
        told.addresses
            .get(&ip)
            .filter(|s| s.serves == serves)
            .copied()
    };
    let told = told.wait_for(|told| is(told).is_some()).await;
    let told = told.map_err(|_| "whoever told of it is gone".to_owned())?;
    is(&told)
        .map(|seen| seen.at)
        .ok_or_else(|| "lost".to_owned())
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Slice,
}

#[derive(Deserialize)]
struct Slice {
    #[serde(default)]
    endpoints: Vec<SliceEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpoint {
    addresses: Vec<IpAddr>,
    conditions: Conditions,
    target_ref: Option<Target>,
}

#[derive(Deserialize)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct Target {
    namespace: String,
    name: String,
}

/// Follows EndpointSlices for ever, as anybody may. What is known stays known while the API server is away.
pub(super) async fn slices(place: Place, out: watch::Sender<Told>) {
    let path = "/apis/discovery.k8s.io/v1/endpointslices?watch=1&timeoutSeconds=3600";
    loop {
        if let Ok(api) = place.connect().await {
            // It ends when the API server does; it says whatever there is when it begins anew.
            drop(api.watch(path, |line| slice(line, &out)).await);
        }
        sleep(AGAIN).await;
    }
}

fn slice(line: &[u8], out: &watch::Sender<Told>) {
    let at = Instant::now();
    let Ok(event) = serde_json::from_slice::<Event>(line) else {
        return;
    };
    if event.kind == "DELETED" {
        return;
    }
    out.send_modify(|told| {
        told.counts.bytes += line.len() as u64;
        told.counts.responses += 1;
        for endpoint in event.object.endpoints {
            let ready = endpoint.conditions.ready.unwrap_or(true);
            let Some(pod) = endpoint.target_ref.map(|t| (t.namespace, t.name)) else {
                continue;
            };
            for ip in endpoint.addresses {
                told.set(ip, ready, at);
                told.pods.insert(ip, pod.clone());
            }
        }
    });
}

/// Follows the controller for ever, as a proxy does.
pub(super) async fn proxy(socket: PathBuf, name: String, out: watch::Sender<Told>) {
    let mut client = discovery::Client::with_routes();
    loop {
        // It ends when the controller does, and is opened again as a proxy would.
        drop(stream(&socket, &name, &mut client, &out).await);
        sleep(AGAIN).await;
    }
}

async fn stream(
    socket: &std::path::Path,
    name: &str,
    client: &mut discovery::Client,
    out: &watch::Sender<Told>,
) -> Result<(), tonic::Status> {
    let node = Node {
        id: name.to_owned(),
        user_agent_name: "proxy".to_owned(),
        ..Node::default()
    };
    let (replies, outgoing) = mpsc::channel(REPLIES);
    for request in client.open(&node) {
        let sent = replies.try_send(request);
        sent.map_err(|e| tonic::Status::internal(e.to_string()))?;
    }
    let mut grpc = AggregatedDiscoveryServiceClient::new(channel(socket.to_owned()))
        .max_decoding_message_size(MAX_RESPONSE_BYTES);
    let opening = grpc.delta_aggregated_resources(ReceiverStream::new(outgoing));
    let opened = timeout(Duration::from_secs(10), opening).await;
    let late = |_| tonic::Status::deadline_exceeded("the stream did not open");
    let mut responses = opened.map_err(late)??.into_inner();
    // Before the first state is complete there is none to look into.
    let mut names = Vec::new();
    while let Some(response) = responses.message().await? {
        let bytes = response.encoded_len() as u64;
        names.extend(services_of(&response));
        let step = client.receive(response);
        let at = Instant::now();
        out.send_modify(|told| {
            told.counts.responses += 1;
            told.counts.bytes += bytes;
            if let Some(snapshot) = &step.snapshot {
                for name in names.drain(..) {
                    told.service(name, snapshot, at);
                }
            }
        });
        if replies.send(step.reply).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn services_of(response: &DeltaDiscoveryResponse) -> Vec<ServiceName> {
    if response.type_url != SERVICE_TYPE {
        return Vec::new();
    }
    let changed = response.resources.iter().map(|r| r.name.as_str());
    let all = changed.chain(response.removed_resources.iter().map(String::as_str));
    all.filter_map(|name| name.parse().ok()).collect()
}

fn channel(path: PathBuf) -> Channel {
    let path = Arc::new(path);
    Endpoint::from_static("http://controller").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let path = Arc::clone(&path);
            async move {
                let stream = UnixStream::connect(path.as_path()).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        },
    ))
}
