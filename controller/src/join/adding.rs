//! A further controller of this cluster: what the one does that it asks.
//!
//! The newcomer proves itself by a one-time token that was made here, and makes its authority's key itself. Its authority is
//! signed where the root's key is, at the word of this cluster's controller, and stands in the trust map from the same
//! write on that gives it a node. Owns the answers to the latest such requests, so that a lost one can be given again.

use std::sync::PoisonError;

use tonic::{Code, Status, transport::Channel};
use tradewind_api::{
    ClusterName, Network, NodeId, Region,
    proto::v1::{
        AddControllerRequest, AddControllerResponse, SignAuthorityRequest,
        federation_client::FederationClient,
    },
    store::{Blob, CONTROLLERS, Command, ControllerRecord, Outcome},
};
use tradewind_runtime::task;
use tradewind_transport::trust::sha256;

use super::{
    holder::{Holder, handed_on},
    server::{FederationService, MAX_CSR_BYTES, known_clusters, same_line},
};
use crate::{
    VERSION,
    answer::{self, refuse},
    attest::{AccountSays, TokenSays},
    identity_service::{
        Accounts,
        tokens::{NEW_CONTROLLER, WorkloadTokens},
    },
    registry::state::check_address,
    server::Caller,
};

/// Answers kept; a cluster has four nodes at most.
const MAX_ADDED: usize = 8;

/// What a controller lets others in with.
#[derive(Clone, Debug)]
pub struct Adding {
    /// One-time tokens.
    pub tokens: WorkloadTokens,
    /// Whose service accounts' tokens are, where there is an API server.
    pub accounts: Option<Accounts>,
    /// This controller's node.
    pub node_id: NodeId,
    /// Its cluster's region.
    pub region: Region,
    /// Its cluster's network.
    pub network: Network,
    /// `host:port` of the cluster's gateways, as the operator named them.
    pub gateways: Vec<String>,
}

/// What let somebody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// A one-time token, which is to be spent.
    Token,
    /// The API server vouches for it as the Pod that its address names.
    Pod,
}

/// The account of a cluster's own controllers.
const CONTROLLER_ACCOUNT: &str = "tradewind-controller";

impl Adding {
    /// Whether what is shown is good.
    async fn evidence(
        &self,
        request: &AddControllerRequest,
        csr_sha256: &[u8; 32],
        now_ms: u64,
    ) -> Result<Evidence, Status> {
        let shown = &request.service_account_token;
        if shown.is_empty() {
            return match self.tokens.look(&request.token, csr_sha256, now_ms) {
                TokenSays::GoodFor(path) if path == NEW_CONTROLLER => Ok(Evidence::Token),
                TokenSays::GoodFor(_) | TokenSays::Absent | TokenSays::Bad(_) => Err(refuse(
                    Code::Unauthenticated,
                    "the token lets no controller in here",
                    "make one at this very controller: `tradewind token create --controller`",
                )),
            };
        }
        let Some(accounts) = &self.accounts else {
            return Err(refuse(
                Code::Unauthenticated,
                "this controller knows no service accounts",
                "start it with --kubernetes, or show a token of `tradewind token create --controller`",
            ));
        };
        let says = accounts.look(shown, now_ms / 1000).await;
        judge_account(&says, &request.address)
    }
}

/// Whether an account may be one of the cluster's controllers at that address: the controllers' own, in a Pod that the address begins with.
fn judge_account(says: &AccountSays, address: &str) -> Result<Evidence, Status> {
    let (account, system) = match says {
        AccountSays::Is { account, system } => (account, system),
        AccountSays::Unknown(why) | AccountSays::Busy(why) => {
            return Err(refuse(Code::Unavailable, why, "try again"));
        }
        AccountSays::Absent | AccountSays::Missing => {
            return Err(Status::unauthenticated(
                "no service account's token is shown",
            ));
        }
        AccountSays::Bad(why) => return Err(Status::unauthenticated(why.clone())),
    };
    let pod = account.pod.as_deref().unwrap_or_default();
    let own = account.name == CONTROLLER_ACCOUNT && *account.namespace == **system;
    let named = address.split(['.', ':']).next() == Some(pod);
    if own && named && !pod.is_empty() {
        return Ok(Evidence::Pod);
    }
    Err(refuse(
        Code::PermissionDenied,
        format!(
            "{}/{} in the Pod {pod:?} may not be a controller at {address:.255}",
            account.namespace, account.name
        ),
        format!(
            "a controller runs as {system}/{CONTROLLER_ACCOUNT} and is reached under its Pod's own name"
        ),
    ))
}

/// One that was let in.
pub(super) struct Added {
    csr_sha256: [u8; 32],
    response: AddControllerResponse,
}

impl FederationService {
    /// Lets one in.
    pub(super) async fn add(
        &self,
        request: AddControllerRequest,
    ) -> Result<AddControllerResponse, Status> {
        let _turn = self.turn()?;
        let Some(adding) = &self.0.adding else {
            return Err(Status::unimplemented("a witness has no other controllers"));
        };
        if request.authority_csr_der.is_empty() || request.authority_csr_der.len() > MAX_CSR_BYTES {
            return Err(Status::invalid_argument(
                "the signing request has no possible length",
            ));
        }
        let csr_sha256 = sha256(&request.authority_csr_der);
        let now_ms = self.0.clock.unix_ms();
        let evidence = adding.evidence(&request, &csr_sha256, now_ms).await?;
        if let Some(response) = self.added(csr_sha256) {
            return Ok(response);
        }
        self.judge_newcomer(&request, adding.node_id)?;
        let authority = self
            .sign_for(&self.0.own, &Caller::Anonymous, request.authority_csr_der)
            .await?;
        match evidence {
            Evidence::Token => {
                let (tokens, text) = (adding.tokens.clone(), request.token);
                let spent =
                    task::spawn_blocking(move || tokens.spend(&text, &csr_sha256, now_ms)).await;
                spent
                    .map_err(|e| Status::internal(e.to_string()))?
                    .map_err(|e| Status::unauthenticated(e.to_string()))?;
            }
            Evidence::Pod => self.take_out(&request.address, adding.node_id).await?,
        }
        let command = Command::AddController {
            controller: ControllerRecord {
                address: request.address,
                level: u16::try_from(request.level).unwrap_or(u16::MAX),
                authority: Some(Blob(authority.clone())),
            },
        };
        let written = self.0.store.propose(&self.0.own, command).await;
        let node_id = match written.map_err(|e| answer::propose(&e))? {
            Outcome::Joined { node_id, .. } => node_id,
            Outcome::Refused(refusal) => return Err(answer::refusal(&refusal)),
            Outcome::Done { .. } => return Err(Status::internal("the store gave no node")),
        };
        tracing::info!(node_id, "a further controller of this cluster was let in");
        let response = self.greeting(adding, node_id, authority);
        let mut added = self.0.added.lock().unwrap_or_else(PoisonError::into_inner);
        if added.len() >= MAX_ADDED {
            added.pop_front();
        }
        added.push_back(Added {
            csr_sha256,
            response: response.clone(),
        });
        Ok(response)
    }

    /// A Pod that comes without its volume is not the node that it was: at its address nobody else can be.
    async fn take_out(&self, address: &str, me: NodeId) -> Result<(), Status> {
        let catalog = self.0.store.catalog();
        let record = catalog.controllers_of(&self.0.own);
        let there = record.into_iter().flat_map(|r| &r.nodes);
        let old = there.filter(|(node, c)| c.address == address && **node != me);
        for node in old.map(|(node, _)| *node) {
            let command = Command::RemoveNode { node };
            let written = self.0.store.propose(&self.0.own, command).await;
            match written.map_err(|e| answer::propose(&e))? {
                Outcome::Refused(refusal) => return Err(answer::refusal(&refusal)),
                Outcome::Done { .. } | Outcome::Joined { .. } => {}
            }
            tracing::warn!(
                node,
                address,
                "a controller came back without its volume; its former node is taken out"
            );
        }
        Ok(())
    }

    fn added(&self, csr_sha256: [u8; 32]) -> Option<AddControllerResponse> {
        let added = self.0.added.lock().unwrap_or_else(PoisonError::into_inner);
        let same = added.iter().find(|a| a.csr_sha256 == csr_sha256)?;
        Some(same.response.clone())
    }

    /// What would make the newcomer useless, before anything is signed.
    fn judge_newcomer(&self, request: &AddControllerRequest, me: NodeId) -> Result<(), Status> {
        if !same_line(&request.version, VERSION) {
            return Err(refuse(
                Code::FailedPrecondition,
                format!(
                    "the new controller runs version {:.20}, this cluster {VERSION}",
                    request.version
                ),
                "use the same version on both sides",
            ));
        }
        check_address("address", &request.address).map_err(|e| {
            refuse(
                Code::InvalidArgument,
                e.to_string(),
                "give --advertise host:port",
            )
        })?;
        let catalog = self.0.store.catalog();
        if catalog.level < CONTROLLERS {
            return Err(refuse(
                Code::FailedPrecondition,
                format!(
                    "several controllers need level {CONTROLLERS}, and the federation stands at level {}",
                    catalog.level
                ),
                "upgrade the other clusters first",
            ));
        }
        let record = catalog.controllers_of(&self.0.own);
        if record.is_some_and(|r| r.nodes.contains_key(&me)) {
            return Ok(());
        }
        Err(refuse(
            Code::FailedPrecondition,
            "this controller has not said where others reach it",
            "start it with --advertise host:port, and with a --listen that others reach",
        ))
    }

    /// An authority for `cluster`, signed where the root's key is.
    pub(super) async fn sign_for(
        &self,
        cluster: &ClusterName,
        caller: &Caller,
        csr_der: Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        if csr_der.len() > MAX_CSR_BYTES {
            return Err(Status::invalid_argument("the signing request is too long"));
        }
        let request = SignAuthorityRequest {
            csr_der,
            cluster: cluster.to_string(),
        };
        let founder = match self.hand_on_to(caller)? {
            Holder::Here => return self.sign_here(cluster, &request.csr_der),
            Holder::Sibling => {
                let ask = |mut c: FederationClient<Channel>| {
                    let request = request.clone();
                    async move { c.sign_authority(request).await }
                };
                let signed = self.ask_siblings(ask).await?;
                return Ok(signed.into_inner().authority_der);
            }
            Holder::Founder(founder) => founder,
        };
        let mut client = self
            .0
            .peers
            .federation(&founder)
            .map_err(|e| Self::away(&founder, &e))?;
        let signed = handed_on(&founder, client.sign_authority(request)).await?;
        Ok(signed.into_inner().authority_der)
    }

    fn sign_here(&self, cluster: &ClusterName, csr_der: &[u8]) -> Result<Vec<u8>, Status> {
        let Some(root) = &self.0.root else {
            return Err(Status::internal("the root key is missing"));
        };
        let catalog = self.0.store.catalog();
        if catalog.member(cluster).is_none_or(|c| c.witness) {
            return Err(Status::permission_denied(format!(
                "{cluster} is no cluster of this federation"
            )));
        }
        let now_ms = self.0.clock.unix_ms();
        root.sign_authority(csr_der, cluster, &catalog.domain, now_ms)
            .map_err(|e| {
                refuse(
                    Code::InvalidArgument,
                    format!("a further authority of {cluster} was not signed: {e}"),
                    "try again",
                )
            })
    }

    fn greeting(
        &self,
        adding: &Adding,
        node_id: NodeId,
        authority_der: Vec<u8>,
    ) -> AddControllerResponse {
        let catalog = self.0.store.catalog();
        let record = catalog.controllers_of(&self.0.own);
        let controllers = record.into_iter().flat_map(|r| &r.nodes);
        let founder = catalog.founder.as_ref();
        AddControllerResponse {
            node_id,
            authority_der,
            trust: Some((&catalog.trust()).into()),
            clusters: known_clusters(&catalog),
            founder: founder.map(ToString::to_string).unwrap_or_default(),
            region: adding.region.to_string(),
            network: adding.network.to_string(),
            gateways: adding.gateways.clone(),
            controllers: controllers
                .filter(|(node, _)| **node != node_id)
                .map(|(node, c)| (*node, c.address.clone()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tradewind_kubernetes::token_review::Account;

    use super::*;

    #[test]
    fn none_but_the_controllers_own_account_is_let_in_and_under_its_pods_name_alone() {
        let says = |namespace: &str, name: &str, pod: Option<&str>| AccountSays::Is {
            account: Account {
                namespace: namespace.into(),
                name: name.into(),
                pod: pod.map(Into::into),
            },
            system: "tradewind-system".into(),
        };
        let judge = |says: &AccountSays, address: &str| judge_account(says, address);
        let good = says("tradewind-system", CONTROLLER_ACCOUNT, Some("c-1"));
        for address in ["c-1.controllers.tradewind-system.svc:15012", "c-1:15012"] {
            assert_eq!(judge(&good, address).unwrap(), Evidence::Pod);
        }
        for (bad, address) in [
            (good.clone(), "c-2.controllers:15012"),
            (good.clone(), "x.c-1:15012"),
            (good, "c-1x:15012"),
            (says("shop", CONTROLLER_ACCOUNT, Some("c-1")), "c-1:15012"),
            (
                says("tradewind-system", "tradewind-gateway", Some("c-1")),
                "c-1:15012",
            ),
            (says("tradewind-system", CONTROLLER_ACCOUNT, None), ":15012"),
            (
                says("tradewind-system", CONTROLLER_ACCOUNT, Some("")),
                ":15012",
            ),
        ] {
            let refused = judge(&bad, address).unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{bad:?} {address}");
        }
        let away = judge(&AccountSays::Unknown("away".into()), "c-1:1").unwrap_err();
        assert_eq!(away.code(), Code::Unavailable);
        let bad = judge(&AccountSays::Bad("no".into()), "c-1:1").unwrap_err();
        assert_eq!(bad.code(), Code::Unauthenticated);
    }
}
