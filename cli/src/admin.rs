//! The way to a controller: its admin service over the unix socket in its data directory, or through an API server's port-forward.
//!
//! Owns one connection. Every call has a deadline; a controller that does not answer is named with its socket or context.

mod outside;
mod place;

use std::{io, path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tradewind_api::proto::v1::{
    self, admin_client::AdminClient, store_admin_client::StoreAdminClient,
};

pub use place::{DEFAULT_DATA_DIR, Outside, Place, Where, socket_in};

use crate::exit::{Exit, Failure};

/// How long connecting to a socket on this host may take: it answers at once or not at all.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long one call may take: a write waits for the store's majority, over an election if need be.
const CALL_DEADLINE: Duration = Duration::from_secs(15);

/// Longest message that is taken: the rules of one service are 4 MiB at most, and a list is not longer.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A connection to one controller.
#[derive(Clone, Debug)]
pub struct Admin {
    client: AdminClient<Channel>,
    store: StoreAdminClient<Channel>,
}

impl Admin {
    /// Connects.
    pub async fn connect(place: &Where) -> Result<Self, Failure> {
        match place.place() {
            Place::Local { socket, .. } => Self::connect_to(&socket).await,
            Place::Outside(outside) => Self::through(&outside).await,
        }
    }

    /// Connects to a socket.
    pub async fn connect_to(socket: &Path) -> Result<Self, Failure> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // Nobody resolves this name: the connector goes to the socket.
        let endpoint = Endpoint::from_static("http://controller.local")
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(CALL_DEADLINE);
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => Ok(Self::over(channel)),
            Err(e) => Err(unreachable(socket, io_kind(&e), &e)),
        }
    }

    /// Connects through an API server.
    pub async fn through(outside: &Outside) -> Result<Self, Failure> {
        Ok(Self::over(outside::channel(outside).await?))
    }

    fn over(channel: Channel) -> Self {
        Self {
            client: AdminClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            store: StoreAdminClient::new(channel),
        }
    }

    /// One call.
    pub async fn call<Req, Res, F, Fut>(&self, request: Req, method: F) -> Result<Res, Failure>
    where
        F: FnOnce(AdminClient<Channel>, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let mut request = Request::new(request);
        request.set_timeout(CALL_DEADLINE);
        Ok(method(self.client.clone(), request).await?.into_inner())
    }

    /// A call whose answer comes in parts, all of them.
    pub async fn all<Req, Res, F, Fut>(&self, request: Req, method: F) -> Result<Vec<Res>, Failure>
    where
        F: FnOnce(AdminClient<Channel>, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Streaming<Res>>, Status>>,
    {
        let mut parts = self.call(request, method).await?;
        let mut all = Vec::new();
        while let Some(part) = parts.message().await? {
            all.push(part);
        }
        Ok(all)
    }

    /// One call about the store.
    pub async fn store<Req, Res, F, Fut>(&self, request: Req, method: F) -> Result<Res, Failure>
    where
        F: FnOnce(StoreAdminClient<Channel>, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let mut request = Request::new(request);
        request.set_timeout(CALL_DEADLINE);
        Ok(method(self.store.clone(), request).await?.into_inner())
    }

    /// A call about the store whose answer comes in many parts and goes on until the caller has enough. Only its
    /// beginning has the channel's deadline.
    pub async fn stream<Req, Res, F, Fut>(
        &self,
        request: Req,
        method: F,
    ) -> Result<Streaming<Res>, Failure>
    where
        F: FnOnce(StoreAdminClient<Channel>, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Streaming<Res>>, Status>>,
    {
        let begun = method(self.store.clone(), Request::new(request));
        Ok(begun.await?.into_inner())
    }

    /// What the controller says of itself and the federation.
    pub async fn status(&self) -> Result<v1::StatusResponse, Failure> {
        self.call(v1::Empty {}, async |mut c, r| c.status(r).await)
            .await
    }

    /// All members.
    pub async fn clusters(&self, consistent: bool) -> Result<v1::ListClustersResponse, Failure> {
        self.call(v1::ListRequest { consistent }, async |mut c, r| {
            c.list_clusters(r).await
        })
        .await
    }

    /// All services that this cluster knows.
    pub async fn services(&self, consistent: bool) -> Result<v1::ListServicesResponse, Failure> {
        self.call(v1::ListRequest { consistent }, async |mut c, r| {
            c.list_services(r).await
        })
        .await
    }

    /// One service with its endpoints.
    pub async fn endpoints(
        &self,
        service: &str,
        consistent: bool,
    ) -> Result<v1::EndpointsResponse, Failure> {
        let request = v1::EndpointsRequest {
            service: service.to_owned(),
            consistent,
        };
        self.call(request, async |mut c, r| c.list_endpoints(r).await)
            .await
    }
}

fn io_kind(e: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = e.source();
    }
    None
}

fn unreachable(socket: &Path, kind: Option<io::ErrorKind>, e: &tonic::transport::Error) -> Failure {
    let shown = socket.display();
    let failure = Failure::new(
        Exit::Unreachable,
        format!("no controller answers at {shown}"),
    );
    match kind {
        Some(io::ErrorKind::NotFound) => Failure {
            causes: vec!["there is no such socket".to_owned()],
            ..failure
        }
        .hint("name the controller's data directory with --data-dir (or TRADEWIND_DATA_DIR)")
        .hint("start it with `tradewind controller --data-dir <dir>`")
        .hint("name the context of one in Kubernetes with --context"),
        Some(io::ErrorKind::PermissionDenied) => Failure {
            causes: vec!["permission denied".to_owned()],
            ..failure
        }
        .hint("run this as the user that runs the controller, or as root"),
        Some(io::ErrorKind::ConnectionRefused) => Failure {
            causes: vec!["the socket is there, but nobody listens".to_owned()],
            ..failure
        }
        .hint("start the controller with `tradewind controller --data-dir <dir>`"),
        _ => failure.because(std::error::Error::source(e)),
    }
}
