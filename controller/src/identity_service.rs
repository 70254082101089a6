//! The Identity service: signs the certificates of this cluster's processes.
//!
//! Refuses in this order: the request's shape, then whether the authority can sign at all, then who asks and for what,
//! then the signing request itself. A token is spent only by a certificate that was made, and the spending is on disk
//! before the certificate leaves.

mod accounts;
pub mod tokens;

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tradewind_api::{
    id::{ClusterName, Region, SpiffeId},
    proto::v1::{
        self, SignRequest, SignResponse,
        identity_server::{Identity, IdentityServer},
    },
    snapshot::Snapshot,
};
use tradewind_ca::{DEFAULT_LIFETIME_S, Issuer};
use tradewind_runtime::{clock::SharedClock, metrics::MetricsRegistry};
use tradewind_transport::{
    control::service_account::MAX_TOKEN_BYTES as MAX_ACCOUNT_TOKEN_BYTES, trust::sha256,
};

use crate::{
    attest::{self, AccountSays, Evidence, Shown, TokenSays, Wanted},
    server::{Access, Caller, caller},
};
pub use accounts::Accounts;
pub use tokens::{TokenInfo, TokensError, WorkloadTokens};

/// A signing request of ours has some 250 bytes.
const MAX_CSR_BYTES: usize = 8 << 10;
/// A token's text has some 300.
const MAX_TOKEN_BYTES: usize = 4 << 10;
/// Largest request.
const MAX_REQUEST_BYTES: usize = 32 << 10;

/// What the service is made from.
pub struct IdentityConfig {
    /// Signs.
    pub issuer: Arc<Issuer>,
    /// Says who callers are.
    pub access: Access,
    /// One-time tokens.
    pub tokens: WorkloadTokens,
    /// Who service accounts are, in a cluster with an API server.
    pub accounts: Option<Accounts>,
    /// Every identity is a service account's, so that a token of one is to be shown at each renewal too.
    pub accounts_alone: bool,
    /// Where the trust map is read.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// This cluster.
    pub cluster: ClusterName,
    /// Its region.
    pub region: Region,
    /// Time.
    pub clock: SharedClock,
}

impl std::fmt::Debug for IdentityConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityConfig")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default)]
struct Meters {
    signed: Counter,
    refused: Counter,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct IdentityService {
    config: Arc<IdentityConfig>,
    meters: Meters,
}

impl IdentityService {
    /// Ready to sign.
    pub fn new(config: IdentityConfig, metrics: &MetricsRegistry) -> Self {
        let meters = Meters::default();
        metrics.register(|r| {
            r.register(
                "tradewind_identity_signed",
                "certificates signed",
                meters.signed.clone(),
            );
            r.register(
                "tradewind_identity_refused",
                "signing requests refused",
                meters.refused.clone(),
            );
        });
        Self {
            config: Arc::new(config),
            meters,
        }
    }

    /// As a tonic service, with its limits.
    pub fn into_service(self) -> IdentityServer<Self> {
        IdentityServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// What the API server says of the service account's token, if there is one.
    async fn account(&self, asked: &SignRequest) -> AccountSays {
        if asked.service_account_token.is_empty() {
            return if self.config.accounts_alone {
                AccountSays::Missing
            } else {
                AccountSays::Absent
            };
        }
        match &self.config.accounts {
            Some(accounts) => {
                let now_unix_s = self.config.clock.unix_ms() / 1000;
                accounts
                    .look(&asked.service_account_token, now_unix_s)
                    .await
            }
            None => AccountSays::Bad(
                "this controller knows no service accounts: it runs without --kubernetes"
                    .to_owned(),
            ),
        }
    }

    fn answer(
        &self,
        caller: &Caller,
        asked: &SignRequest,
        account: AccountSays,
    ) -> Result<SignResponse, Status> {
        let config = &*self.config;
        let now_ms = config.clock.unix_ms();
        if config.issuer.not_after_unix_s() <= now_ms / 1000 {
            return Err(Status::failed_precondition(
                "this cluster's authority has ended; it has to be renewed",
            ));
        }
        let trust = Arc::clone(&config.snapshots.borrow().trust);
        if trust.roots.is_empty() {
            return Err(Status::unavailable(
                "the controller is starting and has no trust map yet",
            ));
        }
        let csr_sha256 = sha256(&asked.csr_der);
        let token = if asked.token.is_empty() {
            TokenSays::Absent
        } else {
            config.tokens.look(&asked.token, &csr_sha256, now_ms)
        };
        let shown = Shown { token, account };
        let evidence = attest::attest(&config.access, caller, &shown, &asked.path)?;
        let id = SpiffeId::from_path(config.access.own_trust_domain(), &asked.path)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let issued = config
            .issuer
            .issue(&asked.csr_der, &id, now_ms, DEFAULT_LIFETIME_S)
            .map_err(|e| {
                if e.is_askers_fault() {
                    Status::invalid_argument(e.to_string())
                } else {
                    tracing::error!(%id, error = %e, "cannot sign");
                    Status::internal(e.to_string())
                }
            })?;
        if evidence == Evidence::Token {
            config
                .tokens
                .spend(&asked.token, &csr_sha256, now_ms)
                .map_err(|e| Status::unauthenticated(e.to_string()))?;
        }
        tracing::info!(%id, ?evidence, "certificate signed");
        Ok(SignResponse {
            chain_der: issued.chain_der,
            trust: Some(v1::Trust::from(&*trust)),
            not_before_unix_s: issued.not_before_unix_s,
            not_after_unix_s: issued.not_after_unix_s,
            cluster: config.cluster.to_string(),
            region: config.region.to_string(),
        })
    }
}

fn shape(asked: &SignRequest) -> Result<(), Status> {
    if asked.csr_der.is_empty() || asked.csr_der.len() > MAX_CSR_BYTES {
        return Err(Status::invalid_argument(format!(
            "a signing request of 1 to {MAX_CSR_BYTES} bytes is needed, this one has {}",
            asked.csr_der.len()
        )));
    }
    if asked.token.len() > MAX_TOKEN_BYTES {
        return Err(Status::invalid_argument("the token is too long to be one"));
    }
    if asked.service_account_token.len() > MAX_ACCOUNT_TOKEN_BYTES {
        return Err(Status::invalid_argument(
            "the service account's token is too long to be one",
        ));
    }
    if Wanted::parse(&asked.path).is_none() {
        return Err(Status::invalid_argument(format!(
            "{:?} is no identity: expected /ns/<namespace>/sa/<account> or /tradewind/gateway/<name>",
            asked.path.chars().take(80).collect::<String>()
        )));
    }
    Ok(())
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let caller = caller(&request);
        let asked = request.into_inner();
        let answer = match shape(&asked) {
            Ok(()) => {
                let account = self.account(&asked).await;
                // Signing takes a millisecond and spending a token an fsync: off the threads that serve streams.
                let service = self.clone();
                let answer = move || service.answer(&caller, &asked, account);
                tradewind_runtime::task::spawn_blocking(answer)
                    .await
                    .map_err(|_| Status::internal("signing was interrupted"))?
            }
            Err(status) => Err(status),
        };
        match &answer {
            Ok(_) => self.meters.signed.inc(),
            Err(status) => {
                tracing::warn!(why = status.message(), "signing request refused");
                self.meters.refused.inc()
            }
        };
        answer.map(Response::new)
    }
}
