//! The Registry service: a stream of what one proxy fronts. A caller registers under its own identity alone.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};
use tradewind_api::{
    id::SpiffeId,
    proto::v1::{
        RegisterRequest, RegisterResponse,
        registry_server::{Registry, RegistryServer},
    },
};

use super::{
    hub::{Ends, RegistryHub},
    state::{Event, Fronted, Refused, check_labels, check_name},
};
use crate::server::{Access, Caller, caller};

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RegistryService {
    hub: RegistryHub,
    access: Access,
}

impl RegistryService {
    /// Over these registrations.
    pub const fn new(hub: RegistryHub, access: Access) -> Self {
        Self { hub, access }
    }

    /// As a tonic service.
    pub fn into_service(self) -> RegistryServer<Self> {
        RegistryServer::new(self)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Field { .. } | Refused::Twice { .. } => Self::invalid_argument(text),
            Refused::Namespace { .. } => Self::permission_denied(text),
            Refused::Held { .. } => Self::already_exists(text),
            Refused::TooMuch { .. } => Self::resource_exhausted(text),
        }
    }
}

// The identity a message claims, if the caller may claim it.
fn identity(access: &Access, caller: &Caller, claimed: &str) -> Result<SpiffeId, Status> {
    let id: SpiffeId = claimed
        .parse()
        .map_err(|e: tradewind_api::InvalidName| Status::invalid_argument(e.to_string()))?;
    if id.trust_domain_str() != access.own_trust_domain().as_str() {
        return Err(Status::permission_denied(format!(
            "{id} is not of this cluster, {}",
            access.own_trust_domain()
        )));
    }
    let allowed = match caller {
        Caller::Local { uid } => {
            access.is_operator(caller) || access.hosts().allows(*uid, id.path())
        }
        Caller::Peer(_) => access.trusted(caller).is_some_and(|peer| peer.id == id),
        Caller::Anonymous => false,
    };
    if allowed {
        Ok(id)
    } else {
        Err(Status::permission_denied(format!(
            "the caller does not have the identity {id}"
        )))
    }
}

struct Session {
    hub: RegistryHub,
    access: Access,
    caller: Caller,
    requests: Streaming<RegisterRequest>,
    ends: Ends,
}

impl Session {
    async fn next(&mut self) -> Result<Option<RegisterResponse>, Status> {
        let Some(request) = self.requests.message().await? else {
            return Ok(None);
        };
        check_name("proxy name", &request.proxy)?;
        let identity = identity(&self.access, &self.caller, &request.identity)?;
        let event = if request.leaving {
            tracing::info!(proxy = %request.proxy, %identity, "a proxy left");
            Event::Left {
                proxy: request.proxy,
                identity,
            }
        } else {
            check_labels(&request.labels)?;
            let labels = &request.labels;
            let fronted = request
                .registrations
                .into_iter()
                .map(|r| Fronted::check(r, &identity, labels))
                .collect::<Result<_, _>>()?;
            Event::Registered {
                stream: self.ends.stream(),
                proxy: request.proxy,
                identity,
                fronted,
            }
        };
        let ids = self.hub.apply(event)?;
        Ok(Some(RegisterResponse {
            endpoint_ids: ids.iter().map(ToString::to_string).collect(),
        }))
    }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    type RegisterStream = Pin<Box<dyn Stream<Item = Result<RegisterResponse, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let caller = caller(&request);
        self.access.require_own_cluster(&caller)?;
        let session = Session {
            hub: self.hub.clone(),
            access: self.access.clone(),
            caller,
            requests: request.into_inner(),
            ends: Ends::of(&self.hub),
        };
        // A refused message ends the stream: what the proxy fronts is one statement, taken whole or not at all.
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
