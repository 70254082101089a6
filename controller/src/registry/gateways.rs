//! The GatewayRegistry service: gateways say that they are there, where others dial them, and which clusters they reach.
//!
//! Owns nothing but its streams.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};
use tradewind_api::proto::v1::{
    GatewayHello, GatewayWelcome,
    gateway_registry_server::{GatewayRegistry, GatewayRegistryServer},
};

use super::{
    hub::{Ends, RegistryHub},
    reports,
    state::{Event, check_address, check_name},
};
use crate::server::{Access, Caller, caller};

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GatewayRegistryService {
    hub: RegistryHub,
    access: Access,
}

impl GatewayRegistryService {
    /// Over these registrations.
    pub const fn new(hub: RegistryHub, access: Access) -> Self {
        Self { hub, access }
    }

    /// As a tonic service.
    pub fn into_service(self) -> GatewayRegistryServer<Self> {
        GatewayRegistryServer::new(self)
    }
}

struct Session {
    hub: RegistryHub,
    access: Access,
    caller: Caller,
    hellos: Streaming<GatewayHello>,
    ends: Ends,
}

impl Session {
    async fn next(&mut self) -> Result<Option<GatewayWelcome>, Status> {
        let Some(hello) = self.hellos.message().await? else {
            return Ok(None);
        };
        check_name("gateway name", &hello.name)?;
        check_address("advertised address", &hello.advertised_address)?;
        self.access.require_gateway(&self.caller, &hello.name)?;
        let stream = self.ends.stream();
        self.hub.apply(Event::GatewayHello {
            stream,
            name: hello.name.clone(),
            address: hello.advertised_address,
            draining: hello.draining,
        })?;
        self.hub
            .reported(stream, &hello.name, reports::read(hello.peers));
        Ok(Some(GatewayWelcome {}))
    }
}

#[tonic::async_trait]
impl GatewayRegistry for GatewayRegistryService {
    type AnnounceStream = Pin<Box<dyn Stream<Item = Result<GatewayWelcome, Status>> + Send>>;

    async fn announce(
        &self,
        request: Request<Streaming<GatewayHello>>,
    ) -> Result<Response<Self::AnnounceStream>, Status> {
        let caller = caller(&request);
        self.access.require_own_cluster(&caller)?;
        let session = Session {
            hub: self.hub.clone(),
            access: self.access.clone(),
            caller,
            hellos: request.into_inner(),
            ends: Ends::of(&self.hub),
        };
        let responses = futures::stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            match session.next().await {
                Ok(Some(welcome)) => Some((Ok(welcome), Some(session))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(responses)))
    }
}
