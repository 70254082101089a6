//! Tokens: those that let a cluster join, which the store holds, and those that let a workload have a certificate, which
//! this controller keeps itself. Owns nothing; a token's text is answered once and kept nowhere.

use tonic::{Code, Response, Status};
use tradewind_api::{
    ClusterName,
    proto::v1::{CreateTokenRequest, CreateTokenResponse, ExportResponse},
    store::{Blob, Command, TokenRecord},
};
use tradewind_ca::token::JoinToken;
use tradewind_runtime::task;

use super::{AdminService, done};
use crate::{answer::refuse, identity_service::tokens::NEW_CONTROLLER};

/// A token's life when none is asked for.
const DEFAULT_TOKEN_S: u64 = 15 * 60;
/// The longest life of a token: a week. What lives longer is a password.
const MAX_TOKEN_S: u64 = 7 * 24 * 3600;
impl AdminService {
    fn join_address(&self) -> String {
        let catalog = self.0.store.catalog();
        let announced = catalog
            .member(&self.0.own.cluster)
            .and_then(|c| c.gateways.first().cloned());
        announced
            .or_else(|| self.0.configured_gateways.first().cloned())
            .unwrap_or_default()
    }

    async fn join_token(
        &self,
        actor: Option<String>,
        cluster: Option<ClusterName>,
        lifetime_s: u64,
    ) -> Result<CreateTokenResponse, Status> {
        let (token, secret_sha256) =
            JoinToken::mint(&self.0.own.cluster, &self.0.own.domain, self.0.root_sha256)
                .map_err(|e| Status::internal(e.to_string()))?;
        let expires_at_ms = self.0.clock.unix_ms().saturating_add(lifetime_s * 1000);
        let record = TokenRecord {
            id: token.id.clone(),
            secret_sha256: Blob(secret_sha256.to_vec()),
            cluster,
            expires_at_ms,
            used: None,
        };
        done(self.write(actor, Command::PutToken(record)).await?)?;
        Ok(CreateTokenResponse {
            id: token.id.clone(),
            token: token.to_string(),
            expires_at_unix_ms: expires_at_ms,
            join_address: self.join_address(),
        })
    }

    pub(super) async fn make_token(
        &self,
        actor: Option<String>,
        asked: CreateTokenRequest,
    ) -> Result<CreateTokenResponse, Status> {
        let lifetime_s = if asked.lifetime_s == 0 {
            DEFAULT_TOKEN_S
        } else {
            asked.lifetime_s
        };
        if lifetime_s > MAX_TOKEN_S {
            let sentence =
                format!("a token may live for {MAX_TOKEN_S} s at most, not {lifetime_s} s");
            return Err(refuse(
                Code::InvalidArgument,
                sentence,
                "make a new one when it is needed",
            ));
        }
        if asked.workload_path.is_empty() {
            let cluster = match asked.cluster.as_str() {
                "" => None,
                name => Some(ClusterName::new(name).map_err(|e| {
                    refuse(
                        Code::InvalidArgument,
                        e.to_string(),
                        "give the name that the new cluster will have",
                    )
                })?),
            };
            return self.join_token(actor, cluster, lifetime_s).await;
        }
        self.not_for_witnesses()?;
        if self.0.accounts_alone {
            return Err(refuse(
                Code::FailedPrecondition,
                "identities of this cluster are its service accounts', so no token would be taken",
                "for a workload on a host outside of Kubernetes, start the controller with --host-workloads (controller.hostWorkloads in the chart)",
            ));
        }
        let mut join_address = String::new();
        if asked.workload_path == NEW_CONTROLLER {
            join_address = self.own_address()?;
        }
        let (tokens, now_ms) = (self.0.tokens.clone(), self.0.clock.unix_ms());
        let path = asked.workload_path.clone();
        let created = task::spawn_blocking(move || tokens.create(&path, lifetime_s, now_ms)).await;
        let (token, info) = created
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| {
                refuse(
                    Code::InvalidArgument,
                    e.to_string(),
                    "give a path such as /ns/shop/sa/payments",
                )
            })?;
        Ok(CreateTokenResponse {
            id: info.id,
            token: token.to_string(),
            expires_at_unix_ms: info.expires_at_ms,
            join_address,
        })
    }

    /// Where a further controller of this cluster finds this one.
    fn own_address(&self) -> Result<String, Status> {
        let catalog = self.0.store.catalog();
        let record = catalog.controllers_of(&self.0.own.cluster);
        let me = self.0.store.vitals().node_id;
        let known = record.and_then(|r| r.nodes.get(&me));
        known.map(|c| c.address.clone()).ok_or_else(|| {
            refuse(
                Code::FailedPrecondition,
                "this controller has not said where others reach it",
                "start it with --advertise host:port, and with a --listen that others reach; every member must know level 7",
            )
        })
    }

    pub(super) async fn take_token_back(
        &self,
        actor: Option<String>,
        id: String,
    ) -> Result<ExportResponse, Status> {
        if self.0.store.catalog().tokens.contains_key(&id) {
            return done(self.write(actor, Command::RevokeToken(id)).await?)
                .map(Response::into_inner);
        }
        let (tokens, wanted) = (self.0.tokens.clone(), id.clone());
        let revoked = task::spawn_blocking(move || tokens.revoke(&wanted)).await;
        revoked
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|_| {
                refuse(
                    Code::NotFound,
                    format!("there is no token {id:.40}"),
                    "`tradewind token list` lists them",
                )
            })?;
        Ok(ExportResponse {
            revision: self.0.store.catalog().revision,
            changed: true,
        })
    }
}
