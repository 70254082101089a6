//! One node of our store as a process of its own: the store, and a small gRPC service for its peers and its clients. The
//! benchmark starts three. It owns its directory's store; it measures nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use tradewind_api::{
    ClusterName, Domain, EndpointId, Network, NodeId, Region, ServiceName,
    model::{AppProtocol, ClusterState, Health, ServiceKind, ServicePort},
    store::{Blob, ClusterRecord, Command, EndpointSummary, Export, LEVEL, Outcome, TokenRecord},
};
use tradewind_federation::{Budget, HandleError, Store, StoreConfig, Timing};
use tradewind_runtime::{MetricsRegistry, Rng, clock};

use crate::{
    peers::{MAX_MESSAGE_BYTES, Peers},
    proto::tradewind::bench::v1::{
        Frame, GetRequest, GetResponse, PutRequest, PutResponse, StatusRequest, StatusResponse,
        node_server::{Node, NodeServer},
    },
};

/// Nodes of a trio, so many clusters are founded and joined.
pub(crate) const NODES: u64 = 3;
/// How long a founder waits between two tries to admit the others.
const ADMIT_PAUSE: Duration = Duration::from_millis(50);

/// What a node is told.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArguments {
    /// 1 founds the federation and admits the others.
    #[arg(long)]
    id: NodeId,
    /// The store's directory.
    #[arg(long)]
    dir: PathBuf,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Where each node listens, its own among them, by number.
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<String>,
}

/// The cluster of a node.
fn cluster_of(id: NodeId) -> Result<ClusterName, String> {
    ClusterName::new(&format!("c{id}")).map_err(|e| e.to_string())
}

/// Runs until it is ended.
pub(crate) async fn run(arguments: NodeArguments) -> Result<(), String> {
    let addresses: BTreeMap<NodeId, String> = (1..).zip(arguments.nodes).collect();
    let cluster = cluster_of(arguments.id)?;
    let peers = Peers::new(cluster.clone(), &addresses)?;
    let config = StoreConfig {
        data_dir: arguments.dir.clone(),
        node_id: arguments.id,
        cluster: cluster.clone(),
        timing: Timing::default(),
        // etcd bounds nobody either.
        budget: Budget::unlimited(),
        level: LEVEL,
    };
    let metrics = MetricsRegistry::new();
    let rng = Rng::from_entropy();
    let store = Store::open_apart(config, Arc::new(peers), clock::system(), rng, &metrics);
    let store = store.await.map_err(|e| e.to_string())?;
    let service = NodeServer::new(Service {
        store: store.clone(),
        cluster: cluster.clone(),
        id: arguments.id,
        spool: arguments.dir.join("incoming"),
    })
    .max_decoding_message_size(MAX_MESSAGE_BYTES)
    .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let serving = Server::builder()
        .add_service(service)
        .serve(arguments.listen);
    let admitting = async {
        if arguments.id == 1 {
            admit(&store, &cluster).await?;
        }
        std::future::pending::<Result<(), String>>().await
    };
    tokio::select! {
        ended = serving => ended.map_err(|e| e.to_string())?,
        failed = admitting => failed?,
        _signal = tradewind_runtime::signal::terminated() => {}
    }
    store.shutdown().await;
    Ok(())
}

/// Founds the federation and admits the other clusters, once; their nodes get the ids 2 and 3 in order.
async fn admit(store: &Store, cluster: &ClusterName) -> Result<(), String> {
    if !store.catalog().is_founded() && store.status().last_log.is_none() {
        let mut founder = record(cluster)?;
        founder.nodes.insert(1);
        let found = Command::Found {
            domain: Domain::default(),
            root: Blob(vec![1]),
            cluster: founder,
        };
        store.found(found).await.map_err(|e| e.to_string())?;
    } else {
        return Ok(());
    }
    for id in 2..=NODES {
        let joiner = record(&cluster_of(id)?)?;
        let token_id = format!("token-{id}");
        let put = Command::PutToken(TokenRecord {
            id: token_id.clone(),
            secret_sha256: Blob(vec![0; 32]),
            cluster: None,
            expires_at_ms: u64::MAX,
            used: None,
        });
        retried(store, cluster, &put).await?;
        let join = Command::Join {
            token_id,
            cluster: joiner,
        };
        match retried(store, cluster, &join).await? {
            Outcome::Joined { node_id, .. } if node_id == id => {}
            other => return Err(format!("node {id} was not admitted: {other:?}")),
        }
    }
    Ok(())
}

/// Proposes again while there is no leader: right after the founding the membership still changes.
async fn retried(
    store: &Store,
    cluster: &ClusterName,
    command: &Command,
) -> Result<Outcome, String> {
    loop {
        match store.propose(cluster, command.clone()).await {
            Ok(outcome) => return Ok(outcome),
            Err(tradewind_federation::ProposeError::NoLeader { .. }) => {
                tokio::time::sleep(ADMIT_PAUSE).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// A member's record, as small as it may be.
pub(crate) fn record(cluster: &ClusterName) -> Result<ClusterRecord, String> {
    Ok(ClusterRecord {
        name: cluster.clone(),
        region: Region::new("r1").map_err(|e| e.to_string())?,
        network: Network::new(cluster.as_ref()).map_err(|e| e.to_string())?,
        gateways: vec![format!("{cluster}.example:15443")],
        state: ClusterState::Active,
        nodes: BTreeSet::new(),
        authorities: BTreeSet::from([Blob(cluster.to_string().into_bytes())]),
        version: "0.1.0".to_owned(),
        joined_at_ms: 0,
        lease_at_ms: 0,
        level: LEVEL,
        witness: false,
    })
}

fn service_of(key: &str) -> Result<ServiceName, Status> {
    let parsed = format!("bench/{key}").parse();
    parsed.map_err(|e| Status::invalid_argument(format!("{key}: {e}")))
}

/// The one endpoint's id.
fn endpoint_id() -> Result<EndpointId, Status> {
    EndpointId::new("e1").map_err(|e| Status::internal(e.to_string()))
}

/// The command of one write: an export with one port and one endpoint, whose account text is the value.
fn put(request: PutRequest) -> Result<Command, Status> {
    let endpoint = EndpointSummary {
        zone: None,
        weight: 1,
        health: Health::Healthy,
        account: request.value,
        hostname: None,
        labels: tradewind_api::traffic::Labels::new(),
        address: None,
        ports: vec![80],
    };
    Ok(Command::PutExport(Export {
        service: service_of(&request.key)?,
        created_at_ms: 1,
        kind: ServiceKind::ClusterSetIp,
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            app_protocol: AppProtocol::Detect,
        }],
        endpoints: BTreeMap::from([(endpoint_id()?, endpoint)]),
        rules: None,
        spec: None,
    }))
}

#[derive(Debug)]
struct Service {
    store: Store,
    cluster: ClusterName,
    id: NodeId,
    spool: PathBuf,
}

impl Service {
    fn answer(&self, handled: Result<Vec<u8>, HandleError>) -> Result<Response<Frame>, Status> {
        let payload = handled.map_err(|e| Status::failed_precondition(e.to_string()))?;
        Ok(Response::new(Frame {
            cluster: self.cluster.to_string(),
            payload,
        }))
    }
}

#[tonic::async_trait]
impl Node for Service {
    async fn append(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let payload = request.into_inner().payload;
        self.answer(self.store.handle_append(payload).await)
    }

    async fn vote(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let payload = request.into_inner().payload;
        self.answer(self.store.handle_vote(payload).await)
    }

    async fn pre_vote(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let payload = request.into_inner().payload;
        self.answer(self.store.handle_pre_vote(payload).await)
    }

    async fn propose(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let frame = request.into_inner();
        let proposer = ClusterName::new(&frame.cluster)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.answer(self.store.handle_propose(&proposer, frame.payload).await)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Frame>, Status> {
        let disk = |e: std::io::Error| Status::failed_precondition(e.to_string());
        let mut frames = request.into_inner();
        let header = frames.message().await?;
        let header = header.ok_or_else(|| Status::invalid_argument("an empty snapshot"))?;
        let mut file = tokio::fs::File::create(&self.spool).await.map_err(disk)?;
        while let Some(frame) = frames.message().await? {
            file.write_all(&frame.payload).await.map_err(disk)?;
        }
        file.sync_all().await.map_err(disk)?;
        let spool = self.spool.clone();
        let handled = self.store.handle_install_snapshot(header.payload, spool);
        self.answer(handled.await)
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let command = put(request.into_inner())?;
        match self.store.propose(&self.cluster, command).await {
            Ok(Outcome::Done { revision, .. }) => Ok(Response::new(PutResponse { revision })),
            Ok(other) => Err(Status::failed_precondition(format!("{other:?}"))),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let service = service_of(&request.into_inner().key)?;
        let catalog = self.store.catalog();
        let id = endpoint_id()?;
        // Whichever cluster's offer it is: a benchmark's key has one writer after another.
        let newest = catalog
            .exports
            .get(&service)
            .into_iter()
            .flat_map(|by| by.values())
            .filter_map(|export| export.endpoints.get(&id))
            .map(|endpoint| endpoint.account.clone())
            .max();
        Ok(Response::new(GetResponse {
            found: newest.is_some(),
            value: newest.unwrap_or_default(),
        }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let status = self.store.status();
        Ok(Response::new(StatusResponse {
            leads: status.leader == Some(self.id) && status.can_write,
            voters: u32::try_from(status.voters.len()).unwrap_or(u32::MAX),
            applied: status.applied.unwrap_or(0),
        }))
    }
}
