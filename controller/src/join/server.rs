//! The Federation service: joining, writes forwarded to the leader, introductions.
//!
//! Owns the root's key, where this is the founder's controller, and the answers to recent joins, so that a joiner that
//! lost one can ask again. It must never dial an address, sign a request or write to the store for a caller that has no
//! good token or certificate.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status, transport::Channel};
use tradewind_api::{
    ClusterName, InvalidName, Network, NodeId, Region,
    model::ClusterState,
    proto::v1::{
        AddControllerRequest, AddControllerResponse, IntroduceRequest, IntroduceResponse,
        JoinCheckResponse, JoinRequest, JoinResponse, KnownCluster, PingRequest, PingResponse,
        ProposeRequest, ProposeResponse, SignAuthorityRequest, SignAuthorityResponse,
        federation_client::FederationClient, federation_server::Federation,
    },
    store::{Blob, ClusterRecord, Command, Outcome, Refusal, Stamped},
};
use tradewind_ca::{root::Root, token::JoinToken};
use tradewind_federation::{Catalog, Store};
use tradewind_runtime::SharedClock;
use tradewind_transport::trust::sha256;

use super::{
    adding,
    holder::{Holder, handed_on},
    way_back,
};
use crate::{
    VERSION,
    answer::{self, refuse},
    init::check_gateways,
    raft_net::{Peers, handle_status, told_apart, vitals},
    reach::Seen,
    server::{Access, caller},
};

/// Joins looked at at once: each may dial sixteen addresses, and nobody joins clusters by the hundred.
const MAX_JOINS: usize = 8;
/// Answers kept for joiners that lost theirs.
const MAX_ANSWERS: usize = 64;
/// A signing request has some 300 bytes.
pub(super) const MAX_CSR_BYTES: usize = 16 << 10;

/// See the module.
#[derive(Clone)]
pub struct FederationService(pub(super) Arc<Inner>, Seen);

pub(super) struct Inner {
    pub(super) own: ClusterName,
    pub(super) store: Store,
    pub(super) access: Access,
    pub(super) peers: Peers,
    pub(super) root: Option<Root>,
    pub(super) clock: SharedClock,
    turns: Semaphore,
    answers: Mutex<VecDeque<Answered>>,
    pub(super) adding: Option<adding::Adding>,
    pub(super) added: Mutex<VecDeque<adding::Added>>,
}

struct Answered {
    token_id: String,
    csr_sha256: [u8; 32],
    response: JoinResponse,
}

impl fmt::Debug for FederationService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FederationService")
            .field("own", &self.0.own)
            .field("holds_root", &self.0.root.is_some())
            .finish_non_exhaustive()
    }
}

/// What a join request asks, checked for form.
#[derive(Debug)]
struct Asked {
    token: JoinToken,
    record: ClusterRecord,
}

impl FederationService {
    /// For the controller of `own`; `root` where that is the founder.
    pub fn new(
        own: ClusterName,
        store: Store,
        access: Access,
        peers: Peers,
        root: Option<Root>,
        clock: SharedClock,
    ) -> Self {
        let inner = Arc::new(Inner {
            own,
            store,
            access,
            peers,
            root,
            clock,
            turns: Semaphore::new(MAX_JOINS),
            answers: Mutex::default(),
            adding: None,
            added: Mutex::default(),
        });
        Self(inner, Seen::nobody())
    }

    /// The same, which lets further controllers of its own cluster in.
    #[must_use]
    pub fn adding(mut self, adding: adding::Adding) -> Self {
        // Not shared with anybody yet.
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.adding = Some(adding);
        }
        self
    }

    /// The same, which says whom this controller and its cluster's gateways reach.
    #[must_use]
    pub fn sharing(self, seen: Seen) -> Self {
        Self(self.0, seen)
    }

    /// The token and the name, checked against the newest catalog by the very function that will apply the join.
    async fn judge(&self, request: &JoinRequest) -> Result<Asked, Status> {
        let asked = asked(request)?;
        let catalog = self
            .0
            .store
            .linearizable()
            .await
            .map_err(|e| answer::propose(&e))?;
        let record = catalog.tokens.get(&asked.token.id);
        if !record.is_some_and(|r| asked.token.matches(&r.secret_sha256.0)) {
            return Err(answer::refusal(&Refusal::UnknownToken));
        }
        let mut trial = Catalog::clone(&catalog);
        let stamped = Stamped {
            proposer: self.0.own.clone(),
            at_ms: self.0.clock.unix_ms(),
            command: Command::Join {
                token_id: asked.token.id.clone(),
                cluster: asked.record.clone(),
            },
            actor: None,
        };
        match trial.apply(catalog.revision.saturating_add(1), &stamped) {
            Outcome::Refused(refusal) => Err(answer::refusal(&refusal)),
            Outcome::Done { .. } | Outcome::Joined { .. } => Ok(asked),
        }
    }

    pub(super) fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Status> {
        self.0.turns.try_acquire().map_err(|_| {
            refuse(
                Code::ResourceExhausted,
                format!("{MAX_JOINS} clusters are joining already"),
                "try again in a moment",
            )
        })
    }

    async fn check_here(&self, request: JoinRequest) -> Result<JoinCheckResponse, Status> {
        let _turn = self.turn()?;
        if request.way_back_nonce.len() != way_back::NONCE_BYTES {
            return Err(Status::invalid_argument(format!(
                "a nonce has {} bytes",
                way_back::NONCE_BYTES
            )));
        }
        let asked = self.judge(&request).await?;
        let way_back = way_back::check(&asked.record.gateways, &request.way_back_nonce).await;
        let failed = way_back.err();
        Ok(JoinCheckResponse {
            way_back_ok: failed.is_none(),
            way_back_layer: failed
                .as_ref()
                .map(|f| f.layer.to_owned())
                .unwrap_or_default(),
            way_back_error: failed.map(|f| f.error).unwrap_or_default(),
        })
    }

    async fn join_here(&self, root: &Root, request: JoinRequest) -> Result<JoinResponse, Status> {
        let _turn = self.turn()?;
        let csr_sha256 = sha256(&request.authority_csr_der);
        if request.authority_csr_der.len() > MAX_CSR_BYTES {
            return Err(Status::invalid_argument("the signing request is too long"));
        }
        let token: JoinToken = request
            .token
            .parse()
            .map_err(|_| answer::refusal(&Refusal::UnknownToken))?;
        if let Some(response) = self.answered(&token, csr_sha256) {
            return Ok(response);
        }
        let Asked { token, mut record } = self.judge(&request).await?;
        let domain = self.0.store.catalog().domain.clone();
        let authority = root
            .sign_authority(
                &request.authority_csr_der,
                &record.name,
                &domain,
                self.0.clock.unix_ms(),
            )
            .map_err(|e| {
                refuse(
                    Code::InvalidArgument,
                    format!("the authority of {} was not signed: {e}", record.name),
                    "try again",
                )
            })?;
        record.authorities = BTreeSet::from([Blob(authority.clone())]);
        let name = record.name.clone();
        let command = Command::Join {
            token_id: token.id.clone(),
            cluster: record,
        };
        let outcome = self
            .0
            .store
            .propose(&self.0.own, command)
            .await
            .map_err(|e| answer::propose(&e))?;
        let node_id = match outcome {
            Outcome::Joined { node_id, .. } => node_id,
            Outcome::Refused(refusal) => return Err(answer::refusal(&refusal)),
            Outcome::Done { .. } => return Err(Status::internal("the store admitted nobody")),
        };
        tracing::info!(cluster = %name, node_id, token = token.id, "a cluster joined");
        let response = self.welcome(node_id, authority);
        let mut answers = self
            .0
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_ANSWERS {
            answers.pop_front();
        }
        answers.push_back(Answered {
            token_id: token.id.clone(),
            csr_sha256,
            response: response.clone(),
        });
        Ok(response)
    }

    /// What the bearer of the same token and key was told before.
    fn answered(&self, token: &JoinToken, csr_sha256: [u8; 32]) -> Option<JoinResponse> {
        let catalog = self.0.store.catalog();
        let record = catalog.tokens.get(&token.id)?;
        if !token.matches(&record.secret_sha256.0) {
            return None;
        }
        let answers = self
            .0
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let same = answers
            .iter()
            .find(|a| a.token_id == token.id && a.csr_sha256 == csr_sha256)?;
        Some(same.response.clone())
    }

    fn welcome(&self, node_id: NodeId, authority_der: Vec<u8>) -> JoinResponse {
        let catalog = self.0.store.catalog();
        JoinResponse {
            node_id,
            authority_der,
            trust: Some((&catalog.trust()).into()),
            clusters: known_clusters(&catalog),
            founder: catalog
                .founder
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }
    }
}

pub(super) fn known_clusters(catalog: &Catalog) -> Vec<KnownCluster> {
    catalog
        .members()
        .map(|c| KnownCluster {
            name: c.name.to_string(),
            gateways: c.gateways.clone(),
            nodes: c.nodes.iter().copied().collect(),
            by_node: told_apart(catalog, &c.name).into_iter().collect(),
        })
        .collect()
}

fn asked(request: &JoinRequest) -> Result<Asked, Status> {
    let token: JoinToken = request
        .token
        .parse()
        .map_err(|_| answer::refusal(&Refusal::UnknownToken))?;
    let named = |e: InvalidName| {
        refuse(
            Code::InvalidArgument,
            e.to_string(),
            "correct it and try again",
        )
    };
    if !same_line(&request.version, VERSION) {
        return Err(refuse(
            Code::FailedPrecondition,
            format!(
                "the joining cluster runs version {:.20}, this federation {VERSION}",
                request.version
            ),
            "use the same version on both sides",
        ));
    }
    let gateways = check_gateways(&request.gateways)
        .map_err(|e| refuse(Code::InvalidArgument, e.to_string(), "correct --gateway"))?;
    if gateways.is_empty() {
        return Err(refuse(
            Code::InvalidArgument,
            "no gateway address was given",
            "give --gateway host:port",
        ));
    }
    let record = ClusterRecord {
        name: ClusterName::new(&request.cluster).map_err(named)?,
        region: Region::new(&request.region).map_err(named)?,
        network: Network::new(&request.network).map_err(named)?,
        gateways,
        state: ClusterState::Active,
        nodes: BTreeSet::new(),
        authorities: BTreeSet::new(),
        version: request.version.clone(),
        joined_at_ms: 0,
        lease_at_ms: 0,
        // One that says nothing comes from before there were levels.
        level: u16::try_from(request.level).unwrap_or(u16::MAX).max(1),
        witness: request.witness,
    };
    Ok(Asked { token, record })
}

/// Versions of one line speak the same protocol: the same major, and below 1.0 the same minor.
pub(super) fn same_line(a: &str, b: &str) -> bool {
    fn line(version: &str) -> Option<(u64, u64)> {
        let mut parts = version.split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some((major, if major == 0 { minor } else { 0 }))
    }
    line(a).is_some() && line(a) == line(b)
}

#[tonic::async_trait]
impl Federation for FederationService {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        let proposer = self
            .0
            .access
            .require_controller_of_member(&caller(&request))?;
        let handled = self
            .0
            .store
            .handle_propose(&proposer, request.into_inner().command)
            .await;
        let outcome = handled.map_err(|e| handle_status(&e))?;
        Ok(Response::new(ProposeResponse { outcome }))
    }

    async fn join_check(
        &self,
        request: Request<JoinRequest>,
    ) -> Result<Response<JoinCheckResponse>, Status> {
        let holder = self.hand_on_to(&caller(&request))?;
        let request = request.into_inner();
        let founder = match holder {
            Holder::Here => return self.check_here(request).await.map(Response::new),
            Holder::Sibling => {
                let ask = |mut c: FederationClient<Channel>| {
                    let request = request.clone();
                    async move { c.join_check(request).await }
                };
                return self.ask_siblings(ask).await;
            }
            Holder::Founder(founder) => founder,
        };
        let mut client = self
            .0
            .peers
            .federation(&founder)
            .map_err(|e| Self::away(&founder, &e))?;
        handed_on(&founder, client.join_check(request)).await
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let holder = self.hand_on_to(&caller(&request))?;
        let request = request.into_inner();
        let founder = match holder {
            Holder::Here => {
                let Some(root) = &self.0.root else {
                    return Err(Status::internal("the root key is missing"));
                };
                return self.join_here(root, request).await.map(Response::new);
            }
            Holder::Sibling => {
                let ask = |mut c: FederationClient<Channel>| {
                    let request = request.clone();
                    async move { c.join(request).await }
                };
                return self.ask_siblings(ask).await;
            }
            Holder::Founder(founder) => founder,
        };
        let mut client = self
            .0
            .peers
            .federation(&founder)
            .map_err(|e| Self::away(&founder, &e))?;
        handed_on(&founder, client.join(request)).await
    }

    async fn introduce(
        &self,
        request: Request<IntroduceRequest>,
    ) -> Result<Response<IntroduceResponse>, Status> {
        let cluster = self
            .0
            .access
            .require_controller_of_member(&caller(&request))?;
        let node_id = request.into_inner().node_id;
        let catalog = self.0.store.catalog();
        if let Some(owner) = catalog.cluster_of(node_id)
            && *owner != cluster
        {
            return Err(Status::permission_denied(format!(
                "node {node_id} belongs to cluster {owner}, not to {cluster}"
            )));
        }
        // What the caller needs most is whom to believe and where they are. Without a leader it will ask again.
        if let Err(error) = self.0.store.introduce(node_id, &cluster).await {
            tracing::debug!(%cluster, node_id, %error, "an introduction was not passed on");
        }
        Ok(Response::new(IntroduceResponse {
            clusters: known_clusters(&catalog),
            trust: Some((&catalog.trust()).into()),
            revision: catalog.revision,
        }))
    }

    async fn add_controller(
        &self,
        request: Request<AddControllerRequest>,
    ) -> Result<Response<AddControllerResponse>, Status> {
        self.add(request.into_inner()).await.map(Response::new)
    }

    async fn sign_authority(
        &self,
        request: Request<SignAuthorityRequest>,
    ) -> Result<Response<SignAuthorityResponse>, Status> {
        let caller = caller(&request);
        let mut cluster = self.0.access.require_controller_of_member(&caller)?;
        let asked = request.into_inner();
        // One of this cluster's own controllers says for whom it was asked: what is signed counts only once that cluster
        // has put it into the trust map itself.
        if cluster == self.0.own && !asked.cluster.is_empty() {
            cluster = ClusterName::new(&asked.cluster)
                .map_err(|e| Status::invalid_argument(e.to_string()))?;
        }
        let authority_der = self.sign_for(&cluster, &caller, asked.csr_der).await?;
        Ok(Response::new(SignAuthorityResponse { authority_der }))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        self.0
            .access
            .require_controller_of_member(&caller(&request))?;
        let revision = self.0.store.catalog().revision;
        let own = || self.1.row(self.0.clock.unix_ms());
        let reached = request.into_inner().with_reach.then(own);
        Ok(Response::new(PingResponse {
            cluster: self.0.own.to_string(),
            revision,
            vitals: Some(vitals(self.0.store.vitals())),
            reached: reached.unwrap_or_default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_line_go_together() {
        for (a, b, same) in [
            ("0.1.0", "0.1.9", true),
            ("0.1.0", "0.2.0", false),
            ("1.4.0", "1.9.2", true),
            ("1.4.0", "2.0.0", false),
            ("", "0.1.0", false),
            ("x.y", "x.y", false),
        ] {
            assert_eq!(same_line(a, b), same, "{a} {b}");
        }
    }
}
