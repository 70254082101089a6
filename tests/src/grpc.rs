//! A gRPC echo with streams in both directions: the discovery service's own messages, used for nothing but their being
//! there. Owns its server's task, which ends with the test's runtime.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};
use tradewind_api::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    },
};
use tradewind_runtime::task;

/// A request with this `type_url` ends the stream with an error in its trailers.
pub const FAIL: &str = "fail";
/// The code of that error.
pub const CODE: Code = Code::ResourceExhausted;
/// Its message.
pub const MESSAGE: &str = "enough: 100 % of it";
/// A trailer that goes with it.
pub const TRAILER: (&str, &str) = ("why", "the test asked for it");

#[derive(Debug)]
struct Echo;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Echo {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let requests = request.into_inner();
        Ok(Response::new(Box::pin(requests.map(|r| echo(r?)))))
    }
}

fn echo(request: DeltaDiscoveryRequest) -> Result<DeltaDiscoveryResponse, Status> {
    if request.type_url == FAIL {
        let mut trailers = MetadataMap::new();
        trailers.insert(TRAILER.0, MetadataValue::from_static(TRAILER.1));
        return Err(Status::with_metadata(CODE, MESSAGE, trailers));
    }
    Ok(DeltaDiscoveryResponse {
        type_url: request.type_url,
        nonce: request.response_nonce,
        removed_resources: request.resource_names_unsubscribe,
        ..Default::default()
    })
}

/// Serves it.
pub fn serve(listener: TcpListener) {
    task::spawn("test grpc app", async move {
        let served = tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(Echo))
            .serve_with_incoming(TcpListenerStream::new(listener));
        drop(served.await);
    });
}
