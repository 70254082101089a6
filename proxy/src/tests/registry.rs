//! A controller's registry: it keeps what it hears and answers with ids.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Channel};
use tradewind_api::proto::v1::{
    RegisterRequest, RegisterResponse,
    registry_server::{Registry as Service, RegistryServer},
};
use tradewind_runtime::task::TaskSet;

struct Hears(Arc<watch::Sender<Vec<RegisterRequest>>>);

type Answers = Pin<Box<dyn Stream<Item = Result<RegisterResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Service for Hears {
    type RegisterStream = Answers;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let heard = Arc::clone(&self.0);
        let answers = request.into_inner().map(move |message| {
            let message = message?;
            let endpoint_ids = message
                .registrations
                .iter()
                .map(|r| format!("id-{}", r.port))
                .collect();
            heard.send_modify(|h| h.push(message));
            Ok(RegisterResponse { endpoint_ids })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

pub(crate) struct Registry {
    address: SocketAddr,
    pub heard: watch::Receiver<Vec<RegisterRequest>>,
    messages: Arc<watch::Sender<Vec<RegisterRequest>>>,
    server: TaskSet,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let (messages, heard) = watch::channel(Vec::new());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut registry = Self {
            address: listener.local_addr().unwrap(),
            heard,
            messages: Arc::new(messages),
            server: TaskSet::new(),
        };
        registry.serve(listener);
        registry
    }

    fn serve(&mut self, listener: tokio::net::TcpListener) {
        let hears = Hears(Arc::clone(&self.messages));
        self.server.spawn("registry", async move {
            let server =
                tonic::transport::Server::builder().add_service(RegistryServer::new(hears));
            drop(
                server
                    .serve_with_incoming(TcpListenerStream::new(listener))
                    .await,
            );
        });
    }

    /// Dies, with every connection.
    pub(crate) async fn stop(&mut self) {
        self.server.abort_all().await;
    }

    /// Comes back at the same address, remembering nothing.
    pub(crate) async fn restart(&mut self) {
        self.messages.send_modify(Vec::clear);
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    pub(crate) fn channel(&self) -> Channel {
        let address = format!("http://{}", self.address);
        Channel::from_shared(address).unwrap().connect_lazy()
    }

    /// Waits until the last message heard is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&RegisterRequest) -> bool) {
        let waited = self.heard.wait_for(|h| h.last().is_some_and(&wanted));
        let waited = tokio::time::timeout(std::time::Duration::from_secs(10), waited).await;
        assert!(waited.is_ok(), "never heard: {what}");
    }
}
