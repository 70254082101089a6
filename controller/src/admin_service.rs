//! The Admin service: what the command line asks of a controller. For operators alone.
//!
//! Owns nothing. Every refusal is one whole sentence that names the thing, with a hint in its second line, because a
//! person reads it as it stands.

mod explain;
mod export;
mod limits;
mod listing;
mod objects;
mod plan;
mod problems;
mod reading;
mod routes;
mod store;
mod tokens;

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::Stream;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};
use tradewind_api::{
    ClusterName, ServiceName,
    proto::v1::{
        CreateTokenRequest, CreateTokenResponse, DrainRequest, Empty, EndpointsRequest,
        EndpointsResponse, ExplainRequest, ExplainResponse, ExportRequest, ExportResponse,
        ListClustersResponse, ListRequest, ListServicesResponse, ListTokensResponse, PlanRequest,
        PlanResponse, PolicyPart, RevokeTokenRequest, RoutesRequest, ServiceRoutes, StatusResponse,
        admin_server::Admin,
    },
    snapshot::Snapshot,
    store::{Command, Outcome, Refusal},
};
use tradewind_federation::Store;
use tradewind_kubernetes::Client;
use tradewind_runtime::{SharedClock, drain, task};

use crate::{
    actor,
    ads::Proxies,
    answer::{self, refuse},
    compile::Leases,
    datadir::DataDir,
    exports::{self, Exports},
    identity_service::WorkloadTokens,
    local::{LocalModel, Own, nearest},
    reach::Reach,
    registry::{Registered, Reports},
    seals::Ring,
    server::{Access, caller},
    siblings::Heard,
    source::SourceModel,
};

/// An answer of many parts.
type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How long `export` waits to see its change in the store before it answers that it was taken.
const PUBLISH_WAIT: Duration = Duration::from_secs(2);

/// What the service reads and changes.
#[derive(Clone)]
pub struct AdminInput {
    /// The store.
    pub store: Store,
    /// Who may ask.
    pub access: Access,
    /// This cluster.
    pub own: Own,
    /// Its root's hash, for tokens.
    pub root_sha256: [u8; 32],
    /// Its export intents.
    pub exports: Exports,
    /// The way to its API server, where its own services stand.
    pub kubernetes: Option<Client>,
    /// What it runs.
    pub local: watch::Receiver<Arc<LocalModel>>,
    /// What its files say.
    pub yaml: watch::Receiver<Arc<SourceModel>>,
    /// What its proxies and gateways registered.
    pub registered: watch::Receiver<Arc<Registered>>,
    /// The cluster's other controllers.
    pub siblings: watch::Receiver<Arc<Heard>>,
    /// How many proxies are connected.
    pub proxies: Proxies,
    /// What its proxies see.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Signs of life of the others.
    pub leases: watch::Receiver<Arc<Leases>>,
    /// Whether they answer.
    pub reach: watch::Receiver<Arc<Reach>>,
    /// Whether this cluster's gateways reach theirs.
    pub reports: watch::Receiver<Arc<Reports>>,
    /// What sealed names it makes.
    pub seals: watch::Receiver<Arc<Ring>>,
    /// What could not be published.
    pub publishing: watch::Receiver<Arc<Vec<String>>>,
    /// Its workload tokens.
    pub tokens: WorkloadTokens,
    /// Every identity is a service account's, so that nobody could use a workload token.
    pub accounts_alone: bool,
    /// Gateway addresses that the operator named.
    pub configured_gateways: Vec<String>,
    /// Its data directory.
    pub data_dir: Arc<Mutex<DataDir>>,
    /// Set once the cluster has left; the process then stops.
    pub left: watch::Sender<bool>,
    /// Ends what would go on for ever.
    pub drain: drain::Observer,
    /// Time.
    pub clock: SharedClock,
}

impl fmt::Debug for AdminInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminInput")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// See the module.
#[derive(Clone)]
pub struct AdminService(Arc<AdminInput>);

impl fmt::Debug for AdminService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminService")
            .field("own", &self.0.own)
            .finish_non_exhaustive()
    }
}

fn done(outcome: Outcome) -> Result<Response<ExportResponse>, Status> {
    match outcome {
        Outcome::Done { revision, changed } => {
            Ok(Response::new(ExportResponse { revision, changed }))
        }
        Outcome::Joined { revision, .. } => Ok(Response::new(ExportResponse {
            revision,
            changed: true,
        })),
        Outcome::Refused(refusal) => Err(answer::refusal(&refusal)),
    }
}

fn service_name(text: &str) -> Result<ServiceName, Status> {
    text.parse().map_err(|e: tradewind_api::InvalidName| {
        refuse(
            Code::InvalidArgument,
            e.to_string(),
            "write namespace/name, such as shop/payments",
        )
    })
}

impl AdminService {
    /// Over `input`.
    pub fn new(input: AdminInput) -> Self {
        Self(Arc::new(input))
    }

    fn operator<T>(&self, request: Request<T>) -> Result<T, Status> {
        self.0.access.require_operator(&caller(&request))?;
        Ok(request.into_inner())
    }

    /// For what a witness does not do.
    fn not_for_witnesses(&self) -> Result<(), Status> {
        if self.0.own.witness {
            let refusal = Refusal::IsWitness(self.0.own.cluster.clone());
            return Err(answer::refusal(&refusal));
        }
        Ok(())
    }

    /// The same, with who it is, for the log of changes.
    fn operator_as<T>(&self, request: Request<T>) -> Result<(Option<String>, T), Status> {
        let caller = caller(&request);
        self.0.access.require_operator(&caller)?;
        Ok((actor::of(&caller), request.into_inner()))
    }

    async fn write(&self, actor: Option<String>, command: Command) -> Result<Outcome, Status> {
        self.0
            .store
            .propose_as(&self.0.own.cluster, actor, command)
            .await
            .map_err(|e| answer::propose(&e))
    }

    /// Changes the intents off the threads that serve streams: it waits for the disk.
    fn asked(&self, service: &ServiceName, actor: Option<String>) {
        if let Some(actor) = actor {
            self.0.exports.asked(service, &actor);
        }
    }

    async fn intend(
        &self,
        change: impl FnOnce(&exports::Intents) -> exports::Intents + Send + 'static,
    ) -> Result<bool, Status> {
        let (exports, now_ms) = (self.0.exports.clone(), self.0.clock.unix_ms());
        let written = task::spawn_blocking(move || exports.command(now_ms, change)).await;
        match written {
            Ok(Ok(changed)) => Ok(changed),
            Ok(Err(error)) => Err(refuse(
                Code::Internal,
                error.to_string(),
                "see that the disk is healthy and not full",
            )),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    /// Waits until the store shows that `service` is exported by this cluster or not, and gives the revision then known.
    async fn published(&self, service: &ServiceName, exported: bool) -> u64 {
        let mut catalogs = self.0.store.watch();
        let own = self.0.own.cluster.clone();
        let shown = catalogs.wait_for(|c| c.export(service, &own).is_some() == exported);
        if tokio::time::timeout(PUBLISH_WAIT, shown).await.is_err() {
            tracing::warn!(%service, "the change is noted and will be published once the store takes writes");
        }
        self.0.store.catalog().revision
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    type ListRoutesStream = Streaming<ServiceRoutes>;
    type ListPolicyObjectsStream = Streaming<PolicyPart>;

    async fn status(&self, request: Request<Empty>) -> Result<Response<StatusResponse>, Status> {
        self.operator(request)?;
        Ok(Response::new(listing::status(&self.0)))
    }

    async fn list_clusters(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<ListClustersResponse>, Status> {
        let age_ms = self.read(self.operator(request)?.consistent).await?;
        let catalog = self.0.store.catalog();
        Ok(Response::new(ListClustersResponse {
            revision: catalog.revision,
            age_ms,
            clusters: listing::clusters(&self.0, &catalog),
        }))
    }

    async fn list_services(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let age_ms = self.read(self.operator(request)?.consistent).await?;
        let snapshot = Arc::clone(&self.0.snapshots.borrow());
        Ok(Response::new(ListServicesResponse {
            revision: snapshot.revision.0,
            age_ms,
            services: snapshot.services.values().map(|s| (&**s).into()).collect(),
        }))
    }

    async fn list_endpoints(
        &self,
        request: Request<EndpointsRequest>,
    ) -> Result<Response<EndpointsResponse>, Status> {
        let asked = self.operator(request)?;
        let name = service_name(&asked.service)?;
        let age_ms = self.read(asked.consistent).await?;
        let snapshot = Arc::clone(&self.0.snapshots.borrow());
        let Some(service) = snapshot.services.get(&name) else {
            let hint = match nearest(&name, snapshot.services.keys()) {
                Some(near) => format!("did you mean {near}?"),
                None => "`tradewind services` lists what there is".into(),
            };
            return Err(refuse(
                Code::NotFound,
                format!("there is no service {name}"),
                hint,
            ));
        };
        let service = Some((&**service).into());
        Ok(Response::new(EndpointsResponse {
            revision: snapshot.revision.0,
            service,
            age_ms,
        }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let asked = self.operator(request)?;
        explain::explain(&self.0, &asked).map(Response::new)
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        let asked = self.operator(request)?;
        plan::plan(&self.0, &asked).map(Response::new)
    }

    async fn list_routes(
        &self,
        request: Request<RoutesRequest>,
    ) -> Result<Response<Self::ListRoutesStream>, Status> {
        let asked = self.operator(request)?;
        let routes = routes::routes(&self.0, &asked)?;
        Ok(Response::new(Box::pin(routes)))
    }

    async fn list_policy_objects(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<Self::ListPolicyObjectsStream>, Status> {
        self.operator(request)?;
        Ok(Response::new(Box::pin(objects::parts(&self.0))))
    }

    async fn export(
        &self,
        request: Request<ExportRequest>,
    ) -> Result<Response<ExportResponse>, Status> {
        let (actor, asked) = self.operator_as(request)?;
        self.begin_export(actor, asked).await.map(Response::new)
    }

    async fn unexport(
        &self,
        request: Request<ExportRequest>,
    ) -> Result<Response<ExportResponse>, Status> {
        let (actor, asked) = self.operator_as(request)?;
        self.end_export(actor, asked).await.map(Response::new)
    }

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<ExportResponse>, Status> {
        let (actor, asked) = self.operator_as(request)?;
        let cluster = ClusterName::new(&asked.cluster).map_err(|e| {
            refuse(
                Code::InvalidArgument,
                e.to_string(),
                "`tradewind clusters` lists the members",
            )
        })?;
        let draining = !asked.undo;
        done(
            self.write(actor, Command::SetDraining { cluster, draining })
                .await?,
        )
    }

    async fn leave(&self, request: Request<Empty>) -> Result<Response<ExportResponse>, Status> {
        let (actor, Empty {}) = self.operator_as(request)?;
        let response = done(self.write(actor, Command::Leave).await?)?;
        let data_dir = Arc::clone(&self.0.data_dir);
        let marked = task::spawn_blocking(move || {
            data_dir
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .mark_left()
                .map_err(|e| e.to_string())
        })
        .await;
        if let Ok(Err(error)) = marked {
            // The store has it: the next start sees it there and marks the directory again.
            tracing::warn!(error, "the data directory could not be marked as left");
        }
        tracing::info!(cluster = %self.0.own.cluster, "left the federation");
        self.0.left.send_replace(true);
        Ok(response)
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let (actor, asked) = self.operator_as(request)?;
        self.make_token(actor, asked).await.map(Response::new)
    }

    async fn list_tokens(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let age_ms = self.read(self.operator(request)?.consistent).await?;
        Ok(Response::new(ListTokensResponse {
            revision: self.0.store.catalog().revision,
            age_ms,
            tokens: listing::tokens(&self.0),
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<ExportResponse>, Status> {
        let (actor, RevokeTokenRequest { id }) = self.operator_as(request)?;
        self.take_token_back(actor, id).await.map(Response::new)
    }
}
