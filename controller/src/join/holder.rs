//! Where the root's key is, and the way of a call to it: to this controller, another one of the founding cluster, or that
//! cluster from elsewhere. Owns nothing.

use std::time::Duration;

use tonic::{Code, Response, Status, transport::Channel};
use tradewind_api::{ClusterName, proto::v1::federation_client::FederationClient, store::Refusal};
use tradewind_federation::PeerError;

use super::server::FederationService;
use crate::{
    answer::{self, refuse},
    server::Caller,
};

/// How long a call that is handed on to the founder's controller may take: less than the joiner waits.
const FORWARD_DEADLINE: Duration = Duration::from_secs(40);

/// Who holds the root's key.
pub(super) enum Holder {
    /// This controller.
    Here,
    /// Another one of this cluster.
    Sibling,
    /// A controller of the founding cluster.
    Founder(ClusterName),
}

impl FederationService {
    /// Where a call has to go that needs the root's key.
    pub(super) fn hand_on_to(&self, caller: &Caller) -> Result<Holder, Status> {
        if self.0.root.is_some() {
            return Ok(Holder::Here);
        }
        let founder = self
            .0
            .store
            .catalog()
            .founder
            .clone()
            .ok_or_else(|| answer::refusal(&Refusal::NotFounded))?;
        let from = self.0.access.require_controller_of_member(caller).ok();
        if founder == self.0.own
            && from.as_ref() != Some(&self.0.own)
            && !self.0.peers.siblings().is_empty()
        {
            return Ok(Holder::Sibling);
        }
        if founder == self.0.own || from.is_some() {
            return Err(refuse(
                Code::FailedPrecondition,
                format!(
                    "the controller of {} should hold the federation's root key and does not",
                    self.0.own
                ),
                "restore root.key in its data directory from a backup",
            ));
        }
        Ok(Holder::Founder(founder))
    }

    /// Asks the others of this cluster in turn: one of them holds the root's key, and the others refuse.
    pub(super) async fn ask_siblings<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        ask: impl Fn(FederationClient<Channel>) -> F,
    ) -> Result<Response<T>, Status> {
        let mut last = Status::unavailable("no other controller of this cluster is known");
        for node in self.0.peers.siblings().keys() {
            let call = ask(self.0.peers.sibling(*node));
            match handed_on(&self.0.own, call).await {
                Ok(response) => return Ok(response),
                // What was decided is the answer. One that has no root's key, or is away, leaves it to the next.
                Err(status)
                    if !matches!(status.code(), Code::Unavailable | Code::FailedPrecondition) =>
                {
                    return Err(status);
                }
                Err(status) => last = status,
            }
        }
        Err(last)
    }

    pub(super) fn away(founder: &ClusterName, error: &PeerError) -> Status {
        refuse(
            Code::Unavailable,
            format!(
                "clusters are admitted by the controller of {founder}, which holds the root key: {error}"
            ),
            format!("see that the controller and a gateway of {founder} run"),
        )
    }
}

/// The founder's answer, or the reason why there is none.
pub(super) async fn handed_on<T>(
    founder: &ClusterName,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Response<T>, Status> {
    let answered = tokio::time::timeout(FORWARD_DEADLINE, call).await;
    let status = match answered {
        Ok(Ok(response)) => return Ok(Response::new(response.into_inner())),
        Ok(Err(status)) => status,
        Err(_) => {
            Status::deadline_exceeded(format!("no answer within {} s", FORWARD_DEADLINE.as_secs()))
        }
    };
    if answer::split(status.message()).1.is_some() {
        return Err(Status::new(status.code(), status.message()));
    }
    let cause = PeerError::NoAnswer {
        cluster: founder.clone(),
        cause: status.message().to_owned(),
    };
    Err(FederationService::away(founder, &cause))
}
