//! Controllers of a test: founded, joined, asked, and stopped when the test ends. Owns their tasks and directories.

use std::{collections::BTreeSet, net::TcpListener, path::PathBuf, sync::Mutex, time::Duration};

use tempfile::TempDir;
use tokio::{net::UnixStream, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};
use tradewind_api::{
    ClusterName, Domain, Region,
    proto::v1::{
        CreateTokenRequest, Empty, EndpointsRequest, ExportRequest, ListClustersResponse,
        ListRequest, StatusResponse, StorePeersRequest, StorePeersResponse,
        admin_client::AdminClient, store_admin_client::StoreAdminClient,
    },
};
use tradewind_controller::{
    Controller, ControllerConfig, InitError, InitOptions, JoinError, JoinLayer, JoinOptions,
    Joined, RunError, init, join,
};
use tradewind_runtime::{MetricsRegistry, Readiness, Rng, clock, drain, task};

/// How long anything may take before a test gives up: far more than it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const PAYMENTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: payments, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: payments-1, namespace: shop, labels: {kubernetes.io/service-name: payments}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
";

/// An address nobody listens on; never the same twice, as the kernel may hand a port out again.
pub(crate) fn free_address() -> String {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address.port()) {
            return address.to_string();
        }
    }
}

pub(crate) fn name(cluster: &str) -> ClusterName {
    ClusterName::new(cluster).unwrap()
}

/// One running controller.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) readiness: Readiness,
    pub(crate) trigger: Option<drain::Trigger>,
    pub(crate) running: JoinHandle<Result<(), RunError>>,
}

impl Node {
    pub(crate) async fn start(tmp: &TempDir, cluster: &str, address: &str) -> Self {
        let dir = tmp.path().join(cluster);
        let manifests = tmp.path().join(format!("{cluster}-manifests"));
        std::fs::create_dir_all(&manifests).unwrap();
        let config = ControllerConfig {
            listen: address.parse().unwrap(),
            admin_listen: "127.0.0.1:0".parse().unwrap(),
            manifests: Some(manifests),
            kubernetes: None,
            ..ControllerConfig::new(dir.clone())
        };
        let bound = Controller::build(config, clock::system(), Rng::from_entropy(), None)
            .await
            .unwrap();
        let socket = bound.socket_path().to_owned();
        let readiness = bound.readiness();
        let (trigger, watch) = drain::channel();
        let running = task::spawn("controller", bound.run(watch));
        tokio::time::timeout(PATIENCE, readiness.wait_ready())
            .await
            .unwrap_or_else(|_| panic!("{cluster} waits for {:?}", readiness.pending()));
        Self {
            dir,
            socket,
            readiness,
            trigger: Some(trigger),
            running,
        }
    }

    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel().await)
    }

    /// Who votes, and what may be lost.
    pub(crate) async fn store_peers(&self) -> StorePeersResponse {
        let mut store = StoreAdminClient::new(self.channel().await);
        let request = StorePeersRequest::default();
        store.peers(request).await.unwrap().into_inner()
    }

    async fn channel(&self) -> Channel {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move {
                UnixStream::connect(socket)
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }
        });
        Endpoint::from_static("http://controller")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    pub(crate) async fn status(&self) -> StatusResponse {
        self.admin()
            .await
            .status(Empty {})
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn clusters(&self) -> ListClustersResponse {
        self.admin()
            .await
            .list_clusters(ListRequest::default())
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn export(&self, service: &str) -> Result<bool, tonic::Status> {
        let request = ExportRequest {
            service: service.into(),
        };
        self.admin()
            .await
            .export(request)
            .await
            .map(|r| r.into_inner().changed)
    }

    pub(crate) async fn token(&self, cluster: &str, lifetime_s: u64) -> (String, String) {
        let request = CreateTokenRequest {
            cluster: cluster.into(),
            lifetime_s,
            workload_path: String::new(),
        };
        let made = self
            .admin()
            .await
            .create_token(request)
            .await
            .unwrap()
            .into_inner();
        (made.id, made.token)
    }

    /// Clusters that this node sees to export `service`, with the addresses of all endpoints.
    pub(crate) async fn exporters(&self, service: &str) -> (Vec<String>, Vec<String>) {
        let request = EndpointsRequest {
            service: service.into(),
            consistent: false,
        };
        let Ok(found) = self.admin().await.list_endpoints(request).await else {
            return (vec![], vec![]);
        };
        let found = found.into_inner().service.unwrap();
        (
            found.exported_by,
            found.endpoints.into_iter().map(|e| e.address).collect(),
        )
    }

    pub(crate) async fn stop(mut self) -> PathBuf {
        let trigger = self.trigger.take().unwrap();
        trigger.drain(PATIENCE).await;
        self.running.await.unwrap().unwrap();
        self.dir
    }
}

/// Looks until `look` is content.
pub(crate) async fn until<F: Future<Output = Result<(), String>>>(mut look: impl FnMut() -> F) {
    let deadline = tokio::time::sleep(PATIENCE);
    tokio::pin!(deadline);
    loop {
        let why = match look().await {
            Ok(()) => return,
            Err(why) => why,
        };
        tokio::select! {
            () = &mut deadline => panic!("never came true: {why}"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

pub(crate) fn manifest(tmp: &TempDir, cluster: &str, file: &str, text: &str) {
    std::fs::write(
        tmp.path().join(format!("{cluster}-manifests")).join(file),
        text,
    )
    .unwrap();
}

pub(crate) async fn found(
    tmp: &TempDir,
    cluster: &str,
    address: &str,
) -> Result<String, InitError> {
    let options = InitOptions {
        cluster: name(cluster),
        region: Region::new("us-west").unwrap(),
        network: None,
        domain: Domain::default(),
        data_dir: tmp.path().join(cluster),
        gateway_addresses: vec![address.to_owned()],
        token_lifetime: Duration::from_secs(900),
    };
    let made = init(
        options,
        clock::system(),
        Rng::from_entropy(),
        &MetricsRegistry::new(),
    )
    .await?;
    assert_eq!(made.join_address.as_deref(), Some(address));
    assert!(made.join_command.contains(&made.token) && made.join_command.contains(address));
    Ok(made.token)
}

pub(crate) fn joining(
    tmp: &TempDir,
    cluster: &str,
    through: &str,
    token: &str,
    gateway: &str,
) -> JoinOptions {
    JoinOptions {
        address: through.to_owned(),
        token: token.to_owned(),
        cluster: name(cluster),
        region: Region::new("eu-west").unwrap(),
        network: None,
        data_dir: tmp.path().join(cluster),
        gateway_addresses: vec![gateway.to_owned()],
        bind_addresses: vec![],
        skip_way_back: false,
        witness: false,
        dry_run: false,
    }
}

pub(crate) async fn enter(options: JoinOptions) -> (Result<Joined, JoinError>, Vec<JoinLayer>) {
    let mut passed = Vec::new();
    let joined = join(options, clock::system(), Rng::from_entropy(), |step| {
        passed.push(step.layer)
    })
    .await;
    (joined, passed)
}

/// Fails in `layer`, says so, and leaves nothing.
pub(crate) async fn fails(options: JoinOptions, layer: JoinLayer, expected: &str) {
    let dir = options.data_dir.clone();
    let existed = dir.exists();
    let (joined, passed) = enter(options).await;
    let error = joined.expect_err(expected);
    assert_eq!(error.layer, layer, "{error}");
    assert!(error.to_string().contains(expected), "{error:?}");
    assert!(!error.hint.is_empty() && !error.admitted, "{error:?}");
    assert!(passed.iter().all(|p| *p < layer), "{passed:?}");
    assert_eq!(dir.exists(), existed, "{error}");
}
